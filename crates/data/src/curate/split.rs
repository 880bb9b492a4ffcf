//! A split into training and test by repository.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use swegym_core::Instance;

/// What a codebase is called, whoever owns it: forks, mirrors and releases of
/// one project go to the same side. `owner/name` -> `name`; SWE-smith's
/// `swesmith/owner__name.commit` -> `name`; lower case, `_` and `.` as `-`.
pub fn project(repo: &str) -> String {
    let name = repo.rsplit('/').next().unwrap_or(repo);
    let name = match name.split_once("__") {
        Some((_, name)) => match name.rsplit_once('.') {
            Some((name, commit)) if commit.len() == 8 && is_hex(commit) => name,
            _ => name,
        },
        None => name,
    };
    let name = name.trim_end_matches(".git").to_lowercase();
    name.replace(['_', '.'], "-")
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A side of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitSide {
    /// For training.
    Train,
    /// Held out.
    Test,
}

/// Counts instances per project, and then splits.
#[derive(Debug, Clone, Default)]
pub struct RepoSplitter {
    counts: BTreeMap<String, usize>,
}

impl RepoSplitter {
    /// Takes an instance in.
    pub fn add(&mut self, instance: &Instance) {
        *self.counts.entry(project(&instance.repo)).or_default() += 1;
    }

    /// Splits whole projects so that about `share` of the instances are test.
    ///
    /// Projects are taken in an order that depends on the seed and their names
    /// alone; each becomes test if that brings the count nearer to the share.
    /// So the same seed gives the same split in any order of the rows. One
    /// project at least is left for training.
    pub fn split(&self, share: f64, seed: u64) -> RepoSplit {
        let total: usize = self.counts.values().sum();
        // Counts are far below 2^52.
        let wanted = share.clamp(0.0, 1.0) * total as f64;
        let mut order: Vec<(&String, usize)> = self.counts.iter().map(|(p, n)| (p, *n)).collect();
        order.sort_by_cached_key(|(project, _)| {
            let mut key = seed.to_le_bytes().to_vec();
            key.extend_from_slice(project.as_bytes());
            *blake3::hash(&key).as_bytes()
        });
        let mut split = RepoSplit::default();
        for (project, count) in order {
            let now = split.test_instances as f64;
            let then = now + count as f64;
            let nearer = (then - wanted).abs() < (now - wanted).abs();
            if nearer && split.test.len() + 1 < self.counts.len() {
                split.test.insert(project.clone());
                split.test_instances += count;
            } else {
                split.train.insert(project.clone());
                split.train_instances += count;
            }
        }
        split
    }
}

/// Which projects are on which side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepoSplit {
    /// Projects for training.
    pub train: BTreeSet<String>,
    /// Projects held out.
    pub test: BTreeSet<String>,
    /// Instances of the former.
    pub train_instances: usize,
    /// Instances of the latter.
    pub test_instances: usize,
}

impl RepoSplit {
    /// The side of an instance.
    pub fn side(&self, instance: &Instance) -> SplitSide {
        if self.test.contains(&project(&instance.repo)) {
            SplitSide::Test
        } else {
            SplitSide::Train
        }
    }
}
