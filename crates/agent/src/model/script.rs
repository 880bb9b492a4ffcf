//! Models that say what is written down: for tests, replays, and the gold
//! patch played through a scaffold.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swegym_core::{ChatMessage, ChatToolCall, Content};

use super::{Finish, Model, ModelError, Reply, Request, Usage};

/// One answer of a script.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Only for this instance; for every one without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// What the model says.
    #[serde(default)]
    pub content: String,
    /// Tools that it calls: name and arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ScriptedCall>,
    /// What the answer is to have cost.
    #[serde(default)]
    pub usage: Usage,
    /// Seconds that the model takes.
    #[serde(default)]
    pub seconds: f64,
}

/// A tool call of a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedCall {
    /// Name of the tool.
    pub name: String,
    /// Arguments.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

impl Line {
    /// An answer of text alone.
    pub fn text(content: impl Into<String>) -> Self {
        Self {
            content: content.into(),
            ..Self::default()
        }
    }

    /// An answer that calls a tool.
    pub fn call(name: &str, arguments: &Value) -> Self {
        Self {
            tool_calls: vec![ScriptedCall {
                name: name.to_owned(),
                arguments: arguments.as_object().cloned().unwrap_or_default(),
            }],
            ..Self::default()
        }
    }
}

/// Says its lines one by one, whatever it is asked.
#[derive(Debug)]
pub struct Script {
    name: String,
    lines: Vec<Line>,
    next: Mutex<usize>,
}

impl Script {
    /// A model of this name with these lines.
    pub fn new(name: impl Into<String>, lines: Vec<Line>) -> Self {
        Self {
            name: name.into(),
            lines,
            next: Mutex::new(0),
        }
    }
}

impl Model for Script {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        let index = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next - 1
        };
        let line = self.lines.get(index).ok_or(ModelError::ScriptEnded)?;
        if line.seconds > 0.0 {
            std::thread::sleep(std::time::Duration::from_secs_f64(line.seconds));
        }
        super::left(request.deadline)?;
        let calls = line.tool_calls.iter().enumerate().map(|(n, call)| {
            let arguments = Value::Object(call.arguments.clone());
            ChatToolCall::new(format!("call_{index}_{n}"), &call.name, &arguments)
        });
        let mut message = ChatMessage::assistant(&line.content);
        message.tool_calls = calls.collect();
        if line.content.is_empty() && !message.tool_calls.is_empty() {
            message.content = None::<Content>;
        }
        Ok(Reply {
            finish: if message.tool_calls.is_empty() {
                Finish::Stop
            } else {
                Finish::ToolCalls
            },
            message,
            usage: line.usage,
            model: self.name.clone(),
            tokens: None,
            seconds: line.seconds,
            attempts: 1,
        })
    }

    fn most_cost(&self, _: &Request<'_>) -> Option<f64> {
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = self.lines.get(next).and_then(|line| line.usage.cost_usd);
        Some(cost.unwrap_or_default())
    }
}
