//! What can go wrong with a codebase.

use std::path::PathBuf;

use thiserror::Error;

use crate::PathError;

/// A codebase could not be had.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A system call failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// There is no `git`.
    #[error("git: not found in PATH; install it")]
    NoGit,
    /// A git command failed.
    #[error("git {command}: {message}")]
    Git {
        /// Its arguments.
        command: String,
        /// What it said.
        message: String,
    },
    /// A folder that should be a repository.
    #[error("{0}: not a git repository")]
    NotRepository(String),
    /// A repository without commits.
    #[error("{0}: the repository has no commits")]
    NoHistory(String),
    /// Not the name of a commit.
    #[error("commit {0:?}: not 7 to 40 hex digits")]
    BadCommit(String),
    /// The repository is there, the commit is not.
    #[error("{repo}: commit {commit} is not in {}", looked_in.join(", "))]
    NoCommit {
        /// Name or address of the repository.
        repo: String,
        /// Which commit.
        commit: String,
        /// Repositories that were searched.
        looked_in: Vec<String>,
    },
    /// No repository was found.
    #[error(
        "{repo}: no mirror in {}{}; add a mirror folder, or a URL template and a network",
        if folders.is_empty() { "any folder (none is configured)".to_owned() } else { folders.join(", ") },
        if failures.is_empty() { String::new() } else { format!("; {}", failures.join("; ")) }
    )]
    NoMirror {
        /// `owner/name`.
        repo: String,
        /// Folders that were searched.
        folders: Vec<String>,
        /// Addresses that were tried, and why they failed.
        failures: Vec<String>,
    },
    /// A path that would leave the tree.
    #[error("{origin}: path {path:?} leaves the tree")]
    Escapes {
        /// The archive or commit.
        origin: String,
        /// The path, or the target of a link.
        path: String,
    },
    /// Not `name==version`.
    #[error("requirement {0:?}: a source distribution needs the form name==version")]
    BadRequirement(String),
    /// Nobody says where the package registry is.
    #[error(
        "no package registry is configured, and there is no pip to ask ({0}); set UV_DEFAULT_INDEX or PIP_INDEX_URL to the address of a simple index"
    )]
    NoRegistry(String),
    /// The registry did not answer.
    #[error(
        "{url}: registry unreachable: {reason}; check the network, the proxy and the index URL"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// The registry answered with an error.
    #[error("{url}: registry says {status}")]
    Refused {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// An answer that makes no sense.
    #[error("{url}: {reason}")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The project has no such archive.
    #[error("{requirement}: no source distribution on {index}{}", if versions.is_empty() { String::new() } else { format!("; there are {versions}") })]
    NoSdist {
        /// What was asked for.
        requirement: String,
        /// The index.
        index: String,
        /// Some versions that have one.
        versions: String,
    },
    /// The project has no such wheel.
    #[error("{requirement}: no wheel for any platform on {index}")]
    NoWheel {
        /// What was asked for.
        requirement: String,
        /// The index.
        index: String,
    },
    /// The archive is not the one that was meant.
    #[error("{file}: sha256 is {found}, expected {expected}")]
    WrongHash {
        /// Name of the archive.
        file: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// An archive that cannot be read.
    #[error("{}: broken archive: {reason}", path.display())]
    BrokenArchive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An archive too large to unpack.
    #[error("{}: archive holds more than {limit}", path.display())]
    TooLarge {
        /// The archive.
        path: PathBuf,
        /// The limit, with its unit.
        limit: String,
    },
}
