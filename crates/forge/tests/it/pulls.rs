//! `fixtures/pulls`: a dump of pull requests, its issues, a broken dump, and
//! commits; every reason occurs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;

use proptest::prelude::*;
use serde::Deserialize;
use swegym_forge::pulls::{
    Commit, DumpError, IssueIndex, Mined, Pull, Reason, SplitRule, candidate, candidate_of_commit,
    read_pulls, resolved_issues, split_diff,
};

use crate::fixture;

fn text(name: &str) -> String {
    fs::read_to_string(fixture("pulls").join(name)).expect("a fixture")
}

fn pulls(name: &str) -> Vec<Result<Pull, DumpError>> {
    read_pulls(text(name).as_bytes(), name, None).collect()
}

fn issues() -> (IssueIndex<Cursor<String>>, Vec<DumpError>) {
    IssueIndex::new(Cursor::new(text("issues.jsonl")), "issues.jsonl", None)
}

fn mined(pull: &Pull, index: &mut IssueIndex<Cursor<String>>, rule: SplitRule) -> Mined {
    let numbers = resolved_issues(pull);
    let issues = index.issues(&pull.repo, &numbers).expect("the dump");
    let diff = split_diff(pull.diff.as_deref().unwrap_or_default());
    candidate(pull, &issues, &diff, rule)
}

#[test]
fn every_pull_request_has_its_reason() {
    #[derive(Deserialize)]
    struct Expected {
        number: u64,
        ours: Option<String>,
        reference: Option<String>,
    }
    let expected: Vec<Expected> = serde_json::from_str(&text("pulls.expected.json")).expect("JSON");
    let (mut index, _) = issues();
    let pulls = pulls("pulls.jsonl");
    assert_eq!(pulls.len(), expected.len());
    for (pull, expected) in pulls.into_iter().zip(expected) {
        let pull = pull.expect("a good line");
        assert_eq!(pull.number, expected.number);
        for (rule, reason) in [
            (SplitRule::Ours, expected.ours),
            (SplitRule::Reference, expected.reference),
        ] {
            let mined = mined(&pull, &mut index, rule);
            let found = mined.reason.map(|r| r.name().to_owned());
            assert_eq!(found, reason, "{} by {rule:?}", pull.number);
        }
    }
}

#[test]
fn a_candidate_is_a_row() {
    let (mut index, _) = issues();
    let first = pulls("pulls.jsonl").remove(0).expect("a good line");
    assert_eq!(resolved_issues(&first), [1, 2, 4]);
    let row = mined(&first, &mut index, SplitRule::Ours)
        .candidate
        .into_instance();
    assert_eq!(row.instance_id, "acme__pkg-10");
    assert_eq!(row.created_at.as_deref(), Some("2024-03-01T00:00:00Z"));
    assert_eq!(
        row.problem_statement,
        "Order is lost\n`dump` sorts keys.\nIt should not.\nKeys vanish\n\nFrom a commit\nText.\n"
    );
    // What was said after the first commit is no hint.
    assert_eq!(row.hints_text, "Seen here, too.\nOnly the last.");
    assert!(row.patch.contains("pkg/core.py") && !row.patch.contains("tests/"));
    assert!(row.test_patch.contains("tests/test_core.py"));
    assert_eq!(row.extra["pull_number"], 10);
    assert_eq!(
        row.extra["issue_numbers"],
        serde_json::json!(["1", "2", "4"])
    );
}

#[test]
fn broken_lines_are_named_and_passed_over() {
    let mut pulls = pulls("broken.jsonl");
    let last = pulls.pop().expect("lines").expect("the last line is good");
    assert_eq!(last.number, 35);
    let errors: Vec<String> = pulls
        .into_iter()
        .map(|p| p.expect_err("a broken line").to_string())
        .collect();
    let expected = [
        "broken.jsonl:1: expected a JSON object on one line: ",
        "broken.jsonl:3: field `number`: missing",
        "broken.jsonl:4: field `base.sha`: missing",
        "broken.jsonl:5: field `merged_at`: missing; null says that it was not merged",
        "broken.jsonl:6: field `title`: expected a string or null",
        "broken.jsonl:7: field `commits`: expected messages, or objects with `message`",
        "broken.jsonl:8: field `resolved_issues`: expected a list of numbers",
        "broken.jsonl:9: field `base.repo.full_name`: missing, and no other field names it",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}");
    }
    let (index, errors) = issues();
    assert_eq!(index.len(), 5);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(errors[0], "issues.jsonl:8: field `number`: missing");
}

#[test]
fn every_commit_has_its_reason() {
    #[derive(Deserialize)]
    struct Row {
        message: String,
        reason: Option<String>,
        diff: String,
        parents: Vec<String>,
        author: String,
    }
    let mut seen = BTreeSet::new();
    for line in text("commits.jsonl").lines() {
        let row: Row = serde_json::from_str(line).expect("a row");
        let commit = Commit {
            repo: "acme/pkg".to_owned(),
            sha: "abcdef0123456789abcdef0123456789abcdef01".to_owned(),
            parents: row.parents,
            author: row.author,
            date: "2024-01-02T03:04:05Z".to_owned(),
            message: row.message,
        };
        let mined = candidate_of_commit(&commit, &split_diff(&row.diff), SplitRule::Ours);
        let found = mined.reason.map(|r| r.name().to_owned());
        assert_eq!(found, row.reason, "{}", commit.message);
        seen.extend(mined.reason);
        if mined.reason.is_none() {
            assert_eq!(mined.candidate.instance_id, "acme__pkg-abcdef012345");
            assert_eq!(
                mined.candidate.problem_statement,
                "Keep the order of keys\n\nThey were sorted."
            );
        }
    }
    let of_pulls = [Reason::NotMerged, Reason::NoIssue, Reason::IssueMissing];
    let rest = Reason::ALL.iter().filter(|r| !of_pulls.contains(r));
    assert_eq!(seen, rest.copied().collect());
}

proptest! {
    #[test]
    fn no_line_makes_the_reader_panic(lines in prop::collection::vec("\\PC{0,40}", 0..5)) {
        let text = lines.join("\n");
        for pull in read_pulls(text.as_bytes(), "x", Some("a/b")).flatten() {
            candidate(&pull, &[], &split_diff(&text), SplitRule::Ours);
        }
        let (index, _) = IssueIndex::new(Cursor::new(text), "x", None);
        prop_assert!(index.len() <= lines.len());
    }

    /// Every file of a diff is in exactly one part, whole.
    #[test]
    fn parts_of_a_diff_make_the_diff(names in prop::collection::vec("[a-c]{1,2}/(test_)?[x-z]\\.py", 1..6)) {
        let text: String = names
            .iter()
            .map(|n| format!("diff --git a/{n} b/{n}\n--- a/{n}\n+++ b/{n}\n@@ -1 +1 @@\n-a\n+b\n"))
            .collect();
        let files = split_diff(&text);
        prop_assert_eq!(files.iter().map(|f| f.text.as_str()).collect::<String>(), text.clone());
        let mined = candidate(&Pull::default(), &[], &files, SplitRule::Reference);
        prop_assert_eq!(mined.candidate.patch.len() + mined.candidate.test_patch.len(), text.len());
    }
}
