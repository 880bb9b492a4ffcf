//! What runs the tests.

use std::collections::BTreeMap;

use super::ci::Ci;
use super::project::Project;
use super::pytest_config::PytestConfig;
use super::tests_scan::TestUse;
use super::tox::ToxEnv;
use crate::directives::Select;
use crate::recipe::Framework;
use crate::shell;
use crate::tree::Tree;

/// A way to run the tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runner {
    /// Command without test files.
    pub(crate) command: String,
    pub(crate) framework: Framework,
    pub(crate) select: Select,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) why: String,
}

/// Finds out how the tests are run.
pub(crate) fn infer(
    tree: &dyn Tree,
    project: &Project,
    tox: Option<&ToxEnv>,
    ci: &Ci,
    config: &PytestConfig,
    tests: &TestUse,
) -> Runner {
    let runner = |command: &str, framework, select, why: &str| Runner {
        command: command.to_owned(),
        framework,
        select,
        env: BTreeMap::new(),
        why: format!("tests run by {why}"),
    };
    if tree.has("tests/runtests.py") && tree.has("tests/test_sqlite.py") {
        return runner(
            "./tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1",
            Framework::Django,
            Select::DjangoModules,
            "tests/runtests.py, as Django's are",
        );
    }
    if tree.has("sympy/testing/runtests.py") || tree.has("sympy/utilities/runtests.py") {
        return runner(
            sympy_runner(tree),
            Framework::Sympy,
            Select::PythonFiles,
            "SymPy's own runner",
        );
    }
    let commands: Vec<&str> = tox
        .iter()
        .flat_map(|t| &t.commands)
        .chain(&ci.test_commands)
        .map(String::as_str)
        .collect();
    let mentions = |word: &str| commands.iter().any(|c| c.contains(word));
    let uses_pytest = config.file.is_some()
        || mentions("pytest")
        || mentions("py.test")
        || tests.modules.contains_key("pytest")
        || tree.files().iter().any(|f| f.ends_with("conftest.py"));
    let only_unittest = !uses_pytest
        && !tests.pytest
        && (mentions("unittest") || mentions("setup.py test") || tests.unittest)
        && project.tests_require.is_empty();
    if only_unittest {
        return runner(
            "python -m unittest -v",
            Framework::Unittest,
            Select::Modules,
            "unittest: nothing mentions pytest",
        );
    }
    let why = if config.file.is_some() {
        format!(
            "pytest, configured in {}",
            config.file.as_deref().unwrap_or_default()
        )
    } else if uses_pytest {
        "pytest, which tests or commands name".to_owned()
    } else {
        "pytest, which runs other frameworks' tests too".to_owned()
    };
    // Without the option, a module that cannot be imported yet would keep the
    // tests of all others from being run.
    let command = "pytest -rA --continue-on-collection-errors";
    let mut found = runner(command, Framework::Pytest, Select::PythonFiles, &why);
    if config.is_parallel() {
        found.command.push_str(" -n0");
    }
    // Colours belong to a terminal.
    if config.addopts.iter().any(|o| o.starts_with("--color")) {
        found.command.push_str(" --color=no");
    }
    if let Some(tox) = tox {
        adopt_tox(&mut found, tox);
    }
    found
}

/// Options that change what a test run means, and their number of values.
const KEPT: [(&str, usize); 7] = [
    ("-p", 1),
    ("-W", 1),
    ("-o", 1),
    ("-c", 1),
    ("--import-mode", 1),
    ("--rootdir", 1),
    ("--ds", 1),
];

/// Takes over the options and variables with which tox runs pytest.
fn adopt_tox(found: &mut Runner, tox: &ToxEnv) {
    let Some(command) = tox
        .commands
        .iter()
        .find(|c| c.contains("pytest") || c.contains("py.test"))
    else {
        return;
    };
    let words = shell::words(command);
    let mut words = words
        .iter()
        .skip_while(|w| !w.ends_with("pytest") && !w.ends_with("py.test"))
        .skip(1)
        .peekable();
    while let Some(word) = words.next() {
        let Some((option, values)) = KEPT.iter().find(|(name, _)| {
            word == name || word.strip_prefix(name).is_some_and(|r| r.starts_with('='))
        }) else {
            continue;
        };
        let mut taken = vec![shell::quote(word)];
        if word == option {
            taken.extend(words.by_ref().take(*values).map(|v| shell::quote(v)));
        }
        if !taken
            .iter()
            .any(|t| t.contains('{') || t.contains("no:terminal"))
        {
            found.command.push(' ');
            found.command.push_str(&taken.join(" "));
        }
    }
    for (name, value) in &tox.setenv {
        // Where tox puts caches and coverage is its own affair.
        let foreign = name.starts_with("COVERAGE") || name.starts_with("PIP_") || name == "PATH";
        if !foreign && !value.is_empty() && name != "PYTEST_ADDOPTS" {
            found.env.insert(name.clone(), value.clone());
        }
    }
}

/// SymPy's runner; source distributions lack `bin/test`, which only forwards.
pub(crate) fn sympy_runner(tree: &dyn Tree) -> &'static str {
    if tree.has("bin/test") {
        "PYTHONWARNINGS=ignore::UserWarning,ignore::SyntaxWarning bin/test -C --verbose"
    } else {
        "PYTHONWARNINGS=ignore::UserWarning,ignore::SyntaxWarning python -c 'import sys, sympy; \
         sys.exit(not sympy.test(*sys.argv[1:], verbose=True, colors=False, subprocess=False))'"
    }
}

/// A runner with test files at its end.
pub(crate) fn with_files(runner: &str, files: &[String]) -> String {
    if files.is_empty() {
        return runner.to_owned();
    }
    format!("{runner} {}", files.join(" "))
}
