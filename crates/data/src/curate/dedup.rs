//! Tasks that are the same task again.

use std::collections::HashMap;

use serde::Serialize;
use swegym_core::Instance;

use super::near::{NearIndex, Sketch};
use super::project;
use crate::functions;
use crate::patch::Patch;

/// Which tasks count as the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DedupRules {
    /// Nearly identical solutions, from this similarity on; none for equal
    /// ones only.
    pub near: Option<f64>,
    /// The same failing tests and the same functions of the same files, in one
    /// project at one version.
    pub same_tests: bool,
}

impl Default for DedupRules {
    /// Equal solutions, and the same tests of the same functions.
    fn default() -> Self {
        Self {
            near: None,
            same_tests: true,
        }
    }
}

/// Why a task is the same as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SameBecause {
    /// The same name.
    Id,
    /// The same solution but for white space and comments.
    Patch,
    /// A nearly identical solution.
    NearPatch,
    /// The same failing tests of the same functions.
    Tests,
}

/// A task that was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// The task that was first.
    pub of: String,
    /// What is the same.
    pub because: SameBecause,
}

/// Finds duplicates in a stream of tasks. Remembers names and hashes.
#[derive(Debug)]
pub struct Dedup {
    rules: DedupRules,
    ids: Vec<String>,
    by_id: HashMap<u64, u32>,
    by_patch: HashMap<u64, u32>,
    by_tests: HashMap<u64, u32>,
    near: NearIndex,
}

impl Dedup {
    /// With these rules.
    pub fn new(rules: DedupRules) -> Self {
        Self {
            rules,
            ids: Vec::new(),
            by_id: HashMap::new(),
            by_patch: HashMap::new(),
            by_tests: HashMap::new(),
            near: NearIndex::new(rules.near.unwrap_or(1.0)),
        }
    }

    /// The task that this one repeats; if there is none, it is remembered.
    pub fn check(&mut self, instance: &Instance) -> Option<Duplicate> {
        let id = key(&[&instance.instance_id]);
        let patch = Patch::parse(instance.patch.as_bytes()).unwrap_or_default();
        let sketch = Sketch::of_patch(&patch);
        // What does not parse, or has no lines, is told apart by its text.
        let solution = match sketch.is_empty() {
            true => key(&[instance.patch.trim()]),
            false => key(&[&project(&instance.repo), &sketch.exact().to_string()]),
        };
        let tests = self.rules.same_tests.then(|| tests_key(instance, &patch));
        let tests = tests.flatten();
        let near = self.rules.near.and_then(|_| self.near.find(&sketch));
        let known =
            |map: &HashMap<u64, u32>, key: u64, because| map.get(&key).map(|at| (*at, because));
        let found = known(&self.by_id, id, SameBecause::Id)
            .or_else(|| known(&self.by_patch, solution, SameBecause::Patch))
            .or_else(|| near.map(|(at, _)| (at, SameBecause::NearPatch)))
            .or_else(|| known(&self.by_tests, tests?, SameBecause::Tests));
        if let Some((at, because)) = found {
            let of = self.ids.get(at as usize).cloned().unwrap_or_default();
            return Some(Duplicate { of, because });
        }
        let at = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        self.ids.push(instance.instance_id.clone());
        self.by_id.insert(id, at);
        self.by_patch.insert(solution, at);
        if let Some(tests) = tests {
            self.by_tests.insert(tests, at);
        }
        if self.rules.near.is_some() {
            self.near.insert(at, sketch);
        }
        None
    }
}

/// What fails, where, in which state of which project; none without tests.
fn tests_key(instance: &Instance, patch: &Patch) -> Option<u64> {
    if instance.fail_to_pass.is_empty() || patch.files.is_empty() {
        return None;
    }
    let mut tests: Vec<&str> = instance.fail_to_pass.iter().map(String::as_str).collect();
    tests.sort_unstable();
    tests.dedup();
    let version = instance.version.as_deref().unwrap_or_default();
    let mut parts = vec![project(&instance.repo), version.to_owned()];
    parts.extend(functions::names(patch));
    parts.push(String::new());
    parts.extend(tests.into_iter().map(str::to_owned));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Some(key(&parts))
}

fn key(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let bytes = hasher.finalize();
    let first = bytes.as_bytes().first_chunk().expect("32 bytes");
    u64::from_le_bytes(*first)
}
