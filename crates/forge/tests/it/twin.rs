//! Twin mutants of the tests in `fixtures/twin`, and laws.

use std::fs;

use serde_json::Value;
use swegym_forge::mutate::functions;
use swegym_forge::twin::{Kind, TestAlternatives, alternatives, compose};

use crate::fixture;

struct Case {
    name: String,
    path: String,
    text: String,
    tests: Vec<String>,
}

fn cases() -> Vec<Case> {
    ["numpy_and_sympy", "pytest", "unittest"]
        .map(|name| {
            let dir = fixture("twin");
            let json = fs::read(dir.join(format!("{name}.json"))).expect("a case");
            let json: Value = serde_json::from_slice(&json).expect("JSON");
            Case {
                name: name.to_owned(),
                path: json["path"].as_str().expect("a path").to_owned(),
                text: fs::read_to_string(dir.join(format!("{name}.py"))).expect("a test file"),
                tests: serde_json::from_value(json["tests"].clone()).expect("ids"),
            }
        })
        .into()
}

fn show(text: &str, test: &TestAlternatives) -> String {
    let mut out = format!("{} -> {:?}\n", test.test, test.function);
    if let Some(reason) = &test.reason {
        out += &format!("  none: {reason}\n");
    }
    for alternative in &test.alternatives {
        out += &format!("  {:?} line {}\n", alternative.kind, alternative.line);
        let new = compose(text, [alternative]).expect("fits");
        for (old, new) in text.lines().zip(new.lines()).filter(|(a, b)| a != b) {
            out += &format!("    - {}\n    + {}\n", old.trim(), new.trim());
        }
    }
    out
}

#[test]
fn alternatives_of_the_fixtures() {
    for case in cases() {
        let all = alternatives(&case.path, &case.text, &case.tests, 0).expect("readable");
        let shown: String = all.iter().map(|t| show(&case.text, t)).collect();
        insta::with_settings!({
            snapshot_path => fixture("twin"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!(case.name, shown); });
    }
}

#[test]
fn twins_keep_functions_and_lines_and_are_the_same_again() {
    for case in cases() {
        for seed in 0..5 {
            let all = alternatives(&case.path, &case.text, &case.tests, seed).expect("readable");
            let again = alternatives(&case.path, &case.text, &case.tests, seed).expect("readable");
            assert_eq!(all, again);
            let names = |text: &str| -> Vec<(String, usize)> {
                let all = functions(text).expect("readable");
                all.into_iter().map(|f| (f.id, f.line)).collect()
            };
            for alternative in all.iter().flat_map(|t| &t.alternatives) {
                let new = compose(&case.text, [alternative]).expect("fits");
                assert_ne!(new, case.text);
                assert_eq!(names(&new), names(&case.text));
                assert_eq!(new.lines().count(), case.text.lines().count());
            }
            let firsts = all.iter().filter_map(|t| t.alternatives.first());
            let new = compose(&case.text, firsts).expect("first choices go together");
            assert_eq!(names(&new), names(&case.text));
        }
    }
}

#[test]
fn ids_are_frozen_only_where_they_are_certain() {
    let parameter = |rows: &str, ids: &[&str]| -> Option<String> {
        let text = format!(
            "import pytest\n\n@pytest.mark.parametrize(\"x, want\", {rows})\ndef test_a(x, want):\n    assert f(x) == want\n"
        );
        let ids: Vec<String> = ids.iter().map(|id| format!("t.py::test_a[{id}]")).collect();
        let all = alternatives("t.py", &text, &ids, 0).expect("readable");
        let list = &all[0].alternatives;
        let found = list.iter().find(|a| a.kind == Kind::Parameter)?;
        let new = compose(&text, [found]).expect("fits");
        Some(new.lines().nth(2).expect("a decorator").to_owned())
    };
    let certain = [
        ("[(1, 2), (-3, 4.5)]", &["1-2", "-3-4.5"][..]),
        ("[('a b', None), (True, [1])]", &["a b-None", "True-want1"]),
        ("[(1, 2)], ids=['one']", &["one"]),
        ("[pytest.param(1, 2, id='z'), (3, 4)]", &["z", "3-4"]),
        ("([1, 2], [3, 4],)", &["1-2"]),
        ("((((1, 2), (3, 4))))", &["1-2", "3-4"]),
        ("[('it\"s', 2)]", &["it\"s-2"]),
    ];
    let shown: Vec<String> = certain
        .iter()
        .map(|(rows, ids)| parameter(rows, ids).unwrap_or_else(|| panic!("{rows}")))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r##"
    @pytest.mark.parametrize("x, want", [(1, 3), (-3, 10.0)], ids=["1-2", "-3-4.5"])
    @pytest.mark.parametrize("x, want", [('a b', False), (True, [2])], ids=["a b-None", "True-want1"])
    @pytest.mark.parametrize("x, want", [(1, 3)], ids=['one'])
    @pytest.mark.parametrize("x, want", [pytest.param(1, 3, id='z'), (3, 5)], ids=["z", "3-4"])
    @pytest.mark.parametrize("x, want", ([1, 3], [3, 5],), ids=["1-2", "3-4"])
    @pytest.mark.parametrize("x, want", ((((1, 3), (3, 5)))), ids=["1-2", "3-4"])
    @pytest.mark.parametrize("x, want", [('it"s', 3)], ids=['it"s-2'])
    "##);
    for (rows, ids) in [
        ("[(1, 2), (1, 2)]", &["1-20", "1-21"][..]),
        ("[(1e3, 2)]", &["1000.0-2"]),
        ("[('é', 2)]", &["\\xe9-2"]),
        ("[(Enum.A, 2)]", &["Enum.A-2"]),
        ("[(1, 2)], ids=str", &["1-2"]),
        ("[(1, 2)], indirect=True", &["1-2"]),
        ("[(1, 2)]", &["other"]),
        ("[(1, x)]", &["1-2"]),
        ("[(x, 1) for x in range(3)]", &["1-1"]),
    ] {
        assert_eq!(parameter(rows, ids), None, "{rows}");
    }
}
