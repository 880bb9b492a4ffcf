//! The native backend: namespaces, an overlay, and a small init of ours.
//!
//! Three kinds of process, joined by sockets: the *supervisor* (the program
//! that uses this crate), one *spawner* (`spawner.rs`), and an *init* per
//! sandbox (`init.rs`). `docs/design/sandbox.md` says why.

mod backend;
mod cgroup;
mod inbox;
mod init;
mod network;
mod overlay;
mod probe;
mod pump;
mod sandbox;
mod seccomp;
mod seed;
mod session;
mod slots;
mod spawner;
pub(crate) mod sys;
mod tree;
mod wire;
mod worker;

pub use backend::{NativeBackend, NativeBuilder};
pub use probe::{Check, Probe, probe};

use std::ffi::OsStr;

/// Name (`argv[0]`) under which the program is started as the spawner.
const SPAWNER: &str = "swegym-spawner";

/// Whether this process was started as a helper.
fn helper_name() -> Option<&'static str> {
    let name = std::env::args_os().next()?;
    [SPAWNER, probe::PROBER]
        .into_iter()
        .find(|&helper| name == OsStr::new(helper))
}

/// Runs the spawner if this process was started as one, and then never
/// returns. To be called first thing in `main` by every program that uses the
/// native backend.
pub fn child_main() {
    match helper_name() {
        Some(SPAWNER) => spawner::main(),
        Some(_) => probe::main(),
        None => {}
    }
}

/// Lets this process have as many files open as it may: every live sandbox
/// and session costs a few.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // The usual limit does for a few hundred sandboxes.
    let _ = setrlimit(Resource::Nofile, raised);
}
