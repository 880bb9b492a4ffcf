//! Mutations of the modules in `fixtures/mutate`, and laws.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;
use swegym_forge::mutate::{
    Family, Mutation, Operators, Options, combine, function_context, functions, mutations, rewrite,
    sample,
};

use crate::fixture;

fn sources() -> Vec<(String, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(fixture("mutate")).expect("fixtures/mutate") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|e| e == "py") {
            let name = path.file_stem().expect("a name").to_string_lossy();
            let text = fs::read_to_string(&path).expect("UTF-8");
            out.push((name.into_owned(), text));
        }
    }
    out.sort();
    out
}

/// What a mutation does, as the lines that go and come.
fn show(text: &str, mutation: &Mutation) -> String {
    let new = mutation.apply(text).expect("fits");
    let (old, new): (Vec<&str>, Vec<&str>) = (text.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let same = old.iter().rev().zip(new.iter().rev());
    let tail = same.take_while(|(a, b)| a == b).count().min(rest);
    let change = &mutation.changes[0];
    let mut out = format!(
        "{} {} line {}: {}\n",
        change.operator, change.function, change.line, change.description
    );
    for line in &old[head..old.len() - tail] {
        out += &format!("  - {line}\n");
    }
    for line in &new[head..new.len() - tail] {
        out += &format!("  + {line}\n");
    }
    out
}

#[test]
fn mutations_of_the_fixtures() {
    for (name, text) in sources() {
        let mut all = mutations(&text, &Operators::default()).expect("readable");
        all.sort_by(|a, b| {
            let key = |m: &Mutation| (m.changes[0].operator.clone(), m.edits.clone());
            key(a).cmp(&key(b))
        });
        let shown: String = all.iter().map(|m| show(&text, m)).collect();
        insta::with_settings!({
            snapshot_path => fixture("mutate"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!(name, shown); });
    }
}

#[test]
fn useless_functions_say_why() {
    let text = "\
import abc
class A(abc.ABC):
    @abc.abstractmethod
    def a(self): x = 1
    @overload
    def b(self, x: int) -> int: ...
    def b(self, x):
        'Doc.'
        raise NotImplementedError
    @property
    def c(self): return self._c
    def d(self):
        def inner(x):  # pragma: no cover
            return x + 1
        return inner
    async def e(self): return 1
";
    let shown: Vec<String> = functions(text)
        .expect("readable")
        .iter()
        .map(|f| format!("{} {:?}", f.id, f.useless))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r##"
    A.a Some(Abstract)
    A.b Some(Overload)
    A.b#2 Some(Stub)
    A.c Some(Accessor)
    A.d None
    A.d.<locals>.inner Some(NotCovered)
    A.e None
    "##);
}

#[test]
fn what_no_mutation_touches() {
    let (_, text) = sources()
        .into_iter()
        .find(|(n, _)| n == "operators")
        .expect("there");
    let kept = [
        "\"\"\"Module docstring.\"\"\"",
        "__all__ = [\"clamp\", \"Reader\"]",
        "    def only_for_checkers(x: int = 1) -> int:",
        "    \"\"\"Clamp x, 0 to 10.\"\"\"",
        "    log.debug(\"clamp %d\", x + 1)  # a comment that stays",
        "        assert part, \"part is %r\" % part",
        "    @property",
    ];
    for mutation in mutations(&text, &Operators::default()).expect("readable") {
        // A body that is gone as a whole takes its parts along.
        if ["drop_body", "drop_if"].contains(&mutation.changes[0].operator.as_str()) {
            continue;
        }
        let new = mutation.apply(&text).expect("fits");
        for line in kept {
            assert!(new.lines().any(|l| l == line), "{:?}", mutation.changes);
        }
    }
}

#[test]
fn families_are_chosen_by_name() {
    let operators = Operators::parse("boundary, slice").expect("known");
    let (_, text) = sources()
        .into_iter()
        .find(|(n, _)| n == "operators")
        .expect("there");
    let families: BTreeSet<Family> = mutations(&text, &operators)
        .expect("readable")
        .iter()
        .map(|m| m.changes[0].family)
        .collect();
    assert_eq!(families, BTreeSet::from([Family::Boundary, Family::Slice]));
    let error = Operators::parse("boundary,slices").expect_err("unknown");
    assert!(
        error.contains("`slices`") && error.contains("slice,"),
        "{error}"
    );
}

#[test]
fn a_draw_depends_on_nothing_else_in_the_file() {
    let options = Options::default();
    for (name, text) in sources() {
        let first = sample(&name, &text, &options, |_| true).expect("readable");
        let moved = format!("import os\n\n\n{text}\n\ndef unrelated(x):\n    return x + 1\n");
        let again = sample(&name, &moved, &options, |f| f.id != "unrelated").expect("readable");
        let ids = |all: &[Mutation]| all.iter().map(|m| m.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&first), ids(&again));
        let other = Options {
            seed: 1,
            ..options.clone()
        };
        let other = sample(&name, &text, &other, |_| true).expect("readable");
        assert_ne!(ids(&first), ids(&other));
    }
}

#[test]
fn combinations_hold_several_changes() {
    let (name, text) = sources().pop().expect("there");
    let options = Options {
        per_function: 8,
        ..Options::default()
    };
    let single = sample(&name, &text, &options, |_| true).expect("readable");
    let joined = combine(&name, &text, &single, 6, 3);
    assert_eq!(joined, combine(&name, &text, &single, 6, 3));
    assert!(!joined.is_empty());
    for mutation in &joined {
        assert!((2..=3).contains(&mutation.changes.len()));
        assert!((1..=2).contains(&mutation.functions.len()));
        functions(&mutation.apply(&text).expect("fits")).expect("parses");
    }
}

#[test]
fn a_function_is_taken_out_and_put_back() {
    let text = "class A:\n    x = 1\n\n    def f(self, a):\n        '''Doc\n        more.'''\n        return a\n\n    def g(self): pass\n";
    let context = function_context(text, "A.f").expect("there");
    assert_eq!(context.around, ["class A:"]);
    assert_eq!(context.source.lines().next(), Some("def f(self, a):"));
    let source = context.source.replace("return a", "return a + 1");
    let mutation = rewrite(text, "A.f", &source, "m").expect("fits");
    let new = mutation.apply(text).expect("fits");
    assert_eq!(new, text.replace("return a\n", "return a + 1\n"));
    assert_eq!(mutation.functions, ["A.f"]);
    assert_eq!(mutation.changes[0].family, Family::Rewrite);
    for (source, wanted) in [
        (context.source.as_str(), "the old one"),
        ("def f(self, b):\n    return b", "parameters"),
        ("def h(self, a):\n    return a", "`h`"),
        ("x = 1", "not one function"),
        (
            "def f(self, a):\n    return 1\nimport os",
            "not one function",
        ),
        ("def f(self, a:", "not one function"),
        ("def f(self, a):\n    return 2", "docstring"),
    ] {
        let error = rewrite(text, "A.f", source, "m")
            .expect_err(source)
            .to_string();
        assert!(error.contains(wanted), "{error}");
    }
    assert!(rewrite(text, "A.h", "def h(): pass", "m").is_err());
}

#[test]
fn a_rewritten_function_keeps_its_own_comments_only() {
    let text = "def f(a):\n    # Known.\n    return a  # also known\n\n\nx = 1\n";
    let source = "def f(a):  # BUG: off by one\n    # Known.\n    # The bug:\n    b = '# no comment'\n    \
                  return a + 1  # also known\n";
    let mutation = rewrite(text, "f", source, "m").expect("fits");
    assert_eq!(
        mutation.apply(text).expect("fits"),
        "def f(a):\n    # Known.\n    b = '# no comment'\n    return a + 1  # also known\n\n\nx = 1\n"
    );
    // Nothing but a comment is no change.
    let source = text.replace("return a ", "return a # here\n    ");
    let (function, _) = source.split_once("\n\n\n").expect("two parts");
    assert!(rewrite(text, "f", function, "m").is_err());
}

#[test]
fn what_cannot_be_read_is_skipped_with_a_reason() {
    let deep = format!("x = {}1{}\n", "(".repeat(9000), ")".repeat(9000));
    for text in ["print 'old'\n", "def f(:\n", deep.as_str()] {
        let result = functions(text).map(|f| f.len());
        if let Err(reason) = &result {
            assert!(!reason.to_string().is_empty());
        }
    }
    assert!(functions("print 'old'\n").is_err());
    assert!(functions("x = not not x\n").is_ok_and(|f| f.is_empty()));
}

#[test]
fn functions_of_one_text_have_mutations_of_their_own() {
    let text = "class A:\n    def f(self):\n        return self.x > 1\n\n\n\
                class B:\n    def f(self):\n        return self.x > 1\n";
    let mutants = mutations(text, &Operators::default()).expect("readable");
    let of = |name: &str| -> BTreeSet<String> {
        let own = mutants.iter().filter(|m| m.functions == [name]);
        own.map(|m| m.id.clone()).collect()
    };
    assert!(!of("A.f").is_empty());
    assert_eq!(of("A.f").len(), of("B.f").len());
    assert!(of("A.f").is_disjoint(&of("B.f")));
}

/// Small functions made of parts that meet every operator.
fn module() -> impl Strategy<Value = String> {
    let expr = prop_oneof![
        Just("a + b * 2"),
        Just("a[1:-1]"),
        Just("(a, b)"),
        Just("not a"),
        Just("f(a, b, key=1)"),
        Just("a if b else None"),
        Just("[x for x in a if x > 1]"),
        Just("'t\\n' + a.strip()"),
        Just("(a\n    and b\n    or 1)"),
        Just("a is not None"),
        Just("lambda q, w=1: q < w"),
        Just("{**a, 'k': [1, 2.5, -3]}"),
        Just("f'{a!r:>{b}} x'"),
        Just("a < b <= 10"),
        Just("sorted(a, key=len)[0]"),
        Just("(b := a) + 1"),
        Just("\"é\" * a"),
        Just("range(1, a + 1)"),
    ];
    let stmt = (expr, 0..9u8).prop_map(|(e, kind)| match kind {
        0 => format!("    a = {e}\n"),
        1 => format!("    if {e}:\n        a = 1\n    else: b = 2\n"),
        2 => format!("    for i in range(3):\n        a += {e}\n        if a: continue\n"),
        3 => format!(
            "    try:\n        a = {e}\n    except (KeyError, ValueError):\n        raise\n"
        ),
        4 => format!("    a.append({e}); b = 1  # é\n"),
        5 => format!("    with a as b: b({e})\n"),
        6 => format!("    return {e}\n"),
        7 => format!("    while a > 1:\n        a -= 1; b = {e}\n        break\n"),
        _ => format!("    def inner(c):\n        return {e}\n"),
    });
    let body = prop::collection::vec(stmt, 1..6);
    (body, any::<bool>(), any::<bool>()).prop_map(|(body, crlf, method)| {
        let text = format!("def g(a, b=1, *, f=len):\n{}", body.concat());
        let text = if method {
            let lines: Vec<String> = text.lines().map(|l| format!("    {l}\n")).collect();
            format!("class A:\n    y = 1\n\n{}", lines.concat())
        } else {
            text
        };
        let text = format!("# é\nimport os\n{text}\nZ = 3\n");
        if crlf {
            text.replace('\n', "\r\n")
        } else {
            text
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutants_parse_and_differ_within_the_function_only(text in module(), seed in 0..4u64) {
        let all = functions(&text).expect("readable");
        let mutants = mutations(&text, &Operators::default()).expect("readable");
        let ids: BTreeSet<&String> = mutants.iter().map(|m| &m.id).collect();
        prop_assert_eq!(ids.len(), mutants.len());
        for mutant in &mutants {
            let new = mutant.apply(&text).expect("fits");
            prop_assert!(new != text);
            prop_assert!(functions(&new).is_ok(), "{}", new);
            let owner = all.iter().find(|f| f.id == mutant.functions[0]).expect("known");
            let before: Vec<&str> = text.split_inclusive('\n').take(owner.first_line - 1).collect();
            let after: Vec<&str> = text.split_inclusive('\n').skip(owner.last_line).collect();
            prop_assert!(new.starts_with(&before.concat()));
            prop_assert!(new.ends_with(&after.concat()));
        }
        let options = Options { seed, per_function: 5, ..Options::default() };
        let drawn = sample("m.py", &text, &options, |_| true).expect("readable");
        prop_assert_eq!(&drawn, &sample("m.py", &text, &options, |_| true).expect("readable"));
        prop_assert!(drawn.iter().all(|m| ids.contains(&m.id)));
    }
}
