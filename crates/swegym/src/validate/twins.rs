//! Makes twin mutants and keeps those that a correct program fails.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use swegym_core::{Instance, Mutants, Status};
use swegym_data::patch::Patch;
use swegym_forge::twin::{self, Alternative};

use super::{Stop, Trial};
use crate::Error;
use crate::observe::{Look, Mode, Observation};

/// Alternatives of a test that are tried, one run each.
const ROUNDS: usize = 5;

/// What became of the twin mutants of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinReport {
    /// Listed tests.
    pub listed: usize,
    /// Of those, tests that fail under the mutants.
    pub must_fail: usize,
    /// Tests of FAIL_TO_PASS.
    pub fail_to_pass: usize,
    /// Of those, tests that fail under the mutants.
    pub fail_to_pass_must_fail: usize,
    /// Runs that were made.
    pub runs: usize,
    /// Why tests have no mutant, with their number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without: BTreeMap<String, usize>,
}

/// A test function of a file, with the listed ids that run it.
struct Function {
    path: String,
    ids: Vec<String>,
    alternatives: Vec<Alternative>,
    /// The best alternative so far, and how many ids fail under it.
    best: Option<(usize, usize)>,
}

impl Function {
    fn settled(&self) -> bool {
        self.best.is_some_and(|(_, fail)| fail == self.ids.len())
    }
}

/// Makes mutants of the hidden tests of an instance. Visible tests are left
/// alone: a patch could know them.
pub(crate) fn mutants(
    trial: &Trial<'_>,
    instance: &Instance,
) -> Result<(Option<Mutants>, TwinReport), Stop> {
    let texts = hidden_files(trial, instance)?;
    mutants_of(instance, &texts, &mut |files, mode| {
        trial.grader(instance).observe(Look {
            patch: &instance.patch,
            mutants: Some(files),
            mode,
        })
    })
}

/// Runs the gold patch over the tests with other files.
type Run<'r> = dyn FnMut(&BTreeMap<String, String>, Mode<'_>) -> Result<Observation, Error> + 'r;

/// Rewrites the expectations of the listed tests in some files, runs the gold
/// patch over them, and keeps what fails in its call. `None` where nothing
/// does.
pub(crate) fn mutants_of(
    instance: &Instance,
    texts: &BTreeMap<String, String>,
    run: &mut Run<'_>,
) -> Result<(Option<Mutants>, TwinReport), Stop> {
    let mut report = TwinReport {
        listed: instance.tests().count(),
        fail_to_pass: instance.fail_to_pass.len(),
        ..TwinReport::default()
    };
    let mut functions = functions_of(texts, instance, &mut report);
    let mut look = |files: &BTreeMap<String, String>, only: Option<&BTreeSet<String>>| {
        report.runs += 1;
        let mode = Mode {
            only,
            explain: Some(0),
            ..Mode::default()
        };
        run(files, mode)
    };
    // The last composition whose tests were all run, with what they did.
    let mut whole: Option<(BTreeMap<String, String>, Observation)> = None;
    for round in 0..ROUNDS {
        let Some(files) = compose(texts, &functions, Some(round)) else {
            break;
        };
        let open: BTreeSet<String> = functions
            .iter()
            .filter(|f| !f.settled() && round < f.alternatives.len())
            .flat_map(|f| f.ids.iter().cloned())
            .collect();
        let seen = look(&files, (round > 0).then_some(&open))?;
        for function in functions.iter_mut().filter(|f| !f.settled()) {
            if round >= function.alternatives.len() {
                continue;
            }
            let fail = function.ids.iter().filter(|id| fails(&seen, id)).count();
            if fail > function.best.map_or(0, |(_, most)| most) {
                function.best = Some((round, fail));
            }
        }
        if round == 0 {
            whole = Some((files, seen));
        }
    }
    let Some(files) = compose(texts, &functions, None) else {
        return Ok((None, report));
    };
    let seen = match whole {
        Some((same, seen)) if same == files => seen,
        _ => look(&files, None)?,
    };
    let chosen = functions.iter().filter(|f| f.best.is_some());
    let ids: BTreeSet<&String> = chosen
        .flat_map(|f| &f.ids)
        .filter(|id| fails(&seen, id))
        .collect();
    report.must_fail = ids.len();
    report.fail_to_pass_must_fail = instance
        .fail_to_pass
        .iter()
        .filter(|id| ids.contains(id))
        .count();
    let stubborn = functions
        .iter()
        .filter(|f| f.best.is_none())
        .map(|f| f.ids.len());
    let stubborn: usize = stubborn.sum();
    if stubborn > 0 {
        report
            .without
            .insert("it passes whatever was altered".into(), stubborn);
    }
    if ids.is_empty() {
        return Ok((None, report));
    }
    let made = Mutants {
        schema: 1,
        files,
        must_fail: ids.into_iter().cloned().collect(),
    };
    Ok((Some(made), report))
}

/// Python files that the hidden tests write, as they are with the gold patch.
fn hidden_files(trial: &Trial<'_>, instance: &Instance) -> Result<BTreeMap<String, String>, Stop> {
    let patch = Patch::parse(instance.test_patch.as_bytes())
        .map_err(|e| Error::input(format!("{}: test_patch: {e}", instance.instance_id), ""))?;
    let mut composed = trial.grader(instance).composed(&instance.patch)?;
    let paths = patch.paths().into_iter().filter(|p| p.ends_with(".py"));
    Ok(paths
        .filter_map(|path| {
            let entry = composed.delta.remove(path)??;
            Some((path.to_owned(), String::from_utf8(entry.bytes).ok()?))
        })
        .collect())
}

fn functions_of(
    texts: &BTreeMap<String, String>,
    instance: &Instance,
    report: &mut TwinReport,
) -> Vec<Function> {
    let ids: Vec<String> = instance.tests().cloned().collect();
    let mut found: BTreeMap<(String, String), Function> = BTreeMap::new();
    let mut reasons: BTreeMap<&String, String> = ids
        .iter()
        .map(|id| (id, "it is in no hidden file".to_owned()))
        .collect();
    for (path, text) in texts {
        let entries = match twin::alternatives(path, text, &ids, 0) {
            Ok(entries) => entries,
            Err(_) => continue,
        };
        for (id, entry) in ids.iter().zip(entries) {
            match (entry.function, entry.reason) {
                (Some(function), None) => {
                    reasons.remove(id);
                    found
                        .entry((path.clone(), function))
                        .or_insert_with(|| Function {
                            path: path.clone(),
                            ids: Vec::new(),
                            alternatives: entry.alternatives,
                            best: None,
                        })
                        .ids
                        .push(id.clone());
                }
                (Some(_), Some(reason)) => {
                    reasons.insert(id, reason);
                }
                (None, _) => {}
            }
        }
    }
    for reason in reasons.into_values() {
        *report.without.entry(reason).or_default() += 1;
    }
    found.into_values().collect()
}

/// The files of a round: functions that are settled as they are, the others
/// with that round's alternative; without a round, all with their best one.
/// `None` if that changes nothing.
fn compose(
    texts: &BTreeMap<String, String>,
    functions: &[Function],
    round: Option<usize>,
) -> Option<BTreeMap<String, String>> {
    let mut fresh = round.is_none();
    let mut files = BTreeMap::new();
    for (path, text) in texts {
        let mut chosen: Vec<&Alternative> = Vec::new();
        for function in functions.iter().filter(|f| f.path == *path) {
            let index = match round {
                Some(round) if !function.settled() => {
                    fresh |= round < function.alternatives.len();
                    Some(round)
                }
                _ => function.best.map(|(best, _)| best),
            };
            let Some(one) = index.and_then(|i| function.alternatives.get(i)) else {
                continue;
            };
            chosen.push(one);
            if twin::compose(text, chosen.iter().copied()).is_err() {
                chosen.pop();
            }
        }
        if !chosen.is_empty()
            && let Ok(mutated) = twin::compose(text, chosen)
        {
            files.insert(path.clone(), mutated);
        }
    }
    (fresh && !files.is_empty()).then_some(files)
}

fn fails(seen: &Observation, id: &str) -> bool {
    matches!(seen.calls.get(id), Some(Status::Failed | Status::Error))
}
