//! Changelogs of packages nobody vouches for: any text gives entries, and
//! entries give a text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swegym_forge::changelog::{self, Document, Focus};

fuzz_target!(|input: (&str, &str)| {
    let (old, new) = input;
    let (from, to) = ("1.0".parse().expect("a version"), "2.0".parse().expect("a version"));
    for path in ["CHANGES.rst", "CHANGELOG.md", "NEWS", "README.rst", "PKG-INFO", "news/1.bugfix"] {
        let document = |text| Document { path, text };
        let Ok(log) = changelog::read(&[document(old)], &[document(new)], &from, &to) else {
            continue;
        };
        assert!(!log.entries.is_empty());
        let entries: Vec<_> = log.entries.iter().collect();
        let _ = changelog::problem_statement(&entries, "package", "1.0");
        let assigned = changelog::assign(&log.entries, &[Focus::default()]);
        assert!(assigned[0].iter().all(|at| *at < log.entries.len()));
    }
});
