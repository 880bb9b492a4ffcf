//! The root file system of a sandbox, from inside: layers, uppers and what is
//! mounted over them. All paths are relative to the base (see `seed.rs`).

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::seed::{READY_POINTS, attach, clone_mount, new_mount};
use super::spawner::Mounts;
use super::sys::{self, MountAttr};
use super::wire::{Config, Failure, Step};

/// Longest option string that mount(2) takes.
const MAX_OPTIONS: usize = 4095;

/// The file system of a sandbox.
pub struct Stack {
    layers: usize,
    /// Frozen uppers `u/0`, `u/1`, …: whether an id-mapped copy of it at
    /// `i/N` is to be used.
    frozen: Vec<bool>,
    /// How many of them there were at the start.
    origin: usize,
    /// Name below `h` of an upper on disk.
    directory: Option<Vec<u8>>,
    /// An ordinary user may only use extended attributes of users.
    userxattr: bool,
    disk: Option<u64>,
    /// What is mounted inside, in order.
    attachments: Vec<Attachment>,
    /// What is made read-only over that.
    readonly: Vec<Vec<u8>>,
    user: User,
    root: Option<OwnedFd>,
    /// Keeps file systems that were unmounted until there is time to free
    /// them.
    dropped: Vec<OwnedFd>,
}

struct Attachment {
    target: Vec<u8>,
    mount: OwnedFd,
    recursive: bool,
}

/// The user that commands run as, for the user database.
pub struct User {
    /// Uid, and gid.
    pub id: u32,
    pub home: Vec<u8>,
}

impl User {
    fn passwd_line(&self) -> Vec<u8> {
        let id = self.id;
        [
            format!("swegym:x:{id}:{id}::").as_bytes(),
            &self.home,
            b":/bin/bash",
        ]
        .concat()
    }

    fn group_line(&self) -> Vec<u8> {
        format!("swegym:x:{}:", self.id).into_bytes()
    }
}

impl Stack {
    /// Puts the layers in place and mounts a fresh upper over them.
    pub fn build(config: &Config, mounts: Mounts, root: bool, user: User) -> Result<Self, Failure> {
        for (number, layer) in mounts.layers.iter().enumerate() {
            let point = mount_point("l", number)?;
            attach(layer, &point).step("attach a layer")?;
        }
        let mut frozen = Vec::with_capacity(mounts.frozen.len());
        for (number, idmap) in mounts.frozen.iter().enumerate() {
            if let Some(idmap) = idmap {
                attach_mapped(number, idmap)?;
            }
            frozen.push(idmap.is_some());
        }
        let directory = match (&mounts.upper, &config.upper) {
            (Some(mount), Some(path)) => {
                attach(mount, "h").step("attach the directory for writes")?;
                Some(final_name(path))
            }
            _ => None,
        };
        let mut stack = Self {
            layers: mounts.layers.len(),
            origin: frozen.len(),
            frozen,
            directory,
            userxattr: !root,
            disk: config.disk,
            attachments: system_mounts(root)?,
            readonly: config.readonly.clone(),
            user,
            root: None,
            dropped: Vec::new(),
        };
        for (bind, mount) in config.binds.iter().zip(mounts.binds) {
            stack.attachments.push(Attachment {
                target: bind.target.clone(),
                mount,
                recursive: bind.readonly || !root,
            });
        }
        stack.mount_top()?;
        Ok(stack)
    }

    /// The root directory of the sandbox.
    pub fn root(&self) -> Result<BorrowedFd<'_>, Failure> {
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(|| Failure {
            step: "open the root directory".into(),
            errno: libc::ENOENT,
        })
    }

    /// Its path from the base.
    pub fn root_path(&self) -> String {
        format!("u/{}/root", self.frozen.len())
    }

    /// The `/proc` of the sandbox, which nothing inside can change.
    pub fn proc(&self) -> BorrowedFd<'_> {
        self.attachments[0].mount.as_fd()
    }

    /// Drops everything written since the start.
    pub fn reset(&mut self) -> Result<(), Failure> {
        self.copy_attachments()?;
        self.root = None;
        for number in (self.origin..=self.frozen.len()).rev() {
            let upper = format!("u/{number}");
            self.dropped
                .push(open_path(&upper).step("open the old state")?);
            unmount(&upper)?;
        }
        self.frozen.truncate(self.origin);
        if let Some(name) = &self.directory {
            empty_directories(name).step("empty the directory for writes")?;
        }
        self.mount_top()
    }

    /// Frees what was unmounted: takes a while where much was written.
    pub fn free_dropped(&mut self) {
        self.dropped.clear();
    }

    /// Freezes the upper and mounts a fresh one above it. Gives a mount
    /// namespace that holds all frozen ones and nothing of this sandbox.
    pub fn snapshot(&mut self) -> Result<OwnedFd, Failure> {
        let current = self.root_path();
        let home = super::seed::current_namespace(self.proc()).step("open the mount namespace")?;
        sys::unshare(libc::CLONE_NEWNS).step("copy the mount namespace")?;
        unmount(&current)?;
        let snapshot =
            super::seed::current_namespace(self.proc()).step("open the mount namespace")?;
        super::seed::enter(home.as_fd())?;
        self.copy_attachments()?;
        self.root = None;
        unmount(&current)?;
        self.frozen.push(false);
        self.mount_top()?;
        Ok(snapshot)
    }

    /// Detached copies of everything mounted inside, for the next root.
    fn copy_attachments(&mut self) -> Result<(), Failure> {
        for attachment in &mut self.attachments {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            if attachment.recursive {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            attachment.mount =
                rustix::mount::open_tree(&attachment.mount, "", flags).step("copy a mount")?;
        }
        Ok(())
    }

    fn mount_top(&mut self) -> Result<(), Failure> {
        let number = self.frozen.len();
        let top = mount_point("u", number)?;
        let size = self.disk.unwrap_or(0);
        // A page of memory for each inode is generous; files smaller than
        // that must not be able to fill the kernel's memory instead.
        let inodes = self.disk.map_or(0, |disk| (disk / 4096).max(1024));
        let options = format!("mode=755,size={size},nr_inodes={inodes}\0");
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("ends in nul");
        rustix::mount::mount(
            "swegym",
            top.as_str(),
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(options),
        )
        .step("mount memory for writes")?;
        for (name, mode) in [
            ("up", 0o755),
            ("work", 0o755),
            ("root", 0o755),
            ("shm", 0o1777),
        ] {
            rustix::fs::mkdir(format!("{top}/{name}"), Mode::from_raw_mode(mode))
                .step("make directories for writes")?;
        }
        let options = self.overlay_options(&top)?;
        let root = format!("{top}/root");
        rustix::mount::mount(
            "swegym",
            root.as_str(),
            "overlay",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(options.as_c_str()),
        )
        .step("mount the overlay")?;
        let root = open_path(&root).step("open the root directory")?;
        self.attach_all(&root, &top)?;
        self.root = Some(root);
        Ok(())
    }

    fn overlay_options(&self, top: &str) -> Result<std::ffi::CString, Failure> {
        let mut lower = String::new();
        for (number, mapped) in self.frozen.iter().enumerate().rev() {
            let kind = if *mapped { 'i' } else { 'u' };
            lower.push_str(&format!("{kind}/{number}/up:"));
        }
        for number in 0..self.layers {
            lower.push_str(&format!("l/{number}:"));
        }
        lower.pop();
        let (upper, work) = match &self.directory {
            None => (
                format!("{top}/up").into_bytes(),
                format!("{top}/work").into_bytes(),
            ),
            Some(name) => {
                let below = |name: &[u8]| [b"h/", &escape(name)[..]].concat();
                (below(name), below(&work_name(name)))
            }
        };
        let mut options = format!("lowerdir={lower},upperdir=").into_bytes();
        options.extend(upper);
        options.extend(b",workdir=");
        options.extend(work);
        options.extend(b",index=off,xino=off");
        if self.directory.is_some() {
            // Nothing in memory is synced anyway.
            options.extend(b",volatile");
        }
        options.extend_from_slice(if self.userxattr {
            b",userxattr"
        } else {
            b",metacopy=off,redirect_dir=nofollow"
        });
        if options.len() > MAX_OPTIONS {
            return Err(Failure {
                step: format!(
                    "stack {} layers and snapshots",
                    self.layers + self.frozen.len()
                ),
                errno: libc::E2BIG,
            });
        }
        std::ffi::CString::new(options).map_err(|_| Failure {
            step: "name the directory for writes".into(),
            errno: libc::EINVAL,
        })
    }

    /// Mounts what belongs over the root: devices, processes, binds, and a
    /// user database that knows the user.
    fn attach_all(&self, root: &OwnedFd, top: &str) -> Result<(), Failure> {
        for attachment in &self.attachments {
            let inside = Path::new(std::ffi::OsStr::from_bytes(&attachment.target));
            attach_inside(root, &attachment.mount, inside)
                .step_with(|| format!("mount {}", inside.display()))?;
        }
        let shm = clone_mount(&format!("{top}/shm"), false).step("mount /dev/shm")?;
        attach_inside(root, &shm, Path::new("/dev/shm")).step("mount /dev/shm")?;
        self.add_user(root, top)
            .step("add the user to /etc/passwd")?;
        for path in &self.readonly {
            let inside = Path::new(std::ffi::OsStr::from_bytes(path));
            make_readonly(root, inside)
                .step_with(|| format!("make {} read-only", inside.display()))?;
        }
        Ok(())
    }

    /// Makes the user and group databases name the user, if they do not.
    fn add_user(&self, root: &OwnedFd, top: &str) -> rustix::io::Result<()> {
        let user = &self.user;
        for (name, line) in [("passwd", user.passwd_line()), ("group", user.group_line())] {
            let inside = Path::new("etc").join(name);
            let (point, present) = match open_inside(root, &inside, OFlags::RDONLY) {
                Ok(file) => read(file)?,
                Err(rustix::io::Errno::NOENT) => (make_point(root, &inside, false)?, Vec::new()),
                Err(e) => return Err(e),
            };
            let Some(text) = with_line(&present, user.id, &line) else {
                continue;
            };
            let file = format!("{top}/{name}");
            write_new(&file, &text).map_err(to_errno)?;
            attach_over(&clone_mount(&file, false)?, &point)?;
        }
        Ok(())
    }
}

fn write_new(path: &str, text: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(text)
}

/// Reads a file to its end; gives it back, too.
fn read(file: OwnedFd) -> rustix::io::Result<(OwnedFd, Vec<u8>)> {
    let mut text = Vec::with_capacity(4096);
    // What is left of the room shows the end without another read.
    while rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text))? > 0
        && text.len() == text.capacity()
    {
        text.reserve(text.len());
    }
    Ok((file, text))
}

fn to_errno(error: std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
}

/// A database of users or groups with a line for `id`, unless it has one; a
/// line of that name for another id makes way.
fn with_line(database: &[u8], id: u32, line: &[u8]) -> Option<Vec<u8>> {
    let field = |line: &[u8], n: usize| -> Option<Vec<u8>> {
        line.split(|&b| b == b':').nth(n).map(<[u8]>::to_vec)
    };
    let lines = || {
        database
            .split(|&b| b == b'\n')
            .filter(|line| !line.is_empty())
    };
    let id = id.to_string().into_bytes();
    if lines().any(|line| field(line, 2).as_ref() == Some(&id)) {
        return None;
    }
    let name = field(line, 0);
    let mut text = Vec::new();
    for line in lines().filter(|line| field(line, 0) != name).chain([line]) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    Some(text)
}

/// `/proc`, which must be the first, `/dev` and `/dev/pts`.
fn system_mounts(root: bool) -> Result<Vec<Attachment>, Failure> {
    // Read-only as a whole: /proc/sys, sysrq-trigger and the like, at the
    // price of one mount rather than one for each.
    let proc = new_mount(
        "proc",
        &[],
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .step("mount /proc")?;
    let dev = clone_mount("dev", !root).step("mount /dev")?;
    sys::mount_setattr(
        dev.as_fd(),
        !root,
        &MountAttr {
            set: u64::from(
                (MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID).bits(),
            ),
            ..MountAttr::default()
        },
    )
    .step("make /dev read-only")?;
    let pts = new_mount(
        "devpts",
        &[("ptmxmode", "666"), ("mode", "620")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .step("mount /dev/pts")?;
    let at = |target: &str, mount, recursive| Attachment {
        target: target.as_bytes().to_vec(),
        mount,
        recursive,
    };
    Ok(vec![
        at("/proc", proc, false),
        at("/dev", dev, !root),
        at("/dev/pts", pts, false),
    ])
}

/// Attaches a frozen upper once more, its owner mapped to this sandbox's.
fn attach_mapped(number: usize, idmap: &OwnedFd) -> Result<(), Failure> {
    let copy = clone_mount(&format!("u/{number}"), false).step("copy a snapshot")?;
    sys::mount_setattr(
        copy.as_fd(),
        false,
        &MountAttr {
            set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
            private: false,
            idmap: Some(idmap.as_fd()),
        },
    )
    .step("map the owner of a snapshot")?;
    let point = mount_point("i", number)?;
    attach(copy, &point).step("attach a snapshot")
}

/// A mount point of the base, made if there was none from the start.
fn mount_point(kind: &str, number: usize) -> Result<String, Failure> {
    let path = format!("{kind}/{number}");
    if number >= READY_POINTS {
        make_directory(&path).step("make a mount point")?;
    }
    Ok(path)
}

fn make_directory(path: &str) -> rustix::io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

fn open_path(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn unmount(path: &str) -> Result<(), Failure> {
    rustix::mount::unmount(path, UnmountFlags::DETACH).step("unmount the old state")
}

/// Opens a path inside a root directory; links never lead out of it.
pub fn open_inside(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        if flags.contains(OFlags::CREATE) {
            Mode::from_raw_mode(0o644)
        } else {
            Mode::empty()
        },
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Makes the directories above a path inside a root directory.
pub fn make_parents(root: impl AsFd, path: &Path) -> rustix::io::Result<()> {
    let root = root.as_fd();
    let mut done = PathBuf::new();
    for component in path.parent().unwrap_or(Path::new("")).components() {
        let parent = done.clone();
        done.push(component);
        if !matches!(component, Component::Normal(_)) {
            continue;
        }
        match open_inside(root, &done, OFlags::PATH | OFlags::DIRECTORY) {
            Err(rustix::io::Errno::NOENT) => make_inside(root, &parent, component, true)?,
            other => drop(other?),
        }
    }
    Ok(())
}

/// Makes a directory or empty file below a directory inside a root directory.
fn make_inside(
    root: BorrowedFd<'_>,
    parent: &Path,
    name: Component<'_>,
    directory: bool,
) -> rustix::io::Result<()> {
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let parent = open_inside(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let made = if directory {
        rustix::fs::mkdirat(&parent, name.as_os_str(), Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name.as_os_str(), flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    match made {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Attaches a mount at a path inside a root directory, making the mount point.
fn attach_inside(root: &OwnedFd, mount: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    let point = match open_inside(root, path, OFlags::PATH) {
        Err(rustix::io::Errno::NOENT) => {
            let stat = rustix::fs::statat(mount, "", AtFlags::EMPTY_PATH)?;
            let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
            make_point(root, path, directory)?
        }
        other => other?,
    };
    attach_over(mount, &point)
}

/// Makes what something is to be mounted over, a directory or file.
fn make_point(root: &OwnedFd, path: &Path, directory: bool) -> rustix::io::Result<OwnedFd> {
    make_parents(root, path)?;
    let name = path
        .components()
        .next_back()
        .ok_or(rustix::io::Errno::INVAL)?;
    let parent = path.parent().unwrap_or(Path::new(""));
    make_inside(root.as_fd(), parent, name, directory)?;
    open_inside(root, path, OFlags::PATH)
}

fn attach_over(mount: &OwnedFd, point: &OwnedFd) -> rustix::io::Result<()> {
    rustix::mount::move_mount(
        mount,
        "",
        point,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Puts a directory over itself, read-only; what is mounted below it stays as
/// it is.
///
/// It cannot be moved out of the way with a directory above it either: those
/// come from the layers, and the overlay renames none of them.
fn make_readonly(root: &OwnedFd, path: &Path) -> std::io::Result<()> {
    let point = open_inside(root, path, OFlags::PATH | OFlags::DIRECTORY)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = rustix::mount::open_tree(&point, "", flags)?;
    sys::mount_setattr(
        mount.as_fd(),
        false,
        &MountAttr {
            set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
            ..MountAttr::default()
        },
    )?;
    Ok(attach_over(&mount, &point)?)
}

fn final_name(path: &[u8]) -> Vec<u8> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    path.file_name()
        .map(|n| n.as_bytes().to_vec())
        .unwrap_or_default()
}

/// Name of the overlay's working directory, beside the upper.
fn work_name(upper: &[u8]) -> Vec<u8> {
    [b".", upper, b".swegym-work"].concat()
}

/// Protects what separates overlay options.
fn escape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for &byte in name {
        if matches!(byte, b',' | b':' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

/// Makes the working directory of an overlay on disk, beside its upper.
pub fn make_work_directory(upper: &Path) -> Result<PathBuf, Failure> {
    let name = work_name(&final_name(upper.as_os_str().as_bytes()));
    let work = upper.with_file_name(std::ffi::OsStr::from_bytes(&name));
    remove_work_directory(&work);
    let make = || -> std::io::Result<()> {
        let stat = rustix::fs::stat(upper)?;
        fs::create_dir(&work)?;
        std::os::unix::fs::chown(&work, Some(stat.st_uid), Some(stat.st_gid))
    };
    make().step_with(|| format!("make {}", work.display()))?;
    Ok(work)
}

/// Removes it; the overlay leaves a directory there that nobody may enter.
pub fn remove_work_directory(work: &Path) {
    for entry in fs::read_dir(work).into_iter().flatten().flatten() {
        let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
    }
    let _ = fs::remove_dir_all(work);
}

/// Empties an upper on disk and its working directory.
fn empty_directories(name: &[u8]) -> std::io::Result<()> {
    for name in [name.to_vec(), work_name(name)] {
        let path = Path::new("h").join(std::ffi::OsStr::from_bytes(&name));
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700))?;
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_a_user_only_once() {
        let user = User {
            id: 7,
            home: b"/tmp".to_vec(),
        };
        let before = b"root:x:0:0::/root:/bin/sh\nswegym:x:1000:1000::/:/bin/sh";
        let text = with_line(before, user.id, &user.passwd_line()).unwrap();
        assert_eq!(
            String::from_utf8(text.clone()).unwrap(),
            "root:x:0:0::/root:/bin/sh\nswegym:x:7:7::/tmp:/bin/bash\n"
        );
        assert_eq!(with_line(&text, user.id, &user.passwd_line()), None);
    }

    #[test]
    fn escapes_what_separates_options() {
        assert_eq!(escape(b"a,b:c\\d"), b"a\\,b\\:c\\\\d");
    }
}
