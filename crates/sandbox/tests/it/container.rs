//! Runs the conformance suite on podman, and on docker where its daemon runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libtest_mimic::{Failed, Trial};
use swegym_core::Backend as _;
use swegym_sandbox::ContainerBackend;
use swegym_sandbox::conformance::{Check, Fixture, checks};

use crate::profiles::{Place, is_root, loudly};

/// Checks of what containers cannot do, with the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "writes_to_a_directory",
        "an engine keeps what a container changed to itself",
    ),
    (
        "unprivileged_user",
        "the directory / itself stays root's; see podman::confined",
    ),
    (
        "attack_set_uid_programs",
        "an engine's own mounts are not nosuid; see podman::confined",
    ),
    (
        "attack_disk_fill",
        "engines limit the size of a container only on some file systems",
    ),
    (
        "attack_inode_fill",
        "engines limit the size of a container only on some file systems",
    ),
];

/// Every check for every engine; ignored where it cannot run, with the reason
/// as its kind.
pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    // Minutes of starting containers, and not yet steady on a loaded machine
    // (docs/design/containers.md): asked for by name.
    if std::env::var_os("SWEGYM_CONTAINER_TESTS").is_none() {
        loudly("podman and docker checks are skipped: SWEGYM_CONTAINER_TESTS is not set");
        return trials;
    }
    for (name, engine) in [("podman", podman()), ("docker", docker())] {
        if let Err(reason) = engine {
            loudly(&format!(
                "{name} cannot run here, its checks are skipped: {reason}"
            ));
        }
        trials.push(
            Trial::test(format!("{name}::confined"), move || {
                confined(engine.as_ref()?)
            })
            .with_ignored_flag(engine.is_err()),
        );
        for check in checks() {
            let left_out = LEFT_OUT.iter().find(|(name, _)| *name == check.name);
            let reason = match (engine, left_out) {
                (Err(_), _) => Some("no engine"),
                (_, Some((_, reason))) => Some(*reason),
                _ => None,
            };
            let trial = Trial::test(format!("{name}::{}", check.name), move || {
                run(engine.as_ref()?, check)
            });
            trials.push(
                trial
                    .with_kind(reason.unwrap_or_default())
                    .with_ignored_flag(reason.is_some()),
            );
        }
    }
    trials
}

type Started = &'static Result<Engine, String>;

static PODMAN: OnceLock<Result<Engine, String>> = OnceLock::new();
static DOCKER: OnceLock<Result<Engine, String>> = OnceLock::new();

/// A backend, and what it lives on.
struct Engine {
    backend: ContainerBackend,
    home: Option<PathBuf>,
}

fn run(engine: &Engine, check: Check) -> Result<(), Failed> {
    let place = Place::new()?;
    let scratch = place.path().join("scratch");
    fs::create_dir(&scratch)?;
    let attacker = std::env::current_exe()?;
    let mut fixture = Fixture::new(place.spec()?, &attacker, &scratch);
    fixture.counts_memory = counts_memory(engine, &fixture)?;
    Ok((check.run)(&engine.backend, &fixture)?)
}

/// What holds in place of the checks that are left out.
fn confined(engine: &Engine) -> Result<(), Failed> {
    let place = Place::new()?;
    let mut sandbox = engine.backend.create(&place.spec()?)?;
    let script = "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; \
                  id -un; touch /etc/x /testbed/x && rm /etc/x /testbed/x && echo x >> /etc/hosts; \
                  cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; /tmp/id -u; /tmp/id -ru";
    let output = sandbox.exec(&swegym_core::Command::shell(script))?;
    let none = "0000000000000000";
    let expected = format!(
        "CapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\n\
         NoNewPrivs:1\nSeccomp:2\nswegym\n1000\n1000\n"
    );
    same(&output.stdout.text(), &expected)
}

fn same(seen: &str, expected: &str) -> Result<(), Failed> {
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{seen:?}, expected {expected:?}").into())
    }
}

/// Whether the kernel's count of a container's memory can be read here.
fn counts_memory(engine: &Engine, fixture: &Fixture) -> Result<bool, Failed> {
    static COUNTS: OnceLock<bool> = OnceLock::new();
    if let Some(counts) = COUNTS.get() {
        return Ok(*counts);
    }
    let mut sandbox = engine.backend.create(&fixture.spec)?;
    let peak = sandbox
        .exec(&swegym_core::Command::new(["true"]))?
        .peak_memory;
    Ok(*COUNTS.get_or_init(|| peak.is_some()))
}

fn docker() -> Started {
    DOCKER.get_or_init(|| {
        let backend = ContainerBackend::docker().map_err(|e| e.to_string())?;
        Ok(Engine {
            backend,
            home: None,
        })
    })
}

fn podman() -> Started {
    PODMAN.get_or_init(|| start_podman().map_err(|e| e.to_string()))
}

/// Podman with storage of its own, so that nothing of the tests stays.
fn start_podman() -> Result<Engine, Box<dyn std::error::Error>> {
    let home = std::env::temp_dir().join(format!("swegym-podman-{}", std::process::id()));
    fs::create_dir_all(&home)?;
    fs::write(home.join("containers.conf"), LIMITS)?;
    let wrapper = home.join("podman-for-tests");
    fs::write(&wrapper, wrapper_script(&home))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let backend = ContainerBackend::program(&wrapper)?;
    Ok(Engine {
        backend,
        home: Some(home),
    })
}

/// Limits that a caller without CAP_SYS_RESOURCE may set too.
const LIMITS: &str =
    "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=32768:32768\"]\n";

/// As root on a host with both kinds of cgroups, older runtimes want only one
/// to be seen.
fn wrapper_script(home: &Path) -> String {
    let home = home.display();
    let podman = format!(
        "exec podman --root '{home}/root' --runroot '{home}/run' --cgroup-manager cgroupfs \"$@\""
    );
    let hybrid = Path::new("/sys/fs/cgroup/unified").is_dir();
    let run = if is_root() && hybrid {
        format!(
            "exec unshare -m sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; {}' podman \"$@\"",
            podman.replace('\'', "")
        )
    } else {
        podman
    };
    format!("#!/bin/sh\nexport CONTAINERS_CONF='{home}/containers.conf'\n{run}\n")
}

/// Removes what the tests left on disk.
pub fn clean() {
    if let Some(Ok(Engine {
        home: Some(home), ..
    })) = PODMAN.get()
    {
        // Storage has mounts of its own.
        let reset = Command::new(home.join("podman-for-tests"))
            .args(["system", "reset", "--force"])
            .output();
        if reset.is_err() || fs::remove_dir_all(home).is_err() {
            loudly(&format!("{} could not be removed", home.display()));
        }
    }
}
