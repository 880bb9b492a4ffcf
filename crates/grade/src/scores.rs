//! How good scores are at telling resolved from unresolved: AUC with its
//! interval, calibration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::draw::Draw;

/// Area under the ROC curve: how often a resolved attempt is scored above an
/// unresolved one, ties counting half. `None` where one of the kinds is
/// missing.
pub fn auc(scored: &[(f64, bool)]) -> Option<f64> {
    let mut sorted: Vec<(f64, bool)> = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = sorted.iter().filter(|s| s.1).count() as f64;
    let negatives = sorted.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let (mut below, mut wins) = (0.0, 0.0);
    for tied in sorted.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let good = tied.iter().filter(|s| s.1).count() as f64;
        let bad = tied.len() as f64 - good;
        wins += good * (below + bad / 2.0);
        below += bad;
    }
    Some(wins / (positives * negatives))
}

/// A temperature for log-odds: `1 / (1 + e^(-x / temperature))` is as near the
/// labels' frequencies as one number can make it (least negative
/// log-likelihood; arXiv 1706.04599). 1 where nothing can be learnt from the
/// labels.
pub fn temperature(scored: &[(f64, bool)]) -> f64 {
    if scored.iter().all(|s| s.1) || scored.iter().all(|s| !s.1) {
        return 1.0;
    }
    let loss = |log: f64| {
        let scale = (-log).exp();
        let each = scored.iter().map(|(x, yes)| {
            let x = if *yes { x * scale } else { -x * scale };
            // ln(1 + e^-x) without overflow.
            (-x).max(0.0) + (-x.abs()).exp().ln_1p()
        });
        each.sum::<f64>()
    };
    // Golden section over ln(temperature): the loss has one valley there.
    let ratio = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-4.6, 4.6);
    for _ in 0..80 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if loss(a) <= loss(b) {
            high = b;
        } else {
            low = a;
        }
    }
    f64::midpoint(low, high).exp()
}

/// The probability of log-odds at a temperature.
pub fn probability(log_odds: f64, temperature: f64) -> f64 {
    1.0 / (1.0 + (-log_odds / temperature).exp())
}

/// One bar of a reliability plot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Probabilities from here
    pub from: f64,
    /// to here.
    pub to: f64,
    /// How many there are.
    pub count: usize,
    /// Their mean.
    pub predicted: f64,
    /// The share that was resolved.
    pub observed: f64,
}

/// Bins of equal width; empty ones are left out.
pub fn reliability(scored: &[(f64, bool)], bins: usize) -> Vec<Bin> {
    let width = 1.0 / bins as f64;
    let place = |p: f64| ((p / width) as usize).min(bins - 1);
    let one = |n: usize| {
        let own: Vec<_> = scored.iter().filter(|s| place(s.0) == n).collect();
        let count = own.len();
        let mean =
            |f: &dyn Fn(&(f64, bool)) -> f64| own.iter().map(|s| f(s)).sum::<f64>() / count as f64;
        (count > 0).then(|| Bin {
            from: n as f64 * width,
            to: (n + 1) as f64 * width,
            count,
            predicted: mean(&|s| s.0),
            observed: mean(&|s| f64::from(u8::from(s.1))),
        })
    };
    (0..bins).filter_map(one).collect()
}

/// Expected calibration error: how far predicted and observed lie apart, each
/// bin by its count.
pub fn calibration_error(bins: &[Bin]) -> f64 {
    let all: usize = bins.iter().map(|b| b.count).sum();
    let each = bins
        .iter()
        .map(|b| b.count as f64 * (b.predicted - b.observed).abs());
    each.sum::<f64>() / all.max(1) as f64
}

/// Samples of a bootstrap.
const SAMPLES: usize = 2000;

/// The 95 % interval of a statistic by bootstrap over groups, such as all
/// attempts at one instance: groups are drawn with replacement, always in the
/// same way. `None` with fewer than two groups, or where the statistic is
/// undefined in most samples.
pub fn bootstrap<'a, T: Clone>(
    grouped: impl Iterator<Item = (&'a str, T)>,
    statistic: &dyn Fn(&[T]) -> Option<f64>,
) -> Option<(f64, f64)> {
    let mut groups: BTreeMap<&str, Vec<T>> = BTreeMap::new();
    for (name, value) in grouped {
        groups.entry(name).or_default().push(value);
    }
    let groups: Vec<Vec<T>> = groups.into_values().collect();
    if groups.len() < 2 {
        return None;
    }
    let mut draw = Draw::new(0x5eed);
    let mut found = Vec::with_capacity(SAMPLES);
    let mut sample = Vec::new();
    for _ in 0..SAMPLES {
        sample.clear();
        for _ in 0..groups.len() {
            sample.extend(groups[draw.below(groups.len())].iter().cloned());
        }
        found.extend(statistic(&sample));
    }
    if found.len() < SAMPLES / 2 {
        return None;
    }
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[((found.len() - 1) as f64 * share).round() as usize];
    Some((at(0.025), at(0.975)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_auc_is_that_of_the_definition() {
        assert_eq!(auc(&[(0.9, true), (0.1, false)]), Some(1.0));
        assert_eq!(auc(&[(0.1, true), (0.9, false)]), Some(0.0));
        assert_eq!(auc(&[(0.5, true), (0.5, false)]), Some(0.5));
        assert_eq!(auc(&[(0.5, true)]), None);
        let scored = [
            (0.8, true),
            (0.6, false),
            (0.6, true),
            (0.4, true),
            (0.2, false),
        ];
        // Pairs won: 2 + 1.5 + 1 of 6.
        assert_eq!(auc(&scored), Some(4.5 / 6.0));
    }

    #[test]
    fn a_temperature_brings_overconfidence_down() {
        // Odds of e^4 where three of four are right: the best is ln 3.
        let scored: Vec<(f64, bool)> = (0..400)
            .map(|n| {
                if n % 2 == 0 {
                    (4.0, n % 8 != 0)
                } else {
                    (-4.0, n % 8 == 1)
                }
            })
            .collect();
        let t = temperature(&scored);
        assert!((4.0 / t - 3.0_f64.ln()).abs() < 1e-6, "{t}");
        assert!((probability(4.0, t) - 0.75).abs() < 1e-6);
        assert_eq!(temperature(&[(1.0, true), (2.0, true)]), 1.0);
        let calibrated: Vec<_> = scored
            .iter()
            .map(|(x, y)| (probability(*x, t), *y))
            .collect();
        let bins = reliability(&calibrated, 10);
        assert_eq!(bins.iter().map(|b| b.count).sum::<usize>(), 400);
        assert!(calibration_error(&bins) < 1e-6);
        let raw: Vec<_> = scored
            .iter()
            .map(|(x, y)| (probability(*x, 1.0), *y))
            .collect();
        assert!(calibration_error(&reliability(&raw, 10)) > 0.2);
    }

    #[test]
    fn the_bootstrap_covers_the_mean() {
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let values = names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.as_str(), (n % 10) as f64));
        let mean = |s: &[f64]| Some(s.iter().sum::<f64>() / s.len() as f64);
        let (low, high) = bootstrap(values, &mean).unwrap();
        // 4.5 within 1.96 standard errors of 0.287.
        assert!(
            (low - 3.94).abs() < 0.1 && (high - 5.06).abs() < 0.1,
            "{low} {high}"
        );
        assert_eq!(bootstrap([("a", 1.0)].into_iter(), &mean), None);
    }

    proptest! {
        #[test]
        fn any_rising_map_leaves_the_auc(scored in prop::collection::vec((-20.0..20.0_f64, any::<bool>()), 2..60)) {
            let mapped: Vec<_> = scored.iter().map(|(x, y)| (x * 3.0 + 1.0, *y)).collect();
            prop_assert_eq!(auc(&scored), auc(&mapped));
            let turned: Vec<_> = scored.iter().map(|(x, y)| (-x, *y)).collect();
            if let (Some(a), Some(b)) = (auc(&scored), auc(&turned)) {
                prop_assert!((a + b - 1.0).abs() < 1e-9);
            }
        }
    }
}
