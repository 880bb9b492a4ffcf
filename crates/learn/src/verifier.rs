//! The outcome verifier: how likely a trajectory resolved its issue, read off
//! the two tokens between which a trained model decides (SWE-GYM.md section
//! 4).

use swegym_core::ChatMessage;

use crate::error::{LearnError, Result};
use crate::infer::{Ask, Engine};
use crate::model::Model;

/// Where a model decides between two answers: the tokens that both begin
/// with, and the two that differ, as the model was trained on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What both answers begin with.
    pub prefix: Vec<u32>,
    /// Next token of the answer that says yes.
    pub yes: u32,
    /// Of the one that says no.
    pub no: u32,
}

impl Decision {
    /// Finds where two answers part.
    ///
    /// # Errors
    /// If the tokenizer fails, or one answer is the beginning of the other.
    pub fn between(model: &Model, yes: &str, no: &str) -> Result<Self> {
        let (yes, no) = (
            model.tokenizer.encode(yes, false)?,
            model.tokenizer.encode(no, false)?,
        );
        let same = yes.iter().zip(&no).take_while(|(a, b)| a == b).count();
        match (yes.get(same), no.get(same)) {
            (Some(a), Some(b)) => Ok(Self {
                prefix: yes[..same].to_vec(),
                yes: *a,
                no: *b,
            }),
            _ => Err(LearnError::Request(
                "the two answers of the verifier are no two answers in tokens".into(),
            )),
        }
    }
}

/// Prompt of a decision, in tokens: the rendered messages, then what both
/// answers begin with. Training rows have the same beginning.
///
/// # Errors
/// If the template refuses the messages.
pub fn prompt(model: &Model, messages: &[ChatMessage], decision: &Decision) -> Result<Vec<u32>> {
    let template = model
        .template
        .as_ref()
        .ok_or_else(|| LearnError::Template {
            model: model.name.clone(),
            problem: "there is none".into(),
        })?;
    let text = template.render(messages, &[], true)?;
    let mut tokens = model.tokenizer.encode(&text, false)?;
    tokens.extend(&decision.prefix);
    Ok(tokens)
}

/// The log-odds of yes over no behind a prompt, natural logarithm.
///
/// # Errors
/// As [`Engine::ask`]; a prompt that does not fit is an error, never a score.
pub fn log_odds(engine: &Engine, prompt: Vec<u32>, decision: &Decision) -> Result<f64> {
    let answer = engine.ask(Ask {
        prompt,
        choices: vec![decision.yes, decision.no],
        ..Ask::default()
    })?;
    match answer.choices[..] {
        [yes, no] if yes.is_finite() && no.is_finite() => Ok(f64::from(yes) - f64::from(no)),
        _ => Err(LearnError::Request(
            "the model's output is not a number; its weights or adapter are damaged".into(),
        )),
    }
}
