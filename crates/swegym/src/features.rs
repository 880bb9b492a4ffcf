//! A cheap verifier: a random forest over what can be counted in an attempt.
//! Every result of a language model as verifier is shown beside it.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};
use smartcore::ensemble::random_forest_regressor::{
    RandomForestRegressor, RandomForestRegressorParameters,
};
use smartcore::linalg::basic::matrix::DenseMatrix;
use swegym_core::{AtifStep, StepSource};
use swegym_data::patch::{Patch, Side};
use swegym_data::trajectory::TrajectoryStats;

use crate::Error;
use crate::export::Record;

/// What is counted, in the order of [`features`].
pub const NAMES: [&str; 18] = [
    "patch lines added",
    "patch lines removed",
    "files changed",
    "hunks",
    "test files changed",
    "no patch",
    "turns",
    "characters written",
    "characters read",
    "longest output",
    "commands that run tests",
    "passed in the last test run",
    "failed in the last test run",
    "a traceback in the last output",
    "outputs with an error",
    "stuck in a loop",
    "share of repeated actions",
    "ended by itself",
];

/// Numbers of an attempt, in the order of [`NAMES`]. Sizes are logarithms:
/// `ln(1 + n)`.
pub fn features(record: &Record) -> Vec<f64> {
    let patch = record.patch.as_deref().unwrap_or_default();
    let parsed = Patch::parse(patch.as_bytes()).unwrap_or_default();
    let hunks = || parsed.files.iter().flat_map(|f| f.hunks());
    let lines = |side| {
        hunks()
            .flat_map(|h| &h.lines)
            .filter(|l| l.side == side)
            .count()
    };
    let is_test = |path: &str| path.split('/').any(|part| part.contains("test"));
    let tests = parsed.files.iter().filter(|f| is_test(&f.new_path)).count();
    let own = |s: &&AtifStep| s.source == StepSource::Agent && s.is_copied_context != Some(true);
    let steps: Vec<&AtifStep> = record.trajectory.steps.iter().filter(own).collect();
    let said: Vec<String> = steps.iter().map(|s| action(s)).collect();
    // What answers a step: its results, or the user's words behind it.
    let heard = heard(record);
    let runs_tests: Vec<bool> = said.iter().map(|text| TESTS.is_match(text)).collect();
    let last_run = runs_tests.iter().rposition(|runs| *runs);
    let last_run = last_run
        .and_then(|n| heard.get(n))
        .map_or("", String::as_str);
    let count = |pattern: &Regex| -> f64 {
        let last = pattern.captures_iter(last_run).last();
        last.and_then(|c| c[1].parse::<f64>().ok()).unwrap_or(0.0)
    };
    let repeated = said
        .iter()
        .enumerate()
        .filter(|(n, text)| said[..*n].contains(text));
    let mut stats = TrajectoryStats::default();
    stats.add(&record.trajectory, None, None, None);
    let log = |n: usize| (n as f64).ln_1p();
    let sum = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
    let yes = |b: bool| f64::from(u8::from(b));
    let last_heard = heard.last().map_or("", String::as_str);
    vec![
        log(lines(Side::New)),
        log(lines(Side::Old)),
        log(parsed.files.len()),
        log(hunks().count()),
        log(tests),
        yes(patch.trim().is_empty()),
        log(steps.len()),
        log(sum(&said)),
        log(sum(&heard)),
        log(heard.iter().map(String::len).max().unwrap_or(0)),
        log(runs_tests.iter().filter(|r| **r).count()),
        count(&PASSED).ln_1p(),
        count(&FAILED).ln_1p(),
        yes(last_heard.contains("Traceback (most recent call last)")),
        heard
            .iter()
            .filter(|h| h.contains("Error") || h.starts_with("ERROR"))
            .count() as f64
            / heard.len().max(1) as f64,
        yes(stats.stuck_in_loop > 0),
        repeated.count() as f64 / said.len().max(1) as f64,
        yes(ended_by_itself(record)),
    ]
}

static TESTS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"pytest|runtests|unittest|bin/test|tox |nosetests|manage\.py test").expect("valid")
});
static PASSED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\d+) passed").expect("valid"));
static FAILED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(\d+) (?:failed|errors?\b)").expect("valid"));

/// What a step does, as text.
fn action(step: &AtifStep) -> String {
    let mut text = step.message.text();
    for call in step.tool_calls.iter().flatten() {
        text += &format!("\n{} ", call.function_name);
        text += &serde_json::to_string(&call.arguments).unwrap_or_default();
    }
    text
}

/// What came of each of the agent's steps.
fn heard(record: &Record) -> Vec<String> {
    let mut heard: Vec<String> = Vec::new();
    for step in &record.trajectory.steps {
        let results = step.observation.iter().flat_map(|o| &o.results);
        let texts = results.filter_map(|r| r.content.as_ref()).map(|c| c.text());
        let observed: Vec<String> = texts.collect();
        match step.source {
            StepSource::Agent if step.is_copied_context != Some(true) => {
                heard.push(observed.join("\n"));
            }
            StepSource::User => {
                if let Some(last) = heard.last_mut() {
                    last.push_str(&step.message.text());
                }
            }
            _ => {}
        }
    }
    heard
}

/// Whether the last tests that the agent ran itself all passed; `None` where
/// none ran, or their output does not say.
pub fn visible_tests_passed(record: &Record) -> Option<bool> {
    let heard = heard(record);
    let last = heard
        .iter()
        .rev()
        .find(|text| PASSED.is_match(text) || FAILED.is_match(text))?;
    let count = |pattern: &Regex| -> f64 {
        let last = pattern.captures_iter(last).last();
        last.and_then(|c| c[1].parse::<f64>().ok()).unwrap_or(0.0)
    };
    Some(count(&PASSED) > 0.0 && count(&FAILED) == 0.0)
}

fn ended_by_itself(record: &Record) -> bool {
    let end = record.end.as_deref().unwrap_or_default().to_lowercase();
    end.contains("submit") || end.contains("finish")
}

/// A forest that was fitted.
#[derive(Debug, Serialize, Deserialize)]
pub struct FeatureModel {
    forest: RandomForestRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>,
}

impl FeatureModel {
    /// Fits a forest to attempts whose label is known. The same attempts and
    /// seed give the same forest.
    ///
    /// # Errors
    /// If there are fewer than 10, or all have the same label.
    pub fn fit(labelled: &[(Vec<f64>, bool)], seed: u64) -> Result<Self, Error> {
        let good = labelled.iter().filter(|l| l.1).count();
        if labelled.len() < 10 || good == 0 || good == labelled.len() {
            return Err(Error::input(
                format!(
                    "{} attempts, {good} of them resolved, are too few to fit features to",
                    labelled.len()
                ),
                "give at least 10 graded attempts of both kinds",
            ));
        }
        let x: Vec<Vec<f64>> = labelled.iter().map(|l| l.0.clone()).collect();
        let x = DenseMatrix::from_2d_vec(&x).map_err(Error::bug)?;
        let y: Vec<f64> = labelled.iter().map(|l| f64::from(u8::from(l.1))).collect();
        let parameters = RandomForestRegressorParameters::default()
            .with_n_trees(300)
            .with_min_samples_leaf(3)
            .with_m(5)
            .with_seed(seed);
        let forest = RandomForestRegressor::fit(&x, &y, parameters).map_err(Error::bug)?;
        Ok(Self { forest })
    }

    /// How likely each attempt resolved its issue, 0 to 1.
    ///
    /// # Errors
    /// If the forest is of other features, which is a fault of ours.
    pub fn score(&self, attempts: &[Vec<f64>]) -> Result<Vec<f64>, Error> {
        if attempts.is_empty() {
            return Ok(Vec::new());
        }
        let x = DenseMatrix::from_2d_vec(&attempts.to_vec()).map_err(Error::bug)?;
        self.forest.predict(&x).map_err(Error::bug)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forest_learns_what_tells_the_labels() {
        let one = |n: usize| {
            let good = n.is_multiple_of(3);
            let noise = (n * 7919 % 13) as f64;
            (
                vec![if good { 5.0 } else { 1.0 } + noise * 0.1, noise],
                good,
            )
        };
        let labelled: Vec<_> = (0..60).map(one).collect();
        let model = FeatureModel::fit(&labelled, 1).unwrap();
        let scores = model.score(&[vec![5.5, 3.0], vec![1.2, 3.0]]).unwrap();
        assert!(scores[0] > 0.8 && scores[1] < 0.2, "{scores:?}");
        let again = FeatureModel::fit(&labelled, 1).unwrap();
        assert_eq!(
            again.score(&[vec![5.5, 3.0], vec![1.2, 3.0]]).unwrap(),
            scores
        );
        let kept: FeatureModel =
            serde_json::from_str(&serde_json::to_string(&model).unwrap()).unwrap();
        assert_eq!(
            kept.score(&[vec![5.5, 3.0], vec![1.2, 3.0]]).unwrap(),
            scores
        );
        let e = FeatureModel::fit(&labelled[..5], 1)
            .unwrap_err()
            .to_string();
        assert!(e.contains("too few"), "{e}");
    }
}
