//! OpenAI's chat completions, as OpenAI, vLLM, SGLang, llama.cpp and many
//! others serve them (FORMATS 6.1).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swegym_core::{ChatMessage, ChatToolCall, Content, Role, Tool};

use super::http::{Answer, Http, HttpOptions};
use super::{Finish, Model, ModelError, Prices, Reply, Request, Tokens, Usage, most_tokens};

/// A model behind `POST …/chat/completions`.
#[derive(Debug)]
pub struct OpenAi {
    name: String,
    http: Http,
    prices: Option<Prices>,
}

impl OpenAi {
    /// A model at a base URL such as `http://127.0.0.1:8000/v1`. Without a
    /// key no `Authorization` is sent.
    pub fn new(
        name: impl Into<String>,
        base_url: &str,
        key: Option<&str>,
        prices: Option<Prices>,
        options: HttpOptions,
    ) -> Self {
        let headers = key
            .map(|key| ("authorization", format!("Bearer {key}")))
            .into_iter()
            .collect();
        let url = format!("{}/chat/completions", base_url.trim_end_matches('/'));
        Self {
            name: name.into(),
            http: Http::new(url, headers, options),
            prices,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: &'a [ChatMessage],
    #[serde(skip_serializing_if = "<[Tool]>::is_empty")]
    tools: &'a [Tool],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    logprobs: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    return_token_ids: bool,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Deserialize)]
struct Answered {
    #[serde(default)]
    model: String,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    prompt_token_ids: Option<Vec<i64>>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<Value>,
    #[serde(default)]
    token_ids: Option<Vec<i64>>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<ChatToolCall>>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

impl Model for OpenAi {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        let s = request.sampling;
        let body = serde_json::to_vec(&Body {
            model: &self.name,
            messages: request.messages,
            tools: request.tools,
            temperature: s.temperature,
            top_p: s.top_p,
            max_tokens: s.max_tokens,
            stop: request.stop,
            seed: s.seed,
            logprobs: s.token_ids,
            return_token_ids: s.token_ids,
            extra: &s.extra,
        })
        .expect("messages serialise");
        let answer = self.http.post(&body, request.deadline)?;
        let mut reply = read(answer)?;
        if reply.usage.cost_usd.is_none() {
            reply.usage.cost_usd = self.prices.and_then(|p| p.cost(&reply.usage));
        }
        Ok(reply)
    }

    fn most_cost(&self, request: &Request<'_>) -> Option<f64> {
        self.prices?.cost(&Usage {
            prompt_tokens: Some(most_tokens(request)),
            completion_tokens: Some(request.sampling.max_tokens),
            ..Usage::default()
        })
    }
}

/// Reads an answer of the API.
fn read(answer: Answer) -> Result<Reply, ModelError> {
    let attempts = answer.attempts;
    let strange = |problem: String| ModelError::Provider { problem, attempts };
    if let Some(error) = answer.body.get("error").filter(|e| !e.is_null()) {
        return Err(strange(format!("answers with an error: {error}")));
    }
    let header_cost = answer
        .headers
        .get("x-litellm-response-cost")
        .and_then(|v| v.to_str().ok()?.parse().ok());
    let body: Answered = serde_json::from_value(answer.body)
        .map_err(|e| strange(format!("answer is no chat completion: {e}")))?;
    let choice = body
        .choices
        .into_iter()
        .next()
        .ok_or_else(|| strange("answer has no choice".into()))?;
    let said = choice.message;
    let refused = said.refusal.filter(|text| !text.is_empty());
    let finish = match (choice.finish_reason.as_deref(), &refused) {
        (_, Some(_)) | (Some("content_filter"), _) => Finish::Refusal,
        (Some("length"), _) => Finish::Length,
        (Some("tool_calls" | "function_call"), _) => Finish::ToolCalls,
        (Some("stop") | None, _) => Finish::Stop,
        (Some(other), _) => Finish::Other(other.to_owned()),
    };
    let mut message = ChatMessage {
        content: said.content.or(refused.map(Content::Text)),
        reasoning_content: said.reasoning_content.or(said.reasoning),
        tool_calls: said.tool_calls.unwrap_or_default(),
        ..ChatMessage::new(Role::Assistant, "")
    };
    for (index, call) in message.tool_calls.iter_mut().enumerate() {
        if call.id.is_empty() {
            call.id = format!("call_{index}");
        }
    }
    let mut usage = body.usage.as_ref().map(usage_of).unwrap_or_default();
    usage.cost_usd = usage.cost_usd.or(header_cost);
    let logprobs = choice.logprobs.as_ref().and_then(logprobs_of);
    let tokens = Tokens {
        prompt: body.prompt_token_ids,
        completion: choice.token_ids,
        logprobs,
    };
    let any = tokens.prompt.is_some() || tokens.completion.is_some() || tokens.logprobs.is_some();
    Ok(Reply {
        message,
        finish,
        usage,
        model: body.model,
        tokens: any.then_some(tokens),
        seconds: answer.seconds,
        attempts,
    })
}

/// Reads `usage`; a provider that counts cost (OpenRouter) has `cost`.
pub(crate) fn usage_of(usage: &Value) -> Usage {
    let count = |path: &str| usage.pointer(path).and_then(Value::as_u64);
    Usage {
        prompt_tokens: count("/prompt_tokens"),
        completion_tokens: count("/completion_tokens"),
        cached_tokens: count("/prompt_tokens_details/cached_tokens"),
        cost_usd: usage.get("cost").and_then(Value::as_f64),
    }
}

/// `{"content": [{"token", "logprob"}]}` -> log-probabilities.
pub(crate) fn logprobs_of(logprobs: &Value) -> Option<Vec<f64>> {
    let all = logprobs.get("content")?.as_array()?;
    all.iter().map(|t| t.get("logprob")?.as_f64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use ureq::http::HeaderMap;

    fn reply(body: Value) -> Result<Reply, ModelError> {
        read(Answer {
            body,
            headers: HeaderMap::new(),
            seconds: 0.5,
            attempts: 2,
        })
    }

    #[test]
    fn what_engines_add_is_kept() {
        let got = reply(json!({
            "model": "m", "prompt_token_ids": [1, 2, 3],
            "choices": [{
                "message": {"role": "assistant", "content": null, "reasoning_content": "hm",
                    "tool_calls": [{"id": "", "type": "function",
                        "function": {"name": "bash", "arguments": "{}"}}]},
                "finish_reason": "tool_calls", "token_ids": [4, 5],
                "logprobs": {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.0}]}
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.25,
                "prompt_tokens_details": {"cached_tokens": 1}}
        }))
        .unwrap();
        assert_eq!(got.finish, Finish::ToolCalls);
        assert_eq!(got.message.tool_calls[0].id, "call_0");
        assert_eq!(got.message.reasoning_content.as_deref(), Some("hm"));
        assert_eq!(got.usage.cached_tokens, Some(1));
        assert_eq!(got.usage.cost_usd, Some(0.25));
        let tokens = got.tokens.unwrap();
        assert_eq!(tokens.prompt, Some(vec![1, 2, 3]));
        assert_eq!(tokens.completion, Some(vec![4, 5]));
        assert_eq!(tokens.logprobs, Some(vec![-0.5, -1.0]));
    }

    #[test]
    fn an_answer_without_a_choice_is_the_providers_fault() {
        for body in [
            json!({"choices": []}),
            json!({"hello": 1}),
            json!({"error": {"message": "x"}}),
        ] {
            assert!(matches!(reply(body), Err(ModelError::Provider { .. })));
        }
        let refused = reply(json!({"choices": [{"message": {"refusal": "no"}}]})).unwrap();
        assert_eq!(refused.finish, Finish::Refusal);
    }

    #[test]
    fn cost_counts_cached_tokens_at_their_price() {
        let prices = Prices {
            input: 3.0,
            output: 15.0,
            cached: 0.3,
        };
        let usage = Usage {
            prompt_tokens: Some(1_000_000),
            completion_tokens: Some(100_000),
            cached_tokens: Some(500_000),
            cost_usd: None,
        };
        assert_eq!(prices.cost(&usage), Some(1.5 + 0.15 + 1.5));
        assert_eq!(prices.cost(&Usage::default()), None);
    }
}
