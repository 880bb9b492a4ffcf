//! Which tests a codebase shows: hidden ones are taken out of its files.

use std::collections::BTreeSet;

use crate::mutate::{self, Function, Unreadable};
use crate::twin;

/// A test file without the functions that define some tests. Where a class or
/// branch would be left empty, `pass` takes their place.
///
/// # Errors
/// If the file is no Python 3, before or after.
pub fn without_tests(path: &str, text: &str, ids: &[String]) -> Result<String, Unreadable> {
    let functions = defining(path, text, ids)?;
    let removed = cut(text, &functions, false);
    if mutate::functions(&removed).is_ok() {
        return Ok(removed);
    }
    let replaced = cut(text, &functions, true);
    mutate::functions(&replaced).map(|_| replaced)
}

/// The source of the function that defines a test.
pub fn test_source(path: &str, text: &str, id: &str) -> Option<String> {
    let function = defining(path, text, &[id.to_owned()]).ok()?.pop()?;
    let lines = text
        .split_inclusive('\n')
        .skip(function.first_line - 1)
        .take(function.last_line + 1 - function.first_line);
    Some(lines.collect())
}

fn defining(path: &str, text: &str, ids: &[String]) -> Result<Vec<Function>, Unreadable> {
    let names: BTreeSet<String> = twin::alternatives(path, text, ids, 0)?
        .into_iter()
        .filter_map(|entry| entry.function)
        .collect();
    let functions = mutate::functions(text)?;
    Ok(functions
        .into_iter()
        .filter(|function| names.contains(&function.qualname))
        .collect())
}

fn cut(text: &str, functions: &[Function], with_pass: bool) -> String {
    let mut out = String::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let number = index + 1;
        match functions
            .iter()
            .find(|f| (f.first_line..=f.last_line).contains(&number))
        {
            None => out.push_str(line),
            Some(function) if with_pass && number == function.first_line => {
                let indent = line.len() - line.trim_start().len();
                out.push_str(&line[..indent]);
                out.push_str("pass\n");
            }
            Some(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
import pytest

def helper():
    return 1

@pytest.mark.parametrize('x', [1, 2])
def test_a(x):
    assert x

class TestB:
    def test_c(self):
        assert helper()

    def test_d(self):
        pass

class TestE:
    def test_f(self):
        assert 1
";

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| format!("t.py::{id}")).collect()
    }

    #[test]
    fn tests_go_with_their_decorators() {
        let without = without_tests("t.py", TEXT, &ids(&["test_a[1]", "TestB::test_c"])).unwrap();
        assert!(!without.contains("parametrize") && !without.contains("test_c"));
        assert!(without.contains("helper") && without.contains("test_d"));
    }

    #[test]
    fn an_empty_class_keeps_a_body() {
        let without = without_tests("t.py", TEXT, &ids(&["TestE::test_f"])).unwrap();
        assert!(without.ends_with("class TestE:\n    pass\n"));
    }

    #[test]
    fn a_test_has_a_source() {
        let source = test_source("t.py", TEXT, "t.py::TestB::test_d").unwrap();
        assert_eq!(source, "    def test_d(self):\n        pass\n");
    }
}
