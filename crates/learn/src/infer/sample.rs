//! Choosing a token from logits.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::kernel::log_sum_exp;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Only the most likely tokens that together have this probability.
    pub top_p: f32,
    /// Seed of the choices.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// Chooses the tokens of one answer. The same seed and logits give the same
/// tokens, whatever else is decoded.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// Begins an answer.
    pub fn new(sampling: Sampling) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(sampling.seed),
            sampling,
        }
    }

    /// The next token, and the natural logarithm of its probability under the
    /// model itself, at temperature 1 and before `top_p`, as `logprobs` of the
    /// OpenAI API. `None` if the logits hold no number.
    pub fn choose(&mut self, logits: &[f32]) -> Option<(u32, f32)> {
        let norm = log_sum_exp(logits);
        if norm.is_nan() {
            return None;
        }
        let token = if self.sampling.temperature <= 0.0 {
            most(logits)?
        } else {
            self.draw(logits)?
        };
        Some((token as u32, logits[token] - norm))
    }

    fn draw(&mut self, logits: &[f32]) -> Option<usize> {
        let scale = 1.0 / f64::from(self.sampling.temperature);
        let top = f64::from(logits[most(logits)?]);
        let mut weights: Vec<f64> = logits
            .iter()
            .map(|l| ((f64::from(*l) - top) * scale).exp())
            .collect();
        if self.sampling.top_p < 1.0 {
            keep_nucleus(&mut weights, f64::from(self.sampling.top_p.max(0.0)));
        }
        let sum: f64 = weights.iter().sum();
        let mut point = self.random.random::<f64>() * sum;
        let mut last = None;
        for (token, weight) in weights.iter().enumerate() {
            if *weight > 0.0 {
                last = Some(token);
                point -= weight;
                if point < 0.0 {
                    break;
                }
            }
        }
        last
    }
}

/// The first of the largest.
pub(super) fn most(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    for (token, logit) in logits.iter().enumerate() {
        if best.is_none_or(|b: usize| *logit > logits[b]) && !logit.is_nan() {
            best = Some(token);
        }
    }
    best
}

fn keep_nucleus(weights: &mut [f64], share: f64) {
    let total: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0.0).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
    let mut sum = 0.0;
    let mut kept = 0;
    for token in &order {
        sum += weights[*token];
        kept += 1;
        if sum >= share * total {
            break;
        }
    }
    for token in &order[kept..] {
        weights[*token] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sampling: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.choose(logits).unwrap().0 as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let logits = [0.5_f32.ln(), 0.25_f32.ln(), 0.2_f32.ln(), 0.05_f32.ln()];
        let sampling = Sampling::default();
        let counts = drawn(sampling, &logits, 10_000);
        for (count, share) in counts.iter().zip([0.5, 0.25, 0.2, 0.05]) {
            assert!(
                (*count as f64 / 10_000.0 - share).abs() < 0.02,
                "{counts:?}"
            );
        }
        assert_eq!(counts, drawn(sampling, &logits, 10_000));
        let cold = drawn(
            Sampling {
                temperature: 0.0,
                ..sampling
            },
            &logits,
            10,
        );
        assert_eq!(cold, [10, 0, 0, 0]);
        let nucleus = drawn(
            Sampling {
                top_p: 0.7,
                ..sampling
            },
            &logits,
            1000,
        );
        assert_eq!(nucleus[2] + nucleus[3], 0);
        assert!(nucleus[1] > 250);
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let mut sampler = Sampler::new(Sampling {
            temperature: 0.0,
            ..Sampling::default()
        });
        let (token, logprob) = sampler.choose(&[0.0, 1.0, 0.0]).unwrap();
        assert_eq!(token, 1);
        assert!((logprob - (1.0_f32.exp() / (1.0_f32.exp() + 2.0)).ln()).abs() < 1e-6);
        assert_eq!(sampler.choose(&[f32::NAN, f32::NAN]), None);
    }
}
