//! What an agent did: the Agent Trajectory Interchange Format (ATIF) 1.8,
//! which is our record of an episode.
//!
//! Every object forbids fields that the format does not name; what else there
//! is to say has its place in `extra`. [`Trajectory::check`] holds the rules
//! that a shape alone cannot.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version that we write.
pub const ATIF_VERSION: &str = "ATIF-v1.8";

/// One episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trajectory {
    /// `ATIF-v1.0` to `ATIF-v1.8`.
    pub schema_version: String,
    /// The run that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Unique name of this document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trajectory_id: Option<String>,
    /// Who acted.
    pub agent: AgentInfo,
    /// What happened, at least one.
    pub steps: Vec<AtifStep>,
    /// Words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Sums over the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_metrics: Option<FinalMetrics>,
    /// File with the continuation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continued_trajectory_ref: Option<String>,
    /// What the format does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
    /// Trajectories of agents that this one called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subagent_trajectories: Option<Vec<Trajectory>>,
}

/// Who acted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentInfo {
    /// Name of the agent.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The model, where one served all steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Tools in OpenAI's shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_definitions: Option<Vec<Value>>,
    /// What the format does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
}

/// Who a step is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepSource {
    /// System prompt, or the environment by itself.
    System,
    /// The task, and what speaks for the user.
    User,
    /// The model.
    Agent,
}

/// A message, and for the agent what it did and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtifStep {
    /// 1, 2, 3, …
    pub step_id: u64,
    /// ISO 8601.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Who.
    pub source: StepSource,
    /// The model of this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// A word or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<Value>,
    /// What was said; a string, or parts.
    pub message: AtifContent,
    /// Reasoning beside the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Tools that were called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<AtifToolCall>>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
    /// Tokens, cost, log-probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<StepMetrics>,
    /// Copied from an earlier trajectory; never trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_copied_context: Option<bool>,
    /// Inferences of the step; 0 where no model was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm_call_count: Option<u64>,
    /// What the format does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
}

/// Text, or parts of text and media.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AtifContent {
    /// Text alone.
    Text(String),
    /// Parts.
    Parts(Vec<ContentPart>),
}

impl AtifContent {
    /// The text; of parts, those that are text, one after the other.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().filter_map(|p| p.text.as_deref()).collect(),
        }
    }
}

impl From<String> for AtifContent {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentPart {
    /// `text`, `image` or `audio`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a text part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of a media part: `media_type`, `path`, for audio `duration_sec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Map<String, Value>>,
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtifToolCall {
    /// Name of the call, for its result.
    pub tool_call_id: String,
    /// Name of the tool.
    pub function_name: String,
    /// Arguments; an object.
    pub arguments: Map<String, Value>,
    /// What the format does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
}

/// What came of a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// Results, of tool calls or of whatever else acts.
    pub results: Vec<ObservationResult>,
}

/// One result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservationResult {
    /// The tool call of the same step that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_call_id: Option<String>,
    /// What it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<AtifContent>,
    /// `trajectory_id` or `trajectory_path`, and `session_id` beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subagent_trajectory_ref: Option<Vec<Map<String, Value>>>,
    /// What the format does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
}

/// Tokens and cost of a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepMetrics {
    /// Tokens of the prompt, cached ones too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Tokens that the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    /// Those of the prompt that the provider's cache had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Ids of the prompt's tokens, as the engine gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<i64>>,
    /// Ids of the tokens that the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_token_ids: Option<Vec<i64>>,
    /// Natural logarithm of each written token's probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f64>>,
    /// What the format does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
}

/// Sums over a trajectory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalMetrics {
    /// Tokens of all prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_prompt_tokens: Option<u64>,
    /// Tokens of all completions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_completion_tokens: Option<u64>,
    /// Cached tokens of all prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_cached_tokens: Option<u64>,
    /// US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_cost_usd: Option<f64>,
    /// Number of steps; any other number is explained in `notes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_steps: Option<u64>,
    /// What the format does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
}

impl AtifStep {
    /// A step of text; `step_id` is set by [`Trajectory::push`].
    pub fn new(source: StepSource, message: impl Into<String>) -> Self {
        Self {
            step_id: 0,
            timestamp: None,
            source,
            model_name: None,
            reasoning_effort: None,
            message: AtifContent::Text(message.into()),
            reasoning_content: None,
            tool_calls: None,
            observation: None,
            metrics: None,
            is_copied_context: None,
            llm_call_count: None,
            extra: None,
        }
    }

    /// Keeps a field that the format does not name.
    pub fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.extra
            .get_or_insert_default()
            .insert(name.to_owned(), value.into());
    }
}

impl Trajectory {
    /// One without steps, which is not valid yet.
    pub fn new(agent: AgentInfo) -> Self {
        Self {
            schema_version: ATIF_VERSION.to_owned(),
            session_id: None,
            trajectory_id: None,
            agent,
            steps: Vec::new(),
            notes: None,
            final_metrics: None,
            continued_trajectory_ref: None,
            extra: None,
            subagent_trajectories: None,
        }
    }

    /// Adds a step and numbers it.
    pub fn push(&mut self, mut step: AtifStep) -> &mut AtifStep {
        step.step_id = self.steps.len() as u64 + 1;
        self.steps.push(step);
        self.steps.last_mut().expect("just pushed")
    }

    /// Keeps a field that the format does not name.
    pub fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.extra
            .get_or_insert_default()
            .insert(name.to_owned(), value.into());
    }
}
