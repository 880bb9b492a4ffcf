//! What a gold run shows beside its statuses: a later run is held against it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use swegym_core::{Record, RunReport};

/// Flags of the runner that no honest run has unless the gold run has them
/// too: someone interfered with outcomes (docs/design/runner.md).
const TAMPERING: &[&str] = &[
    "body_not_run",
    "exit_disagrees",
    "outcome_changed",
    "uncollected",
];

/// What the runner saw in a run, for comparison with another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs {
    /// Digests of what was collected (ids and test code), one a suite.
    pub digests: Vec<String>,
    /// Names of the runner's flags.
    pub flags: BTreeSet<String>,
}

impl Signs {
    /// The signs of a run.
    pub fn of(report: &RunReport) -> Self {
        let mut signs = Self::default();
        for record in &report.records {
            match record {
                Record::Collect { digest, .. } => signs.digests.push(digest.clone()),
                Record::Flag { name, .. } => _ = signs.flags.insert(name.clone()),
                _ => {}
            }
        }
        signs
    }

    /// Flags of a run that only tampering explains, as these are those of the
    /// gold run.
    pub(crate) fn interference(&self, report: &RunReport) -> Vec<String> {
        let mut named = BTreeSet::new();
        let flags = report.records.iter().filter_map(|record| match record {
            Record::Flag { name, detail } => Some((name, detail)),
            _ => None,
        });
        flags
            .filter(|(name, _)| TAMPERING.contains(&name.as_str()))
            .filter(|(name, _)| !self.flags.contains(*name) && named.insert(*name))
            .map(|(name, detail)| format!("{name}, which the gold run has not: {detail}"))
            .collect()
    }

    /// Whether a run that came to its end collected something else. Ids may
    /// depend on product code, so that is a sign and no proof.
    pub(crate) fn collection_differs(&self, report: &RunReport) -> bool {
        let ended = matches!(report.records.last(), Some(Record::End { .. }));
        let digests = Self::of(report).digests;
        !self.digests.is_empty() && digests != self.digests && (ended || !digests.is_empty())
    }
}
