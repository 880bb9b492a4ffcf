//! Models against `transformers`: the numbers were made by
//! `fixtures/models/make.py`.

mod bad;
mod engine;
mod parity;
mod train;

use std::path::PathBuf;
use std::sync::Arc;

use swegym_learn::model::{Dtype, Model};

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/models"
    ))
}

fn tiny(name: &str) -> Arc<Model> {
    Arc::new(Model::read(&fixtures().join(name), Dtype::Stored).expect("a whole checkpoint"))
}
