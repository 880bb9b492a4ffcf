//! A live shell.
//!
//! An interactive bash without a terminal reads, from a pipe, two lines for
//! each script: `eval` of the script in single quotes, so that nothing in it
//! can reach past its line, and a report of the exit status to a private
//! descriptor that what the script starts does not inherit. Interactive, so
//! that errors which end a script's shell end only the script here. Each line
//! has an empty one before it, of which bash loses the line break where the
//! last script did not parse.
//!
//! A script that runs into its limit is killed with its shell. An interrupt
//! in its place would keep the shell, but nothing can make bash give up a
//! script from outside: it goes on with the next command where the script or
//! its child handles the signal, or where the child has ended by itself just
//! before, as the reader of a pipe does whose writer was interrupted first.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use swegym_core::{ExecOutput, Limits, SandboxError, Session};

use super::backend::next_id;
use super::cgroup::Gauge;
use super::pump::{Feed, Stopped, Stream, pipe_from_them, pipe_to_them, pump};
use super::sandbox::{Handle, exit, failure_error, has_ended, output, pipe_error, status};
use super::wire::{Program, Status, ToInit};
use crate::shell::{FAREWELL, SETUP, quote};

/// Descriptor of the shell that reports go to.
const REPORT: u32 = 62;

/// Longest wait for the shell to come up.
const STARTUP: Duration = Duration::from_secs(20);

/// Longest wait for a killed shell to be gone.
const KILL: Duration = Duration::from_secs(20);

/// A live bash in a native sandbox.
pub struct NativeSession {
    handle: Arc<Handle>,
    id: u64,
    limits: Limits,
    pipes: Pipes,
    marks: Marks,
    ended: bool,
}

/// Our ends of the shell's files.
struct Pipes {
    scripts: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    reports: OwnedFd,
    status: OwnedFd,
}

/// Tells one report from another, and from what scripts might write.
struct Marks {
    secret: String,
    count: u64,
}

impl Marks {
    fn new() -> Result<Self, SandboxError> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| pipe_error(e.into()))?;
        let secret = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { secret, count: 0 })
    }

    /// The line that makes the shell report, and how the report begins.
    fn next(&mut self) -> (String, String) {
        self.count += 1;
        let mark = format!("{}-{}", self.secret, self.count);
        let line = format!("\n{{ builtin printf '%s %d\\n' {mark} $? >&{REPORT}; }} 2>/dev/null\n");
        (line, format!("{mark} "))
    }
}

impl NativeSession {
    /// Starts the shell and waits until it answers.
    pub fn start(
        handle: Arc<Handle>,
        mut program: Program,
        limits: Limits,
    ) -> Result<Self, SandboxError> {
        let (status, status_end) = pipe_from_them().map_err(pipe_error)?;
        let (stdout, stdout_end) = pipe_from_them().map_err(pipe_error)?;
        let (stderr, stderr_end) = pipe_from_them().map_err(pipe_error)?;
        let (scripts, scripts_end) = pipe_to_them().map_err(pipe_error)?;
        let (reports, reports_end) = pipe_from_them().map_err(pipe_error)?;
        let id = next_id();
        program.session = Some(id);
        program.stdin = true;
        program.channel = Some(REPORT);
        for prompt in ["PS1", "PS2"] {
            program.env.push((prompt.to_owned(), String::new()));
        }
        let ends = [
            &status_end,
            &stdout_end,
            &stderr_end,
            &scripts_end,
            &reports_end,
        ];
        handle.run(program, &ends.map(AsFd::as_fd))?;
        drop((status_end, stdout_end, stderr_end, scripts_end, reports_end));
        let mut session = Self {
            handle,
            id,
            limits,
            pipes: Pipes {
                scripts,
                stdout,
                stderr,
                reports,
                status,
            },
            marks: Marks::new()?,
            ended: false,
        };
        let setup = session.run(SETUP, Some(STARTUP))?;
        if session.ended {
            let why = setup.stderr.text();
            return Err(SandboxError::Gone(format!("no shell: {}", why.trim())));
        }
        Ok(session)
    }

    /// Kills the shell and all it started, and waits for its status.
    fn kill(&self, streams: &mut [Stream<'_>]) -> Result<(), SandboxError> {
        self.handle.tell(&ToInit::KillSession(self.id), &[])?;
        let deadline = Some(Instant::now() + KILL);
        match pump(streams, &mut None, deadline, |s| has_ended(&s[0])).map_err(pipe_error)? {
            Stopped::Done => Ok(()),
            Stopped::Deadline => Err(self.handle.hung()),
        }
    }

    /// Runs a script; gives also whether the shell has ended.
    fn run_script(
        &mut self,
        script: &str,
        limit: Option<Duration>,
    ) -> Result<(ExecOutput, bool), SandboxError> {
        let kills_before = self.handle.kills();
        let started = Instant::now();
        let (line, mark) = self.marks.next();
        let script = quote(script);
        let text = format!("\nbuiltin eval {script} </dev/null {REPORT}>&-\n{line}");
        let pipes = &self.pipes;
        let mut streams = [
            Stream::head(&pipes.status, 4096),
            Stream::head(&pipes.reports, 4096),
            Stream::capture(&pipes.stdout, self.limits.output),
            Stream::capture(&pipes.stderr, self.limits.output),
        ];
        let mut feed = Some(Feed::more(&pipes.scripts, text.as_bytes()));
        let deadline = limit.map(|limit| started + limit);
        let stopped = pump(&mut streams, &mut feed, deadline, |s| {
            has_reported(s, &mark)
        })
        .map_err(pipe_error)?;
        let timed_out = stopped == Stopped::Deadline;
        if timed_out {
            self.kill(&mut streams)?;
        }
        let killed = self.handle.killed_since(kills_before);
        let ended = has_ended(&streams[0]);
        let (code, killed) = match status(&streams[0]) {
            Some(Status::Ended {
                code,
                out_of_memory,
                ..
            }) => (code, killed || out_of_memory),
            Some(Status::Failed(failure)) => return Err(failure_error(&failure)),
            None if ended => return Err(self.handle.gone()),
            None => (report(streams[1].bytes(), &mark).unwrap_or(0), killed),
        };
        let [_, _, stdout, stderr] = streams;
        let mut stderr = output(stderr);
        if ended && code >= 0 && stderr.bytes.ends_with(FAREWELL) {
            stderr.bytes.truncate(stderr.bytes.len() - FAREWELL.len());
        }
        let output = ExecOutput {
            exit: exit(code, timed_out, killed),
            stdout: output(stdout),
            stderr,
            channel: Vec::new(),
            seconds: started.elapsed().as_secs_f64(),
            cpu_seconds: None,
            peak_memory: self.handle.gauge().and_then(Gauge::peak),
        };
        Ok((output, ended))
    }
}

impl Session for NativeSession {
    fn run(&mut self, script: &str, timeout: Option<Duration>) -> Result<ExecOutput, SandboxError> {
        if self.ended {
            return Err(SandboxError::Gone("the session has ended".to_owned()));
        }
        if script.contains('\0') {
            return Err(SandboxError::Invalid(
                "script: it holds a nul byte".to_owned(),
            ));
        }
        match self.run_script(script, timeout.or(self.limits.wall)) {
            Ok((output, ended)) => {
                self.ended = ended;
                Ok(output)
            }
            Err(e) => {
                // The first error says more than a second.
                let _ = self.close();
                Err(e)
            }
        }
    }

    fn close(&mut self) -> Result<(), SandboxError> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        self.kill(&mut [Stream::head(&self.pipes.status, 4096)])
    }
}

impl Drop for NativeSession {
    fn drop(&mut self) {
        // Whoever wants to know of errors calls `close`.
        let _ = self.close();
    }
}

/// Whether the awaited report is there, or the shell has ended.
fn has_reported(streams: &[Stream<'_>], mark: &str) -> bool {
    has_ended(&streams[0]) || report(streams[1].bytes(), mark).is_some()
}

/// The exit status in the report that begins with a mark.
fn report(reports: &[u8], mark: &str) -> Option<i32> {
    let text = std::str::from_utf8(reports).ok()?;
    let (_, rest) = text.rsplit_once(mark)?;
    let (code, _) = rest.split_once('\n')?;
    code.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_report_counts() {
        assert_eq!(report(b"x-1 0\nx-2 17\n", "x-2 "), Some(17));
        assert_eq!(report(b"x-1 0\nx-2 1", "x-2 "), None);
        assert_eq!(report(b"x-1 0\n", "x-2 "), None);
    }
}
