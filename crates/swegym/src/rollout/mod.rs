//! Rolls out agents: every instance, so many samples, each in a sandbox of
//! its own; then grades what they made.
//!
//! An episode is one thread. It waits for the model without holding anything
//! but its sandbox, and takes a turn at the processors for every command. It
//! is committed by one rename, so that a kill loses the episodes in flight and
//! nothing else (docs/design/rollout.md).

mod bases;
mod command;
mod examples;
mod gold;
pub mod index;
mod ledger;
mod patch;
pub mod relay;
pub mod runs;
mod spec;
mod warm;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use swegym_agent::episode::Limits;
use swegym_agent::model::{HttpOptions, Prices, Sampling};
use swegym_agent::proxy::Proxy;
use swegym_agent::scaffold::{Dialect, Prompts};
use swegym_core::{ChatMessage, Instance, Outcome, Prediction};

use crate::Error;
use crate::dispatch::{self, Attempt, Cancel, Event as Job, dispatch};
use crate::environment::{Environments, file_name};
use crate::grade;
use crate::home::Home;
use crate::judge::Judge;

pub use bases::collect_bases;
pub use command::CommandAgent;
pub use ledger::Spent;
pub use spec::{AgentSpec, ModelSpec, Models};
pub use warm::{Warm, WarmUp};

use command::Installed;
use ledger::Journal;
use runs::{Entry, EpisodeRecord, Manifest, OpenRun, Run};
use worker::{Done, RETRY, Shared, Turns, Work};

/// What to roll out, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the run.
    pub run_id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The dataset.
    pub instances: Vec<Instance>,
    /// Samples of each instance.
    pub samples: u32,
    /// The agent.
    pub agent: AgentSpec,
    /// Its prompts.
    pub prompts: Prompts,
    /// How tools are spoken of.
    pub dialect: Dialect,
    /// The model.
    pub model: ModelSpec,
    /// Demonstrations, task and answer in turn, that come before every task;
    /// they are no part of a trajectory.
    pub examples: Vec<ChatMessage>,
    /// Its prices, where the provider tells no cost.
    pub prices: Option<Prices>,
    /// How it is called.
    pub http: HttpOptions,
    /// How it samples.
    pub sampling: Sampling,
    /// Limits of an episode.
    pub limits: Limits,
    /// Most that all runs of this name may spend together, US dollars.
    pub budget: Option<f64>,
    /// How to grade; not at all without it.
    pub grading: Option<grade::Options>,
    /// Episodes in flight.
    pub workers: usize,
    /// Commands and test runs at once.
    pub commands: usize,
    /// Tries of an episode that the machine or the provider broke.
    pub attempts: u32,
}

/// What happens during a rollout.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins; so many episodes are there from earlier.
    Begin {
        /// Episodes in all.
        total: usize,
        /// Of those, done.
        resumed: usize,
    },
    /// A step of an episode.
    Step {
        /// The instance.
        instance_id: &'a str,
        /// What is being done.
        what: &'a str,
    },
    /// An episode that broke is tried again.
    Retrying {
        /// The instance.
        instance_id: &'a str,
        /// What failed.
        why: &'a str,
    },
    /// An episode is over.
    Ended {
        /// What it was.
        episode: &'a EpisodeRecord,
        /// Its verdict, where it was graded.
        outcome: Option<&'a Outcome>,
    },
}

/// The end of a rollout.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Episodes in all.
    pub total: usize,
    /// Committed, and graded where that was asked for.
    pub done: usize,
    /// Of those, how many ended how.
    pub ends: BTreeMap<&'static str, usize>,
    /// Of those, resolved.
    pub resolved: usize,
    /// Without a patch.
    pub empty_patches: usize,
    /// Broken by machine, provider or us; the next run tries them again.
    pub failed: usize,
    /// Whether nothing is left to do.
    pub complete: bool,
    /// All that was spent under this name.
    pub spent: Spent,
    /// Wall time, seconds.
    pub seconds: f64,
    /// Whether the provider took no request at all, and what it said.
    pub rejected: Option<String>,
}

/// Rolls out. Episodes are committed one by one, so that a run that was
/// killed, or stopped by `cancel`, goes on where it was.
///
/// # Errors
/// If the run's folder cannot be used, or the model cannot be opened. What
/// fails in an episode is its end.
pub fn run(
    plan: Plan,
    environments: Arc<Environments>,
    home: &Home,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    let started = Instant::now();
    distinct(&plan.instances)?;
    let models = plan.model.open(home, plan.prices, plan.http.clone())?;
    let run = OpenRun::open(&plan.dir, &manifest(&plan))?;
    let command = match &plan.agent {
        AgentSpec::Command(agent) => {
            let proxy = Proxy::start().map_err(|e| Error::setup(e.to_string(), ""))?;
            Some((Installed::new(agent, home, &plan.dir)?, proxy))
        }
        _ => None,
    };
    let (journal, spent) = Journal::open(&plan.dir.join("calls.jsonl"), plan.budget)?;
    let known = Run::read(&plan.dir)?;
    let (work, resumed) = missing(&plan, known.entries);
    on_event(Event::Begin {
        total: plan.instances.len() * plan.samples as usize,
        resumed,
    });
    let (steps, heard) = std::sync::mpsc::channel();
    let judge = plan.grading.clone();
    let shared = Arc::new(Shared {
        warm: WarmUp::new(environments.clone(), home),
        judge: judge.map(|options| Judge::new(environments, home, options)),
        models,
        command,
        run,
        journal: Arc::new(journal),
        gate: Turns::new(plan.commands),
        earlier: spent.attempts,
        answered: AtomicBool::new(spent.calls > 0),
        steps: Mutex::new(steps),
        cancel: cancel.clone(),
        rejected: Mutex::new(None),
        plan: plan.clone(),
    });
    let options = dispatch::Options {
        workers: plan.workers.max(1),
        memory_per_job: 64 << 20,
        load_limit: None,
        // Tries are counted by the episode, for the ledger.
        attempts: 1,
        ..dispatch::Options::default()
    };
    let worker = shared.clone();
    dispatch(
        work,
        &options,
        cancel,
        move |work: &Work| Attempt::Done(worker.work(work)),
        |event| {
            for (id, what) in heard.try_iter() {
                let retry = what.strip_prefix(RETRY);
                on_event(match retry {
                    Some(why) => Event::Retrying {
                        instance_id: &id,
                        why,
                    },
                    None => Event::Step {
                        instance_id: &id,
                        what: &what,
                    },
                });
            }
            if let Job::Finished {
                result: Some(Done { record, outcome }),
                ..
            } = event
            {
                on_event(Event::Ended {
                    episode: &record,
                    outcome: outcome.as_ref(),
                });
            }
        },
    );
    shared.journal.check()?;
    finish(&plan, &shared, started)
}

/// Every episode has a folder of its own: no two instances may share theirs.
fn distinct(instances: &[Instance]) -> Result<(), Error> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for instance in instances {
        let id = instance.instance_id.as_str();
        if let Some(other) = seen.insert(file_name(id), id) {
            return Err(Error::input(
                format!("two instances have the same folder: {other:?} and {id:?}"),
                "give them different `instance_id`s (`swegym tasks check` finds such rows)",
            ));
        }
    }
    Ok(())
}

fn manifest(plan: &Plan) -> Manifest {
    Manifest {
        schema: 1,
        run_id: plan.run_id.clone(),
        agent: plan.agent.name().to_owned(),
        command: plan.agent.command().cloned(),
        prompts: plan.prompts.digest(plan.agent.name()),
        dialect: plan.dialect,
        model: plan.model.to_string(),
        model_name_or_path: plan.model.name(),
        examples: examples::digest(&plan.examples),
        sampling: plan.sampling.clone(),
        limits: plan.limits,
        prices: plan.prices,
        swegym: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: Timestamp::now(),
    }
}

/// What is left to do, the samples of an instance side by side so that they
/// share what is warm; and how many episodes are done.
fn missing(plan: &Plan, entries: Vec<Entry>) -> (Vec<Work>, usize) {
    let mut known: BTreeMap<(String, u32), Entry> = entries
        .into_iter()
        .map(|e| ((e.episode.instance_id.clone(), e.episode.sample), e))
        .collect();
    let (mut work, mut done) = (Vec::new(), 0);
    for instance in &plan.instances {
        let instance = Arc::new(instance.clone());
        for sample in 0..plan.samples {
            let key = (instance.instance_id.clone(), sample);
            let entry = known.remove(&key).filter(|e| e.episode.end.counts());
            let graded = entry
                .as_ref()
                .is_some_and(|e| e.result.as_ref().is_some_and(|row| row.outcome.is_reward()));
            if graded || (entry.is_some() && plan.grading.is_none()) {
                done += 1;
                continue;
            }
            work.push(Work {
                instance: instance.clone(),
                sample,
                ungraded: entry,
            });
        }
    }
    (work, done)
}

fn finish(plan: &Plan, shared: &Shared, started: Instant) -> Result<Summary, Error> {
    let run = Run::read(&plan.dir)?;
    let wanted: BTreeMap<&str, ()> = plan
        .instances
        .iter()
        .map(|i| (i.instance_id.as_str(), ()))
        .collect();
    let asked_for = |e: &&Entry| {
        e.episode.sample < plan.samples && wanted.contains_key(e.episode.instance_id.as_str())
    };
    let entries: Vec<&Entry> = run.entries.iter().filter(asked_for).collect();
    let mut ends = BTreeMap::new();
    for entry in &entries {
        *ends.entry(entry.episode.end.name()).or_default() += 1;
    }
    write_predictions(plan, &run)?;
    let count = |test: &dyn Fn(&Entry) -> bool| entries.iter().filter(|e| test(e)).count();
    let graded = |e: &Entry| e.result.as_ref().is_some_and(|row| row.outcome.is_reward());
    let done = count(&|e| e.episode.end.counts() && (plan.grading.is_none() || graded(e)));
    let total = plan.instances.len() * plan.samples as usize;
    Ok(Summary {
        total,
        done,
        ends,
        resolved: count(&|e| e.result.as_ref().is_some_and(|row| row.resolved)),
        empty_patches: count(&|e| e.episode.end.counts() && e.episode.empty_patch),
        failed: count(&|e| {
            !e.episode.end.counts() || (plan.grading.is_some() && e.result.is_some() && !graded(e))
        }),
        complete: done == total,
        spent: run.spent()?,
        seconds: started.elapsed().as_secs_f64(),
        rejected: shared
            .rejected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
    })
}

/// One file of predictions a sample, as evaluators read them.
fn write_predictions(plan: &Plan, run: &Run) -> Result<(), Error> {
    for sample in 0..plan.samples {
        let of_sample = |e: &&Entry| e.episode.sample == sample && e.episode.end.counts();
        let predictions: Vec<Prediction> = run
            .entries
            .iter()
            .filter(of_sample)
            .map(|e| e.prediction(&run.manifest.model_name_or_path))
            .collect::<Result<_, _>>()?;
        let path = plan.dir.join(format!("preds-{sample}.jsonl"));
        crate::tasks::write_lines(&path, &predictions)?;
    }
    Ok(())
}
