//! Validates the candidates of a dataset, one record each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swegym_core::Instance;

use super::{Measured, Options, Reason, Rejection, VALIDATOR_VERSION, Valid, validate};
use crate::dispatch::{Attempt, Cancel, Event as Job, dispatch};
use crate::environment::Environments;
use crate::funnel::Funnel;
use crate::records::Records;
use crate::{Error, dispatch as pool, hash, tasks};

/// Stages of the funnel, in order.
pub const STAGES: [&str; 6] = [
    "candidates",
    "built",
    "ran",
    "fail_to_pass",
    "stable",
    "kept",
];

/// Where and how to validate.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Folder of `tasks.jsonl`, `rejected.jsonl`, `records/`, `logs/`.
    pub dir: PathBuf,
    /// The candidates.
    pub candidates: Vec<Instance>,
    /// How to validate each.
    pub options: Options,
    /// How many at once.
    pub dispatch: pool::Options,
    /// Scratch space for composed trees.
    pub scratch: PathBuf,
}

/// What became of a candidate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub instance_id: String,
    /// The task, if it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// What was measured of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// Why it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
}

/// What happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// It begins; so many records are there from earlier.
    Begin {
        /// Candidates in all.
        total: usize,
        /// Of those, already done.
        resumed: usize,
    },
    /// The machine failed at a candidate, which is tried again.
    Retrying {
        /// Which.
        instance_id: &'a str,
        /// What failed.
        why: String,
    },
    /// A candidate is done.
    Done(&'a Record),
}

/// The end of a validation.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// How many candidates reached each stage.
    pub funnel: Funnel,
    /// Tasks that hold.
    pub kept: usize,
    /// Kept tasks with twin mutants.
    pub with_mutants: usize,
    /// Whether every candidate has a record.
    pub complete: bool,
    /// The tasks.
    pub tasks: PathBuf,
    /// What fell out, and why.
    pub rejected: PathBuf,
}

/// Validates. A run that was killed, or stopped by `cancel`, goes on where it
/// was. The dataset depends on candidates and options alone, not on the order
/// in which they were done.
///
/// # Errors
/// If the folder cannot be used.
pub fn run(
    plan: &Plan,
    environments: Arc<Environments>,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    let records = Records::open(&plan.dir.join("records"))?;
    let mut done: BTreeMap<usize, Record> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (index, candidate) in plan.candidates.iter().enumerate() {
        let key = key(candidate, &plan.options);
        match records.get::<Record>(&key).filter(is_final) {
            Some(record) => {
                done.insert(index, record);
            }
            None => jobs.push((index, key, candidate.clone())),
        }
    }
    on_event(Event::Begin {
        total: plan.candidates.len(),
        resumed: done.len(),
    });
    let (options, scratch, logs) = (
        plan.options.clone(),
        plan.scratch.clone(),
        plan.dir.join("logs"),
    );
    let work = move |(_, key, candidate): &(usize, String, Instance)| {
        let ended = validate(&environments, candidate, &options, &scratch, &|_| {});
        let (record, again) = record_of(candidate, ended);
        let kept = records
            .put(key, &record)
            .and_then(|()| keep_log(&logs, &record));
        match kept {
            Ok(()) if !again => Attempt::Done(record),
            Ok(()) => Attempt::Retry(record),
            Err(e) => Attempt::Retry(failed(candidate, &e)),
        }
    };
    dispatch(jobs, &plan.dispatch, cancel, work, |event| match event {
        Job::Started { .. } => {}
        Job::Retrying { job, result, .. } => on_event(Event::Retrying {
            instance_id: &job.2.instance_id,
            why: result.rejection.map(|r| r.detail).unwrap_or_default(),
        }),
        Job::Finished { job, result, .. } => {
            on_event(Event::Done(&result));
            done.insert(job.0, result);
        }
    });
    write(plan, done)
}

/// Everything a record depends on.
fn key(candidate: &Instance, options: &Options) -> String {
    let parts = (
        VALIDATOR_VERSION,
        crate::grade::GRADER_VERSION,
        crate::runner::digest(),
        candidate,
        options.repeats,
        options.twins,
        options.cheats,
        options.grading.timeout,
        &options.grading.limits,
    );
    hash(&serde_json::to_vec(&parts).expect("plain data"))[..32].to_owned()
}

fn is_final(record: &Record) -> bool {
    record
        .rejection
        .as_ref()
        .is_none_or(|r| r.reason != Reason::Machine)
}

fn record_of(
    candidate: &Instance,
    ended: Result<Result<Valid, Rejection>, Error>,
) -> (Record, bool) {
    match ended {
        Ok(Ok(valid)) => {
            let record = Record {
                instance_id: candidate.instance_id.clone(),
                instance: Some(valid.instance),
                measured: Some(valid.measured),
                rejection: None,
            };
            (record, false)
        }
        Ok(Err(rejection)) => {
            let record = Record {
                instance_id: candidate.instance_id.clone(),
                instance: None,
                measured: None,
                rejection: Some(rejection),
            };
            (record, false)
        }
        Err(e) => (failed(candidate, &e), crate::grade::may_pass(&e)),
    }
}

fn failed(candidate: &Instance, error: &Error) -> Record {
    Record {
        instance_id: candidate.instance_id.clone(),
        instance: None,
        measured: None,
        rejection: Some(Rejection::new(Reason::Machine, error.to_string())),
    }
}

fn keep_log(dir: &Path, record: &Record) -> Result<(), Error> {
    let Some(rejection) = record.rejection.as_ref().filter(|r| !r.log.is_empty()) else {
        return Ok(());
    };
    let path = dir.join(format!("{}.log", record.instance_id.replace('/', "_")));
    Ok(swegym_data::atomic::write(&path, rejection.log.as_bytes())?)
}

fn write(plan: &Plan, done: BTreeMap<usize, Record>) -> Result<Summary, Error> {
    let complete = done.len() == plan.candidates.len();
    let mut funnel = Funnel::of(&STAGES);
    let (mut kept, mut rejected) = (Vec::new(), Vec::new());
    for record in done.into_values() {
        match &record.rejection {
            None => funnel.reached("kept"),
            Some(rejection) => {
                funnel.reached(stage_before(rejection.reason));
                funnel.fell_out(rejection.reason.name());
            }
        }
        match record.instance {
            Some(instance) => kept.push(instance),
            None => rejected.push(record),
        }
    }
    let tasks_path = plan.dir.join("tasks.jsonl");
    tasks::write(&tasks_path, &kept)?;
    let rejected_path = plan.dir.join("rejected.jsonl");
    tasks::write_lines(&rejected_path, &rejected)?;
    let funnel_path = plan.dir.join("funnel.json");
    swegym_data::atomic::write_json(&funnel_path, &funnel)?;
    Ok(Summary {
        funnel,
        kept: kept.len(),
        with_mutants: kept.iter().filter(|i| i.mutants.is_some()).count(),
        complete,
        tasks: tasks_path,
        rejected: rejected_path,
    })
}

/// The last stage that a candidate with this fate reached.
fn stage_before(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEnvironment | Reason::Machine => "candidates",
        Reason::PatchFails | Reason::NoTests | Reason::TimedOut | Reason::Crashed => "built",
        Reason::NoFailToPass | Reason::NoPassToPass | Reason::NoStatement => "ran",
        Reason::OnlyFlaky => "fail_to_pass",
        Reason::GoldFails | Reason::BaseResolves | Reason::CheatResolves | Reason::Leaks => {
            "stable"
        }
    }
}
