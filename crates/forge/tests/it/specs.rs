//! The embedded specs.

use std::fs;

use swegym_core::Instance;
use swegym_forge::{MemoryTree, Mode, Origin, Specs, recipe_for, recipes_for};

use crate::machine;

const REPOSITORIES: [&str; 23] = [
    "astropy/astropy",
    "django/django",
    "pallets/flask",
    "matplotlib/matplotlib",
    "pylint-dev/pylint",
    "pytest-dev/pytest",
    "psf/requests",
    "scikit-learn/scikit-learn",
    "mwaskom/seaborn",
    "sphinx-doc/sphinx",
    "sympy/sympy",
    "pydata/xarray",
    "pandas-dev/pandas",
    "Project-MONAI/MONAI",
    "getmoto/moto",
    "python/mypy",
    "dask/dask",
    "iterative/dvc",
    "conan-io/conan",
    "pydantic/pydantic",
    "facebookresearch/hydra",
    "bokeh/bokeh",
    "modin-project/modin",
];

#[test]
fn every_version_of_every_repository_has_a_whole_recipe() {
    let specs = Specs::embedded().expect("every spec has the right form");
    let known: Vec<&str> = specs.repositories().collect();
    for repo in REPOSITORIES {
        assert!(known.contains(&repo), "no spec for {repo}");
    }
    let tree = MemoryTree::from_iter([("setup.py", "from setuptools import setup\nsetup()\n")]);
    for repo in known.clone() {
        let versions = specs.versions(repo);
        assert!(!versions.is_empty(), "{repo} has no versions");
        let distinct: std::collections::BTreeSet<&&str> = versions.iter().collect();
        assert_eq!(
            distinct.len(),
            versions.len(),
            "{repo} names a version twice"
        );
        for version in versions {
            let instance = Instance {
                instance_id: format!("{repo}-{version}"),
                repo: repo.to_uppercase(),
                version: Some(version.to_owned()),
                ..Instance::default()
            };
            let recipe =
                recipe_for(&instance, &tree, Mode::Auto, &specs, &machine()).expect("a recipe");
            assert_eq!(recipe.origin, Origin::Spec, "{repo} {version}");
            assert!(!recipe.test_command.is_empty(), "{repo} {version}");
            assert!(recipe.log_parser.is_some(), "{repo} {version}");
            swegym_forge::host::choose(recipe.python, &machine())
                .unwrap_or_else(|e| panic!("{repo} {version}: {e}"));
        }
    }
}

#[test]
fn a_folder_of_the_user_overrides_a_repository() {
    let dir = tempfile::tempdir().expect("tempdir");
    let text = "repo = \"psf/requests\"\n[default]\npython = \"3.8\"\n[[group]]\nversions = [\"9\"]\n[group.spec]\ninstall = \"pip install .\"\ntest_command = \"pytest\"\n";
    fs::write(dir.path().join("mine.toml"), text).expect("write");
    fs::write(dir.path().join("notes.md"), "not a spec").expect("write");
    let specs = Specs::embedded()
        .and_then(|s| s.overridden_by(dir.path()))
        .expect("specs");
    assert_eq!(specs.versions("psf/requests"), ["9"]);
    assert!(!specs.versions("django/django").is_empty());

    fs::write(
        dir.path().join("bad.toml"),
        "repo = \"a/b\"\n[default]\npythn = 3\n",
    )
    .expect("write");
    let error = Specs::default()
        .overridden_by(dir.path())
        .expect_err("a misspelt key");
    let error = error.to_string();
    assert!(
        error.contains("bad.toml") && error.contains("pythn"),
        "{error}"
    );
}

#[test]
fn an_install_that_resolves_nothing_asks_for_what_the_project_needs() {
    let specs = Specs::embedded().expect("specs");
    let tree = MemoryTree::from_iter([(
        "pyproject.toml",
        "[build-system]\nrequires = [\"setuptools~=62.6\"]\n[project]\nname = \"astroid\"\n\
         dependencies = [\"wrapt>=1.11,<2\"]\n",
    )]);
    let instance = Instance {
        instance_id: "a".into(),
        repo: "pylint-dev/astroid".into(),
        version: Some("2.15".into()),
        ..Instance::default()
    };
    let all = recipes_for(&instance, &tree, Mode::Auto, &specs, &machine()).expect("recipes");
    let legacy = all
        .iter()
        .find(|c| c.because.contains("old setuptools"))
        .expect("a recipe for old back ends");
    let asked = &legacy.recipe.requirements;
    assert!(asked.iter().any(|r| r.starts_with("wrapt")), "{asked:?}");
}
