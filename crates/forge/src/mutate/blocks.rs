//! Statements with a body: branches, loops, handlers.

use ruff_python_ast::{ExceptHandler, Expr, Stmt, StmtFor, StmtIf, StmtTry};
use ruff_text_size::{Ranged, TextRange, TextSize};

use super::compare::condition;
use super::operators as op;
use super::statements::other_class;
use super::walk::Walk;
use crate::python::dotted;

pub(super) fn statement(w: &mut Walk<'_, '_>, stmt: &Stmt, alone: bool) {
    match stmt {
        Stmt::If(e) => branches(w, stmt, e, alone),
        Stmt::While(e) => condition(w, &e.test, false),
        Stmt::For(e) => {
            drop_body(w, &e.body);
            early_exit(w, e);
        }
        Stmt::Try(e) => handlers(w, e),
        _ => {}
    }
}

fn branches(w: &mut Walk<'_, '_>, stmt: &Stmt, e: &StmtIf, alone: bool) {
    condition(w, &e.test, !ends_in_raise(&e.body));
    if e.elif_else_clauses.is_empty() {
        w.remove(op::DROP_IF, stmt.range(), alone);
    } else {
        drop_body(w, &e.body);
    }
    for clause in &e.elif_else_clauses {
        let operator = match &clause.test {
            Some(test) => {
                condition(w, test, !ends_in_raise(&clause.body));
                op::DROP_ELIF
            }
            None => op::DROP_ELSE,
        };
        // Clauses have their lines for themselves, or `pass` is no help.
        if w.src.whole_lines(clause.range).is_some() {
            w.remove(operator, clause.range, false);
        }
        drop_body(w, &clause.body);
    }
}

fn ends_in_raise(body: &[Stmt]) -> bool {
    matches!(body.last(), Some(Stmt::Raise(_)))
}

fn drop_body(w: &mut Walk<'_, '_>, body: &[Stmt]) {
    if let [first, .., last] = body {
        w.replace(
            op::DROP_BODY,
            TextRange::new(first.start(), last.end()),
            "pass",
        );
    } else if let [only] = body
        && !only.is_pass_stmt()
    {
        w.replace(op::DROP_BODY, only.range(), "pass");
    }
}

fn early_exit(w: &mut Walk<'_, '_>, e: &StmtFor) {
    let Some(last) = e.body.last() else { return };
    let leaves = matches!(
        last,
        Stmt::Break(_) | Stmt::Continue(_) | Stmt::Return(_) | Stmt::Raise(_)
    );
    if leaves || e.is_async {
        return;
    }
    if let Some(lines) = w.src.whole_lines(last.range()) {
        let indent = w.src.indent(e.body[0].start().to_usize());
        let end = w.src.line_break();
        let text = if w.src.text[..lines.end].ends_with(['\n', '\r']) {
            format!("{indent}break{end}")
        } else {
            format!("{end}{indent}break")
        };
        let at = TextSize::try_from(lines.end).expect("texts are small");
        w.replace(op::EARLY_EXIT, TextRange::empty(at), &text);
    }
}

fn handlers(w: &mut Walk<'_, '_>, e: &StmtTry) {
    for handler in &e.handlers {
        let ExceptHandler::ExceptHandler(handler) = handler;
        if e.handlers.len() > 1 && w.src.whole_lines(handler.range).is_some() {
            w.remove(op::DROP_HANDLER, handler.range, false);
        }
        match handler.type_.as_deref() {
            Some(Expr::Tuple(classes)) if classes.parenthesized && classes.elts.len() > 1 => {
                for i in 0..classes.elts.len() {
                    let kept: Vec<&str> = (classes.elts.iter().enumerate())
                        .filter(|(j, _)| *j != i)
                        .map(|(_, class)| w.src.slice(class))
                        .collect();
                    let text = match kept[..] {
                        [one] => one.to_owned(),
                        _ => format!("({})", kept.join(", ")),
                    };
                    w.replace(op::NARROW_HANDLER, classes.range, &text);
                }
            }
            Some(class) => {
                let name = dotted(class).unwrap_or_default();
                if let Some(other) = other_class(&name) {
                    w.replace(op::OTHER_HANDLED, class.range(), other);
                    // A bare `except` must stay the last.
                    w.replace(op::WIDEN_HANDLER, class.range(), "Exception");
                }
                if name == "Exception" {
                    w.replace(op::NARROW_HANDLER, class.range(), "ValueError");
                }
            }
            None => {}
        }
    }
}
