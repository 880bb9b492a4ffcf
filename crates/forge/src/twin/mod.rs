//! Twin mutants: hidden tests rewritten so that a correct program fails them.
//!
//! A test keeps its way through the program and ends in a failure of its own
//! assertion, whose expectation is another one. Whether it does is found by
//! running the gold patch over it, which is not done here; therefore every
//! test has several alternatives, best first. See docs/design/mutation.md.

mod assertions;
mod calls;
mod data;
mod locate;
mod parameters;
mod truth;
mod values;

use std::collections::HashMap;

use ruff_python_parser::parse_module;
use serde::{Deserialize, Serialize};

pub use crate::python::{Edit, EditError, Unreadable};

use crate::functions;
use crate::on_deep_stack;
use crate::python::{Source, apply};
use crate::random::Random;
use data::Test;

/// Most alternatives of one test.
const MAX_ALTERNATIVES: usize = 16;

/// Most alternatives of one kind, so that others get their turn.
const MAX_OF_A_KIND: usize = 5;

/// How an expectation is altered. The earlier, the better: where a program
/// forges comparisons, an altered value finds out and a flipped operator may
/// not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A literal on the expected side is another one.
    Value,
    /// Values of a parametrized test are others, under the same ids.
    Parameter,
    /// The variable that holds the expected value gets another one.
    Variable,
    /// The expected message is another one.
    Message,
    /// Another class of exceptions or warnings is expected.
    Class,
    /// A literal passed to a helper that checks is another one.
    Helper,
    /// The expected value stands within another one.
    Wrapped,
    /// The opposite is expected.
    Flipped,
}

/// One way to make a test fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alternative {
    /// What is altered.
    pub kind: Kind,
    /// Line of the assertion.
    pub line: usize,
    /// The edits; none adds or removes a line.
    pub edits: Vec<Edit>,
}

/// The alternatives of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestAlternatives {
    /// The id.
    pub test: String,
    /// Qualified name of the function that defines it, if it was found.
    pub function: Option<String>,
    /// Best first.
    pub alternatives: Vec<Alternative>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// Alternatives for tests of a file, one entry an id, in their order. Tests
/// of one function have the same ones.
///
/// # Errors
/// If the file cannot be read.
pub fn alternatives(
    path: &str,
    text: &str,
    tests: &[String],
    seed: u64,
) -> Result<Vec<TestAlternatives>, Unreadable> {
    on_deep_stack(|| {
        let src = Source::parse(text)?;
        let all = functions::find(&src);
        let index = locate::Index::new(src.body(), &all);
        let mut known: HashMap<String, Vec<Alternative>> = HashMap::new();
        let ids = ids_by_function(path, tests);
        let entries = tests.iter().map(|id| {
            let place = locate::name(path, id)
                .ok_or_else(|| "it is a test of another file".to_owned())
                .and_then(|name| index.find(&name, id).map(|place| (name, place)));
            let (name, place) = match place {
                Ok(place) => place,
                Err(reason) => return none(id, None, reason),
            };
            let qualname = place.found.function.qualname.clone();
            let key = format!("{:?} {qualname}", name.qualname);
            let list = known.entry(key).or_insert_with(|| {
                let own = name.qualname.as_ref().and_then(|n| ids.get(n));
                let test = Test::new(&src, &place, own.map_or(&[][..], Vec::as_slice));
                let mut random = Random::new(seed, &[path, &qualname]);
                choose(&test, random.index(1 << 16))
            });
            if list.is_empty() {
                let reason = "it has no assertion of its own that can be altered";
                return none(id, Some(qualname), reason.into());
            }
            TestAlternatives {
                test: id.clone(),
                function: Some(qualname),
                alternatives: list.clone(),
                reason: None,
            }
        });
        Ok(entries.collect())
    })
}

/// The file with the chosen edits; edits that several tests share count once.
///
/// # Errors
/// If two alternatives touch the same text.
pub fn compose<'a>(
    text: &str,
    chosen: impl IntoIterator<Item = &'a Alternative>,
) -> Result<String, EditError> {
    let mut edits: Vec<Edit> = chosen.into_iter().flat_map(|a| a.edits.clone()).collect();
    edits.sort();
    edits.dedup();
    apply(text, &edits)
}

fn none(id: &str, function: Option<String>, reason: String) -> TestAlternatives {
    TestAlternatives {
        test: id.to_owned(),
        function,
        alternatives: Vec::new(),
        reason: Some(reason),
    }
}

/// The bracketed part of the ids of each parametrized test.
fn ids_by_function(path: &str, tests: &[String]) -> HashMap<String, Vec<String>> {
    let mut out: HashMap<String, Vec<String>> = HashMap::new();
    for id in tests {
        if let Some(name) = locate::name(path, id)
            && let (Some(qualname), Some(parameters)) = (name.qualname, name.parameters)
        {
            out.entry(qualname).or_default().push(parameters);
        }
    }
    out
}

/// Alternatives in order of preference; those that do not parse or change the
/// number of lines are left out.
fn choose(test: &Test<'_, '_, '_>, seed: usize) -> Vec<Alternative> {
    let mut found = assertions::collect(test, seed);
    // The later an assertion, the more of the test runs as ever.
    found.sort_by_key(|(rank, a)| (a.kind, rank.depth, std::cmp::Reverse(rank.order)));
    let mut counts: HashMap<Kind, usize> = HashMap::new();
    let mut out: Vec<Alternative> = Vec::new();
    for (_, alternative) in found {
        let count = counts.entry(alternative.kind).or_default();
        if *count < MAX_OF_A_KIND
            && out.len() < MAX_ALTERNATIVES
            && !out.iter().any(|a| a.edits == alternative.edits)
            && holds(test.src.text, &alternative)
        {
            *count += 1;
            out.push(alternative);
        }
    }
    out
}

fn holds(text: &str, alternative: &Alternative) -> bool {
    let lines = |text: &str| text.lines().count();
    alternative
        .edits
        .iter()
        .all(|e| lines(&text[e.start..e.end]).max(1) == lines(&e.text).max(1))
        && apply(text, &alternative.edits).is_ok_and(|new| parse_module(&new).is_ok())
}
