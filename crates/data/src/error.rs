//! Errors of this crate, each naming file, place, field and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Result of this crate.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// A file could not be read or written, or does not hold what it should.
#[derive(Debug, Error)]
pub enum DataError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Nothing is there.
    #[error("{0}: no such file or directory")]
    Missing(PathBuf),
    /// The file as a whole is not what it should be.
    #[error("{path}: {problem}")]
    Format {
        /// File or directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A piece of JSON does not parse.
    #[error("{at}: invalid JSON: {problem}")]
    Json {
        /// Where.
        at: Place,
        /// What is wrong.
        problem: String,
    },
    /// A field of a row is missing or has the wrong type or content.
    #[error("{at}: field `{field}`: {problem}")]
    Field {
        /// Which row.
        at: Place,
        /// Which column.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// Two entries of one file are about the same thing.
    #[error("{second}: duplicate of {first}: {what}; keep one of them")]
    Duplicate {
        /// Where it was seen first.
        first: Place,
        /// Where it was seen again.
        second: Place,
        /// What it is.
        what: String,
    },
    /// The hub, or the way there.
    #[error("hub {name}: {problem}")]
    Hub {
        /// As the user named it.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return Self::Missing(path.to_owned());
        }
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn format(path: &Path, problem: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

/// A row or line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub spot: Spot,
}

/// Where in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// All of it.
    Whole,
    /// A line, from 1.
    Line(usize),
    /// A row, from 1.
    Row(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.spot {
            Spot::Whole => write!(f, "{path}"),
            Spot::Line(line) => write!(f, "{path}:{line}"),
            Spot::Row(row) => write!(f, "{path}: row {row}"),
        }
    }
}

impl Place {
    pub(crate) fn whole(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            spot: Spot::Whole,
        }
    }

    pub(crate) fn line(path: &Path, line: usize) -> Self {
        Self {
            path: path.to_owned(),
            spot: Spot::Line(line),
        }
    }

    pub(crate) fn row(path: &Path, row: usize) -> Self {
        Self {
            path: path.to_owned(),
            spot: Spot::Row(row),
        }
    }

    pub(crate) fn field(&self, field: &str, problem: impl Into<String>) -> DataError {
        DataError::Field {
            at: self.clone(),
            field: field.to_owned(),
            problem: problem.into(),
        }
    }
}
