//! Finds the assertions of a test.

use ruff_python_ast::{ExceptHandler, Expr, Stmt};
use ruff_text_size::Ranged;

use super::data::Test;
use super::{Alternative, Kind, calls, truth};
use crate::python::Edit;

/// Where an assertion stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rank {
    /// Number of branches and loops around it, each of which may not be run.
    pub(super) depth: usize,
    /// Its place among the assertions of the test.
    pub(super) order: usize,
}

/// What an assertion offers: the alternatives are collected here.
pub(super) struct Offers<'x, 's, 'a, 't> {
    pub(super) test: &'x Test<'s, 'a, 't>,
    pub(super) seed: usize,
    rank: Rank,
    line: usize,
    out: Vec<(Rank, Alternative)>,
}

/// All alternatives of a test, unordered.
pub(super) fn collect(test: &Test<'_, '_, '_>, seed: usize) -> Vec<(Rank, Alternative)> {
    let mut offers = Offers {
        test,
        seed,
        rank: Rank { depth: 0, order: 0 },
        line: 0,
        out: Vec::new(),
    };
    offers.body(&test.found.def.body);
    offers.out
}

impl Offers<'_, '_, '_, '_> {
    pub(super) fn offer(&mut self, kind: Kind, edits: Vec<Edit>) {
        if !edits.is_empty() {
            let alternative = Alternative {
                kind,
                line: self.line,
                edits,
            };
            self.out.push((self.rank, alternative));
        }
    }

    /// Offers each edit for itself.
    pub(super) fn offer_each(&mut self, kind: Kind, edits: Vec<Edit>) {
        for edit in edits {
            self.offer(kind, vec![edit]);
        }
    }

    fn begin(&mut self, node: impl Ranged) {
        self.rank.order += 1;
        self.line = self.test.src.line(node.start());
    }

    fn deeper(&mut self, body: &[Stmt]) {
        self.rank.depth += 1;
        self.body(body);
        self.rank.depth -= 1;
    }

    fn body(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Assert(e) => {
                self.begin(stmt);
                truth::holds(self, &e.test);
            }
            Stmt::Expr(e) => self.value(&e.value),
            Stmt::Assign(e) => {
                if let Expr::Call(call) = &*e.value
                    && calls::is_raises(call)
                {
                    self.value(&e.value);
                }
            }
            Stmt::With(block) => {
                for item in &block.items {
                    if let Expr::Call(call) = &item.context_expr
                        && calls::is_check(call)
                    {
                        self.value(&item.context_expr);
                    }
                }
                self.body(&block.body);
            }
            Stmt::If(block) => {
                self.deeper(&block.body);
                for clause in &block.elif_else_clauses {
                    self.deeper(&clause.body);
                }
            }
            Stmt::For(block) => {
                self.deeper(&block.body);
                self.deeper(&block.orelse);
            }
            Stmt::While(block) => self.deeper(&block.body),
            Stmt::Try(block) => {
                self.deeper(&block.body);
                for handler in &block.handlers {
                    let ExceptHandler::ExceptHandler(handler) = handler;
                    self.deeper(&handler.body);
                }
                self.deeper(&block.orelse);
                self.body(&block.finalbody);
            }
            _ => {}
        }
    }

    fn value(&mut self, value: &Expr) {
        let value = match value {
            Expr::Await(inner) => &*inner.value,
            other => other,
        };
        if let Expr::Call(call) = value {
            self.begin(value);
            calls::check(self, call);
        }
    }
}
