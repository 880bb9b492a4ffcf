//! Arithmetic on `f32` slices: products of matrices (the `gemm` crate), and
//! the loops around them, compiled for the processor's widest vectors.
//!
//! Matrices are row-major. Work is split over rows of the output, never over a
//! sum, so that results do not depend on the number of threads.

mod attention;
mod matrix;
mod quant;
mod rope;
mod row;

pub use attention::{Block, Causal, HeadGradients, Scores, attend, attend_backward};
pub use matrix::{View, ViewMut, matmul, multiply};
pub use quant::{BLOCK, Bits, Quantised, Quants, Rounded, product};
pub use rope::Rope;
pub use row::{
    adamw, add, cross_entropy, dot, exp_minus_max, log_sum_exp, rms_norm, rms_norm_backward,
    silu_mul, silu_mul_backward, softmax_backward,
};
