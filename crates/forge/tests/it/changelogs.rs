//! Every case is a document (`<case>.rst`, `.md`, `.txt`), that of the release
//! before where it matters (`<case>.before.…`), and `<case>.expected.json`:
//! what was asked, and what comes of it. With `SWEGYM_UPDATE_FIXTURES` set,
//! the latter is written anew.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use swegym_forge::changelog::{self, Document, Entry, Focus, Kind, Nothing};

use crate::fixture;

#[test]
fn fixtures_give_their_entries() {
    let mut cases = 0;
    for entry in fs::read_dir(fixture("changelogs")).expect("fixtures/changelogs") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if let Some(case) = name.strip_suffix(".expected.json") {
            check(&path, case);
            cases += 1;
        }
    }
    assert!(cases >= 14, "only {cases} cases were found");
}

fn check(expected_path: &Path, case: &str) {
    let read = |infix: &str| {
        ["rst", "md", "txt"].into_iter().find_map(|extension| {
            let name = format!("{case}{infix}.{extension}");
            fs::read_to_string(expected_path.with_file_name(name)).ok()
        })
    };
    let expected = fs::read_to_string(expected_path).expect("the expectation");
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    let text = |field: &str| expected[field].as_str().expect("a string");
    let new = read("").expect("the document");
    let old = read(".before").unwrap_or_default();
    let path = text("path");
    let document = |text| Document { path, text };
    let log = changelog::read(
        &[document(&old)],
        &[document(&new)],
        &text("old").parse().expect("a version"),
        &text("new").parse().expect("a version"),
    );
    let mut found = json!({"path": path, "old": text("old"), "new": text("new")});
    match &log {
        Ok(log) => {
            let entries: Vec<&Entry> = log.entries.iter().collect();
            found["result"] = serde_json::to_value(log).expect("serialises");
            found["statement"] = json!(changelog::problem_statement(&entries, "it", text("old")));
        }
        Err(nothing) => found["nothing"] = json!(nothing),
    }
    if std::env::var_os("SWEGYM_UPDATE_FIXTURES").is_some() {
        let text = serde_json::to_string_pretty(&found).expect("serialises");
        fs::write(expected_path, text + "\n").expect("written");
    } else {
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn fragments_that_are_new_count() {
    let old = [("newsfragments/1.bugfix.rst", "Old news.")];
    let new = [
        ("newsfragments/1.bugfix.rst", "Old news."),
        ("newsfragments/12.feature.rst", "``lamp`` can blink.\n"),
        ("newsfragments/13.misc", "Moved things."),
        ("newsfragments/template.rst", "{{ version }}"),
    ];
    let documents = |all: &[(&'static str, &'static str)]| -> Vec<Document<'static>> {
        let made = all.iter().map(|&(path, text)| Document { path, text });
        made.collect()
    };
    let (one, two) = (
        "1.0".parse().expect("version"),
        "1.1".parse().expect("version"),
    );
    let log = changelog::read(&documents(&old), &documents(&new), &one, &two).expect("entries");
    assert_eq!(log.found, changelog::Found::Fragments);
    let seen: Vec<_> = log
        .entries
        .iter()
        .map(|e| (e.text.as_str(), e.kind, e.references.as_slice()))
        .collect();
    assert_eq!(
        seen,
        [
            (
                "`lamp` can blink.",
                Some(Kind::Feature),
                &["#12".to_owned()][..]
            ),
            (
                "Moved things.",
                Some(Kind::Internal),
                &["#13".to_owned()][..]
            ),
        ]
    );
    let none = changelog::read(&[], &[], &one, &two);
    assert_eq!(none, Err(Nothing::NoFile));
}

#[test]
fn entries_go_to_the_task_they_are_about() {
    let entry = |text: &str| Entry {
        text: text.to_owned(),
        ..Entry::default()
    };
    let entries = [
        entry("`Table.add_row` keeps the order of its cells."),
        entry("Dates before 1900 are parsed by `parse_date`."),
        entry("Startup is faster."),
        entry("The cells of a table may be empty."),
    ];
    let task = |file: &str, functions: &[&str], test: &str| Focus {
        files: vec![file.to_owned()],
        functions: functions.iter().map(|&f| f.to_owned()).collect(),
        tests: vec![test.to_owned()],
    };
    let tasks = [
        task(
            "pkg/table.py",
            &["Table.add_row", "Table.cell"],
            "tests/test_table.py::test_empty_cells",
        ),
        task(
            "pkg/dates.py",
            &["parse_date"],
            "tests/test_dates.py::TestParse::test_old[1899]",
        ),
    ];
    assert_eq!(changelog::assign(&entries, &tasks), [vec![0, 3], vec![1]]);
    let best = changelog::rank(&entries, &tasks[1]);
    assert_eq!(best[0].entry, 1);
    assert!(best[0].score > best[1].score);
}

/// Lines that changelogs are made of, in any order.
fn line() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "1.0",
        "----",
        "====",
        "## [1.2.3] - 2021-01-01",
        "- item",
        "  - nested",
        "* 1.1: text",
        ".. change::",
        "    :tags: bug",
        ".. note::",
        "text::",
        "    code",
        "**Fixed**",
        "```",
        "`a <b>`_",
        "``x``",
        "|s|_",
        "(#12)",
        "__ x",
        "1.2 (unreleased)",
        "+---+",
        "é\u{1}ß",
    ]);
    prop_oneof![
        4 => known.prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(lines in prop::collection::vec(line(), 0..30)) {
        let text = lines.join("\n");
        for path in ["CHANGES.rst", "CHANGELOG.md", "NEWS", "README.md", "PKG-INFO", "news/1.bugfix"] {
            for entry in changelog::entries(&Document { path, text: &text }) {
                prop_assert!(!entry.text.is_empty());
                changelog::problem_statement(&[&entry], "pkg", "1.0");
            }
        }
    }

    #[test]
    fn only_versions_of_the_range_are_read(old in 0u8..9, span in 1u8..5) {
        let text: String = (0..12)
            .rev()
            .map(|n| format!("1.{n}\n----\n\n- Change number {n} of `it`.\n\n"))
            .collect();
        let document = Document { path: "CHANGES.rst", text: &text };
        let (from, to) = (format!("1.{old}"), format!("1.{}", old + span));
        let log = changelog::read(
            &[],
            &[document],
            &from.parse().expect("a version"),
            &to.parse().expect("a version"),
        );
        let expected = usize::from(span.min(11 - old));
        prop_assert_eq!(log.expect("entries").entries.len(), expected);
    }
}
