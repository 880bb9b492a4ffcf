//! Splits a candidate that is a whole release into independent tasks
//! (docs/design/mining.md): what can be taken of its patches, and in which
//! order to try, is [`swegym_forge::split`]'s; here it is run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use swegym_core::{Instance, Status};
use swegym_data::patch::{FileEntry, Matching, Patch, Tree};
use swegym_forge::changelog::{self, Entry, Focus};
use swegym_forge::split::{
    FileChange, Group, Limits, Outcome, Parts, Question, Release, Side, search,
};

use super::{
    Options, Reason, Rejection, Runs, Stop, Trial, check_applies, diff, finished, lists, no_change,
};
use crate::environment::Environments;
use crate::observe::{Look, Mode, Observation};
use crate::records::Records;
use crate::{Error, compose, hash};

/// Part of every record's key: a new way to split makes new records.
pub const SPLIT_VERSION: u32 = 1;

/// Column of a candidate that is a whole release: the entries of its
/// changelog. Tasks do not have it.
pub const ENTRIES: &str = "release_entries";

/// Column of a task that is a part of a release: the candidate.
pub const PART_OF: &str = "part_of";

/// A single group of less than this part of the failing tests does not stand
/// for the release.
const ENOUGH: f64 = 0.25;

/// A run with some parts may take so many times as long as one with all, and
/// this much longer.
const PATIENCE: f64 = 4.0;
const GRACE: Duration = Duration::from_secs(20);

/// Tests of each file that are run to see that nothing else breaks, besides
/// those that run what changed.
const OF_EACH_FILE: usize = 3;

/// Tests that may be found to hang without the fix, before the release is
/// given up: each costs a run to its limit.
const MOST_ENDLESS: usize = 4;

/// What became of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// What is to be validated, in order; none if it fell out.
    pub tasks: Vec<Instance>,
    /// Tests that the release turns.
    pub tests: usize,
    /// Of those, how many the tasks hold.
    pub covered: usize,
    /// Runs of the tests that it took.
    pub runs: usize,
    /// Why it fell out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
}

impl Split {
    /// A candidate that stays as it is.
    pub fn whole(candidate: &Instance) -> Self {
        let mut task = candidate.clone();
        task.extra.shift_remove(ENTRIES);
        Self {
            tasks: vec![task],
            tests: 0,
            covered: 0,
            runs: 0,
            rejection: None,
        }
    }
}

/// Whether a candidate is a whole release, and may be several tasks.
pub fn is_release(candidate: &Instance) -> bool {
    candidate.extra.contains_key(ENTRIES)
}

/// Runs of the tests that were done before.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Where they are.
    pub runs: &'a Records,
    /// What the release depends on.
    pub key: &'a str,
}

/// Splits a candidate. The error is the machine's.
///
/// # Errors
/// If the sandbox or the disk fails; the caller may retry.
pub fn split(
    environments: &Environments,
    candidate: &Instance,
    options: &Options,
    scratch: &Path,
    known: Known<'_>,
) -> Result<Split, Error> {
    let dropped = |rejection| Split {
        tasks: Vec::new(),
        tests: 0,
        covered: 0,
        runs: 0,
        rejection: Some(rejection),
    };
    let environment = match environments.get(candidate, &|_| {}) {
        Ok(environment) => environment,
        Err(e @ (Error::Build { .. } | Error::Input { .. })) => {
            let rejection = Rejection::new(Reason::NoEnvironment, e.to_string());
            return Ok(dropped(rejection));
        }
        Err(e) => return Err(e),
    };
    let trial = Trial {
        backend: environments.backend(),
        environment: &environment,
        options,
        scratch,
    };
    match Splitter::new(trial, candidate, known).and_then(|splitter| match splitter {
        Some(splitter) => splitter.run(),
        None => Ok(Split::whole(candidate)),
    }) {
        Ok(split) => Ok(split),
        Err(Stop::Rejected(rejection)) => Ok(dropped(rejection)),
        Err(Stop::Machine(e)) => Err(e),
    }
}

struct Splitter<'a> {
    trial: Trial<'a>,
    candidate: &'a Instance,
    known: Known<'a>,
    sources: Release,
    tests: Release,
    /// Changed files of the tests that are no Python.
    data: Patch,
}

/// What is known before anything is tried.
struct Baseline {
    /// Tests that fail before and pass with gold -> parts of the sources that
    /// they run or name.
    wanted: BTreeMap<String, Parts>,
    /// The same -> parts of the tests that they run or name.
    own: BTreeMap<String, Parts>,
    /// Tests that pass before and with gold.
    steady: BTreeSet<String>,
    /// Parts of tests that do not end without the fix.
    hanging: Parts,
    /// The tests that are run: `wanted` and `steady`.
    only: Option<BTreeSet<String>>,
    /// Gives up on half a change that makes a loop endless before long.
    options: Options,
}

impl<'a> Splitter<'a> {
    /// `None` for patches that are not made of texts.
    fn new(
        trial: Trial<'a>,
        candidate: &'a Instance,
        known: Known<'a>,
    ) -> Result<Option<Self>, Stop> {
        check_applies(&trial.grader(candidate), candidate)?;
        let source = trial.environment.tree();
        let tree =
            compose::base_tree(&source, candidate).map_err(|e| Error::input(e.to_string(), ""))?;
        let gold = Patch::parse(candidate.patch.as_bytes()).map_err(Error::bug)?;
        let tests = Patch::parse(candidate.test_patch.as_bytes()).map_err(Error::bug)?;
        let (sources, left) = texts(&tree, gold, |_| true)?;
        if !left.files.is_empty() {
            return Ok(None);
        }
        let (tests, data) = texts(&tree, tests, |path| path.ends_with(".py"))?;
        Ok(Some(Self {
            trial,
            candidate,
            known,
            sources: release(&sources, Side::Sources),
            tests: release(&tests, Side::Tests),
            data,
        }))
    }

    fn run(&self) -> Result<Split, Stop> {
        let (baseline, mut runs) = self.baseline()?;
        let question = Question {
            sources: &self.sources,
            tests: &baseline.wanted,
            limits: Limits::default(),
        };
        let found = search(&question, |parts| {
            let tests = self.tests.importable(&self.sources, parts);
            self.try_parts(&baseline, parts, &tests, true)
        })?;
        runs += found.runs;
        let mut groups = Vec::new();
        for group in &found.groups {
            let taken: BTreeSet<&String> = found
                .groups
                .iter()
                .filter(|other| *other != group)
                .flat_map(|other| &other.tests)
                .collect();
            if let Some((group, tests)) = self.with_tests(&baseline, group, &taken, &mut runs)? {
                groups.push((group, tests));
            }
        }
        let covered: usize = groups.iter().map(|(group, _)| group.tests.len()).sum();
        let total = baseline.wanted.len();
        // Numbers of tests are far below 2^52.
        let little = (covered as f64) < ENOUGH * total as f64;
        let mut split = Split::whole(self.candidate);
        (split.tests, split.covered, split.runs) = (total, total, runs);
        if groups.is_empty() || groups.len() == 1 && little {
            return Ok(split);
        }
        split.covered = covered;
        split.tasks = self.tasks(&groups);
        Ok(split)
    }

    /// All parts once, with a trace, and none twice.
    fn baseline(&self) -> Result<(Baseline, usize), Stop> {
        let options = &self.trial.options.grading;
        let gold = self.trial.grader(self.candidate).observe(Look {
            patch: &self.candidate.patch,
            mode: Mode {
                trace: true,
                ..Mode::default()
            },
            ..Look::default()
        })?;
        finished(&gold, options)?;
        let mut baseline = Baseline {
            wanted: BTreeMap::new(),
            own: BTreeMap::new(),
            steady: BTreeSet::new(),
            hanging: Parts::new(),
            only: None,
            options: self.trial.options.clone(),
        };
        let timeout = &mut baseline.options.grading.timeout;
        *timeout = (GRACE + Duration::from_secs_f64(PATIENCE * gold.seconds)).min(*timeout);
        let mut runs = 1;
        let base = loop {
            runs += 1;
            let base = self.without_parts(&baseline)?;
            let Err(rejection) = finished(&base, &baseline.options.grading) else {
                break base;
            };
            // Without the fix, a test may never end: no task can have it.
            let there = self.importable_before(&baseline);
            // It is the one after the last that came to its end.
            let ended = base
                .tests
                .keys()
                .filter_map(|id| gold.tests.get_index_of(id));
            let next = ended.max().map_or(0, |last| last + 1);
            let missing = gold.tests.keys().skip(next);
            let endless = missing
                .map(|id| self.defining(&gold, id))
                .find(|own| !own.is_disjoint(&there));
            match endless {
                Some(own) if runs <= MOST_ENDLESS + 1 => baseline.hanging.extend(own),
                _ if rejection.reason == Reason::NoTests => break base,
                _ => return Err(rejection.into()),
            }
        };
        let passed = |seen: &Observation| -> BTreeSet<String> {
            seen.with_status(&Status::Passed).cloned().collect()
        };
        let (with_gold, before) = (passed(&gold), passed(&base));
        baseline.steady = with_gold.intersection(&before).cloned().collect();
        for test in with_gold.difference(&before) {
            let own = self.entered(&self.tests, &gold, test);
            if !own.is_disjoint(&baseline.hanging) {
                continue;
            }
            let own = self.tests.closure(&own);
            let mut sources = self.entered(&self.sources, &gold, test);
            sources.extend(self.sources.named_by(&self.tests, &own));
            baseline.wanted.insert(test.clone(), sources);
            baseline.own.insert(test.clone(), own);
        }
        if baseline.wanted.is_empty() {
            let (_, dropped, _) = lists(Runs {
                base: std::slice::from_ref(&base),
                gold: std::slice::from_ref(&gold),
                reversed: None,
            });
            return Err(no_change(&dropped).with_log(&gold.log).into());
        }
        self.choose_steady(&gold, &mut baseline.steady);
        let steady = baseline.steady.iter();
        baseline.only = Some(steady.chain(baseline.wanted.keys()).cloned().collect());
        // What passes among others alone, or by chance, is no measure.
        let again = passed(&self.without_parts(&baseline)?);
        baseline.steady.retain(|test| again.contains(test));
        baseline.wanted.retain(|test, _| !again.contains(test));
        Ok((baseline, runs + 1))
    }

    /// Leaves the tests that half a change could break, since all are run
    /// dozens of times: those that run what changed, and some of each file.
    fn choose_steady(&self, gold: &Observation, steady: &mut BTreeSet<String>) {
        let mut of_file: BTreeMap<String, usize> = BTreeMap::new();
        steady.retain(|test| {
            let file = test.split("::").next().unwrap_or(test);
            let count = of_file.entry(file.to_owned()).or_default();
            *count += 1;
            *count <= OF_EACH_FILE || !self.entered(&self.sources, gold, test).is_empty()
        });
    }

    /// The old release with those of the new tests that can be imported.
    fn without_parts(&self, baseline: &Baseline) -> Result<Observation, Error> {
        let tests = self.importable_before(baseline);
        self.look(baseline, "", &self.test_patch(&tests, None, true))
    }

    fn importable_before(&self, baseline: &Baseline) -> Parts {
        let tests = self.tests.importable(&self.sources, &Parts::new());
        tests.difference(&baseline.hanging).copied().collect()
    }

    /// The part with the function of a test, without what it calls.
    fn defining(&self, seen: &Observation, test: &str) -> Parts {
        let mut parts = self.entered(&self.tests, seen, test);
        parts.retain(|&part| {
            let names = self.tests.parts[part].names.iter();
            names
                .filter_map(|name| name.rsplit('.').next())
                .any(|name| test.contains(name))
        });
        parts
    }

    /// Parts that a test ran.
    fn entered(&self, release: &Release, seen: &Observation, test: &str) -> Parts {
        let ran = seen.trace.get(test).into_iter().flatten();
        ran.filter_map(|(path, line)| release.at(path, *line as usize))
            .collect()
    }

    /// Runs tests with some parts of the sources.
    fn try_parts(
        &self,
        baseline: &Baseline,
        parts: &Parts,
        tests: &Parts,
        data: bool,
    ) -> Result<Outcome, Stop> {
        let tests = tests.difference(&baseline.hanging).copied().collect();
        let test_patch = self.test_patch(&tests, None, data);
        let patch = self.patch(parts);
        let key = (self.known.key, &patch, &test_patch, &baseline.only);
        let key = &hash(&serde_json::to_vec(&key).expect("plain data"))[..32];
        if let Some(outcome) = self.known.runs.get(key) {
            return Ok(outcome);
        }
        let seen = self.look(baseline, &patch, &test_patch)?;
        let passes = |test: &&String| seen.tests.get(*test) == Some(&Status::Passed);
        let outcome = match finished(&seen, &baseline.options.grading) {
            Ok(()) => Outcome {
                passed: baseline.wanted.keys().filter(passes).cloned().collect(),
                harm: !baseline.steady.iter().all(|test| passes(&test)),
            },
            Err(_) => Outcome {
                passed: BTreeSet::new(),
                harm: true,
            },
        };
        self.known.runs.put(key, &outcome)?;
        Ok(outcome)
    }

    fn look(
        &self,
        baseline: &Baseline,
        patch: &str,
        test_patch: &str,
    ) -> Result<Observation, Error> {
        let mut instance = self.candidate.clone();
        test_patch.clone_into(&mut instance.test_patch);
        let trial = Trial {
            options: &baseline.options,
            ..self.trial
        };
        let mode = Mode {
            only: baseline.only.as_ref(),
            explain: Some(1),
            ..Mode::default()
        };
        trial.grader(&instance).observe(Look {
            patch,
            mode,
            ..Look::default()
        })
    }

    fn patch(&self, parts: &Parts) -> String {
        let files = self.sources.files(parts);
        self.rendered(&self.sources, &files)
    }

    fn rendered(&self, release: &Release, files: &BTreeMap<String, Option<String>>) -> String {
        files
            .iter()
            .map(|(path, text)| diff(path, release.before(path), text.as_deref()))
            .collect()
    }

    /// A test patch of some parts. For an environment that names all files
    /// (`of` is none), files that are not wanted are empty.
    fn test_patch(&self, parts: &Parts, of: Option<&BTreeSet<&str>>, data: bool) -> String {
        let mut files = self.tests.files(parts);
        match of {
            Some(paths) => files.retain(|path, _| paths.contains(path.as_str())),
            None => {
                let all = self.tests.files(&(0..self.tests.parts.len()).collect());
                for (path, text) in all {
                    if text.is_some() && self.tests.before(&path).is_none() {
                        files.entry(path).or_insert_with(|| Some(String::new()));
                    }
                }
            }
        }
        let mut text = self.rendered(&self.tests, &files);
        if data {
            text += &String::from_utf8_lossy(&self.data.render());
        }
        text
    }

    /// The least of the test patch with which a group stands: its own tests,
    /// then those and data, then all that can be imported.
    fn with_tests(
        &self,
        baseline: &Baseline,
        group: &Group,
        taken: &BTreeSet<&String>,
        runs: &mut usize,
    ) -> Result<Option<(Group, String)>, Stop> {
        let own = group.tests.iter().filter_map(|test| baseline.own.get(test));
        let own: Parts = own.flatten().copied().collect();
        let all = self.tests.importable(&self.sources, &group.parts);
        let all = all.difference(&baseline.hanging).copied().collect();
        let has_data = !self.data.files.is_empty();
        for (tests, data) in [(&own, false), (&own, true), (&all, true)] {
            if data && !has_data && tests == &own || tests.is_empty() {
                continue;
            }
            *runs += 1;
            let outcome = self.try_parts(baseline, &group.parts, tests, data)?;
            let held: BTreeSet<String> =
                outcome.passed.intersection(&group.tests).cloned().collect();
            let foreign = outcome.passed.iter().any(|test| taken.contains(test));
            if held.is_empty() || foreign || tests == &own && held.len() < group.tests.len() {
                continue;
            }
            let paths = self.tests.paths(tests);
            let patch = self.test_patch(tests, Some(&paths), data);
            let parts = group.parts.clone();
            return Ok(Some((Group { parts, tests: held }, patch)));
        }
        Ok(None)
    }

    fn tasks(&self, groups: &[(Group, String)]) -> Vec<Instance> {
        let texts = self.texts(groups);
        let several = groups.len() > 1;
        let id = &self.candidate.instance_id;
        groups
            .iter()
            .zip(texts)
            .enumerate()
            .map(|(n, ((group, test_patch), text))| {
                let mut task = self.candidate.clone();
                task.extra.shift_remove(ENTRIES);
                if several {
                    task.instance_id = format!("{id}-part{}", n + 1);
                    task.extra.insert(PART_OF.into(), id.as_str().into());
                }
                task.patch = self.patch(&group.parts);
                task.test_patch.clone_from(test_patch);
                task.problem_statement = text;
                task
            })
            .collect()
    }

    /// A text for each group from the entries that are about it; empty where
    /// none is.
    fn texts(&self, groups: &[(Group, String)]) -> Vec<String> {
        let entries: Vec<Entry> = self
            .candidate
            .extra
            .get(ENTRIES)
            .and_then(|column| serde_json::from_value(column.clone()).ok())
            .unwrap_or_default();
        let focus = |parts: &Parts, tests: Vec<String>| Focus {
            files: self
                .sources
                .paths(parts)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            functions: parts
                .iter()
                .flat_map(|&part| self.sources.parts[part].names.clone())
                .collect(),
            tests,
        };
        let taken: Parts = groups.iter().flat_map(|(g, _)| g.parts.clone()).collect();
        let mut focuses: Vec<Focus> = groups
            .iter()
            .map(|(group, _)| focus(&group.parts, group.tests.iter().cloned().collect()))
            .collect();
        // What no task is about draws the entries that are about it.
        let rest = self.sources.live().difference(&taken).copied().collect();
        focuses.push(focus(&rest, Vec::new()));
        let package = self.candidate.repo.rsplit('/').next().unwrap_or_default();
        let version = self.candidate.version.as_deref().unwrap_or_default();
        let mut assigned = changelog::assign(&entries, &focuses);
        assigned.pop();
        assigned
            .into_iter()
            .map(|of| {
                let of: Vec<&Entry> = of.into_iter().map(|at| &entries[at]).collect();
                changelog::problem_statement(&of, package, version).unwrap_or_default()
            })
            .collect()
    }
}

/// A changed file: path, text before and after.
type Change = (String, Option<String>, Option<String>);

/// Changed texts of which some are wanted, and the rest of the patch.
fn texts(
    tree: &dyn Tree,
    patch: Patch,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Vec<Change>, Patch), Stop> {
    let applied = patch
        .apply(tree, Matching::Exact)
        .map_err(|e| Rejection::new(Reason::PatchFails, e.to_string()))?;
    let mut changes = Vec::new();
    let mut left = Patch::default();
    for file in patch.files {
        let path = file.new_path.clone();
        let before = tree.read(&path).map_err(|e| Error::io(&path, e))?;
        let after = applied.files.get(&path).cloned().flatten();
        let text = |entry: Option<FileEntry>| match entry {
            None => Ok(None),
            Some(entry) => String::from_utf8(entry.bytes).map(Some),
        };
        let same_path = file.old_path == file.new_path;
        match (same_path && wanted(&path), text(before), text(after)) {
            (true, Ok(before), Ok(after)) => changes.push((path, before, after)),
            _ => left.files.push(file),
        }
    }
    Ok((changes, left))
}

fn release(changes: &[Change], side: Side) -> Release {
    let changes: Vec<FileChange<'_>> = changes
        .iter()
        .map(|(path, before, after)| FileChange {
            path,
            before: before.as_deref(),
            after: after.as_deref(),
        })
        .collect();
    Release::new(&changes, side)
}
