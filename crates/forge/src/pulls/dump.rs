//! Dumps of GitHub's API: one object per line.
//!
//! Only fields that a rule needs are read; each may be spelled as the API
//! does, or as SWE-bench's and Multi-SWE-bench's collections do.

use std::io::{self, BufRead, Read};

use serde_json::{Map, Value};
use thiserror::Error;

/// Longest line that is read, bytes.
const MAX_LINE: u64 = 256 << 20;

/// A line of a dump is not what it should be.
#[derive(Debug, Error)]
pub enum DumpError {
    /// The file cannot be read on.
    #[error("{file}:{line}: {source}")]
    Io {
        /// The dump.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The line is no JSON object.
    #[error("{file}:{line}: expected a JSON object on one line: {problem}")]
    Json {
        /// The dump.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A field is missing or of another type.
    #[error("{file}:{line}: field `{field}`: {problem}")]
    Field {
        /// The dump.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The field, dotted.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// A pull request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pull {
    /// `owner/name`.
    pub repo: String,
    /// Its number.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// Its description.
    pub body: String,
    /// When it was opened.
    pub created_at: Option<String>,
    /// When it was merged; none if it was not.
    pub merged_at: Option<String>,
    /// Commit that it was made against.
    pub base_commit: String,
    /// Commit that merged it.
    pub merge_commit: Option<String>,
    /// Last commit of its branch.
    pub head_commit: Option<String>,
    /// Where its difference can be had.
    pub diff_url: Option<String>,
    /// Its difference, where the dump has it.
    pub diff: Option<String>,
    /// Its commits, oldest first, where the dump has them.
    pub commits: Vec<PullCommit>,
    /// Issues it is recorded to resolve; none if nobody looked.
    pub resolved: Option<Vec<u64>>,
    /// Those of them whose text is in the same line.
    pub issues: Vec<Issue>,
    /// Its line in the dump, from 1.
    pub line: usize,
}

/// A commit of a pull request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullCommit {
    /// Its message.
    pub message: String,
    /// When it was written.
    pub date: Option<String>,
}

/// An issue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issue {
    /// Its number.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// Its text.
    pub body: String,
    /// When it was opened.
    pub created_at: Option<String>,
    /// It is a pull request; the API lists those among the issues.
    pub is_pull: bool,
    /// What was said about it, oldest first, where the dump has it.
    pub comments: Vec<Comment>,
}

/// A comment on an issue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comment {
    /// Its text.
    pub body: String,
    /// When it was last changed, else when it was written.
    pub date: Option<String>,
}

/// Reads a dump of pull requests, one at a time. After an error in a line the
/// next lines can still be read; if the file cannot be read on, that is the
/// last item. `repo` is used where a line does not name its repository.
pub fn read_pulls<R: BufRead>(
    reader: R,
    file: &str,
    repo: Option<&str>,
) -> impl Iterator<Item = Result<Pull, DumpError>> {
    let repo = repo.map(str::to_owned);
    objects(reader, file).map(move |row| pull(&row?, repo.as_deref()))
}

/// A line of a dump.
pub(super) struct Row {
    pub fields: Map<String, Value>,
    file: String,
    line: usize,
    /// Offset of its first byte.
    pub start: u64,
}

/// The objects of a dump.
pub(super) fn objects<R: BufRead>(
    reader: R,
    file: &str,
) -> impl Iterator<Item = Result<Row, DumpError>> {
    let mut lines = Lines {
        reader,
        file: file.to_owned(),
        line: 0,
        offset: 0,
        failed: false,
    };
    std::iter::from_fn(move || lines.next_object())
}

struct Lines<R> {
    reader: R,
    file: String,
    line: usize,
    offset: u64,
    failed: bool,
}

impl<R: BufRead> Lines<R> {
    fn next_object(&mut self) -> Option<Result<Row, DumpError>> {
        let mut text = Vec::new();
        while !self.failed {
            text.clear();
            self.line += 1;
            let start = self.offset;
            let read = Read::take(&mut self.reader, MAX_LINE).read_until(b'\n', &mut text);
            let length = match read {
                Ok(0) => return None,
                Ok(length) => length as u64,
                Err(source) => return Some(Err(self.io(source))),
            };
            self.offset += length;
            if length == MAX_LINE && text.last() != Some(&b'\n') {
                let problem = format!("a line of more than {MAX_LINE} bytes");
                return Some(Err(self.io(io::Error::other(problem))));
            }
            let blank = text.trim_ascii();
            let blank = blank.strip_prefix(b"\xef\xbb\xbf").unwrap_or(blank);
            if !blank.is_empty() {
                let parsed = serde_json::from_slice(blank);
                return Some(match parsed {
                    Ok(fields) => Ok(Row {
                        fields,
                        file: self.file.clone(),
                        line: self.line,
                        start,
                    }),
                    Err(e) => Err(DumpError::Json {
                        file: self.file.clone(),
                        line: self.line,
                        problem: e.to_string(),
                    }),
                });
            }
        }
        None
    }

    fn io(&mut self, source: io::Error) -> DumpError {
        self.failed = true;
        DumpError::Io {
            file: self.file.clone(),
            line: self.line,
            source,
        }
    }
}

impl Row {
    fn wrong(&self, field: &'static str, problem: impl Into<String>) -> DumpError {
        DumpError::Field {
            file: self.file.clone(),
            line: self.line,
            field,
            problem: problem.into(),
        }
    }

    /// A value by its dotted name; null is the same as absent.
    fn get(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let mut value = self.fields.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// The first of several spellings that holds a text; null and absence are
    /// no text.
    fn text(&self, names: &[&'static str]) -> Result<Option<String>, DumpError> {
        for &name in names {
            match self.get(name) {
                None => {}
                Some(Value::String(text)) => return Ok(Some(text.clone())),
                Some(_) => return Err(self.wrong(name, "expected a string or null")),
            }
        }
        Ok(None)
    }

    pub fn number(&self, names: &[&'static str]) -> Result<u64, DumpError> {
        let Some((name, value)) = names.iter().find_map(|n| Some((*n, self.get(n)?))) else {
            return Err(self.wrong(names[0], "missing"));
        };
        as_number(value).ok_or_else(|| self.wrong(name, "expected a number"))
    }

    /// `owner/name`, from whatever names it.
    pub fn repo(&self) -> Option<String> {
        let full = ["base.repo.full_name", "repo", "repository.full_name"];
        let full = full.iter().filter_map(|n| self.get(n)?.as_str());
        if let Some(repo) = full.into_iter().find(|r| r.contains('/')) {
            return Some(repo.to_owned());
        }
        if let (Some(Value::String(org)), Some(Value::String(name))) =
            (self.get("org"), self.get("repo"))
        {
            return Some(format!("{org}/{name}"));
        }
        let urls = ["url", "html_url", "repository_url", "issue_url"];
        urls.iter().find_map(|n| of_url(self.get(n)?.as_str()?))
    }
}

/// The repository in a URL of the API or of the site.
fn of_url(url: &str) -> Option<String> {
    let path = url.split("://").nth(1)?.split_once('/')?.1;
    let path = match path.split_once("repos/") {
        Some((_, path)) => path,
        None => path,
    };
    let mut parts = path.split('/').filter(|p| !p.is_empty());
    Some(format!("{}/{}", parts.next()?, parts.next()?))
}

fn as_number(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.trim_start_matches('#').parse().ok(),
        Value::Object(object) => as_number(object.get("number")?),
        value => value.as_u64(),
    }
}

fn pull(row: &Row, repo: Option<&str>) -> Result<Pull, DumpError> {
    let known = row.repo().or_else(|| repo.map(str::to_owned));
    let Some(repo) = known else {
        return Err(row.wrong(
            "base.repo.full_name",
            "missing, and no other field names it",
        ));
    };
    if !["merged_at", "merged", "state"]
        .iter()
        .any(|name| row.fields.contains_key(*name))
    {
        return Err(row.wrong("merged_at", "missing; null says that it was not merged"));
    }
    let base = row.text(&["base.sha", "base_commit"])?;
    // Multi-SWE-bench keeps merged ones only, and not their dates.
    let merged = row.get("merged") == Some(&Value::Bool(true))
        || (row.fields.contains_key("fix_patch") && !row.fields.contains_key("merged_at"));
    let mut merged_at = row.text(&["merged_at"])?;
    if merged && merged_at.is_none() {
        merged_at = Some(String::new());
    }
    Ok(Pull {
        repo,
        number: row.number(&["number", "pull_number"])?,
        title: row.text(&["title"])?.unwrap_or_default(),
        body: row.text(&["body"])?.unwrap_or_default(),
        created_at: row.text(&["created_at"])?,
        merged_at,
        base_commit: base.ok_or_else(|| row.wrong("base.sha", "missing"))?,
        merge_commit: row.text(&["merge_commit_sha"])?,
        head_commit: row.text(&["head.sha"])?,
        diff_url: row.text(&["diff_url"])?,
        diff: diff(row)?,
        commits: commits(row)?,
        resolved: resolved(row)?,
        issues: embedded(row),
        line: row.line,
    })
}

fn diff(row: &Row) -> Result<Option<String>, DumpError> {
    if let Some(diff) = row.text(&["diff"])? {
        return Ok(Some(diff));
    }
    let fix = row.text(&["fix_patch", "patch"])?;
    let tests = row.text(&["test_patch"])?;
    if fix.is_none() && tests.is_none() {
        return Ok(None);
    }
    let mut diff = fix.unwrap_or_default();
    if !diff.is_empty() && !diff.ends_with('\n') {
        diff.push('\n');
    }
    diff.push_str(&tests.unwrap_or_default());
    Ok(Some(diff))
}

/// A list of commits; the API's plain count is none.
fn commits(row: &Row) -> Result<Vec<PullCommit>, DumpError> {
    let list = match row.get("commits").or_else(|| row.get("commit_messages")) {
        Some(Value::Array(list)) => list,
        None | Some(Value::Number(_)) => return Ok(Vec::new()),
        Some(_) => return Err(row.wrong("commits", "expected a list")),
    };
    let commit = |value: &Value| match value {
        Value::String(message) => Some(PullCommit {
            message: message.clone(),
            date: None,
        }),
        Value::Object(object) => {
            let inner = object.get("commit").unwrap_or(value);
            let date = inner.pointer("/author/date").or_else(|| inner.get("date"));
            Some(PullCommit {
                message: inner.get("message")?.as_str()?.to_owned(),
                date: date.and_then(Value::as_str).map(str::to_owned),
            })
        }
        _ => None,
    };
    let all: Option<Vec<PullCommit>> = list.iter().map(commit).collect();
    all.ok_or_else(|| row.wrong("commits", "expected messages, or objects with `message`"))
}

fn resolved(row: &Row) -> Result<Option<Vec<u64>>, DumpError> {
    let (name, value) = match (row.get("resolved_issues"), row.get("issue_numbers")) {
        (Some(value), _) => ("resolved_issues", value),
        (None, Some(value)) => ("issue_numbers", value),
        (None, None) => return Ok(None),
    };
    let numbers = value
        .as_array()
        .and_then(|list| list.iter().map(as_number).collect::<Option<Vec<u64>>>());
    let numbers = numbers.ok_or_else(|| row.wrong(name, "expected a list of numbers"))?;
    Ok(Some(numbers))
}

/// Issues inside of a pull request, as Multi-SWE-bench has them.
fn embedded(row: &Row) -> Vec<Issue> {
    let Some(Value::Array(list)) = row.get("resolved_issues") else {
        return Vec::new();
    };
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    list.iter()
        .filter_map(|value| {
            Some(Issue {
                number: as_number(value.get("number")?)?,
                title: text(value, "title")?,
                body: text(value, "body").unwrap_or_default(),
                created_at: text(value, "created_at"),
                ..Issue::default()
            })
        })
        .collect()
}

/// The issue of a line, with the comments that are in the same line.
pub(super) fn issue(row: &Row) -> Result<Issue, DumpError> {
    let comments = match row.get("comments").or_else(|| row.get("comments_list")) {
        Some(Value::Array(list)) => list.iter().map(comment_of).collect(),
        _ => Vec::new(),
    };
    Ok(Issue {
        number: row.number(&["number"])?,
        title: row.text(&["title"])?.unwrap_or_default(),
        body: row.text(&["body"])?.unwrap_or_default(),
        created_at: row.text(&["created_at"])?,
        is_pull: row.get("pull_request").is_some(),
        comments,
    })
}

fn comment_of(value: &Value) -> Comment {
    let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    Comment {
        body: text("body").unwrap_or_default(),
        date: text("updated_at").or_else(|| text("created_at")),
    }
}

/// The comment of a line, and the number of its issue; none if the line is an
/// issue.
pub(super) fn comment(row: &Row) -> Option<(u64, Comment)> {
    let url = row.get("issue_url")?.as_str()?;
    let number = url.rsplit('/').next()?.parse().ok()?;
    let fields = Value::Object(row.fields.clone());
    Some((number, comment_of(&fields)))
}
