//! What a training side knows of the side held out.

use std::collections::HashSet;

use serde::Serialize;
use swegym_core::Instance;

use super::near::{self, NearIndex, Sketch};
use super::project;
use crate::patch::Patch;

/// What both sides have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakKind {
    /// The project.
    Repository,
    /// A nearly identical solution.
    Patch,
    /// Nearly identical hidden tests.
    Tests,
    /// A nearly identical function.
    Function,
}

/// An instance of the training side, and what it shares with the other side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leak {
    /// The instance.
    pub instance_id: String,
    /// The instance held out, or the project.
    pub held_out: String,
    /// What they share.
    pub what: LeakKind,
    /// How similar it is, up to 1.
    pub similarity: f64,
}

/// Finds leaks: first everything that is held out goes in, then the rest is
/// checked. Memory grows with the side held out only, by some hundred bytes a
/// patch or function.
#[derive(Debug)]
pub struct Leaks {
    projects: HashSet<String>,
    ids: Vec<String>,
    patches: NearIndex,
    tests: NearIndex,
    functions: NearIndex,
}

/// Functions with fewer tokens are alike by chance.
const FUNCTION_TOKENS: usize = 40;

impl Leaks {
    /// With the similarity from which on texts count as the same; see
    /// [`super::DEFAULT_THRESHOLD`].
    pub fn new(threshold: f64) -> Self {
        Self {
            projects: HashSet::new(),
            ids: Vec::new(),
            patches: NearIndex::new(threshold),
            tests: NearIndex::new(threshold),
            functions: NearIndex::new(threshold),
        }
    }

    /// Takes in an instance that is held out. `functions` are whole functions
    /// of its codebase that matter, such as those that its solution changes;
    /// what its patch shows of functions is taken in any case.
    pub fn hold_out(&mut self, instance: &Instance, functions: &[&str]) {
        let owner = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        self.ids.push(instance.instance_id.clone());
        self.projects.insert(project(&instance.repo));
        let sketches = Sketches::of(instance, functions);
        self.patches.insert(owner, sketches.patch);
        self.tests.insert(owner, sketches.tests);
        for function in sketches.functions {
            self.functions.insert(owner, function);
        }
    }

    /// What an instance of the training side shares with the side held out;
    /// at most one finding of each kind.
    pub fn check(&self, instance: &Instance, functions: &[&str]) -> Vec<Leak> {
        let mut leaks = Vec::new();
        let mut add = |what, held_out: &str, similarity| {
            leaks.push(Leak {
                instance_id: instance.instance_id.clone(),
                held_out: held_out.to_owned(),
                what,
                similarity,
            });
        };
        let project = project(&instance.repo);
        if self.projects.contains(&project) {
            add(LeakKind::Repository, &project, 1.0);
        }
        let sketches = Sketches::of(instance, functions);
        let mut near = |what, found: Option<(u32, f64)>| {
            if let Some((owner, similarity)) = found {
                let id = self.ids.get(owner as usize).map_or("", String::as_str);
                add(what, id, similarity);
            }
        };
        near(LeakKind::Patch, self.patches.find(&sketches.patch));
        near(LeakKind::Tests, self.tests.find(&sketches.tests));
        let function = sketches
            .functions
            .iter()
            .find_map(|f| self.functions.find(f));
        near(LeakKind::Function, function);
        leaks
    }
}

struct Sketches {
    patch: Sketch,
    tests: Sketch,
    functions: Vec<Sketch>,
}

impl Sketches {
    fn of(instance: &Instance, functions: &[&str]) -> Self {
        let parse = |text: &str| Patch::parse(text.as_bytes()).unwrap_or_default();
        let patch = parse(&instance.patch);
        let mut all = near::functions(&patch);
        all.extend(functions.iter().map(|f| Sketch::of_code(f)));
        all.retain(|f| f.tokens() >= FUNCTION_TOKENS);
        Self {
            patch: Sketch::of_patch(&patch),
            tests: Sketch::of_patch(&parse(&instance.test_patch)),
            functions: all,
        }
    }
}
