//! AdamW, and how its learning rate runs.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gradients::Slot;
use crate::kernel::adamw;

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to zero.
    #[default]
    Cosine,
    /// A straight line down to zero.
    Linear,
    /// Not at all.
    Constant,
}

impl Schedule {
    /// What the learning rate is multiplied with in a step, counted from 0, of
    /// `steps`; the same as in `transformers`.
    pub fn factor(self, step: usize, steps: usize, warmup: usize) -> f32 {
        if step < warmup {
            return step as f32 / warmup as f32;
        }
        let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
        let factor = match self {
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()),
            Self::Linear => (1.0 - done).max(0.0),
            Self::Constant => 1.0,
        };
        factor as f32
    }
}

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamWOptions {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Pull of the weights towards zero, times the learning rate.
    pub weight_decay: f32,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

/// AdamW with its moments, in the order of the slots.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    /// Constants.
    pub options: AdamWOptions,
    /// Steps taken.
    pub steps: usize,
    /// First and second moments of every tensor.
    pub moments: Vec<(Vec<f32>, Vec<f32>)>,
}

/// Numbers that are summed or changed in one piece.
const PIECE: usize = 1 << 14;

/// Root of the sum of squares of all gradients, the same on any number of
/// threads.
pub fn norm(slots: &[Slot<'_>]) -> f64 {
    let squares = |piece: &[f32]| piece.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    let tensor = |slot: &Slot<'_>| -> f64 {
        let pieces: Vec<f64> = slot.gradient.par_chunks(PIECE).map(squares).collect();
        pieces.into_iter().sum()
    };
    slots.iter().map(tensor).sum::<f64>().sqrt()
}

impl AdamW {
    /// Moments of zero.
    pub fn new(options: AdamWOptions, slots: &[Slot<'_>]) -> Self {
        let zero = |slot: &Slot<'_>| {
            let n = slot.parameter.len();
            (vec![0.0; n], vec![0.0; n])
        };
        Self {
            options,
            steps: 0,
            moments: slots.iter().map(zero).collect(),
        }
    }

    /// Changes all parameters; gradients are multiplied by `pull` first.
    pub fn step(&mut self, slots: &mut [Slot<'_>], rate: f32, pull: f32) {
        self.steps += 1;
        let o = self.options;
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(self.steps as i32)) as f32;
        let rates = [
            rate,
            o.beta1,
            o.beta2,
            correction(o.beta1),
            correction(o.beta2),
            o.epsilon,
        ];
        for (slot, (m, v)) in slots.iter_mut().zip(&mut self.moments) {
            let decay = if slot.decays {
                rate * o.weight_decay
            } else {
                0.0
            };
            slot.parameter
                .par_chunks_mut(PIECE)
                .zip(slot.gradient.par_chunks(PIECE))
                .zip(m.par_chunks_mut(PIECE))
                .zip(v.par_chunks_mut(PIECE))
                .for_each(|(((x, g), m), v)| adamw(x, g, m, v, pull, decay, rates));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_warms_up_and_falls_to_zero() {
        let at = |s: Schedule, step| s.factor(step, 110, 10);
        assert_eq!(at(Schedule::Cosine, 0), 0.0);
        assert_eq!(at(Schedule::Linear, 5), 0.5);
        assert_eq!(at(Schedule::Constant, 10), 1.0);
        assert_eq!(at(Schedule::Cosine, 60), 0.5);
        assert_eq!(at(Schedule::Linear, 60), 0.5);
        assert!(at(Schedule::Cosine, 110) < 1e-7);
        assert_eq!(at(Schedule::Linear, 110), 0.0);
        assert_eq!(at(Schedule::Constant, 500), 1.0);
    }

    /// Three steps by hand, as the definition says.
    #[test]
    fn steps_are_those_of_the_paper() {
        let options = AdamWOptions::default();
        let (mut x, mut g) = (vec![1.0_f32], vec![0.0_f32]);
        let (mut want, mut m, mut v) = (1.0_f64, 0.0_f64, 0.0_f64);
        let mut optimizer: Option<AdamW> = None;
        for t in 1..=3 {
            let gradient = 0.5 / f64::from(t);
            g[0] = gradient as f32;
            let mut slots = [Slot {
                name: String::new(),
                shape: [1, 1],
                parameter: &mut x,
                gradient: &mut g,
                decays: true,
            }];
            let adam = optimizer.get_or_insert_with(|| AdamW::new(options, &slots));
            adam.step(&mut slots, 0.1, 0.5);
            let gradient = gradient * 0.5;
            m = 0.9 * m + 0.1 * gradient;
            v = 0.999 * v + 0.001 * gradient * gradient;
            let hat =
                (m / (1.0 - 0.9_f64.powi(t))) / ((v / (1.0 - 0.999_f64.powi(t))).sqrt() + 1e-8);
            want = want * (1.0 - 0.1 * 0.01) - 0.1 * hat;
        }
        assert!((f64::from(x[0]) - want).abs() < 1e-5, "{} {want}", x[0]);
    }
}
