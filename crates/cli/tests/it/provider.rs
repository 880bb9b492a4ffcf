//! A model provider on loopback that answers as it is told, or breaks as real
//! ones do. It speaks raw sockets, for no server breaks a connection in the
//! middle on purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// What a call is answered with.
pub enum Answer {
    /// A status, more headers, a body.
    Json(u16, &'static str, Value),
    /// These bytes, then the connection is closed.
    Raw(Vec<u8>),
    /// Bytes without end.
    Endless,
    /// Nothing, for a long time.
    Hang,
}

/// A provider at work.
pub struct Provider {
    pub url: String,
    /// Calls that were answered in full.
    pub served: Arc<AtomicUsize>,
}

impl Provider {
    /// `answer` is given the number of the call, from 0, and the request.
    pub fn start(answer: impl Fn(usize, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let served = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicUsize::new(0));
        let (s, a, answer) = (served.clone(), asked, Arc::new(answer));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (served, asked, answer) = (s.clone(), a.clone(), answer.clone());
                thread::spawn(move || {
                    // A client that goes away ends its connection only.
                    let _ = serve(connection, &asked, &served, &*answer);
                });
            }
        });
        Self { url, served }
    }
}

fn serve(
    connection: TcpStream,
    asked: &AtomicUsize,
    served: &AtomicUsize,
    answer: &dyn Fn(usize, &Value) -> Answer,
) -> std::io::Result<()> {
    let mut out = connection.try_clone()?;
    let mut reader = BufReader::new(connection);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or_default();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        match answer(asked.fetch_add(1, Ordering::SeqCst), &request) {
            Answer::Json(status, headers, body) => {
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{headers}\
                     content-length: {}\r\n\r\n",
                    body.len()
                );
                out.write_all((head + &body).as_bytes())?;
                served.fetch_add(1, Ordering::SeqCst);
            }
            Answer::Raw(bytes) => {
                out.write_all(&bytes)?;
                return out.shutdown(std::net::Shutdown::Both);
            }
            Answer::Endless => {
                out.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 99999999999\r\n\r\n{\"a\":\"")?;
                loop {
                    out.write_all(&[b'x'; 4096])?;
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Answer::Hang => thread::sleep(Duration::from_secs(60)),
        }
    }
}

/// A chat completion with tokens.
pub fn says(content: &str, calls: &[(&str, &str)]) -> Value {
    let calls: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(n, (name, arguments))| {
            json!({"id": format!("c{n}"), "type": "function",
                "function": {"name": name, "arguments": arguments}})
        })
        .collect();
    let mut message = json!({"role": "assistant", "content": content});
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    json!({
        "object": "chat.completion", "model": "fake",
        "choices": [{"index": 0, "message": message,
            "finish_reason": if calls.is_empty() { "stop" } else { "tool_calls" }}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    })
}

/// How many answers a conversation holds already.
pub fn turn(request: &Value) -> usize {
    let messages = request["messages"].as_array();
    let messages = messages.into_iter().flatten();
    messages.filter(|m| m["role"] == "assistant").count()
}
