//! OpenAI's chat completions, served.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use swegym_core::{ChatMessage, Tool};

use super::{Asked, Refusal, Shared, ask, events, object, status};
use crate::model::{Finish, Reply, Sampling};

/// `POST /v1/chat/completions`.
pub(super) async fn serve(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let asked = match object(&body) {
        Ok(body) => read(body, &shared),
        Err(response) => return *response,
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(problem) => {
            let error = json!({"error": {"type": "invalid_request_error", "message": problem}});
            return (StatusCode::BAD_REQUEST, axum::Json(error)).into_response();
        }
    };
    let stream = asked.stream;
    match ask(shared.clone(), asked).await {
        Ok(reply) if stream => events(chunks(&reply)),
        Ok(reply) => axum::Json(completion(&reply)).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

/// `GET /v1/models`.
pub(super) async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let model = json!({"id": shared.options.model.name(), "object": "model"});
    axum::Json(json!({"object": "list", "data": [model]})).into_response()
}

fn refused(refusal: &Refusal) -> Response {
    let (status, kind, message) = status(refusal);
    let error = json!({"error": {"type": kind, "code": kind, "message": message}});
    (status, axum::Json(error)).into_response()
}

/// Reads a request; fields that we do not know are passed on.
fn read(mut body: Map<String, Value>, shared: &Shared) -> Result<Asked, String> {
    let mut take = |name: &str| body.remove(name).filter(|v| !v.is_null());
    let messages = take("messages").ok_or("`messages` is missing")?;
    let messages: Vec<ChatMessage> =
        serde_json::from_value(messages).map_err(|e| format!("`messages`: {e}"))?;
    let tools = match take("tools") {
        Some(tools) => serde_json::from_value(tools).map_err(|e| format!("`tools`: {e}"))?,
        None => Vec::<Tool>::new(),
    };
    let stop = match take("stop") {
        Some(Value::String(word)) => vec![word],
        Some(words) => serde_json::from_value(words).map_err(|e| format!("`stop`: {e}"))?,
        None => Vec::new(),
    };
    let stream = take("stream").and_then(|v| v.as_bool()).unwrap_or_default();
    let most = take("max_completion_tokens");
    let most = most.or(take("max_tokens")).and_then(|v| v.as_u64());
    let mut sampling = Sampling {
        temperature: take("temperature").and_then(|v| v.as_f64()),
        top_p: take("top_p").and_then(|v| v.as_f64()),
        max_tokens: most.unwrap_or(shared.options.sampling.max_tokens),
        seed: take("seed").and_then(|v| v.as_u64()),
        token_ids: take("return_token_ids").and_then(|v| v.as_bool()) == Some(true),
        ..Sampling::default()
    };
    for name in ["model", "stream_options", "logprobs", "n", "user"] {
        take(name);
    }
    sampling.extra = body;
    Ok(Asked {
        messages,
        tools,
        stop,
        sampling: shared.sampling(sampling),
        stream,
    })
}

fn finish(reply: &Reply) -> &str {
    match &reply.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
        Finish::Refusal => "content_filter",
        Finish::Other(word) => word,
    }
}

fn usage(reply: &Reply) -> Value {
    let (prompt, completion) = (
        reply.usage.prompt_tokens.unwrap_or_default(),
        reply.usage.completion_tokens.unwrap_or_default(),
    );
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": reply.usage.cached_tokens.unwrap_or_default()},
    })
}

fn completion(reply: &Reply) -> Value {
    let mut choice = json!({
        "index": 0,
        "message": reply.message,
        "finish_reason": finish(reply),
        "logprobs": null,
    });
    let mut body = json!({
        "id": "chatcmpl-swegym",
        "object": "chat.completion",
        "created": 0,
        "model": reply.model,
        "usage": usage(reply),
    });
    if let Some(tokens) = &reply.tokens {
        choice["token_ids"] = json!(tokens.completion);
        body["prompt_token_ids"] = json!(tokens.prompt);
    }
    body["choices"] = json!([choice]);
    body
}

/// The answer as a stream: one chunk for what was said, one for the end.
fn chunks(reply: &Reply) -> String {
    let message = &reply.message;
    let mut delta = json!({"role": "assistant", "content": message.content});
    if let Some(reasoning) = &message.reasoning_content {
        delta["reasoning_content"] = json!(reasoning);
    }
    let calls: Vec<Value> = message
        .tool_calls
        .iter()
        .enumerate()
        .map(|(index, call)| {
            let mut call = serde_json::to_value(call).expect("plain data");
            call["index"] = json!(index);
            call
        })
        .collect();
    if !calls.is_empty() {
        delta["tool_calls"] = json!(calls);
    }
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": "chatcmpl-swegym", "object": "chat.completion.chunk", "created": 0,
            "model": reply.model, "choices": choices, "usage": usage,
        });
        format!("data: {chunk}\n\n")
    };
    let said = json!([{"index": 0, "delta": delta, "finish_reason": null}]);
    let ended = json!([{"index": 0, "delta": {}, "finish_reason": finish(reply)}]);
    format!(
        "{}{}{}data: [DONE]\n\n",
        chunk(said, Value::Null),
        chunk(ended, Value::Null),
        chunk(json!([]), usage(reply)),
    )
}
