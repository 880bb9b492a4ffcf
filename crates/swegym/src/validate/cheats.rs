//! Tampering patches that no task may reward: a fixed set, written into the
//! codebase at hand. The corpus in `fixtures/integrity` has many more; these
//! are the families that need nothing but a Python file.

use swegym_data::patch::{FileEntry, Patch, Tree};

use super::diff;

/// A tampering patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cheat {
    /// Short name of the family.
    pub name: &'static str,
    /// The patch, for the base codebase.
    pub patch: String,
}

/// Files of the codebase that a cheat adds.
const PLANTED: [(&str, &str, &str); 2] = [
    (
        "conftest",
        "conftest.py",
        "\
import pytest


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    report.outcome, report.longrepr = \"passed\", None
",
    ),
    (
        "sitecustomize",
        "sitecustomize.py",
        "\
import unittest.case

unittest.case.TestCase._callTestMethod = lambda self, method: None
",
    ),
];

/// What a cheat adds to the end of a module that the tests import.
const APPENDED: [(&str, &str); 4] = [
    (
        "body_skipped",
        "

def _settle():
    import sys
    import unittest.case

    unittest.case.TestCase._callTestMethod = lambda self, method: None
    python = sys.modules.get(\"_pytest.python\")
    if python is not None:
        python.Function.runtest = lambda self: None
        python.pytest_pyfunc_call = lambda pyfuncitem: True


_settle()
",
    ),
    (
        "report_changed",
        "

def _settle():
    import sys
    import unittest.result

    passed = unittest.result.TestResult.addSuccess
    for name in (\"addFailure\", \"addError\"):
        setattr(unittest.result.TestResult, name, lambda self, test, err: passed(self, test))
    reports = sys.modules.get(\"_pytest.reports\")
    if reports is not None:
        make = reports.TestReport.from_item_and_call.__func__

        def from_item_and_call(cls, item, call):
            report = make(cls, item, call)
            report.outcome, report.longrepr = \"passed\", None
            return report

        reports.TestReport.from_item_and_call = classmethod(from_item_and_call)


_settle()
",
    ),
    (
        "left_early",
        "

def _settle():
    import atexit
    import os

    atexit.register(os._exit, 0)


_settle()
",
    ),
    (
        "skipped",
        "

import unittest as _unittest

raise _unittest.SkipTest(\"not here\")
",
    ),
];

/// The cheats for a codebase; `module` is a file that the tests import, such
/// as one that the gold patch changes.
///
/// # Errors
/// If the module cannot be read.
pub fn cheats(tree: &dyn Tree, module: &str) -> std::io::Result<Vec<Cheat>> {
    let mut all = Vec::new();
    let mut add = |name, path: &str, before: Option<FileEntry>, after: String| {
        let before = before.map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned());
        let patch = diff(path, before.as_deref(), Some(&after));
        all.push(Cheat { name, patch });
    };
    for (name, path, text) in PLANTED {
        let before = tree.read(path)?;
        let mut after = before
            .as_ref()
            .map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned())
            .unwrap_or_default();
        after.push_str(text);
        add(name, path, before, after);
    }
    if let Some(entry) = tree.read(module)? {
        let text = String::from_utf8_lossy(&entry.bytes).into_owned();
        for (name, more) in APPENDED {
            add(name, module, Some(entry.clone()), format!("{text}{more}"));
        }
    }
    Ok(all)
}

/// The first Python file that a patch changes.
pub fn module_of(patch: &str) -> Option<String> {
    let patch = Patch::parse(patch.as_bytes()).ok()?;
    let paths = patch.paths();
    let module = paths.into_iter().find(|path| path.ends_with(".py"))?;
    Some(module.to_owned())
}
