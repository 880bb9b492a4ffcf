//! From a runner's records to one status per official id.

use std::collections::HashSet;

use indexmap::map::Entry;
use swegym_core::{Phase, Record, RunReport, Status, StatusMap};

use crate::Parser;

/// All results of a report.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Official id -> status, in the order first reported.
    pub tests: StatusMap,
    /// Native ids with a good result that were never collected; these results
    /// do not count.
    pub uncollected: Vec<String>,
}

/// Folds phases into tests, and tests into official ids, as the framework's
/// log would have.
///
/// pytest lists results by kind, failures last, and the last line of an id
/// wins: the worst result counts, of the phases of a test as of the tests that
/// share an id. Elsewhere results appear as they happen: the last one counts.
pub(crate) fn fold(report: &RunReport, parser: Parser) -> Results {
    fold_phases(report, parser, |_| true)
}

/// As [`fold`], of the chosen phases only.
pub(crate) fn fold_phases(
    report: &RunReport,
    parser: Parser,
    chosen: impl Fn(Phase) -> bool,
) -> Results {
    let worst_wins = report
        .records
        .iter()
        .any(|record| matches!(record, Record::Start { framework, .. } if framework == "pytest"));
    let collected = collected(report);
    let mut results = Results::default();
    for record in &report.records {
        let Record::Test {
            id, when, status, ..
        } = record
        else {
            continue;
        };
        let Some(status) = result_of_phase(*when, status).filter(|_| chosen(*when)) else {
            continue;
        };
        if !is_failure(&status)
            && *when == Phase::Call
            && collected
                .as_ref()
                .is_some_and(|ids| !ids.contains(id.as_str()))
        {
            results.uncollected.push(id.clone());
            continue;
        }
        match results.tests.entry(parser.official_id(id)) {
            Entry::Vacant(slot) => {
                slot.insert(status);
            }
            Entry::Occupied(mut slot) => {
                if !worst_wins || rank(&status) >= rank(slot.get()) {
                    slot.insert(status);
                }
            }
        }
    }
    results
}

/// Status of every test whose call was reached, by official id: what set-up
/// and tear-down did is left out.
pub fn call_results(report: &RunReport, parser: Parser) -> StatusMap {
    fold_phases(report, parser, |phase| phase == Phase::Call).tests
}

/// The collected native ids, unless nothing was said about them.
fn collected(report: &RunReport) -> Option<HashSet<&str>> {
    let mut all = HashSet::new();
    for record in &report.records {
        if let Record::Collect { ids, .. } = record {
            all.extend(ids.iter().map(String::as_str));
        }
    }
    (!all.is_empty()).then_some(all)
}

/// What the end of one phase says about the test; `None` where it says
/// nothing, such as a fixture that was set up.
fn result_of_phase(phase: Phase, status: &Status) -> Option<Status> {
    match (phase, status) {
        (Phase::Call, status) => Some(status.clone()),
        (_, Status::Failed | Status::Error) => Some(Status::Error),
        (_, Status::Passed | Status::Xpass) => None,
        (_, status) => Some(status.clone()),
    }
}

/// Whether a status is a definite failure.
pub(crate) fn is_failure(status: &Status) -> bool {
    matches!(status, Status::Failed | Status::Error)
}

/// Whether a status counts as a pass in the official rules.
pub(crate) fn is_pass(status: &Status) -> bool {
    matches!(status, Status::Passed | Status::Xfail)
}

/// Order of pytest's summary; what it lists without an id comes first.
fn rank(status: &Status) -> u8 {
    match status {
        Status::Skipped | Status::Xpass => 0,
        Status::Passed => 1,
        Status::Xfail => 2,
        Status::Error => 3,
        Status::Failed => 4,
        Status::Other(_) => 5,
    }
}
