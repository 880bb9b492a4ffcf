//! A model that this program runs itself, asked as any other (`local:PATH`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use swegym_agent::model::{Finish, Model, ModelError, Reply, Request, Tokens, Usage};
use swegym_core::ChatMessage;
use swegym_learn::LearnError;
use swegym_learn::infer::{Answer, Ask, Engine, EngineOptions, Finish as Ended, Sampling};

use crate::home::Home;
use crate::{Error, models};

/// A checkpoint with its engine.
#[derive(Debug)]
pub struct Local {
    name: String,
    engine: Engine,
    /// Seeds of calls that name none: no two answers are drawn alike.
    unseeded: AtomicU64,
}

impl Local {
    /// Reads a model by its name, as [`models::open`], and starts its engine.
    ///
    /// # Errors
    /// If it cannot be read, or holds no chat template.
    pub fn open(home: &Home, name: &str) -> Result<Self, Error> {
        let model = models::open(home, name, &mut |_| ())?;
        if model.template.is_none() {
            return Err(Error::input(
                format!("{name} has no chat template"),
                "put chat_template.jinja beside its config.json",
            ));
        }
        let name = model.name.clone();
        let engine = Engine::start(Arc::new(model), &EngineOptions::default())
            .map_err(|e| Error::setup(e.to_string(), ""))?;
        Ok(Self {
            name,
            engine,
            unseeded: AtomicU64::new(0),
        })
    }

    fn prompt(&self, request: &Request<'_>) -> Result<Vec<u32>, ModelError> {
        let model = self.engine.model();
        let rejected = |e: LearnError| ModelError::Rejected(e.to_string());
        let template = model.template.as_ref().expect("checked when it was opened");
        let text = template
            .render(request.messages, &[], true)
            .map_err(rejected)?;
        model.tokenizer.encode(&text, false).map_err(rejected)
    }
}

impl Model for Local {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        if !request.tools.is_empty() {
            return Err(ModelError::Rejected(
                "models run by this program write tool calls as text; use --dialect text".into(),
            ));
        }
        if request.deadline.is_some_and(|d| d <= Instant::now()) {
            return Err(ModelError::OutOfTime);
        }
        let started = Instant::now();
        let asked = request.sampling;
        let seed = asked.seed.unwrap_or_else(|| {
            let call = self.unseeded.fetch_add(1, Ordering::Relaxed);
            let now = jiff::Timestamp::now().as_nanosecond() as u64;
            now ^ call.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let ask = Ask {
            prompt: self.prompt(request)?,
            max_tokens: asked.max_tokens as usize,
            sampling: Sampling {
                temperature: asked.temperature.unwrap_or(1.0) as f32,
                top_p: asked.top_p.unwrap_or(1.0) as f32,
                seed,
            },
            stop: request.stop.to_vec(),
            choices: Vec::new(),
            deadline: request.deadline,
        };
        let prompt: Vec<i64> = ask.prompt.iter().map(|t| i64::from(*t)).collect();
        let answer = self.engine.ask(ask).map_err(|e| match e {
            LearnError::Context { .. } => ModelError::Context(e.to_string()),
            other => ModelError::Provider {
                problem: other.to_string(),
                attempts: 1,
            },
        })?;
        if answer.finish == Ended::OutOfTime {
            return Err(ModelError::OutOfTime);
        }
        Ok(reply(&self.name, answer, prompt, started))
    }
}

fn reply(name: &str, answer: Answer, prompt: Vec<i64>, started: Instant) -> Reply {
    Reply {
        message: ChatMessage::assistant(answer.text),
        finish: match answer.finish {
            Ended::Stop => Finish::Stop,
            Ended::Length | Ended::OutOfTime => Finish::Length,
        },
        usage: Usage {
            prompt_tokens: Some(answer.prompt_tokens as u64),
            completion_tokens: Some(answer.tokens.len() as u64),
            cached_tokens: Some(answer.cached_tokens as u64),
            cost_usd: Some(0.0),
        },
        model: name.to_owned(),
        tokens: Some(Tokens {
            prompt: Some(prompt),
            completion: Some(answer.tokens.iter().map(|t| i64::from(*t)).collect()),
            logprobs: Some(answer.logprobs.iter().map(|l| f64::from(*l)).collect()),
        }),
        seconds: started.elapsed().as_secs_f64(),
        attempts: 1,
    }
}
