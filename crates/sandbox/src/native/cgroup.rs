//! Control groups: version 1, version 2, both (hybrid) or none.
//!
//! All sandboxes of a spawner live below one directory per controller,
//! `swegym-<pid>-<start time>`, below the cgroup the program itself is in or,
//! where that cannot hold limits, the nearest ancestor that can. On version 1
//! the directory of a slot is kept for its next sandbox.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::sys;
use super::wire::{CgroupPaths, Config};

/// Prefix of our directories.
const PREFIX: &str = "swegym-";

/// The cgroups of one spawner.
pub struct Cgroups {
    v2: bool,
    /// Directory for memory (version 1) or everything (version 2).
    memory: Option<PathBuf>,
    /// Directory for processes; the same as `memory` in version 2.
    pids: Option<PathBuf>,
    /// Version 1: the slots whose directories exist.
    slots: HashMap<u32, SlotGroup>,
}

struct SlotGroup {
    tasks: Vec<File>,
    /// Peak memory, which a write resets.
    peak: Option<File>,
    limits: (Option<u64>, Option<u64>),
}

/// How the init of a sandbox gets into its cgroup.
#[derive(Default)]
pub struct Membership<'a> {
    /// Version 2: directory to clone into.
    pub into: Option<File>,
    /// Version 1: `tasks` files that init writes `0` to. A thread that moves
    /// itself this way spares the kernel's global lock.
    pub tasks: Vec<BorrowedFd<'a>>,
    /// Whether memory is limited.
    pub memory: bool,
}

impl Cgroups {
    /// Finds where cgroups can be made, and makes the spawner's.
    pub fn discover() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let name = format!("{PREFIX}{}-{}", std::process::id(), start_time("self"));
        let places = places(&mounts, &own);
        let memory_v1 = places.iter().find(|p| p.has("memory"));
        let pids_v1 = places.iter().find(|p| p.has("pids"));
        if memory_v1.is_some() || pids_v1.is_some() {
            let make = |place: Option<&Place>| {
                place.and_then(|p| p.claim(&name, |dir| dir.join("tasks").exists()))
            };
            return Self {
                v2: false,
                memory: make(memory_v1),
                pids: make(pids_v1),
                slots: HashMap::new(),
            };
        }
        let unified = places
            .iter()
            .find(|p| p.controllers.is_none())
            .and_then(|p| {
                p.claim(&name, |dir| {
                    enable_controllers(dir.parent());
                    dir.join("memory.max").exists()
                        && dir.join("pids.max").exists()
                        && can_enter(dir)
                })
            });
        if let Some(dir) = &unified {
            enable_controllers(Some(dir));
        }
        Self {
            v2: true,
            memory: unified.clone(),
            pids: unified,
            slots: HashMap::new(),
        }
    }

    /// No cgroups at all.
    pub fn none() -> Self {
        Self {
            v2: false,
            memory: None,
            pids: None,
            slots: HashMap::new(),
        }
    }

    /// Where they are.
    pub fn paths(&self) -> CgroupPaths {
        let text = |p: &Option<PathBuf>| p.as_ref().and_then(|p| p.to_str()).map(str::to_owned);
        CgroupPaths {
            memory: text(&self.memory),
            pids: text(&self.pids),
            v2: self.v2,
        }
    }

    /// Readies the cgroups of a slot for a sandbox.
    pub fn prepare(&mut self, slot: u32, config: &Config) -> io::Result<Membership<'_>> {
        let limits = (config.memory, config.processes);
        if self.v2 {
            let Some(parent) = &self.memory else {
                return Ok(Membership::default());
            };
            let dir = parent.join(slot.to_string());
            make_dir(&dir)?;
            set_limits_v2(&dir, limits)?;
            return Ok(Membership {
                into: Some(File::open(&dir)?),
                tasks: Vec::new(),
                memory: true,
            });
        }
        if !self.slots.contains_key(&slot) {
            let group = self.make_v1(slot)?;
            self.slots.insert(slot, group);
        }
        let group = self.slots.get_mut(&slot).expect("just made");
        if group.limits != limits {
            set_limits_v1(self.memory.as_deref(), self.pids.as_deref(), slot, limits)?;
            group.limits = limits;
        }
        if let Some(peak) = &mut group.peak {
            peak.write_all(b"0")?;
        }
        Ok(Membership {
            into: None,
            tasks: group.tasks.iter().map(AsFd::as_fd).collect(),
            memory: self.memory.is_some(),
        })
    }

    fn make_v1(&self, slot: u32) -> io::Result<SlotGroup> {
        let mut tasks = Vec::new();
        for parent in [&self.memory, &self.pids].into_iter().flatten() {
            let dir = parent.join(slot.to_string());
            make_dir(&dir)?;
            tasks.push(OpenOptions::new().write(true).open(dir.join("tasks"))?);
        }
        let open_peak = |parent: &PathBuf| {
            let peak = parent
                .join(slot.to_string())
                .join("memory.max_usage_in_bytes");
            OpenOptions::new().write(true).open(peak)
        };
        Ok(SlotGroup {
            tasks,
            peak: self.memory.as_ref().map(open_peak).transpose()?,
            limits: (None, None),
        })
    }

    /// Frees what the slot need not keep; its processes are gone.
    pub fn release(&mut self, slot: u32) {
        if let (true, Some(parent)) = (self.v2, &self.memory) {
            // Busy only while the kernel still counts an exiting task; the
            // next sandbox of the slot, or the end, finds it again.
            let _ = fs::remove_dir(parent.join(slot.to_string()));
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.slots.clear();
        for dir in [&self.memory, &self.pids].into_iter().flatten() {
            remove_tree(dir);
        }
    }
}

/// The memory of a sandbox, as its cgroup counts it.
#[derive(Debug)]
pub struct Gauge {
    events: File,
    peak: Option<File>,
}

impl Gauge {
    /// The gauge of a slot.
    pub fn open(paths: &CgroupPaths, slot: u32) -> Option<Self> {
        let dir = Path::new(paths.memory.as_ref()?).join(slot.to_string());
        let (events, peak) = if paths.v2 {
            ("memory.events", "memory.peak")
        } else {
            ("memory.oom_control", "memory.max_usage_in_bytes")
        };
        Some(Self {
            events: File::open(dir.join(events)).ok()?,
            peak: File::open(dir.join(peak)).ok(),
        })
    }

    /// Processes that the kernel has killed for memory so far.
    pub fn kills(&self) -> Option<u64> {
        read_start(&self.events)?
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// Peak memory, bytes.
    pub fn peak(&self) -> Option<u64> {
        read_start(self.peak.as_ref()?)?.trim().parse().ok()
    }
}

fn read_start(file: &File) -> Option<String> {
    let mut buffer = [0; 512];
    let length = file.read_at(&mut buffer, 0).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A mounted hierarchy, and our place in it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Controllers of a version 1 hierarchy; `None` for version 2.
    controllers: Option<Vec<String>>,
    mount: PathBuf,
    own: PathBuf,
}

impl Place {
    fn has(&self, controller: &str) -> bool {
        self.controllers
            .as_ref()
            .is_some_and(|all| all.iter().any(|c| c == controller))
    }

    /// Makes a directory in our cgroup or its nearest ancestor where `usable`
    /// holds for it.
    fn claim(&self, name: &str, usable: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        for ancestor in self.own.ancestors() {
            if !ancestor.starts_with(&self.mount) {
                break;
            }
            sweep(ancestor);
            let dir = ancestor.join(name);
            if make_dir(&dir).is_ok() {
                if usable(&dir) {
                    return Some(dir);
                }
                let _ = fs::remove_dir(&dir);
            }
        }
        None
    }
}

/// Reads the hierarchies from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn places(mountinfo: &str, own: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (&[_, _, _, root, mount, ..], &[fs_type, _, options, ..]) = (&left[..], &right[..])
        else {
            continue;
        };
        let controllers = match fs_type {
            "cgroup" => Some(options.split(',').map(str::to_owned).collect::<Vec<_>>()),
            "cgroup2" => None,
            _ => continue,
        };
        let Some(path) = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let matches = match &controllers {
                None => names.is_empty(),
                Some(have) => {
                    !names.is_empty() && names.split(',').all(|n| have.iter().any(|c| c == n))
                }
            };
            matches.then_some(path)
        }) else {
            continue;
        };
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        places.push(Place {
            controllers,
            mount: mount.into(),
            own: if below.as_os_str().is_empty() {
                mount.into()
            } else {
                Path::new(mount).join(below)
            },
        });
    }
    places
}

/// Hands the memory and pids controllers down, where allowed.
fn enable_controllers(dir: Option<&Path>) {
    if let Some(dir) = dir {
        for controller in ["+memory", "+pids"] {
            // Whether it worked shows in the files of the children.
            let _ = write(&dir.join("cgroup.subtree_control"), controller);
        }
    }
}

/// Whether a process can be started in a version 2 cgroup.
fn can_enter(dir: &Path) -> bool {
    let Ok(file) = File::open(dir) else {
        return false;
    };
    match sys::clone_into(0, Some(file.as_fd())) {
        Ok(sys::Fork::Child) => sys::exit_now(0),
        Ok(sys::Fork::Parent(pid)) => sys::reap(Some(pid), true).is_ok(),
        Err(_) => false,
    }
}

fn set_limits_v2(dir: &Path, (memory, processes): (Option<u64>, Option<u64>)) -> io::Result<()> {
    let text = |limit: Option<u64>| limit.map_or("max".to_owned(), |n| n.to_string());
    write(&dir.join("memory.max"), &text(memory))?;
    if memory.is_some() && dir.join("memory.swap.max").exists() {
        write(&dir.join("memory.swap.max"), "0")?;
    }
    write(&dir.join("pids.max"), &text(with_init(processes)))
}

fn set_limits_v1(
    memory_dir: Option<&Path>,
    pids_dir: Option<&Path>,
    slot: u32,
    (memory, processes): (Option<u64>, Option<u64>),
) -> io::Result<()> {
    if let Some(dir) = memory_dir.map(|d| d.join(slot.to_string())) {
        let text = memory.map_or("-1".to_owned(), |n| n.to_string());
        let (plain, with_swap) = (
            dir.join("memory.limit_in_bytes"),
            dir.join("memory.memsw.limit_in_bytes"),
        );
        let swap_is_counted = with_swap.exists();
        // The limit with swap may never be the lower one: raise it first.
        if swap_is_counted {
            let _ = write(&with_swap, &text);
        }
        write(&plain, &text)?;
        if swap_is_counted {
            write(&with_swap, &text)?;
        }
    }
    if let Some(dir) = pids_dir.map(|d| d.join(slot.to_string())) {
        let text = with_init(processes).map_or("max".to_owned(), |n| n.to_string());
        write(&dir.join("pids.max"), &text)?;
    }
    Ok(())
}

/// Init itself does not count against the limit.
fn with_init(processes: Option<u64>) -> Option<u64> {
    processes.map(|n| n.saturating_add(1))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes what spawners that were themselves killed have left.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((pid, start)) = name
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX)?.split_once('-'))
        else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && start_time(pid).to_string() != start {
            remove_tree(&entry.path());
        }
    }
}

/// Removes a cgroup and those below; processes in it make it stay.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// When a process started, clock ticks since boot; 0 if there is none.
fn start_time(pid: &str) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            let after_name = stat.rsplit_once(')')?.1;
            after_name.split_whitespace().nth(19)?.parse().ok()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hybrid_hierarchies_and_mount_roots() {
        let mountinfo = "\
            31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            32 25 0:28 /docker/ab /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            34 25 0:30 / /proc rw - proc proc rw\n";
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/docker/ab/c\n0::/u\n";
        let places = places(mountinfo, own);
        let own: Vec<_> = places.iter().map(|p| p.own.to_str().unwrap()).collect();
        assert_eq!(
            own,
            [
                "/sys/fs/cgroup/memory/a/b",
                "/sys/fs/cgroup/cpu,cpuacct/c",
                "/sys/fs/cgroup/unified/u"
            ]
        );
        assert!(places[0].has("memory") && !places[0].has("pids"));
        assert_eq!(places[2].controllers, None);
    }
}
