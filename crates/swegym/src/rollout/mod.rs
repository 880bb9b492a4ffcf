//! Rolls out agents: every instance, so many samples, each in a sandbox of
//! its own; then grades what they made.
//!
//! An episode is one thread. It waits for the model without holding anything
//! but its sandbox, and takes a turn at the processors for every command. It
//! is committed by one rename, so that a kill loses the episodes in flight and
//! nothing else (docs/design/rollout.md).

mod bases;
mod command;
mod gold;
pub mod index;
mod ledger;
mod patch;
pub mod relay;
pub mod runs;
mod spec;
mod warm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use swegym_agent::episode::{self, Episode, Finished, Limits};
use swegym_agent::model::{HttpOptions, Model, Prices, Sampling};
use swegym_agent::proxy::Proxy;
use swegym_agent::scaffold::{Dialect, Prompts, Task};
use swegym_agent::workspace::Gate;
use swegym_core::{
    AgentInfo, AtifStep, End, Fault, Instance, Outcome, Prediction, Sandbox, StepSource, Trajectory,
};

use crate::dispatch::{self, Attempt, Cancel, Event as Job, dispatch};
use crate::environment::{Environments, TESTBED, file_name};
use crate::grade;
use crate::home::Home;
use crate::judge::Judge;
use crate::{Error, compose};

pub use bases::collect_bases;
pub use command::CommandAgent;
pub use ledger::Spent;
pub use spec::{AgentSpec, ModelSpec, Models};
pub use warm::{Warm, WarmUp};

use command::Installed;
use ledger::Journal;
use runs::{Entry, EpisodeRecord, Manifest, OpenRun, Run};

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

/// Turns at the processors.
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A turn that is given back whatever happens.
struct Held<'a>(&'a Turns);

impl Turns {
    fn take(&self) -> Held<'_> {
        self.enter();
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Gate for Turns {
    fn enter(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self
                .freed
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
    }

    fn leave(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
    }
}

struct Shared {
    warm: WarmUp,
    judge: Option<Judge>,
    models: Models,
    /// Where the agent is a command.
    command: Option<(Installed, Proxy)>,
    run: OpenRun,
    journal: Arc<Journal>,
    gate: Turns,
    plan: Plan,
    /// Tries of each episode in earlier runs.
    earlier: BTreeMap<String, u32>,
    /// Whether any call of the run was ever answered.
    answered: AtomicBool,
    steps: Mutex<Sender<(String, String)>>,
    cancel: Cancel,
    rejected: Mutex<Option<String>>,
}

struct Work {
    instance: Arc<Instance>,
    sample: u32,
    /// Committed earlier; only its verdict is missing.
    ungraded: Option<Entry>,
}

/// An episode that was run.
struct Rolled {
    finished: Finished,
    /// Its patch, or why there is none.
    patch: Result<String, String>,
    /// What a command wrote to its terminal.
    log: Option<String>,
}

struct Done {
    record: EpisodeRecord,
    outcome: Option<Outcome>,
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
    let models = plan.model.open(plan.prices, plan.http.clone())?;
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
        gate: Turns {
            free: Mutex::new(plan.commands.max(1)),
            freed: Condvar::new(),
        },
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

/// How a step says that an episode is tried again.
const RETRY: &str = "\u{0}retry ";

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

impl Shared {
    fn work(&self, work: &Work) -> Option<Done> {
        if self.cancel.is_cancelled() {
            return None;
        }
        if let Some(entry) = &work.ungraded {
            let prediction = entry.prediction(&self.plan.model.name()).ok()?;
            let outcome = self.grade(work, &prediction);
            return Some(Done {
                record: entry.episode.clone(),
                outcome,
            });
        }
        let name = episode_name(&work.instance, work.sample);
        let before = self.earlier.get(&name).copied().unwrap_or_default();
        let mut attempt = before + 1;
        loop {
            let rolled = self.episode(work, &name, attempt);
            let Rolled {
                finished,
                patch,
                log,
            } = rolled.unwrap_or_else(|e| Rolled {
                finished: broken(&self.plan, &name, &e),
                patch: Ok(String::new()),
                log: None,
            });
            if finished.turns > 0 {
                self.answered.store(true, Ordering::SeqCst);
            }
            if finished.rejected && !self.answered.load(Ordering::SeqCst) {
                self.reject(&finished.end);
                return None;
            }
            if let End::Failed { by, why } = &finished.end
                && *by != Fault::Swegym
                && attempt - before < self.plan.attempts
                && !self.cancel.is_cancelled()
            {
                self.step(&work.instance.instance_id, &format!("{RETRY}{why}"));
                std::thread::sleep(RETRY_WAIT * (attempt - before));
                attempt += 1;
                continue;
            }
            return self.commit(work, attempt, finished, patch, log.as_deref());
        }
    }

    fn reject(&self, end: &End) {
        let mut slot = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        if let End::Failed { why, .. } = end {
            slot.get_or_insert_with(|| why.clone());
        }
        self.cancel.cancel();
    }

    fn commit(
        &self,
        work: &Work,
        attempt: u32,
        finished: Finished,
        patch: Result<String, String>,
        log: Option<&str>,
    ) -> Option<Done> {
        let (patch, patch_error) = match patch {
            Ok(patch) => (patch, None),
            Err(why) => (String::new(), Some(why)),
        };
        let record = EpisodeRecord {
            schema: 1,
            instance_id: work.instance.instance_id.clone(),
            repo: work.instance.repo.clone(),
            sample: work.sample,
            attempt,
            end: finished.end,
            empty_patch: patch.trim().is_empty(),
            patch_error,
            turns: finished.turns,
            usage: finished.usage,
            seconds: finished.seconds,
            ended_at: Timestamp::now(),
        };
        let mut trajectory = finished.trajectory;
        trajectory.session_id = Some(self.plan.run_id.clone());
        annotate(&mut trajectory, &record, self.plan.dialect);
        if let Err(e) = self.run.commit(&record, &trajectory, &patch, log) {
            self.step(&record.instance_id, &format!("{RETRY}{e}"));
            return None;
        }
        if !record.end.counts() {
            return Some(Done {
                record,
                outcome: None,
            });
        }
        let prediction = Prediction {
            instance_id: record.instance_id.clone(),
            model_name_or_path: self.plan.model.name(),
            model_patch: Some(patch),
        };
        let outcome = self.grade(work, &prediction);
        Some(Done { record, outcome })
    }

    /// Grades in a fresh sandbox; infrastructure failures are tried again.
    fn grade(&self, work: &Work, prediction: &Prediction) -> Option<Outcome> {
        let judge = self.judge.as_ref()?;
        let id = &work.instance.instance_id;
        let mut tries = 0;
        loop {
            tries += 1;
            let turn = self.gate.take();
            let judged = judge.judge(&work.instance, prediction, &|step| self.step(id, step));
            drop(turn);
            if judged.retry && tries < self.plan.attempts {
                std::thread::sleep(RETRY_WAIT * tries);
                continue;
            }
            let kept = self
                .run
                .keep_result(work.sample, &judged.row, &judged.graded.log);
            if let Err(e) = kept {
                self.step(id, &format!("{RETRY}{e}"));
                return None;
            }
            return Some(judged.row.outcome);
        }
    }

    fn episode(&self, work: &Work, name: &str, attempt: u32) -> Result<Rolled, Error> {
        let instance = &*work.instance;
        let id = &instance.instance_id;
        let turn = self.gate.take();
        let warm = self.warm.get(instance, &|step| self.step(id, step))?;
        drop(turn);
        let source = warm.environment.tree();
        let tree = compose::base_tree(&source, instance)
            .map_err(|e| Error::input(e.to_string(), "the row's `base_patch` is damaged"))?;
        let agent = self.plan.agent.name();
        let model = self.models.model(instance, work.sample, agent, &tree)?;
        let mut sampling = self.plan.sampling.clone();
        // Samples of one instance differ, and a repeated run does not.
        sampling.seed = sampling.seed.map(|seed| seed + u64::from(work.sample));
        let task = task(instance, &warm);
        self.step(id, agent);
        let limits = &self.plan.limits;
        let (finished, mut sandbox, log) = match &self.command {
            Some((installed, proxy)) => {
                let desk = installed.desk(&task)?;
                let mut sandbox = self.warm.start(&installed.spec(&warm.spec, &desk)?)?;
                let run = command::Run {
                    id: name,
                    attempt,
                    task: &task,
                    model,
                    sampling: &sampling,
                    limits,
                    ledger: self.journal.clone(),
                    proxy,
                };
                let (finished, log) = installed.run(run, &desk, &mut *sandbox)?;
                (finished, sandbox, Some(log))
            }
            None => {
                let mut sandbox = self.warm.start(&warm.spec)?;
                let finished =
                    self.scaffolded(name, attempt, &task, &*model, &sampling, &mut *sandbox)?;
                (finished, sandbox, None)
            }
        };
        if !finished.end.counts() {
            return Ok(Rolled {
                finished,
                patch: Ok(String::new()),
                log,
            });
        }
        let turn = self.gate.take();
        let patch = patch::take(&mut *sandbox, &warm)?;
        drop(turn);
        sandbox.close()?;
        Ok(Rolled {
            finished,
            patch,
            log,
        })
    }

    fn scaffolded(
        &self,
        id: &str,
        attempt: u32,
        task: &Task,
        model: &dyn Model,
        sampling: &Sampling,
        sandbox: &mut dyn Sandbox,
    ) -> Result<Finished, Error> {
        let plan = &self.plan;
        let scaffold = plan.agent.scaffold(&plan.prompts, plan.dialect);
        let mut scaffold = scaffold.ok_or_else(|| Error::bug("an agent without a scaffold"))?;
        let episode = Episode {
            id,
            attempt,
            task,
            scaffold: &mut *scaffold,
            model,
            dialect: plan.dialect,
            sampling,
            limits: &plan.limits,
            ledger: &*self.journal,
            gate: &self.gate,
        };
        Ok(episode::run(episode, sandbox))
    }

    fn step(&self, instance_id: &str, what: &str) {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens any more after a cancel.
        let _ = steps.send((instance_id.to_owned(), what.to_owned()));
    }
}

/// First wait before an episode that broke is tried again.
const RETRY_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

fn episode_name(instance: &Instance, sample: u32) -> String {
    format!("{}/{sample}", instance.instance_id)
}

/// What the agent is told. Hints and hidden tests are not.
fn task(instance: &Instance, warm: &Warm) -> Task {
    Task {
        instance_id: instance.instance_id.clone(),
        repo: instance.repo.clone(),
        version: instance.version.clone().unwrap_or_default(),
        workdir: TESTBED.to_owned(),
        problem_statement: instance.problem_statement.clone(),
        test_command: visible_tests(instance, warm),
    }
}

/// The command that runs the tests which the agent sees. One that names the
/// hidden tests' files would say where to look.
fn visible_tests(instance: &Instance, warm: &Warm) -> Option<String> {
    let command = &warm.environment.test_command;
    let hidden = swegym_data::patch::Patch::parse(instance.test_patch.as_bytes()).ok()?;
    let names_hidden = hidden.paths().iter().any(|path| command.contains(path));
    (!names_hidden).then(|| command.clone())
}

/// What is known of an episode that could not even begin.
fn broken(plan: &Plan, name: &str, error: &Error) -> Finished {
    let by = match error {
        Error::Bug(_) | Error::Input { .. } => Fault::Swegym,
        _ => Fault::Infrastructure,
    };
    let mut trajectory = Trajectory::new(AgentInfo {
        name: format!("swegym-{}", plan.agent.name()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..AgentInfo::default()
    });
    trajectory.trajectory_id = Some(name.to_owned());
    trajectory.push(AtifStep::new(
        StepSource::System,
        "The episode could not begin.",
    ));
    Finished {
        end: End::Failed {
            by,
            why: error.to_string(),
        },
        trajectory,
        usage: Default::default(),
        turns: 0,
        seconds: Default::default(),
        rejected: false,
    }
}

/// Our fields of a trajectory.
fn annotate(trajectory: &mut Trajectory, record: &EpisodeRecord, dialect: Dialect) {
    if trajectory.steps.is_empty() {
        trajectory.push(AtifStep::new(
            StepSource::System,
            "The episode ended before it began.",
        ));
    }
    trajectory.note("instance_id", record.instance_id.clone());
    trajectory.note("sample", record.sample);
    trajectory.note("end", plain(&record.end));
    trajectory.note("dialect", plain(&dialect));
}

fn plain(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("plain data")
}
