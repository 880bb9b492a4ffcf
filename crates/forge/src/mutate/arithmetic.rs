//! Binary operators.

use ruff_python_ast::{AnyNodeRef, Expr, ExprBinOp, Operator};
use ruff_text_size::{Ranged, TextRange};

use super::operators as op;
use super::walk::Walk;

pub(super) fn binary(w: &mut Walk<'_, '_>, e: &ExprBinOp) {
    // Formatting; the parts are left to their own operators.
    if e.op == Operator::Mod && is_text(&e.left) {
        return;
    }
    let parent = AnyNodeRef::from(e);
    let left = w.src.outer(&e.left, parent);
    let right = w.src.outer(&e.right, parent);
    let sequence = [&e.left, &e.right].iter().any(|side| holds_sequence(side));
    if !sequence && let Some(range) = w.src.between(left.end(), right.start()) {
        for other in others(e.op) {
            w.replace(op::SWAP_ARITHMETIC, range, other);
        }
    }
    if matches!(
        e.op,
        Operator::Sub | Operator::Div | Operator::FloorDiv | Operator::Mod | Operator::Pow
    ) || sequence && e.op == Operator::Add
    {
        let swapped = format!(
            "{} {} {}",
            w.src.operand(&e.right),
            e.op.as_str(),
            w.src.operand(&e.left)
        );
        w.replace(op::SWAP_OPERANDS, e.range(), &swapped);
    }
    if e.op != Operator::MatMult {
        w.replace(
            op::DROP_OPERAND,
            TextRange::new(left.end(), right.end()),
            "",
        );
        let second = w.src.operand(&e.right);
        w.replace(op::DROP_OPERAND, e.range(), &second);
    }
}

fn others(operator: Operator) -> &'static [&'static str] {
    match operator {
        Operator::Add => &["-"],
        Operator::Sub => &["+"],
        Operator::Mult => &["+", "/"],
        Operator::Div => &["//", "*"],
        Operator::FloorDiv => &["/", "%"],
        Operator::Mod => &["//", "+"],
        Operator::Pow => &["*"],
        Operator::LShift => &[">>"],
        Operator::RShift => &["<<"],
        Operator::BitOr => &["&", "^"],
        Operator::BitAnd => &["|"],
        Operator::BitXor => &["|"],
        Operator::MatMult => &[],
    }
}

fn is_text(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::StringLiteral(_) | Expr::BytesLiteral(_) | Expr::FString(_) | Expr::TString(_)
    )
}

/// Whether a chain of operators holds a literal text, list or tuple: only `+`
/// and `*` are defined.
fn holds_sequence(expr: &Expr) -> bool {
    match expr {
        Expr::BinOp(e) => holds_sequence(&e.left) || holds_sequence(&e.right),
        Expr::List(_) | Expr::Tuple(_) | Expr::ListComp(_) => true,
        Expr::Call(call) => {
            let name = crate::python::last_name(&call.func);
            matches!(
                name,
                Some("str" | "repr" | "join" | "format" | "list" | "tuple")
            )
        }
        other => is_text(other),
    }
}
