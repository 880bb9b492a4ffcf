//! One episode: a scaffold, a model, a sandbox, until it ends.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use swegym_core::stuck::{self, Event};
use swegym_core::{
    AgentInfo, ChatMessage, End, Fault, Limit, Sandbox, StepMetrics, StepSource, Trajectory,
};

use crate::dialogue::{Dialogue, Understood};
use crate::model::{Finish, Model, ModelError, Reply, Request, Sampling, Usage};
use crate::scaffold::{Dialect, Next, Scaffold, StepError, Task, Turn};
use crate::workspace::{Gate, Workspace};

/// Limits of an episode. `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Calls of the model.
    pub turns: Option<u32>,
    /// Tokens of prompts and completions together.
    pub tokens: Option<u64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// Wall time.
    pub time: Option<Duration>,
    /// Tokens of one call, prompt and completion.
    pub context: Option<u64>,
    /// Wall time of one command.
    pub command: Duration,
}

impl Default for Limits {
    /// The paper's: 50 turns (rollouts of SWE-Gym), 2 hours, commands of
    /// 300 s.
    fn default() -> Self {
        Self {
            turns: Some(50),
            tokens: None,
            cost: None,
            time: Some(Duration::from_secs(7200)),
            context: None,
            command: Duration::from_secs(300),
        }
    }
}

impl Limits {
    /// The limit that an episode has reached, if any.
    pub fn reached(&self, deadline: Option<Instant>, turns: u32, usage: &Usage) -> Option<Limit> {
        let spent = usage.cost_usd.unwrap_or_default();
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Limit::Time)
        } else if self.turns.is_some_and(|most| turns >= most) {
            Some(Limit::Turns)
        } else if self.tokens.is_some_and(|most| usage.tokens() >= most) {
            Some(Limit::Tokens)
        } else if self.cost.is_some_and(|most| spent >= most) {
            Some(Limit::Cost)
        } else {
            None
        }
    }
}

/// A call of the model, for those who count.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The episode.
    pub episode: &'a str,
    /// Which try of it.
    pub attempt: u32,
    /// Which call of the try, from 0.
    pub number: u32,
    /// Most that it may cost, US dollars, where that is known.
    pub most_cost: Option<f64>,
}

/// Hears of every call before and after it, and may refuse it.
pub trait Ledger: Send + Sync {
    /// A call is about to be made. May wait until others have ended.
    ///
    /// # Errors
    /// The limit of the run that it would break.
    fn begin(&self, call: Call<'_>) -> Result<(), Limit>;

    /// A call has ended; `None` where its usage is not known.
    fn end(&self, call: Call<'_>, usage: Option<&Usage>);
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn begin(&self, _: Call<'_>) -> Result<(), Limit> {
        Ok(())
    }
    fn end(&self, _: Call<'_>, _: Option<&Usage>) {}
}

/// What an episode is made of.
pub struct Episode<'a> {
    /// Its name.
    pub id: &'a str,
    /// Which try of it.
    pub attempt: u32,
    /// The task.
    pub task: &'a Task,
    /// What the agent may do.
    pub scaffold: &'a mut dyn Scaffold,
    /// Who answers.
    pub model: &'a dyn Model,
    /// How tools are spoken of.
    pub dialect: Dialect,
    /// How to sample.
    pub sampling: &'a Sampling,
    /// When it ends at the latest.
    pub limits: &'a Limits,
    /// Who counts calls.
    pub ledger: &'a dyn Ledger,
    /// Who lets commands run.
    pub gate: &'a dyn Gate,
}

/// What an episode left, beside its sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// What happened.
    pub trajectory: Trajectory,
    /// Tokens and cost.
    pub usage: Usage,
    /// Calls of the model that were answered.
    pub turns: u32,
    /// Where the time went.
    pub seconds: Seconds,
    /// Whether the provider takes no request of ours at all.
    pub rejected: bool,
}

/// Wall time of an episode, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// All of it.
    pub total: f64,
    /// Waiting for the model.
    pub model: f64,
    /// In commands.
    pub commands: f64,
}

/// What is remembered of an answer beside its message.
pub(crate) struct Meta {
    at: Timestamp,
    model: String,
    metrics: StepMetrics,
}

struct Running<'a, 'w> {
    episode: Episode<'a>,
    workspace: Workspace<'w>,
    dialogue: Dialogue,
    answers: Vec<Meta>,
    events: Vec<Event>,
    usage: Usage,
    turns: u32,
    model_seconds: f64,
    rejected: bool,
}

/// Runs an episode to its end. Nothing that happens in it is an error: what
/// breaks is [`End::Failed`].
pub fn run(episode: Episode<'_>, sandbox: &mut dyn Sandbox) -> Finished {
    let started = Instant::now();
    let deadline = episode.limits.time.map(|limit| started + limit);
    let gate = episode.gate;
    let mut workspace = Workspace::new(sandbox, gate, episode.limits.command, deadline);
    let began = episode.scaffold.begin(episode.task, &mut workspace);
    let (beginning, failed) = match began {
        Ok(beginning) => (beginning, None),
        Err(e) => (Vec::new(), Some(failure(&e))),
    };
    let scaffold = &*episode.scaffold;
    let dialogue = Dialogue::new(
        episode.dialect,
        scaffold.tools(),
        scaffold.fence(),
        beginning,
    );
    let mut running = Running {
        episode,
        workspace,
        dialogue,
        answers: Vec::new(),
        events: Vec::new(),
        usage: Usage::default(),
        turns: 0,
        model_seconds: 0.0,
        rejected: false,
    };
    let mut end = match failed {
        Some(end) => end,
        None => loop {
            if let Some(end) = running.turn() {
                break end;
            }
        },
    };
    if let Err(e) = running.workspace.close()
        && end.counts()
    {
        end = failure(&e.into());
    }
    let seconds = Seconds {
        total: started.elapsed().as_secs_f64(),
        model: running.model_seconds,
        commands: running.workspace.seconds,
    };
    running.finish(end, seconds)
}

impl Running<'_, '_> {
    /// Asks the model and does what it says; the end, if this was the last.
    fn turn(&mut self) -> Option<End> {
        if let Some(limit) = self.limit() {
            return Some(End::Truncated { limit });
        }
        let reply = match self.ask() {
            Ok(reply) => reply,
            Err(end) => return Some(end),
        };
        if reply.finish == Finish::Refusal {
            let why = reply.message.text();
            self.dialogue.answered(&reply.message);
            return Some(End::Refused { why });
        }
        let turn = match self.dialogue.answered(&reply.message) {
            Understood::Message(answer) => self.episode.scaffold.step(&answer, &mut self.workspace),
            Understood::Wrong(problem) => Ok(Turn::said(format!("ERROR: {problem}"))),
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(e) => return Some(failure(&e)),
        };
        self.dialogue.heard(&turn.acts, turn.say.as_deref());
        if turn.acts.is_empty() {
            self.events.push(Event::Message(reply.message.text()));
        }
        for act in &turn.acts {
            let f = &act.call.function;
            self.events
                .push(Event::Action(format!("{}\n{}", f.name, f.arguments)));
            self.events.push(Event::Observation {
                key: act.same_as.as_ref().unwrap_or(&act.observation).clone(),
                error: act.error,
            });
        }
        match turn.next {
            Next::Submitted => return Some(End::Submitted),
            Next::GaveUp(rule) => return Some(End::Stuck { rule }),
            Next::Continue => {}
        }
        stuck::check(&self.events).map(|rule| End::Stuck {
            rule: rule.to_string(),
        })
    }

    /// The limit that is reached, if any.
    fn limit(&self) -> Option<Limit> {
        let limits = self.episode.limits;
        limits.reached(self.workspace.deadline, self.turns, &self.usage)
    }

    fn ask(&mut self) -> Result<Reply, End> {
        let request = Request {
            messages: self.dialogue.messages(),
            tools: self.dialogue.api_tools(),
            stop: self.dialogue.stop(),
            sampling: self.episode.sampling,
            deadline: self.workspace.deadline,
        };
        let call = Call {
            episode: self.episode.id,
            attempt: self.episode.attempt,
            number: self.turns,
            most_cost: self.episode.model.most_cost(&request),
        };
        let ledger = self.episode.ledger;
        ledger
            .begin(call)
            .map_err(|limit| End::Truncated { limit })?;
        let clock = Instant::now();
        let answered = self.episode.model.complete(&request);
        self.model_seconds += clock.elapsed().as_secs_f64();
        ledger.end(call, answered.as_ref().ok().map(|reply| &reply.usage));
        let reply = answered.map_err(|e| {
            self.rejected |= matches!(e, ModelError::Rejected(_));
            ended(&e)
        })?;
        self.turns += 1;
        self.usage.add(&reply.usage);
        self.answers.push(meta(&reply));
        let size = reply.usage.tokens();
        if self.episode.limits.context.is_some_and(|most| size > most) {
            self.dialogue.answered(&reply.message);
            return Err(End::Truncated {
                limit: Limit::Context,
            });
        }
        Ok(reply)
    }

    fn finish(self, end: End, seconds: Seconds) -> Finished {
        let scaffold = &*self.episode.scaffold;
        let tools = scaffold.tools().iter();
        let agent = AgentInfo {
            name: format!("swegym-{}", scaffold.name()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model_name: Some(self.episode.model.name().to_owned()),
            tool_definitions: Some(
                tools
                    .map(|tool| serde_json::to_value(tool).expect("plain data"))
                    .collect(),
            ),
            extra: None,
        };
        let mut trajectory = trajectory(agent, self.dialogue.history, self.answers, 0);
        trajectory.trajectory_id = Some(self.episode.id.to_owned());
        if let Some(fence) = scaffold
            .fence()
            .filter(|_| self.episode.dialect == Dialect::Text)
        {
            trajectory.note("fence", fence);
        }
        trajectory.final_metrics = Some(self.usage.sums(trajectory.steps.len()));
        Finished {
            end,
            trajectory,
            usage: self.usage,
            turns: self.turns,
            seconds,
            rejected: self.rejected,
        }
    }
}

/// A history, with what is remembered of each answer but the first ones,
/// which were copied from elsewhere.
pub(crate) fn trajectory(
    agent: AgentInfo,
    history: Vec<ChatMessage>,
    answers: Vec<Meta>,
    copied: usize,
) -> Trajectory {
    let mut trajectory = Trajectory::from_chat(agent, &history);
    let steps = trajectory.steps.iter_mut();
    let mut steps = steps.filter(|step| step.source == StepSource::Agent);
    for step in steps.by_ref().take(copied) {
        step.is_copied_context = Some(true);
    }
    for (step, meta) in steps.zip(answers) {
        step.timestamp = Some(meta.at.to_string());
        step.model_name = (!meta.model.is_empty()).then_some(meta.model);
        step.metrics = Some(meta.metrics);
        step.llm_call_count = Some(1);
    }
    trajectory
}

pub(crate) fn meta(reply: &Reply) -> Meta {
    let tokens = reply.tokens.clone().unwrap_or_default();
    let mut extra = serde_json::Map::new();
    extra.insert("seconds".into(), Value::from(reply.seconds));
    if reply.attempts > 1 {
        extra.insert("attempts".into(), reply.attempts.into());
    }
    if reply.finish == Finish::Length {
        extra.insert("finish_reason".into(), "length".into());
    }
    Meta {
        at: Timestamp::now(),
        model: reply.model.clone(),
        metrics: StepMetrics {
            prompt_tokens: reply.usage.prompt_tokens,
            completion_tokens: reply.usage.completion_tokens,
            cached_tokens: reply.usage.cached_tokens,
            cost_usd: reply.usage.cost_usd,
            prompt_token_ids: tokens.prompt,
            completion_token_ids: tokens.completion,
            logprobs: tokens.logprobs,
            extra: Some(extra),
        },
    }
}

/// The end that a model's failure is.
pub(crate) fn ended(error: &ModelError) -> End {
    match error {
        ModelError::Context(_) => End::Truncated {
            limit: Limit::Context,
        },
        ModelError::OutOfTime => End::Truncated { limit: Limit::Time },
        ModelError::Refused(why) => End::Refused { why: why.clone() },
        ModelError::ScriptEnded => End::Failed {
            by: Fault::Swegym,
            why: error.to_string(),
        },
        ModelError::Provider { .. } | ModelError::Rejected(_) => End::Failed {
            by: Fault::ModelProvider,
            why: error.to_string(),
        },
    }
}

fn failure(error: &StepError) -> End {
    End::Failed {
        by: match error {
            StepError::Sandbox(_) => Fault::Infrastructure,
            StepError::Prompt(_) => Fault::Swegym,
        },
        why: error.to_string(),
    }
}
