use std::collections::{BTreeMap, BTreeSet};

use super::*;

const OLD: &str = "\
import os

LIMIT = 3


def first(x):
    \"\"\"One.\"\"\"
    return x


def second(x):
    return x


class Shape:
    def area(self):
        return 0

    def name(self):
        return 'shape'
";

/// First gets a helper and an import, second another default, one method a
/// new word; the rest is documentation.
const NEW: &str = "\
import os
import re

LIMIT = 3


def _helper(x):
    return re.sub('a', 'b', x)


def first(x):
    \"\"\"The first.\"\"\"
    return _helper(x)


def second(x, more=1):
    return x + more


class Shape:
    # Of a shape.
    def area(self):
        return 0

    def name(self):
        return 'Shape'
";

fn release(old: &str, new: &str, side: Side) -> Release {
    let change = FileChange {
        path: "pkg/mod.py",
        before: Some(old),
        after: Some(new),
    };
    Release::new(&[change], side)
}

fn named(release: &Release, name: &str) -> usize {
    let has = |part: &Part| part.names.iter().any(|n| n == name);
    release.parts.iter().position(has).expect("a part")
}

fn text(release: &Release, parts: &Parts) -> String {
    let mut files = release.files(parts);
    let text = files.remove("pkg/mod.py").expect("a changed file");
    text.expect("a file")
}

fn all(release: &Release) -> Parts {
    (0..release.parts.len()).collect()
}

#[test]
fn all_parts_give_the_new_text_and_none_the_old() {
    for (old, new) in [(OLD, NEW), (NEW, OLD)] {
        for side in [Side::Sources, Side::Tests] {
            let release = release(old, new, side);
            assert_eq!(text(&release, &all(&release)), new);
            assert!(release.files(&Parts::new()).is_empty());
        }
    }
}

#[test]
fn a_part_brings_what_it_needs() {
    let release = release(OLD, NEW, Side::Sources);
    let first = release.closure(&[named(&release, "first")].into());
    let with_first = text(&release, &first);
    assert!(with_first.contains("import re") && with_first.contains("def _helper"));
    assert!(with_first.contains("'shape'") && !with_first.contains("more"));
    let second = release.closure(&[named(&release, "second")].into());
    assert!(text(&release, &second).contains("x + more"));
    assert!(first.is_disjoint(&second));
    let without = release.without(&all(&release), &first);
    assert!(without.is_superset(&second) && without.is_disjoint(&first));
}

#[test]
fn comments_and_docstrings_are_no_change() {
    let release = release(OLD, NEW, Side::Sources);
    assert!(release.parts[named(&release, "Shape.area")].cosmetic);
    assert!(!release.parts[named(&release, "Shape.name")].cosmetic);
    let docs = "def f(x: int = 1) -> int:\n    \"\"\"New.\"\"\"\n    # Same.\n    return x\n";
    let typed = self::release("def f(x=1):\n    return x\n", docs, Side::Sources);
    assert!(typed.live().is_empty());
}

#[test]
fn lines_lead_to_their_part() {
    let release = release(OLD, NEW, Side::Sources);
    let line = 1 + NEW.lines().position(|l| l.contains("def second")).unwrap();
    assert_eq!(
        release.at("pkg/mod.py", line),
        Some(named(&release, "second"))
    );
    let same = 1 + NEW.lines().position(|l| l.contains("LIMIT")).unwrap();
    assert_eq!(release.at("pkg/mod.py", same), None);
    assert_eq!(release.at("pkg/other.py", 1), None);
}

#[test]
fn what_goes_takes_its_users_along() {
    let old = "def _a(x):\n    return x\n\n\ndef f(x):\n    return _a(x)\n\n\ndef g(x):\n    return _a(x)\n";
    let new = old.replace("_a", "_b");
    let release = release(old, &new, Side::Sources);
    // The old helper may stay for g.
    let f = release.closure(&[named(&release, "f")].into());
    let expected = "def _a(x):\n    return x\n\n\ndef _b(x):\n    return x\n\n\ndef f(x):\n    return _b(x)\n\n\ndef g(x):\n    return _a(x)\n";
    assert_eq!(text(&release, &f), expected);
    let gone = release.closure(&[named(&release, "_a")].into());
    assert_eq!(text(&release, &gone), new);
}

#[test]
fn items_of_imports_and_of_all_come_one_by_one() {
    let old = "from .mod import (\n    a,\n    b,\n)\n\n__all__ = ['a', 'b']\n";
    let new =
        "from .mod import (\n    a,\n    b,\n    c,\n    d,\n)\n\n__all__ = ['a', 'b', 'c', 'd']\n";
    let release = release(old, new, Side::Sources);
    let brings = |name: &str| -> Parts {
        let name = names::anywhere(name);
        let brings = |at: &usize| release.parts[*at].brings.contains(&name);
        all(&release).into_iter().filter(brings).collect()
    };
    let c = release.closure(&brings("c"));
    assert_eq!(
        text(&release, &c),
        "from .mod import a, b, c\n\n__all__ = ['a', 'b', 'c']\n"
    );
    assert_eq!(text(&release, &release.live()), new);
}

#[test]
fn tests_that_import_what_is_missing_are_left_out() {
    let sources = release(OLD, NEW, Side::Sources);
    let tests = Release::new(
        &[FileChange {
            path: "tests/test_mod.py",
            before: None,
            after: Some(
                "import pytest\nfrom pkg.mod import first, _helper\n\n\nTABLE = [_helper]\n\n\n\
                 class TestAll:\n    @pytest.mark.parametrize('f', TABLE)\n    def test_table(self, f):\n        assert f\n\n    \
                 def test_first(self):\n        assert first('a') == 'b'\n",
            ),
        }],
        Side::Tests,
    );
    let left = tests.importable(&sources, &Parts::new());
    let text = tests.files(&left)["tests/test_mod.py"].clone().unwrap();
    assert_eq!(
        text,
        "import pytest\nfrom pkg.mod import first\n\n\nclass TestAll:\n\n    def test_first(self):\n        assert first('a') == 'b'\n"
    );
    // A class is nothing without members.
    let head: Parts = [named(&tests, "TestAll")].into();
    let text = tests.files(&head)["tests/test_mod.py"].clone().unwrap();
    assert_eq!(text, "\n\nclass TestAll:\n    pass\n");
    let first = tests.closure(&[named(&tests, "TestAll.test_first")].into());
    assert!(first.contains(&named(&tests, "TestAll")));
    assert!(
        sources
            .named_by(&tests, &all(&tests))
            .contains(&named(&sources, "_helper"))
    );
}

#[test]
fn what_is_no_python_is_one_part() {
    let change = |path, before, after| FileChange {
        path,
        before,
        after,
    };
    let release = Release::new(
        &[
            change("pkg/old.py", Some("print 1\n"), Some("print(1)\n")),
            change("pkg/data.txt", None, Some("a\n")),
            change("pkg/gone.py", Some("def f(): pass\n"), None),
        ],
        Side::Sources,
    );
    assert_eq!(release.parts.len(), 3);
    let files = release.files(&all(&release));
    assert_eq!(files["pkg/gone.py"], None);
    assert_eq!(files["pkg/data.txt"].as_deref(), Some("a\n"));
    assert_eq!(release.files(&[0].into()).len(), 1);
}

/// A release of `n` functions that need nothing of each other.
fn functions(n: usize) -> Release {
    let text = |value: &str| -> String {
        (0..n)
            .map(|i| format!("def f{i}():\n    return {value}\n\n\n"))
            .collect()
    };
    release(&text("0"), &text("1"), Side::Sources)
}

/// Searches where a test passes if all parts that it needs are there.
fn found(release: &Release, needs: &[(&str, &[usize], &[usize])], limits: Limits) -> Found {
    let runs: BTreeMap<String, Parts> = needs
        .iter()
        .map(|(test, runs, _)| ((*test).to_owned(), runs.iter().copied().collect()))
        .collect();
    let question = Question {
        sources: release,
        tests: &runs,
        limits,
    };
    let run = |parts: &Parts| -> Result<Outcome, ()> {
        let passes = |needed: &[usize]| needed.iter().all(|part| parts.contains(part));
        let passed = needs.iter().filter(|(_, _, needed)| passes(needed));
        Ok(Outcome {
            passed: passed.map(|(test, ..)| (*test).to_owned()).collect(),
            harm: false,
        })
    };
    search(&question, run).unwrap()
}

fn groups(found: &Found) -> Vec<(Vec<usize>, Vec<&str>)> {
    let group = |group: &Group| Vec::from_iter(group.parts.iter().copied());
    found
        .groups
        .iter()
        .map(|g| (group(g), g.tests.iter().map(String::as_str).collect()))
        .collect()
}

#[test]
fn independent_changes_are_groups_of_their_own() {
    let release = functions(4);
    let found = found(
        &release,
        &[
            ("a", &[0, 3], &[0]),
            ("b", &[1, 3], &[1]),
            ("b2", &[1], &[1]),
            ("c", &[3], &[3]),
        ],
        Limits::default(),
    );
    assert_eq!(
        groups(&found),
        [
            (vec![0], vec!["a"]),
            (vec![1], vec!["b", "b2"]),
            (vec![3], vec!["c"])
        ]
    );
    assert!(found.runs <= 4, "{}", found.runs);
}

#[test]
fn entangled_changes_are_one_group() {
    let release = functions(4);
    let all: &[usize] = &[0, 1, 2, 3];
    let found = found(
        &release,
        &[
            ("a", all, &[0, 1]),
            ("b", all, &[1, 2]),
            ("c", all, &[0, 2]),
        ],
        Limits::default(),
    );
    // One alone is not enough for any, and each pair overlaps with the others.
    let groups = groups(&found);
    assert_eq!(groups.len(), 1, "{groups:?}");
    assert!(!groups[0].0.contains(&3));
}

#[test]
fn a_test_that_needs_two_groups_is_in_none() {
    let release = functions(2);
    let found = found(
        &release,
        &[
            ("a", &[0], &[0]),
            ("b", &[1], &[1]),
            ("both", &[0, 1], &[0, 1]),
        ],
        Limits::default(),
    );
    assert_eq!(groups(&found), [(vec![0], vec!["a"]), (vec![1], vec!["b"])]);
}

#[test]
fn what_no_trace_tells_is_found_by_leaving_out() {
    let release = functions(8);
    // The test needs a part that it does not run.
    let found = found(&release, &[("a", &[2], &[2, 5])], Limits::default());
    assert_eq!(groups(&found), [(vec![2, 5], vec!["a"])]);
}

#[test]
fn runs_are_bounded_and_not_repeated() {
    let release = functions(40);
    let all: Vec<usize> = (0..40).collect();
    let needs: Vec<(String, Vec<usize>)> = (0..40).map(|i| (format!("t{i}"), vec![i])).collect();
    let needs: Vec<(&str, &[usize], &[usize])> = needs
        .iter()
        .map(|(test, needed)| (test.as_str(), all.as_slice(), needed.as_slice()))
        .collect();
    let limits = Limits {
        runs: 12,
        shrink: 3,
    };
    let found = found(&release, &needs, limits);
    assert!(found.runs <= 12);
    let tests: Vec<&String> = found.groups.iter().flat_map(|g| &g.tests).collect();
    let once: BTreeSet<&&String> = tests.iter().collect();
    assert_eq!(tests.len(), once.len());
}

#[test]
fn parts_that_break_other_tests_do_not_count() {
    let release = functions(2);
    let tests: BTreeMap<String, Parts> = [("a".to_owned(), [0, 1].into())].into();
    let question = Question {
        sources: &release,
        tests: &tests,
        limits: Limits::default(),
    };
    let found = search(&question, |parts: &Parts| -> Result<Outcome, ()> {
        Ok(Outcome {
            passed: tests.keys().cloned().collect(),
            harm: parts.len() == 1,
        })
    });
    assert_eq!(groups(&found.unwrap()), [(vec![0, 1], vec!["a"])]);
}
