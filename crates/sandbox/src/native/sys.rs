//! System calls that neither `std` nor `rustix` offers safely.
//!
//! With `seccomp.rs` the only home of hand-written `unsafe` in the project.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

/// All namespaces of a sandbox but the user and network ones.
pub const NAMESPACES: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;

/// `libc` has it in too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Which side of a fork this is.
pub enum Fork {
    Parent(Pid),
    Child,
}

/// Forks into new namespaces, and into a cgroup where one is given.
///
/// Only for single-threaded processes: the child may allocate and lock.
pub fn clone_into(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    // SAFETY: all-zero is a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.flags = namespaces;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and a stack this is fork: the child gets a copy
    // of the memory. Callers are single-threaded, so no lock is held.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    })?;
    Ok(Pid::from_raw(pid as i32).map_or(Fork::Child, Fork::Parent))
}

/// Forks. Only for single-threaded processes.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: callers are single-threaded, so the child may do anything.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok(Pid::from_raw(pid as i32).map_or(Fork::Child, Fork::Parent))
}

/// Moves the calling, single-threaded process into new namespaces.
pub fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: CLONE_FILES is never among the flags.
    check(libc::c_long::from(unsafe { libc::unshare(namespaces) })).map(drop)
}

/// Ends the process at once, without running destructors.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(status) }
}

/// Strings as `execve` takes them.
pub struct CStrings {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    /// Keeps the strings.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self { strings, pointers }
    }

    /// The strings.
    pub fn iter(&self) -> std::slice::Iter<'_, CString> {
        self.strings.iter()
    }
}

/// Replaces the program; returns only on failure. Allocates nothing.
pub fn execve(program: &CStr, argv: &CStrings, env: &CStrings) -> io::Error {
    let (argv, env) = (argv.pointers.as_ptr(), env.pointers.as_ptr());
    // SAFETY: both arrays end in null and point to strings that live as long.
    unsafe { libc::execve(program.as_ptr(), argv, env) };
    io::Error::last_os_error()
}

/// Memory for what runs in [`fork_shared`].
pub struct ChildStack(Vec<u128>);

impl ChildStack {
    /// 256 KiB, of which only what is used is backed by memory.
    pub fn new() -> Self {
        Self(vec![0; (256 << 10) / size_of::<u128>()])
    }
}

/// Forks without copying memory: the child runs `job`, and this process waits
/// until the child executes a program or exits with what `job` returned.
///
/// Only for single-threaded processes. The child works in this process's
/// memory: what `job` has allocated and not freed when it executes a program
/// is lost to this process.
pub fn fork_shared(stack: &mut ChildStack, job: &mut dyn FnMut() -> i32) -> io::Result<Pid> {
    extern "C" fn start(job: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `job` is the pointer made below, alive until the child is
        // done with this memory.
        let job = unsafe { &mut *job.cast::<&mut dyn FnMut() -> i32>() };
        exit_now(job())
    }
    let mut job: &mut dyn FnMut() -> i32 = job;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is used by nobody else while this process waits, and
    // its end is aligned; with CLONE_VFORK and one thread there is no
    // concurrent access to the shared memory.
    let pid = unsafe {
        let top = stack.0.as_mut_ptr_range().end;
        libc::clone(start, top.cast(), flags, (&raw mut job).cast())
    };
    check(libc::c_long::from(pid))?;
    Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::Other.into())
}

/// Takes ownership of the descriptor that the parent process passed as `fd`.
pub fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: only called once, on stdin, right at the start of the helper.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes (or marks close-on-exec) all descriptors in a range, ends included.
pub fn close_range(first: u32, last: u32, cloexec: bool) -> io::Result<()> {
    let flags = if cloexec {
        libc::CLOSE_RANGE_CLOEXEC
    } else {
        0
    };
    // SAFETY: callers own what they close, or never touch it again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Closes every descriptor but these.
pub fn close_all_but(keep: &mut [RawFd]) -> io::Result<()> {
    keep.sort_unstable();
    let mut next = 0;
    for &fd in keep.iter() {
        let fd = fd as u32;
        if fd > next {
            close_range(next, fd - 1, false)?;
        }
        next = fd + 1;
    }
    close_range(next, u32::MAX, false)
}

/// `dup2`, leaving the copy open across `exec`.
pub fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: the caller has moved every descriptor of its own above `target`.
    check(libc::c_long::from(unsafe {
        libc::dup2(fd.as_raw_fd(), target)
    }))
    .map(drop)
}

/// A descriptor that becomes readable on these signals, which it blocks.
pub fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset` before use.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        check(libc::c_long::from(libc::sigprocmask(
            libc::SIG_BLOCK,
            set.as_ptr(),
            ptr::null_mut(),
        )))?;
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(libc::c_long::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Default action for every signal, none blocked.
pub fn reset_signals() {
    // SAFETY: resetting to the default installs no handler.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    unblock_signals();
}

/// Unblocks every signal.
pub fn unblock_signals() {
    // SAFETY: the set is initialised by `sigemptyset` before use.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

/// Signals every process that may be signalled but the caller and init. The
/// kernel does this in one step, so no fork can slip through.
pub fn kill_everyone(signal: libc::c_int) {
    // SAFETY: `kill` touches no memory. ESRCH means that nobody is left.
    unsafe { libc::kill(-1, signal) };
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

/// Reaps a child (any child for `None`), waiting for it if `block`. `None`
/// if there is none to reap now; `ECHILD` if there are no children.
pub fn reap(pid: Option<Pid>, block: bool) -> io::Result<Option<(Pid, Ended)>> {
    let mut status = 0;
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    let who = pid.map_or(-1, |p| p.as_raw_nonzero().get());
    loop {
        // SAFETY: `status` is a valid place for the result.
        let ret = unsafe { libc::waitpid(who, &raw mut status, flags) };
        match check(libc::c_long::from(ret)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => {
                let ended = if libc::WIFSIGNALED(status) {
                    Ended::Signal(libc::WTERMSIG(status))
                } else {
                    Ended::Code(libc::WEXITSTATUS(status))
                };
                return Ok(Pid::from_raw(ret).map(|pid| (pid, ended)));
            }
        }
    }
}

/// CPU time (user + system) in microseconds: of this process, and of its
/// reaped children.
pub fn cpu_time() -> (u64, u64) {
    let of = |who| {
        // SAFETY: all-zero is a valid `rusage`, filled by the call.
        let usage = unsafe {
            let mut usage: libc::rusage = zeroed();
            libc::getrusage(who, &raw mut usage);
            usage
        };
        let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
        micros(usage.ru_utime) + micros(usage.ru_stime)
    };
    (of(libc::RUSAGE_SELF), of(libc::RUSAGE_CHILDREN))
}

/// Attributes for [`mount_setattr`].
#[derive(Default)]
pub struct MountAttr<'a> {
    pub set: u64,
    pub private: bool,
    pub idmap: Option<BorrowedFd<'a>>,
}

/// Changes a mount (and all below it if `recursive`).
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attr: &MountAttr<'_>,
) -> io::Result<()> {
    #[repr(C)]
    struct RawMountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let raw = RawMountAttr {
        attr_set: attr.set | attr.idmap.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        attr_clr: 0,
        propagation: if attr.private { libc::MS_PRIVATE } else { 0 },
        userns_fd: attr.idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `raw` has the layout of `struct mount_attr`, whose size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<RawMountAttr>(),
        )
    })
    .map(drop)
}

/// Sets the loopback interface of the current network namespace up.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: all-zero is a valid `ifreq`; the name fits and stays terminated;
    // the descriptor is owned here.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(libc::c_long::from(fd))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::c_long::from(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )))
        .map(drop)
    }
}

/// Gives a pipe to another user, so that `/dev/stdout` can be opened.
pub fn change_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: `fchown` touches no memory.
    check(libc::c_long::from(unsafe {
        libc::fchown(fd.as_raw_fd(), uid, gid)
    }))
    .map(drop)
}

/// Drops supplementary groups.
pub fn leave_groups() -> io::Result<()> {
    let none = ptr::null::<libc::gid_t>();
    // SAFETY: the raw call changes this single-threaded process only, and
    // reads nothing of an empty list.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, none) }).map(drop)
}

/// Sets real, effective and saved ids.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: the raw calls change this single-threaded process only.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).map(drop)
    }
}

/// Loads a seccomp filter for this process and its children.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` is valid for its length; the kernel copies it.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
    .map(drop)
}
