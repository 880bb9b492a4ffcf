//! Recipes that a row or a spec states.

use std::collections::BTreeMap;

use jiff::civil::{Date, date};
use serde_json::Value;
use swegym_core::{EnvSpec, Instance};

use crate::directives::{Select, select};
use crate::infer::{self, Facts, requirements};
use crate::install::translate;
use crate::recipe::{Candidate, Framework, Origin, Recipe};
use crate::specs::{Spec, Specs};
use crate::tree::Tree;
use crate::version::PyVersion;
use crate::{ForgeError, infer::tox};

/// Where a row names no Python.
const DEFAULT_PYTHON: PyVersion = PyVersion::new(3, 9);

/// From this day on projects cope with setuptools 80, which dropped much that
/// older `setup.py` files use.
const SETUPTOOLS_80: Date = date(2025, 4, 27);

/// Recipes of the row's `environment`.
pub(crate) fn from_environment(
    instance: &Instance,
    tree: &dyn Tree,
) -> Result<Vec<Candidate>, ForgeError> {
    let Some(environment) = &instance.environment else {
        return Ok(Vec::new());
    };
    let recipe = recorded(instance, tree, environment)?;
    let mut out = vec![Candidate {
        recipe: recipe.clone(),
        because: "recorded in the row".into(),
    }];
    if recipe.no_deps {
        let mut resolved = recipe.clone();
        resolved.constraints = std::mem::take(&mut resolved.requirements);
        resolved.requirements = resolved
            .constraints
            .iter()
            .filter_map(|r| requirements::name(r))
            .collect();
        resolved.no_deps = false;
        resolved.note("the recorded versions bound what is resolved");
        out.push(Candidate {
            recipe: resolved,
            because: "with the recorded versions as constraints".into(),
        });
    } else if recipe.exclude_newer.is_some() {
        // What is asked for may be younger than the codebase.
        let mut undated = recipe.clone();
        undated.exclude_newer = None;
        undated.exclude_newer_package.clear();
        undated.note("packages of any date");
        out.push(Candidate {
            recipe: undated,
            because: "with packages of any date".into(),
        });
    }
    for (because, change) in [
        (
            "without build isolation",
            no_isolation as fn(&mut Recipe, &dyn Tree),
        ),
        (
            "with an old setuptools, without isolation",
            infer::legacy_build,
        ),
        ("with the codebase left where it is", infer::left_in_place),
    ] {
        let mut recipe = recipe.clone();
        change(&mut recipe, tree);
        out.push(Candidate {
            recipe,
            because: because.into(),
        });
    }
    Ok(out)
}

/// Whether requirements are what an environment was seen to hold, pip
/// included, and not only what somebody asked for.
fn is_freeze(requirements: &[String]) -> bool {
    let has_pip = |r: &String| requirements::name(r).is_some_and(|name| name == "pip");
    requirements::all_pinned(requirements) && requirements.iter().any(has_pip)
}

fn no_isolation(recipe: &mut Recipe, _: &dyn Tree) {
    if let Some(install) = &mut recipe.install {
        *install = install.replace("uv pip install", "uv pip install --no-build-isolation");
    }
}

fn recorded(
    instance: &Instance,
    tree: &dyn Tree,
    environment: &EnvSpec,
) -> Result<Recipe, ForgeError> {
    let python = python_field(instance, "environment", environment.python.as_deref())?;
    let mut recipe = empty(python, Origin::Environment);
    recipe.note(format!("Python {python}: recorded in the row"));
    recipe.requirements = effective(&environment.requirements, python, &mut recipe.provenance);
    recipe.no_deps = is_freeze(&recipe.requirements);
    install_steps(
        &mut recipe,
        &environment.pre_install,
        environment.install.as_deref(),
    );
    recipe.exclude_newer = crate::date_of(instance, tree).map(|d| infer::cutoff(d, python));
    finish(&mut recipe, instance, tree);
    Ok(recipe)
}

/// Recorded requirements without those that the Python itself supersedes:
/// conda records them, the registry's refuse to be installed.
fn effective(recorded: &[String], python: PyVersion, notes: &mut Vec<String>) -> Vec<String> {
    let superseded = |requirement: &String| {
        let since = requirements::name(requirement).and_then(|name| {
            Facts::get()
                .superseded
                .get(&name)?
                .parse::<PyVersion>()
                .ok()
        });
        since.is_some_and(|since| python >= since)
    };
    let (dropped, kept): (Vec<String>, Vec<String>) =
        recorded.iter().cloned().partition(superseded);
    if !dropped.is_empty() {
        notes.push(format!("part of Python by now: {}", dropped.join(", ")));
    }
    kept
}

/// Recipes of SWE-rebench's `install_config`.
pub(crate) fn from_install_config(
    instance: &Instance,
    tree: &dyn Tree,
) -> Result<Vec<Candidate>, ForgeError> {
    let Some(config) = instance
        .install_config
        .as_ref()
        .filter(|c| !c.is_null() && c.as_object().is_some_and(|o| !o.is_empty()))
    else {
        return Ok(Vec::new());
    };
    let parsed;
    let config = match config {
        Value::String(text) => {
            parsed = serde_json::from_str(text).map_err(|e| ForgeError::Field {
                instance: instance.instance_id.clone(),
                field: "install_config",
                reason: format!("string is not JSON: {e}"),
            })?;
            &parsed
        }
        other => other,
    };
    let python = python_field(
        instance,
        "install_config",
        text(config, "python").as_deref(),
    )?;
    let mut spec = Spec {
        python: Some(python),
        requirements: Some([words(config, "pip_packages"), conda_packages(config)].concat()),
        requirement_files: Some(lines(config, "reqs_path")),
        conda_files: Some(lines(config, "env_yml_path")),
        pre_install: Some(lines(config, "pre_install")),
        install: Some(lines(config, "install").join("\n")),
        test_command: text(config, "test_cmd"),
        log_parser: text(config, "log_parser"),
        ..Spec::default()
    };
    if let Some(Value::Object(variables)) = config.get("env_vars") {
        let pairs = variables
            .iter()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
        spec.env = Some(pairs.collect());
    }
    let mut out = of_spec(&spec, Origin::InstallConfig, instance, tree);
    for candidate in &mut out {
        candidate
            .recipe
            .note("recorded in the row's install_config");
    }
    Ok(out)
}

/// Packages that `install_config` lists for conda, where the registry knows
/// them by the same name.
fn conda_packages(config: &Value) -> Vec<String> {
    let packages = text(config, "packages").unwrap_or_default();
    if packages.ends_with(".txt") || packages.ends_with(".yml") {
        return Vec::new();
    }
    packages
        .split_whitespace()
        .filter_map(requirements::normal)
        .collect()
}

/// Recipes of a spec.
pub(crate) fn from_spec(instance: &Instance, tree: &dyn Tree, specs: &Specs) -> Vec<Candidate> {
    let version = instance.version.as_deref().unwrap_or_default();
    let Some(spec) = specs.find(&instance.repo, version) else {
        return Vec::new();
    };
    let mut out = of_spec(&spec, Origin::Spec, instance, tree);
    for candidate in &mut out {
        let note = format!("spec of {} {version}", instance.repo);
        candidate.recipe.provenance.insert(0, note);
    }
    out
}

fn of_spec(spec: &Spec, origin: Origin, instance: &Instance, tree: &dyn Tree) -> Vec<Candidate> {
    let python = spec.python.unwrap_or(DEFAULT_PYTHON);
    let mut recipe = empty(python, origin);
    recipe.note(format!("Python {python}: as specified"));
    let pins = list(&spec.requirements);
    let pinned: Vec<String> = pins.iter().filter_map(|r| requirements::name(r)).collect();
    let mut extra = list(&spec.optional);
    for path in list(&spec.requirement_files) {
        if let Some(file) = requirements::read(tree, &path) {
            recipe.note(format!("requirements from {path}"));
            extra.extend(file.requirements);
            recipe.constraints.extend(file.constraints);
        }
    }
    let conda = list(&spec.conda_files);
    if let Some((path, found)) = conda
        .iter()
        .find_map(|path| Some((path, infer::conda_requirements(tree, path)?)))
    {
        recipe.note(format!(
            "requirements from {path}, as far as the registry has them"
        ));
        extra.extend(found);
    }
    if spec.exclude_newer.is_none() && !conda.is_empty() {
        recipe.only_binary = infer::compiled(tree, python);
    }
    // A pin of the spec overrides what the files say.
    extra.retain(|r| requirements::name(r).is_some_and(|n| !pinned.contains(&n)));
    recipe
        .requirements
        .extend(["pip", "setuptools", "wheel"].map(String::from));
    recipe
        .requirements
        .retain(|r| !pinned.iter().any(|p| p == r));
    recipe.requirements.extend(pins);
    recipe.optional = extra;
    recipe.constraints.extend(list(&spec.constraints));
    recipe.build_constraints = list(&spec.build_constraints);
    install_steps(
        &mut recipe,
        &list(&spec.pre_install),
        spec.install.as_deref(),
    );
    recipe.install_env = spec.install_env.clone().unwrap_or_default();
    recipe.env = spec.env.clone().unwrap_or_default();
    recipe.exclude_newer = spec
        .exclude_newer
        .or_else(|| crate::date_of(instance, tree).map(|d| infer::cutoff(d, python)));
    recipe.log_parser.clone_from(&spec.log_parser);
    if let Some(runner) = &spec.test_command {
        recipe.test_runner.clone_from(runner);
        let files = select(spec.select.unwrap_or_default(), &instance.test_patch);
        recipe.test_command = infer::with_files(runner, &files);
    }
    finish(&mut recipe, instance, tree);

    let mut joint = recipe.clone();
    let own = infer::declared_dependencies(tree, python)
        .into_iter()
        .chain(infer::declared_extras(tree, python, &extras(spec)));
    joint
        .requirements
        .extend(own.filter(|r| requirements::name(r).is_some_and(|n| !pinned.contains(&n))));
    let tolerant = |mut recipe: Recipe| {
        recipe.tolerant = true;
        recipe
    };
    // Its install resolves nothing, so that what the project needs is asked for.
    let mut legacy = tolerant(joint.clone());
    infer::legacy_build(&mut legacy, tree);
    let mut out = vec![
        (joint.clone(), "as specified"),
        (
            tolerant(joint.clone()),
            "without test requirements that fail",
        ),
        (
            tolerant(recipe),
            "with the project's own requirements resolved last",
        ),
    ];
    if let Some(day) = crate::date_of(instance, tree).filter(|_| spec.exclude_newer.is_some()) {
        let mut dated = tolerant(joint);
        dated.exclude_newer = Some(infer::cutoff(day, python));
        out.push((dated, "with packages of the base commit's date"));
    }
    out.push((legacy, "with an old setuptools, without isolation"));
    out.into_iter()
        .map(|(recipe, because)| Candidate {
            recipe,
            because: because.into(),
        })
        .collect()
}

/// Extras that the install command names.
fn extras(spec: &Spec) -> Vec<String> {
    let install = spec.install.as_deref().unwrap_or_default();
    let words = crate::shell::words(install);
    words
        .iter()
        .filter_map(|w| requirements::own_extras(w))
        .flatten()
        .collect()
}

fn list(value: &Option<Vec<String>>) -> Vec<String> {
    value.clone().unwrap_or_default()
}

fn empty(python: PyVersion, origin: Origin) -> Recipe {
    Recipe {
        python,
        requirements: Vec::new(),
        optional: Vec::new(),
        tolerant: false,
        no_deps: false,
        constraints: Vec::new(),
        build_constraints: Vec::new(),
        exclude_newer: None,
        exclude_newer_package: BTreeMap::new(),
        only_binary: Vec::new(),
        pre_install: Vec::new(),
        install: None,
        install_env: BTreeMap::new(),
        env: BTreeMap::new(),
        test_command: String::new(),
        test_runner: String::new(),
        framework: Framework::Other,
        log_parser: None,
        origin,
        provenance: Vec::new(),
    }
}

fn install_steps(recipe: &mut Recipe, pre_install: &[String], install: Option<&str>) {
    for line in pre_install {
        let translated = translate(line);
        recipe.pre_install.extend(translated.script);
        recipe.provenance.extend(translated.notes);
    }
    if let Some(install) = install.filter(|i| !i.trim().is_empty()) {
        let translated = translate(install);
        recipe.install = translated.script;
        recipe.provenance.extend(translated.notes);
    }
}

/// What every stated recipe needs and none states.
fn finish(recipe: &mut Recipe, instance: &Instance, tree: &dyn Tree) {
    if recipe.build_constraints.is_empty()
        && crate::date_of(instance, tree).is_none_or(|d| d < SETUPTOOLS_80)
    {
        recipe.build_constraints.push("setuptools<80".into());
    }
    infer::pretend(recipe, instance, tree);
    infer::datable(recipe);
}

/// Applies the row's own test command, if it has one; fills in an inferred
/// one where the recipe's source names none; and looks through tox.
pub(crate) fn own_test_command(recipe: &mut Recipe, instance: &Instance, tree: &dyn Tree) {
    if let Some(command) = instance
        .test_command
        .as_deref()
        .filter(|c| !c.trim().is_empty())
    {
        command.clone_into(&mut recipe.test_command);
        recipe.test_runner = without_files(command, &instance.test_patch);
        recipe.note("test command recorded in the row");
    }
    if recipe.test_command.is_empty() {
        let inferred = infer::test_command(instance, tree, recipe.python);
        recipe.test_command = inferred.0;
        recipe.test_runner = inferred.1;
        recipe.note("test command inferred from the codebase");
    }
    if let Some(found) = tox::unwrap(&recipe.test_command, tree, recipe.python) {
        recipe.note(format!("`{}` looked through", recipe.test_command));
        if let Some(found) = tox::unwrap(&recipe.test_runner, tree, recipe.python) {
            recipe.test_runner = reporting(&found.command);
        }
        recipe.test_command = reporting(&found.command);
        recipe.env.extend(found.env);
    }
    if recipe.test_command.contains("bin/test ") && !tree.has("bin/test") {
        let runner = infer::sympy_runner(tree);
        let files = select(Select::PythonFiles, &instance.test_patch);
        recipe.test_command = infer::with_files(runner, &files);
        runner.clone_into(&mut recipe.test_runner);
        recipe.note("the codebase lacks bin/test; its runner is called directly");
    }
    recipe.framework = Framework::of(&recipe.test_command);
}

/// A pytest command that lists every test at its end.
fn reporting(command: &str) -> String {
    if command.contains(" -rA") {
        return command.to_owned();
    }
    for name in ["py.test", "pytest"] {
        if let Some(at) = command.find(name) {
            let (head, tail) = command.split_at(at + name.len());
            return format!("{head} -rA{tail}");
        }
    }
    command.to_owned()
}

fn without_files(command: &str, test_patch: &str) -> String {
    let mut files = select(Select::Files, test_patch);
    files.extend(select(Select::DjangoModules, test_patch));
    let kept = command
        .split(' ')
        .filter(|word| !files.iter().any(|f| f == word));
    kept.collect::<Vec<_>>().join(" ")
}

fn python_field(
    instance: &Instance,
    field: &'static str,
    value: Option<&str>,
) -> Result<PyVersion, ForgeError> {
    value.map_or(Ok(DEFAULT_PYTHON), |text| {
        text.parse().map_err(|reason| ForgeError::Field {
            instance: instance.instance_id.clone(),
            field,
            reason,
        })
    })
}

fn text(config: &Value, key: &str) -> Option<String> {
    match config.get(key)? {
        Value::String(text) => Some(text.clone()).filter(|t| !t.is_empty()),
        list => Some(strings(list).join(" && ")).filter(|t| !t.is_empty()),
    }
}

/// A string or a list of strings, as a list.
fn lines(config: &Value, key: &str) -> Vec<String> {
    match config.get(key) {
        Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
        Some(list) => strings(list),
        None => Vec::new(),
    }
}

fn words(config: &Value, key: &str) -> Vec<String> {
    lines(config, key)
        .iter()
        .flat_map(|l| crate::shell::words(l))
        .filter_map(|r| requirements::normal(&r))
        .collect()
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}
