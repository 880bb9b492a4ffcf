//! The walk over a function that collects candidates.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{
    Arguments, Decorator, ExceptHandler, Expr, ExprCall, Keyword, Pattern, Stmt,
};
use ruff_text_size::{TextRange, TextSize};

use super::operators::Operator;
use super::scope::Scope;
use super::{Operators, arithmetic, blocks, calls, compare, constants, places, statements};
use crate::excerpt;
use crate::functions::{Found, is_type_checking};
use crate::python::{Edit, Source, dotted, is_docstring, last_name};

/// Longest excerpt in a description.
const EXCERPT: usize = 60;

/// Keywords whose strings people read and programs do not.
const PROSE: [&str; 8] = [
    "help",
    "description",
    "doc",
    "msg",
    "message",
    "err_msg",
    "epilog",
    "title",
];

/// An edit that has not been checked.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) operator: Operator,
    pub(super) edit: Edit,
    pub(super) at: TextSize,
    pub(super) description: String,
}

/// State of a walk.
pub(super) struct Walk<'s, 't> {
    pub(super) src: &'s Source<'t>,
    pub(super) scope: Scope,
    pub(super) name: &'s str,
    /// Within text for people, where strings are left alone.
    pub(super) prose: bool,
    /// Within `finally`, where old versions refuse `continue`.
    pub(super) in_finally: bool,
    operators: &'s Operators,
    out: Vec<Candidate>,
}

/// All candidates of a function, in the order of the walk.
pub(super) fn candidates(
    src: &Source<'_>,
    found: &Found<'_>,
    operators: &Operators,
) -> Vec<Candidate> {
    let mut walk = Walk {
        src,
        scope: Scope::of(found.def),
        name: found.def.name.as_str(),
        prose: false,
        in_finally: false,
        operators,
        out: Vec::new(),
    };
    constants::defaults(&mut walk, &found.def.parameters);
    walk.visit_body(&found.def.body);
    walk.out
}

impl Walk<'_, '_> {
    /// Replaces a range.
    pub(super) fn replace(&mut self, operator: Operator, range: TextRange, text: &str) {
        let old = self.src.slice(range);
        if old == text || !self.operators.contains(operator.family) {
            return;
        }
        let description = match (old.trim().is_empty(), text.trim().is_empty()) {
            (_, true) => format!("`{}` is gone", excerpt(old, EXCERPT)),
            (true, false) => format!("`{}` is new", excerpt(text, EXCERPT)),
            _ => format!(
                "`{}` becomes `{}`",
                excerpt(old, EXCERPT),
                excerpt(text, EXCERPT)
            ),
        };
        self.out.push(Candidate {
            operator,
            edit: Edit::new(range.to_std_range(), text),
            at: range.start(),
            description,
        });
    }

    /// Takes a statement or clause out: its lines where it has them for
    /// itself, else `pass` stands for it.
    pub(super) fn remove(&mut self, operator: Operator, range: TextRange, alone: bool) {
        match self.src.whole_lines(range) {
            Some(lines) if !alone => {
                if self.operators.contains(operator.family) {
                    self.out.push(Candidate {
                        operator,
                        edit: Edit::new(lines, ""),
                        at: range.start(),
                        description: format!(
                            "`{}` is gone",
                            excerpt(self.src.slice(range), EXCERPT)
                        ),
                    });
                }
            }
            _ => self.replace(operator, range, "pass"),
        }
    }

    fn statement(&mut self, stmt: &Stmt, alone: bool) {
        match stmt {
            Stmt::FunctionDef(_)
            | Stmt::ClassDef(_)
            | Stmt::Import(_)
            | Stmt::ImportFrom(_)
            | Stmt::Assert(_) => return,
            Stmt::Expr(_) if is_docstring(stmt) => return,
            Stmt::Expr(expr) if expr.value.as_call_expr().is_some_and(is_message) => return,
            Stmt::If(branch) if is_foreign(&branch.test) => {
                if !is_type_checking(&branch.test) {
                    self.visit_body(&branch.body);
                }
                for clause in &branch.elif_else_clauses {
                    self.visit_body(&clause.body);
                }
                return;
            }
            Stmt::Delete(_) => return statements::statement(self, stmt, alone),
            _ => {}
        }
        statements::statement(self, stmt, alone);
        blocks::statement(self, stmt, alone);
        match stmt {
            Stmt::Try(block) => {
                self.visit_body(&block.body);
                for handler in &block.handlers {
                    self.visit_except_handler(handler);
                }
                self.visit_body(&block.orelse);
                let before = std::mem::replace(&mut self.in_finally, true);
                self.visit_body(&block.finalbody);
                self.in_finally = before;
            }
            Stmt::Raise(raise) => {
                if let Some(Expr::Call(call)) = raise.exc.as_deref() {
                    self.prose(|walk| walk.visit_arguments(&call.arguments));
                }
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn prose(&mut self, walk: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.prose, true);
        walk(self);
        self.prose = before;
    }
}

impl<'a> Visitor<'a> for Walk<'_, '_> {
    fn visit_body(&mut self, body: &'a [Stmt]) {
        for stmt in body {
            self.statement(stmt, body.len() == 1);
        }
    }

    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        self.statement(stmt, true);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            // Edits inside could meet the quotes around it.
            Expr::FString(_) | Expr::TString(_) => return,
            Expr::Call(call) if is_message(call) || is_typing(call) => return,
            _ => {}
        }
        match expr {
            Expr::Compare(e) => compare::compare(self, e),
            Expr::BoolOp(e) => compare::bool_op(self, e),
            Expr::UnaryOp(e) => compare::unary(self, e),
            Expr::If(e) => compare::ternary(self, e),
            Expr::BinOp(e) => arithmetic::binary(self, e),
            Expr::NumberLiteral(_) | Expr::BooleanLiteral(_) | Expr::StringLiteral(_) => {
                constants::literal(self, expr);
            }
            Expr::Call(e) => calls::call(self, e),
            Expr::Subscript(e) => places::subscript(self, e),
            Expr::Name(e) => places::name(self, e, true),
            Expr::Attribute(e) => places::attribute(self, e),
            Expr::ListComp(e) => places::comprehension(self, &e.generators),
            Expr::SetComp(e) => places::comprehension(self, &e.generators),
            Expr::Generator(e) => places::comprehension(self, &e.generators),
            Expr::DictComp(e) => places::dict_comprehension(self, e),
            Expr::Await(e) => places::await_(self, e),
            Expr::YieldFrom(e) => places::yield_from(self, e),
            _ => {}
        }
        // Another object rarely has the same attributes.
        match expr {
            Expr::Attribute(e) if e.value.is_name_expr() => {
                places::name(self, e.value.as_name_expr().expect("checked"), false);
            }
            Expr::Subscript(e) if e.value.is_name_expr() => {
                places::name(self, e.value.as_name_expr().expect("checked"), false);
                self.visit_expr(&e.slice);
            }
            Expr::Call(e) if e.func.is_name_expr() => self.visit_arguments(&e.arguments),
            _ => walk_expr(self, expr),
        }
    }

    fn visit_arguments(&mut self, arguments: &'a Arguments) {
        for argument in &arguments.args {
            self.visit_expr(argument);
        }
        for keyword in &arguments.keywords {
            self.visit_keyword(keyword);
        }
    }

    fn visit_keyword(&mut self, keyword: &'a Keyword) {
        let name = keyword.arg.as_ref().map_or("", |name| name.as_str());
        if PROSE.contains(&name) {
            self.prose(|walk| walk.visit_expr(&keyword.value));
        } else {
            self.visit_expr(&keyword.value);
        }
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(handler) = handler;
        self.visit_body(&handler.body);
    }

    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_decorator(&mut self, _: &'a Decorator) {}

    fn visit_pattern(&mut self, _: &'a Pattern) {}
}

/// A call that tells people something: logging and warnings.
fn is_message(call: &ExprCall) -> bool {
    let Some(name) = dotted(&call.func) else {
        return false;
    };
    let (base, method) = name.rsplit_once('.').unwrap_or(("", &name));
    let base = base.to_ascii_lowercase();
    match method {
        "debug" | "info" | "warning" | "warn" | "error" | "exception" | "critical" | "log" => {
            base.contains("log") || base == "warnings" || base.is_empty() && method == "warn"
        }
        "warn_explicit" | "warn_deprecated" => true,
        _ => false,
    }
}

/// A call that only type checkers need.
fn is_typing(call: &ExprCall) -> bool {
    matches!(
        last_name(&call.func),
        Some("cast" | "TypeVar" | "NewType" | "ParamSpec" | "reveal_type" | "assert_never")
    )
}

/// A condition on where the program runs: what it guards may never.
fn is_foreign(test: &Expr) -> bool {
    if is_type_checking(test) {
        return true;
    }
    let place = |expr: &Expr| {
        let base = match expr {
            Expr::Subscript(subscript) => &*subscript.value,
            Expr::Call(call) => &*call.func,
            other => other,
        };
        dotted(base).is_some_and(|name| {
            name.starts_with("sys.version")
                || name.starts_with("sys.platform")
                || name.starts_with("platform.")
                || matches!(
                    name.as_str(),
                    "os.name" | "PY2" | "PY3" | "six.PY2" | "six.PY3" | "WINDOWS" | "IS_WINDOWS"
                )
        })
    };
    match test {
        Expr::Compare(compare) => place(&compare.left),
        Expr::UnaryOp(unary) => is_foreign(&unary.operand),
        Expr::BoolOp(op) => op.values.iter().any(is_foreign),
        other => place(other),
    }
}
