//! Compiled extensions of a prediction (GRADING: step 4).
//!
//! A codebase that is installed in editable mode shows a patch to the tests by
//! itself, but for what was compiled. Where a patch touches sources of that,
//! the codebase is built once more: in a sandbox of its own, without network,
//! hidden tests or runner. Nothing of that sandbox is taken but compiled
//! extensions, and of those only what the first build had too or what is new
//! in a package of the codebase (docs/design/evaluation.md).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use swegym_core::{Backend, Command, Exit, Instance, Sandbox};
use swegym_forge::{BuildPlan, Layout, Step};
use swegym_store::{IngestOptions, Kind, LayerId, Origin, Pin, Store};

use crate::compose::{self, Composed, Delta, Reverted};
use crate::environment::{Environment, TESTBED, VENV, named_layer};
use crate::home::Home;
use crate::protect::Protection;
use crate::{Error, hash};

/// Part of every key: another way to rebuild makes other artefacts.
const REBUILD_VERSION: u32 = 1;
/// Bytes of paths that a rebuild may list.
const LISTING: usize = 4 << 20;
/// A rebuild may take this many times what the whole first build took.
const PATIENCE: u32 = 2;
/// Why a path that the build makes is not taken from a patch.
const ARTEFACT: &str = "artefact";

/// What an environment needs to build its codebase again.
#[derive(Clone)]
pub(crate) struct Kit {
    pub store: Store,
    pub home: Home,
    /// Shared libraries that the first build made; absolute paths.
    pub artefacts: BTreeSet<String>,
}

/// A rebuild that was needed.
pub(crate) struct Rebuilt {
    /// The layer with the artefacts, to be mounted above the environment's.
    pub tree: PathBuf,
    /// Artefacts of the first build that this one does not make.
    pub lost: Vec<String>,
    _pin: Pin,
}

/// The patch does not build.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What ended it, in a line of ours.
    pub why: String,
    /// Whether it ran into the time limit.
    pub timed_out: bool,
    /// What the build said. Never part of the test log.
    pub log: String,
}

/// Takes back what a patch ships in place of files that the build makes.
pub(crate) fn drop_artefacts(kit: &Kit, composed: &mut Composed) {
    let made: Vec<String> = composed
        .delta
        .keys()
        .filter(|path| kit.artefacts.contains(&inside(path)))
        .filter(|path| !composed.protection.test_files.contains(*path))
        .cloned()
        .collect();
    for path in made {
        composed.delta.remove(&path);
        composed.reverted.push(Reverted {
            path,
            reason: ARTEFACT.into(),
        });
    }
}

/// Rebuilds for one instance.
pub(crate) struct Rebuilder<'a> {
    pub backend: &'a dyn Backend,
    pub environment: &'a Environment,
    pub kit: &'a Kit,
    pub instance: &'a Instance,
    pub options: &'a crate::grade::Options,
}

impl Rebuilder<'_> {
    /// The artefacts of a composed tree; `None` where the first build's are
    /// right.
    ///
    /// # Errors
    /// If the sandbox or the disk fails, or if the base cannot be built again
    /// either. A patch that does not build is `Ok(Err(…))`.
    pub fn rebuild(&self, composed: &Composed) -> Result<Result<Option<Rebuilt>, Failure>, Error> {
        let mut delta = composed.product();
        if !delta.keys().any(|path| self.decides(path)) {
            return Ok(Ok(None));
        }
        delta.extend(composed.build_settings.clone());
        let failure = match self.layer(&delta, &composed.protection)? {
            Ok(id) => return self.mounted(&id).map(|rebuilt| Ok(Some(rebuilt))),
            Err(failure) => failure,
        };
        if !failure.timed_out {
            self.check_base(&composed.protection)?;
        }
        Ok(Err(failure))
    }

    /// Nobody's patch is to blame where the base does not build either.
    fn check_base(&self, protection: &Protection) -> Result<(), Error> {
        match self.layer(&Delta::new(), protection)? {
            Ok(_) => Ok(()),
            Err(failure) => {
                let log = self.keep_log("base", &failure.log)?;
                Err(Error::Build {
                    instance: self.instance.instance_id.clone(),
                    step: "building the base again".into(),
                    what: failure.why,
                    log: Some(log),
                })
            }
        }
    }

    /// Keeps what a build said, for people.
    pub fn keep_log(&self, what: &str, text: &str) -> Result<PathBuf, Error> {
        let id = crate::environment::file_name(&self.instance.instance_id);
        let log = self
            .kit
            .home
            .logs()
            .join(format!("rebuild-{id}-{what}.log"));
        swegym_data::atomic::write(&log, text.as_bytes())?;
        Ok(log)
    }

    fn mounted(&self, id: &LayerId) -> Result<Rebuilt, Error> {
        let manifest = self.kit.store.manifest(id)?;
        let gone = manifest
            .entries
            .iter()
            .filter(|(_, kind)| **kind == Kind::Whiteout);
        let lost = gone.map(|(path, _)| format!("/{}", String::from_utf8_lossy(path)));
        Ok(Rebuilt {
            _pin: self.kit.store.pin(std::slice::from_ref(id))?,
            lost: lost.collect(),
            tree: self.kit.store.layer_tree(id)?,
        })
    }

    /// Whether compiled extensions can depend on a path.
    fn decides(&self, path: &str) -> bool {
        let compiled_itself = path.strip_suffix(".py").is_some_and(|stem| {
            let start = format!("{}.", inside(stem));
            let next = self.kit.artefacts.range(start.clone()..).next();
            next.is_some_and(|artefact| artefact.starts_with(&start))
        });
        compiled_itself || is_source(path) || is_build_file(path)
    }

    fn layer(
        &self,
        delta: &Delta,
        protection: &Protection,
    ) -> Result<Result<LayerId, Failure>, Error> {
        let name = format!("rebuilt-{}", &self.key(delta, protection)[..32]);
        named_layer(&self.kit.home, &self.kit.store, &name, || {
            self.build(delta, protection)
        })
    }

    /// Everything that artefacts depend on.
    fn key(&self, delta: &Delta, protection: &Protection) -> String {
        let mut text = format!(
            "{REBUILD_VERSION} {} {:?} {:?}",
            self.environment.key, protection.allowed, protection.test_files
        );
        for (path, entry) in delta {
            let entry = entry.as_ref().map(|e| (e.mode, hash(&e.bytes)));
            text += &format!("\n{path:?} {entry:?}");
        }
        hash(text.as_bytes())
    }

    fn build(
        &self,
        delta: &Delta,
        protection: &Protection,
    ) -> Result<Result<LayerId, Failure>, Error> {
        let stage = self.kit.store.scratch()?;
        let (top, taken) = (stage.fresh(), stage.fresh());
        let write = |result: io::Result<()>| result.map_err(|e| Error::io(stage.path(), e));
        for dir in [stage.path(), &top, &taken] {
            write(fs::create_dir_all(dir))?;
            crate::make_traversable(dir)?;
        }
        write(compose::write_layer(delta, &top, TESTBED))?;

        let mut spec = self.environment.rebuild_spec();
        spec.layers.insert(0, top);
        spec.limits = self.options.limits.clone();
        let mut sandbox = self.backend.create(&spec)?;
        if let Err(failure) = self.steps(&mut *sandbox)? {
            return Ok(Err(failure));
        }
        let rules = Rules {
            kit: self.kit,
            environment: self.environment,
            protection,
            delta,
        };
        if let Err(why) = self.take(&mut *sandbox, &rules, &taken)? {
            return Ok(Err(Failure::of(why)));
        }
        sandbox.close()?;
        let options = IngestOptions {
            // Deletions count; of the layers below nothing else does.
            origin: Origin::OverlayUpper { below: Vec::new() },
            consume: true,
            ..IngestOptions::default()
        };
        Ok(Ok(self.kit.store.ingest(&taken, &options)?.id))
    }

    /// Runs the build. What it prints is hostile and goes nowhere but into
    /// the log of a failure.
    fn steps(&self, sandbox: &mut dyn Sandbox) -> Result<Result<(), Failure>, Error> {
        let meta = &self.environment.meta;
        let first = Duration::try_from_secs_f64(meta.seconds).unwrap_or_default();
        let limit = self.options.timeout.max(first * PATIENCE);
        let started = Instant::now();
        let mut log = String::new();
        for step in BuildPlan::rebuild(&meta.recipe, &meta.interpreter, &Layout::default()) {
            let left = limit.saturating_sub(started.elapsed());
            let output = sandbox.exec(&self.command(&step, left))?;
            log += &output.stdout.text();
            let how = match output.exit {
                Exit::Code(0) => continue,
                Exit::Code(code) => format!("exit status {code}"),
                Exit::Signal(signal) => format!("signal {signal}"),
                Exit::OutOfMemory => "out of memory".into(),
                Exit::TimedOut => format!("took over {} s", limit.as_secs()),
            };
            return Ok(Err(Failure {
                why: format!("it does not build: {}: {how}", step.name.as_str()),
                timed_out: output.exit == Exit::TimedOut,
                log,
            }));
        }
        Ok(Ok(()))
    }

    fn command(&self, step: &Step, limit: Duration) -> Command {
        let mut command = Command::shell(step.script.clone())
            .timeout(limit.max(Duration::from_secs(1)))
            .cwd(&step.cwd);
        command.env = step.env.clone();
        command.env.extend(self.environment.meta.index.clone());
        command.env.insert("UV_OFFLINE".into(), "1".into());
        command.merge_stderr = true;
        command
    }

    /// Copies the artefacts that the rules allow. The listing and the bytes
    /// are the build's word; only the rules decide where they may go.
    fn take(
        &self,
        sandbox: &mut dyn Sandbox,
        rules: &Rules<'_>,
        dest: &Path,
    ) -> Result<Result<(), String>, Error> {
        let site_packages = &self.environment.site_packages;
        let mut list = Command::new([
            "/usr/bin/find",
            TESTBED,
            site_packages,
            "-type",
            "f",
            "-name",
            "*.so*",
            "-print0",
        ]);
        list.output_limit = Some(LISTING);
        list.timeout = Some(self.options.timeout);
        let listed = sandbox.exec(&list)?.stdout;
        if listed.dropped > 0 {
            return Ok(Err("its build makes too many files".into()));
        }
        let mut taken = BTreeSet::new();
        for path in listed.bytes.split(|&byte| byte == 0) {
            let Ok(path) = std::str::from_utf8(path) else {
                continue;
            };
            if !rules.allow(path) {
                continue;
            }
            // A file that cannot be read was not built.
            let Ok(bytes) = sandbox.read(Path::new(path)) else {
                continue;
            };
            if !bytes.starts_with(b"\x7fELF") || !taken.insert(path.to_owned()) {
                continue;
            }
            let target = dest.join(path.trim_start_matches('/'));
            write_library(&target, &bytes).map_err(|e| Error::io(&target, e))?;
        }
        for gone in self.kit.artefacts.difference(&taken) {
            if rules.is_protected(gone, false) {
                continue;
            }
            let target = dest.join(gone.trim_start_matches('/'));
            if target.symlink_metadata().is_ok() {
                continue;
            }
            write_whiteout(&target).map_err(|e| Error::io(&target, e))?;
        }
        Ok(Ok(()))
    }
}

impl Failure {
    fn of(why: String) -> Self {
        Self {
            why,
            timed_out: false,
            log: String::new(),
        }
    }
}

fn write_library(target: &Path, bytes: &[u8]) -> io::Result<()> {
    make_parent(target)?;
    fs::write(target, bytes)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))
}

fn write_whiteout(target: &Path) -> io::Result<()> {
    make_parent(target)?;
    let kind = FileType::CharacterDevice;
    Ok(mknodat(CWD, target, kind, Mode::empty(), makedev(0, 0))?)
}

fn make_parent(target: &Path) -> io::Result<()> {
    target.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Which paths a rebuild may fill.
struct Rules<'a> {
    kit: &'a Kit,
    environment: &'a Environment,
    protection: &'a Protection,
    delta: &'a Delta,
}

impl Rules<'_> {
    fn allow(&self, path: &str) -> bool {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path
            .strip_prefix('/')
            .is_some_and(|p| p.split('/').all(plain))
        {
            return false;
        }
        if self.kit.artefacts.contains(path) {
            return !self.is_protected(path, false);
        }
        !self.is_protected(path, true) && self.is_new_module(path)
    }

    /// Paths outside the codebase are the first build's or nobody's.
    fn is_protected(&self, path: &str, is_new: bool) -> bool {
        relative(path).is_some_and(|path| self.protection.reason(path, is_new).is_some())
    }

    /// A module that the first build did not have: of this interpreter's ABI,
    /// beside others of its package, and in nobody's place.
    fn is_new_module(&self, path: &str) -> bool {
        let Some(relative) = relative(path) else {
            return false;
        };
        let (dir, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        let (stem, suffix) = name.split_at(name.find('.').unwrap_or(name.len()));
        let beside = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let module = !stem.is_empty() && self.is_abi(suffix);
        let in_package = self.exists(&format!("{beside}__init__.py"))
            || self.kit.artefacts.iter().any(|artefact| {
                self::relative(artefact)
                    .map(|a| a.rsplit_once('/').map_or("", |(dir, _)| dir))
                    .is_some_and(|d| d == dir)
            });
        let taken =
            self.exists(&format!("{beside}{stem}.py")) || self.is_dir(&format!("{beside}{stem}/"));
        module && in_package && !taken
    }

    fn is_abi(&self, suffix: &str) -> bool {
        let version = self.environment.meta.interpreter.version;
        let own = format!(".cpython-{}{}", version.major, version.minor);
        let rest = suffix.strip_prefix(&own);
        suffix == ".abi3.so"
            || rest.is_some_and(|rest| {
                rest.ends_with(".so") && !rest.starts_with(|c: char| c.is_ascii_digit())
            })
    }

    fn exists(&self, path: &str) -> bool {
        match self.delta.get(path) {
            Some(entry) => entry.is_some(),
            None => self.environment.files.contains(path),
        }
    }

    fn is_dir(&self, prefix: &str) -> bool {
        let files = self.environment.files.range(prefix.to_owned()..);
        let of_base = files.take_while(|path| path.starts_with(prefix));
        let new = self.delta.range(prefix.to_owned()..);
        let of_delta = new.take_while(|(path, _)| path.starts_with(prefix));
        of_base.into_iter().any(|path| self.exists(path))
            || of_delta.into_iter().any(|(_, e)| e.is_some())
    }
}

/// `pkg/a.c` -> `/testbed/pkg/a.c`.
fn inside(path: &str) -> String {
    format!("{TESTBED}/{path}")
}

fn relative(path: &str) -> Option<&str> {
    path.strip_prefix(TESTBED)?.strip_prefix('/')
}

/// Whether a file is a shared library by its name: `a.so`, `liba.so.1.2`.
pub(crate) fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let unversioned = name.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
    unversioned.len() > ".so".len() && unversioned.ends_with(".so")
}

/// Absolute paths of what the codebase itself installed into site-packages,
/// by the records of its distributions.
pub(crate) fn own_files(tree: &Path, site_packages: &str) -> BTreeSet<String> {
    let root = tree.join(site_packages.trim_start_matches('/'));
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    let own = entries.map(|entry| entry.path()).filter(|dir| {
        let origin = fs::read_to_string(dir.join("direct_url.json")).unwrap_or_default();
        origin.contains(&format!("file://{TESTBED}"))
    });
    own.filter_map(|dir| fs::read_to_string(dir.join("RECORD")).ok())
        .flat_map(|record| {
            let files = record.lines().filter_map(|line| line.split(',').next());
            files
                .map(|file| format!("{site_packages}/{file}"))
                .collect::<Vec<_>>()
        })
        .filter(|path| path.starts_with(VENV))
        .collect()
}

/// Languages that are compiled; also with a template's suffix behind.
const SOURCES: &[&str] = &[
    "asm", "c", "cc", "cpp", "cu", "cuh", "cxx", "f", "f03", "f08", "f77", "f90", "f95", "for",
    "ftn", "go", "h", "hh", "hpp", "hxx", "i", "inc", "inl", "ipp", "m", "mm", "pxd", "pxi", "pyf",
    "pyx", "rs", "s", "swg", "tcc", "tpp", "zig",
];

const TEMPLATES: &[&str] = &["in", "j2", "jinja", "mako", "src", "template", "tmpl", "tp"];

/// Whether a file is a source of something compiled, by its name.
fn is_source(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let mut parts = name.rsplit('.');
    let known = |part: &str| SOURCES.contains(&part);
    match (parts.next(), parts.next()) {
        (Some(last), Some(_)) if known(last) => true,
        (Some(last), Some(before)) => {
            TEMPLATES.contains(&last) && known(before) && parts.next().is_some()
        }
        _ => false,
    }
}

/// Whether a file says how to build, by its name.
fn is_build_file(path: &str) -> bool {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let name = name.to_lowercase();
    let script = dir.is_empty()
        && name.ends_with(".py")
        && (name.starts_with("setup") || name.starts_with("build") || name.starts_with("_build"));
    script
        || name.ends_with(".cmake")
        || matches!(
            name.as_str(),
            "setup.py"
                | "setup.cfg"
                | "pyproject.toml"
                | "meson.build"
                | "meson.options"
                | "meson_options.txt"
                | "cmakelists.txt"
                | "cargo.toml"
                | "cargo.lock"
                | "build.rs"
                | "makefile"
                | "sconstruct"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_build_files_by_name() {
        for (path, source, build) in [
            ("pkg/_c.c", true, false),
            ("pkg/_c.H", true, false),
            ("pkg/hash.pyx", true, false),
            ("pkg/khash.pxi.in", true, false),
            ("pkg/loops.c.src", true, false),
            ("pkg/core.py", false, false),
            ("pkg/c", false, false),
            (".c", true, false),
            ("docs/conf.in", false, false),
            ("setup.py", false, true),
            ("setupext.py", false, true),
            ("pkg/setup.cfg", false, true),
            ("pkg/meson.build", false, true),
            ("pkg/build_tools.py", false, false),
            ("README.rst", false, false),
        ] {
            assert_eq!(
                (is_source(path), is_build_file(path)),
                (source, build),
                "{path}"
            );
        }
    }

    #[test]
    fn libraries_by_name() {
        for (path, library) in [
            ("pkg/_c.cpython-311-x86_64-linux-gnu.so", true),
            ("pkg/_c.so", true),
            ("pkg/libx.so.1.2", true),
            ("pkg/libx.so.py", false),
            ("pkg/.so", false),
            ("pkg/some.py", false),
            ("pkg/a.sources.so", true),
        ] {
            assert_eq!(is_library(path), library, "{path}");
        }
    }
}
