//! Causal attention of one head over blocks of keys, with the running softmax
//! of FlashAttention (arXiv 2205.14135): no matrix of all scores exists.

use super::matrix::{View, ViewMut, multiply};
use super::row::{dot, exp_minus_max, softmax_backward};

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
    gradients: Vec<f32>,
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

/// What [`attend_backward`] writes, each `[n, head_dim]` contiguous.
#[derive(Debug)]
pub struct HeadGradients<'a> {
    /// Of the queries.
    pub queries: &'a mut [f32],
    /// Of the keys.
    pub keys: &'a mut [f32],
    /// Of the values.
    pub values: &'a mut [f32],
}

/// Queries and keys of one piece of the backward pass.
const TILE: usize = 128;

/// The gradients of one head of a document that attends to itself: `out` is
/// what [`attend`] gave, `dout` its gradient, `log_sums` what it wrote down.
/// All matrices are `[n, head_dim]`.
pub fn attend_backward(
    gradients: HeadGradients<'_>,
    [queries, keys, values, out, dout]: [View<'_>; 5],
    log_sums: &[f32],
    scale: f32,
    work: &mut Scores,
) {
    let (n, width) = (queries.rows(), queries.columns());
    let HeadGradients {
        queries: dq,
        keys: dk,
        values: dv,
    } = gradients;
    for into in [&mut *dq, &mut *dk, &mut *dv] {
        into.fill(0.0);
    }
    work.sum.clear();
    work.sum
        .extend((0..n).map(|i| dot(out.line(i), dout.line(i))));
    for first in (0..n).step_by(TILE) {
        let rows = first..(first + TILE).min(n);
        let (q, d) = (queries.rows_of(rows.clone()), dout.rows_of(rows.clone()));
        for start in (0..rows.end).step_by(TILE) {
            let seen = start..(start + TILE).min(rows.end);
            let (k, v) = (keys.rows_of(seen.clone()), values.rows_of(seen.clone()));
            let (m, len) = (rows.len(), seen.len());
            work.scores.resize(m * len, 0.0);
            work.gradients.resize(m * len, 0.0);
            let (scores, slopes) = (&mut work.scores[..m * len], &mut work.gradients[..m * len]);
            multiply(ViewMut::new(scores, m, len), 0.0, 1.0, q, k.t());
            multiply(ViewMut::new(slopes, m, len), 0.0, 1.0, d, v.t());
            let lines = scores
                .chunks_exact_mut(len)
                .zip(slopes.chunks_exact_mut(len));
            for (i, (p, slope)) in rows.clone().zip(lines) {
                let visible = (i + 1).saturating_sub(start).min(len);
                p[visible..].fill(0.0);
                slope[visible..].fill(0.0);
                let (p, slope) = (&mut p[..visible], &mut slope[..visible]);
                softmax_backward(p, slope, scale, log_sums[i], work.sum[i]);
            }
            let (p, slope) = (View::new(scores, m, len), View::new(slopes, m, len));
            let (own, seen) = (start * width.., first * width..);
            let [dk, dv] = [&mut dk[own.clone()], &mut dv[own]];
            multiply(ViewMut::new(dv, len, width), 1.0, 1.0, p.t(), d);
            multiply(ViewMut::new(dk, len, width), 1.0, 1.0, slope.t(), q);
            let dq = ViewMut::new(&mut dq[seen], m, width);
            multiply(dq, 1.0, 1.0, slope, k);
        }
    }
}
