//! Bugs that a model writes: a whole function, written anew (SWE-smith's
//! rewriting). The answer is kept before anything is made of it, so that no
//! function is asked for twice.

use std::fmt;
use std::sync::Arc;

use minijinja::{Environment as Jinja, context};
use serde::{Deserialize, Serialize};
use serde_json::json;
use swegym_agent::model::{Model, ModelError, Request, Sampling, Usage};
use swegym_agent::scaffold::last_block;
use swegym_core::ChatMessage;
use swegym_forge::mutate::{self, FunctionContext};

use super::{Bug, Codebase, SYNTH_VERSION, package_of, tests_of};
use crate::validate::{Reason, Rejection};
use crate::{Error, hash};

const TEMPLATE: &str = include_str!("../../templates/rewrite.md");

/// A model that breaks functions.
#[derive(Clone)]
pub struct Rewriter {
    /// The model.
    pub model: Arc<dyn Model>,
    /// How it samples.
    pub sampling: Sampling,
    /// Times that each function is asked for.
    pub per_function: usize,
}

impl fmt::Debug for Rewriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewriter")
            .field("model", &self.model.name())
            .field("sampling", &self.sampling)
            .field("per_function", &self.per_function)
            .finish()
    }
}

/// A function that a model is asked to break.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// The file of the function.
    pub path: String,
    context: FunctionContext,
    prompt: String,
    nth: usize,
    /// What the answer's record is found by.
    pub key: String,
}

/// What the model said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answer {
    /// All of it, or why it says nothing.
    text: Result<String, String>,
    /// What it cost.
    pub usage: Usage,
}

impl Rewriter {
    /// Asks. A refusal is an answer.
    pub(super) fn ask(&self, draft: &Draft) -> Result<Answer, ModelError> {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed + draft.nth as u64);
        let reply = self.model.complete(&Request {
            messages: &[ChatMessage::user(&draft.prompt)],
            tools: &[],
            stop: &[],
            sampling: &sampling,
            deadline: None,
        });
        match reply {
            Ok(reply) => Ok(Answer {
                text: Ok(reply.message.text()),
                usage: reply.usage,
            }),
            Err(e @ (ModelError::Refused(_) | ModelError::Context(_))) => Ok(Answer {
                text: Err(e.to_string()),
                usage: Usage::default(),
            }),
            Err(e) => Err(e),
        }
    }
}

impl Codebase {
    /// The functions to ask for, in an order of their own, so that a limit is
    /// no bias to a file.
    pub(super) fn drafts(&self, rewriter: &Rewriter) -> Result<Vec<Draft>, Error> {
        let mut jinja = Jinja::new();
        jinja
            .add_template("rewrite", TEMPLATE)
            .map_err(Error::bug)?;
        let template = jinja.get_template("rewrite").map_err(Error::bug)?;
        let mut drafts = Vec::new();
        for (path, covered, text) in self.sources()? {
            for function in mutate::functions(&text).unwrap_or_default() {
                let wanted = function.useless.is_none()
                    && function.statements >= self.options.mutate.min_statements
                    && tests_of(covered, &function).next().is_some();
                let Some(context) = wanted
                    .then(|| mutate::function_context(&text, &function.id).ok())
                    .flatten()
                else {
                    continue;
                };
                let prompt = template
                    .render(context! {
                        package => package_of(&self.seed),
                        path => path,
                        around => context.around,
                        source => context.source.trim_end(),
                    })
                    .map_err(Error::bug)?;
                for nth in 0..rewriter.per_function {
                    let parts = json!([
                        SYNTH_VERSION,
                        self.environment.key,
                        path,
                        function.id,
                        prompt,
                        rewriter.model.name(),
                        rewriter.sampling,
                        nth,
                    ]);
                    let key = hash(parts.to_string().as_bytes());
                    drafts.push(Draft {
                        path: path.clone(),
                        context: context.clone(),
                        prompt: prompt.clone(),
                        nth,
                        key: format!("answer-{}", &key[..24]),
                    });
                }
            }
        }
        drafts.sort_by(|a, b| a.key.cmp(&b.key));
        drafts.truncate(self.options.limit.unwrap_or(usize::MAX));
        Ok(drafts)
    }

    /// The bug that an answer holds, or why there is none in it.
    pub(super) fn written(
        &self,
        rewriter: &Rewriter,
        draft: &Draft,
        answer: &Answer,
    ) -> Result<Result<Bug, Rejection>, Error> {
        let none = |why: String| Ok(Err(Rejection::new(Reason::NoBug, why)));
        let said = match &answer.text {
            Ok(said) => said,
            Err(why) => return none(why.clone()),
        };
        let Some(source) = last_block(said) else {
            return none("the model's answer has no fenced block".to_owned());
        };
        let text = self.text(&draft.path)?.unwrap_or_default();
        let function = &draft.context.function;
        let name = rewriter.model.name();
        match mutate::rewrite(&text, &function.id, &source, name) {
            Ok(mutation) => {
                let functions = mutate::functions(&text).unwrap_or_default();
                let covered = self.baseline.functions.get(&draft.path);
                let files = covered
                    .map(|covered| self.files_of(covered, &functions, &mutation))
                    .unwrap_or_default();
                let key = self.key(&draft.path, &mutation, &files);
                Ok(Ok(Bug {
                    path: draft.path.clone(),
                    mutation,
                    files,
                    key,
                }))
            }
            Err(why) => none(format!("{}: {why}", function.id)),
        }
    }
}
