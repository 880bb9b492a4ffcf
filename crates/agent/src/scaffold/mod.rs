//! Scaffolds: what an agent is told, what it may do, and what it hears back.
//!
//! A scaffold has one `step`. It never sees the model: the episode's loop
//! ([`crate::episode`]) asks the model, keeps the history, counts and ends.

mod bash;
mod codeact;
mod editor;
mod localise;
mod prompts;
mod repair;
mod search;
mod workflow;

use serde::{Deserialize, Serialize};
use swegym_core::{ChatMessage, ChatToolCall, SandboxError, Tool};
use thiserror::Error;

use crate::workspace::Workspace;

pub use bash::{Bash, SENTINEL};
pub use codeact::CodeAct;
pub use prompts::{PromptError, Prompts};
pub use repair::{DIVIDER, FENCE as EDIT_FENCE, Repair};
pub use search::{Definition, Outline};
pub use workflow::{Workflow, last_block};

/// What an agent is told of a task. The hidden tests are not among it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Task {
    /// Name of the instance.
    pub instance_id: String,
    /// `owner/name`.
    pub repo: String,
    /// Release line.
    pub version: String,
    /// Where the codebase is.
    pub workdir: String,
    /// Text of the issue.
    pub problem_statement: String,
    /// Command that runs the visible tests.
    pub test_command: Option<String>,
}

/// How tools are spoken of with the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// The API's function calling.
    #[default]
    Tools,
    /// Text that holds the calls (SWE-GYM section 2), for models and servers
    /// without function calling.
    Text,
}

/// What one tool call did.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    /// The call.
    pub call: ChatToolCall,
    /// What the model hears of it.
    pub observation: String,
    /// Whether the call was in error, not what it ran.
    pub error: bool,
    /// What the result is equal to, for the stuck detector; the observation
    /// without it. Of a command, SWE-Gym compares command and status only.
    pub same_as: Option<String>,
}

/// What came of an answer of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Its tool calls, in order.
    pub acts: Vec<Act>,
    /// What the user says next.
    pub say: Option<String>,
    /// How it goes on.
    pub next: Next,
}

/// How an episode goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The model is asked again.
    Continue,
    /// The agent is done.
    Submitted,
    /// The model answered out of form too often.
    GaveUp(String),
}

impl Turn {
    /// Calls with their results.
    pub fn acted(acts: Vec<Act>) -> Self {
        Self {
            acts,
            say: None,
            next: Next::Continue,
        }
    }

    /// A word of the user, and nothing else.
    pub fn said(text: impl Into<String>) -> Self {
        Self {
            acts: Vec::new(),
            say: Some(text.into()),
            next: Next::Continue,
        }
    }
}

/// Why a step could not be taken; never the model's fault.
#[derive(Debug, Error)]
pub enum StepError {
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A template of the user asks for what there is not.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// An agent without its model.
pub trait Scaffold: Send {
    /// `codeact`, `workflow`, `repair` or `bash`.
    fn name(&self) -> &'static str;

    /// The conversation's beginning: system prompt and task.
    ///
    /// # Errors
    /// [`StepError`].
    fn begin(
        &mut self,
        task: &Task,
        workspace: &mut Workspace<'_>,
    ) -> Result<Vec<ChatMessage>, StepError>;

    /// All tools that it ever offers.
    fn tools(&self) -> &[Tool];

    /// Fence of a block of code that stands for a call of the only tool, in
    /// the text dialect; without it, the general text form.
    fn fence(&self) -> Option<&'static str> {
        None
    }

    /// Does what an answer asks for.
    ///
    /// # Errors
    /// [`StepError`].
    fn step(
        &mut self,
        answer: &ChatMessage,
        workspace: &mut Workspace<'_>,
    ) -> Result<Turn, StepError>;
}

/// Arguments of a call, or what is wrong with them.
fn arguments(call: &ChatToolCall) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let text = call.function.arguments.trim();
    if text.is_empty() {
        return Ok(serde_json::Map::new());
    }
    serde_json::from_str(text).map_err(|e| {
        format!(
            "the arguments of `{}` are not a JSON object: {e}",
            call.function.name
        )
    })
}

/// A result that says what was wrong with a call.
fn wrong(call: &ChatToolCall, problem: impl std::fmt::Display) -> Act {
    Act {
        call: call.clone(),
        observation: format!("ERROR: {problem}"),
        error: true,
        same_as: None,
    }
}
