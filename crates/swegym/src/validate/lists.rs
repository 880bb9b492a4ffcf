//! From runs to lists: which tests a gold patch turns, which it keeps, and
//! which nobody should be judged by.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use swegym_core::{Status, StatusMap, TestIds};

use crate::observe::Observation;

/// Tests of an instance by what the gold patch does to them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lists {
    /// Passed with gold, and failed, errored or missing before.
    #[serde(rename = "FAIL_TO_PASS")]
    pub fail_to_pass: TestIds,
    /// Passed with gold and before.
    #[serde(rename = "PASS_TO_PASS")]
    pub pass_to_pass: TestIds,
}

/// Tests that were left out, by the reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dropped {
    /// Not the same in runs that were the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaky: Vec<String>,
    /// Not the same when the tests run backwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order_dependent: Vec<String>,
    /// Failing with gold, for want of a network or of a service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs_network: Vec<String>,
    /// Failing with gold for another reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fails_with_gold: Vec<String>,
}

/// Runs of one task: at least one before, at least one with gold.
#[derive(Debug, Clone, Copy)]
pub struct Runs<'a> {
    /// The hidden tests on the base.
    pub base: &'a [Observation],
    /// The same with the gold patch.
    pub gold: &'a [Observation],
    /// With the gold patch, backwards.
    pub reversed: Option<&'a Observation>,
}

/// The lists by our rule, what was dropped, and the status of every steady
/// test with gold.
///
/// An error before counts as a failure: a module that cannot be imported
/// without the fix has tests too (SWE-GYM 8.7).
pub fn lists(runs: Runs<'_>) -> (Lists, Dropped, BTreeMap<String, Status>) {
    let mut lists = Lists::default();
    let mut dropped = Dropped::default();
    let mut steady = BTreeMap::new();
    for (id, status) in &runs.gold[0].tests {
        if runs
            .gold
            .iter()
            .any(|run| run.tests.get(id) != Some(status))
        {
            dropped.flaky.push(id.clone());
            continue;
        }
        let backwards = runs.reversed.map(|run| run.tests.get(id));
        if backwards.is_some_and(|found| found != Some(status)) {
            dropped.order_dependent.push(id.clone());
            continue;
        }
        match status {
            Status::Passed => match before(runs.base, id) {
                Before::Passed => lists.pass_to_pass.0.push(id.clone()),
                Before::Failed => lists.fail_to_pass.0.push(id.clone()),
                Before::Neither => {}
                Before::Flaky => {
                    dropped.flaky.push(id.clone());
                    continue;
                }
            },
            Status::Failed | Status::Error => {
                let message = runs.gold[0].messages.get(id);
                if message.is_some_and(|m| names_network(m)) {
                    dropped.needs_network.push(id.clone());
                } else {
                    dropped.fails_with_gold.push(id.clone());
                }
            }
            _ => {}
        }
        steady.insert(id.clone(), status.clone());
    }
    for run in &runs.gold[1..] {
        let seen = &runs.gold[0].tests;
        let only_here = run.tests.keys().filter(|id| !seen.contains_key(*id));
        dropped.flaky.extend(only_here.cloned());
    }
    dropped.flaky.sort();
    dropped.flaky.dedup();
    (lists, dropped, steady)
}

/// The lists by the rule of SWE-Gym's collection: only FAILED counts as
/// failing, from the first run of each kind.
pub fn reference_lists(base: &StatusMap, gold: &StatusMap) -> Lists {
    let mut lists = Lists::default();
    for (id, status) in gold {
        match (status, base.get(id)) {
            (Status::Passed, Some(Status::Passed)) => lists.pass_to_pass.0.push(id.clone()),
            (Status::Passed, Some(Status::Failed)) => lists.fail_to_pass.0.push(id.clone()),
            _ => {}
        }
    }
    lists
}

enum Before {
    Passed,
    Failed,
    Neither,
    Flaky,
}

fn before(base: &[Observation], id: &str) -> Before {
    let kinds: BTreeSet<u8> = base
        .iter()
        .map(|run| match run.tests.get(id) {
            Some(Status::Passed) => 0,
            None | Some(Status::Failed | Status::Error) => 1,
            Some(_) => 2,
        })
        .collect();
    match kinds.into_iter().collect::<Vec<_>>().as_slice() {
        [0] => Before::Passed,
        [1] => Before::Failed,
        [_] => Before::Neither,
        _ => Before::Flaky,
    }
}

/// What programs say that find no network, or nobody in it.
const NETWORK: [&str; 13] = [
    "Connection refused",
    "Name or service not known",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "No route to host",
    "getaddrinfo failed",
    "gaierror",
    "Failed to establish a new connection",
    "nodename nor servname",
    "NameResolutionError",
    "URLError",
    "MaxRetryError",
    "Cannot connect to host",
];

fn names_network(message: &str) -> bool {
    NETWORK.iter().any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests {
    use swegym_core::Exit;

    use super::*;
    use Status::{Error, Failed, Passed, Skipped, Xfail};

    fn run(items: &[(&str, Status)]) -> Observation {
        let tests = items
            .iter()
            .map(|(id, s)| ((*id).to_owned(), s.clone()))
            .collect::<StatusMap>();
        Observation {
            calls: tests.clone(),
            tests,
            messages: BTreeMap::from([(
                "net".to_owned(),
                "OSError: [Errno 101] Network is unreachable".to_owned(),
            )]),
            trace: BTreeMap::new(),
            exit: Exit::Code(0),
            complete: true,
            log: String::new(),
            seconds: 0.0,
            cpu_seconds: None,
            peak_memory: None,
        }
    }

    #[test]
    fn only_steady_tests_that_pass_with_gold_are_listed() {
        let base = [
            ("a", Failed),
            ("b", Passed),
            ("c", Error),
            ("d", Skipped),
            ("e", Passed),
            ("x", Passed),
            ("flaky-before", Passed),
            ("flaky-gold", Passed),
            ("order", Passed),
        ];
        let mut again = base.clone();
        again[0].1 = Error;
        again[6].1 = Failed;
        let gold = [
            ("a", Passed),
            ("b", Passed),
            ("c", Passed),
            ("d", Passed),
            ("e", Failed),
            ("n", Passed),
            ("x", Xfail),
            ("net", Error),
            ("flaky-before", Passed),
            ("flaky-gold", Passed),
            ("order", Passed),
        ];
        let mut other = gold.clone();
        other[9].1 = Failed;
        let mut backwards = gold.clone();
        backwards[10].1 = Failed;
        let (lists, dropped, steady) = lists(Runs {
            base: &[run(&base), run(&again)],
            gold: &[run(&gold), run(&other), run(&gold)],
            reversed: Some(&run(&backwards)),
        });
        assert_eq!(lists.fail_to_pass.0, ["a", "c", "n"]);
        assert_eq!(lists.pass_to_pass.0, ["b"]);
        assert_eq!(dropped.flaky, ["flaky-before", "flaky-gold"]);
        assert_eq!(dropped.order_dependent, ["order"]);
        assert_eq!(dropped.needs_network, ["net"]);
        assert_eq!(dropped.fails_with_gold, ["e"]);
        assert_eq!(steady.len(), 8);
    }

    #[test]
    fn the_reference_ignores_errors_before() {
        let base = run(&[("a", Failed), ("b", Passed), ("c", Error)]);
        let gold = run(&[("a", Passed), ("b", Passed), ("c", Passed), ("n", Passed)]);
        let lists = reference_lists(&base.tests, &gold.tests);
        assert_eq!(lists.fail_to_pass.0, ["a"]);
        assert_eq!(lists.pass_to_pass.0, ["b"]);
    }
}
