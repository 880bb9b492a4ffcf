//! `swegym serve`: the OpenAI API over a tiny model.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::{expect, root, swegym, trial};

pub fn trials() -> Vec<Trial> {
    let test =
        |name: &str, run: fn() -> Result<(), Failed>| trial(&format!("serving: {name}"), None, run);
    vec![
        test("answers are the same streamed and whole", answers),
        test(
            "requests that make no sense are refused as the API does",
            refusals,
        ),
        test("a full queue says when to come again", full),
        test("a port that is taken is an error", taken),
    ]
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(model: &str, more: &[&str]) -> Result<Self, Failed> {
        let model = root().join("fixtures/models").join(model);
        let mut child = swegym(["serve"])
            .arg(model)
            .args(["--port", "0", "--name", "tiny"])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let line = lines.next().ok_or("it said nothing")??;
        let url = line
            .split(" on ")
            .nth(1)
            .ok_or_else(|| line.clone())?
            .to_owned();
        // Whatever else it says must not block it.
        std::thread::spawn(move || for _ in lines {});
        Ok(Self { child, url })
    }

    fn post(&self, path: &str, body: &Value) -> Result<(u16, Option<String>, String), Failed> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let mut response = agent
            .post(format!("{}{path}", self.url))
            .header("Content-Type", "application/json")
            .send(body.to_string())?;
        let after = response.headers().get("retry-after");
        let after = after.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        Ok((status, after, response.body_mut().read_to_string()?))
    }

    fn chat(&self, more: Value) -> Result<Value, Failed> {
        let (status, _, text) = self.post("/chat/completions", &chat(more))?;
        if status != 200 {
            return Err(format!("{status}: {text}").into());
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// Ends it as Ctrl-C does.
    fn stop(mut self) -> Result<(), Failed> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("it ended with {status}").into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0, "max_tokens": 12,
    });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

fn want(what: &str, got: &Value, want: &Value) -> Result<(), Failed> {
    match got == want {
        true => Ok(()),
        false => Err(format!("{what}: {got}, not {want}").into()),
    }
}

fn answers() -> Result<(), Failed> {
    let server = Server::start("qwen2", &[])?;
    let whole = server.chat(json!({"logprobs": true, "return_token_ids": true}))?;
    let choice = &whole["choices"][0];
    let ids = choice["token_ids"].as_array().ok_or("no token ids")?;
    let logprobs = choice["logprobs"]["content"]
        .as_array()
        .ok_or("no logprobs")?;
    want("logprobs", &json!(logprobs.len()), &json!(ids.len()))?;
    want(
        "usage",
        &whole["usage"]["completion_tokens"],
        &json!(ids.len()),
    )?;
    let prompt = whole["prompt_token_ids"]
        .as_array()
        .ok_or("no prompt ids")?;
    want(
        "prompt",
        &whole["usage"]["prompt_tokens"],
        &json!(prompt.len()),
    )?;
    if logprobs
        .iter()
        .any(|l| l["logprob"].as_f64().is_none_or(|l| l > 0.0))
    {
        return Err(format!("odd log-probabilities: {logprobs:?}").into());
    }
    let text = choice["message"]["content"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    // The same in a stream, with the usage last.
    let more = json!({"stream": true, "stream_options": {"include_usage": true}, "return_token_ids": true});
    let (_, _, stream) = server.post("/chat/completions", &chat(more))?;
    let events: Vec<&str> = stream
        .lines()
        .filter_map(|l| l.strip_prefix("data: "))
        .collect();
    want("end", &json!(events.last()), &json!("[DONE]"))?;
    let mut streamed = String::new();
    let mut streamed_ids = Value::Null;
    for event in &events[..events.len() - 1] {
        let event: Value = serde_json::from_str(event)?;
        streamed += event["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default();
        if !event["choices"][0]["token_ids"].is_null() {
            streamed_ids = event["choices"][0]["token_ids"].clone();
        }
        if event["choices"].as_array().is_some_and(Vec::is_empty) {
            want(
                "usage",
                &event["usage"]["completion_tokens"],
                &json!(ids.len()),
            )?;
        }
    }
    want("streamed", &json!(streamed), &json!(text))?;
    want("streamed ids", &streamed_ids, &choice["token_ids"])?;
    // Completions over the same tokens say the same.
    let body = json!({"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 12, "return_token_ids": true});
    let (_, _, plain) = server.post("/completions", &body)?;
    let plain: Value = serde_json::from_str(&plain)?;
    want(
        "completion",
        &plain["choices"][0]["token_ids"],
        &choice["token_ids"],
    )?;
    // Several choices are drawn apart, and the same for a seed.
    let drawn = || server.chat(json!({"n": 4, "temperature": 1.0, "seed": 7}));
    let first = drawn()?;
    want("seed", &drawn()?["choices"], &first["choices"])?;
    let texts = |v: &Value| -> Vec<String> {
        let choices = v["choices"].as_array().into_iter().flatten();
        choices
            .map(|c| c["message"]["content"].to_string())
            .collect()
    };
    let all = texts(&first);
    if all.len() != 4 || all.iter().all(|t| *t == all[0]) {
        return Err(format!("choices are not drawn: {all:?}").into());
    }
    let stop: String = text.chars().skip(2).take(2).collect();
    let stopped = server.chat(json!({"stop": stop}))?;
    let shown = stopped["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if shown.contains(&stop) || stopped["choices"][0]["finish_reason"] != "stop" {
        return Err(format!("a stop word does not stop: {stopped}").into());
    }
    server.stop()
}

fn refusals() -> Result<(), Failed> {
    let server = Server::start("qwen2", &[])?;
    let cases = [
        (
            json!({"messages": null}),
            400,
            "`messages` is missing",
            "messages",
        ),
        (
            json!({"messages": [{"role": "x"}]}),
            400,
            "`messages`",
            "messages",
        ),
        (
            json!({"temperature": -1}),
            400,
            "`temperature`",
            "temperature",
        ),
        (json!({"n": 0}), 400, "`n`", "n"),
        (
            json!({"response_format": {"type": "json_object"}}),
            400,
            "not supported",
            "response_format",
        ),
        (
            json!({"logit_bias": {"1": 5}}),
            400,
            "not supported",
            "logit_bias",
        ),
        (
            json!({"top_logprobs": 3}),
            400,
            "chosen tokens only",
            "top_logprobs",
        ),
        (json!({"model": "other"}), 404, "tiny is", "model"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            400,
            "writes no tools",
            "tools",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x ".repeat(600)}]}),
            400,
            "more than the context",
            "messages",
        ),
    ];
    for (more, status, words, param) in cases {
        let (got, _, text) = server.post("/chat/completions", &chat(more))?;
        let error: Value = serde_json::from_str(&text)?;
        let message = error["error"]["message"].as_str().unwrap_or_default();
        if got != status || !message.contains(words) || error["error"]["param"] != param {
            return Err(format!("{got}: {text}; wanted {status}, {words}, {param}").into());
        }
    }
    let (status, _, text) = server.post("/completions", &json!({"prompt": "a", "echo": true}))?;
    want("echo", &json!(status), &json!(400))?;
    let (status, _, _) = server.post("/embeddings", &json!({}))?;
    want(&text, &json!(status), &json!(404))?;
    // Tools are called as text, where the template knows them.
    let llama = Server::start("llama", &[])?;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let answer = llama.chat(json!({"tools": tools}))?;
    if answer["choices"][0]["message"]["content"]
        .as_str()
        .is_none()
    {
        return Err(format!("no answer with tools: {answer}").into());
    }
    Ok(())
}

/// One at a time, and one that waits: of many at once some are refused.
fn full() -> Result<(), Failed> {
    let server = Server::start("qwen3", &["--slots", "1", "--queue", "1"])?;
    let ask = || {
        server.post(
            "/chat/completions",
            &chat(json!({"max_tokens": 400, "temperature": 1.0})),
        )
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| ask().map_err(|_| ())))
            .collect();
        all.into_iter().map(|t| t.join()).collect()
    });
    let mut counts = (0, 0);
    for answer in answers {
        match answer {
            Ok(Ok((200, ..))) => counts.0 += 1,
            Ok(Ok((429, Some(after), text)))
                if after == "1" && text.contains("rate_limit_error") =>
            {
                counts.1 += 1;
            }
            other => return Err(format!("an odd answer: {other:?}").into()),
        }
    }
    if counts.0 == 0 || counts.1 == 0 {
        return Err(format!("{counts:?} answered and refused").into());
    }
    Ok(())
}

fn taken() -> Result<(), Failed> {
    let holder = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = holder.local_addr()?.port().to_string();
    let model = root().join("fixtures/models/qwen2");
    let output = swegym(["serve", "--port", &port]).arg(&model).output()?;
    expect(&output, 5, &["cannot listen on", "--port"])?;
    let mut child = swegym(["serve"])
        .arg(Path::new("no-model"))
        .stderr(Stdio::piped())
        .spawn()?;
    let mut text = String::new();
    child
        .stderr
        .take()
        .ok_or("no stderr")?
        .read_to_string(&mut text)?;
    child.wait()?;
    match text.contains("neither a path") {
        true => Ok(()),
        false => Err(text.into()),
    }
}
