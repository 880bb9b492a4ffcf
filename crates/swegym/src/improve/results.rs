//! What attempts amount to: how many a policy resolves, alone and in several
//! tries, and how well a ranking picks among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use swegym_grade::metrics::{
    Candidate, Estimate, LogFit, Paired, Sampled, best_curve, log_fit, paired, pass_curve,
    reference_estimate,
};
use swegym_grade::scores;

use crate::export::Record;
use crate::features::visible_tests_passed;
use crate::verify::Score;
use crate::{Error, plot};

/// How a policy behaves, over its attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Attempts.
    pub attempts: usize,
    /// Share without a patch.
    pub empty_patch: f64,
    /// Share stuck in a loop, or out of form too often.
    pub stuck: f64,
    /// Mean answers of the model.
    pub turns: f64,
}

/// How a policy does on held-out tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyResult {
    /// Which one.
    pub name: String,
    /// Rows it was trained on.
    pub rows: usize,
    /// Share resolved at temperature 0, one attempt a task.
    pub greedy: Option<Estimate>,
    /// pass@k of the sampled attempts, by k.
    pub pass: Vec<(usize, Estimate)>,
    /// How it behaves in those.
    pub behaviour: Behaviour,
    /// Against each policy before it: the share resolved of sampled attempts.
    pub against: Vec<(String, Paired)>,
}

/// How well a ranking picks among the attempts of the last policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankingResult {
    /// Which one.
    pub name: String,
    /// How often a resolved attempt is above an unresolved one.
    pub auc: Option<f64>,
    /// 95 % interval of it.
    pub interval: Option<(f64, f64)>,
    /// best@k by k, exact.
    pub best: Vec<(usize, Estimate)>,
    /// The share of `pass@k - pass@1` that it recovers at the largest k.
    pub recovers: Option<f64>,
    /// `best@k` over `ln k`, for k from 2.
    pub fit: Option<LogFit>,
    /// pass@k and best@k by the reference's estimator, where the attempts are
    /// enough.
    pub reference: Option<Vec<Sampled>>,
}

/// All k that are powers of two, up to a number, and that number.
pub fn powers(most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..).map(|n| 1 << n).take_while(|k| *k < most).collect();
    all.push(most.max(1));
    all
}

/// Attempts by instance, in their order; ungraded ones are left out.
fn by_instance(records: &[Record]) -> BTreeMap<&str, Vec<&Record>> {
    let mut all: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|r| r.resolved.is_some()) {
        all.entry(&record.instance_id).or_default().push(record);
    }
    for attempts in all.values_mut() {
        attempts.sort_by_key(|r| r.sample);
    }
    all
}

fn tasks(records: &[Record]) -> Vec<Vec<Candidate>> {
    let all = by_instance(records).into_values();
    let candidate = |r: &&Record| Candidate {
        score: None,
        resolved: r.resolved == Some(true),
    };
    all.map(|attempts| attempts.iter().map(candidate).collect())
        .collect()
}

/// Share resolved of each instance's attempts.
fn rates(records: &[Record]) -> BTreeMap<&str, f64> {
    let share = |attempts: &Vec<&Record>| {
        let good = attempts.iter().filter(|r| r.resolved == Some(true)).count();
        good as f64 / attempts.len() as f64
    };
    by_instance(records)
        .into_iter()
        .map(|(id, attempts)| (id, share(&attempts)))
        .collect()
}

/// What a policy's attempts amount to.
pub fn policy(name: &str, rows: usize, greedy: &[Record], sampled: &[Record]) -> PolicyResult {
    let of = tasks(sampled);
    let most = of.iter().map(Vec::len).max().unwrap_or(1);
    let pass = powers(most)
        .into_iter()
        .filter_map(|k| Some((k, pass_curve(&of, k)?)));
    PolicyResult {
        name: name.to_owned(),
        rows,
        greedy: pass_curve(&tasks(greedy), 1),
        pass: pass.collect(),
        behaviour: behaviour(sampled),
        against: Vec::new(),
    }
}

/// Two policies on the instances that both attempted.
pub fn compare(first: &[Record], second: &[Record]) -> Option<Paired> {
    let (a, b) = (rates(first), rates(second));
    let both = a.iter().filter_map(|(id, x)| Some((*x, *b.get(id)?)));
    paired(&both.collect::<Vec<_>>())
}

fn behaviour(records: &[Record]) -> Behaviour {
    let share = |test: &dyn Fn(&Record) -> bool| {
        records.iter().filter(|r| test(r)).count() as f64 / records.len().max(1) as f64
    };
    let turns: usize = records.iter().map(crate::curate::calls).sum();
    Behaviour {
        attempts: records.len(),
        empty_patch: share(&|r| r.patch.as_deref().unwrap_or_default().trim().is_empty()),
        stuck: share(&|r| r.end.as_deref() == Some("stuck")),
        turns: turns as f64 / records.len().max(1) as f64,
    }
}

/// A way to rank attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranking {
    /// By chance: all are equal.
    Random,
    /// The policy's own log-probability.
    LogProbability,
    /// What can be counted.
    Features,
    /// The language model that judges.
    Verifier,
    /// Features and verifier.
    Ensemble,
    /// Whether the tests that the attempt ran itself passed.
    VisibleTests,
    /// That, and among equal ones verifier and log-probability.
    Hybrid,
}

impl Ranking {
    /// All, baselines first.
    pub const ALL: [Self; 7] = [
        Self::Random,
        Self::LogProbability,
        Self::Features,
        Self::Verifier,
        Self::Ensemble,
        Self::VisibleTests,
        Self::Hybrid,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::LogProbability => "log-probability",
            Self::Features => "features",
            Self::Verifier => "verifier",
            Self::Ensemble => "ensemble",
            Self::VisibleTests => "visible tests",
            Self::Hybrid => "tests, verifier, log-probability",
        }
    }

    /// The score of an attempt, higher being better; `None` ranks last.
    pub fn rank(self, score: &Score, record: &Record) -> Option<f64> {
        // A whole number above any share of one: it decides, the rest breaks
        // ties.
        let tests = || match visible_tests_passed(record) {
            Some(true) => 2.0,
            None => 1.0,
            Some(false) => 0.0,
        };
        match self {
            Self::Random => None,
            Self::LogProbability => score.logprob,
            Self::Features => score.features,
            Self::Verifier => score.verifier,
            Self::Ensemble => score.ensemble,
            Self::VisibleTests => Some(tests()),
            Self::Hybrid => {
                // e^(log-probability) is a share of one as well.
                let likely = score.logprob.map(f64::exp);
                let parts: Vec<f64> = [score.verifier, likely].into_iter().flatten().collect();
                let mean = parts.iter().sum::<f64>() / parts.len().max(1) as f64;
                Some(tests() + mean)
            }
        }
    }
}

/// A line over ln k; two points would always lie on one.
fn fit(points: &[(f64, f64)]) -> Option<LogFit> {
    log_fit(points).filter(|_| points.len() > 2)
}

/// How well each ranking picks, for all k that are powers of two. `scores` are
/// of `records`, in their order.
pub fn rankings(records: &[Record], scores: &[Score], seed: u64) -> Vec<RankingResult> {
    let most = tasks(records).iter().map(Vec::len).max().unwrap_or(1);
    ranked(records, scores, &powers(most), seed)
}

fn ranked(records: &[Record], scores: &[Score], ks: &[usize], seed: u64) -> Vec<RankingResult> {
    let of = tasks(records);
    let enough = |k: &&usize| of.iter().any(|t| t.len() >= **k);
    let most = ks.iter().filter(enough).max().copied().unwrap_or(1);
    let passes = |k| pass_curve(&of, k).map(|e| e.mean);
    let own = |s: &Score| s.verifier.is_some() || s.logprob.is_some();
    let shown = |r: &Ranking| *r != Ranking::Hybrid || scores.iter().any(own);
    Ranking::ALL
        .into_iter()
        .filter(shown)
        .filter_map(|ranking| {
            let mut tasks: BTreeMap<&str, Vec<Candidate>> = BTreeMap::new();
            let mut scored = Vec::new();
            for (record, score) in records.iter().zip(scores) {
                let Some(resolved) = record.resolved else {
                    continue;
                };
                let rank = ranking.rank(score, record);
                let id = record.instance_id.as_str();
                let slot = tasks.entry(id).or_default();
                slot.push(Candidate {
                    score: rank,
                    resolved,
                });
                scored.extend(rank.map(|rank| (id, (rank, resolved))));
            }
            if scored.is_empty() && ranking != Ranking::Random {
                return None;
            }
            let tasks: Vec<Vec<Candidate>> = tasks.into_values().collect();
            let best = ks.iter().filter_map(|&k| Some((k, best_curve(&tasks, k)?)));
            let best: Vec<(usize, Estimate)> = best.collect();
            let room = passes(most)? - passes(1)?;
            let last = best.last().map(|(_, e)| e.mean)?;
            let points = best.iter().filter(|b| b.0 >= 2);
            let points: Vec<(f64, f64)> = points.map(|(k, e)| (*k as f64, e.mean)).collect();
            let plain: Vec<(f64, bool)> = scored.iter().map(|s| s.1).collect();
            Some(RankingResult {
                name: ranking.name().to_owned(),
                auc: scores::auc(&plain),
                interval: scores::bootstrap(scored.iter().copied(), &|s| scores::auc(s)),
                best,
                recovers: (room > 1e-12).then(|| (last - passes(1).unwrap_or_default()) / room),
                fit: fit(&points),
                reference: reference_estimate(&tasks, most, seed),
            })
        })
        .collect()
}

/// How far more attempts go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InferenceStudy {
    /// Version of this record, 1.
    pub schema: u32,
    /// Graded attempts.
    pub attempts: usize,
    /// Instances that have fewer than the largest k, and are left out: every
    /// number is over the same instances.
    pub left_out: usize,
    /// pass@k by k.
    pub pass: Vec<(usize, Estimate)>,
    /// `pass@k` over `ln k`, for k from 2.
    pub fit: Option<LogFit>,
    /// best@k by every ranking.
    pub rankings: Vec<RankingResult>,
    /// Seed of the reference's estimator.
    pub seed: u64,
}

/// pass@k and best@k of attempts for these k. `scores` are of `records`, in
/// their order.
pub fn inference(records: &[Record], scores: &[Score], ks: &[usize], seed: u64) -> InferenceStudy {
    let mut ks = ks.to_vec();
    ks.sort_unstable();
    ks.dedup();
    let most = ks.last().copied().unwrap_or(1);
    let enough = by_instance(records);
    let all = enough.len();
    let enough: BTreeSet<&str> = enough
        .into_iter()
        .filter(|(_, attempts)| attempts.len() >= most)
        .map(|(id, _)| id)
        .collect();
    let pairs = records.iter().zip(scores);
    let (records, scores): (Vec<Record>, Vec<Score>) = pairs
        .filter(|(record, _)| enough.contains(record.instance_id.as_str()))
        .map(|(record, score)| (record.clone(), score.clone()))
        .unzip();
    let of = tasks(&records);
    let pass = ks.iter().filter_map(|&k| Some((k, pass_curve(&of, k)?)));
    let pass: Vec<(usize, Estimate)> = pass.collect();
    let points = pass.iter().filter(|p| p.0 >= 2);
    let points: Vec<(f64, f64)> = points.map(|(k, e)| (*k as f64, e.mean)).collect();
    InferenceStudy {
        schema: 1,
        attempts: of.iter().map(Vec::len).sum(),
        left_out: all - of.len(),
        pass,
        fit: fit(&points),
        rankings: ranked(&records, &scores, &ks, seed),
        seed,
    }
}

impl InferenceStudy {
    /// Writes `study.json` and `scaling.svg` into a folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        swegym_data::atomic::write_json(&dir.join("study.json"), self)?;
        let curve = |of: &[(usize, Estimate)]| -> Vec<(f64, f64)> {
            of.iter()
                .map(|(k, e)| ((*k as f64).log2(), 100.0 * e.mean))
                .collect()
        };
        let mut series = vec![("pass@k".to_owned(), curve(&self.pass))];
        let rankings = self.rankings.iter();
        series.extend(rankings.map(|r| (format!("best@k, {}", r.name), curve(&r.best))));
        let svg = plot::lines("Attempts and success", "log2 k", "% resolved", &series)?;
        Ok(swegym_data::atomic::write(
            &dir.join("scaling.svg"),
            svg.as_bytes(),
        )?)
    }
}
