//! Issue texts, and that they never show the fix.

use proptest::prelude::*;
use swegym_forge::symptom::{Facts, SymptomError, Templates, render};

const ORIGINAL: &str =
    "def first(items):\n    if not items:\n        return None\n    return items[0] + offset\n";
const MUTATED: &str =
    "def first(items):\n    if not items:\n        return None\n    return items[1] + offset\n";
const TEST: &str = "def test_first():\n    got = first([3])\n    assert got == 3\n";

const PYTEST_LONG: &str = "\
=================================== FAILURES ===================================
__________________________________ test_first __________________________________

    def test_first():
>       got = first([3])

tests/test_it.py:5: 
_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

items = [3]

    def first(items):
        if not items:
            return None
>       return items[1] + offset
E       IndexError: list index out of range

pkg/core.py:4: IndexError
=========================== short test summary info ============================
FAILED tests/test_it.py::test_first - IndexError: list index out of range
";

const NATIVE: &str = "\
Traceback (most recent call last):
  File \"/testbed/tests/test_it.py\", line 5, in test_first
    got = first([3])
          ^^^^^^^^^^
  File \"/testbed/pkg/core.py\", line 4, in first
    return items[1] + offset
           ~~~~~^^^
IndexError: list index out of range at 0x7f33deadbeef
";

const SHORT: &str = "\
tests/test_it.py:5: in test_first
    got = first([3])
pkg/core.py:4: in first
    return items[1] + offset
E   IndexError: list index out of range
";

fn facts<'a>(log: &'a str, tests: &'a [String]) -> Facts<'a> {
    Facts {
        package: "pkg",
        tests,
        log,
        test_source: Some(TEST),
        path: "pkg/core.py",
        root: "/testbed",
        original: ORIGINAL,
        mutated: MUTATED,
    }
}

#[test]
fn every_template_tells_the_symptom() {
    let tests = ["tests/test_it.py::test_first".to_owned()];
    let templates = Templates::embedded();
    let mut shown = String::new();
    for name in templates.names() {
        for log in [PYTEST_LONG, NATIVE, SHORT] {
            let all = Templates::embedded();
            let one = include_template(&all, name);
            let symptom = render(&facts(log, &tests), 0, &one).expect("a text");
            assert!(symptom.text.contains("IndexError"), "{}", symptom.text);
            assert!(!symptom.text.contains("offset"), "{}", symptom.text);
            assert!(!symptom.text.contains("core.py:4"), "{}", symptom.text);
            assert!(!symptom.text.contains("line 4"), "{}", symptom.text);
            shown += &format!("=== {name}\n{}", symptom.text);
        }
    }
    insta::assert_snapshot!("symptoms", shown);
}

fn include_template(all: &Templates, name: &str) -> Templates {
    all.clone().retain(|n| n == name)
}

#[test]
fn a_template_of_the_user_takes_its_place_and_errors_are_named() {
    let tests = ["t.py::test_a".to_owned()];
    let own = |text: &str| Templates::only([("mine".to_owned(), text.to_owned())]);
    let facts = facts(SHORT, &tests);
    let symptom = render(&facts, 9, &own("{{ package }}: {{ exception }}")).expect("a text");
    assert_eq!(
        (symptom.text.as_str(), symptom.template.as_str()),
        ("pkg: IndexError\n", "mine")
    );
    let error = render(&facts, 9, &own("{{ pakage }}")).expect_err("unknown");
    assert!(error.to_string().contains("mine"), "{error}");
    let leak = render(&facts, 9, &own("try return items[0] + offset"));
    assert!(matches!(leak, Err(SymptomError::Leak(_))));
    let silent = Facts {
        log: "all is well\n",
        ..facts
    };
    assert!(matches!(
        render(&silent, 0, &Templates::embedded()),
        Err(SymptomError::NothingSeen)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the log is made of, in whatever order.
    #[test]
    fn no_text_shows_a_line_of_the_fix(
        lines in prop::collection::vec(prop::sample::select(
            [PYTEST_LONG, NATIVE, SHORT, MUTATED, ORIGINAL]
                .iter().flat_map(|log| log.lines()).collect::<Vec<_>>()), 0..40),
        seed in 0..20u64,
        glue in prop::sample::select(vec!["\n", "\r\n", " "]),
    ) {
        let tests = ["tests/test_it.py::test_first".to_owned()];
        let log = lines.join(glue);
        if let Ok(symptom) = render(&facts(&log, &tests), seed, &Templates::embedded()) {
            prop_assert!(!symptom.text.contains("return items[1] + offset"));
            prop_assert!(!symptom.text.contains("return items[0] + offset"));
        }
    }
}
