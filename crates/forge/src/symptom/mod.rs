//! Issue texts that describe a symptom and never the fix.
//!
//! A text is made of what a user would see: the failing assertion or
//! exception, the traceback without the lines of the broken function, the
//! code that ran into it. Templates are files, one chosen by the seed.

mod excerpt;
mod failure;

use std::collections::{BTreeMap, BTreeSet};

use include_dir::{Dir, include_dir};
use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::random::Random;

pub use failure::failure;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates/symptom");

/// Lines up to this length say nothing.
const SHORT: usize = 6;

/// What is known of a broken program.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// Name of the package, as users know it.
    pub package: &'a str,
    /// Tests that fail, by id.
    pub tests: &'a [String],
    /// The part of the log of the test run that tells of the failures.
    pub log: &'a str,
    /// Source of a failing test.
    pub test_source: Option<&'a str>,
    /// The broken file, relative to the codebase.
    pub path: &'a str,
    /// Where the codebase stood when the log was written, such as `/testbed`.
    pub root: &'a str,
    /// The broken file as it should be.
    pub original: &'a str,
    /// The broken file as it is.
    pub mutated: &'a str,
}

/// An issue text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symptom {
    /// Markdown.
    pub text: String,
    /// Name of the template.
    pub template: String,
}

/// Why there is no text.
#[derive(Debug, Error)]
pub enum SymptomError {
    /// The log says nothing that a user could see.
    #[error("the log has neither an assertion nor an exception")]
    NothingSeen,
    /// The text would show a line of the fix.
    #[error("template `{0}` shows a line of the fix")]
    Leak(String),
    /// A template is wrong.
    #[error("template `{name}`: {reason}")]
    Template {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// Templates by name.
#[derive(Debug, Clone)]
pub struct Templates(BTreeMap<String, String>);

impl Templates {
    /// Those that come with the program.
    pub fn embedded() -> Self {
        let files = EMBEDDED.files().filter_map(|file| {
            let name = file.path().file_name()?.to_str()?.strip_suffix(".md.j2")?;
            Some((name.to_owned(), file.contents_utf8()?.to_owned()))
        });
        Self(files.collect())
    }

    /// Adds templates, or replaces those of the same name.
    #[must_use]
    pub fn overridden_by(mut self, own: impl IntoIterator<Item = (String, String)>) -> Self {
        self.0.extend(own);
        self
    }

    /// These alone.
    pub fn only(own: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(own.into_iter().collect())
    }

    /// Those whose name a condition admits.
    #[must_use]
    pub fn retain(mut self, mut wanted: impl FnMut(&str) -> bool) -> Self {
        self.0.retain(|name, _| wanted(name));
        self
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Writes the issue text. Templates that would show a line of the fix are
/// passed over for the next.
///
/// # Errors
/// If the log shows no failure, a template is wrong, or every template leaks.
pub fn render(
    facts: &Facts<'_>,
    seed: u64,
    templates: &Templates,
) -> Result<Symptom, SymptomError> {
    let secrets = secrets(facts);
    let excerpt = excerpt::clean(facts, &secrets);
    let summary = excerpt::summary(&excerpt).ok_or(SymptomError::NothingSeen)?;
    let names: Vec<&String> = templates.0.keys().collect();
    let tests = facts.tests.join("\n");
    let mut random = Random::new(seed, &[facts.package, facts.path, &tests, facts.mutated]);
    let start = random.index(names.len().max(1));
    let mut leak = SymptomError::NothingSeen;
    for i in 0..names.len() {
        let name = names[(start + i) % names.len()];
        let text = fill(
            name,
            &templates.0[name],
            facts,
            &excerpt,
            &summary,
            &secrets,
        )?;
        if shows(&text, &secrets) {
            leak = SymptomError::Leak(name.clone());
        } else {
            return Ok(Symptom {
                text,
                template: name.clone(),
            });
        }
    }
    Err(leak)
}

fn fill(
    name: &str,
    template: &str,
    facts: &Facts<'_>,
    excerpt: &str,
    summary: &excerpt::Summary,
    secrets: &BTreeSet<String>,
) -> Result<String, SymptomError> {
    let wrong = |e: minijinja::Error| SymptomError::Template {
        name: name.to_owned(),
        reason: e.to_string(),
    };
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let template = environment
        .template_from_named_str(name, template)
        .map_err(wrong)?;
    let source = facts.test_source.map(|s| snippet(s, secrets));
    let text = template
        .render(context! {
            package => facts.package,
            tests => facts.tests,
            test_names => facts.tests.iter().map(|t| excerpt::short_name(t)).collect::<Vec<_>>(),
            excerpt => excerpt,
            headline => summary.headline,
            exception => summary.exception,
            assertion => summary.exception.is_none(),
            test_source => source,
        })
        .map_err(wrong)?;
    Ok(format!("{}\n", text.trim()))
}

/// The test without its common indentation and decorators.
fn snippet(source: &str, secrets: &BTreeSet<String>) -> String {
    let lines: Vec<&str> = source.lines().filter(|l| !shows(l, secrets)).collect();
    let indent = lines
        .iter()
        .filter(|l| !l.trim().is_empty())
        .map(|l| l.len() - l.trim_start_matches(' ').len())
        .min()
        .unwrap_or(0);
    let lines = lines.iter().map(|l| l.get(indent..).unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Lines that only the fix shows: all of the changed stretch, as it is and as
/// it should be, other than what the test itself says.
fn secrets(facts: &Facts<'_>) -> BTreeSet<String> {
    let old: Vec<&str> = facts.original.lines().collect();
    let new: Vec<&str> = facts.mutated.lines().collect();
    let common =
        |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let head = common(&mut old.iter().zip(&new));
    let rest = old.len().min(new.len()) - head;
    let tail = common(&mut old.iter().rev().zip(new.iter().rev())).min(rest);
    let test = squeeze(facts.test_source.unwrap_or_default());
    let changed = old[head..old.len() - tail].iter();
    changed
        .chain(&new[head..new.len() - tail])
        .map(|line| squeeze(line))
        .filter(|line| line.chars().count() > SHORT && !test.contains(line.as_str()))
        .collect()
}

fn shows(text: &str, secrets: &BTreeSet<String>) -> bool {
    let text = squeeze(text);
    secrets.iter().any(|secret| text.contains(secret.as_str()))
}

/// One space for any white space.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
