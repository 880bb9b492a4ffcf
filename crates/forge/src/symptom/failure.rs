//! The part of a log that tells of one failure.

/// What a log says of a failing test: its section between pytest's or
/// unittest's rules. The whole log where there is none.
pub fn failure<'l>(log: &'l str, test: &str) -> &'l str {
    let name = test.split('[').next().unwrap_or(test);
    let name = name.rsplit("::").next().unwrap_or(name);
    let name = name.split(" (").next().unwrap_or(name);
    let mut start = None;
    let mut at = 0;
    for line in log.split_inclusive('\n') {
        let text = line.trim_end();
        match start {
            None if is_title(text) && mentions(text, name) => start = Some(at),
            Some(begun) if at > begun && is_rule(text) => return &log[begun..at],
            _ => {}
        }
        at += line.len();
    }
    start.map_or(log, |begun| &log[begun..])
}

/// `____ test_a ____` of pytest, `FAIL: test_a (…)` of unittest.
fn is_title(line: &str) -> bool {
    line.starts_with("____") || line.starts_with("FAIL: ") || line.starts_with("ERROR: ")
}

/// The end of a section: the next title, or a rule of equal signs.
fn is_rule(line: &str) -> bool {
    line.starts_with("===") || line.starts_with("____") && line.ends_with("____")
}

fn mentions(title: &str, name: &str) -> bool {
    title
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .map(|word| word.trim_matches('_'))
        .any(|word| word == name.trim_matches('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
=== FAILURES ===
______ TestA.test_one[x] ______

E   assert 1 == 2
_ _ _ _ _
E   more
______ test_two ______
E   assert 3 == 4
=== short test summary info ===
FAILED t.py::test_two
";

    #[test]
    fn a_section_ends_at_the_next_title() {
        let one = failure(LOG, "t.py::TestA::test_one[x]");
        assert!(one.contains("1 == 2") && one.contains("more") && !one.contains("test_two"));
        assert!(failure(LOG, "t.py::test_two").ends_with("E   assert 3 == 4\n"));
        assert_eq!(failure(LOG, "t.py::test_three"), LOG);
    }

    #[test]
    fn unittest_sections_are_found() {
        let log = "=====\nFAIL: test_a (t.T)\n-----\nTraceback:\nAssertionError: 1\n\n=====\nFAIL: test_b (t.T)\n";
        let found = failure(log, "test_a (t.T)");
        assert!(found.starts_with("FAIL: test_a") && found.contains("AssertionError"));
        assert!(!found.contains("test_b"));
    }
}
