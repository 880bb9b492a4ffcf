//! The part of a log that tells of one failure.

/// What a log says of a failing test: its section between pytest's or
/// unittest's rules, else that of its file, if that could not be collected.
pub fn failure<'l>(log: &'l str, test: &str) -> Option<&'l str> {
    let name = test.split('[').next().unwrap_or(test);
    let (file, name) = name.rsplit_once("::").unwrap_or((name, name));
    let name = name.split(" (").next().unwrap_or(name);
    let file = file.split("::").next().unwrap_or(file);
    section(log, |title| mentions(title, name)).or_else(|| {
        section(log, |title| {
            title.contains(&format!("ERROR collecting {file} "))
        })
    })
}

fn section(log: &str, wanted: impl Fn(&str) -> bool) -> Option<&str> {
    let mut start = None;
    let mut at = 0;
    for line in log.split_inclusive('\n') {
        let text = line.trim_end();
        match start {
            None if is_title(text) && wanted(text) => start = Some(at),
            Some(begun) if at > begun && is_rule(text) => return Some(&log[begun..at]),
            _ => {}
        }
        at += line.len();
    }
    start.map(|begun| &log[begun..])
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
    fn a_section_ends_at_the_next_title() -> Result<(), &'static str> {
        let one = failure(LOG, "t.py::TestA::test_one[x]").ok_or("test_one")?;
        assert!(one.contains("1 == 2") && one.contains("more") && !one.contains("test_two"));
        let two = failure(LOG, "t.py::test_two").ok_or("test_two")?;
        assert!(two.ends_with("E   assert 3 == 4\n"));
        assert_eq!(failure(LOG, "t.py::test_three"), None);
        Ok(())
    }

    #[test]
    fn a_file_that_cannot_be_collected_fails_for_its_tests() {
        let log =
            "=== ERRORS ===\n____ ERROR collecting tests/t.py ____\nE   NameError\n=== end ===\n";
        let found = failure(log, "tests/t.py::TestA::test_one");
        assert!(found.is_some_and(|f| f.ends_with("NameError\n")));
        assert_eq!(failure(log, "t.py::test_one"), None);
    }

    #[test]
    fn unittest_sections_are_found() -> Result<(), &'static str> {
        let log = "=====\nFAIL: test_a (t.T)\n-----\nTraceback:\nAssertionError: 1\n\n=====\nFAIL: test_b (t.T)\n";
        let found = failure(log, "test_a (t.T)").ok_or("test_a")?;
        assert!(found.starts_with("FAIL: test_a") && found.contains("AssertionError"));
        assert!(!found.contains("test_b"));
        Ok(())
    }
}
