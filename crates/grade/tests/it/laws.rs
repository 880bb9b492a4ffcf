//! Laws that hold for all logs and runs.

use std::collections::BTreeMap;

use proptest::prelude::*;
use swegym_core::{EvalType, Exit, Outcome, Status};
use swegym_grade::compat::{Resolution, Task, swebench, swegym};
use swegym_grade::{Expectation, Parser, StrictInput, parser, parser_names, strict_verdict};

use crate::support::{pytest_records, run};

/// Words that parsers react to, and a few that they should not.
const WORDS: &[&str] = &[
    "FAILED",
    "PASSED",
    "SKIPPED",
    "ERROR",
    "XFAIL",
    "ERROR:",
    "FAIL:",
    "ok",
    " ... ok",
    " ...  OK",
    " ... FAIL",
    " ... ERROR",
    " ... skipped",
    " ... ",
    " - ",
    "-",
    " ",
    "\t",
    "\r",
    "\n",
    "\x0b",
    "\x1c",
    "\u{85}",
    "\u{2028}",
    "\u{3000}",
    "\0",
    "\x1b[31m",
    "[32m",
    "[\u{663}m",
    "[1]",
    "[100%]",
    "[",
    "]",
    "[/a/b]",
    "/",
    "*",
    "::",
    ".py:",
    "___ ",
    " ___",
    "test_a",
    "test_b E",
    "MouseButton.LEFT",
    "Applying sites.0002_alter_domain_unique...test_no_migrations",
    "--version is equivalent to version",
    "Testing against Django installed in ",
    " silenced).\nok",
    "Internal Server Error: /x/\nok",
    "é",
    "\u{1f600}",
    swebench::START_TEST_OUTPUT,
    swebench::END_TEST_OUTPUT,
    swebench::TEST_EXIT_CODE,
    ": 1",
    "5 passing",
    ">>>>> Tests Errored",
    "applied patch",
    "FAILED [ 50%] ",
];

fn log() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(WORDS).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn any_parser() -> impl Strategy<Value = Parser> {
    prop::sample::select(parser_names().collect::<Vec<_>>())
        .prop_map(|name| parser(name).expect("a listed name has a parser"))
}

const STATUSES: &[&str] = &[
    "PASSED", "PASSED", "PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL", "XPASS",
];

fn name(index: usize) -> String {
    format!("t.py::test_{index}")
}

/// Statuses of tests 0, 1, 2, …
fn statuses() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(STATUSES), 1..6)
}

/// Resolved or not, of a run with these statuses, whose first tests are listed
/// and expected to be as in `gold`.
fn resolves(statuses: &[&str], gold: &BTreeMap<String, Status>) -> bool {
    let names: Vec<String> = (0..statuses.len()).map(name).collect();
    let calls: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(statuses.iter().copied())
        .collect();
    let exit = i32::from(statuses.iter().any(|s| matches!(*s, "FAILED" | "ERROR")));
    let listed: Vec<String> = gold.keys().cloned().collect();
    let mut run = run(&pytest_records(&calls, exit), Exit::Code(exit));
    run.log = calls
        .iter()
        .map(|(name, status)| format!("{status} {name}\n"))
        .collect();
    let input = StrictInput {
        fail_to_pass: &listed[..1],
        pass_to_pass: &listed[1..],
        expect: Expectation::Recorded(gold),
        gold: None,
        parser: parser("pytest").unwrap(),
        run: &run,
        twin: None,
    };
    strict_verdict(&input).outcome == Outcome::Resolved
}

proptest! {
    #[test]
    fn parsers_take_any_text(log in log(), parser in any_parser()) {
        parser.parse(&log);
        parser.official_id(&log);
    }

    #[test]
    fn compat_takes_any_text(
        log in log(),
        parser in any_parser(),
        fail_only: bool,
        ids in prop::collection::vec(any::<String>(), 0..4),
    ) {
        let task = Task {
            instance_id: "i",
            fail_to_pass: &ids,
            pass_to_pass: &ids,
            parser,
            eval_type: if fail_only { EvalType::FailOnly } else { EvalType::PassAndFail },
        };
        let _ = swebench::report(&task, Some(""), &log);
        swegym::report(&task, Some(""), &log);
    }

    /// A log with one summary line a test is read back as written.
    #[test]
    fn parsing_undoes_printing(statuses in statuses()) {
        let log: String = (0..).zip(&statuses).map(|(i, s)| format!("{s} {}\n", name(i))).collect();
        let map = parser("pytest").unwrap().parse(&log);
        for (index, status) in statuses.iter().enumerate() {
            let expected = (*status != "XPASS").then_some(*status);
            prop_assert_eq!(map.get(&name(index)).map(Status::as_str), expected);
        }
    }

    #[test]
    fn a_failure_never_resolves(
        statuses in statuses(),
        listed in 1usize..6,
        gold in prop::collection::vec(prop::sample::select(&["PASSED", "XFAIL", "SKIPPED"][..]), 5),
        at: prop::sample::Index,
        to in prop::sample::select(&["FAILED", "ERROR"][..]),
    ) {
        let listed = listed.min(statuses.len());
        let gold: BTreeMap<String, Status> =
            (0..listed).map(|i| (name(i), Status::from(gold[i]))).collect();
        let before = resolves(&statuses, &gold);
        let expected = (0..listed).all(|i| gold[&name(i)].as_str() == statuses[i]);
        prop_assert_eq!(before, expected);
        let mut worse = statuses.clone();
        let at = at.index(statuses.len());
        worse[at] = to;
        let after = resolves(&worse, &gold);
        prop_assert!(before || !after, "{statuses:?} -> {worse:?}");
        prop_assert!(at >= listed || !after, "{worse:?}");
    }

    #[test]
    fn a_failure_never_resolves_officially(
        statuses in statuses(),
        at: prop::sample::Index,
        fail_only: bool,
    ) {
        let eval_type = if fail_only { EvalType::FailOnly } else { EvalType::PassAndFail };
        let names: Vec<String> = (0..statuses.len()).map(name).collect();
        let resolution = |statuses: &[&str]| {
            let map = names.iter().cloned().zip(statuses.iter().map(|s| Status::from(*s))).collect();
            let task = Task {
                instance_id: "i",
                fail_to_pass: &names[..1],
                pass_to_pass: &names[1..],
                parser: parser("pytest").unwrap(),
                eval_type,
            };
            swebench::tests_status(&task, &map).resolution()
        };
        let before = resolution(&statuses);
        let mut worse = statuses.clone();
        worse[at.index(statuses.len())] = "FAILED";
        prop_assert_ne!(resolution(&worse), Resolution::Full);
        prop_assert!(before != Resolution::No || resolution(&worse) != Resolution::Full);
    }
}
