//! Evaluates predictions: environments, grading, results, reports.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use swegym_core::{InfraKind, Instance, Outcome, Prediction};
use swegym_data::{Ended, LogTree, ResultRow, RunDir, RunSummary, summary_file_name};

use crate::dispatch::{Attempt, Cancel, Event as Job, dispatch};
use crate::environment::Environments;
use crate::grade::{self, Graded};
use crate::home::Home;
use crate::judge::{self, Judge, Judged};
use crate::{Error, dispatch};

/// Whose rules decide `resolved` in SWE-bench's report files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// Ours.
    #[default]
    Strict,
    /// The official harness's.
    Swebench,
    /// SWE-Gym's fork's.
    Swegym,
}

/// What to evaluate, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the run.
    pub run_id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The dataset.
    pub instances: Vec<Instance>,
    /// The predictions; every one names an instance of the dataset.
    pub predictions: Vec<Prediction>,
    /// How to run tests.
    pub grading: grade::Options,
    /// How many at once.
    pub dispatch: dispatch::Options,
    /// Whose verdict the reports show.
    pub rules: Rules,
}

/// What happens during an evaluation.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins; so many results are there from earlier.
    Begin {
        /// Predictions in all.
        total: usize,
        /// Of those, already graded.
        resumed: usize,
    },
    /// A step of a prediction's evaluation.
    Step {
        /// The instance.
        instance_id: &'a str,
        /// What is being done.
        what: &'a str,
    },
    /// An infrastructure failure is tried again.
    Retrying {
        /// The instance.
        instance_id: &'a str,
        /// What failed.
        why: String,
    },
    /// A prediction is graded.
    Graded(&'a ResultRow),
}

/// The end of an evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Every result, in the order of the predictions.
    pub results: Vec<ResultRow>,
    /// Whether all predictions have one.
    pub complete: bool,
    /// Report files written, one a model.
    pub reports: Vec<PathBuf>,
    /// Wall time, seconds.
    pub seconds: f64,
}

impl Summary {
    /// Results with an infrastructure failure.
    pub fn infra_errors(&self) -> usize {
        self.results
            .iter()
            .filter(|r| !r.outcome.is_reward())
            .count()
    }
}

/// Checks predictions against a dataset: every instance must be known, and
/// none predicted twice by the same model.
///
/// # Errors
/// The first offender.
pub fn check(instances: &[Instance], predictions: &[Prediction]) -> Result<(), Error> {
    let known: HashMap<&str, ()> = instances
        .iter()
        .map(|i| (i.instance_id.as_str(), ()))
        .collect();
    let mut seen = HashMap::new();
    for p in predictions {
        if !known.contains_key(p.instance_id.as_str()) {
            return Err(Error::input(
                format!("prediction for unknown instance {:?}", p.instance_id),
                "give the dataset it belongs to with `--tasks`, or choose with `--instance`",
            ));
        }
        if seen
            .insert((&p.instance_id, &p.model_name_or_path), ())
            .is_some()
        {
            return Err(Error::input(
                format!(
                    "two predictions of {} for {}",
                    p.model_name_or_path, p.instance_id
                ),
                "evaluate one at a time, or give them different `model_name_or_path`",
            ));
        }
    }
    Ok(())
}

struct Shared {
    judge: Judge,
    run: Mutex<RunDir>,
    logs: LogTree,
    rules: Rules,
    steps: Mutex<Option<std::sync::mpsc::Sender<(String, String)>>>,
}

struct Task {
    instance: Arc<Instance>,
    prediction: Prediction,
}

/// Evaluates. Results are kept one by one, so that a run that was killed, or
/// stopped by `cancel`, goes on where it was.
///
/// # Errors
/// If the run's folder cannot be used. What fails for one prediction is its
/// result, [`Outcome::InfraError`], and is tried again by the next run.
pub fn run(
    plan: Plan,
    environments: Environments,
    home: &Home,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    let started = Instant::now();
    check(&plan.instances, &plan.predictions)?;
    let mut run = RunDir::open(&plan.dir)?;
    let instances: HashMap<&str, Arc<Instance>> = plan
        .instances
        .iter()
        .map(|i| (i.instance_id.as_str(), Arc::new(i.clone())))
        .collect();
    // Earlier results of other predictions or datasets stay in `results/`.
    let earlier = run.results()?;
    let known = known_results(&earlier);
    let mut results: BTreeMap<usize, ResultRow> = BTreeMap::new();
    let mut tasks = Vec::new();
    for (index, prediction) in plan.predictions.iter().enumerate() {
        let instance = instances[prediction.instance_id.as_str()].clone();
        let cached = environments.peek(&instance).ok().flatten().and_then(|env| {
            known
                .get(judge::key(&instance, prediction, &env, &plan.grading).as_str())
                .copied()
        });
        match cached {
            Some(row) => {
                // The same patch by another name has the same result.
                let mut row = row.clone();
                row.model_name_or_path = prediction.model_name_or_path.clone();
                results.insert(index, row);
            }
            None => tasks.push((
                index,
                Task {
                    instance,
                    prediction: prediction.clone(),
                },
            )),
        }
    }
    on_event(Event::Begin {
        total: plan.predictions.len(),
        resumed: results.len(),
    });
    run.rewrite(results.values())?;

    let (steps, heard) = std::sync::mpsc::channel();
    let shared = Arc::new(Shared {
        judge: Judge::new(Arc::new(environments), home, plan.grading.clone()),
        logs: LogTree::new(&plan.dir, &plan.run_id),
        run: Mutex::new(run),
        rules: plan.rules,
        steps: Mutex::new(Some(steps)),
    });
    let worker = shared.clone();
    dispatch(
        tasks,
        &plan.dispatch,
        cancel,
        move |(index, task): &(usize, Task)| worker.evaluate(*index, task),
        |event| {
            for (id, what) in heard.try_iter() {
                on_event(Event::Step {
                    instance_id: &id,
                    what: &what,
                });
            }
            match event {
                Job::Started { .. } => {}
                Job::Retrying { job, result, .. } => on_event(Event::Retrying {
                    instance_id: &job.1.instance.instance_id,
                    why: describe(&result.1.outcome),
                }),
                Job::Finished {
                    result: (index, row),
                    ..
                } => {
                    on_event(Event::Graded(&row));
                    results.insert(index, row);
                }
            }
        },
    );
    finish(&plan, &shared, results, started)
}

/// Results that need not be made again.
fn known_results(earlier: &BTreeMap<String, ResultRow>) -> HashMap<&str, &ResultRow> {
    earlier
        .iter()
        .filter(|(_, row)| row.outcome.is_reward())
        .map(|(key, row)| (key.as_str(), row))
        .collect()
}

fn finish(
    plan: &Plan,
    shared: &Shared,
    results: BTreeMap<usize, ResultRow>,
    started: Instant,
) -> Result<Summary, Error> {
    let complete = results.len() == plan.predictions.len();
    let results: Vec<ResultRow> = results.into_values().collect();
    shared
        .run
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .rewrite(&results)?;
    let mut models: BTreeMap<&str, BTreeMap<String, Ended>> = BTreeMap::new();
    for row in &results {
        models
            .entry(&row.model_name_or_path)
            .or_default()
            .insert(row.instance_id.clone(), shared.ended(row));
    }
    let mut reports = Vec::new();
    for (model, ended) in models {
        let ids = plan.instances.iter().map(|i| i.instance_id.as_str());
        let summary = RunSummary::new(ids, &ended);
        let path = plan.dir.join(summary_file_name(model, &plan.run_id));
        swegym_data::atomic::write_json(&path, &summary)?;
        reports.push(path);
    }
    Ok(Summary {
        results,
        complete,
        reports,
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Shared {
    fn evaluate(&self, index: usize, task: &Task) -> Attempt<(usize, ResultRow)> {
        let id = &task.instance.instance_id;
        let judged = self.judge.judge(&task.instance, &task.prediction, &|step| {
            self.step(id, step)
        });
        let Judged {
            mut row,
            graded,
            retry,
        } = judged;
        if row.outcome.is_reward()
            && let Err(e) = self.keep(task, &row, &graded)
        {
            row.outcome = Outcome::InfraError(InfraKind::Machine(e.to_string()));
            row.resolved = false;
            return Attempt::Retry((index, row));
        }
        if retry {
            Attempt::Retry((index, row))
        } else {
            Attempt::Done((index, row))
        }
    }

    /// Writes a result and its log files; the result last, for it says that
    /// all is there.
    fn keep(&self, task: &Task, row: &ResultRow, graded: &Graded) -> Result<(), Error> {
        let files = self
            .logs
            .instance(&row.model_name_or_path, &row.instance_id);
        let patch = task.prediction.model_patch.as_deref().unwrap_or_default();
        swegym_data::atomic::write(&files.patch, patch.as_bytes())?;
        swegym_data::atomic::write(&files.test_output, graded.log.as_bytes())?;
        let mut report = match self.rules {
            Rules::Strict | Rules::Swebench => graded.official.clone(),
            Rules::Swegym => graded.swegym.clone(),
        }
        .unwrap_or_else(|| swegym_grade::compat::InstanceReport {
            patch_is_none: task.prediction.patch().is_none(),
            patch_exists: task.prediction.patch().is_some(),
            ..Default::default()
        });
        if self.rules == Rules::Strict {
            report.resolved = row.resolved;
        }
        swegym_data::atomic::write(&files.report, report.to_json(&row.instance_id).as_bytes())?;
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(run.record(row)?)
    }

    /// How a result counts in SWE-bench's run report.
    fn ended(&self, row: &ResultRow) -> Ended {
        let by_rules = match self.rules {
            Rules::Strict => None,
            Rules::Swebench => row.official_resolved,
            Rules::Swegym => row.swegym_resolved,
        };
        match (&row.outcome, by_rules) {
            (Outcome::EmptyPatch, _) => Ended::EmptyPatch,
            (Outcome::InfraError(_), _) => Ended::InfraFailure(describe(&row.outcome)),
            (_, Some(true)) | (Outcome::Resolved, None) => Ended::Resolved,
            (Outcome::InvalidPatch(_) | Outcome::Timeout, _) => Ended::Error,
            _ => Ended::Unresolved,
        }
    }

    fn step(&self, instance_id: &str, what: &str) {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(steps) = &*steps {
            // Nobody listens any more after a cancel.
            let _ = steps.send((instance_id.to_owned(), what.to_owned()));
        }
    }
}

/// An outcome in one line.
pub fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::InvalidPatch(why) => why.clone(),
        Outcome::Tampered(reasons) => reasons.join("; "),
        Outcome::InfraError(
            InfraKind::Sandbox(why)
            | InfraKind::Environment(why)
            | InfraKind::GoldFails(why)
            | InfraKind::Runner(why)
            | InfraKind::Machine(why),
        ) => why.lines().next().unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

/// Reads predictions: a file, `gold`, or `empty`; only those of the instances
/// given where `only` says so.
///
/// # Errors
/// If the file is missing or malformed.
pub fn predictions(
    what: &str,
    instances: &[Instance],
    only: bool,
) -> Result<Vec<Prediction>, Error> {
    use swegym_data as read;
    match what {
        "gold" => Ok(instances.iter().map(read::gold).collect()),
        "empty" => Ok(instances.iter().map(read::empty).collect()),
        file => {
            let all = read::read_predictions(Path::new(file))?
                .into_iter()
                .map(|l| l.prediction);
            Ok(all
                .filter(|p| !only || instances.iter().any(|i| i.instance_id == p.instance_id))
                .collect())
        }
    }
}
