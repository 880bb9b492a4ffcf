//! The passes forward and backward over packed documents, written out.
//!
//! Forward keeps of every block what backward needs and cannot cheaply compute
//! again; with checkpointing it keeps only what goes into the block, and the
//! block is computed once more on the way back (arXiv 1604.06174), by the same
//! instructions, so that the result is the same to the last bit.

use rayon::prelude::*;

use super::batch::Packed;
use super::gradients::{Gradients, LayerGradients};
use super::heads::{attention, attention_backward, by_token};
use crate::config::Config;
use crate::error::{LearnError, Result};
use crate::kernel::{
    Rope, add, cross_entropy, rms_norm, rms_norm_backward, silu_mul, silu_mul_backward,
};
use crate::model::{Layer, Network};

/// Rows of logits that exist at a time.
const LOGITS: usize = 256;
/// Rows whose gradients of a norm's weight are summed in one piece, the same
/// on any number of threads.
const ROWS: usize = 64;

/// What backward needs of a block.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// `1 / rms` of each row, before attention and before the feed-forward
    /// layer.
    scales: [Vec<f32>; 2],
    /// Queries and keys before the norm of each head, where there is one.
    raw: [Vec<f32>; 2],
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) attended: Vec<f32>,
    /// Of every document, head and row.
    pub(super) log_sums: Vec<f32>,
    /// The residual stream between the two halves.
    middle: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Between the low-rank matrices of each linear layer.
    inner: [Vec<f32>; 7],
}

/// Memory that both passes work in.
#[derive(Debug, Default)]
struct Work {
    normed: Vec<f32>,
    hidden: Vec<f32>,
    wide: Vec<f32>,
    by_head: [Vec<f32>; 3],
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    logits: Vec<f32>,
}

/// Runs networks forward and backward; its memory is used again from call to
/// call.
#[derive(Debug, Default)]
pub struct Pass {
    /// Whether blocks are computed twice instead of kept.
    checkpoint: bool,
    saved: Vec<Saved>,
    /// What goes into each block, and what comes out of the last.
    streams: Vec<Vec<f32>>,
    work: Work,
}

/// What a pass found.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Negative log-likelihood, in nats, of each of [`Packed::targets`].
    pub each: Vec<f32>,
}

impl Losses {
    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.each.iter().map(|l| f64::from(*l)).sum()
    }
}

/// The documents of a pass, and what is the same for all blocks.
pub(super) struct Frame<'a> {
    pub(super) config: &'a Config,
    pub(super) lengths: &'a [usize],
    pub(super) tokens: usize,
    table: Vec<f32>,
}

/// The first `n` numbers of a buffer that grows as needed.
pub(super) fn part(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

impl Pass {
    /// A pass that keeps activations, or computes them again.
    pub fn new(checkpoint: bool) -> Self {
        Self {
            checkpoint,
            ..Self::default()
        }
    }

    /// The loss of every target, without gradients.
    ///
    /// # Errors
    /// If a token has no embedding, or a document is longer than the context.
    pub fn losses(&mut self, network: &Network, packed: &Packed) -> Result<Losses> {
        let frame = self.forward(network, packed, true)?;
        Ok(self.head(&frame, network, packed, 0, None))
    }

    /// The losses, and `weight` times the gradient of their sum, which is
    /// added to `gradients`.
    ///
    /// # Errors
    /// As [`Pass::losses`].
    pub fn gradients(
        &mut self,
        network: &Network,
        packed: &Packed,
        weight: f32,
        gradients: &mut Gradients,
    ) -> Result<Losses> {
        let frame = self.forward(network, packed, false)?;
        let last = network.layers.len();
        let losses = self.head(&frame, network, packed, last, Some((weight, gradients)));
        let embedded = gradients.embedding.weight.is_some();
        let saved_per_layer = !self.checkpoint;
        for (n, layer) in network.layers.iter().enumerate().rev() {
            let (below, above) = self.streams.split_at_mut(n + 1);
            let (x, dx) = (&below[n], &mut above[0]);
            let saved = &mut self.saved[if saved_per_layer { n } else { 0 }];
            if self.checkpoint {
                forward_layer(&frame, layer, x, saved, &mut self.work, None);
            }
            let own = &mut gradients.layers[n];
            backward_layer(
                &frame,
                layer,
                x,
                dx,
                saved,
                &mut self.work,
                own,
                n > 0 || embedded,
            );
            // Its gradient takes the place of what went in.
            self.streams.swap(n, n + 1);
        }
        if let Some(rows) = &mut gradients.embedding.weight {
            let width = frame.config.hidden;
            for (token, dx) in packed
                .tokens
                .iter()
                .zip(self.streams[0].chunks_exact(width))
            {
                add(&mut rows[*token as usize * width..][..width], dx);
            }
        }
        Ok(losses)
    }

    fn forward<'a>(
        &mut self,
        network: &'a Network,
        packed: &'a Packed,
        only_losses: bool,
    ) -> Result<Frame<'a>> {
        let c = &network.config;
        if let Some(tokens) = packed.lengths.iter().find(|n| **n > c.context) {
            return Err(LearnError::Context {
                tokens: *tokens,
                context: c.context,
            });
        }
        if let Some(bad) = packed.tokens.iter().find(|t| **t as usize >= c.vocab) {
            return Err(LearnError::Request(format!(
                "token {bad} is none of the model's {}",
                c.vocab
            )));
        }
        let frame = Frame {
            config: c,
            lengths: &packed.lengths,
            tokens: packed.tokens.len(),
            table: network.rope.table(packed.positions()),
        };
        let keep = !(self.checkpoint || only_losses);
        let saved = self.saved.len().max(if keep { c.layers } else { 1 });
        self.saved.resize_with(saved, Saved::default);
        let needed = if only_losses { 2 } else { c.layers + 1 };
        let streams = self.streams.len().max(needed);
        self.streams.resize_with(streams, Vec::new);
        for stream in &mut self.streams[..needed] {
            // As long as this pass is, so that rows pair up.
            stream.resize(frame.tokens * c.hidden, 0.0);
        }
        self.streams[0]
            .par_chunks_exact_mut(c.hidden)
            .zip(&packed.tokens)
            .with_min_len(16)
            .for_each(|(row, token)| network.embedding.row(*token as usize, row));
        for (n, layer) in network.layers.iter().enumerate() {
            let at = if only_losses { 0 } else { n };
            let (below, above) = self.streams.split_at_mut(at + 1);
            let saved = &mut self.saved[if keep { n } else { 0 }];
            let out = Some(above[0].as_mut_slice());
            forward_layer(&frame, layer, &below[at], saved, &mut self.work, out);
            if only_losses {
                self.streams.swap(0, 1);
            }
        }
        Ok(frame)
    }

    /// Losses, and the gradient of the last block's output in its place.
    fn head(
        &mut self,
        frame: &Frame<'_>,
        network: &Network,
        packed: &Packed,
        last: usize,
        mut backward: Option<(f32, &mut Gradients)>,
    ) -> Losses {
        let c = frame.config;
        let (h, count) = (c.hidden, packed.targets.len());
        let stream = &mut self.streams[last];
        let normed = part(&mut self.work.normed, count * h);
        let dnormed = part(&mut self.work.hidden, count * h);
        let mut scales = vec![0.0; count];
        let rows = normed.par_chunks_exact_mut(h).zip(&mut scales);
        rows.zip(&packed.targets)
            .with_min_len(16)
            .for_each(|((out, scale), (place, _))| {
                let x = &stream[place * h..][..h];
                *scale = rms_norm(out, x, &network.norm, c.norm_epsilon);
            });
        let mut each = vec![0.0; count];
        let head = network.head();
        for start in (0..count).step_by(LOGITS) {
            let n = LOGITS.min(count - start);
            let logits = part(&mut self.work.logits, n * c.vocab);
            let x = &normed[start * h..(start + n) * h];
            head.forward_keeping(logits, x, &mut Vec::new());
            let weight = backward.as_ref().map_or(0.0, |b| b.0);
            logits
                .par_chunks_exact_mut(c.vocab)
                .zip(&mut each[start..start + n])
                .zip(&packed.targets[start..start + n])
                .for_each(|((row, loss), (_, token))| {
                    *loss = cross_entropy(row, *token as usize, weight);
                });
            if let Some((_, gradients)) = &mut backward {
                let own = match network.head {
                    Some(_) => &mut gradients.head,
                    None => &mut gradients.embedding,
                };
                let dx = &mut dnormed[start * h..(start + n) * h];
                head.backward(Some((dx, false)), logits, x, &[], own);
            }
        }
        if let Some((_, gradients)) = backward {
            // Rows of the stream that are targets are replaced by their
            // gradient one by one; all others have none.
            let mut dstream = std::mem::take(&mut self.work.wide);
            dstream.clear();
            dstream.resize(stream.len(), 0.0);
            for (i, (place, _)) in packed.targets.iter().enumerate() {
                let at = place * h..(place + 1) * h;
                rms_norm_backward(
                    &mut dstream[at.clone()],
                    &dnormed[i * h..(i + 1) * h],
                    &stream[at],
                    &network.norm,
                    scales[i],
                    gradients.norm.as_deref_mut(),
                );
            }
            stream.copy_from_slice(&dstream);
            self.work.wide = dstream;
        }
        Losses { each }
    }
}

/// A block. Without `out` only what backward needs is computed.
fn forward_layer(
    frame: &Frame<'_>,
    layer: &Layer,
    x: &[f32],
    saved: &mut Saved,
    work: &mut Work,
    out: Option<&mut [f32]>,
) {
    let c = frame.config;
    let t = frame.tokens;
    let normed = part(&mut work.normed, t * c.hidden);
    norm_rows(
        normed,
        x,
        &layer.attention_norm,
        c.norm_epsilon,
        &mut saved.scales[0],
    );
    let [iq, ik, iv, io, igate, iup, idown] = &mut saved.inner;
    let q = sized(&mut saved.q, t * c.q_dim());
    let k = sized(&mut saved.k, t * c.kv_dim());
    let v = sized(&mut saved.v, t * c.kv_dim());
    layer.q.forward_keeping(q, normed, iq);
    layer.k.forward_keeping(k, normed, ik);
    layer.v.forward_keeping(v, normed, iv);
    let [raw_q, raw_k] = &mut saved.raw;
    position(frame, q, raw_q, layer.q_norm.as_deref());
    position(frame, k, raw_k, layer.k_norm.as_deref());
    let by_head = part(&mut work.by_head[0], t * c.q_dim());
    let log_sums = sized(&mut saved.log_sums, t * c.heads);
    attention(frame, q, k, v, by_head, log_sums);
    let attended = sized(&mut saved.attended, t * c.q_dim());
    by_token(frame, attended, by_head, c.heads);
    let middle = sized(&mut saved.middle, t * c.hidden);
    layer.o.forward_keeping(middle, attended, io);
    add_rows(middle, x);
    norm_rows(
        normed,
        middle,
        &layer.mlp_norm,
        c.norm_epsilon,
        &mut saved.scales[1],
    );
    let gate = sized(&mut saved.gate, t * c.intermediate);
    let up = sized(&mut saved.up, t * c.intermediate);
    layer.gate.forward_keeping(gate, normed, igate);
    layer.up.forward_keeping(up, normed, iup);
    let act = part(&mut work.wide, t * c.intermediate);
    activate(act, gate, up);
    match out {
        Some(out) => {
            layer.down.forward_keeping(out, act, idown);
            add_rows(out, middle);
        }
        None => {
            if let Some(lora) = &layer.down.lora {
                idown.resize(t * lora.rank, 0.0);
                lora.down(idown, act, c.intermediate);
            }
        }
    }
}

/// Replaces `dx`, the gradient of a block's output, by that of its input `x`.
#[allow(clippy::too_many_arguments)]
fn backward_layer(
    frame: &Frame<'_>,
    layer: &Layer,
    x: &[f32],
    dx: &mut [f32],
    saved: &mut Saved,
    work: &mut Work,
    gradients: &mut LayerGradients,
    input: bool,
) {
    let c = frame.config;
    let t = frame.tokens;
    let [gq, gk, gv, go, ggate, gup, gdown] = &mut gradients.linears;
    let [iq, ik, iv, io, igate, iup, idown] = &saved.inner;
    let [d_attention_norm, d_mlp_norm, d_q_norm, d_k_norm] = &mut gradients.norms;

    // The feed-forward layer.
    let act = part(&mut work.wide, t * c.intermediate);
    activate(act, &saved.gate, &saved.up);
    let dact = part(&mut work.dq, t * c.intermediate);
    layer
        .down
        .backward(Some((&mut *dact, false)), dx, act, idown, gdown);
    let piece = c.intermediate * 8;
    saved
        .gate
        .par_chunks_mut(piece)
        .zip(saved.up.par_chunks_mut(piece))
        .zip(dact.par_chunks(piece))
        .for_each(|((gate, up), dact)| silu_mul_backward(gate, up, dact));
    let normed = part(&mut work.normed, t * c.hidden);
    scale_rows(normed, &saved.middle, &layer.mlp_norm, &saved.scales[1]);
    let dnormed = part(&mut work.hidden, t * c.hidden);
    layer.gate.backward(
        Some((&mut *dnormed, false)),
        &saved.gate,
        normed,
        igate,
        ggate,
    );
    layer
        .up
        .backward(Some((&mut *dnormed, true)), &saved.up, normed, iup, gup);
    let scales = &saved.scales[1];
    norm_backward(
        dx,
        dnormed,
        &saved.middle,
        &layer.mlp_norm,
        scales,
        d_mlp_norm.as_deref_mut(),
    );

    // Attention.
    let dattended = part(&mut work.wide, t * c.q_dim());
    layer
        .o
        .backward(Some((&mut *dattended, false)), dx, &saved.attended, io, go);
    let dq = part(&mut work.dq, t * c.q_dim());
    let dk = part(&mut work.dk, t * c.kv_dim());
    let dv = part(&mut work.dv, t * c.kv_dim());
    attention_backward(frame, saved, dattended, [dq, dk, dv], &mut work.by_head);
    let [raw_q, raw_k] = &saved.raw;
    unposition(
        frame,
        dq,
        raw_q,
        layer.q_norm.as_deref(),
        d_q_norm.as_deref_mut(),
    );
    unposition(
        frame,
        dk,
        raw_k,
        layer.k_norm.as_deref(),
        d_k_norm.as_deref_mut(),
    );
    let normed = part(&mut work.normed, t * c.hidden);
    scale_rows(normed, x, &layer.attention_norm, &saved.scales[0]);
    let dnormed = part(&mut work.hidden, t * c.hidden);
    for (n, (linear, dout, inner, own)) in [
        (&layer.q, &*dq, iq, gq),
        (&layer.k, &*dk, ik, gk),
        (&layer.v, &*dv, iv, gv),
    ]
    .into_iter()
    .enumerate()
    {
        let into = input.then_some((&mut *dnormed, n > 0));
        linear.backward(into, dout, normed, inner, own);
    }
    if input {
        let scales = &saved.scales[0];
        let own = d_attention_norm.as_deref_mut();
        norm_backward(dx, dnormed, x, &layer.attention_norm, scales, own);
    }
}

/// A buffer of exactly this length.
fn sized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    buffer.resize(n, 0.0);
    buffer
}

fn activate(act: &mut [f32], gate: &[f32], up: &[f32]) {
    const PIECE: usize = 1 << 13;
    act.par_chunks_mut(PIECE)
        .zip(gate.par_chunks(PIECE))
        .zip(up.par_chunks(PIECE))
        .for_each(|((act, gate), up)| silu_mul(act, gate, up));
}

fn add_rows(into: &mut [f32], from: &[f32]) {
    const PIECE: usize = 1 << 14;
    into.par_chunks_mut(PIECE)
        .zip(from.par_chunks(PIECE))
        .for_each(|(into, from)| add(into, from));
}

fn norm_rows(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32, scales: &mut Vec<f32>) {
    let width = weight.len();
    let scales = sized(scales, x.len() / width);
    out.par_chunks_exact_mut(width)
        .zip(x.par_chunks_exact(width))
        .zip(scales)
        .with_min_len(16)
        .for_each(|((out, x), scale)| *scale = rms_norm(out, x, weight, epsilon));
}

/// The output of a norm again, by its scales.
fn scale_rows(out: &mut [f32], x: &[f32], weight: &[f32], scales: &[f32]) {
    let width = weight.len();
    out.par_chunks_exact_mut(width)
        .zip(x.par_chunks_exact(width))
        .zip(scales)
        .with_min_len(16)
        .for_each(|((out, x), scale)| {
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * w;
            }
        });
}

/// Adds the gradient of a norm's input to `dx`.
fn norm_backward(
    dx: &mut [f32],
    dout: &[f32],
    x: &[f32],
    weight: &[f32],
    scales: &[f32],
    dweight: Option<&mut [f32]>,
) {
    let width = weight.len();
    let pieces = dx
        .par_chunks_mut(ROWS * width)
        .zip(dout.par_chunks(ROWS * width))
        .zip(x.par_chunks(ROWS * width))
        .zip(scales.par_chunks(ROWS));
    let trained = dweight.is_some();
    let sums: Vec<Option<Vec<f32>>> = pieces
        .map(|(((dx, dout), x), scales)| {
            let mut sum = trained.then(|| vec![0.0; width]);
            let rows = dx.chunks_exact_mut(width).zip(dout.chunks_exact(width));
            for (((dx, dout), x), scale) in rows.zip(x.chunks_exact(width)).zip(scales) {
                rms_norm_backward(dx, dout, x, weight, *scale, sum.as_deref_mut());
            }
            sum
        })
        .collect();
    if let Some(dweight) = dweight {
        for sum in sums.iter().flatten() {
            add(dweight, sum);
        }
    }
}

/// Norms of heads, where there are, and rotary positions. What was there
/// before the norm is kept in `raw`.
fn position(frame: &Frame<'_>, rows: &mut [f32], raw: &mut Vec<f32>, norm: Option<&[f32]>) {
    let c = frame.config;
    let width = rows.len() / frame.tokens;
    if norm.is_some() {
        raw.clear();
        raw.extend_from_slice(rows);
    }
    let raw = raw.as_slice();
    rows.par_chunks_exact_mut(width)
        .zip(frame.table.par_chunks_exact(c.head_dim))
        .enumerate()
        .with_min_len(16)
        .for_each(|(n, (row, table))| {
            if let Some(weight) = norm {
                let before = raw[n * width..(n + 1) * width].chunks_exact(c.head_dim);
                for (head, before) in row.chunks_exact_mut(c.head_dim).zip(before) {
                    rms_norm(head, before, weight, c.norm_epsilon);
                }
            }
            Rope::apply(row, c.head_dim, table);
        });
}

/// The gradient of [`position`] in place.
fn unposition(
    frame: &Frame<'_>,
    rows: &mut [f32],
    raw: &[f32],
    norm: Option<&[f32]>,
    dweight: Option<&mut [f32]>,
) {
    let (d, epsilon) = (frame.config.head_dim, frame.config.norm_epsilon);
    let width = rows.len() / frame.tokens;
    rows.par_chunks_exact_mut(width)
        .zip(frame.table.par_chunks_exact(d))
        .with_min_len(16)
        .for_each(|(row, table)| Rope::unapply(row, d, table));
    let Some(weight) = norm else { return };
    let dout = rows.to_vec();
    rows.fill(0.0);
    let mut scales = Vec::new();
    let mut normed = vec![0.0; rows.len()];
    norm_rows(&mut normed, raw, weight, epsilon, &mut scales);
    norm_backward(rows, &dout, raw, weight, &scales, dweight);
}
