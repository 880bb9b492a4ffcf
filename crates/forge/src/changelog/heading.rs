//! Headings: which version, which date, which kind of change.

use std::str::FromStr;

use jiff::civil::Date;
use pep440_rs::Version;

use super::Kind;
use crate::pattern::patterns;

/// What a heading says about the text below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The version; none for what is not released yet.
    pub version: Option<Version>,
    /// Its day.
    pub date: Option<Date>,
}

patterns! {
    ISO = r"\b(\d{4})[-/](\d{1,2})[-/](\d{1,2})\b";
    DOTTED = r"\b(\d{1,2})\.(\d{1,2})\.(\d{4})\b";
    DAY_FIRST = r"(?i)\b(\d{1,2})(?:st|nd|rd|th)?(?:\s+|-)(?:of\s+)?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?,?(?:\s+|-)(\d{4})\b";
    MONTH_FIRST = r"(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})\b";
    MONTH_ONLY = r"(?i)\b(?:january|february|march|april|may|june|july|august|september|october|november|december)\s+\d{4}\b";
    WEEKDAY = r"(?i)\b(?:mon|tue|tues|wed|thu|thur|thurs|fri|sat|sun)(?:day|nesday|rsday|urday|sday)?\b,?";
    UNRELEASED = r"(?i)^\W*(?:\w+\s+)?(?:version\s+)?(?:unreleased|upcoming|next|next (?:release|version)|in development|in progress|development|dev|master|main|head|trunk|tbd|latest)(?:\s+(?:changes|release|version))?\W*$";
    ITEM = r"^v?(\d+(?:\.\d+)+\S*?)(?:\s+\(([^)]*)\))?(?:\s*:\s+|\s+[-–—]\s+)(\S.*)$";
    LABEL_NOISE = r"^[\W_]+|[\W_]+$";
}

/// Words that may stand before a version in a heading.
const BEFORE: &[&str] = &[
    "version",
    "versions",
    "release",
    "releases",
    "released",
    "changes",
    "change",
    "changelog",
    "what's",
    "what’s",
    "whats",
    "new",
    "in",
    "for",
    "from",
    "to",
    "between",
    "and",
    "notes",
    "the",
    "of",
    "v",
    "ver",
    "rel",
    "patch",
    "bugfix",
    "hotfix",
    "major",
    "minor",
    "on",
    "tag",
    "highlights",
    "series",
    "->",
];

/// Names before a version that speak of something else.
const OTHERS: &[&str] = &[
    "python",
    "cpython",
    "pypy",
    "py",
    "since",
    "drop",
    "add",
    "support",
    "supports",
    "requires",
    "require",
    "upgrade",
    "update",
    "upgrading",
    "migrating",
    "before",
    "until",
    "after",
    "than",
    "section",
    "rfc",
    "pep",
    "unicode",
];

/// Words that may follow a version where nothing marks the line as a heading.
const AFTER: &[&str] = &[
    "released",
    "release",
    "unreleased",
    "final",
    "stable",
    "yanked",
    "in",
    "development",
    "beta",
    "alpha",
    "notes",
    "tbd",
    "on",
    "changes",
    "date",
    "dev",
    "under",
    "not",
    "yet",
    "changelog",
];

/// A heading by markup that names a version, or says it has none yet.
pub(super) fn loose(text: &str) -> Option<Named> {
    named(text, false)
}

/// A plain line that can only be a heading of a version.
pub(super) fn strict(text: &str) -> Option<Named> {
    if text.len() > 90 || !text.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    named(text, true)
}

/// An item such as `1.2.0: first change`: the version and the rest.
pub(super) fn item(text: &str) -> Option<(Named, String)> {
    let found = ITEM.captures(text)?;
    let version = version(&found[1])?;
    let date = found.get(2).and_then(|m| take_date(m.as_str()).0);
    let named = Named {
        version: Some(version),
        date,
    };
    Some((named, found[3].to_owned()))
}

fn named(text: &str, strict: bool) -> Option<Named> {
    let text = text.replace("**", " ").replace(['`', '[', ']', '_'], " ");
    if !strict && UNRELEASED.is_match(&text) {
        let (version, date) = (None, None);
        return Some(Named { version, date });
    }
    let (date, rest) = take_date(&text);
    let rest = WEEKDAY.replace_all(&rest, " ");
    let words: Vec<&str> = rest
        .split(|c: char| c.is_whitespace() || "(),:;|/".contains(c))
        .map(|w| w.trim_matches(|c: char| "-–—#*=~\"'".contains(c)))
        .filter(|w| !w.is_empty())
        .collect();
    let at = position(&words)?;
    let before: Vec<String> = words[..at].iter().map(|w| w.to_lowercase()).collect();
    if !may_precede(&before) {
        return None;
    }
    let keyword = before
        .iter()
        .any(|w| matches!(w.as_str(), "version" | "release" | "changes" | "new"));
    let after = words[at + 1..].iter().map(|w| w.trim_end_matches('.'));
    let known = after
        .clone()
        .all(|w| AFTER.contains(&w.to_lowercase().as_str()) || parse(w).is_some());
    let bracketed = rest
        .trim_end_matches(|c: char| c.is_whitespace() || c == '.')
        .ends_with(')');
    if strict && !(known || keyword && bracketed && after.count() <= 6) {
        return None;
    }
    // `Changes between 1.2 and 1.3` is about the latter.
    let range = before
        .iter()
        .any(|w| matches!(w.as_str(), "between" | "from"));
    let mut found = words[at..].iter().filter_map(|w| parse(w));
    let version = if range {
        found.next_back()
    } else {
        found.next()
    };
    Some(Named { version, date })
}

/// Index of the first word that is a version in its place.
fn position(words: &[&str]) -> Option<usize> {
    words.iter().enumerate().position(|(at, word)| {
        let Some(_) = parse(word) else { return false };
        let dotted = word.contains('.') || word.starts_with(['v', 'V']);
        let announced = at > 0
            && matches!(
                words[at - 1].to_lowercase().as_str(),
                "version" | "release" | "v"
            );
        dotted || announced
    })
}

fn parse(word: &str) -> Option<Version> {
    version(word.trim_end_matches(['.', '!', '*']))
}

/// A version, with or without `v` in front. Days are none.
fn version(text: &str) -> Option<Version> {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let text = text.strip_suffix(".x").unwrap_or(text);
    if text.len() > 40 || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Version::from_str(text).ok()
}

fn may_precede(before: &[String]) -> bool {
    let mut strangers = 0;
    for word in before {
        let word = word.trim_end_matches('.');
        if OTHERS.contains(&word) {
            return false;
        }
        if !BEFORE.contains(&word) {
            strangers += 1;
        }
    }
    // One or two words may be the name of the package.
    strangers <= 2 && before.len() <= 7
}

/// The first day in a text, and the text without it.
pub(super) fn take_date(text: &str) -> (Option<Date>, String) {
    let number = |t: &str| t.parse::<i16>().ok();
    let small = |t: &str| t.parse::<i8>().ok();
    let cut =
        |range: std::ops::Range<usize>| format!("{} {}", &text[..range.start], &text[range.end..]);
    let made = |y: Option<i16>, m: Option<i8>, d: Option<i8>| Date::new(y?, m?, d?).ok();
    if let Some(c) = ISO.captures(text) {
        let date = made(number(&c[1]), small(&c[2]), small(&c[3]));
        return (date, cut(c.get(0).expect("all of it").range()));
    }
    if let Some(c) = MONTH_FIRST.captures(text) {
        let date = made(number(&c[3]), month(&c[1]), small(&c[2]));
        return (date, cut(c.get(0).expect("all of it").range()));
    }
    if let Some(c) = DAY_FIRST.captures(text) {
        let date = made(number(&c[3]), month(&c[2]), small(&c[1]));
        return (date, cut(c.get(0).expect("all of it").range()));
    }
    if let Some(c) = DOTTED.captures(text)
        && let Some(date) = made(number(&c[3]), small(&c[2]), small(&c[1]))
    {
        return (Some(date), cut(c.get(0).expect("all of it").range()));
    }
    if let Some(found) = MONTH_ONLY.find(text) {
        return (None, cut(found.range()));
    }
    (None, text.to_owned())
}

fn month(name: &str) -> Option<i8> {
    const MONTHS: &str = "janfebmaraprmayjunjulaugsepoctnovdec";
    let at = MONTHS.find(name.get(..3)?.to_lowercase().as_str())?;
    i8::try_from(at / 3 + 1).ok()
}

/// Words of section headings and the kinds they stand for; the first that
/// occurs decides.
const KINDS: &[(Kind, &[&str])] = &[
    (
        Kind::Security,
        &["security", "vulnerabilities", "vulnerability", "cve"],
    ),
    (Kind::Dependencies, &["dependencies", "dependency", "deps"]),
    (
        Kind::Documentation,
        &["documentation", "docs", "doc", "documented"],
    ),
    (
        Kind::Internal,
        &[
            "internal",
            "internals",
            "misc",
            "miscellaneous",
            "trivial",
            "tests",
            "testing",
            "ci",
            "infrastructure",
            "maintenance",
            "housekeeping",
            "packaging",
            "chores",
            "chore",
            "build",
            "development",
            "contributor-facing",
            "downstream",
            "refactoring",
            "refactor",
            "tooling",
            "contributors",
            "credits",
            "thanks",
        ],
    ),
    (
        Kind::Deprecation,
        &["deprecations", "deprecated", "deprecation"],
    ),
    (
        Kind::Removal,
        &[
            "removals", "removed", "removal", "remove", "drop", "dropped",
        ],
    ),
    (
        Kind::Breaking,
        &[
            "breaking",
            "incompatible",
            "incompatibilities",
            "backwards-incompatible",
            "backward-incompatible",
            "compatibility",
            "compat",
        ],
    ),
    (
        Kind::Bugfix,
        &[
            "bugfix",
            "bugfixes",
            "bugs",
            "bug",
            "fix",
            "fixes",
            "fixed",
            "fixing",
            "corrections",
        ],
    ),
    (
        Kind::Performance,
        &["performance", "speedups", "perf", "optimizations"],
    ),
    (
        Kind::Feature,
        &[
            "feature",
            "features",
            "added",
            "add",
            "adds",
            "addition",
            "additions",
            "new",
            "feat",
            "usecase",
            "enhancement",
            "enhancements",
            "enhanced",
        ],
    ),
    (
        Kind::Change,
        &[
            "changed",
            "change",
            "changes",
            "improvement",
            "improvements",
            "improved",
            "updates",
            "updated",
            "other",
            "data",
        ],
    ),
];

/// The kind that a section heading stands for, if its words say one.
pub(super) fn kind(label: &str) -> Option<Kind> {
    let lower = label.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !(c.is_alphanumeric() || c == '-'))
        .filter(|w| !w.is_empty())
        .collect();
    if words.is_empty() || words.len() > 8 {
        return None;
    }
    if words
        .windows(2)
        .any(|w| w == ["bug", "fixes"] || w == ["bug", "fix"])
    {
        return Some(Kind::Bugfix);
    }
    let found = KINDS
        .iter()
        .find(|(_, names)| words.iter().any(|w| names.contains(w)));
    found.map(|(kind, _)| *kind)
}

/// A line that heads a list rather than being a change: `Bug fixes:`.
pub(super) fn label(text: &str) -> Option<String> {
    let bare = text.replace("**", "");
    let bold = text.starts_with("**") && text.trim_end_matches(':').ends_with("**");
    let colon = bare.trim_end().ends_with(':');
    let words = bare.split_whitespace().count();
    if words == 0 || words > 6 || bare.contains('`') || bare.contains('#') {
        return None;
    }
    let short = words <= 3 && !bare.trim_end().ends_with(['.', '!']);
    let plain = LABEL_NOISE.replace_all(&bare, "").into_owned();
    let known = kind(&plain).is_some();
    (bold || (colon && words <= 5) || (short && known)).then_some(plain)
}

/// First words of longer labels.
const LABEL_STARTS: [&str; 10] = [
    "changes",
    "bugfixes",
    "fixes",
    "improvements",
    "enhancements",
    "new",
    "other",
    "incompatible",
    "backwards",
    "breaking",
];

/// As [`label`], for an item with items below it.
pub(super) fn item_label(text: &str) -> Option<String> {
    let plain = LABEL_NOISE.replace_all(text, "").into_owned();
    let words = plain.split_whitespace().count();
    let first = plain.split_whitespace().next()?.to_lowercase();
    let few = words <= 3 || (words <= 6 && LABEL_STARTS.contains(&first.as_str()));
    let code = text.contains('`') || text.contains('#') || text.ends_with('.');
    (few && !code && kind(&plain).is_some()).then_some(plain)
}
