//! Linear layers over weights of several types, with a low-rank part.

use half::bf16;
use rayon::prelude::*;

use super::Dtype;
use crate::kernel::{Quantised, Rounded, View, ViewMut, add, dot, matmul, product};

/// A matrix `[rows, columns]` of a linear layer, row-major.
#[derive(Debug, Clone)]
pub enum Weight {
    /// 4 bytes each.
    F32(Vec<f32>),
    /// 2 bytes each.
    Bf16(Vec<bf16>),
    /// 4 or 8 bits each.
    Quantised(Quantised),
}

impl Weight {
    /// Keeps numbers as `dtype` says.
    pub fn of(numbers: Vec<f32>, dtype: Dtype) -> Self {
        match dtype {
            Dtype::Stored | Dtype::F32 => Self::F32(numbers),
            Dtype::Bf16 => Self::Bf16(numbers.into_iter().map(bf16::from_f32).collect()),
        }
    }

    /// Its numbers as `f32`.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(w) => w,
            Self::Bf16(w) => w.into_iter().map(bf16::to_f32).collect(),
            Self::Quantised(w) => {
                let mut out = vec![0.0; w.rows() * w.columns()];
                out.par_chunks_exact_mut(w.columns())
                    .enumerate()
                    .for_each(|(row, into)| w.row(row, into));
                out
            }
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(w) => w.len() * 4,
            Self::Bf16(w) => w.len() * 2,
            Self::Quantised(w) => w.bytes(),
        }
    }
}

/// The low-rank part of a layer (arXiv 2106.09685): `y += scale * x Aᵀ Bᵀ`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// Inner dimension.
    pub rank: usize,
    /// `alpha / rank`.
    pub scale: f32,
    /// `[rank, columns]`.
    pub a: Vec<f32>,
    /// `[rows, rank]`.
    pub b: Vec<f32>,
}

/// `y = x Wᵀ + bias`, and the low-rank part where there is one.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Width of the output.
    pub rows: usize,
    /// Width of the input.
    pub columns: usize,
    /// `[rows, columns]`.
    pub weight: Weight,
    /// `[rows]`.
    pub bias: Option<Vec<f32>>,
    /// An adapter.
    pub lora: Option<Lora>,
}

/// Gradients of a linear layer; `None` for what is not trained.
#[derive(Debug, Clone, Default)]
pub struct LinearGradients {
    /// `[rows, columns]`.
    pub weight: Option<Vec<f32>>,
    /// `[rows]`.
    pub bias: Option<Vec<f32>>,
    /// Of the low-rank matrices, `[rank, columns]` and `[rows, rank]`.
    pub lora: Option<(Vec<f32>, Vec<f32>)>,
}

/// Rows of weights that are unpacked at a time.
const PIECE: usize = 4096;

/// Inputs up to which a product reads every weight once, in the order that it
/// lies in memory, instead of packing it.
const FEW: usize = 8;

impl Linear {
    /// Its output for `x` of shape `[n, columns]` into `out`, `[n, rows]`.
    /// Weights of 4 and 8 bits are multiplied with inputs rounded to 8.
    pub fn forward(&self, out: &mut [f32], x: &[f32]) {
        Self::forward_all(&mut [(self, out)], x);
    }

    /// The outputs of several layers for the same input.
    pub fn forward_all(parts: &mut [(&Self, &mut [f32])], x: &[f32]) {
        if x.is_empty() {
            return;
        }
        let mut packed: Vec<(&Quantised, &mut [f32])> = Vec::new();
        for (linear, out) in parts.iter_mut() {
            match &linear.weight {
                Weight::Quantised(w) => packed.push((w, out)),
                _ => linear.product(out, x, x.len() / linear.columns),
            }
        }
        if let Some(columns) = packed.first().map(|p| p.0.columns()) {
            product(&mut packed, &Rounded::new(x, columns));
        }
        for (linear, out) in parts {
            linear.finish(out, x, &mut Vec::new());
        }
    }

    /// The output by weights as they are, unpacked where they are packed; and
    /// what lies between the two low-rank matrices, `[n, rank]`, into `inner`,
    /// for [`Linear::backward`].
    pub fn forward_keeping(&self, out: &mut [f32], x: &[f32], inner: &mut Vec<f32>) {
        let n = x.len() / self.columns;
        debug_assert_eq!(out.len(), n * self.rows);
        if n == 0 {
            return;
        }
        self.product(out, x, n);
        self.finish(out, x, inner);
    }

    /// Adds bias and low-rank part to a product.
    fn finish(&self, out: &mut [f32], x: &[f32], inner: &mut Vec<f32>) {
        let n = x.len() / self.columns;
        if let Some(bias) = &self.bias {
            out.par_chunks_exact_mut(self.rows)
                .with_min_len(16)
                .for_each(|row| add(row, bias));
        }
        if let Some(lora) = &self.lora {
            inner.resize(n * lora.rank, 0.0);
            lora.down(inner, x, self.columns);
            lora.up(out, inner, self.rows);
        }
    }

    /// Gradients for that of the output, `dout` `[n, rows]`: adds to those of
    /// its own numbers that are asked for, and gives that of the input,
    /// `[n, columns]`, which is added to what stands in `dx` if `keep`.
    pub fn backward(
        &self,
        dx: Option<(&mut [f32], bool)>,
        dout: &[f32],
        x: &[f32],
        inner: &[f32],
        gradients: &mut LinearGradients,
    ) {
        let (n, rows, columns) = (dout.len() / self.rows, self.rows, self.columns);
        if n == 0 {
            return;
        }
        let dy = View::new(dout, n, rows);
        let x = View::new(x, n, columns);
        if let Some(weight) = &mut gradients.weight {
            matmul(ViewMut::new(weight, rows, columns), 1.0, 1.0, dy.t(), x);
        }
        if let Some(bias) = &mut gradients.bias {
            for row in dout.chunks_exact(rows) {
                add(bias, row);
            }
        }
        let mut dinner = Vec::new();
        if let (Some(lora), Some((da, db))) = (&self.lora, &mut gradients.lora) {
            let (r, scale) = (lora.rank, lora.scale);
            let inner = View::new(inner, n, r);
            matmul(ViewMut::new(db, rows, r), 1.0, scale, dy.t(), inner);
            dinner.resize(n * r, 0.0);
            let b = View::new(&lora.b, rows, r);
            matmul(ViewMut::new(&mut dinner, n, r), 0.0, scale, dy, b);
            let di = View::new(&dinner, n, r);
            matmul(ViewMut::new(da, r, columns), 1.0, 1.0, di.t(), x);
        }
        let Some((dx, keep)) = dx else { return };
        self.product_transposed(dx, if keep { 1.0 } else { 0.0 }, dout, n);
        if let Some(lora) = &self.lora
            && !dinner.is_empty()
        {
            let di = View::new(&dinner, n, lora.rank);
            let a = View::new(&lora.a, lora.rank, columns);
            matmul(ViewMut::new(dx, n, columns), 1.0, 1.0, di, a);
        }
    }

    /// `dx = keep * dx + dout W`.
    fn product_transposed(&self, dx: &mut [f32], keep: f32, dout: &[f32], n: usize) {
        let (rows, columns) = (self.rows, self.columns);
        if let Weight::F32(w) = &self.weight {
            let out = ViewMut::new(dx, n, columns);
            let w = View::new(w, rows, columns);
            return matmul(out, keep, 1.0, View::new(dout, n, rows), w);
        }
        let mut unpacked = vec![0.0; PIECE.min(rows) * columns];
        for start in (0..rows).step_by(PIECE) {
            let count = PIECE.min(rows - start);
            let w = self.unpack(start, &mut unpacked[..count * columns]);
            let dy = View::strided(&dout[start..], n, count, rows);
            let keep = if start == 0 { keep } else { 1.0 };
            matmul(ViewMut::new(dx, n, columns), keep, 1.0, dy, w);
        }
    }

    /// Rows of the weight from `start` on as `f32`.
    fn unpack<'a>(&self, start: usize, piece: &'a mut [f32]) -> View<'a> {
        let columns = self.columns;
        piece
            .par_chunks_exact_mut(columns)
            .with_min_len(32)
            .enumerate()
            .for_each(|(i, row)| self.row(start + i, row));
        View::new(piece, piece.len() / columns, columns)
    }

    fn product(&self, out: &mut [f32], x: &[f32], n: usize) {
        if n <= FEW {
            return self.few(out, x, n);
        }
        let (rows, columns) = (self.rows, self.columns);
        if let Weight::F32(w) = &self.weight {
            let w = View::new(w, rows, columns);
            return matmul(
                ViewMut::new(out, n, rows),
                0.0,
                1.0,
                View::new(x, n, columns),
                w.t(),
            );
        }
        let mut unpacked = vec![0.0; PIECE.min(rows) * columns];
        for start in (0..rows).step_by(PIECE) {
            let count = PIECE.min(rows - start);
            let w = self.unpack(start, &mut unpacked[..count * columns]);
            let part = ViewMut::strided(&mut out[start..], n, count, rows);
            matmul(part, 0.0, 1.0, View::new(x, n, columns), w.t());
        }
    }

    /// The product for few inputs. Every number is one inner product, summed
    /// in the same order however many inputs there are: an answer does not
    /// depend on what is decoded beside it.
    fn few(&self, out: &mut [f32], x: &[f32], n: usize) {
        let columns = self.columns;
        let mut by_row = vec![0.0; self.rows * n];
        by_row
            .par_chunks_exact_mut(n)
            .with_min_len(64)
            .enumerate()
            .for_each_init(
                || vec![0.0; columns],
                |unpacked, (r, values)| {
                    let w = match &self.weight {
                        Weight::F32(w) => &w[r * columns..(r + 1) * columns],
                        Weight::Bf16(_) | Weight::Quantised(_) => {
                            self.row(r, unpacked);
                            unpacked.as_slice()
                        }
                    };
                    for (value, x) in values.iter_mut().zip(x.chunks_exact(columns)) {
                        *value = dot(w, x);
                    }
                },
            );
        for (i, row) in out.chunks_exact_mut(self.rows).enumerate() {
            for (value, values) in row.iter_mut().zip(by_row.chunks_exact(n)) {
                *value = values[i];
            }
        }
    }

    /// One row of the weight as `f32`, without the low-rank part: of an
    /// embedding, a token's vector.
    pub fn row(&self, index: usize, into: &mut [f32]) {
        let range = index * self.columns..(index + 1) * self.columns;
        match &self.weight {
            Weight::F32(w) => into.copy_from_slice(&w[range]),
            Weight::Bf16(w) => {
                for (into, w) in into.iter_mut().zip(&w[range]) {
                    *into = w.to_f32();
                }
            }
            Weight::Quantised(w) => w.row(index, into),
        }
    }
}

impl Lora {
    /// `inner = x Aᵀ` of shape `[n, rank]`.
    pub fn down(&self, inner: &mut [f32], x: &[f32], columns: usize) {
        let n = x.len() / columns;
        let a = View::new(&self.a, self.rank, columns);
        matmul(
            ViewMut::new(inner, n, self.rank),
            0.0,
            1.0,
            View::new(x, n, columns),
            a.t(),
        );
    }

    /// `out += scale * inner Bᵀ` of shape `[n, rows]`.
    pub fn up(&self, out: &mut [f32], inner: &[f32], rows: usize) {
        let n = inner.len() / self.rank;
        let b = View::new(&self.b, rows, self.rank);
        matmul(
            ViewMut::new(out, n, rows),
            1.0,
            self.scale,
            View::new(inner, n, self.rank),
            b.t(),
        );
    }
}
