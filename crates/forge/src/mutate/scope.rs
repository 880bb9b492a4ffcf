//! What a function knows by name.

use std::collections::BTreeSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Comprehension, Expr, ExprContext, Stmt, StmtFunctionDef};
use ruff_text_size::{Ranged, TextSize};

/// Words that are easily taken for one another.
const OPPOSITES: &[(&str, &str)] = &[
    ("start", "end"),
    ("start", "stop"),
    ("begin", "end"),
    ("first", "last"),
    ("first", "second"),
    ("left", "right"),
    ("lower", "upper"),
    ("low", "high"),
    ("lo", "hi"),
    ("min", "max"),
    ("minimum", "maximum"),
    ("min_", "max_"),
    ("x", "y"),
    ("a", "b"),
    ("i", "j"),
    ("m", "n"),
    ("x1", "x2"),
    ("y1", "y2"),
    ("key", "value"),
    ("k", "v"),
    ("old", "new"),
    ("src", "dst"),
    ("source", "target"),
    ("row", "column"),
    ("row", "col"),
    ("rows", "columns"),
    ("rows", "cols"),
    ("width", "height"),
    ("before", "after"),
    ("prev", "next"),
    ("previous", "next"),
    ("previous", "current"),
    ("parent", "child"),
    ("head", "tail"),
    ("prefix", "suffix"),
    ("top", "bottom"),
    ("major", "minor"),
    ("args", "kwargs"),
    ("name", "value"),
    ("line", "column"),
    ("self", "other"),
    ("lhs", "rhs"),
    ("num", "den"),
    ("numerator", "denominator"),
    ("real", "imag"),
    ("hours", "minutes"),
    ("minutes", "seconds"),
    ("hour", "minute"),
    ("minute", "second"),
    ("day", "month"),
    ("month", "year"),
    ("index", "count"),
    ("index", "length"),
    ("size", "offset"),
    ("offset", "length"),
    ("input", "output"),
    ("encode", "decode"),
    ("open", "close"),
    ("opening", "closing"),
];

/// Names of one function.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Parameters but `self` and `cls`.
    pub(super) parameters: Vec<String>,
    /// Names assigned, with the end of the statement that does.
    stores: Vec<(String, TextSize)>,
    /// Attributes read, other than to be called.
    pub(super) attributes: BTreeSet<String>,
    /// Depth of statements that assign later than they begin.
    end: TextSize,
}

impl Scope {
    pub(super) fn of(def: &StmtFunctionDef) -> Self {
        let mut scope = Self::default();
        for parameter in def.parameters.iter() {
            let name = parameter.name().as_str();
            if name != "self" && name != "cls" && !name.starts_with("__") {
                scope.parameters.push(name.to_owned());
            }
        }
        scope.visit_body(&def.body);
        scope
    }

    /// Whether a name surely has a value before `at`, as far as order tells.
    pub(super) fn knows(&self, name: &str, at: TextSize) -> bool {
        self.parameters.iter().any(|p| p == name)
            || self.stores.iter().any(|(n, end)| n == name && *end <= at)
    }

    /// Whether a name belongs to the function.
    pub(super) fn is_local(&self, name: &str) -> bool {
        self.parameters.iter().any(|p| p == name) || self.stores.iter().any(|(n, _)| n == name)
    }

    /// Other names with a value before `at`, parameters and latest first.
    pub(super) fn others(&self, name: &str, at: TextSize) -> Vec<&str> {
        let before = self.stores.iter().filter(|(_, end)| *end <= at);
        let latest = before.rev().map(|(n, _)| n.as_str());
        let mut out = Vec::new();
        for other in latest.chain(self.parameters.iter().map(String::as_str)) {
            if other != name && !other.starts_with('_') && !out.contains(&other) {
                out.push(other);
            }
        }
        out
    }
}

impl<'a> Visitor<'a> for Scope {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => return,
            // The target has a value within the body.
            Stmt::For(block) => {
                let before = std::mem::replace(&mut self.end, block.iter.end());
                self.visit_expr(&block.target);
                self.end = before;
                self.visit_expr(&block.iter);
                self.visit_body(&block.body);
                return self.visit_body(&block.orelse);
            }
            Stmt::With(block) => {
                self.end = block.body[0].start();
            }
            _ => self.end = stmt.end(),
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(name) if name.ctx == ExprContext::Store => {
                self.stores.push((name.id.to_string(), self.end));
            }
            Expr::Attribute(attribute) if attribute.ctx == ExprContext::Load => {
                self.attributes.insert(attribute.attr.to_string());
            }
            Expr::Call(call) => {
                if let Expr::Attribute(method) = &*call.func {
                    self.visit_expr(&method.value);
                } else {
                    self.visit_expr(&call.func);
                }
                return self.visit_arguments(&call.arguments);
            }
            Expr::Lambda(_) => return,
            _ => {}
        }
        walk_expr(self, expr);
    }

    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_comprehension(&mut self, comprehension: &'a Comprehension) {
        self.visit_expr(&comprehension.iter);
    }
}

/// Names that differ from `name` by one word with its opposite.
pub(super) fn opposites(name: &str) -> Vec<String> {
    let words: Vec<&str> = name.split('_').collect();
    let mut out = Vec::new();
    for (i, word) in words.iter().enumerate() {
        for (one, two) in OPPOSITES {
            let other = if word == one {
                two
            } else if word == two {
                one
            } else {
                continue;
            };
            let mut changed = words.clone();
            changed[i] = other;
            out.push(changed.join("_"));
        }
    }
    out
}
