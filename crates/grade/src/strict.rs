//! The strict verdict: what a run proves, whatever the patch says about it.
//!
//! The runner's report decides; the log is a second opinion that can only
//! take a pass away. The reasons behind each rule are in
//! docs/design/grading.md.

use std::collections::BTreeMap;

use swegym_core::{Exit, Flag, InfraKind, Outcome, Record, RunReport, Status, StatusMap, TestRun};

use crate::Parser;
use crate::compat::completions;
use crate::fold::{fold, is_failure, is_pass};
use crate::{Signs, twin};

/// Names listed in a flag's detail before it only counts.
const NAMES_IN_DETAIL: usize = 5;

/// Which status a listed test must have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expectation<'a> {
    /// The one it had in the recorded gold run.
    Recorded(&'a BTreeMap<String, Status>),
    /// `PASSED`: no gold run was recorded.
    Passed,
    /// This is the gold run, taken to record its statuses: those that count
    /// as a pass officially.
    GoldRun,
}

impl<'a> From<Option<&'a BTreeMap<String, Status>>> for Expectation<'a> {
    fn from(recorded: Option<&'a BTreeMap<String, Status>>) -> Self {
        recorded.map_or(Self::Passed, Self::Recorded)
    }
}

/// A run of the mutated tests (GRADING: step 8).
#[derive(Debug, Clone, Copy)]
pub struct TwinRun<'a> {
    /// Official ids that must fail in their call phase.
    pub must_fail: &'a [String],
    /// The run.
    pub run: &'a TestRun,
}

/// All that a strict verdict rests on.
#[derive(Debug, Clone, Copy)]
pub struct StrictInput<'a> {
    /// Tests that must go from failing to passing.
    pub fail_to_pass: &'a [String],
    /// Tests that must keep passing.
    pub pass_to_pass: &'a [String],
    /// The status each must have.
    pub expect: Expectation<'a>,
    /// What else the recorded gold run showed, where that is known.
    pub gold: Option<&'a Signs>,
    /// Reads the log, and gives native ids their official form.
    pub parser: Parser,
    /// The run.
    pub run: &'a TestRun,
    /// The twin run, where one was made.
    pub twin: Option<TwinRun<'a>>,
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How the evaluation ended.
    pub outcome: Outcome,
    /// Advisory findings.
    pub flags: Vec<Flag>,
    /// Every test of the run by official id; of a gold run, the record.
    pub tests: StatusMap,
}

/// Judges a run.
///
/// In this order, the first that holds:
/// 1. `tampered`: the report is not what the runner wrote (a bad MAC, a gap,
///    a second start, bytes after the end, a wrong count in the end record), or
///    the process claims success after the runner announced failure.
/// 2. `infra_error(runner)`: the runner never started. It starts before any
///    code of the patch is imported, so that is not the patch's doing.
/// 3. `timeout`.
/// 4. `tampered`: the runner saw outcomes being changed, as it did not in the
///    gold run ([`Signs`]).
/// 5. `unresolved`: memory ran out, a signal ended the run, a listed test is
///    missing or has another status than expected, the log contradicts a
///    pass, or the exit status says failure where no test does, or is not the
///    one the runner announced.
/// 6. `tampered`: all listed tests are right, but the process left with an
///    exit status of its own choosing before the runner's end record.
/// 7. `tampered`: a test passes in the twin run, where it must fail.
/// 8. `resolved`.
///
/// Without a report (a framework that has no runner) the log alone decides and
/// the verdict is flagged `no_trusted_report`.
pub fn strict_verdict(input: &StrictInput<'_>) -> Verdict {
    let log_map = input.parser.parse(&input.run.log);
    let mut judge = Judge {
        input,
        flags: Vec::new(),
        log: &log_map,
    };
    if input.run.log_truncated {
        judge.flag("log_truncated", "the output limit cut the log".into());
    }
    let (outcome, tests) = match &input.run.report {
        Some(report) => judge.with_report(report),
        None => judge.with_log_only(),
    };
    Verdict {
        outcome,
        flags: judge.flags,
        tests: tests.unwrap_or(log_map),
    }
}

struct Judge<'a> {
    input: &'a StrictInput<'a>,
    flags: Vec<Flag>,
    log: &'a StatusMap,
}

impl Judge<'_> {
    fn flag(&mut self, name: &str, detail: String) {
        self.flags.push(Flag {
            name: name.to_owned(),
            detail,
        });
    }

    fn flag_names(&mut self, name: &str, what: &str, names: &[String]) {
        if !names.is_empty() {
            self.flag(name, format!("{what}: {}", listed(names)));
        }
    }

    fn with_report(&mut self, report: &RunReport) -> (Outcome, Option<StatusMap>) {
        self.runner_flags(report);
        if self
            .input
            .gold
            .is_some_and(|gold| gold.collection_differs(report))
        {
            self.flag(
                "collection_differs",
                "not the tests, or not the test code, that the gold run collected".into(),
            );
        }
        let results = fold(report, self.input.parser);
        self.flag_names(
            "uncollected",
            "reported without having been collected, ignored",
            &results.uncollected,
        );
        let outcome = self.judge_report(report, &results.tests);
        (outcome, Some(results.tests))
    }

    fn runner_flags(&mut self, report: &RunReport) {
        for record in &report.records {
            if let Record::Flag { name, detail } = record {
                self.flag(name, detail.clone());
            }
        }
    }

    fn judge_report(&mut self, report: &RunReport, tests: &StatusMap) -> Outcome {
        let exit = self.input.run.exit;
        let forged = forgeries(report, exit);
        if !forged.is_empty() {
            return Outcome::Tampered(forged);
        }
        if report.records.is_empty() {
            return Outcome::InfraError(InfraKind::Runner(format!(
                "the runner never started; the process ended with {}",
                describe(exit)
            )));
        }
        if exit == Exit::TimedOut {
            return Outcome::Timeout;
        }
        let interference = self.input.gold.map(|gold| gold.interference(report));
        if let Some(found) = interference.filter(|found| !found.is_empty()) {
            return Outcome::Tampered(found);
        }
        let ended = matches!(report.records.last(), Some(Record::End { .. }));
        let as_expected = self.listed_as_expected(tests);
        let uncontradicted = self.second_opinion(tests);
        let clean_exit = self.exit_agrees(tests);
        match as_expected {
            Err(outcome) => return outcome,
            Ok(true) if uncontradicted && clean_exit => {}
            Ok(_) => {
                if !ended {
                    self.flag("no_end_record", self.cut_short());
                }
                return Outcome::Unresolved;
            }
        }
        if !ended && matches!(exit, Exit::Code(_)) {
            return Outcome::Tampered(vec![self.cut_short()]);
        }
        if !ended {
            self.flag("no_end_record", self.cut_short());
            return Outcome::Unresolved;
        }
        self.judge_twin()
    }

    fn cut_short(&self) -> String {
        let exit = describe(self.input.run.exit);
        format!("the process ended with {exit} before the runner's end record")
    }

    fn with_log_only(&mut self) -> (Outcome, Option<StatusMap>) {
        self.flag("no_trusted_report", "only the log speaks".into());
        if self.input.run.exit == Exit::TimedOut {
            return (Outcome::Timeout, None);
        }
        let outcome = match self.listed_as_expected(self.log) {
            Err(outcome) => outcome,
            Ok(true) if self.exit_agrees(self.log) => self.judge_twin(),
            Ok(_) => Outcome::Unresolved,
        };
        (outcome, None)
    }

    /// Whether every listed test has the status it must have.
    ///
    /// # Errors
    /// If there is nothing to judge by: no test is listed.
    fn listed_as_expected(&mut self, tests: &StatusMap) -> Result<bool, Outcome> {
        let input = self.input;
        let mut inexact = Vec::new();
        let mut artefacts = Vec::new();
        let (mut judged, mut right) = (0, 0);
        let f2p = input.fail_to_pass.iter().map(|id| (id, false));
        let p2p = input.pass_to_pass.iter().map(|id| (id, true));
        for (id, maintained) in f2p.chain(p2p) {
            if input.run.report.is_some() && input.parser.is_artefact(id) {
                artefacts.push(id.clone());
                continue;
            }
            judged += 1;
            let found = check(id, tests, input.expect, maintained);
            right += usize::from(found.is_ok());
            if let Err(Some(difference)) = found {
                inexact.push(difference);
            }
        }
        self.flag_names(
            "not_a_test",
            "listed ids that name no test, left out",
            &artefacts,
        );
        self.flag_names(
            "inexact_status",
            "no failure, but not the expected status",
            &inexact,
        );
        if input.expect == Expectation::Passed {
            self.flag(
                "no_gold_record",
                "every listed test had to be PASSED".into(),
            );
        }
        if judged == 0 {
            let why = "the task lists no test".to_owned();
            return Err(Outcome::InfraError(InfraKind::GoldFails(why)));
        }
        Ok(right == judged)
    }

    /// Whether the log contradicts no result; each contradiction is flagged.
    fn second_opinion(&mut self, tests: &StatusMap) -> bool {
        let (mut denied, mut claimed) = (Vec::new(), Vec::new());
        for id in self
            .input
            .fail_to_pass
            .iter()
            .chain(self.input.pass_to_pass)
        {
            let in_report = all(id, tests);
            let in_log = all(id, self.log);
            if in_report.iter().any(|s| is_pass(s))
                && in_log.iter().any(|s| is_failure(s))
                && !in_report.iter().any(|s| is_failure(s))
            {
                denied.push(id.clone());
            }
            if !in_report.iter().any(|s| is_pass(s))
                && in_log.iter().any(|s| is_pass(s))
                && !self.input.parser.is_artefact(id)
            {
                claimed.push(id.clone());
            }
        }
        self.flag_names(
            "log_disagrees",
            "passed in the report, failed in the log",
            &denied,
        );
        self.flag_names(
            "log_disagrees",
            "passed in the log, not in the report",
            &claimed,
        );
        denied.is_empty()
    }

    /// Whether the exit status fits the results: one that says failure needs a
    /// failure to show for it, and the runner must have announced the same.
    fn exit_agrees(&mut self, tests: &StatusMap) -> bool {
        let exit = self.input.run.exit;
        let shows_failure = tests
            .values()
            .any(|status| is_failure(status) || *status == Status::Xpass);
        let explained = match exit {
            Exit::Code(0) => true,
            Exit::Code(_) => shows_failure,
            Exit::Signal(_) | Exit::OutOfMemory | Exit::TimedOut => false,
        };
        let agrees = explained && !self.other_exit_announced();
        if !agrees {
            let name = if exit == Exit::OutOfMemory {
                "out_of_memory"
            } else {
                "exit_disagrees"
            };
            self.flag(name, format!("the process ended with {}", describe(exit)));
        }
        agrees
    }

    fn other_exit_announced(&self) -> bool {
        let run = self.input.run;
        let last = run.report.as_ref().and_then(|report| report.records.last());
        match (last, run.exit) {
            (Some(Record::End { exit: told, .. }), Exit::Code(code)) => code != told & 0xff,
            _ => false,
        }
    }

    fn judge_twin(&mut self) -> Outcome {
        let Some(twin) = self.input.twin else {
            return Outcome::Resolved;
        };
        let finding = twin::judge(twin.must_fail, twin.run, self.input.parser);
        if !finding.tampered.is_empty() {
            return Outcome::Tampered(finding.tampered);
        }
        self.flag_names(
            "twin_inconclusive",
            "the twin run proves nothing",
            &finding.inconclusive,
        );
        Outcome::Resolved
    }
}

/// What shows that a report is not what the runner wrote.
pub(crate) fn forgeries(report: &RunReport, exit: Exit) -> Vec<String> {
    let mut reasons = report.defects.clone();
    let starts = report
        .records
        .iter()
        .filter(|r| matches!(r, Record::Start { .. }))
        .count();
    if starts > 1 {
        reasons.push(format!("{starts} start records"));
    }
    if !report.records.is_empty() && !matches!(report.records[0], Record::Start { .. }) {
        reasons.push("the first record is not the start record".into());
    }
    if let Some(Record::End { exit: told, tests }) = report.records.last() {
        let sent = report
            .records
            .iter()
            .filter(|r| matches!(r, Record::Test { .. }))
            .count();
        if sent as u64 != *tests {
            reasons.push(format!(
                "the end record counts {tests} results, {sent} came"
            ));
        }
        if *told != 0 && exit == Exit::Code(0) {
            reasons.push(format!(
                "the end record says exit status {told}, the process left with 0"
            ));
        }
    }
    reasons
}

/// The statuses of a listed id in a map: its own, or those of the ids it was
/// cut from.
fn all<'m>(id: &str, map: &'m StatusMap) -> Vec<&'m Status> {
    match map.get(id) {
        Some(status) => vec![status],
        None => completions(id, map.iter())
            .map(|(_, status)| status)
            .collect(),
    }
}

/// Whether a listed test is as expected. The error holds a description where
/// the status is a good one, only not that which was expected.
fn check(
    id: &str,
    tests: &StatusMap,
    expect: Expectation<'_>,
    maintained: bool,
) -> Result<(), Option<String>> {
    let found = all(id, tests);
    let Some(first) = found.first() else {
        return Err(None);
    };
    if found.iter().any(|status| is_pass(status) != is_pass(first)) {
        return Err(Some(format!("{id} (cut, and what it begins disagrees)")));
    }
    let right = match expect {
        Expectation::Passed => found.iter().all(|status| **status == Status::Passed),
        Expectation::GoldRun => found
            .iter()
            .all(|status| is_pass(status) || maintained && **status == Status::Skipped),
        Expectation::Recorded(gold) => as_recorded(id, tests, gold),
    };
    if right {
        return Ok(());
    }
    let failed = found.iter().any(|status| is_failure(status));
    Err((!failed).then(|| format!("{id} is {first}")))
}

/// Whether a listed test, or every test its id was cut from, has the status of
/// the gold run.
fn as_recorded(id: &str, tests: &StatusMap, gold: &BTreeMap<String, Status>) -> bool {
    if let Some(status) = gold.get(id) {
        return all(id, tests).iter().all(|found| *found == status);
    }
    let mut recorded = completions(id, gold.iter()).peekable();
    recorded.peek().is_some() && recorded.all(|(key, status)| tests.get(key) == Some(status))
}

fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        Exit::TimedOut => "the time limit".into(),
        Exit::OutOfMemory => "its memory used up".into(),
    }
}

/// The first few names, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMES_IN_DETAIL)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(NAMES_IN_DETAIL) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
