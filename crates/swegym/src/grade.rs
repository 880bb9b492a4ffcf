//! Grades one prediction (GRADING: the pipeline): compose the tree, build
//! compiled extensions again where the patch touches them, run the hidden
//! tests in a fresh sandbox, judge what the trusted runner says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use swegym_core::{
    Backend, Command, EvalType, ExecOutput, Exit, Flag, InfraKind, Instance, Limits, Outcome,
    Output, Sandbox, SandboxError, SandboxSpec, Status, StatusMap, TestRun,
};
use swegym_data::patch::FileEntry;
use swegym_grade::compat::{self, InstanceReport};
use swegym_grade::{
    Expectation, Parser, Signs, StrictInput, TwinRun, Verdict, decode_report, strict_verdict,
};

use tempfile::TempDir;

use crate::compose::{self, Base, ComposeError, Composed, Delta, Reverted};
use crate::environment::{Environment, TESTBED};
use crate::rebuild::{self, Failure, Rebuilder, Rebuilt};
use crate::{Error, hash, runner};

/// Version of the verdict's meaning; part of every result's key.
pub const GRADER_VERSION: u32 = 2;

/// Descriptor of the private channel inside the sandbox.
const CHANNEL: u32 = 199;

/// Findings of one name that a result spells out.
const DETAILS: usize = 5;

/// How to run the tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// Wall-time limit of one test run.
    pub timeout: Duration,
    /// Limits of the sandbox.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1800),
            limits: Limits::default(),
        }
    }
}

/// All that is known about a graded prediction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Graded {
    /// The typed outcome.
    pub outcome: Outcome,
    /// Advisory findings.
    pub flags: Vec<Flag>,
    /// Every test of the run by official id.
    pub tests: StatusMap,
    /// What the official rules say about the same log.
    pub official: Option<InstanceReport>,
    /// What the rules of SWE-Gym's fork say about the same log.
    pub swegym: Option<InstanceReport>,
    /// Paths of the prediction that were not taken.
    pub reverted: Vec<Reverted>,
    /// Wall time of everything, seconds.
    pub seconds: f64,
    /// Wall time of building compiled extensions again, seconds; next to
    /// nothing where the patch touches none.
    pub build_seconds: f64,
    /// Wall time of the test command, seconds.
    pub test_seconds: f64,
    /// CPU time of the test command, seconds, where measured.
    pub cpu_seconds: Option<f64>,
    /// Peak memory of the sandbox, bytes, where measured.
    pub peak_memory: Option<u64>,
    /// Output of the test command.
    #[serde(skip)]
    pub log: String,
}

impl Graded {
    /// A result that needed no run.
    pub fn without_run(outcome: Outcome) -> Self {
        Self {
            outcome,
            flags: Vec::new(),
            tests: StatusMap::new(),
            official: None,
            swegym: None,
            reverted: Vec::new(),
            seconds: 0.0,
            build_seconds: 0.0,
            test_seconds: 0.0,
            cpu_seconds: None,
            peak_memory: None,
            log: String::new(),
        }
    }
}

/// What is remembered of a gold run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GoldRecord {
    /// Status of every test.
    pub tests: BTreeMap<String, Status>,
    /// What the runner saw beside them; unknown where a dataset has only the
    /// statuses.
    #[serde(default)]
    pub signs: Option<Signs>,
}

/// A gold patch that does not resolve in its environment.
#[derive(Debug, Clone)]
pub struct GoldFailure {
    /// What is wrong, in a line.
    pub why: String,
    /// Output of the test command.
    pub log: String,
}

/// Grades predictions of one instance in its environment.
pub struct Grader<'a> {
    /// Makes the sandboxes.
    pub backend: &'a dyn Backend,
    /// Where the codebase and its dependencies are.
    pub environment: &'a Environment,
    /// The task.
    pub instance: &'a Instance,
    /// How to run.
    pub options: &'a Options,
    /// Scratch space for composed trees.
    pub scratch: &'a Path,
}

/// One run of the test command, and what it used.
pub(crate) struct Ran {
    pub run: TestRun,
    pub output: ExecOutput,
}

impl Ran {
    /// What is there to report where no test was run.
    fn nothing() -> Self {
        let exit = Exit::Code(1);
        Self {
            run: TestRun {
                exit,
                log: String::new(),
                log_truncated: false,
                report: None,
                seconds: 0.0,
            },
            output: ExecOutput {
                exit,
                stdout: Output::default(),
                stderr: Output::default(),
                channel: Vec::new(),
                seconds: 0.0,
                cpu_seconds: None,
                peak_memory: None,
            },
        }
    }
}

impl Grader<'_> {
    /// Status of every test with the gold patch.
    ///
    /// # Errors
    /// If the run breaks. A gold patch that does not resolve is `Ok(Err(…))`:
    /// nothing can be graded in this environment.
    pub fn gold_record(&self) -> Result<Result<GoldRecord, GoldFailure>, Error> {
        let composed = match self.compose(&self.instance.patch) {
            Ok(composed) => composed,
            Err(e) => {
                let why = e.to_string();
                return Ok(Err(GoldFailure {
                    log: why.clone(),
                    why,
                }));
            }
        };
        let built = match self.rebuild(&composed)? {
            Ok(built) => built,
            Err(failure) => {
                return Ok(Err(GoldFailure {
                    why: format!("gold: {}", failure.why),
                    log: failure.log,
                }));
            }
        };
        let ran = self.run(&composed.delta, built.as_ref())?;
        let parser = self.parser()?;
        let verdict = self.judge(parser, &ran.run, Expectation::GoldRun, None, None);
        if verdict.outcome.resolved() {
            return Ok(Ok(GoldRecord {
                tests: verdict.tests.into_iter().collect(),
                signs: ran.run.report.as_ref().map(Signs::of),
            }));
        }
        Ok(Err(GoldFailure {
            why: self.why_not(parser, &verdict, &ran.run),
            log: ran.run.log,
        }))
    }

    /// Grades a patch against a recorded gold run.
    ///
    /// # Errors
    /// If the sandbox or the disk fails; the caller may retry.
    pub fn grade(&self, patch: &str, gold: &GoldRecord) -> Result<Graded, Error> {
        let started = Instant::now();
        let composed = match self.compose(patch) {
            Ok(composed) => composed,
            Err(ComposeError::Prediction(why)) => {
                return Ok(Graded::without_run(Outcome::InvalidPatch(why)));
            }
            Err(ComposeError::Task(why)) => {
                return Ok(Graded::without_run(Outcome::InfraError(
                    InfraKind::GoldFails(why),
                )));
            }
        };
        let parser = self.parser()?;
        let clock = Instant::now();
        let built = self.rebuild(&composed)?;
        let build_seconds = clock.elapsed().as_secs_f64();
        let built = match built {
            Ok(built) => built,
            Err(failure) => {
                let verdict = self.unbuilt(patch, &failure)?;
                let ran = Ran::nothing();
                let mut graded = self.graded(patch, composed, parser, verdict, ran, started);
                graded.build_seconds = build_seconds;
                return Ok(graded);
            }
        };
        let ran = self.run(&composed.delta, built.as_ref())?;
        let expect = Expectation::Recorded(&gold.tests);
        let signs = gold.signs.as_ref();
        let mut verdict = self.judge(parser, &ran.run, expect, signs, None);
        if verdict.outcome.resolved()
            && let Some(mutants) = &self.instance.mutants
        {
            let mutated = with_mutants(&composed.delta, &mutants.files);
            let twin = self.run(&mutated, built.as_ref())?;
            let twin = TwinRun {
                must_fail: &mutants.must_fail,
                run: &twin.run,
            };
            verdict = self.judge(parser, &ran.run, expect, signs, Some(twin));
        }
        let mut graded = self.graded(patch, composed, parser, verdict, ran, started);
        graded.build_seconds = build_seconds;
        if let Some(built) = built.filter(|built| !built.lost.is_empty()) {
            graded.flags.push(Flag {
                name: "extension_lost".into(),
                detail: built.lost.join(", "),
            });
        }
        Ok(graded)
    }

    /// The verdict of a patch that does not build.
    fn unbuilt(&self, patch: &str, failure: &Failure) -> Result<Verdict, Error> {
        let mut detail = failure.why.clone();
        if let Some(rebuilder) = self.rebuilder() {
            let log = rebuilder.keep_log(&hash(patch.as_bytes())[..8], &failure.log)?;
            let name = log.file_name().unwrap_or_default().to_string_lossy();
            detail += &format!("; its log is {name}");
        }
        Ok(Verdict {
            outcome: if failure.timed_out {
                Outcome::Timeout
            } else {
                Outcome::Unresolved
            },
            flags: vec![Flag {
                name: "does_not_build".into(),
                detail,
            }],
            tests: StatusMap::new(),
        })
    }

    fn rebuilder(&self) -> Option<Rebuilder<'_>> {
        Some(Rebuilder {
            backend: self.backend,
            environment: self.environment,
            kit: self.environment.kit.as_ref()?,
            instance: self.instance,
            options: self.options,
        })
    }

    /// Compiled extensions of a composed tree, where the environment's are
    /// not right.
    pub(crate) fn rebuild(
        &self,
        composed: &Composed,
    ) -> Result<Result<Option<Rebuilt>, Failure>, Error> {
        match self.rebuilder() {
            Some(rebuilder) => rebuilder.rebuild(composed),
            None => Ok(Ok(None)),
        }
    }

    pub(crate) fn compose(&self, patch: &str) -> Result<Composed, ComposeError> {
        let environment = self.environment;
        let base = Base {
            tree: &environment.tree(),
            files: &environment.files,
            importable: &environment.importable,
        };
        let mut composed = compose::compose(&base, self.instance, patch)?;
        if let Some(kit) = &environment.kit {
            rebuild::drop_artefacts(kit, &mut composed);
        }
        Ok(composed)
    }

    /// A composed tree, for those who made the patch themselves.
    pub(crate) fn composed(&self, patch: &str) -> Result<Composed, Error> {
        self.compose(patch)
            .map_err(|e| Error::input(format!("{}: {e}", self.instance.instance_id), ""))
    }

    pub(crate) fn parser(&self) -> Result<Parser, Error> {
        self.environment.parser.as_ref().copied().map_err(|e| {
            Error::input(
                format!("{}: {e}", self.instance.instance_id),
                "name one in the row's `log_parser` (`swegym logs parse --parser list`)",
            )
        })
    }

    pub(crate) fn judge(
        &self,
        parser: Parser,
        run: &TestRun,
        expect: Expectation<'_>,
        gold: Option<&Signs>,
        twin: Option<TwinRun<'_>>,
    ) -> Verdict {
        strict_verdict(&StrictInput {
            fail_to_pass: &self.instance.fail_to_pass,
            pass_to_pass: &self.instance.pass_to_pass,
            expect,
            gold,
            parser,
            run,
            twin,
        })
    }

    /// Runs the test command over a composed tree in a fresh sandbox.
    fn run(&self, delta: &Delta, built: Option<&Rebuilt>) -> Result<Ran, Error> {
        self.run_in_mode(delta, built, "")
    }

    /// As `run`; modes are words for the runner (see `swegym_hook.py`).
    pub(crate) fn run_in_mode(
        &self,
        delta: &Delta,
        built: Option<&Rebuilt>,
        modes: &str,
    ) -> Result<Ran, Error> {
        let top = self.top_layer(delta)?;
        let mut sandbox = self.backend.create(&self.spec(top.path(), built))?;
        let ran = execute(self.environment, self.options, &mut *sandbox, modes)?;
        sandbox.close()?;
        Ok(ran)
    }

    /// A layer with a composed tree and the runner.
    pub(crate) fn top_layer(&self, delta: &Delta) -> Result<TempDir, Error> {
        fs::create_dir_all(self.scratch).map_err(|e| Error::io(self.scratch, e))?;
        let top = tempfile::Builder::new()
            .prefix("grade-")
            .tempdir_in(self.scratch)
            .map_err(|e| Error::io(self.scratch, e))?;
        crate::make_traversable(top.path())?;
        let write = |result: std::io::Result<()>| result.map_err(|e| Error::io(top.path(), e));
        write(compose::write_layer(delta, top.path(), TESTBED))?;
        write(runner::write_layer(
            top.path(),
            &self.environment.site_packages,
        ))?;
        Ok(top)
    }

    pub(crate) fn spec(&self, top: &Path, built: Option<&Rebuilt>) -> SandboxSpec {
        let mut spec = self.environment.sandbox_spec(false);
        if let Some(built) = built {
            spec.layers.insert(0, built.tree.clone());
        }
        spec.layers.insert(0, top.to_owned());
        spec.readonly.push(runner::DIR.into());
        spec.limits = self.options.limits.clone();
        // Sets iterate in the same order in every run.
        for (name, value) in [("PYTHONHASHSEED", "0"), ("PYTHONNOUSERSITE", "1")] {
            spec.env.entry(name.into()).or_insert_with(|| value.into());
        }
        spec
    }

    fn graded(
        &self,
        patch: &str,
        composed: Composed,
        parser: Parser,
        verdict: Verdict,
        ran: Ran,
        started: Instant,
    ) -> Graded {
        let mut flags = verdict.flags;
        if !composed.reverted.is_empty() {
            let paths: Vec<&str> = composed.reverted.iter().map(|r| r.path.as_str()).collect();
            flags.push(Flag {
                name: "reverted_paths".into(),
                detail: paths.join(", "),
            });
        }
        if !composed.moved.is_empty() {
            flags.push(Flag {
                name: "inexact_hunks".into(),
                detail: composed.moved.join(", "),
            });
        }
        let (official, swegym) = self.compat(parser, patch, &ran.run);
        if official.as_ref().is_some_and(|r| r.resolved) != verdict.outcome.resolved() {
            flags.push(Flag {
                name: "official_disagrees".into(),
                detail: format!(
                    "the official rules say {}",
                    if verdict.outcome.resolved() {
                        "unresolved"
                    } else {
                        "resolved"
                    }
                ),
            });
        }
        Graded {
            outcome: verdict.outcome,
            flags: merged(flags),
            tests: verdict.tests,
            official,
            swegym,
            reverted: composed.reverted,
            seconds: started.elapsed().as_secs_f64(),
            build_seconds: 0.0,
            test_seconds: ran.run.seconds,
            cpu_seconds: ran.output.cpu_seconds,
            peak_memory: ran.output.peak_memory,
            log: ran.run.log,
        }
    }

    /// The verdicts of the reference harnesses over the same log.
    fn compat(
        &self,
        parser: Parser,
        patch: &str,
        run: &TestRun,
    ) -> (Option<InstanceReport>, Option<InstanceReport>) {
        let task = compat::Task {
            instance_id: &self.instance.instance_id,
            fail_to_pass: &self.instance.fail_to_pass,
            pass_to_pass: &self.instance.pass_to_pass,
            parser,
            eval_type: self.instance.eval_type.unwrap_or(EvalType::PassAndFail),
        };
        let exit = match run.exit {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
            Exit::OutOfMemory => 137,
            Exit::TimedOut => 124,
        };
        let mut log = compat::swebench::official_log(&run.log, exit);
        if run.exit == Exit::TimedOut {
            log.push_str(">>>>> Tests Timed Out\n");
        }
        let official = compat::swebench::report(&task, Some(patch), &log).ok();
        let fork = format!(">>>>> Applied Patch (pred)\napplied patch\n{}", run.log);
        let swegym = compat::swegym::report(&task, Some(patch), &fork);
        (official, Some(swegym))
    }

    /// What is wrong with a gold run, for people.
    fn why_not(&self, parser: Parser, verdict: &Verdict, run: &TestRun) -> String {
        let wrong: Vec<String> = self
            .instance
            .tests()
            .filter_map(|id| match compat::lookup(id, &verdict.tests) {
                Some((_, Status::Passed | Status::Xfail)) => None,
                Some((_, status)) => Some(format!("{id} {status}")),
                None => Some(format!("{id} missing")),
            })
            .collect();
        let shown = wrong.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        format!(
            "gold is {} here ({:?}; {} of {} listed tests are wrong: {shown}; parser {parser:?})",
            verdict.outcome.name(),
            run.exit,
            wrong.len(),
            self.instance.tests().count(),
        )
    }
}

/// One flag a name; the first few details say enough.
/// Runs the test command of an environment, armed with a key of its own.
pub(crate) fn execute(
    environment: &Environment,
    options: &Options,
    sandbox: &mut dyn Sandbox,
    modes: &str,
) -> Result<Ran, Error> {
    let mut key = [0; 32];
    fill_random(&mut key);
    let mut command = Command::new([
        "/bin/bash".to_owned(),
        format!("{}/launch.sh", runner::DIR),
        runner::CLAIM.to_owned(),
        environment.test_command.clone(),
    ]);
    command.stdin = format!("{CHANNEL} {}{modes}\n", hex(&key)).into_bytes();
    command.channel = Some(CHANNEL);
    command.merge_stderr = true;
    command.timeout = Some(options.timeout);
    command.cwd = Some(TESTBED.into());
    let output = sandbox.exec(&command)?;
    let run = TestRun {
        exit: output.exit,
        log: output.stdout.text(),
        log_truncated: output.stdout.dropped > 0,
        report: Some(decode_report(&output.channel, &key)).filter(|_| environment.has_runner),
        seconds: output.seconds,
    };
    Ok(Ran { run, output })
}

fn merged(flags: Vec<Flag>) -> Vec<Flag> {
    let mut by_name: IndexMap<String, Vec<String>> = IndexMap::new();
    for flag in flags {
        by_name.entry(flag.name).or_default().push(flag.detail);
    }
    by_name
        .into_iter()
        .map(|(name, details)| {
            let more = details.len().saturating_sub(DETAILS);
            let mut detail = details[..details.len() - more].join("; ");
            if more > 0 {
                detail += &format!("; and {more} more");
            }
            Flag { name, detail }
        })
        .collect()
}

pub(crate) fn with_mutants(delta: &Delta, files: &BTreeMap<String, String>) -> Delta {
    let mut twin = delta.clone();
    for (path, text) in files {
        twin.insert(path.clone(), Some(FileEntry::regular(text.as_bytes())));
    }
    twin
}

fn fill_random(mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        let n = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())
            .expect("the kernel has random bytes");
        bytes = &mut bytes[n..];
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether a failure of the machine may pass by itself.
pub fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Sandbox(e) if !matches!(e, SandboxError::Unavailable { .. } | SandboxError::Invalid(_)))
}
