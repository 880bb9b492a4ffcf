//! A sandbox, as the supervisor sees it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use swegym_core::{
    Command, ExecOutput, Exit, Network, Output, Sandbox, SandboxError, SandboxSpec, Session,
    SnapshotId, Upper,
};

use super::backend::{Supervisor, lock, next_id, spawner_gone};
use super::cgroup::Gauge;
use super::pump::{Feed, Sink, Stopped, Stream, pipe_from_them, pipe_to_them, pump};
use super::session::NativeSession;
use super::wire::{
    BindConfig, Config, Failure, FromInit, Link, MAX_CHANNEL, Open, Program, Report, Slot, Status,
    ToInit,
};

/// Longest wait for init to answer before the sandbox counts as hung.
const ANSWER: Duration = Duration::from_secs(30);

/// Longest wait for a killed command to be gone.
const KILL: Duration = Duration::from_secs(10);

/// Largest file that `read` returns, bytes.
const MAX_READ: u64 = 256 << 20;

/// Most bytes kept of a command's private channel.
const MAX_CHANNEL_BYTES: usize = 64 << 20;

/// What a sandbox is started from.
#[derive(Debug)]
pub struct Origin {
    pub spec: SandboxSpec,
    pub config: Config,
    pub snapshot: Option<Arc<Snapshot>>,
}

/// A frozen file system: a mount namespace that keeps it alive.
#[derive(Debug)]
pub struct Snapshot {
    namespace: OwnedFd,
    origin: Arc<Origin>,
    frozen: Vec<u32>,
}

impl Origin {
    /// Starting from a snapshot.
    pub fn of(snapshot: &Arc<Snapshot>) -> Arc<Self> {
        let origin = &snapshot.origin;
        Arc::new(Self {
            spec: origin.spec.clone(),
            config: Config {
                frozen: snapshot.frozen.clone(),
                ..origin.config.clone()
            },
            snapshot: Some(Arc::clone(snapshot)),
        })
    }
}

/// Checks a spec, and puts it in the words of the spawner.
pub fn config(spec: &SandboxSpec) -> Result<Config, SandboxError> {
    let invalid = |what: String| Err(SandboxError::Invalid(what));
    if spec.layers.is_empty() {
        return invalid("spec: no layers".to_owned());
    }
    for path in &spec.layers {
        if !path.is_absolute() || !path.is_dir() {
            return invalid(format!(
                "layer {}: not an absolute path of a directory",
                path.display()
            ));
        }
    }
    for bind in &spec.binds {
        if !bind.source.is_absolute() || !is_plain(&bind.target) {
            return invalid(format!(
                "bind of {} at {}: both must be absolute paths, the target without ..",
                bind.source.display(),
                bind.target.display()
            ));
        }
    }
    for path in &spec.readonly {
        if !is_plain(path) {
            return invalid(format!(
                "readonly path {}: not an absolute path without ..",
                path.display()
            ));
        }
    }
    if !spec.workdir.is_absolute() {
        return invalid(format!("workdir {}: not absolute", spec.workdir.display()));
    }
    if spec.hostname.is_empty() || spec.hostname.len() > 64 {
        return invalid(format!("hostname {:?}: 1 to 64 bytes", spec.hostname));
    }
    check_env(spec.env.iter())?;
    let upper = match &spec.upper {
        Upper::Memory => None,
        Upper::Directory(path) => {
            let empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            if !is_plain(path) || !empty {
                return invalid(format!(
                    "upper {}: not an absolute path of an empty directory",
                    path.display()
                ));
            }
            Some(bytes(path))
        }
    };
    Ok(Config {
        layers: spec.layers.iter().map(|path| bytes(path)).collect(),
        binds: spec
            .binds
            .iter()
            .map(|bind| BindConfig {
                source: bytes(&bind.source),
                target: bytes(&bind.target),
                readonly: bind.readonly,
            })
            .collect(),
        readonly: spec.readonly.iter().map(|path| bytes(path)).collect(),
        upper,
        frozen: Vec::new(),
        hostname: spec.hostname.clone(),
        home: spec
            .env
            .get("HOME")
            .map_or("/", String::as_str)
            .as_bytes()
            .to_vec(),
        host_network: spec.network == Network::Host,
        memory: spec.limits.memory,
        processes: spec.limits.processes,
        disk: spec.limits.disk,
        open_files: spec.limits.open_files,
    })
}

/// An absolute path of names only, and not the root.
fn is_plain(path: &Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir)
        && path.file_name().is_some()
        && components.all(|c| matches!(c, Component::Normal(_)))
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn check_env<'a>(env: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), SandboxError> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(SandboxError::Invalid(format!(
                "environment variable {name:?}"
            )));
        }
    }
    Ok(())
}

/// A sandbox of the native backend.
pub struct NativeSandbox {
    handle: Arc<Handle>,
    origin: Arc<Origin>,
    /// How many snapshots were taken since the start.
    snapshots_taken: usize,
}

/// What the sandbox and its sessions share.
pub struct Handle {
    control: Mutex<Link>,
    supervisor: Arc<Supervisor>,
    id: u64,
    slot: Slot,
    gauge: OnceLock<Option<Arc<Gauge>>>,
    closed: AtomicBool,
}

impl Handle {
    /// Starts a program; with status, stdout, stderr, and what else it has.
    pub fn run(&self, program: Program, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        self.tell(&ToInit::Run(program), fds)
    }

    /// Sends what is not answered.
    pub fn tell(&self, request: &ToInit, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        lock(&self.control)
            .send(request, fds)
            .map_err(|_| self.gone())
    }

    /// Sends what is answered, and waits for that.
    fn ask(&self, request: &ToInit) -> Result<Option<OwnedFd>, Answer> {
        let control = lock(&self.control);
        control.send(request, &[]).map_err(|_| self.gone())?;
        match control.recv() {
            Ok(Some((FromInit::Done, mut fds))) => Ok(fds.pop()),
            Ok(Some((FromInit::Busy, _))) => Err(Answer::Busy),
            Ok(Some((FromInit::Failed(failure), _))) => Err(Answer::Failed(failure)),
            Ok(Some((FromInit::Up(_), _)) | None) => Err(self.gone().into()),
            Err(_) => Err(self.hung().into()),
        }
    }

    /// Kills everything inside and waits until it is gone. Idempotent.
    pub fn close(&self) -> Result<(), SandboxError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.supervisor.kill(self.id, ANSWER)
    }

    /// The error for a sandbox that has ended.
    pub fn gone(&self) -> SandboxError {
        SandboxError::Gone(if self.closed.load(Ordering::SeqCst) {
            "it was closed".to_owned()
        } else {
            "its init has ended".to_owned()
        })
    }

    /// Ends a sandbox whose init does not answer.
    pub fn hung(&self) -> SandboxError {
        let outcome = self.close();
        SandboxError::Gone(match outcome {
            Ok(()) => "its init did not answer and was killed".to_owned(),
            Err(e) => format!("its init did not answer: {e}"),
        })
    }

    /// The gauge of its memory, if a cgroup counts it.
    pub fn gauge(&self) -> Option<&Gauge> {
        let slot = self.slot.memory_cgroup.then_some(self.slot.index);
        let open = || self.supervisor.gauge(slot?);
        self.gauge.get_or_init(open).as_deref()
    }

    /// Processes that the kernel has killed for memory so far.
    pub fn kills(&self) -> Option<u64> {
        self.gauge()?.kills()
    }

    /// Whether there are more of them than before.
    pub fn killed_since(&self, before: Option<u64>) -> bool {
        before
            .zip(self.kills())
            .is_some_and(|(before, now)| now > before)
    }
}

/// Why init did not do as asked.
enum Answer {
    Busy,
    Failed(Failure),
    Other(SandboxError),
}

impl From<SandboxError> for Answer {
    fn from(error: SandboxError) -> Self {
        Self::Other(error)
    }
}

impl Answer {
    fn into_error(self) -> SandboxError {
        match self {
            Self::Busy => SandboxError::Busy("a command or session is running".to_owned()),
            Self::Failed(failure) => failure_error(&failure),
            Self::Other(error) => error,
        }
    }
}

impl NativeSandbox {
    /// Starts a sandbox and waits until it is up.
    pub fn start(supervisor: &Arc<Supervisor>, origin: Arc<Origin>) -> Result<Self, SandboxError> {
        let (control, theirs) = Link::pair().map_err(|e| start_error("make a socket", e))?;
        let snapshot = origin.snapshot.as_ref().map(|s| &s.namespace);
        let id = supervisor.spawn(&origin.config, &theirs, snapshot)?;
        drop(theirs);
        control
            .set_timeout(Some(ANSWER))
            .map_err(|e| start_error("set a timeout", e))?;
        let (slot, failure) = match control.recv() {
            Ok(Some((FromInit::Up(slot), _))) => (slot, None),
            Ok(Some((FromInit::Failed(failure), _))) => (
                Slot::default(),
                Some(start_error(&failure.step, failure.source())),
            ),
            Ok(_) => (Slot::default(), Some(not_spawned(supervisor, id))),
            Err(e) => (Slot::default(), Some(start_error("wait for init", e))),
        };
        // From here on dropping it ends what there may be of it.
        let sandbox = Self {
            handle: Arc::new(Handle {
                control: Mutex::new(control),
                supervisor: Arc::clone(supervisor),
                id,
                slot,
                gauge: OnceLock::new(),
                closed: AtomicBool::new(false),
            }),
            origin,
            snapshots_taken: 0,
        };
        match failure {
            None => Ok(sandbox),
            Some(failure) => Err(failure),
        }
    }

    fn program(&self, command: &Command) -> Result<Program, SandboxError> {
        let spec = &self.origin.spec;
        if command.argv.first().is_none_or(String::is_empty) {
            return Err(SandboxError::Invalid("command: no program".to_owned()));
        }
        if command.argv.iter().any(|a| a.contains('\0')) {
            return Err(SandboxError::Invalid(
                "command: argument with a nul byte".to_owned(),
            ));
        }
        check_env(command.env.iter())?;
        if let Some(number) = command.channel
            && !(3..=MAX_CHANNEL).contains(&number)
        {
            return Err(SandboxError::Invalid(format!(
                "channel {number}: 3 to {MAX_CHANNEL}"
            )));
        }
        let mut env = spec.env.clone();
        env.extend(command.env.clone());
        Ok(Program {
            session: None,
            argv: command.argv.clone(),
            env: env.into_iter().collect(),
            cwd: bytes(&self.inside(command.cwd.as_deref().unwrap_or(Path::new("")))),
            stdin: !command.stdin.is_empty(),
            channel: command.channel,
        })
    }

    /// A path inside, relative ones from the workdir.
    fn inside(&self, path: &Path) -> PathBuf {
        self.origin.spec.workdir.join(path)
    }

    fn open(&self, path: &Path, how: Open) -> Result<OwnedFd, SandboxError> {
        let request = ToInit::Open {
            path: bytes(&self.inside(path)),
            how,
        };
        match self.handle.ask(&request) {
            Ok(Some(fd)) => Ok(fd),
            Ok(None) => Err(self.handle.hung()),
            Err(Answer::Failed(failure)) => Err(file_error(path, failure.source())),
            Err(other) => Err(other.into_error()),
        }
    }

    fn freeze(&mut self) -> Result<Arc<Snapshot>, SandboxError> {
        if self.origin.config.upper.is_some() {
            return Err(SandboxError::Invalid(
                "snapshot: the sandbox writes to a directory, not to memory".to_owned(),
            ));
        }
        let namespace = self
            .handle
            .ask(&ToInit::Snapshot)
            .map_err(Answer::into_error)?
            .ok_or_else(|| self.handle.hung())?;
        self.snapshots_taken += 1;
        let own = std::iter::repeat_n(self.handle.slot.uid, self.snapshots_taken);
        let frozen = self
            .origin
            .config
            .frozen
            .iter()
            .copied()
            .chain(own)
            .collect();
        Ok(Arc::new(Snapshot {
            namespace,
            origin: Arc::clone(&self.origin),
            frozen,
        }))
    }

    /// Waits for a command, killing it at its limit.
    fn finish(
        &self,
        streams: &mut [Stream<'_>],
        mut feed: Option<Feed<'_>>,
        limit: Option<Duration>,
    ) -> Result<bool, SandboxError> {
        let ended = |streams: &[Stream<'_>]| has_ended(&streams[0]);
        let deadline = limit.map(|limit| Instant::now() + limit);
        let stopped = pump(streams, &mut feed, deadline, ended).map_err(pipe_error)?;
        if stopped == Stopped::Done {
            return Ok(false);
        }
        self.handle.tell(&ToInit::KillCommand, &[])?;
        let deadline = Some(Instant::now() + KILL);
        match pump(streams, &mut None, deadline, ended).map_err(pipe_error)? {
            Stopped::Done => Ok(true),
            Stopped::Deadline => Err(self.handle.hung()),
        }
    }
}

/// Whether a status pipe has had its message, or never will.
pub fn has_ended(status: &Stream<'_>) -> bool {
    !status.bytes().is_empty() || !status.is_open()
}

/// What a status pipe said; `None` if init died first.
pub fn status(stream: &Stream<'_>) -> Option<Status> {
    postcard::take_from_bytes(stream.bytes())
        .ok()
        .map(|(status, _)| status)
}

/// How a program ended, its memory considered.
pub fn exit(code: i32, timed_out: bool, killed_for_memory: bool) -> Exit {
    match code {
        _ if timed_out => Exit::TimedOut,
        0 => Exit::Code(0),
        _ if killed_for_memory => Exit::OutOfMemory,
        code if code < 0 => Exit::Signal(-code),
        code => Exit::Code(code),
    }
}

/// The output of a captured stream.
pub fn output(stream: Stream<'_>) -> Output {
    match stream.into_sink() {
        Sink::Capture(capture) => capture.finish(),
        Sink::Head(bytes, _) => Output { bytes, dropped: 0 },
    }
}

impl Sandbox for NativeSandbox {
    fn exec(&mut self, command: &Command) -> Result<ExecOutput, SandboxError> {
        let program = self.program(command)?;
        let limits = &self.origin.spec.limits;
        let output_limit = command.output_limit.unwrap_or(limits.output);
        let kills_before = self.handle.kills();
        let started = Instant::now();

        let (status_pipe, status_end) = pipe_from_them().map_err(pipe_error)?;
        let (stdout_pipe, stdout_end) = pipe_from_them().map_err(pipe_error)?;
        let stderr = if command.merge_stderr {
            None
        } else {
            Some(pipe_from_them().map_err(pipe_error)?)
        };
        let stdin = if program.stdin {
            Some(pipe_to_them().map_err(pipe_error)?)
        } else {
            None
        };
        let channel = match program.channel {
            Some(_) => Some(pipe_from_them().map_err(pipe_error)?),
            None => None,
        };
        let stderr_end = stderr.as_ref().map_or(&stdout_end, |(_, end)| end);
        let mut ends = vec![status_end.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()];
        ends.extend(stdin.iter().chain(&channel).map(|(_, end)| end.as_fd()));
        self.handle.run(program, &ends)?;
        drop((status_end, stdout_end));
        let stderr = stderr.map(|(pipe, _)| pipe);
        let stdin = stdin.map(|(pipe, _)| pipe);
        let channel = channel.map(|(pipe, _)| pipe);

        let mut streams = vec![
            Stream::head(&status_pipe, 4096),
            Stream::capture(&stdout_pipe, output_limit),
        ];
        streams.extend(
            stderr
                .as_ref()
                .map(|pipe| Stream::capture(pipe, output_limit)),
        );
        streams.extend(
            channel
                .as_ref()
                .map(|pipe| Stream::head(pipe, MAX_CHANNEL_BYTES)),
        );
        let feed = stdin.map(|pipe| Feed::all(pipe, &command.stdin));
        let limit = command.timeout.or(limits.wall);
        let timed_out = self.finish(&mut streams, feed, limit)?;

        let seconds = started.elapsed().as_secs_f64();
        let killed = self.handle.killed_since(kills_before);
        let mut streams = streams.into_iter();
        let ended = streams.next().and_then(|stream| status(&stream));
        let (exit, cpu_seconds) = match ended {
            Some(Status::Ended {
                code,
                cpu_micros,
                out_of_memory,
            }) => (
                exit(code, timed_out, killed || out_of_memory),
                Some(cpu_micros as f64 / 1e6),
            ),
            Some(Status::Failed(failure)) => return Err(failure_error(&failure)),
            None if killed => (Exit::OutOfMemory, None),
            None => return Err(self.handle.gone()),
        };
        Ok(ExecOutput {
            exit,
            stdout: streams.next().map(output).unwrap_or_default(),
            stderr: stderr
                .as_ref()
                .and_then(|_| streams.next())
                .map(output)
                .unwrap_or_default(),
            channel: streams.next().map(output).unwrap_or_default().bytes,
            seconds,
            cpu_seconds,
            peak_memory: self.handle.gauge().and_then(Gauge::peak),
        })
    }

    fn session(&mut self) -> Result<Box<dyn Session>, SandboxError> {
        let spec = &self.origin.spec;
        let program = self.program(&Command::new(crate::shell::SHELL))?;
        let session = NativeSession::start(Arc::clone(&self.handle), program, spec.limits.clone())?;
        Ok(Box::new(session))
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>, SandboxError> {
        let file = std::fs::File::from(self.open(path, Open::Read)?);
        let mut bytes = Vec::new();
        file.take(MAX_READ + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| file_error(path, e))?;
        if bytes.len() as u64 > MAX_READ {
            return Err(file_error(path, io::ErrorKind::FileTooLarge.into()));
        }
        Ok(bytes)
    }

    fn write(&mut self, path: &Path, bytes: &[u8], executable: bool) -> Result<(), SandboxError> {
        let mut file = std::fs::File::from(self.open(path, Open::Write { executable })?);
        file.write_all(bytes).map_err(|e| file_error(path, e))
    }

    fn snapshot(&mut self) -> Result<SnapshotId, SandboxError> {
        let snapshot = self.freeze()?;
        let id = SnapshotId(format!("{}-{}", std::process::id(), next_id()));
        lock(&self.handle.supervisor.snapshots).insert(id.clone(), snapshot);
        Ok(id)
    }

    fn fork(&mut self) -> Result<Box<dyn Sandbox>, SandboxError> {
        let snapshot = self.freeze()?;
        let fork = Self::start(&self.handle.supervisor, Origin::of(&snapshot))?;
        Ok(Box::new(fork))
    }

    fn reset(&mut self) -> Result<(), SandboxError> {
        self.handle
            .ask(&ToInit::Reset)
            .map_err(Answer::into_error)?;
        self.snapshots_taken = 0;
        Ok(())
    }

    fn close(&mut self) -> Result<(), SandboxError> {
        self.handle.close()
    }
}

impl Drop for NativeSandbox {
    fn drop(&mut self) {
        // Whoever wants to know of errors calls `close`.
        let _ = self.handle.close();
    }
}

/// The error for a step that failed in init.
pub fn failure_error(failure: &Failure) -> SandboxError {
    SandboxError::Io {
        context: failure.step.clone(),
        source: failure.source(),
    }
}

/// Why the spawner closed init's socket before init said anything.
fn not_spawned(supervisor: &Supervisor, id: u64) -> SandboxError {
    match supervisor.wait(id, ANSWER) {
        Ok(Report::Failed(failure)) => start_error(&failure.step, failure.source()),
        Ok(_) => start_error("start init", io::ErrorKind::UnexpectedEof.into()),
        Err(_) => spawner_gone(),
    }
}

fn start_error(step: &str, source: io::Error) -> SandboxError {
    SandboxError::Start {
        step: step.to_owned(),
        source,
    }
}

fn file_error(path: &Path, source: io::Error) -> SandboxError {
    SandboxError::File {
        path: path.to_owned(),
        source,
    }
}

/// The error for pipes that cannot be made or read.
pub fn pipe_error(source: io::Error) -> SandboxError {
    SandboxError::Io {
        context: "connect a command".to_owned(),
        source,
    }
}
