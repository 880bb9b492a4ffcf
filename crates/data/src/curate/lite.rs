//! SWE-bench Lite: tasks whose text stands for itself and whose solution is
//! one small place.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;
use swegym_core::Instance;

use crate::patch::{Change, Patch};

/// A rule of Lite that a row breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LiteRule {
    /// The text has at most 40 words.
    ShortText,
    /// The text has a link.
    Hyperlink,
    /// The text refers to an issue or a pull request.
    IssueReference,
    /// The text names a commit.
    CommitHash,
    /// The text shows an image or a film.
    Image,
    /// The solution adds or removes files.
    AddedOrRemovedFile,
    /// The solution touches more than one file.
    ManyFiles,
    /// The solution has more than three hunks.
    ManyHunks,
    /// The tests compare the message of an error or warning.
    TestedMessage,
    /// The tests use Django's ways to compare messages.
    DjangoMessage,
    /// A patch that cannot be read.
    BadPatch,
}

impl LiteRule {
    /// All rules, in order.
    pub const ALL: [Self; 11] = [
        Self::ShortText,
        Self::Hyperlink,
        Self::IssueReference,
        Self::CommitHash,
        Self::Image,
        Self::AddedOrRemovedFile,
        Self::ManyFiles,
        Self::ManyHunks,
        Self::TestedMessage,
        Self::DjangoMessage,
        Self::BadPatch,
    ];

    /// Stable name, as in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShortText => "short_text",
            Self::Hyperlink => "hyperlink",
            Self::IssueReference => "issue_reference",
            Self::CommitHash => "commit_hash",
            Self::Image => "image",
            Self::AddedOrRemovedFile => "added_or_removed_file",
            Self::ManyFiles => "many_files",
            Self::ManyHunks => "many_hunks",
            Self::TestedMessage => "tested_message",
            Self::DjangoMessage => "django_message",
            Self::BadPatch => "bad_patch",
        }
    }
}

impl fmt::Display for LiteRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text of so many words, or fewer, says too little.
const WORDS: usize = 40;

/// Most hunks of the solution.
const HUNKS: usize = 3;

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a valid expression")
}

static LINK: LazyLock<Regex> = LazyLock::new(|| pattern(r#"https?://[^\s)>\]"'`]+"#));
static REFERENCE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:^|[^\w/&])#\d+\b"));
static HASH: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b[0-9a-f]{40}\b"));
static IMAGE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)!\[[^\]]*\]\(|<img\b|\.(?:png|jpe?g|gif|bmp|svg|webp|mp4|mov|avi|webm)\b")
});

/// The rules of Lite that a row breaks; none means that it belongs to Lite.
pub fn lite(instance: &Instance) -> Vec<LiteRule> {
    let mut broken = Vec::new();
    text_rules(instance, &mut broken);
    match Patch::parse(instance.patch.as_bytes()) {
        Ok(patch) => patch_rules(&patch, &mut broken),
        Err(_) => broken.push(LiteRule::BadPatch),
    }
    test_rules(&instance.test_patch, &mut broken);
    broken.sort();
    broken
}

fn text_rules(instance: &Instance, broken: &mut Vec<LiteRule>) {
    let text = &instance.problem_statement;
    let mut add = |rule, holds: bool| {
        if holds {
            broken.push(rule);
        }
    };
    add(
        LiteRule::ShortText,
        text.split_whitespace().count() <= WORDS,
    );
    add(LiteRule::Hyperlink, LINK.is_match(text));
    add(LiteRule::IssueReference, REFERENCE.is_match(text));
    let unlinked = LINK.replace_all(text, "");
    add(LiteRule::CommitHash, HASH.is_match(&unlinked));
    add(LiteRule::Image, IMAGE.is_match(text));
}

fn patch_rules(patch: &Patch, broken: &mut Vec<LiteRule>) {
    let moved = |c: Change| c != Change::Modify;
    if patch.files.iter().any(|f| moved(f.change)) {
        broken.push(LiteRule::AddedOrRemovedFile);
    }
    if patch.files.len() > 1 {
        broken.push(LiteRule::ManyFiles);
    }
    if patch.files.iter().map(|f| f.hunks().len()).sum::<usize>() > HUNKS {
        broken.push(LiteRule::ManyHunks);
    }
}

fn test_rules(test_patch: &str, broken: &mut Vec<LiteRule>) {
    let names = |all: &[&str]| all.iter().any(|name| test_patch.contains(name));
    let checks = ["pytest.raises", "pytest.warns", "pytest.deprecated_call"];
    if names(&checks) && test_patch.contains("match") {
        broken.push(LiteRule::TestedMessage);
    }
    if names(&["assertOutput", "assertRaises", "checks.Error"]) {
        broken.push(LiteRule::DjangoMessage);
    }
}
