//! The front door of the gym: one module a stage, in the order data walks.
//!
//! | stage | takes | gives |
//! |---|---|---|
//! | [`tasks`] | dataset | `Instance`s |
//! | [`collect`] | releases of a package, history of a repository | candidates: `Instance`s that were not run |
//! | [`synth`] | a codebase with tests | `Instance`s with injected bugs |
//! | [`codebase`] | `Instance` | its files at the base commit |
//! | [`environment`] | `Instance`, codebase | `Environment`: layers of the store |
//! | [`compose`] | base, prediction, hidden tests | the tree that is graded |
//! | `rebuild` | `Environment`, composed tree | its compiled extensions |
//! | [`grade`] | `Environment`, patch | `Graded`: outcome, flags, statuses |
//! | [`observe`] | `Environment`, patch | statuses that nobody judges |
//! | [`validate`] | candidate | `Instance` with lists, gold record and mutants, or why not |
//! | [`rollout`] | dataset, agent, model | trajectories, predictions |
//! | [`judge`] | instance, prediction | result |
//! | [`evaluate`] | dataset, predictions | results and reports of a run |
//! | [`export`] | trajectories | training rows, files for other programs, statistics |
//! | [`report`] | results | one HTML page |
//! | [`card`] | dataset, the steps that made it | README.md and plots |
//!
//! Beside them: [`bench`] (numbers), [`demo`] (the main job on real packages),
//! [`home`] (folders), [`dispatch`] (many jobs on few threads), [`records`] and
//! [`funnel`] (what became of each candidate), [`provenance`] (what made a
//! dataset), [`plot`] (SVG), [`protect`] (what a prediction
//! may not decide), [`runner`] (the trusted test runner's files), [`exit`]
//! (exit codes).

pub mod bench;
pub mod best_of;
pub mod card;
pub mod codebase;
pub mod collect;
pub mod compose;
pub mod curate;
pub mod demo;
pub mod dispatch;
pub mod environment;
mod error;
pub mod evaluate;
pub mod exit;
pub mod export;
pub mod features;
pub mod funnel;
pub mod grade;
pub mod hand_over;
pub mod home;
pub mod improve;
pub mod judge;
pub mod local;
pub mod models;
pub mod observe;
pub mod plot;
pub mod protect;
pub mod provenance;
mod rebuild;
pub mod records;
pub mod report;
pub mod rollout;
pub mod runner;
pub mod serve;
pub mod synth;
pub mod tasks;
pub mod train;
pub mod validate;
pub mod verify;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub use error::Error;

/// BLAKE3, 64 hex digits.
fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Lets the sandbox's user look into a folder that only its owner may.
fn make_traversable(dir: &Path) -> Result<(), Error> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(|e| Error::io(dir, e))
}

/// Lets everyone read a file that was made as a temporary one.
fn make_readable(file: &fs::File) -> std::io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(0o644))
}
