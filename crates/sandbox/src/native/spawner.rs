//! The spawner: a small single-threaded process that is the parent of every
//! sandbox.
//!
//! Single-threaded and small so that forking is safe and cheap, so that
//! `PDEATHSIG` of the inits means the death of this process (and not of some
//! thread), and so that no secret of the program is in the memory that inits
//! start with. It ends, and takes all sandboxes along, when the supervisor
//! closes its end or dies.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::CapabilitySet;

use super::cgroup::Cgroups;
use super::init::{self, Birth};
use super::network::{Network, Networks};
use super::seed::{self, Home};
use super::slots::{IdMaps, Slots, id_map, write_at};
use super::sys::{self, Fork};
use super::wire::{
    BindConfig, Config, Failure, FromSpawner, Hello, Host, Link, Report, Slot, Step, ToSpawner,
};
use super::{overlay, seccomp};

/// Runs the spawner on the socket that the supervisor passed as stdin.
pub fn main() -> ! {
    // For people who look at a list of processes.
    let _ = rustix::thread::set_name(c"swegym-spawner");
    let link = Link::from(sys::inherited(0));
    let status = match Spawner::start(&link) {
        Ok(mut spawner) => {
            let host = spawner.host();
            if link.send(&FromSpawner::Started(Ok(host)), &[]).is_ok() {
                spawner.serve(&link);
            }
            spawner.kill_all();
            0
        }
        Err(failure) => {
            // The supervisor is gone if this fails, and we are about to go.
            let _ = link.send(&FromSpawner::Started(Err(failure)), &[]);
            1
        }
    };
    std::process::exit(status)
}

struct Spawner {
    root: bool,
    /// The caller's uid and gid.
    user: (u32, u32),
    home: Home,
    proc: OwnedFd,
    seed: OwnedFd,
    signals: OwnedFd,
    supervisor: OwnedFd,
    slots: Slots,
    id_maps: IdMaps,
    cgroups: Cgroups,
    networks: Networks,
    filters: seccomp::Filters,
    sandboxes: HashMap<u64, Running>,
}

/// A sandbox, as the spawner knows it.
struct Running {
    pid: Pid,
    slot: u32,
    /// Working directory of an overlay on disk, to be removed.
    work: Option<PathBuf>,
    /// Its network namespace, to be used again.
    network: Option<Network>,
}

impl Spawner {
    fn start(link: &Link) -> Result<Self, Failure> {
        sys::close_range(3, u32::MAX, false).step("close inherited files")?;
        sys::reset_signals();
        let signals = sys::signal_fd(&[libc::SIGCHLD]).step("watch children")?;
        // A terminal's Ctrl-C is for the supervisor to act on.
        rustix::process::setsid().step("start a session")?;
        rustix::process::umask(Mode::empty());
        rustix::process::chdir("/").step("enter /")?;
        super::raise_file_limit();
        let (hello, _) = link
            .recv::<Hello>()
            .step("read the first message")?
            .ok_or_else(|| Failure {
                step: "read the first message".into(),
                errno: 0,
            })?;
        let supervisor = watch_supervisor(hello.supervisor).step("watch the supervisor")?;
        let cgroups = if hello.cgroups {
            Cgroups::discover()
        } else {
            Cgroups::none()
        };
        let root = is_real_root();
        let user = own_ids();
        if root {
            // Not for an ordinary user: it would take away the spawner's (and
            // its inits') own files in /proc.
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
                .step("hide memory")?;
            keep_capabilities()?;
            // Once here rather than in every init.
            sys::leave_groups().step("leave groups")?;
        } else {
            enter_user_namespace(user)?;
            if !hello.host_network {
                // The host's could be left, but not entered again.
                sys::unshare(libc::CLONE_NEWNET).step("make a network namespace")?;
            }
        }
        let home = Home::here()?;
        let seed = seed::build(&home, root)?;
        let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .step("open /proc")?;
        let networks = Networks::new(&proc)?;
        Ok(Self {
            root,
            user,
            networks,
            home,
            proc,
            seed,
            signals,
            supervisor,
            slots: Slots::new(root.then_some((hello.uid_base, hello.uid_count))),
            id_maps: IdMaps::default(),
            cgroups,
            filters: seccomp::Filters::build(),
            sandboxes: HashMap::new(),
        })
    }

    fn host(&self) -> Host {
        Host {
            root: self.root,
            cgroups: self.cgroups.paths(),
        }
    }

    /// Serves until the supervisor is gone.
    fn serve(&mut self, link: &Link) {
        loop {
            let mut fds = [
                PollFd::new(link, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&self.supervisor, PollFlags::IN),
            ];
            if rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None)).is_err() {
                return;
            }
            let [request, child, death] = fds.map(|fd| !fd.revents().is_empty());
            if death {
                return;
            }
            if child && self.reap(link).is_err() {
                return;
            }
            if request && !self.answer(link) {
                return;
            }
        }
    }

    /// Answers one request; false when there will be no more.
    fn answer(&mut self, link: &Link) -> bool {
        let Ok(Some((request, mut fds))) = link.recv::<ToSpawner>() else {
            return false;
        };
        let (id, report) = match request {
            ToSpawner::Spawn { id, config } => {
                let snapshot = (fds.len() > 1).then(|| fds.pop()).flatten();
                let Some(control) = fds.pop() else {
                    return false;
                };
                match self.spawn(link, id, *config, control, snapshot) {
                    // Init itself says when it is up.
                    Ok(()) => return true,
                    Err(failure) => (id, Report::Failed(failure)),
                }
            }
            ToSpawner::Kill { id } => match self.sandboxes.get(&id) {
                Some(running) => {
                    // It may be dying already; `reap` reports either way.
                    let _ = rustix::process::kill_process(running.pid, Signal::KILL);
                    return true;
                }
                None => (id, Report::Exited),
            },
            ToSpawner::Usage { id } => {
                let (own, children) = sys::cpu_time();
                (id, Report::Usage(own + children))
            }
        };
        link.send(&FromSpawner::Report { id, report }, &[]).is_ok()
    }

    fn spawn(
        &mut self,
        link: &Link,
        id: u64,
        config: Config,
        control: OwnedFd,
        snapshot: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        let (index, uid) = self.slots.acquire().step("find a free uid")?;
        let started = self.spawn_in(link, index, uid, config, control, snapshot);
        match started {
            Ok(running) => {
                self.sandboxes.insert(id, running);
                Ok(())
            }
            Err(failure) => {
                self.slots.release(index);
                Err(failure)
            }
        }
    }

    fn spawn_in(
        &mut self,
        link: &Link,
        index: u32,
        uid: u32,
        config: Config,
        control: OwnedFd,
        snapshot: Option<OwnedFd>,
    ) -> Result<Running, Failure> {
        let mounts = self.open_mounts(&config, uid)?;
        let network = self.enter_network(&config)?;
        let work = match &config.upper {
            Some(upper) => {
                overlay::make_work_directory(Path::new(OsStr::from_bytes(upper))).map(Some)
            }
            None => Ok(None),
        };
        let forked = work.and_then(|work| {
            let forked = self.fork_init(index, uid, &config, control, mounts, snapshot);
            if let (Err(_), Some(work)) = (&forked, &work) {
                overlay::remove_work_directory(work);
            }
            forked.map(|pid| (pid, work))
        });
        self.home
            .come_back()
            .and_then(|()| self.networks.leave())
            .unwrap_or_else(|failure| give_up(link, failure));
        match forked {
            Ok((pid, work)) => Ok(Running {
                pid,
                slot: index,
                work,
                network,
            }),
            Err(failure) => {
                if let Some(network) = network {
                    self.networks.give_back(network);
                }
                Err(failure)
            }
        }
    }

    /// Enters the network that a new sandbox is to have, if it is not to be
    /// the host's.
    fn enter_network(&mut self, config: &Config) -> Result<Option<Network>, Failure> {
        if config.host_network {
            return Ok(None);
        }
        self.networks.enter(&self.proc).map(Some)
    }

    /// Starts an init. Ends in the seed's mounts: the caller goes back.
    fn fork_init(
        &mut self,
        index: u32,
        uid: u32,
        config: &Config,
        control: OwnedFd,
        mounts: Mounts,
        snapshot: Option<OwnedFd>,
    ) -> Result<Pid, Failure> {
        let mut namespaces = sys::NAMESPACES;
        if !self.root {
            namespaces |= libc::CLONE_NEWUSER as u64;
        }
        let membership = self
            .cgroups
            .prepare(index, config)
            .step("set cgroup limits")?;
        seed::enter(snapshot.as_ref().unwrap_or(&self.seed).as_fd())?;
        let cgroup = membership.into.as_ref().map(AsFd::as_fd);
        match sys::clone_into(namespaces, cgroup).step("clone into new namespaces")? {
            Fork::Parent(pid) => Ok(pid),
            Fork::Child => init::main(Birth {
                control: Link::from(control),
                config,
                mounts,
                membership: &membership,
                proc: self.proc.as_fd(),
                filters: &self.filters,
                root: self.root,
                user: if self.root { (uid, uid) } else { self.user },
                slot: Slot {
                    index,
                    uid,
                    memory_cgroup: membership.memory,
                },
            }),
        }
    }

    /// Opens what a sandbox borrows from the host, as detached mounts.
    fn open_mounts(&mut self, config: &Config, uid: u32) -> Result<Mounts, Failure> {
        let mut layers = Vec::with_capacity(config.layers.len());
        for layer in &config.layers {
            layers.push(self.open_owned(layer, uid, MountAttrFlags::MOUNT_ATTR_RDONLY)?);
        }
        let mut binds = Vec::with_capacity(config.binds.len());
        for bind in &config.binds {
            binds.push(self.open_bind(bind, uid)?);
        }
        let upper = match &config.upper {
            Some(upper) => {
                let parent = Path::new(OsStr::from_bytes(upper))
                    .parent()
                    .unwrap_or(Path::new("/"));
                let mount = open_tree(parent.as_os_str().as_bytes(), false)?;
                let owner = owner(upper)?;
                self.map_owner(&mount, owner, uid, MountAttrFlags::empty())
                    .step_with(|| format!("map the owner of {}", parent.display()))?;
                Some(mount)
            }
            None => None,
        };
        let mut frozen = Vec::with_capacity(config.frozen.len());
        for &owner in &config.frozen {
            frozen.push(if self.root && owner != uid {
                Some(id_map(&self.proc, (owner, owner), uid).step("map the owner of a snapshot")?)
            } else {
                None
            });
        }
        Ok(Mounts {
            layers,
            binds,
            upper,
            frozen,
        })
    }

    /// A directory whose owner's files are the sandbox's own.
    fn open_owned(
        &mut self,
        path: &[u8],
        uid: u32,
        attributes: MountAttrFlags,
    ) -> Result<OwnedFd, Failure> {
        let mount = open_tree(path, false)?;
        let owner = owner(path)?;
        self.map_owner(&mount, owner, uid, attributes)
            .step_with(|| {
                format!(
                    "map the owner of {} (its file system must support idmapped mounts)",
                    OsStr::from_bytes(path).display()
                )
            })?;
        Ok(mount)
    }

    fn map_owner(
        &mut self,
        mount: &OwnedFd,
        owner: (u32, u32),
        uid: u32,
        attributes: MountAttrFlags,
    ) -> std::io::Result<()> {
        if !self.root {
            // Everything belongs to the one user; the sandbox's mount of the
            // overlay is what is nosuid and nodev.
            return Ok(());
        }
        let idmap = self.id_maps.cached(&self.proc, owner, uid)?;
        let attributes = attributes | NO_PRIVILEGE;
        sys::mount_setattr(
            mount.as_fd(),
            false,
            &sys::MountAttr {
                set: u64::from(attributes.bits()),
                private: true,
                idmap: Some(idmap),
            },
        )
    }

    fn open_bind(&mut self, bind: &BindConfig, uid: u32) -> Result<OwnedFd, Failure> {
        if self.root && !bind.readonly {
            return self.open_owned(&bind.source, uid, MountAttrFlags::empty());
        }
        let mount = open_tree(&bind.source, true)?;
        let mut attributes = NO_PRIVILEGE;
        if bind.readonly {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        sys::mount_setattr(
            mount.as_fd(),
            true,
            &sys::MountAttr {
                set: u64::from(attributes.bits()),
                private: true,
                idmap: None,
            },
        )
        .step_with(|| {
            format!(
                "restrict the bind of {}",
                OsStr::from_bytes(&bind.source).display()
            )
        })?;
        Ok(mount)
    }

    /// Reaps ended sandboxes and reports them.
    fn reap(&mut self, link: &Link) -> std::io::Result<()> {
        let mut info = [0; 128];
        while rustix::io::read(&self.signals, &mut info).is_ok() {}
        while let Ok(Some((pid, _))) = sys::reap(None, false) {
            let found = self.sandboxes.iter().find(|(_, r)| r.pid == pid);
            if let Some((&id, _)) = found {
                self.forget(id);
                let report = Report::Exited;
                link.send(&FromSpawner::Report { id, report }, &[])?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, id: u64) {
        if let Some(running) = self.sandboxes.remove(&id) {
            self.cgroups.release(running.slot);
            self.slots.release(running.slot);
            if let Some(work) = &running.work {
                overlay::remove_work_directory(work);
            }
            if let Some(network) = running.network {
                self.networks.give_back(network);
            }
        }
    }

    fn kill_all(&mut self) {
        for running in self.sandboxes.values() {
            let _ = rustix::process::kill_process(running.pid, Signal::KILL);
        }
        let ids: Vec<u64> = self.sandboxes.keys().copied().collect();
        for id in ids {
            let pid = self.sandboxes[&id].pid;
            let _ = sys::reap(Some(pid), true);
            self.forget(id);
        }
    }
}

/// What a sandbox borrows from the host.
pub struct Mounts {
    /// Detached mounts of the layers.
    pub layers: Vec<OwnedFd>,
    /// Detached mounts of the binds.
    pub binds: Vec<OwnedFd>,
    /// Detached mount of the directory that holds the upper.
    pub upper: Option<OwnedFd>,
    /// Id map for each frozen upper that belongs to another uid.
    pub frozen: Vec<Option<OwnedFd>>,
}

impl Mounts {
    /// All descriptors.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.layers
            .iter()
            .chain(&self.binds)
            .chain(&self.upper)
            .chain(self.frozen.iter().flatten())
            .map(AsFd::as_fd)
    }
}

/// No set-uid programs, no device nodes.
const NO_PRIVILEGE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

fn open_tree(path: &[u8], recursive: bool) -> Result<OwnedFd, Failure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
        .step_with(|| format!("open {}", OsStr::from_bytes(path).display()))
}

fn owner(path: &[u8]) -> Result<(u32, u32), Failure> {
    let stat = rustix::fs::stat(path)
        .step_with(|| format!("look at {}", OsStr::from_bytes(path).display()))?;
    Ok((stat.st_uid, stat.st_gid))
}

/// A descriptor that becomes readable when the supervisor dies, whoever else
/// may hold its end of our socket.
fn watch_supervisor(pid: u32) -> std::io::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Root with all it means: not of a container's user namespace.
pub fn is_real_root() -> bool {
    let everyone = std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let fields: Vec<&str> = map.split_whitespace().collect();
        fields == ["0", "0", "4294967295"]
    });
    let needed = CapabilitySet::SYS_ADMIN
        | CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::SYS_CHROOT
        | CapabilitySet::MKNOD;
    let capable = rustix::thread::capabilities(None).is_ok_and(|c| c.effective.contains(needed));
    rustix::process::geteuid().is_root() && everyone && capable
}

/// Lets inits change their uid without losing their capabilities.
fn keep_capabilities() -> Result<(), Failure> {
    use rustix::thread::CapabilitiesSecureBits as Bits;
    rustix::thread::set_capabilities_secure_bits(Bits::NO_SETUID_FIXUP | Bits::NO_ROOT)
        .step("set secure bits")?;
    init::empty_bounding_set().step("empty the bounding set")
}

/// Effective uid and gid.
pub fn own_ids() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

/// Enters a user namespace in which an ordinary user may mount.
pub fn enter_user_namespace(user: (u32, u32)) -> Result<(), Failure> {
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step("open /proc")?;
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).step("make a user namespace")?;
    map_self(proc.as_fd(), user, user)
}

/// Maps the one user of a new user namespace.
pub fn map_self(
    proc: BorrowedFd<'_>,
    inside: (u32, u32),
    outside: (u32, u32),
) -> Result<(), Failure> {
    write_at(proc, "self/setgroups", "deny").step("write setgroups")?;
    write_at(
        proc,
        "self/gid_map",
        &format!("{} {} 1", inside.1, outside.1),
    )
    .step("write gid_map")?;
    write_at(
        proc,
        "self/uid_map",
        &format!("{} {} 1", inside.0, outside.0),
    )
    .step("write uid_map")
}

/// Ends the spawner: without its own namespaces it can do nothing more.
fn give_up(link: &Link, failure: Failure) -> ! {
    let _ = link.send(&FromSpawner::Started(Err(failure)), &[]);
    std::process::exit(1)
}

/// Closes what a new init inherited and does not need.
pub fn close_inherited(keep: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut keep: Vec<_> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    sys::close_all_but(&mut keep)
}
