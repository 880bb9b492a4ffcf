//! What the episodes of one instance share: environment, base, history, and
//! how its working tree looks before anyone touches it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use swegym_core::{Bind, Instance, Sandbox, SandboxSpec};
use swegym_store::source::single_commit;

use super::patch;
use crate::environment::{Environment, Environments, TESTBED};
use crate::home::Home;
use crate::{Error, codebase, compose, hash};

/// Where the pristine history is in a sandbox, read-only.
pub(super) const HISTORY: &str = "/run/swegym/history";

/// An instance that is ready for episodes.
pub struct Warm {
    /// Its environment.
    pub environment: Environment,
    /// A sandbox with the codebase as the agent is to find it.
    pub spec: SandboxSpec,
    /// Differences of the untouched working tree from its history.
    pub(super) before: String,
}

/// Instances that are ready, as long as an episode of theirs is in flight.
pub struct WarmUp {
    environments: Arc<Environments>,
    home: Home,
    ready: Mutex<HashMap<String, Arc<Mutex<Weak<Warm>>>>>,
}

impl WarmUp {
    /// Over an environment store.
    pub fn new(environments: Arc<Environments>, home: &Home) -> Self {
        Self {
            environments,
            home: home.clone(),
            ready: Mutex::new(HashMap::new()),
        }
    }

    /// Makes an instance ready, once for all who ask.
    ///
    /// # Errors
    /// If its environment cannot be built.
    pub fn get(&self, instance: &Instance, on_step: &dyn Fn(&str)) -> Result<Arc<Warm>, Error> {
        let slot = {
            let mut all = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(instance.instance_id.clone()).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(warm) = slot.upgrade() {
            return Ok(warm);
        }
        let warm = Arc::new(self.warm(instance, on_step)?);
        *slot = Arc::downgrade(&warm);
        Ok(warm)
    }

    /// A sandbox.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        Ok(self.environments.backend().create(spec)?)
    }

    fn warm(&self, instance: &Instance, on_step: &dyn Fn(&str)) -> Result<Warm, Error> {
        let environment = self.environments.get(instance, on_step)?;
        let mut spec = environment.sandbox_spec(true);
        let git = match &instance.base_patch {
            None => environment
                .layers
                .iter()
                .find(|(role, _)| role == "git")
                .map(|(_, tree)| tree.clone()),
            Some(base_patch) => {
                let base = self.base(instance, base_patch, &environment)?;
                spec = environment.sandbox_spec(false);
                spec.layers.insert(0, base.clone());
                Some(base)
            }
        };
        let git = git.ok_or_else(|| Error::bug("an environment without history"))?;
        spec.binds.push(Bind {
            source: git.join("testbed/.git"),
            target: HISTORY.into(),
            readonly: true,
        });
        spec.env
            .insert("PYTHONDONTWRITEBYTECODE".into(), "1".into());
        let mut sandbox = self.environments.backend().create(&spec)?;
        let before = patch::status(&mut *sandbox)?;
        sandbox.close()?;
        Ok(Warm {
            environment,
            spec,
            before,
        })
    }

    /// A layer with what a base patch changes, and a history of one commit
    /// that holds the result: what was changed must not be there to read.
    fn base(
        &self,
        instance: &Instance,
        base_patch: &str,
        environment: &Environment,
    ) -> Result<PathBuf, Error> {
        let key = hash(format!("1 {} {base_patch}", environment.key).as_bytes());
        let dir = self.home.root().join("bases").join(&key[..32]);
        if dir.is_dir() {
            return Ok(dir);
        }
        let scratch = self.home.scratch();
        let parent = dir.parent().unwrap_or(&scratch).to_owned();
        for folder in [&scratch, &parent] {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let temp = tempfile::Builder::new()
            .prefix("base-")
            .tempdir_in(&scratch)
            .map_err(|e| Error::io(&scratch, e))?;
        let source = environment.tree();
        let tree = compose::base_tree(&source, instance)
            .map_err(|e| Error::input(e.to_string(), "the row's `base_patch` is damaged"))?;
        let (whole, layer) = (temp.path().join("whole"), temp.path().join("layer"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |e| Error::io(path, e)
        };
        fs::create_dir_all(&whole).map_err(io(&whole))?;
        codebase::copy_dir(source.root(), &whole)?;
        for (path, entry) in tree.changes() {
            let target = whole.join(path);
            if target.symlink_metadata().is_ok() {
                fs::remove_file(&target).map_err(io(&target))?;
            }
            if entry.is_none() {
                continue;
            }
            let one = [(path.clone(), entry.clone())].into();
            compose::write_layer(&one, &whole, "").map_err(io(&target))?;
        }
        compose::write_layer(tree.changes(), &layer, TESTBED).map_err(io(&layer))?;
        single_commit(&whole, &layer.join("testbed/.git"), "Base")
            .map_err(|e| Error::setup(e.to_string(), ""))?;
        crate::make_traversable(&layer)?;
        match fs::rename(&layer, &dir) {
            // Another process was faster, with the same content.
            Err(_) if dir.is_dir() => Ok(dir),
            Err(e) => Err(Error::io(&dir, e)),
            Ok(()) => Ok(dir),
        }
    }
}
