//! Tests of the parts that have no public face.

use jiff::civil::date;
use swegym_core::Instance;

use crate::directives::{Select, select};
use crate::infer::requirements::{admits, all_pinned, canonical, normal, own_extras, read};
use crate::infer::tox;
use crate::infer::{Facts, cutoff, declared_dependencies};
use crate::ini::Ini;
use crate::install::translate;
use crate::shell;
use crate::{MemoryTree, PyVersion, Tree};

const PY39: PyVersion = PyVersion::new(3, 9);

fn tree<const N: usize>(files: [(&str, &str); N]) -> MemoryTree {
    files.into_iter().collect()
}

#[test]
fn facts_are_well_formed() {
    let facts = Facts::get();
    assert!(facts.is_stdlib("asyncio") && facts.is_stdlib("distutils"));
    assert!(!facts.is_stdlib("numpy"));
    assert_eq!(facts.option_plugin("--cov-report=xml"), Some("pytest-cov"));
    assert_eq!(facts.option_plugin("-n4"), Some("pytest-xdist"));
    assert_eq!(facts.option_plugin("--no-header"), None);
    for (module, distribution) in &facts.imports {
        assert!(normal(distribution).is_some(), "{module} = {distribution}");
    }
    for version in facts.superseded.values() {
        version.parse::<PyVersion>().expect("a version");
    }
}

#[test]
fn licences_are_named_by_metadata_first() {
    let of =
        |files: &[(&str, &str)]| crate::license(&files.iter().copied().collect::<MemoryTree>());
    let classifier = "classifiers = [\"License :: OSI Approved :: MIT License\"]";
    let project = |more: &str| format!("[project]\nname = \"x\"\n{more}\n{classifier}\n");
    let license = |more: &str| of(&[("pyproject.toml", &project(more))]);
    assert_eq!(
        license("license = \"BSD-3-Clause\"").as_deref(),
        Some("BSD-3-Clause")
    );
    assert_eq!(
        license("license = {text = \"ISC\"}").as_deref(),
        Some("ISC")
    );
    assert_eq!(
        license("license = {file = \"LICENSE\"}").as_deref(),
        Some("MIT License")
    );
    let setup = "from setuptools import setup\nsetup(name='x', license='Apache-2.0')\n";
    assert_eq!(of(&[("setup.py", setup)]).as_deref(), Some("Apache-2.0"));
    let cfg = "[metadata]\nname = x\nlicense = file: LICENSE\n";
    let info = "Name: x\nLicense: UNKNOWN\nClassifier: License :: Public Domain\n\nLicense: no\n";
    let both = [("setup.cfg", cfg), ("PKG-INFO", info)];
    assert_eq!(of(&both).as_deref(), Some("Public Domain"));
    assert_eq!(of(&[("README", "MIT")]), None);
}

#[test]
fn scripts_split_outside_of_quotes() {
    let parts: Vec<_> = shell::commands("a 'x;y' && b \"p||q\"; { c; d; } || e # no\nf")
        .iter()
        .map(|c| (c.text.to_owned(), c.operator.to_owned()))
        .collect();
    let expected = [
        ("a 'x;y'", "&&"),
        ("b \"p||q\"", ";"),
        ("{ c; d; }", "||"),
        ("e # no", "\n"),
        ("f", ""),
    ];
    let expected: Vec<_> = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    assert_eq!(parts, expected);
    assert_eq!(
        shell::words(r#"a 'b c' "d \"e" f\ g '' # h"#),
        ["a", "b c", "d \"e", "f g", ""]
    );
    for word in ["plain", "it's", "", "a b", "$x", "x[1]", "!"] {
        assert_eq!(shell::words(&shell::quote(word)), [word]);
    }
}

#[test]
fn install_commands_are_translated() {
    let cases = [
        ("python -m pip install .", "uv pip install -e ."),
        (
            "pip3 install -U pip wheel",
            "uv pip install --upgrade pip wheel",
        ),
        (
            "python -m pip install -ve . --no-build-isolation -Ceditable-verbose=true",
            "uv pip install -e . --no-build-isolation -C editable-verbose=true",
        ),
        ("pip uninstall pytest-qt -y", "uv pip uninstall pytest-qt"),
        ("python setup.py install", "uv pip install -e ."),
        (
            "pip install 'numpy<2'; python setup.py build_ext -i",
            "uv pip install 'numpy<2'\npython setup.py build_ext -i",
        ),
        (
            "apt-get update && apt-get install -y x; echo y > z",
            "true && true\necho y > z",
        ),
        (
            "pip install git+https://example.org/a.git || true; make",
            "true || true\nmake",
        ),
        (
            "[ -f setup.py ] && sed -i 's/a;b/c/' setup.py",
            "[ -f setup.py ] && sed -i 's/a;b/c/' setup.py",
        ),
    ];
    for (from, to) in cases {
        assert_eq!(translate(from).script.as_deref(), Some(to), "{from}");
    }
    assert_eq!(translate("hash -r; git fetch upstream --tags").script, None);
    assert_eq!(translate("apt-get install -y gcc").notes.len(), 1);
}

#[test]
fn ini_files_follow_python() {
    let ini = Ini::parse(
        "[a]\nKey = one # note\n  two\n\n  # comment\n  three\nother: x=1\n[b : c]\nempty =\n",
    );
    assert_eq!(ini.lines("a", "key"), ["one", "two", "three"]);
    assert_eq!(ini.get("a", "other"), Some("x=1"));
    assert_eq!(ini.get("b : c", "empty"), Some(""));
    assert_eq!(ini.get("a", "missing"), None);
}

#[test]
fn requirement_files_include_and_bound() {
    let tree = tree([
        (
            "r/test.txt",
            "-r base.txt\n--requirement=../top.txt\n-c bounds.txt\n-e .[x, y]\npytest>=7 \\\n  --hash=sha256:1\n",
        ),
        (
            "r/base.txt",
            "-r test.txt\nattrs  # why\nnot a requirement\nx @ git+https://example.org/x\n",
        ),
        ("r/bounds.txt", "attrs<22\n"),
        (
            "top.txt",
            "--index-url https://example.org\n-rr/gone.txt\n-r ../../outside.txt\nsix==1.16.0\n",
        ),
    ]);
    let file = read(&tree, "r/test.txt").expect("file");
    assert_eq!(file.requirements, ["attrs", "six==1.16.0", "pytest>=7"]);
    assert_eq!(file.constraints, ["attrs<22"]);
    assert_eq!(file.extras, ["x", "y"]);
    assert_eq!(file.skipped.len(), 2);
    assert_eq!(read(&tree, "absent.txt"), None);
}

#[test]
fn names_and_pins() {
    assert_eq!(canonical("Zope._Interface"), "zope-interface");
    assert_eq!(own_extras("."), Some(vec![]));
    assert_eq!(own_extras("'.[a,b]'"), Some(vec!["a".into(), "b".into()]));
    assert_eq!(own_extras("./sub"), None);
    assert_eq!(own_extras("pytest"), None);
    assert!(all_pinned(&[
        "a==1".into(),
        "b===2; python_version > '3'".into()
    ]));
    assert!(!all_pinned(&["a==1".into(), "b>=2".into()]));
    assert!(!all_pinned(&[]));
}

#[test]
fn markers_admit_pythons() {
    for (requirement, holds) in [
        ("pytest>=7", true),
        ("pytest>=7,<8; python_version < '3.8'", false),
        ("pytest; python_version >= '3.8' and extra == 'test'", true),
        ("pytest; sys_platform == 'win32'", false),
        ("not a requirement", false),
    ] {
        assert_eq!(admits(requirement, PY39), holds, "{requirement}");
    }
}

#[test]
fn a_requirement_of_other_pythons_hides_none() {
    let tree = tree([
        (
            "pyproject.toml",
            "[project]\nname = 'x'\nversion = '1'\n[project.optional-dependencies]\ntest = [\"pytest<8; python_version < '3.8'\"]\n",
        ),
        ("tests/test_x.py", "import pytest\n"),
    ]);
    let instance = Instance {
        created_at: Some("2024-01-01".into()),
        ..Instance::default()
    };
    let available = [PY39];
    let recipes = crate::infer::infer(&instance, &tree, &available);
    assert_eq!(recipes[0].recipe.optional, ["pytest"]);
}

#[test]
fn setup_py_is_followed_without_running_it() {
    let tree = tree([
        (
            "setup.py",
            r##"
import sys
from pathlib import Path
from setuptools import setup
here = Path(__file__).resolve().parent
def get(extra=(), *, skip=None):
    out = [r.split("#")[0].strip() for r in (here / "req.txt").read_text().splitlines()]
    return [r for r in out if r and r != skip] + list(extra)
kwargs = dict(name="x")
kwargs["install_requires"] = get(["late%s" % ">=1"], skip="b")
if sys.version_info[:2] >= (3, 8):
    kwargs["install_requires"].append(f"new~={1}.0")
def main():
    setup(**kwargs)
if __name__ == "__main__":
    main()
"##,
        ),
        ("req.txt", "a # first\nb\n\nc>2\n"),
    ]);
    assert_eq!(
        declared_dependencies(&tree, PY39),
        ["a", "c>2", "late>=1", "new~=1.0"]
    );
    assert_eq!(
        declared_dependencies(&tree, PyVersion::new(3, 7)),
        ["a", "c>2", "late>=1"]
    );
}

#[test]
fn tox_is_looked_through() {
    let tree = tree([(
        "tox.ini",
        "[tox]\nenvlist = py{38,39}-x\n[testenv]\nsetenv =\n  A = 1\n  B = {envdir}/x\ncommands =\n  py38: pytest old\n  py39: python -m pytest \\\n    -k 'a b' {posargs:tests}\n",
    )]);
    let with = tox::unwrap(
        "tox --current-env -epy39 -v -- tests/a.py 'x y'",
        &tree,
        PY39,
    );
    let with = with.expect("unwrapped");
    assert_eq!(with.command, "python -m pytest -k 'a b' tests/a.py 'x y'");
    assert_eq!(
        with.env.into_iter().collect::<Vec<_>>(),
        [("A".into(), "1".into())]
    );
    let without = tox::unwrap("tox -e py38", &tree, PyVersion::new(3, 8)).expect("unwrapped");
    assert_eq!(without.command, "pytest old");
    assert_eq!(tox::unwrap("pytest tests", &tree, PY39), None);
    assert_eq!(
        tox::expand("py3{9,10}-{a,b}"),
        ["py39-a", "py39-b", "py310-a", "py310-b"]
    );
}

#[test]
fn tests_of_a_patch_are_selected() {
    let patch = "diff --git a/tests/admin/tests.py b/tests/admin/tests.py\n+x\n\
        diff --git a/tests/data.json b/tests/data.json\n+{}\n\
        diff --git a/tests/old.py b/tests/old.py\ndeleted file mode 100644\n--- a/tests/old.py\n+++ /dev/null\n\
        diff --git a/test-data/unit/c.test b/test-data/unit/c.test\n [case testA]\n+[case testB]\n [case testA]\n";
    assert_eq!(
        select(Select::Files, patch),
        ["tests/admin/tests.py", "test-data/unit/c.test"]
    );
    assert_eq!(select(Select::PythonFiles, patch), ["tests/admin/tests.py"]);
    assert_eq!(select(Select::DjangoModules, patch), ["admin.tests"]);
    assert_eq!(select(Select::Modules, patch), ["tests.admin.tests"]);
    assert_eq!(select(Select::MypyCases, patch), ["\"testA or testB\""]);
    assert!(select(Select::Files, "").is_empty());
}

#[test]
fn versions_parse_and_have_dates() {
    assert_eq!("3.9".parse(), Ok(PY39));
    assert!(PY39.accepts("3.9.18".parse().expect("version")));
    assert!(
        !"3.9.17"
            .parse::<PyVersion>()
            .expect("version")
            .accepts("3.9.18".parse().expect("version"))
    );
    for bad in ["", "3", "four", "3.9.1.2", "3.x", "4.0"] {
        assert!(bad.parse::<PyVersion>().is_err(), "{bad}");
    }
    assert_eq!(PyVersion::new(3, 16).released(), date(2027, 10, 1));
    assert_eq!(
        cutoff(date(2013, 1, 1), PyVersion::new(3, 6)),
        date(2017, 6, 21)
    );
    assert_eq!(
        cutoff(date(2023, 1, 1), PyVersion::new(3, 6)),
        date(2023, 1, 1)
    );
}

#[test]
fn dates_come_from_the_row() {
    let mut instance = Instance::default();
    let empty = tree([]);
    assert_eq!(crate::date_of(&instance, &empty), None);
    for text in ["2019-06-17T13:44:50Z", "2019-06-17 13:44:50", "2019-06-17"] {
        instance.created_at = Some(text.into());
        assert_eq!(
            crate::date_of(&instance, &empty),
            Some(date(2019, 6, 17)),
            "{text}"
        );
    }
    assert!(!empty.has("x") && !empty.has_dir("x"));
}
