//! Plans: their scripts do what they say when bash runs them with a uv that
//! only records how it is called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use swegym_core::{EnvSpec, Instance};
use swegym_forge::{
    BuildPlan, Layer, Layout, MemoryTree, Mode, Recipe, Specs, Step, StepName, recipe_for,
};

use crate::interpreter;

/// A uv that writes its arguments and the requirement files it was given to a
/// log, and fails for the requirement `unbuildable`.
const RECORDER: &str = r#"#!/bin/bash
log="$(dirname "$0")/calls"
echo "uv $*" >> "$log"
for word in "$@"; do
  case "$word" in
    */requirements.txt|*/optional.txt|*/constraints.txt)
      sed "s|^|$(basename "$word"): |" "$word" >> "$log"
      if [ "$1 $2" = "pip install" ] && grep -q unbuildable "$word"; then exit 1; fi ;;
    unbuildable*) exit 1 ;;
  esac
done
"#;

fn recipe(environment: EnvSpec) -> Recipe {
    let instance = Instance {
        created_at: Some("2022-05-01".into()),
        environment: Some(environment),
        test_command: Some("pytest -rA".into()),
        ..Instance::default()
    };
    let tree = MemoryTree::from_iter([("setup.py", "")]);
    recipe_for(&instance, &tree, Mode::Auto, &Specs::default(), &[]).expect("a recipe")
}

/// Runs all steps but the compilation; returns what uv was asked, with the
/// folder's name replaced.
fn calls(recipe: &Recipe, dir: &Path) -> String {
    calls_of(dir, |layout| {
        BuildPlan::new(recipe, &interpreter("3.9.18"), layout).steps
    })
}

fn calls_of(dir: &Path, steps: impl Fn(&Layout) -> Vec<Step>) -> String {
    let uv = dir.join("uv");
    fs::write(&uv, RECORDER).expect("write uv");
    fs::set_permissions(&uv, fs::Permissions::from_mode(0o755)).expect("chmod");
    let layout = Layout {
        venv: dir.join("venv"),
        testbed: dir.to_owned(),
        uv,
        cache: dir.join("cache"),
        scratch: dir.join("scratch"),
    };
    let steps = steps(&layout).into_iter();
    for step in steps.filter(|s| s.name != StepName::Compile) {
        let output = Command::new("/bin/bash")
            .args(["-c", &step.script])
            .env_clear()
            .envs(&step.env)
            .current_dir(dir)
            .output()
            .expect("bash");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}", step.name.as_str());
    }
    let log = fs::read_to_string(dir.join("calls")).expect("calls");
    log.replace(&dir.display().to_string(), "DIR")
}

#[test]
fn recorded_versions_are_installed_as_they_are() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut recipe = recipe(EnvSpec {
        python: Some("3.9".into()),
        requirements: vec!["attrs==23.1.0".into(), "pip==24.2".into()],
        pre_install: vec!["echo hello > \"it's there\"".into()],
        install: Some("python -m pip install -ve '.[a,b]' --no-use-pep517; hash -r".into()),
        ..EnvSpec::default()
    });
    recipe
        .exclude_newer_package
        .retain(|name, _| name == "setuptools");
    insta::assert_snapshot!(calls(&recipe, dir.path()), @r"
    uv venv --quiet --clear --python /opt/python/3.9.18/bin/python3 DIR/venv
    uv pip install --build-constraints DIR/scratch/build-constraints.txt --no-deps -r DIR/scratch/requirements.txt
    requirements.txt: attrs==23.1.0
    requirements.txt: pip==24.2
    uv pip install --exclude-newer 2022-05-01 --exclude-newer-package setuptools=2023-02-01 --build-constraints DIR/scratch/build-constraints.txt -C editable_mode=compat -e .[a,b]
    ");
    assert!(dir.path().join("it's there").is_file());
}

#[test]
fn a_rebuild_asks_no_registry_and_installs_no_requirements() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut recipe = recipe(EnvSpec {
        python: Some("3.9".into()),
        pre_install: vec!["pip install cython".into()],
        install: Some("pip install -e .[a]".into()),
        ..EnvSpec::default()
    });
    recipe.exclude_newer_package.clear();
    recipe.build_constraints.clear();
    let steps = |layout: &Layout| BuildPlan::rebuild(&recipe, &interpreter("3.9.18"), layout);
    let layout = Layout::default();
    assert!(steps(&layout).iter().all(|step| !step.network));
    insta::assert_snapshot!(calls_of(dir.path(), steps), @r"
    uv pip install --offline --exclude-newer 2022-05-01 -C editable_mode=compat cython
    uv pip install --offline --exclude-newer 2022-05-01 -C editable_mode=compat --no-deps -e .[a]
    ");
}

#[test]
fn a_tolerant_recipe_leaves_out_what_fails() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut recipe = recipe(EnvSpec::default());
    recipe.requirements = vec!["six".into()];
    recipe.optional = vec![
        "unbuildable>=1".into(),
        "mock<5; python_version > '3'".into(),
    ];
    recipe.exclude_newer = None;
    recipe.build_constraints.clear();
    recipe.install = None;
    recipe.tolerant = true;
    insta::assert_snapshot!(calls(&recipe, dir.path()), @r"
    uv venv --quiet --clear --python /opt/python/3.9.18/bin/python3 DIR/venv
    uv pip install -r DIR/scratch/requirements.txt -r DIR/scratch/optional.txt
    requirements.txt: six
    optional.txt: unbuildable>=1
    optional.txt: mock<5; python_version > '3'
    uv pip install -r DIR/scratch/requirements.txt
    requirements.txt: six
    uv pip install -r DIR/scratch/requirements.txt unbuildable>=1
    requirements.txt: six
    uv pip install -r DIR/scratch/requirements.txt mock<5; python_version > '3'
    requirements.txt: six
    ");
}

#[test]
fn dependency_steps_do_not_depend_on_the_codebase() {
    let one = recipe(EnvSpec {
        install: Some("pip install -e .".into()),
        ..EnvSpec::default()
    });
    let mut two = one.clone();
    two.install = None;
    two.install_env.insert("VERSION".into(), "2".into());
    two.pre_install.push("make".into());
    two.env.insert("TZ".into(), "UTC".into());
    let layer = |recipe: &Recipe| -> Vec<Step> {
        let plan = BuildPlan::new(recipe, &interpreter("3.9.18"), &Layout::default());
        let steps = plan.steps.into_iter();
        steps.filter(|s| s.layer == Layer::Deps).collect()
    };
    assert_eq!(one.dependency_key(), two.dependency_key());
    assert_eq!(layer(&one), layer(&two));
}
