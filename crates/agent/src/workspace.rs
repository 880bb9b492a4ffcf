//! The sandbox as an agent sees it: commands with limits, a shell that is
//! opened again when it ends, and text that fits a prompt.

use std::path::Path;
use std::time::{Duration, Instant};

use swegym_core::{Command, ExecOutput, Exit, Sandbox, SandboxError, Session};

/// How many commands run at once, over all episodes. Waiting for a model
/// takes no turn.
pub trait Gate: Send + Sync {
    /// Waits for a turn.
    fn enter(&self);
    /// Gives it back.
    fn leave(&self);
}

/// Everyone may run at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

impl Gate for Open {
    fn enter(&self) {}
    fn leave(&self) {}
}

struct Turn<'a>(&'a dyn Gate);

impl<'a> Turn<'a> {
    /// Waits for a turn. What that takes is the machine's time: the episode's
    /// deadline moves by it.
    fn take(gate: &'a dyn Gate, deadline: &mut Option<Instant>) -> Self {
        let clock = Instant::now();
        gate.enter();
        if let Some(deadline) = deadline {
            *deadline += clock.elapsed();
        }
        Self(gate)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A sandbox, its shell, and what its commands took.
pub struct Workspace<'a> {
    sandbox: &'a mut dyn Sandbox,
    gate: &'a dyn Gate,
    session: Option<Box<dyn Session>>,
    /// Limit of one command.
    pub command_limit: Duration,
    /// When the episode's time is up.
    pub deadline: Option<Instant>,
    /// Wall time of commands so far, waiting for a turn not included.
    pub seconds: f64,
}

/// What a command left, for a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// Stdout and stderr.
    pub text: String,
    /// How it ended.
    pub exit: Exit,
}

impl Ran {
    /// Exit status; 124 for a time limit and 137 for memory, as `timeout`
    /// and shells have it.
    pub fn code(&self) -> i32 {
        match self.exit {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
            Exit::TimedOut => 124,
            Exit::OutOfMemory => 137,
        }
    }
}

impl<'a> Workspace<'a> {
    /// A workspace over a sandbox.
    pub fn new(
        sandbox: &'a mut dyn Sandbox,
        gate: &'a dyn Gate,
        command_limit: Duration,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            sandbox,
            gate,
            session: None,
            command_limit,
            deadline,
            seconds: 0.0,
        }
    }

    /// Limit of the next command: its own, or what is left of the episode.
    fn limit(&self) -> Duration {
        let left = self.deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            left.max(Duration::from_millis(10))
        });
        left.map_or(self.command_limit, |left| left.min(self.command_limit))
    }

    /// Runs a script in a shell of its own.
    ///
    /// # Errors
    /// If the sandbox fails.
    pub fn fresh(&mut self, script: &str) -> Result<Ran, SandboxError> {
        self.exec(&Command::shell(script))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// If the sandbox fails.
    pub fn exec(&mut self, command: &Command) -> Result<Ran, SandboxError> {
        let mut command = command.clone();
        command.merge_stderr = true;
        let turn = Turn::take(self.gate, &mut self.deadline);
        let limit = self.limit();
        command.timeout = Some(command.timeout.map_or(limit, |own| own.min(limit)));
        let output = self.sandbox.exec(&command);
        drop(turn);
        self.ran(output?)
    }

    /// Runs a script in the live shell, which keeps its directory and
    /// variables; at the limit, or where the script ends it, the next one
    /// begins anew.
    ///
    /// # Errors
    /// If the sandbox fails.
    pub fn live(&mut self, script: &str) -> Result<Ran, SandboxError> {
        let turn = Turn::take(self.gate, &mut self.deadline);
        let limit = self.limit();
        let output = match &mut self.session {
            Some(session) => match session.run(script, Some(limit)) {
                Err(SandboxError::Gone(_)) => None,
                other => Some(other),
            },
            None => None,
        };
        let output = match output {
            Some(output) => output,
            None => {
                let mut session = self.sandbox.session()?;
                let output = session.run(script, Some(limit));
                self.session = Some(session);
                output
            }
        };
        drop(turn);
        let output = output?;
        if output.exit == Exit::TimedOut {
            self.session = None;
        }
        self.ran(output)
    }

    fn ran(&mut self, output: ExecOutput) -> Result<Ran, SandboxError> {
        self.seconds += output.seconds;
        let mut text = output.stdout.text();
        text.push_str(&output.stderr.text());
        Ok(Ran {
            text,
            exit: output.exit,
        })
    }

    /// Reads a file as text, invalid UTF-8 replaced.
    ///
    /// # Errors
    /// [`SandboxError::File`] if it cannot be read.
    pub fn read(&mut self, path: &Path) -> Result<String, SandboxError> {
        let bytes = self.sandbox.read(path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The same, byte for byte.
    ///
    /// # Errors
    /// As [`Workspace::read`].
    pub fn read_bytes(&mut self, path: &Path) -> Result<Vec<u8>, SandboxError> {
        self.sandbox.read(path)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`SandboxError::File`] if it cannot be written.
    pub fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), SandboxError> {
        self.sandbox.write(path, bytes, false)
    }

    /// Ends the shell, and every process with it.
    ///
    /// # Errors
    /// If the sandbox fails.
    pub fn close(&mut self) -> Result<(), SandboxError> {
        match self.session.take() {
            Some(mut session) => session.close(),
            None => Ok(()),
        }
    }
}

/// Keeps both ends of a text that is too long, and says so between them.
pub fn shorten(text: &str, most_chars: usize, mark: &str) -> String {
    let total = text.chars().count();
    if total <= most_chars {
        return text.to_owned();
    }
    let half = most_chars / 2;
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(i, _)| i);
    format!(
        "{}\n{mark}\n{}",
        &text[..at(half)],
        &text[at(total - half)..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_keeps_both_ends_on_character_boundaries() {
        assert_eq!(shorten("äöü", 3, "…"), "äöü");
        assert_eq!(shorten("äöüßéà", 4, "[cut]"), "äö\n[cut]\néà");
        assert_eq!(shorten("abc", 0, "-"), "\n-\n");
    }
}
