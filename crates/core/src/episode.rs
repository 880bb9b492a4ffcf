//! How an episode ended.

use serde::{Deserialize, Serialize};

/// The end of an episode. Running out of turns is not failing, and a broken
/// machine is neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// The agent handed in its work.
    Submitted,
    /// A limit was reached; what the agent did until then counts.
    Truncated {
        /// Which.
        limit: Limit,
    },
    /// The agent repeated itself (SWE-GYM section 2), or could not find into
    /// the form that the scaffold asks for.
    Stuck {
        /// How.
        rule: String,
    },
    /// The model or its provider refuses the task.
    Refused {
        /// In its words.
        why: String,
    },
    /// Something broke. Never a reward, never training data.
    Failed {
        /// Who can act.
        by: Fault,
        /// What.
        why: String,
    },
}

/// A limit of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Calls of the model.
    Turns,
    /// Tokens of prompts and completions together.
    Tokens,
    /// US dollars, of the episode or of the run.
    Cost,
    /// Wall time.
    Time,
    /// The model's context.
    Context,
}

/// Who can act on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Sandbox, disk, memory.
    Infrastructure,
    /// Whoever serves the model.
    ModelProvider,
    /// This program, or a template or script given to it.
    Swegym,
}

impl End {
    /// Whether the episode says something about the agent.
    pub fn counts(&self) -> bool {
        !matches!(self, Self::Failed { .. })
    }

    /// The end in a word or two, as tables show it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Truncated { limit } => match limit {
                Limit::Turns => "turns",
                Limit::Tokens => "tokens",
                Limit::Cost => "cost",
                Limit::Time => "time",
                Limit::Context => "context",
            },
            Self::Stuck { .. } => "stuck",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
        }
    }
}
