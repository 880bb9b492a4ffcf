//! What a run will take, before it begins.

use std::time::Instant;

use serde::Serialize;

use super::batch::{Document, Packed, pack};
use super::gradients::{Gradients, Trained};
use super::pass::Pass;
use super::trainer::TrainOptions;
use crate::error::Result;
use crate::model::{Layer, Linear, Network};

/// Time and memory of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Steps.
    pub steps: usize,
    /// Tokens of all steps.
    pub tokens: usize,
    /// Bytes of the weights, adapter included.
    pub weights: u64,
    /// Bytes of gradients and moments.
    pub optimizer: u64,
    /// Bytes of activations and of what both passes work in.
    pub activations: u64,
    /// Wall time, from a short measurement on this machine; 0 without one.
    pub seconds: f64,
}

impl Estimate {
    /// Bytes in all.
    pub fn memory(&self) -> u64 {
        self.weights + self.optimizer + self.activations
    }
}

fn linear_bytes(linear: &Linear) -> usize {
    let bias = linear.bias.as_ref().map_or(0, Vec::len);
    let lora = linear.lora.as_ref().map_or(0, |l| l.a.len() + l.b.len());
    linear.weight.bytes() + (bias + lora) * 4
}

/// Numbers that are trained.
fn trained_numbers(network: &Network, trained: Trained) -> usize {
    let lora = |layer: &Layer| -> usize {
        let linears = layer.linears().into_iter();
        let loras = linears.filter_map(|l| l.lora.as_ref());
        loras.map(|l| l.a.len() + l.b.len()).sum()
    };
    match trained {
        Trained::Full => network.parameters(),
        Trained::Lora => network.layers.iter().map(lora).sum(),
    }
}

/// What a run over these documents takes; `measure` runs a few tokens through
/// the network to learn how fast the machine is.
///
/// # Errors
/// If that fails.
pub fn estimate(
    network: &Network,
    documents: &[Document],
    trained: Trained,
    options: &TrainOptions,
    measure: bool,
) -> Result<Estimate> {
    let c = &network.config;
    let (mut steps, mut tokens, mut work, mut longest) = (0, 0, 0.0, 0);
    for epoch in 0..options.epochs {
        let groups = pack(documents, options.length, options.seed, epoch);
        for group in groups.chunks(options.accumulate) {
            if options.max_steps.is_some_and(|most| steps >= most) {
                break;
            }
            steps += 1;
            for index in group.iter().flatten() {
                let n = documents[*index].tokens.len();
                tokens += n;
                work += cost(network, n, documents[*index].targets());
            }
        }
        for group in groups {
            longest = longest.max(group.iter().map(|i| documents[*i].tokens.len()).sum());
        }
    }
    let rank = network.layers.first().and_then(|l| l.q.lora.as_ref());
    let rank = rank.map_or(0, |l| l.rank);
    let kept = c.q_dim() * 2 + c.kv_dim() * 2 + c.hidden + 2 * c.intermediate + c.heads + 7 * rank;
    let raw = if network.layers.iter().any(|l| l.q_norm.is_some()) {
        c.q_dim() + c.kv_dim()
    } else {
        0
    };
    let layers = if options.checkpoint_activations {
        1
    } else {
        c.layers
    };
    let shared = 2 * c.hidden
        + c.intermediate
        + c.q_dim() * 3
        + c.intermediate.max(c.q_dim())
        + 2 * c.kv_dim();
    let per_token = layers * (kept + raw) + (c.layers + 1) * c.hidden + shared;
    let logits = longest.min(256) * c.vocab;
    let numbers = trained_numbers(network, trained);
    let weights = network
        .layers
        .iter()
        .flat_map(|l| l.linears())
        .map(linear_bytes);
    let outer = linear_bytes(&network.embedding) + network.head.as_ref().map_or(0, linear_bytes);
    let mut estimate = Estimate {
        steps,
        tokens,
        weights: (weights.sum::<usize>() + outer) as u64,
        optimizer: (numbers * 12) as u64,
        activations: ((longest * per_token + logits) * 4) as u64,
        seconds: 0.0,
    };
    if measure && tokens > 0 {
        let (seconds, probed) = probe(network, trained, options)?;
        estimate.seconds = seconds / probed * work;
    }
    Ok(estimate)
}

/// Products that a document costs, forward, without a common factor.
fn cost(network: &Network, n: usize, targets: usize) -> f64 {
    let c = &network.config;
    let linears = network.layers.iter().flat_map(|l| l.linears());
    let linear: usize = linears.map(|l| l.rows * l.columns).sum();
    let attention = c.layers * c.q_dim() * n;
    n as f64 * (linear + attention) as f64 + targets as f64 * (c.vocab * c.hidden) as f64
}

/// Seconds that a few tokens take, and what they cost.
fn probe(network: &Network, trained: Trained, options: &TrainOptions) -> Result<(f64, f64)> {
    // Enough for the processor's peak, and at most a few seconds.
    let most = (4e11 / cost(network, 1, 1)) as usize;
    let n = options
        .length
        .min(256)
        .min(most)
        .max(16)
        .min(network.config.context);
    let document = Document {
        name: "probe".into(),
        tokens: (0..n).map(|i| (i % network.config.vocab) as u32).collect(),
        learnt: (0..n).map(|i| i % 4 == 1).collect(),
    };
    let packed = Packed::new(std::slice::from_ref(&document), &[0]);
    let mut gradients = Gradients::new(network, trained);
    let mut pass = Pass::new(options.checkpoint_activations);
    // The first time memory is new, which takes longer than all that follow.
    pass.gradients(network, &packed, 0.0, &mut gradients)?;
    let started = Instant::now();
    pass.gradients(network, &packed, 0.0, &mut gradients)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok((seconds, cost(network, n, document.targets())))
}
