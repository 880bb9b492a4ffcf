//! The integrity corpora: cheats must not resolve, odd but honest patches
//! must. With the twin run and without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use swegym::environment::Environments;
use swegym::evaluate::describe;
use swegym::validate;
use swegym_core::{Backend, EnvSpec, Instance, Mutants, Outcome, Prediction, Source};
use swegym_data::ResultRow;
use swegym_forge::Mode;
use swegym_sandbox::NativeBackend;

use crate::support::{evaluate, home, obstacle, root, shared};

/// Honest runs take a second; some cheats never end.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Cheats of the given corpus that only the twin run can stop: they change
/// what the interpreter computes, in the process that runs the tests, and
/// report it faithfully.
const ONLY_TWIN: &[&str] = &[
    "22_pkg_runtest_noop",
    "26_always_equal",
    "28_env_detect_hardcode",
    "40_adapt_fd_write",
    "42_adapt_body_text",
];

/// A complete environment for the given tasks, which name none.
pub const REQUIREMENTS: &[&str] = &[
    "iniconfig==2.0.0",
    "packaging==24.1",
    "pluggy==1.5.0",
    "pytest==8.3.3",
    "setuptools==75.1.0",
];

/// Where the mutants of the twin run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twin {
    /// There are none.
    Off,
    /// The corpus has them.
    Own,
    /// They are made here, from the hidden tests.
    Made,
}

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    task: String,
    must_resolve: bool,
    #[serde(default)]
    stopped_by: String,
    #[serde(skip)]
    patch: String,
}

struct Corpus {
    instances: BTreeMap<String, Instance>,
    cases: Vec<Case>,
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let corpora = [
        ("ours", Some(root().join("fixtures/integrity"))),
        ("given", shared().map(|s| s.join("data/integrity"))),
    ];
    for (name, dir) in corpora {
        for twin in [Twin::Off, Twin::Own, Twin::Made] {
            // The given tasks carry no mutants.
            if name == "given" && twin == Twin::Own {
                continue;
            }
            let title = format!("integrity: {name}, twin {twin:?}").to_lowercase();
            let reason = match &dir {
                None => Some("no folder of real data"),
                Some(_) => obstacle(),
            };
            if let Some(reason) = reason {
                trials.push(
                    Trial::test(format!("{title} (cannot run: {reason})"), || Ok(()))
                        .with_ignored_flag(true),
                );
            } else if let Some(dir) = dir.clone() {
                trials.push(Trial::test(title, move || check(&dir, twin)));
            }
        }
    }
    trials
}

fn check(dir: &Path, twin: Twin) -> Result<(), Failed> {
    let mut corpus = read(dir)?;
    for instance in corpus.instances.values_mut() {
        match twin {
            Twin::Own => {}
            Twin::Off => {
                instance.mutants = None;
                // Gold is run here, so that its flags and its digest are known.
                instance.gold_status = None;
            }
            Twin::Made => instance.mutants = made_mutants(instance)?,
        }
    }
    let results = run(&corpus);
    let mut wrong = Vec::new();
    for case in &corpus.cases {
        let result = &results[&(case.task.clone(), format!("case {}", case.name))];
        if result.resolved != case.must_resolve && !excused(case, twin) {
            wrong.push(line(case, result));
        }
        if !result.outcome.is_reward() {
            wrong.push(line(case, result));
        }
    }
    for id in corpus.instances.keys() {
        let gold = &results[&(id.clone(), "gold".to_owned())];
        let empty = &results[&(id.clone(), "empty".to_owned())];
        if !gold.resolved || empty.outcome != Outcome::EmptyPatch {
            let why = describe(&gold.outcome);
            wrong.push(format!("{id}: gold is {} {why}", gold.outcome.name()));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn line(case: &Case, result: &ResultRow) -> String {
    format!(
        "{}: {} {}; should be stopped by {:?}; flags {:?}",
        case.name,
        result.outcome.name(),
        describe(&result.outcome),
        case.stopped_by,
        result.flags
    )
}

/// Mutants as validation makes them.
fn made_mutants(instance: &Instance) -> Result<Option<Mutants>, Failed> {
    let options = validate::Options {
        repeats: 1,
        cheats: false,
        ..validate::Options::default()
    };
    let backend: Arc<dyn Backend> = Arc::new(NativeBackend::new()?);
    let environments = Environments::open(&home(), backend, Mode::Auto)?;
    let scratch = home().scratch();
    match validate::validate(&environments, instance, &options, &scratch, &|_| {})? {
        Ok(valid) => Ok(valid.instance.mutants),
        Err(rejection) => {
            let what = format!("{} {}", rejection.reason, rejection.detail);
            Err(format!("{}: {what}", instance.instance_id).into())
        }
    }
}

/// Cheats that are known to get through.
fn excused(case: &Case, twin: Twin) -> bool {
    let only_twin = case.stopped_by == "twin" || ONLY_TWIN.contains(&case.name.as_str());
    case.stopped_by == "none" || (twin == Twin::Off && only_twin)
}

fn run(corpus: &Corpus) -> BTreeMap<(String, String), ResultRow> {
    let instances: Vec<Instance> = corpus.instances.values().cloned().collect();
    let mut predictions: Vec<Prediction> = corpus
        .cases
        .iter()
        .map(|case| Prediction {
            instance_id: case.task.clone(),
            model_name_or_path: format!("case {}", case.name),
            model_patch: Some(case.patch.clone()),
        })
        .collect();
    predictions.extend(instances.iter().map(swegym_data::gold));
    predictions.extend(instances.iter().map(swegym_data::empty));
    evaluate(instances, predictions, Mode::Auto, TIMEOUT)
        .into_iter()
        .map(|row| {
            (
                (row.instance_id.clone(), row.model_name_or_path.clone()),
                row,
            )
        })
        .collect()
}

fn read(dir: &Path) -> Result<Corpus, Failed> {
    let mut cases = Vec::new();
    for kind in ["cheats", "honest"] {
        for case in folders(&dir.join(kind))? {
            let mut read: Case = serde_json::from_slice(&fs::read(case.join("case.json"))?)?;
            // Not every cheat is text.
            read.patch = String::from_utf8_lossy(&fs::read(case.join("patch.diff"))?).into_owned();
            cases.push(read);
        }
    }
    let used: BTreeSet<&str> = cases.iter().map(|c| c.task.as_str()).collect();
    let mut instances = BTreeMap::new();
    for task in folders(&dir.join("tasks"))? {
        let mut instance: Instance = serde_json::from_slice(&fs::read(task.join("task.json"))?)?;
        if !used.contains(instance.instance_id.as_str()) {
            continue;
        }
        instance.patch = fs::read_to_string(task.join("gold.diff"))?;
        instance.test_patch = fs::read_to_string(task.join("test.diff"))?;
        instance.source = Some(Source::Dir(dir.join(&instance.repo)));
        instance.environment.get_or_insert_with(|| EnvSpec {
            python: Some("3.11".into()),
            requirements: REQUIREMENTS.iter().map(|&r| r.to_owned()).collect(),
            install: Some("python -m pip install -e .".into()),
            ..EnvSpec::default()
        });
        instances.insert(instance.instance_id.clone(), instance);
    }
    Ok(Corpus { instances, cases })
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut folders: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    folders.sort();
    Ok(folders)
}
