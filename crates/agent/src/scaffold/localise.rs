//! Guesses where a fault is: from tracebacks in the issue, from failing tests
//! that the agent may see, and from the names that the issue mentions.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;
use swegym_core::{Command, SandboxError};

use super::Task;
use super::search::{Index, Outline, Span};
use crate::workspace::Workspace;

/// Longest run of the visible tests.
const TEST_LIMIT: Duration = Duration::from_secs(120);
/// A name that more places define than this says nothing.
const COMMON: usize = 6;
/// Weight of the frame where an error was raised; callers weigh less.
const FRAME: f64 = 4.0;
/// Weight of a name that the issue mentions.
const NAME: f64 = 2.0;

/// Spans by how likely they hold the fault, best first.
pub(crate) fn localise(
    task: &Task,
    index: &Index,
    outline: &dyn Outline,
    workspace: &mut Workspace<'_>,
    most: usize,
) -> Result<Vec<Span>, SandboxError> {
    let mut found: Vec<(Span, f64)> = Vec::new();
    let mut add = |span: Span, weight: f64| match found.iter_mut().find(|(s, _)| *s == span) {
        Some((_, sum)) => *sum += weight,
        None => found.push((span, weight)),
    };
    let mut texts = vec![task.problem_statement.clone()];
    texts.extend(failing_tests(task, workspace)?);
    for text in &texts {
        for (frames, weight) in traces(text, &task.workdir) {
            let depth = frames.len();
            for (n, (file, line)) in frames.into_iter().enumerate() {
                if is_test(&file) {
                    continue;
                }
                if let Some(span) = index.around(&file, line, outline, workspace)? {
                    add(span, weight * FRAME / (depth - n) as f64);
                }
            }
        }
    }
    for (name, times) in names(&task.problem_statement) {
        let plain = name.rsplit('.').next().unwrap_or(&name);
        let places = index.count(plain);
        if places == 0 || places > COMMON {
            continue;
        }
        for span in index.named(&name, None, outline, workspace)? {
            if !is_test(&span.file) {
                add(span, NAME * (times as f64).sqrt() / places as f64);
            }
        }
    }
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.file.cmp(&b.0.file)));
    Ok(found.into_iter().take(most).map(|(span, _)| span).collect())
}

/// Output of the visible tests, where some fail. The hidden ones are not
/// there: what can be learnt from this, any agent can.
fn failing_tests(
    task: &Task,
    workspace: &mut Workspace<'_>,
) -> Result<Option<String>, SandboxError> {
    let Some(script) = &task.test_command else {
        return Ok(None);
    };
    let command = Command::shell(script.clone())
        .cwd(&task.workdir)
        .timeout(TEST_LIMIT);
    let ran = workspace.exec(&command)?;
    Ok((ran.code() == 1).then_some(ran.text))
}

type Frames = Vec<(String, usize)>;

/// Tracebacks of a text, outermost frame first: Python's own, and pytest's.
/// Only frames of the codebase, relative to it.
fn traces(text: &str, workdir: &str) -> Vec<(Frames, f64)> {
    let frame =
        Regex::new(r#"(?m)^\s*File "([^"]+)", line (\d+)|^([\w./-]+\.py):(\d+): "#).expect("valid");
    let mut traces: Vec<Frames> = vec![Vec::new()];
    let mut last_end = 0;
    for found in frame.captures_iter(text) {
        let whole = found.get(0).expect("the match");
        // Frames of one traceback lie close together.
        if text[last_end..whole.start()].lines().count() > 60 {
            traces.push(Vec::new());
        }
        last_end = whole.end();
        let path = found.get(1).or(found.get(3)).map_or("", |m| m.as_str());
        let line = found.get(2).or(found.get(4));
        let line = line.and_then(|m| m.as_str().parse().ok()).unwrap_or(1);
        if let Some(file) = inside(path, workdir) {
            traces.last_mut().expect("never empty").push((file, line));
        }
    }
    traces.retain(|frames| !frames.is_empty());
    let share = 1.0 / traces.len().max(1) as f64;
    traces.into_iter().map(|t| (t, share)).collect()
}

/// A path below the codebase, relative to it.
fn inside(path: &str, workdir: &str) -> Option<String> {
    if path.contains("site-packages") || path.starts_with('<') {
        return None;
    }
    match path.strip_prefix(&format!("{workdir}/")) {
        Some(rest) => Some(rest.to_owned()),
        None if path.starts_with('/') => None,
        None => Some(path.trim_start_matches("./").to_owned()),
    }
}

/// Names of code in a text, with how often they occur: what is in backticks,
/// called, dotted, or written like code.
pub(crate) fn names(text: &str) -> BTreeMap<String, usize> {
    let word = Regex::new(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*").expect("valid");
    let mut names = BTreeMap::new();
    for found in word.find_iter(text) {
        let name = found.as_str();
        let before = text[..found.start()].chars().next_back();
        let after = text[found.end()..].chars().next();
        let like_code = name.contains('_')
            || name.contains('.')
            || name.chars().skip(1).any(char::is_uppercase)
            || before == Some('`')
            || after == Some('(')
            || after == Some('`');
        if name.len() > 2 && like_code {
            // Of `module.Class.method` the last two are defined somewhere.
            let parts: Vec<&str> = name.split('.').collect();
            let tail = parts[parts.len().saturating_sub(2)..].join(".");
            let last = parts[parts.len() - 1].to_owned();
            *names.entry(last).or_default() += 1;
            if tail.contains('.') {
                *names.entry(tail).or_default() += 1;
            }
        }
    }
    names
}

pub(crate) fn is_test(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.starts_with("test_")
        || name.ends_with("_test.py")
        || name == "conftest.py"
        || file
            .split('/')
            .any(|part| part == "tests" || part == "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_codebase_are_found_in_python_and_pytest_tracebacks() {
        let text = "\
Traceback (most recent call last):
  File \"/testbed/pkg/a.py\", line 3, in f
    g()
  File \"/usr/lib/python3/json.py\", line 9, in g
  File \"/testbed/pkg/b.py\", line 7, in g
ValueError: x
";
        assert_eq!(
            traces(text, "/testbed"),
            [(vec![("pkg/a.py".into(), 3), ("pkg/b.py".into(), 7)], 1.0)]
        );
        let pytest = "    def f():\n>       raise X\nE       X\n\npkg/c.py:12: X\n";
        assert_eq!(
            traces(pytest, "/testbed"),
            [(vec![("pkg/c.py".into(), 12)], 1.0)]
        );
        assert!(traces("nothing", "/testbed").is_empty());
    }

    #[test]
    fn names_of_code_are_told_from_words() {
        let found = names("Calling `humanize` or intword(3) breaks pkg.Number.round, they say.");
        let keys: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(keys, ["Number.round", "humanize", "intword", "round"]);
    }
}
