//! Models on this machine: what they are, how they answer, and how they learn.
//!
//! Weights and activations are plain slices; the passes forward and backward
//! are written out by hand for the one family of decoder that the field's
//! open models share. Why, and what it was measured against:
//! `docs/design/learn.md`.

pub mod config;
pub mod error;
pub mod infer;
pub mod kernel;
pub mod model;
pub mod speed;
pub mod template;
pub mod tokenizer;
pub mod train;
pub mod verifier;

pub use error::{LearnError, Result};
