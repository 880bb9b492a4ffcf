//! Makes tasks by injecting bugs into functions that tests cover (SWE-smith's
//! idea): the gold patch takes the bug out again.
//!
//! Per codebase, once: environment, a steady baseline of its own tests, which
//! test runs which function, and a proof that tampering is not rewarded. Per
//! bug: the tests that run it, in a copy of a warm sandbox; where one notices,
//! all tests of the task in a fresh one, as graded. See
//! docs/design/validation.md.

mod baseline;
mod rewrites;
pub mod seeds;
pub mod stage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use swegym_core::{Instance, Mutants, Status, TestIds, TestRun};
use swegym_data::patch::Tree;
use swegym_forge::mutate::{self, Mutation};
use swegym_forge::symptom::{self, Templates};
use swegym_forge::visible;
use swegym_grade::{Expectation, Signs};

pub use baseline::Baseline;
use baseline::{Covered, baseline_key, take_baseline, test_file, tests_of};
pub use rewrites::Rewriter;

use crate::environment::{Environment, Environments};
use crate::observe::{Look, Mode, Observation, Warm, observation};
use crate::protect::is_test_path;
use crate::records::Records;
use crate::validate::{self, Reason, Rejection, Stop, Trial, diff, finished};
use crate::{Error, grade, hash, provenance};

/// Part of every record's key.
const SYNTH_VERSION: u32 = 3;

/// A suite with a bug in it may take this many times longer than without.
const PATIENCE: f64 = 10.0;
/// And so much more, for machines that are busy.
const GRACE: Duration = Duration::from_secs(20);

/// What to inject, and how to prove it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Mutations of each function, their families, the seed.
    pub mutate: mutate::Options,
    /// Combinations of two or three changes for each file.
    pub combined: usize,
    /// Most bugs to try in a codebase.
    pub limit: Option<usize>,
    /// Whether the tests that find a bug stay in the codebase.
    pub visible_tests: bool,
    /// Most test files that a bug is run against: those that cover it best.
    pub test_files: usize,
    /// How to validate.
    pub validate: validate::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mutate: mutate::Options::default(),
            combined: 0,
            limit: None,
            visible_tests: false,
            test_files: 3,
            validate: validate::Options::default(),
        }
    }
}

/// A bug to try.
#[derive(Debug, Clone)]
pub struct Bug {
    /// The broken file.
    pub path: String,
    /// What is broken.
    pub mutation: Mutation,
    /// Test files that cover it; empty where tests cannot be chosen by file.
    files: Vec<String>,
    /// What its record is found by.
    pub key: String,
}

/// How a bug ended: a task, or why not.
pub type Tried = Result<Box<Instance>, Rejection>;

/// A codebase to break.
pub struct Codebase {
    seed: Instance,
    environment: Environment,
    environments: Arc<Environments>,
    options: Options,
    scratch: PathBuf,
    baseline: Baseline,
    sets: Mutex<HashMap<Vec<String>, Slot<Arc<Set>>>>,
    /// Mutants of test files: they are of the codebase, not of a bug.
    twins: Mutex<HashMap<String, Slot<Option<Twin>>>>,
    /// Whether a task of this codebase withstands tampering.
    proven: Slot<()>,
}

/// A value that is made once, or why it cannot be; whoever comes while it is
/// made waits for it.
type Slot<T> = Arc<Mutex<Option<Result<T, Rejection>>>>;

/// Tests that are run together, and what is known of them without a bug.
struct Set {
    environment: Environment,
    gold: BTreeMap<String, Status>,
    grading: grade::Options,
    warm: Warm,
    /// The run that made it warm.
    cold: TestRun,
}

impl Codebase {
    /// Builds the environment and takes the baseline. `seed` says where the
    /// codebase comes from; its patches and tests are left out.
    ///
    /// # Errors
    /// If the machine fails. A codebase without steady tests is a rejection.
    pub fn open(
        environments: Arc<Environments>,
        seed: &Instance,
        options: &Options,
        scratch: &Path,
        records: &Records,
        on_step: &dyn Fn(&str),
    ) -> Result<Result<Self, Rejection>, Error> {
        let seed = bare(seed);
        let environment = match environments.get(&seed, on_step) {
            Ok(environment) => environment,
            Err(e @ (Error::Build { .. } | Error::Input { .. })) => {
                return Ok(Err(Rejection::new(Reason::NoEnvironment, e.to_string())));
            }
            Err(e) => return Err(e),
        };
        let trial = Trial {
            backend: environments.backend(),
            environment: &environment,
            options: &options.validate,
            scratch,
        };
        let key = format!("baseline-{}", &baseline_key(&environment, options)[..16]);
        let baseline = match records.get(&key) {
            Some(baseline) => baseline,
            None => match take_baseline(&trial, &seed, on_step) {
                Ok(baseline) => {
                    records.put(&key, &baseline)?;
                    baseline
                }
                Err(Stop::Rejected(rejection)) => return Ok(Err(rejection)),
                Err(Stop::Machine(e)) => return Err(e),
            },
        };
        if let Some(why) = baseline.is_too_little() {
            return Ok(Err(Rejection::new(Reason::NoTests, why)));
        }
        Ok(Ok(Self {
            seed,
            environment,
            environments,
            options: options.clone(),
            scratch: scratch.to_owned(),
            baseline,
            sets: Mutex::default(),
            twins: Mutex::default(),
            proven: Slot::default(),
        }))
    }

    /// What was found out about the own tests.
    pub fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Draws the bugs, at most as many as `limit` leaves beside `others`: the
    /// same for the same seed, options and codebase.
    ///
    /// # Errors
    /// If a file of the codebase cannot be read.
    pub fn bugs(&self, others: usize) -> Result<Vec<Bug>, Error> {
        let mut bugs = Vec::new();
        for (path, covered, text) in self.sources()? {
            let wanted = |f: &mutate::Function| tests_of(covered, f).next().is_some();
            let Ok(mut drawn) = mutate::sample(path, &text, &self.options.mutate, wanted) else {
                continue;
            };
            let seed = self.options.mutate.seed;
            drawn.extend(mutate::combine(
                path,
                &text,
                &drawn,
                self.options.combined,
                seed,
            ));
            let functions = mutate::functions(&text).unwrap_or_default();
            for mutation in drawn {
                let files = self.files_of(covered, &functions, &mutation);
                let key = self.key(path, &mutation, &files);
                bugs.push(Bug {
                    path: path.clone(),
                    mutation,
                    files,
                    key,
                });
            }
        }
        if let Some(limit) = self.options.limit {
            // In an order of its own, so that a limit is no bias to a file.
            bugs.sort_by(|a, b| a.key.cmp(&b.key));
            bugs.truncate(limit.saturating_sub(others));
        }
        bugs.sort_by(|a, b| (&a.path, &a.key).cmp(&(&b.path, &b.key)));
        Ok(bugs)
    }

    /// Files with functions that tests run: path, which tests run which
    /// function, text.
    fn sources(&self) -> Result<Vec<(&String, &Covered, String)>, Error> {
        let mut sources = Vec::new();
        for (path, covered) in &self.baseline.functions {
            if is_test_path(path) || !path.ends_with(".py") {
                continue;
            }
            if let Some(text) = self.text(path)? {
                sources.push((path, covered, text));
            }
        }
        Ok(sources)
    }

    fn text(&self, path: &str) -> Result<Option<String>, Error> {
        let entry = self
            .environment
            .tree()
            .read(path)
            .map_err(|e| Error::io(path, e))?;
        Ok(entry.and_then(|entry| String::from_utf8(entry.bytes).ok()))
    }

    fn key(&self, path: &str, mutation: &Mutation, files: &[String]) -> String {
        let parts = json!([
            SYNTH_VERSION,
            validate::VALIDATOR_VERSION,
            self.environment.key,
            path,
            mutation.id,
            mutation.functions,
            files,
            self.options.visible_tests,
            self.options.validate.twins,
            self.options.validate.cheats,
        ]);
        hash(parts.to_string().as_bytes())[..24].to_owned()
    }

    /// The test files that cover a mutation best.
    fn files_of(
        &self,
        covered: &Covered,
        functions: &[mutate::Function],
        mutation: &Mutation,
    ) -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let changed = functions
            .iter()
            .filter(|f| mutation.functions.contains(&f.id));
        for number in changed.flat_map(|f| tests_of(covered, f)) {
            let id = &self.baseline.tests[number as usize];
            match test_file(
                id,
                self.environment.meta.recipe.framework,
                &self.environment.files,
            ) {
                Some(file) => *counts.entry(file).or_default() += 1,
                // Its tests cannot be chosen by file: run them all.
                None => return Vec::new(),
            }
        }
        let mut files: Vec<(String, usize)> = counts.into_iter().collect();
        files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        files.truncate(self.options.test_files.max(1));
        // The same files are the same tests, whichever covers more.
        let files: BTreeSet<String> = files.into_iter().map(|(file, _)| file).collect();
        files.into_iter().collect()
    }

    /// Tries a bug.
    ///
    /// # Errors
    /// If the machine fails; the caller may retry.
    pub fn try_bug(&self, bug: &Bug) -> Result<Tried, Error> {
        match self.task(bug) {
            Ok(instance) => Ok(Ok(Box::new(instance))),
            Err(Stop::Rejected(rejection)) => Ok(Err(rejection)),
            Err(Stop::Machine(e)) => Err(e),
        }
    }

    fn task(&self, bug: &Bug) -> Result<Instance, Stop> {
        let text = self.text(&bug.path)?.unwrap_or_default();
        let broken = bug
            .mutation
            .apply(&text)
            .map_err(|e| Error::bug(format!("{}: {e}", bug.path)))?;
        let set = self.set(&bug.files)?;
        let first = self.first_look(&set, bug, &text, &broken)?;

        let mut instance = self.instance(bug, &set, &text, &broken);
        let trial = self.trial(&set);
        let fresh = |instance: &Instance| -> Result<Observation, Stop> {
            let mode = Mode {
                explain: Some(1),
                ..Mode::default()
            };
            let look = Look {
                mode,
                ..Look::default()
            };
            let seen = trial.grader(instance).observe(look)?;
            finished(&seen, &set.grading)?;
            Ok(seen)
        };
        let second = fresh(&instance)?;
        let mut lists = split(&set.gold, &first, &[&second]);
        if lists.once {
            lists = split(&set.gold, &first, &[&second, &fresh(&instance)?]);
        }
        let Lists {
            fail_to_pass,
            pass_to_pass,
            flaky,
            ..
        } = lists;
        if fail_to_pass.is_empty() && !flaky.is_empty() {
            return Err(Rejection::new(Reason::OnlyFlaky, flaky.join(", ")).into());
        }
        if fail_to_pass.is_empty() {
            return Err(unnoticed().into());
        }
        if pass_to_pass.is_empty() {
            let detail = "no test still passes";
            return Err(Rejection::new(Reason::NoPassToPass, detail).into());
        }
        let listed = |id: &String| !flaky.contains(id);
        instance.gold_status = Some(
            set.gold
                .iter()
                .filter(|(id, _)| listed(id))
                .map(|(id, status)| (id.clone(), status.clone()))
                .collect(),
        );
        instance.fail_to_pass = fail_to_pass;
        instance.pass_to_pass = pass_to_pass;
        self.describe(&mut instance, bug, &second, &text, &broken)?;
        if !self.options.visible_tests {
            self.hide_tests(&mut instance)?;
        }
        self.check(&set, &instance, bug, &broken)?;
        if self.options.validate.twins {
            instance.mutants = self.twins(&instance)?;
        }
        if self.options.validate.cheats {
            // One task stands for all of the codebase: their trees differ in
            // the bug alone.
            once(&self.proven, || self.prove(&instance))?;
        }
        provenance::describe(&self.environment, &mut instance);
        Ok(instance)
    }

    /// The tests that run what the bug changed, quickly; a bug that none of
    /// them notices falls out.
    fn first_look(
        &self,
        set: &Set,
        bug: &Bug,
        text: &str,
        broken: &str,
    ) -> Result<BTreeMap<String, Option<Status>>, Stop> {
        let functions = mutate::functions(text).unwrap_or_default();
        let covered = self.baseline.functions.get(&bug.path);
        let asked: BTreeSet<String> = functions
            .iter()
            .filter(|f| bug.mutation.functions.contains(&f.id))
            .flat_map(|f| covered.into_iter().flat_map(|lines| tests_of(lines, f)))
            .map(|number| &self.baseline.tests[number as usize])
            .filter(|id| set.gold.get(*id) == Some(&Status::Passed))
            .cloned()
            .collect();
        let change = BTreeMap::from([(bug.path.clone(), broken.to_owned())]);
        let mode = Mode {
            only: Some(&asked),
            explain: Some(0),
            ..Mode::default()
        };
        let mut seen = set.warm.observe(&set.grading, &change, mode)?;
        if seen.tests.is_empty() {
            // The runner may know them by other names.
            let mode = Mode { only: None, ..mode };
            seen = set.warm.observe(&set.grading, &change, mode)?;
        }
        finished(&seen, &set.grading)?;
        let first: BTreeMap<String, Option<Status>> = asked
            .into_iter()
            .map(|id| {
                let status = seen.tests.get(&id).cloned();
                (id, status)
            })
            .collect();
        if first.values().any(failed) {
            Ok(first)
        } else {
            Err(unnoticed().into())
        }
    }

    /// What a graded run of gold and of the base would say, from the runs that
    /// were made: gold composes to the codebase without the bug, byte for
    /// byte, the base to the one with it, and the verdict on the former's run
    /// is that it resolves.
    fn check(&self, set: &Set, instance: &Instance, bug: &Bug, broken: &str) -> Result<(), Stop> {
        let trial = self.trial(set);
        let grader = trial.grader(instance);
        let tree = set.environment.tree();
        for (patch, expected) in [(&*instance.patch, None), ("", Some(broken))] {
            let composed = match grader.compose(patch) {
                Ok(composed) => composed,
                Err(e) => return Err(Rejection::new(Reason::PatchFails, e.to_string()).into()),
            };
            let mut left = Vec::new();
            for (path, entry) in composed.delta {
                let before = tree.read(&path).map_err(|e| Error::io(&path, e))?;
                let mine = path == bug.path && expected.is_some();
                let same = match &entry {
                    Some(entry) if mine => {
                        Some(entry.bytes.as_slice()) == expected.map(str::as_bytes)
                    }
                    entry => *entry == before,
                };
                if !same {
                    left.push(path);
                }
            }
            if !left.is_empty() {
                let detail = format!("the patches do not fit together: {}", left.join(", "));
                return Err(Rejection::new(Reason::PatchFails, detail).into());
            }
        }
        let gold = instance.gold_status.clone().unwrap_or_default();
        let signs = set.cold.report.as_ref().map(Signs::of);
        let expect = Expectation::Recorded(&gold);
        let verdict = grader.judge(grader.parser()?, &set.cold, expect, signs.as_ref(), None);
        if verdict.outcome.resolved() {
            return Ok(());
        }
        let detail = verdict.outcome.name();
        Err(Rejection::new(Reason::GoldFails, detail)
            .with_log(&set.cold.log)
            .into())
    }

    /// Grades gold, base and tampering patches for real, with the smallest
    /// test file that notices the bug.
    fn prove(&self, instance: &Instance) -> Result<(), Stop> {
        let framework = self.environment.meta.recipe.framework;
        let file = |id: &String| test_file(id, framework, &self.environment.files);
        let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
        for path in instance.tests().filter_map(file) {
            *sizes.entry(path).or_default() += 1;
        }
        let noticing: BTreeSet<String> = instance.fail_to_pass.iter().filter_map(file).collect();
        let smallest = noticing.into_iter().min_by_key(|path| sizes[path]);
        let mut instance = instance.clone();
        let set = match smallest {
            Some(path) => {
                let set = self.set(std::slice::from_ref(&path))?;
                let of = |ids: &TestIds| {
                    let kept = ids.iter().filter(|id| {
                        file(id).as_ref() == Some(&path) && set.gold.contains_key(*id)
                    });
                    TestIds(kept.cloned().collect())
                };
                instance.fail_to_pass = of(&instance.fail_to_pass);
                instance.pass_to_pass = of(&instance.pass_to_pass);
                instance.gold_status = Some(set.gold.clone());
                if let Some(mutants) = &mut instance.mutants {
                    mutants.files.retain(|name, _| *name == path);
                    mutants
                        .must_fail
                        .retain(|id| file(id).as_ref() == Some(&path));
                }
                instance.mutants = instance.mutants.filter(|m| !m.must_fail.is_empty());
                set
            }
            None => self.set(&[])?,
        };
        instance.test_command = Some(set.environment.test_command.clone());
        self.trial(&set).prove(&instance, &|_| {}).map(|_| ())
    }

    fn instance(&self, bug: &Bug, set: &Set, text: &str, broken: &str) -> Instance {
        let operator = bug
            .mutation
            .changes
            .first()
            .map_or("none", |c| c.operator.as_str());
        let kind = if bug.mutation.changes.len() > 1 {
            "combined"
        } else {
            operator
        };
        let mut instance = self.seed.clone();
        instance.instance_id = format!("{}.{kind}__{}", self.seed.instance_id, &bug.key[..8]);
        instance.base_patch = Some(diff(&bug.path, Some(text), Some(broken)));
        instance.patch = diff(&bug.path, Some(broken), Some(text));
        instance.test_command = Some(set.environment.test_command.clone());
        instance.extra.insert(
            "bug".into(),
            json!({
                "path": bug.path,
                "functions": bug.mutation.functions,
                "changes": bug.mutation.changes,
            }),
        );
        instance
    }

    fn trial<'s>(&'s self, set: &'s Set) -> Trial<'s> {
        Trial {
            backend: self.environments.backend(),
            environment: &set.environment,
            options: &self.options.validate,
            scratch: &self.scratch,
        }
    }

    /// The tests of some files without a bug; made once.
    fn set(&self, files: &[String]) -> Result<Arc<Set>, Stop> {
        let slot = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            sets.entry(files.to_vec()).or_default().clone()
        };
        once(&slot, || self.make_set(files).map(Arc::new))
    }

    fn make_set(&self, files: &[String]) -> Result<Set, Stop> {
        let recipe = &self.environment.meta.recipe;
        let mut environment = self.environment.clone();
        if !files.is_empty() {
            environment.test_command = recipe.command_for(files);
        }
        let grading = &self.options.validate.grading;
        let trial = Trial {
            backend: self.environments.backend(),
            environment: &environment,
            options: &self.options.validate,
            scratch: &self.scratch,
        };
        let grader = trial.grader(&self.seed);
        let (warm, ran) = Warm::new(self.environments.shared_backend(), &grader)?;
        let run = ran.run.clone();
        let cold = observation(ran, grader.parser()?);
        finished(&cold, grading)?;
        let again = warm.observe(grading, &BTreeMap::new(), Mode::default())?;
        finished(&again, grading)?;
        let gold: BTreeMap<String, Status> = cold
            .tests
            .iter()
            .filter(|(id, status)| {
                self.baseline.steady.get(*id) == Some(status)
                    && again.tests.get(*id) == Some(status)
            })
            .map(|(id, status)| (id.clone(), status.clone()))
            .collect();
        let limit = Duration::from_secs_f64(cold.seconds.max(again.seconds) * PATIENCE) + GRACE;
        let grading = grade::Options {
            timeout: limit.min(grading.timeout),
            ..grading.clone()
        };
        Ok(Set {
            environment,
            gold,
            grading,
            warm,
            cold: run,
        })
    }

    /// Takes the tests that find the bug out of the codebase, and makes them
    /// the hidden ones. Tests whose function cannot be told stay visible.
    fn hide_tests(&self, instance: &mut Instance) -> Result<(), Error> {
        let framework = self.environment.meta.recipe.framework;
        let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in instance.fail_to_pass.iter() {
            if let Some(file) = test_file(id, framework, &self.environment.files) {
                by_file.entry(file).or_default().push(id.clone());
            }
        }
        let mut taken = instance.base_patch.clone().unwrap_or_default();
        for (file, ids) in by_file {
            let Some(text) = self.text(&file)? else {
                continue;
            };
            let Ok(without) = visible::without_tests(&file, &text, &ids) else {
                continue;
            };
            if without != text {
                taken.push_str(&diff(&file, Some(&text), Some(&without)));
                instance
                    .test_patch
                    .push_str(&diff(&file, Some(&without), Some(&text)));
            }
        }
        instance.base_patch = Some(taken);
        Ok(())
    }

    fn describe(
        &self,
        instance: &mut Instance,
        bug: &Bug,
        seen: &Observation,
        text: &str,
        broken: &str,
    ) -> Result<(), Stop> {
        let (failing, log) = validate::explained(&instance.fail_to_pass, &seen.log)?;
        let framework = self.environment.meta.recipe.framework;
        let source = match test_file(failing, framework, &self.environment.files) {
            Some(file) => self
                .text(&file)?
                .and_then(|text| visible::test_source(&file, &text, failing)),
            None => None,
        };
        let facts = symptom::Facts {
            package: package_of(&self.seed),
            tests: &instance.fail_to_pass,
            log,
            test_source: source.as_deref(),
            path: &bug.path,
            root: crate::environment::TESTBED,
            original: text,
            mutated: broken,
        };
        // Hidden tests are not to be named.
        let wanted = |name: &str| self.options.visible_tests || name != "failing_tests";
        let templates = Templates::embedded().retain(wanted);
        let written = symptom::render(&facts, self.options.mutate.seed, &templates)
            .map_err(|e| Rejection::new(Reason::NoStatement, e.to_string()).with_log(&seen.log))?;
        instance.problem_statement = written.text;
        Ok(())
    }

    /// Mutants of the hidden test files. A file's are made once, without a
    /// bug, for all tasks that share it.
    fn twins(&self, instance: &Instance) -> Result<Option<Mutants>, Stop> {
        let mut mutants = Mutants {
            schema: 1,
            files: BTreeMap::new(),
            must_fail: Vec::new(),
        };
        let listed: BTreeSet<&String> = instance.tests().collect();
        let paths = swegym_data::patch::Patch::parse(instance.test_patch.as_bytes())
            .map(|p| p.paths().into_iter().map(str::to_owned).collect::<Vec<_>>())
            .unwrap_or_default();
        for path in paths {
            let slot = {
                let mut twins = self.twins.lock().unwrap_or_else(PoisonError::into_inner);
                twins.entry(path.clone()).or_default().clone()
            };
            let Some((text, must_fail)) = once(&slot, || self.twin_of(&path))? else {
                continue;
            };
            let mine = must_fail.into_iter().filter(|id| listed.contains(id));
            mutants.must_fail.extend(mine);
            mutants.files.insert(path, text);
        }
        mutants.must_fail.sort();
        Ok((!mutants.must_fail.is_empty()).then_some(mutants))
    }

    fn twin_of(&self, path: &str) -> Result<Option<Twin>, Stop> {
        let Some(text) = self.text(path)? else {
            return Ok(None);
        };
        let set = self.set(&[path.to_owned()])?;
        let passing = set.gold.iter().filter(|(_, s)| **s == Status::Passed);
        let tests: TestIds = passing.map(|(id, _)| id.clone()).collect();
        let mut instance = self.seed.clone();
        instance.fail_to_pass = tests;
        let hidden = BTreeMap::from([(path.to_owned(), text)]);
        let (made, _) = validate::mutants_of(&instance, &hidden, &mut |files, mode| {
            set.warm.observe(&set.grading, files, mode)
        })?;
        Ok(made.and_then(|mut made| Some((made.files.remove(path)?, made.must_fail))))
    }
}

/// A mutated test file, and the tests that must fail in it.
type Twin = (String, Vec<String>);

/// What a slot holds, made if it is empty. A failure of the machine is not
/// kept.
fn once<T: Clone>(
    slot: &Mutex<Option<Result<T, Rejection>>>,
    make: impl FnOnce() -> Result<T, Stop>,
) -> Result<T, Stop> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() {
        *slot = Some(match make() {
            Ok(made) => Ok(made),
            Err(Stop::Rejected(rejection)) => Err(rejection),
            Err(machine) => return Err(machine),
        });
    }
    slot.clone().expect("just filled").map_err(Stop::from)
}

/// The seed without anything that says what to fix or test.
fn bare(seed: &Instance) -> Instance {
    Instance {
        patch: String::new(),
        test_patch: String::new(),
        problem_statement: String::new(),
        hints_text: String::new(),
        fail_to_pass: TestIds::default(),
        pass_to_pass: TestIds::default(),
        gold_status: None,
        mutants: None,
        test_command: None,
        base_patch: None,
        ..seed.clone()
    }
}

fn package_of(seed: &Instance) -> &str {
    seed.repo.rsplit('/').next().unwrap_or(&seed.repo)
}

/// FAIL_TO_PASS, PASS_TO_PASS, and what is neither because runs disagree.
struct Lists {
    fail_to_pass: TestIds,
    pass_to_pass: TestIds,
    flaky: Vec<String>,
    /// Whether a test was seen to fail only once, and in its only run.
    once: bool,
}

/// `first`: the tests of the first look, `None` where one is missing; `fresh`:
/// runs of all tests.
fn split(
    gold: &BTreeMap<String, Status>,
    first: &BTreeMap<String, Option<Status>>,
    fresh: &[&Observation],
) -> Lists {
    let (mut fail, mut pass, mut flaky, mut once) = (Vec::new(), Vec::new(), Vec::new(), false);
    for (id, _) in gold.iter().filter(|(_, s)| **s == Status::Passed) {
        let mut seen: Vec<Option<Status>> =
            fresh.iter().map(|run| run.tests.get(id).cloned()).collect();
        seen.extend(first.get(id).cloned());
        if seen.iter().all(|status| *status == Some(Status::Passed)) {
            pass.push(id.clone());
        } else if seen.iter().all(failed) {
            once |= seen.len() == 1;
            fail.push(id.clone());
        } else {
            flaky.push(id.clone());
        }
    }
    Lists {
        fail_to_pass: TestIds(fail),
        pass_to_pass: TestIds(pass),
        flaky,
        once,
    }
}

fn failed(status: &Option<Status>) -> bool {
    matches!(status, None | Some(Status::Failed | Status::Error))
}

fn unnoticed() -> Rejection {
    Rejection::new(Reason::NoFailToPass, "no test notices")
}
