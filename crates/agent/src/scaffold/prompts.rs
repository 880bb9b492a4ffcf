//! Prompts: minijinja templates in files, each of which a user may override.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::Environment;
use serde::Serialize;
use thiserror::Error;

/// The built-in templates, by path.
const BUILT_IN: &[(&str, &str)] = &[
    (
        "bash/system.j2",
        include_str!("../../prompts/bash/system.j2"),
    ),
    ("bash/task.j2", include_str!("../../prompts/bash/task.j2")),
    (
        "bash/format.j2",
        include_str!("../../prompts/bash/format.j2"),
    ),
    (
        "bash/result.j2",
        include_str!("../../prompts/bash/result.j2"),
    ),
    (
        "codeact/system.j2",
        include_str!("../../prompts/codeact/system.j2"),
    ),
    (
        "codeact/task.j2",
        include_str!("../../prompts/codeact/task.j2"),
    ),
    (
        "codeact/nudge.j2",
        include_str!("../../prompts/codeact/nudge.j2"),
    ),
    (
        "repair/system.j2",
        include_str!("../../prompts/repair/system.j2"),
    ),
    (
        "repair/task.j2",
        include_str!("../../prompts/repair/task.j2"),
    ),
    (
        "repair/retry.j2",
        include_str!("../../prompts/repair/retry.j2"),
    ),
    (
        "workflow/system.j2",
        include_str!("../../prompts/workflow/system.j2"),
    ),
    (
        "workflow/task.j2",
        include_str!("../../prompts/workflow/task.j2"),
    ),
    (
        "workflow/search.j2",
        include_str!("../../prompts/workflow/search.j2"),
    ),
    (
        "workflow/plan.j2",
        include_str!("../../prompts/workflow/plan.j2"),
    ),
    (
        "workflow/edit.j2",
        include_str!("../../prompts/workflow/edit.j2"),
    ),
    (
        "workflow/review.j2",
        include_str!("../../prompts/workflow/review.j2"),
    ),
    (
        "workflow/retry.j2",
        include_str!("../../prompts/workflow/retry.j2"),
    ),
];

/// A template that cannot be used.
#[derive(Debug, Error)]
pub enum PromptError {
    /// A folder of overrides cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that overrides nothing.
    #[error("{path}: overrides no template; there are {known}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What could be overridden.
        known: String,
    },
    /// A template does not parse or render.
    #[error("template {name}: {problem}")]
    Template {
        /// Its path.
        name: String,
        /// What is wrong, with its line.
        problem: String,
    },
}

/// The templates of a run.
#[derive(Debug, Clone)]
pub struct Prompts {
    texts: BTreeMap<String, String>,
    engine: Environment<'static>,
}

impl Default for Prompts {
    fn default() -> Self {
        let texts = BUILT_IN
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.to_owned()))
            .collect();
        Self::of(texts).expect("the built-in templates parse")
    }
}

impl Prompts {
    /// The built-in ones, with those of a folder in their place:
    /// `DIR/codeact/task.j2` and so on.
    ///
    /// # Errors
    /// If the folder cannot be read, or a file of it overrides nothing or is
    /// no template.
    pub fn overridden_by(dir: &Path) -> Result<Self, PromptError> {
        let mut texts = Self::default().texts;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| PromptError::Io { path, source }
        };
        for folder in std::fs::read_dir(dir).map_err(io(dir))? {
            let folder = folder.map_err(io(dir))?.path();
            if !folder.is_dir() {
                return Err(unknown(&folder));
            }
            for file in std::fs::read_dir(&folder).map_err(io(&folder))? {
                let file = file.map_err(io(&folder))?.path();
                let name = file.strip_prefix(dir).unwrap_or(&file);
                let name = name.to_string_lossy().into_owned();
                let Some(slot) = texts.get_mut(&name) else {
                    return Err(unknown(&file));
                };
                *slot = std::fs::read_to_string(&file).map_err(io(&file))?;
            }
        }
        Self::of(texts)
    }

    fn of(texts: BTreeMap<String, String>) -> Result<Self, PromptError> {
        let mut engine = Environment::new();
        engine.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        engine.set_trim_blocks(true);
        engine.set_lstrip_blocks(true);
        for (name, text) in &texts {
            engine
                .add_template_owned(name.clone(), text.clone())
                .map_err(|e| template(name, &e))?;
        }
        Ok(Self { texts, engine })
    }

    /// Renders a template, without blank lines around it.
    ///
    /// # Errors
    /// If it asks for what there is not.
    pub fn render(&self, name: &str, values: impl Serialize) -> Result<String, PromptError> {
        let rendered = self
            .engine
            .get_template(name)
            .and_then(|t| t.render(values))
            .map_err(|e| template(name, &e))?;
        Ok(rendered.trim().to_owned())
    }

    /// Digest of the templates of a scaffold, 64 hex digits: part of a run's
    /// identity.
    pub fn digest(&self, scaffold: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        let prefix = format!("{scaffold}/");
        for (name, text) in self.texts.iter().filter(|(n, _)| n.starts_with(&prefix)) {
            for part in [name, text] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn unknown(path: &Path) -> PromptError {
    let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    PromptError::Unknown {
        path: path.to_owned(),
        known: known.join(", "),
    }
}

fn template(name: &str, error: &minijinja::Error) -> PromptError {
    let mut problem = error.to_string();
    if let Some(line) = error.line() {
        problem = format!("line {line}: {problem}");
    }
    PromptError::Template {
        name: name.to_owned(),
        problem,
    }
}
