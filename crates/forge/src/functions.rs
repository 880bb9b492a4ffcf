//! The functions of a module, and which are of no use.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use ruff_python_ast::{Expr, Stmt, StmtFunctionDef};
use ruff_text_size::Ranged;
use serde::{Deserialize, Serialize};

use crate::python::{Source, dotted, is_docstring, last_name};

/// A function or method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name in the file: the qualified name, with `#2`, `#3`, … for later
    /// definitions of the same name.
    pub id: String,
    /// As Python's `__qualname__`.
    pub qualname: String,
    /// Line of its first decorator, or of `def`.
    pub first_line: usize,
    /// Line of its name.
    pub line: usize,
    /// Its last line.
    pub last_line: usize,
    /// Number of statements in its body, nested ones included, docstring not.
    pub statements: usize,
    /// Names of its decorators; empty where one is no name or call of a name.
    pub decorators: Vec<String>,
    /// Whether a class holds it.
    pub method: bool,
    /// Whether it is read as an attribute.
    pub property: bool,
    /// Whether it is `async`.
    pub is_async: bool,
    /// Why it is left out, if it is.
    pub useless: Option<Useless>,
}

/// Why a function is no place for a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Useless {
    /// Nothing but a docstring, `pass`, `...` or `raise NotImplementedError`.
    Stub,
    /// An abstract method.
    Abstract,
    /// A signature for type checkers.
    Overload,
    /// Returns a name, an attribute or a constant, and does nothing else.
    Accessor,
    /// Only type checkers read it.
    TypeChecking,
    /// Its author does not test it (`pragma: no cover`).
    NotCovered,
}

impl fmt::Display for Useless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stub => "has no body to speak of",
            Self::Abstract => "is abstract",
            Self::Overload => "is an overload",
            Self::Accessor => "only hands out a value",
            Self::TypeChecking => "is only for type checkers",
            Self::NotCovered => "is marked as not covered",
        })
    }
}

/// A function with its place in the tree.
pub(crate) struct Found<'a> {
    pub(crate) function: Function,
    pub(crate) stmt: &'a Stmt,
    pub(crate) def: &'a StmtFunctionDef,
    /// Whole lines, decorators included.
    pub(crate) lines: Range<usize>,
}

/// All functions of a module, in the order of the source.
pub(crate) fn find<'a>(src: &'a Source<'_>) -> Vec<Found<'a>> {
    let mut finder = Finder {
        src,
        prefix: String::new(),
        method: false,
        type_checking: false,
        seen: HashMap::new(),
        out: Vec::new(),
    };
    finder.body(src.body());
    finder.out
}

struct Finder<'a, 't> {
    src: &'a Source<'t>,
    prefix: String,
    method: bool,
    type_checking: bool,
    seen: HashMap<String, usize>,
    out: Vec<Found<'a>>,
}

impl<'a> Finder<'a, '_> {
    fn body(&mut self, body: &'a [Stmt]) {
        for stmt in body {
            self.stmt(stmt);
        }
    }

    fn within(&mut self, name: String, method: bool, body: &'a [Stmt]) {
        let prefix = std::mem::replace(&mut self.prefix, name);
        let before = std::mem::replace(&mut self.method, method);
        self.body(body);
        self.prefix = prefix;
        self.method = before;
    }

    fn stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(def) => {
                let qualname = format!("{}{}", self.prefix, def.name);
                self.function(stmt, def, &qualname);
                self.within(format!("{qualname}.<locals>."), false, &def.body);
            }
            Stmt::ClassDef(def) => {
                self.within(format!("{}{}.", self.prefix, def.name), true, &def.body);
            }
            Stmt::If(branch) => {
                let before = self.type_checking;
                self.type_checking |= is_type_checking(&branch.test);
                self.body(&branch.body);
                self.type_checking = before;
                for clause in &branch.elif_else_clauses {
                    self.body(&clause.body);
                }
            }
            Stmt::Try(block) => {
                self.body(&block.body);
                for handler in &block.handlers {
                    let ruff_python_ast::ExceptHandler::ExceptHandler(handler) = handler;
                    self.body(&handler.body);
                }
                self.body(&block.orelse);
                self.body(&block.finalbody);
            }
            Stmt::With(block) => self.body(&block.body),
            Stmt::For(block) => {
                self.body(&block.body);
                self.body(&block.orelse);
            }
            Stmt::While(block) => {
                self.body(&block.body);
                self.body(&block.orelse);
            }
            Stmt::Match(block) => {
                for case in &block.cases {
                    self.body(&case.body);
                }
            }
            _ => {}
        }
    }

    fn function(&mut self, stmt: &'a Stmt, def: &'a StmtFunctionDef, qualname: &str) {
        let nth = self.seen.entry(qualname.to_owned()).or_default();
        *nth += 1;
        let id = match *nth {
            1 => qualname.to_owned(),
            n => format!("{qualname}#{n}"),
        };
        let (start, end) = (stmt.start().to_usize(), stmt.end().to_usize());
        let decorators: Vec<String> = def
            .decorator_list
            .iter()
            .map(|d| dotted(called(&d.expression)).unwrap_or_default())
            .collect();
        let useless = self.useless(def, &decorators);
        self.out.push(Found {
            function: Function {
                id,
                qualname: qualname.to_owned(),
                first_line: self.src.line(stmt.start()),
                line: self.src.line(def.name.start()),
                last_line: self.src.line(stmt.end()),
                statements: count(&def.body),
                property: decorators.iter().any(|d| {
                    d == "property" || d.ends_with(".setter") || d.ends_with("cached_property")
                }),
                decorators,
                method: self.method,
                is_async: def.is_async,
                useless,
            },
            stmt,
            def,
            lines: self.src.line_start(start)..self.src.line_end(end),
        });
    }

    fn useless(&self, def: &StmtFunctionDef, decorators: &[String]) -> Option<Useless> {
        let has = |name: &str| {
            let names = decorators.iter();
            names
                .into_iter()
                .any(|d| d.rsplit('.').next() == Some(name))
        };
        let body: Vec<&Stmt> = def.body.iter().filter(|s| !is_docstring(s)).collect();
        let header = &self.src.text
            [self.src.line_start(def.name.start().to_usize())..def.body[0].start().to_usize()];
        if self.type_checking {
            Some(Useless::TypeChecking)
        } else if has("overload") {
            Some(Useless::Overload)
        } else if decorators.iter().any(|d| d.contains("abstract")) {
            Some(Useless::Abstract)
        } else if body.iter().all(|s| is_stub(s)) {
            Some(Useless::Stub)
        } else if header.contains("pragma: no cover") {
            Some(Useless::NotCovered)
        } else if matches!(body[..], [Stmt::Return(r)] if r.value.as_deref().is_none_or(is_plain)) {
            Some(Useless::Accessor)
        } else {
            None
        }
    }
}

/// `if TYPE_CHECKING`.
pub(crate) fn is_type_checking(test: &Expr) -> bool {
    last_name(test) == Some("TYPE_CHECKING")
}

/// The function of a call, or the expression itself.
fn called(expr: &Expr) -> &Expr {
    match expr {
        Expr::Call(call) => &call.func,
        other => other,
    }
}

fn is_stub(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Pass(_) => true,
        Stmt::Expr(expr) => expr.value.is_literal_expr(),
        Stmt::Raise(raise) => raise
            .exc
            .as_deref()
            .is_some_and(|e| last_name(called(e)) == Some("NotImplementedError")),
        _ => false,
    }
}

fn is_plain(expr: &Expr) -> bool {
    expr.is_literal_expr() && !expr.is_number_literal_expr() && !expr.is_boolean_literal_expr()
        || dotted(expr).is_some()
}

/// Number of statements, nested ones included.
fn count(body: &[Stmt]) -> usize {
    use ruff_python_ast::statement_visitor::{StatementVisitor, walk_stmt};
    struct Count(usize);
    impl<'a> StatementVisitor<'a> for Count {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            self.0 += 1;
            walk_stmt(self, stmt);
        }
    }
    let mut count = Count(0);
    for stmt in body.iter().filter(|s| !is_docstring(s)) {
        count.visit_stmt(stmt);
    }
    count.0
}
