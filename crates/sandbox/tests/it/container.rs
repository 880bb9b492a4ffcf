//! Runs the conformance suite on podman, and on docker where its daemon runs.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use libtest_mimic::{Failed, Trial};
use swegym_core::{Backend as _, SandboxError, SandboxSpec};
use swegym_sandbox::conformance::{Check, Fixture, checks};
use swegym_sandbox::{ContainerBackend, Unsupported};

use crate::profiles::{Place, is_root, loudly, readable_program};

/// Checks of what an engine may do without.
const NEEDS: &[(&str, Unsupported)] = &[
    ("writable_binds", Unsupported::ForeignBinds),
    ("hosts_file_is_the_users", Unsupported::HostsFile),
    ("attack_memory_by_many", Unsupported::TotalMemory),
    ("entries_in_the_root_directory", Unsupported::RootEntries),
    ("mounts_are_nosuid", Unsupported::NosuidMounts),
    ("attack_disk_fill", Unsupported::TotalWrites),
    ("attack_inode_fill", Unsupported::TotalFiles),
];

/// Every check for every engine; ignored where it cannot run, with the reason
/// as its kind.
pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
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
            let need = NEEDS.iter().find(|(name, _)| *name == check.name);
            let reason = match engine {
                Err(_) => Some("no engine".to_owned()),
                Ok(engine) => need
                    .filter(|(_, need)| engine.backend.unsupported().contains(need))
                    .map(|(_, need)| need.to_string()),
            };
            let ignored = reason.is_some();
            let trial = Trial::test(format!("{name}::{}", check.name), move || {
                run(engine.as_ref()?, check)
            });
            trials.push(
                trial
                    .with_kind(reason.unwrap_or_default())
                    .with_ignored_flag(ignored),
            );
        }
    }
    trials.extend(quota_trials());
    trials
}

/// Checks that storage with quotas makes a difference to.
const ON_QUOTAS: &[&str] = &[
    "attack_disk_fill",
    "attack_inode_fill",
    "snapshot_and_restore",
];

/// A few checks for a docker of the tests whose storage has quotas.
fn quota_trials() -> Vec<Trial> {
    let missing = quotas_missing();
    if let Some(missing) = &missing {
        loudly(&format!(
            "docker with quotas cannot run here, its checks are skipped: {missing}"
        ));
    }
    let mut trials = vec![
        Trial::test("docker_quota::full", || full(quota_docker().as_ref()?)),
        Trial::test("docker_quota::layers_do_not_count", || {
            layers_do_not_count(quota_docker().as_ref()?)
        }),
    ];
    let checks = checks().into_iter();
    let checks = checks.filter(|check| ON_QUOTAS.contains(&check.name));
    trials.extend(checks.map(|check| {
        Trial::test(format!("docker_quota::{}", check.name), move || {
            run(quota_docker().as_ref()?, check)
        })
    }));
    let ignored = missing.is_some();
    let trials = trials.into_iter();
    trials.map(|t| t.with_ignored_flag(ignored)).collect()
}

/// Why there can be no docker with quotas here, if so.
fn quotas_missing() -> Option<String> {
    if !is_root() {
        return Some("it needs root".to_owned());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.trim() == "btrfs") {
        return Some("the kernel has no btrfs".to_owned());
    }
    let found = |program: &&str| {
        let found = Command::new(program).arg("--version").output();
        found.is_ok_and(|output| output.status.success())
    };
    let needed = ["docker", "dockerd", "containerd", "runc", "mkfs.btrfs"];
    let absent = needed.iter().find(|program| !found(program))?;
    Some(format!("no {absent}"))
}

type Started = &'static Result<Engine, String>;

static PODMAN: OnceLock<Result<Engine, String>> = OnceLock::new();
static DOCKER: OnceLock<Result<Engine, String>> = OnceLock::new();
static QUOTA_DOCKER: OnceLock<Result<Engine, String>> = OnceLock::new();

/// A backend, and what it lives on.
struct Engine {
    backend: ContainerBackend,
    home: Option<PathBuf>,
    /// Keeps the engine's mounts, and its daemon if it has one.
    namespace: Option<Mutex<Child>>,
}

fn run(engine: &Engine, check: Check) -> Result<(), Failed> {
    let place = Place::new()?;
    let scratch = place.path().join("scratch");
    fs::create_dir(&scratch)?;
    let mut fixture = Fixture::new(base()?.clone(), readable_program(), &scratch);
    fixture.counts_memory = counts_memory(engine, &fixture)?;
    Ok((check.run)(&engine.backend, &fixture)?)
}

static BASE: OnceLock<Result<(Place, SandboxSpec), String>> = OnceLock::new();

/// A spec over this machine's programs: one for all checks, as each would be an
/// image of its own.
fn base() -> Result<&'static SandboxSpec, Failed> {
    let made = BASE.get_or_init(|| {
        let place = Place::new().map_err(|e| e.to_string())?;
        let spec = place.spec().map_err(|e| e.to_string())?;
        Ok((place, spec))
    });
    Ok(&made.as_ref()?.1)
}

/// What holds in place of the checks that are left out.
fn confined(engine: &Engine) -> Result<(), Failed> {
    let mut sandbox = engine.backend.create(base()?)?;
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
        try_out("docker".as_ref()).map_err(|e| e.to_string())?;
        Ok(Engine {
            backend,
            home: None,
            namespace: None,
        })
    })
}

/// What is full says so, and has room again afterwards.
fn full(engine: &Engine) -> Result<(), Failed> {
    let mut spec = base()?.clone();
    spec.limits.disk = Some(8 << 20);
    let mut sandbox = engine.backend.create(&spec)?;
    let (first, second) = (Path::new("/tmp/first"), Path::new("/tmp/second"));
    let half = vec![1; 5 << 20];
    sandbox.write(first, &half, false)?;
    let refused = sandbox.write(second, &half, false);
    let full = matches!(&refused, Err(SandboxError::File { source, .. })
        if source.kind() == ErrorKind::StorageFull);
    if !full {
        return Err(format!("10 MiB into 8: {refused:?}").into());
    }
    sandbox.exec(&swegym_core::Command::shell("rm /tmp/first /tmp/second"))?;
    sandbox.write(second, &half, false)?;
    // Without a limit there is none.
    spec.limits.disk = None;
    let mut sandbox = engine.backend.create(&spec)?;
    sandbox.write(first, &vec![1; 64 << 20], false)?;
    Ok(())
}

/// The limit is one of writes, whatever the layers hold.
fn layers_do_not_count(engine: &Engine) -> Result<(), Failed> {
    let place = Place::new()?;
    let mut spec = base()?.clone();
    let small = place.path().join("layer/opt/small");
    fs::create_dir_all(&small)?;
    fs::write(place.path().join("layer/opt/large"), vec![1; 24 << 20])?;
    for file in 0..2000 {
        fs::write(small.join(file.to_string()), vec![b'x'; file])?;
    }
    spec.layers.insert(0, place.path().join("layer"));
    spec.limits.disk = Some(8 << 20);
    let mut sandbox = engine.backend.create(&spec)?;
    sandbox.write(Path::new("/tmp/fits"), &vec![1; 7 << 20], false)?;
    // Some is estimated, by no more than the files are many.
    let more = sandbox.write(Path::new("/tmp/more"), &vec![1; 7 << 20], false);
    match more {
        Err(_) => Ok(()),
        Ok(()) => Err("14 MiB fitted into 8".into()),
    }
}

/// A docker daemon of the tests, its storage a btrfs in a file. All of it ends
/// with this process, however that ends.
fn quota_docker() -> Started {
    QUOTA_DOCKER.get_or_init(|| start_quota_docker().map_err(|e| e.to_string()))
}

fn start_quota_docker() -> Result<Engine, Box<dyn std::error::Error>> {
    let home = std::env::temp_dir().join(format!("swegym-docker-{}", std::process::id()));
    fs::create_dir_all(home.join("storage"))?;
    let shell = Command::new("unshare")
        .args(["-m", "sh", "-c", DAEMON])
        .arg(&home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let daemon = shell.and_then(|mut child| {
        let mut said = [0; 6];
        let stdout = child.stdout.take();
        let answer = stdout.map_or(Ok(()), |mut out| out.read_exact(&mut said));
        let daemon = Mutex::new(child);
        match answer {
            Ok(()) => Ok(daemon),
            Err(e) => {
                end(&daemon);
                Err(e)
            }
        }
    });
    let backend = daemon.and_then(|daemon| {
        let wrapper = home.join("docker-for-tests");
        let script = format!(
            "#!/bin/sh\nexec docker -H 'unix://{}/socket' \"$@\"\n",
            home.display()
        );
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        match ContainerBackend::program(&wrapper) {
            Ok(backend) => Ok((backend, daemon)),
            Err(e) => {
                end(&daemon);
                Err(std::io::Error::other(e.to_string()))
            }
        }
    });
    match backend {
        Ok((backend, daemon)) => Ok(Engine {
            backend,
            home: Some(home),
            namespace: Some(daemon),
        }),
        Err(e) => {
            let log = fs::read_to_string(home.join("log")).unwrap_or_default();
            let last = log.trim().lines().last().unwrap_or_default().to_owned();
            let _ = fs::remove_dir_all(&home);
            Err(format!("{e}: {last}").into())
        }
    }
}

/// Ends what waits for its stdin to end.
fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    drop(child.stdin.take());
    let _ = child.wait();
}

/// The mount is the namespace's, and the loop device goes with it.
const DAEMON: &str = "set -e; exec 2>>\"$0/log\"; cd /; \
    [ ! -d /sys/fs/cgroup/unified ] || umount /sys/fs/cgroup/unified; \
    truncate -s 4G \"$0/image\"; mkfs.btrfs -q \"$0/image\" >&2; mount -o loop \"$0/image\" \"$0/storage\"; \
    btrfs quota enable \"$0/storage\"; btrfs quota rescan -w \"$0/storage\" >&2; \
    dockerd --bridge=none --iptables=false -H \"unix://$0/socket\" --storage-driver btrfs \
        --data-root \"$0/storage/docker\" --exec-root \"$0/exec\" --pidfile \"$0/pid\" \
        --exec-opt native.cgroupdriver=cgroupfs </dev/null >&2 & \
    daemon=$!; set +e; trap : INT TERM HUP PIPE; tries=0; \
    until docker -H \"unix://$0/socket\" version >/dev/null; do \
        kill -0 $daemon && [ $tries -lt 60 ] || { kill $daemon; wait $daemon; exit 1; }; \
        tries=$((tries + 1)); sleep 0.5; \
    done; \
    echo ready; read -r line; kill $daemon; wait $daemon; umount -R \"$0/storage\" && rm -rf \"$0\"";

fn podman() -> Started {
    PODMAN.get_or_init(|| start_podman().map_err(|e| e.to_string()))
}

/// Podman with storage of its own, so that nothing of the tests stays.
fn start_podman() -> Result<Engine, Box<dyn std::error::Error>> {
    let home = std::env::temp_dir().join(format!("swegym-podman-{}", std::process::id()));
    fs::create_dir_all(&home)?;
    fs::write(home.join("containers.conf"), LIMITS)?;
    let wrapper = home.join("podman-for-tests");
    let namespace = namespace()?;
    fs::write(
        &wrapper,
        wrapper_script(&home, namespace.as_ref().map(Child::id)),
    )?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let backend = ContainerBackend::program(&wrapper)
        .map_err(|e| e.to_string())
        .and_then(|backend| try_out(&wrapper).map(|()| backend));
    let namespace = namespace.map(Mutex::new);
    match backend {
        Ok(backend) => Ok(Engine {
            backend,
            home: Some(home),
            namespace,
        }),
        Err(e) => {
            remove(&home, namespace.as_ref());
            Err(e.into())
        }
    }
}

/// Whether an engine runs a container at all here, by its own means: what our
/// backend makes of that is for the checks to say.
fn try_out(program: &Path) -> Result<(), String> {
    let image = "localhost/swegym/try:1";
    let script = format!(
        "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; mkdir $d/usr; \
         for l in bin sbin lib lib32 lib64; do [ ! -L /$l ] || cp -P /$l $d/$l; [ -L /$l ] || [ ! -d /$l ] || mkdir $d/$l; done; \
         tar -C $d -c . | \"$0\" import - {image} >/dev/null; \
         \"$0\" run --rm --network=none --memory=1g -v /usr:/usr:ro {image} /usr/bin/true; \"$0\" rmi {image} >/dev/null"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "it cannot run a container: {}",
        text.trim().lines().last().unwrap_or_default()
    ))
}

/// Limits that a caller without CAP_SYS_RESOURCE may set too.
const LIMITS: &str =
    "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=32768:32768\"]\n";

/// As root on a host with both kinds of cgroups, older runtimes want only one
/// to be seen: a mount namespace that lacks the other, kept by a process that
/// ends with this one.
fn namespace() -> Result<Option<Child>, Box<dyn std::error::Error>> {
    if !is_root() || !Path::new("/sys/fs/cgroup/unified").is_dir() {
        return Ok(None);
    }
    let script = "umount /sys/fs/cgroup/unified; echo ready; read -r line";
    let mut child = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    stdout.read_exact(&mut [0; 6])?;
    Ok(Some(child))
}

fn wrapper_script(home: &Path, namespace: Option<u32>) -> String {
    let home = home.display();
    let enter = namespace.map_or_else(String::new, |pid| {
        format!("nsenter --mount=/proc/{pid}/ns/mnt --wd=. ")
    });
    format!(
        "#!/bin/sh\nexport CONTAINERS_CONF='{home}/containers.conf'\n\
         exec {enter}podman --root '{home}/root' --runroot '{home}/run' --cgroup-manager cgroupfs \"$@\"\n"
    )
}

/// Removes what the tests left on disk.
pub fn clean() {
    if let Some(Ok((place, _))) = BASE.get()
        && fs::remove_dir_all(place.path()).is_err()
    {
        loudly(&format!("{} could not be removed", place.path().display()));
    }
    if let Some(Ok(engine)) = DOCKER.get() {
        engine.backend.remove_images();
    }
    if let Some(Ok(Engine {
        home: Some(home),
        namespace: Some(daemon),
        ..
    })) = QUOTA_DOCKER.get()
    {
        end(daemon);
        if home.exists() {
            loudly(&format!("{} could not be removed", home.display()));
        }
    }
    if let Some(Ok(Engine {
        home: Some(home),
        namespace,
        ..
    })) = PODMAN.get()
    {
        remove(home, namespace.as_ref());
    }
}

/// Removes a podman of the tests. Its storage has mounts of its own.
fn remove(home: &Path, namespace: Option<&Mutex<Child>>) {
    let reset = Command::new(home.join("podman-for-tests"))
        .args(["system", "reset", "--force"])
        .output();
    if let Some(child) = namespace {
        end(child);
    }
    if reset.is_err() || fs::remove_dir_all(home).is_err() {
        loudly(&format!("{} could not be removed", home.display()));
    }
}
