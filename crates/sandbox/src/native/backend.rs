//! The supervisor's side of the spawner: the backend itself.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swegym_core::{Backend, Network, Sandbox, SandboxError, SandboxSpec, SnapshotId};

use super::SPAWNER;
use super::cgroup::Gauge;
use super::inbox::{Inbox, Missing};
use super::sandbox::{NativeSandbox, Origin, Snapshot, config};
use super::wire::{Config, FromSpawner, Hello, Host, Link, Report, ToSpawner};

/// Longest wait for the spawner to come up.
const STARTUP: Duration = Duration::from_secs(20);

/// First uid of the default range: six digits, as some archive formats have
/// room for no more, above the usual ranges of users and containers.
const UID_BASE: u32 = 960_000;
const UID_COUNT: u32 = 8192;

/// Makes sandboxes with namespaces of this kernel.
#[derive(Clone, Debug)]
pub struct NativeBackend(Arc<Spawners>);

/// Starts sandboxes without network, and with the host's: as an ordinary user
/// a spawner can be in one place only.
#[derive(Debug)]
struct Spawners {
    isolated: Arc<Supervisor>,
    connected: Mutex<Option<Arc<Supervisor>>>,
    snapshots: Arc<Snapshots>,
    options: NativeBuilder,
}

/// Snapshots that have not been dropped.
pub type Snapshots = Mutex<HashMap<SnapshotId, Arc<Snapshot>>>;

/// Options of a [`NativeBackend`].
#[derive(Debug, Clone)]
pub struct NativeBuilder {
    helper: PathBuf,
    uid_base: u32,
    uid_count: u32,
    cgroups: bool,
}

impl NativeBuilder {
    /// A program to start as the spawner, in place of this one. It must call
    /// [`child_main`](super::child_main).
    #[must_use]
    pub fn helper(mut self, program: impl Into<PathBuf>) -> Self {
        self.helper = program.into();
        self
    }

    /// Host uids (and gids of the same numbers) for sandboxes, when root.
    #[must_use]
    pub fn uids(mut self, first: u32, count: u32) -> Self {
        (self.uid_base, self.uid_count) = (first, count);
        self
    }

    /// Whether to use cgroups where they can be used.
    #[must_use]
    pub fn cgroups(mut self, wanted: bool) -> Self {
        self.cgroups = wanted;
        self
    }

    /// Starts the backend.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] with the reason and what to do.
    pub fn start(self) -> Result<NativeBackend, SandboxError> {
        let snapshots = Arc::default();
        let isolated = Supervisor::start(&self, false, &snapshots)?;
        Ok(NativeBackend(Arc::new(Spawners {
            isolated: Arc::new(isolated),
            connected: Mutex::default(),
            snapshots,
            options: self,
        })))
    }
}

impl Spawners {
    fn of(&self, network: Network) -> Result<Arc<Supervisor>, SandboxError> {
        if network == Network::None {
            return Ok(Arc::clone(&self.isolated));
        }
        let mut connected = lock(&self.connected);
        if connected.is_none() {
            let started = Supervisor::start(&self.options, true, &self.snapshots)?;
            *connected = Some(Arc::new(started));
        }
        connected.clone().ok_or_else(spawner_gone)
    }
}

impl NativeBackend {
    /// Starts the backend with the default options.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] with the reason and what to do.
    pub fn new() -> Result<Self, SandboxError> {
        Self::builder().start()
    }

    /// Options.
    pub fn builder() -> NativeBuilder {
        NativeBuilder {
            helper: "/proc/self/exe".into(),
            uid_base: UID_BASE,
            uid_count: UID_COUNT,
            cgroups: true,
        }
    }

    /// Whether sandboxes run as unprivileged uids of the host (as root), not
    /// in a user namespace.
    pub fn is_root(&self) -> bool {
        self.0.isolated.host.root
    }

    /// Whether cgroups limit memory, and processes.
    pub fn cgroup_limits(&self) -> (bool, bool) {
        let cgroups = &self.0.isolated.host.cgroups;
        (cgroups.memory.is_some(), cgroups.pids.is_some())
    }

    /// CPU time spent so far by the spawner of sandboxes without network, and
    /// those of them that have ended.
    ///
    /// # Errors
    /// If the spawner is gone.
    pub fn cpu_time(&self) -> Result<Duration, SandboxError> {
        self.0.isolated.cpu_time()
    }

    /// Process id of the spawner of sandboxes without network.
    pub fn spawner_pid(&self) -> u32 {
        lock(&self.0.isolated.child).id()
    }
}

impl Backend for NativeBackend {
    fn name(&self) -> &str {
        "native"
    }

    fn create(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, SandboxError> {
        let config = config(spec)?;
        let origin = Origin {
            spec: spec.clone(),
            config,
            snapshot: None,
        };
        let supervisor = self.0.of(spec.network)?;
        Ok(Box::new(NativeSandbox::start(
            &supervisor,
            Arc::new(origin),
        )?))
    }

    fn restore(&self, snapshot: &SnapshotId) -> Result<Box<dyn Sandbox>, SandboxError> {
        let found = lock(&self.0.snapshots).get(snapshot).cloned();
        let origin = Origin::of(&found.ok_or_else(|| unknown(snapshot))?);
        let supervisor = self.0.of(origin.spec.network)?;
        Ok(Box::new(NativeSandbox::start(&supervisor, origin)?))
    }

    fn drop_snapshot(&self, snapshot: &SnapshotId) -> Result<(), SandboxError> {
        let found = lock(&self.0.snapshots).remove(snapshot);
        found.map(drop).ok_or_else(|| unknown(snapshot))
    }
}

fn unknown(snapshot: &SnapshotId) -> SandboxError {
    SandboxError::Gone(format!("no snapshot {snapshot}"))
}

/// The spawner, as the supervisor sees it.
#[derive(Debug)]
pub struct Supervisor {
    link: Link,
    /// Held while a message is being sent.
    sending: Mutex<()>,
    /// What the spawner found.
    pub host: Host,
    child: Mutex<Child>,
    inbox: Inbox,
    /// Gauges of slots whose cgroups are kept (version 1).
    gauges: Mutex<HashMap<u32, Arc<Gauge>>>,
    /// Shared with the backend.
    pub snapshots: Arc<Snapshots>,
}

/// A number for a sandbox, session or snapshot, unique in this process.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Supervisor {
    fn start(
        options: &NativeBuilder,
        host_network: bool,
        snapshots: &Arc<Snapshots>,
    ) -> Result<Self, SandboxError> {
        if super::helper_name().is_some() {
            return Err(unavailable(
                "this program does not call swegym_sandbox::child_main() first thing in main"
                    .to_owned(),
            ));
        }
        super::raise_file_limit();
        let (link, theirs) = Link::pair().map_err(|e| unavailable(format!("socket: {e}")))?;
        let child = Command::new(&options.helper)
            .arg0(SPAWNER)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| unavailable(format!("start {}: {e}", options.helper.display())))?;
        let mut child = KillOnDrop(Some(child));
        let host = greet(&link, options, host_network).map_err(unavailable)?;
        Ok(Self {
            link,
            sending: Mutex::default(),
            host,
            child: Mutex::new(child.0.take().expect("not taken yet")),
            inbox: Inbox::default(),
            gauges: Mutex::default(),
            snapshots: Arc::clone(snapshots),
        })
    }

    /// Starts a sandbox; gives its number.
    pub fn spawn(
        &self,
        config: &Config,
        control: &Link,
        snapshot: Option<&OwnedFd>,
    ) -> Result<u64, SandboxError> {
        let id = next_id();
        self.inbox.expect(id);
        let config = Box::new(config.clone());
        let mut fds = vec![control.as_fd()];
        fds.extend(snapshot.map(AsFd::as_fd));
        self.send(&ToSpawner::Spawn { id, config }, &fds)?;
        Ok(id)
    }

    /// Waits for what becomes of a sandbox.
    pub fn wait(&self, id: u64, limit: Duration) -> Result<Report, Missing> {
        self.inbox.wait(&self.link, id, limit)
    }

    /// Kills a sandbox and waits until everything of it is gone.
    pub fn kill(&self, id: u64, limit: Duration) -> Result<(), SandboxError> {
        // Asked for here if `wait` has already had the first report.
        self.inbox.expect(id);
        self.send(&ToSpawner::Kill { id }, &[])?;
        match self.wait(id, limit) {
            Ok(_) => Ok(()),
            // Without its spawner the kernel has killed it.
            Err(Missing::Gone) => Err(spawner_gone()),
            Err(Missing::Late) => Err(SandboxError::Io {
                context: format!("kill sandbox {id}"),
                source: io::ErrorKind::TimedOut.into(),
            }),
        }
    }

    /// The gauge of the cgroup of a slot.
    pub fn gauge(&self, slot: u32) -> Option<Arc<Gauge>> {
        let paths = &self.host.cgroups;
        if paths.v2 {
            return Gauge::open(paths, slot).map(Arc::new);
        }
        let mut gauges = lock(&self.gauges);
        if let Some(gauge) = gauges.get(&slot) {
            return Some(Arc::clone(gauge));
        }
        let gauge = Arc::new(Gauge::open(paths, slot)?);
        gauges.insert(slot, Arc::clone(&gauge));
        Some(gauge)
    }

    fn send(&self, request: &ToSpawner, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        let _sending = lock(&self.sending);
        self.link.send(request, fds).map_err(|_| spawner_gone())
    }

    fn cpu_time(&self) -> Result<Duration, SandboxError> {
        let id = next_id();
        self.inbox.expect(id);
        self.send(&ToSpawner::Usage { id }, &[])?;
        match self.wait(id, STARTUP) {
            Ok(Report::Usage(micros)) => Ok(Duration::from_micros(micros)),
            _ => Err(spawner_gone()),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The spawner kills what is left and ends.
        self.link.shutdown();
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.wait();
    }
}

/// Exchanges the first messages.
fn greet(link: &Link, options: &NativeBuilder, host_network: bool) -> Result<Host, String> {
    let hello = Hello {
        supervisor: std::process::id(),
        uid_base: options.uid_base,
        uid_count: options.uid_count,
        cgroups: options.cgroups,
        host_network,
    };
    let no_answer = || {
        format!(
            "{} does not start as a spawner; a program that uses sandboxes must call \
             swegym_sandbox::child_main() first thing in main",
            options.helper.display()
        )
    };
    link.set_timeout(Some(STARTUP)).map_err(|e| e.to_string())?;
    link.send(&hello, &[]).map_err(|_| no_answer())?;
    let answer = link.recv().map_err(|_| no_answer())?;
    link.set_timeout(None).map_err(|e| e.to_string())?;
    match answer {
        Some((FromSpawner::Started(Ok(host)), _)) => Ok(host),
        Some((FromSpawner::Started(Err(failure)), _)) => Err(super::probe::explain(&failure)),
        _ => Err(no_answer()),
    }
}

/// The error when the spawner has died.
pub fn spawner_gone() -> SandboxError {
    SandboxError::Gone("the spawner process has died".to_owned())
}

fn unavailable(reason: String) -> SandboxError {
    SandboxError::Unavailable {
        backend: "native".to_owned(),
        reason,
    }
}

/// Locks; what a panicking thread left is still whole in all our uses.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is killed unless taken.
struct KillOnDrop(Option<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _: io::Result<_> = child.wait();
        }
    }
}
