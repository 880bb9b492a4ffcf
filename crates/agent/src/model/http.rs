//! Calls to a provider: retries, rate limits, time limits.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode};

use super::{ModelError, left};

/// Largest answer that is read, bytes.
const MOST_BYTES: u64 = 64 << 20;
/// Longest wait that a provider may ask for before it counts as failed.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How a provider is called.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Limit of one try, from connecting to the last byte.
    pub timeout: Duration,
    /// Tries.
    pub attempts: u32,
    /// First wait between tries; doubles, with jitter.
    pub backoff: Duration,
    /// Longest wait between tries, where the provider names none.
    pub longest_backoff: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            // SWE-Gym's own number of LLM retries.
            attempts: 8,
            backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(60),
        }
    }
}

/// A provider. Connections are kept and shared by all episodes.
pub struct Http {
    agent: Agent,
    url: String,
    headers: Vec<(&'static str, String)>,
    options: HttpOptions,
    /// Nobody calls before this: the provider said so to one of us.
    not_before: Mutex<Option<Instant>>,
}

/// Headers may hold keys.
impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// An answer that could be parsed.
pub(crate) struct Answer {
    pub body: Value,
    pub headers: HeaderMap,
    pub seconds: f64,
    pub attempts: u32,
}

/// Why a try failed.
enum Failure {
    /// Another try may do better, not before this.
    Passing(String, Option<Duration>),
    Final(ModelError),
}

impl Http {
    /// A provider's endpoint. Headers are sent with every call and shown to
    /// nobody.
    pub fn new(
        url: impl Into<String>,
        headers: Vec<(&'static str, String)>,
        options: HttpOptions,
    ) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            // 256 episodes at once each keep their connection.
            .max_idle_connections(1024)
            .max_idle_connections_per_host(1024)
            .build()
            .new_agent();
        Self {
            agent,
            url: url.into(),
            headers,
            options,
            not_before: Mutex::new(None),
        }
    }

    /// Posts a request until there is an answer.
    pub(crate) fn post(
        &self,
        body: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Answer, ModelError> {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(self.options.backoff)
            .with_max_delay(self.options.longest_backoff)
            .with_max_times(self.options.attempts.saturating_sub(1) as usize)
            .with_jitter()
            .build();
        let mut attempts = 0;
        // A provider that keeps us waiting until the episode's time is up has
        // failed; the agent has not.
        let mut refused: Option<String> = None;
        loop {
            self.wait_for_turn(deadline)
                .map_err(|e| whose(e, refused.take(), attempts))?;
            attempts += 1;
            let started = Instant::now();
            match self.attempt(body, deadline) {
                Ok((body, headers)) => {
                    return Ok(Answer {
                        body,
                        headers,
                        seconds: started.elapsed().as_secs_f64(),
                        attempts,
                    });
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(problem, asked)) => {
                    let Some(wait) = waits.next() else {
                        return Err(ModelError::Provider { problem, attempts });
                    };
                    if let Some(asked) = asked {
                        if asked > LONGEST_WAIT {
                            let problem = format!("{problem}; asks to wait {} s", asked.as_secs());
                            return Err(ModelError::Provider { problem, attempts });
                        }
                        self.everyone_waits(asked);
                    }
                    let wait = asked.map_or(wait, |asked| asked.max(wait / 4));
                    sleep(wait, deadline).map_err(|e| whose(e, Some(problem.clone()), attempts))?;
                    refused = Some(problem);
                }
            }
        }
    }

    fn wait_for_turn(&self, deadline: Option<Instant>) -> Result<(), ModelError> {
        left(deadline)?;
        let until = *self
            .not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match until.and_then(|until| until.checked_duration_since(Instant::now())) {
            Some(wait) => {
                sleep(wait, deadline).map_err(|e| whose(e, Some("asks everyone to wait".into()), 0))
            }
            None => Ok(()),
        }
    }

    fn everyone_waits(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut slot = self
            .not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if slot.is_none_or(|known| known < until) {
            *slot = Some(until);
        }
    }

    fn attempt(
        &self,
        body: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(Value, HeaderMap), Failure> {
        let left = left(deadline).map_err(Failure::Final)?;
        let limit = left.map_or(self.options.timeout, |left| left.min(self.options.timeout));
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let passing = |e: ureq::Error| {
            // The model was still at it when the episode's time was up.
            let ours = matches!(e, ureq::Error::Timeout(_)) && limit < self.options.timeout;
            if ours {
                return Failure::Final(ModelError::OutOfTime);
            }
            Failure::Passing(self.describe(&e), None)
        };
        let mut response = request
            .config()
            .timeout_global(Some(limit))
            .build()
            .send(body)
            .map_err(passing)?;
        let status = response.status();
        let headers = response.headers().clone();
        let bytes = response
            .body_mut()
            .with_config()
            .limit(MOST_BYTES)
            .read_to_vec()
            .map_err(passing)?;
        if !status.is_success() {
            return Err(refused(status, &headers, &bytes));
        }
        match serde_json::from_slice(&bytes) {
            Ok(body) => Ok((body, headers)),
            Err(e) => Err(Failure::Passing(
                format!("answer is not JSON: {e}: {}", snippet(&bytes)),
                None,
            )),
        }
    }

    fn describe(&self, error: &ureq::Error) -> String {
        let host = self.url.split('/').nth(2).unwrap_or(&self.url);
        format!("{host}: {error}")
    }
}

/// Time that ran out while waiting for a provider is the provider's.
fn whose(error: ModelError, refused: Option<String>, attempts: u32) -> ModelError {
    match (error, refused) {
        (ModelError::OutOfTime, Some(problem)) => ModelError::Provider { problem, attempts },
        (error, _) => error,
    }
}

fn sleep(wait: Duration, deadline: Option<Instant>) -> Result<(), ModelError> {
    let left = left(deadline)?;
    std::thread::sleep(left.map_or(wait, |left| left.min(wait)));
    super::left(deadline).map(|_| ())
}

/// What a status other than success means.
fn refused(status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Failure {
    let code = status.as_u16();
    let message = error_message(bytes);
    let text = format!("status {code}: {message}");
    let lower = message.to_lowercase();
    let too_long = [
        "context length",
        "context_length",
        "context window",
        "context size",
        "maximum context",
        "too long",
        "too many tokens",
    ];
    let unsafe_words = [
        "content_filter",
        "content policy",
        "content_policy",
        "safety",
    ];
    match code {
        // 409 is a conflict of locks, 529 Anthropic's "overloaded".
        408 | 409 | 425 | 429 | 500..=599 => {
            if lower.contains("insufficient_quota") || lower.contains("billing") {
                return Failure::Final(ModelError::Rejected(text));
            }
            Failure::Passing(text, asked_wait(headers))
        }
        400 | 413 | 422 if code == 413 || too_long.iter().any(|w| lower.contains(w)) => {
            Failure::Final(ModelError::Context(text))
        }
        400 | 403 if unsafe_words.iter().any(|w| lower.contains(w)) => {
            Failure::Final(ModelError::Refused(text))
        }
        _ => Failure::Final(ModelError::Rejected(text)),
    }
}

/// The wait that a provider asks for: `Retry-After` in seconds or as a date,
/// `retry-after-ms`, or OpenAI's reset times.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let get = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(ms) = get("retry-after-ms").and_then(|v| v.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let after = get("retry-after")?.trim();
    if let Ok(seconds) = after.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date: Timestamp = rfc2822::parse(after).ok()?.timestamp();
    let wait = date.as_second() - Timestamp::now().as_second();
    u64::try_from(wait).ok().map(Duration::from_secs)
}

/// The provider's words: `error.message` and `error.code` where there are.
fn error_message(bytes: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else {
        return snippet(bytes);
    };
    let error = body.get("error").unwrap_or(&body);
    let words = ["code", "type", "message", "detail"]
        .iter()
        .filter_map(|name| error.get(name).and_then(Value::as_str))
        .collect::<Vec<_>>()
        .join(": ");
    if words.is_empty() {
        snippet(bytes)
    } else {
        words
    }
}

fn snippet(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn providers_ask_for_a_wait_in_several_ways() {
        let wait = |pairs: &[(&'static str, &str)]| asked_wait(&headers(pairs));
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(&[("retry-after-ms", "250"), ("retry-after", "1")]),
            Some(Duration::from_millis(250))
        );
        let soon =
            Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC) + jiff::Span::new().seconds(30);
        let date = rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&soon.timestamp())
            .unwrap();
        let got = wait(&[("retry-after", &date)]).unwrap();
        assert!((28..=30).contains(&got.as_secs()), "{got:?}");
        assert_eq!(wait(&[("retry-after", "soon")]), None);
    }

    /// A server that gives every connection this answer, or none.
    fn server(answer: Option<&'static str>) -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                if let Some(answer) = answer {
                    let _ = stream.write_all(answer.as_bytes());
                } else {
                    open.push(stream);
                }
            }
        });
        url
    }

    #[test]
    fn time_that_a_provider_wastes_is_not_the_agents() {
        let post = |answer| {
            let options = HttpOptions {
                backoff: Duration::from_millis(50),
                attempts: 100,
                ..HttpOptions::default()
            };
            let http = Http::new(server(answer), Vec::new(), options);
            let deadline = Instant::now() + Duration::from_millis(400);
            http.post(b"{}", Some(deadline)).map(|_| ()).unwrap_err()
        };
        let busy = "HTTP/1.1 429 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let error = post(Some(busy));
        assert!(matches!(error, ModelError::Provider { .. }), "{error}");
        assert_eq!(post(None), ModelError::OutOfTime);
    }

    #[test]
    fn a_status_means_what_it_says() {
        let kind = |code: u16, body: &str| match refused(
            StatusCode::from_u16(code).unwrap(),
            &HeaderMap::new(),
            body.as_bytes(),
        ) {
            Failure::Passing(..) => "passing",
            Failure::Final(ModelError::Context(_)) => "context",
            Failure::Final(ModelError::Refused(_)) => "refused",
            Failure::Final(ModelError::Rejected(_)) => "rejected",
            Failure::Final(_) => "other",
        };
        for (code, body, want) in [
            (429, "", "passing"),
            (529, r#"{"error":{"type":"overloaded_error"}}"#, "passing"),
            (500, "<html>", "passing"),
            (
                429,
                r#"{"error":{"code":"insufficient_quota"}}"#,
                "rejected",
            ),
            (
                400,
                r#"{"error":{"code":"context_length_exceeded","message":"…"}}"#,
                "context",
            ),
            (
                400,
                r#"{"error":{"message":"prompt is too long: 210000 tokens"}}"#,
                "context",
            ),
            (400, r#"{"error":{"code":"content_filter"}}"#, "refused"),
            (400, r#"{"error":{"message":"bad tool"}}"#, "rejected"),
            (401, r#"{"error":{"message":"bad key"}}"#, "rejected"),
        ] {
            assert_eq!(kind(code, body), want, "{code} {body}");
        }
    }
}
