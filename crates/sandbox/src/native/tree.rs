//! The processes of a sandbox, read from its `/proc`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

/// A process and its parent.
pub struct Process {
    pub pid: i32,
    pub parent: i32,
}

/// Every process of the sandbox, init included.
pub fn processes(proc: BorrowedFd<'_>) -> Vec<Process> {
    pids(proc)
        .into_iter()
        .filter_map(|pid| {
            let stat = read(proc, &format!("{pid}/stat"))?;
            let after_name = &stat[stat.rfind(')')? + 1..];
            let parent = after_name.split_whitespace().nth(1)?.parse().ok()?;
            Some(Process { pid, parent })
        })
        .collect()
}

fn pids(proc: BorrowedFd<'_>) -> Vec<i32> {
    let Ok(dir) = rustix::fs::openat(
        proc,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return Vec::new();
    };
    rustix::fs::Dir::read_from(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
        .collect()
}

/// All processes below these, parents before their children.
pub fn descendants(processes: &[Process], roots: &[i32]) -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    let mut generation = roots.to_vec();
    while !generation.is_empty() {
        generation = processes
            .iter()
            .filter(|p| generation.contains(&p.parent) && !found.contains(&p.pid))
            .map(|p| p.pid)
            .collect();
        found.extend(&generation);
    }
    found
}

/// Signals processes; those that have ended meanwhile are nothing to worry
/// about, as init has not reaped them and their ids are not in use again.
pub fn signal(pids: impl Iterator<Item = i32>, signal: Signal) {
    for pid in pids.filter_map(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process exists, if only as a zombie.
pub fn exists(pid: i32) -> bool {
    Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Memory of all processes, bytes: their own pages and shared memory.
///
/// Pages that a fork shares with its parent count for both, so the sum errs
/// on the side of the machine.
pub fn memory(proc: BorrowedFd<'_>) -> u64 {
    let kilobytes: u64 = pids(proc)
        .into_iter()
        .filter_map(|pid| read(proc, &format!("{pid}/status")))
        .flat_map(|status| {
            status
                .lines()
                .filter_map(|line| {
                    let value = line
                        .strip_prefix("RssAnon:")
                        .or_else(|| line.strip_prefix("RssShmem:"))?;
                    value.trim().trim_end_matches(" kB").parse::<u64>().ok()
                })
                .collect::<Vec<_>>()
        })
        .sum();
    kilobytes * 1024
}

fn read(proc: BorrowedFd<'_>, path: &str) -> Option<String> {
    let file =
        rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0; 4096];
    let mut text = Vec::new();
    loop {
        match rustix::io::read(file.as_fd(), &mut buffer).ok()? {
            0 => return Some(String::from_utf8_lossy(&text).into_owned()),
            n => text.extend_from_slice(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_children() {
        let tree =
            [(5, 4), (4, 2), (2, 1), (3, 1), (6, 3)].map(|(pid, parent)| Process { pid, parent });
        assert_eq!(descendants(&tree, &[2]), [4, 5]);
        assert_eq!(descendants(&tree, &[1]), [2, 3, 4, 6, 5]);
    }
}
