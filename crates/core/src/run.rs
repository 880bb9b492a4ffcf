//! What a run of the tests produced, before anyone judges it.

use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Exit;

/// Status of one test, in the harness's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// `PASSED`
    Passed,
    /// `FAILED`
    Failed,
    /// `SKIPPED`
    Skipped,
    /// `ERROR`
    Error,
    /// `XFAIL`: failed, and was expected to.
    Xfail,
    /// `XPASS`: passed, although expected to fail.
    Xpass,
    /// Any other word a log held, such as SWE-Gym's `ERROR:`.
    Other(Box<str>),
}

impl Status {
    /// The word in logs and status maps.
    pub fn as_str(&self) -> &str {
        verdict_word(self)
    }
}

/// The word for a status in logs and status maps.
pub fn verdict_word(status: &Status) -> &str {
    match status {
        Status::Passed => "PASSED",
        Status::Failed => "FAILED",
        Status::Skipped => "SKIPPED",
        Status::Error => "ERROR",
        Status::Xfail => "XFAIL",
        Status::Xpass => "XPASS",
        Status::Other(word) => word,
    }
}

impl From<&str> for Status {
    fn from(word: &str) -> Self {
        match word {
            "PASSED" => Self::Passed,
            "FAILED" => Self::Failed,
            "SKIPPED" => Self::Skipped,
            "ERROR" => Self::Error,
            "XFAIL" => Self::Xfail,
            "XPASS" => Self::Xpass,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(|word| word.as_str().into())
    }
}

/// Test id -> status, in the order first seen.
pub type StatusMap = IndexMap<String, Status>;

/// Everything known about one run of a test command.
#[derive(Debug, Clone)]
pub struct TestRun {
    /// How the command ended.
    pub exit: Exit,
    /// Stdout and stderr together, as the command wrote them; head and tail
    /// only where the output limit cut it.
    pub log: String,
    /// Whether the log was cut.
    pub log_truncated: bool,
    /// What the trusted runner reported on its private channel; `None` where
    /// the framework has no runner, then the log alone speaks.
    pub report: Option<RunReport>,
    /// Wall time of the command, seconds.
    pub seconds: f64,
}

/// A decoded report of the trusted runner.
///
/// On the wire it is one record a line, `<mac> <json>\n`: `json` is an object
/// with `seq` (0, 1, 2, …) and `kind`, `mac` the lower-case hex HMAC-SHA256 of
/// the JSON bytes under the run's key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunReport {
    /// Records with a valid MAC, in sequence.
    pub records: Vec<Record>,
    /// What is wrong with the stream (bad MAC, gap in the sequence, trailing
    /// bytes, …); empty for a clean one.
    pub defects: Vec<String>,
}

/// One record of the trusted runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// The runner is up, before any code of the codebase was imported.
    Start {
        /// `pytest`, `unittest`, `django` or `sympy`.
        framework: String,
        /// Version of the interpreter, `3.9.18`.
        python: String,
    },
    /// What was collected, in run order.
    Collect {
        /// Native ids (pytest node ids; descriptions for the others).
        ids: Vec<String>,
        /// Digest of ids and test code (advisory).
        #[serde(default)]
        digest: String,
    },
    /// One phase of one test ended. A test that is skipped in `setup` has no
    /// `call`; collection errors of a module have `when: collect`.
    Test {
        /// Native id.
        id: String,
        /// Which phase.
        when: Phase,
        /// `PASSED`, `FAILED`, `SKIPPED`, `ERROR`, `XFAIL` or `XPASS`.
        status: Status,
        /// First line of the failure, for people.
        #[serde(default)]
        message: String,
    },
    /// An advisory finding of the runner.
    Flag {
        /// Short stable name.
        name: String,
        /// What was seen.
        detail: String,
    },
    /// What of the codebase a test ran; only where it was asked for, which a
    /// grader never does.
    Trace {
        /// Native id.
        id: String,
        /// Functions not named by earlier records: path in the codebase, and
        /// line where the function (or its first decorator) begins. They are
        /// numbered on from those of earlier records.
        new: Vec<(String, u32)>,
        /// Numbers of the functions that were entered.
        hits: Vec<u32>,
    },
    /// The run is over; nothing follows.
    End {
        /// Exit status that the process is about to return.
        exit: i32,
        /// Number of `Test` records sent.
        tests: u64,
    },
}

/// Phase of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Importing the module.
    Collect,
    /// Fixtures.
    Setup,
    /// The test itself.
    Call,
    /// Fixtures again.
    Teardown,
}
