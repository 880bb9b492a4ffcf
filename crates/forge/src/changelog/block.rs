//! What a document consists of, whatever its markup.

/// A piece of a document, in reading order. Depths count lists: an item of an
/// outermost list has depth 0, and so has text outside of lists; text and code
/// inside of such an item have depth 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    /// A heading; smaller levels hold larger ones.
    Heading { level: usize, text: String },
    /// First paragraph of a list item.
    Item { depth: usize, text: String },
    /// A paragraph.
    Text { depth: usize, text: String },
    /// A literal block, without fences.
    Code { depth: usize, text: String },
}
