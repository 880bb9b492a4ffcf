//! Values of parametrized tests, changed under the same ids.
//!
//! pytest derives an id from the values. It is frozen by `ids=[…]`, and only
//! where what pytest would have made of the old values is certain and agrees
//! with the ids that were recorded.

use ruff_python_ast::{Expr, ExprCall, Number, UnaryOp};

use super::values;
use crate::python::{Edit, Source, dotted};

/// A row of values, and its id where it has one of its own.
struct Row<'a> {
    values: Vec<&'a Expr>,
    own_id: Option<String>,
}

/// Edits that change the values of one parameter in every row. `None` if the
/// decorator does not supply it, or the ids are not certain.
pub(super) fn edits(
    src: &Source<'_>,
    decorator: &Expr,
    name: &str,
    ids: &[String],
    seed: usize,
) -> Option<Vec<Edit>> {
    let call = parametrize(decorator)?;
    let (names, single) = argument_names(call)?;
    let index = names.iter().position(|n| n == name)?;
    let rows_expr = call
        .arguments
        .args
        .get(1)
        .or_else(|| keyword(call, "argvalues"))?;
    let rows = rows(rows_expr, names.len(), single)?;
    let mut edits = Vec::new();
    for row in &rows {
        edits.push(
            values::bump(src, row.values[index], seed)
                .into_iter()
                .next()?,
        );
    }
    let named = keyword(call, "ids").filter(|ids| !ids.is_none_literal_expr());
    let labels = match named {
        Some(ids) => literal_ids(ids, rows.len())?,
        None => rows
            .iter()
            .enumerate()
            .map(|(i, row)| match &row.own_id {
                Some(id) => is_plain(id).then(|| id.clone()),
                None => label(src, row, &names, i),
            })
            .collect::<Option<Vec<String>>>()?,
    };
    if !distinct(&labels) || !agrees(&labels, ids) {
        return None;
    }
    if named.is_none() {
        let quoted: Vec<String> = labels.iter().map(|l| quote(l)).collect();
        // After the parentheses that may stand around the rows.
        let end = src
            .outer(rows_expr, (&call.arguments).into())
            .end()
            .to_usize();
        edits.push(Edit::new(
            end..end,
            format!(", ids=[{}]", quoted.join(", ")),
        ));
    }
    Some(edits)
}

fn parametrize(decorator: &Expr) -> Option<&ExprCall> {
    let Expr::Call(call) = decorator else {
        return None;
    };
    let name = dotted(&call.func)?;
    let ours = name == "parametrize" || name.ends_with("mark.parametrize");
    let plain = call.arguments.args.len() <= 2
        && call.arguments.keywords.iter().all(|k| {
            let known = ["argnames", "argvalues", "ids", "scope"];
            k.arg
                .as_ref()
                .is_some_and(|name| known.contains(&name.as_str()))
        });
    (ours && plain).then_some(call)
}

fn keyword<'a>(call: &'a ExprCall, name: &str) -> Option<&'a Expr> {
    call.arguments.find_keyword(name).map(|k| &k.value)
}

/// Names of the parameters, and whether a row is the value itself.
fn argument_names(call: &ExprCall) -> Option<(Vec<String>, bool)> {
    let names = call
        .arguments
        .args
        .first()
        .or_else(|| keyword(call, "argnames"))?;
    let list = match names {
        Expr::StringLiteral(text) => {
            let names: Vec<String> = (text.value.to_str().split(','))
                .map(|n| n.trim().to_owned())
                .filter(|n| !n.is_empty())
                .collect();
            let single = names.len() == 1;
            return Some((names, single));
        }
        Expr::Tuple(tuple) => &tuple.elts[..],
        Expr::List(list) => &list.elts[..],
        _ => return None,
    };
    let names: Option<Vec<String>> = list
        .iter()
        .map(|e| Some(e.as_string_literal_expr()?.value.to_str().to_owned()))
        .collect();
    names.map(|names| (names, false))
}

fn rows(expr: &Expr, width: usize, single: bool) -> Option<Vec<Row<'_>>> {
    let items = match expr {
        Expr::List(list) => &list.elts[..],
        Expr::Tuple(tuple) => &tuple.elts[..],
        _ => return None,
    };
    if items.is_empty() {
        return None;
    }
    items.iter().map(|item| row(item, width, single)).collect()
}

fn row(item: &Expr, width: usize, single: bool) -> Option<Row<'_>> {
    let (values, own_id): (Vec<&Expr>, _) = match item {
        Expr::Call(call) if dotted(&call.func).is_some_and(|n| n == "pytest.param") => {
            let own_id = match keyword(call, "id") {
                Some(id) => Some(id.as_string_literal_expr()?.value.to_str().to_owned()),
                None => None,
            };
            (call.arguments.args.iter().collect(), own_id)
        }
        other if single => (vec![other], None),
        Expr::Tuple(tuple) => (tuple.elts.iter().collect(), None),
        Expr::List(list) => (list.elts.iter().collect(), None),
        _ => return None,
    };
    let whole = values.len() == width && !values.iter().any(|v| v.is_starred_expr());
    whole.then_some(Row { values, own_id })
}

fn literal_ids(ids: &Expr, count: usize) -> Option<Vec<String>> {
    let items = match ids {
        Expr::List(list) => &list.elts[..],
        Expr::Tuple(tuple) => &tuple.elts[..],
        _ => return None,
    };
    let labels: Option<Vec<String>> = items
        .iter()
        .map(|e| Some(e.as_string_literal_expr()?.value.to_str().to_owned()))
        .collect();
    labels.filter(|labels| labels.len() == count)
}

/// What pytest makes of a row, if that is certain.
fn label(src: &Source<'_>, row: &Row<'_>, names: &[String], index: usize) -> Option<String> {
    let parts: Option<Vec<String>> = (row.values.iter().zip(names))
        .map(|(value, name)| value_label(src, value, name, index))
        .collect();
    parts.map(|parts| parts.join("-"))
}

fn value_label(src: &Source<'_>, value: &Expr, name: &str, index: usize) -> Option<String> {
    match value {
        Expr::NumberLiteral(e) => number_label(&e.value, src.slice(value)),
        Expr::UnaryOp(e) if e.op == UnaryOp::USub => {
            let number = e.operand.as_number_literal_expr()?;
            let text = number_label(&number.value, src.slice(&*e.operand))?;
            // `-0` is `0`.
            (!text.trim_matches(['0', '.']).is_empty()).then(|| format!("-{text}"))
        }
        Expr::BooleanLiteral(e) => Some(if e.value { "True" } else { "False" }.to_owned()),
        Expr::NoneLiteral(_) => Some("None".to_owned()),
        Expr::StringLiteral(e) => {
            let text = e.value.to_str();
            is_plain(text).then(|| text.to_owned())
        }
        Expr::List(_) | Expr::Tuple(_) | Expr::Dict(_) | Expr::Set(_) => {
            Some(format!("{name}{index}"))
        }
        _ => None,
    }
}

/// Whether pytest takes a text for an id as it is.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| matches!(c, ' '..='~') && c != '\\')
}

fn number_label(number: &Number, text: &str) -> Option<String> {
    match number {
        Number::Int(int) => int.as_i64().map(|value| value.to_string()),
        Number::Float(value) => {
            // Python and Rust agree on the shortest form in this range.
            let shown = format!("{value:?}");
            (shown == text && *value >= 1e-4 && *value < 1e15 || text == "0.0").then_some(shown)
        }
        Number::Complex { .. } => None,
    }
}

fn distinct(labels: &[String]) -> bool {
    let set: std::collections::HashSet<&String> = labels.iter().collect();
    set.len() == labels.len()
}

/// Whether the labels explain every recorded id. Other decorators add parts
/// of theirs, and ids may be cut at a space.
fn agrees(labels: &[String], ids: &[String]) -> bool {
    ids.iter().all(|id| {
        let id = format!("-{id}-");
        labels.iter().any(|label| {
            let cut = label.split(' ').next().unwrap_or(label);
            id.contains(&format!("-{label}-")) || cut != label && id.contains(&format!("-{cut}-"))
        })
    })
}

fn quote(label: &str) -> String {
    if label.contains('"') {
        format!("'{}'", label.replace('\'', "\\'"))
    } else {
        format!("\"{label}\"")
    }
}
