//! Language models: one trait, HTTP clients of two APIs, and scripts.
//!
//! A call blocks its thread. An episode is a thread that mostly waits, and
//! 256 of those cost less than an async runtime would add to every scaffold
//! and sandbox (docs/design/rollout.md).

mod anthropic;
mod http;
mod openai;
mod script;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swegym_core::{ChatMessage, FinalMetrics, Tool};
use thiserror::Error;

pub use anthropic::Anthropic;
pub use http::{Http, HttpOptions};
pub use openai::OpenAi;
pub use script::{Line, Script, ScriptedCall};

/// What a model is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The conversation so far.
    pub messages: &'a [ChatMessage],
    /// Tools that may be called; empty for plain text.
    pub tools: &'a [Tool],
    /// Words that end the answer.
    pub stop: &'a [String],
    /// How to sample.
    pub sampling: &'a Sampling,
    /// When the episode's time is up.
    pub deadline: Option<Instant>,
}

/// How to sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Temperature; the provider's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus; the provider's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Most tokens of one answer.
    pub max_tokens: u64,
    /// Seed, where the provider takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Ask for the ids and log-probabilities of tokens (vLLM, SGLang).
    #[serde(default)]
    pub token_ids: bool,
    /// Fields added to every request as they are.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: None,
            top_p: None,
            max_tokens: 4096,
            seed: None,
            token_ids: false,
            extra: Map::new(),
        }
    }
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The message, as it goes into the conversation.
    pub message: ChatMessage,
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub usage: Usage,
    /// The model that the provider names.
    pub model: String,
    /// Tokens as the engine counted them, where it told.
    pub tokens: Option<Tokens>,
    /// Wall time of the call that succeeded, seconds.
    pub seconds: f64,
    /// Calls that it took.
    pub attempts: u32,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model was done, or wrote a stop word.
    Stop,
    /// It ran into `max_tokens`.
    Length,
    /// It calls tools.
    ToolCalls,
    /// The provider or the model refuses.
    Refusal,
    /// Any other word.
    Other(String),
}

/// Tokens and cost of one or many calls. `None` is unknown, not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
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
}

impl Usage {
    /// Adds a call. A sum has what any of its parts has.
    pub fn add(&mut self, other: &Self) {
        fn sum<T: std::ops::Add<Output = T> + Copy>(into: &mut Option<T>, more: Option<T>) {
            *into = match (*into, more) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
        }
        sum(&mut self.prompt_tokens, other.prompt_tokens);
        sum(&mut self.completion_tokens, other.completion_tokens);
        sum(&mut self.cached_tokens, other.cached_tokens);
        sum(&mut self.cost_usd, other.cost_usd);
    }

    /// The sums of a trajectory with so many steps.
    pub fn sums(&self, steps: usize) -> FinalMetrics {
        FinalMetrics {
            total_prompt_tokens: self.prompt_tokens,
            total_completion_tokens: self.completion_tokens,
            total_cached_tokens: self.cached_tokens,
            total_cost_usd: self.cost_usd,
            total_steps: Some(steps as u64),
            extra: None,
        }
    }

    /// Tokens of prompt and completion.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.unwrap_or_default() + self.completion_tokens.unwrap_or_default()
    }
}

/// Token ids of a call, as the engine gave them; never made by tokenising
/// again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// Of the whole prompt.
    pub prompt: Option<Vec<i64>>,
    /// Of the completion.
    pub completion: Option<Vec<i64>>,
    /// Natural logarithm of each completion token's probability.
    pub logprobs: Option<Vec<f64>>,
}

/// Prices of a model, US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Prompt tokens.
    pub input: f64,
    /// Completion tokens.
    pub output: f64,
    /// Prompt tokens that the provider's cache had.
    pub cached: f64,
}

impl Prices {
    /// What a call costs; unknown if the provider did not count.
    pub fn cost(&self, usage: &Usage) -> Option<f64> {
        let cached = usage.cached_tokens.unwrap_or_default();
        let fresh = usage.prompt_tokens?.saturating_sub(cached);
        let sum = fresh as f64 * self.input
            + cached as f64 * self.cached
            + usage.completion_tokens? as f64 * self.output;
        Some(sum / 1e6)
    }
}

/// A language model.
pub trait Model: Send + Sync {
    /// Its name, as in `model_name_or_path`.
    fn name(&self) -> &str;

    /// Answers.
    ///
    /// # Errors
    /// [`ModelError`]; retries are behind it.
    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError>;

    /// Most that a call may cost, US dollars; `None` if prices are unknown.
    /// Caps on cost hold because this much is set aside before a call.
    fn most_cost(&self, request: &Request<'_>) -> Option<f64> {
        let _ = request;
        Some(0.0)
    }
}

/// Why there is no answer, by who can act.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ModelError {
    /// The conversation is longer than the model's context.
    #[error("the conversation is longer than the model's context: {0}")]
    Context(String),
    /// The provider refuses to answer this.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The episode's time is up.
    #[error("out of time")]
    OutOfTime,
    /// The provider failed every try.
    #[error("the model provider failed {attempts} times, last: {problem}")]
    Provider {
        /// What went wrong last.
        problem: String,
        /// Tries.
        attempts: u32,
    },
    /// The provider does not take our requests: key, model name, parameters.
    /// No other call will do better.
    #[error("the model provider rejects the request: {0}")]
    Rejected(String),
    /// The script has no further line.
    #[error("the script has ended")]
    ScriptEnded,
}

/// Wall time left, or an error if none.
pub(crate) fn left(deadline: Option<Instant>) -> Result<Option<Duration>, ModelError> {
    match deadline {
        None => Ok(None),
        Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(ModelError::OutOfTime),
        },
    }
}

/// Upper bound of a request's prompt tokens: no tokenizer makes more tokens
/// than there are bytes, beside the few of the chat template.
pub(crate) fn most_tokens(request: &Request<'_>) -> u64 {
    let mut bytes = 0;
    for message in request.messages {
        bytes += 64 + message.text().len();
        for call in &message.tool_calls {
            bytes += 64 + call.function.name.len() + call.function.arguments.len();
        }
    }
    for tool in request.tools {
        bytes += 64 + serde_json::to_string(tool).map_or(0, |text| text.len());
    }
    bytes as u64
}
