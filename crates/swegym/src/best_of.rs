//! One of several attempts at each instance: the one that ranks first.

use std::collections::BTreeMap;

use serde::Serialize;
use swegym_core::Prediction;

use crate::export::Record;
use crate::improve::results::Ranking;
use crate::verify::Score;

/// The attempt that was chosen at an instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chosen {
    /// The instance.
    pub instance_id: String,
    /// Which of its attempts.
    pub sample: u32,
    /// What it was ranked by; `None` if no attempt has a score.
    pub score: Option<f64>,
    /// Whether it is resolved, where that is known.
    pub resolved: Option<bool>,
    /// Whether any of the attempts is.
    pub any_resolved: bool,
    /// How many there were.
    pub attempts: usize,
    #[serde(skip)]
    patch: String,
}

impl Chosen {
    /// Its patch, as a prediction of this name.
    pub fn prediction(&self, model: &str) -> Prediction {
        Prediction {
            instance_id: self.instance_id.clone(),
            model_name_or_path: model.to_owned(),
            model_patch: Some(self.patch.clone()),
        }
    }
}

/// The first `k` attempts at each instance, or all.
pub fn first(mut records: Vec<Record>, k: Option<usize>) -> Vec<Record> {
    records.sort_by(|a, b| (&a.instance_id, a.sample).cmp(&(&b.instance_id, b.sample)));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    records.retain(|r| {
        let count = counts.entry(r.instance_id.clone()).or_default();
        *count += 1;
        k.is_none_or(|k| *count <= k)
    });
    records
}

/// The best of the attempts at each instance; of equal ones the earlier, and
/// one without a score behind all others. `scores` are of `records`, in their
/// order.
pub fn choose(records: &[Record], scores: &[Score], by: Ranking) -> Vec<Chosen> {
    let mut best: BTreeMap<&str, Chosen> = BTreeMap::new();
    for (record, score) in records.iter().zip(scores) {
        let score = by.rank(score, record).filter(|s| !s.is_nan());
        let resolved = record.resolved == Some(true);
        let own = Chosen {
            instance_id: record.instance_id.clone(),
            sample: record.sample,
            score,
            resolved: record.resolved,
            any_resolved: resolved,
            attempts: 1,
            patch: record.patch.clone().unwrap_or_default(),
        };
        match best.get_mut(record.instance_id.as_str()) {
            None => {
                best.insert(&record.instance_id, own);
            }
            Some(known) => {
                let (any, count) = (known.any_resolved || resolved, known.attempts + 1);
                if score > known.score {
                    *known = own;
                }
                known.any_resolved = any;
                known.attempts = count;
            }
        }
    }
    best.into_values().collect()
}

#[cfg(test)]
mod tests {
    use swegym_core::{AgentInfo, Trajectory};

    use super::*;

    fn record(instance: &str, sample: u32, resolved: bool) -> Record {
        Record {
            trajectory: Trajectory::new(AgentInfo::default()),
            instance_id: instance.to_owned(),
            sample,
            repo: None,
            resolved: Some(resolved),
            patch: Some(format!("{instance} {sample}")),
            end: None,
            source: None,
        }
    }

    #[test]
    fn the_best_scored_attempt_is_chosen_and_none_without_a_score_before_it() {
        let records = first(
            vec![
                record("b", 1, true),
                record("b", 0, false),
                record("a", 0, false),
                record("a", 2, true),
                record("a", 1, true),
            ],
            Some(2),
        );
        let names: Vec<_> = records
            .iter()
            .map(|r| (r.instance_id.as_str(), r.sample))
            .collect();
        assert_eq!(names, [("a", 0), ("a", 1), ("b", 0), ("b", 1)]);
        let scores: Vec<Score> = [None, Some(0.1), Some(0.4), Some(0.4)]
            .into_iter()
            .map(|verifier| Score {
                verifier,
                ..Score::default()
            })
            .collect();
        let chosen = choose(&records, &scores, Ranking::Verifier);
        let found: Vec<_> = chosen
            .iter()
            .map(|c| (c.sample, c.resolved, c.any_resolved))
            .collect();
        assert_eq!(found, [(1, Some(true), true), (0, Some(false), true)]);
        assert_eq!(
            chosen[0].prediction("m").model_patch.as_deref(),
            Some("a 1")
        );
    }
}
