//! Rotary position embedding (arXiv 2104.09864) in the half-split layout of
//! the published checkpoints: element `i` turns with element `i + d / 2`.

use crate::config::{Config, RopeScaling};

/// Angles of every pair, and how long the context is.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Radians per position, one a pair.
    frequencies: Vec<f32>,
    /// Cosine and sine are multiplied by this (YaRN).
    attention: f32,
}

impl Rope {
    /// The angles of a model.
    pub fn new(config: &Config) -> Self {
        let half = config.head_dim / 2;
        let plain = (0..half).map(|i| {
            config
                .rope_theta
                .powf(-2.0 * i as f64 / config.head_dim as f64)
        });
        let mut attention = 1.0;
        let frequencies: Vec<f64> = match &config.rope_scaling {
            None => plain.collect(),
            Some(RopeScaling::Linear { factor }) => plain.map(|f| f / factor).collect(),
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            }) => plain
                .map(|f| {
                    let wave = std::f64::consts::TAU / f;
                    let turns = original_context / wave;
                    if turns < *low_freq_factor {
                        f / factor
                    } else if turns > *high_freq_factor {
                        f
                    } else {
                        let smooth =
                            (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
            Some(RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
            }) => {
                attention = attention_factor.unwrap_or(if *factor <= 1.0 {
                    1.0
                } else {
                    0.1 * factor.ln() + 1.0
                });
                let d = config.head_dim as f64;
                let at = |turns: f64| {
                    d * (original_context / (turns * std::f64::consts::TAU)).ln()
                        / (2.0 * config.rope_theta.ln())
                };
                let low = at(*beta_fast).floor().max(0.0);
                let high = at(*beta_slow).ceil().min(d - 1.0).max(low + 0.001);
                plain
                    .enumerate()
                    .map(|(i, f)| {
                        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * ramp + f * (1.0 - ramp)
                    })
                    .collect()
            }
        };
        Self {
            frequencies: frequencies.into_iter().map(|f| f as f32).collect(),
            attention: attention as f32,
        }
    }

    /// Cosine and sine of every pair at the given positions: for each position
    /// `d / 2` cosines, then `d / 2` sines.
    pub fn table(&self, positions: impl IntoIterator<Item = usize>) -> Vec<f32> {
        let mut table = Vec::new();
        for position in positions {
            let angle = |f: &f32| f64::from(position as f32 * f);
            let scale = self.attention;
            table.extend(
                self.frequencies
                    .iter()
                    .map(|f| angle(f).cos() as f32 * scale),
            );
            table.extend(
                self.frequencies
                    .iter()
                    .map(|f| angle(f).sin() as f32 * scale),
            );
        }
        table
    }

    /// Turns every head of a row by its position's part of the table.
    pub fn apply(row: &mut [f32], head_dim: usize, table: &[f32]) {
        turn(row, head_dim, table, 1.0);
    }

    /// Turns it back: the gradient of [`Rope::apply`].
    pub fn unapply(row: &mut [f32], head_dim: usize, table: &[f32]) {
        turn(row, head_dim, table, -1.0);
    }
}

#[inline]
fn turn(row: &mut [f32], head_dim: usize, table: &[f32], sign: f32) {
    let half = head_dim / 2;
    let (cos, sin) = table.split_at(half);
    for head in row.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (first[i], second[i]);
            let s = sin[i] * sign;
            first[i] = a * cos[i] - b * s;
            second[i] = b * cos[i] + a * s;
        }
    }
}
