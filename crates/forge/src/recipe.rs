//! The recipe: everything a build needs to know, and why it is so.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::shell;
use crate::version::PyVersion;

/// How to build the environment of one instance, and how to run its tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Python version asked for.
    pub python: PyVersion,
    /// Packages to install before the codebase (PEP 508).
    pub requirements: Vec<String>,
    /// Packages that tests may want; see [`Recipe::tolerant`].
    #[serde(default)]
    pub optional: Vec<String>,
    /// Whether one of `optional` that cannot be installed is left out; a
    /// failure of the build otherwise.
    #[serde(default)]
    pub tolerant: bool,
    /// Whether `requirements` are recorded versions: they are installed as
    /// they are, whatever their date, and nothing is resolved.
    #[serde(default)]
    pub no_deps: bool,
    /// Bounds on versions, of packages that need not be installed.
    #[serde(default)]
    pub constraints: Vec<String>,
    /// Bounds on the versions of build requirements.
    #[serde(default)]
    pub build_constraints: Vec<String>,
    /// Only packages uploaded until the end of this day (UTC) are considered.
    pub exclude_newer: Option<Date>,
    /// Packages with a later day than `exclude_newer`.
    #[serde(default)]
    pub exclude_newer_package: BTreeMap<String, Date>,
    /// Packages of which only versions with a wheel are considered.
    #[serde(default)]
    pub only_binary: Vec<String>,
    /// Shell commands before the install, in the root of the codebase.
    #[serde(default)]
    pub pre_install: Vec<String>,
    /// Shell commands that install the codebase itself. `uv pip install` in
    /// them obeys the dates and bounds above.
    pub install: Option<String>,
    /// Variables for `pre_install` and `install` alone.
    #[serde(default)]
    pub install_env: BTreeMap<String, String>,
    /// Variables for tests and builds.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What runs the tests, in the root of the codebase, test files included.
    pub test_command: String,
    /// The same without test files: what runs them all.
    pub test_runner: String,
    /// Test framework that `test_command` starts.
    pub framework: Framework,
    /// Log parser that the source of the recipe names.
    #[serde(default)]
    pub log_parser: Option<String>,
    /// Where the recipe comes from.
    pub origin: Origin,
    /// Why each choice was made, one sentence each.
    pub provenance: Vec<String>,
}

/// Who runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framework {
    /// pytest.
    Pytest,
    /// `python -m unittest`.
    Unittest,
    /// Django's `tests/runtests.py`.
    Django,
    /// SymPy's own runner.
    Sympy,
    /// Something else; only its log can be read.
    Other,
}

impl Framework {
    /// Which framework a test command starts.
    pub fn of(command: &str) -> Self {
        if [
            "runtests.py",
            "manage.py test",
            "django-admin test",
            "django test",
        ]
        .iter()
        .any(|program| command.contains(program))
        {
            Self::Django
        } else if command.contains("bin/test") || command.contains("sympy.test(") {
            Self::Sympy
        } else if command.contains("pytest") || command.contains("py.test") {
            Self::Pytest
        } else if command.contains("unittest") {
            Self::Unittest
        } else {
            Self::Other
        }
    }
}

/// Where a recipe comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The row's `environment`.
    Environment,
    /// The row's `install_config`.
    InstallConfig,
    /// A file of `specs/`.
    Spec,
    /// The codebase itself.
    Inferred,
}

/// A recipe to try, and what it does differently from those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The recipe.
    pub recipe: Recipe,
    /// What is different, for people and for the record.
    pub because: String,
}

impl Recipe {
    /// Adds a sentence to the provenance.
    pub(crate) fn note(&mut self, why: impl Into<String>) {
        self.provenance.push(why.into());
    }

    /// What runs the tests of some files, given by their paths.
    pub fn command_for(&self, files: &[String]) -> String {
        let names: Vec<String> = files
            .iter()
            .map(|file| match self.framework {
                Framework::Unittest => shell::quote(&dotted(file)),
                Framework::Django => {
                    let inside = file.strip_prefix("tests/").unwrap_or(file);
                    shell::quote(&dotted(inside))
                }
                Framework::Pytest | Framework::Sympy | Framework::Other => shell::quote(file),
            })
            .collect();
        format!("{} {}", self.test_runner, names.join(" "))
    }

    /// Names and bounds of everything that decides the content of the
    /// dependency layer, in a canonical text: equal texts, equal layers (on
    /// one platform, with one interpreter).
    pub fn dependency_key(&self) -> String {
        let parts = (
            self.python,
            &self.requirements,
            &self.optional,
            self.tolerant,
            self.no_deps,
            &self.constraints,
            &self.build_constraints,
            self.exclude_newer,
            &self.exclude_newer_package,
            &self.only_binary,
        );
        serde_json::to_string(&parts).expect("plain data serialises")
    }
}

/// `a/b.py` as a module.
fn dotted(file: &str) -> String {
    let stem = file.strip_suffix(".py").unwrap_or(file);
    let stem = stem.strip_suffix("/__init__").unwrap_or(stem);
    stem.replace('/', ".")
}
