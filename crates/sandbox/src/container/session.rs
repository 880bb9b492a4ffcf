//! A live shell in a container.
//!
//! As in the native backend, an interactive bash reads two lines for each
//! script: `eval` of the script in single quotes, and a mark with the exit
//! status. The marks go to both streams, over descriptors that what the
//! script starts does not inherit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use swegym_core::{ExecOutput, SandboxError, SandboxSpec, Session};

use super::process::{Next, Running, Source};
use super::random_name;
use super::sandbox::{Handle, Mode, Origin, Start, connect_error, exit};
use crate::capture::Capture;
use crate::shell::{FAREWELL, SETUP, SHELL, quote};

/// Longest wait for the shell to come up, or to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A live bash in a container.
pub struct ContainerSession {
    handle: Arc<Handle>,
    spec: SandboxSpec,
    running: Running,
    mark: u64,
    secret: String,
    scripts: u64,
    /// Whether the shell has ended, and what it left with it.
    ended: bool,
}

/// What is kept of a stream, up to a mark.
struct Marked<'a> {
    mark: &'a [u8],
    capture: Capture,
    held: Vec<u8>,
    /// What follows the mark, once it came.
    after: Option<Vec<u8>>,
}

/// Bytes behind a mark: a space, a status, a line break.
const STATUS: usize = 8;

impl<'a> Marked<'a> {
    fn new(mark: &'a [u8], limit: usize) -> Self {
        Self {
            mark,
            capture: Capture::new(limit),
            held: Vec::new(),
            after: None,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(after) = &mut self.after {
            after.extend_from_slice(&bytes[..bytes.len().min(STATUS)]);
            return;
        }
        self.held.extend_from_slice(bytes);
        if let Some(at) = find(&self.held, self.mark) {
            self.capture.push(&self.held[..at]);
            self.after = Some(self.held[at + self.mark.len()..].to_vec());
            self.held.clear();
        } else {
            // Enough for a mark that is not whole yet, or a farewell.
            let keep = self.mark.len();
            let settled = self.held.len().saturating_sub(keep);
            self.capture.push(&self.held[..settled]);
            self.held.drain(..settled);
        }
    }

    /// The status behind the mark, when all of it is there.
    fn status(&self) -> Option<i32> {
        let text = std::str::from_utf8(self.after.as_ref()?).ok()?;
        text.split_once('\n')?.0.trim().parse().ok()
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

impl ContainerSession {
    /// Starts the shell and waits until it answers.
    pub fn start(handle: &Arc<Handle>, origin: &Origin) -> Result<Self, SandboxError> {
        handle.alive()?;
        let secret = random_name().map_err(connect_error)?;
        let prompts = ["PS1", "PS2"].map(|name| (name.to_owned(), String::new()));
        let (mark, _) = handle.mark(true)?;
        let argv = SHELL.map(str::to_owned);
        let start = Start {
            spec: &origin.spec,
            argv: &argv,
            env: &BTreeMap::from(prompts),
            cwd: &origin.spec.workdir,
            mode: Mode::Session,
            mark,
            // Commands may run beside it later.
            alone: false,
            channel: None,
        };
        let running = match handle.run(&start, true) {
            Ok(running) => running,
            Err(e) => {
                handle.end_session();
                return Err(e);
            }
        };
        let mut session = Self {
            handle: Arc::clone(handle),
            spec: origin.spec.clone(),
            running,
            mark,
            secret,
            scripts: 0,
            ended: false,
        };
        let setup = session.run(SETUP, Some(PATIENCE))?;
        if session.ended {
            let why = setup.stderr.text();
            return Err(SandboxError::Gone(format!("no shell: {}", why.trim())));
        }
        Ok(session)
    }

    fn run_script(
        &mut self,
        script: &str,
        limit: Option<Duration>,
    ) -> Result<ExecOutput, SandboxError> {
        self.handle.alive()?;
        self.scripts += 1;
        let mark = format!("{}-{}", self.secret, self.scripts);
        let kills_before = self.handle.kills();
        let started = Instant::now();
        self.running.write(
            format!(
                "eval {} </dev/null 60>&- 61>&-\n\
                 printf '%s %d\\n' {mark} $? 2>/dev/null >&60; printf '%s 0\\n' {mark} 2>/dev/null >&61\n",
                quote(script)
            )
            .as_bytes(),
        );
        let keep = self.spec.limits.output;
        let mut stdout = Marked::new(mark.as_bytes(), keep);
        let mut stderr = Marked::new(mark.as_bytes(), keep);
        let mut deadline = limit.map(|limit| started + limit);
        let mut timed_out = false;
        let code = loop {
            match self.running.next(deadline) {
                Next::Bytes(Source::Stdout, bytes) => stdout.push(&bytes),
                Next::Bytes(Source::Stderr, bytes) => stderr.push(&bytes),
                Next::Ended => break self.last_status(&mut stderr)?,
                Next::Deadline if timed_out => return Err(self.handle.hung()),
                Next::Deadline => {
                    // Killing only what the script runs would let it go on.
                    timed_out = true;
                    self.end()?;
                    deadline = Some(Instant::now() + PATIENCE);
                }
            }
            if let (false, Some(code), Some(_)) = (timed_out, stdout.status(), stderr.status()) {
                break code;
            }
        };
        let killed = kills_before
            .zip(self.handle.kills())
            .is_some_and(|(before, after)| after > before);
        for stream in [&mut stdout, &mut stderr] {
            let held = std::mem::take(&mut stream.held);
            stream.capture.push(&held);
        }
        Ok(ExecOutput {
            exit: exit(code, timed_out, killed),
            stdout: stdout.capture.finish(),
            stderr: stderr.capture.finish(),
            channel: Vec::new(),
            seconds: started.elapsed().as_secs_f64(),
            cpu_seconds: None,
            peak_memory: self.handle.peak(),
        })
    }

    /// The status of a shell that has ended; sweeps what it left.
    fn last_status(&mut self, stderr: &mut Marked<'_>) -> Result<i32, SandboxError> {
        let status = self.running.wait().map_err(connect_error)?;
        self.end()?;
        if stderr.held.ends_with(FAREWELL) {
            let said = stderr.held.len() - FAREWELL.len();
            stderr.held.truncate(said);
        }
        Ok(status.code().unwrap_or(128 + 9))
    }

    /// Kills the shell and all it started. Idempotent.
    fn end(&mut self) -> Result<(), SandboxError> {
        if self.ended {
            return Ok(());
        }
        let swept = self.handle.sweep(&self.spec, self.mark, false, true);
        self.forget();
        swept
    }

    /// Nothing of it is left.
    fn forget(&mut self) {
        if !self.ended {
            self.ended = true;
            self.handle.end_session();
        }
    }
}

impl Session for ContainerSession {
    fn run(&mut self, script: &str, timeout: Option<Duration>) -> Result<ExecOutput, SandboxError> {
        if self.ended {
            return Err(SandboxError::Gone("the session has ended".to_owned()));
        }
        if script.contains('\0') {
            return Err(SandboxError::Invalid(
                "script: it holds a nul byte".to_owned(),
            ));
        }
        let outcome = self.run_script(script, timeout.or(self.spec.limits.wall));
        if outcome.is_err() {
            // The first error says more than a second.
            let _ = self.end();
        }
        outcome
    }

    fn close(&mut self) -> Result<(), SandboxError> {
        match self.handle.alive() {
            Ok(()) => self.end(),
            Err(_) => {
                self.forget();
                Ok(())
            }
        }
    }
}

impl Drop for ContainerSession {
    fn drop(&mut self) {
        // Whoever wants to know of errors calls `close`.
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_however_it_arrives() {
        let text = b"no line breakmark-1 17\nnext";
        for step in [1, 3, 100] {
            let mut marked = Marked::new(b"mark-1", 100);
            for chunk in text.chunks(step) {
                marked.push(chunk);
            }
            assert_eq!(marked.status(), Some(17));
            assert_eq!(marked.capture.finish().bytes, b"no line break");
        }
    }
}
