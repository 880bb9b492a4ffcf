//! Whether a commit alone makes a task.

use super::rules::{Parts, is_commit};
use super::{Candidate, FileDiff, Mined, Reason, Side, SplitRule, side_of};
use crate::pattern::patterns;

/// A commit of a repository's history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// `owner/name`.
    pub repo: String,
    /// Its name, 40 hex digits.
    pub sha: String,
    /// Names of its parents.
    pub parents: Vec<String>,
    /// Who wrote it.
    pub author: String,
    /// When, RFC 3339.
    pub date: String,
    /// What it says about itself.
    pub message: String,
}

patterns! {
    MERGE = r"(?i)^merge (?:branch|pull request|remote|tag|commit|upstream|master|main|in\b|\w+ into)|^merged in ";
    REVERT = r"(?i)^(?:revert|back(?:ed)? out|undo)\b|this reverts commit [0-9a-f]{7,40}";
    DEPENDENCY = r"(?i)^(?:\w+(?:\([\w-]+\))?!?:\s*)?(?:bump|update|upgrade|pin|unpin)\b.*\b(?:from v?\d\S* to v?\d|to v?\d+\.\d|requirements?|dependenc(?:y|ies)|pre-commit|lock ?file)|^(?:build|chore|fix)\(deps(?:-dev)?\)|^\[pre-commit\.ci\]";
    BOT = r"(?i)\b(?:dependabot|renovate|pyup|pre-commit-ci|greenkeeper|snyk)\b";
    VERSION = r"(?i)^(?:\w+(?:\([\w-]+\))?!?:\s*)?(?:(?:bump|set|update|increment|prepare(?: for)?|release|releasing|tag|cut)\b.{0,24}\b(?:version|release)\b|(?:bump|release|releasing|prepare|version|v)?\s*(?:to|for)?\s*v?\d+\.\d+[\w.]*\s*(?:release)?$|back to development|start (?:of )?\d|(?:bump|release)(?: to)? v?\d)";
    STYLE = r"(?i)^(?:style(?:\([\w-]+\))?:|(?:re)?format(?:ted|ting)?\b|(?:run|apply|use|add) (?:black|isort|ruff|yapf|autopep8|pyupgrade)|black\b|isort\b|lint(?:ing)?\b|flake8\b|pep ?8\b|white ?space\b|cosmetic)";
    TRAILER = r"(?i)^(?:[a-z]+(?:-[a-z]+)*-by|change-id|cc|git-svn-id|bug|closes?|fixes|resolves?|refs?|see also|pull-request|issue|ticket|reviewed-on|x-[\w-]+|signed-off|part-of|acked|tested)\b\s*:?\s+\S|^\(cherry picked from";
    NUMBERS = r"(?i)\s*\((?:(?:closes|fixes|resolves|refs|pr|gh|issue|bug|see)?[\s:-]*(?:#|gh-)\d+[,\s]*(?:and\s+)?)+\)|\s*\b(?:closes|fixes|resolves|refs|see|pr|issue|for)\s+(?:#|gh-)\d+\b|^(?:fix(?:es|ed)?\s+)?(?:#|gh-|bpo-)\d+\s*[:,-]+\s*";
    CHORE = r"(?i)^\s*[*-]\s+(?:fix(?:ed|es|up)?\s+)?(?:wip|lint|typos?|black|isort|flake8|mypy|review|address|changelog|news|merge|fixup|pre-commit|comments?|tests?|docs?|update (?:changelog|docs|tests)|add tests?|apply suggestions?|more tests?)\b[^`]{0,40}$";
    VERSION_LINE = r#"(?i)^\s*(?:$|#|(?:\w*version\w*|release)\s*[=:]|["']?v?\d+(?:\.\d+)+)"#;
}

/// Fewest words of a message that say something.
const WORDS: usize = 3;

/// Judges a commit: it changes sources and tests, and is no merge, revert,
/// formatting, nor a new version of anything. Its message, without trailers
/// and numbers, is the text of the task.
pub fn candidate_of_commit(commit: &Commit, diff: &[FileDiff], rule: SplitRule) -> Mined {
    let parts = Parts::new(diff, rule);
    let text = message(&commit.message);
    let short = commit.sha.get(..12).unwrap_or(&commit.sha);
    let base = commit.parents.first().cloned().unwrap_or_default();
    let reason = of_message(commit)
        .or_else(|| (!is_commit(&base)).then_some(Reason::NoBase))
        .or_else(|| (text.split_whitespace().count() < WORDS).then_some(Reason::NoStatement))
        .or_else(|| only_versions(diff, rule).then_some(Reason::VersionBump))
        .or_else(|| only_format(commit, diff, rule).then_some(Reason::Formatting))
        .or(parts.reason);
    let candidate = Candidate {
        instance_id: format!("{}-{short}", commit.repo.replace('/', "__")),
        repo: commit.repo.clone(),
        base_commit: base,
        patch: parts.source,
        test_patch: parts.tests,
        problem_statement: text,
        created_at: Some(commit.date.clone()).filter(|d| !d.is_empty()),
        ..Candidate::default()
    };
    Mined { candidate, reason }
}

fn of_message(commit: &Commit) -> Option<Reason> {
    let title = commit.message.trim().lines().next().unwrap_or_default();
    if commit.parents.len() > 1 || MERGE.is_match(title) {
        Some(Reason::Merge)
    } else if REVERT.is_match(title) || REVERT.is_match(&commit.message) {
        Some(Reason::Revert)
    } else if BOT.is_match(&commit.author) {
        Some(Reason::DependencyBump)
    } else if VERSION.is_match(title) {
        Some(Reason::VersionBump)
    } else if DEPENDENCY.is_match(title) {
        Some(Reason::DependencyBump)
    } else {
        None
    }
}

fn sources(diff: &[FileDiff], rule: SplitRule) -> impl Iterator<Item = &FileDiff> {
    diff.iter()
        .filter(move |f| side_of(&f.path, rule) == Side::Source)
}

/// Whether every changed line of the sources states a version.
fn only_versions(diff: &[FileDiff], rule: SplitRule) -> bool {
    let mut lines = sources(diff, rule).flat_map(|f| f.added().chain(f.removed()));
    let first = lines.next();
    first.is_some_and(|l| VERSION_LINE.is_match(l)) && lines.all(|l| VERSION_LINE.is_match(l))
}

/// Whether the sources say the same as before.
fn only_format(commit: &Commit, diff: &[FileDiff], rule: SplitRule) -> bool {
    if STYLE.is_match(commit.message.trim_start()) {
        return true;
    }
    // What formatters move around: blanks, quotes, trailing commas, brackets;
    // and sorting of imports moves lines.
    let essence = |lines: &mut dyn Iterator<Item = &str>| {
        let kept = |l: &str| l.chars().filter(|c| !" \t'\",()\\".contains(*c)).collect();
        let mut chars: Vec<String> = lines.map(kept).filter(|l: &String| !l.is_empty()).collect();
        let in_order = chars.concat();
        chars.sort_unstable();
        (in_order, chars)
    };
    let mut any = false;
    let all = sources(diff, rule).all(|file| {
        any = true;
        let (old, old_lines) = essence(&mut file.removed());
        let (new, new_lines) = essence(&mut file.added());
        old == new || (old_lines == new_lines && imports(file))
    });
    any && all && !sources(diff, rule).any(|f| f.is_new || f.is_deleted)
}

fn imports(file: &FileDiff) -> bool {
    let import = |l: &str| {
        let l = l.trim_start();
        l.is_empty() || l.starts_with("import ") || l.starts_with("from ")
    };
    file.added().chain(file.removed()).all(import)
}

/// A message as the text of a task.
fn message(message: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in message.replace("\r\n", "\n").trim().lines() {
        let line = line.trim_end();
        if TRAILER.is_match(line.trim_start()) || CHORE.is_match(line) {
            continue;
        }
        let line = NUMBERS.replace_all(line, "");
        let blank = line.trim().is_empty();
        if !(blank && lines.last().is_none_or(String::is_empty)) {
            lines.push(line.into_owned());
        }
    }
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_what_is_no_text() {
        let text = "Fix #12: Keep the order of keys (#34)\r\n\r\nThey were sorted; see #12.\n\n\
            * fix typo\n* keep `None` keys\n\nCloses: #12\nSigned-off-by: A <a@b.c>\nCo-authored-by: B <b@b.c>";
        assert_eq!(
            message(text),
            "Keep the order of keys\n\nThey were sorted;.\n\n* keep `None` keys"
        );
    }
}
