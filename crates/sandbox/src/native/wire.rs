//! Messages between supervisor, spawner and init, with descriptors attached.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Most descriptors attached to one message.
const MAX_FDS: usize = 8;

/// Longest message accepted, bytes.
const MAX_MESSAGE: usize = 64 << 20;

/// A stream of length-prefixed messages between two processes that trust
/// each other.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    /// Two connected ends, both close-on-exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self(a), Self(b)))
    }

    /// Sends a message with descriptors.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(
                &self.0,
                &[IoSlice::new(&frame)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })?;
        (&self.0).write_all(&frame[sent..])
    }

    /// Receives a message; `None` when the other end is closed.
    pub fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut header = [0; 4];
        let mut fds = Vec::new();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut header)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?
        .bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got == 0 {
            return Ok(None);
        }
        (&self.0).read_exact(&mut header[got..])?;
        let length = u32::from_le_bytes(header) as usize;
        if length > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        (&self.0).read_exact(&mut body)?;
        let message = postcard::from_bytes(&body).map_err(io::Error::other)?;
        Ok(Some((message, fds)))
    }

    /// Makes the reader on the other end, and any here, see the end.
    pub fn shutdown(&self) {
        // Fails only when the other end is already gone.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }

    /// Limits how long `recv` waits.
    pub fn set_timeout(&self, limit: Option<std::time::Duration>) -> io::Result<()> {
        self.0.set_read_timeout(limit)
    }
}

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0.into()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A step that failed, with the system's error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done.
    pub step: String,
    /// `errno`; 0 where the failure is not the system's.
    pub errno: i32,
}

impl Failure {
    /// The system's error again.
    pub fn source(&self) -> io::Error {
        match self.errno {
            0 => io::Error::other("unexpected state"),
            errno => io::Error::from_raw_os_error(errno),
        }
    }
}

/// Names the step that an error belongs to.
pub trait Step<T> {
    /// With a fixed name.
    fn step(self, step: &str) -> Result<T, Failure>;
    /// With a name that is only made on failure.
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.step_with(|| step.to_owned())
    }

    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| Failure {
            step: step(),
            errno: e.into().raw_os_error().unwrap_or(0),
        })
    }
}

/// First message to the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Process id of the supervisor.
    pub supervisor: u32,
    /// First host uid for sandboxes, used when root.
    pub uid_base: u32,
    /// Number of host uids for sandboxes, used when root.
    pub uid_count: u32,
    /// Whether to use cgroups where they can be used.
    pub cgroups: bool,
    /// Whether sandboxes are to have the host's network.
    pub host_network: bool,
}

/// What the spawner found, in answer to [`Hello`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// Whether sandboxes run without a user namespace, as unprivileged uids.
    pub root: bool,
    /// Directories that hold the per-sandbox cgroups, by purpose.
    pub cgroups: CgroupPaths,
}

/// Where the cgroups of sandboxes are, if anywhere.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CgroupPaths {
    /// Parent directory for memory limits.
    pub memory: Option<String>,
    /// Parent directory for limits on processes.
    pub pids: Option<String>,
    /// Whether these are version 2.
    pub v2: bool,
}

/// Supervisor to spawner.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToSpawner {
    /// Start a sandbox; with init's control socket, and the mount namespace
    /// of the snapshot if it starts from one.
    Spawn { id: u64, config: Box<Config> },
    /// Kill a sandbox; [`Report::Exited`] follows.
    Kill { id: u64 },
    /// Ask for [`Report::Usage`].
    Usage { id: u64 },
}

/// Spawner to supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromSpawner {
    /// Ready for work, or why not; sent first, and once more where the
    /// spawner gives up.
    Started(Result<Host, Failure>),
    /// What has become of a sandbox, or an answer.
    Report { id: u64, report: Report },
}

/// What the spawner has to say about a sandbox or request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// It could not be started.
    Failed(Failure),
    /// It has ended and is reaped; everything of it is gone.
    Exited,
    /// CPU time of the spawner and all sandboxes that have ended, µs.
    Usage(u64),
}

/// What a sandbox was given.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Slot {
    /// Number of the slot, names its cgroup.
    pub index: u32,
    /// Host uid (and gid) of what runs inside.
    pub uid: u32,
    /// Whether a cgroup limits its memory.
    pub memory_cgroup: bool,
}

/// A sandbox to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Lower layers, topmost first.
    pub layers: Vec<Vec<u8>>,
    /// Binds.
    pub binds: Vec<BindConfig>,
    /// Directories that refuse writes.
    pub readonly: Vec<Vec<u8>>,
    /// Directory for the upper; memory without one.
    pub upper: Option<Vec<u8>>,
    /// Owners (host uids) of the frozen uppers of the snapshot, oldest first.
    pub frozen: Vec<u32>,
    /// Host name inside.
    pub hostname: String,
    /// Home directory for the line in `/etc/passwd`.
    pub home: Vec<u8>,
    /// Whether to keep the host's network.
    pub host_network: bool,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
    /// Bytes written.
    pub disk: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
}

/// A bind of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BindConfig {
    /// Path on the host.
    pub source: Vec<u8>,
    /// Path inside.
    pub target: Vec<u8>,
    /// Whether writes are refused.
    pub readonly: bool,
}

/// Supervisor to init.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Start a program. Descriptors: status, stdout, stderr, then stdin and
    /// channel where given. Results go to the status pipe.
    Run(Program),
    /// Kill the running command and its children; its status follows.
    KillCommand,
    /// Kill a session's shell and all it started; its status follows.
    KillSession(u64),
    /// Open a file; answered with its descriptor.
    Open {
        /// Path inside.
        path: Vec<u8>,
        /// What for.
        how: Open,
    },
    /// Kill everything and drop all changes.
    Reset,
    /// Freeze the upper; answered with a mount namespace that holds it.
    Snapshot,
}

/// What to open a file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Open {
    /// Reading; it must be a regular file.
    Read,
    /// Writing from the start, making parents.
    Write {
        /// Mode 755 rather than 644.
        executable: bool,
    },
}

/// Init to supervisor: `Up` first, then one for each [`ToInit`] but `Run` and
/// the kills.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// Ready for requests.
    Up(Slot),
    /// Done as asked.
    Done,
    /// Something still runs.
    Busy,
    /// It failed.
    Failed(Failure),
}

/// Highest number of a private channel.
pub const MAX_CHANNEL: u32 = 255;

/// A program to run inside.
#[derive(Debug, Serialize, Deserialize)]
pub struct Program {
    /// Session that its shell belongs to; a command without.
    pub session: Option<u64>,
    /// Arguments, program first.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Whether a stdin is attached; `/dev/null` without.
    pub stdin: bool,
    /// Number that the channel gets inside, if one is attached.
    pub channel: Option<u32>,
}

/// What comes back over the status pipe of a program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Status {
    /// It did not start.
    Failed(Failure),
    /// It ended, and its children with it.
    Ended {
        /// Exit status, or negated signal.
        code: i32,
        /// CPU time of all that was reaped meanwhile, µs.
        cpu_micros: u64,
        /// Whether init killed it for memory.
        out_of_memory: bool,
    },
}
