//! Statements without a body: returns, assignments, calls, jumps.

use ruff_python_ast::{CmpOp, Expr, ExprContext, Operator, Stmt, StmtAssign, StmtReturn};
use ruff_text_size::{Ranged, TextRange};

use super::operators as op;
use super::walk::Walk;
use crate::python::{dotted, last_name};

pub(super) fn statement(w: &mut Walk<'_, '_>, stmt: &Stmt, alone: bool) {
    match stmt {
        Stmt::Return(e) => return_(w, e),
        Stmt::Assign(e) => assign(w, stmt, e, alone),
        Stmt::AnnAssign(e) => {
            let name = e.target.as_name_expr();
            if name.is_some_and(|n| w.scope.knows(&n.id, e.start())) {
                w.remove(op::DROP_ASSIGNMENT, stmt.range(), alone);
            }
        }
        Stmt::AugAssign(e) => {
            w.remove(op::DROP_ASSIGNMENT, stmt.range(), alone);
            let between = w.src.between(e.target.end(), e.value.start());
            let Some(range) = between else { return };
            // The operator alone: an opening parenthesis may follow.
            let sign = format!("{}=", e.op.as_str());
            let range = TextRange::at(range.start(), (sign.len() as u32).into());
            if w.src.slice(range) == sign {
                w.replace(op::PLAIN_AUGMENTED, range, "=");
                if let Some(other) = other_augmented(e.op, &e.value) {
                    w.replace(op::SWAP_AUGMENTED, range, other);
                }
            }
        }
        Stmt::Delete(_) => w.remove(op::DROP_DELETE, stmt.range(), alone),
        Stmt::Expr(e) => {
            let value = match &*e.value {
                Expr::Await(inner) => &*inner.value,
                other => other,
            };
            if let Expr::Call(call) = value
                && !matches!(last_name(&call.func), Some("__init__" | "print"))
            {
                w.remove(op::DROP_CALL, stmt.range(), alone);
            }
        }
        Stmt::Break(_) => {
            if !w.in_finally {
                w.replace(op::SWAP_BREAK, stmt.range(), "continue");
            }
            w.remove(op::DROP_JUMP, stmt.range(), alone);
        }
        Stmt::Continue(_) => {
            w.replace(op::SWAP_BREAK, stmt.range(), "break");
            w.remove(op::DROP_JUMP, stmt.range(), alone);
        }
        Stmt::Raise(e) => {
            w.remove(op::DROP_RAISE, stmt.range(), alone);
            if let Some(raised) = e.exc.as_deref() {
                let class = match raised {
                    Expr::Call(call) => &*call.func,
                    other => other,
                };
                if let Some(other) = dotted(class).and_then(|name| other_class(&name)) {
                    w.replace(op::OTHER_RAISED, class.range(), other);
                }
            }
        }
        Stmt::For(e) => swap_targets(w, &e.target),
        _ => {}
    }
}

fn return_(w: &mut Walk<'_, '_>, e: &StmtReturn) {
    let Some(value) = e.value.as_deref() else {
        return;
    };
    match value {
        Expr::Call(_) | Expr::Await(_) => {
            let gone = TextRange::new(e.start(), value.start());
            // Not where a parenthesis or a comment stands between.
            if w.src.slice(gone).trim() == "return" {
                w.replace(op::DROP_RETURN_VALUE, gone, "");
            }
        }
        Expr::NoneLiteral(_) | Expr::BooleanLiteral(_) => {}
        _ => w.replace(op::DROP_RETURN_VALUE, value.range(), "None"),
    }
    match value {
        Expr::Tuple(tuple) if tuple.elts.len() > 1 => {
            if let [one, two, ..] = &tuple.elts[..]
                && !one.is_starred_expr()
                && !two.is_starred_expr()
                && w.src.slice(one) != w.src.slice(two)
            {
                let range = TextRange::new(one.start(), two.end());
                let middle = w.src.slice(TextRange::new(one.end(), two.start()));
                let text = format!("{}{middle}{}", w.src.slice(two), w.src.slice(one));
                w.replace(op::SWAP_RETURN_ITEMS, range, &text);
            }
        }
        Expr::Name(name) if name.ctx == ExprContext::Load && w.scope.is_local(&name.id) => {
            let others: Vec<String> = (w.scope.others(&name.id, e.start()).into_iter())
                .take(2)
                .map(Into::into)
                .collect();
            for other in others {
                w.replace(op::RETURN_OTHER_NAME, value.range(), &other);
            }
        }
        _ if is_truth(value) => {
            let negated = format!("not {}", w.src.operand(value));
            w.replace(op::NEGATE_RETURN, value.range(), &negated);
        }
        _ => {}
    }
}

/// Whether an expression is likely true or false.
fn is_truth(expr: &Expr) -> bool {
    match expr {
        Expr::BoolOp(e) => e.values.iter().all(is_truth),
        Expr::Compare(e) => e.ops.len() > 1 || matches!(e.ops[0], CmpOp::In | CmpOp::NotIn),
        Expr::Call(call) => last_name(&call.func).is_some_and(|name| {
            name.starts_with("is")
                || name.starts_with("has")
                || matches!(
                    name,
                    "any" | "all" | "bool" | "startswith" | "endswith" | "exists"
                )
        }),
        _ => false,
    }
}

fn assign(w: &mut Walk<'_, '_>, stmt: &Stmt, e: &StmtAssign, alone: bool) {
    let [target] = &e.targets[..] else { return };
    let droppable = match target {
        // Without its first value an attribute only leads to a crash.
        Expr::Attribute(_) => !matches!(w.name, "__init__" | "__new__" | "__setstate__"),
        Expr::Subscript(_) => true,
        Expr::Name(name) => w.scope.knows(&name.id, e.start()),
        _ => false,
    };
    if droppable {
        w.remove(op::DROP_ASSIGNMENT, stmt.range(), alone);
    }
    swap_targets(w, target);
}

fn swap_targets(w: &mut Walk<'_, '_>, target: &Expr) {
    let Expr::Tuple(tuple) = target else { return };
    if let [one, two, ..] = &tuple.elts[..]
        && let (Expr::Name(a), Expr::Name(b)) = (one, two)
        && a.id != b.id
        && a.id != "_"
        && b.id != "_"
    {
        let middle = w.src.slice(TextRange::new(one.end(), two.start()));
        let text = format!("{}{middle}{}", b.id, a.id);
        w.replace(
            op::SWAP_TARGETS,
            TextRange::new(one.start(), two.end()),
            &text,
        );
    }
}

fn other_augmented(operator: Operator, value: &Expr) -> Option<&'static str> {
    let text = value.is_string_literal_expr()
        || value.is_f_string_expr()
        || value.is_list_expr()
        || value.is_tuple_expr();
    Some(match operator {
        Operator::Add if !text => "-=",
        Operator::Sub => "+=",
        Operator::Mult => "+=",
        Operator::Div => "*=",
        Operator::FloorDiv => "*=",
        Operator::Mod => "//=",
        Operator::BitOr => "&=",
        Operator::BitAnd => "|=",
        Operator::BitXor => "|=",
        Operator::LShift => ">>=",
        Operator::RShift => "<<=",
        _ => return None,
    })
}

/// A class of exceptions that a hasty person may have named instead.
pub(super) fn other_class(name: &str) -> Option<&'static str> {
    Some(match name {
        "KeyError" => "IndexError",
        "IndexError" => "KeyError",
        "LookupError" => "ValueError",
        "ValueError" => "TypeError",
        "TypeError" => "ValueError",
        "AttributeError" => "TypeError",
        "OSError" | "IOError" | "EnvironmentError" => "ValueError",
        "FileNotFoundError" => "FileExistsError",
        "FileExistsError" => "FileNotFoundError",
        "PermissionError" => "FileNotFoundError",
        "NotADirectoryError" => "IsADirectoryError",
        "IsADirectoryError" => "NotADirectoryError",
        "ImportError" | "ModuleNotFoundError" => "AttributeError",
        "StopIteration" => "IndexError",
        "RuntimeError" => "ValueError",
        "NotImplementedError" => "ValueError",
        "UnicodeDecodeError" => "UnicodeEncodeError",
        "UnicodeEncodeError" => "UnicodeDecodeError",
        "UnicodeError" => "LookupError",
        "ZeroDivisionError" => "ValueError",
        "OverflowError" => "ZeroDivisionError",
        "AssertionError" => "ValueError",
        "TimeoutError" => "ConnectionError",
        "EOFError" => "ValueError",
        "NameError" => "AttributeError",
        _ => return None,
    })
}
