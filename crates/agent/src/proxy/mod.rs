//! The capture proxy: the model as any other agent sees it.
//!
//! An agent in a sandbox without network speaks OpenAI's chat completions or
//! Anthropic's messages to a socket of its episode. The proxy asks the run's
//! model, whatever that is, and writes down what was said. Keys stay with the
//! model, outside; caps hold because a call that would break one is refused.

mod anthropic;
mod capture;
mod openai;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Map, Value, json};
use swegym_core::{ChatMessage, End, Tool, Trajectory};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::episode::{Call, Ledger, Limits, ended};
use crate::model::{Model, ModelError, Reply, Request, Sampling, Usage};

use capture::Captured;

/// Serves the sockets of all episodes.
pub struct Proxy {
    runtime: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What a call may be, and who hears of it.
pub struct SessionOptions {
    /// Name of the episode.
    pub id: String,
    /// Which try of it.
    pub attempt: u32,
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// Values that replace the agent's own where they are set.
    pub sampling: Sampling,
    /// Whether `sampling.max_tokens` replaces the agent's own.
    pub cap_output: bool,
    /// When the episode ends at the latest.
    pub limits: Limits,
    /// Who counts.
    pub ledger: Arc<dyn Ledger>,
    /// File that is made when a cap is reached, for whoever runs the agent.
    pub stop_file: PathBuf,
}

/// The socket of one episode.
pub struct Session {
    shared: Arc<Shared>,
    close: Option<oneshot::Sender<()>>,
    socket: PathBuf,
}

struct Shared {
    options: SessionOptions,
    deadline: Option<Instant>,
    state: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    captured: Captured,
    usage: Usage,
    turns: u32,
    begun: u32,
    model_seconds: f64,
    end: Option<End>,
    rejected: bool,
}

/// What an agent said to the model, and heard.
pub struct Transcript {
    /// The conversation with the most calls, and the others as subagents'.
    pub trajectory: Trajectory,
    /// Tokens and cost.
    pub usage: Usage,
    /// Calls that were answered.
    pub turns: u32,
    /// Waiting for the model, seconds; calls at the same time each count.
    pub model_seconds: f64,
    /// The end that the proxy brought about, if it did.
    pub end: Option<End>,
    /// Whether the provider takes no request of ours at all.
    pub rejected: bool,
}

/// A call in any of the APIs, understood.
struct Asked {
    messages: Vec<ChatMessage>,
    tools: Vec<Tool>,
    stop: Vec<String>,
    sampling: Sampling,
    stream: bool,
}

impl Proxy {
    /// Starts the thread that all sockets are served from.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Every call of the model waits in a thread of its own.
            .max_blocking_threads(2048)
            .thread_name("proxy")
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("proxy".into())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Opens the socket of an episode.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn open(&self, socket: &Path, options: SessionOptions) -> std::io::Result<Session> {
        let guard = self.runtime.enter();
        let listener = UnixListener::bind(socket)?;
        drop(guard);
        let shared = Arc::new(Shared {
            deadline: options.limits.time.map(|limit| Instant::now() + limit),
            options,
            state: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(openai::serve))
            .route("/chat/completions", post(openai::serve))
            .route("/v1/messages", post(anthropic::serve))
            .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
            .route("/v1/models", get(openai::models))
            .route("/models", get(openai::models))
            .fallback(unknown)
            .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
            .with_state(shared.clone());
        let (close, closed) = oneshot::channel::<()>();
        self.runtime.spawn(async move {
            let server = axum::serve(listener, router).with_graceful_shutdown(async move {
                let _ = closed.await;
            });
            let _ = server.await;
        });
        Ok(Session {
            shared,
            close: Some(close),
            socket: socket.to_owned(),
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Session {
    /// Closes the socket; what was said.
    pub fn finish(mut self, agent: swegym_core::AgentInfo) -> Transcript {
        self.shut();
        let mut state = self.shared.lock();
        let captured = std::mem::take(&mut state.captured);
        Transcript {
            trajectory: captured.trajectory(agent, &self.shared.options.id),
            usage: state.usage,
            turns: state.turns,
            model_seconds: state.model_seconds,
            end: state.end.clone(),
            rejected: state.rejected,
        }
    }

    fn shut(&mut self) {
        if let Some(close) = self.close.take() {
            let _ = close.send(());
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shut();
    }
}

/// Why a call is not answered.
enum Refusal {
    /// A cap is reached, or the episode is over.
    Over(String),
    /// The model failed.
    Model(ModelError),
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the model on behalf of the agent. Blocks.
    fn ask(&self, asked: Asked) -> Result<Reply, Refusal> {
        let number = {
            let mut state = self.lock();
            if let Some(end) = &state.end {
                return Err(Refusal::Over(over(end)));
            }
            let limits = &self.options.limits;
            let limit = limits.reached(self.deadline, state.begun, &state.usage);
            if let Some(limit) = limit {
                return Err(self.end(&mut state, End::Truncated { limit }));
            }
            // Calls in flight count: with many at once the cap holds all the
            // same.
            state.begun += 1;
            state.begun - 1
        };
        let request = Request {
            messages: &asked.messages,
            tools: &asked.tools,
            stop: &asked.stop,
            sampling: &asked.sampling,
            deadline: self.deadline,
        };
        let options = &self.options;
        let call = Call {
            episode: &options.id,
            attempt: options.attempt,
            number,
            most_cost: options.model.most_cost(&request),
        };
        if let Err(limit) = options.ledger.begin(call) {
            return Err(self.end(&mut self.lock(), End::Truncated { limit }));
        }
        let clock = Instant::now();
        let answer = options.model.complete(&request);
        let usage = answer.as_ref().ok().map(|reply| &reply.usage);
        options.ledger.end(call, usage);
        let mut state = self.lock();
        state.model_seconds += clock.elapsed().as_secs_f64();
        match answer {
            Ok(reply) => {
                state.turns += 1;
                state.usage.add(&reply.usage);
                state.captured.add(asked.messages, asked.tools, &reply);
                Ok(reply)
            }
            Err(error) => {
                state.rejected |= matches!(error, ModelError::Rejected(_));
                // What a shorter conversation or another question may mend is
                // the agent's to hear.
                if !matches!(error, ModelError::Context(_) | ModelError::Refused(_)) {
                    self.end(&mut state, ended(&error));
                }
                Err(Refusal::Model(error))
            }
        }
    }

    /// Ends the episode: no further call, and whoever runs the agent hears.
    fn end(&self, state: &mut Taken, end: End) -> Refusal {
        let refusal = Refusal::Over(over(&end));
        if state.end.is_none() {
            state.end = Some(end);
            // Without the file the agent ends by itself, or at its time.
            let _ = std::fs::write(&self.options.stop_file, b"");
        }
        refusal
    }

    /// The agent's own settings, with those of the run in their place.
    fn sampling(&self, own: Sampling) -> Sampling {
        let run = &self.options.sampling;
        Sampling {
            temperature: run.temperature.or(own.temperature),
            top_p: run.top_p.or(own.top_p),
            max_tokens: if self.options.cap_output {
                own.max_tokens.min(run.max_tokens)
            } else {
                own.max_tokens
            },
            seed: run.seed.or(own.seed),
            token_ids: run.token_ids || own.token_ids,
            extra: own.extra.into_iter().chain(run.extra.clone()).collect(),
        }
    }
}

fn over(end: &End) -> String {
    format!("the episode is over: {}", end.name())
}

/// Runs a blocking call away from the thread that serves.
async fn ask(shared: Arc<Shared>, asked: Asked) -> Result<Reply, Refusal> {
    tokio::task::spawn_blocking(move || shared.ask(asked))
        .await
        .unwrap_or_else(|e| Err(Refusal::Over(e.to_string())))
}

/// A body as a JSON object, or what to answer.
fn object(body: &Bytes) -> Result<Map<String, Value>, Box<Response>> {
    serde_json::from_slice(body).map_err(|e| {
        let error = json!({"error": {"type": "invalid_request_error", "message": e.to_string()}});
        Box::new((StatusCode::BAD_REQUEST, axum::Json(error)).into_response())
    })
}

/// Status, kind and message of a refusal. No client tries 403 again.
fn status(refusal: &Refusal) -> (StatusCode, &'static str, String) {
    match refusal {
        Refusal::Over(why) => (StatusCode::FORBIDDEN, "episode_over", why.clone()),
        Refusal::Model(error) => {
            let (status, kind) = match error {
                ModelError::Context(_) => (StatusCode::BAD_REQUEST, "context_length_exceeded"),
                ModelError::Refused(_) => (StatusCode::BAD_REQUEST, "content_filter"),
                _ => (StatusCode::FORBIDDEN, "model_failed"),
            };
            (status, kind, error.to_string())
        }
    }
}

fn events(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response()
}

async fn unknown(State(_): State<Arc<Shared>>, uri: axum::http::Uri) -> Response {
    let message =
        format!("{uri} is not served here; there are /v1/chat/completions and /v1/messages");
    let error = json!({"error": {"type": "not_found_error", "message": message}});
    (StatusCode::NOT_FOUND, axum::Json(error)).into_response()
}
