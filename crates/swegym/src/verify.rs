//! Scores of attempts: by a language model that was trained to judge, by what
//! can be counted in them, by the policy's own certainty, and by all together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swegym_agent::rows::RowError;
pub use swegym_agent::verifier::Form;
use swegym_agent::verifier::{self, Attempt, Excerpt};
use swegym_core::{ChatMessage, StepSource};
use swegym_data::patch::{Line, Patch};
use swegym_grade::scores::{self, Bin};
use swegym_learn::infer::{Engine, EngineOptions};
use swegym_learn::model::{Dtype, Model};
use swegym_learn::verifier::{Decision, log_odds};
use swegym_learn::{LearnError, verifier as decide};

use crate::Error;
use crate::dispatch::Cancel;
use crate::export::Record;
use crate::features::{FeatureModel, features};
use crate::train::{Judgeable, learn};

/// File of a trained verifier, beside its adapter.
pub const FILE: &str = "verifier.json";

/// What a trained verifier is, beside its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifierRecord {
    /// Version of this record, 1.
    pub schema: u32,
    /// The model under the adapter.
    pub base: PathBuf,
    /// What it reads.
    pub form: Form,
    /// Tokens of a prompt at most; longer ones are shortened.
    pub length: usize,
    /// Log-odds are divided by this.
    pub temperature: f64,
    /// How it does on the rows that were held out.
    pub held_out: Option<Judged>,
}

/// How good scores are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Attempts.
    pub count: usize,
    /// Those that resolved their issue.
    pub resolved: usize,
    /// How often a resolved one is above an unresolved one.
    pub auc: Option<f64>,
    /// 95 % interval of it, by bootstrap over instances.
    pub interval: Option<(f64, f64)>,
    /// Expected calibration error of the probabilities, where scores are such.
    pub calibration_error: Option<f64>,
    /// Bins of the reliability plot.
    pub bins: Vec<Bin>,
}

/// Scores of one attempt; each `None` where it cannot be had.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The instance.
    pub instance_id: String,
    /// Which attempt.
    pub sample: u32,
    /// Whether it is resolved, where that is known.
    pub resolved: Option<bool>,
    /// Probability by the verifier.
    pub verifier: Option<f64>,
    /// Whether the verifier saw a part only.
    pub shortened: bool,
    /// Probability by what can be counted.
    pub features: Option<f64>,
    /// Mean log-probability of the policy's own tokens, nats.
    pub logprob: Option<f64>,
    /// Mean of the verifier's and the features' log-odds, as a probability.
    pub ensemble: Option<f64>,
}

/// The issue of an attempt: the task that it began with.
fn issue(record: &Record) -> String {
    let user = record
        .trajectory
        .steps
        .iter()
        .find(|s| s.source == StepSource::User);
    user.map(|s| s.message.text()).unwrap_or_default()
}

/// Code before and after a patch, hunk by hunk.
fn excerpts(patch: &str) -> Vec<Excerpt> {
    let parsed = Patch::parse(patch.as_bytes()).unwrap_or_default();
    let numbered = |start: usize, lines: &mut dyn Iterator<Item = &Line>| -> Vec<(usize, String)> {
        let text = |line: &Line| String::from_utf8_lossy(&line.text).trim_end().to_owned();
        lines
            .enumerate()
            .map(|(n, line)| (start + n, text(line)))
            .collect()
    };
    let mut out = Vec::new();
    for file in &parsed.files {
        for hunk in file.hunks() {
            out.push(Excerpt {
                path: file.new_path.clone(),
                before: numbered(hunk.old_start, &mut hunk.old_lines()),
                after: numbered(hunk.new_start, &mut hunk.new_lines()),
            });
        }
    }
    out
}

enum PromptError {
    Row(RowError),
    Learn(LearnError),
}

impl From<RowError> for PromptError {
    fn from(e: RowError) -> Self {
        Self::Row(e)
    }
}

/// The prompt about an attempt, as long as `fits` lets it be.
///
/// # Errors
/// If not even the shortest one fits, or a call cannot be said in text.
fn prompt_of(
    record: &Record,
    form: Form,
    fits: &mut dyn FnMut(&[ChatMessage]) -> Result<bool, LearnError>,
) -> Result<verifier::Prompt, String> {
    let (issue, excerpts) = match form {
        Form::Log => (String::new(), Vec::new()),
        Form::Patch => (
            issue(record),
            excerpts(record.patch.as_deref().unwrap_or_default()),
        ),
    };
    let attempt = Attempt {
        trajectory: &record.trajectory,
        issue: &issue,
        excerpts: &excerpts,
    };
    let found = verifier::prompt::<PromptError>(form, &attempt, &mut |messages| {
        fits(messages).map_err(PromptError::Learn)
    });
    match found {
        Ok(Some(prompt)) => Ok(prompt),
        Ok(None) => Err("does not fit even when shortened".into()),
        Err(PromptError::Row(e)) => Err(e.to_string()),
        Err(PromptError::Learn(e)) => Err(e.to_string()),
    }
}

/// What prompts are measured with.
#[derive(Debug, Clone, Copy)]
pub struct Length<'a> {
    /// The model whose template and tokenizer count.
    pub model: &'a Model,
    /// Tokens of prompt and answer at most.
    pub tokens: usize,
}

/// A verifier's row of an attempt: what it is shown and should answer; and
/// whether it was shortened.
///
/// # Errors
/// Why there is none.
pub fn row(
    record: &Record,
    form: Form,
    length: Option<Length<'_>>,
) -> Result<(serde_json::Value, bool), String> {
    let resolved = record.resolved.ok_or("not graded")?;
    let prompt = prompt_of(record, form, &mut |messages| match length {
        None => Ok(true),
        Some(length) => fits(length, form, messages),
    })?;
    let row = swegym_agent::rows::verifier(&prompt.messages, form, &record.instance_id, resolved);
    Ok((row, prompt.shortened))
}

/// Whether a prompt fits with either answer behind it.
fn fits(length: Length<'_>, form: Form, messages: &[ChatMessage]) -> Result<bool, LearnError> {
    let [yes, no] = form.answers();
    let decision = Decision::between(length.model, yes, no)?;
    let tokens = decide::prompt(length.model, messages, &decision)?.len();
    // The rest of the answer, and what ends the turn.
    let answer = length
        .model
        .tokenizer
        .encode(&format!("{yes}{no}"), false)?;
    Ok(tokens + answer.len() + 4 <= length.tokens)
}

/// A verifier that is ready to score.
#[derive(Debug)]
pub struct Verifier {
    engine: Engine,
    decision: Decision,
    record: VerifierRecord,
}

impl Verifier {
    /// Opens a folder that `train verifier` wrote, or that holds a whole model
    /// beside its `verifier.json`.
    ///
    /// # Errors
    /// If it is incomplete.
    pub fn open(dir: &Path, base: Option<&Path>) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let text = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::input(
                format!("{}: no verifier: it has no {FILE}", dir.display()),
                "train one with `swegym train verifier`",
            ),
            _ => Error::io(&path, e),
        })?;
        let record: VerifierRecord = serde_json::from_slice(&text)
            .map_err(|e| Error::input(format!("{}: {e}", path.display()), "train it again"))?;
        let base = base.unwrap_or(&record.base);
        let mut model = Model::read(base, Dtype::Stored).map_err(learn)?;
        if dir.join("adapter_config.json").exists() {
            model.network.read_lora(dir).map_err(learn)?;
        }
        Self::of(model, record)
    }

    /// A verifier of a model that is at hand.
    ///
    /// # Errors
    /// If the model cannot tell the answers apart, or the system gives no
    /// threads.
    pub fn of(model: Model, record: VerifierRecord) -> Result<Self, Error> {
        let [yes, no] = record.form.answers();
        let decision = Decision::between(&model, yes, no).map_err(learn)?;
        let engine = Engine::start(Arc::new(model), &EngineOptions::default()).map_err(learn)?;
        Ok(Self {
            engine,
            decision,
            record,
        })
    }

    /// Log-odds that an attempt resolved its issue, before the temperature,
    /// and whether it was shortened.
    ///
    /// # Errors
    /// Why it cannot be scored; that is never a score.
    fn log_odds(&self, record: &Record) -> Result<(f64, bool), String> {
        let model = self.engine.model();
        let length = Length {
            model,
            tokens: self.record.length.min(self.engine.context()),
        };
        let form = self.record.form;
        let prompt = prompt_of(record, form, &mut |messages| fits(length, form, messages))?;
        self.judge(&prompt.messages)
            .map(|odds| (odds, prompt.shortened))
            .map_err(|e| e.to_string())
    }

    /// Log-odds of a prompt.
    fn judge(&self, messages: &[ChatMessage]) -> Result<f64, LearnError> {
        let prompt = decide::prompt(self.engine.model(), messages, &self.decision)?;
        log_odds(&self.engine, prompt, &self.decision)
    }

    /// Sets the temperature by held-out rows, and says how good it is on them:
    /// the AUC on all, the calibration of each half by the other's
    /// temperature.
    ///
    /// # Errors
    /// If a row cannot be read by the model.
    pub fn calibrate(&mut self, rows: &[Judgeable]) -> Result<(), Error> {
        let mut scored = Vec::with_capacity(rows.len());
        for (messages, resolved, instance) in rows {
            let odds = self.judge(messages).map_err(learn)?;
            scored.push((odds, *resolved, instance.clone()));
        }
        let plain = |from: usize, step: usize| -> Vec<(f64, bool)> {
            scored
                .iter()
                .skip(from)
                .step_by(step)
                .map(|s| (s.0, s.1))
                .collect()
        };
        let halves = [
            scores::temperature(&plain(1, 2)),
            scores::temperature(&plain(0, 2)),
        ];
        let probabilities: Vec<(f64, bool, &str)> = scored
            .iter()
            .enumerate()
            .map(|(n, s)| (scores::probability(s.0, halves[n % 2]), s.1, s.2.as_str()))
            .collect();
        let mut judged = judge(&probabilities);
        // Ranks are of one temperature.
        let ranks: Vec<(f64, bool, &str)> =
            scored.iter().map(|s| (s.0, s.1, s.2.as_str())).collect();
        let ranked = judge(&ranks);
        (judged.auc, judged.interval) = (ranked.auc, ranked.interval);
        self.record.temperature = scores::temperature(&plain(0, 1));
        self.record.held_out = Some(judged);
        Ok(())
    }

    /// What it is.
    pub fn record(&self) -> &VerifierRecord {
        &self.record
    }
}

/// How good scores are: AUC with an interval by bootstrap over instances, and,
/// if all are probabilities, their calibration.
pub fn judge(scored: &[(f64, bool, &str)]) -> Judged {
    let plain: Vec<(f64, bool)> = scored.iter().map(|s| (s.0, s.1)).collect();
    let are_probabilities = plain.iter().all(|s| (0.0..=1.0).contains(&s.0));
    let bins = if are_probabilities {
        scores::reliability(&plain, 10)
    } else {
        Vec::new()
    };
    let groups = scored.iter().map(|s| (s.2, (s.0, s.1)));
    Judged {
        count: plain.len(),
        resolved: plain.iter().filter(|s| s.1).count(),
        auc: scores::auc(&plain),
        interval: scores::bootstrap(groups, &|sample| scores::auc(sample)),
        calibration_error: (!bins.is_empty()).then(|| scores::calibration_error(&bins)),
        bins,
    }
}

/// Mean log-probability of the tokens that the policy wrote, where its engine
/// gave them.
fn own_logprob(record: &Record) -> Option<f64> {
    let metrics = record
        .trajectory
        .steps
        .iter()
        .filter_map(|s| s.metrics.as_ref());
    let all: Vec<f64> = metrics
        .filter_map(|m| m.logprobs.as_ref())
        .flatten()
        .copied()
        .collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// What attempts are scored by.
#[derive(Debug, Default)]
pub struct Scorers {
    /// A language model.
    pub verifier: Option<Verifier>,
    /// What can be counted.
    pub features: Option<FeatureModel>,
}

/// Scores attempts; those that the verifier cannot score are told, and have no
/// score of its. `each` is told after every one.
///
/// # Errors
/// If the features fail.
pub fn score(
    records: &[Record],
    scorers: &Scorers,
    cancel: &Cancel,
    each: &mut dyn FnMut(&Score, Option<String>),
) -> Result<Vec<Score>, Error> {
    let counted = match &scorers.features {
        None => vec![None; records.len()],
        Some(model) => {
            let rows: Vec<Vec<f64>> = records.iter().map(features).collect();
            model.score(&rows)?.into_iter().map(Some).collect()
        }
    };
    let mut out = Vec::with_capacity(records.len());
    for (record, counted) in records.iter().zip(counted) {
        if cancel.is_cancelled() {
            break;
        }
        let mut score = Score {
            instance_id: record.instance_id.clone(),
            sample: record.sample,
            resolved: record.resolved,
            features: counted,
            logprob: own_logprob(record),
            ..Score::default()
        };
        let mut problem = None;
        if let Some(verifier) = &scorers.verifier {
            match verifier.log_odds(record) {
                Ok((odds, shortened)) => {
                    let temperature = verifier.record.temperature;
                    score.verifier = Some(scores::probability(odds, temperature));
                    score.shortened = shortened;
                }
                Err(why) => problem = Some(why),
            }
        }
        if let (Some(a), Some(b)) = (score.verifier, score.features) {
            let odds = |p: f64| {
                let p = p.clamp(0.005, 0.995);
                (p / (1.0 - p)).ln()
            };
            score.ensemble = Some(scores::probability(f64::midpoint(odds(a), odds(b)), 1.0));
        }
        each(&score, problem);
        out.push(score);
    }
    Ok(out)
}

/// Fits the features to attempts whose label is known.
///
/// # Errors
/// If they are too few.
pub fn fit_features(records: &[Record], seed: u64) -> Result<FeatureModel, Error> {
    let labelled = records
        .iter()
        .filter_map(|r| Some((features(r), r.resolved?)));
    FeatureModel::fit(&labelled.collect::<Vec<_>>(), seed)
}

/// How good each kind of score is on attempts whose label is known.
pub fn table(scores: &[Score]) -> Vec<(&'static str, Judged)> {
    type Kind = fn(&Score) -> Option<f64>;
    let kinds: [(&str, Kind); 4] = [
        ("verifier", |s| s.verifier),
        ("features", |s| s.features),
        ("log-probability", |s| s.logprob),
        ("ensemble", |s| s.ensemble),
    ];
    let judged = |of: Kind| {
        let scored = scores
            .iter()
            .filter_map(|s| Some((of(s)?, s.resolved?, s.instance_id.as_str())));
        judge(&scored.collect::<Vec<_>>())
    };
    let all = kinds.into_iter().map(|(name, of)| (name, judged(of)));
    all.filter(|(_, judged)| judged.count > 0).collect()
}
