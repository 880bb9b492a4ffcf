//! Numbers over many attempts: pass@k, best@k, how they grow with k, and how
//! two policies compare.

use serde::{Deserialize, Serialize};

use crate::draw::Draw;
use crate::scores::bootstrap;

/// pass@k of one task: the chance that of `k` attempts, drawn without
/// replacement from `n` of which `c` resolve it, at least one does.
///
/// The unbiased closed form `1 - C(n-c, k) / C(n, k)` (Chen et al. 2021).
/// `None` unless `1 <= k <= n` and `c <= n`.
pub fn pass_at_k(n: u64, c: u64, k: u64) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    // C(n-c, k) / C(n, k) as a product of c factors
    let none: f64 = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    Some(1.0 - none)
}

/// Mean pass@k over tasks, each `(n, c)` as in [`pass_at_k`].
///
/// `None` if there is no task, or one with fewer than `k` attempts.
pub fn mean_pass_at_k(tasks: &[(u64, u64)], k: u64) -> Option<f64> {
    let mut sum = 0.0;
    for &(n, c) in tasks {
        sum += pass_at_k(n, c, k)?;
    }
    (!tasks.is_empty()).then(|| sum / tasks.len() as f64)
}

/// An attempt that a verifier scored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The verifier's score; `None` (or NaN) ranks last.
    pub score: Option<f64>,
    /// Whether it resolves the task.
    pub resolved: bool,
}

impl Candidate {
    /// The score to rank by; `None` is below any.
    fn rank(&self) -> Option<f64> {
        self.score.filter(|score| !score.is_nan())
    }
}

/// Highest score first; equal ones as they come.
fn by_score(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.rank().partial_cmp(&a.rank()).expect("NaN was left out")
}

/// best@k of one task: the chance that the best-scored of `k` attempts, drawn
/// without replacement, resolves it; the exact expectation over all subsets,
/// and over which of equal scores is taken.
///
/// `None` unless `1 <= k <= candidates.len()`.
pub fn best_at_k(candidates: &[Candidate], k: usize) -> Option<f64> {
    let n = candidates.len();
    if k == 0 || k > n {
        return None;
    }
    let mut ranked = candidates.to_vec();
    ranked.sort_by(by_score);
    // chance that the candidate at a rank is the best drawn:
    // C(n-1-rank, k-1) / C(n, k), starting at k/n
    let mut chance = k as f64 / n as f64;
    let mut expected = 0.0;
    let mut rank = 0;
    for tied in ranked.chunk_by(|a, b| a.rank() == b.rank()) {
        let mut group = 0.0;
        for _ in tied {
            group += chance;
            let below = n - 1 - rank;
            chance *= match below + 1 > k {
                true => (below + 1 - k) as f64 / below as f64,
                false => 0.0,
            };
            rank += 1;
        }
        let good = tied.iter().filter(|c| c.resolved).count();
        expected += group * good as f64 / tied.len() as f64;
    }
    Some(expected)
}

/// A number over instances with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean over instances.
    pub mean: f64,
    /// By bootstrap over instances; `None` with fewer than two.
    pub interval: Option<(f64, f64)>,
    /// Instances that have enough attempts.
    pub instances: usize,
}

impl Estimate {
    /// Of one number an instance; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mean = |v: &[f64]| Some(v.iter().sum::<f64>() / v.len() as f64);
        // Names that sort as the values come.
        let names: Vec<String> = (0..values.len()).map(|n| format!("{n:09}")).collect();
        let named = names.iter().map(String::as_str).zip(values.iter().copied());
        Some(Self {
            mean: mean(values).filter(|_| !values.is_empty())?,
            interval: bootstrap(named, &mean),
            instances: values.len(),
        })
    }
}

/// pass@k over tasks; those with fewer than `k` attempts are left out.
pub fn pass_curve(tasks: &[Vec<Candidate>], k: usize) -> Option<Estimate> {
    let of = |t: &Vec<Candidate>| {
        let good = t.iter().filter(|c| c.resolved).count();
        pass_at_k(t.len() as u64, good as u64, k as u64)
    };
    Estimate::of(&tasks.iter().filter_map(of).collect::<Vec<_>>())
}

/// best@k over tasks; those with fewer than `k` attempts are left out.
pub fn best_curve(tasks: &[Vec<Candidate>], k: usize) -> Option<Estimate> {
    let values = tasks.iter().filter_map(|t| best_at_k(t, k));
    Estimate::of(&values.collect::<Vec<_>>())
}

/// Two policies on the same instances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Second less first, the mean over instances.
    pub difference: f64,
    /// Its 95 % interval by bootstrap over instances.
    pub interval: Option<(f64, f64)>,
    /// Instances on which the first, and the second, does better.
    pub better: (usize, usize),
    /// Two-sided p of those counts, if both were equally likely (sign test).
    pub p: f64,
    /// Instances.
    pub instances: usize,
}

/// Compares pairs of numbers of the same instances; `None` without any.
pub fn paired(pairs: &[(f64, f64)]) -> Option<Paired> {
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let estimate = Estimate::of(&differences)?;
    let count = |test: &dyn Fn(f64) -> bool| differences.iter().filter(|d| test(**d)).count();
    let better = (count(&|d| d < -1e-12), count(&|d| d > 1e-12));
    Some(Paired {
        difference: estimate.mean,
        interval: estimate.interval,
        better,
        p: sign_test(better.0 as u64, better.1 as u64),
        instances: pairs.len(),
    })
}

/// Two-sided p of so many signs, if both were equally likely.
pub fn sign_test(plus: u64, minus: u64) -> f64 {
    let (n, least) = (plus + minus, plus.min(minus));
    // In logarithms: 2^-1075 is no number.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=least {
        sum += term.exp();
        term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

/// Trials of the reference's estimator.
pub const REFERENCE_TRIALS: usize = 100;

/// One k of the reference's estimator: means and population standard
/// deviations over trials, as shares of the instances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Attempts.
    pub k: usize,
    /// pass@k.
    pub pass: (f64, f64),
    /// best@k.
    pub best: (f64, f64),
}

/// pass@k and best@k for all k, as SWE-Gym estimates them (SWE-GYM.md section
/// 5): 100 trials; k = 1 is always the first attempt; before k = 2 all
/// attempts of an instance are shuffled once, and every k takes a prefix of
/// that order, so that subsets of a trial are nested; of equal scores the
/// first in it is taken. An attempt without a score ranks last, where the
/// reference gives it 0.
///
/// `tasks` hold the attempts in the order of their runs, the first at
/// temperature 0; `None` if one of them has fewer than the largest k.
pub fn reference_estimate(
    tasks: &[Vec<Candidate>],
    largest: usize,
    seed: u64,
) -> Option<Vec<Sampled>> {
    if tasks.is_empty() || largest == 0 || tasks.iter().any(|t| t.len() < largest) {
        return None;
    }
    let mut draw = Draw::new(seed);
    // By k and trial: share passed, share best.
    let mut shares = vec![Vec::with_capacity(REFERENCE_TRIALS); largest];
    for _ in 0..REFERENCE_TRIALS {
        let mut counts = vec![(0_usize, 0_usize); largest];
        for task in tasks {
            let mut order = task.clone();
            for k in 1..=largest {
                if k == 2 {
                    draw.shuffle(&mut order);
                }
                let (pass, best) = outcome(&order[..k]);
                counts[k - 1].0 += usize::from(pass);
                counts[k - 1].1 += usize::from(best);
            }
        }
        for (share, (pass, best)) in shares.iter_mut().zip(counts) {
            let of = |count: usize| count as f64 / tasks.len() as f64;
            share.push((of(pass), of(best)));
        }
    }
    let sum = |values: &mut dyn Iterator<Item = f64>| {
        let all: Vec<f64> = values.collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let square = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        (mean, square.sqrt())
    };
    let each = shares.iter().enumerate().map(|(n, trials)| Sampled {
        k: n + 1,
        pass: sum(&mut trials.iter().map(|t| t.0)),
        best: sum(&mut trials.iter().map(|t| t.1)),
    });
    Some(each.collect())
}

/// Whether any of some attempts resolves, and whether the best-scored does,
/// the first of equal ones.
fn outcome(attempts: &[Candidate]) -> (bool, bool) {
    let mut ranked = attempts.to_vec();
    ranked.sort_by(by_score);
    (
        attempts.iter().any(|c| c.resolved),
        ranked.first().is_some_and(|c| c.resolved),
    )
}

/// The reference's plain version: the first `k` attempts of each instance,
/// no draws; the deviation over 1,000 halves of the instances, drawn without
/// replacement.
///
/// `None` if an instance has fewer than `k`.
pub fn plain_estimate(tasks: &[Vec<Candidate>], k: usize, seed: u64) -> Option<Sampled> {
    if tasks.is_empty() || k == 0 || tasks.iter().any(|t| t.len() < k) {
        return None;
    }
    let outcomes: Vec<(bool, bool)> = tasks.iter().map(|t| outcome(&t[..k])).collect();
    let share = |of: &[(bool, bool)], pick: fn(&(bool, bool)) -> bool| {
        of.iter().filter(|o| pick(o)).count() as f64 / of.len() as f64
    };
    let mut draw = Draw::new(seed);
    let half = (outcomes.len() / 2).max(1);
    let mut deviation = |pick: fn(&(bool, bool)) -> bool| {
        let mut order = outcomes.clone();
        let trials: Vec<f64> = (0..1000)
            .map(|_| {
                draw.shuffle(&mut order);
                share(&order[..half], pick)
            })
            .collect();
        let mean = trials.iter().sum::<f64>() / trials.len() as f64;
        let square = trials.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        (square / trials.len() as f64).sqrt()
    };
    Some(Sampled {
        k,
        pass: (share(&outcomes, |o| o.0), deviation(|o| o.0)),
        best: (share(&outcomes, |o| o.1), deviation(|o| o.1)),
    })
}

/// `y = slope * ln(x) + intercept`, by least squares.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogFit {
    /// Growth for each factor e.
    pub slope: f64,
    /// At x = 1.
    pub intercept: f64,
    /// Share of the variance that the line explains.
    pub r2: f64,
}

/// Fits a line over the logarithm of x; `None` with fewer than two different
/// x above 0.
pub fn log_fit(points: &[(f64, f64)]) -> Option<LogFit> {
    let points: Vec<(f64, f64)> = points
        .iter()
        .filter(|p| p.0 > 0.0)
        .map(|p| (p.0.ln(), p.1))
        .collect();
    let n = points.len() as f64;
    let (x, y) = (
        points.iter().map(|p| p.0).sum::<f64>() / n,
        points.iter().map(|p| p.1).sum::<f64>() / n,
    );
    let xx: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let xy: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let yy: f64 = points.iter().map(|p| (p.1 - y).powi(2)).sum();
    if points.len() < 2 || xx < 1e-12 {
        return None;
    }
    let slope = xy / xx;
    Some(LogFit {
        slope,
        intercept: y - slope * x,
        // A level line explains level points.
        r2: if yy < 1e-18 { 1.0 } else { slope * xy / yy },
    })
}
