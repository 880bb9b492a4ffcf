//! Whether a pull request makes a task.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use swegym_core::Instance;

use super::diff::is_code;
use super::{FileDiff, Issue, Pull, Side, SplitRule, resolved_issues, side_of};

/// A change of a repository as a task, not yet validated by execution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// `owner__name-number`.
    pub instance_id: String,
    /// `owner/name`.
    pub repo: String,
    /// The pull request; none for a commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_number: Option<u64>,
    /// The issues that it resolves.
    pub issue_numbers: Vec<u64>,
    /// The commit before the change.
    pub base_commit: String,
    /// The change outside of tests.
    pub patch: String,
    /// The change of tests.
    pub test_patch: String,
    /// What is asked for.
    pub problem_statement: String,
    /// What was said before the first commit.
    pub hints_text: String,
    /// When the change was proposed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

impl Candidate {
    /// The row of a dataset, without test lists. Columns that only the
    /// collection has are kept as SWE-bench spells them.
    pub fn into_instance(self) -> Instance {
        let mut instance = Instance {
            instance_id: self.instance_id,
            repo: self.repo,
            base_commit: self.base_commit,
            patch: self.patch,
            test_patch: self.test_patch,
            problem_statement: self.problem_statement,
            hints_text: self.hints_text,
            created_at: self.created_at,
            ..Instance::default()
        };
        if let Some(number) = self.pull_number {
            let issues = self.issue_numbers.iter().map(u64::to_string);
            let issues: Vec<String> = issues.collect();
            let extra = &mut instance.extra;
            extra.insert("pull_number".into(), number.into());
            extra.insert("issue_numbers".into(), issues.into());
        }
        instance
    }
}

/// A change that was looked at: what could be made of it, and why it falls
/// out, if it does. All of them are the raw set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mined {
    /// As much of a task as there is.
    pub candidate: Candidate,
    /// Why it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Why a change makes no task, in the order in which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The pull request was not merged.
    NotMerged,
    /// A commit that joins branches.
    Merge,
    /// No commit is known that the change was made against.
    NoBase,
    /// A commit that takes another back.
    Revert,
    /// New versions of other packages.
    DependencyBump,
    /// A new version of the package itself.
    VersionBump,
    /// No issue is resolved.
    NoIssue,
    /// None of the resolved issues is in the dump.
    IssueMissing,
    /// The issues, or the message, say nothing.
    NoStatement,
    /// Nothing changed.
    NoDiff,
    /// Nothing but tests and documents changed.
    NoSource,
    /// White space, quotes or the order of lines changed.
    Formatting,
    /// No test changed.
    NoTests,
}

impl Reason {
    /// All reasons, in the order of a funnel.
    pub const ALL: [Self; 13] = [
        Self::NotMerged,
        Self::Merge,
        Self::NoBase,
        Self::Revert,
        Self::DependencyBump,
        Self::VersionBump,
        Self::NoIssue,
        Self::IssueMissing,
        Self::NoStatement,
        Self::NoDiff,
        Self::NoSource,
        Self::Formatting,
        Self::NoTests,
    ];

    /// Stable name, as in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotMerged => "not_merged",
            Self::Merge => "merge",
            Self::NoBase => "no_base",
            Self::Revert => "revert",
            Self::DependencyBump => "dependency_bump",
            Self::VersionBump => "version_bump",
            Self::NoIssue => "no_issue",
            Self::IssueMissing => "issue_missing",
            Self::NoStatement => "no_statement",
            Self::NoDiff => "no_diff",
            Self::NoSource => "no_source",
            Self::Formatting => "formatting",
            Self::NoTests => "no_tests",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Judges a pull request by SWE-bench's rules: merged, resolves an issue with
/// a text, changes sources and tests. `issues` are those of
/// [`resolved_issues`] that are known, with their comments; `diff` is the
/// whole difference (see [`super::split_diff`]).
///
/// By [`SplitRule::Reference`] every file that is no test counts as source.
pub fn candidate(pull: &Pull, issues: &[Issue], diff: &[FileDiff], rule: SplitRule) -> Mined {
    let numbers = resolved_issues(pull);
    // The API lists pull requests as issues; the reference takes them.
    let real: Vec<&Issue> = issues
        .iter()
        .filter(|i| rule == SplitRule::Reference || !i.is_pull)
        .collect();
    let parts = Parts::new(diff, rule);
    let candidate = Candidate {
        instance_id: format!("{}-{}", pull.repo.replace('/', "__"), pull.number),
        repo: pull.repo.clone(),
        pull_number: Some(pull.number),
        base_commit: pull.base_commit.clone(),
        problem_statement: statement(&real),
        hints_text: hints(pull, &real),
        created_at: pull.created_at.clone(),
        patch: parts.source,
        test_patch: parts.tests,
        issue_numbers: numbers,
    };
    let reason = if pull.merged_at.is_none() {
        Some(Reason::NotMerged)
    } else if !is_commit(&pull.base_commit) {
        Some(Reason::NoBase)
    } else if candidate.issue_numbers.is_empty() {
        Some(Reason::NoIssue)
    } else if real.is_empty() {
        Some(Reason::IssueMissing)
    } else if candidate.problem_statement.trim().is_empty() {
        Some(Reason::NoStatement)
    } else {
        parts.reason
    };
    Mined { candidate, reason }
}

/// A diff by side.
pub(super) struct Parts {
    pub source: String,
    pub tests: String,
    pub reason: Option<Reason>,
}

impl Parts {
    pub fn new(diff: &[FileDiff], rule: SplitRule) -> Self {
        let side = |wanted: Side| {
            let on_side = diff.iter().filter(|f| side_of(&f.path, rule) == wanted);
            on_side.map(|f| f.text.as_str()).collect::<String>()
        };
        let (source, tests) = (side(Side::Source), side(Side::Test));
        let has_code = rule == SplitRule::Reference
            || diff
                .iter()
                .any(|f| is_code(&f.path) && side_of(&f.path, rule) == Side::Source);
        let reason = if diff.is_empty() {
            Some(Reason::NoDiff)
        } else if source.trim().is_empty() || !has_code {
            Some(Reason::NoSource)
        } else if tests.trim().is_empty() {
            Some(Reason::NoTests)
        } else {
            None
        };
        Self {
            source,
            tests,
            reason,
        }
    }
}

/// Title and text of every issue, as SWE-bench joins them.
fn statement(issues: &[&Issue]) -> String {
    let said = issues.iter().filter(|i| {
        let empty = i.title.trim().is_empty() && i.body.trim().is_empty();
        !empty
    });
    let text = |i: &&Issue| format!("{}\n{}\n", i.title, i.body.replace("\r\n", "\n"));
    said.map(text).collect()
}

/// What was said about the issues before the first commit.
fn hints(pull: &Pull, issues: &[&Issue]) -> String {
    let Some(first) = pull.commits.first().and_then(|c| instant(&c.date)) else {
        return String::new();
    };
    let before = |date: &Option<String>| instant(date).is_some_and(|d| d < first);
    let comments = issues.iter().flat_map(|i| &i.comments);
    let bodies: Vec<&str> = comments
        .filter(|c| before(&c.date))
        .map(|c| c.body.as_str())
        .collect();
    bodies.join("\n")
}

fn instant(date: &Option<String>) -> Option<Timestamp> {
    date.as_deref()?.parse().ok()
}

pub(super) fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit())
}
