//! Answers in the API's shapes.

use std::collections::VecDeque;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};
use swegym_learn::infer::{Answer, Finish};
use swegym_learn::model::Model;

use super::request::Asked;

/// How a request is answered.
pub(super) struct Told {
    id: String,
    created: i64,
    model: String,
    chat: bool,
    logprobs: bool,
    token_ids: bool,
    usage: bool,
    tools: bool,
    prompt: Vec<u32>,
    choices: usize,
    /// Prompt, cached and answered tokens.
    counts: [usize; 3],
}

impl Told {
    pub(super) fn new(asked: &Asked, model: &str) -> Self {
        let now = jiff::Timestamp::now();
        let kind = if asked.chat { "chatcmpl" } else { "cmpl" };
        Self {
            id: format!("{kind}-{:x}", now.as_nanosecond()),
            created: now.as_second(),
            model: model.to_owned(),
            chat: asked.chat,
            logprobs: asked.logprobs,
            token_ids: asked.token_ids,
            usage: asked.usage,
            tools: asked.tools,
            prompt: asked
                .asks
                .first()
                .map(|a| a.prompt.clone())
                .unwrap_or_default(),
            choices: asked.asks.len(),
            counts: [0; 3],
        }
    }

    /// The whole answer.
    pub(super) fn whole(mut self, answers: &[Answer], model: &Model) -> Value {
        let choices: Vec<Value> = answers
            .iter()
            .enumerate()
            .map(|(index, answer)| {
                self.count(answer);
                let said = Said::of(answer, self.tools);
                let mut choice = json!({"index": index, "finish_reason": said.finish});
                if self.chat {
                    choice["message"] = said.message();
                } else {
                    choice["text"] = said.text.as_str().into();
                }
                self.annotate(&mut choice, answer, model);
                choice
            })
            .collect();
        let mut whole = self.envelope(choices.into());
        if !self.chat {
            whole["object"] = "text_completion".into();
        } else {
            whole["object"] = "chat.completion".into();
        }
        whole["usage"] = self.usage();
        if self.token_ids {
            whole["prompt_token_ids"] = json!(self.prompt);
        }
        whole
    }

    fn envelope(&self, choices: Value) -> Value {
        json!({
            "id": self.id, "object": if self.chat { "chat.completion.chunk" } else { "text_completion" },
            "created": self.created, "model": self.model, "choices": choices,
        })
    }

    fn count(&mut self, answer: &Answer) {
        self.counts[0] = answer.prompt_tokens;
        self.counts[1] = self.counts[1].max(answer.cached_tokens);
        self.counts[2] += answer.tokens.len();
    }

    fn usage(&self) -> Value {
        let [prompt, cached, completion] = self.counts;
        json!({
            "prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }

    /// Adds log-probabilities and token ids to a choice.
    fn annotate(&self, choice: &mut Value, answer: &Answer, model: &Model) {
        if self.token_ids {
            choice["token_ids"] = json!(answer.tokens);
        }
        choice["logprobs"] = match (self.logprobs, self.chat) {
            (false, _) => Value::Null,
            (true, true) => {
                let pairs = answer.tokens.iter().zip(&answer.logprobs);
                let one = |(token, logprob): (&u32, &f32)| {
                    let text = model.tokenizer.decode(&[*token], false).unwrap_or_default();
                    // A part of a character has no text of its own.
                    let whole = !text.contains(char::REPLACEMENT_CHARACTER);
                    json!({
                        "token": text, "logprob": logprob, "top_logprobs": [],
                        "bytes": whole.then(|| text.as_bytes().to_vec()),
                    })
                };
                json!({"content": pairs.map(one).collect::<Vec<_>>(), "refusal": null})
            }
            (true, false) => {
                let text = |t: &u32| model.tokenizer.decode(&[*t], false).unwrap_or_default();
                json!({
                    "tokens": answer.tokens.iter().map(text).collect::<Vec<_>>(),
                    "token_logprobs": answer.logprobs, "top_logprobs": null, "text_offset": [],
                })
            }
        };
    }

    /// The first events of a stream.
    pub(super) fn begin(&self) -> VecDeque<String> {
        if !self.chat {
            return VecDeque::new();
        }
        let one = |index| {
            let delta = json!({"role": "assistant", "content": ""});
            json!({"index": index, "delta": delta, "finish_reason": null, "logprobs": null})
        };
        (0..self.choices)
            .map(|index| {
                let mut event = self.envelope(json!([one(index)]));
                if self.token_ids {
                    event["prompt_token_ids"] = json!(self.prompt);
                }
                event.to_string()
            })
            .collect()
    }

    /// More text. Where tools may be called it waits for the end: only then
    /// can a call be told from text.
    pub(super) fn text(&self, index: usize, text: &str) -> Option<String> {
        if self.tools {
            return None;
        }
        let mut choice = json!({"index": index, "finish_reason": null, "logprobs": null});
        if self.chat {
            choice["delta"] = json!({"content": text});
        } else {
            choice["text"] = text.into();
        }
        Some(self.envelope(json!([choice])).to_string())
    }

    /// The end of a choice. What was not sent as text is sent first.
    pub(super) fn end(&mut self, index: usize, answer: &Answer, model: &Model) -> Vec<String> {
        self.count(answer);
        let said = Said::of(answer, self.tools);
        let mut events = Vec::new();
        let mut choice = json!({"index": index, "finish_reason": said.finish});
        if self.chat {
            choice["delta"] = json!({});
            if self.tools {
                let mut delta = json!({"content": said.text});
                if !said.calls.is_empty() {
                    delta["tool_calls"] = said.calls.into();
                }
                let said = json!({"index": index, "delta": delta, "finish_reason": null});
                events.push(self.envelope(json!([said])).to_string());
            }
        } else {
            choice["text"] = "".into();
        }
        self.annotate(&mut choice, answer, model);
        events.push(self.envelope(json!([choice])).to_string());
        events
    }

    /// The last events of a stream.
    pub(super) fn close(&self) -> Vec<String> {
        let mut events = Vec::new();
        if self.usage {
            let mut event = self.envelope(json!([]));
            event["usage"] = self.usage();
            events.push(event.to_string());
        }
        events.push("[DONE]".to_owned());
        events
    }
}

/// What an answer says, and calls.
struct Said {
    text: String,
    calls: Vec<Value>,
    finish: &'static str,
}

/// Calls as models of this size write them: JSON between tags.
static CALL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)<tool_call>\s*(\{.*?\})\s*</tool_call>").expect("valid"));

impl Said {
    fn of(answer: &Answer, tools: bool) -> Self {
        let mut calls = Vec::new();
        if tools {
            for (n, found) in CALL.captures_iter(&answer.text).enumerate() {
                let parsed: Result<Value, _> = serde_json::from_str(&found[1]);
                let Ok(call) = parsed else { continue };
                let Some(name) = call["name"].as_str() else {
                    continue;
                };
                let arguments = match &call["arguments"] {
                    Value::String(text) => text.clone(),
                    Value::Null => "{}".into(),
                    other => other.to_string(),
                };
                calls.push(json!({
                    "index": n, "id": format!("call_{n}"), "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }));
            }
        }
        let text = match calls.is_empty() {
            true => answer.text.clone(),
            false => CALL.replace_all(&answer.text, "").trim().to_owned(),
        };
        let finish = match (answer.finish, calls.is_empty()) {
            (Finish::Stop, false) => "tool_calls",
            (Finish::Stop, true) => "stop",
            (Finish::Length | Finish::OutOfTime, _) => "length",
        };
        Self {
            text,
            calls,
            finish,
        }
    }

    fn message(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.text});
        if !self.calls.is_empty() {
            let calls = self.calls.iter().cloned().map(|mut call| {
                if let Some(map) = call.as_object_mut() {
                    map.remove("index");
                }
                call
            });
            message["tool_calls"] = calls.collect();
        }
        message
    }
}
