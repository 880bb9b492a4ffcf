//! The hub client against a small server on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use swegym_data::{Dataset, Format, Hub, HubName};
use tempfile::TempDir;

use crate::fixtures;

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves one dataset as the hub does. Ends with the test process.
struct Server {
    endpoint: String,
    requests: Arc<AtomicUsize>,
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    down: bool,
}

impl Server {
    fn start(files: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let files = files
            .iter()
            .map(|(name, fixture)| {
                let bytes = fs::read(fixtures("datasets").join(fixture)).expect("reads");
                ((*name).to_owned(), bytes)
            })
            .collect();
        let state = Arc::new(Mutex::new(State { files, down: false }));
        let server = Self {
            endpoint,
            requests: requests.clone(),
            state: state.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (requests, state) = (requests.clone(), state.clone());
                std::thread::spawn(move || serve(stream, &requests, &state));
            }
        });
        server
    }

    fn set_down(&self) {
        self.state.lock().expect("lock").down = true;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, requests: &AtomicUsize, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let path = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
        let range = head.iter().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("range: bytes=")
                .map(str::to_owned)
        });
        let response = respond(&path, range.as_deref(), &state.lock().expect("lock"));
        if stream.write_all(&response).is_err() {
            return;
        }
    }
}

fn respond(path: &str, range: Option<&str>, state: &State) -> Vec<u8> {
    let plain = |status: &str, body: &[u8], headers: &str| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    if state.down {
        return plain("503 Service Unavailable", b"", "");
    }
    let info = "/api/datasets/acme/tasks/revision/";
    if let Some(revision) = path
        .strip_prefix(info)
        .or((path == "/api/datasets/acme/tasks").then_some("main"))
    {
        if !["main", "v1", SHA].contains(&revision) {
            return plain("404 Not Found", b"{}", "");
        }
        let siblings: Vec<_> = state
            .files
            .keys()
            .map(|name| json!({"rfilename": name}))
            .collect();
        let body = json!({"sha": SHA, "siblings": siblings}).to_string();
        return plain(
            "200 OK",
            body.as_bytes(),
            "Content-Type: application/json\r\n",
        );
    }
    let file = path
        .strip_prefix(&format!("/datasets/acme/tasks/resolve/{SHA}/"))
        .and_then(|name| state.files.get(name).map(|bytes| (name, bytes)));
    let Some((name, bytes)) = file else {
        return plain("404 Not Found", b"", "");
    };
    let etag = name.replace(['/', '.'], "-");
    let (start, end) = range
        .and_then(|range| {
            let (start, end) = range.split_once('-')?;
            let start: usize = start.parse().ok()?;
            let end = end.parse::<usize>().map_or(bytes.len(), |end| end + 1);
            Some((start.min(bytes.len()), end.min(bytes.len())))
        })
        .unwrap_or((0, bytes.len()));
    let headers = format!(
        "ETag: \"{etag}\"\r\nX-Repo-Commit: {SHA}\r\nAccept-Ranges: bytes\r\nContent-Range: bytes {start}-{}/{}\r\n",
        end.saturating_sub(1),
        bytes.len()
    );
    plain("206 Partial Content", &bytes[start..end], &headers)
}

fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap_or_else(|| panic!("{text} is a name"))
}

#[test]
fn names() {
    for (text, repo, split, revision) in [
        ("a/b", "a/b", None, None),
        (
            "SWE-Gym/SWE-Gym:train",
            "SWE-Gym/SWE-Gym",
            Some("train"),
            None,
        ),
        ("a/b@refs/pr/1", "a/b", None, Some("refs/pr/1")),
        ("a/b:test@v1.0", "a/b", Some("test"), Some("v1.0")),
    ] {
        let parsed = name(text);
        assert_eq!(
            (
                parsed.repo.as_str(),
                parsed.split.as_deref(),
                parsed.revision.as_deref()
            ),
            (repo, split, revision)
        );
        assert_eq!(parsed.to_string(), text);
    }
    for text in [
        "a", "a/b/c", "./a/b", "../a", "a/", "a/b:", "a/b@", "a b/c", "a/b@../x", "/a/b",
    ] {
        assert_eq!(HubName::parse(text), None, "{text}");
    }
}

#[test]
fn splits_are_fetched_once_and_reused_offline() {
    let server = Server::start(&[
        ("README.md", "make.py"),
        ("data/test-00000-of-00002.parquet", "lists-snappy.parquet"),
        ("data/test-00001-of-00002.parquet", "nested.parquet"),
        ("data/train-00000-of-00001.parquet", "lists-zstd.parquet"),
    ]);
    let cache = TempDir::new().expect("folder");
    let hub = Hub::new(&server.endpoint, cache.path());
    let test = Dataset::open_hub(&hub, &name("acme/tasks")).expect("fetches");
    assert_eq!(test.format(), Format::Parquet);
    assert_eq!(test.instances().filter_map(Result::ok).count(), 4);
    let train = Dataset::open_hub(&hub, &name("acme/tasks:train@v1")).expect("fetches");
    assert_eq!(train.instances().filter_map(Result::ok).count(), 2);

    let before = server.requests();
    hub.fetch(&name("acme/tasks:test")).expect("is cached");
    assert_eq!(server.requests() - before, 1, "only asks for the revision");

    server.set_down();
    for cached in ["acme/tasks", "acme/tasks:train", "acme/tasks@v1"] {
        let found = Dataset::open_hub(&hub, &name(cached)).expect(cached);
        assert!(found.instances().all(|i| i.is_ok()), "{cached}");
    }
    let error = hub
        .fetch(&name("acme/tasks@other"))
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("answers with status 503"), "{error}");
}

#[test]
fn a_half_fetched_split_is_not_taken_for_whole() {
    let files = [
        ("data/test-00000-of-00002.parquet", "lists-snappy.parquet"),
        ("data/test-00001-of-00002.parquet", "nested.parquet"),
    ];
    let server = Server::start(&files);
    let cache = TempDir::new().expect("folder");
    let hub = Hub::new(&server.endpoint, cache.path());
    let fetched = hub.fetch(&name("acme/tasks")).expect("fetches");
    fs::remove_file(&fetched[1]).expect("removes");
    server.set_down();
    let error = hub
        .fetch(&name("acme/tasks"))
        .expect_err("lacks a file")
        .to_string();
    assert!(
        error.contains("data/test-00001-of-00002.parquet"),
        "{error}"
    );
}

#[test]
fn errors_say_what_to_do() {
    let server = Server::start(&[
        ("data/a-00000-of-00001.parquet", "lists-snappy.parquet"),
        ("data/b-00000-of-00001.parquet", "lists-snappy.parquet"),
    ]);
    let cache = TempDir::new().expect("folder");
    let hub = Hub::new(&server.endpoint, cache.path());
    let error = |text: &str| hub.fetch(&name(text)).expect_err(text).to_string();
    assert_eq!(
        error("acme/tasks"),
        "hub acme/tasks: choose one of its splits as acme/tasks:SPLIT (a, b)"
    );
    assert_eq!(
        error("acme/other"),
        format!(
            "hub acme/other: {} has no such repository or revision; check the name",
            server.endpoint
        )
    );
    let nowhere = Hub::new("http://127.0.0.1:1", cache.path());
    let error = nowhere
        .fetch(&name("x/y"))
        .expect_err("is unreachable")
        .to_string();
    assert!(error.contains("cannot reach http://127.0.0.1:1"), "{error}");
}
