//! The forward pass over new tokens of many sequences at once.

use rayon::prelude::*;

use super::cache::Cache;
use crate::error::{LearnError, Result};
use crate::kernel::{Causal, Rope, Scores, View, add, attend, rms_norm, silu_mul};
use crate::model::{Layer, Linear, Network};

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// What came before them; they are added to it.
    pub cache: &'a mut Cache,
    /// Which logits are needed.
    pub wanted: Wanted,
}

/// Which logits of a chunk are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: more of the prompt follows.
    None,
    /// Of its last token.
    Last,
    /// Of all from this token on.
    From(usize),
}

impl Wanted {
    fn range(self, n: usize) -> std::ops::Range<usize> {
        match self {
            Self::None => n..n,
            Self::Last => n - 1..n,
            Self::From(first) => first.min(n)..n,
        }
    }
}

/// Queries that attend in one piece.
const QUERIES: usize = 128;

/// Runs a network, with memory that is used again from pass to pass.
#[derive(Debug, Default)]
pub struct Runner {
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attention: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
}

/// The first `n` numbers of a buffer that grows as needed.
fn part(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

impl Runner {
    /// Runs all chunks and gives the logits, `[wanted, vocab]`, of each. The
    /// chunks' caches hold their tokens afterwards.
    ///
    /// # Errors
    /// If a token has no embedding, or a sequence is longer than the model's
    /// context; nothing was changed then.
    pub fn run(&mut self, network: &Network, chunks: &mut [Chunk<'_>]) -> Result<Vec<Vec<f32>>> {
        let c = &network.config;
        for chunk in chunks.iter() {
            let tokens = chunk.cache.len() + chunk.tokens.len();
            if tokens > c.context {
                return Err(LearnError::Context {
                    tokens,
                    context: c.context,
                });
            }
            if let Some(bad) = chunk.tokens.iter().find(|t| **t as usize >= c.vocab) {
                return Err(LearnError::Request(format!(
                    "token {bad} is none of the model's {}",
                    c.vocab
                )));
            }
        }
        let total: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        if total == 0 {
            return Ok(vec![Vec::new(); chunks.len()]);
        }
        for chunk in chunks.iter_mut() {
            chunk.cache.grow(c, chunk.tokens.len());
        }
        let positions = chunks.iter().flat_map(|chunk| {
            let start = chunk.cache.len();
            start..start + chunk.tokens.len()
        });
        let table = network.rope.table(positions);
        let x = part(&mut self.x, total * c.hidden);
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        for (row, token) in x.chunks_exact_mut(c.hidden).zip(tokens) {
            network.embedding.row(*token as usize, row);
        }
        for (n, layer) in network.layers.iter().enumerate() {
            self.layer(network, n, layer, chunks, &table, total);
        }
        for chunk in chunks.iter_mut() {
            chunk.cache.advance(chunk.tokens.len());
        }
        Ok(self.logits(network, chunks))
    }

    fn layer(
        &mut self,
        network: &Network,
        n: usize,
        layer: &Layer,
        chunks: &mut [Chunk<'_>],
        table: &[f32],
        total: usize,
    ) {
        let c = &network.config;
        let x = part(&mut self.x, total * c.hidden);
        let normed = part(&mut self.normed, total * c.hidden);
        norm_rows(normed, x, &layer.attention_norm, c.norm_epsilon);
        let q = part(&mut self.q, total * c.q_dim());
        let k = part(&mut self.k, total * c.kv_dim());
        let v = part(&mut self.v, total * c.kv_dim());
        let parts = &mut [
            (&layer.q, &mut *q),
            (&layer.k, &mut *k),
            (&layer.v, &mut *v),
        ];
        Linear::forward_all(parts, normed);
        position(
            q,
            layer.q_norm.as_deref(),
            c.norm_epsilon,
            c.head_dim,
            c.q_dim(),
            table,
        );
        position(
            k,
            layer.k_norm.as_deref(),
            c.norm_epsilon,
            c.head_dim,
            c.kv_dim(),
            table,
        );
        let mut row = 0;
        for chunk in chunks.iter_mut() {
            let rows = row * c.kv_dim()..(row + chunk.tokens.len()) * c.kv_dim();
            chunk.cache.store(c, n, &k[rows.clone()], &v[rows]);
            row += chunk.tokens.len();
        }
        // The attention of all chunks, each `[heads, tokens, head_dim]`, into
        // the buffer of the norm, which is free again.
        let by_head = part(&mut self.out, total * c.q_dim());
        attention(network, n, chunks, q, by_head);
        let attended = part(&mut self.attention, total * c.q_dim());
        let mut row = 0;
        for chunk in chunks.iter() {
            let count = chunk.tokens.len();
            let range = row * c.q_dim()..(row + count) * c.q_dim();
            by_token(
                &mut attended[range.clone()],
                &by_head[range],
                count,
                c.head_dim,
            );
            row += count;
        }
        layer.o.forward(normed, attended);
        add_rows(x, normed);
        norm_rows(normed, x, &layer.mlp_norm, c.norm_epsilon);
        let gate = part(&mut self.gate, total * c.intermediate);
        let up = part(&mut self.up, total * c.intermediate);
        let parts = &mut [(&layer.gate, &mut *gate), (&layer.up, &mut *up)];
        Linear::forward_all(parts, normed);
        let out = part(&mut self.out, total * c.intermediate);
        out.par_chunks_mut(c.intermediate * 8)
            .zip(gate.par_chunks(c.intermediate * 8))
            .zip(up.par_chunks(c.intermediate * 8))
            .for_each(|((out, gate), up)| silu_mul(out, gate, up));
        layer.down.forward(normed, out);
        add_rows(x, normed);
    }

    fn logits(&mut self, network: &Network, chunks: &[Chunk<'_>]) -> Vec<Vec<f32>> {
        let c = &network.config;
        let mut rows = Vec::new();
        let mut counts = Vec::with_capacity(chunks.len());
        let mut start = 0;
        for chunk in chunks {
            let n = chunk.tokens.len();
            let range = chunk.wanted.range(n);
            counts.push(range.len());
            rows.extend(range.map(|i| start + i));
            start += n;
        }
        let normed = part(&mut self.normed, rows.len() * c.hidden);
        for (row, into) in rows.iter().zip(normed.chunks_exact_mut(c.hidden)) {
            let x = &self.x[row * c.hidden..(row + 1) * c.hidden];
            rms_norm(into, x, &network.norm, c.norm_epsilon);
        }
        let mut logits = vec![0.0; rows.len() * c.vocab];
        network.head().forward(&mut logits, normed);
        let mut rest = logits.as_slice();
        counts
            .into_iter()
            .map(|count| {
                let (own, more) = rest.split_at(count * c.vocab);
                rest = more;
                own.to_vec()
            })
            .collect()
    }
}

/// Norms of heads, where there are, and rotary positions.
fn position(
    rows: &mut [f32],
    norm: Option<&[f32]>,
    epsilon: f32,
    head_dim: usize,
    width: usize,
    table: &[f32],
) {
    rows.par_chunks_exact_mut(width)
        .zip(table.par_chunks_exact(head_dim))
        .with_min_len(16)
        .for_each(|(row, table)| {
            if let Some(weight) = norm {
                let mut normed = vec![0.0; head_dim];
                for head in row.chunks_exact_mut(head_dim) {
                    rms_norm(&mut normed, head, weight, epsilon);
                    head.copy_from_slice(&normed);
                }
            }
            Rope::apply(row, head_dim, table);
        });
}

fn norm_rows(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let width = weight.len();
    out.par_chunks_exact_mut(width)
        .zip(x.par_chunks_exact(width))
        .with_min_len(16)
        .for_each(|(out, x)| {
            rms_norm(out, x, weight, epsilon);
        });
}

fn add_rows(into: &mut [f32], from: &[f32]) {
    const PIECE: usize = 1 << 14;
    into.par_chunks_mut(PIECE)
        .zip(from.par_chunks(PIECE))
        .for_each(|(into, from)| add(into, from));
}

/// One piece of attention: where its result goes, and what it is of.
struct Piece<'a, 'b> {
    out: &'b mut [f32],
    queries: View<'b>,
    cache: &'a Cache,
    kv_head: usize,
    seen: usize,
    causal: Causal,
}

/// Takes the first `n` numbers off a slice.
fn take<'a>(rest: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let (own, more) = std::mem::take(rest).split_at_mut(n);
    *rest = more;
    own
}

fn attention(network: &Network, layer: usize, chunks: &[Chunk<'_>], q: &[f32], out: &mut [f32]) {
    let c = &network.config;
    let (dim, width) = (c.head_dim, c.q_dim());
    let mut pieces = Vec::new();
    let mut rest = out;
    let mut row = 0;
    for chunk in chunks {
        let n = chunk.tokens.len();
        let before = chunk.cache.len();
        let q = &q[row * width..(row + n) * width];
        for kv_head in 0..c.kv_heads {
            let heads = kv_head * c.group()..(kv_head + 1) * c.group();
            if n == 1 {
                // All heads that share the keys, as rows of one product.
                let queries = View::new(&q[heads.start * dim..heads.end * dim], c.group(), dim);
                let causal = Causal {
                    first: before + 1,
                    step: 0,
                };
                pieces.push(Piece {
                    out: take(&mut rest, c.group() * dim),
                    queries,
                    cache: &*chunk.cache,
                    kv_head,
                    seen: before + 1,
                    causal,
                });
                continue;
            }
            for head in heads {
                for start in (0..n).step_by(QUERIES) {
                    let count = QUERIES.min(n - start);
                    let queries =
                        View::strided(&q[start * width + head * dim..], count, dim, width);
                    let causal = Causal {
                        first: before + start + 1,
                        step: 1,
                    };
                    pieces.push(Piece {
                        out: take(&mut rest, count * dim),
                        queries,
                        cache: &*chunk.cache,
                        kv_head,
                        seen: before + start + count,
                        causal,
                    });
                }
            }
        }
        row += n;
    }
    let scale = 1.0 / (dim as f32).sqrt();
    pieces
        .into_par_iter()
        .for_each_init(Scores::default, |work, piece| {
            let blocks = piece.cache.blocks(c, layer, piece.kv_head, piece.seen);
            attend(
                piece.out,
                piece.queries,
                blocks,
                scale,
                piece.causal,
                work,
                None,
            );
        });
}

/// From `[heads, tokens, head_dim]` to `[tokens, heads * head_dim]`.
fn by_token(out: &mut [f32], by_head: &[f32], tokens: usize, head_dim: usize) {
    let width = out.len() / tokens;
    for (head, rows) in by_head.chunks_exact(tokens * head_dim).enumerate() {
        for (t, row) in rows.chunks_exact(head_dim).enumerate() {
            let at = t * width + head * head_dim;
            out[at..at + head_dim].copy_from_slice(row);
        }
    }
}
