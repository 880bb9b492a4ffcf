//! Where codebases come from: git repositories and source distributions.

mod error;
mod export;
mod git;
#[cfg(feature = "github")]
pub mod github;
mod history;
mod index;
mod leaks;
mod log;
mod mirror;
mod registry;
mod sdist;
mod unpack;
mod wheel;

pub use error::SourceError;
pub use export::{Exported, Submodule};
pub use history::single_commit;
pub use leaks::leaks;
pub use log::{Change, Diff};
pub use mirror::{Mirrors, Repo};
pub use registry::Registry;
pub use sdist::{Archive, Release, Requirement, hash};
pub use unpack::{LineEnds, UnpackLimits, unpack};
