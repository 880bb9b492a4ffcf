//! From a fork of init to a command that may do nothing but what a user of
//! the sandbox may.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::sock_filter;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::init::report;
use super::overlay::Stack;
use super::seccomp::Filters;
use super::sys::{self, CStrings, ChildStack};
use super::wire::{Config, Failure, MAX_CHANNEL, Program, Status, Step};

/// Exit status of a program that is there but cannot be executed.
const CANNOT_EXECUTE: i32 = 126;
/// Exit status of a program that is not there.
const NOT_FOUND: i32 = 127;

/// Descriptors from here on are for us, those below for the program.
const ABOVE: RawFd = MAX_CHANNEL as RawFd + 1;

/// What every command of a sandbox is held by.
pub struct Jail {
    user: (u32, u32),
    limits: Vec<(Resource, u64)>,
    filter: Vec<sock_filter>,
}

impl Jail {
    /// The limits of a sandbox; `data` caps the memory of each process.
    pub fn new(config: &Config, filters: &Filters, user: (u32, u32), data: Option<u64>) -> Self {
        let mut limits = vec![(Resource::Core, 0), (Resource::Rtprio, 0)];
        let optional = [
            (Resource::Nofile, config.open_files),
            (Resource::Fsize, config.disk),
            // Init counts too where its uid is the sandbox's own.
            (
                Resource::Nproc,
                config.processes.map(|n| n.saturating_add(1)),
            ),
            (Resource::Data, data),
        ];
        limits.extend(
            optional
                .into_iter()
                .filter_map(|(r, limit)| Some((r, limit?))),
        );
        let writes_to_host = config.upper.is_some() || config.binds.iter().any(|b| !b.readonly);
        let filter = filters.get(data.is_some(), writes_to_host).to_vec();
        Self {
            user,
            limits,
            filter,
        }
    }

    /// Gives up every privilege, for good.
    fn enter(&self) -> Result<(), Failure> {
        for &(resource, limit) in &self.limits {
            set_limit(resource, limit).step("set a resource limit")?;
        }
        rustix::thread::set_capabilities(
            None,
            CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            },
        )
        .step("drop capabilities")?;
        rustix::thread::set_no_new_privs(true).step("set no_new_privs")?;
        sys::install_filter(&self.filter).step("load the system-call filter")
    }
}

/// Starts a program as a child of init.
///
/// `files`: stdout, stderr, then stdin and channel where the program has them.
/// What happens before the program runs is done in init's memory (see
/// [`sys::fork_shared`]), so everything that the program needs is allocated
/// first.
pub fn start(
    program: &Program,
    files: &[OwnedFd],
    status: &OwnedFd,
    stack: &Stack,
    jail: &Jail,
    memory: &mut ChildStack,
) -> io::Result<Pid> {
    let image = Image::new(program);
    sys::fork_shared(memory, &mut || {
        // Out of the way of the program's numbers.
        let Ok(status) = rustix::io::fcntl_dupfd_cloexec(status, ABOVE) else {
            return NOT_FOUND;
        };
        match prepare(program, files, stack, jail) {
            Ok(()) => image.execute(),
            Err(failure) => {
                report(&status, &Status::Failed(failure));
                NOT_FOUND
            }
        }
    })
}

fn prepare(
    program: &Program,
    files: &[OwnedFd],
    stack: &Stack,
    jail: &Jail,
) -> Result<(), Failure> {
    rustix::process::setsid().step("start a session")?;
    if program.session.is_some() {
        rustix::process::set_child_subreaper(Pid::from_raw(1)).step("keep orphans")?;
    }
    rustix::process::chroot(stack.root_path()).step("enter the root directory")?;
    rustix::process::chdir("/").step("enter the root directory")?;
    place_files(program, files, jail.user).step("connect the standard streams")?;
    jail.enter()?;
    let directory = OsStr::from_bytes(&program.cwd);
    rustix::process::chdir(Path::new(directory))
        .step_with(|| format!("enter the working directory {}", directory.display()))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::unblock_signals();
    Ok(())
}

/// Puts the streams at 0, 1, 2 and the channel at its number; everything else
/// closes when the program starts.
fn place_files(program: &Program, files: &[OwnedFd], user: (u32, u32)) -> io::Result<()> {
    for file in files {
        // So that /dev/stdout and the like can be opened.
        sys::change_owner(file.as_fd(), user.0, user.1)?;
    }
    let mut numbers = vec![1, 2];
    numbers.extend(program.stdin.then_some(0));
    numbers.extend(program.channel.map(|number| number as RawFd));
    let mut moved = Vec::with_capacity(numbers.len() + 1);
    for (file, number) in files.iter().zip(numbers) {
        moved.push((rustix::io::fcntl_dupfd_cloexec(file, ABOVE)?, number));
    }
    if !program.stdin {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        moved.push((rustix::io::fcntl_dupfd_cloexec(null, ABOVE)?, 0));
    }
    sys::close_range(3, u32::MAX, true)?;
    for (file, number) in &moved {
        sys::dup_onto(file.as_fd(), *number)?;
    }
    Ok(())
}

fn set_limit(resource: Resource, limit: u64) -> rustix::io::Result<()> {
    let allowed = rustix::process::getrlimit(resource).maximum;
    let limit = allowed.map_or(limit, |allowed| limit.min(allowed));
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        },
    )
}

/// A program as `execve` takes it.
struct Image {
    candidates: Vec<CString>,
    argv: CStrings,
    env: CStrings,
}

impl Image {
    fn new(program: &Program) -> Self {
        let name = program.argv.first().map_or("", String::as_str);
        let env = program
            .env
            .iter()
            .map(|(name, value)| c_string(&format!("{name}={value}")));
        Self {
            candidates: candidates(name, &program.env)
                .iter()
                .map(|c| c_string(c))
                .collect(),
            argv: CStrings::new(program.argv.iter().map(|a| c_string(a)).collect()),
            env: CStrings::new(env.collect()),
        }
    }

    /// Executes the program; returns the exit status if it cannot.
    fn execute(&self) -> i32 {
        let mut denied = false;
        for candidate in &self.candidates {
            let error = sys::execve(candidate, &self.argv, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::ENOEXEC) => {
                    self.execute_with_shell(candidate);
                    denied = true;
                }
                _ => denied = true,
            }
        }
        let (code, reason) = if denied {
            (CANNOT_EXECUTE, "cannot execute")
        } else {
            (NOT_FOUND, "command not found")
        };
        let name = self.argv.iter().next().map(|name| name.to_string_lossy());
        let name = name.unwrap_or_default();
        // For people; the status says the same.
        let _ = writeln!(io::stderr(), "swegym: {name}: {reason}");
        code
    }

    /// A script without an interpreter line, as `execvp` has it. Rare enough
    /// for init to lose the memory of the arguments.
    fn execute_with_shell(&self, script: &CStr) {
        let mut argv = vec![c"/bin/sh".to_owned(), script.to_owned()];
        argv.extend(self.argv.iter().skip(1).cloned());
        sys::execve(c"/bin/sh", &CStrings::new(argv), &self.env);
    }
}

/// As C has strings; the supervisor lets none with a nul byte through.
fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Paths to try for a program name.
fn candidates(name: &str, env: &[(String, String)]) -> Vec<String> {
    if name.is_empty() || name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env
        .iter()
        .find(|(key, _)| key == "PATH")
        .map_or("/usr/bin:/bin", |(_, v)| v);
    path.split(':')
        .map(|dir| match dir {
            "" => name.to_owned(),
            dir => format!("{}/{name}", dir.trim_end_matches('/')),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_in_path() {
        let env = [("PATH".to_owned(), "/a:/b/:".to_owned())];
        assert_eq!(candidates("x", &env), ["/a/x", "/b/x", "x"]);
        assert_eq!(candidates("./x", &env), ["./x"]);
        assert_eq!(candidates("x", &[]), ["/usr/bin/x", "/bin/x"]);
    }
}
