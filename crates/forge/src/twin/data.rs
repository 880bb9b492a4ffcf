//! Where the values of a test come from.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Decorator, Expr, ExprContext, Stmt};
use ruff_text_size::{Ranged, TextSize};

use super::calls::is_check;
use super::locate::Place;
use super::{parameters, values};
use crate::functions::Found;
use crate::python::{Edit, Source};

/// Parts of names that people give to expected values.
const EXPECTED: [&str; 12] = [
    "expect", "want", "desired", "exp", "ref", "correct", "truth", "gold", "answer", "should",
    "solution", "target",
];

/// A test function, and what is known of its ids.
pub(super) struct Test<'s, 'a, 't> {
    pub(super) src: &'s Source<'t>,
    pub(super) found: &'s Found<'a>,
    class_decorators: &'a [Decorator],
    /// What stands in the brackets of its ids.
    ids: &'s [String],
    /// Names that are read outside assertions.
    used: Vec<String>,
    /// Short names of methods that check: `eq = self.assertEqual`.
    aliases: Vec<(&'a str, &'a str)>,
}

impl<'s, 'a, 't> Test<'s, 'a, 't> {
    pub(super) fn new(src: &'s Source<'t>, place: &Place<'s, 'a>, ids: &'s [String]) -> Self {
        let mut uses = Uses::default();
        uses.visit_body(&place.found.def.body);
        Self {
            src,
            found: place.found,
            class_decorators: place.class_decorators,
            ids,
            used: uses.0,
            aliases: place.found.def.body.iter().filter_map(alias).collect(),
        }
    }

    /// The method that a name stands for, or the name.
    pub(super) fn method<'n>(&self, name: &'n str) -> &'n str
    where
        'a: 'n,
    {
        let mut aliases = self.aliases.iter();
        aliases
            .find(|(alias, _)| *alias == name)
            .map_or(name, |(_, method)| *method)
    }

    /// Edits of the values that a parameter of the test takes.
    pub(super) fn parameter(&self, name: &str, seed: usize) -> Option<Vec<Edit>> {
        let own = self.found.def.decorator_list.iter();
        own.chain(self.class_decorators)
            .find_map(|d| parameters::edits(self.src, &d.expression, name, self.ids, seed))
    }

    /// Edits of the literal that a variable was given before `at`: where its
    /// name says that it is expected, or where it is the `whole` expectation,
    /// holds nothing but literals and is there for the assertions only.
    pub(super) fn variable(&self, name: &str, at: TextSize, whole: bool, seed: usize) -> Vec<Edit> {
        let mut words = name.split('_');
        let expected = words.any(|word| EXPECTED.iter().any(|e| word.starts_with(e)));
        if !expected && (!whole || self.used.iter().any(|used| used == name)) {
            return Vec::new();
        }
        let mut last = Last {
            name,
            at,
            value: None,
        };
        last.visit_body(&self.found.def.body);
        last.value
            .filter(|value| expected || values::is_pure(value))
            .map(|value| values::bump(self.src, value, seed))
            .unwrap_or_default()
    }
}

fn alias(stmt: &Stmt) -> Option<(&str, &str)> {
    let assign = stmt.as_assign_stmt()?;
    let [Expr::Name(name)] = &assign.targets[..] else {
        return None;
    };
    let method = assign.value.as_attribute_expr()?.attr.as_str();
    method
        .starts_with("assert")
        .then_some((name.id.as_str(), method))
}

/// Names read outside assertions.
#[derive(Default)]
struct Uses(Vec<String>);

impl<'a> Visitor<'a> for Uses {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Assert(_) => {}
            Stmt::Expr(e) if e.value.as_call_expr().is_some_and(is_check) => {}
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::Name(name) = expr
            && name.ctx == ExprContext::Load
        {
            self.0.push(name.id.to_string());
        }
        walk_expr(self, expr);
    }
}

/// The last value that a name is given before a place.
struct Last<'n, 'a> {
    name: &'n str,
    at: TextSize,
    value: Option<&'a Expr>,
}

impl<'a> Visitor<'a> for Last<'_, 'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if stmt.start() >= self.at {
            return;
        }
        match stmt {
            Stmt::Assign(e) => {
                let [target] = &e.targets[..] else { return };
                if target.as_name_expr().is_some_and(|n| n.id == self.name) {
                    self.value = Some(&e.value);
                }
            }
            Stmt::AnnAssign(e) => {
                if e.target.as_name_expr().is_some_and(|n| n.id == self.name) {
                    self.value = e.value.as_deref().or(self.value);
                }
            }
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => {}
            _ => walk_stmt(self, stmt),
        }
    }
}
