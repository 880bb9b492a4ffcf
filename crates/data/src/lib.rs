//! Dataset, prediction and report formats, and the run directory.
//!
//! [`Dataset`] reads every family of tasks as [`swegym_core::Instance`];
//! [`convert`] writes them; [`patch`] is the model of diffs that all of it and
//! grading share.

pub mod atomic;
pub mod curate;
pub mod patch;
pub mod trajectory;

mod check;
mod dataset;
mod error;
mod functions;
mod hub;
mod json;
mod prediction;
mod report;
mod run_dir;
mod stats;

pub use check::{Checker, Finding, Problem, Severity};
pub use dataset::{
    Converted, Dataset, Dropped, Format, Instances, SWE_BENCH_COLUMNS, SWE_GYM_COLUMNS,
    WriteFormat, WriteOptions, convert,
};
pub use error::{DataError, Place, Result, Spot};
pub use hub::{Hub, HubName};
pub use prediction::{Encoding, Located, empty, gold, read_predictions, write_predictions};
pub use report::{
    Ended, InstanceLogs, InstanceReport, LogTree, RunSummary, TestSplit, TestsStatus,
    model_file_name, read_instance_report, summary_file_name, write_instance_report,
};
pub use run_dir::{KeyParts, Resources, ResultRow, RunDir, read_results};
pub use stats::{Mean, Stats, StatsBuilder};
