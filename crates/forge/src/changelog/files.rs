//! Which files of a release may say what changed.

use super::Kind;

/// The part a file plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A changelog of one or more versions.
    Log,
    /// A readme, or the description in the metadata: only its section called
    /// "Changelog" counts.
    Readme,
    /// A news fragment: one change.
    Fragment,
}

/// How a text is marked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Markup {
    Markdown,
    Rst,
}

/// Names of changelogs, without separators.
const LOGS: [&str; 20] = [
    "changes",
    "change",
    "changelog",
    "changelogs",
    "changelist",
    "history",
    "news",
    "release",
    "releases",
    "releasenote",
    "releasenotes",
    "releasehistory",
    "versionhistory",
    "whatsnew",
    "whatisnew",
    "changehistory",
    "changesummary",
    "recentchanges",
    "relnotes",
    "revisionhistory",
];

/// Directories of news fragments.
const FRAGMENT_DIRS: [&str; 8] = [
    "news",
    "newsfragments",
    "changelog.d",
    "changes",
    "changelog",
    "changelogs",
    ".changelog",
    "fragments",
];

/// Types of fragments, as towncrier and its users name them.
const FRAGMENT_TYPES: [(&str, Kind); 27] = [
    ("feature", Kind::Feature),
    ("features", Kind::Feature),
    ("enhancement", Kind::Feature),
    ("added", Kind::Feature),
    ("bugfix", Kind::Bugfix),
    ("bug", Kind::Bugfix),
    ("fix", Kind::Bugfix),
    ("fixed", Kind::Bugfix),
    ("security", Kind::Security),
    ("doc", Kind::Documentation),
    ("docs", Kind::Documentation),
    ("removal", Kind::Removal),
    ("removed", Kind::Removal),
    ("deprecation", Kind::Deprecation),
    ("deprecated", Kind::Deprecation),
    ("breaking", Kind::Breaking),
    ("change", Kind::Change),
    ("changed", Kind::Change),
    ("improvement", Kind::Change),
    ("process", Kind::Internal),
    ("misc", Kind::Internal),
    ("trivial", Kind::Internal),
    ("internal", Kind::Internal),
    ("contrib", Kind::Internal),
    ("packaging", Kind::Internal),
    ("vendor", Kind::Dependencies),
    ("performance", Kind::Performance),
];

/// What a path is, by its name; none for a file that is no changelog.
pub fn role(path: &str) -> Option<Role> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    if fragment_kind(path).is_some() {
        return Some(Role::Fragment);
    }
    let lower = name.to_lowercase();
    let (stem, extension) = split_name(&lower);
    if !matches!(
        extension,
        "" | "rst" | "md" | "txt" | "markdown" | "rest" | "mdown"
    ) {
        return None;
    }
    if dir.is_empty() && (stem == "readme" || lower == "pkg-info") {
        return Some(Role::Readme);
    }
    let first = dir.split('/').next().unwrap_or(dir);
    let in_docs = matches!(first, "doc" | "docs" | "documentation");
    let plain = squash(stem);
    let own = is_log_name(&plain) || (in_docs && plain == "versions");
    if own {
        // Deeper down, such a name is that of a module or of test data.
        let shallow = in_docs || !dir.contains('/');
        let marked = !extension.is_empty() || dir.is_empty() || in_docs;
        let test = dir.split('/').any(|d| matches!(d, "test" | "tests"));
        return (shallow && marked && !test).then_some(Role::Log);
    }
    // `docs/whatsnew/1.2.rst`, `docs/releases/4.2.1.txt`.
    let parent = squash(dir.rsplit('/').next().unwrap_or(dir));
    let below = LOGS.contains(&parent.as_str()) && (in_docs || !dir.contains('/'));
    (below && !extension.is_empty()).then_some(Role::Log)
}

/// Whether a name without separators is that of a changelog; a longer name may
/// have the package's in front.
pub(super) fn is_log_name(plain: &str) -> bool {
    LOGS.iter()
        .any(|log| plain == *log || (log.len() > 6 && plain.ends_with(log)))
}

/// Stem and extension; `release-1.2` has none.
fn split_name(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, extension)) if extension.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (stem, extension)
        }
        _ => (name, ""),
    }
}

/// A name without separators, in lower case.
pub(super) fn squash(name: &str) -> String {
    let kept = name.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

/// The type of a news fragment; none if the path is no fragment.
pub(super) fn fragment_kind(path: &str) -> Option<Kind> {
    let (dir, name) = path.rsplit_once('/')?;
    let dir = dir.to_lowercase();
    let mut dirs = dir.split('/');
    if !dirs.clone().any(|d| FRAGMENT_DIRS.contains(&d)) {
        return None;
    }
    let lower = name.to_lowercase();
    let kind = |word: &str| {
        let found = FRAGMENT_TYPES.iter().find(|(name, _)| *name == word);
        found.map(|(_, kind)| *kind)
    };
    // `123.bugfix.rst`, `+slug.feature.1.md`, `123.bugfix`.
    if let Some(found) = lower.split('.').skip(1).find_map(kind) {
        return Some(found);
    }
    // A directory per type: `news/bugfix/123.rst`.
    let numbered = split_name(&lower).0.bytes().all(|b| b.is_ascii_digit());
    let parent = dirs.next_back()?;
    kind(parent).filter(|_| numbered && dirs.next().is_some())
}

/// The issue that a fragment is named after.
pub(super) fn fragment_number(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let number = name.split('.').next().unwrap_or_default();
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| format!("#{number}"))
}

/// The version that a file of its own is about: `whatsnew/v1.2.rst`.
pub(super) fn version_in_name(path: &str) -> Option<pep440_rs::Version> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let (stem, _) = split_name(name);
    let at = stem.find(|c: char| c.is_ascii_digit())?;
    let digits = stem[at..].trim_end_matches("-notes").replace('_', ".");
    let dotted = digits.contains('.');
    digits.parse().ok().filter(|_| dotted)
}

/// The markup of a text: by the name, else by how it looks.
pub(super) fn markup(path: &str, text: &str) -> Markup {
    let lower = path.to_lowercase();
    let ends = |extensions: &[&str]| extensions.iter().any(|e| lower.ends_with(e));
    if ends(&[".md", ".markdown", ".mdown"]) {
        return Markup::Markdown;
    }
    if ends(&[".rst", ".rest"]) {
        return Markup::Rst;
    }
    let hash = |l: &&str| l.starts_with("# ") || l.starts_with("## ") || l.starts_with("### ");
    if text.lines().take(400).filter(hash).count() >= 2 {
        Markup::Markdown
    } else {
        Markup::Rst
    }
}
