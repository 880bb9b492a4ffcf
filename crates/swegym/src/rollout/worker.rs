//! One episode: its sandbox, its agent, its patch, its verdict.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use swegym_agent::episode::{self, Episode, Finished};
use swegym_agent::model::{Model, Sampling};
use swegym_agent::proxy::Proxy;
use swegym_agent::scaffold::{Dialect, Task};
use swegym_agent::workspace::Gate;
use swegym_core::{
    AgentInfo, AtifStep, End, Fault, Instance, Outcome, Prediction, Sandbox, StepSource, Trajectory,
};

use super::command::{self, Installed};
use super::ledger::Journal;
use super::runs::{Entry, EpisodeRecord, OpenRun};
use super::warm::{Warm, WarmUp};
use super::{Models, Plan, examples, patch};
use crate::dispatch::Cancel;
use crate::environment::TESTBED;
use crate::judge::Judge;
use crate::{Error, compose};

/// Turns at the processors.
pub(super) struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A turn that is given back whatever happens.
struct Held<'a>(&'a Turns);

impl Turns {
    pub fn new(places: usize) -> Self {
        Self {
            free: Mutex::new(places.max(1)),
            freed: Condvar::new(),
        }
    }

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

pub(super) struct Shared {
    pub warm: WarmUp,
    pub judge: Option<Judge>,
    pub models: Models,
    /// Where the agent is a command.
    pub command: Option<(Installed, Proxy)>,
    pub run: OpenRun,
    pub journal: Arc<Journal>,
    pub gate: Turns,
    pub plan: Plan,
    /// Tries of each episode in earlier runs.
    pub earlier: BTreeMap<String, u32>,
    /// Whether any call of the run was ever answered.
    pub answered: AtomicBool,
    pub steps: Mutex<Sender<(String, String)>>,
    pub cancel: Cancel,
    pub rejected: Mutex<Option<String>>,
}

pub(super) struct Work {
    pub instance: Arc<Instance>,
    pub sample: u32,
    /// Committed earlier; only its verdict is missing.
    pub ungraded: Option<Entry>,
}

/// An episode that was run.
struct Rolled {
    finished: Finished,
    /// Its patch, or why there is none.
    patch: Result<String, String>,
    /// What a command wrote to its terminal.
    log: Option<String>,
}

pub(super) struct Done {
    pub record: EpisodeRecord,
    pub outcome: Option<Outcome>,
}

/// How a step says that an episode is tried again.
pub(super) const RETRY: &str = "\u{0}retry ";

impl Shared {
    pub fn work(&self, work: &Work) -> Option<Done> {
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
        let model = examples::before(model, &self.plan.examples);
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
const RETRY_WAIT: Duration = Duration::from_secs(1);

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
