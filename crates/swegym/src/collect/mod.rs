//! Collects candidates: tasks that have not been run yet.

pub mod git;
pub mod pypi;

use serde::{Deserialize, Serialize};
use swegym_core::Instance;

/// What became of a thing that could have been a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Raw {
    /// The candidate, or what it would have been called.
    pub instance_id: String,
    /// The candidate; of one that fell out, as much of it as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// Short stable name of the reason why it fell out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reason in a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Raw {
    fn dropped(instance_id: String, reason: &str, detail: impl Into<String>) -> Self {
        Self {
            instance_id,
            instance: None,
            reason: Some(reason.to_owned()),
            detail: detail.into(),
        }
    }
}
