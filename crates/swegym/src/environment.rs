//! Environments: what a sandbox needs to run the tests of an instance.
//!
//! An environment is a stack of layers of the store, topmost first:
//! `git` (history up to the base commit; left out when grading), `build`
//! (what installing the codebase changed), `source` (the codebase at the base
//! commit), `deps` (the virtual environment), `interpreter`, `base` (folders
//! and settings of the system; `/usr` itself is the host's, read-only).
//! Instances share every layer that is equal. Where installing the codebase
//! compiled something, there is one more, `rebuild` (what building it again
//! without network takes), which no test and no session sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swegym_core::{
    Backend, Bind, Command, Exit, Instance, Limits, Network, Sandbox, SandboxError, SandboxSpec,
    Upper,
};
use swegym_data::patch::DirTree;
use swegym_forge::host::{self, Interpreter, Uv};
use swegym_forge::{
    BuildPlan, Candidate, Framework, Layer, Layout, Mode, REGISTRY_VARIABLES, Recipe, Specs, Step,
};
use swegym_grade::{Parser, UnknownParser, compat};
use swegym_store::{EnvRecord, IngestOptions, Kind, LayerId, LayerRef, Origin, Scratch, Store};
use tempfile::TempDir;

use crate::codebase::{Codebase, Sources};
use crate::home::Home;
use crate::rebuild::{self, Kit};
use crate::{Error, hash};

/// Where the codebase is in a sandbox.
pub const TESTBED: &str = "/testbed";
/// Where its virtual environment is.
pub const VENV: &str = "/opt/venv";

/// Part of every key: a new way to build makes new environments.
const BUILDER_VERSION: u32 = 5;
/// The same for the dependencies alone.
const DEPS_VERSION: u32 = 3;
/// Longest build step.
const STEP_LIMIT: Duration = Duration::from_secs(3600);
/// Lines of a failed step's log that the error shows.
const TAIL: usize = 12;

/// An environment that is in the store.
#[derive(Clone)]
pub struct Environment {
    /// What it is found by.
    pub key: String,
    /// Trees of its layers with their roles, topmost first.
    pub layers: Vec<(String, PathBuf)>,
    /// Files of the codebase at the base commit.
    pub files: BTreeSet<String>,
    /// Top-level modules importable without the codebase.
    pub importable: BTreeSet<String>,
    /// Site-packages of the virtual environment, inside.
    pub site_packages: String,
    /// Command that runs the tests.
    pub test_command: String,
    /// Reads the log of that command.
    pub parser: Result<Parser, UnknownParser>,
    /// Whether the trusted runner knows the framework.
    pub has_runner: bool,
    /// What is remembered of the build.
    pub meta: Meta,
    /// Builds it again, where installing the codebase compiled something.
    pub(crate) kit: Option<Kit>,
    binds: Vec<Bind>,
    /// Whether it was there already.
    pub cached: bool,
}

/// What an environment record remembers of its build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Meta {
    /// The recipe that succeeded.
    pub recipe: Recipe,
    /// What it did differently from the first candidate.
    pub because: String,
    /// The interpreter.
    pub interpreter: Interpreter,
    /// Variables for tests and sessions.
    pub run_env: BTreeMap<String, String>,
    /// Wall time of the build, seconds.
    pub seconds: f64,
    /// Repositories inside the codebase whose content is missing.
    #[serde(default)]
    pub submodules: Vec<String>,
    /// Where packages came from, without passwords: uv's cache is by address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub index: BTreeMap<String, String>,
}

impl Environment {
    /// The codebase at the base commit.
    pub fn tree(&self) -> DirTree {
        let source = self.layers.iter().find(|(role, _)| role == "source");
        DirTree::new(
            source
                .map(|(_, tree)| tree.join("testbed"))
                .unwrap_or_default(),
        )
    }

    /// A sandbox in this environment, without network. Dependencies and
    /// interpreter refuse writes.
    pub fn sandbox_spec(&self, with_git: bool) -> SandboxSpec {
        let layers = self
            .layers
            .iter()
            .filter(|(role, _)| role != REBUILD && (with_git || role != "git"))
            .map(|(_, tree)| tree.clone())
            .collect();
        let mut readonly = vec![PathBuf::from(VENV)];
        if !self.meta.interpreter.prefix.starts_with("/usr") {
            readonly.push(self.meta.interpreter.prefix.clone());
        }
        let mut env = SandboxSpec::default().env;
        env.extend(self.meta.run_env.clone());
        SandboxSpec {
            layers,
            binds: self.binds.clone(),
            readonly,
            workdir: TESTBED.into(),
            env,
            ..SandboxSpec::default()
        }
    }

    /// A sandbox in which the codebase can be built again as it was the first
    /// time: over the dependencies, without network, and without what the
    /// first build left.
    pub(crate) fn rebuild_spec(&self) -> SandboxSpec {
        let shown = |role: &str| role != "git" && role != "build";
        let layers = self.layers.iter().filter(|(role, _)| shown(role));
        let mut binds = self.binds.clone();
        // What old setuptools fetched for the build.
        let build = self.layers.iter().find(|(role, _)| role == "build");
        let eggs = build.map(|(_, tree)| tree.join("testbed/.eggs"));
        binds.extend(eggs.filter(|dir| dir.is_dir()).map(|source| Bind {
            source,
            target: format!("{TESTBED}/.eggs").into(),
            readonly: true,
        }));
        SandboxSpec {
            layers: layers.map(|(_, tree)| tree.clone()).collect(),
            binds,
            workdir: TESTBED.into(),
            ..SandboxSpec::default()
        }
    }
}

/// Builds environments and finds those that exist.
pub struct Environments {
    home: Home,
    store: Store,
    backend: Arc<dyn Backend>,
    sources: Sources,
    specs: Specs,
    mode: Mode,
    binds: Vec<Bind>,
    interpreters: Mutex<Vec<Interpreter>>,
    uv: Mutex<Option<Uv>>,
}

impl Environments {
    /// Opens the store of a home.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(home: &Home, backend: Arc<dyn Backend>, mode: Mode) -> Result<Self, Error> {
        let specs = Specs::embedded().map_err(Error::bug)?;
        let overrides = home.root().join("specs");
        let specs = if overrides.is_dir() {
            specs
                .overridden_by(&overrides)
                .map_err(|e| Error::input(e.to_string(), ""))?
        } else {
            specs
        };
        Ok(Self {
            home: home.clone(),
            store: Store::open(home.store())?,
            backend,
            sources: Sources::from_env(home),
            specs,
            mode,
            binds: host_base()?.1,
            interpreters: Mutex::new(Vec::new()),
            uv: Mutex::new(None),
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes the sandboxes.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The same, for those who outlive a borrow.
    pub fn shared_backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    /// The environment of an instance, built if it is not there. `on_step`
    /// hears what is being done.
    ///
    /// # Errors
    /// [`Error::Build`] if a step fails; its log is kept.
    pub fn get(&self, instance: &Instance, on_step: &dyn Fn(&str)) -> Result<Environment, Error> {
        let key = self.key(instance)?;
        if let Some(found) = self.find(&key, instance)? {
            return Ok(found);
        }
        on_step("waiting for a build of the same environment");
        let _guard = self.store.lock_key(&key)?;
        if let Some(found) = self.find(&key, instance)? {
            return Ok(found);
        }
        let mut codebase = instance.clone();
        if codebase.base_patch.is_some() {
            codebase.test_patch.clear();
            codebase.test_command = None;
        }
        let record = Build::new(self, &codebase, &key)?.run(on_step)?;
        self.store.put_env(&record)?;
        self.load(record, instance, false)
    }

    /// The environment of an instance, if it is in the store.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn peek(&self, instance: &Instance) -> Result<Option<Environment>, Error> {
        self.find(&self.key(instance)?, instance)
    }

    /// The environment of a key, or of an instance by its name.
    ///
    /// # Errors
    /// If there is none, or the store is damaged.
    pub fn by_name(&self, name: &str) -> Result<Environment, Error> {
        for key in self.store.env_keys()? {
            let Some(record) = self.store.get_env(&key)? else {
                continue;
            };
            if key == name || record.instance_ids.iter().any(|id| id == name) {
                let instance = Instance {
                    instance_id: name.to_owned(),
                    ..Instance::default()
                };
                return self.load(record, &instance, true);
            }
        }
        Err(Error::input(
            format!("no environment of {name:?}"),
            "`swegym env list` prints what there is, `swegym env build` makes them",
        ))
    }

    fn find(&self, key: &str, instance: &Instance) -> Result<Option<Environment>, Error> {
        match self.store.get_env(key)? {
            Some(record) => self.load(record, instance, true).map(Some),
            None => Ok(None),
        }
    }

    /// Everything a build depends on.
    ///
    /// With a `base_patch` the environment is that of the codebase without
    /// it: what tests there are, and which of them are run, is the task's.
    fn key(&self, instance: &Instance) -> Result<String, Error> {
        let own_tests = instance.base_patch.is_none();
        let parts = (
            BUILDER_VERSION,
            self.sources.identity(instance)?,
            &instance.environment,
            &instance.install_config,
            &instance.version,
            &instance.repo,
            &instance.created_at,
            format!("{:?}", self.mode),
            std::env::consts::ARCH,
            if own_tests { &instance.test_patch } else { "" },
            instance.test_command.as_ref().filter(|_| own_tests),
            self.specs.fingerprint(
                &instance.repo,
                instance.version.as_deref().unwrap_or_default(),
            ),
        );
        Ok(hash(&serde_json::to_vec(&parts).expect("plain data"))[..32].to_owned())
    }

    fn load(
        &self,
        record: EnvRecord,
        instance: &Instance,
        cached: bool,
    ) -> Result<Environment, Error> {
        let meta: Meta =
            serde_json::from_value(Value::Object(record.meta.clone())).map_err(|e| {
                Error::setup(
                    format!("environment {}: {e}", record.key),
                    "`swegym env verify --repair`, then build again",
                )
            })?;
        let mut files = BTreeSet::new();
        let mut importable = BTreeSet::new();
        let site_packages = site_packages(&meta.interpreter);
        for layer in &record.layers {
            match layer.role.as_str() {
                "source" => files = self.files_below(&layer.id, TESTBED)?,
                "deps" => importable.extend(self.modules(&layer.id, &site_packages)?),
                "interpreter" => {
                    importable.extend(self.modules(&layer.id, &stdlib(&meta.interpreter))?);
                }
                _ => {}
            }
        }
        if meta.interpreter.prefix.starts_with("/usr") {
            importable.extend(host_modules(Path::new(&stdlib(&meta.interpreter))));
        }
        let layers: Vec<(String, PathBuf)> = record
            .layers
            .iter()
            .map(|layer| Ok((layer.role.clone(), self.store.layer_tree(&layer.id)?)))
            .collect::<Result<_, Error>>()?;
        let role = |role: &str| record.layers.iter().find(|layer| layer.role == role);
        let kit = match (role(REBUILD), role("build")) {
            (Some(_), Some(build)) => Some(Kit {
                store: self.store.clone(),
                home: self.home.clone(),
                artefacts: self.artefacts(&build.id, &site_packages)?,
            }),
            _ => None,
        };
        let parser = match &meta.recipe.log_parser {
            Some(name) if instance.log_parser.is_none() => {
                swegym_grade::parser(name).ok_or_else(|| UnknownParser(name.clone()))
            }
            _ => compat::Task::of(instance).map(|task| task.parser),
        };
        // Tasks that share an environment each choose their tests.
        let test_command = match (&instance.base_patch, &instance.test_command) {
            (Some(_), Some(command)) => command.clone(),
            _ => meta.recipe.test_command.clone(),
        };
        Ok(Environment {
            key: record.key,
            layers,
            files,
            importable,
            site_packages,
            test_command,
            parser: parser.or_else(|e| by_framework(meta.recipe.framework).ok_or(e)),
            has_runner: meta.recipe.framework != Framework::Other,
            meta,
            kit,
            binds: self.binds.clone(),
            cached,
        })
    }

    fn files_below(&self, layer: &LayerId, dir: &str) -> Result<BTreeSet<String>, Error> {
        let prefix = format!("{}/", dir.trim_matches('/')).into_bytes();
        let manifest = self.store.manifest(layer)?;
        Ok(manifest
            .entries
            .iter()
            .filter(|(_, kind)| matches!(kind, Kind::File { .. } | Kind::Link { .. }))
            .filter_map(|(path, _)| path.strip_prefix(prefix.as_slice()))
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect())
    }

    /// What installing the codebase compiled: the shared libraries of a build
    /// layer, without those of packages that came along.
    fn artefacts(&self, build: &LayerId, site_packages: &str) -> Result<BTreeSet<String>, Error> {
        let manifest = self.store.manifest(build)?;
        let libraries: BTreeSet<String> = manifest
            .entries
            .iter()
            .filter(|(_, kind)| matches!(kind, Kind::File { .. }))
            .filter_map(|(path, _)| std::str::from_utf8(path).ok())
            .filter(|path| rebuild::is_library(path))
            .map(|path| format!("/{path}"))
            .collect();
        if libraries.is_empty() {
            return Ok(libraries);
        }
        let own = rebuild::own_files(&self.store.layer_tree(build)?, site_packages);
        let testbed = format!("{TESTBED}/");
        let mine = libraries.into_iter();
        Ok(mine
            .filter(|path| path.starts_with(&testbed) || own.contains(path))
            .collect())
    }

    /// Modules that lie directly in a folder of a layer, or in its
    /// `lib-dynload`.
    fn modules(&self, layer: &LayerId, dir: &str) -> Result<BTreeSet<String>, Error> {
        let files = self.files_below(layer, dir)?;
        let inside = files
            .iter()
            .map(|f| f.strip_prefix("lib-dynload/").unwrap_or(f));
        Ok(inside.filter_map(importable_module).collect())
    }

    fn interpreter(&self, recipe: &Recipe) -> Result<Interpreter, Error> {
        let mut known = self
            .interpreters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            *known = host::discover();
        }
        if let Ok(found) = host::choose(recipe.python, &known) {
            return Ok(found.clone());
        }
        let uv = self.uv(&known)?;
        let wanted = recipe.python.to_string();
        let fetched = std::process::Command::new(&uv.path)
            .args(["python", "install", "--quiet", &wanted])
            .output();
        if fetched.is_ok_and(|o| o.status.success()) {
            *known = host::discover();
        }
        host::choose(recipe.python, &known)
            .cloned()
            .map_err(|e| Error::setup(e.to_string(), ""))
    }

    fn all_interpreters(&self) -> Vec<Interpreter> {
        let mut known = self
            .interpreters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            *known = host::discover();
        }
        known.clone()
    }

    fn uv(&self, interpreters: &[Interpreter]) -> Result<Uv, Error> {
        let mut uv = self.uv.lock().unwrap_or_else(PoisonError::into_inner);
        if uv.is_none() {
            let found = Uv::find_or_install(&self.home.tools(), interpreters);
            *uv = Some(found.map_err(|e| Error::setup(e.to_string(), ""))?);
        }
        Ok(uv.clone().expect("just set"))
    }

    /// A layer that is remembered by name, made if it is not there.
    fn named_layer(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<LayerId, Error>,
    ) -> Result<LayerId, Error> {
        let made = named_layer(&self.home, &self.store, name, || make().map(Ok::<_, ()>))?;
        Ok(made.expect("it is made or an error"))
    }
}

/// A layer that is remembered by name, made if it is not there. Where making
/// it fails in a way that is an answer, nothing is remembered.
pub(crate) fn named_layer<E>(
    home: &Home,
    store: &Store,
    name: &str,
    make: impl FnOnce() -> Result<Result<LayerId, E>, Error>,
) -> Result<Result<LayerId, E>, Error> {
    let path = home.root().join("layers").join(name);
    let known = || {
        let id: LayerId = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        store.manifest(&id).is_ok().then_some(id)
    };
    if let Some(id) = known() {
        return Ok(Ok(id));
    }
    let _guard = store.lock_key(name)?;
    if let Some(id) = known() {
        return Ok(Ok(id));
    }
    let made = make()?;
    if let Ok(id) = &made {
        swegym_data::atomic::write(&path, id.as_str().as_bytes())?;
    }
    Ok(made)
}

/// One build of one environment.
struct Build<'a> {
    all: &'a Environments,
    instance: &'a Instance,
    key: &'a str,
    scratch: Scratch,
    log: Mutex<fs::File>,
    log_path: PathBuf,
    started: Instant,
}

impl<'a> Build<'a> {
    fn new(all: &'a Environments, instance: &'a Instance, key: &'a str) -> Result<Self, Error> {
        let dir = all.home.logs();
        fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        let log_path = dir.join(format!(
            "build-{}-{}.log",
            file_name(&instance.instance_id),
            &key[..8]
        ));
        let log = fs::File::create(&log_path).map_err(|e| Error::io(&log_path, e))?;
        Ok(Self {
            all,
            instance,
            key,
            scratch: all.store.scratch()?,
            log: Mutex::new(log),
            log_path,
            started: Instant::now(),
        })
    }

    fn run(&self, on_step: &dyn Fn(&str)) -> Result<EnvRecord, Error> {
        on_step("codebase");
        let tree = self.scratch.path().join("codebase");
        let codebase = self.all.sources.export(self.instance, &tree)?;
        let view = swegym_forge::DirTree::open(&tree)
            .map_err(Error::bug)?
            .dated(codebase.date)
            .described(codebase.describe());
        let available = self.all.all_interpreters();
        let candidates = swegym_forge::recipes_for(
            self.instance,
            &view,
            self.all.mode,
            &self.all.specs,
            &available,
        )
        .map_err(|e| {
            Error::input(
                e.to_string(),
                "give the row an `environment`, or add a spec",
            )
        })?;

        let source = self.ingest(&tree, TESTBED, Origin::Tree)?;
        let git_dir = self.scratch.path().join("git");
        codebase.history(&tree, &git_dir)?;
        let git = self.ingest(&git_dir, "/testbed/.git", Origin::Tree)?;

        let mut failure = None;
        for candidate in &candidates {
            self.note(&format!("## recipe: {}", candidate.because));
            match self.with_recipe(candidate, &source, on_step) {
                Ok(layers) => {
                    let mut all = vec![layer("git", &git)];
                    all.extend(layers);
                    return self.record(candidate, all, &codebase);
                }
                // The next recipe would fail for the same reason.
                Err(e @ (Error::Setup { .. } | Error::Io { .. } | Error::Sandbox(_))) => {
                    return Err(e);
                }
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        Err(failure.expect("there is at least one candidate"))
    }

    fn record(
        &self,
        candidate: &Candidate,
        layers: Vec<LayerRef>,
        codebase: &Codebase,
    ) -> Result<EnvRecord, Error> {
        let recipe = &candidate.recipe;
        let interpreter = self.all.interpreter(recipe)?;
        let plan = BuildPlan::new(recipe, &interpreter, &Layout::default());
        let index = if layers.iter().any(|layer| layer.role == REBUILD) {
            index_variables()
        } else {
            BTreeMap::new()
        };
        let meta = Meta {
            recipe: recipe.clone(),
            because: candidate.because.clone(),
            interpreter,
            run_env: plan.run_env,
            seconds: self.started.elapsed().as_secs_f64(),
            submodules: codebase
                .submodules
                .iter()
                .map(|s| s.path.display().to_string())
                .collect(),
            index,
        };
        let Value::Object(meta) = serde_json::to_value(meta).expect("plain data") else {
            unreachable!("a struct is an object")
        };
        Ok(EnvRecord {
            key: self.key.to_owned(),
            instance_ids: vec![self.instance.instance_id.clone()],
            layers,
            meta: Map::from_iter(meta),
        })
    }

    fn with_recipe(
        &self,
        candidate: &Candidate,
        source: &LayerId,
        on_step: &dyn Fn(&str),
    ) -> Result<Vec<LayerRef>, Error> {
        let recipe = &candidate.recipe;
        let interpreter = self.all.interpreter(recipe)?;
        let uv = self.all.uv(std::slice::from_ref(&interpreter))?;
        let plan = BuildPlan::new(recipe, &interpreter, &Layout::default());

        let mut below = Vec::new();
        if !interpreter.prefix.starts_with("/usr") {
            on_step("interpreter");
            below.push(layer("interpreter", &self.interpreter_layer(&interpreter)?));
        }
        below.push(layer("base", &self.base_layer()?));

        let key = hash(
            format!(
                "{} {below:?} {} {DEPS_VERSION}",
                recipe.dependency_key(),
                uv.version
            )
            .as_bytes(),
        );
        let deps = self.all.named_layer(&format!("deps-{}", &key[..32]), || {
            let steps = plan.steps.iter().filter(|s| s.layer == Layer::Deps);
            let upper = self.steps(steps, &below, &uv, on_step)?;
            let origin = Origin::OverlayUpper { below: ids(&below) };
            self.ingest(&upper.join(VENV.trim_start_matches('/')), VENV, origin)
        })?;
        below.insert(0, layer("deps", &deps));
        below.insert(0, layer("source", source));

        let steps: Vec<&Step> = plan
            .steps
            .iter()
            .filter(|s| s.layer == Layer::Code)
            .collect();
        if !steps.is_empty() {
            let upper = self.steps(steps.into_iter(), &below, &uv, on_step)?;
            let origin = Origin::OverlayUpper { below: ids(&below) };
            let kept = self.scratch.fresh();
            let tools = upper.join("opt/swegym");
            fs::rename(&tools, &kept).map_err(|e| Error::io(&tools, e))?;
            let build = self.all.store.ingest(
                &upper,
                &IngestOptions {
                    exclude: BUILD_EXCLUDES.iter().map(|&p| p.to_owned()).collect(),
                    origin,
                    consume: true,
                    ..IngestOptions::default()
                },
            )?;
            let compiled = self
                .all
                .artefacts(&build.id, &site_packages(&interpreter))?;
            if !compiled.is_empty() {
                below.insert(0, layer(REBUILD, &self.rebuild_layer(&kept, &uv)?));
            }
            below.insert(0, layer("build", &build.id));
        }
        Ok(below)
    }

    /// What building the codebase again takes: uv, and what its cache holds
    /// of the first build's requirements.
    fn rebuild_layer(&self, kept: &Path, uv: &Uv) -> Result<LayerId, Error> {
        let program = kept.join("uv");
        fs::copy(&uv.path, &program).map_err(|e| Error::io(&program, e))?;
        let options = IngestOptions {
            prefix: "/opt/swegym".into(),
            // What was made of the base itself must be made anew.
            exclude: ["uv-cache/sdists-*/{editable,path}", "uv-cache/builds-*"]
                .map(str::to_owned)
                .into(),
            consume: true,
            ..IngestOptions::default()
        };
        Ok(self.all.store.ingest(kept, &options)?.id)
    }

    /// Runs steps in one sandbox; returns the folder with what they changed.
    fn steps<'s>(
        &self,
        steps: impl Iterator<Item = &'s Step>,
        below: &[LayerRef],
        uv: &Uv,
        on_step: &dyn Fn(&str),
    ) -> Result<PathBuf, Error> {
        let upper = self.scratch.fresh();
        fs::create_dir(&upper).map_err(|e| Error::io(&upper, e))?;
        let mut sandbox = self
            .all
            .backend
            .create(&self.build_spec(below, uv, &upper)?)?;
        for step in steps {
            on_step(step.name.as_str());
            self.step(&mut *sandbox, step)?;
        }
        sandbox.close()?;
        Ok(upper)
    }

    fn build_spec(&self, below: &[LayerRef], uv: &Uv, upper: &Path) -> Result<SandboxSpec, Error> {
        let layers = below
            .iter()
            .map(|layer| self.all.store.layer_tree(&layer.id))
            .collect::<Result<_, _>>()?;
        let mut binds = self.all.binds.clone();
        binds.push(Bind {
            source: uv.path.clone(),
            target: Layout::default().uv,
            readonly: true,
        });
        binds.extend(network_binds());
        Ok(SandboxSpec {
            layers,
            binds,
            network: Network::Host,
            upper: Upper::Directory(upper.to_owned()),
            limits: Limits {
                memory: Some(8 << 30),
                processes: Some(2048),
                disk: Some(16 << 30),
                wall: Some(STEP_LIMIT),
                ..Limits::default()
            },
            ..SandboxSpec::default()
        })
    }

    fn step(&self, sandbox: &mut dyn Sandbox, step: &Step) -> Result<(), Error> {
        let mut command = Command::shell(step.script.clone())
            .timeout(STEP_LIMIT)
            .cwd(&step.cwd);
        command.env = step.env.clone();
        if step.network {
            command.env.extend(registry_variables());
        }
        command.merge_stderr = true;
        let output = sandbox.exec(&command)?;
        let text = output.stdout.text();
        self.note(&format!(
            "# {} ({:.1} s, {:?})\n{}\n--\n{text}",
            step.name.as_str(),
            output.seconds,
            output.exit,
            step.script
        ));
        match output.exit {
            Exit::Code(0) => Ok(()),
            exit => Err(self.failed(step.name.as_str(), exit, &text)),
        }
    }

    fn failed(&self, step: &str, exit: Exit, text: &str) -> Error {
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        let how = match exit {
            Exit::Code(code) => format!("exit status {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
            Exit::TimedOut => format!("took over {} s", STEP_LIMIT.as_secs()),
            Exit::OutOfMemory => "out of memory".into(),
        };
        Error::Build {
            instance: self.instance.instance_id.clone(),
            step: step.to_owned(),
            what: format!("{how}\n  {tail}"),
            log: Some(self.log_path.clone()),
        }
    }

    fn interpreter_layer(&self, interpreter: &Interpreter) -> Result<LayerId, Error> {
        let prefix = &interpreter.prefix;
        let stamp = fs::metadata(&interpreter.executable).and_then(|m| m.modified());
        let name =
            hash(format!("{} {} {stamp:?}", prefix.display(), interpreter.version).as_bytes());
        self.all
            .named_layer(&format!("interpreter-{}", &name[..32]), || {
                let options = IngestOptions {
                    prefix: prefix.clone(),
                    exclude: swegym_store::interpreter_excludes(),
                    keep: swegym_store::interpreter_keeps(),
                    ..IngestOptions::default()
                };
                Ok(self.all.store.ingest(prefix, &options)?.id)
            })
    }

    fn base_layer(&self) -> Result<LayerId, Error> {
        let (skeleton, _) = host_base()?;
        self.ingest(skeleton.path(), "", Origin::Tree)
    }

    fn ingest(&self, dir: &Path, prefix: &str, origin: Origin) -> Result<LayerId, Error> {
        let options = IngestOptions {
            prefix: prefix.into(),
            origin,
            ..IngestOptions::default()
        };
        Ok(self.all.store.ingest(dir, &options)?.id)
    }

    fn note(&self, text: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // The log is a courtesy: a full disk shows elsewhere.
        let _ = writeln!(log, "{text}");
    }
}

/// Role of the layer with what a rebuild takes.
const REBUILD: &str = "rebuild";

/// What a build writes that is no part of the environment.
const BUILD_EXCLUDES: &[&str] = &[
    "dev",
    "etc",
    "home",
    "opt/swegym",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "var",
    "testbed/**/__pycache__",
    "testbed/.git",
];

fn layer(role: &str, id: &LayerId) -> LayerRef {
    LayerRef {
        role: role.to_owned(),
        id: id.clone(),
    }
}

fn ids(layers: &[LayerRef]) -> Vec<LayerId> {
    layers.iter().map(|l| l.id.clone()).collect()
}

/// The system part of every sandbox, made from this machine: a folder with
/// its skeleton, and what of the host is shown.
fn host_base() -> Result<(TempDir, Vec<Bind>), Error> {
    let dir =
        TempDir::with_prefix("swegym-base-").map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let base =
        swegym_sandbox::host_base(dir.path(), false).map_err(|e| Error::io(dir.path(), e))?;
    Ok((dir, base.binds))
}

/// Files of the host that name resolution and certificates need in a build.
fn network_binds() -> Vec<Bind> {
    let certificate = registry_variables()
        .remove("SSL_CERT_FILE")
        .map(PathBuf::from);
    let files = ["/etc/resolv.conf", "/etc/hosts"].map(PathBuf::from);
    files
        .into_iter()
        .chain(certificate)
        .filter(|path| path.exists() && !path.starts_with("/usr"))
        .map(|path| Bind {
            source: path.canonicalize().unwrap_or_else(|_| path.clone()),
            target: path,
            readonly: true,
        })
        .collect()
}

/// Settings of the user about the package registry. pip's certificate serves
/// uv too.
fn registry_variables() -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = REGISTRY_VARIABLES
        .iter()
        .filter_map(|&name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect();
    if let Some(certificate) = found.get("PIP_CERT").cloned() {
        found.entry("SSL_CERT_FILE".into()).or_insert(certificate);
    }
    found
}

/// Addresses of the package registry, without names and passwords.
fn index_variables() -> BTreeMap<String, String> {
    let set = registry_variables().into_iter();
    set.filter(|(name, _)| name.starts_with("UV_") && name.contains("INDEX"))
        .map(|(name, value)| {
            let urls = value.split_whitespace().map(without_user);
            (name, urls.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// `https://user:word@host/simple` -> `https://host/simple`.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

fn site_packages(interpreter: &Interpreter) -> String {
    let v = interpreter.version;
    format!("{VENV}/lib/python{}.{}/site-packages", v.major, v.minor)
}

fn stdlib(interpreter: &Interpreter) -> String {
    let v = interpreter.version;
    format!(
        "{}/lib/python{}.{}",
        interpreter.prefix.display(),
        v.major,
        v.minor
    )
}

/// The module that a file of an import folder makes importable.
fn importable_module(path: &str) -> Option<String> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let name = first.split('.').next().filter(|n| !n.is_empty())?;
    let module = if rest.is_empty() {
        [".py", ".so", ".pyc"]
            .iter()
            .any(|ext| first.ends_with(ext))
    } else {
        !first.contains('.') && first != "__pycache__"
    };
    module.then(|| name.to_owned())
}

fn host_modules(dir: &Path) -> BTreeSet<String> {
    let dirs = [dir.to_owned(), dir.join("lib-dynload")];
    let entries = dirs
        .iter()
        .filter_map(|d| fs::read_dir(d).ok())
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let inside = if entry.path().is_dir() { "/x.py" } else { "" };
            importable_module(&format!("{name}{inside}"))
        })
        .collect()
}

/// A parser for frameworks whose output is the same everywhere.
fn by_framework(framework: Framework) -> Option<Parser> {
    swegym_grade::parser(match framework {
        // Full ids: those that end at a space collide.
        Framework::Pytest => "parse_log_pytest_v2",
        Framework::Unittest | Framework::Django => "parse_log_django",
        Framework::Sympy => "parse_log_sympy",
        Framework::Other => return None,
    })
}

pub(crate) fn file_name(id: &str) -> String {
    id.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

impl From<swegym_store::StoreError> for Error {
    fn from(error: swegym_store::StoreError) -> Self {
        Self::setup(
            error.to_string(),
            "`swegym env verify --repair` checks the store",
        )
    }
}

impl From<swegym_data::DataError> for Error {
    fn from(error: swegym_data::DataError) -> Self {
        Self::input(error.to_string(), "")
    }
}

/// Whether the sandbox could not start because this machine lacks something.
pub fn is_unavailable(error: &Error) -> bool {
    matches!(error, Error::Sandbox(SandboxError::Unavailable { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_names_and_passwords_only() {
        for (url, want) in [
            ("https://host/simple", "https://host/simple"),
            ("https://me:pw@host:8/simple", "https://host:8/simple"),
            ("own=https://me@host", "own=https://host"),
            ("https://host/a@b", "https://host/a@b"),
            ("/wheels", "/wheels"),
        ] {
            assert_eq!(without_user(url), want);
        }
    }
}
