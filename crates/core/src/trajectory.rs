//! What an agent did: the Agent Trajectory Interchange Format (ATIF) 1.8,
//! which is our record of an episode.
//!
//! Every object forbids fields that the format does not name; what else there
//! is to say has its place in `extra`. [`Trajectory::check`] holds the rules
//! that a shape alone cannot.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

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

/// A rule of the format that a document breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{at}: {problem}")]
pub struct TrajectoryError {
    /// Step and field.
    pub at: String,
    /// What is wrong.
    pub problem: String,
}

impl Trajectory {
    /// Checks the rules of the format that its shape does not hold.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check(&self) -> Result<(), TrajectoryError> {
        let wrong = |at: String, problem: &str| {
            let problem = problem.to_owned();
            Err(TrajectoryError { at, problem })
        };
        let minor = self.schema_version.strip_prefix("ATIF-v1.");
        if !minor.is_some_and(|m| m.len() == 1 && ("0"..="8").contains(&m)) {
            return wrong("schema_version".into(), "not ATIF-v1.0 to ATIF-v1.8");
        }
        if self.steps.is_empty() {
            return wrong("steps".into(), "there is none");
        }
        for (index, step) in self.steps.iter().enumerate() {
            step.check(index as u64 + 1)?;
        }
        let mut seen = BTreeSet::new();
        for (index, below) in self.subagent_trajectories.iter().flatten().enumerate() {
            let at = format!("subagent_trajectories[{index}]");
            let Some(id) = &below.trajectory_id else {
                return wrong(at, "has no trajectory_id");
            };
            if !seen.insert(id) {
                return wrong(at, "has the trajectory_id of another");
            }
            below.check().map_err(|e| TrajectoryError {
                at: format!("{at}.{}", e.at),
                ..e
            })?;
        }
        Ok(())
    }
}

impl AtifStep {
    fn check(&self, number: u64) -> Result<(), TrajectoryError> {
        let wrong = |field: &str, problem: &str| {
            Err(TrajectoryError {
                at: format!("step {number}: {field}"),
                problem: problem.to_owned(),
            })
        };
        if self.step_id != number {
            return wrong("step_id", "steps are numbered 1, 2, 3, …");
        }
        if self.timestamp.as_deref().is_some_and(|t| !is_iso(t)) {
            return wrong("timestamp", "not ISO 8601");
        }
        if self.source != StepSource::Agent {
            let only = [
                ("model_name", self.model_name.is_some()),
                ("reasoning_effort", self.reasoning_effort.is_some()),
                ("reasoning_content", self.reasoning_content.is_some()),
                ("tool_calls", self.tool_calls.is_some()),
                ("metrics", self.metrics.is_some()),
            ];
            if let Some((field, _)) = only.iter().find(|(_, there)| *there) {
                return wrong(field, "only steps of the agent have it");
            }
        } else if self.llm_call_count == Some(0)
            && (self.metrics.is_some() || self.reasoning_content.is_some())
        {
            return wrong("llm_call_count", "0 beside what only a model makes");
        }
        check_content(&self.message).or_else(|problem| wrong("message", problem))?;
        let calls = self.tool_calls.as_deref().unwrap_or_default();
        for result in self.observation.iter().flat_map(|o| &o.results) {
            if let Some(id) = &result.source_call_id
                && !calls.iter().any(|call| call.tool_call_id == *id)
            {
                return wrong("observation", "source_call_id names no call of the step");
            }
            if let Some(content) = &result.content {
                check_content(content).or_else(|problem| wrong("observation", problem))?;
            }
            for below in result.subagent_trajectory_ref.iter().flatten() {
                let some = |name: &str| below.get(name).is_some_and(|v| !v.is_null());
                if !some("trajectory_id") && !some("trajectory_path") {
                    return wrong("observation", "a subagent's reference leads nowhere");
                }
            }
        }
        Ok(())
    }
}

fn check_content(content: &AtifContent) -> Result<(), &'static str> {
    let AtifContent::Parts(parts) = content else {
        return Ok(());
    };
    for part in parts {
        match part.kind.as_str() {
            "text" if part.text.is_none() || part.source.is_some() => {
                return Err("a text part has `text`, and no `source`");
            }
            "text" => {}
            "image" | "audio" => {
                let media = part
                    .source
                    .as_ref()
                    .and_then(|s| s.get("media_type")?.as_str());
                let fits = media.is_some_and(|m| m.starts_with(&format!("{}/", part.kind)));
                if part.text.is_some() || !fits {
                    return Err("a media part has a `source` of its kind, and no `text`");
                }
            }
            _ => return Err("a part is text, image or audio"),
        }
    }
    Ok(())
}

/// `2026-11-22`, with a time and an offset or without.
fn is_iso(text: &str) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range)
            .is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit()))
    };
    let bytes = text.as_bytes();
    digits(0..4)
        && digits(5..7)
        && digits(8..10)
        && bytes.get(4) == Some(&b'-')
        && bytes.get(7) == Some(&b'-')
        && (bytes.len() == 10 || (matches!(bytes.get(10), Some(b'T' | b' ')) && digits(11..13)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_rule_of_the_format_is_held() {
        let good = json!({
            "schema_version": "ATIF-v1.8", "agent": {"name": "a", "version": "1"},
            "steps": [
                {"step_id": 1, "source": "user", "message": "hi"},
                {"step_id": 2, "source": "agent", "message": [{"type": "text", "text": "x"}],
                 "timestamp": "2026-11-22T10:00:00Z",
                 "tool_calls": [{"tool_call_id": "c", "function_name": "f", "arguments": {}}],
                 "observation": {"results": [{"source_call_id": "c", "content": "y"}]}}
            ]
        });
        let check = |path: &str, value: Value| {
            let mut document = good.clone();
            if !path.is_empty() {
                let (parent, name) = path.rsplit_once('/').unwrap();
                let parent = document.pointer_mut(parent).unwrap();
                match name.parse::<usize>() {
                    Ok(index) => parent[index] = value,
                    Err(_) => parent[name] = value,
                }
            }
            let read: Trajectory = serde_json::from_value(document).map_err(|e| e.to_string())?;
            read.check().map_err(|e| e.to_string())
        };
        assert_eq!(check("", Value::Null), Ok(()));
        for (path, value, word) in [
            ("/schema_version", json!("ATIF-v2.0"), "schema_version"),
            ("/steps", json!([]), "there is none"),
            ("/steps/1/step_id", json!(3), "step 2: step_id"),
            ("/steps/0/model_name", json!("m"), "only steps of the agent"),
            ("/steps/0/unknown", json!(1), "unknown field"),
            ("/steps/1/timestamp", json!("noon"), "ISO"),
            ("/steps/1/tool_calls/0/arguments", json!("{}"), "map"),
            (
                "/steps/1/tool_calls/0/tool_call_id",
                json!("d"),
                "names no call",
            ),
            ("/steps/1/message/0", json!({"type": "text"}), "text part"),
            ("/subagent_trajectories", json!([good]), "no trajectory_id"),
        ] {
            let got = check(path, value).unwrap_err();
            assert!(got.contains(word), "{path}: {got}");
        }
    }
}
