//! Causal attention of one head over blocks of keys, with the running softmax
//! of FlashAttention (arXiv 2205.14135): no matrix of all scores exists.

use super::matrix::{View, ViewMut, multiply};
use super::row::exp_minus_max;

/// Which keys each row of queries sees: row `i` those before
/// `first + i * step`.
#[derive(Debug, Clone, Copy)]
pub struct Causal {
    /// Keys that the first row sees.
    pub first: usize,
    /// How many more each further row sees: 1 for tokens in a row, 0 for
    /// several heads of one token.
    pub step: usize,
}

impl Causal {
    /// Keys of a block, beginning at `start` and `len` long, that row `i` sees.
    pub fn visible(self, row: usize, start: usize, len: usize) -> usize {
        (self.first + row * self.step)
            .saturating_sub(start)
            .min(len)
    }
}

/// Keys and values of consecutive positions, each `[n, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Keys.
    pub keys: View<'a>,
    /// Values.
    pub values: View<'a>,
}

/// Memory that [`attend`] works in.
#[derive(Debug, Default)]
pub struct Scores {
    scores: Vec<f32>,
    most: Vec<f32>,
    sum: Vec<f32>,
}

/// `out = softmax(scale * q kᵀ) v`, `[n, head_dim]` contiguous. Blocks come in
/// order of their positions, the first at 0. Where `log_sums` is given, each
/// row's `ln(sum(exp(score)))` is written there, which the backward pass needs.
pub fn attend<'a>(
    out: &mut [f32],
    queries: View<'_>,
    blocks: impl Iterator<Item = Block<'a>>,
    scale: f32,
    causal: Causal,
    work: &mut Scores,
    log_sums: Option<&mut [f32]>,
) {
    let (n, width) = (queries.rows(), queries.columns());
    out.fill(0.0);
    work.most.clear();
    work.most.resize(n, f32::NEG_INFINITY);
    work.sum.clear();
    work.sum.resize(n, 0.0);
    let mut start = 0;
    for block in blocks {
        let len = block.keys.rows();
        if causal.visible(n - 1, start, len) == 0 {
            break;
        }
        work.scores.resize(n * len, 0.0);
        let scores = &mut work.scores[..n * len];
        multiply(
            ViewMut::new(scores, n, len),
            0.0,
            1.0,
            queries,
            block.keys.t(),
        );
        for (i, row) in scores.chunks_exact_mut(len).enumerate() {
            let visible = causal.visible(i, start, len);
            row[visible..].fill(0.0);
            if visible == 0 {
                continue;
            }
            let before = work.most[i];
            let (most, sum) = exp_minus_max(&mut row[..visible], scale, before);
            let keep = if before == most {
                1.0
            } else {
                (before - most).exp()
            };
            work.most[i] = most;
            work.sum[i] = work.sum[i] * keep + sum;
            if keep != 1.0 {
                for x in &mut out[i * width..(i + 1) * width] {
                    *x *= keep;
                }
            }
        }
        multiply(
            ViewMut::new(out, n, width),
            1.0,
            1.0,
            View::new(scores, n, len),
            block.values,
        );
        start += len;
    }
    for (row, sum) in out.chunks_exact_mut(width).zip(&work.sum) {
        let scale = 1.0 / sum;
        for x in row {
            *x *= scale;
        }
    }
    if let Some(log_sums) = log_sums {
        for ((into, most), sum) in log_sums.iter_mut().zip(&work.most).zip(&work.sum) {
            *into = most + sum.ln();
        }
    }
}
