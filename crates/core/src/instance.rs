//! A task: a codebase at a commit, an issue, and the tests that decide.

use std::collections::BTreeMap;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::Status;

/// One task of a dataset, in SWE-bench's column names.
///
/// Columns that only some datasets have are optional; columns we do not know
/// stay in [`Instance::extra`], so that reading and writing a row loses
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Unique name, `owner__name-number` in SWE-bench.
    pub instance_id: String,
    /// `owner/name`; empty where the codebase has no repository.
    #[serde(default)]
    pub repo: String,
    /// Commit (40 hex digits) that the issue was filed against.
    #[serde(default)]
    pub base_commit: String,
    /// Gold patch: the reference solution, without its tests.
    #[serde(default)]
    pub patch: String,
    /// Hidden tests, as a diff against the base commit.
    #[serde(default)]
    pub test_patch: String,
    /// Text of the issue.
    #[serde(default)]
    pub problem_statement: String,
    /// Discussion that preceded the fix; never shown to an agent by default.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub hints_text: String,
    /// Creation time, RFC 3339 or `YYYY-MM-DD HH:MM:SS` (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Release line, such as `4.1`; keys the specs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Tests that must go from failing to passing.
    #[serde(rename = "FAIL_TO_PASS", default)]
    pub fail_to_pass: TestIds,
    /// Tests that must keep passing.
    #[serde(rename = "PASS_TO_PASS", default)]
    pub pass_to_pass: TestIds,
    /// Commit the environment is set up at, where it differs from the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_setup_commit: Option<String>,
    /// Image reference (SWE-bench 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Script that runs the tests in the image (SWE-bench 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_script: Option<String>,
    /// Parser name such as `parse_log_pytest` (SWE-bench 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_parser: Option<String>,
    /// How the verdict is taken (SWE-bench 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_type: Option<EvalType>,
    /// Where the codebase comes from; without it, `repo` and `base_commit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Diff that makes the base codebase of what `source` gives: an injected
    /// bug, with the tests that would give it away taken out. Environments are
    /// built without it, so that tasks of one codebase share theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_patch: Option<String>,
    /// Environment recipe of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvSpec>,
    /// SWE-rebench's recipe, kept as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_config: Option<Value>,
    /// Command that runs the tests, from the root of the codebase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_command: Option<String>,
    /// Status of every test in the recorded gold run (GRADING: exact status).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_status: Option<BTreeMap<String, Status>>,
    /// Twin mutants, validated offline (GRADING: twin run).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutants: Option<Mutants>,
    /// Every other column, in its order.
    #[serde(flatten)]
    pub extra: IndexMap<String, Value>,
}

fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// A list of test ids. Reads a JSON list (SWE-Gym) or a string that holds one
/// (SWE-bench); writes a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TestIds(pub Vec<String>);

impl<'de> Deserialize<'de> for TestIds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            List(Vec<String>),
            Text(String),
            Null(()),
        }
        match Either::deserialize(d)
            .map_err(|_| serde::de::Error::custom("a list of test ids, or a string holding one"))?
        {
            Either::List(ids) => Ok(Self(ids)),
            Either::Null(()) => Ok(Self::default()),
            Either::Text(text) if text.trim().is_empty() => Ok(Self::default()),
            Either::Text(text) => serde_json::from_str(&text)
                .map(Self)
                .map_err(|e| serde::de::Error::custom(format!("string is not a JSON list: {e}"))),
        }
    }
}

impl std::ops::Deref for TestIds {
    type Target = Vec<String>;
    fn deref(&self) -> &Vec<String> {
        &self.0
    }
}

impl FromIterator<String> for TestIds {
    fn from_iter<I: IntoIterator<Item = String>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

/// SWE-bench 5's `eval_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalType {
    /// Passing and failing tests are both reported.
    PassAndFail,
    /// Only failures are reported: an absent test has passed.
    FailOnly,
}

/// Where a codebase comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A git repository at a commit.
    Git {
        /// Where to clone from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// A local repository instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
        /// Commit, 40 hex digits.
        commit: String,
    },
    /// A source distribution from the Python package registry.
    Sdist {
        /// `name==version`.
        requirement: String,
        /// SHA-256 of the archive, 64 hex digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        /// Fields that describe the match, kept as they are.
        #[serde(flatten)]
        extra: Map<String, Value>,
    },
    /// A local folder, taken as it is.
    Dir(PathBuf),
    /// A container image.
    Image(String),
}

/// An environment recipe: what has to be installed to run the tests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EnvSpec {
    /// Python version, `3.9` or `3.9.18`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// Requirements (PEP 508), exact pins where they were recorded.
    #[serde(default)]
    pub requirements: Vec<String>,
    /// Shell commands before the install, in the root of the codebase.
    #[serde(default)]
    pub pre_install: Vec<String>,
    /// Shell command that installs the codebase itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
    /// Fields we do not know, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Twin mutants of an instance (GRADING: step 8): the hidden tests rewritten
/// so that a correct program must fail them.
///
/// Validated when the task is made, never by the grader: gold passes the
/// original and fails every test of `must_fail` under the mutant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutants {
    /// Version of this record, 1.
    pub schema: u32,
    /// Rewritten files: path in the codebase -> whole new content.
    pub files: BTreeMap<String, String>,
    /// Tests that must fail in their call phase under the mutant.
    pub must_fail: Vec<String>,
}

impl Instance {
    /// FAIL_TO_PASS and PASS_TO_PASS, in that order.
    pub fn tests(&self) -> impl Iterator<Item = &String> {
        self.fail_to_pass.iter().chain(self.pass_to_pass.iter())
    }

    /// The row's `source`, also from a bare `sdist` column.
    ///
    /// # Errors
    /// If the `sdist` column has another shape.
    pub fn codebase(&self) -> Result<Option<Source>, serde_json::Error> {
        if let Some(source) = &self.source {
            return Ok(Some(source.clone()));
        }
        match self.extra.get("sdist") {
            None | Some(Value::Null) => Ok(None),
            Some(sdist) => {
                let mut wrapped = Map::new();
                wrapped.insert("sdist".into(), sdist.clone());
                serde_json::from_value(Value::Object(wrapped)).map(Some)
            }
        }
    }
}
