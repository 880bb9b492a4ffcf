//! The judge: log parsers by framework and verdicts, pure.
//!
//! Data walks one way through this crate. A test log becomes a
//! [`StatusMap`](swegym_core::StatusMap) ([`Parser`]); the runner's private
//! channel becomes a [`RunReport`](swegym_core::RunReport)
//! ([`decode_report`]); a run becomes a [`Verdict`] ([`strict_verdict`]) or
//! the official answer ([`compat`]). Nothing here reads a file, starts a
//! process or prints, and no parser can fail on any text.

pub mod compat;
mod draw;
mod fold;
mod ids;
pub mod metrics;
mod parse;
mod report;
pub mod scores;
mod signs;
mod strict;
mod twin;

pub use fold::call_results;
pub use metrics::{Candidate, best_at_k, mean_pass_at_k, pass_at_k};
pub use parse::{
    LogRow, ParsedRow, Parser, Raised, UnknownParser, parser, parser_for_repo, parser_names,
};
pub use report::{decode_report, encode_record};
pub use signs::Signs;
pub use strict::{Expectation, StrictInput, TwinRun, Verdict, strict_verdict};
