//! A model of this program as an OpenAI-compatible server: chat completions
//! and completions, streamed or not, with log-probabilities and token ids as
//! vLLM gives them (FORMATS.md section 6.1).

mod answer;
mod request;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use swegym_learn::LearnError;
use swegym_learn::infer::{Answer, Engine, EngineOptions, Progress};
use swegym_learn::model::Model;
use tokio::sync::mpsc;

use crate::Error;
use crate::dispatch::Cancel;
use crate::train::learn;

use answer::Told;
use request::Asked;

/// Where and how a model is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Address to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// Sequences that decode at once.
    pub slots: usize,
    /// Requests that wait; more are refused with 429.
    pub queue: usize,
}

/// Time for answers under way after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// An error in the shape of the API.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl Refusal {
    fn bad(param: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "invalid_request_error",
            code: None,
            param: (!param.is_empty()).then(|| param.to_owned()),
            message: message.into(),
        }
    }

    fn to_json(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }
}

impl From<LearnError> for Refusal {
    fn from(error: LearnError) -> Self {
        let message = error.to_string();
        match error {
            LearnError::Context { .. } => Self {
                code: Some("context_length_exceeded"),
                ..Self::bad("messages", message)
            },
            LearnError::Busy => Self {
                status: StatusCode::TOO_MANY_REQUESTS,
                kind: "rate_limit_error",
                code: Some("queue_full"),
                param: None,
                message,
            },
            LearnError::Template { .. } => Self::bad("messages", message),
            _ => Self {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                kind: "server_error",
                code: None,
                param: None,
                message,
            },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let value = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

/// What all requests share.
struct Served {
    engine: Engine,
    name: String,
}

/// Serves a model until Ctrl-C. `ready` is told the address.
///
/// # Errors
/// If the address cannot be had.
pub fn run(
    model: Model,
    options: &ServeOptions,
    cancel: &Cancel,
    ready: &mut dyn FnMut(SocketAddr),
) -> Result<(), Error> {
    let name = model.name.clone();
    let engine = EngineOptions {
        slots: options.slots,
        queue: options.queue,
        ..EngineOptions::default()
    };
    let engine = Engine::start(Arc::new(model), &engine).map_err(learn)?;
    let served = Arc::new(Served { engine, name });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::setup(format!("no threads for the server: {e}"), ""))?;
    let address = options.address;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| {
            Error::setup(
                format!("cannot listen on {address}: {e}"),
                "take another port with --port; 0 finds a free one",
            )
        })?;
        ready(listener.local_addr().unwrap_or(address));
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let server = axum::serve(listener, router(served)).with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        let mut server = std::pin::pin!(server.into_future());
        loop {
            let tick = tokio::time::sleep(Duration::from_millis(100));
            tokio::select! {
                result = &mut server => {
                    return result.map_err(|e| Error::setup(e.to_string(), ""));
                }
                () = tick => if cancel.is_cancelled() { break },
            }
        }
        let _ = stop.send(true);
        // What is not done by then is cut off.
        let _ = tokio::time::timeout(GRACE, server).await;
        Ok(())
    })
}

fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .fallback(unknown)
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
        .with_state(served)
}

async fn unknown(uri: axum::http::Uri) -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        ..Refusal::bad(
            "",
            format!(
                "{uri} is not served here; there are /v1/chat/completions, /v1/completions and /v1/models"
            ),
        )
    }
}

async fn models(State(served): State<Arc<Served>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [{
        "id": served.name, "object": "model", "owned_by": "swegym",
        "max_model_len": served.engine.context(),
    }]}))
}

async fn chat(State(served): State<Arc<Served>>, body: Bytes) -> Result<Response, Refusal> {
    let asked = request::chat(&body, &served.engine, &served.name)?;
    answer_to(served, asked).await
}

async fn completions(State(served): State<Arc<Served>>, body: Bytes) -> Result<Response, Refusal> {
    let asked = request::completion(&body, &served.engine, &served.name)?;
    answer_to(served, asked).await
}

/// Hands all choices of a request to the engine.
async fn answer_to(served: Arc<Served>, asked: Asked) -> Result<Response, Refusal> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for (index, ask) in asked.asks.iter().cloned().enumerate() {
        let progress = served.engine.submit(ask)?;
        let sender = sender.clone();
        // The engine's channel blocks; a thread waits on it. When nobody
        // listens any more it lets go, which cancels the request.
        std::thread::spawn(move || {
            while let Ok(step) = progress.recv() {
                let done = matches!(step, Progress::Done(_));
                if sender.send((index, step)).is_err() || done {
                    return;
                }
            }
        });
    }
    drop(sender);
    let told = Told::new(&asked, &served.name);
    if asked.stream {
        return Ok(stream(served, told, receiver));
    }
    let answers = collect(receiver, asked.asks.len()).await?;
    Ok(Json(told.whole(&answers, served.engine.model())).into_response())
}

type Steps = mpsc::UnboundedReceiver<(usize, Progress)>;

async fn collect(mut steps: Steps, count: usize) -> Result<Vec<Answer>, Refusal> {
    let mut answers: Vec<Option<Answer>> = vec![None; count];
    while let Some((index, step)) = steps.recv().await {
        if let Progress::Done(answer) = step {
            answers[index] = Some(answer?);
        }
    }
    let all: Option<Vec<Answer>> = answers.into_iter().collect();
    all.ok_or_else(|| LearnError::Request("the engine has stopped".into()).into())
}

fn stream(served: Arc<Served>, told: Told, steps: Steps) -> Response {
    let first = told.begin();
    let state = (served, told, steps, first, false);
    let events = futures_util::stream::unfold(state, |mut state| async {
        let (served, told, steps, ready, over) = &mut state;
        loop {
            if let Some(next) = ready.pop_front() {
                return Some((
                    Ok::<_, std::convert::Infallible>(Event::default().data(next)),
                    state,
                ));
            }
            if *over {
                return None;
            }
            match steps.recv().await {
                Some((index, Progress::Text(text))) => ready.extend(told.text(index, &text)),
                Some((index, Progress::Done(Ok(answer)))) => {
                    ready.extend(told.end(index, &answer, served.engine.model()));
                }
                Some((_, Progress::Done(Err(e)))) => {
                    ready.push_back(Refusal::from(e).to_json().to_string());
                    *over = true;
                }
                None => {
                    ready.extend(told.close());
                    *over = true;
                }
            }
        }
    });
    Sse::new(events).into_response()
}
