//! Bug injection: small plausible changes to the functions of a module.
//!
//! A mutation is a list of text edits within one function (or two, if
//! combined), so everything else stays as it is to the byte. Each is known to
//! parse and to be another tree than the original; whether a test notices is
//! found by running them, which is not done here. See
//! docs/design/mutation.md.

mod arithmetic;
mod blocks;
mod calls;
mod compare;
mod constants;
mod operators;
mod places;
mod rewrite;
mod sample;
mod scope;
mod statements;
mod walk;

use serde::{Deserialize, Serialize};

pub use crate::functions::{Function, Useless};
pub use operators::{Family, OPERATORS, Operator};
pub use rewrite::{FunctionContext, RewriteError, function_context, rewrite};

pub use crate::python::{Edit, EditError, Unreadable, apply};

use crate::functions;
use crate::on_deep_stack;
use crate::python::Source;
use crate::random::Random;

/// A set of families of operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operators(Vec<Family>);

impl Default for Operators {
    fn default() -> Self {
        Self(Family::ALL.to_vec())
    }
}

impl Operators {
    /// Some families only.
    pub fn of(families: impl IntoIterator<Item = Family>) -> Self {
        let mut families: Vec<Family> = families.into_iter().collect();
        families.sort_unstable();
        families.dedup();
        Self(families)
    }

    /// Reads names of families, joined by commas.
    ///
    /// # Errors
    /// If a name is unknown; the message lists those that exist.
    pub fn parse(names: &str) -> Result<Self, String> {
        let names = names.split(',').map(str::trim).filter(|n| !n.is_empty());
        Ok(Self::of(
            names.map(str::parse).collect::<Result<Vec<_>, _>>()?,
        ))
    }

    /// Whether a family belongs.
    pub fn contains(&self, family: Family) -> bool {
        self.0.contains(&family)
    }

    fn key(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|f| f.name()).collect();
        names.join(",")
    }
}

/// What to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Number of mutations of each function.
    pub per_function: usize,
    /// Where they come from.
    pub operators: Operators,
    /// Another seed, another draw.
    pub seed: u64,
    /// Functions with fewer statements are left out.
    pub min_statements: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            per_function: 4,
            operators: Operators::default(),
            seed: 0,
            min_statements: 1,
        }
    }
}

/// A way to break a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutation {
    /// 16 hex digits that stand for the function and the change of its text,
    /// wherever it moves.
    pub id: String,
    /// The functions that change, by [`Function::id`].
    pub functions: Vec<String>,
    /// The edits; none touches another.
    pub edits: Vec<Edit>,
    /// What was done, one entry for each edit.
    pub changes: Vec<Change>,
}

impl Mutation {
    /// The module, broken.
    ///
    /// # Errors
    /// If the text is not the one that the mutation was made for, and the
    /// edits do not fit it.
    pub fn apply(&self, text: &str) -> Result<String, EditError> {
        apply(text, &self.edits)
    }
}

/// One change of a mutation. It gives the fix away: not for issue texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Name of the operator.
    pub operator: String,
    /// Its family.
    pub family: Family,
    /// The function, by [`Function::id`].
    pub function: String,
    /// Line of the original text.
    pub line: usize,
    /// For people who look at the data set.
    pub description: String,
}

/// All functions of a module, those of no use with the reason.
///
/// # Errors
/// If the text is no Python 3, or out of all proportion.
pub fn functions(text: &str) -> Result<Vec<Function>, Unreadable> {
    on_deep_stack(|| {
        let src = Source::parse(text)?;
        Ok(functions::find(&src)
            .into_iter()
            .map(|found| found.function)
            .collect())
    })
}

/// Every mutation that the operators know, in the order of the source.
///
/// # Errors
/// As [`functions`].
pub fn mutations(text: &str, operators: &Operators) -> Result<Vec<Mutation>, Unreadable> {
    on_deep_stack(|| {
        let src = Source::parse(text)?;
        let mut out = Vec::new();
        for found in functions::find(&src) {
            if found.function.useless.is_none() {
                let candidates = walk::candidates(&src, &found, operators);
                out.extend(sample::all(&src, &found, &candidates));
            }
        }
        Ok(out)
    })
}

/// Draws mutations of each function that `wanted` admits. The draw for a
/// function depends on the seed, the path, its id and text, and the families,
/// on nothing else in the file.
///
/// # Errors
/// As [`functions`].
pub fn sample(
    path: &str,
    text: &str,
    options: &Options,
    wanted: impl Fn(&Function) -> bool + Send + Sync,
) -> Result<Vec<Mutation>, Unreadable> {
    on_deep_stack(|| {
        let src = Source::parse(text)?;
        let mut out = Vec::new();
        for found in functions::find(&src) {
            let function = &found.function;
            if function.useless.is_none()
                && function.statements >= options.min_statements
                && wanted(function)
            {
                let candidates = walk::candidates(&src, &found, &options.operators);
                let key = options.operators.key();
                let mut random = Random::new(options.seed, &[path, &function.id, &key]);
                out.extend(sample::draw(&src, &found, candidates, &mut random, options));
            }
        }
        Ok(out)
    })
}

/// Combines mutations of one module, such as [`sample`] gave, into `count`
/// with two or three changes each: of the same function, or of two whose
/// definitions follow each other or that share a class.
pub fn combine(
    path: &str,
    text: &str,
    mutations: &[Mutation],
    count: usize,
    seed: u64,
) -> Vec<Mutation> {
    let mut out: Vec<Mutation> = Vec::new();
    let mut random = Random::new(seed, &[path, "combine"]);
    let single: Vec<&Mutation> = mutations.iter().filter(|m| m.edits.len() == 1).collect();
    if single.len() < 2 {
        return out;
    }
    // Many draws are of edits that touch, or were drawn before.
    for _ in 0..count * 20 {
        if out.len() >= count {
            break;
        }
        let first = random.index(single.len());
        let related: Vec<usize> = (0..single.len())
            .filter(|i| *i != first && are_related(single[*i], single[first]))
            .collect();
        if related.is_empty() {
            continue;
        }
        let mut chosen = vec![first];
        for _ in 0..1 + random.index(2) {
            let next = related[random.index(related.len())];
            if !chosen.contains(&next) {
                chosen.push(next);
            }
        }
        chosen.sort_unstable();
        let parts: Vec<&Mutation> = chosen.iter().map(|i| single[*i]).collect();
        let owners: std::collections::BTreeSet<&String> =
            parts.iter().flat_map(|m| &m.functions).collect();
        if owners.len() > 2 {
            continue;
        }
        let joined = sample::join(text, &parts);
        let whole = joined.filter(|m| !out.iter().any(|o| o.id == m.id) && reads(text, m));
        out.extend(whole);
    }
    out
}

/// Whether the module with a mutation is still Python.
fn reads(text: &str, mutation: &Mutation) -> bool {
    mutation
        .apply(text)
        .is_ok_and(|new| on_deep_stack(|| Source::parse(&new).is_ok()))
}

fn are_related(one: &Mutation, two: &Mutation) -> bool {
    let (one, two) = (&one.functions[0], &two.functions[0]);
    let class = |id: &str| id.rsplit_once('.').map(|(class, _)| class.to_owned());
    one == two || class(one) == class(two)
}
