//! The users that checks run as. An ordinary user's checks run in a process
//! of their own, started for one check.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libtest_mimic::{Failed, Trial};
use swegym_core::SandboxSpec;
use swegym_sandbox::conformance::{Check, Fixture, checks};
use swegym_sandbox::{NativeBackend, host_base};

/// Says to a child which check to run.
const SINGLE: &str = "SWEGYM_TEST_SINGLE";

/// An ordinary user that owns nothing here.
pub const USER: u32 = 54321;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Whoever runs the tests.
    Caller,
    /// The same without cgroups.
    NoCgroups,
    /// An ordinary user, where root runs the tests.
    User,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Caller if is_root() => "root",
            Self::Caller => "user",
            Self::NoCgroups => "root-without-cgroups",
            Self::User => "user",
        }
    }
}

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Every check for every profile. To be called while there is one thread:
/// a program being copied must not be open in a fork of another thread.
pub fn trials() -> Vec<Trial> {
    readable_program();
    let profiles: &[Profile] = if is_root() {
        &[Profile::Caller, Profile::NoCgroups, Profile::User]
    } else {
        loudly("not root: the checks of the root and root-without-cgroups profiles are skipped");
        &[Profile::Caller]
    };
    let mut trials = Vec::new();
    for &profile in profiles {
        for check in checks() {
            let name = format!("{}::{}", profile.name(), check.name);
            trials.push(Trial::test(name, move || run(profile, check)));
        }
    }
    trials
}

fn run(profile: Profile, check: Check) -> Result<(), Failed> {
    match profile {
        Profile::Caller => run_here(check, true),
        Profile::NoCgroups => run_here(check, false),
        Profile::User => run_as_user(check),
    }
}

/// Runs one check and exits, where the environment says so.
pub fn run_single() {
    let Ok(name) = std::env::var(SINGLE) else {
        return;
    };
    let check = checks().into_iter().find(|check| check.name == name);
    let outcome = match check {
        Some(check) => run_here(check, true),
        None => Err(format!("no check {name}").into()),
    };
    match outcome {
        Ok(()) => std::process::exit(0),
        Err(failed) => {
            loudly(failed.message().unwrap_or("failed"));
            std::process::exit(1)
        }
    }
}

#[allow(clippy::print_stderr)]
pub fn loudly(message: &str) {
    eprintln!("{message}");
}

fn run_here(check: Check, cgroups: bool) -> Result<(), Failed> {
    static WITH: OnceLock<Result<NativeBackend, String>> = OnceLock::new();
    static WITHOUT: OnceLock<Result<NativeBackend, String>> = OnceLock::new();
    let cell = if cgroups { &WITH } else { &WITHOUT };
    let backend = cell
        .get_or_init(|| {
            NativeBackend::builder()
                .cgroups(cgroups)
                .start()
                .map_err(|e| e.to_string())
        })
        .as_ref()?;
    let place = Place::new()?;
    let fixture = place.fixture(backend)?;
    Ok((check.run)(backend, &fixture)?)
}

static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();

/// Removes the copy of this program.
pub fn clean() {
    if let Some((dir, _)) = COPY.get()
        && let Err(e) = fs::remove_dir_all(dir.path())
    {
        loudly(&format!(
            "{} could not be removed: {e}",
            dir.path().display()
        ));
    }
}

/// A copy of this program where every user can find it.
pub fn readable_program() -> &'static Path {
    &COPY
        .get_or_init(|| {
            let place = Place::new().expect("a temporary directory");
            let program = place.path().join("swegym-tests");
            let own = std::env::current_exe().expect("this program");
            fs::copy(own, &program).expect("room for a copy");
            (place.dir, program)
        })
        .1
}

fn run_as_user(check: Check) -> Result<(), Failed> {
    let place = Place::new()?;
    chown(place.path(), Some(USER), Some(USER))?;
    let output = Command::new(readable_program())
        .env_clear()
        .env(SINGLE, check.name)
        .env("TMPDIR", place.path())
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .output()?;
    if output.status.success() {
        Ok(())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}", output.status, text.trim()).into())
    }
}

/// A temporary directory with a base layer, a scratch directory and the
/// attacker.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir })
    }

    /// A spec over this machine's programs.
    pub fn spec(&self) -> std::io::Result<SandboxSpec> {
        let layer = self.make("base")?;
        let base = host_base(&layer, false)?;
        Ok(SandboxSpec {
            layers: vec![layer],
            binds: base.binds,
            ..SandboxSpec::default()
        })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn fixture(&self, backend: &NativeBackend) -> std::io::Result<Fixture> {
        let scratch = self.make("scratch")?;
        let attacker = std::env::current_exe()?;
        let mut fixture = Fixture::new(self.spec()?, &attacker, &scratch);
        fixture.counts_memory = backend.cgroup_limits().0;
        Ok(fixture)
    }

    fn make(&self, name: &str) -> std::io::Result<PathBuf> {
        let path: PathBuf = Path::new(self.dir.path()).join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}
