//! GitHub's API, as it answers: bytes, not types. What is read of them is what
//! dumps hold, too, and the readers of dumps are the only ones.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::{BlockingRetryable, ExponentialBuilder};
use http::header::{ACCEPT, HeaderMap, HeaderValue, RETRY_AFTER};
use http_body_util::{BodyExt, Limited};
use octocrab::Octocrab;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

/// JSON, as GitHub names it.
pub const JSON: &str = "application/vnd.github+json";
/// The difference of a pull request.
pub const DIFF: &str = "application/vnd.github.diff";

/// Largest answer that is read, bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client of GitHub's API.
pub struct GitHub {
    api: String,
    client: Octocrab,
    runtime: Runtime,
}

impl fmt::Debug for GitHub {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHub").field("api", &self.api).finish()
    }
}

/// GitHub did not give what was asked for.
#[derive(Debug, Error)]
pub enum GitHubError {
    /// It did not answer.
    #[error("{url}: unreachable: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// It will not, before some time is over.
    #[error("{url}: rate limit used up for another {} s", wait.as_secs())]
    Limited {
        /// What was asked for.
        url: String,
        /// For how long.
        wait: Duration,
    },
    /// It answered with an error.
    #[error("{url}: GitHub says {status}: {message}")]
    Refused {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its own word.
        message: String,
    },
}

impl GitHub {
    /// A client of the API at an address, such as `https://api.github.com`.
    ///
    /// # Errors
    /// If the address is none, or the machine has no certificates.
    pub fn new(api: &str, token: &str) -> Result<Self, GitHubError> {
        let api = api.trim_end_matches('/');
        let unusable = |reason: String| GitHubError::Unreachable {
            url: api.to_owned(),
            reason,
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| unusable(e.to_string()))?;
        // The client starts its workers at once.
        let guard = runtime.enter();
        let client = Octocrab::builder()
            .base_uri(api)
            .map_err(|e| unusable(words(&e)))?
            .personal_token(token.to_owned())
            .set_connect_timeout(Some(TIMEOUT))
            .set_read_timeout(Some(TIMEOUT))
            .build()
            .map_err(|e| unusable(words(&e)))?;
        drop(guard);
        Ok(Self {
            api: api.to_owned(),
            client,
            runtime,
        })
    }

    /// The answer to a request. Passing faults are tried again; what the rate
    /// limit forbids is for the caller to wait for.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, path: &str, accept: &'static str) -> Result<Vec<u8>, GitHubError> {
        let wait = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(300))
            .with_max_times(4)
            .with_jitter();
        let passing = |e: &GitHubError| match e {
            GitHubError::Unreachable { .. } => true,
            GitHubError::Refused { status, .. } => *status >= 500,
            GitHubError::Limited { .. } => false,
        };
        (|| self.runtime.block_on(self.ask(path, accept)))
            .retry(wait)
            .when(passing)
            .call()
    }

    async fn ask(&self, path: &str, accept: &'static str) -> Result<Vec<u8>, GitHubError> {
        let url = format!("{}{path}", self.api);
        let unreachable = |reason: String| GitHubError::Unreachable {
            url: url.clone(),
            reason,
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let answer = tokio::time::timeout(
            TIMEOUT,
            self.client._get_with_headers(url.as_str(), Some(headers)),
        )
        .await
        .map_err(|_| unreachable("no answer in time".to_owned()))?
        .map_err(|e| unreachable(words(&e)))?;
        let (parts, body) = answer.into_parts();
        let body = tokio::time::timeout(TIMEOUT, Limited::new(body, MAX_ANSWER).collect())
            .await
            .map_err(|_| unreachable("the answer does not end".to_owned()))?
            .map_err(|e| unreachable(e.to_string()))?
            .to_bytes();
        let status = parts.status.as_u16();
        if parts.status.is_success() {
            return Ok(body.to_vec());
        }
        if let (403 | 429, Some(wait)) = (status, wait_of(&parts.headers, now())) {
            return Err(GitHubError::Limited { url, wait });
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let message = said.as_ref().and_then(|v| v.get("message")?.as_str());
        Err(GitHubError::Refused {
            url,
            status,
            message: message.unwrap_or("no reason given").to_owned(),
        })
    }
}

/// How long the headers of a refusal ask to wait: `retry-after`, else until
/// the reset of a limit of which nothing remains.
fn wait_of(headers: &HeaderMap, now: u64) -> Option<Duration> {
    let number = |value: &HeaderValue| value.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(seconds) = headers.get(RETRY_AFTER).and_then(number) {
        return Some(Duration::from_secs(seconds));
    }
    let left = headers.get("x-ratelimit-remaining").and_then(number)?;
    let reset = headers.get("x-ratelimit-reset").and_then(number)?;
    // One more: clocks differ.
    (left == 0).then(|| Duration::from_secs(reset.saturating_sub(now) + 1))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

/// An error and what caused it; `octocrab`'s own words say little.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_how_long_to_wait() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect()
        };
        let wait = |pairs: &[(&'static str, &'static str)]| {
            wait_of(&headers(pairs), 1000).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(&[("retry-after", "30")]), Some(30));
        let spent = ("x-ratelimit-remaining", "0");
        assert_eq!(wait(&[spent, ("x-ratelimit-reset", "1060")]), Some(61));
        // A reset that is over: try at once.
        assert_eq!(wait(&[spent, ("x-ratelimit-reset", "900")]), Some(1));
        // Forbidden for another reason.
        let left = ("x-ratelimit-remaining", "12");
        assert_eq!(wait(&[left, ("x-ratelimit-reset", "1060")]), None);
        assert_eq!(wait(&[]), None);
    }
}
