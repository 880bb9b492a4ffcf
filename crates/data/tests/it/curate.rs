//! Curation: rules one by one, laws, and real rows where they are present.

use std::collections::BTreeSet;

use proptest::prelude::*;
use swegym_core::{Instance, TestIds};
use swegym_data::curate::{
    DEFAULT_THRESHOLD, Dedup, DedupRules, Difficulty, LeakKind, Leaks, LiteRule, RepoSplitter,
    SameBecause, SplitSide, lite, measure, project,
};
use swegym_data::patch::Patch;
use swegym_data::{Dataset, Result};

use crate::shared;

const WORDS: &str = "The reader of the table loses the last row whenever the file does not end \
    with a newline and the table has a header that spans more than one line of the file so that \
    the count of the rows is wrong by one in the end and nothing is said about it";

fn diff(path: &str, old: &str, new: &str) -> String {
    let side = |sign: char, text: &str| -> String {
        let lines = text.lines().map(|l| format!("{sign}{l}\n"));
        lines.collect()
    };
    let (before, after) = (old.lines().count(), new.lines().count());
    format!(
        "diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1,{before} +1,{after} @@\n{}{}",
        side('-', old),
        side('+', new)
    )
}

fn instance(id: &str, repo: &str, patch: &str) -> Instance {
    Instance {
        instance_id: id.to_owned(),
        repo: repo.to_owned(),
        patch: patch.to_owned(),
        test_patch: diff("tests/test_a.py", "assert f() == 1", "assert f() == 2"),
        problem_statement: WORDS.to_owned(),
        fail_to_pass: TestIds(vec!["tests/test_a.py::test_f".to_owned()]),
        ..Instance::default()
    }
}

fn body(name: &str, lines: usize) -> String {
    let lines = (0..lines).map(|n| format!("    {name}_{n} = call_{n}({name}, {n})\n"));
    format!("def {name}(x):\n{}", lines.collect::<String>())
}

#[test]
fn each_rule_of_lite_has_its_row() {
    let good = instance("a", "acme/pkg", &diff("pkg/a.py", "a = 1", "a = 2"));
    assert_eq!(lite(&good), []);
    let text = |text: &str| Instance {
        problem_statement: format!("{WORDS} {text}"),
        ..good.clone()
    };
    let patch = |patch: String| Instance {
        patch,
        ..good.clone()
    };
    let tests = |line: &str| Instance {
        test_patch: diff("tests/test_a.py", "a", line),
        ..good.clone()
    };
    let one = || diff("pkg/a.py", "a = 1", "a = 2");
    let hunk = "@@ -9 +9 @@\n-a\n+b\n";
    let new = "diff --git a/n.py b/n.py\nnew file mode 100644\n--- /dev/null\n+++ b/n.py\n@@ -0,0 +1 @@\n+a\n";
    let cases = [
        (
            Instance {
                problem_statement: "It is broken.".into(),
                ..good.clone()
            },
            LiteRule::ShortText,
        ),
        (text("see https://host.example/x"), LiteRule::Hyperlink),
        (text("as in #12"), LiteRule::IssueReference),
        (
            text("since 0123456789abcdef0123456789abcdef01234567"),
            LiteRule::CommitHash,
        ),
        (text("![shot](shot)"), LiteRule::Image),
        (patch(new.to_owned()), LiteRule::AddedOrRemovedFile),
        (
            patch(one() + &diff("pkg/b.py", "a", "b")),
            LiteRule::ManyFiles,
        ),
        (patch(one() + &hunk.repeat(3)), LiteRule::ManyHunks),
        (
            tests("with pytest.raises(E, match='x'):"),
            LiteRule::TestedMessage,
        ),
        (tests("with self.assertRaises(E):"), LiteRule::DjangoMessage),
        (patch("no diff".to_owned()), LiteRule::BadPatch),
    ];
    let seen: BTreeSet<LiteRule> = cases.iter().map(|(_, rule)| *rule).collect();
    assert_eq!(seen, LiteRule::ALL.into_iter().collect());
    for (row, rule) in cases {
        assert_eq!(lite(&row), [rule], "{}", row.problem_statement);
    }
}

#[test]
fn projects_are_known_under_any_owner() {
    let cases = [
        ("python-attrs/attrs", "attrs"),
        ("someone/attrs", "attrs"),
        ("pypi/attrs", "attrs"),
        ("swesmith/python-attrs__attrs.1a2b3c4d", "attrs"),
        ("scikit-learn/scikit-learn", "scikit-learn"),
        ("pypi/scikit_learn", "scikit-learn"),
        ("", ""),
    ];
    for (repo, expected) in cases {
        assert_eq!(project(repo), expected, "{repo}");
    }
}

#[test]
fn a_leak_is_found_across_projects() {
    let solution = diff("pkg/a.py", &body("old", 12), &body("new", 12));
    let held = instance("held", "acme/pkg", &solution);
    let mut leaks = Leaks::new(DEFAULT_THRESHOLD);
    leaks.hold_out(&held, &[]);
    let kinds = |row: &Instance, functions: &[&str]| -> Vec<LeakKind> {
        let found = leaks.check(row, functions);
        found.iter().map(|l| l.what).collect()
    };
    let mut copy = instance("copy", "other/thing", &solution.replace("    ", "  "));
    copy.test_patch = diff("t.py", "a", &body("test_other", 12));
    // The functions of the patch are the same, too.
    assert_eq!(kinds(&copy, &[]), [LeakKind::Patch, LeakKind::Function]);
    let near = solution.replace("call_3(old", "call_33(old");
    let mut near = instance("near", "other/thing", &near);
    near.test_patch = String::new();
    assert!(kinds(&near, &[]).contains(&LeakKind::Patch));
    let mut same_project = instance("x", "fork/pkg", &diff("pkg/b.py", "a = 1", "b = 2"));
    same_project.test_patch = String::new();
    assert_eq!(kinds(&same_project, &[]), [LeakKind::Repository]);
    let mut other = instance("y", "other/thing", &diff("b.py", "", &body("else", 30)));
    other.test_patch = String::new();
    assert_eq!(kinds(&other, &[]), []);
    assert_eq!(kinds(&other, &[&body("new", 12)]), [LeakKind::Function]);
}

#[test]
fn duplicates_are_found_by_what_is_the_same() {
    let one = diff("pkg/a.py", &body("old", 12), &body("new", 12));
    let mut dedup = Dedup::new(DedupRules {
        near: Some(DEFAULT_THRESHOLD),
        same_tests: true,
    });
    let mut check = |row: Instance| dedup.check(&row).map(|d| (d.of, d.because));
    let first = instance("one", "acme/pkg", &one);
    let same = |because| Some(("one".to_owned(), because));
    assert_eq!(check(first.clone()), None);
    assert_eq!(check(first), same(SameBecause::Id));
    let spaced = one.replace(" = ", "  =  ");
    assert_eq!(
        check(instance("two", "fork/pkg", &spaced)),
        same(SameBecause::Patch)
    );
    let near = one.replace("call_3(old", "call_33(old");
    assert_eq!(
        check(instance("three", "acme/pkg", &near)),
        same(SameBecause::NearPatch)
    );
    let other = diff(
        "pkg/a.py",
        "def far(x):\n    a",
        "def far(x):\n    return x",
    );
    let tests = diff(
        "pkg/a.py",
        "def far(x):\n    b",
        "def far(x):\n    return 1",
    );
    assert_eq!(check(instance("four", "acme/pkg", &other)), None);
    assert_eq!(
        check(instance("five", "acme/pkg", &tests)),
        Some(("four".to_owned(), SameBecause::Tests))
    );
    let elsewhere = instance("six", "acme/else", &tests);
    assert_eq!(check(elsewhere), None);
}

#[test]
fn effort_grows_with_what_is_changed() {
    let of = |patch: &str| measure(&instance("a", "a/b", patch));
    let small = of(&diff("a.py", "a = 1", "a = 2"));
    assert_eq!((small.effort(), small.difficulty()), (2, Difficulty::Easy));
    let large = of(&diff("a.py", &body("f", 20), &body("g", 20)));
    assert_eq!((large.lines, large.functions), (42, 2));
    assert_eq!(large.difficulty(), Difficulty::Hard);
    let medium = of(&diff("a.py", "a", &body("g", 7)));
    assert_eq!(medium.difficulty(), Difficulty::Medium);
}

/// Counts seen on the data sets themselves.
#[test]
fn lite_is_what_swe_bench_says_it_is() -> Result<()> {
    let Some(shared) = shared("lite of real rows") else {
        return Ok(());
    };
    let ids = |name: &str, only_lite: bool| -> Result<BTreeSet<String>> {
        let dataset = Dataset::open_path(&shared.join("swebench").join(name))?;
        let rows = dataset.instances().filter_map(|row| match row {
            Ok(row) if only_lite && !lite(&row).is_empty() => None,
            row => Some(row.map(|r| r.instance_id)),
        });
        rows.collect()
    };
    let test = ids("SWE-bench_Lite-test.parquet", false)?;
    assert_eq!(ids("SWE-bench_Lite-test.parquet", true)?, test);
    // Of the whole development split, exactly Lite's.
    let dev = ids("SWE-bench_Lite-dev.parquet", false)?;
    assert_eq!(ids("SWE-bench-dev.parquet", true)?, dev);
    let verified = ids("SWE-bench_Verified-test.parquet", false)?;
    let ours = ids("SWE-bench_Verified-test.parquet", true)?;
    assert!(test.intersection(&verified).all(|id| ours.contains(id)));
    Ok(())
}

fn patch_of(files: &[(String, u8)]) -> String {
    let file = |(name, hunks): &(String, u8)| {
        let hunks = (0..*hunks).map(|n| format!("@@ -{0} +{0} @@\n-a\n+b\n", 10 * n + 1));
        format!(
            "diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n{}",
            hunks.collect::<String>()
        )
    };
    files.iter().map(file).collect()
}

proptest! {
    #[test]
    fn a_split_is_a_partition(
        sizes in prop::collection::vec(1usize..40, 1..20),
        share in 0.0..1.0f64,
        seed: u64,
    ) {
        let rows: Vec<Instance> = sizes
            .iter()
            .enumerate()
            .flat_map(|(at, n)| (0..*n).map(move |i| instance(&format!("{at}-{i}"), &format!("o/r{at}"), "")))
            .collect();
        let (mut forward, mut backward) = (RepoSplitter::default(), RepoSplitter::default());
        rows.iter().for_each(|row| forward.add(row));
        rows.iter().rev().for_each(|row| backward.add(row));
        let split = forward.split(share, seed);
        prop_assert_eq!(&split, &backward.split(share, seed));
        prop_assert!(split.train.is_disjoint(&split.test));
        prop_assert_eq!(split.train.len() + split.test.len(), sizes.len());
        prop_assert!(!split.train.is_empty());
        let test = rows.iter().filter(|row| split.side(row) == SplitSide::Test).count();
        prop_assert_eq!(test, split.test_instances);
        prop_assert_eq!(split.train_instances + test, rows.len());
        // No further from the share than the largest project.
        let largest = *sizes.iter().max().expect("at least one") as f64;
        let off = (test as f64 - share * rows.len() as f64).abs();
        prop_assert!(sizes.len() < 2 || off <= largest, "{off} off");
    }

    /// Leaving a file out of a solution never takes it out of Lite.
    #[test]
    fn lite_is_monotone(
        files in prop::collection::btree_map("[a-d]\\.py", 1u8..4, 1..4),
        left_out in 0usize..4,
    ) {
        let mut files: Vec<(String, u8)> = files.into_iter().collect();
        let before: BTreeSet<LiteRule> =
            lite(&instance("a", "a/b", &patch_of(&files))).into_iter().collect();
        if left_out < files.len() {
            files.remove(left_out);
        }
        let after: BTreeSet<LiteRule> =
            lite(&instance("a", "a/b", &patch_of(&files))).into_iter().collect();
        prop_assert!(after.is_subset(&before), "{before:?} -> {after:?}");
    }

    #[test]
    fn a_solution_leaks_to_itself(lines in prop::collection::vec("[a-z =+]{1,20}", 1..20)) {
        let text = lines.join("\n");
        let row = instance("a", "a/b", &diff("a.py", "", &text));
        let mut leaks = Leaks::new(DEFAULT_THRESHOLD);
        leaks.hold_out(&row, &[]);
        let again = Instance { repo: "c/d".into(), ..row.clone() };
        let has_words = Patch::parse(row.patch.as_bytes()).is_ok() && !text.trim().is_empty();
        let found = leaks.check(&again, &[]);
        prop_assert_eq!(found.iter().any(|l| l.what == LeakKind::Patch), has_words);
    }
}
