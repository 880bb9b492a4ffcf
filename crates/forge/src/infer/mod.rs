//! A recipe from the codebase alone.

mod ci;
mod conda;
mod facts;
mod methods;
mod project;
mod pytest_config;
mod python;
pub(crate) mod requirements;
mod runner;
mod setup_py;
mod tests_scan;
pub(crate) mod tox;

use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan;
use jiff::civil::Date;
use swegym_core::Instance;

use crate::directives::touched;
use crate::install::EDITABLE;
use crate::recipe::{Candidate, Framework, Origin, Recipe};
use crate::tree::Tree;
use crate::version::PyVersion;
pub(crate) use project::Project;
use project::{VcsVersion, requirement_files};

pub(crate) use conda::read as conda_requirements;
pub(crate) use facts::Facts;
pub(crate) use python::cutoff;
pub(crate) use runner::{sympy_runner, with_files};

/// Extras, groups and requirement files that are for tests.
const TEST_NAMES: [&str; 13] = [
    "test",
    "tests",
    "testing",
    "test-suite",
    "tests-require",
    "unittest",
    "unit-test",
    "unit-tests",
    "pytest",
    "unit",
    "tests-extra",
    "test-extras",
    "ci",
];
/// The same for development at large, looked at when there are none for tests.
const DEV_NAMES: [&str; 7] = [
    "dev",
    "develop",
    "development",
    "devel",
    "local",
    "all",
    "complete",
];

/// Days added to the cut-off date when nothing could be resolved at it.
const RELAXED_DAYS: i32 = 365;

/// Requirements under way to a recipe: name -> what was said of it.
#[derive(Debug)]
struct Wanted {
    python: PyVersion,
    required: Vec<String>,
    optional: Vec<String>,
    names: BTreeSet<String>,
    notes: Vec<String>,
}

impl Wanted {
    fn of(python: PyVersion) -> Self {
        Self {
            python,
            required: Vec::new(),
            optional: Vec::new(),
            names: BTreeSet::new(),
            notes: Vec::new(),
        }
    }

    fn require(&mut self, requirement: &str) {
        if let Some(requirement) = requirements::normal(requirement) {
            if requirements::admits(&requirement, self.python) {
                self.names.extend(requirements::name(&requirement));
            }
            if !self.required.contains(&requirement) {
                self.required.push(requirement);
            }
        }
    }

    /// Adds an optional requirement unless its name is known already. One for
    /// other Pythons is none, and does not stand in the way of another.
    fn want(&mut self, requirement: &str) -> bool {
        let Some(requirement) = requirements::normal(requirement)
            .filter(|requirement| requirements::admits(requirement, self.python))
        else {
            return false;
        };
        let new = requirements::name(&requirement).is_some_and(|n| self.names.insert(n));
        if new {
            self.optional.push(requirement);
        }
        new
    }

    /// Adds a list, and a note that names its source, if anything was new.
    fn want_all<'r>(
        &mut self,
        list: impl IntoIterator<Item = &'r String>,
        source: &str,
        keep_tools: bool,
    ) -> bool {
        let tools = &Facts::get().tools;
        let before = self.optional.len();
        let mut any = false;
        for requirement in list {
            let tool = requirements::name(requirement).is_some_and(|n| tools.contains(&n));
            any = true;
            if keep_tools || !tool {
                self.want(requirement);
            }
        }
        if self.optional.len() > before {
            let note = format!("test requirements from {source}");
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        any
    }
}

/// Infers a recipe and the ones to fall back to, best first.
pub(crate) fn infer(
    instance: &Instance,
    tree: &dyn Tree,
    available: &[PyVersion],
) -> Vec<Candidate> {
    let date = crate::date_of(instance, tree);
    let ci = ci::read(tree);
    let first = Project::read(tree, PyVersion::new(3, 8));
    let choices = python::choose(tree, &first, &ci, date, available);
    let Some(best) = choices.first() else {
        return Vec::new();
    };
    let recipe = recipe(instance, tree, &ci, date, best.python, &best.why);
    let mut out = vec![candidate(&recipe, "inferred from the codebase", |_| {})];
    if !recipe.optional.is_empty() {
        out.push(candidate(
            &recipe,
            "without test requirements that fail",
            tolerate,
        ));
    }
    if recipe.exclude_newer.is_some() {
        out.push(candidate(&recipe, "with packages of the year after", |r| {
            tolerate(r);
            r.exclude_newer = r
                .exclude_newer
                .map(|d| d.saturating_add(RELAXED_DAYS.days()));
        }));
    }
    out.push(candidate(&recipe, "with packages built from source", |r| {
        tolerate(r);
        r.only_binary.clear();
    }));
    if let Some(next) = choices.get(1) {
        let other = self::recipe(instance, tree, &ci, date, next.python, &next.why);
        let because = format!("with Python {}", next.python);
        out.push(candidate(&other, &because, tolerate));
    }
    if recipe.install.is_some() {
        let legacy = candidate(&recipe, "with an old setuptools, without isolation", |r| {
            tolerate(r);
            legacy_build(r, tree);
        });
        match first.old_setuptools() {
            Some(_) => out.insert(0, legacy),
            None => out.push(legacy),
        }
        let in_place = candidate(&recipe, "with the codebase left where it is", |r| {
            tolerate(r);
            left_in_place(r, tree);
        });
        out.push(in_place);
    }
    out
}

fn candidate(recipe: &Recipe, because: &str, change: impl FnOnce(&mut Recipe)) -> Candidate {
    let mut recipe = recipe.clone();
    change(&mut recipe);
    Candidate {
        recipe,
        because: because.to_owned(),
    }
}

fn tolerate(recipe: &mut Recipe) {
    recipe.tolerant = true;
}

/// For `setup.py` files that need what setuptools dropped long ago. Nothing is
/// isolated, so the environment has what the build requires.
pub(crate) fn legacy_build(recipe: &mut Recipe, tree: &dyn Tree) {
    if !tree.has("setup.py") {
        return left_in_place(recipe, tree);
    }
    let project = Project::read(tree, recipe.python);
    let setuptools = project
        .old_setuptools()
        .unwrap_or("setuptools<58")
        .to_owned();
    recipe
        .requirements
        .retain(|r| requirements::name(r).as_deref() != Some("setuptools"));
    recipe
        .provenance
        .push(format!("installed by `setup.py develop` with {setuptools}"));
    recipe.requirements.push(setuptools);
    let mut names: BTreeSet<String> = recipe
        .requirements
        .iter()
        .filter_map(|r| requirements::name(r))
        .collect();
    for requirement in &project.build_requires {
        if let Some(requirement) = requirements::normal(requirement)
            && requirements::name(&requirement).is_some_and(|n| names.insert(n))
        {
            recipe.requirements.push(requirement);
        }
    }
    recipe.exclude_newer_package.remove("setuptools");
    recipe.install = Some("python setup.py -q develop --no-deps".into());
}

/// For projects whose build fails: the sources are put on the path as they
/// are.
pub(crate) fn left_in_place(recipe: &mut Recipe, tree: &dyn Tree) {
    let src = tree.files().iter().any(|f| {
        f.starts_with("src/") && f.matches('/').count() == 2 && f.ends_with("/__init__.py")
    });
    let dir = if src { "$PWD/src" } else { "$PWD" };
    recipe.install = Some(format!(
        "echo \"{dir}\" > \"$(python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/swegym-codebase.pth\""
    ));
    recipe.note("the codebase is on the path as it lies, not installed");
}

fn recipe(
    instance: &Instance,
    tree: &dyn Tree,
    ci: &ci::Ci,
    date: Option<Date>,
    python: PyVersion,
    why: &str,
) -> Recipe {
    let project = Project::read(tree, python);
    let tox = tox::read(tree, &project, python);
    let hidden: Vec<(String, String)> = touched(&instance.test_patch)
        .into_iter()
        .filter(|t| t.path.ends_with(".py"))
        .map(|t| (t.path, t.added))
        .collect();
    let tests = tests_scan::scan(tree, &hidden);
    let config = pytest_config::read(tree, &project);
    let mut wanted = Wanted::of(python);
    // The project is never its own dependency.
    wanted.names.extend(project.name.clone());
    for seed in ["pip", "setuptools", "wheel"] {
        wanted.require(seed);
    }
    for requirement in &project.dependencies {
        wanted.require(requirement);
    }
    let run = runner::infer(tree, &project, tox.as_ref(), ci, &config, &tests);
    test_requirements(&mut wanted, tree, &project, tox.as_ref(), ci);
    if run.framework == Framework::Pytest {
        wanted.want("pytest");
        for (plugin, why) in config.plugins.iter().chain(&tests.plugins) {
            if wanted.want(plugin) {
                wanted.notes.push(format!("{plugin}: {why}"));
            }
        }
    }
    imported(&mut wanted, &project, &tests, tree);

    let mut recipe = Recipe {
        python,
        requirements: wanted.required,
        optional: wanted.optional,
        tolerant: false,
        no_deps: false,
        constraints: Vec::new(),
        build_constraints: Vec::new(),
        exclude_newer: date.map(|d| cutoff(d, python)),
        exclude_newer_package: BTreeMap::new(),
        only_binary: Facts::get().compiled.clone(),
        pre_install: Vec::new(),
        install: project.installable.then(|| EDITABLE.to_owned()),
        install_env: BTreeMap::new(),
        env: run.env,
        test_command: String::new(),
        test_runner: run.command,
        framework: run.framework,
        log_parser: None,
        origin: Origin::Inferred,
        provenance: vec![format!("Python {python}: {why}")],
    };
    recipe.provenance.extend(wanted.notes);
    recipe.provenance.push(run.why);
    if !project.installable {
        recipe
            .env
            .entry("PYTHONPATH".into())
            .or_insert_with(|| ".".into());
        recipe.note("nothing to install: the root of the codebase is on the path");
    }
    if project.dynamic {
        recipe.note("setup.py computes dependencies; the install step resolves them");
    }
    recipe
        .only_binary
        .retain(|name| Some(name) != project.name.as_ref());
    let files = crate::directives::select(run.select, &instance.test_patch);
    recipe.test_command = runner::with_files(&recipe.test_runner, &files);
    pretend_version(&mut recipe, &project, instance, tree);
    datable(&mut recipe);
    recipe
}

/// The inferred test command, with and without test files.
pub(crate) fn test_command(
    instance: &Instance,
    tree: &dyn Tree,
    python: PyVersion,
) -> (String, String) {
    let recipe = recipe(instance, tree, &ci::read(tree), None, python, "given");
    (recipe.test_command, recipe.test_runner)
}

/// Dates of packages that the recipe's own date would rule out.
pub(crate) fn datable(recipe: &mut Recipe) {
    let Some(date) = recipe.exclude_newer else {
        return;
    };
    recipe.note(format!("packages as of {date}"));
    let facts = Facts::get();
    for (name, day) in facts.reuploaded.iter().chain(&facts.backends) {
        if date < *day {
            recipe.exclude_newer_package.insert(name.clone(), *day);
        }
    }
}

/// Everything that names packages for tests, from the most to the least
/// specific source.
fn test_requirements(
    wanted: &mut Wanted,
    tree: &dyn Tree,
    project: &Project,
    tox: Option<&tox::ToxEnv>,
    ci: &ci::Ci,
) {
    let mut found = named_requirements(wanted, tree, project, &TEST_NAMES, true);
    if let Some(tox) = tox {
        for extra in &tox.extras {
            let source = format!("the extra `{extra}` (tox)");
            found |= wanted.want_all(&project.extra(extra), &source, true);
        }
        for group in &tox.groups {
            let members = project.groups.get(&requirements::canonical(group));
            let source = format!("the group `{group}` (tox)");
            found |= wanted.want_all(members.into_iter().flatten(), &source, true);
        }
        for line in &tox.deps {
            found |= dependency_line(wanted, tree, project, line, "tox's deps");
        }
    }
    if !found {
        found = named_requirements(wanted, tree, project, &DEV_NAMES, false);
    }
    if !found && project.tests_require.is_empty() {
        for extra in &ci.extras {
            let source = format!("the extra `{extra}` (CI files)");
            wanted.want_all(&project.extra(extra), &source, false);
        }
        for file in &ci.files {
            dependency_line(wanted, tree, project, &format!("-r {file}"), "the CI files");
        }
        wanted.want_all(&ci.requirements, "the CI files", false);
    }
    // Often forgotten when the rest moved on: it only adds what is missing.
    wanted.want_all(&project.tests_require, "tests_require", true);
    if project.dependencies.is_empty()
        && let Some(file) = requirements::read(tree, "requirements.txt")
    {
        wanted.want_all(&file.requirements, "requirements.txt", false);
    }
}

fn named_requirements(
    wanted: &mut Wanted,
    tree: &dyn Tree,
    project: &Project,
    names: &[&str],
    keep_tools: bool,
) -> bool {
    let mut found = false;
    for name in names {
        found |= wanted.want_all(
            &project.extra(name),
            &format!("the extra `{name}`"),
            keep_tools,
        );
        let group = project.groups.get(*name).into_iter().flatten();
        found |= wanted.want_all(group, &format!("the group `{name}`"), keep_tools);
    }
    for path in requirement_files(tree, names) {
        if let Some(file) = requirements::read(tree, &path) {
            found |= wanted.want_all(&file.requirements, &path, keep_tools);
            for extra in file.extras {
                wanted.want_all(&project.extra(&extra), &path, keep_tools);
            }
        }
    }
    found
}

/// A line of tox's `deps`.
fn dependency_line(
    wanted: &mut Wanted,
    tree: &dyn Tree,
    project: &Project,
    line: &str,
    source: &str,
) -> bool {
    if let Some(path) = line.strip_prefix("-r") {
        let path = path.replace("{toxinidir}", ".").replace("{tox_root}", ".");
        let file = crate::tree::join("", path.trim_matches([' ', '=']))
            .and_then(|path| requirements::read(tree, &path));
        return file.is_some_and(|file| wanted.want_all(&file.requirements, source, true));
    }
    match requirements::own_extras(line) {
        Some(extras) => {
            let members: Vec<String> = extras.iter().flat_map(|e| project.extra(e)).collect();
            wanted.want_all(&members, source, true)
        }
        None => wanted.want_all(&[line.to_owned()], source, true),
    }
}

/// Distributions that tests import and nothing named, and those of the
/// project's extras that the package itself imports where they are there.
fn imported(wanted: &mut Wanted, project: &Project, tests: &tests_scan::TestUse, tree: &dyn Tree) {
    let known = &Facts::get().imports;
    let named: BTreeMap<String, &String> = project
        .extras
        .values()
        .chain(project.groups.values())
        .flatten()
        .filter_map(|r| Some((requirements::name(r)?, r)))
        .collect();
    let distribution = |module: &String| {
        let other = known.get(module).cloned();
        other.unwrap_or_else(|| requirements::canonical(module))
    };
    let package = tests_scan::package_imports(tree);
    for (module, path) in tests.modules.iter().chain(&package) {
        let distribution = distribution(module);
        // A name the project itself uses, or one of the usual suspects.
        let requirement = match named.get(&distribution) {
            Some(requirement) => (*requirement).clone(),
            None if known.contains_key(module) && tests.modules.contains_key(module) => {
                distribution
            }
            None => continue,
        };
        if wanted.want(&requirement) {
            wanted
                .notes
                .push(format!("{requirement}: {path} imports {module}"));
        }
    }
}

/// Tells version tools the version, since there is no history to ask.
pub(crate) fn pretend_version(
    recipe: &mut Recipe,
    project: &Project,
    instance: &Instance,
    tree: &dyn Tree,
) {
    let Some(tool) = project.version_from_vcs else {
        return;
    };
    let (version, source) = if let Some(version) = &project.version {
        (version.clone(), "PKG-INFO")
    } else if let Some(version) = tree.describe().as_deref().and_then(described) {
        (version, "the newest tag")
    } else if let Some(version) = instance.version.as_deref().and_then(plain_version) {
        (version, "the row's version")
    } else {
        ("0.1.dev0".to_owned(), "nothing: it is unknown")
    };
    let name = match tool {
        VcsVersion::SetuptoolsScm => "SETUPTOOLS_SCM_PRETEND_VERSION",
        VcsVersion::Pbr => "PBR_VERSION",
        VcsVersion::PoetryDynamic => "POETRY_DYNAMIC_VERSIONING_BYPASS",
        VcsVersion::PdmScm => "PDM_BUILD_SCM_VERSION",
    };
    recipe.note(format!("version {version} for the build, from {source}"));
    recipe.install_env.insert(name.to_owned(), version);
}

/// The pretended version of a project, for recipes that do not infer the rest.
pub(crate) fn pretend(recipe: &mut Recipe, instance: &Instance, tree: &dyn Tree) {
    let project = Project::read(tree, recipe.python);
    pretend_version(recipe, &project, instance, tree);
}

/// Run-time dependencies that the project declares statically.
pub(crate) fn declared_dependencies(tree: &dyn Tree, python: PyVersion) -> Vec<String> {
    Project::read(tree, python)
        .dependencies
        .iter()
        .filter_map(|r| requirements::normal(r))
        .collect()
}

/// Distributions to install from wheels only, which the project is not.
pub(crate) fn compiled(tree: &dyn Tree, python: PyVersion) -> Vec<String> {
    let own = Project::read(tree, python).name;
    let mut names = Facts::get().compiled.clone();
    names.retain(|name| Some(name) != own.as_ref());
    names
}

/// Requirements of extras of the project.
pub(crate) fn declared_extras(
    tree: &dyn Tree,
    python: PyVersion,
    extras: &[String],
) -> Vec<String> {
    let project = Project::read(tree, python);
    let all = extras.iter().flat_map(|e| project.extra(e));
    all.filter_map(|r| requirements::normal(&r)).collect()
}

/// `v4.5.0-12-gabc123` as `4.5.1.dev12`, the way setuptools_scm counts.
fn described(text: &str) -> Option<String> {
    let mut parts = text.trim().rsplitn(3, '-');
    let (last, count, tag) = (parts.next()?, parts.next(), parts.next());
    let (tag, ahead) = match (tag, count.and_then(|c| c.parse::<u32>().ok())) {
        (Some(tag), Some(count)) if last.starts_with('g') => (tag, count),
        _ => (text.trim(), 0),
    };
    let version = plain_version(tag)?;
    if ahead == 0 {
        return Some(version);
    }
    let (head, tail) = version.rsplit_once('.')?;
    let next: u32 = tail.parse().ok()?;
    Some(format!("{head}.{}.dev{ahead}", next + 1))
}

/// The version in a tag such as `v1.2.3`, `release-1.2` or `pkg/1.2`.
fn plain_version(tag: &str) -> Option<String> {
    let at = tag.find(|c: char| c.is_ascii_digit())?;
    let version: pep440_rs::Version = tag[at..].parse().ok()?;
    Some(version.to_string())
}
