//! A container as a sandbox.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use swegym_core::{
    Bind, Command, ExecOutput, Exit, Network, Sandbox, SandboxError, SandboxSpec, Session,
    SnapshotId, Upper,
};

use super::cgroup::MemoryGroup;
use super::image::Tree;
use super::process::{self, Finished, Next, OutputOf, Running, Source};
use super::quota::Quota;
use super::session::ContainerSession;
use super::{Engine, Image, KEEPER, Kind, LABEL, QUICK, SLOW, USER, lock, random_name};
use crate::capture::Capture;

/// Longest wait for a killed command to be gone.
const KILL: Duration = Duration::from_secs(20);

/// Largest file that `read` returns, bytes.
const MAX_READ: usize = 256 << 20;

/// Most bytes kept of a command's private channel.
const MAX_CHANNEL_BYTES: usize = 64 << 20;

/// Highest number of a private channel.
const MAX_CHANNEL: u32 = 255;

/// Runs a command inside: its comments say how.
const WRAPPER: &str = include_str!("wrapper.sh");

/// The first process: says that it is up, then waits for the supervisor's
/// death, reaping orphans meanwhile.
const KEEP: &str = "echo ready; ulimit -Hi; while read -r line; do :; done";

/// Reads a channel: a fifo in a directory where nobody else makes files.
const CHANNEL: &str = "set -e; mkdir -m 711 \"$1\"; mkfifo -m 622 \"$1/fifo\"; echo ready; \
                       exec 3<\"$1/fifo\"; rm -rf \"$1\"; exec cat <&3";

const READ: &str = "export LC_ALL=C; f=$1; if [ -d \"$f\" ]; then echo 'Is a directory' >&2; exit 1; fi; \
                    if [ -e \"$f\" ] && [ ! -f \"$f\" ]; then echo 'not a regular file' >&2; exit 1; fi; \
                    exec cat -- \"$f\"";

/// Input that is not read is read in the end, or an engine may lose what was
/// said about it.
const WRITE: &str = "export LC_ALL=C; trap 'cat >/dev/null' EXIT; f=$1; mode=$2; \
                     [ -z \"$3\" ] || ulimit -f \"$3\"; \
                     if [ -e \"$f\" ] && [ ! -f \"$f\" ] && [ ! -d \"$f\" ]; then echo 'not a regular file' >&2; exit 1; fi; \
                     case $f in */*) d=${f%/*}; [ -d \"$d/\" ] || mkdir -p -- \"$d/\" || exit 1 ;; esac; \
                     cat >\"$f\" && chmod \"$mode\" -- \"$f\"";

/// What a sandbox is started from.
#[derive(Debug)]
pub struct Origin {
    pub spec: SandboxSpec,
    pub image: Arc<Image>,
    /// What the layers hold.
    pub tree: Arc<Tree>,
    /// Volumes with what must not be written to, by path inside.
    pub readonly: Vec<(String, PathBuf)>,
}

/// Refuses specs that make no sense, or that a container cannot express.
pub fn check(spec: &SandboxSpec) -> Result<(), SandboxError> {
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
    spec.binds.iter().try_for_each(check_bind)?;
    for path in &spec.readonly {
        if !is_plain(path) || has_colon(path) {
            return invalid(format!("readonly path {}", path.display()));
        }
    }
    if !spec.workdir.is_absolute() {
        return invalid(format!("workdir {}: not absolute", spec.workdir.display()));
    }
    if spec.hostname.is_empty() || spec.hostname.len() > 64 {
        return invalid(format!("hostname {:?}: 1 to 64 bytes", spec.hostname));
    }
    if let Upper::Directory(path) = &spec.upper {
        let empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if !is_plain(path) || !empty {
            return invalid(format!(
                "upper {}: not an absolute path of an empty directory",
                path.display()
            ));
        }
    }
    check_env(&spec.env)
}

fn check_bind(bind: &Bind) -> Result<(), SandboxError> {
    let (source, target) = (bind.source.display(), bind.target.display());
    let refused = |why: &str| {
        Err(SandboxError::Invalid(format!(
            "bind of {source} at {target}: {why}"
        )))
    };
    if !bind.source.is_absolute() || !is_plain(&bind.target) {
        return refused("both must be absolute paths, the target without ..");
    }
    if !bind.source.exists() {
        return refused("the source is missing");
    }
    if has_colon(&bind.source) || has_colon(&bind.target) {
        return refused("engines take no path with a colon");
    }
    Ok(())
}

fn has_colon(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b':')
}

/// An absolute path of names only, and not the root.
fn is_plain(path: &Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir)
        && path.file_name().is_some()
        && components.all(|c| matches!(c, Component::Normal(_)))
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), SandboxError> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(SandboxError::Invalid(format!(
                "environment variable {name:?}"
            )));
        }
    }
    Ok(())
}

/// A container.
pub struct ContainerSandbox {
    handle: Arc<Handle>,
    origin: Arc<Origin>,
}

/// What the sandbox and its sessions share.
pub struct Handle {
    engine: Arc<Engine>,
    name: String,
    /// The first process; the container ends when its stdin does.
    keeper: Mutex<Running>,
    memory: Option<MemoryGroup>,
    marks: Mutex<Marks>,
    closed: AtomicBool,
}

/// Numbers that tell what one command started from what others did: ever
/// lower limits of pending signals.
struct Marks {
    highest: u64,
    next: u64,
    sessions: usize,
}

/// What to run inside, beside the command line.
pub struct Start<'a> {
    pub spec: &'a SandboxSpec,
    pub argv: &'a [String],
    pub env: &'a BTreeMap<String, String>,
    pub cwd: &'a Path,
    pub mode: Mode,
    pub mark: u64,
    /// Whether nothing else runs inside.
    pub alone: bool,
    /// Number of the channel and directory of its fifo.
    pub channel: Option<(u32, String)>,
}

/// How a wrapper connects what it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Stdout and stderr apart.
    Apart,
    /// Stderr into stdout.
    Merged,
    /// A live shell.
    Session,
    /// Runs nothing: only ends what a command or session left.
    Sweep { session: bool },
}

/// What a wrapper said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The program ended with this status.
    Ended(i32),
    /// The working directory cannot be entered.
    NoDirectory,
    /// All is swept.
    Swept,
}

impl Handle {
    /// Starts a container and waits until it is up.
    fn start(engine: &Arc<Engine>, origin: &Origin) -> Result<Self, SandboxError> {
        let failed = |step: &str, source| SandboxError::Start {
            step: step.to_owned(),
            source,
        };
        if let Some((_, quota)) = limit_of_writes(engine, &origin.spec) {
            quota.check().map_err(|e| failed("limit all writes", e))?;
        }
        let name = random_name().map_err(|e| failed("make a name", e))?;
        let name = format!("swegym-{}-{name}", std::process::id());
        let args = run_args(engine, origin, &name);
        let running = Running::start(process::command(&engine.program, args), true)
            .map_err(|e| failed("run the engine", e))?;
        let highest = match await_ready(&running) {
            Ok(highest) => highest,
            Err(why) => {
                drop(running);
                let _ = engine.remove_container(&name);
                return Err(failed("start the container", io::Error::other(why)));
            }
        };
        // Without a limit of its own, the group is one of others too.
        let limited = origin.spec.limits.memory.filter(|_| engine.counts.memory);
        let memory = limited.and_then(|_| {
            let pid = engine.ask(
                "inspect a container",
                ["inspect", "--format", "{{.State.Pid}}", &name],
            );
            MemoryGroup::of(pid.ok()?.trim())
        });
        Ok(Self {
            engine: Arc::clone(engine),
            name,
            keeper: Mutex::new(running),
            memory,
            marks: Mutex::new(Marks {
                highest,
                next: highest,
                sessions: 0,
            }),
            closed: AtomicBool::new(false),
        })
    }

    /// Kernel out-of-memory kills so far.
    pub fn kills(&self) -> Option<u64> {
        self.memory.as_ref()?.kills()
    }

    /// Peak memory so far, bytes.
    pub fn peak(&self) -> Option<u64> {
        self.memory.as_ref()?.peak()
    }

    /// A mark for a command or session, and whether it is alone.
    pub fn mark(&self, session: bool) -> Result<(u64, bool), SandboxError> {
        let mut marks = lock(&self.marks);
        let alone = marks.sessions == 0;
        if alone {
            marks.next = marks.highest;
        }
        // Whatever runs needs some room for signals of its own.
        if marks.next <= marks.highest / 2 {
            return Err(SandboxError::Busy(
                "too many commands beside open sessions; close the sessions".to_owned(),
            ));
        }
        marks.next -= 1;
        marks.sessions += usize::from(session);
        Ok((marks.next, alone))
    }

    /// A session is over, and all it left.
    pub fn end_session(&self) {
        lock(&self.marks).sessions -= 1;
    }

    /// Starts a program by the wrapper.
    pub fn run(&self, start: &Start<'_>, listens: bool) -> Result<Running, SandboxError> {
        self.alive()?;
        self.engine
            .exec(
                &self.name,
                USER,
                listens,
                &wrapper_args(&self.engine, start),
            )
            .map_err(connect_error)
    }

    /// Ends what a command or session has left, where its wrapper could not.
    pub fn sweep(
        &self,
        spec: &SandboxSpec,
        mark: u64,
        alone: bool,
        session: bool,
    ) -> Result<(), SandboxError> {
        let start = Start {
            spec,
            argv: &[],
            env: &BTreeMap::new(),
            cwd: Path::new("/"),
            mode: Mode::Sweep { session },
            mark,
            alone,
            channel: None,
        };
        for _ in 0..3 {
            let running = self.run(&start, false)?;
            let finished = process::finish(running, KILL, 1 << 16).map_err(connect_error)?;
            if split_report(&finished.stderr).1 == Some(Report::Swept) {
                return Ok(());
            }
        }
        Err(self.hung())
    }

    /// Starts a script of ours inside.
    fn script(
        &self,
        user: u32,
        listens: bool,
        script: &str,
        args: &[OsString],
    ) -> Result<Running, SandboxError> {
        self.alive()?;
        let mut all: Vec<OsString> = ["/bin/bash", "-p", "-c", script, "swegym"]
            .map(OsString::from)
            .to_vec();
        all.extend_from_slice(args);
        self.engine
            .exec(&self.name, user, listens, &all)
            .map_err(connect_error)
    }

    /// Fails if the container has ended.
    pub fn alive(&self) -> Result<(), SandboxError> {
        if !self.closed.load(Ordering::SeqCst) && lock(&self.keeper).is_alive() {
            Ok(())
        } else {
            Err(self.gone())
        }
    }

    /// The error for a sandbox that has ended.
    pub fn gone(&self) -> SandboxError {
        SandboxError::Gone(if self.closed.load(Ordering::SeqCst) {
            "it was closed".to_owned()
        } else {
            "its container has ended".to_owned()
        })
    }

    /// Ends a container that cannot be cleaned.
    pub fn hung(&self) -> SandboxError {
        SandboxError::Gone(match self.close() {
            Ok(()) => "what ran inside could not be ended, so the container was".to_owned(),
            Err(e) => format!("what runs inside cannot be ended: {e}"),
        })
    }

    fn close(&self) -> Result<(), SandboxError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let removed = self.engine.remove_container(&self.name);
        let mut keeper = lock(&self.keeper);
        keeper.close_stdin();
        removed
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever wants to know of errors calls `close`.
        let _ = self.close();
    }
}

/// The engine's command line for a container.
fn run_args(engine: &Engine, origin: &Origin, name: &str) -> Vec<OsString> {
    let spec = &origin.spec;
    let limits = &spec.limits;
    let fixed = [
        "run",
        "-i",
        "--rm",
        "--pull=never",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--log-driver=none",
    ];
    let mut args: Vec<OsString> = fixed.map(OsString::from).to_vec();
    let network = match spec.network {
        Network::None => "none",
        Network::Host => "host",
    };
    let writes_to_host = spec.upper != Upper::Memory || spec.binds.iter().any(|b| !b.readonly);
    let profile = &engine.profiles[usize::from(writes_to_host)];
    let own = [
        format!("--name={name}"),
        format!("--label={LABEL}={}", std::process::id()),
        format!("--user={KEEPER}:{KEEPER}"),
        format!("--security-opt=seccomp={}", profile.display()),
        format!("--hostname={}", spec.hostname),
        format!("--network={network}"),
    ];
    args.extend(own.map(OsString::from));
    args.extend(
        match engine.kind {
            Kind::Podman => podman_args(engine),
            // Nothing of the machine's hardware is to be seen.
            Kind::Docker => vec!["--tmpfs=/sys:ro,nosuid,nodev,noexec,size=4k".to_owned()],
        }
        .into_iter()
        .map(OsString::from),
    );
    if let Some(bytes) = limits.memory.filter(|_| engine.counts.memory) {
        args.push(format!("--memory={bytes}").into());
        args.push(format!("--memory-swap={bytes}").into());
    }
    if let Some(count) = limits.processes.filter(|_| engine.counts.processes) {
        // The first process counts too.
        args.push(format!("--pids-limit={}", count.saturating_add(1)).into());
    }
    if let Some(bytes) = limits.disk {
        args.push(format!("--shm-size={bytes}").into());
    }
    if let Some((bytes, quota)) = limit_of_writes(engine, spec) {
        args.extend(quota.args(bytes, || origin.tree.size()));
    }
    for bind in &spec.binds {
        args.push("-v".into());
        args.push(bind_arg(engine, bind));
    }
    for (volume, path) in &origin.readonly {
        args.push(format!("-v={volume}:{}:ro", path.display()).into());
    }
    args.push(origin.image.reference.clone().into());
    args.extend(["/bin/bash", "-p", "-c", KEEP].map(OsString::from));
    args
}

/// How much a container may write at all, and how it is told so.
fn limit_of_writes<'a>(engine: &'a Engine, spec: &SandboxSpec) -> Option<(u64, &'a Quota)> {
    // A directory of the host has no such limit on any backend.
    let limit = spec.limits.disk.filter(|_| spec.upper == Upper::Memory);
    limit.zip(engine.quota.as_ref())
}

/// What only podman can be told.
fn podman_args(engine: &Engine) -> Vec<String> {
    let mut args = vec![
        // The files of the layers are used as they are.
        "--no-hosts".to_owned(),
        "--passwd=false".to_owned(),
        "--systemd=false".to_owned(),
        "--http-proxy=false".to_owned(),
        // Nothing of the machine's hardware is to be seen.
        "--mount=type=tmpfs,dst=/sys,ro,tmpfs-size=4k".to_owned(),
    ];
    if engine.rootless {
        // What belongs to the caller belongs to the user of commands inside.
        args.push(format!("--userns=keep-id:uid={USER},gid={USER}"));
    }
    args
}

/// Refuses what the user of commands could not write to, although the spec says
/// so.
pub fn check_owners(engine: &Engine, spec: &SandboxSpec) -> Result<(), SandboxError> {
    use std::os::unix::fs::MetadataExt as _;
    if engine.kind == Kind::Podman {
        return Ok(());
    }
    let writable = spec.binds.iter().filter(|bind| !bind.readonly);
    for bind in writable {
        let owner = std::fs::metadata(&bind.source).map(|m| m.uid());
        if engine.rootless || !owner.is_ok_and(|uid| uid == USER) {
            return Err(SandboxError::Invalid(format!(
                "bind of {} at {}: docker cannot let its user write there unless uid {USER} owns it",
                bind.source.display(),
                bind.target.display()
            )));
        }
    }
    Ok(())
}

/// A bind, as `-v` takes it.
pub fn bind_arg(engine: &Engine, bind: &Bind) -> OsString {
    let mut arg = bind.source.clone().into_os_string();
    arg.push(":");
    arg.push(&bind.target);
    arg.push(if bind.readonly { ":ro" } else { ":rw" });
    if engine.kind == Kind::Podman {
        arg.push(",nosuid,nodev");
        if !bind.readonly && !engine.rootless {
            use std::os::unix::fs::MetadataExt as _;
            // What the source's owner owns, the user of commands owns inside.
            if let Ok(owner) = std::fs::metadata(&bind.source) {
                let (uid, gid) = (owner.uid(), owner.gid());
                arg.push(format!(",idmap=uids={uid}-{USER}-1;gids={gid}-{USER}-1"));
            }
        }
    }
    arg
}

/// Waits until the first process says that it is up, and its hard limit of
/// pending signals.
fn await_ready(running: &Running) -> Result<u64, String> {
    let deadline = Some(Instant::now() + QUICK);
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    loop {
        match running.next(deadline) {
            Next::Bytes(Source::Stdout, bytes) => said.extend(bytes),
            Next::Bytes(Source::Stderr, bytes) => complaint.extend(bytes),
            Next::Ended => return Err(String::from_utf8_lossy(&complaint).trim().to_owned()),
            Next::Deadline => return Err("it did not come up in time".to_owned()),
        }
        let text = String::from_utf8_lossy(&said);
        if let Some((limit, _)) = text
            .strip_prefix("ready\n")
            .and_then(|rest| rest.split_once('\n'))
        {
            return Ok(limit.parse().unwrap_or(UNLIMITED));
        }
    }
}

/// Where the limit of pending signals is none.
const UNLIMITED: u64 = 1 << 20;

fn wrapper_args(engine: &Engine, start: &Start<'_>) -> Vec<OsString> {
    let limits = &start.spec.limits;
    let number = |limit: Option<u64>| limit.map_or_else(String::new, |n| n.to_string());
    let (kind, mode) = match start.mode {
        Mode::Apart => ("command", "no"),
        Mode::Merged => ("command", "yes"),
        Mode::Session => ("session", "session"),
        Mode::Sweep { session: false } => ("command", "sweep"),
        Mode::Sweep { session: true } => ("session", "sweep"),
    };
    let (channel, directory) = match &start.channel {
        Some((number, directory)) => (number.to_string(), format!("{directory}/fifo")),
        None => (String::new(), String::new()),
    };
    let fixed = ["/bin/bash", "-p", "-c", WRAPPER, "swegym", kind];
    let mut args: Vec<OsString> = fixed.map(OsString::from).to_vec();
    args.push(start.mark.to_string().into());
    args.push(if start.alone { "1" } else { "0" }.into());
    args.push(start.cwd.into());
    args.push(number(limits.open_files).into());
    args.push(number(blocks(start.spec)).into());
    args.extend([mode.to_owned(), channel, directory].map(OsString::from));
    let processes = limits.processes.filter(|_| !engine.counts.processes);
    let memory = limits.memory.filter(|_| !engine.counts.memory);
    // The wrapper counts too.
    args.push(number(processes.map(|n| n.saturating_add(1))).into());
    args.push(number(memory.map(|bytes| bytes / 1024)).into());
    let mut env = start.spec.env.clone();
    env.extend(start.env.clone());
    args.extend(env.iter().map(|(k, v)| format!("{k}={v}").into()));
    args.extend(start.argv.iter().map(OsString::from));
    args
}

/// Largest file, in the shell's blocks.
fn blocks(spec: &SandboxSpec) -> Option<u64> {
    spec.limits.disk.map(|bytes| bytes.div_ceil(1024))
}

/// Bytes at the end of a stream that may be a report.
const REPORT: usize = 64;

/// Splits a wrapper's report off the end of its stderr.
fn split_report(bytes: &[u8]) -> (&[u8], Option<Report>) {
    let none = (bytes, None);
    let Some(inner) = bytes.strip_suffix(b"\0") else {
        return none;
    };
    let Some(start) = inner.iter().rposition(|&b| b == 0) else {
        return none;
    };
    let text = std::str::from_utf8(&inner[start + 1..]).unwrap_or_default();
    let mut words = text.split(' ');
    let report = match (words.next(), words.next(), words.next()) {
        (Some("swegym"), Some("ended"), Some(code)) => code.parse().ok().map(Report::Ended),
        (Some("swegym"), Some("cwd"), _) => Some(Report::NoDirectory),
        (Some("swegym"), Some("swept"), _) => Some(Report::Swept),
        _ => None,
    };
    match report {
        Some(report) => (&bytes[..start], Some(report)),
        None => none,
    }
}

/// Captures a stream, but holds back its end, which may be ours.
pub struct HeldCapture {
    capture: Capture,
    held: Vec<u8>,
}

impl HeldCapture {
    pub fn new(limit: usize) -> Self {
        Self {
            capture: Capture::new(limit),
            held: Vec::new(),
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let settled = self.held.len().saturating_sub(REPORT);
        self.capture.push(&self.held[..settled]);
        self.held.drain(..settled);
    }

    /// The capture, with the report taken off.
    pub fn finish(mut self) -> (swegym_core::Output, Option<Report>) {
        let (rest, report) = split_report(&self.held);
        self.capture.push(rest);
        (self.capture.finish(), report)
    }
}

/// How a program ended, from a status as shells give it: engines cannot tell
/// a signal from the status that stands for it.
pub fn exit(code: i32, timed_out: bool, killed_for_memory: bool) -> Exit {
    match code {
        _ if timed_out => Exit::TimedOut,
        0 => Exit::Code(0),
        _ if killed_for_memory => Exit::OutOfMemory,
        129..=192 => Exit::Signal(code - 128),
        code => Exit::Code(code),
    }
}

fn code_of(status: Option<ExitStatus>) -> i32 {
    status.and_then(|s| s.code()).unwrap_or(128 + 9)
}

impl ContainerSandbox {
    /// Starts a container and waits until it is up.
    pub fn start(engine: &Arc<Engine>, origin: Arc<Origin>) -> Result<Self, SandboxError> {
        let handle = Arc::new(Handle::start(engine, &origin)?);
        Ok(Self { handle, origin })
    }

    /// A path inside, relative ones from the workdir.
    fn inside(&self, path: &Path) -> PathBuf {
        self.origin.spec.workdir.join(path)
    }

    fn check(command: &Command) -> Result<(), SandboxError> {
        let invalid = |what: &str| Err(SandboxError::Invalid(format!("command: {what}")));
        let Some(program) = command.argv.first().filter(|p| !p.is_empty()) else {
            return invalid("no program");
        };
        if program.contains('=') {
            return invalid("containers cannot run a program with = in its name");
        }
        if command.argv.iter().any(|a| a.contains('\0')) {
            return invalid("argument with a nul byte");
        }
        match command.channel {
            Some(number) if !(3..=MAX_CHANNEL).contains(&number) => Err(SandboxError::Invalid(
                format!("channel {number}: 3 to {MAX_CHANNEL}"),
            )),
            _ => check_env(&command.env),
        }
    }

    /// Starts reading a channel; gives the directory of its fifo.
    fn open_channel(&self) -> Result<(String, JoinHandle<Vec<u8>>), SandboxError> {
        let directory = format!("/dev/shm/swegym-{}", random_name().map_err(connect_error)?);
        let running = self
            .handle
            .script(KEEPER, false, CHANNEL, &[OsString::from(&directory)])?;
        let mut said = Vec::new();
        let mut complaint = Vec::new();
        let deadline = Some(Instant::now() + QUICK);
        while !said.starts_with(b"ready\n") {
            match running.next(deadline) {
                Next::Bytes(Source::Stdout, bytes) => said.extend(bytes),
                Next::Bytes(Source::Stderr, bytes) => complaint.extend(bytes),
                Next::Ended | Next::Deadline => {
                    let why = String::from_utf8_lossy(&complaint).into_owned();
                    return Err(connect_error(io::Error::other(why)));
                }
            }
        }
        said.drain(.."ready\n".len());
        let reader = std::thread::Builder::new()
            .name("swegym-channel".to_owned())
            .spawn(move || read_channel(&running, said))
            .map_err(connect_error)?;
        Ok((directory, reader))
    }

    /// The result of a file script.
    fn finish_file(&self, path: &Path, running: Running) -> Result<Finished, SandboxError> {
        let finished =
            process::finish(running, SLOW, MAX_READ + 1).map_err(|e| file_error(path, e))?;
        if finished.success() {
            return Ok(finished);
        }
        self.handle.alive()?;
        Err(file_error(path, complaint_error(&finished)))
    }

    /// Writes what has changed to the directory that the spec names, if any.
    /// Nothing runs inside afterwards.
    fn read_out(&self) -> Result<(), SandboxError> {
        let Upper::Directory(upper) = &self.origin.spec.upper else {
            return Ok(());
        };
        let handle = &self.handle;
        handle.alive()?;
        let mark = lock(&handle.marks).highest - 1;
        handle.sweep(&self.origin.spec, mark, true, false)?;
        let failed = |source| SandboxError::Io {
            context: format!("read out what has changed to {}", upper.display()),
            source,
        };
        let export = process::command(&handle.engine.program, ["export", &handle.name]);
        let mut output = OutputOf::new(Running::start(export, false).map_err(failed)?, SLOW);
        let written = super::upper::write(&self.origin.tree, &mut output, upper);
        // Where the engine failed, its words say more than a broken archive.
        output.finish().and(written).map_err(failed)
    }

    fn commit(&mut self) -> Result<Arc<Origin>, SandboxError> {
        self.handle.alive()?;
        if self.origin.spec.upper != Upper::Memory {
            return Err(SandboxError::Invalid(
                "snapshot: the sandbox writes to a directory, not to itself".to_owned(),
            ));
        }
        if lock(&self.handle.marks).sessions > 0 {
            return Err(SandboxError::Busy("a session is running".to_owned()));
        }
        let engine = &self.handle.engine;
        let name = random_name().map_err(connect_error)?;
        let reference = format!("localhost/swegym/snapshot:{name}");
        engine.ask_within(
            "commit a container",
            ["commit", &self.handle.name, &reference],
            SLOW,
        )?;
        Ok(Arc::new(Origin {
            spec: self.origin.spec.clone(),
            image: Arc::new(Image {
                engine: engine.reference(),
                reference,
                temporary: true,
                volumes: Mutex::default(),
                _below: Some(Arc::clone(&self.origin.image)),
            }),
            tree: Arc::clone(&self.origin.tree),
            readonly: self.origin.readonly.clone(),
        }))
    }
}

/// Reads a channel to its end; keeps its beginning.
fn read_channel(running: &Running, mut kept: Vec<u8>) -> Vec<u8> {
    while let Next::Bytes(source, bytes) = running.next(None) {
        if source == Source::Stdout {
            let room = MAX_CHANNEL_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
    kept
}

impl Sandbox for ContainerSandbox {
    fn exec(&mut self, command: &Command) -> Result<ExecOutput, SandboxError> {
        Self::check(command)?;
        self.handle.alive()?;
        let (handle, spec) = (&self.handle, &self.origin.spec);
        let (channel, reader) = match command.channel {
            Some(number) => {
                let (directory, reader) = self.open_channel()?;
                (Some((number, directory)), Some(reader))
            }
            None => (None, None),
        };
        let (mark, alone) = handle.mark(false)?;
        let kills_before = handle.kills();
        let started = Instant::now();
        let cwd = self.inside(command.cwd.as_deref().unwrap_or(Path::new("")));
        let start = Start {
            spec,
            argv: &command.argv,
            env: &command.env,
            cwd: &cwd,
            mode: if command.merge_stderr {
                Mode::Merged
            } else {
                Mode::Apart
            },
            mark,
            alone,
            channel,
        };
        let mut running = handle.run(&start, !command.stdin.is_empty())?;
        running.write(&command.stdin);
        running.close_stdin();
        let limit = command.output_limit.unwrap_or(spec.limits.output);
        let (mut stdout, mut stderr) = (Capture::new(limit), HeldCapture::new(limit));
        let mut deadline = command.timeout.or(spec.limits.wall).map(|l| started + l);
        let mut timed_out = false;
        loop {
            match running.next(deadline) {
                Next::Bytes(Source::Stdout, bytes) => stdout.push(&bytes),
                Next::Bytes(Source::Stderr, bytes) => stderr.push(&bytes),
                Next::Ended => break,
                Next::Deadline if timed_out => return Err(handle.hung()),
                Next::Deadline => {
                    timed_out = true;
                    handle.sweep(spec, mark, alone, false)?;
                    deadline = Some(Instant::now() + KILL);
                }
            }
        }
        let code = code_of(running.wait().ok());
        let (stderr, report) = stderr.finish();
        let code = match report {
            Some(Report::Ended(status)) if code == 0 => status,
            Some(Report::NoDirectory) if code == 0 => {
                return Err(SandboxError::Io {
                    context: format!("enter the working directory {}", cwd.display()),
                    source: ErrorKind::NotFound.into(),
                });
            }
            // The command killed its wrapper, or the container was killed.
            _ if timed_out || code > 128 => {
                handle.alive()?;
                handle.sweep(spec, mark, alone, false)?;
                code
            }
            _ => {
                handle.alive()?;
                return Err(connect_error(io::Error::other(stderr.text())));
            }
        };
        let killed = kills_before.zip(handle.kills()).is_some_and(|(b, a)| a > b);
        let channel = reader.and_then(|r| r.join().ok()).unwrap_or_default();
        Ok(ExecOutput {
            exit: exit(code, timed_out, killed),
            stdout: stdout.finish(),
            stderr,
            channel,
            seconds: started.elapsed().as_secs_f64(),
            cpu_seconds: None,
            peak_memory: handle.peak(),
        })
    }

    fn session(&mut self) -> Result<Box<dyn Session>, SandboxError> {
        let session = ContainerSession::start(&self.handle, &self.origin)?;
        Ok(Box::new(session))
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>, SandboxError> {
        let args = [self.inside(path).into_os_string()];
        let running = self.handle.script(USER, false, READ, &args)?;
        let finished = self.finish_file(path, running)?;
        if finished.stdout.len() > MAX_READ {
            return Err(file_error(path, ErrorKind::FileTooLarge.into()));
        }
        Ok(finished.stdout)
    }

    fn write(&mut self, path: &Path, bytes: &[u8], executable: bool) -> Result<(), SandboxError> {
        let blocks = blocks(&self.origin.spec).map_or_else(String::new, |n| n.to_string());
        let mode = if executable { "755" } else { "644" };
        let args = [
            self.inside(path).into_os_string(),
            mode.into(),
            blocks.into(),
        ];
        let mut running = self.handle.script(USER, true, WRITE, &args)?;
        running.write(bytes);
        running.close_stdin();
        self.finish_file(path, running).map(drop)
    }

    fn snapshot(&mut self) -> Result<SnapshotId, SandboxError> {
        let origin = self.commit()?;
        let id = SnapshotId(origin.image.reference.clone());
        lock(&self.handle.engine.snapshots).insert(id.clone(), origin);
        Ok(id)
    }

    fn fork(&mut self) -> Result<Box<dyn Sandbox>, SandboxError> {
        let origin = self.commit()?;
        Ok(Box::new(Self::start(&self.handle.engine, origin)?))
    }

    fn reset(&mut self) -> Result<(), SandboxError> {
        self.handle.alive()?;
        let engine = Arc::clone(&self.handle.engine);
        self.handle.close()?;
        self.handle = Arc::new(Handle::start(&engine, &self.origin)?);
        Ok(())
    }

    fn close(&mut self) -> Result<(), SandboxError> {
        if self.handle.closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let read_out = self.read_out();
        let closed = self.handle.close();
        read_out.and(closed)
    }
}

impl Drop for ContainerSandbox {
    fn drop(&mut self) {
        // Sessions may still hold the handle.
        let _ = self.handle.close();
    }
}

/// The system's error that a tool named.
fn complaint_error(finished: &Finished) -> io::Error {
    let text = finished.complaint();
    let kinds = [
        ("No such file or directory", ErrorKind::NotFound),
        ("Permission denied", ErrorKind::PermissionDenied),
        ("Is a directory", ErrorKind::IsADirectory),
        ("Not a directory", ErrorKind::NotADirectory),
        // What `mkdir -p` says of a file in its way.
        ("File exists", ErrorKind::NotADirectory),
        ("Read-only file system", ErrorKind::ReadOnlyFilesystem),
        ("No space left on device", ErrorKind::StorageFull),
        // The limit is the sandbox's disk.
        ("Disk quota exceeded", ErrorKind::StorageFull),
        ("File too large", ErrorKind::FileTooLarge),
    ];
    let kind = kinds
        .iter()
        .find_map(|(message, kind)| text.contains(message).then_some(*kind));
    io::Error::new(kind.unwrap_or(ErrorKind::Other), text)
}

fn file_error(path: &Path, source: io::Error) -> SandboxError {
    SandboxError::File {
        path: path.to_owned(),
        source,
    }
}

/// The error for a command that could not be connected.
pub fn connect_error(source: io::Error) -> SandboxError {
    SandboxError::Io {
        context: "connect a command".to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_report_at_the_end_counts() {
        assert_eq!(
            split_report(b"text\0swegym ended 7\0"),
            (&b"text"[..], Some(Report::Ended(7)))
        );
        assert_eq!(
            split_report(b"\0swegym cwd 0\0").1,
            Some(Report::NoDirectory)
        );
        for text in [
            &b"\0swegym ended 7\0x"[..],
            b"swegym ended 7\0",
            b"a\0b\0",
            b"",
        ] {
            assert_eq!(split_report(text), (text, None));
        }
    }

    #[test]
    fn a_report_is_no_output_however_it_arrives() {
        let all = [vec![b'x'; 1000], b"\0swegym ended 0\0".to_vec()].concat();
        for step in [1, 7, 64, 2000] {
            let mut capture = HeldCapture::new(2000);
            all.chunks(step).for_each(|chunk| capture.push(chunk));
            let (output, report) = capture.finish();
            assert_eq!((output.bytes.len(), report), (1000, Some(Report::Ended(0))));
        }
    }
}
