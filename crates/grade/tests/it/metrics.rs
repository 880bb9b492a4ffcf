use proptest::prelude::*;
use swegym_grade::metrics::{
    REFERENCE_TRIALS, Sampled, log_fit, paired, plain_estimate, reference_estimate, sign_test,
};
use swegym_grade::{Candidate, best_at_k, mean_pass_at_k, pass_at_k};

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn known_values() {
    assert_eq!(pass_at_k(16, 0, 8), Some(0.0));
    assert_eq!(pass_at_k(16, 16, 1), Some(1.0));
    assert!(close(pass_at_k(5, 2, 2).unwrap(), 0.7));
    assert_eq!(pass_at_k(4, 1, 5), None);
    assert_eq!(pass_at_k(4, 1, 0), None);
    assert_eq!(pass_at_k(4, 5, 1), None);
    assert!(close(mean_pass_at_k(&[(4, 1), (4, 3)], 1).unwrap(), 0.5));
    assert_eq!(mean_pass_at_k(&[(4, 1), (1, 1)], 2), None);
    assert_eq!(mean_pass_at_k(&[], 1), None);
}

fn scored(rows: &[(f64, bool)]) -> Vec<Candidate> {
    let candidate = |&(score, resolved): &(f64, bool)| Candidate {
        score: Some(score),
        resolved,
    };
    rows.iter().map(candidate).collect()
}

/// Worked out on paper. One task fails first and resolves later, the other
/// the other way round, so that k = 1 is 1 of 2; any order of all three has
/// both kinds, the best-scored being right in the first task only.
#[test]
fn the_references_estimator_on_paper() {
    let tasks = [
        scored(&[(0.1, false), (0.9, true), (0.2, false)]),
        scored(&[(0.3, true), (0.8, false), (0.2, false)]),
    ];
    let sampled = reference_estimate(&tasks, 3, 1).unwrap();
    assert_eq!(sampled[0].pass, (0.5, 0.0));
    assert_eq!(sampled[0].best, (0.5, 0.0));
    // Two of three hold the right one in 2 of 3 draws; of the second task
    // the best-scored is right in 1 of 3.
    assert!((sampled[1].pass.0 - 2.0 / 3.0).abs() < 0.12, "{sampled:?}");
    assert!((sampled[1].best.0 - 0.5).abs() < 0.12, "{sampled:?}");
    assert_eq!(sampled[2].pass, (1.0, 0.0));
    assert_eq!(sampled[2].best, (0.5, 0.0));
    // The deviation is of the population: of trials that are 0, 1/2 or 1.
    let certain = [scored(&[(0.1, true), (0.2, false)])];
    let certain = reference_estimate(&certain, 2, 1).unwrap();
    assert_eq!(certain[0].best, (1.0, 0.0));
    assert_eq!(certain[1].best, (0.0, 0.0));
    assert_eq!(reference_estimate(&tasks, 4, 1), None);
    assert_eq!(reference_estimate(&[], 1, 1), None);
    // Of equal scores the first is taken, without a score it is the last.
    let mut tied = scored(&[(0.5, true), (0.5, false), (9.0, false)]);
    tied[2].score = None;
    assert_eq!(plain_estimate(&[tied], 3, 1).unwrap().best, (1.0, 0.0));
    let plain = plain_estimate(&tasks, 2, 1).unwrap();
    assert_eq!((plain.pass.0, plain.best.0), (1.0, 0.5));
    // Half of the two tasks is one: 0 or 1, each as likely.
    assert!(plain.pass.1.abs() < 1e-12 && (plain.best.1 - 0.5).abs() < 0.01);
}

#[test]
fn the_papers_fit_of_training_is_found() {
    // SWE-GYM.md section 5: rates at 122, 245 and 491 trajectories.
    let fit = log_fit(&[(122.0, 10.8), (245.0, 16.8), (491.0, 20.6)]).unwrap();
    assert!((fit.slope - 7.04).abs() < 0.005, "{fit:?}");
    assert!((fit.intercept + 22.65).abs() < 0.2, "{fit:?}");
    assert!(fit.r2 > 0.97, "{fit:?}");
    assert_eq!(log_fit(&[(2.0, 1.0), (2.0, 3.0)]), None);
    assert_eq!(log_fit(&[(1.0, 4.0), (9.0, 4.0)]).unwrap().r2, 1.0);
}

#[test]
fn pairs_are_compared_instance_by_instance() {
    let pairs: Vec<(f64, f64)> = (0..40)
        .map(|n| (0.2, if n % 4 == 0 { 0.2 } else { 0.6 }))
        .collect();
    let paired = paired(&pairs).unwrap();
    assert!(close(paired.difference, 0.3) && paired.better == (0, 30));
    let (low, high) = paired.interval.unwrap();
    assert!(low > 0.2 && high < 0.4 && paired.p < 1e-8);
    assert!(close(sign_test(0, 0), 1.0) && close(sign_test(5, 0), 0.0625));
    assert!(close(sign_test(1, 9), 22.0 / 1024.0) && close(sign_test(4, 4), 1.0));
    assert!(sign_test(0, 2000) < 1e-300);
}

/// By looking at every subset.
fn brute(candidates: &[Candidate], k: usize) -> (f64, f64) {
    let n = candidates.len();
    let (mut subsets, mut pass, mut best) = (0, 0, 0.0);
    for mask in 0u32..1 << n {
        if mask.count_ones() as usize != k {
            continue;
        }
        let drawn: Vec<Candidate> = (0..n)
            .filter(|i| mask & 1 << i != 0)
            .map(|i| candidates[i])
            .collect();
        subsets += 1;
        pass += i32::from(drawn.iter().any(|c| c.resolved));
        let top = drawn
            .iter()
            .map(|c| c.score)
            .max_by(|a, b| a.partial_cmp(b).unwrap());
        let tied: Vec<&Candidate> = drawn.iter().filter(|c| Some(c.score) == top).collect();
        let good = tied.iter().filter(|c| c.resolved).count();
        best += good as f64 / tied.len() as f64;
    }
    (
        f64::from(pass) / f64::from(subsets),
        best / f64::from(subsets),
    )
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let candidate =
        (proptest::option::of(-3i8..3), any::<bool>()).prop_map(|(score, resolved)| Candidate {
            score: score.map(f64::from),
            resolved,
        });
    prop::collection::vec(candidate, 1..9)
}

proptest! {
    #[test]
    fn closed_forms_equal_counting(candidates in candidates(), k in 1usize..9) {
        prop_assume!(k <= candidates.len());
        let (pass, best) = brute(&candidates, k);
        let c = candidates.iter().filter(|c| c.resolved).count() as u64;
        prop_assert!(close(pass_at_k(candidates.len() as u64, c, k as u64).unwrap(), pass));
        prop_assert!(close(best_at_k(&candidates, k).unwrap(), best));
    }

    #[test]
    fn best_at_k_lies_between_its_bounds(candidates in candidates(), k in 1usize..9) {
        prop_assume!(k <= candidates.len());
        let n = candidates.len() as u64;
        let good = candidates.iter().filter(|c| c.resolved).count() as u64;
        let pass = pass_at_k(n, good, k as u64).unwrap();
        let scored = |score: &dyn Fn(&Candidate) -> Option<f64>| -> f64 {
            let all: Vec<Candidate> = candidates
                .iter()
                .map(|c| Candidate { score: score(c), ..*c })
                .collect();
            best_at_k(&all, k).unwrap()
        };
        prop_assert!(best_at_k(&candidates, k).unwrap() <= pass + 1e-12);
        // A perfect verifier finds what there is, a constant one draws.
        prop_assert!(close(scored(&|c| Some(f64::from(u8::from(c.resolved)))), pass));
        let chance = pass_at_k(n, good, 1).unwrap();
        prop_assert!(close(scored(&|_| Some(0.5)), chance));
        prop_assert!(close(scored(&|_| None), chance));
        // Nothing but the order counts, and not-a-number is no score.
        let plain = best_at_k(&candidates, k).unwrap();
        prop_assert!(close(scored(&|c| c.score.map(|s| s * 3.0 - 7.0)), plain));
        prop_assert!(close(scored(&|c| Some(c.score.unwrap_or(f64::NAN))), plain));
        let mut turned = candidates.clone();
        turned.reverse();
        prop_assert!(close(best_at_k(&turned, k).unwrap(), plain));
    }

    #[test]
    fn the_references_estimates_are_near_the_exact_ones(tasks in prop::collection::vec(prop::collection::vec((-3i8..3, any::<bool>()), 6), 20..40), seed: u64) {
        // Scores apart, for the reference takes the first of equal ones.
        let tasks: Vec<Vec<Candidate>> = tasks
            .iter()
            .map(|t| t.iter().enumerate().map(|(n, (score, resolved))| Candidate {
                score: Some(f64::from(*score) + n as f64 / 10.0),
                resolved: *resolved,
            }).collect())
            .collect();
        let sampled = reference_estimate(&tasks, 6, seed).unwrap();
        for Sampled { k, pass, best } in sampled.into_iter().skip(1) {
            let mean = |of: &dyn Fn(&Vec<Candidate>) -> f64| {
                tasks.iter().map(of).sum::<f64>() / tasks.len() as f64
            };
            let exact = mean(&|t| {
                let good = t.iter().filter(|c| c.resolved).count() as u64;
                pass_at_k(6, good, k as u64).unwrap()
            });
            // Five standard errors of a mean over the trials.
            let room = |deviation: f64| 5.0 * deviation / (REFERENCE_TRIALS as f64).sqrt() + 1e-9;
            prop_assert!((pass.0 - exact).abs() <= room(pass.1), "{k}: {pass:?} {exact}");
            let exact = mean(&|t| best_at_k(t, k).unwrap());
            prop_assert!((best.0 - exact).abs() <= room(best.1), "{k}: {best:?} {exact}");
            prop_assert!(best.0 <= pass.0 + 1e-12);
        }
    }

    #[test]
    fn pass_at_k_never_falls_in_k_or_c(n in 1u64..200, c in 0u64..200, k in 1u64..200) {
        prop_assume!(c <= n && k < n);
        let here = pass_at_k(n, c, k).unwrap();
        prop_assert!((0.0..=1.0).contains(&here));
        prop_assert!(pass_at_k(n, c, k + 1).unwrap() >= here - 1e-12);
        if c < n {
            prop_assert!(pass_at_k(n, c + 1, k).unwrap() >= here - 1e-12);
        }
    }
}
