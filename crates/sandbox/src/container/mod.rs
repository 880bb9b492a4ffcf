//! The container backend: podman and docker through their command lines.
//!
//! `docs/design/containers.md` says how and why.

mod cgroup;
mod image;
mod process;
mod quota;
mod sandbox;
mod seccomp;
mod session;
mod upper;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use swegym_core::{Backend, Sandbox, SandboxError, SandboxSpec, SnapshotId};

use image::Tree;
use process::{Finished, Running};
use quota::{Quota, Storage};
use sandbox::{ContainerSandbox, Origin};

/// Uid and gid of commands inside.
const USER: u32 = 1000;
/// Uid and gid of what keeps a container: commands cannot signal it.
const KEEPER: u32 = 999;

/// Longest wait for an engine to do what takes no time.
const QUICK: Duration = Duration::from_secs(60);
/// Longest wait for an engine to copy files.
const SLOW: Duration = Duration::from_secs(1800);

/// Names our containers; the value is the process id of the supervisor.
const LABEL: &str = "swegym.supervisor";

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Podman,
    Docker,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

/// What a spec may ask for, or the native backend does, and an engine cannot.
/// Sandboxes start without it unless it says otherwise: who needs it takes the
/// native backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// [`swegym_core::Limits::disk`] for all files together.
    TotalWrites,
    /// A limit of the number of files.
    TotalFiles,
    /// [`swegym_core::Limits::memory`] for all processes together.
    TotalMemory,
    /// Writable binds of what the user inside does not own; such specs are
    /// refused.
    ForeignBinds,
    /// Entries directly in `/`.
    RootEntries,
    /// Writes to `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    HostsFile,
    /// `nosuid` on the engine's own mounts.
    NosuidMounts,
    /// [`swegym_core::ExecOutput::cpu_seconds`].
    CpuTime,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TotalWrites => {
                "the size of all writes is not limited, only that of each file and of /dev/shm; \
                 quotas of the engine's storage would: podman on overlay over XFS mounted with \
                 pquota, docker on the same or on btrfs with `btrfs quota enable`"
            }
            Self::TotalFiles => {
                "the number of files is not limited; podman on overlay over XFS mounted with \
                 pquota can, and so can docker on btrfs with `btrfs quota enable`"
            }
            Self::TotalMemory => {
                "the memory of all processes is not limited, only that of each: it has no cgroups"
            }
            Self::ForeignBinds => "writable binds must be owned by the user inside",
            Self::RootEntries => "the directory / belongs to root, so nothing can be made in it",
            Self::HostsFile => "/etc/hosts is the engine's own and cannot be written to",
            Self::NosuidMounts => {
                "the engine's mounts are not nosuid; no_new_privs makes set-id bits void"
            }
            Self::CpuTime => "the CPU time of commands is not measured",
        })
    }
}

/// Makes sandboxes with podman or docker.
#[derive(Debug, Clone)]
pub struct ContainerBackend(Arc<Engine>);

impl ContainerBackend {
    /// With podman.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] if it cannot be used, with the reason.
    pub fn podman() -> Result<Self, SandboxError> {
        Self::start(Kind::Podman, "podman".as_ref())
    }

    /// With docker.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] if it cannot be used, with the reason.
    pub fn docker() -> Result<Self, SandboxError> {
        Self::start(Kind::Docker, "docker".as_ref())
    }

    /// With podman, or else docker.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] with the reason for each.
    pub fn detect() -> Result<Self, SandboxError> {
        let podman = match Self::podman() {
            Err(SandboxError::Unavailable { reason, .. }) => reason,
            other => return other,
        };
        match Self::docker() {
            Err(SandboxError::Unavailable { reason, .. }) => Err(SandboxError::Unavailable {
                backend: "container".to_owned(),
                reason: format!("podman: {podman}; docker: {reason}"),
            }),
            other => other,
        }
    }

    /// With a program that takes podman's arguments, or docker's if its name
    /// begins with `docker`.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] if it cannot be used, with the reason.
    pub fn program(program: impl AsRef<Path>) -> Result<Self, SandboxError> {
        let program = program.as_ref();
        let name = program.file_name().unwrap_or_default();
        let docker = name.as_encoded_bytes().starts_with(b"docker");
        let kind = if docker { Kind::Docker } else { Kind::Podman };
        Self::start(kind, program.as_os_str())
    }

    /// What sandboxes of this engine do without.
    pub fn unsupported(&self) -> Vec<Unsupported> {
        let mut missing = vec![
            Unsupported::RootEntries,
            Unsupported::NosuidMounts,
            Unsupported::CpuTime,
        ];
        if self.0.quota.is_none() {
            missing.push(Unsupported::TotalWrites);
        }
        if !self.0.quota.as_ref().is_some_and(|quota| quota.files) {
            missing.push(Unsupported::TotalFiles);
        }
        if !self.0.counts.memory {
            missing.push(Unsupported::TotalMemory);
        }
        if self.0.kind == Kind::Docker {
            missing.extend([Unsupported::ForeignBinds, Unsupported::HostsFile]);
        }
        missing
    }

    /// Removes the images that this process made and no sandbox uses. Dropping
    /// the backend does the same.
    pub fn remove_images(&self) {
        let mut images = lock(&self.0.images);
        images.retain(|_, imported| Arc::strong_count(&imported.image) > 1);
    }

    /// Removes the containers of supervisors that have died, and gives their
    /// number. Containers end with their supervisor; this is for a machine
    /// that lost power, or an engine that was killed.
    ///
    /// # Errors
    /// If the engine cannot list or remove.
    pub fn remove_leftovers(&self) -> Result<usize, SandboxError> {
        let format = format!("{{{{.ID}}}} {{{{.Label \"{LABEL}\"}}}}");
        let format = match self.0.kind {
            Kind::Docker => format,
            Kind::Podman => format!("{{{{.ID}}}} {{{{index .Labels \"{LABEL}\"}}}}"),
        };
        let filter = format!("label={LABEL}");
        let listed = self.0.ask(
            "list containers",
            ["ps", "-a", "--filter", &filter, "--format", &format],
        )?;
        let mut removed = 0;
        for line in listed.lines() {
            let Some((id, supervisor)) = line.split_once(' ') else {
                continue;
            };
            let alive = supervisor
                .parse::<i32>()
                .ok()
                .and_then(rustix::process::Pid::from_raw)
                .is_some_and(|pid| {
                    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
                });
            if !alive {
                self.0.remove_container(id)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn start(kind: Kind, program: &OsStr) -> Result<Self, SandboxError> {
        let unavailable = |reason: String| SandboxError::Unavailable {
            backend: kind.name().to_owned(),
            reason,
        };
        let profile = |writes_to_host| {
            let write = || {
                let mut file = tempfile::NamedTempFile::new()?;
                file.write_all(seccomp::profile(writes_to_host).as_bytes())?;
                Ok::<_, io::Error>(file.into_temp_path())
            };
            write().map_err(|e| unavailable(format!("write the system-call filter: {e}")))
        };
        let mut engine = Engine {
            kind,
            program: program.to_owned(),
            rootless: false,
            counts: Counts::default(),
            quota: None,
            profiles: [profile(false)?, profile(true)?],
            images: Mutex::default(),
            snapshots: Mutex::default(),
        };
        let format = match kind {
            Kind::Podman => {
                "{{.Host.Security.Rootless}} {{.Host.CgroupsVersion}} {{.Host.CgroupControllers}}\n\
                 {{.Store.GraphDriverName}}\n{{json .Store.GraphStatus}}\n\
                 {{json .Store.GraphOptions}}"
            }
            Kind::Docker => {
                "{{.MemoryLimit}} {{.PidsLimit}} {{.SecurityOptions}}\n\
                 {{.Driver}}\n{{json .DriverStatus}}"
            }
        };
        let answer = engine
            .ask("ask for its state", ["info", "--format", format])
            .map_err(|e| {
                unavailable(format!(
                    "{e}; install {0}, or see that `{0} info` works",
                    kind.name()
                ))
            })?;
        let (state, storage) = answer.split_once('\n').unwrap_or((&answer, ""));
        let words: Vec<&str> = state
            .split([' ', '[', ']', '\n'])
            .filter(|word| !word.is_empty())
            .collect();
        let says = |word: &str| words.contains(&word);
        (engine.rootless, engine.counts) = match kind {
            // Users have no cgroups of the first version.
            Kind::Podman if words.first() == Some(&"true") => (
                true,
                Counts {
                    memory: says("v2") && says("memory"),
                    processes: says("v2") && says("pids"),
                },
            ),
            Kind::Podman => (
                false,
                Counts {
                    memory: true,
                    processes: true,
                },
            ),
            Kind::Docker => (
                state.contains("rootless"),
                Counts {
                    memory: words.first() == Some(&"true"),
                    processes: words.get(1) == Some(&"true"),
                },
            ),
        };
        engine.quota = quota::find(&engine, &Storage::parse(storage));
        Ok(Self(Arc::new(engine)))
    }
}

impl Backend for ContainerBackend {
    fn name(&self) -> &str {
        self.0.kind.name()
    }

    fn create(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, SandboxError> {
        sandbox::check(spec)?;
        sandbox::check_owners(&self.0, spec)?;
        let start = || -> Result<ContainerSandbox, SandboxError> {
            let (image, tree) = self.0.image(spec)?;
            let readonly = self.0.volumes(spec, &image)?;
            let origin = Arc::new(Origin {
                spec: spec.clone(),
                image,
                tree,
                readonly,
            });
            ContainerSandbox::start(&self.0, origin)
        };
        let started = match start() {
            // Another process may have removed the image that it had made.
            Err(SandboxError::Start { .. } | SandboxError::Io { .. }) if self.0.forget_lost() => {
                start()
            }
            other => other,
        };
        Ok(Box::new(started?))
    }

    fn restore(&self, snapshot: &SnapshotId) -> Result<Box<dyn Sandbox>, SandboxError> {
        let origin = lock(&self.0.snapshots)
            .get(snapshot)
            .cloned()
            .ok_or_else(|| unknown(snapshot))?;
        Ok(Box::new(ContainerSandbox::start(&self.0, origin)?))
    }

    fn drop_snapshot(&self, snapshot: &SnapshotId) -> Result<(), SandboxError> {
        lock(&self.0.snapshots)
            .remove(snapshot)
            .map(drop)
            .ok_or_else(|| unknown(snapshot))
    }
}

fn unknown(snapshot: &SnapshotId) -> SandboxError {
    SandboxError::Gone(format!("no snapshot {snapshot}"))
}

/// An image that containers start from.
#[derive(Debug)]
struct Image {
    engine: EngineRef,
    reference: String,
    /// Made by this process, and removed when it needs it no more.
    temporary: bool,
    /// Volumes filled from it by this process, removed with it.
    volumes: Mutex<Vec<String>>,
    /// What a snapshot was made over, to be removed after it.
    _below: Option<Arc<Self>>,
}

/// The engine without what would keep itself alive.
#[derive(Debug, Clone)]
struct EngineRef {
    program: OsString,
}

impl Drop for Image {
    fn drop(&mut self) {
        // What cannot be removed only takes space, or another process uses it.
        for volume in lock(&self.volumes).iter() {
            let _ = self.engine.run(["volume", "rm", volume], QUICK);
        }
        if self.temporary {
            let _ = self.engine.run(["rmi", &self.reference], QUICK);
        }
    }
}

impl EngineRef {
    fn run<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> io::Result<Finished> {
        let running = Running::start(process::command(&self.program, args), false)?;
        process::finish(running, limit, 1 << 20)
    }
}

/// Images by what they are made of.
type Images = HashMap<Vec<LayerKey>, Imported>;

/// An image of layers that is known to be there.
#[derive(Debug)]
struct Imported {
    image: Arc<Image>,
    tree: Arc<Tree>,
    /// When it was last asked for.
    used: Instant,
}

/// Images that are kept although no sandbox uses them: every tree that is
/// graded makes one.
const KEPT: usize = 8;

/// Forgets the images that were not asked for longest.
fn forget_old(images: &mut Images) {
    while images.len() > KEPT {
        let unused = images
            .iter()
            .filter(|(_, i)| Arc::strong_count(&i.image) == 1);
        let Some(oldest) = unused
            .min_by_key(|(_, i)| i.used)
            .map(|(key, _)| key.clone())
        else {
            return;
        };
        images.remove(&oldest);
    }
}

/// What the engine's cgroups limit for all processes together.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    memory: bool,
    processes: bool,
}

/// A container engine.
#[derive(Debug)]
struct Engine {
    kind: Kind,
    program: OsString,
    rootless: bool,
    counts: Counts,
    /// How all writes of a container are limited, if they can be.
    quota: Option<Quota>,
    /// System-call filters: for sandboxes that write to themselves only, and
    /// to directories of the host too.
    profiles: [tempfile::TempPath; 2],
    /// Images of layers that are known to be there.
    images: Mutex<Images>,
    snapshots: Mutex<HashMap<SnapshotId, Arc<Origin>>>,
}

/// What tells a layer from another in this process: layers do not change.
type LayerKey = (PathBuf, u64, u64);

impl Engine {
    fn reference(&self) -> EngineRef {
        EngineRef {
            program: self.program.clone(),
        }
    }

    /// Runs the engine for a short answer.
    fn ask<S: AsRef<OsStr>>(
        &self,
        what: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, SandboxError> {
        self.ask_within(what, args, QUICK)
    }

    fn ask_within<S: AsRef<OsStr>>(
        &self,
        what: &str,
        args: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Result<String, SandboxError> {
        let context = || format!("{}: {what}", self.kind.name());
        let io_error = |source| SandboxError::Io {
            context: context(),
            source,
        };
        let finished = self.reference().run(args, limit).map_err(io_error)?;
        if finished.success() {
            Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
        } else {
            Err(io_error(io::Error::other(finished.complaint())))
        }
    }

    /// Starts a program inside a container, as this user.
    fn exec(
        &self,
        container: &str,
        user: u32,
        listens: bool,
        args: &[OsString],
    ) -> io::Result<Running> {
        let user = format!("{user}:{user}");
        let mut all: Vec<&OsStr> = vec!["exec".as_ref()];
        if listens {
            all.push("-i".as_ref());
        }
        all.extend(["--user", &user, container].map(OsStr::new));
        all.extend(args.iter().map(OsString::as_os_str));
        Running::start(process::command(&self.program, all), listens)
    }

    fn remove_container(&self, container: &str) -> Result<(), SandboxError> {
        let args: &[&str] = match self.kind {
            Kind::Podman => &["rm", "-f", "-t", "0", container],
            Kind::Docker => &["rm", "-f", container],
        };
        match self.ask("remove a container", args) {
            // It removes itself too.
            Err(e) if e.to_string().to_lowercase().contains("no such container") => Ok(()),
            other => other.map(drop),
        }
    }

    /// The image for the layers of a spec, imported unless it is there, and
    /// what is in it.
    fn image(&self, spec: &SandboxSpec) -> Result<(Arc<Image>, Arc<Tree>), SandboxError> {
        let start = |step: &str, source| SandboxError::Start {
            step: step.to_owned(),
            source,
        };
        let mut key = Vec::new();
        for layer in &spec.layers {
            let metadata = std::fs::metadata(layer)
                .map_err(|e| start(&format!("find layer {}", layer.display()), e))?;
            key.push((layer.clone(), metadata.dev(), metadata.ino()));
        }
        // What an engine makes for a mount point belongs to root.
        let parents = mount_parents(spec);
        key.extend(parents.iter().map(|path| (path.clone(), 0, 0)));
        // One import at a time: the same layers are often asked for at once.
        let mut images = lock(&self.images);
        if !images.contains_key(&key) {
            let below = directories(&parents).map_err(|e| start("make mount points", e))?;
            let mut layers = spec.layers.clone();
            layers.push(below.path().to_owned());
            let tree = Tree::merge(&layers).map_err(|e| start("read the layers", e))?;
            let digest = tree.digest().map_err(|e| start("read the layers", e))?;
            let reference = format!("localhost/swegym/layers:{digest}");
            let temporary = self
                .import(&tree, &reference)
                .map_err(|e| start("import the layers as an image", e))?;
            forget_old(&mut images);
            let image = Image {
                engine: self.reference(),
                reference,
                temporary,
                volumes: Mutex::default(),
                _below: None,
            };
            let imported = Imported {
                image: Arc::new(image),
                tree: Arc::new(tree),
                used: Instant::now(),
            };
            images.insert(key.clone(), imported);
        }
        let imported = images
            .get_mut(&key)
            .expect("it is there or was just put there");
        imported.used = Instant::now();
        let Imported { image, tree, .. } = &*imported;
        for path in &spec.readonly {
            if !tree.contains(path) {
                return Err(SandboxError::Invalid(format!(
                    "readonly path {}: no layer has it",
                    path.display()
                )));
            }
        }
        Ok((Arc::clone(image), Arc::clone(tree)))
    }

    /// Volumes with what must not be written to, copied out of the image once
    /// and shared from then on.
    fn volumes(
        &self,
        spec: &SandboxSpec,
        image: &Image,
    ) -> Result<Vec<(String, PathBuf)>, SandboxError> {
        let digest = image.reference.rsplit(':').next().unwrap_or_default();
        // One copy at a time, for the same reason.
        let _copying = lock(&self.images);
        let mut volumes = Vec::new();
        for path in &spec.readonly {
            let place = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
            let name = format!("swegym-{digest}-{}", &place[..16]);
            let known = self.ask("inspect a volume", ["volume", "inspect", &name]);
            if known.is_err() {
                let mount = format!("{name}:{}", path.display());
                let user = format!("{KEEPER}:{KEEPER}");
                let fixed = [
                    "run",
                    "--rm",
                    "--pull=never",
                    "--network=none",
                    "--cap-drop=ALL",
                    "--user",
                    &user,
                    "-v",
                    &mount,
                ];
                let mut args: Vec<OsString> = fixed.map(OsString::from).to_vec();
                // The program may be the host's.
                for bind in spec.binds.iter().filter(|bind| bind.readonly) {
                    args.extend(["-v".into(), sandbox::bind_arg(self, bind)]);
                }
                args.extend([&image.reference, "/bin/true"].map(OsString::from));
                self.ask_within("fill a volume", args, SLOW)?;
                lock(&image.volumes).push(name.clone());
            }
            volumes.push((name, path.clone()));
        }
        Ok(volumes)
    }

    /// Forgets images that are not there any more; says whether there were any.
    fn forget_lost(&self) -> bool {
        let mut images = lock(&self.images);
        let before = images.len();
        images.retain(|_, imported| {
            let reference = &imported.image.reference;
            let known = self.reference().run(["image", "inspect", reference], QUICK);
            known.is_ok_and(|known| known.success())
        });
        images.len() < before
    }

    /// Imports a tree; says whether it was not there already.
    fn import(&self, tree: &Tree, reference: &str) -> io::Result<bool> {
        let known = self.reference().run(
            ["image", "inspect", "--format", "{{.Id}}", reference],
            QUICK,
        )?;
        if known.success() {
            return Ok(false);
        }
        let mut child = process::command(&self.program, ["import", "-", reference])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let written = child.stdin.take().map_or(Ok(()), |pipe| {
            tree.write(io::BufWriter::with_capacity(1 << 20, pipe))
        });
        let mut complaint = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut complaint)?;
        }
        if child.wait()?.success() {
            written.map(|()| true)
        } else {
            Err(io::Error::other(complaint.trim().to_owned()))
        }
    }
}

/// Directories above what is bound into a sandbox, from the top.
fn mount_parents(spec: &SandboxSpec) -> Vec<PathBuf> {
    let parents = spec.binds.iter().flat_map(|b| b.target.ancestors().skip(1));
    let below_root = parents.filter_map(|p| p.strip_prefix("/").ok());
    let named = below_root.filter(|p| !p.as_os_str().is_empty());
    named
        .map(Path::to_owned)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// A layer with these directories, the same each time.
fn directories(paths: &[PathBuf]) -> io::Result<tempfile::TempDir> {
    let layer = tempfile::tempdir()?;
    for path in paths {
        std::fs::create_dir(layer.path().join(path))?;
    }
    // From the bottom, as each changes the time of the one above.
    for path in paths.iter().rev() {
        let directory = std::fs::File::open(layer.path().join(path))?;
        directory.set_permissions(std::fs::Permissions::from_mode(0o755))?;
        directory.set_times(std::fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))?;
    }
    Ok(layer)
}

/// Locks; what a panicking thread left is still whole in all our uses.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that nobody can guess.
fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
