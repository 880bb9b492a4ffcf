//! What changed in a repository, commit by commit or between two commits.

use std::io::{BufRead, BufReader, Read};

use super::git::Git;
use super::{Repo, SourceError};
use crate::error::At;
use crate::manifest::as_path;

/// Commits of one pair of git processes: enough that starting them costs
/// nothing, few enough that what one of them says fits into memory.
const BATCH: usize = 256;

/// As GitHub makes its `.diff` files, but with whole names of objects and with
/// the content of binary files, so that every patch applies.
const DIFF: [&str; 12] = [
    "diff-tree",
    "-r",
    "-p",
    "--binary",
    "--full-index",
    "--find-renames",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--submodule=short",
];

/// `git diff-tree --stdin` repeats lines that name no commit. No line of a
/// diff starts with an equals sign.
const MARK: &str = "=end of commit";

/// A commit and what it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub id: String,
    /// Names of its parents.
    pub parents: Vec<String>,
    /// Name and address of its author.
    pub author: String,
    /// When it was written, seconds since 1970.
    pub authored: i64,
    /// When it was committed, seconds since 1970.
    pub committed: i64,
    /// What it says about itself.
    pub message: String,
    /// The difference to its parent; empty for merges and first commits.
    pub diff: Diff,
}

/// The text of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diff {
    /// As git writes it.
    Text(String),
    /// It has so many bytes, more than were asked for.
    TooLarge(u64),
    /// It is not UTF-8, and would not apply if it was made so.
    NotText,
    /// Git cannot make it, and says why: objects are missing, as in partial
    /// clones.
    Missing(String),
}

impl Repo {
    /// What the repository is called: `owner/name`, an address, or a folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit that a name (branch, tag, ref, id) means, if there is one.
    ///
    /// # Errors
    /// If git is missing.
    pub fn find_commit(&self, name: &str) -> Result<Option<String>, SourceError> {
        let name = format!("{name}^{{commit}}");
        let args = [
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &name,
        ];
        match self.git.text(&args) {
            Ok(id) => Ok(Some(id)),
            Err(SourceError::Git { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Address that the repository was cloned from, where it says.
    pub fn origin(&self) -> Option<String> {
        let args = ["config", "--local", "--get", "remote.origin.url"];
        self.git.text(&args).ok().filter(|url| !url.is_empty())
    }

    /// Names and commit times of a commit and all its ancestors, parents
    /// before children.
    ///
    /// # Errors
    /// If the history cannot be walked.
    pub fn ancestors(&self, commit: &str) -> Result<Vec<(String, i64)>, SourceError> {
        let args = [
            "log",
            "--topo-order",
            "--reverse",
            "--format=%H %ct",
            commit,
            "--",
        ];
        let text = self.git.text(&args)?;
        let row = |line: &str| {
            let (id, time) = line.split_once(' ')?;
            Some((id.to_owned(), time.parse().ok()?))
        };
        text.lines()
            .map(|line| row(line).ok_or_else(|| unreadable(&args, line)))
            .collect()
    }

    /// Commits that lead to one commit but not to another, parents before
    /// children, without what they changed.
    ///
    /// # Errors
    /// If the history cannot be walked.
    pub fn commits_between(&self, from: &str, to: &str) -> Result<Vec<Change>, SourceError> {
        let not = format!("^{from}");
        let mut args = vec!["log", "--topo-order", "--reverse"];
        args.extend(HEADER);
        args.extend([to, &not, "--"]);
        headers(&args, &self.git.run(&args)?)
    }

    /// Hands every commit of a list to `on_change`, in this order, until it
    /// says `false`. A diff of more than `limit` bytes is not kept.
    ///
    /// # Errors
    /// If git cannot read a commit, or `on_change` fails.
    pub fn changes<E: From<SourceError>>(
        &self,
        ids: &[String],
        limit: u64,
        on_change: &mut dyn FnMut(Change) -> Result<bool, E>,
    ) -> Result<(), E> {
        for batch in ids.chunks(BATCH) {
            let mut args = vec!["log", "--no-walk=unsorted", "--stdin"];
            args.extend(HEADER);
            let input: String = batch.iter().map(|id| format!("{id}\n")).collect();
            let found = headers(&args, &self.git.run_with(&args, input.as_bytes())?)?;
            if found.len() != batch.len() {
                let said = format!("{} of {} commits", found.len(), batch.len());
                return Err(unreadable(&args, &said).into());
            }
            if !self.with_diffs(found, limit, on_change)? {
                break;
            }
        }
        Ok(())
    }

    fn with_diffs<E: From<SourceError>>(
        &self,
        mut commits: Vec<Change>,
        limit: u64,
        on_change: &mut dyn FnMut(Change) -> Result<bool, E>,
    ) -> Result<bool, E> {
        while !commits.is_empty() {
            let (left, ended) = self.some_diffs(commits, limit, on_change);
            let failed = match ended? {
                Ended::Stopped => return Ok(false),
                Ended::Finished => return Ok(true),
                Ended::Failed(failed) => failed,
            };
            // Git ends at an object that is missing; the rest is fine.
            let mut left = left.into_iter();
            match (failed, left.next()) {
                (SourceError::Git { message, .. }, Some(mut broken)) => {
                    broken.diff = Diff::Missing(message);
                    if !on_change(broken)? {
                        return Ok(false);
                    }
                }
                (failed, _) => return Err(failed.into()),
            }
            commits = left.collect();
        }
        Ok(true)
    }

    /// Commits with their differences, as far as one process comes; and those
    /// that are left.
    fn some_diffs<E: From<SourceError>>(
        &self,
        commits: Vec<Change>,
        limit: u64,
        on_change: &mut dyn FnMut(Change) -> Result<bool, E>,
    ) -> (Vec<Change>, Result<Ended, E>) {
        let mut args = DIFF.to_vec();
        args.extend(["--stdin", "--no-commit-id"]);
        let ids: Vec<String> = commits.iter().map(|c| c.id.clone()).collect();
        let mut commits = commits.into_iter();
        // What the caller says ends the reading, not the program.
        let mut said: Result<bool, E> = Ok(true);
        let read = self.git.stream(
            &args,
            |stdin| {
                ids.iter()
                    .try_for_each(|id| writeln!(stdin, "{id}\n{MARK}"))
            },
            |stdout| {
                let mut lines = BufReader::with_capacity(1 << 16, stdout);
                while !commits.as_slice().is_empty() {
                    let diff = until_mark(&mut lines, limit).at("read from git", self.git.dir())?;
                    let Some(commit) = commits.next() else {
                        break;
                    };
                    said = on_change(Change { diff, ..commit });
                    if !matches!(said, Ok(true)) {
                        break;
                    }
                }
                Ok(())
            },
        );
        let ended = match (said, read) {
            (Err(e), _) => Err(e),
            // Then git was cut off, and says so.
            (Ok(false), _) => Ok(Ended::Stopped),
            (Ok(true), Ok(())) => Ok(Ended::Finished),
            (Ok(true), Err(e)) => Ok(Ended::Failed(e)),
        };
        (commits.collect(), ended)
    }

    /// The difference between two commits.
    ///
    /// # Errors
    /// If git cannot be run.
    pub fn diff(&self, from: &str, to: &str, limit: u64) -> Result<Diff, SourceError> {
        let mut args = DIFF.to_vec();
        args.extend([from, to, "--"]);
        let made = self.git.stream(
            &args,
            |_| Ok(()),
            |stdout| Ok(bounded(stdout, limit).at("read from git", self.git.dir())?),
        );
        match made {
            Err(SourceError::Git { message, .. }) => Ok(Diff::Missing(message)),
            made => made,
        }
    }

    /// The best common ancestor of two commits, if they have one.
    ///
    /// # Errors
    /// If git is missing.
    pub fn merge_base(&self, one: &str, other: &str) -> Result<Option<String>, SourceError> {
        match self.git.text(&["merge-base", one, other]) {
            Ok(id) => Ok(Some(id)),
            Err(SourceError::Git { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What `git describe --tags --long` says of a commit, where there are
    /// tags: of those that look like versions, else of all.
    pub fn describe(&self, commit: &str) -> Option<String> {
        let versions = [
            "describe",
            "--tags",
            "--long",
            "--match=*[0-9].[0-9]*",
            commit,
        ];
        let any = ["describe", "--tags", "--long", commit];
        let said = self.git.text(&versions).or_else(|_| self.git.text(&any));
        said.ok().filter(|tag| !tag.is_empty())
    }

    /// Paths of the files of a commit, sorted. Links, submodules and names
    /// that are not UTF-8 are left out.
    ///
    /// # Errors
    /// If the commit is missing.
    pub fn files(&self, commit: &str) -> Result<Vec<String>, SourceError> {
        let entries = self.entries(commit)?;
        let regular = entries
            .iter()
            .filter(|e| !matches!(e.mode, 0o120_000 | 0o160_000));
        let mut paths: Vec<String> = regular
            .filter_map(|e| Some(as_path(&e.path).to_str()?.to_owned()))
            .collect();
        paths.sort_unstable();
        Ok(paths)
    }

    /// The first `limit` bytes of a file of a commit, if it is there.
    pub fn file(&self, commit: &str, path: &str, limit: u64) -> Option<Vec<u8>> {
        let name = format!("{commit}:{path}");
        let read = self.git.stream(
            &["cat-file", "blob", &name],
            |_| Ok(()),
            |stdout| {
                let mut bytes = Vec::new();
                let dir = self.git.dir();
                stdout
                    .take(limit)
                    .read_to_end(&mut bytes)
                    .at("read from git", dir)?;
                std::io::copy(stdout, &mut std::io::sink()).at("read from git", dir)?;
                Ok(bytes)
            },
        );
        read.ok()
    }
}

/// How the reading of differences ended.
enum Ended {
    /// All are read.
    Finished,
    /// The reader has had enough.
    Stopped,
    /// Git failed.
    Failed(SourceError),
}

impl Git {
    /// Whether any ref leads to a commit.
    pub(super) fn has_history(&self) -> Result<bool, SourceError> {
        let some = self.text(&["rev-list", "--all", "--max-count=1"])?;
        Ok(!some.is_empty())
    }
}

const FIELDS: usize = 6;
const HEADER: [&str; 3] = [
    "-z",
    "--encoding=UTF-8",
    "--format=tformat:%H%x00%P%x00%an <%ae>%x00%at%x00%ct%x00%B",
];

/// The commits of a log in [`HEADER`]'s format.
fn headers(args: &[&str], out: &[u8]) -> Result<Vec<Change>, SourceError> {
    let text = String::from_utf8_lossy(out);
    let fields: Vec<&str> = text.split_terminator('\0').collect();
    let commit = |fields: &[&str]| {
        let &[id, parents, author, authored, committed, message] = fields else {
            return None;
        };
        Some(Change {
            id: id.to_owned(),
            parents: parents.split_whitespace().map(str::to_owned).collect(),
            author: author.to_owned(),
            authored: authored.parse().ok()?,
            committed: committed.parse().ok()?,
            message: message.to_owned(),
            diff: Diff::Text(String::new()),
        })
    };
    fields
        .chunks(FIELDS)
        .map(|fields| commit(fields).ok_or_else(|| unreadable(args, &fields.join(" "))))
        .collect()
}

fn unreadable(args: &[&str], said: &str) -> SourceError {
    SourceError::Git {
        command: args.join(" "),
        message: format!("cannot read {said:?}"),
    }
}

/// Reads a diff until the line that ends it.
fn until_mark(lines: &mut impl BufRead, limit: u64) -> std::io::Result<Diff> {
    let (mut bytes, mut size) = (Vec::new(), 0);
    loop {
        let start = bytes.len();
        let length = lines.read_until(b'\n', &mut bytes)? as u64;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if bytes[start..].trim_ascii_end() == MARK.as_bytes() {
            bytes.truncate(start);
            return Ok(diff_of(bytes, size, limit));
        }
        size += length;
        if size > limit {
            bytes.clear();
        }
    }
}

fn bounded(stdout: &mut dyn Read, limit: u64) -> std::io::Result<Diff> {
    let mut bytes = Vec::new();
    stdout.take(limit + 1).read_to_end(&mut bytes)?;
    let rest = std::io::copy(stdout, &mut std::io::sink())?;
    let size = bytes.len() as u64 + rest;
    Ok(diff_of(bytes, size, limit))
}

fn diff_of(bytes: Vec<u8>, size: u64, limit: u64) -> Diff {
    if size > limit {
        return Diff::TooLarge(size);
    }
    String::from_utf8(bytes).map_or(Diff::NotText, Diff::Text)
}
