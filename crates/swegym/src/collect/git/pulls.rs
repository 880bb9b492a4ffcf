//! Pull requests of a dump as candidates, by SWE-bench's rules.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use jiff::Timestamp;
use swegym_forge::pulls::{
    DumpError, Issue, IssueIndex, Pull, PullCommit, Reason, candidate, read_pulls, resolved_issues,
    split_diff,
};
use swegym_store::source::{Change, Diff};

use super::commits::text_of;
use super::rows::{Reasons, Rows};
use super::{
    BROKEN_ROW, COMMIT_MISSING, DIFF_MISSING, DUPLICATE, Event, MAX_DIFF, Miner, OTHER_REPOSITORY,
    Own, Raw, date, open_dump,
};
use crate::Error;

type Issues = IssueIndex<BufReader<File>>;

impl Miner<'_> {
    /// Judges the lines of a dump, in their order. Returns whether it came to
    /// its end.
    pub(super) fn pulls(
        &mut self,
        path: &Path,
        issues: Option<&Path>,
        rows: &mut Rows,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, Error> {
        let mut issues = self.open_issues(issues, on_event)?;
        let file = file_name(path);
        let reader = BufReader::with_capacity(1 << 16, open_dump(path)?);
        on_event(Event::Begin {
            total: self.plan.range.limit,
            resumed: rows.done(),
        });
        let limit = self.plan.range.limit.unwrap_or(usize::MAX);
        let mut seen = HashSet::new();
        let mut judged = 0;
        let name = self.name.clone();
        for pull in read_pulls(reader, &file, name.as_deref()) {
            if let Err(e @ DumpError::Io { .. }) = pull {
                return Err(Error::input(e.to_string(), ""));
            }
            if self.cancel.is_cancelled() {
                return Ok(false);
            }
            let pull = match self.in_range(&file, pull) {
                Some(pull) if judged < limit => pull,
                Some(_) => break,
                None => continue,
            };
            judged += 1;
            if let Ok(pull) = &pull {
                // A dump that says what it is of names a nameless repository.
                self.name.get_or_insert_with(|| pull.repo.clone());
            }
            let again = pull.as_ref().is_ok_and(|pull| !seen.insert(key(pull)));
            if judged <= rows.done() {
                continue;
            }
            let row = match pull {
                Ok(pull) => self.pull(pull, again, &mut issues)?,
                Err(problem) => {
                    on_event(Event::Broken(&problem));
                    // Problems begin with their line.
                    let line = problem.split(": ").next().unwrap_or_default();
                    Raw::dropped(line.to_owned(), BROKEN_ROW, problem)
                }
            };
            rows.push(&row)?;
            on_event(Event::Done(&row));
        }
        self.check(rows, path)?;
        Ok(true)
    }

    /// A row that the range asks for; none if it does not.
    fn in_range(&self, file: &str, pull: Result<Pull, DumpError>) -> Option<Result<Pull, String>> {
        let pull = match pull {
            Ok(pull) => pull,
            Err(e) => return Some(Err(e.to_string())),
        };
        let range = &self.plan.range;
        if range.is_open() {
            return Some(Ok(pull));
        }
        let created = pull.created_at.as_deref().unwrap_or_default();
        match created.parse::<Timestamp>() {
            Ok(moment) => range.has(moment).then_some(Ok(pull)),
            Err(_) => Some(Err(format!(
                "{file}:{}: field `created_at`: expected RFC 3339, found {created:?}",
                pull.line
            ))),
        }
    }

    fn open_issues(
        &mut self,
        path: Option<&Path>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Issues>, Error> {
        let Some(path) = path else {
            return Ok(None);
        };
        let reader = BufReader::with_capacity(1 << 16, open_dump(path)?);
        let (index, errors) = Issues::new(reader, &file_name(path), self.name.as_deref());
        for error in &errors {
            on_event(Event::Broken(&error.to_string()));
        }
        self.broken = errors.len();
        if let (true, Some(first)) = (index.is_empty(), errors.first()) {
            return Err(Error::input(first.to_string(), "no line of it is an issue"));
        }
        Ok(Some(index))
    }

    fn pull(&self, mut pull: Pull, again: bool, issues: &mut Option<Issues>) -> Result<Raw, Error> {
        let expected = self.name.as_deref().unwrap_or(&pull.repo);
        if !expected.eq_ignore_ascii_case(&pull.repo) {
            let id = format!("{}-{}", pull.repo.replace('/', "__"), pull.number);
            let detail = format!(
                "pull request {} is of {}, the repository is {expected}",
                pull.number, pull.repo
            );
            return Ok(Raw::dropped(id, OTHER_REPOSITORY, detail));
        }
        // Git is asked only where the dump does not say.
        let mut head = None;
        if pull.merged_at.is_some() && pull.commits.is_empty() {
            head = self.head(&pull)?;
            if let Some((start, head)) = &head {
                pull.commits = self.commits_of(start, head)?;
            }
        }
        let found = resolve(&pull, issues)?;
        let rule = self.plan.rule;
        let mined = candidate(&pull, &found, &[], rule);
        if again {
            let mut row = self.row(mined, None);
            row.reason = Some(DUPLICATE.to_owned());
            row.detail = "the dump had this pull request before".to_owned();
            return Ok(row);
        }
        // The rules ask for a difference last, and git takes longest.
        if mined.reason != Some(Reason::NoDiff) {
            return Ok(self.row(mined, None));
        }
        if self.repo.find_commit(&pull.base_commit)?.is_none() {
            let detail = format!("commit {} is not in the repository", pull.base_commit);
            return Ok(self.row(mined, Some((COMMIT_MISSING, detail))));
        }
        let (diff, own) = self.difference(&mut pull, head)?;
        let mined = candidate(&pull, &found, &split_diff(&diff), rule);
        Ok(self.row(mined, own))
    }

    /// Where the branch of a pull request began and ended, as GitHub compares:
    /// the best common ancestor of base and head, and the head.
    fn head(&self, pull: &Pull) -> Result<Option<(String, String)>, Error> {
        let reference = format!("refs/pull/{}/head", pull.number);
        let names = pull.head_commit.iter().chain([&reference]);
        for name in names {
            if let Some(head) = self.repo.find_commit(name)?
                && let Some(start) = self.repo.merge_base(&pull.base_commit, &head)?
            {
                return Ok(Some((start, head)));
            }
        }
        Ok(None)
    }

    fn commits_of(&self, start: &str, head: &str) -> Result<Vec<PullCommit>, Error> {
        let commits = self.repo.commits_between(start, head)?.into_iter();
        let of = |commit: Change| PullCommit {
            message: commit.message,
            date: Some(date(commit.authored)),
        };
        Ok(commits.map(of).collect())
    }

    /// The whole difference of a pull request: the dump's, that of its
    /// branch, or that of its merge, which then says what the base is.
    fn difference(
        &self,
        pull: &mut Pull,
        head: Option<(String, String)>,
    ) -> Result<(String, Option<Own>), Error> {
        if let Some(diff) = pull.diff.take().filter(|diff| !diff.trim().is_empty()) {
            return Ok(text_of(match diff.len() as u64 {
                size if size > MAX_DIFF => Diff::TooLarge(size),
                _ => Diff::Text(diff),
            }));
        }
        let head = match head {
            None => self.head(pull)?,
            head => head,
        };
        if let Some((start, head)) = head {
            let diff = self.repo.diff(&start, &head, MAX_DIFF)?;
            if diff != Diff::Text(String::new()) {
                return Ok(text_of(diff));
            }
        }
        let merge = pull.merge_commit.as_deref().unwrap_or_default();
        let merged = self.repo.find_commit(merge)?;
        let before = self.repo.find_commit(&format!("{merge}^1"))?;
        if let (false, Some(merged), Some(before)) = (merge.is_empty(), merged, before) {
            let diff = self.repo.diff(&before, &merged, MAX_DIFF)?;
            pull.base_commit = before;
            return Ok(text_of(diff));
        }
        let detail = "neither the dump nor the repository has it".to_owned();
        Ok((String::new(), Some((DIFF_MISSING, detail))))
    }

    /// Whether the dump is one of this repository at all.
    fn check(&self, rows: &Rows, path: &Path) -> Result<(), Error> {
        let Reasons {
            other,
            broken,
            missing,
            usable,
            neutral,
        } = rows.reasons()?;
        let file = path.display();
        let wrong = match (missing, other, broken) {
            _ if usable => return Ok(()),
            (Some(missing), ..) => Error::input(
                format!(
                    "{file}: no base commit is in {}: {missing}",
                    self.repo.name()
                ),
                "is the dump of this repository, and its history complete?",
            ),
            _ if neutral => return Ok(()),
            (_, Some(other), _) => Error::input(
                format!("{file}: field `base.repo.full_name`: {other}"),
                "--repo names the repository as the dump does",
            ),
            (.., Some(broken)) => Error::input(broken, "no line of the dump can be used"),
            _ => Error::input(format!("{file}: no pull request"), ""),
        };
        rows.discard()?;
        Err(wrong)
    }
}

/// The resolved issues that are known: those of the dump of issues, else those
/// in the line itself.
fn resolve(pull: &Pull, issues: &mut Option<Issues>) -> Result<Vec<Issue>, Error> {
    let mut found = Vec::new();
    for number in resolved_issues(pull) {
        let dumped = match issues {
            Some(index) => index
                .issue(&pull.repo, number)
                .map_err(|e| Error::input(e.to_string(), ""))?,
            None => None,
        };
        let embedded = || pull.issues.iter().find(|i| i.number == number).cloned();
        found.extend(dumped.or_else(embedded));
    }
    Ok(found)
}

fn key(pull: &Pull) -> (String, u64) {
    (pull.repo.to_lowercase(), pull.number)
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
