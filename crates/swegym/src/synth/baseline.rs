//! The own tests of a codebase, before anything is broken: which are steady,
//! and which functions each of them runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;
use swegym_core::{Instance, Status};
use swegym_forge::{Framework, mutate};

use super::{Options, SYNTH_VERSION};
use crate::environment::Environment;
use crate::observe::{Look, Mode};
use crate::validate::{Dropped, Runs, Stop, Trial, lists};
use crate::{Error, hash};

/// First line of a function -> the steady passing tests that run it, by their
/// number in [`Baseline::tests`].
pub(super) type Covered = BTreeMap<u32, Vec<u32>>;

/// What is known of the own tests of a codebase.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Baseline {
    /// Status of every steady test.
    pub steady: BTreeMap<String, Status>,
    /// Tests that are left out.
    pub dropped: Dropped,
    /// Path -> its functions.
    pub(super) functions: BTreeMap<String, Covered>,
    pub(super) tests: Vec<String>,
    /// Wall time of all tests, seconds.
    pub seconds: f64,
}

impl Baseline {
    /// Why no bug can become a task, if none can: one test has to notice it
    /// and another to pass still.
    pub(super) fn is_too_little(&self) -> Option<String> {
        let passing = self.steady.values().filter(|s| **s == Status::Passed);
        let mut why = match passing.count() {
            n @ (0 | 1) => format!("passing tests: {n}, and a bug needs two"),
            _ if self.functions.is_empty() => "no steady test runs a function of it".to_owned(),
            _ => return None,
        };
        let failing = &self.dropped.fails_with_gold;
        if let Some(first) = failing.first() {
            let others = match failing.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            why = format!("{why}; {first}{others} fail as it is");
        }
        Some(why)
    }
}

pub(super) fn baseline_key(environment: &Environment, options: &Options) -> String {
    let parts = json!([
        SYNTH_VERSION,
        environment.key,
        environment.test_command,
        options.validate.repeats,
        crate::runner::digest(),
    ]);
    hash(parts.to_string().as_bytes())
}

pub(super) fn take_baseline(
    trial: &Trial<'_>,
    seed: &Instance,
    on_step: &dyn Fn(&str),
) -> Result<Baseline, Stop> {
    let grader = trial.grader(seed);
    let mut log = String::new();
    let mut runs = Vec::new();
    for n in 0..trial.options.repeats.max(1) {
        on_step(&format!("tests, run {}", n + 1));
        runs.push(trial.look(&grader, "", false, &mut log)?);
    }
    on_step("tests backwards");
    let reversed = trial.look(&grader, "", true, &mut log)?;
    let (_, dropped, steady) = lists(Runs {
        base: &runs[..1],
        gold: &runs,
        reversed: Some(&reversed),
    });
    on_step("what tests run");
    let traced = grader.observe(Look {
        mode: Mode {
            trace: true,
            ..Mode::default()
        },
        ..Look::default()
    })?;
    let mut baseline = Baseline {
        dropped,
        seconds: runs[0].seconds,
        ..Baseline::default()
    };
    for (test, functions) in &traced.trace {
        if steady.get(test) != Some(&Status::Passed) {
            continue;
        }
        let number = u32::try_from(baseline.tests.len()).map_err(Error::bug)?;
        baseline.tests.push(test.clone());
        for (path, line) in functions {
            let lines = baseline.functions.entry(path.clone()).or_default();
            lines.entry(*line).or_default().push(number);
        }
    }
    baseline.steady = steady;
    Ok(baseline)
}

/// Tests that run a function: Python names its first decorator's line since
/// 3.8, and `def`'s before.
pub(super) fn tests_of<'b>(
    covered: &'b Covered,
    function: &mutate::Function,
) -> impl Iterator<Item = u32> + 'b {
    let first = u32::try_from(function.first_line).unwrap_or(u32::MAX);
    let last = u32::try_from(function.line).unwrap_or(u32::MAX);
    covered
        .range(first..=last.max(first))
        .flat_map(|(_, tests)| tests.iter().copied())
}

/// The file that a test is in.
pub(super) fn test_file(
    id: &str,
    framework: Framework,
    files: &BTreeSet<String>,
) -> Option<String> {
    match framework {
        Framework::Pytest => {
            let file = id.split("::").next()?;
            files.contains(file).then(|| file.to_owned())
        }
        Framework::Unittest | Framework::Django => {
            // `test_a (package.module.Class)`; since 3.11 with the method.
            let dotted = id.strip_suffix(')')?.rsplit_once(" (")?.1;
            let mut parts: Vec<&str> = dotted.split('.').collect();
            while !parts.is_empty() {
                let module = parts.join("/");
                let found = ["", "tests/"].iter().find_map(|root| {
                    let path = format!("{root}{module}.py");
                    files.contains(&path).then_some(path)
                });
                if found.is_some() {
                    return found;
                }
                parts.pop();
            }
            None
        }
        Framework::Sympy | Framework::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_needs_a_test_to_notice_it_and_one_to_pass() {
        let mut baseline = Baseline::default();
        baseline.functions.insert("a.py".into(), BTreeMap::new());
        let mut pass = |id: &str| baseline.steady.insert(id.to_owned(), Status::Passed);
        pass("tests/test_a.py::test_one");
        baseline.dropped.fails_with_gold = vec!["tests/test_b.py".into(), "tests/test_c.py".into()];
        assert_eq!(
            baseline.is_too_little().expect("too little"),
            "passing tests: 1, and a bug needs two; tests/test_b.py and 1 more fail as it is"
        );
        let two = "tests/test_a.py::test_two".to_owned();
        baseline.steady.insert(two, Status::Passed);
        assert_eq!(baseline.is_too_little(), None);
        baseline.functions.clear();
        assert!(baseline.is_too_little().is_some());
    }
}
