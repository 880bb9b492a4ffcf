//! The strict verdict, rule by rule.

use std::collections::BTreeMap;

use swegym_core::{Exit, InfraKind, Outcome, Phase, Record, Status, TestRun};
use swegym_grade::{
    Expectation, Parser, Signs, StrictInput, TwinRun, Verdict, decode_report, encode_record,
    parser, strict_verdict,
};

use crate::support::{
    KEY, call, collect, ended, ids, map, pytest_records, run, start, test, wire, with_report,
};

const F2P: &str = "t.py::new";
const P2P: &str = "t.py::old";
const GOOD: [(&str, &str); 2] = [(F2P, "PASSED"), (P2P, "PASSED")];

fn judge(run: &TestRun) -> Verdict {
    judge_as(run, Expectation::Passed, None)
}

fn judge_as(run: &TestRun, expect: Expectation<'_>, twin: Option<TwinRun<'_>>) -> Verdict {
    judge_listed(&[F2P], &[P2P], parser("pytest").unwrap(), run, expect, twin)
}

fn judge_listed(
    f2p: &[&str],
    p2p: &[&str],
    parser: Parser,
    run: &TestRun,
    expect: Expectation<'_>,
    twin: Option<TwinRun<'_>>,
) -> Verdict {
    strict_verdict(&StrictInput {
        fail_to_pass: &ids(f2p),
        pass_to_pass: &ids(p2p),
        expect,
        gold: None,
        parser,
        run,
        twin,
    })
}

fn flags(verdict: &Verdict) -> Vec<&str> {
    verdict
        .flags
        .iter()
        .map(|flag| flag.name.as_str())
        .filter(|name| *name != "no_gold_record")
        .collect()
}

fn gold(entries: &[(&str, &str)]) -> BTreeMap<String, Status> {
    map(entries).into_iter().collect()
}

#[test]
fn a_clean_run_with_all_passes_resolves() {
    let verdict = judge(&run(&pytest_records(&GOOD, 0), Exit::Code(0)));
    assert_eq!(verdict.outcome, Outcome::Resolved);
    assert_eq!(flags(&verdict), [""; 0]);
    assert_eq!(verdict.tests, map(&GOOD));
}

/// One difference from the clean run a line.
#[test]
fn what_does_not_resolve() {
    let bad_exit = |code| run(&pytest_records(&GOOD, code), Exit::Code(code));
    let not_ended = |calls: &[(&str, &str)], exit| {
        let mut records = pytest_records(calls, 0);
        records.pop();
        run(&records, exit)
    };
    let cases: Vec<(&str, TestRun, Outcome, &[&str])> = vec![
        (
            "failed",
            run(
                &pytest_records(&[(F2P, "PASSED"), (P2P, "FAILED")], 1),
                Exit::Code(1),
            ),
            Outcome::Unresolved,
            &[],
        ),
        (
            "missing",
            run(&pytest_records(&GOOD[..1], 0), Exit::Code(0)),
            Outcome::Unresolved,
            &[],
        ),
        (
            "skipped",
            run(
                &pytest_records(&[(F2P, "PASSED"), (P2P, "SKIPPED")], 0),
                Exit::Code(0),
            ),
            Outcome::Unresolved,
            &["inexact_status"],
        ),
        (
            "expected to fail",
            run(
                &pytest_records(&[(F2P, "XFAIL"), (P2P, "PASSED")], 0),
                Exit::Code(0),
            ),
            Outcome::Unresolved,
            &["inexact_status"],
        ),
        (
            "exit unexplained",
            bad_exit(1),
            Outcome::Unresolved,
            &["exit_disagrees"],
        ),
        (
            "success after announced failure",
            run(&pytest_records(&GOOD, 1), Exit::Code(0)),
            Outcome::Tampered(vec![
                "the end record says exit status 1, the process left with 0".into(),
            ]),
            &[],
        ),
        (
            "failure after announced success",
            run(&pytest_records(&GOOD, 0), Exit::Code(1)),
            Outcome::Unresolved,
            &["exit_disagrees"],
        ),
        (
            "another failure than announced",
            run(
                &pytest_records(&[GOOD[0], GOOD[1], ("t.py::x", "FAILED")], 1),
                Exit::Code(2),
            ),
            Outcome::Unresolved,
            &["exit_disagrees"],
        ),
        (
            "killed at the end",
            run(&pytest_records(&GOOD, 0), Exit::Signal(11)),
            Outcome::Unresolved,
            &["exit_disagrees"],
        ),
        (
            "out of memory",
            not_ended(&GOOD, Exit::OutOfMemory),
            Outcome::Unresolved,
            &["out_of_memory", "no_end_record"],
        ),
        (
            "timeout",
            not_ended(&GOOD, Exit::TimedOut),
            Outcome::Timeout,
            &[],
        ),
        (
            "timeout after the end",
            run(&pytest_records(&GOOD, 0), Exit::TimedOut),
            Outcome::Timeout,
            &[],
        ),
        (
            "segfault on the way",
            not_ended(&GOOD[..1], Exit::Signal(11)),
            Outcome::Unresolved,
            &["exit_disagrees", "no_end_record"],
        ),
        (
            "os._exit on the way",
            not_ended(&GOOD[..1], Exit::Code(0)),
            Outcome::Unresolved,
            &["no_end_record"],
        ),
        (
            "os._exit when all is well",
            not_ended(&GOOD, Exit::Code(0)),
            Outcome::Tampered(vec![
                "the process ended with exit status 0 before the runner's end record".into(),
            ]),
            &[],
        ),
        (
            "never started",
            run(&[], Exit::Code(127)),
            Outcome::InfraError(InfraKind::Runner(
                "the runner never started; the process ended with exit status 127".into(),
            )),
            &[],
        ),
        (
            "no start",
            run(&pytest_records(&GOOD, 0)[1..], Exit::Code(0)),
            Outcome::Tampered(vec!["the first record is not the start record".into()]),
            &[],
        ),
        (
            "started twice",
            run(
                &[&[start("pytest")], &*pytest_records(&GOOD, 0)].concat(),
                Exit::Code(0),
            ),
            Outcome::Tampered(vec!["2 start records".into()]),
            &[],
        ),
        (
            "miscounted",
            run(
                &[
                    start("pytest"),
                    call(F2P, "PASSED"),
                    call(P2P, "PASSED"),
                    Record::End { exit: 0, tests: 1 },
                ],
                Exit::Code(0),
            ),
            Outcome::Tampered(vec!["the end record counts 1 results, 2 came".into()]),
            &[],
        ),
        (
            "never collected",
            run(
                &ended(
                    vec![
                        start("pytest"),
                        collect(&[P2P]),
                        call(F2P, "PASSED"),
                        call(P2P, "PASSED"),
                    ],
                    0,
                ),
                Exit::Code(0),
            ),
            Outcome::Unresolved,
            &["uncollected"],
        ),
        (
            "teardown fails",
            run(
                &ended(
                    vec![
                        start("pytest"),
                        call(F2P, "PASSED"),
                        call(P2P, "PASSED"),
                        test(P2P, Phase::Teardown, "FAILED"),
                    ],
                    1,
                ),
                Exit::Code(1),
            ),
            Outcome::Unresolved,
            &[],
        ),
        (
            "only set up",
            run(
                &ended(
                    vec![
                        start("pytest"),
                        call(F2P, "PASSED"),
                        test(P2P, Phase::Setup, "PASSED"),
                    ],
                    0,
                ),
                Exit::Code(0),
            ),
            Outcome::Unresolved,
            &[],
        ),
    ];
    for (name, run, outcome, expected_flags) in cases {
        let verdict = judge(&run);
        assert_eq!(verdict.outcome, outcome, "{name}");
        assert_eq!(flags(&verdict), expected_flags, "{name}");
    }
}

#[test]
fn a_forged_line_is_tampering_whatever_else_happened() {
    for exit in [Exit::Code(0), Exit::TimedOut, Exit::Signal(9)] {
        let mut bytes = wire(&pytest_records(&GOOD, 0));
        let forged = encode_record(b"guess", 99, &call(F2P, "PASSED"));
        bytes.splice(0..0, forged);
        let verdict = judge(&with_report(decode_report(&bytes, KEY), exit));
        assert_eq!(
            verdict.outcome,
            Outcome::Tampered(vec!["record 1: no valid MAC".into()])
        );
    }
}

#[test]
fn exit_statuses_are_compared_as_the_system_sees_them() {
    let mut records = pytest_records(
        &[(F2P, "PASSED"), (P2P, "PASSED"), ("t.py::other", "FAILED")],
        0,
    );
    records.pop();
    let verdict = judge(&run(&ended(records, -1), Exit::Code(255)));
    assert_eq!(verdict.outcome, Outcome::Resolved);
}

#[test]
fn status_is_that_of_the_gold_run() {
    let record = gold(&[(F2P, "PASSED"), (P2P, "XFAIL")]);
    for (status, outcome) in [
        ("XFAIL", Outcome::Resolved),
        ("PASSED", Outcome::Unresolved),
        ("SKIPPED", Outcome::Unresolved),
    ] {
        let run = run(
            &pytest_records(&[(F2P, "PASSED"), (P2P, status)], 0),
            Exit::Code(0),
        );
        let verdict = judge_as(&run, Expectation::Recorded(&record), None);
        assert_eq!(verdict.outcome, outcome, "{status}");
        assert!(
            !verdict
                .flags
                .iter()
                .any(|flag| flag.name == "no_gold_record")
        );
    }
    let run = run(&pytest_records(&GOOD, 0), Exit::Code(0));
    let verdict = judge_as(&run, Expectation::Recorded(&gold(&[(F2P, "PASSED")])), None);
    assert_eq!(
        verdict.outcome,
        Outcome::Unresolved,
        "gold has no such test"
    );
}

#[test]
fn a_gold_run_is_recorded_by_the_official_rule() {
    for (new, old, outcome) in [
        ("XFAIL", "SKIPPED", Outcome::Resolved),
        ("SKIPPED", "PASSED", Outcome::Unresolved),
        ("PASSED", "XPASS", Outcome::Unresolved),
    ] {
        let run = run(&pytest_records(&[(F2P, new), (P2P, old)], 0), Exit::Code(0));
        assert_eq!(
            judge_as(&run, Expectation::GoldRun, None).outcome,
            outcome,
            "{new} {old}"
        );
    }
}

#[test]
fn cut_ids_stand_for_all_they_begin() {
    let calls = [("t.py::t[a b]", "PASSED"), ("t.py::t[a c]", "XFAIL")];
    let run_of = |calls: &[(&str, &str)]| run(&pytest_records(calls, 0), Exit::Code(0));
    let full = parser("pytest_v2").unwrap();
    let recorded = gold(&calls);
    let judge = |calls: &[(&str, &str)], expect| {
        judge_listed(&["t.py::t[a"], &[], full, &run_of(calls), expect, None).outcome
    };
    assert_eq!(
        judge(&calls, Expectation::Recorded(&recorded)),
        Outcome::Resolved
    );
    assert_eq!(
        judge(&calls[..1], Expectation::Recorded(&recorded)),
        Outcome::Unresolved
    );
    assert_eq!(judge(&calls, Expectation::Passed), Outcome::Unresolved);
    assert_eq!(judge(&calls[..1], Expectation::Passed), Outcome::Resolved);
    assert_eq!(judge(&[], Expectation::Passed), Outcome::Unresolved);
    let split = [("t.py::t[a b]", "PASSED"), ("t.py::t[a c]", "SKIPPED")];
    assert_eq!(
        judge(&split, Expectation::Recorded(&gold(&split))),
        Outcome::Unresolved
    );
}

#[test]
fn progress_marks_in_the_lists_are_no_tests() {
    let run = run(&pytest_records(&[(F2P, "PASSED")], 0), Exit::Code(0));
    let pytest = parser("pytest").unwrap();
    let verdict = judge_listed(
        &[F2P],
        &["[100%]", "["],
        pytest,
        &run,
        Expectation::Passed,
        None,
    );
    assert_eq!(verdict.outcome, Outcome::Resolved);
    assert_eq!(flags(&verdict), ["not_a_test"]);
    let verdict = judge_listed(&[], &["[100%]"], pytest, &run, Expectation::Passed, None);
    assert!(matches!(
        verdict.outcome,
        Outcome::InfraError(InfraKind::GoldFails(_))
    ));
}

#[test]
fn the_log_can_take_a_pass_away_and_never_give_one() {
    let mut good = run(&pytest_records(&GOOD, 0), Exit::Code(0));
    good.log = format!("PASSED {F2P}\nFAILED {P2P} - assert 0");
    let verdict = judge(&good);
    assert_eq!(verdict.outcome, Outcome::Unresolved);
    assert_eq!(flags(&verdict), ["log_disagrees"]);
    assert_eq!(verdict.tests, map(&GOOD));

    let mut bad = run(
        &pytest_records(&[(F2P, "FAILED"), (P2P, "PASSED")], 1),
        Exit::Code(1),
    );
    bad.log = format!("PASSED {F2P}\nPASSED {P2P}");
    let verdict = judge(&bad);
    assert_eq!(verdict.outcome, Outcome::Unresolved);
    assert_eq!(flags(&verdict), ["log_disagrees"]);
}

#[test]
fn without_a_runner_the_log_speaks_and_is_flagged() {
    let log_run = |log: &str, exit| TestRun {
        exit,
        log: log.into(),
        log_truncated: true,
        report: None,
        seconds: 1.0,
    };
    let good = format!("PASSED {F2P}\nPASSED {P2P}\n");
    for (log, exit, outcome) in [
        (good.clone(), Exit::Code(0), Outcome::Resolved),
        (good.clone(), Exit::Code(1), Outcome::Unresolved),
        (
            good.clone() + "FAILED t.py::x",
            Exit::Code(1),
            Outcome::Resolved,
        ),
        (good.clone(), Exit::Signal(9), Outcome::Unresolved),
        (good.clone(), Exit::TimedOut, Outcome::Timeout),
        (
            format!("PASSED {F2P}\nXFAIL {P2P}\n"),
            Exit::Code(0),
            Outcome::Unresolved,
        ),
    ] {
        let verdict = judge(&log_run(&log, exit));
        assert_eq!(verdict.outcome, outcome, "{log} {exit:?}");
        assert_eq!(flags(&verdict)[..2], ["log_truncated", "no_trusted_report"]);
    }
}

#[test]
fn flags_of_the_runner_are_passed_on() {
    let mut records = pytest_records(&GOOD, 0);
    let flag = Record::Flag {
        name: "patched_outcome".into(),
        detail: "pytest.raises".into(),
    };
    records.insert(1, flag);
    let verdict = judge(&run(&records, Exit::Code(0)));
    assert_eq!(flags(&verdict), ["patched_outcome"]);
    assert_eq!(verdict.outcome, Outcome::Resolved);
}

#[test]
fn colliding_ids_fold_as_in_the_frameworks_log() {
    let sympy = parser("sympy").unwrap();
    let django = parser("django").unwrap();
    let pytest = parser("pytest").unwrap();
    let cases: [(&str, Parser, &[Record], &str, &str); 7] = [
        (
            "sympy",
            sympy,
            &[call("test_a", "FAILED"), call("test_a", "PASSED")],
            "test_a",
            "PASSED",
        ),
        (
            "django",
            django,
            &[
                call("test_a (x.T)\nDoc.", "PASSED"),
                call("test_b (x.T)\nDoc.", "ERROR"),
            ],
            "Doc.",
            "ERROR",
        ),
        (
            "pytest",
            pytest,
            &[
                call("t.py::t[a b]", "FAILED"),
                call("t.py::t[a c]", "PASSED"),
            ],
            "t.py::t[a",
            "FAILED",
        ),
        (
            "pytest",
            pytest,
            &[
                call("t.py::t[a b]", "PASSED"),
                call("t.py::t[a c]", "SKIPPED"),
            ],
            "t.py::t[a",
            "PASSED",
        ),
        (
            "pytest",
            pytest,
            &[
                call("t.py::t", "FAILED"),
                test("t.py::t", Phase::Teardown, "FAILED"),
            ],
            "t.py::t",
            "FAILED",
        ),
        (
            "pytest",
            pytest,
            &[test("t.py", Phase::Collect, "FAILED")],
            "t.py",
            "ERROR",
        ),
        (
            "pytest",
            sympy,
            &[call("sympy/tests/test_x.py::test_a", "PASSED")],
            "test_a",
            "PASSED",
        ),
    ];
    for (framework, parser, records, id, status) in cases {
        let records = ended([&[start(framework)], records].concat(), 0);
        let run = run(&records, Exit::Code(0));
        let verdict = judge_listed(&[id], &[], parser, &run, Expectation::Passed, None);
        assert_eq!(
            verdict.tests,
            map(&[(id, status)]),
            "{framework} {records:?}"
        );
    }
}

#[test]
fn the_twin_run_must_fail() {
    let real = run(&pytest_records(&GOOD, 0), Exit::Code(0));
    let judge_twin = |records: &[Record], exit| {
        let must_fail = ids(&[F2P]);
        let twin = run(records, exit);
        judge_as(
            &real,
            Expectation::Passed,
            Some(TwinRun {
                must_fail: &must_fail,
                run: &twin,
            }),
        )
    };
    let failed = judge_twin(
        &pytest_records(&[(F2P, "FAILED"), (P2P, "PASSED")], 1),
        Exit::Code(1),
    );
    assert_eq!(
        (failed.outcome.clone(), flags(&failed).len()),
        (Outcome::Resolved, 0)
    );
    for status in ["PASSED", "SKIPPED", "XFAIL"] {
        let passed = judge_twin(&pytest_records(&[(F2P, status)], 0), Exit::Code(0));
        assert!(
            matches!(&passed.outcome, Outcome::Tampered(why) if why.len() == 1),
            "{passed:?}"
        );
    }
    let inconclusive: [Vec<Record>; 3] = [
        ended(vec![start("pytest"), test(F2P, Phase::Setup, "FAILED")], 1),
        ended(
            vec![start("pytest"), test("t.py", Phase::Collect, "FAILED")],
            2,
        ),
        vec![start("pytest")],
    ];
    for records in inconclusive {
        let exit = match records.last() {
            Some(Record::End { exit, .. }) => *exit,
            _ => 1,
        };
        let verdict = judge_twin(&records, Exit::Code(exit));
        assert_eq!(verdict.outcome, Outcome::Resolved);
        assert_eq!(flags(&verdict), ["twin_inconclusive"]);
    }
    let forged = judge_twin(&pytest_records(&[(F2P, "FAILED")], 1), Exit::Code(0));
    assert!(matches!(forged.outcome, Outcome::Tampered(_)));
    // a torn-down pass is still a pass
    let torn = ended(
        vec![
            start("pytest"),
            call(F2P, "PASSED"),
            test(F2P, Phase::Teardown, "FAILED"),
        ],
        1,
    );
    assert!(matches!(
        judge_twin(&torn, Exit::Code(1)).outcome,
        Outcome::Tampered(_)
    ));
}

/// Clean records with a digest and flags.
fn signed(digest: &str, flags: &[&str]) -> Vec<Record> {
    let mut records = pytest_records(&GOOD, 0);
    let end = records.pop().unwrap();
    for record in &mut records {
        if let Record::Collect { digest: old, .. } = record {
            *old = digest.into();
        }
    }
    records.extend(flags.iter().map(|name| Record::Flag {
        name: (*name).into(),
        detail: format!("{name} of {P2P}"),
    }));
    records.push(end);
    records
}

/// Outcome and flags of a run, held against the signs of a gold run.
fn beside(gold: Option<&[Record]>, records: &[Record]) -> (Outcome, Vec<String>) {
    let signs = gold.map(|gold| Signs::of(&decode_report(&wire(gold), KEY)));
    let run = run(records, Exit::Code(0));
    let verdict = strict_verdict(&StrictInput {
        fail_to_pass: &ids(&[F2P]),
        pass_to_pass: &ids(&[P2P]),
        expect: Expectation::Passed,
        gold: signs.as_ref(),
        parser: parser("pytest").unwrap(),
        run: &run,
        twin: None,
    });
    let names = flags(&verdict).into_iter().map(str::to_owned).collect();
    (verdict.outcome, names)
}

#[test]
fn flags_of_interference_are_tampering_unless_gold_has_them() {
    for name in [
        "outcome_changed",
        "body_not_run",
        "exit_disagrees",
        "uncollected",
    ] {
        let clean = signed("d", &[]);
        let flagged = signed("d", &[name]);
        let (outcome, _) = beside(Some(&clean), &flagged);
        assert!(
            matches!(&outcome, Outcome::Tampered(why) if why[0].starts_with(name)),
            "{name}: {outcome:?}"
        );
        assert_eq!(beside(Some(&flagged), &flagged).0, Outcome::Resolved);
        // Nothing is known about gold.
        assert_eq!(beside(None, &flagged).0, Outcome::Resolved);
    }
    let (outcome, flags) = beside(
        Some(&signed("d", &[])),
        &signed("d", &["patched", "traced"]),
    );
    assert_eq!(outcome, Outcome::Resolved);
    assert_eq!(flags, ["patched", "traced"]);
}

#[test]
fn another_collection_is_a_flag_and_no_verdict() {
    let gold = signed("d", &[]);
    assert_eq!(
        beside(Some(&gold), &signed("e", &[])),
        (Outcome::Resolved, vec!["collection_differs".to_owned()])
    );
    for same in [Some(gold.as_slice()), None] {
        assert_eq!(beside(same, &gold), (Outcome::Resolved, vec![]));
    }
    // A run that ends without having collected anything differs; one that was
    // cut before says nothing.
    let silent: Vec<Record> = gold
        .iter()
        .filter(|record| !matches!(record, Record::Collect { .. }))
        .cloned()
        .collect();
    let differs = |records: &[Record]| {
        let (_, flags) = beside(Some(&gold), records);
        flags.iter().any(|flag| flag == "collection_differs")
    };
    assert!(differs(&silent));
    assert!(!differs(&silent[..silent.len() - 1]));
}
