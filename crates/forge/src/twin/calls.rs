//! Calls that check: unittest, numpy, Django, mock, pytest and SymPy.

use ruff_python_ast::{Expr, ExprCall};
use ruff_text_size::Ranged;

use super::Kind;
use super::assertions::Offers;
use super::truth::{equal, expected, holds, named};
use super::values::{bump, is_pure};
use crate::python::{Edit, last_name};

/// Methods and what asserts the opposite.
const OPPOSITES: &[(&str, &str)] = &[
    ("assertEqual", "assertNotEqual"),
    ("assertEquals", "assertNotEqual"),
    ("assertNotEqual", "assertEqual"),
    ("assertAlmostEqual", "assertNotAlmostEqual"),
    ("assertNotAlmostEqual", "assertAlmostEqual"),
    ("assertTrue", "assertFalse"),
    ("assert_", "assertFalse"),
    ("assertFalse", "assertTrue"),
    ("assertIs", "assertIsNot"),
    ("assertIsNot", "assertIs"),
    ("assertIsNone", "assertIsNotNone"),
    ("assertIsNotNone", "assertIsNone"),
    ("assertIn", "assertNotIn"),
    ("assertNotIn", "assertIn"),
    ("assertIsInstance", "assertNotIsInstance"),
    ("assertNotIsInstance", "assertIsInstance"),
    ("assertGreater", "assertLessEqual"),
    ("assertLessEqual", "assertGreater"),
    ("assertLess", "assertGreaterEqual"),
    ("assertGreaterEqual", "assertLess"),
    ("assertRegex", "assertNotRegex"),
    ("assertNotRegex", "assertRegex"),
    ("assertContains", "assertNotContains"),
    ("assertNotContains", "assertContains"),
    ("assertTemplateUsed", "assertTemplateNotUsed"),
    ("assertTemplateNotUsed", "assertTemplateUsed"),
    ("assertHTMLEqual", "assertHTMLNotEqual"),
    ("assertHTMLNotEqual", "assertHTMLEqual"),
    ("assertXMLEqual", "assertXMLNotEqual"),
    ("assertXMLNotEqual", "assertXMLEqual"),
    ("assertJSONEqual", "assertJSONNotEqual"),
    ("assertJSONNotEqual", "assertJSONEqual"),
    ("assert_called", "assert_not_called"),
    ("assert_called_once", "assert_not_called"),
    ("assert_not_called", "assert_called"),
    ("assert_awaited", "assert_not_awaited"),
    ("assert_awaited_once", "assert_not_awaited"),
    ("assert_not_awaited", "assert_awaited"),
];

/// Classes that no test of a package is likely to raise.
const EXCEPTIONS: [&str; 4] = [
    "ZeroDivisionError",
    "BufferError",
    "EOFError",
    "RecursionError",
];

/// Categories that no package is likely to warn with.
const WARNINGS: [&str; 3] = ["BytesWarning", "ImportWarning", "UnicodeWarning"];

/// Whether a call expects an exception or a warning.
pub(super) fn is_raises(call: &ExprCall) -> bool {
    is_raising(last_name(&call.func).unwrap_or_default())
}

fn is_raising(name: &str) -> bool {
    let compact = name.replace('_', "").to_ascii_lowercase();
    matches!(name, "raises" | "warns")
        || compact.starts_with("assertraises")
        || compact.starts_with("assertwarns")
        || compact.starts_with("raisesregex")
}

/// Whether a call checks something.
pub(super) fn is_check(call: &ExprCall) -> bool {
    let name = last_name(&call.func).unwrap_or_default();
    is_raises(call) || is_equality(name) || is_helper(name)
}

fn is_helper(name: &str) -> bool {
    let name = name.trim_start_matches('_').to_ascii_lowercase();
    [
        "assert", "check", "verify", "expect", "ensure", "validate", "compare",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
        || name == "test"
        || name == "ok_"
        || name.starts_with("test_")
        || name == "fail_unless"
}

fn is_equality(name: &str) -> bool {
    let compact = name.replace('_', "").to_ascii_lowercase();
    name == "eq_"
        || compact.starts_with("assert")
            && !compact.contains("not")
            && !compact.contains("greater")
            && !compact.contains("less")
            && (compact.contains("equal")
                || compact.contains("allclose")
                || compact.contains("almost")
                || compact.contains("identical")
                || compact.ends_with("asserteq")
                || compact.ends_with("close"))
}

/// Offers for a call that checks; nothing for any other.
pub(super) fn check(o: &mut Offers<'_, '_, '_, '_>, e: &ExprCall) {
    let test = o.test;
    let name = test.method(last_name(&e.func).unwrap_or_default());
    if is_raising(name) {
        return raises(o, e, name);
    }
    let args = &*e.arguments.args;
    if is_equality(name) {
        match args {
            [one, two, ..] => {
                let unittest = name.starts_with("assert") && !name.contains('_');
                equal(o, one, two, unittest);
                if !unittest {
                    shifted(o, two);
                }
            }
            _ => helper(o, e),
        }
    } else {
        match (name, args) {
            // numpy's and nose's, which have no opposite.
            ("assert_" | "assert_true" | "ok_", [test, ..]) if e.func.is_name_expr() => {
                holds(o, test);
            }
            // Only what is within: the method itself is flipped below.
            (
                "assertTrue" | "assert_",
                [
                    test @ (Expr::Compare(_) | Expr::BoolOp(_) | Expr::UnaryOp(_)),
                    ..,
                ],
            ) => holds(o, test),
            ("assertTrue" | "assert_", _) => {}
            ("assertFalse" | "assertIsNone" | "assertIsNotNone", _) => {}
            ("assertIn" | "assertIs" | "assertRegex", [one, two, ..]) => {
                let want = if name == "assertIn" { one } else { two };
                expected(o, want);
            }
            _ if is_helper(name) && !name.contains("Not") && !name.contains("not_") => helper(o, e),
            _ => {}
        }
    }
    if let Some((_, other)) = OPPOSITES.iter().find(|(one, _)| *one == name)
        && let Expr::Attribute(method) = &*e.func
        && !(name.starts_with("assert_") && name.len() > 7 && !args.is_empty())
    {
        let edit = Edit::new(method.attr.range.to_std_range(), *other);
        o.offer(Kind::Flipped, vec![edit]);
    }
}

/// A value of an array and one more are not equal.
fn shifted(o: &mut Offers<'_, '_, '_, '_>, want: &Expr) {
    if is_pure(want) {
        return;
    }
    let operand = o.test.src.operand(want);
    let range = want.range().to_std_range();
    for text in [format!("{operand} + 1"), format!("[{operand}, None]")] {
        o.offer(Kind::Wrapped, vec![Edit::new(range.clone(), text)]);
    }
}

/// Literals passed to a helper; the last arguments are likely the expected
/// ones.
fn helper(o: &mut Offers<'_, '_, '_, '_>, e: &ExprCall) {
    let args = &e.arguments.args;
    let keywords = e.arguments.keywords.iter().map(|k| &k.value);
    let first_last = args.iter().rev().chain(keywords);
    for argument in first_last.take(3) {
        let edits = bump(o.test.src, argument, o.seed);
        o.offer_each(Kind::Helper, edits);
        named(o, argument);
    }
    if let [_, .., last @ Expr::Name(_)] = &**args {
        let text = format!("({}, None)", o.test.src.slice(last));
        let edit = Edit::new(last.range().to_std_range(), text);
        o.offer(Kind::Wrapped, vec![edit]);
    }
}

fn raises(o: &mut Offers<'_, '_, '_, '_>, e: &ExprCall, name: &str) {
    let compact = name.replace('_', "").to_ascii_lowercase();
    let message = (e.arguments.keywords.iter())
        .find(|k| {
            k.arg.as_ref().is_some_and(|name| {
                matches!(
                    name.as_str(),
                    "match" | "expected_message" | "expected_regex" | "expected_regexp"
                )
            })
        })
        .map(|k| &k.value)
        .or_else(|| {
            let second = compact.contains("regex") || compact.contains("message");
            e.arguments.args.get(1).filter(|_| second)
        });
    if let Some(message) = message {
        let edits = bump(o.test.src, message, o.seed);
        o.offer_each(Kind::Message, edits);
        named(o, message);
    }
    let Some(class) = e.arguments.args.first() else {
        return;
    };
    if class.is_name_expr()
        && let Some(edits) = o.test.parameter(o.test.src.slice(class), o.seed)
    {
        o.offer(Kind::Parameter, edits);
    }
    let others: &[&str] = if compact.contains("warn") {
        &WARNINGS
    } else {
        &EXCEPTIONS
    };
    let text = o.test.src.slice(class);
    let start = o.seed % others.len();
    let rotated = others[start..].iter().chain(&others[..start]);
    let mut edits: Vec<Edit> = rotated
        .filter(|other| !text.contains(**other))
        .map(|other| Edit::new(class.range().to_std_range(), *other))
        .collect();
    edits.truncate(2);
    if text.contains('\n') {
        edits.clear();
    }
    o.offer_each(Kind::Class, edits);
}
