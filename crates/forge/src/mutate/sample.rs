//! From candidates to mutations: checks, identity, weighted choice.

use std::collections::HashSet;
use std::ops::Range;

use ruff_python_ast::comparable::ComparableStmt;
use ruff_python_ast::{ModModule, Stmt};
use ruff_python_parser::{Parsed, parse_module};

use super::walk::Candidate;
use super::{Change, Mutation, Options};
use crate::functions::Found;
use crate::python::{Edit, Source, apply};
use crate::random::Random;

/// Checks that a function, edited, is still a function and another one.
pub(super) struct Check<'a, 's, 't> {
    src: &'s Source<'t>,
    found: &'s Found<'a>,
    original: ComparableStmt<'a>,
}

impl<'a, 's, 't> Check<'a, 's, 't> {
    pub(super) fn new(src: &'s Source<'t>, found: &'s Found<'a>) -> Self {
        Self {
            src,
            found,
            original: ComparableStmt::from(found.stmt),
        }
    }

    /// The function's lines after the edits, if they hold a different
    /// function.
    pub(super) fn edited(&self, edits: &[Edit]) -> Option<String> {
        let Range { start, end } = self.found.lines;
        let local: Vec<Edit> = edits
            .iter()
            .map(|e| {
                let from = e.start.checked_sub(start)?;
                (e.end <= end).then(|| Edit::new(from..e.end - start, e.text.clone()))
            })
            .collect::<Option<_>>()?;
        let new = apply(&self.src.text[start..end], &local).ok()?;
        let parsed = parse_lines(&new)?;
        let stmt = only_statement(parsed.suite())?;
        (stmt.is_function_def_stmt() && ComparableStmt::from(stmt) != self.original).then_some(new)
    }
}

/// Parses whole lines that may be indented.
pub(super) fn parse_lines(lines: &str) -> Option<Parsed<ModModule>> {
    if lines.starts_with([' ', '\t', '\u{c}']) {
        parse_module(&format!("if 1:\n{lines}")).ok()
    } else {
        parse_module(lines).ok()
    }
}

/// The one statement that the lines hold, without what they were wrapped in.
pub(super) fn only_statement(body: &[Stmt]) -> Option<&Stmt> {
    match body {
        [Stmt::If(wrapper)] => match &wrapper.body[..] {
            [stmt] => Some(stmt),
            _ => None,
        },
        [stmt] => Some(stmt),
        _ => None,
    }
}

/// Identity of a change: what it makes of what, wherever it stands. The owner
/// tells functions of the same text apart.
pub(super) fn identity(owner: &str, old: &str, new: &str) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [owner, old, new] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().to_hex()[..16].to_owned()
}

pub(super) fn finish(
    src: &Source<'_>,
    found: &Found<'_>,
    candidate: &Candidate,
    new: &str,
) -> Mutation {
    let function = found.function.id.clone();
    let line = src.line(candidate.at);
    Mutation {
        id: identity(&function, &src.text[found.lines.clone()], new),
        functions: vec![function.clone()],
        edits: vec![candidate.edit.clone()],
        changes: vec![Change {
            operator: candidate.operator.name.to_owned(),
            family: candidate.operator.family,
            function,
            line,
            description: candidate.description.clone(),
        }],
    }
}

/// Every candidate that holds, in the order of the walk, none twice.
pub(super) fn all(src: &Source<'_>, found: &Found<'_>, candidates: &[Candidate]) -> Vec<Mutation> {
    let check = Check::new(src, found);
    let mut seen = HashSet::new();
    candidates
        .iter()
        .filter_map(|candidate| {
            let new = check.edited(std::slice::from_ref(&candidate.edit))?;
            Some(finish(src, found, candidate, &new))
        })
        .filter(|mutation| seen.insert(mutation.id.clone()))
        .collect()
}

/// Draws candidates by weight until `options.per_function` hold.
pub(super) fn draw(
    src: &Source<'_>,
    found: &Found<'_>,
    candidates: Vec<Candidate>,
    random: &mut Random,
    options: &Options,
) -> Vec<Mutation> {
    let check = Check::new(src, found);
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    let mut urn = Urn::new(candidates);
    while out.len() < options.per_function
        && let Some(candidate) = urn.take(random)
    {
        let edited = check.edited(std::slice::from_ref(&candidate.edit));
        if let Some(new) = edited {
            let mutation = finish(src, found, &candidate, &new);
            if seen.insert(mutation.id.clone()) {
                out.push(mutation);
            }
        }
    }
    out
}

/// Several mutations at once, if their edits do not touch each other.
pub(super) fn join(text: &str, parts: &[&Mutation]) -> Option<Mutation> {
    let edits: Vec<Edit> = parts.iter().flat_map(|m| m.edits.clone()).collect();
    for (i, one) in edits.iter().enumerate() {
        if edits[i + 1..].iter().any(|two| one.conflicts(two)) {
            return None;
        }
    }
    let new = apply(text, &edits).ok()?;
    let mut functions: Vec<String> = parts.iter().flat_map(|m| m.functions.clone()).collect();
    functions.dedup();
    Some(Mutation {
        id: identity("", text, &new),
        functions,
        edits,
        changes: parts.iter().flat_map(|m| m.changes.clone()).collect(),
    })
}

/// Candidates to draw from. An operator's weight is shared by its candidates,
/// so that one that applies everywhere does not drown the others.
struct Urn {
    left: Vec<(u64, Candidate)>,
    total: u64,
}

impl Urn {
    /// Fine enough to share a weight among many.
    const UNIT: u64 = 1 << 20;

    fn new(candidates: Vec<Candidate>) -> Self {
        let mut counts = std::collections::HashMap::<&str, u64>::new();
        for candidate in &candidates {
            *counts.entry(candidate.operator.name).or_default() += 1;
        }
        let weights: Vec<u64> = candidates
            .iter()
            .map(|c| (u64::from(c.operator.weight) * Self::UNIT / counts[c.operator.name]).max(1))
            .collect();
        Self {
            total: weights.iter().sum(),
            left: weights.into_iter().zip(candidates).collect(),
        }
    }

    fn take(&mut self, random: &mut Random) -> Option<Candidate> {
        if self.left.is_empty() {
            return None;
        }
        let mut at = random.below(self.total);
        let index = self.left.iter().position(|(weight, _)| {
            let hit = at < *weight;
            at = at.saturating_sub(*weight);
            hit
        })?;
        let (weight, candidate) = self.left.remove(index);
        self.total -= weight;
        Some(candidate)
    }
}
