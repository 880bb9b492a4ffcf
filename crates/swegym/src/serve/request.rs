//! Requests, read and checked. What would change the answer's meaning and is
//! not implemented is refused; what is only about billing and the like is not
//! looked at.

use serde::Deserialize;
use serde_json::{Map, Value};
use swegym_core::{ChatMessage, Tool};
use swegym_learn::infer::{Ask, Engine, Sampling};

use super::Refusal;

/// A request as the engine takes it.
pub(super) struct Asked {
    /// One for each choice.
    pub(super) asks: Vec<Ask>,
    pub(super) stream: bool,
    /// Whether the last event tells the usage.
    pub(super) usage: bool,
    pub(super) logprobs: bool,
    pub(super) token_ids: bool,
    /// Whether it came to chat completions.
    pub(super) chat: bool,
    /// Whether tools may be called.
    pub(super) tools: bool,
}

/// Fields of both requests.
#[derive(Deserialize)]
struct Fields {
    model: Option<String>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<u64>,
    stop: Option<Words>,
    n: Option<usize>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    logprobs: Option<Value>,
    top_logprobs: Option<usize>,
    #[serde(default)]
    return_token_ids: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

/// Most answers of one request.
const MOST: usize = 64;

fn parse(body: &[u8]) -> Result<Fields, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal::bad("", format!("the request: {e}")))
}

/// A field that may only have a value that changes nothing.
fn only(rest: &Map<String, Value>, field: &str, harmless: &[Value]) -> Result<(), Refusal> {
    match rest.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if harmless.contains(value) => Ok(()),
        Some(_) => Err(Refusal::bad(
            field,
            format!("`{field}` is not supported here"),
        )),
    }
}

impl Fields {
    /// Refuses what is not implemented.
    fn check(&self, name: &str) -> Result<(), Refusal> {
        let text = serde_json::json!({"type": "text"});
        let zero = [Value::from(0), Value::from(0.0)];
        only(&self.rest, "response_format", &[text])?;
        only(&self.rest, "logit_bias", &[Value::Object(Map::new())])?;
        only(&self.rest, "frequency_penalty", &zero)?;
        only(&self.rest, "presence_penalty", &zero)?;
        only(
            &self.rest,
            "repetition_penalty",
            &[Value::from(1), Value::from(1.0)],
        )?;
        only(&self.rest, "top_k", &[Value::from(-1), Value::from(0)])?;
        only(&self.rest, "min_p", &zero)?;
        only(&self.rest, "functions", &[])?;
        only(&self.rest, "echo", &[Value::Bool(false)])?;
        only(&self.rest, "suffix", &[])?;
        only(&self.rest, "continue_final_message", &[Value::Bool(false)])?;
        only(&self.rest, "tool_choice", &["auto".into(), "none".into()])?;
        if self.top_logprobs.is_some_and(|n| n > 0) {
            return Err(Refusal::bad(
                "top_logprobs",
                "log-probabilities are given of the chosen tokens only",
            ));
        }
        if let Some(model) = self.model.as_deref().filter(|m| *m != name) {
            return Err(Refusal {
                status: axum::http::StatusCode::NOT_FOUND,
                code: Some("model_not_found"),
                ..Refusal::bad("model", format!("{model} is not served here; {name} is"))
            });
        }
        let within =
            |field: &str, value: Option<f32>, range: std::ops::RangeInclusive<f32>| match value
                .filter(|v| !range.contains(v))
            {
                None => Ok(()),
                Some(_) => Err(Refusal::bad(
                    field,
                    format!("`{field}` is not from {} to {}", range.start(), range.end()),
                )),
            };
        within("temperature", self.temperature, 0.0..=100.0)?;
        within("top_p", self.top_p, 0.0..=1.0)?;
        if !(1..=MOST).contains(&self.n.unwrap_or(1)) {
            return Err(Refusal::bad("n", format!("`n` is not from 1 to {MOST}")));
        }
        Ok(())
    }

    fn asked(self, prompt: Vec<u32>, engine: &Engine, default: usize) -> Asked {
        let room = engine.context().saturating_sub(prompt.len());
        let most = self.max_completion_tokens.or(self.max_tokens);
        let base = self.seed.unwrap_or_else(|| {
            // No two answers are drawn alike.
            let now = jiff::Timestamp::now().as_nanosecond();
            now as u64 ^ (now >> 64) as u64
        });
        let ask = |n: usize| Ask {
            prompt: prompt.clone(),
            max_tokens: most.unwrap_or(default.min(room)),
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(1.0),
                top_p: self.top_p.unwrap_or(1.0),
                seed: base.wrapping_add(n as u64),
            },
            stop: match &self.stop {
                None => Vec::new(),
                Some(Words::One(word)) => vec![word.clone()],
                Some(Words::Many(words)) => words.clone(),
            },
            choices: Vec::new(),
            deadline: None,
        };
        Asked {
            asks: (0..self.n.unwrap_or(1)).map(ask).collect(),
            stream: self.stream,
            usage: self.stream_options.is_some_and(|o| o.include_usage),
            logprobs: match &self.logprobs {
                Some(Value::Bool(yes)) => *yes,
                // Of completions it is a number of alternatives.
                Some(Value::Number(_)) => true,
                _ => false,
            },
            token_ids: self.return_token_ids,
            chat: false,
            tools: false,
        }
    }
}

/// `POST /v1/chat/completions`.
pub(super) fn chat(body: &[u8], engine: &Engine, name: &str) -> Result<Asked, Refusal> {
    let mut fields = parse(body)?;
    fields.check(name)?;
    let field = |fields: &mut Fields, name: &str| fields.rest.remove(name).filter(|v| !v.is_null());
    let messages = field(&mut fields, "messages")
        .ok_or_else(|| Refusal::bad("messages", "`messages` is missing"))?;
    let messages: Vec<ChatMessage> = serde_json::from_value(messages)
        .map_err(|e| Refusal::bad("messages", format!("`messages`: {e}")))?;
    let tools: Vec<Tool> = match field(&mut fields, "tools") {
        None => Vec::new(),
        Some(tools) => serde_json::from_value(tools)
            .map_err(|e| Refusal::bad("tools", format!("`tools`: {e}")))?,
    };
    let called = fields.rest.get("tool_choice") != Some(&Value::from("none"));
    let model = engine.model();
    let template = model.template.as_ref().ok_or_else(|| {
        Refusal::bad(
            "messages",
            format!("{name} has no chat template; use /v1/completions"),
        )
    })?;
    if !tools.is_empty() && !template.source().contains("tools") {
        return Err(Refusal::bad(
            "tools",
            format!("the chat template of {name} writes no tools; describe them in the messages"),
        ));
    }
    let text = template.render(&messages, &tools, true)?;
    let prompt = model.tokenizer.encode(&text, false)?;
    let room = engine.context();
    Ok(Asked {
        chat: true,
        tools: !tools.is_empty() && called,
        ..fields.asked(prompt, engine, room)
    })
}

/// `POST /v1/completions`.
pub(super) fn completion(body: &[u8], engine: &Engine, name: &str) -> Result<Asked, Refusal> {
    let mut fields = parse(body)?;
    fields.check(name)?;
    let prompt = match fields.rest.remove("prompt") {
        Some(Value::String(text)) => engine.model().tokenizer.encode(&text, true)?,
        Some(ids @ Value::Array(_)) => serde_json::from_value(ids).map_err(|_| {
            Refusal::bad(
                "prompt",
                "`prompt` is neither one text nor one list of token ids",
            )
        })?,
        _ => return Err(Refusal::bad("prompt", "`prompt` is missing")),
    };
    // As the API's own default.
    Ok(fields.asked(prompt, engine, 16))
}
