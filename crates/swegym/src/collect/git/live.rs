//! Pull requests and issues from GitHub, as a dump: what is then made of them
//! is what is made of any dump.
//!
//! Pull requests come newest first, open ones too, so that new ones only move
//! the others to later pages. Their commits are asked for where they were
//! merged, issues and difference where they resolve something.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use swegym_forge::pulls::{read_pulls, resolved_issues};
use swegym_store::source::github::{self, GitHub, GitHubError};

use super::Range;
use super::rows::count;
use crate::Error;
use crate::dispatch::Cancel;

/// What a page holds.
const PAGE: usize = 100;

/// What to ask GitHub for, and where to put it.
#[derive(Debug)]
pub struct Download<'a> {
    /// Whom to ask.
    pub github: &'a GitHub,
    /// `owner/name`.
    pub repo: &'a str,
    /// Which pull requests, by when they were opened; the limit counts the
    /// newest.
    pub range: &'a Range,
    /// Longest wait for the rate limit; beyond it the download stops.
    pub max_wait: Duration,
    /// Folder of `pulls.jsonl` and `issues.jsonl`.
    pub dir: &'a Path,
}

/// What happens.
#[derive(Debug)]
pub enum Step {
    /// So many pull requests are there.
    Pulls(usize),
    /// The rate limit is used up: nothing for so long.
    Waiting(Duration),
}

/// Downloads the pull requests of a repository and the issues they resolve.
/// Returns whether that came to its end; a download that was stopped or killed
/// goes on where it was, and a finished one is not made again.
///
/// # Errors
/// If GitHub does not answer, does not know the repository or the token, or if
/// the wait for its rate limit is too long.
pub fn download(
    download: &Download<'_>,
    cancel: &Cancel,
    on_step: &mut dyn FnMut(Step),
) -> Result<bool, Error> {
    let dir = download.dir;
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let state = json!({"repo": download.repo, "range": download.range});
    let state_path = dir.join("download.json");
    let same = fs::read(&state_path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .is_some_and(|earlier| earlier == state);
    let finals = [dir.join("pulls.jsonl"), dir.join("issues.jsonl")];
    if same && finals.iter().all(|path| path.is_file()) {
        return Ok(true);
    }
    if !same {
        for path in finals.iter().chain(&finals.each_ref().map(|p| part(p))) {
            if path.exists() {
                fs::remove_file(path).map_err(|e| Error::io(path, e))?;
            }
        }
        swegym_data::atomic::write_json(&state_path, &state)?;
    }
    let mut run = Run {
        download,
        cancel,
        on_step,
        pulls: Lines::open(&part(&finals[0]))?,
        issues: Lines::open(&part(&finals[1]))?,
    };
    match run.all() {
        Ok(()) => {}
        Err(Stop::Cancelled) => return Ok(false),
        Err(Stop::Failed(e)) => return Err(e),
    }
    // The pull requests last: they say that all is there.
    for path in finals.iter().rev() {
        fs::rename(part(path), path).map_err(|e| Error::io(path, e))?;
    }
    Ok(true)
}

fn part(path: &Path) -> PathBuf {
    path.with_extension("jsonl.part")
}

/// Lines with a number each.
struct Lines {
    path: PathBuf,
    file: File,
    numbers: HashSet<u64>,
}

impl Lines {
    /// Opens a file; half a line at its end, which a kill leaves, goes.
    fn open(path: &Path) -> Result<Self, Error> {
        let failed = |e| Error::io(path, e);
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        file.set_len(count(path)?.1).map_err(failed)?;
        let mut numbers = HashSet::new();
        for line in BufReader::new(File::open(path).map_err(failed)?).lines() {
            let row: Value = serde_json::from_str(&line.map_err(failed)?)
                .map_err(|e| Error::input(format!("{}: {e}", path.display()), "remove it"))?;
            numbers.extend(row["number"].as_u64());
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            numbers,
        })
    }

    fn push(&mut self, number: u64, row: &Value) -> Result<(), Error> {
        let mut line = serde_json::to_vec(row).map_err(Error::bug)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|e| Error::io(&self.path, e))?;
        self.numbers.insert(number);
        Ok(())
    }
}

struct Run<'a> {
    download: &'a Download<'a>,
    cancel: &'a Cancel,
    on_step: &'a mut dyn FnMut(Step),
    pulls: Lines,
    issues: Lines,
}

/// Why a download does not come to its end.
enum Stop {
    Cancelled,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), Stop> {
        let limit = self.download.range.limit.unwrap_or(usize::MAX);
        // Pages only grow at their front, so what is there need not be asked
        // for again.
        let mut page = self.pulls.numbers.len() / PAGE + 1;
        while self.pulls.numbers.len() < limit {
            let path = format!(
                "/repos/{}/pulls?state=all&sort=created&direction=desc&per_page={PAGE}&page={page}",
                self.download.repo
            );
            let rows = self.list(&path)?;
            for row in &rows {
                if self.pulls.numbers.len() >= limit {
                    break;
                }
                match self.in_range(row)? {
                    Position::Before => return Ok(()),
                    Position::After => {}
                    Position::In => self.pull(row)?,
                }
            }
            if rows.len() < PAGE {
                break;
            }
            page += 1;
        }
        Ok(())
    }

    fn in_range(&self, row: &Value) -> Result<Position, Error> {
        let range = self.download.range;
        if range.is_open() {
            return Ok(Position::In);
        }
        let created = row["created_at"].as_str().unwrap_or_default();
        let created: Timestamp = created
            .parse()
            .map_err(|_| wrong_answer(row, "field `created_at`: expected RFC 3339"))?;
        Ok(match range.since {
            Some(since) if created < since => Position::Before,
            _ if range.has(created) => Position::In,
            _ => Position::After,
        })
    }

    fn pull(&mut self, row: &Value) -> Result<(), Stop> {
        let number = row["number"]
            .as_u64()
            .ok_or_else(|| wrong_answer(row, "field `number`: missing"))?;
        if self.pulls.numbers.contains(&number) {
            return Ok(());
        }
        let repo = self.download.repo;
        let mut kept = fields(
            row,
            &[
                "number",
                "state",
                "title",
                "body",
                "created_at",
                "merged_at",
                "merge_commit_sha",
            ],
        );
        let inside = |name: &str, fields_of: &[&str]| Value::Object(fields(&row[name], fields_of));
        let mut base = inside("base", &["ref", "sha"]);
        base["repo"] = Value::Object(fields(&row["base"]["repo"], &["full_name"]));
        kept.insert("base".into(), base);
        kept.insert("head".into(), inside("head", &["sha"]));
        if !row["merged_at"].is_null() {
            let commits = self.pages(&format!("/repos/{repo}/pulls/{number}/commits?"))?;
            let commits = commits.iter().map(|row| {
                let commit = &row["commit"];
                json!({"sha": row["sha"], "commit": {
                    "message": commit["message"],
                    "author": {"date": commit["author"]["date"]},
                }})
            });
            kept.insert("commits".into(), commits.collect());
        }
        let text = serde_json::to_vec(&kept).map_err(Error::bug)?;
        let pull = read_pulls(text.as_slice(), "answer", Some(repo)).next();
        let pull = pull
            .and_then(Result::ok)
            .ok_or_else(|| wrong_answer(row, "not a pull request"))?;
        let mut known = false;
        if pull.merged_at.is_some() {
            for issue in resolved_issues(&pull) {
                known |= self.issue(issue)?;
            }
        }
        if known {
            let path = format!("/repos/{repo}/pulls/{number}");
            // The largest are refused; the repository may still have them.
            if let Some(diff) = self.get(&path, github::DIFF)? {
                kept.insert("diff".into(), String::from_utf8_lossy(&diff).into());
            }
        }
        self.pulls.push(number, &Value::Object(kept))?;
        (self.on_step)(Step::Pulls(self.pulls.numbers.len()));
        Ok(())
    }

    /// Fetches an issue and its comments; returns whether there is one.
    fn issue(&mut self, number: u64) -> Result<bool, Stop> {
        if self.issues.numbers.contains(&number) {
            return Ok(true);
        }
        let path = format!("/repos/{}/issues/{number}", self.download.repo);
        let Some(answer) = self.get(&path, github::JSON)? else {
            return Ok(false);
        };
        let row = parsed(&path, &answer)?;
        let mut kept = fields(
            &row,
            &[
                "number",
                "title",
                "body",
                "created_at",
                "pull_request",
                "repository_url",
            ],
        );
        if row["comments"].as_u64().is_none_or(|n| n > 0) {
            let comments = self.pages(&format!("{path}/comments?"))?;
            let comments = comments
                .iter()
                .map(|c| Value::Object(fields(c, &["body", "created_at", "updated_at"])));
            kept.insert("comments".into(), comments.collect());
        }
        self.issues.push(number, &Value::Object(kept))?;
        Ok(true)
    }

    fn pages(&mut self, path: &str) -> Result<Vec<Value>, Stop> {
        let mut all = Vec::new();
        for page in 1.. {
            let rows = self.list(&format!("{path}per_page={PAGE}&page={page}"))?;
            let last = rows.len() < PAGE;
            all.extend(rows);
            if last {
                break;
            }
        }
        Ok(all)
    }

    fn list(&mut self, path: &str) -> Result<Vec<Value>, Stop> {
        let Some(answer) = self.get(path, github::JSON)? else {
            let what = format!("{path}: GitHub has no such thing");
            return Err(Error::input(what, "is the name right, and may the token see it?").into());
        };
        match parsed(path, &answer)? {
            Value::Array(rows) => Ok(rows),
            other => Err(wrong_answer(&other, &format!("{path}: expected a list")).into()),
        }
    }

    /// An answer; none if there is no such thing, or it is too large.
    fn get(&mut self, path: &str, accept: &'static str) -> Result<Option<Vec<u8>>, Stop> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            return match self.download.github.get(path, accept) {
                Ok(answer) => Ok(Some(answer)),
                Err(GitHubError::Refused {
                    status: 404 | 406 | 410 | 422,
                    ..
                }) => Ok(None),
                Err(GitHubError::Limited { wait, .. }) if wait <= self.download.max_wait => {
                    (self.on_step)(Step::Waiting(wait));
                    self.sleep(wait)?;
                    continue;
                }
                Err(e) => Err(failed(&e).into()),
            };
        }
    }

    fn sleep(&self, wait: Duration) -> Result<(), Stop> {
        let end = Instant::now() + wait;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if self.cancel.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            thread::sleep(left.min(Duration::from_millis(200)));
        }
        Ok(())
    }
}

/// Where a pull request is, seen from a range.
enum Position {
    Before,
    In,
    After,
}

/// The fields of an object that a dump needs; null where one is missing.
fn fields(row: &Value, names: &[&str]) -> Map<String, Value> {
    let pairs = names.iter();
    pairs
        .filter_map(|name| Some(((*name).to_owned(), row.get(*name)?.clone())))
        .collect()
}

fn parsed(path: &str, answer: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(answer)
        .map_err(|e| Error::setup(format!("{path}: GitHub's answer is no JSON: {e}"), ""))
}

fn wrong_answer(row: &Value, problem: &str) -> Error {
    let mut shown = row.to_string();
    if let Some((end, _)) = shown.char_indices().nth(100) {
        shown.truncate(end);
    }
    Error::setup(
        format!("{problem}, in GitHub's answer {shown}"),
        "is the address that of GitHub's API?",
    )
}

fn failed(error: &GitHubError) -> Error {
    let hint = match error {
        GitHubError::Limited { .. } => {
            "the same command goes on where this one stopped; --max-wait lets it wait"
        }
        GitHubError::Refused {
            status: 401 | 403, ..
        } => "is the token right, and may it read this repository?",
        GitHubError::Refused { .. } => "",
        GitHubError::Unreachable { .. } => "is the address right, and can it be reached from here?",
    };
    Error::setup(error.to_string(), hint)
}
