//! The hands of the gym: language models, and agents that use them on a
//! sandbox.
//!
//! This crate starts no process and opens no dataset: it is given a
//! [`swegym_core::Sandbox`] and a task, and gives back what happened.

mod dialogue;
pub mod episode;
pub mod model;
pub mod proxy;
pub mod rows;
pub mod scaffold;
pub mod text_form;
pub mod verifier;
pub mod workspace;
