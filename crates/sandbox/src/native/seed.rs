//! The mount namespace that every sandbox's starts as a copy of.
//!
//! It holds one small tmpfs, `/` to init: `l/N`, `i/N`, `u/N` and `h` are
//! mount points, `dev` is the tree that every sandbox sees as `/dev`, `p`
//! keeps the host's `/proc` visible (without one, the kernel refuses to mount
//! another in a user namespace). Starting from it rather than from the host's
//! namespace spares copying the host's mounts, `pivot_root` and unmounting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::sys;
use super::wire::{Failure, Step};

/// Mount points made ahead; init makes more when it needs them.
pub const READY_POINTS: usize = 16;

/// Character devices of `/dev`: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A new, detached file system.
pub fn new_mount(
    fs_type: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of a mount at a path.
pub fn clone_mount(path: &str, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
}

/// Attaches a detached mount at a path.
pub fn attach(mount: impl AsFd, path: &str) -> rustix::io::Result<()> {
    rustix::mount::move_mount(
        mount,
        "",
        CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// The spawner's own namespace, and the way back to it.
pub struct Home {
    namespace: OwnedFd,
    root: OwnedFd,
    proc: OwnedFd,
}

impl Home {
    /// Remembers where the process is now.
    pub fn here() -> Result<Self, Failure> {
        let open =
            |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            namespace: open("/proc/self/ns/mnt", OFlags::RDONLY).step("open /proc/self/ns/mnt")?,
            root: open("/", OFlags::PATH).step("open /")?,
            proc: open("/proc", OFlags::PATH | OFlags::DIRECTORY).step("open /proc")?,
        })
    }

    /// Goes back.
    pub fn come_back(&self) -> Result<(), Failure> {
        enter(self.namespace.as_fd())?;
        rustix::process::fchdir(&self.root).step("return to the root directory")?;
        rustix::process::chroot(".").step("return to the root directory")
    }
}

/// Enters a mount namespace.
pub fn enter(namespace: BorrowedFd<'_>) -> Result<(), Failure> {
    rustix::thread::move_into_link_name_space(
        namespace,
        Some(rustix::thread::LinkNameSpaceType::Mount),
    )
    .step("enter a mount namespace")
}

/// The mount namespace that the process is in.
pub fn current_namespace(proc: impl AsFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        proc,
        "self/ns/mnt",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Builds the namespace; the caller is back home afterwards.
pub fn build(home: &Home, root: bool) -> Result<OwnedFd, Failure> {
    sys::unshare(libc::CLONE_NEWNS).step("make a mount namespace")?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .step("make mounts private")?;
    move_into_base(root)?;
    let seed = current_namespace(&home.proc).step("open the seed namespace")?;
    home.come_back()?;
    Ok(seed)
}

/// Makes the base tmpfs the root of the current namespace, and the only mount
/// but for what it borrows from the host.
fn move_into_base(root: bool) -> Result<(), Failure> {
    let base = new_mount(
        "tmpfs",
        &[("mode", "755"), ("size", "16m")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .step("mount the base tmpfs")?;
    let borrowed = if root {
        Vec::new()
    } else {
        borrow_from_host()?
    };
    attach(&base, "/").step("attach the base")?;
    rustix::process::fchdir(&base).step("enter the base")?;
    rustix::process::pivot_root(".", ".").step("pivot into the base")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("detach the host's mounts")?;
    rustix::process::chdir("/").step("enter the base")?;
    make_directories().step("make mount points")?;
    make_devices(root).step("make device nodes")?;
    for (path, mount) in borrowed {
        attach(mount, &path).step_with(|| format!("attach {path}"))?;
    }
    Ok(())
}

/// What an ordinary user cannot make: device nodes, and a visible `/proc`.
fn borrow_from_host() -> Result<Vec<(String, OwnedFd)>, Failure> {
    let mut mounts = Vec::new();
    for (name, ..) in DEVICES {
        let path = format!("/dev/{name}");
        let mount = clone_mount(&path, false).step_with(|| format!("borrow {path}"))?;
        mounts.push((format!("/dev/{name}"), mount));
    }
    let proc = clone_mount("/proc", true).step("borrow /proc")?;
    mounts.push(("/p".to_owned(), proc));
    Ok(mounts)
}

fn make_directories() -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    for directory in ["l", "i", "u", "h", "p", "dev", "dev/pts", "dev/shm"] {
        rustix::fs::mkdir(directory, mode)?;
    }
    for kind in ["l", "i", "u"] {
        for number in 0..READY_POINTS {
            rustix::fs::mkdir(format!("{kind}/{number}"), mode)?;
        }
    }
    Ok(())
}

fn make_devices(root: bool) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEVICES {
        let path = format!("dev/{name}");
        let (kind, device) = if root {
            (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
        } else {
            (FileType::RegularFile, 0)
        };
        rustix::fs::mknodat(CWD, path, kind, mode, device)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlink(target, format!("dev/{name}"))?;
    }
    Ok(())
}
