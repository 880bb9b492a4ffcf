//! Text edits by byte range.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Replaces a byte range of a text; everything outside stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edit {
    /// First byte that goes.
    pub start: usize,
    /// First byte that stays.
    pub end: usize,
    /// What comes in its place.
    pub text: String,
}

impl Edit {
    /// An edit of a range.
    pub fn new(range: Range<usize>, text: impl Into<String>) -> Self {
        Self {
            start: range.start,
            end: range.end,
            text: text.into(),
        }
    }

    /// Whether both touch the same text. Two insertions at one place do too.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
            || self.start == other.start
            || self.end == other.end
    }
}

/// Edits that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// Two edits touch the same text.
    #[error("edits overlap at byte {0}")]
    Overlap(usize),
    /// An edit is not within the text, or splits a character.
    #[error("edit at byte {0} is outside the text")]
    Outside(usize),
}

/// Applies edits, in any order. Identical edits count once.
///
/// # Errors
/// If two different edits overlap, or one is outside the text.
pub fn apply(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    let mut sorted: Vec<&Edit> = edits.iter().collect();
    sorted.sort();
    sorted.dedup();
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (i, edit) in sorted.iter().enumerate() {
        if i > 0 && sorted[i - 1].conflicts(edit) || edit.start < done {
            return Err(EditError::Overlap(edit.start));
        }
        let kept = text.get(done..edit.start);
        if kept.is_none() || text.get(edit.start..edit.end).is_none() {
            return Err(EditError::Outside(edit.start));
        }
        out.push_str(kept.unwrap_or_default());
        out.push_str(&edit.text);
        done = edit.end;
    }
    out.push_str(&text[done..]);
    Ok(out)
}
