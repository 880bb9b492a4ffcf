//! Runs of the tests that nobody judges: what tasks are made from.

use std::collections::{BTreeMap, BTreeSet};

use swegym_core::{Exit, Record, Status, StatusMap, TestRun};
use swegym_grade::{Expectation, Parser, call_results};

use crate::Error;
use crate::grade::{Grader, Ran, with_mutants};

/// What to run, and how to look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look<'a> {
    /// Patch of the codebase; empty for the base.
    pub patch: &'a str,
    /// Files that replace those of the hidden tests.
    pub mutants: Option<&'a BTreeMap<String, String>>,
    /// Whether the tests run backwards.
    pub reverse: bool,
    /// Whether each test tells which functions it runs.
    pub trace: bool,
}

/// What a run showed.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Every test by official id.
    pub tests: StatusMap,
    /// Tests that reached their call, with its status.
    pub calls: StatusMap,
    /// First line of each failure, by official id.
    pub messages: BTreeMap<String, String>,
    /// Test by official id -> functions it ran (path in the codebase, line).
    /// Empty unless asked for.
    pub trace: BTreeMap<String, BTreeSet<(String, u32)>>,
    /// How the command ended.
    pub exit: Exit,
    /// Whether the runner sent its end record, or has none to send.
    pub complete: bool,
    /// Output of the command.
    pub log: String,
    /// Wall time of the command, seconds.
    pub seconds: f64,
    /// CPU time of the command, seconds, where measured.
    pub cpu_seconds: Option<f64>,
    /// Peak memory of the sandbox, bytes, where measured.
    pub peak_memory: Option<u64>,
}

impl Observation {
    /// Tests with a status.
    pub fn with_status(&self, wanted: &Status) -> impl Iterator<Item = &String> {
        self.tests
            .iter()
            .filter(move |(_, status)| *status == wanted)
            .map(|(id, _)| id)
    }
}

impl Grader<'_> {
    /// Runs the tests and tells what happened.
    ///
    /// # Errors
    /// If the sandbox fails, or a patch of the instance does not apply.
    pub fn observe(&self, look: Look<'_>) -> Result<Observation, Error> {
        let composed = self.composed(look.patch)?;
        let delta = match look.mutants {
            Some(files) => with_mutants(&composed.delta, files),
            None => composed.delta,
        };
        let mut modes = String::new();
        if look.reverse {
            modes.push_str(" reverse");
        }
        if look.trace {
            modes.push_str(" trace:");
            modes.push_str(crate::environment::TESTBED);
        }
        let ran = self.run_in_mode(&delta, &modes)?;
        let parser = self.parser()?;
        let tests = self
            .judge(parser, &ran.run, Expectation::Passed, None)
            .tests;
        Ok(observation(ran, parser, tests))
    }
}

fn observation(ran: Ran, parser: Parser, tests: StatusMap) -> Observation {
    let Ran { run, output } = ran;
    let TestRun {
        exit,
        log,
        report,
        seconds,
        ..
    } = run;
    let mut seen = Observation {
        tests,
        calls: StatusMap::new(),
        messages: BTreeMap::new(),
        trace: BTreeMap::new(),
        exit,
        complete: true,
        log,
        seconds,
        cpu_seconds: output.cpu_seconds,
        peak_memory: output.peak_memory,
    };
    let Some(report) = report else {
        seen.calls = seen.tests.clone();
        return seen;
    };
    seen.calls = call_results(&report, parser);
    seen.complete = matches!(report.records.last(), Some(Record::End { .. }));
    let mut functions = Vec::new();
    for record in report.records {
        match record {
            Record::Test {
                id,
                status: Status::Failed | Status::Error,
                message,
                ..
            } => {
                let id = parser.official_id(&id);
                seen.messages.entry(id).or_insert(message);
            }
            Record::Trace { id, new, hits } => {
                functions.extend(new);
                let ran = hits.iter().filter_map(|&n| functions.get(n as usize));
                let id = parser.official_id(&id);
                seen.trace.entry(id).or_default().extend(ran.cloned());
            }
            _ => {}
        }
    }
    seen
}
