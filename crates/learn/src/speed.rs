//! How fast a model is here, for `swegym bench` and the comparison with its
//! peers (`benches/models.py`).

use std::time::Instant;

use crate::error::Result;
use crate::infer::{Cache, Chunk, Runner, Wanted};
use crate::model::Network;
use crate::train::{Document, TrainOptions, Trained, Trainer};

/// Tokens of no meaning, the same in every run.
fn tokens(network: &Network, n: usize, salt: usize) -> Vec<u32> {
    let vocab = network.config.vocab;
    (0..n)
        .map(|i| ((i * 7919 + salt * 104_729 + 13) % vocab) as u32)
        .collect()
}

/// Seconds for a prompt of `n` tokens.
///
/// # Errors
/// If it does not fit.
pub fn prefill(network: &Network, n: usize) -> Result<f64> {
    let tokens = tokens(network, n, 0);
    let mut runner = Runner::default();
    let mut cache = Cache::default();
    let started = Instant::now();
    for (i, piece) in tokens.chunks(PIECE).enumerate() {
        let last = (i + 1) * PIECE >= n;
        let mut chunks = [Chunk {
            tokens: piece,
            cache: &mut cache,
            wanted: if last { Wanted::Last } else { Wanted::None },
        }];
        runner.run(network, &mut chunks)?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Tokens of prompts in one step of the engine.
const PIECE: usize = 512;

/// Seconds for one more token of each of `batch` sequences behind prompts of
/// `n` tokens, the mean over `steps`.
///
/// # Errors
/// If they do not fit.
pub fn decode(network: &Network, batch: usize, n: usize, steps: usize) -> Result<f64> {
    let mut runner = Runner::default();
    let mut caches: Vec<Cache> = (0..batch).map(|_| Cache::default()).collect();
    for (salt, cache) in caches.iter_mut().enumerate() {
        let tokens = tokens(network, n, salt);
        let mut chunks = [Chunk {
            tokens: &tokens,
            cache,
            wanted: Wanted::None,
        }];
        runner.run(network, &mut chunks)?;
    }
    let started = Instant::now();
    for step in 0..steps {
        let next = tokens(network, batch, step);
        let mut chunks: Vec<Chunk<'_>> = caches
            .iter_mut()
            .zip(next.chunks(1))
            .map(|(cache, tokens)| Chunk {
                tokens,
                cache,
                wanted: Wanted::Last,
            })
            .collect();
        runner.run(network, &mut chunks)?;
    }
    Ok(started.elapsed().as_secs_f64() / steps.max(1) as f64)
}

/// Seconds of each of `steps` training steps, forward, backward and update, on
/// one document of `n` tokens that are all learnt. With an adapter on the
/// network the adapter is trained, else all weights.
///
/// # Errors
/// If it does not fit.
pub fn train(network: &mut Network, n: usize, steps: usize, checkpoint: bool) -> Result<Vec<f64>> {
    let document = Document {
        name: "row".into(),
        tokens: tokens(network, n, 0),
        learnt: vec![true; n],
    };
    let lora = network.layers.iter().any(|l| l.q.lora.is_some());
    let trained = if lora { Trained::Lora } else { Trained::Full };
    let options = TrainOptions {
        length: n,
        epochs: steps,
        checkpoint_activations: checkpoint,
        ..TrainOptions::default()
    };
    let documents = [document];
    let mut trainer = Trainer::new(network, &documents, trained, options)?;
    let mut seconds = Vec::new();
    while let Some(report) = trainer.step()? {
        seconds.push(report.seconds);
    }
    Ok(seconds)
}
