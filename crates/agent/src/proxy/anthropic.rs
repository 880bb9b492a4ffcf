//! Anthropic's messages, served.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use swegym_core::{ChatMessage, ChatToolCall, Content, Role, Tool};

use super::{Asked, Refusal, Shared, ask, events, object, status};
use crate::model::{Finish, Reply, Request, Sampling, most_tokens};

/// `POST /v1/messages`.
pub(super) async fn serve(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let body = match object(&body) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let asked = match read(&body, &shared) {
        Ok(asked) => asked,
        Err(problem) => return invalid(&problem),
    };
    let stream = asked.stream;
    match ask(shared, asked).await {
        Ok(reply) if stream => events(stream_of(&reply)),
        Ok(reply) => axum::Json(message(&reply)).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

/// `POST /v1/messages/count_tokens`: an upper bound, for agents that ask
/// before they call.
pub(super) async fn count_tokens(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let body = match object(&body) {
        Ok(body) => body,
        Err(response) => return *response,
    };
    match read(&body, &shared) {
        Ok(asked) => {
            let bytes = most_tokens(&Request {
                messages: &asked.messages,
                tools: &asked.tools,
                stop: &[],
                sampling: &asked.sampling,
                deadline: None,
            });
            axum::Json(json!({"input_tokens": bytes / 3})).into_response()
        }
        Err(problem) => invalid(&problem),
    }
}

fn invalid(problem: &str) -> Response {
    let error = json!({"type": "error",
        "error": {"type": "invalid_request_error", "message": problem}});
    (StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
}

fn refused(refusal: &Refusal) -> Response {
    let (status, kind, message) = status(refusal);
    let error = json!({"type": "error", "error": {"type": kind, "message": message}});
    (status, axum::Json(error)).into_response()
}

fn read(body: &Map<String, Value>, shared: &Shared) -> Result<Asked, String> {
    let mut messages = Vec::new();
    if let Some(system) = body.get("system").filter(|v| !v.is_null()) {
        messages.push(ChatMessage::system(text_of(system)));
    }
    let turns = body.get("messages").and_then(Value::as_array);
    for turn in turns.ok_or("`messages` is missing")? {
        match turn.get("role").and_then(Value::as_str) {
            Some("user") => messages.extend(user(turn)),
            Some("assistant") => messages.push(assistant(turn)),
            other => return Err(format!("`messages`: role {other:?}")),
        }
    }
    let tools = body.get("tools").and_then(Value::as_array);
    let tools = tools.into_iter().flatten().map(|tool| {
        let word = |name: &str| tool.get(name).and_then(Value::as_str).unwrap_or_default();
        Tool::new(
            word("name"),
            word("description"),
            tool.get("input_schema").cloned(),
        )
    });
    let number = |name: &str| body.get(name).and_then(Value::as_f64);
    let stop = body.get("stop_sequences").cloned().unwrap_or(json!([]));
    let sampling = Sampling {
        temperature: number("temperature"),
        top_p: number("top_p"),
        max_tokens: body
            .get("max_tokens")
            .and_then(Value::as_u64)
            .unwrap_or(shared.options.sampling.max_tokens),
        ..Sampling::default()
    };
    Ok(Asked {
        messages,
        tools: tools.collect(),
        stop: serde_json::from_value(stop).map_err(|e| format!("`stop_sequences`: {e}"))?,
        sampling: shared.sampling(sampling),
        stream: body.get("stream").and_then(Value::as_bool) == Some(true),
    })
}

/// A string, or the text of blocks.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks
            .iter()
            .filter_map(|b| b.get("text").and_then(Value::as_str))
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

/// Results of tools, then what else the user says.
fn user(turn: &Value) -> Vec<ChatMessage> {
    let content = turn.get("content").unwrap_or(&Value::Null);
    let Some(blocks) = content.as_array() else {
        return vec![ChatMessage::user(text_of(content))];
    };
    let mut messages = Vec::new();
    let mut words = Vec::new();
    for block in blocks {
        match block.get("type").and_then(Value::as_str) {
            Some("tool_result") => {
                let id = block.get("tool_use_id").and_then(Value::as_str);
                let text = text_of(block.get("content").unwrap_or(&Value::Null));
                let mut result = ChatMessage::tool(id.unwrap_or_default(), "", text);
                result.name = None;
                messages.push(result);
            }
            _ => words.extend(block.get("text").and_then(Value::as_str)),
        }
    }
    if !words.is_empty() {
        messages.push(ChatMessage::user(words.join("\n")));
    }
    messages
}

fn assistant(turn: &Value) -> ChatMessage {
    let content = turn.get("content").unwrap_or(&Value::Null);
    let mut message = ChatMessage::assistant(text_of(content));
    for block in content.as_array().into_iter().flatten() {
        let word = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
        match word("type") {
            "tool_use" => {
                let input = block.get("input").cloned().unwrap_or(json!({}));
                let call = ChatToolCall::new(word("id"), word("name"), &input);
                message.tool_calls.push(call);
            }
            "thinking" => {
                // It goes back to the API as it came, with its signature.
                message.reasoning_content = Some(word("thinking").to_owned());
                let blocks = content.clone();
                message.extra.insert("anthropic_content".into(), blocks);
            }
            _ => {}
        }
    }
    if message.text().is_empty() && !message.tool_calls.is_empty() {
        message.content = None::<Content>;
    }
    debug_assert_eq!(message.role, Role::Assistant);
    message
}

fn blocks(reply: &Reply) -> Vec<Value> {
    if let Some(Value::Array(blocks)) = reply.message.extra.get("anthropic_content") {
        return blocks.clone();
    }
    let text = reply.message.text();
    let mut blocks = Vec::new();
    if !text.is_empty() {
        blocks.push(json!({"type": "text", "text": text}));
    }
    for call in &reply.message.tool_calls {
        let input: Value = serde_json::from_str(&call.function.arguments).unwrap_or(json!({}));
        blocks.push(json!({
            "type": "tool_use", "id": call.id, "name": call.function.name, "input": input,
        }));
    }
    blocks
}

fn stop_reason(reply: &Reply) -> &str {
    match &reply.finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
        Finish::Refusal => "refusal",
        Finish::Other(word) => word,
    }
}

fn usage(reply: &Reply) -> Value {
    let cached = reply.usage.cached_tokens.unwrap_or_default();
    let prompt = reply.usage.prompt_tokens.unwrap_or_default();
    json!({
        "input_tokens": prompt.saturating_sub(cached),
        "cache_read_input_tokens": cached,
        "output_tokens": reply.usage.completion_tokens.unwrap_or_default(),
    })
}

fn message(reply: &Reply) -> Value {
    json!({
        "id": "msg_swegym", "type": "message", "role": "assistant", "model": reply.model,
        "content": blocks(reply), "stop_reason": stop_reason(reply), "stop_sequence": null,
        "usage": usage(reply),
    })
}

/// The answer as the API streams it, each block in one piece.
fn stream_of(reply: &Reply) -> String {
    let mut out = String::new();
    let mut event = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        out += &format!("event: {kind}\ndata: {data}\n\n");
    };
    let mut start = message(reply);
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    event("message_start", json!({"message": start}));
    for (index, block) in blocks(reply).into_iter().enumerate() {
        let (empty, delta) = match block["type"].as_str() {
            Some("tool_use") => (
                json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}),
                json!({"type": "input_json_delta", "partial_json": block["input"].to_string()}),
            ),
            Some("thinking") => (
                json!({"type": "thinking", "thinking": ""}),
                json!({"type": "thinking_delta", "thinking": block["thinking"]}),
            ),
            _ => (
                json!({"type": "text", "text": ""}),
                json!({"type": "text_delta", "text": block["text"]}),
            ),
        };
        event(
            "content_block_start",
            json!({"index": index, "content_block": empty}),
        );
        event(
            "content_block_delta",
            json!({"index": index, "delta": delta}),
        );
        if let Some(signature) = block.get("signature") {
            let delta = json!({"type": "signature_delta", "signature": signature});
            event(
                "content_block_delta",
                json!({"index": index, "delta": delta}),
            );
        }
        event("content_block_stop", json!({"index": index}));
    }
    event(
        "message_delta",
        json!({"delta": {"stop_reason": stop_reason(reply), "stop_sequence": null},
            "usage": usage(reply)}),
    );
    event("message_stop", json!({}));
    out
}
