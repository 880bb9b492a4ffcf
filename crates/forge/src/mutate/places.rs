//! Subscripts, names, attributes, comprehensions, `await`.

use ruff_python_ast::{
    Comprehension, Expr, ExprAttribute, ExprAwait, ExprContext, ExprDictComp, ExprName, ExprSlice,
    ExprSubscript, ExprYieldFrom, UnaryOp,
};
use ruff_text_size::{Ranged, TextRange};

use super::compare::condition;
use super::operators as op;
use super::scope::opposites;
use super::walk::Walk;

pub(super) fn subscript(w: &mut Walk<'_, '_>, e: &ExprSubscript) {
    match &*e.slice {
        Expr::Slice(slice) => bounds(w, slice),
        Expr::NumberLiteral(number) => {
            for other in super::constants::neighbours(&number.value, w.src.slice(&*e.slice)) {
                w.replace(op::INDEX_BOUNDARY, e.slice.range(), &other);
            }
            if w.src.slice(&*e.slice) == "0" {
                w.replace(op::INDEX_BOUNDARY, e.slice.range(), "-1");
            }
        }
        Expr::UnaryOp(unary)
            if unary.op == UnaryOp::USub && w.src.slice(&*unary.operand) == "1" =>
        {
            w.replace(op::INDEX_BOUNDARY, e.slice.range(), "0");
            w.replace(op::INDEX_BOUNDARY, e.slice.range(), "-2");
        }
        Expr::BinOp(sum) if w.src.slice(&*sum.right) == "1" => {
            let text = w.src.alone(&sum.left);
            w.replace(op::INDEX_BOUNDARY, e.slice.range(), &text);
        }
        _ => {}
    }
}

fn bounds(w: &mut Walk<'_, '_>, e: &ExprSlice) {
    for bound in [&e.lower, &e.upper].into_iter().flatten() {
        match &**bound {
            Expr::NumberLiteral(number) => {
                for other in super::constants::neighbours(&number.value, w.src.slice(&**bound)) {
                    w.replace(op::SLICE_BOUND, bound.range(), &other);
                }
            }
            Expr::UnaryOp(unary) if unary.op == UnaryOp::USub => {
                if let Expr::NumberLiteral(number) = &*unary.operand {
                    let text = w.src.slice(&*unary.operand);
                    for other in super::constants::neighbours(&number.value, text) {
                        let other = format!("-{other}");
                        if other != "-0" {
                            w.replace(op::SLICE_BOUND, bound.range(), &other);
                        }
                    }
                }
            }
            Expr::BinOp(sum) if w.src.slice(&*sum.right) == "1" => {
                let text = w.src.alone(&sum.left);
                w.replace(op::SLICE_BOUND, bound.range(), &text);
            }
            other => {
                let operand = w.src.operand(other);
                w.replace(op::SLICE_BOUND, other.range(), &format!("{operand} + 1"));
                w.replace(op::SLICE_BOUND, other.range(), &format!("{operand} - 1"));
            }
        }
        w.replace(op::DROP_SLICE_BOUND, bound.range(), "");
    }
    if let Some(step) = &e.step {
        w.replace(op::DROP_STEP, step.range(), "");
    }
}

/// `free` where any other value could stand as well.
pub(super) fn name(w: &mut Walk<'_, '_>, e: &ExprName, free: bool) {
    if e.ctx != ExprContext::Load {
        return;
    }
    let known = |w: &Walk<'_, '_>, name: &str| w.scope.knows(name, e.start());
    for other in opposites(&e.id) {
        if known(w, &other) {
            w.replace(op::OPPOSITE_NAME, e.range, &other);
        }
    }
    if free && w.scope.is_local(&e.id) {
        let others: Vec<String> = w
            .scope
            .others(&e.id, e.start())
            .into_iter()
            .take(2)
            .map(Into::into)
            .collect();
        for other in others {
            w.replace(op::SWAP_NAME, e.range, &other);
        }
    }
}

pub(super) fn attribute(w: &mut Walk<'_, '_>, e: &ExprAttribute) {
    if e.ctx != ExprContext::Load || !w.scope.attributes.contains(e.attr.as_str()) {
        return;
    }
    for other in opposites(&e.attr) {
        if w.scope.attributes.contains(&other) {
            w.replace(op::OPPOSITE_NAME, e.attr.range, &other);
        }
    }
    if e.value.as_name_expr().is_some_and(|n| n.id == "self") {
        let others = w.scope.attributes.iter();
        let other = others
            .filter(|a| *a != e.attr.as_str() && !a.starts_with("__"))
            .find(|a| {
                // Private and public ones are rarely mixed up.
                a.starts_with('_') == e.attr.starts_with('_')
            });
        if let Some(other) = other.cloned() {
            w.replace(op::SWAP_ATTRIBUTE, e.attr.range, &other);
        }
    }
}

pub(super) fn comprehension(w: &mut Walk<'_, '_>, generators: &[Comprehension]) {
    for generator in generators {
        let mut end = generator.iter.end();
        for test in &generator.ifs {
            condition_of_filter(w, test);
            // From the keyword on, so that parentheses stay in pairs.
            let keyword = w.src.token(end, test.start(), |kind| {
                kind == ruff_python_ast::token::TokenKind::If
            });
            if let Some(keyword) = keyword {
                let outer = w.src.outer(test, generator.into());
                w.replace(
                    op::DROP_FILTER,
                    TextRange::new(keyword.start(), outer.end()),
                    "",
                );
                end = outer.end();
            }
        }
    }
}

fn condition_of_filter(w: &mut Walk<'_, '_>, test: &Expr) {
    let negated = match test {
        Expr::UnaryOp(_) | Expr::Compare(_) => None,
        _ => Some(format!("not {}", w.src.operand(test))),
    };
    if let Some(negated) = negated {
        w.replace(op::NEGATE_FILTER, test.range(), &negated);
    }
    if test.is_bool_op_expr() || test.is_compare_expr() {
        condition(w, test, false);
    }
}

pub(super) fn dict_comprehension(w: &mut Walk<'_, '_>, e: &ExprDictComp) {
    comprehension(w, &e.generators);
    if let Some(key) = &e.key
        && key.is_name_expr()
        && e.value.is_name_expr()
    {
        let range = TextRange::new(key.start(), e.value.end());
        let text = format!("{}: {}", w.src.slice(&*e.value), w.src.slice(&**key));
        w.replace(op::SWAP_KEY_VALUE, range, &text);
    }
}

pub(super) fn await_(w: &mut Walk<'_, '_>, e: &ExprAwait) {
    let value = w.src.operand(&e.value);
    w.replace(op::DROP_AWAIT, e.range, &value);
}

pub(super) fn yield_from(w: &mut Walk<'_, '_>, e: &ExprYieldFrom) {
    let gone = TextRange::new(e.start(), e.value.start());
    if !w.src.slice(gone).contains(['(', '#', '\n', '\\']) {
        w.replace(op::DROP_FROM, gone, "yield ");
    }
}
