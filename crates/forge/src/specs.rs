//! `specs/*.toml`: facts per repository and version.

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};
use jiff::civil::Date;
use serde::Deserialize;

use crate::ForgeError;
use crate::directives::Select;
use crate::version::PyVersion;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../specs");

/// Specs of all repositories.
#[derive(Debug, Clone, Default)]
pub struct Specs(BTreeMap<String, SpecFile>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    repo: String,
    #[serde(default)]
    default: Spec,
    #[serde(default)]
    group: Vec<Group>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    versions: Vec<String>,
    spec: Spec,
}

/// Facts about one group of versions; what a group leaves out, the file's
/// default says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) python: Option<PyVersion>,
    /// Packages, pinned where the reference environments pin them.
    pub(crate) requirements: Option<Vec<String>>,
    /// Requirement files of the codebase; those that are absent are skipped.
    pub(crate) requirement_files: Option<Vec<String>>,
    /// Conda environment files; the first that exists is translated.
    pub(crate) conda_files: Option<Vec<String>>,
    /// Packages that tests may want and that may be missing.
    pub(crate) optional: Option<Vec<String>>,
    pub(crate) constraints: Option<Vec<String>>,
    pub(crate) build_constraints: Option<Vec<String>>,
    pub(crate) pre_install: Option<Vec<String>>,
    pub(crate) install: Option<String>,
    pub(crate) install_env: Option<BTreeMap<String, String>>,
    pub(crate) env: Option<BTreeMap<String, String>>,
    pub(crate) test_command: Option<String>,
    pub(crate) log_parser: Option<String>,
    pub(crate) select: Option<Select>,
    /// Packages as of this day, instead of the base commit's.
    pub(crate) exclude_newer: Option<Date>,
}

impl Spec {
    fn or(self, other: &Self) -> Self {
        let other = other.clone();
        Self {
            python: self.python.or(other.python),
            requirements: self.requirements.or(other.requirements),
            requirement_files: self.requirement_files.or(other.requirement_files),
            conda_files: self.conda_files.or(other.conda_files),
            optional: self.optional.or(other.optional),
            constraints: self.constraints.or(other.constraints),
            build_constraints: self.build_constraints.or(other.build_constraints),
            pre_install: self.pre_install.or(other.pre_install),
            install: self.install.or(other.install),
            install_env: self.install_env.or(other.install_env),
            env: self.env.or(other.env),
            test_command: self.test_command.or(other.test_command),
            log_parser: self.log_parser.or(other.log_parser),
            select: self.select.or(other.select),
            exclude_newer: self.exclude_newer.or(other.exclude_newer),
        }
    }
}

impl Specs {
    /// The specs that come with the program.
    ///
    /// # Errors
    /// Never in a program whose tests passed: they read every file.
    pub fn embedded() -> Result<Self, ForgeError> {
        let mut specs = Self::default();
        for file in EMBEDDED.files() {
            let name = file.path().display().to_string();
            if name.ends_with(".toml") {
                specs.add(&name, file.contents_utf8().unwrap_or_default())?;
            }
        }
        Ok(specs)
    }

    /// Adds the files of a folder; a repository that is already known is
    /// replaced.
    ///
    /// # Errors
    /// [`ForgeError::Spec`] if the folder or a file in it cannot be read, or
    /// a file does not have the form of a spec.
    pub fn overridden_by(mut self, dir: &Path) -> Result<Self, ForgeError> {
        let unreadable = |path: &Path, e: std::io::Error| ForgeError::Spec {
            file: path.display().to_string(),
            reason: e.to_string(),
        };
        for entry in std::fs::read_dir(dir).map_err(|e| unreadable(dir, e))? {
            let path = entry.map_err(|e| unreadable(dir, e))?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
                self.add(&path.display().to_string(), &text)?;
            }
        }
        Ok(self)
    }

    /// Names of the repositories, sorted.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|file| file.repo.as_str())
    }

    /// Versions that a repository's spec covers; empty without a spec.
    pub fn versions(&self, repo: &str) -> Vec<&str> {
        let file = self.0.get(&repo.to_lowercase());
        file.into_iter()
            .flat_map(|f| &f.group)
            .flat_map(|g| g.versions.iter().map(String::as_str))
            .collect()
    }

    /// A text that changes with the facts for a version of a repository; empty
    /// without a spec.
    pub fn fingerprint(&self, repo: &str, version: &str) -> String {
        self.find(repo, version)
            .map(|spec| format!("{spec:?}"))
            .unwrap_or_default()
    }

    /// The facts for a version of a repository.
    pub(crate) fn find(&self, repo: &str, version: &str) -> Option<Spec> {
        let file = self.0.get(&repo.to_lowercase())?;
        let group = file
            .group
            .iter()
            .find(|g| g.versions.iter().any(|v| v == version))?;
        Some(group.spec.clone().or(&file.default))
    }

    fn add(&mut self, name: &str, text: &str) -> Result<(), ForgeError> {
        let file: SpecFile = toml::from_str(text).map_err(|e| ForgeError::Spec {
            file: name.to_owned(),
            reason: e.to_string(),
        })?;
        self.0.insert(file.repo.to_lowercase(), file);
        Ok(())
    }
}
