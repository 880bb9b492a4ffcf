//! The text of a task, from the entries it is about.

use super::{Entry, Kind, noise};
use crate::pattern::patterns;

patterns! {
    LABEL = r"^\W*(?i:new|fix|fixed|bug ?fix|feature|feat|enhancement|added|changed|removed|security)\s*[\]:]\s*";
    SENTENCE = r"\.\s+";
    BRACKETED = r"(?i)\s*[\[(](?:[^\[\]()]*?(?:#\d+|gh-\d+|bpo-\d+|@[\w-]+|https?://)[^\[\]()]*|(?:issue|pr|ticket|bug)s?\W*\d+[^\[\]()]*|(?:(?:many )?thanks|patch|reported|contributed|contribution|courtesy)\b[^\[\]()]*|by @[^\[\]()]*)[\])]";
    LEADING = r"^\W*(?:#\d+|bpo-\d+|gh-\d+)(?:\s*(?:,|and|&)\s*#\d+)*\s*[:.,)\]-]*\s+";
    TRAILING = r"(?i)[\s.,;:-]*(?:(?:see|closes?|fixes|fixed|resolves?|issue|pr|refs?|via|in|pull request|ticket|bug|and|also|,)\s*)*(?:(?:#\d+|bpo-\d+|gh-\d+)[\s,;/]*(?:and\s+)?)+\.?\s*$";
    CREDIT = r"(?i)[\s.,;–-]+(?:(?:many )?thanks,? (?:to |go to |@)?|thank you,? |(?:patch|reported|contributed|contribution|report|suggested|implemented|fix(?:ed)?|pr|added|written)(?: and \w+)? (?:by|from) |by @|(?:pull request |patch |fix )?courtesy )[^.`]{2,80}[.!]*\s*$";
    INNER = r"(?i)\s*\b(?:in|see|issue|pr|closes|fixes|via)\s+#\d+\b|\s*#\d+\b";
    URL = r"<?https?://[^\s>)\]]+>?";
}

/// An issue-like text that asks for what the entries name, for a package at
/// `version` (the one before the change). References, links and credits are
/// left out, and so are entries that are noise. None if nothing remains.
pub fn problem_statement(entries: &[&Entry], package: &str, version: &str) -> Option<String> {
    let mut groups: Vec<(Option<Kind>, Vec<String>)> = Vec::new();
    for entry in entries.iter().filter(|e| e.noise.is_none()) {
        let mut text = bare(&entry.text);
        // Some entries say nothing without the heading they stand under.
        let bare_name = !text.is_empty() && text.split(' ').count() <= 2;
        if let Some(section) = &entry.section
            && (bare_name || super::is_path(section))
        {
            text = format!("{section}: {text}");
        }
        if text.chars().filter(|c| c.is_alphabetic()).count() < 8 {
            continue;
        }
        match groups.iter_mut().find(|(kind, _)| *kind == entry.kind) {
            Some((_, texts)) => texts.push(text),
            None => groups.push((entry.kind, vec![text])),
        }
    }
    let count: usize = groups.iter().map(|(_, texts)| texts.len()).sum();
    let [(_, first), ..] = groups.as_slice() else {
        return None;
    };
    if count == 1 {
        let (title, rest) = split_title(&first[0]);
        let lead = format!("{package} {version} does not behave like this yet.");
        return Some(join(&[&title, &lead, &rest]));
    }
    let mut out = format!(
        "Changes wanted in {package}\n\n{package} {version} does not behave like this yet:\n"
    );
    let headed = groups.len() > 1;
    for (kind, texts) in &groups {
        if headed {
            out.push_str(&format!("\n{}:\n", title_of(*kind)));
        } else {
            out.push('\n');
        }
        for text in texts {
            out.push_str(&format!("- {}\n", text.replace('\n', "\n  ")));
        }
    }
    // Indented blank lines are just blank.
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    Some(lines.join("\n") + "\n")
}

fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    parts.join("\n\n") + "\n"
}

/// The first sentence, and everything if there is more than it.
fn split_title(text: &str) -> (String, String) {
    let first_line = text.lines().next().unwrap_or_default();
    let end = first_line.find(". ").map_or(first_line.len(), |at| at + 1);
    let title = first_line[..end].trim_end_matches([':', '.']).to_owned();
    let whole = text.trim_end_matches('.') == title;
    (
        title,
        if whole {
            String::new()
        } else {
            text.to_owned()
        },
    )
}

fn title_of(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Security) => "Security",
        Some(Kind::Bugfix) => "Bugs fixed",
        Some(Kind::Feature) => "New features",
        Some(Kind::Breaking) => "Incompatible changes",
        Some(Kind::Deprecation) => "Deprecations",
        Some(Kind::Removal) => "Removals",
        Some(Kind::Performance) => "Performance",
        _ => "Other changes",
    }
}

/// An entry without references, links and credits.
fn bare(text: &str) -> String {
    let mut out = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code || line.trim_start().starts_with("```") {
            out.push(line.to_owned());
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let clean = bare_line(line.trim());
        let empty = clean.chars().all(|c| !c.is_alphanumeric());
        if !empty || line.trim().is_empty() {
            out.push(format!("{indent}{clean}"));
        }
    }
    out.join("\n").trim().to_owned()
}

fn bare_line(line: &str) -> String {
    let line = LABEL.replace(line, "");
    let line = LEADING.replace(&line, "").into_owned();
    let line = without_noise(&line);
    let line = BRACKETED.replace_all(&line, "");
    let line = URL.replace_all(&line, "");
    let line = TRAILING.replace(&line, "");
    let mut line = line.into_owned();
    loop {
        let shorter = CREDIT.replace(&line, "");
        let shorter = TRAILING.replace(&shorter, "").into_owned();
        if shorter.len() == line.len() {
            break;
        }
        line = shorter;
    }
    let line = INNER.replace_all(&line, "");
    let mut line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    line = line.replace(" ,", ",").replace(" .", ".");
    if !line.contains("...") {
        line = line.replace("..", ".");
    }
    let line = line.trim_end_matches([',', ';', '-', '–', ' ']);
    let closed = line.ends_with(['.', ':', '!', '?', ',']);
    if !closed && line.contains(' ') {
        format!("{line}.")
    } else {
        line.to_owned()
    }
}

/// A line of several sentences without those that are noise by themselves.
fn without_noise(line: &str) -> String {
    let sentences: Vec<&str> = SENTENCE.split(line).collect();
    let work = |s: &&&str| noise::of(s, None).is_none();
    let kept: Vec<&str> = sentences.iter().filter(work).copied().collect();
    if kept.is_empty() || kept.len() == sentences.len() {
        return line.to_owned();
    }
    kept.join(". ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_and_credits_are_left_out() {
        let cases = [
            ("Fix overflow of `load`. #299", "Fix overflow of `load`."),
            ("#405: The new thing works.", "The new thing works."),
            ("Fix it (#12, by @someone).", "Fix it."),
            (
                "Keep order. Thanks to Jane Doe for the patch!",
                "Keep order.",
            ),
            (
                "Closing twice no longer fails. Patch by Jane Doe.",
                "Closing twice no longer fails.",
            ),
            (
                "Wrong result for `x` (issue 5) in `f()`",
                "Wrong result for `x` in `f()`.",
            ),
            ("...", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(bare(text), expected, "{text}");
        }
    }
}
