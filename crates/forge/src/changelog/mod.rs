//! What a release changed, in the words of its changelog.
//!
//! [`read`] finds the entries of the versions after one release up to
//! another; [`problem_statement`] makes a task's text of them; [`assign`]
//! tells which of several tasks an entry is about. See docs/design/mining.md.

mod block;
mod extract;
mod files;
mod heading;
mod inline;
mod markdown;
mod noise;
mod rank;
mod rst;
mod statement;

use std::collections::HashSet;

use jiff::civil::Date;
use pep440_rs::Version;
use serde::{Deserialize, Serialize};

pub use files::{Role, role};
pub use noise::Noise;
pub use rank::{Focus, Scored, assign, rank};
pub use statement::problem_statement;

/// A text file of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// Path from the root of the release, with `/`.
    pub path: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// One change that a changelog names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// What it says, as plain text: code in back-ticks, links as their text,
    /// inner lists with `- `.
    pub text: String,
    /// The kind of change, where a heading or a prefix states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The heading it stands under, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// Issues and pull requests: `#12`, `bpo-12`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// The version it belongs to; none for fragments and what was not yet
    /// released.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text",
        deserialize_with = "from_text"
    )]
    pub version: Option<Version>,
    /// Day of that version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<Date>,
    /// Why it is no task for a programmer, where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// A paragraph, not an item of a list.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prose: bool,
    /// The file it was read from.
    pub path: String,
}

fn as_text<S: serde::Serializer>(version: &Option<Version>, s: S) -> Result<S::Ok, S::Error> {
    match version {
        Some(version) => s.collect_str(version),
        None => s.serialize_none(),
    }
}

fn from_text<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Version>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A vulnerability closed.
    Security,
    /// Something wrong put right.
    Bugfix,
    /// Something new.
    Feature,
    /// Something that works otherwise.
    Change,
    /// Something that no longer works as before.
    Breaking,
    /// Something that will go.
    Deprecation,
    /// Something that is gone.
    Removal,
    /// Something faster.
    Performance,
    /// Documents.
    Documentation,
    /// What other packages are needed.
    Dependencies,
    /// Tests, packaging, clean-up.
    Internal,
}

/// How the entries were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Under headings that name versions of the range.
    Versions,
    /// In the new release's changelog and not in the old one's.
    Difference,
    /// In news fragments that are new.
    Fragments,
}

/// Why there are no entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Nothing {
    /// No file can be a changelog.
    #[error("the release has no changelog")]
    NoFile,
    /// There are files, but no entries in them.
    #[error("the changelog has no entries that could be read")]
    NoEntries,
    /// There are entries, but none of these versions, and none that are new.
    #[error("the changelog says nothing about this version")]
    NotNamed,
}

/// The entries about a range of versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changelog {
    /// How they were found.
    pub found: Found,
    /// In the order of the documents; never empty.
    pub entries: Vec<Entry>,
}

impl Changelog {
    /// The entries that are work for a programmer.
    pub fn relevant(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| e.noise.is_none())
    }
}

/// Finds what changed after `old` up to and with `new`, from the documents of
/// both releases. Documents that are no changelogs are passed over, so all
/// texts of a release may be given.
///
/// # Errors
/// [`Nothing`] if no entry is found, with the reason.
pub fn read(
    old_documents: &[Document<'_>],
    new_documents: &[Document<'_>],
    old: &Version,
    new: &Version,
) -> Result<Changelog, Nothing> {
    if !new_documents
        .iter()
        .any(|d| matches!(role(d.path), Some(Role::Log | Role::Fragment)))
        && new_documents.iter().all(|d| entries(d).is_empty())
    {
        return Err(Nothing::NoFile);
    }
    let all: Vec<Entry> = new_documents.iter().flat_map(entries).collect();
    if all.is_empty() {
        return Err(Nothing::NoEntries);
    }
    let in_range = |e: &&Entry| e.version.as_ref().is_some_and(|v| old < v && v <= new);
    let named: Vec<Entry> = all.iter().filter(in_range).cloned().collect();
    if !named.is_empty() {
        return Ok(found(Found::Versions, named));
    }
    let before: HashSet<String> = old_documents
        .iter()
        .flat_map(entries)
        .map(|e| fingerprint(&e.text))
        .collect();
    let (fragments, rest): (Vec<Entry>, Vec<Entry>) = all
        .into_iter()
        .filter(|e| !before.contains(&fingerprint(&e.text)))
        .partition(|e| role(&e.path) == Some(Role::Fragment));
    // What is known to be older is only worded anew.
    let rest: Vec<Entry> = rest
        .into_iter()
        .filter(|e| e.version.as_ref().is_none_or(|v| old < v))
        .collect();
    if !rest.is_empty() && !before.is_empty() {
        return Ok(found(Found::Difference, rest));
    }
    if !fragments.is_empty() {
        return Ok(found(Found::Fragments, fragments));
    }
    Err(Nothing::NotNamed)
}

/// All entries of one document, whatever their version; none if its path is
/// not that of a changelog.
pub fn entries(document: &Document<'_>) -> Vec<Entry> {
    extract::entries(document)
}

/// The same change may stand in several documents.
fn found(found: Found, entries: Vec<Entry>) -> Changelog {
    let mut seen = HashSet::new();
    let once = |e: &Entry| seen.insert(fingerprint(&e.text));
    let mut entries = entries;
    entries.retain(once);
    Changelog { found, entries }
}

/// Whether a label is the path of a file: some changelogs are sorted by them.
fn is_path(label: &str) -> bool {
    let word = |w: &str| w.contains('/') || w.ends_with(".py");
    !label.is_empty() && label.split([' ', ',']).filter(|w| !w.is_empty()).all(word)
}

/// A text without what a rewording of markup changes.
fn fingerprint(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}
