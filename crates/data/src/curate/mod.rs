//! Choosing from a dataset: Lite, a split without leaks, no duplicates, and
//! how hard a task is.
//!
//! Everything reads instances one by one and remembers hashes only. See
//! docs/design/mining.md for the numbers.

mod dedup;
mod difficulty;
mod leaks;
mod lite;
mod near;
mod short;
mod split;

pub use dedup::{Dedup, DedupRules, Duplicate, SameBecause};
pub use difficulty::{Difficulty, Measures, measure};
pub use leaks::{Leak, LeakKind, Leaks};
pub use lite::{LiteRule, lite};
pub use near::{DEFAULT_THRESHOLD, Sketch};
pub use short::{ShortRule, short};
pub use split::{RepoSplit, RepoSplitter, SplitSide, project};
