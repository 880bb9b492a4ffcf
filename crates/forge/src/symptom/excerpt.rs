//! Logs of failing tests, without what gives the fix away.

use std::collections::BTreeSet;

use super::{Facts, shows};

/// Lines kept from the start and from the end of a long log.
const HEAD: usize = 25;
const TAIL: usize = 35;

/// What went wrong, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// The failing assertion, or the exception with its message.
    pub(super) headline: String,
    /// Class of the exception; `None` for a failed assertion.
    pub(super) exception: Option<String>,
}

/// The log as a user may see it: frames of the broken file without line
/// numbers and source, no line of the fix, nothing that differs from run to
/// run.
pub(super) fn clean(facts: &Facts<'_>, secrets: &BTreeSet<String>) -> String {
    let root = facts.root.trim_end_matches('/');
    let mut log = strip_colours(facts.log);
    if !root.is_empty() {
        log = log.replace(&format!("{root}/"), "");
    }
    let mut out: Vec<String> = Vec::new();
    for chunk in chunks(&log) {
        if is_of_broken_file(&chunk, facts.path) {
            out.extend(chunk.iter().filter_map(|line| outline(line, facts.path)));
        } else {
            frames(&chunk, facts.path, &mut out);
        }
    }
    out.retain(|line| !shows(line, secrets));
    let out: Vec<String> = out.iter().map(|line| steady(line)).collect();
    shorten(&out)
}

/// The parts between pytest's separators.
fn chunks(log: &str) -> Vec<Vec<&str>> {
    let mut out = vec![Vec::new()];
    for line in log.lines() {
        let separator = line.starts_with("_ _ _");
        let title = line.starts_with("____") || line.starts_with("====");
        if separator || title {
            out.push(Vec::new());
        }
        if !separator {
            out.last_mut().expect("never empty").push(line.trim_end());
        }
    }
    out
}

/// `path:12: …` as `(path, …)`.
fn location(line: &str) -> Option<(&str, &str)> {
    let (path, rest) = line.split_once(':')?;
    let (number, rest) = rest.split_once(':')?;
    let numeric = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (numeric && path.contains('.') && !path.starts_with([' ', 'E', '>'])).then_some((path, rest))
}

fn is_path(path: &str, wanted: &str) -> bool {
    path == wanted || path.ends_with(&format!("/{wanted}"))
}

/// Whether a chunk of pytest's long form lists the source of the broken file.
fn is_of_broken_file(chunk: &[&str], path: &str) -> bool {
    chunk.iter().any(|line| {
        location(line).is_some_and(|(p, rest)| is_path(p, path) && !rest.starts_with(" in "))
    })
}

/// What is kept of such a chunk.
fn outline(line: &str, path: &str) -> Option<String> {
    if let Some((p, rest)) = location(line)
        && is_path(p, path)
    {
        return Some(format!("{path}:{rest}").trim_end_matches(':').to_owned());
    }
    let kept = line.starts_with("E ") || line.starts_with("____") || line.starts_with("====");
    kept.then(|| line.to_owned())
}

/// Takes line numbers and source off the frames of the broken file.
fn frames(chunk: &[&str], path: &str, out: &mut Vec<String>) {
    let mut skip = None;
    for line in chunk {
        let indent = line.len() - line.trim_start().len();
        if let Some(depth) = skip {
            if indent > depth && !line.starts_with('E') {
                continue;
            }
            skip = None;
        }
        let code = line.trim_start();
        if let Some(rest) = code.strip_prefix("File \"")
            && let Some((file, rest)) = rest.split_once("\", line ")
            && is_path(file, path)
        {
            let function = rest.split_once(", ").map_or("", |(_, f)| f);
            out.push(format!("{}File \"{path}\", {function}", &line[..indent]));
            skip = Some(indent);
        } else if let Some((file, rest)) = location(line)
            && is_path(file, path)
        {
            out.push(format!("{path}:{rest}"));
            skip = Some(0);
        } else {
            out.push((*line).to_owned());
        }
    }
}

/// The failure in one line: pytest's first `E` line, or the last line of a
/// traceback.
pub(super) fn summary(excerpt: &str) -> Option<Summary> {
    let marked = excerpt
        .lines()
        .filter_map(|line| line.strip_prefix("E "))
        .map(str::trim)
        .find(|line| !line.is_empty());
    let raised = || excerpt.lines().rev().find(|line| exception(line).is_some());
    let line = marked.or_else(raised)?.trim();
    let class = exception(line).filter(|class| {
        let name = class.rsplit('.').next().unwrap_or(class);
        !name.contains("Assertion") && name != "Failed"
    });
    Some(Summary {
        headline: crate::excerpt(line, 160),
        exception: class.map(str::to_owned),
    })
}

/// The class, if the line tells of an exception: `pkg.SomeError: message`.
fn exception(line: &str) -> Option<&str> {
    let class = line.split(':').next()?.trim_end();
    let name = class.rsplit('.').next()?;
    let dotted = class
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    let known = [
        "Error",
        "Exception",
        "Warning",
        "Interrupt",
        "Exit",
        "Iteration",
        "Failed",
    ];
    (dotted
        && name.starts_with(|c: char| c.is_uppercase())
        && known.iter().any(|end| name.ends_with(end)))
    .then_some(class)
}

/// The name of a test without its file and class.
pub(super) fn short_name(id: &str) -> String {
    let head = id.split('[').next().unwrap_or(id);
    let head = head.split(" (").next().unwrap_or(head);
    head.rsplit("::").next().unwrap_or(head).to_owned()
}

fn strip_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

/// Takes out addresses and numbers of runs.
fn steady(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("0x") {
        let digits = rest[at + 2..]
            .bytes()
            .take_while(u8::is_ascii_hexdigit)
            .count();
        out.push_str(&rest[..at]);
        out.push_str(if digits >= 6 {
            "0x..."
        } else {
            &rest[at..at + 2 + digits]
        });
        rest = &rest[at + 2 + digits..];
    }
    out.push_str(rest);
    if let Some(at) = out.find("/pytest-of-") {
        let tail = out[at + 1..].find("/pytest-").map(|i| at + 1 + i + 8);
        if let Some(tail) = tail {
            let digits = out[tail..].bytes().take_while(u8::is_ascii_digit).count();
            let start = out[..at].rfind([' ', '"', '\'']).map_or(0, |i| i + 1);
            out.replace_range(start..tail + digits, "/tmp/run");
        }
    }
    out
}

fn shorten(lines: &[String]) -> String {
    let blank = |line: &&String| line.trim().is_empty();
    let skip = lines.iter().take_while(blank).count();
    let lines = &lines[skip..];
    let end = lines.iter().rev().take_while(blank).count();
    let lines = &lines[..lines.len() - end];
    if lines.len() <= HEAD + TAIL {
        return lines.join("\n");
    }
    let (head, tail) = (&lines[..HEAD], &lines[lines.len() - TAIL..]);
    format!("{}\n[...]\n{}", head.join("\n"), tail.join("\n"))
}
