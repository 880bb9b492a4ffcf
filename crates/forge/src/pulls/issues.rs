//! Issues of a dump, found again by number without keeping them in memory.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::dump::{self, DumpError, Issue};

/// Where the issues and comments of a dump are. A line is an issue, or a
/// comment with `issue_url`; an issue may also carry its comments. Only
/// numbers and offsets are kept.
#[derive(Debug)]
pub struct IssueIndex<R> {
    reader: R,
    file: String,
    /// Repository of lines that name none.
    repo: String,
    spots: HashMap<(String, u64), Spots>,
}

#[derive(Debug, Default)]
struct Spots {
    issue: Option<u64>,
    comments: Vec<u64>,
}

impl<R: BufRead + Seek> IssueIndex<R> {
    /// Reads a dump once. `repo` is used where a line does not name its
    /// repository. Lines that cannot be used are returned beside the index.
    pub fn new(mut reader: R, file: &str, repo: Option<&str>) -> (Self, Vec<DumpError>) {
        let repo = repo.unwrap_or_default().to_lowercase();
        let mut spots: HashMap<(String, u64), Spots> = HashMap::new();
        let mut errors = Vec::new();
        for row in dump::objects(&mut reader, file) {
            let row = match row {
                Ok(row) => row,
                Err(e) => {
                    errors.push(e);
                    continue;
                }
            };
            let of = row
                .repo()
                .map_or_else(|| repo.clone(), |r| r.to_lowercase());
            if !row.fields.contains_key("number")
                && let Some((number, _)) = dump::comment(&row)
            {
                let spot = spots.entry((of, number)).or_default();
                spot.comments.push(row.start);
                continue;
            }
            match dump::issue(&row) {
                Ok(issue) => {
                    let spot = spots.entry((of, issue.number)).or_default();
                    spot.issue.get_or_insert(row.start);
                }
                Err(e) => errors.push(e),
            }
        }
        let index = Self {
            reader,
            file: file.to_owned(),
            repo,
            spots,
        };
        (index, errors)
    }

    /// Number of issues.
    pub fn len(&self) -> usize {
        self.spots.values().filter(|s| s.issue.is_some()).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An issue with its comments; none if the dump has it not.
    ///
    /// # Errors
    /// If the dump cannot be read again.
    pub fn issue(&mut self, repo: &str, number: u64) -> Result<Option<Issue>, DumpError> {
        let key = (repo.to_lowercase(), number);
        let unnamed = (self.repo.clone(), number);
        let Some(spots) = self.spots.get(&key).or_else(|| self.spots.get(&unnamed)) else {
            return Ok(None);
        };
        let Some(start) = spots.issue else {
            return Ok(None);
        };
        let comments = spots.comments.clone();
        let mut issue = dump::issue(&self.row(start)?)?;
        for start in comments {
            let row = self.row(start)?;
            issue.comments.extend(dump::comment(&row).map(|(_, c)| c));
        }
        Ok(Some(issue))
    }

    /// The issues of these numbers that the dump has.
    ///
    /// # Errors
    /// If the dump cannot be read again.
    pub fn issues(&mut self, repo: &str, numbers: &[u64]) -> Result<Vec<Issue>, DumpError> {
        let mut out = Vec::new();
        for &number in numbers {
            out.extend(self.issue(repo, number)?);
        }
        Ok(out)
    }

    fn row(&mut self, start: u64) -> Result<dump::Row, DumpError> {
        let failed = |source| DumpError::Io {
            file: self.file.clone(),
            line: 0,
            source,
        };
        self.reader.seek(SeekFrom::Start(start)).map_err(failed)?;
        let reader = Read::by_ref(&mut self.reader);
        let mut rows = dump::objects(reader, &self.file);
        let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the dump has changed");
        rows.next().unwrap_or_else(|| Err(failed(gone())))
    }
}
