//! Validates the candidates of a dataset, one record each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swegym_core::Instance;

use super::split::{self, SPLIT_VERSION, Split};
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
    /// Releases are split first; so many records are there from earlier.
    Splitting {
        /// Releases in all.
        total: usize,
        /// Of those, already done.
        resumed: usize,
    },
    /// A release is split.
    Split {
        /// Which.
        instance_id: &'a str,
        /// How many candidates came of it.
        tasks: usize,
    },
    /// Validation begins; so many records are there from earlier.
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
    /// Candidates that were whole releases.
    pub releases: usize,
    /// What came of them: parts, or the release as one.
    pub from_releases: usize,
    /// How many candidates reached each stage; parts of a release are
    /// candidates of their own.
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
    let parts = split_releases(plan, &environments, &records, cancel, on_event)?;
    let mut done: BTreeMap<Place, Record> = BTreeMap::new();
    let mut jobs = Vec::new();
    let (mut total, mut resumed) = (0, 0);
    for (index, candidate) in plan.candidates.iter().enumerate() {
        let candidates = match parts.get(&index) {
            None if is_split(plan, candidate) => continue,
            None => std::slice::from_ref(candidate),
            Some(Parts::Split(split)) => &split.tasks,
            Some(Parts::FellOut(record)) => {
                done.insert((index, 0), (**record).clone());
                continue;
            }
        };
        for (n, candidate) in candidates.iter().enumerate() {
            total += 1;
            let key = key(candidate, &plan.options);
            match records.get::<Record>(&key).filter(is_final) {
                Some(record) => {
                    resumed += 1;
                    done.insert((index, n), record);
                }
                None => jobs.push(((index, n), key, candidate.clone())),
            }
        }
    }
    on_event(Event::Begin { total, resumed });
    let total = jobs.len() + done.len();
    let (options, scratch, logs) = (
        plan.options.clone(),
        plan.scratch.clone(),
        plan.dir.join("logs"),
    );
    let work = move |(_, key, candidate): &(Place, String, Instance)| {
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
    write(plan, &parts, done, total)
}

/// Place in the dataset: of the candidate, and of the part in it.
type Place = (usize, usize);

/// What became of a release.
#[derive(Debug, Clone)]
enum Parts {
    Split(Split),
    FellOut(Box<Record>),
}

fn is_split(plan: &Plan, candidate: &Instance) -> bool {
    plan.options.split && split::is_release(candidate)
}

/// Splits what are whole releases, by their place. Those that are not there
/// were not come to.
fn split_releases(
    plan: &Plan,
    environments: &Arc<Environments>,
    records: &Records,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<BTreeMap<usize, Parts>, Error> {
    let runs = Records::open(&plan.dir.join("records/runs"))?;
    let mut done = BTreeMap::new();
    let mut jobs = Vec::new();
    for (index, candidate) in plan.candidates.iter().enumerate() {
        if !split::is_release(candidate) {
            continue;
        }
        if !plan.options.split {
            done.insert(index, Parts::Split(Split::whole(candidate)));
            continue;
        }
        let key = split_key(candidate, &plan.options);
        match records.get::<Split>(&key) {
            Some(split) => {
                done.insert(index, parts(candidate, Ok(split)));
            }
            None => jobs.push((index, key, candidate.clone())),
        }
    }
    if jobs.is_empty() {
        return Ok(done);
    }
    on_event(Event::Splitting {
        total: jobs.len() + done.len(),
        resumed: done.len(),
    });
    let (environments, records) = (environments.clone(), records.clone());
    let (options, scratch) = (plan.options.clone(), plan.scratch.clone());
    let logs = plan.dir.join("logs");
    let work = move |(_, key, candidate): &(usize, String, Instance)| {
        let known = split::Known { runs: &runs, key };
        let ended = split::split(&environments, candidate, &options, &scratch, known);
        let again = ended.as_ref().is_err_and(crate::grade::may_pass);
        let kept = match &ended {
            Ok(split) => records.put(key, split),
            Err(_) => Ok(()),
        };
        let parts = parts(candidate, ended);
        let kept = kept.and_then(|()| match &parts {
            Parts::FellOut(record) => keep_log(&logs, record),
            Parts::Split(_) => Ok(()),
        });
        match kept {
            Ok(()) if !again => Attempt::Done(parts),
            Ok(()) => Attempt::Retry(parts),
            Err(e) => Attempt::Retry(Parts::FellOut(Box::new(failed(candidate, &e)))),
        }
    };
    dispatch(jobs, &plan.dispatch, cancel, work, |event| match event {
        Job::Started { .. } => {}
        Job::Retrying { job, result, .. } => {
            let why = match result {
                Parts::FellOut(record) => record.rejection.map(|r| r.detail),
                Parts::Split(_) => None,
            };
            on_event(Event::Retrying {
                instance_id: &job.2.instance_id,
                why: why.unwrap_or_default(),
            });
        }
        Job::Finished { job, result, .. } => {
            let tasks = match &result {
                Parts::Split(split) => split.tasks.len(),
                Parts::FellOut(_) => 0,
            };
            on_event(Event::Split {
                instance_id: &job.2.instance_id,
                tasks,
            });
            done.insert(job.0, result);
        }
    });
    Ok(done)
}

fn parts(candidate: &Instance, ended: Result<Split, Error>) -> Parts {
    match ended {
        Ok(Split {
            rejection: Some(rejection),
            ..
        }) => Parts::FellOut(Box::new(rejected(candidate, rejection))),
        Ok(split) => Parts::Split(split),
        Err(e) => Parts::FellOut(Box::new(failed(candidate, &e))),
    }
}

/// Everything the parts of a release depend on.
fn split_key(candidate: &Instance, options: &Options) -> String {
    let parts = (
        "split",
        SPLIT_VERSION,
        crate::grade::GRADER_VERSION,
        crate::runner::digest(),
        candidate,
        options.grading.timeout,
        &options.grading.limits,
    );
    hash(&serde_json::to_vec(&parts).expect("plain data"))[..32].to_owned()
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
        Ok(Err(rejection)) => (rejected(candidate, rejection), false),
        Err(e) => (failed(candidate, &e), crate::grade::may_pass(&e)),
    }
}

fn failed(candidate: &Instance, error: &Error) -> Record {
    rejected(
        candidate,
        Rejection::new(Reason::Machine, error.to_string()),
    )
}

fn rejected(candidate: &Instance, rejection: Rejection) -> Record {
    Record {
        instance_id: candidate.instance_id.clone(),
        instance: None,
        measured: None,
        rejection: Some(rejection),
    }
}

fn keep_log(dir: &Path, record: &Record) -> Result<(), Error> {
    let Some(rejection) = record.rejection.as_ref().filter(|r| !r.log.is_empty()) else {
        return Ok(());
    };
    let path = dir.join(format!("{}.log", record.instance_id.replace('/', "_")));
    Ok(swegym_data::atomic::write(&path, rejection.log.as_bytes())?)
}

fn write(
    plan: &Plan,
    parts: &BTreeMap<usize, Parts>,
    done: BTreeMap<Place, Record>,
    total: usize,
) -> Result<Summary, Error> {
    let releases = plan.candidates.iter().filter(|c| split::is_release(c));
    let releases = releases.count();
    let complete = done.len() == total && parts.len() == releases;
    let from_releases = parts.values().map(|parts| match parts {
        Parts::Split(split) => split.tasks.len(),
        Parts::FellOut(_) => 0,
    });
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
        releases,
        from_releases: from_releases.sum(),
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
        Reason::NoEnvironment | Reason::NoBug | Reason::Machine => "candidates",
        Reason::PatchFails | Reason::NoTests | Reason::TimedOut | Reason::Crashed => "built",
        Reason::NoFailToPass
        | Reason::NeedsService
        | Reason::NoPassToPass
        | Reason::NoStatement => "ran",
        Reason::OnlyFlaky => "fail_to_pass",
        Reason::GoldFails | Reason::BaseResolves | Reason::CheatResolves | Reason::Leaks => {
            "stable"
        }
    }
}
