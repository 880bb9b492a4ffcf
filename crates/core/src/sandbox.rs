//! The trait every sandbox backend implements.
//!
//! Blocking on purpose: an episode is a thread that mostly sleeps in `read`,
//! and 256 of those cost less than an async runtime would add to every
//! backend (docs/design/sandbox.md).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Command, ExecOutput};

/// What a sandbox is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxSpec {
    /// Read-only directory trees that make up the root file system, topmost
    /// first; each is laid out from `/`. Shared between sandboxes.
    pub layers: Vec<PathBuf>,
    /// Host paths visible inside.
    pub binds: Vec<Bind>,
    /// Directories of the root file system that refuse writes, although the
    /// layer below is writable (bound over themselves, read-only). A path
    /// that does not exist is an error.
    pub readonly: Vec<PathBuf>,
    /// Where commands start.
    pub workdir: PathBuf,
    /// The whole environment of commands; nothing of the host's leaks in.
    pub env: BTreeMap<String, String>,
    /// Network access.
    pub network: Network,
    /// Limits.
    pub limits: Limits,
    /// Where writes go.
    pub upper: Upper,
    /// Host name inside.
    pub hostname: String,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            binds: Vec::new(),
            readonly: Vec::new(),
            workdir: "/".into(),
            env: BTreeMap::from([
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
                ("HOME".into(), "/tmp".into()),
                ("LANG".into(), "C.UTF-8".into()),
                ("USER".into(), "swegym".into()),
            ]),
            network: Network::None,
            limits: Limits::default(),
            upper: Upper::Memory,
            hostname: "swegym".into(),
        }
    }
}

/// A host path made visible in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// File or directory of the host.
    pub source: PathBuf,
    /// Absolute path inside; created if missing.
    pub target: PathBuf,
    /// Whether writes are refused.
    pub readonly: bool,
}

/// Network of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A namespace of its own, with loopback only.
    #[default]
    None,
    /// The host's. Only for building environments.
    Host,
}

/// Where a sandbox's writes go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Upper {
    /// Memory, capped by [`Limits::disk`]; gone with the sandbox.
    #[default]
    Memory,
    /// An empty directory of the host, left behind on close for the caller.
    /// After [`Sandbox::close`] its entries are what the sandbox changed,
    /// deletions as overlay whiteouts.
    Directory(PathBuf),
}

/// Resource limits of a sandbox. `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all processes together, bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Bytes that may be written (size of a memory upper; largest file).
    pub disk: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// Bytes of output kept per stream of a command, head and tail.
    pub output: usize,
    /// Wall time of a command that names no own limit.
    pub wall: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Some(4 << 30),
            processes: Some(512),
            disk: Some(2 << 30),
            open_files: Some(4096),
            output: 16 << 20,
            wall: Some(Duration::from_secs(1800)),
        }
    }
}

/// A state of a sandbox to start others from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotId(pub String);

/// Makes sandboxes.
pub trait Backend: Send + Sync {
    /// `native`, `podman`, `docker`.
    fn name(&self) -> &str;

    /// Starts a sandbox.
    ///
    /// # Errors
    /// If it cannot be isolated as the spec asks; never starts a weaker one.
    fn create(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, SandboxError>;

    /// Starts a sandbox from a snapshot, with the layers, limits and network
    /// of the sandbox it was taken from.
    ///
    /// # Errors
    /// As [`Backend::create`], or if the snapshot is gone.
    fn restore(&self, snapshot: &SnapshotId) -> Result<Box<dyn Sandbox>, SandboxError>;

    /// Frees a snapshot. Sandboxes started from it live on.
    ///
    /// # Errors
    /// If the snapshot is unknown.
    fn drop_snapshot(&self, snapshot: &SnapshotId) -> Result<(), SandboxError>;
}

/// A running sandbox. Dropping it kills everything inside and frees all it
/// held; [`Sandbox::close`] does the same and reports errors.
pub trait Sandbox: Send {
    /// Runs a command to its end; its leftover children are killed with it.
    ///
    /// # Errors
    /// [`SandboxError::Gone`] and other failures of the sandbox. A command
    /// that fails, times out or is killed is `Ok`.
    fn exec(&mut self, command: &Command) -> Result<ExecOutput, SandboxError>;

    /// Opens a live shell that keeps its working directory and variables.
    ///
    /// # Errors
    /// If the sandbox is gone or has no `/bin/bash`.
    fn session(&mut self) -> Result<Box<dyn Session>, SandboxError>;

    /// Reads a file. Relative paths start at the workdir; symbolic links are
    /// followed inside the sandbox only.
    ///
    /// # Errors
    /// [`SandboxError::File`] if it cannot be read.
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, SandboxError>;

    /// Writes a file (mode 644, or 755 if `executable`), making parents.
    ///
    /// # Errors
    /// [`SandboxError::File`] if it cannot be written.
    fn write(&mut self, path: &Path, bytes: &[u8], executable: bool) -> Result<(), SandboxError>;

    /// Keeps the file system as it is now. No command or session may be
    /// running.
    ///
    /// # Errors
    /// [`SandboxError::Busy`] while something runs.
    fn snapshot(&mut self) -> Result<SnapshotId, SandboxError>;

    /// A second, independent sandbox with the same file system.
    ///
    /// # Errors
    /// As [`Sandbox::snapshot`].
    fn fork(&mut self) -> Result<Box<dyn Sandbox>, SandboxError>;

    /// Kills everything inside and goes back to the state at creation (or the
    /// snapshot it was started from).
    ///
    /// # Errors
    /// If the sandbox is gone.
    fn reset(&mut self) -> Result<(), SandboxError>;

    /// Kills everything inside and frees it. Idempotent.
    ///
    /// # Errors
    /// If something was left behind.
    fn close(&mut self) -> Result<(), SandboxError>;
}

/// A live shell in a sandbox.
///
/// It ends with [`Session::close`], with a script that ends the shell, and
/// with a script that runs into its limit. A script cannot be stopped and its
/// shell kept: bash goes on with the next command of an interrupted script
/// where a trap, a child or chance has it so. What the session changed in
/// the sandbox stays; a new session starts without its directory, variables
/// and jobs.
pub trait Session: Send {
    /// Runs a script in the shell and waits for it.
    ///
    /// At the limit the shell and everything it has started, jobs of earlier
    /// scripts too, are killed in one step: no command or trap runs from then
    /// on. The output has what was written until then, and
    /// [`Exit::TimedOut`](crate::Exit::TimedOut).
    ///
    /// # Errors
    /// If the sandbox is gone. If the session has ended,
    /// [`SandboxError::Gone`]; the script that ended it has its output.
    fn run(&mut self, script: &str, timeout: Option<Duration>) -> Result<ExecOutput, SandboxError>;

    /// Ends the shell and its children.
    ///
    /// # Errors
    /// If the sandbox is gone.
    fn close(&mut self) -> Result<(), SandboxError>;
}

/// A failure of the sandbox itself, never of a command in it.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The machine cannot isolate as asked.
    #[error("{backend} sandbox is not available: {reason}")]
    Unavailable {
        /// Which backend.
        backend: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Starting failed at a step.
    #[error("cannot start sandbox: {step}: {source}")]
    Start {
        /// What was being done.
        step: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The sandbox or session has ended.
    #[error("sandbox is gone: {0}")]
    Gone(String),
    /// Something still runs in it.
    #[error("sandbox is busy: {0}")]
    Busy(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Path inside.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The spec or command makes no sense.
    #[error("invalid {0}")]
    Invalid(String),
    /// Anything else of the system.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
