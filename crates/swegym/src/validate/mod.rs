//! Validates tasks by execution: finds the tests that decide, drops those
//! that nobody should be judged by, and proves that nothing but a fix is
//! rewarded.
//!
//! ```text
//! candidate ─► environment ─► base ×2, gold ×3, backwards ─► lists
//!           ─► twin mutants ─► gold resolves, empty does not, cheats do not
//!           ─► no answer in the history ─► task
//! ```
//! Each candidate that falls out keeps its reason.

mod cheats;
mod lists;
pub mod split;
pub mod stage;
mod twins;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use swegym_core::{Backend, Exit, Instance};
use swegym_data::patch::Tree;
use swegym_forge::symptom::{self, Templates};
use swegym_store::source::leaks;

pub use cheats::{Cheat, cheats, module_of};
pub use lists::{Dropped, Lists, Runs, lists, reference_lists};
pub use twins::TwinReport;
pub(crate) use twins::mutants_of;

use crate::environment::{Environment, Environments, TESTBED};
use crate::grade::{self, GoldRecord, Grader};
use crate::observe::{Look, Mode, Observation};
use crate::{Error, compose, provenance};

/// Part of every record's key: a new way to validate makes new records.
pub const VALIDATOR_VERSION: u32 = 2;

/// How to validate.
#[derive(Debug, Clone)]
pub struct Options {
    /// Runs with the gold patch, besides the one backwards.
    pub repeats: usize,
    /// How to run the tests.
    pub grading: grade::Options,
    /// Whether twin mutants are made.
    pub twins: bool,
    /// Whether tampering patches are tried.
    pub cheats: bool,
    /// Whether releases are split into independent tasks.
    pub split: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            repeats: 3,
            grading: grade::Options {
                timeout: Duration::from_secs(600),
                ..grade::Options::default()
            },
            twins: true,
            cheats: true,
            split: true,
        }
    }
}

/// Runs on the base: two tell a steady failure from a flaky one.
const BASE_RUNS: usize = 2;

/// Why a candidate is no task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its environment could not be built.
    NoEnvironment,
    /// A patch of it does not apply.
    PatchFails,
    /// No test was run.
    NoTests,
    /// The tests take too long, or hang.
    TimedOut,
    /// The test command broke off before its end.
    Crashed,
    /// No test goes from failing to passing.
    NoFailToPass,
    /// Nor can one: the tests want a network, or a service that is not there.
    NeedsService,
    /// Tests do, but none of them steadily.
    OnlyFlaky,
    /// No test passes both before and after.
    NoPassToPass,
    /// The gold patch is not rewarded.
    GoldFails,
    /// The base is rewarded as it is.
    BaseResolves,
    /// A patch that tampers is rewarded.
    CheatResolves,
    /// The fix can be found in the environment.
    Leaks,
    /// Nothing says what is wrong without saying how to fix it.
    NoStatement,
    /// What a model wrote is not the function with a bug.
    NoBug,
    /// The machine failed, not the task; to be tried again.
    Machine,
}

impl Reason {
    /// Name in records and funnels.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoEnvironment => "no_environment",
            Self::PatchFails => "patch_fails",
            Self::NoTests => "no_tests",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
            Self::NoFailToPass => "no_fail_to_pass",
            Self::NeedsService => "needs_service",
            Self::OnlyFlaky => "only_flaky",
            Self::NoPassToPass => "no_pass_to_pass",
            Self::GoldFails => "gold_fails",
            Self::BaseResolves => "base_resolves",
            Self::CheatResolves => "cheat_resolves",
            Self::Leaks => "leaks",
            Self::NoStatement => "no_statement",
            Self::NoBug => "no_bug",
            Self::Machine => "machine",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A candidate that fell out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// In a line or a few.
    pub detail: String,
    /// What the tests, or the build, printed.
    #[serde(skip)]
    pub log: String,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            log: String::new(),
        }
    }

    pub(crate) fn with_log(mut self, log: &str) -> Self {
        self.log = log.to_owned();
        self
    }
}

/// What validation measured of a task that holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Tests that were left out.
    pub dropped: Dropped,
    /// Lists by the rule of SWE-Gym's collection.
    pub reference: Lists,
    /// Wall time of the test command with gold, seconds, the least of all runs.
    pub test_seconds: f64,
    /// CPU time likewise, where measured.
    pub test_cpu_seconds: Option<f64>,
    /// Peak memory, bytes, where measured: the most of all runs.
    pub peak_memory: Option<u64>,
    /// What became of the twin mutants.
    pub twin: Option<TwinReport>,
    /// Names of the tampering patches that were tried.
    pub cheats: Vec<String>,
}

/// A task that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Valid {
    /// With its lists, gold record and mutants.
    pub instance: Instance,
    /// What was measured.
    pub measured: Measured,
}

/// Validates one candidate. The error of the outer result is the machine's;
/// what is wrong with the candidate is a [`Rejection`].
///
/// # Errors
/// If the sandbox or the disk fails; the caller may retry.
pub fn validate(
    environments: &Environments,
    candidate: &Instance,
    options: &Options,
    scratch: &Path,
    on_step: &dyn Fn(&str),
) -> Result<Result<Valid, Rejection>, Error> {
    let environment = match environments.get(candidate, on_step) {
        Ok(environment) => environment,
        Err(e @ (Error::Build { .. } | Error::Input { .. })) => {
            return Ok(Err(Rejection::new(Reason::NoEnvironment, e.to_string())));
        }
        Err(e) => return Err(e),
    };
    let trial = Trial {
        backend: environments.backend(),
        environment: &environment,
        options,
        scratch,
    };
    let mut log = String::new();
    match trial.validate(candidate, on_step, &mut log) {
        Err(Stop::Rejected(rejection)) => Ok(Err(if rejection.log.is_empty() {
            rejection.with_log(&log)
        } else {
            rejection
        })),
        Err(Stop::Machine(e)) => Err(e),
        Ok(valid) => Ok(Ok(valid)),
    }
}

/// What ends a validation early.
pub(crate) enum Stop {
    /// The candidate is no task.
    Rejected(Rejection),
    /// The machine failed.
    Machine(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Machine(error)
    }
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// Everything the steps of a validation share.
#[derive(Clone, Copy)]
pub(crate) struct Trial<'a> {
    pub backend: &'a dyn Backend,
    pub environment: &'a Environment,
    pub options: &'a Options,
    pub scratch: &'a Path,
}

impl Trial<'_> {
    pub(crate) fn grader<'s>(&'s self, instance: &'s Instance) -> Grader<'s> {
        Grader {
            backend: self.backend,
            environment: self.environment,
            instance,
            options: &self.options.grading,
            scratch: self.scratch,
        }
    }

    fn validate(
        &self,
        candidate: &Instance,
        on_step: &dyn Fn(&str),
        log: &mut String,
    ) -> Result<Valid, Stop> {
        let grader = self.grader(candidate);
        check_applies(&grader, candidate)?;
        on_step("tests with gold");
        let mut gold = vec![self.look(&grader, &candidate.patch, false, log)?];
        on_step("tests before");
        let mut base = vec![self.look(&grader, "", false, log)?];
        let first = reference_lists(&base[0].tests, &gold[0].tests);
        let (lists_now, dropped_now, _) = lists(Runs {
            base: &base,
            gold: &gold,
            reversed: None,
        });
        // Most candidates fall out here, after two runs.
        if lists_now.fail_to_pass.is_empty() {
            return Err(no_change(&dropped_now).into());
        }
        on_step("tests again");
        while base.len() < BASE_RUNS {
            base.push(self.look(&grader, "", false, log)?);
        }
        while gold.len() < self.options.repeats.max(1) {
            gold.push(self.look(&grader, &candidate.patch, false, log)?);
        }
        let reversed = self.look(&grader, &candidate.patch, true, log)?;
        let (found, dropped, steady) = lists(Runs {
            base: &base,
            gold: &gold,
            reversed: Some(&reversed),
        });
        if found.fail_to_pass.is_empty() {
            let detail = format!(
                "flaky: {}; by order: {}",
                dropped.flaky.join(", "),
                dropped.order_dependent.join(", ")
            );
            return Err(Rejection::new(Reason::OnlyFlaky, detail).into());
        }
        let mut instance = candidate.clone();
        instance.fail_to_pass = found.fail_to_pass;
        instance.pass_to_pass = found.pass_to_pass;
        instance.gold_status = Some(steady);
        if instance.problem_statement.trim().is_empty() {
            instance.problem_statement = self.symptom(&instance, &base[0])?;
        }

        let twin = if self.options.twins {
            on_step("twin mutants");
            let (made, report) = twins::mutants(self, &instance)?;
            instance.mutants = made;
            Some(report)
        } else {
            None
        };
        let cheats = self.prove(&instance, on_step)?;
        self.check_history(&instance)?;
        provenance::describe(self.environment, &mut instance);
        let least = |values: Vec<f64>| values.into_iter().reduce(f64::min);
        let measured = Measured {
            dropped,
            reference: first,
            test_seconds: least(gold.iter().map(|run| run.seconds).collect()).unwrap_or_default(),
            test_cpu_seconds: least(gold.iter().filter_map(|run| run.cpu_seconds).collect()),
            peak_memory: gold.iter().filter_map(|run| run.peak_memory).max(),
            twin,
            cheats,
        };
        Ok(Valid { instance, measured })
    }

    /// One run, if it came to an end of its own.
    pub(crate) fn look(
        &self,
        grader: &Grader<'_>,
        patch: &str,
        reverse: bool,
        log: &mut String,
    ) -> Result<Observation, Stop> {
        let mode = Mode {
            reverse,
            explain: Some(1),
            ..Mode::default()
        };
        let seen = grader.observe(Look {
            patch,
            mode,
            ..Look::default()
        })?;
        log.clone_from(&seen.log);
        finished(&seen, &self.options.grading)?;
        Ok(seen)
    }

    /// Gold must resolve; the base and every tampering patch must not.
    pub(crate) fn prove(
        &self,
        instance: &Instance,
        on_step: &dyn Fn(&str),
    ) -> Result<Vec<String>, Stop> {
        let grader = self.grader(instance);
        let gold = GoldRecord {
            tests: instance.gold_status.clone().unwrap_or_default(),
            ..GoldRecord::default()
        };
        on_step("gold graded");
        let graded = grader.grade(&instance.patch, &gold)?;
        if !graded.outcome.resolved() {
            let flags: Vec<&str> = graded.flags.iter().map(|f| f.name.as_str()).collect();
            let detail = format!("{}; {}", graded.outcome.name(), flags.join(", "));
            return Err(Rejection::new(Reason::GoldFails, detail)
                .with_log(&graded.log)
                .into());
        }
        let base = grader.composed("")?;
        on_step("base graded");
        let graded = grader.grade("", &gold)?;
        if graded.outcome.resolved() {
            return Err(Rejection::new(Reason::BaseResolves, "no patch is needed").into());
        }
        if !self.options.cheats {
            return Ok(Vec::new());
        }
        let mut tried = Vec::new();
        for cheat in self.cheats_of(instance)? {
            // What the composed tree does not take changes nothing.
            if grader.composed(&cheat.patch)?.delta != base.delta {
                on_step(&format!("cheat {}", cheat.name));
                let graded = grader.grade(&cheat.patch, &gold)?;
                if graded.outcome.resolved() {
                    let rejection = Rejection::new(Reason::CheatResolves, cheat.name);
                    return Err(rejection.with_log(&graded.log).into());
                }
            }
            tried.push(cheat.name.to_owned());
        }
        Ok(tried)
    }

    /// An issue text from what fails before the fix.
    fn symptom(&self, instance: &Instance, seen: &Observation) -> Result<String, Stop> {
        let (_, log) = explained(&instance.fail_to_pass, &seen.log)?;
        let path = module_of(&instance.patch).unwrap_or_default();
        let text = |patch: &str| -> Result<String, Error> {
            let composed = self.grader(instance).composed(patch)?;
            let changed = composed.delta.get(&path).cloned().flatten();
            let entry = match changed {
                Some(entry) => Some(entry),
                None => self
                    .environment
                    .tree()
                    .read(&path)
                    .map_err(|e| Error::io(&path, e))?,
            };
            Ok(entry
                .map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned())
                .unwrap_or_default())
        };
        let (original, mutated) = (text(&instance.patch)?, text("")?);
        let facts = symptom::Facts {
            package: instance.repo.rsplit('/').next().unwrap_or_default(),
            tests: &instance.fail_to_pass,
            log,
            test_source: None,
            path: &path,
            root: TESTBED,
            original: &original,
            mutated: &mutated,
        };
        // Hidden tests are not to be named.
        let templates = Templates::embedded().retain(|name| name != "failing_tests");
        match symptom::render(&facts, 0, &templates) {
            Ok(written) => Ok(written.text),
            Err(e) => Err(Rejection::new(Reason::NoStatement, e.to_string()).into()),
        }
    }

    fn cheats_of(&self, instance: &Instance) -> Result<Vec<Cheat>, Error> {
        let Some(module) = module_of(&instance.patch) else {
            return Ok(Vec::new());
        };
        let source = self.environment.tree();
        let tree =
            compose::base_tree(&source, instance).map_err(|e| Error::input(e.to_string(), ""))?;
        cheats(&tree, &module).map_err(|e| Error::io(module, e))
    }

    /// The fix must be nowhere in the history that comes with the codebase.
    fn check_history(&self, instance: &Instance) -> Result<(), Stop> {
        let Some((_, tree)) = self
            .environment
            .layers
            .iter()
            .find(|(role, _)| role == "git")
        else {
            return Ok(());
        };
        let fixes: Vec<&str> = ["fix_commit", "merge_commit_sha", "head_sha"]
            .iter()
            .filter_map(|column| instance.extra.get(*column)?.as_str())
            .collect();
        let base = if instance.base_commit.is_empty() {
            "HEAD"
        } else {
            &instance.base_commit
        };
        let found = leaks(&tree.join("testbed/.git"), base, &fixes)
            .map_err(|e| Error::setup(e.to_string(), ""))?;
        if found.is_empty() {
            return Ok(());
        }
        Err(Rejection::new(Reason::Leaks, found.join("; ")).into())
    }
}

fn check_applies(grader: &Grader<'_>, candidate: &Instance) -> Result<(), Stop> {
    for patch in ["", &candidate.patch] {
        if let Err(e) = grader.compose(patch) {
            return Err(Rejection::new(Reason::PatchFails, e.to_string()).into());
        }
    }
    Ok(())
}

/// The first of these tests whose failure a log explains, and what it says.
pub(crate) fn explained<'l>(
    tests: &'l [String],
    log: &'l str,
) -> Result<(&'l String, &'l str), Rejection> {
    tests
        .iter()
        .find_map(|test| Some((test, symptom::failure(log, test)?)))
        .ok_or_else(|| {
            let detail = "the log tells of none of the failures";
            Rejection::new(Reason::NoStatement, detail).with_log(log)
        })
}

/// Why no test goes from failing to passing.
pub(crate) fn no_change(dropped: &Dropped) -> Rejection {
    const SHOWN: usize = 3;
    let wanting = &dropped.needs_network;
    if wanting.is_empty() {
        let detail = "no test fails before and passes with gold";
        return Rejection::new(Reason::NoFailToPass, detail);
    }
    let mut named: Vec<&str> = wanting.iter().take(SHOWN).map(String::as_str).collect();
    if wanting.len() > SHOWN {
        named.push("…");
    }
    let detail = format!(
        "{} tests want a network or a service: {}",
        wanting.len(),
        named.join(", ")
    );
    Rejection::new(Reason::NeedsService, detail)
}

/// Whether a run says something.
pub(crate) fn finished(seen: &Observation, options: &grade::Options) -> Result<(), Rejection> {
    let rejection = match seen.exit {
        Exit::TimedOut => Rejection::new(
            Reason::TimedOut,
            format!("over {} s", options.timeout.as_secs()),
        ),
        Exit::OutOfMemory => Rejection::new(Reason::Crashed, "out of memory"),
        Exit::Signal(signal) => Rejection::new(Reason::Crashed, format!("signal {signal}")),
        Exit::Code(code) if !seen.complete => Rejection::new(
            Reason::Crashed,
            format!("status {code} before the end of the tests"),
        ),
        Exit::Code(code) if seen.tests.is_empty() => {
            Rejection::new(Reason::NoTests, format!("status {code}, and no test"))
        }
        Exit::Code(_) => return Ok(()),
    };
    Err(rejection.with_log(&seen.log))
}

/// A unified diff of one file; `None` where it is not there.
pub(crate) fn diff(path: &str, before: Option<&str>, after: Option<&str>) -> String {
    let mut out = format!("diff --git a/{path} b/{path}\n");
    match (before, after) {
        (None, Some(_)) => out.push_str("new file mode 100644\n"),
        (Some(_), None) => out.push_str("deleted file mode 100644\n"),
        _ => {}
    }
    let name = |side: &str, there: bool| {
        if there {
            format!("{side}/{path}")
        } else {
            "/dev/null".to_owned()
        }
    };
    let (old, new) = (before.unwrap_or_default(), after.unwrap_or_default());
    let diff = similar::TextDiff::from_lines(old, new);
    // git names no files above no hunks.
    if old != new {
        let (a, b) = (name("a", before.is_some()), name("b", after.is_some()));
        out += &format!("--- {a}\n+++ {b}\n");
    }
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        let text = hunk.to_string();
        let (range, lines) = text.split_once('\n').unwrap_or((&text, ""));
        let first = hunk.ops().first().map_or(0, |op| op.old_range().start);
        out += &format!("{range}{}\n{lines}", section(old, first));
    }
    out
}

/// What git writes behind a hunk's range: the function or class that line
/// `first` (from 0) is in.
fn section(text: &str, first: usize) -> String {
    let opens = |line: &&str| {
        let line = line.trim_start();
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.starts_with("def ") || line.starts_with("class ")
    };
    let above: Vec<&str> = text.lines().take(first).filter(opens).collect();
    above.last().map_or(String::new(), |line| {
        let shown: String = line.trim().chars().take(80).collect();
        format!(" {shown}")
    })
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn diffs_are_as_git_writes_them() {
        let old = "class A:\n    def f(self):\n        a = 1\n        b = 2\n        c = 3\n        return a\n";
        let new = old.replace("return a", "return b");
        assert_eq!(
            diff("a.py", Some(old), Some(&new)),
            "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -3,4 +3,4 @@ def f(self):\n         a = 1\n         \
             b = 2\n         c = 3\n-        return a\n+        return b\n"
        );
        let empty = "diff --git a/e.py b/e.py\nnew file mode 100644\n";
        assert_eq!(diff("e.py", None, Some("")), empty);
        let unended = diff("n", Some("x"), Some("y"));
        assert!(
            unended
                .ends_with("-x\n\\ No newline at end of file\n+y\n\\ No newline at end of file\n"),
            "{unended}"
        );
    }
}
