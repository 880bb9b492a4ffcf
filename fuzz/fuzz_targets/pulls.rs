//! Dumps of pull requests and issues, and the diffs in them: any bytes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use swegym_forge::pulls::{
    Commit, IssueIndex, SplitRule, candidate, candidate_of_commit, read_pulls, resolved_issues,
    split_diff,
};

fuzz_target!(|input: (&[u8], &[u8], &str)| {
    let (pulls, issues, diff) = input;
    let (mut index, _) = IssueIndex::new(Cursor::new(issues), "issues", Some("o/r"));
    let files = split_diff(diff);
    for pull in read_pulls(pulls, "pulls", Some("o/r")).flatten() {
        let issues = index.issues(&pull.repo, &resolved_issues(&pull)).unwrap_or_default();
        for rule in [SplitRule::Ours, SplitRule::Reference] {
            let mined = candidate(&pull, &issues, &files, rule);
            let parts = mined.candidate.patch.len() + mined.candidate.test_patch.len();
            assert!(parts <= diff.len() + files.len());
        }
    }
    let commit = Commit { message: diff.to_owned(), ..Commit::default() };
    candidate_of_commit(&commit, &files, SplitRule::Ours);
});
