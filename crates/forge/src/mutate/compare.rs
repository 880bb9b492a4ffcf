//! Comparisons, boolean operators and conditions.

use ruff_python_ast::{
    AnyNodeRef, BoolOp, CmpOp, Expr, ExprBoolOp, ExprCompare, ExprIf, ExprUnaryOp, UnaryOp,
};
use ruff_text_size::{Ranged, TextRange};

use super::operators as op;
use super::walk::Walk;
use crate::python::last_name;

pub(super) fn compare(w: &mut Walk<'_, '_>, e: &ExprCompare) {
    let parent = AnyNodeRef::from(e);
    let mut left = &*e.left;
    for (operator, right) in e.ops.iter().zip(&e.comparators) {
        let from = w.src.outer(left, parent).end();
        let to = w.src.outer(right, parent).start();
        if let Some(range) = w.src.between(from, to) {
            one_comparison(w, *operator, range, right);
        }
        left = right;
    }
}

fn one_comparison(w: &mut Walk<'_, '_>, operator: CmpOp, range: TextRange, right: &Expr) {
    match operator {
        CmpOp::Eq => w.replace(op::SWAP_EQUALITY, range, "!="),
        CmpOp::NotEq => w.replace(op::SWAP_EQUALITY, range, "=="),
        CmpOp::Is => w.replace(op::SWAP_EQUALITY, range, "is not"),
        CmpOp::IsNot => w.replace(op::SWAP_EQUALITY, range, "is"),
        CmpOp::In => w.replace(op::SWAP_MEMBERSHIP, range, "not in"),
        CmpOp::NotIn => w.replace(op::SWAP_MEMBERSHIP, range, "in"),
        CmpOp::Lt => {
            w.replace(op::COMPARE_BOUNDARY, range, "<=");
            w.replace(op::SWAP_ORDER, range, ">");
        }
        CmpOp::LtE => {
            w.replace(op::COMPARE_BOUNDARY, range, "<");
            w.replace(op::SWAP_ORDER, range, ">=");
        }
        CmpOp::Gt => {
            w.replace(op::COMPARE_BOUNDARY, range, ">=");
            w.replace(op::SWAP_ORDER, range, "<");
        }
        CmpOp::GtE => {
            w.replace(op::COMPARE_BOUNDARY, range, ">");
            w.replace(op::SWAP_ORDER, range, "<=");
        }
    }
    // A member less.
    if let (CmpOp::In | CmpOp::NotIn, Some(members)) = (operator, members(right))
        && let [.., before, last] = members
    {
        w.replace(
            op::NARROW_TYPE_CHECK,
            TextRange::new(before.end(), last.end()),
            if members.len() == 2 { "," } else { "" },
        );
    }
}

fn members(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Tuple(tuple) if tuple.parenthesized => Some(&tuple.elts[..]),
        Expr::List(list) => Some(&list.elts[..]),
        Expr::Set(set) => Some(&set.elts[..]),
        _ => None,
    }
    .filter(|members| members.iter().all(Expr::is_literal_expr))
}

pub(super) fn bool_op(w: &mut Walk<'_, '_>, e: &ExprBoolOp) {
    let parent = AnyNodeRef::from(e);
    let outer: Vec<TextRange> = e.values.iter().map(|v| w.src.outer(v, parent)).collect();
    let other = match e.op {
        BoolOp::And => "or",
        BoolOp::Or => "and",
    };
    for pair in outer.windows(2) {
        // One of three or more would bind otherwise, which is a bug as well.
        if let Some(range) = w.src.between(pair[0].end(), pair[1].start()) {
            w.replace(op::SWAP_AND_OR, range, other);
        }
    }
    let (Some(first), Some(last)) = (outer.first(), outer.last()) else {
        return;
    };
    for pair in outer.windows(2) {
        let gone = TextRange::new(pair[0].end(), pair[1].end());
        w.replace(op::DROP_CLAUSE, gone, "");
    }
    // `x is not None and x.y` without its guard only crashes.
    if outer.len() > 1 && !is_guard(&e.values[0]) && first.end() < last.start() {
        let gone = TextRange::new(first.start(), outer[1].start());
        w.replace(op::DROP_CLAUSE, gone, "");
    }
}

/// Whether what follows may need the clause to be possible at all.
fn is_guard(expr: &Expr) -> bool {
    match expr {
        Expr::Name(_) => true,
        Expr::Call(call) => matches!(
            last_name(&call.func),
            Some("isinstance" | "hasattr" | "issubclass")
        ),
        Expr::Compare(compare) => compare.ops.contains(&CmpOp::IsNot),
        _ => false,
    }
}

pub(super) fn unary(w: &mut Walk<'_, '_>, e: &ExprUnaryOp) {
    let operand = w.src.operand(&e.operand);
    match e.op {
        UnaryOp::Not => w.replace(op::DROP_NOT, e.range(), &operand),
        UnaryOp::USub | UnaryOp::Invert => w.replace(op::DROP_SIGN, e.range(), &operand),
        UnaryOp::UAdd => {}
    }
}

pub(super) fn ternary(w: &mut Walk<'_, '_>, e: &ExprIf) {
    condition(w, &e.test, false);
    let (body, orelse) = (w.src.operand(&e.body), w.src.operand(&e.orelse));
    let test = w.src.operand(&e.test);
    w.replace(op::DROP_TERNARY, e.range(), &body);
    if !is_guard(&e.test) && !e.test.is_unary_op_expr() {
        w.replace(op::DROP_TERNARY, e.range(), &orelse);
    }
    w.replace(
        op::SWAP_TERNARY,
        e.range(),
        &format!("{orelse} if {test} else {body}"),
    );
}

/// What is tested by an `if`, a loop or a filter; `whole` where it may also
/// be replaced as a whole.
pub(super) fn condition(w: &mut Walk<'_, '_>, test: &Expr, whole: bool) {
    truth_of_none(w, test);
    match test {
        Expr::Compare(_) | Expr::UnaryOp(_) | Expr::Named(_) => {}
        _ if test.is_literal_expr() => return,
        _ => {
            let negated = format!("not {}", w.src.operand(test));
            w.replace(op::NEGATE_CONDITION, test.range(), &negated);
        }
    }
    if whole && !has_walrus(test) {
        w.replace(op::FIXED_CONDITION, test.range(), "True");
    }
}

fn truth_of_none(w: &mut Walk<'_, '_>, test: &Expr) {
    match test {
        Expr::BoolOp(e) => e.values.iter().for_each(|value| truth_of_none(w, value)),
        Expr::Compare(e) => {
            if let ([operator], [Expr::NoneLiteral(_)]) = (&*e.ops, &*e.comparators) {
                let value = w.src.operand(&e.left);
                match operator {
                    CmpOp::Is => {
                        w.replace(op::NONE_TO_TRUTH, e.range(), &format!("not {value}"));
                    }
                    CmpOp::IsNot => w.replace(op::NONE_TO_TRUTH, e.range(), &value),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn has_walrus(test: &Expr) -> bool {
    ruff_python_ast::helpers::any_over_expr(test, &|e: &Expr| e.is_named_expr())
}
