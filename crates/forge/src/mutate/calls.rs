//! Calls: what is called, and with what.

use ruff_python_ast::{Expr, ExprCall};
use ruff_text_size::{Ranged, TextRange};

use super::operators as op;
use super::walk::Walk;
use crate::python::last_name;

/// Functions whose order of arguments is no mistake that runs.
const FIXED_ORDER: [&str; 12] = [
    "isinstance",
    "issubclass",
    "getattr",
    "setattr",
    "hasattr",
    "delattr",
    "super",
    "print",
    "open",
    "map",
    "filter",
    "format",
];

/// Functions that do something without their last argument, and from which
/// number of arguments on.
const OPTIONAL_LAST: &[(&str, usize)] = &[
    ("get", 2),
    ("pop", 2),
    ("getattr", 3),
    ("next", 2),
    ("round", 2),
    ("int", 2),
    ("enumerate", 2),
    ("sum", 2),
    ("split", 2),
    ("rsplit", 2),
    ("replace", 3),
    ("strip", 1),
    ("lstrip", 1),
    ("rstrip", 1),
    ("sub", 4),
    ("join", 3),
    ("max", 2),
    ("min", 2),
    ("range", 3),
    ("startswith", 2),
    ("find", 2),
    ("index", 2),
    ("insert", 3),
    ("setdefault", 2),
    ("dict", 1),
    ("update", 2),
];

/// Functions of one argument that people forget to call.
const WRAPPERS: [&str; 22] = [
    "abs",
    "sorted",
    "reversed",
    "set",
    "frozenset",
    "list",
    "tuple",
    "int",
    "float",
    "str",
    "round",
    "bool",
    "deepcopy",
    "copy",
    "escape",
    "quote",
    "unquote",
    "len",
    "normpath",
    "abspath",
    "expanduser",
    "basename",
];

/// Methods that give something of the kind they were called on.
const CHAINED: [&str; 38] = [
    "strip",
    "lstrip",
    "rstrip",
    "lower",
    "upper",
    "casefold",
    "title",
    "capitalize",
    "copy",
    "expanduser",
    "resolve",
    "absolute",
    "replace",
    "removeprefix",
    "removesuffix",
    "zfill",
    "ljust",
    "rjust",
    "center",
    "expandtabs",
    "translate",
    "swapcase",
    "union",
    "intersection",
    "difference",
    "normalize",
    "astype",
    "ravel",
    "flatten",
    "squeeze",
    "reset_index",
    "dropna",
    "fillna",
    "sort_index",
    "sort_values",
    "conjugate",
    "simplify",
    "expand",
];

/// Functions and methods that are easily taken for one another.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("min", "max"),
    ("any", "all"),
    ("floor", "ceil"),
    ("lstrip", "rstrip"),
    ("startswith", "endswith"),
    ("find", "rfind"),
    ("index", "rindex"),
    ("split", "rsplit"),
    ("partition", "rpartition"),
    ("upper", "lower"),
    ("title", "capitalize"),
    ("ljust", "rjust"),
    ("union", "intersection"),
    ("match", "search"),
    ("isupper", "islower"),
    ("removeprefix", "removesuffix"),
    ("issubset", "issuperset"),
    ("sin", "cos"),
    ("exp", "log"),
    ("argmin", "argmax"),
    ("cumsum", "cumprod"),
    ("basename", "dirname"),
    ("bisect_left", "bisect_right"),
];

/// The same where the way back leads to what most objects lack.
const ONE_WAY: &[(&str, &str)] = &[
    ("strip", "lstrip"),
    ("strip", "rstrip"),
    ("append", "extend"),
    ("appendleft", "append"),
    ("popleft", "pop"),
    ("fullmatch", "match"),
    ("isdigit", "isalnum"),
    ("isalpha", "isalnum"),
    ("keys", "values"),
    ("values", "keys"),
    ("items", "keys"),
    ("zip_longest", "zip"),
    ("add", "discard"),
    ("setdefault", "get"),
];

pub(super) fn call(w: &mut Walk<'_, '_>, e: &ExprCall) {
    let name = last_name(&e.func).unwrap_or_default();
    let args = &e.arguments.args;
    if name == "isinstance" {
        type_check(w, e);
    }
    if name == "range" && e.func.is_name_expr() {
        range(w, args);
    }
    if !FIXED_ORDER.contains(&name) {
        swap_arguments(w, args);
    }
    drop_keywords(w, e);
    let optional = OPTIONAL_LAST
        .iter()
        .any(|(function, from)| *function == name && args.len() >= *from);
    if optional && let Some(last) = args.last().filter(|a| !a.is_starred_expr()) {
        let gone = match args.len().checked_sub(2).map(|i| &args[i]) {
            Some(before) => TextRange::new(before.end(), last.end()),
            None => last.range(),
        };
        if comma_free(w, gone) {
            w.replace(op::DROP_ARGUMENT, gone, "");
        }
    }
    unwrap(w, e, name);
    neighbours(w, e, name);
}

/// Parentheses around an argument end after it: cutting there would leave one.
fn comma_free(w: &Walk<'_, '_>, range: TextRange) -> bool {
    let text = w.src.slice(range);
    text.matches('(').count() == text.matches(')').count()
}

fn type_check(w: &mut Walk<'_, '_>, e: &ExprCall) {
    if let [_, Expr::Tuple(types)] = &*e.arguments.args
        && types.parenthesized
        && types.elts.len() > 1
    {
        for i in 0..types.elts.len() {
            let kept: Vec<&str> = (types.elts.iter().enumerate())
                .filter(|(j, _)| *j != i)
                .map(|(_, t)| w.src.slice(t))
                .collect();
            let text = match kept[..] {
                [one] => one.to_owned(),
                _ => format!("({})", kept.join(", ")),
            };
            w.replace(op::NARROW_TYPE_CHECK, types.range(), &text);
        }
    }
}

fn range(w: &mut Walk<'_, '_>, args: &[Expr]) {
    match args {
        [stop] => {
            let (text, operand) = (w.src.alone(stop), w.src.operand(stop));
            w.replace(op::RANGE_BOUNDARY, stop.range(), &format!("{operand} - 1"));
            w.replace(op::RANGE_BOUNDARY, stop.range(), &format!("{operand} + 1"));
            w.replace(op::RANGE_BOUNDARY, stop.range(), &format!("1, {text}"));
        }
        [start, stop, ..] => {
            let operand = w.src.operand(stop);
            let less = less_one(w, stop);
            w.replace(op::RANGE_BOUNDARY, stop.range(), &format!("{operand} - 1"));
            let more = less.unwrap_or_else(|| format!("{operand} + 1"));
            w.replace(op::RANGE_BOUNDARY, stop.range(), &more);
            if args.len() == 2 {
                let gone = TextRange::new(start.start(), stop.start());
                if comma_free(w, gone) {
                    w.replace(op::RANGE_BOUNDARY, gone, "");
                }
            }
        }
        [] => {}
    }
}

/// `n` of `n + 1` and `n - 1`.
fn less_one(w: &Walk<'_, '_>, expr: &Expr) -> Option<String> {
    let Expr::BinOp(e) = expr else { return None };
    let one = e.right.as_number_literal_expr()?;
    (w.src.slice(one) == "1").then(|| w.src.operand(&e.left))
}

fn swap_arguments(w: &mut Walk<'_, '_>, args: &[Expr]) {
    for pair in args.windows(2) {
        let [one, two] = pair else { continue };
        let fit = |e: &Expr| !matches!(e, Expr::Starred(_) | Expr::Generator(_) | Expr::Lambda(_));
        // A text and a number are not taken for one another.
        let kinds = one.is_literal_expr() && two.is_literal_expr()
            || !one.is_literal_expr() && !two.is_literal_expr();
        if fit(one) && fit(two) && kinds && w.src.slice(one) != w.src.slice(two) {
            let range = TextRange::new(one.start(), two.end());
            let middle = w.src.slice(TextRange::new(one.end(), two.start()));
            let text = format!("{}{middle}{}", w.src.slice(two), w.src.slice(one));
            w.replace(op::SWAP_ARGUMENTS, range, &text);
        }
    }
}

fn drop_keywords(w: &mut Walk<'_, '_>, e: &ExprCall) {
    let mut parts: Vec<TextRange> = e.arguments.args.iter().map(Ranged::range).collect();
    parts.extend(e.arguments.keywords.iter().map(Ranged::range));
    parts.sort_by_key(|range| range.start());
    for keyword in &e.arguments.keywords {
        let at = parts.iter().position(|range| *range == keyword.range);
        let Some(at) = at else { continue };
        let gone = if at > 0 {
            TextRange::new(parts[at - 1].end(), keyword.end())
        } else if let Some(next) = parts.get(1) {
            TextRange::new(keyword.start(), next.start())
        } else {
            keyword.range
        };
        if comma_free(w, gone) && !w.prose {
            w.replace(op::DROP_KEYWORD, gone, "");
        }
    }
}

/// The call gone, its subject stays.
fn unwrap(w: &mut Walk<'_, '_>, e: &ExprCall, name: &str) {
    if WRAPPERS.contains(&name)
        && e.arguments.keywords.is_empty()
        && let [argument] = &*e.arguments.args
        && !matches!(argument, Expr::Starred(_) | Expr::Generator(_))
    {
        let subject = w.src.operand(argument);
        match name {
            "sorted" | "reversed" => {
                w.replace(op::UNWRAP_CALL, e.range(), &format!("list({subject})"));
            }
            // A length is not what was measured.
            "len" => w.replace(op::UNWRAP_CALL, e.range(), &format!("(len({subject}) - 1)")),
            _ => w.replace(op::UNWRAP_CALL, e.range(), &subject),
        }
    }
    if CHAINED.contains(&name)
        && let Expr::Attribute(method) = &*e.func
        && !matches!(&*method.value, Expr::Name(n) if n.id == "copy" || n.id == "re")
    {
        let subject = w.src.operand(&method.value);
        w.replace(op::DROP_METHOD, e.range(), &subject);
    }
}

fn neighbours(w: &mut Walk<'_, '_>, e: &ExprCall, name: &str) {
    let there = NEIGHBOURS.iter().chain(ONE_WAY);
    let back = NEIGHBOURS.iter().map(|(one, two)| (two, one));
    for (_, other) in there
        .map(|(one, two)| (one, two))
        .chain(back)
        .filter(|(one, _)| **one == name)
    {
        match &*e.func {
            // A name of the function's own is not the builtin.
            Expr::Name(function)
                if matches!(name, "min" | "max" | "any" | "all") && !w.scope.is_local(name) =>
            {
                w.replace(op::SWAP_FUNCTION, function.range, other);
            }
            Expr::Attribute(method) => {
                w.replace(op::SWAP_METHOD, method.attr.range, other);
            }
            _ => {}
        }
    }
}
