//! Other values than the expected ones.

use ruff_python_ast::{
    BytesLiteral, Expr, ExprCall, FStringPart, InterpolatedStringElement, Number, UnaryOp,
};
use ruff_text_size::{Ranged, TextRange};

use crate::python::{Edit, Source, last_name};

/// Most edits of one expression.
const MAX_EDITS: usize = 3;

/// Keywords that say how to compare, not what with.
const MANNER: [&str; 24] = [
    "rtol",
    "atol",
    "rel",
    "abs",
    "abs_tol",
    "rel_tol",
    "dtype",
    "delta",
    "places",
    "msg",
    "err_msg",
    "nan_ok",
    "decimal",
    "check_dtype",
    "check_index",
    "check_names",
    "verbose",
    "strict",
    "equal_nan",
    "significant",
    "message",
    "axis",
    "copy",
    "tz",
];

/// Edits, each of which makes the value of an expression another one by
/// changing a literal in it.
pub(super) fn bump(src: &Source<'_>, expr: &Expr, seed: usize) -> Vec<Edit> {
    let mut bump = Bump {
        src,
        seed,
        out: Vec::new(),
    };
    bump.expr(expr, 0);
    bump.out.truncate(MAX_EDITS);
    bump.out
}

/// Whether an expression is made of literals alone.
pub(super) fn is_pure(expr: &Expr) -> bool {
    match expr {
        Expr::List(e) => e.elts.iter().all(is_pure),
        Expr::Tuple(e) => e.elts.iter().all(is_pure),
        Expr::Set(e) => e.elts.iter().all(is_pure),
        Expr::Dict(e) => e
            .items
            .iter()
            .all(|item| item.key.as_ref().is_some_and(is_pure) && is_pure(&item.value)),
        Expr::UnaryOp(e) => is_pure(&e.operand),
        Expr::BinOp(e) => is_pure(&e.left) && is_pure(&e.right),
        other => other.is_literal_expr(),
    }
}

struct Bump<'s, 't> {
    src: &'s Source<'t>,
    seed: usize,
    out: Vec<Edit>,
}

impl Bump<'_, '_> {
    fn put(&mut self, range: TextRange, text: impl Into<String>) {
        self.out.push(Edit::new(range.to_std_range(), text));
    }

    fn expr(&mut self, expr: &Expr, depth: usize) {
        if self.out.len() >= MAX_EDITS || depth > 12 {
            return;
        }
        match expr {
            Expr::NumberLiteral(e) => self.number(&e.value, expr.range()),
            Expr::BooleanLiteral(e) => {
                self.put(expr.range(), if e.value { "False" } else { "True" });
            }
            Expr::NoneLiteral(_) => self.put(expr.range(), "False"),
            Expr::StringLiteral(e) => {
                // The last part: messages often begin alike.
                if let Some(part) = e.value.as_slice().last() {
                    self.text(part.content_range(), false);
                }
            }
            Expr::BytesLiteral(e) => {
                if let Some(part) = e.value.as_slice().last() {
                    self.text(content_of_bytes(part), false);
                }
            }
            Expr::FString(e) => {
                for part in e.value.iter() {
                    match part {
                        FStringPart::Literal(text) => self.text(text.content_range(), false),
                        FStringPart::FString(text) => {
                            for element in &text.elements {
                                if let InterpolatedStringElement::Literal(literal) = element {
                                    self.text(literal.range, true);
                                }
                            }
                        }
                    }
                }
            }
            Expr::List(e) => self.items(&e.elts, expr.range(), "[None]", depth),
            Expr::Tuple(e) => self.items(&e.elts, expr.range(), "(None,)", depth),
            Expr::Set(e) => self.items(&e.elts, expr.range(), "{None}", depth),
            Expr::Dict(e) => {
                if e.items.is_empty() {
                    return self.put(expr.range(), "{None: None}");
                }
                let start = self.seed % e.items.len();
                for item in e.items[start..].iter().chain(&e.items[..start]) {
                    self.expr(&item.value, depth + 1);
                }
                // A key that is another one may be one that is there.
                let keys = e.items.iter().filter_map(|item| item.key.as_ref());
                for key in keys.take(if self.out.is_empty() { 1 } else { 0 }) {
                    self.expr(key, depth + 1);
                }
            }
            Expr::UnaryOp(e) if e.op != UnaryOp::Not => self.expr(&e.operand, depth + 1),
            Expr::BinOp(e) => {
                self.expr(&e.right, depth + 1);
                self.expr(&e.left, depth + 1);
            }
            Expr::If(e) => {
                self.expr(&e.body, depth + 1);
                self.expr(&e.orelse, depth + 1);
            }
            Expr::Call(e) => self.call(e, depth),
            Expr::ListComp(e) => self.expr(&e.elt, depth + 1),
            Expr::Attribute(e) => self.expr(&e.value, depth + 1),
            Expr::Await(e) => self.expr(&e.value, depth + 1),
            _ => {}
        }
    }

    fn items(&mut self, items: &[Expr], whole: TextRange, other: &str, depth: usize) {
        if items.is_empty() {
            return self.put(whole, other);
        }
        let start = self.seed % items.len();
        for item in items[start..].iter().chain(&items[..start]) {
            self.expr(item, depth + 1);
        }
    }

    fn call(&mut self, e: &ExprCall, depth: usize) {
        if e.arguments.is_empty() && last_name(&e.func) == Some("set") {
            return self.put(e.range(), "{None}");
        }
        for argument in &e.arguments.args {
            self.expr(argument, depth + 1);
        }
        for keyword in &e.arguments.keywords {
            let name = keyword.arg.as_ref().map_or("", |name| name.as_str());
            if !MANNER.contains(&name) {
                self.expr(&keyword.value, depth + 1);
            }
        }
        if let Expr::Attribute(method) = &*e.func {
            self.expr(&method.value, depth + 1);
        }
    }

    /// Far enough to be no rounding error, near enough to be plausible.
    fn number(&mut self, number: &Number, range: TextRange) {
        match number {
            Number::Int(int) => {
                if let Some(value) = int.as_i64().filter(|v| *v < i64::MAX / 2) {
                    let step = if value < 100 { 1 } else { 1 + value / 10 };
                    self.put(range, (value + step).to_string());
                }
            }
            Number::Float(value) if value.is_finite() && *value < 1e300 => {
                self.put(range, format!("{:?}", value * 2.0 + 1.0));
            }
            Number::Float(_) => {}
            Number::Complex { .. } => {
                let text = self.src.slice(range);
                self.put(range, format!("1{text}"));
            }
        }
    }

    /// Changes the last letter or digit that is part of no escape and of no
    /// placeholder; else appends one.
    fn text(&mut self, content: TextRange, formatted: bool) {
        let raw = self.src.slice(content);
        let start = content.start().to_usize();
        let letter = raw
            .char_indices()
            .rev()
            .find(|(at, c)| c.is_ascii_alphanumeric() && is_plain_at(raw, *at));
        match letter {
            Some((at, c)) => {
                let at = start + at;
                self.out.push(Edit::new(at..at + 1, next(c).to_string()));
            }
            None if raw.is_empty() && formatted => {}
            None => {
                let end = content.end().to_usize();
                self.out.push(Edit::new(end..end, "_"));
            }
        }
    }
}

fn content_of_bytes(part: &BytesLiteral) -> TextRange {
    use ruff_python_ast::StringFlags;
    TextRange::new(
        part.start() + part.flags.opener_len(),
        part.end() - part.flags.closer_len(),
    )
}

/// Whether no escape, `%` or brace is near before a place.
fn is_plain_at(raw: &str, at: usize) -> bool {
    let before: Vec<char> = raw[..at].chars().rev().take(10).collect();
    let near = before.iter().take(4).any(|c| matches!(c, '%' | '{'));
    let after = raw[at..].chars().skip(1).take(2).any(|c| c == '}');
    !near && !after && !before.contains(&'\\')
}

fn next(c: char) -> char {
    match c {
        '9' => '8',
        'z' => 'y',
        'Z' => 'Y',
        c => char::from(c as u8 + 1),
    }
}
