//! Linear layers over weights of several types, with a low-rank part.

use half::bf16;
use rayon::prelude::*;

use super::Dtype;
use crate::kernel::{View, ViewMut, add, dot, matmul};

/// A matrix `[rows, columns]` of a linear layer, row-major.
#[derive(Debug, Clone)]
pub enum Weight {
    /// 4 bytes each.
    F32(Vec<f32>),
    /// 2 bytes each.
    Bf16(Vec<bf16>),
}

impl Weight {
    /// Keeps numbers as `dtype` says.
    pub fn of(numbers: Vec<f32>, dtype: Dtype) -> Self {
        match dtype {
            Dtype::Stored | Dtype::F32 => Self::F32(numbers),
            Dtype::Bf16 => Self::Bf16(numbers.into_iter().map(bf16::from_f32).collect()),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(w) => w.len() * 4,
            Self::Bf16(w) => w.len() * 2,
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

/// Rows of weights that are unpacked at a time.
const PIECE: usize = 4096;

/// Inputs up to which a product reads every weight once, in the order that it
/// lies in memory, instead of packing it.
const FEW: usize = 8;

impl Linear {
    /// Its output for `x` of shape `[n, columns]` into `out`, `[n, rows]`.
    pub fn forward(&self, out: &mut [f32], x: &[f32]) {
        let n = x.len() / self.columns;
        debug_assert_eq!(out.len(), n * self.rows);
        if n == 0 {
            return;
        }
        self.product(out, x, n);
        if let Some(bias) = &self.bias {
            out.par_chunks_exact_mut(self.rows)
                .with_min_len(16)
                .for_each(|row| add(row, bias));
        }
        if let Some(lora) = &self.lora {
            let mut inner = vec![0.0; n * lora.rank];
            lora.down(&mut inner, x, self.columns);
            lora.up(out, &inner, self.rows);
        }
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
            let piece = &mut unpacked[..count * columns];
            piece
                .par_chunks_exact_mut(columns)
                .with_min_len(32)
                .enumerate()
                .for_each(|(i, row)| self.row(start + i, row));
            let w = View::new(piece, count, columns);
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
                        Weight::Bf16(_) => {
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
