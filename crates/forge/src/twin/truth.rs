//! Expressions that an assertion takes to be true.

use ruff_python_ast::{AnyNodeRef, BoolOp, CmpOp, Expr, ExprCall, ExprCompare, UnaryOp};
use ruff_text_size::Ranged;

use super::Kind;
use super::assertions::Offers;
use super::values::{bump, is_pure};
use crate::python::{Edit, last_name};

/// Functions that compare their arguments.
const COMPARING: [&str; 14] = [
    "allclose",
    "array_equal",
    "isclose",
    "equals",
    "startswith",
    "endswith",
    "issubset",
    "issuperset",
    "array_equiv",
    "match",
    "search",
    "fullmatch",
    "almosteq",
    "same",
];

/// Offers for an expression that is true in a correct program.
pub(super) fn holds(o: &mut Offers<'_, '_, '_, '_>, test: &Expr) {
    match test {
        Expr::Compare(e) => return comparison(o, e),
        // One clause that is false will do.
        Expr::BoolOp(e) if e.op == BoolOp::And => {
            return e.values.iter().rev().for_each(|value| holds(o, value));
        }
        Expr::UnaryOp(e) if e.op == UnaryOp::Not => {
            let operand = o.test.src.operand(&e.operand);
            let flipped = Edit::new(e.range().to_std_range(), operand);
            return o.offer(Kind::Flipped, vec![flipped]);
        }
        Expr::Call(e) => call(o, e),
        _ => {}
    }
    let negated = format!("not {}", o.test.src.operand(test));
    o.offer(
        Kind::Flipped,
        vec![Edit::new(test.range().to_std_range(), negated)],
    );
}

fn call(o: &mut Offers<'_, '_, '_, '_>, e: &ExprCall) {
    // `(a == b).all()`
    if let Expr::Attribute(method) = &*e.func
        && matches!(method.attr.as_str(), "all" | "any")
        && let Expr::Compare(compare) = &*method.value
        && let [CmpOp::Eq] = *compare.ops
    {
        equal(o, &compare.left, &compare.comparators[0], false);
    }
    if COMPARING.contains(&last_name(&e.func).unwrap_or_default()) {
        match &*e.arguments.args {
            [one, two, ..] => equal(o, one, two, false),
            [one] => expected(o, one),
            [] => {}
        }
    }
}

fn comparison(o: &mut Offers<'_, '_, '_, '_>, e: &ExprCompare) {
    let (Some(operator), Some(right)) = (e.ops.last(), e.comparators.last()) else {
        return;
    };
    let left = match e.comparators.len() {
        0 | 1 => &*e.left,
        n => &e.comparators[n - 2],
    };
    match operator {
        CmpOp::Eq => equal(o, left, right, true),
        // `is True`, `is None`
        CmpOp::Is if right.is_literal_expr() => expected(o, right),
        CmpOp::In => expected(o, left),
        _ => {}
    }
    let src = o.test.src;
    let parent = AnyNodeRef::from(e);
    let from = src.outer(left, parent).end();
    let to = src.outer(right, parent).start();
    if let Some(range) = src.between(from, to) {
        let edit = Edit::new(range.to_std_range(), opposite(*operator));
        o.offer(Kind::Flipped, vec![edit]);
    }
}

fn opposite(operator: CmpOp) -> &'static str {
    match operator {
        CmpOp::Eq => "!=",
        CmpOp::NotEq => "==",
        CmpOp::Lt => ">=",
        CmpOp::LtE => ">",
        CmpOp::Gt => "<=",
        CmpOp::GtE => "<",
        CmpOp::Is => "is not",
        CmpOp::IsNot => "is",
        CmpOp::In => "not in",
        CmpOp::NotIn => "in",
    }
}

/// Offers for two expressions that are equal in a correct program; `wrap`
/// where a tuple around one of them would not be looked through.
pub(super) fn equal(o: &mut Offers<'_, '_, '_, '_>, left: &Expr, right: &Expr, wrap: bool) {
    let seed = o.seed;
    let right_first = is_pure(right) || !is_pure(left);
    let (want, got) = if right_first {
        (right, left)
    } else {
        (left, right)
    };
    let edits = bump(o.test.src, want, seed);
    if edits.is_empty() && !has_call(got) {
        o.offer_each(Kind::Value, bump(o.test.src, got, seed));
    }
    o.offer_each(Kind::Value, edits);
    named(o, want);
    // `assert want == f(x)` tells by its names which side is which.
    if want.is_call_expr() && got.is_name_expr() {
        named(o, got);
    }
    if wrap && !want.is_literal_expr() {
        let text = format!("({}, None)", o.test.src.slice(want));
        let edit = Edit::new(want.range().to_std_range(), text);
        o.offer(Kind::Wrapped, vec![edit]);
    }
}

/// Offers for an expression whose value alone is expected.
pub(super) fn expected(o: &mut Offers<'_, '_, '_, '_>, want: &Expr) {
    let edits = bump(o.test.src, want, o.seed);
    o.offer_each(Kind::Value, edits);
    named(o, want);
}

/// Follows names to parametrized values and to assignments.
pub(super) fn named(o: &mut Offers<'_, '_, '_, '_>, want: &Expr) {
    let whole = want.is_name_expr();
    let mut names = Vec::new();
    ruff_python_ast::helpers::any_over_expr(want, |e: &Expr| {
        if let Expr::Name(name) = e {
            names.push(name.id.to_string());
        }
        false
    });
    names.truncate(4);
    for name in names {
        if let Some(edits) = o.test.parameter(&name, o.seed) {
            o.offer(Kind::Parameter, edits);
        }
        let edits = o.test.variable(&name, want.start(), whole, o.seed);
        o.offer_each(Kind::Variable, edits);
    }
}

fn has_call(expr: &Expr) -> bool {
    ruff_python_ast::helpers::any_over_expr(expr, |e: &Expr| e.is_call_expr() || e.is_await_expr())
}
