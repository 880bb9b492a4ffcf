//! Injects bugs into codebases, one record for each bug.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use swegym_agent::model::Usage;
use swegym_core::Instance;

use super::rewrites::{Answer, Draft};
use super::{Bug, Codebase, Options, Rewriter, Tried};
use crate::dispatch::{Attempt, Cancel, Event as Job, dispatch};
use crate::environment::Environments;
use crate::funnel::Funnel;
use crate::records::Records;
use crate::validate::{Reason, Rejection};
use crate::{Error, dispatch as pool, tasks};

/// Stages of the funnel, in order.
pub const STAGES: [&str; 4] = ["bugs", "ran", "fail_to_pass", "kept"];

/// Where and how to inject.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Folder of `tasks.jsonl`, `rejected.jsonl`, `records/`.
    pub dir: PathBuf,
    /// What says where each codebase comes from.
    pub seeds: Vec<Instance>,
    /// What to inject.
    pub options: Options,
    /// Who else writes bugs.
    pub rewriter: Option<Rewriter>,
    /// How many bugs at once.
    pub dispatch: pool::Options,
    /// Scratch space for composed trees.
    pub scratch: PathBuf,
}

/// What became of a bug.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Name of its record.
    pub key: String,
    /// The broken file.
    pub path: String,
    /// The task, if it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// Why it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
}

/// What happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// A codebase is prepared.
    Preparing(&'a str),
    /// A codebase cannot be used.
    Unusable {
        /// Which.
        seed: &'a str,
        /// Why.
        why: String,
    },
    /// A model is asked for bugs.
    Asking {
        /// In which codebase.
        seed: &'a str,
        /// Functions to ask for.
        total: usize,
        /// Of those, answered in an earlier run.
        resumed: usize,
    },
    /// It answered.
    Answered,
    /// The bugs of a codebase are drawn.
    Begin {
        /// Which codebase.
        seed: &'a str,
        /// Bugs to try.
        total: usize,
        /// Of those, done by an earlier run.
        resumed: usize,
    },
    /// The machine failed at a bug, which is tried again.
    Retrying(String),
    /// A bug is done.
    Done(&'a Record),
}

/// What became of a codebase.
#[derive(Debug, Clone, Serialize)]
pub struct Yield {
    /// Which codebase.
    pub seed: String,
    /// Why it could not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
    /// Its bugs by stage and reason.
    pub funnel: Funnel,
    /// Wall time of the bugs of this run, seconds.
    pub seconds: f64,
}

/// The end of an injection.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// One entry a codebase.
    pub codebases: Vec<Yield>,
    /// Tasks that hold.
    pub kept: usize,
    /// Kept tasks with twin mutants.
    pub with_mutants: usize,
    /// Whether every bug has a record.
    pub complete: bool,
    /// What a model's bugs cost, those of earlier runs too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Usage>,
    /// The tasks.
    pub tasks: PathBuf,
}

/// Injects. A run that was killed, or stopped by `cancel`, goes on where it
/// was; the tasks depend on the plan alone.
///
/// # Errors
/// If the folder cannot be used, or the machine fails while a codebase is
/// prepared.
pub fn run(
    plan: &Plan,
    environments: &Arc<Environments>,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    let records = Records::open(&plan.dir.join("records"))?;
    let mut codebases = Vec::new();
    let (mut kept, mut rejected) = (Vec::new(), Vec::new());
    let mut complete = true;
    let mut asked = plan.rewriter.as_ref().map(|_| Usage::default());
    for seed in &plan.seeds {
        if cancel.is_cancelled() {
            complete = false;
            break;
        }
        let name = seed.instance_id.clone();
        on_event(Event::Preparing(&name));
        let opened = Codebase::open(
            environments.clone(),
            seed,
            &plan.options,
            &plan.scratch,
            &records,
            &|_| {},
        )?;
        let mut funnel = Funnel::of(&STAGES);
        let codebase = match opened {
            Ok(codebase) => Arc::new(codebase),
            Err(rejection) => {
                let why = format!("{}: {}", rejection.reason, rejection.detail);
                on_event(Event::Unusable {
                    seed: &name,
                    why: why.clone(),
                });
                codebases.push(Yield {
                    seed: name,
                    unusable: Some(why),
                    funnel,
                    seconds: 0.0,
                });
                continue;
            }
        };
        let started = Instant::now();
        let done = bugs(plan, &codebase, &records, &name, cancel, on_event)?;
        complete &= done.complete;
        if let Some(asked) = &mut asked {
            asked.add(&done.asked);
        }
        for record in done.records {
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
        codebases.push(Yield {
            seed: name,
            unusable: None,
            funnel,
            seconds: started.elapsed().as_secs_f64(),
        });
    }
    let path = plan.dir.join("tasks.jsonl");
    tasks::write(&path, &kept)?;
    tasks::write_lines(&plan.dir.join("rejected.jsonl"), &rejected)?;
    Ok(Summary {
        codebases,
        kept: kept.len(),
        with_mutants: kept.iter().filter(|i| i.mutants.is_some()).count(),
        complete,
        asked,
        tasks: path,
    })
}

struct Done {
    /// In the order of the bugs.
    records: Vec<Record>,
    complete: bool,
    /// What the model's part cost.
    asked: Usage,
}

/// What a model wrote.
#[derive(Default)]
struct Written {
    bugs: Vec<Bug>,
    /// Answers without a bug.
    rejected: Vec<Record>,
    usage: Usage,
    complete: bool,
}

/// Asks a model for bugs.
///
/// # Errors
/// If it cannot be asked. What it has answered is kept.
fn ask(
    plan: &Plan,
    rewriter: &Rewriter,
    codebase: &Codebase,
    records: &Records,
    name: &str,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Written, Error> {
    let drafts = codebase.drafts(rewriter)?;
    let known = |draft: &Draft| records.get::<Answer>(&draft.key);
    let open: Vec<Draft> = drafts
        .iter()
        .filter(|draft| known(draft).is_none())
        .cloned()
        .collect();
    on_event(Event::Asking {
        seed: name,
        total: drafts.len(),
        resumed: drafts.len() - open.len(),
    });
    let (model, store) = (rewriter.clone(), records.clone());
    let broken = Arc::new(Mutex::new(None));
    let first = broken.clone();
    let options = pool::Options {
        load_limit: None,
        attempts: 1,
        ..plan.dispatch.clone()
    };
    dispatch(
        open,
        &options,
        cancel,
        move |draft: &Draft| {
            let first = || first.lock().unwrap_or_else(PoisonError::into_inner);
            // No other call will do better.
            if first().is_none() {
                let kept = match model.ask(draft) {
                    Ok(answer) => store.put(&draft.key, &answer),
                    Err(why) => Err(Error::input(
                        why.to_string(),
                        "the same command goes on where this one stopped",
                    )),
                };
                if let Err(why) = kept {
                    first().get_or_insert(why);
                }
            }
            Attempt::Done(())
        },
        |event| {
            if let Job::Finished { .. } = event {
                on_event(Event::Answered);
            }
        },
    );
    if let Some(why) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(why);
    }
    let mut written = Written {
        complete: true,
        ..Written::default()
    };
    for draft in &drafts {
        let Some(answer) = known(draft) else {
            written.complete = false;
            continue;
        };
        written.usage.add(&answer.usage);
        match codebase.written(rewriter, draft, &answer)? {
            Ok(bug) => written.bugs.push(bug),
            Err(rejection) => written.rejected.push(Record {
                key: draft.key.clone(),
                path: draft.path.clone(),
                instance: None,
                rejection: Some(rejection),
            }),
        }
    }
    Ok(written)
}

fn bugs(
    plan: &Plan,
    codebase: &Arc<Codebase>,
    records: &Records,
    name: &str,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Done, Error> {
    let written = match &plan.rewriter {
        None => Written {
            complete: true,
            ..Written::default()
        },
        Some(rewriter) => ask(plan, rewriter, codebase, records, name, cancel, on_event)?,
    };
    let mut bugs = written.bugs;
    bugs.extend(codebase.bugs(bugs.len())?);
    // Two answers may be the same, and one what an operator does.
    let mut seen = BTreeSet::new();
    bugs.retain(|bug| seen.insert(bug.key.clone()));
    let total = bugs.len();
    let mut done: BTreeMap<usize, Record> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (index, bug) in bugs.into_iter().enumerate() {
        match records.get::<Record>(&bug.key).filter(is_final) {
            Some(record) => {
                done.insert(index, record);
            }
            None => jobs.push((index, bug)),
        }
    }
    on_event(Event::Begin {
        seed: name,
        total,
        resumed: done.len(),
    });
    let (codebase, store) = (codebase.clone(), records.clone());
    dispatch(
        jobs,
        &plan.dispatch,
        cancel,
        move |(_, bug): &(usize, Bug)| {
            let (record, again) = record_of(bug, codebase.try_bug(bug));
            match store.put(&bug.key, &record) {
                Ok(()) if !again => Attempt::Done(record),
                Ok(()) => Attempt::Retry(record),
                Err(e) => Attempt::Retry(failed(bug, &e)),
            }
        },
        |event| match event {
            Job::Started { .. } => {}
            Job::Retrying { result, .. } => {
                let why = result.rejection.map(|r| r.detail).unwrap_or_default();
                on_event(Event::Retrying(why));
            }
            Job::Finished { job, result, .. } => {
                on_event(Event::Done(&result));
                done.insert(job.0, result);
            }
        },
    );
    let complete = written.complete && done.len() == total;
    let mut records = written.rejected;
    records.extend(done.into_values());
    Ok(Done {
        complete,
        records,
        asked: written.usage,
    })
}

fn is_final(record: &Record) -> bool {
    record
        .rejection
        .as_ref()
        .is_none_or(|r| r.reason != Reason::Machine)
}

fn record_of(bug: &Bug, tried: Result<Tried, Error>) -> (Record, bool) {
    let record = |instance, rejection| Record {
        key: bug.key.clone(),
        path: bug.path.clone(),
        instance,
        rejection,
    };
    match tried {
        Ok(Ok(instance)) => (record(Some(*instance), None), false),
        Ok(Err(rejection)) => (record(None, Some(rejection)), false),
        Err(e) => (failed(bug, &e), crate::grade::may_pass(&e)),
    }
}

fn failed(bug: &Bug, error: &Error) -> Record {
    Record {
        key: bug.key.clone(),
        path: bug.path.clone(),
        instance: None,
        rejection: Some(Rejection::new(Reason::Machine, error.to_string())),
    }
}

fn stage_before(reason: Reason) -> &'static str {
    match reason {
        Reason::NoFailToPass | Reason::NeedsService | Reason::NoPassToPass => "ran",
        Reason::OnlyFlaky
        | Reason::NoStatement
        | Reason::GoldFails
        | Reason::BaseResolves
        | Reason::CheatResolves
        | Reason::Leaks => "fail_to_pass",
        Reason::NoEnvironment
        | Reason::NoBug
        | Reason::PatchFails
        | Reason::NoTests
        | Reason::TimedOut
        | Reason::Crashed
        | Reason::Machine => "bugs",
    }
}
