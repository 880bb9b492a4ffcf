//! A function as a whole: taken out for a reader, put back rewritten.

use std::collections::HashSet;

use ruff_python_ast::StmtFunctionDef;
use ruff_python_ast::comparable::ComparableStmt;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::sample::{identity, only_statement, parse_lines};
use super::{Change, Family, Mutation};
use crate::functions::{self, Found, Function};
use crate::on_deep_stack;
use crate::python::{Edit, Source, Unreadable, apply, is_docstring};

/// A function and what it stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionContext {
    /// The function.
    pub function: Function,
    /// Its lines, decorators included, without the indentation that all of
    /// them share.
    pub source: String,
    /// That indentation.
    pub indent: String,
    /// The lines of the classes and functions around it that name them
    /// (`class A(B):`), from the outside in.
    pub around: Vec<String>,
}

/// Why a function was not replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RewriteError {
    /// The module cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// No function of this id.
    #[error("there is no function `{0}`")]
    NoFunction(String),
    /// The new source is not exactly one function.
    #[error("the new source is not one function: {0}")]
    NotAFunction(String),
    /// The new source has another name.
    #[error("the new source defines `{found}`, not `{wanted}`")]
    OtherName {
        /// What it was to define.
        wanted: String,
        /// What it defines.
        found: String,
    },
    /// The new source takes other parameters, so that callers would break.
    #[error("the new source takes other parameters or decorators")]
    OtherSignature,
    /// The docstring says what is right.
    #[error("the new source has another docstring")]
    OtherDocstring,
    /// The new source does the same by the letter.
    #[error("the new source is the old one")]
    Unchanged,
}

/// A function's source, by [`Function::id`].
///
/// # Errors
/// If the module is unreadable or has no such function.
pub fn function_context(text: &str, id: &str) -> Result<FunctionContext, RewriteError> {
    on_deep_stack(|| {
        let src = Source::parse(text)?;
        let all = functions::find(&src);
        let found = all
            .iter()
            .find(|f| f.function.id == id)
            .ok_or_else(|| RewriteError::NoFunction(id.to_owned()))?;
        let lines = &text[found.lines.clone()];
        let indent = src.indent(found.lines.start).to_owned();
        Ok(FunctionContext {
            function: found.function.clone(),
            source: dedent(lines, &indent).unwrap_or_else(|| lines.to_owned()),
            around: around(text, found.lines.start, indent.len()),
            indent,
        })
    })
}

/// Takes indentation off every line, unless a line within a text would
/// change its meaning.
fn dedent(lines: &str, indent: &str) -> Option<String> {
    let mut out = String::with_capacity(lines.len());
    for line in lines.split_inclusive('\n') {
        match line.strip_prefix(indent) {
            Some(rest) => out.push_str(rest),
            None if line.trim().is_empty() => out.push_str(line.trim_start_matches([' ', '\t'])),
            None => return None,
        }
    }
    Some(out)
}

/// Headers of the blocks that a line stands in.
fn around(text: &str, start: usize, indent: usize) -> Vec<String> {
    let mut out = Vec::new();
    let mut indent = indent;
    for line in text[..start].lines().rev() {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        let opens = ["class ", "def ", "async def "];
        if depth < indent && opens.iter().any(|o| code.starts_with(o)) {
            out.push(code.trim_end().to_owned());
            indent = depth;
        }
    }
    out.reverse();
    out
}

/// A mutation that puts a new source in the place of a function and its
/// decorators. The new source may be indented in any way. Lines within texts
/// that span lines keep what they hold if the source came with the function's
/// own indentation.
///
/// Comments that the function did not have are left out: a model likes to say
/// in one what it has broken. `by` is who wrote it.
///
/// # Errors
/// If the new source is no function of the same name, parameters and
/// docstring, or does the same by the letter.
pub fn rewrite(text: &str, id: &str, source: &str, by: &str) -> Result<Mutation, RewriteError> {
    on_deep_stack(|| {
        let src = Source::parse(text)?;
        let all = functions::find(&src);
        let found = all
            .iter()
            .find(|f| f.function.id == id)
            .ok_or_else(|| RewriteError::NoFunction(id.to_owned()))?;
        let indent = src.indent(found.lines.start);
        let mut new = reindent(source, indent, src.line_break());
        let new_parsed = parse_lines(&new)
            .ok_or_else(|| RewriteError::NotAFunction("it does not parse".to_owned()))?;
        let stmt = only_statement(new_parsed.suite())
            .and_then(|s| s.as_function_def_stmt().map(|def| (s, def)));
        let Some((stmt, def)) = stmt else {
            let reason = "something stands beside it, or it is none".to_owned();
            return Err(RewriteError::NotAFunction(reason));
        };
        if def.name.as_str() != found.def.name.as_str() {
            return Err(RewriteError::OtherName {
                wanted: found.def.name.to_string(),
                found: def.name.to_string(),
            });
        }
        check_signature(def, found.def)?;
        if ComparableStmt::from(stmt) == ComparableStmt::from(found.stmt) {
            return Err(RewriteError::Unchanged);
        }
        if !text[..found.lines.end].ends_with(['\n', '\r']) {
            new.truncate(new.trim_end().len());
        }
        let edit = Edit::new(found.lines.clone(), new);
        let whole = apply(text, &[edit]).expect("lines are within the text");
        let new = without_new_comments(&whole, &src, found)?;
        let edit = Edit::new(found.lines.clone(), new.as_str());
        Source::parse(&apply(text, std::slice::from_ref(&edit)).expect("as before"))?;
        let function = found.function.id.clone();
        Ok(Mutation {
            id: identity(&function, &text[found.lines.clone()], &new),
            functions: vec![function.clone()],
            edits: vec![edit],
            changes: vec![Change {
                operator: "rewrite".to_owned(),
                family: Family::Rewrite,
                function,
                line: found.function.line,
                description: format!("rewritten by {by}"),
            }],
        })
    })
}

/// The lines of the rewritten function in the module that holds it, without
/// comments that the old one does not have.
fn without_new_comments(
    whole: &str,
    old: &Source<'_>,
    found: &Found<'_>,
) -> Result<String, RewriteError> {
    let src = Source::parse(whole)?;
    let all = functions::find(&src);
    let new = all
        .iter()
        .find(|f| f.lines.start == found.lines.start)
        .ok_or_else(|| RewriteError::NotAFunction("it is lost in the module".to_owned()))?;
    if docstring(new.def) != docstring(found.def) {
        return Err(RewriteError::OtherDocstring);
    }
    let known: HashSet<&str> = old
        .comments(found.lines.clone())
        .map(|range| &old.text[range])
        .collect();
    let removed: Vec<Edit> = src
        .comments(new.lines.clone())
        .filter(|range| !known.contains(&whole[range.clone()]))
        .map(|range| {
            let before = whole[..range.start].trim_end_matches([' ', '\t']).len();
            if before == src.line_start(range.start) {
                return Edit::new(before..src.line_end(range.end), "");
            }
            Edit::new(before..range.end, "")
        })
        .collect();
    let local: Vec<Edit> = removed
        .iter()
        .map(|e| Edit::new(e.start - new.lines.start..e.end - new.lines.start, ""))
        .collect();
    Ok(apply(&whole[new.lines.clone()], &local).expect("comments are apart"))
}

fn docstring(def: &StmtFunctionDef) -> Option<ComparableStmt<'_>> {
    let first = def.body.first()?;
    is_docstring(first).then(|| ComparableStmt::from(first))
}

fn check_signature(new: &StmtFunctionDef, old: &StmtFunctionDef) -> Result<(), RewriteError> {
    let names = |def: &StmtFunctionDef| -> Vec<String> {
        let parameters = def.parameters.iter().map(|p| p.name().to_string());
        let decorators = def.decorator_list.len().to_string();
        parameters
            .chain([decorators, def.is_async.to_string()])
            .collect()
    };
    if names(new) == names(old) {
        Ok(())
    } else {
        Err(RewriteError::OtherSignature)
    }
}

/// Moves lines to an indentation; blank lines around them go.
fn reindent(source: &str, indent: &str, end: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let first = lines.iter().position(|l| !l.trim().is_empty()).unwrap_or(0);
    let last = lines.iter().rposition(|l| !l.trim().is_empty());
    let lines = &lines[first..last.map_or(first, |last| last + 1)];
    let own = lines.first().map_or("", |line| {
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    });
    let mut out = String::new();
    for line in lines {
        match line.strip_prefix(own) {
            _ if line.trim().is_empty() => {}
            Some(rest) => {
                out.push_str(indent);
                out.push_str(rest);
            }
            None => out.push_str(line),
        }
        out.push_str(end);
    }
    out
}
