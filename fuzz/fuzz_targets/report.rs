//! Bytes of a private channel, written by someone without the key, never
//! resolve anything, and never panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swegym_core::{Exit, Outcome, TestRun};
use swegym_grade::{Expectation, StrictInput, decode_report, parser, strict_verdict};

fuzz_target!(|input: (&[u8], &str, i32)| {
    let (bytes, log, exit) = input;
    let run = TestRun {
        exit: Exit::Code(exit),
        log: log.to_owned(),
        log_truncated: false,
        report: Some(decode_report(bytes, b"a key nobody else has")),
        seconds: 0.0,
    };
    let verdict = strict_verdict(&StrictInput {
        fail_to_pass: &["t.py::test".to_owned()],
        pass_to_pass: &[],
        expect: Expectation::Passed,
        gold: None,
        parser: parser("pytest").expect("pytest has a parser"),
        run: &run,
        twin: None,
    });
    assert_ne!(verdict.outcome, Outcome::Resolved);
});
