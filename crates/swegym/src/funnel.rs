//! How many candidates reach each stage, and why the others do not.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Counts of stages and of reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funnel {
    /// Stage -> candidates that reached it, in order.
    pub stages: IndexMap<String, usize>,
    /// Reason -> candidates that fell out for it.
    pub reasons: BTreeMap<String, usize>,
}

impl Funnel {
    /// A funnel of these stages, empty.
    pub fn of(stages: &[&str]) -> Self {
        Self {
            stages: stages.iter().map(|s| ((*s).to_owned(), 0)).collect(),
            reasons: BTreeMap::new(),
        }
    }

    /// Counts a candidate that reached a stage, and all before it.
    pub fn reached(&mut self, stage: &str) {
        let last = self
            .stages
            .get_index_of(stage)
            .expect("a stage of this funnel");
        for (_, count) in self.stages.iter_mut().take(last + 1) {
            *count += 1;
        }
    }

    /// Counts a candidate that fell out.
    pub fn fell_out(&mut self, reason: &str) {
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds another funnel of the same stages.
    pub fn add(&mut self, other: &Self) {
        for (stage, count) in &other.stages {
            *self.stages.entry(stage.clone()).or_default() += count;
        }
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
    }
}
