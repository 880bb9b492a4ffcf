//! Programs of the host, their streams read by threads so that none can
//! block another.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Chunks that may wait to be taken in.
const QUEUE: usize = 16;

/// Which stream bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
}

/// What happens next.
pub enum Next {
    /// These bytes came.
    Bytes(Source, Vec<u8>),
    /// Both streams have ended.
    Ended,
    /// Time is up.
    Deadline,
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    chunks: Receiver<(Source, Vec<u8>)>,
    stdin: Option<Sender<Vec<u8>>>,
}

impl Running {
    /// Starts a program. What is sent with [`Running::write`] is its stdin if
    /// it `listens`.
    pub fn start(mut command: Command, listens: bool) -> io::Result<Self> {
        command
            .stdin(if listens {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (sender, chunks) = sync_channel(QUEUE);
        read_in_thread(Source::Stdout, child.stdout.take(), &sender)?;
        read_in_thread(Source::Stderr, child.stderr.take(), &sender)?;
        let stdin = match child.stdin.take() {
            None => None,
            Some(mut pipe) => {
                let (sender, bytes) = channel::<Vec<u8>>();
                spawn("swegym-stdin", move || {
                    for bytes in bytes {
                        // Whoever does not read does not want it.
                        if pipe.write_all(&bytes).is_err() {
                            break;
                        }
                    }
                })?;
                Some(sender)
            }
        };
        Ok(Self {
            child,
            chunks,
            stdin,
        })
    }

    /// Queues bytes for its stdin.
    pub fn write(&self, bytes: &[u8]) {
        if let Some(stdin) = &self.stdin {
            // Nobody listens any more when it has ended.
            let _ = stdin.send(bytes.to_vec());
        }
    }

    /// Ends its stdin behind what was written.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for what happens next.
    pub fn next(&self, deadline: Option<Instant>) -> Next {
        let chunk = match deadline {
            None => self
                .chunks
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => self
                .chunks
                .recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        match chunk {
            Ok((source, bytes)) => Next::Bytes(source, bytes),
            Err(RecvTimeoutError::Disconnected) => Next::Ended,
            Err(RecvTimeoutError::Timeout) => Next::Deadline,
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended; waits for that.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}

fn read_in_thread(
    source: Source,
    pipe: Option<impl Read + Send + 'static>,
    sender: &SyncSender<(Source, Vec<u8>)>,
) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let sender = sender.clone();
    spawn("swegym-output", move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    if sender.send((source, buffer[..n].to_vec())).is_err() {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    })
}

/// What a short program left.
pub struct Finished {
    pub status: Option<ExitStatus>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Whether it ended by itself with status 0.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// What it said, for error messages.
    pub fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        match (text.trim(), self.status) {
            (_, None) => "it did not end in time".to_owned(),
            ("", Some(status)) => status.to_string(),
            (text, _) => text.to_owned(),
        }
    }
}

/// Waits for a program whose output is short, or kills it.
pub fn finish(mut running: Running, limit: Duration, keep: usize) -> io::Result<Finished> {
    let deadline = Some(Instant::now() + limit);
    let mut finished = Finished {
        status: None,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    loop {
        match running.next(deadline) {
            Next::Bytes(source, bytes) => {
                let kept = match source {
                    Source::Stdout => &mut finished.stdout,
                    Source::Stderr => &mut finished.stderr,
                };
                let room = keep.saturating_sub(kept.len());
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Next::Ended => {
                finished.status = Some(running.wait()?);
                return Ok(finished);
            }
            Next::Deadline => return Ok(finished),
        }
    }
}

/// The output of a program as a stream, until it ends or its time is up.
pub struct OutputOf {
    running: Running,
    deadline: Instant,
    chunk: Vec<u8>,
    at: usize,
    complaint: Vec<u8>,
}

impl OutputOf {
    pub fn new(running: Running, limit: Duration) -> Self {
        Self {
            running,
            deadline: Instant::now() + limit,
            chunk: Vec::new(),
            at: 0,
            complaint: Vec::new(),
        }
    }

    /// Reads the rest, waits for its end, and fails unless that is a good one.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        let status = self.running.wait()?;
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&self.complaint);
        Err(io::Error::other(format!("{status}: {}", text.trim())))
    }
}

impl Read for OutputOf {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.running.next(Some(self.deadline)) {
                Next::Bytes(Source::Stdout, bytes) => (self.chunk, self.at) = (bytes, 0),
                Next::Bytes(Source::Stderr, bytes) => self.complaint.extend(bytes),
                Next::Ended => return Ok(0),
                Next::Deadline => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Arguments as a command line takes them.
pub fn command<S: AsRef<OsStr>>(program: &OsStr, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    // An engine's monitor leaves notes where it was started.
    command.args(args).current_dir(std::env::temp_dir());
    command
}
