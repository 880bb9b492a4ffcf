//! Attention of packed documents, each to itself, head by head.

use rayon::prelude::*;

use super::pass::{Frame, Saved, part};
use crate::kernel::{Block, Causal, HeadGradients, Scores, View, add, attend, attend_backward};

/// Keys that are attended to in one piece.
const KEYS: usize = 256;

/// A head of rows `[tokens, heads * head_dim]`, for one document.
fn head_of<'a>(
    frame: &Frame<'_>,
    rows: &'a [f32],
    heads: usize,
    head: usize,
    first: usize,
    n: usize,
) -> View<'a> {
    let d = frame.config.head_dim;
    let width = heads * d;
    View::strided(&rows[first * width + head * d..], n, d, width)
}

/// First token of each document, and its length.
fn documents<'a>(frame: &'a Frame<'_>) -> impl Iterator<Item = (usize, usize)> + 'a {
    let ends = frame.lengths.iter().scan(0, |end, n| {
        *end += n;
        Some(*end - n)
    });
    ends.zip(frame.lengths.iter().copied())
}

/// Takes the first `n` numbers off a slice.
fn take<'a>(rest: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let (own, more) = std::mem::take(rest).split_at_mut(n);
    *rest = more;
    own
}

/// Attention of every document to itself: into `out`, document by document
/// `[heads, n, head_dim]`.
pub(super) fn attention(
    frame: &Frame<'_>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sums: &mut [f32],
) {
    let c = frame.config;
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let mut rest = (out, log_sums);
    let mut pieces = Vec::new();
    for (first, n) in documents(frame) {
        for head in 0..c.heads {
            let out = take(&mut rest.0, n * c.head_dim);
            let sums = take(&mut rest.1, n);
            pieces.push((first, n, head, out, sums));
        }
    }
    pieces
        .into_par_iter()
        .for_each_init(Scores::default, |work, (first, n, head, out, sums)| {
            let queries = head_of(frame, q, c.heads, head, first, n);
            let keys = head_of(frame, k, c.kv_heads, head / c.group(), first, n);
            let values = head_of(frame, v, c.kv_heads, head / c.group(), first, n);
            // Queries in pieces, so that no piece computes scores that none sees.
            for start in (0..n).step_by(KEYS) {
                let rows = start..(start + KEYS).min(n);
                let blocks = (0..rows.end).step_by(KEYS).map(|from| {
                    let seen = from..(from + KEYS).min(rows.end);
                    Block {
                        keys: keys.rows_of(seen.clone()),
                        values: values.rows_of(seen),
                    }
                });
                let causal = Causal {
                    first: start + 1,
                    step: 1,
                };
                let out = &mut out[start * c.head_dim..rows.end * c.head_dim];
                let sums = Some(&mut sums[rows.clone()]);
                attend(
                    out,
                    queries.rows_of(rows.clone()),
                    blocks,
                    scale,
                    causal,
                    work,
                    sums,
                );
            }
        });
}

/// From document by document `[heads, n, head_dim]` to `[tokens, heads *
/// head_dim]`.
pub(super) fn by_token(frame: &Frame<'_>, out: &mut [f32], by_head: &[f32], heads: usize) {
    let d = frame.config.head_dim;
    let width = heads * d;
    for (first, n) in documents(frame) {
        let own = &by_head[first * width..(first + n) * width];
        out[first * width..(first + n) * width]
            .par_chunks_exact_mut(width)
            .enumerate()
            .with_min_len(32)
            .for_each(|(i, row)| {
                for (head, into) in row.chunks_exact_mut(d).enumerate() {
                    into.copy_from_slice(&own[(head * n + i) * d..][..d]);
                }
            });
    }
}

/// Gradients of queries, keys and values, each `[tokens, heads * head_dim]`,
/// before positions are taken back.
pub(super) fn attention_backward(
    frame: &Frame<'_>,
    saved: &Saved,
    dattended: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
    by_head: &mut [Vec<f32>; 3],
) {
    let c = frame.config;
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let size = frame.tokens * c.q_dim();
    let [hq, hk, hv] = by_head;
    let (hq, hk, hv) = (part(hq, size), part(hk, size), part(hv, size));
    let mut rest = (&mut *hq, &mut *hk, &mut *hv);
    let mut pieces = Vec::new();
    let mut sums = saved.log_sums.as_slice();
    for (first, n) in documents(frame) {
        for head in 0..c.heads {
            let size = n * c.head_dim;
            let gradients = HeadGradients {
                queries: take(&mut rest.0, size),
                keys: take(&mut rest.1, size),
                values: take(&mut rest.2, size),
            };
            let (own, more) = sums.split_at(n);
            sums = more;
            pieces.push((first, n, head, gradients, own));
        }
    }
    pieces.into_par_iter().for_each_init(
        Scores::default,
        |work, (first, n, head, gradients, sums)| {
            let whole = |rows, heads, head| head_of(frame, rows, heads, head, first, n);
            let shared = head / c.group();
            let matrices = [
                whole(&saved.q, c.heads, head),
                whole(&saved.k, c.kv_heads, shared),
                whole(&saved.v, c.kv_heads, shared),
                whole(&saved.attended, c.heads, head),
                whole(dattended, c.heads, head),
            ];
            attend_backward(gradients, matrices, sums, scale, work);
        },
    );
    by_token(frame, dq, hq, c.heads);
    shared_heads(frame, dk, hk);
    shared_heads(frame, dv, hv);
}

/// Sums the gradients of keys or values over the heads that share them.
fn shared_heads(frame: &Frame<'_>, out: &mut [f32], by_head: &[f32]) {
    let c = frame.config;
    let (d, width) = (c.head_dim, c.kv_dim());
    for (first, n) in documents(frame) {
        let own = &by_head[first * c.q_dim()..(first + n) * c.q_dim()];
        out[first * width..(first + n) * width]
            .par_chunks_exact_mut(width)
            .enumerate()
            .with_min_len(32)
            .for_each(|(i, row)| {
                for (shared, into) in row.chunks_exact_mut(d).enumerate() {
                    into.fill(0.0);
                    for head in shared * c.group()..(shared + 1) * c.group() {
                        add(into, &own[(head * n + i) * d..][..d]);
                    }
                }
            });
    }
}
