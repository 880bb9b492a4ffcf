//! Errors of this crate, each naming file, tensor or row, and what to do.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Result of this crate.
pub type Result<T, E = LearnError> = std::result::Result<T, E>;

/// Why a model does not load, answer or learn, by who can act.
#[derive(Debug, Error)]
pub enum LearnError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file of a model is not what it should be.
    #[error("{path}: {problem}")]
    Format {
        /// File or directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The model's architecture is none that this program knows.
    #[error(
        "{path}: architecture {found:?} is not supported; it reads Llama, Qwen2 and Qwen3 (dense) models"
    )]
    Architecture {
        /// Where it is written.
        path: PathBuf,
        /// What is written.
        found: String,
    },
    /// A tensor is missing, or has another shape or type.
    #[error("{path}: tensor `{tensor}`: {problem}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The chat template fails on these messages.
    #[error("the chat template of {model}: {problem}")]
    Template {
        /// The model.
        model: String,
        /// What is wrong.
        problem: String,
    },
    /// Text that the tokenizer cannot take.
    #[error("the tokenizer: {0}")]
    Tokenizer(String),
    /// More tokens than the model has positions for.
    #[error("{tokens} tokens are more than the context of {context}")]
    Context {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// Positions that there are.
        context: usize,
    },
    /// A row of training data that cannot be learnt from.
    #[error("{row} {problem}")]
    Row {
        /// Which row, as a phrase that begins the message.
        row: String,
        /// What is wrong.
        problem: String,
    },
    /// Loss or gradient of a step is not a number.
    #[error(
        "step {step}: the loss or its gradient is not a number; rows of the step: {}; a lower learning rate, or a look at these rows, may help",
        .rows.join(", ")
    )]
    Diverged {
        /// Counted from 1.
        step: usize,
        /// Names of the rows that it read.
        rows: Vec<String>,
    },
    /// Too many requests wait.
    #[error("too many requests wait for the model; ask again later")]
    Busy,
    /// What was asked for cannot be done.
    #[error("{0}")]
    Request(String),
}

impl LearnError {
    /// An error of the system about a path.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// A file that is not what it should be.
    pub fn format(path: impl AsRef<Path>, problem: impl ToString) -> Self {
        Self::Format {
            path: path.as_ref().to_owned(),
            problem: problem.to_string(),
        }
    }

    /// A tensor that is not what it should be.
    pub fn tensor(path: impl AsRef<Path>, tensor: &str, problem: impl ToString) -> Self {
        Self::Tensor {
            path: path.as_ref().to_owned(),
            tensor: tensor.to_owned(),
            problem: problem.to_string(),
        }
    }
}
