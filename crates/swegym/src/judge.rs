//! Judges one prediction of one instance: environment, gold record, verdict.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use swegym_core::{InfraKind, Instance, Outcome, Prediction};
use swegym_data::{KeyParts, Resources, ResultRow};

use crate::environment::{Environment, Environments};
use crate::grade::{self, GRADER_VERSION, GoldRecord, Graded, Grader};
use crate::home::Home;
use crate::{Error, hash, runner};

/// A gold run's record, or why there is none.
type Gold = Result<Arc<GoldRecord>, String>;

/// Judges predictions, and remembers what gold does.
pub struct Judge {
    environments: Arc<Environments>,
    home: Home,
    scratch: PathBuf,
    options: grade::Options,
    gold: Mutex<HashMap<String, Arc<Mutex<Option<Gold>>>>>,
}

/// A prediction that was judged.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The result.
    pub row: ResultRow,
    /// All that is known about it.
    pub graded: Graded,
    /// Whether it failed for a reason that may pass by itself.
    pub retry: bool,
}

impl Judge {
    /// A judge over an environment store.
    pub fn new(environments: Arc<Environments>, home: &Home, options: grade::Options) -> Self {
        Self {
            environments,
            home: home.clone(),
            scratch: home.scratch(),
            options,
            gold: Mutex::new(HashMap::new()),
        }
    }

    /// Judges a prediction; what fails is its outcome.
    pub fn judge(
        &self,
        instance: &Instance,
        prediction: &Prediction,
        on_step: &dyn Fn(&str),
    ) -> Judged {
        let started = Instant::now();
        let mut timings = BTreeMap::new();
        let graded = self.graded(instance, prediction, &mut timings, on_step);
        let (key, graded, retry) = match graded {
            Ok((key, graded)) => (key, graded, false),
            Err(e) => {
                let outcome = Outcome::InfraError(infra(&e));
                (
                    String::new(),
                    Graded::without_run(outcome),
                    grade::may_pass(&e),
                )
            }
        };
        let row = ResultRow {
            schema: 1,
            key,
            instance_id: instance.instance_id.clone(),
            model_name_or_path: prediction.model_name_or_path.clone(),
            resolved: graded.outcome.resolved(),
            outcome: graded.outcome.clone(),
            flags: graded.flags.clone(),
            tests: graded.tests.clone(),
            patch_applied: graded.official.is_some(),
            reverted_paths: graded.reverted.iter().map(|r| r.path.clone()).collect(),
            official_resolved: graded.official.as_ref().map(|r| r.resolved),
            swegym_resolved: graded.swegym.as_ref().map(|r| r.resolved),
            seconds: started.elapsed().as_secs_f64(),
            timings,
            resources: Resources {
                cpu_seconds: graded.cpu_seconds,
                peak_memory: graded.peak_memory,
            },
        };
        Judged { row, graded, retry }
    }

    fn graded(
        &self,
        instance: &Instance,
        prediction: &Prediction,
        timings: &mut BTreeMap<String, f64>,
        on_step: &dyn Fn(&str),
    ) -> Result<(String, Graded), Error> {
        let clock = Instant::now();
        let environment = self.environments.get(instance, on_step)?;
        timings.insert("environment".into(), clock.elapsed().as_secs_f64());
        let key = key(instance, prediction, &environment, &self.options);
        let Some(patch) = prediction.patch() else {
            return Ok((key, Graded::without_run(Outcome::EmptyPatch)));
        };
        let grader = Grader {
            backend: self.environments.backend(),
            environment: &environment,
            instance,
            options: &self.options,
            scratch: &self.scratch,
        };
        let clock = Instant::now();
        let gold = match self.gold(&grader, on_step)? {
            Ok(gold) => gold,
            Err(why) => {
                let outcome = Outcome::InfraError(InfraKind::GoldFails(why));
                return Ok((key, Graded::without_run(outcome)));
            }
        };
        timings.insert("gold".into(), clock.elapsed().as_secs_f64());
        on_step("tests");
        let graded = grader.grade(patch, &gold)?;
        if environment.kit.is_some() {
            timings.insert("rebuild".into(), graded.build_seconds);
        }
        timings.insert("tests".into(), graded.test_seconds);
        Ok((key, graded))
    }

    /// The gold record of an instance: the row's, the one kept from earlier,
    /// or that of a run now. Made once, however many predictions wait for it.
    fn gold(&self, grader: &Grader<'_>, on_step: &dyn Fn(&str)) -> Result<Gold, Error> {
        if let Some(recorded) = &grader.instance.gold_status {
            return Ok(Ok(Arc::new(GoldRecord {
                tests: recorded.clone(),
                signs: None,
            })));
        }
        let key = gold_key(grader.instance, grader.environment);
        let slot = {
            let mut all = self.gold.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(key.clone()).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gold) = &*slot {
            return Ok(gold.clone());
        }
        let path = self.home.gold().join(format!("{key}.json"));
        let kept = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let gold: Gold = match kept {
            Some(record) => Ok(Arc::new(record)),
            None => {
                on_step("gold");
                match grader.gold_record()? {
                    Ok(record) => {
                        swegym_data::atomic::write_json(&path, &record)?;
                        Ok(Arc::new(record))
                    }
                    Err(failure) => {
                        let name = format!("gold-{}.log", grader.instance.instance_id);
                        let log = self.home.logs().join(name);
                        swegym_data::atomic::write(&log, failure.log.as_bytes())?;
                        Err(format!("{}; the log is {}", failure.why, log.display()))
                    }
                }
            }
        };
        *slot = Some(gold.clone());
        Ok(gold)
    }
}

fn infra(error: &Error) -> InfraKind {
    let mut text = error.to_string();
    if let Some(hint) = error.hint() {
        text = format!("{text} ({hint})");
    }
    match error {
        Error::Build { .. } | Error::Input { .. } => InfraKind::Environment(text),
        Error::Sandbox(_) => InfraKind::Sandbox(text),
        Error::Setup { .. } | Error::Io { .. } | Error::Bug(_) => InfraKind::Machine(text),
    }
}

/// All that a gold record depends on.
fn gold_key(instance: &Instance, environment: &Environment) -> String {
    hash(tests_of(instance, environment).as_bytes())[..32].to_owned()
}

fn tests_of(instance: &Instance, environment: &Environment) -> String {
    let parts = (
        &environment.key,
        &instance.base_patch,
        &instance.test_patch,
        &instance.patch,
        &instance.fail_to_pass,
        &instance.pass_to_pass,
        &environment.test_command,
        GRADER_VERSION,
        runner::digest(),
    );
    serde_json::to_string(&parts).expect("plain data")
}

/// Identity of a result: an unchanged patch is never graded twice.
pub fn key(
    instance: &Instance,
    prediction: &Prediction,
    environment: &Environment,
    options: &grade::Options,
) -> String {
    let tests = tests_of(instance, environment);
    let twin =
        serde_json::to_string(&(&instance.mutants, &instance.gold_status)).expect("plain data");
    KeyParts {
        instance_id: &instance.instance_id,
        patch: prediction.patch().unwrap_or_default(),
        tests: format!("{tests}{twin}").as_bytes(),
        image: &environment.key,
        grader: &format!(
            "{GRADER_VERSION} {:?} {:?}",
            options.timeout, options.limits
        ),
    }
    .key()
}
