//! Network namespaces of sandboxes: each its own, with loopback only.
//!
//! Making one and tearing it down is a third of the cost of a start, so one
//! that nothing was ever sent in is used again once everything that could
//! hold a socket in it is dead. No setting of it can have been changed, as
//! nothing inside has the capability to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use super::sys;
use super::wire::{Failure, Step};

/// Namespaces kept for later.
const KEPT: usize = 64;

/// The network namespaces of a spawner.
pub struct Networks {
    home: OwnedFd,
    unused: Vec<Network>,
}

/// A network namespace.
pub struct Network {
    namespace: OwnedFd,
    /// Its list of interfaces, with their traffic.
    devices: OwnedFd,
}

impl Networks {
    /// From where the spawner is now, and comes back to: what it claims of the
    /// host by binding sockets is claimed there.
    pub fn new(proc: impl AsFd) -> Result<Self, Failure> {
        Ok(Self {
            home: open(proc, "self/ns/net").step("open the network namespace")?,
            unused: Vec::new(),
        })
    }

    /// Enters a namespace that nobody else is in.
    pub fn enter(&mut self, proc: impl AsFd) -> Result<Network, Failure> {
        if let Some(network) = self.unused.pop() {
            enter(&network.namespace)?;
            return Ok(network);
        }
        let made = make(proc.as_fd());
        if made.is_err() {
            self.leave()?;
        }
        made
    }

    /// Goes back.
    pub fn leave(&self) -> Result<(), Failure> {
        enter(&self.home)
    }

    /// Takes back a namespace whose processes are gone.
    pub fn give_back(&mut self, network: Network) {
        if self.unused.len() < KEPT && network.is_untouched() {
            self.unused.push(network);
        }
    }
}

impl Network {
    /// Whether nothing was ever sent in it.
    fn is_untouched(&self) -> bool {
        let mut buffer = [0; 4096];
        rustix::io::pread(&self.devices, &mut buffer, 0)
            .is_ok_and(|length| is_silent(&String::from_utf8_lossy(&buffer[..length])))
    }
}

/// Makes a namespace, and stays in it.
fn make(proc: BorrowedFd<'_>) -> Result<Network, Failure> {
    sys::unshare(libc::CLONE_NEWNET).step("make a network namespace")?;
    sys::loopback_up().step("set the loopback interface up")?;
    Ok(Network {
        namespace: open(proc, "self/ns/net").step("open the network namespace")?,
        devices: open(proc, "self/net/dev").step("open the list of interfaces")?,
    })
}

fn open(proc: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(proc, path, flags, Mode::empty())
}

fn enter(namespace: &OwnedFd) -> Result<(), Failure> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .step("enter a network namespace")
}

/// Whether the list of interfaces shows loopback only, without traffic.
fn is_silent(devices: &str) -> bool {
    let mut interfaces = devices.lines().skip(2);
    let counters = interfaces
        .next()
        .and_then(|line| line.trim().strip_prefix("lo:"))
        .map(|counters| counters.split_whitespace().all(|counter| counter == "0"));
    counters == Some(true) && interfaces.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silent_loopback_counts() {
        let header = "Inter-|   Receive\n face |bytes    packets\n";
        let quiet = format!("{header}    lo:       0       0    0    0\n");
        assert!(is_silent(&quiet));
        assert!(!is_silent(&quiet.replace("      0    0", "      7    0")));
        assert!(!is_silent(&format!("{quiet}  eth0: 0 0\n")));
        assert!(!is_silent(header));
    }
}
