//! Anthropic's Messages API (FORMATS 6.3).

use serde_json::{Map, Value, json};
use swegym_core::{ChatMessage, ChatToolCall, Content, Role};

use super::http::{Answer, Http, HttpOptions};
use super::{Finish, Model, ModelError, Prices, Reply, Request, Usage, most_tokens};

/// What writing to the provider's cache costs, in prices of a prompt token.
const CACHE_WRITE: f64 = 1.25;

/// A model behind `POST …/v1/messages`.
#[derive(Debug)]
pub struct Anthropic {
    name: String,
    http: Http,
    prices: Option<Prices>,
}

impl Anthropic {
    /// A model at a base URL such as `https://api.anthropic.com`.
    pub fn new(
        name: impl Into<String>,
        base_url: &str,
        key: &str,
        prices: Option<Prices>,
        options: HttpOptions,
    ) -> Self {
        let headers = vec![
            ("x-api-key", key.to_owned()),
            ("anthropic-version", "2023-06-01".to_owned()),
        ];
        let url = format!("{}/v1/messages", base_url.trim_end_matches('/'));
        Self {
            name: name.into(),
            http: Http::new(url, headers, options),
            prices,
        }
    }
}

impl Model for Anthropic {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        let body = serde_json::to_vec(&body(&self.name, request)).expect("messages serialise");
        let answer = self.http.post(&body, request.deadline)?;
        read(answer, self.prices)
    }

    fn most_cost(&self, request: &Request<'_>) -> Option<f64> {
        let prices = self.prices?;
        prices
            .cost(&Usage {
                prompt_tokens: Some(most_tokens(request)),
                completion_tokens: Some(request.sampling.max_tokens),
                ..Usage::default()
            })
            .map(|cost| cost * CACHE_WRITE)
    }
}

/// The request in the API's shape. The end of the conversation is marked for
/// the provider's cache: the next request begins with the same.
fn body(model: &str, request: &Request<'_>) -> Value {
    let sampling = request.sampling;
    let mut body = sampling.extra.clone();
    body.insert("model".into(), model.into());
    body.insert("max_tokens".into(), sampling.max_tokens.into());
    if let Some(temperature) = sampling.temperature {
        body.insert("temperature".into(), temperature.into());
    }
    if let Some(top_p) = sampling.top_p {
        body.insert("top_p".into(), top_p.into());
    }
    if !request.stop.is_empty() {
        body.insert("stop_sequences".into(), json!(request.stop));
    }
    let system: Vec<String> = request
        .messages
        .iter()
        .filter(|m| matches!(m.role, Role::System | Role::Developer))
        .map(ChatMessage::text)
        .collect();
    if !system.is_empty() {
        let mut block = text_block(&system.join("\n\n"));
        block.insert("cache_control".into(), json!({"type": "ephemeral"}));
        body.insert("system".into(), json!([block]));
    }
    if !request.tools.is_empty() {
        let tools: Vec<Value> = request
            .tools
            .iter()
            .map(|tool| {
                let f = &tool.function;
                let empty = json!({"type": "object", "properties": {}});
                json!({
                    "name": f.name,
                    "description": f.description.clone().unwrap_or_default(),
                    "input_schema": f.parameters.clone().unwrap_or(empty),
                })
            })
            .collect();
        body.insert("tools".into(), tools.into());
    }
    let mut messages = turns(request.messages);
    if let Some(last) = messages
        .last_mut()
        .and_then(|(_, blocks)| blocks.last_mut())
    {
        last.insert("cache_control".into(), json!({"type": "ephemeral"}));
    }
    let messages: Vec<Value> = messages
        .into_iter()
        .map(|(role, content)| json!({"role": role, "content": content}))
        .collect();
    body.insert("messages".into(), messages.into());
    Value::Object(body)
}

type Blocks = Vec<Map<String, Value>>;

/// Messages as blocks; those of one side in a row are one message.
fn turns(messages: &[ChatMessage]) -> Vec<(&'static str, Blocks)> {
    let mut turns: Vec<(&'static str, Blocks)> = Vec::new();
    for message in messages {
        let (role, blocks) = match message.role {
            Role::System | Role::Developer => continue,
            Role::User => ("user", text_blocks(message)),
            Role::Tool => ("user", vec![tool_result(message)]),
            Role::Assistant => ("assistant", said(message)),
        };
        if blocks.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some((last, all)) if *last == role => all.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    turns
}

/// What the API answered goes back as it came, thinking and its signature
/// too; anything else is made of the message.
fn said(message: &ChatMessage) -> Blocks {
    if let Some(Value::Array(blocks)) = message.extra.get("anthropic_content") {
        let blocks = blocks.iter().filter_map(Value::as_object);
        return blocks.cloned().collect();
    }
    let mut blocks = text_blocks(message);
    for call in &message.tool_calls {
        let input = serde_json::from_str::<Map<String, Value>>(&call.function.arguments);
        let block = json!({
            "type": "tool_use",
            "id": call.id,
            "name": call.function.name,
            "input": input.unwrap_or_default(),
        });
        blocks.extend(block.as_object().cloned());
    }
    blocks
}

fn tool_result(message: &ChatMessage) -> Map<String, Value> {
    let block = json!({
        "type": "tool_result",
        "tool_use_id": message.tool_call_id,
        "content": message.text(),
    });
    block.as_object().cloned().unwrap_or_default()
}

/// The API takes no empty text.
fn text_blocks(message: &ChatMessage) -> Blocks {
    let text = message.text();
    if text.trim().is_empty() {
        return Vec::new();
    }
    vec![text_block(&text)]
}

fn text_block(text: &str) -> Map<String, Value> {
    let block = json!({"type": "text", "text": text});
    block.as_object().cloned().unwrap_or_default()
}

/// Reads an answer of the API.
fn read(answer: Answer, prices: Option<Prices>) -> Result<Reply, ModelError> {
    let attempts = answer.attempts;
    let Some(blocks) = answer.body.get("content").and_then(Value::as_array) else {
        return Err(ModelError::Provider {
            problem: format!("answer has no `content`: {}", answer.body),
            attempts,
        });
    };
    let (mut text, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
    for block in blocks {
        let get = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
        match get("type") {
            "text" => text.push_str(get("text")),
            "thinking" => thinking.push_str(get("thinking")),
            "tool_use" => calls.push(ChatToolCall::new(
                get("id"),
                get("name"),
                block.get("input").unwrap_or(&json!({})),
            )),
            _ => {}
        }
    }
    let mut message = ChatMessage {
        content: (!text.is_empty()).then_some(Content::Text(text)),
        reasoning_content: (!thinking.is_empty()).then_some(thinking),
        tool_calls: calls,
        ..ChatMessage::new(Role::Assistant, "")
    };
    if message.reasoning_content.is_some() {
        // The API takes thinking back only with its signature.
        message
            .extra
            .insert("anthropic_content".into(), blocks.clone().into());
    }
    let string = |name: &str| answer.body.get(name).and_then(Value::as_str);
    let finish = match string("stop_reason") {
        Some("end_turn" | "stop_sequence") | None => Finish::Stop,
        Some("max_tokens") => Finish::Length,
        Some("tool_use") => Finish::ToolCalls,
        Some("refusal") => Finish::Refusal,
        Some(other) => Finish::Other(other.to_owned()),
    };
    Ok(Reply {
        message,
        finish,
        usage: usage_of(answer.body.get("usage").unwrap_or(&Value::Null), prices),
        model: string("model").unwrap_or_default().to_owned(),
        tokens: None,
        seconds: answer.seconds,
        attempts,
    })
}

/// The API counts fresh, read and written prompt tokens apart.
pub(crate) fn usage_of(usage: &Value, prices: Option<Prices>) -> Usage {
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    let fresh = count("input_tokens");
    let read = count("cache_read_input_tokens");
    let written = count("cache_creation_input_tokens").unwrap_or_default();
    let completion_tokens = count("output_tokens");
    let cost_usd = prices.and_then(|prices| {
        let sum = (fresh? as f64 + written as f64 * CACHE_WRITE) * prices.input
            + read.unwrap_or_default() as f64 * prices.cached
            + completion_tokens? as f64 * prices.output;
        Some(sum / 1e6)
    });
    Usage {
        prompt_tokens: fresh.map(|fresh| fresh + read.unwrap_or_default() + written),
        completion_tokens,
        cached_tokens: read,
        cost_usd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sampling;
    use swegym_core::Tool;
    use ureq::http::HeaderMap;

    #[test]
    fn a_conversation_alternates_and_ends_in_a_cache_mark() {
        let call = |id: &str| ChatToolCall::new(id, "bash", &json!({"command": "ls"}));
        let mut asked = ChatMessage::assistant("Looking.");
        asked.tool_calls = vec![call("a"), call("b")];
        let messages = [
            ChatMessage::system("Be good."),
            ChatMessage::user("Fix it."),
            asked,
            ChatMessage::tool("a", "bash", "x.py"),
            ChatMessage::tool("b", "bash", ""),
            ChatMessage::user("Go on."),
        ];
        let tools = [Tool::new("bash", "Runs a command.", None)];
        let sampling = Sampling::default();
        let got = body(
            "m",
            &Request {
                messages: &messages,
                tools: &tools,
                stop: &[],
                sampling: &sampling,
                deadline: None,
            },
        );
        let roles: Vec<&str> = got["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["role"].as_str().unwrap())
            .collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
        let last = got["messages"][2]["content"].as_array().unwrap();
        assert_eq!(last.len(), 3);
        assert_eq!(last[0]["tool_use_id"], "a");
        assert_eq!(last[2]["cache_control"]["type"], "ephemeral");
        assert_eq!(got["messages"][1]["content"][1]["input"]["command"], "ls");
        assert_eq!(got["tools"][0]["input_schema"]["type"], "object");
    }

    #[test]
    fn usage_adds_up_and_thinking_goes_back_as_it_came() {
        let content = json!([
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "tool_use", "id": "t", "name": "bash", "input": {"command": "ls"}}
        ]);
        let answer = Answer {
            body: json!({"content": content, "stop_reason": "tool_use", "model": "m",
                "usage": {"input_tokens": 10, "output_tokens": 4,
                    "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}}),
            headers: HeaderMap::new(),
            seconds: 0.1,
            attempts: 1,
        };
        let prices = Prices {
            input: 1.0,
            output: 10.0,
            cached: 0.1,
        };
        let reply = read(answer, Some(prices)).unwrap();
        assert_eq!(reply.usage.prompt_tokens, Some(130));
        assert_eq!(reply.usage.cached_tokens, Some(100));
        let cost = reply.usage.cost_usd.unwrap() * 1e6;
        assert!((cost - (10.0 + 25.0 + 10.0 + 40.0)).abs() < 1e-9, "{cost}");
        assert_eq!(reply.finish, Finish::ToolCalls);
        assert_eq!(json!(said(&reply.message)), content);
    }
}
