//! The floor: the least that can start a program in an overlay of its own.
//! No limits, no devices, no filter, no sharing, no error handling to speak
//! of. Run as a process of its own, a start for each byte on stdin, answered
//! with the CPU time used so far.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::native::sys::{self, CStrings, Fork};

/// Name (`argv[0]`) under which the program is started as the prototype.
pub const PROTOTYPE: &str = "swegym-prototype";

/// Runs the prototype: arguments are a directory for mounting and a layer.
pub fn main() -> ! {
    let _ = rustix::thread::set_name(c"swegym-proto");
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [base, layer] = &paths[..] else {
        std::process::exit(2);
    };
    let root = rustix::process::geteuid().is_root();
    while io::stdin().read_exact(&mut [0]).is_ok() {
        let started = start(base, layer, root);
        let (own, children) = sys::cpu_time();
        let cpu = if started { own + children } else { u64::MAX };
        if io::stdout()
            .write_all(&cpu.to_le_bytes())
            .and_then(|()| io::stdout().flush())
            .is_err()
        {
            break;
        }
    }
    std::process::exit(0)
}

fn start(base: &str, layer: &str, root: bool) -> bool {
    let ids = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let mut namespaces = sys::NAMESPACES | libc::CLONE_NEWNET as u64;
    if !root {
        namespaces |= libc::CLONE_NEWUSER as u64;
    }
    match sys::clone_into(namespaces, None) {
        Ok(Fork::Child) => {
            let error = run(base, layer, root, ids);
            let _ = writeln!(io::stderr(), "prototype: {:?}", error.err());
            sys::exit_now(1)
        }
        Ok(Fork::Parent(pid)) => {
            matches!(
                sys::reap(Some(pid), true),
                Ok(Some((_, sys::Ended::Code(0))))
            )
        }
        Err(_) => false,
    }
}

fn run(base: &str, layer: &str, root: bool, (uid, gid): (u32, u32)) -> io::Result<()> {
    if !root {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("1000 {gid} 1"))?;
        fs::write("/proc/self/uid_map", format!("1000 {uid} 1"))?;
    }
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private)?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("none", base, "tmpfs", plain, Some(c"mode=755"))?;
    for name in ["up", "work", "root"] {
        fs::create_dir(Path::new(base).join(name))?;
    }
    let extra = if root { "" } else { ",userxattr" };
    let options = format!("lowerdir={layer},upperdir={base}/up,workdir={base}/work{extra}");
    let merged = format!("{base}/root");
    let options = CString::new(options)?;
    rustix::mount::mount("none", &merged, "overlay", plain, Some(options.as_c_str()))?;
    rustix::mount::mount_bind_recursive("/usr", format!("{merged}/usr"))?;
    rustix::mount::mount("none", format!("{merged}/proc"), "proc", plain, None)?;
    rustix::process::chdir(merged)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    let argv = CStrings::new(vec![c"true".to_owned()]);
    Err(sys::execve(c"/bin/true", &argv, &CStrings::new(vec![])))
}
