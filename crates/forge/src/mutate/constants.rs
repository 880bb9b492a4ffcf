//! Literals: in the body and as default arguments.

use ruff_python_ast::str_prefix::StringLiteralPrefix;
use ruff_python_ast::{Expr, ExprStringLiteral, Number, Parameters, StringLiteral, UnaryOp};
use ruff_text_size::Ranged;

use super::operators::{self as op, Operator};
use super::walk::Walk;

/// Texts longer than this are for people.
const MAX_TEXT: usize = 40;

/// Characters that separate, and what is easily taken for them.
const SEPARATORS: &[(&str, &str)] = &[
    (",", ";"),
    (";", ","),
    ("-", "_"),
    ("_", "-"),
    (".", ","),
    (":", "="),
    ("=", ":"),
    ("/", "\\\\"),
    ("\\n", "\\r\\n"),
    ("\\r\\n", "\\n"),
    ("\\t", " "),
    ("\\\\", "/"),
    (" ", ""),
    ("", " "),
    ("'", "`"),
    ("(", "["),
    (")", "]"),
    ("[", "("),
    ("]", ")"),
    ("<", "("),
    (">", ")"),
    ("*", "?"),
    ("+", "-"),
    ("?", "!"),
    ("#", "//"),
    ("&", "&&"),
    ("|", "||"),
];

pub(super) fn literal(w: &mut Walk<'_, '_>, expr: &Expr) {
    match expr {
        Expr::NumberLiteral(number) => {
            let text = w.src.slice(expr);
            for other in neighbours(&number.value, text) {
                w.replace(op::NUMBER, expr.range(), &other);
            }
        }
        Expr::BooleanLiteral(truth) => {
            w.replace(op::TRUTH_VALUE, expr.range(), not(truth.value));
        }
        Expr::StringLiteral(text) if !w.prose => string(w, text, op::STRING),
        _ => {}
    }
}

/// Default values of parameters.
pub(super) fn defaults(w: &mut Walk<'_, '_>, parameters: &Parameters) {
    for parameter in parameters.iter_non_variadic_params() {
        let Some(default) = parameter.default() else {
            continue;
        };
        match default {
            Expr::NumberLiteral(number) => {
                let text = w.src.slice(default);
                for other in neighbours(&number.value, text) {
                    w.replace(op::DEFAULT_VALUE, default.range(), &other);
                }
            }
            Expr::UnaryOp(e) if e.op == UnaryOp::USub && e.operand.is_number_literal_expr() => {
                let text = w.src.operand(&e.operand);
                w.replace(op::DEFAULT_VALUE, default.range(), &text);
            }
            Expr::BooleanLiteral(truth) => {
                w.replace(op::DEFAULT_VALUE, default.range(), not(truth.value));
            }
            Expr::StringLiteral(text) => string(w, text, op::DEFAULT_VALUE),
            _ => {}
        }
    }
}

fn not(value: bool) -> &'static str {
    if value { "False" } else { "True" }
}

/// A number above and one below, in the notation of the source.
pub(super) fn neighbours(number: &Number, text: &str) -> Vec<String> {
    match number {
        Number::Int(int) => {
            let Some(value) = int.as_i64().filter(|v| *v < i64::MAX) else {
                return Vec::new();
            };
            let show = |value: i64| match text.get(..2) {
                Some("0x" | "0X") => format!("{value:#x}"),
                Some("0b" | "0B") => format!("{value:#b}"),
                Some("0o" | "0O") => format!("{value:#o}"),
                _ => value.to_string(),
            };
            let mut out = vec![show(value + 1)];
            if value > 0 {
                out.push(show(value - 1));
            }
            out
        }
        Number::Float(value) if value.is_finite() => {
            let mut out = vec![format!("{:?}", value + 1.0)];
            if *value != 0.0 {
                out.push(format!("{:?}", value / 2.0));
            }
            out.retain(|other| other != text);
            out
        }
        _ => Vec::new(),
    }
}

fn string(w: &mut Walk<'_, '_>, text: &ExprStringLiteral, operator: Operator) {
    let [part] = text.value.as_slice() else {
        return;
    };
    let raw = w.src.slice(part.content_range());
    if raw.len() > MAX_TEXT || raw.contains(['\n', '\r']) {
        return;
    }
    let prefix = part.flags.prefix();
    if matches!(prefix, StringLiteralPrefix::Raw { .. }) {
        return pattern(w, part, raw);
    }
    for other in variants(raw) {
        w.replace(operator, part.content_range(), &other);
    }
}

/// Texts that a hasty person may have written instead.
fn variants(raw: &str) -> Vec<String> {
    if let Some((_, other)) = SEPARATORS.iter().find(|(one, _)| *one == raw) {
        return vec![(*other).to_owned()];
    }
    // Escapes and placeholders do not survive being cut.
    if raw.contains(['\\', '%', '{', '}', '"', '\'']) {
        return Vec::new();
    }
    let mut out = Vec::new();
    let trimmed = raw.trim();
    if trimmed != raw {
        out.push(trimmed.to_owned());
    }
    if trimmed.chars().any(char::is_uppercase) {
        out.push(raw.to_lowercase());
    } else if trimmed.contains('_') {
        out.push(raw.replace('_', "-"));
    } else if trimmed.len() > 2 && trimmed.is_ascii() && trimmed == raw {
        out.push(raw[..raw.len() - 1].to_owned());
    }
    out.retain(|other| other != raw);
    out
}

/// Regular expressions: another quantifier, an anchor less.
fn pattern(w: &mut Walk<'_, '_>, part: &StringLiteral, raw: &str) {
    let range = part.content_range();
    let mut variants: Vec<String> = Vec::new();
    if let Some(rest) = raw.strip_prefix('^') {
        variants.push(rest.to_owned());
    }
    if let Some(rest) = raw.strip_suffix('$')
        && !rest.ends_with('\\')
    {
        variants.push(rest.to_owned());
    }
    for (from, to) in [
        (")+", ")*"),
        ("]+", "]*"),
        ("]*", "]+"),
        (".*", ".+"),
        (".+", ".*"),
    ] {
        variants.push(raw.replacen(from, to, 1));
    }
    for class in ["\\d", "\\w", "\\s"] {
        variants.push(raw.replacen(&format!("{class}+"), &format!("{class}*"), 1));
        variants.push(raw.replacen(&format!("{class}*"), &format!("{class}+"), 1));
    }
    variants.push(raw.replacen("\\d", "\\w", 1));
    for other in variants {
        w.replace(op::PATTERN, range, &other);
    }
}
