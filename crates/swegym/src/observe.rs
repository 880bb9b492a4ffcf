//! Runs of the tests that nobody judges: what tasks are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use swegym_core::{Backend, Exit, Record, SnapshotId, Status, StatusMap, TestIds, TestRun};
use swegym_forge::Framework;
use swegym_grade::{Expectation, Parser, StrictInput, call_results, strict_verdict};
use tempfile::TempDir;

use crate::Error;
use crate::environment::{Environment, TESTBED};
use crate::grade::{self, Grader, Ran, execute, with_mutants};

/// What to run, and how to look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look<'a> {
    /// Patch of the codebase; empty for the base.
    pub patch: &'a str,
    /// Files that replace those of the hidden tests.
    pub mutants: Option<&'a BTreeMap<String, String>>,
    /// What the runner is to do differently.
    pub mode: Mode<'a>,
}

/// What the runner does differently from a graded run (`swegym_hook.py`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Mode<'a> {
    /// Runs the tests backwards.
    pub reverse: bool,
    /// Lets each test tell which functions it runs.
    pub trace: bool,
    /// Runs only these tests, by official id; with pytest, all parameters of
    /// their functions too. Frameworks that cannot choose run all.
    pub only: Option<&'a BTreeSet<String>>,
    /// How many failures of a test function are explained in the log; pytest
    /// takes longer over a traceback than over most tests.
    pub explain: Option<u32>,
}

impl Mode<'_> {
    /// The words that the runner reads, each after a blank.
    fn words(&self, framework: Framework) -> String {
        let mut words = String::new();
        if self.reverse {
            words.push_str(" reverse");
        }
        if self.trace {
            words.push_str(" trace:");
            words.push_str(TESTBED);
        }
        if let Some(most) = self.explain {
            words += &format!(" brief:{most}");
        }
        if let Some(only) = self.only {
            let name = |id: &'_ str| match framework {
                Framework::Pytest => id.split('[').next().unwrap_or_default().to_owned(),
                _ => id.to_owned(),
            };
            let names: BTreeSet<String> = only.iter().map(|id| name(id)).collect();
            let names: Vec<String> = names.into_iter().collect();
            words += &format!(" only:{}", grade::hex(names.join("\n").as_bytes()));
        }
        words
    }
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
        let built = self.rebuild(&composed)?.map_err(|failure| {
            let what = format!("{}: {}", self.instance.instance_id, failure.why);
            Error::input(what, "")
        })?;
        let delta = match look.mutants {
            Some(files) => with_mutants(&composed.delta, files),
            None => composed.delta,
        };
        let words = look.mode.words(self.environment.meta.recipe.framework);
        let ran = self.run_in_mode(&delta, built.as_ref(), &words)?;
        Ok(observation(ran, self.parser()?))
    }
}

/// A sandbox in which the tests have run once: interpreter and framework find
/// their caches in every copy of it.
pub struct Warm {
    backend: Arc<dyn Backend>,
    environment: Environment,
    parser: Parser,
    snapshot: SnapshotId,
    /// Layer of the runner.
    _top: TempDir,
}

impl Warm {
    /// Runs the tests once, as a graded run does, and keeps what that left.
    ///
    /// # Errors
    /// If the sandbox fails.
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        grader: &Grader<'_>,
    ) -> Result<(Self, Ran), Error> {
        let composed = grader.composed("")?;
        let top = grader.top_layer(&composed.delta)?;
        let mut sandbox = backend.create(&grader.spec(top.path(), None))?;
        let ran = execute(grader.environment, grader.options, &mut *sandbox, "")?;
        let snapshot = sandbox.snapshot()?;
        sandbox.close()?;
        let warm = Self {
            environment: grader.environment.clone(),
            parser: grader.parser()?,
            snapshot,
            backend,
            _top: top,
        };
        Ok((warm, ran))
    }

    /// Runs the tests in a copy with other files.
    ///
    /// # Errors
    /// If the sandbox fails.
    pub fn observe(
        &self,
        options: &grade::Options,
        files: &BTreeMap<String, String>,
        mode: Mode<'_>,
    ) -> Result<Observation, Error> {
        let mut sandbox = self.backend.restore(&self.snapshot)?;
        for (path, text) in files {
            let path = Path::new(TESTBED).join(path);
            sandbox.write(&path, text.as_bytes(), false)?;
        }
        let words = mode.words(self.environment.meta.recipe.framework);
        let ran = execute(&self.environment, options, &mut *sandbox, &words)?;
        sandbox.close()?;
        Ok(observation(ran, self.parser))
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        // It may be gone with its backend already.
        let _ = self.backend.drop_snapshot(&self.snapshot);
    }
}

pub(crate) fn observation(ran: Ran, parser: Parser) -> Observation {
    let Ran { run, output } = ran;
    let nothing = TestIds::default();
    let verdict = strict_verdict(&StrictInput {
        fail_to_pass: &nothing,
        pass_to_pass: &nothing,
        expect: Expectation::Passed,
        gold: None,
        parser,
        run: &run,
        twin: None,
    });
    let tests = verdict.tests;
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
