//! The loop: steps over packed documents, held-out loss, checkpoints, exact
//! resume.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::batch::{Document, Packed, pack};
use super::gradients::{Gradients, Trained};
use super::optimizer::{AdamW, AdamWOptions, Schedule, norm};
use super::pass::Pass;
use crate::error::{LearnError, Result};
use crate::model::{Network, Tensor, read_state, write_safetensors};

/// How a network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Highest learning rate.
    pub rate: f32,
    /// How it falls.
    pub schedule: Schedule,
    /// Steps in which it rises first.
    pub warmup: usize,
    /// Constants of the optimiser.
    pub adamw: AdamWOptions,
    /// Gradients are scaled down to this norm.
    pub clip: f32,
    /// Tokens that go through the network together; also the longest
    /// document.
    pub length: usize,
    /// Groups of `length` tokens in a step.
    pub accumulate: usize,
    /// How often every document is read.
    pub epochs: usize,
    /// Fewer steps than the epochs would be.
    pub max_steps: Option<usize>,
    /// Seed of the order.
    pub seed: u64,
    /// Whether activations are computed twice instead of kept.
    pub checkpoint_activations: bool,
}

impl Default for TrainOptions {
    /// The paper's policy, for one small machine: AdamW, cosine, 5 steps of
    /// warm-up.
    fn default() -> Self {
        Self {
            rate: 1e-4,
            schedule: Schedule::Cosine,
            warmup: 5,
            adamw: AdamWOptions::default(),
            clip: 1.0,
            length: 2048,
            accumulate: 1,
            epochs: 1,
            max_steps: None,
            seed: 42,
            checkpoint_activations: false,
        }
    }
}

/// What a step did; a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Counted from 1.
    pub step: usize,
    /// Epochs done after it, with a fraction.
    pub epoch: f64,
    /// Mean negative log-likelihood of the learnt tokens, nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub rate: f32,
    /// Tokens that went through the network.
    pub tokens: usize,
    /// Of those, learnt.
    pub targets: usize,
    /// Wall time.
    pub seconds: f64,
}

/// A training run: what it reads, and how far it is.
#[derive(Debug)]
pub struct Trainer<'a> {
    network: &'a mut Network,
    documents: &'a [Document],
    options: TrainOptions,
    gradients: Gradients,
    optimizer: AdamW,
    pass: Pass,
    /// Steps of each epoch.
    epochs: Vec<usize>,
    /// Groups of the epoch at hand.
    groups: (usize, Vec<Vec<usize>>),
}

/// What a checkpoint says beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    step: usize,
    options: TrainOptions,
    /// Digest of the documents and of what else must be the same.
    identity: String,
}

impl<'a> Trainer<'a> {
    /// A run that has not begun.
    ///
    /// # Errors
    /// If there is nothing to learn, a document is too long, or the weights
    /// are not of a type that can be trained.
    pub fn new(
        network: &'a mut Network,
        documents: &'a [Document],
        trained: Trained,
        options: TrainOptions,
    ) -> Result<Self> {
        check(network, documents, &options)?;
        let steps = |epoch| {
            pack(documents, options.length, options.seed, epoch)
                .len()
                .div_ceil(options.accumulate)
        };
        let epochs = (0..options.epochs).map(steps).collect();
        let mut gradients = Gradients::new(network, trained);
        let slots = gradients.slots(network);
        if slots.is_empty() {
            return Err(LearnError::Request(
                "the model has no adapter, and its weights are not to be trained".into(),
            ));
        }
        let optimizer = AdamW::new(options.adamw, &slots);
        let groups = (0, pack(documents, options.length, options.seed, 0));
        Ok(Self {
            pass: Pass::new(options.checkpoint_activations),
            network,
            documents,
            options,
            gradients,
            optimizer,
            epochs,
            groups,
        })
    }

    /// Steps in all.
    pub fn steps(&self) -> usize {
        let all = self.epochs.iter().sum::<usize>();
        self.options.max_steps.map_or(all, |most| most.min(all))
    }

    /// Steps done.
    pub fn done(&self) -> usize {
        self.optimizer.steps
    }

    /// The network as it is now.
    pub fn network(&self) -> &Network {
        self.network
    }

    /// Takes the next step; `None` at the end.
    ///
    /// # Errors
    /// [`LearnError::Diverged`] if loss or gradient is not a number: nothing
    /// is changed by the step then.
    pub fn step(&mut self) -> Result<Option<StepReport>> {
        if self.done() >= self.steps() {
            return Ok(None);
        }
        let started = Instant::now();
        let (epoch, place) = self.place(self.done());
        if self.groups.0 != epoch {
            let o = &self.options;
            self.groups = (epoch, pack(self.documents, o.length, o.seed, epoch));
        }
        let first = place * self.options.accumulate;
        let last = (first + self.options.accumulate).min(self.groups.1.len());
        let groups = &self.groups.1[first..last];
        let packed: Vec<Packed> = groups
            .iter()
            .map(|group| Packed::new(self.documents, group))
            .collect();
        let targets: usize = packed.iter().map(|p| p.targets.len()).sum();
        self.gradients.clear();
        let weight = 1.0 / targets.max(1) as f32;
        let mut sum = 0.0;
        for group in &packed {
            let losses = self
                .pass
                .gradients(self.network, group, weight, &mut self.gradients)?;
            sum += losses.sum();
        }
        let loss = sum / targets.max(1) as f64;
        let mut slots = self.gradients.slots(self.network);
        let norm = norm(&slots);
        let number = self.optimizer.steps + 1;
        if !loss.is_finite() || !norm.is_finite() {
            let names = groups.iter().flatten().map(|i| &self.documents[*i].name);
            return Err(LearnError::Diverged {
                step: number,
                rows: names.cloned().collect(),
            });
        }
        let pull = (f64::from(self.options.clip) / (norm + 1e-6)).min(1.0) as f32;
        let all = self.epochs.iter().sum::<usize>();
        let total = self.options.max_steps.map_or(all, |most| most.min(all));
        let o = &self.options;
        // The first step of a warm-up would be of no use at a rate of zero.
        let factor = o
            .schedule
            .factor(number.min(total), total + 1, o.warmup.min(total));
        let rate = o.rate * factor;
        self.optimizer.step(&mut slots, rate, pull);
        Ok(Some(StepReport {
            step: number,
            epoch: epoch as f64 + (place + 1) as f64 / self.epochs[epoch] as f64,
            loss,
            gradient_norm: norm,
            rate,
            tokens: packed.iter().map(|p| p.tokens.len()).sum(),
            targets,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }

    /// Epoch and step within it.
    fn place(&self, mut step: usize) -> (usize, usize) {
        for (epoch, steps) in self.epochs.iter().enumerate() {
            if step < *steps {
                return (epoch, step);
            }
            step -= steps;
        }
        unreachable!("there are no more steps than the epochs have")
    }

    /// Mean loss of other documents, nats a learnt token.
    ///
    /// # Errors
    /// If one does not fit.
    pub fn evaluate(&mut self, documents: &[Document]) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0);
        for group in pack(documents, self.options.length, 0, 0) {
            let packed = Packed::new(documents, &group);
            sum += self.pass.losses(self.network, &packed)?.sum();
            count += packed.targets.len();
        }
        Ok(sum / count.max(1) as f64)
    }

    /// Writes all that the run needs to go on, as one file. `identity` stands
    /// for what a resumed run must have in common with this one.
    ///
    /// # Errors
    /// If it cannot be written; an older file of this name is kept then.
    pub fn save(&mut self, path: &Path, identity: &str) -> Result<()> {
        let state = State {
            step: self.optimizer.steps,
            options: self.options.clone(),
            identity: identity.to_owned(),
        };
        let note = serde_json::to_string(&state).unwrap_or_default();
        let slots = self.gradients.slots(self.network);
        let mut tensors = BTreeMap::new();
        for (slot, (m, v)) in slots.iter().zip(&self.optimizer.moments) {
            let shape = dimensions(slot.shape);
            for (kind, numbers) in [("parameter", &*slot.parameter), ("first", m), ("second", v)] {
                let tensor = Tensor::f32(&shape, numbers);
                tensors.insert(format!("{kind}.{}", slot.name), tensor);
            }
        }
        write_safetensors(path, tensors, HashMap::from([(STATE.into(), note)]))
    }

    /// Goes on where a checkpoint was written.
    ///
    /// # Errors
    /// If it is damaged, or of a run with other data or options; the trainer
    /// must not be used any more after damage.
    pub fn resume(&mut self, path: &Path, identity: &str) -> Result<()> {
        let (notes, source) = read_state(path)?;
        let state: State = notes
            .get(STATE)
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| LearnError::format(path, "is no checkpoint of a training run"))?;
        if state.identity != identity || state.options != self.options {
            return Err(LearnError::format(
                path,
                "is of a run with other rows or other options; give the same, or another folder",
            ));
        }
        let mut slots = self.gradients.slots(self.network);
        for (slot, (m, v)) in slots.iter_mut().zip(&mut self.optimizer.moments) {
            let shape = dimensions(slot.shape);
            let read = |kind: &str| source.numbers(&format!("{kind}.{}", slot.name), &shape);
            let (x, first, second) = (read("parameter")?, read("first")?, read("second")?);
            slot.parameter.copy_from_slice(&x);
            m.copy_from_slice(&first);
            v.copy_from_slice(&second);
        }
        self.optimizer.steps = state.step;
        Ok(())
    }
}

/// A tensor's dimensions; vectors have one.
fn dimensions(shape: [usize; 2]) -> Vec<usize> {
    match shape {
        [1, n] => vec![n],
        both => both.to_vec(),
    }
}

const STATE: &str = "swegym";

/// Whether a run can begin.
fn check(network: &Network, documents: &[Document], options: &TrainOptions) -> Result<()> {
    let refuse = |problem: String| Err(LearnError::Request(problem));
    if options.length == 0 || options.accumulate == 0 || options.epochs == 0 {
        return refuse("length, accumulation and epochs must be at least 1".into());
    }
    if !(options.rate.is_finite() && options.rate >= 0.0) {
        return refuse(format!(
            "a learning rate of {} makes no sense",
            options.rate
        ));
    }
    if documents.iter().all(|d| d.targets() == 0) {
        return refuse("there is no row with anything to learn".into());
    }
    let most = options.length.min(network.config.context);
    let long: Vec<&Document> = documents.iter().filter(|d| d.tokens.len() > most).collect();
    if let Some(first) = long.first() {
        return refuse(format!(
            "{} of {} rows are longer than {most} tokens, the first being {} with {}",
            long.len(),
            documents.len(),
            first.name,
            first.tokens.len()
        ));
    }
    Ok(())
}

/// Checkpoints of a folder, the newest last.
///
/// # Errors
/// If the folder cannot be listed.
pub fn checkpoints(dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(LearnError::io(dir, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| LearnError::io(dir, e))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let step = name
            .strip_prefix("step-")
            .and_then(|rest| rest.strip_suffix(".safetensors"))
            .and_then(|step| step.parse().ok());
        found.extend(step.map(|step: usize| (step, path)));
    }
    found.sort();
    Ok(found)
}
