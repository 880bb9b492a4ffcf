//! What the episodes of one instance share: environment, base, history, and
//! how its working tree looks before anyone touches it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use swegym_core::{Bind, Instance, Sandbox, SandboxSpec};

use super::bases::Bases;
use super::patch;
use crate::Error;
use crate::environment::{Environment, Environments};
use crate::home::Home;

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
    bases: Bases,
    ready: Mutex<HashMap<String, Arc<Mutex<Weak<Warm>>>>>,
}

impl WarmUp {
    /// Over an environment store.
    pub fn new(environments: Arc<Environments>, home: &Home) -> Self {
        Self {
            environments,
            bases: Bases::new(home),
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
                let base = self.bases.get(instance, base_patch, &environment)?;
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
}
