//! The rows of a collection, on disk as they are made.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::{BROKEN_ROW, OTHER_REPOSITORY, Raw, State, Summary};
use crate::Error;
use crate::funnel::Funnel;

/// Stages of the funnel.
const STAGES: [&str; 2] = ["changes", "candidates"];

/// `raw.jsonl`, one row after the other.
pub(super) struct Rows {
    dir: PathBuf,
    /// What is written to; none if everything is there.
    file: Option<File>,
    done: usize,
}

impl Rows {
    /// Goes on with the rows of the same collection, or begins a new one.
    pub fn open(dir: &Path, state_path: &Path, state: &State) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let part = part(dir);
        let raw = dir.join("raw.jsonl");
        let same = fs::read(state_path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok())
            .is_some_and(|earlier| earlier == *state);
        if same && !part.exists() && raw.is_file() {
            let done = count(&raw)?.0;
            return Ok(Self {
                dir: dir.to_owned(),
                file: None,
                done,
            });
        }
        if !same {
            // First the rows, then the state: a kill in between loses both.
            remove(&part)?;
            remove(&raw)?;
            remove(&dir.join("candidates.jsonl"))?;
            swegym_data::atomic::write_json(state_path, state)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&part)
            .map_err(|e| Error::io(&part, e))?;
        // A kill may have left half a line.
        let (done, whole) = count(&part)?;
        file.set_len(whole).map_err(|e| Error::io(&part, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            file: Some(file),
            done,
        })
    }

    /// Rows that were there at the start.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Whether there is nothing to do.
    pub fn is_complete(&self) -> bool {
        self.file.is_none()
    }

    /// Adds a row, with one write: it is there, or it is cut off.
    pub fn push(&mut self, row: &Raw) -> Result<(), Error> {
        let path = part(&self.dir);
        let mut line = serde_json::to_vec(row).map_err(Error::bug)?;
        line.push(b'\n');
        let file = self.file.as_mut().expect("rows of an open collection");
        file.write_all(&line).map_err(|e| Error::io(path, e))
    }

    /// Publishes the rows, if they are all there, and the candidates among
    /// them; counts both.
    pub fn finish(self, complete: bool, repo: String) -> Result<Summary, Error> {
        let (part, raw) = (part(&self.dir), self.dir.join("raw.jsonl"));
        if let (true, Some(file)) = (complete, &self.file) {
            file.sync_all()
                .and_then(|()| fs::rename(&part, &raw))
                .map_err(|e| Error::io(&raw, e))?;
        }
        let rows = if complete { &raw } else { &part };
        let mut summary = Summary {
            repo,
            funnel: Funnel::of(&STAGES),
            complete,
            broken: 0,
            raw: rows.clone(),
            candidates: self.dir.join("candidates.jsonl"),
        };
        let write = |mut out: Box<dyn Write>, summary: &mut Summary| -> Result<(), Error> {
            let failed = |e| Error::io(&summary.candidates, e);
            for row in read(rows)? {
                let row = row?;
                let Some(reason) = &row.reason else {
                    summary.funnel.reached("candidates");
                    serde_json::to_writer(&mut out, &row.instance).map_err(Error::bug)?;
                    out.write_all(b"\n").map_err(failed)?;
                    continue;
                };
                summary.funnel.reached("changes");
                summary.funnel.fell_out(reason);
                summary.broken += usize::from(reason == BROKEN_ROW);
            }
            out.flush().map_err(failed)
        };
        if !complete {
            write(Box::new(std::io::sink()), &mut summary)?;
            return Ok(summary);
        }
        let at = |e| Error::io(&summary.candidates, e);
        let temp = NamedTempFile::with_prefix_in(".tmp-", &self.dir).map_err(at)?;
        let handle = temp.reopen().map_err(at)?;
        write(Box::new(BufWriter::new(handle)), &mut summary)?;
        crate::make_readable(temp.as_file()).map_err(|e| Error::io(&summary.candidates, e))?;
        temp.persist(&summary.candidates)
            .map_err(|e| Error::io(&summary.candidates, e.error))?;
        Ok(summary)
    }

    /// Takes everything back: what was collected is of no use.
    pub fn discard(&self) -> Result<(), Error> {
        remove(&part(&self.dir))?;
        remove(&self.dir.join("collect.json"))
    }

    /// Reasons of the rows so far.
    pub fn reasons(&self) -> Result<Reasons, Error> {
        let mut reasons = Reasons::default();
        for row in read(&part(&self.dir))? {
            let row = row?;
            match row.reason.as_deref() {
                Some(OTHER_REPOSITORY) => reasons.other.get_or_insert(row.detail),
                Some(BROKEN_ROW) => reasons.broken.get_or_insert(row.detail),
                Some(super::COMMIT_MISSING) => reasons.missing.get_or_insert(row.detail),
                // What falls out before its base commit is looked for says
                // nothing about the repository.
                Some(
                    super::DUPLICATE
                    | "not_merged"
                    | "no_base"
                    | "no_issue"
                    | "issue_missing"
                    | "no_statement",
                ) => {
                    reasons.neutral = true;
                    continue;
                }
                _ => {
                    reasons.usable = true;
                    continue;
                }
            };
        }
        Ok(reasons)
    }
}

/// What the rows of a dump say about the dump.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    /// Of the first row of another repository.
    pub other: Option<String>,
    /// Of the first line that cannot be used.
    pub broken: Option<String>,
    /// Of the first row whose base commit is missing.
    pub missing: Option<String>,
    /// Some row is of this repository.
    pub usable: bool,
    /// Some row could be.
    pub neutral: bool,
}

fn part(dir: &Path) -> PathBuf {
    dir.join("raw.jsonl.part")
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

/// Whole lines of a file, and their bytes.
pub(super) fn count(path: &Path) -> Result<(usize, u64), Error> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut lines, mut whole, mut at) = (0, 0, 0);
    loop {
        let bytes = reader.fill_buf().map_err(|e| Error::io(path, e))?;
        if bytes.is_empty() {
            return Ok((lines, whole));
        }
        lines += bytes.iter().filter(|b| **b == b'\n').count();
        if let Some(last) = bytes.iter().rposition(|b| *b == b'\n') {
            whole = at + last as u64 + 1;
        }
        let length = bytes.len();
        at += length as u64;
        reader.consume(length);
    }
}

fn read(path: &Path) -> Result<impl Iterator<Item = Result<Raw, Error>>, Error> {
    let path = path.to_owned();
    let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
    Ok(BufReader::new(file).lines().map(move |line| {
        let line = line.map_err(|e| Error::io(&path, e))?;
        serde_json::from_str(&line)
            .map_err(|e| Error::input(format!("{}: {e}", path.display()), ""))
    }))
}
