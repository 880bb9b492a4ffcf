//! PID 1 of a sandbox: makes its root file system, then serves requests from
//! one socket until that closes.
//!
//! It never executes another program and never reads what the sandbox wrote.
//! As root it runs under the sandbox's own uid, but keeps the capabilities to
//! mount; commands run in forks that have given all of them up (`worker.rs`).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::cgroup::Membership;
use super::overlay::{self, Stack, User};
use super::seccomp::Filters;
use super::spawner::{self, Mounts};
use super::sys::{self, ChildStack, Ended};
use super::tree;
use super::wire::{Config, Failure, FromInit, Link, Open, Program, Slot, Status, Step, ToInit};
use super::worker::{self, Jail};

/// Uid and gid inside where a user namespace maps the caller.
const USER: u32 = 1000;

/// How often memory is added up where no cgroup does it.
const WATCH_MEMORY: Duration = Duration::from_millis(50);

/// What init keeps: to mount, to enter the root directory, to act for the
/// overlay, and to give the rest away.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// What a new init starts with, still in the spawner's memory.
pub struct Birth<'a> {
    pub control: Link,
    pub config: &'a Config,
    pub mounts: Mounts,
    pub membership: &'a Membership<'a>,
    pub proc: BorrowedFd<'a>,
    pub filters: &'a Filters,
    pub root: bool,
    /// Uid and gid in the spawner's user namespace.
    pub user: (u32, u32),
    /// Where it runs, for the supervisor to know.
    pub slot: Slot,
}

/// Runs init; nothing of the spawner is ever returned to.
pub fn main(birth: Birth<'_>) -> ! {
    // For people who look at a list of processes.
    let _ = rustix::thread::set_name(c"swegym-init");
    let run = std::panic::AssertUnwindSafe(|| live(birth));
    let status = std::panic::catch_unwind(run).unwrap_or(70);
    sys::exit_now(status)
}

fn live(birth: Birth<'_>) -> i32 {
    let slot = birth.slot;
    let mut init = match Init::start(birth) {
        Ok(init) => init,
        Err((control, failure)) => {
            // The supervisor sees the end of the stream if this fails.
            let _ = control.send(&FromInit::Failed(failure), &[]);
            return 1;
        }
    };
    if init.control.send(&FromInit::Up(slot), &[]).is_ok() {
        init.serve();
    }
    0
}

struct Init {
    control: Link,
    signals: OwnedFd,
    stack: Stack,
    jail: Jail,
    child_stack: ChildStack,
    /// Limit to watch, where no cgroup does.
    watched_memory: Option<u64>,
    command: Option<Running>,
    sessions: HashMap<u64, Running>,
    /// Ended, but not reported yet.
    ended: Vec<(Running, Ended)>,
}

/// Whom to kill; never init itself.
enum Doomed {
    Everybody,
    /// Everybody but the shells of live sessions and what is below them.
    Unsupervised,
    /// A shell and what is below it.
    Session(i32),
}

/// A command or the shell of a session.
struct Running {
    pid: Pid,
    status: OwnedFd,
    cpu_before: u64,
    out_of_memory: bool,
}

impl Init {
    fn start(birth: Birth<'_>) -> Result<Self, (Link, Failure)> {
        let Birth {
            control,
            config,
            mounts,
            membership,
            proc,
            filters,
            root,
            user: outside,
            ..
        } = birth;
        let made = (|| {
            join_cgroups(membership).step("enter the cgroup")?;
            let inside = if root {
                sys::become_user(outside.0, outside.1).step("become the unprivileged user")?;
                outside
            } else {
                spawner::map_self(proc, (USER, USER), outside)?;
                (USER, USER)
            };
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .step("tie to the spawner")?;
            let mut keep: Vec<BorrowedFd<'_>> = mounts.fds().collect();
            keep.push(control.as_fd());
            spawner::close_inherited(&keep).step("close inherited files")?;
            let signals = sys::signal_fd(&[libc::SIGCHLD]).step("watch children")?;
            rustix::process::chdir("/").step("enter the base")?;
            rustix::system::sethostname(config.hostname.as_bytes()).step("set the host name")?;
            let user = User {
                id: inside.0,
                home: config.home.clone(),
            };
            let stack = Stack::build(config, mounts, root, user)?;
            give_up_capabilities().step("give up capabilities")?;
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
                .step("hide memory")?;
            let watched_memory = config.memory.filter(|_| !membership.memory);
            let jail = Jail::new(config, filters, inside, watched_memory);
            Ok((signals, stack, jail, watched_memory))
        })();
        match made {
            Ok((signals, stack, jail, watched_memory)) => Ok(Self {
                control,
                signals,
                stack,
                jail,
                child_stack: ChildStack::new(),
                watched_memory,
                command: None,
                sessions: HashMap::new(),
                ended: Vec::new(),
            }),
            Err(failure) => Err((control, failure)),
        }
    }

    /// Serves until the supervisor is gone.
    fn serve(&mut self) {
        loop {
            let mut fds = [
                PollFd::new(&self.control, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            let busy = self.command.is_some() || !self.sessions.is_empty();
            let tick = (busy && self.watched_memory.is_some())
                .then(|| Timespec::try_from(WATCH_MEMORY).expect("a small number"));
            let polled = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, tick.as_ref()));
            let [request, child] = fds.map(|fd| !fd.revents().is_empty());
            match polled {
                Ok(0) => self.watch_memory(),
                Ok(_) => {}
                Err(_) => return,
            }
            if child {
                self.reap_ended();
            }
            if request && !self.answer() {
                return;
            }
        }
    }

    /// Answers one request; false when there will be no more.
    fn answer(&mut self) -> bool {
        let Ok(Some((request, fds))) = self.control.recv::<ToInit>() else {
            return false;
        };
        let outcome = match request {
            ToInit::Run(program) => {
                self.run(&program, fds);
                return true;
            }
            ToInit::KillCommand => {
                if self.command.is_some() {
                    self.kill(&Doomed::Unsupervised);
                    self.report_ended();
                }
                return true;
            }
            ToInit::KillSession(session) => {
                if let Some(shell) = self.sessions.get(&session) {
                    self.kill(&Doomed::Session(raw(shell.pid)));
                    self.report_ended();
                }
                return true;
            }
            ToInit::Open { path, how } => self.open(&path, how).map(Some),
            ToInit::Reset => self.reset().map(|()| None),
            ToInit::Snapshot if self.command.is_some() || !self.sessions.is_empty() => {
                return self.control.send(&FromInit::Busy, &[]).is_ok();
            }
            ToInit::Snapshot => self.stack.snapshot().map(Some),
        };
        let sent = match outcome {
            Ok(Some(fd)) => self.control.send(&FromInit::Done, &[fd.as_fd()]),
            Ok(None) => self.control.send(&FromInit::Done, &[]),
            Err(failure) => self.control.send(&FromInit::Failed(failure), &[]),
        };
        // Nobody waits for this.
        self.stack.free_dropped();
        sent.is_ok()
    }

    fn run(&mut self, program: &Program, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let Some(status) = fds.next() else { return };
        let files: Vec<OwnedFd> = fds.collect();
        let started = if program.session.is_none() && self.command.is_some() {
            Err(std::io::Error::from_raw_os_error(libc::EBUSY))
        } else {
            let (stack, jail) = (&self.stack, &self.jail);
            worker::start(program, &files, &status, stack, jail, &mut self.child_stack)
        };
        let pid = match started.step("start a process") {
            Ok(pid) => pid,
            Err(failure) => return report(&status, &Status::Failed(failure)),
        };
        let running = Running {
            pid,
            status,
            cpu_before: sys::cpu_time().1,
            out_of_memory: false,
        };
        match program.session {
            Some(session) => drop(self.sessions.insert(session, running)),
            None => self.command = Some(running),
        }
    }

    /// Reaps what has ended, and acts on it.
    fn reap_ended(&mut self) {
        let mut info = [0; 1024];
        while rustix::io::read(&self.signals, &mut info).is_ok() {}
        while let Ok(Some((pid, ended))) = sys::reap(None, false) {
            self.note_end(pid, ended);
        }
        if !self.ended.is_empty() && self.command.is_none() {
            self.kill(&Doomed::Unsupervised);
        }
        self.report_ended();
    }

    /// Takes note of an ended child, if it was the command or a shell.
    fn note_end(&mut self, pid: Pid, ended: Ended) {
        let is_it = |running: &mut Running| running.pid == pid;
        let found = self.command.take_if(is_it).or_else(|| {
            let mut shells = self.sessions.extract_if(|_, shell| is_it(shell));
            shells.next().map(|(_, shell)| shell)
        });
        self.ended.extend(found.map(|running| (running, ended)));
    }

    fn report_ended(&mut self) {
        for (running, ended) in self.ended.drain(..) {
            finish(running, ended);
        }
    }

    /// Kills some and waits until they are gone, in one step: none of them
    /// gets to act on the end of another.
    ///
    /// What a session's shell has started stays below it, as shells are
    /// subreapers; everything else that lives on is a child of init.
    fn kill(&mut self, doomed: &Doomed) {
        // Whoever lives below init is, or becomes, its child: without
        // children there is nobody, as after most commands.
        match sys::reap(None, false) {
            Ok(Some((pid, ended))) => self.note_end(pid, ended),
            Ok(None) => {}
            Err(_) => return,
        }
        // The kernel does this to all at once, so nobody can fork out of the
        // list that is made next.
        sys::kill_everyone(libc::SIGSTOP);
        let shells = self.sessions.values().map(|shell| raw(shell.pid));
        let spared: Vec<i32> = match *doomed {
            Doomed::Everybody => vec![],
            Doomed::Unsupervised => shells.collect(),
            Doomed::Session(doomed) => shells.filter(|&shell| shell != doomed).collect(),
        };
        if spared.is_empty() && (self.command.is_none() || !matches!(doomed, Doomed::Session(_))) {
            sys::kill_everyone(libc::SIGKILL);
            while let Ok(Some((pid, ended))) = sys::reap(None, true) {
                self.note_end(pid, ended);
            }
            return;
        }
        let processes = tree::processes(self.stack.proc());
        let below = |tops: Vec<i32>| [tree::descendants(&processes, &tops), tops].concat();
        let listed = match *doomed {
            Doomed::Session(shell) => below(vec![shell]),
            _ => below(spared),
        };
        let everyone = processes.iter().map(|p| p.pid).filter(|&pid| pid != 1);
        let (listed, others): (Vec<i32>, Vec<i32>) = everyone.partition(|p| listed.contains(p));
        let (doomed, spared) = match doomed {
            Doomed::Session(_) => (listed, others),
            _ => (others, listed),
        };
        tree::signal(doomed.iter().copied(), Signal::KILL);
        tree::signal(spared.into_iter(), Signal::CONT);
        self.reap_all_of(doomed);
    }

    /// Waits until none of these exists. As long as one does, it or one that
    /// it is below is a child of init.
    fn reap_all_of(&mut self, mut pids: Vec<i32>) {
        loop {
            pids.retain(|&pid| tree::exists(pid));
            if pids.is_empty() {
                return;
            }
            match sys::reap(None, true) {
                Ok(Some((pid, ended))) => self.note_end(pid, ended),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    /// Adds up memory where no cgroup does, and kills what is over the limit.
    fn watch_memory(&mut self) {
        let Some(limit) = self.watched_memory else {
            return;
        };
        if tree::memory(self.stack.proc()) <= limit {
            return;
        }
        for running in self.command.iter_mut().chain(self.sessions.values_mut()) {
            running.out_of_memory = true;
        }
        sys::kill_everyone(libc::SIGKILL);
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.kill(&Doomed::Everybody);
        self.report_ended();
        self.stack.reset()
    }

    /// Opens a file as the unprivileged user would.
    fn open(&self, path: &[u8], how: Open) -> Result<OwnedFd, Failure> {
        let root = self.stack.root()?;
        let path = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
        without_capabilities(|| match how {
            Open::Read => open_for_reading(root, path),
            Open::Write { executable } => open_for_writing(root, path, executable),
        })
        .step("open")
    }
}

fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// Reports how a program ended.
fn finish(running: Running, ended: Ended) {
    let status = Status::Ended {
        code: match ended {
            Ended::Code(code) => code,
            Ended::Signal(signal) => -signal,
        },
        cpu_micros: sys::cpu_time().1.saturating_sub(running.cpu_before),
        out_of_memory: running.out_of_memory,
    };
    report(&running.status, &status);
}

/// Writes to a status pipe: small, so it never blocks; nobody reads it when
/// the supervisor is dying.
pub fn report(pipe: &OwnedFd, status: &Status) {
    if let Ok(bytes) = postcard::to_extend(status, Vec::new()) {
        let _ = rustix::io::write(pipe, &bytes);
    }
}

fn join_cgroups(membership: &Membership<'_>) -> rustix::io::Result<()> {
    for tasks in &membership.tasks {
        rustix::io::write(tasks, b"0")?;
    }
    Ok(())
}

/// So that no program run from here on can gain a capability.
pub fn empty_bounding_set() -> rustix::io::Result<()> {
    if !rustix::thread::capability_is_in_bounding_set(CapabilitySet::CHOWN)? {
        // As root the spawner has done it for all its inits; a new user
        // namespace starts with a full set.
        return Ok(());
    }
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Unknown to this kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn give_up_capabilities() -> rustix::io::Result<()> {
    empty_bounding_set()?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: KEPT,
            permitted: KEPT,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Runs something with the rights of the unprivileged user.
fn without_capabilities<T>(run: impl FnOnce() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let sets = |effective| CapabilitySets {
        effective,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets(CapabilitySet::empty()))?;
    let result = run();
    rustix::thread::set_capabilities(None, sets(KEPT))?;
    result
}

fn open_for_reading(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = overlay::open_inside(root, path, flags)?;
    require_regular(&file)?;
    Ok(file)
}

fn open_for_writing(
    root: BorrowedFd<'_>,
    path: &Path,
    executable: bool,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match overlay::open_inside(root, path, flags) {
        Err(rustix::io::Errno::NOENT) => {
            overlay::make_parents(root, path)?;
            overlay::open_inside(root, path, flags)?
        }
        other => other?,
    };
    require_regular(&file)?;
    rustix::fs::ftruncate(&file, 0)?;
    let mode = if executable { 0o755 } else { 0o644 };
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(file)
}

fn require_regular(file: &OwnedFd) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(rustix::io::Errno::ISDIR),
        _ => Err(rustix::io::Errno::INVAL),
    }
}
