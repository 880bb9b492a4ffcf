//! What a project says about itself: pyproject.toml, setup.cfg, setup.py and
//! PKG-INFO, brought into one form.

use std::collections::BTreeMap;

use toml::{Table, Value as Toml};

use super::requirements::{self, canonical};
use super::setup_py::{self, Value};
use crate::ini::Ini;
use crate::tree::{Tree, join};
use crate::version::PyVersion;

/// Metadata of a project, from all its files together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Project {
    /// Distribution name, normalised.
    pub(crate) name: Option<String>,
    /// Version, where it is written down.
    pub(crate) version: Option<String>,
    /// Every `requires-python`.
    pub(crate) requires_python: Vec<String>,
    /// Trove classifiers.
    pub(crate) classifiers: Vec<String>,
    /// Licence, by the first file that names one in a line.
    pub(crate) license: Option<String>,
    /// Run-time dependencies.
    pub(crate) dependencies: Vec<String>,
    /// Whether `setup.py` computes dependencies in a way we did not follow.
    pub(crate) dynamic: bool,
    /// Extras, by normalised name.
    pub(crate) extras: BTreeMap<String, Vec<String>>,
    /// Dependency groups (PEP 735, poetry, pdm, hatch), by normalised name.
    pub(crate) groups: BTreeMap<String, Vec<String>>,
    /// `tests_require`.
    pub(crate) tests_require: Vec<String>,
    /// `build-system.requires` and `setup_requires`.
    pub(crate) build_requires: Vec<String>,
    /// `build-system.build-backend`.
    pub(crate) build_backend: Option<String>,
    /// Whether the version comes from version control.
    pub(crate) version_from_vcs: Option<VcsVersion>,
    /// Whether there is anything to install.
    pub(crate) installable: bool,
    /// pyproject.toml, parsed.
    pub(crate) pyproject: Table,
    /// setup.cfg, parsed.
    pub(crate) setup_cfg: Ini,
}

/// Tools that ask version control for the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VcsVersion {
    /// setuptools_scm and everything built on it.
    SetuptoolsScm,
    /// OpenStack's pbr.
    Pbr,
    /// poetry-dynamic-versioning.
    PoetryDynamic,
    /// pdm's `source = "scm"`.
    PdmScm,
}

impl Project {
    /// Reads everything at the root of a tree.
    pub(crate) fn read(tree: &dyn Tree, python: PyVersion) -> Self {
        let mut project = Self::default();
        if let Some(text) = tree.read("pyproject.toml") {
            project.pyproject = text.parse().unwrap_or_default();
        }
        if let Some(text) = tree.read("setup.cfg") {
            project.setup_cfg = Ini::parse(&text);
        }
        project.read_pyproject(tree);
        project.read_setup_cfg(tree);
        project.read_setup_py(tree, python);
        project.read_pkg_info(tree);
        project.detect_vcs_version();
        project.installable = tree.has("setup.py")
            || project.setup_cfg.section("metadata").is_some()
            || project.pyproject.contains_key("build-system")
            || project.pyproject.contains_key("project");
        project
    }

    /// An option of `[tool.<name>]`.
    pub(crate) fn tool(&self, name: &str) -> Option<&Table> {
        at(&self.pyproject, &["tool", name])
    }

    /// Requirements of an extra, with extras of the project itself resolved.
    pub(crate) fn extra(&self, name: &str) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_extra(&canonical(name), &mut Vec::new(), &mut out);
        out
    }

    /// The bound on setuptools of a build that cannot do with one that knows
    /// editable installs (64 and newer), as in `setuptools<60`.
    pub(crate) fn old_setuptools(&self) -> Option<&str> {
        let new: [pep440_rs::Version; 2] = [[64, 0, 0], [75, 0, 0]].map(pep440_rs::Version::new);
        let old = |requirement: &&String| {
            requirements::parse(requirement).is_some_and(|r| {
                let bounds = match r.version_or_url {
                    Some(pep508_rs::VersionOrUrl::VersionSpecifier(bounds)) => bounds,
                    _ => return false,
                };
                r.name.to_string() == "setuptools" && !new.iter().any(|v| bounds.contains(v))
            })
        };
        self.build_requires.iter().find(old).map(String::as_str)
    }

    fn collect_extra(&self, name: &str, seen: &mut Vec<String>, out: &mut Vec<String>) {
        if seen.iter().any(|s| s == name) {
            return;
        }
        seen.push(name.to_owned());
        for requirement in self.extras.get(name).into_iter().flatten() {
            match requirements::parse(requirement) {
                Some(parsed) if Some(parsed.name.to_string()) == self.name => {
                    for extra in &parsed.extras {
                        self.collect_extra(&canonical(extra.as_ref()), seen, out);
                    }
                }
                _ => out.push(requirement.clone()),
            }
        }
    }

    fn read_pyproject(&mut self, tree: &dyn Tree) {
        let pyproject = std::mem::take(&mut self.pyproject);
        if let Some(build) = table(&pyproject, "build-system") {
            self.build_requires.extend(strings(build.get("requires")));
            self.build_backend = string(build.get("build-backend"));
        }
        if let Some(metadata) = table(&pyproject, "project") {
            self.read_pep621(metadata);
        }
        if let Some(groups) = table(&pyproject, "dependency-groups") {
            for name in groups.keys() {
                let members = dependency_group(groups, name, &mut Vec::new());
                self.groups.insert(canonical(name), members);
            }
        }
        if let Some(tools) = table(&pyproject, "tool") {
            if let Some(poetry) = table(tools, "poetry") {
                self.read_poetry(poetry);
            }
            if let Some(flit) = at(tools, &["flit", "metadata"]) {
                self.read_flit(flit);
            }
            for (tool, key) in [("pdm", "dev-dependencies"), ("uv", "dev-dependencies")] {
                match at(tools, &[tool]).and_then(|t| t.get(key)) {
                    Some(Toml::Table(groups)) => self.add_groups(groups),
                    Some(list @ Toml::Array(_)) => {
                        let dev = self.groups.entry("dev".into()).or_default();
                        dev.extend(strings(Some(list)));
                    }
                    _ => {}
                }
            }
            for (name, env) in at(tools, &["hatch", "envs"]).into_iter().flatten() {
                let env = env.as_table();
                let mut members = strings(env.and_then(|e| e.get("dependencies")));
                members.extend(strings(env.and_then(|e| e.get("extra-dependencies"))));
                if !members.is_empty() {
                    self.groups.insert(canonical(name), members);
                }
            }
            if let Some(dynamic) = at(tools, &["setuptools", "dynamic"]) {
                self.read_setuptools_dynamic(tree, dynamic);
            }
        }
        self.pyproject = pyproject;
    }

    fn read_pep621(&mut self, metadata: &Table) {
        self.name = string(metadata.get("name")).map(|n| canonical(&n));
        self.version = string(metadata.get("version"));
        self.requires_python
            .extend(string(metadata.get("requires-python")));
        self.classifiers
            .extend(strings(metadata.get("classifiers")));
        let license = metadata.get("license");
        self.add_license(string(license));
        self.add_license(string(license.and_then(|l| l.get("text"))));
        self.dependencies
            .extend(strings(metadata.get("dependencies")));
        if let Some(extras) = table(metadata, "optional-dependencies") {
            self.add_extras(extras);
        }
    }

    fn read_flit(&mut self, metadata: &Table) {
        self.name =
            string(metadata.get("dist-name").or(metadata.get("module"))).map(|n| canonical(&n));
        self.requires_python
            .extend(string(metadata.get("requires-python")));
        self.classifiers
            .extend(strings(metadata.get("classifiers")));
        self.add_license(string(metadata.get("license")));
        self.dependencies.extend(strings(metadata.get("requires")));
        if let Some(extras) = table(metadata, "requires-extra") {
            self.add_extras(extras);
        }
    }

    fn read_poetry(&mut self, poetry: &Table) {
        if self.name.is_none() {
            self.name = string(poetry.get("name")).map(|n| canonical(&n));
            self.version = string(poetry.get("version"));
        }
        self.classifiers.extend(strings(poetry.get("classifiers")));
        self.add_license(string(poetry.get("license")));
        let main = table(poetry, "dependencies");
        for (name, spec) in main.into_iter().flatten() {
            if name == "python" {
                let python = spec.as_str().map(poetry_version).unwrap_or_default();
                self.requires_python
                    .extend(Some(python).filter(|p| !p.is_empty()));
            } else if !is_true(spec.as_table().and_then(|s| s.get("optional"))) {
                self.dependencies.extend(poetry_requirement(name, spec));
            }
        }
        for (extra, members) in table(poetry, "extras").into_iter().flatten() {
            let resolved = strings(Some(members)).into_iter().filter_map(|member| {
                poetry_requirement(&member, main.and_then(|m| m.get(&member))?)
            });
            self.extras.insert(canonical(extra), resolved.collect());
        }
        let groups = table(poetry, "group").into_iter().flatten();
        let groups = groups.filter_map(|(name, group)| {
            Some((name.as_str(), group.as_table()?.get("dependencies")?))
        });
        let legacy = poetry.get("dev-dependencies").map(|d| ("dev", d));
        for (name, members) in groups.chain(legacy) {
            let members = members.as_table().into_iter().flatten();
            let members = members.filter_map(|(name, spec)| poetry_requirement(name, spec));
            self.groups
                .entry(canonical(name))
                .or_default()
                .extend(members);
        }
    }

    fn read_setuptools_dynamic(&mut self, tree: &dyn Tree, dynamic: &Table) {
        let from_files = |value: Option<&Toml>| -> Vec<String> {
            let files = match value.and_then(Toml::as_table).and_then(|v| v.get("file")) {
                Some(Toml::String(one)) => vec![one.clone()],
                many => strings(many),
            };
            files
                .iter()
                .filter_map(|file| requirements::read(tree, file))
                .flat_map(|file| file.requirements)
                .collect()
        };
        self.dependencies
            .extend(from_files(dynamic.get("dependencies")));
        for (extra, source) in table(dynamic, "optional-dependencies")
            .into_iter()
            .flatten()
        {
            let members = from_files(Some(source));
            self.extras
                .entry(canonical(extra))
                .or_default()
                .extend(members);
        }
    }

    fn add_extras(&mut self, extras: &Table) {
        for (name, members) in extras {
            self.extras
                .entry(canonical(name))
                .or_default()
                .extend(strings(Some(members)));
        }
    }

    fn add_groups(&mut self, groups: &Table) {
        for (name, members) in groups {
            self.groups
                .entry(canonical(name))
                .or_default()
                .extend(strings(Some(members)));
        }
    }

    fn read_setup_cfg(&mut self, tree: &dyn Tree) {
        let cfg = std::mem::take(&mut self.setup_cfg);
        let list = |section: &str, option: &str| -> Vec<String> {
            let lines = cfg.lines(section, option);
            let file = match lines.first() {
                Some(first) => first.strip_prefix("file:").map(str::trim),
                None => None,
            };
            match file.and_then(|f| requirements::read(tree, f)) {
                Some(file) => file.requirements,
                // A single line may hold several, separated by semicolons.
                None if lines.len() == 1 && !lines[0].contains('"') && !lines[0].contains('\'') => {
                    lines[0].split(';').map(|r| r.trim().to_owned()).collect()
                }
                None => lines,
            }
        };
        if self.name.is_none() {
            self.name = cfg.get("metadata", "name").map(canonical);
        }
        if self.version.is_none() {
            let version = cfg.get("metadata", "version");
            self.version = version
                .filter(|v| !v.contains(':') && !v.is_empty())
                .map(str::to_owned);
        }
        self.add_license(cfg.get("metadata", "license").map(str::to_owned));
        self.requires_python
            .extend(cfg.get("options", "python_requires").map(str::to_owned));
        self.classifiers.extend(
            cfg.lines("metadata", "classifiers")
                .into_iter()
                .chain(cfg.lines("metadata", "classifier")),
        );
        self.dependencies
            .extend(list("options", "install_requires"));
        self.tests_require.extend(list("options", "tests_require"));
        self.build_requires
            .extend(list("options", "setup_requires"));
        let extras = cfg.section("options.extras_require").into_iter().flatten();
        for extra in extras.map(|(name, _)| name) {
            let members = list("options.extras_require", extra);
            self.extras
                .entry(canonical(extra))
                .or_default()
                .extend(members);
        }
        self.setup_cfg = cfg;
    }

    fn read_setup_py(&mut self, tree: &dyn Tree, python: PyVersion) {
        let Some(setup) = setup_py::setup_arguments(tree, "setup.py", python) else {
            self.dynamic |= tree.has("setup.py") && self.dependencies.is_empty();
            return;
        };
        let text = |key: &str| setup.get(key).and_then(Value::as_str).map(str::to_owned);
        if self.name.is_none() {
            self.name = text("name").map(|n| canonical(&n));
        }
        if self.version.is_none() {
            self.version = text("version");
        }
        self.add_license(text("license"));
        self.requires_python.extend(text("python_requires"));
        let list = |key: &str| setup.get(key).map(Value::strings).unwrap_or_default();
        self.classifiers.extend(list("classifiers").0);
        let (dependencies, unknown) = list("install_requires");
        self.dependencies.extend(dependencies);
        self.dynamic |= unknown;
        self.tests_require.extend(list("tests_require").0);
        self.build_requires.extend(list("setup_requires").0);
        if let Some(Value::Dict(extras)) = setup.get("extras_require") {
            for (name, members) in extras {
                self.add_extra_with_marker(name, members.strings().0);
            }
        }
        if setup.get("use_scm_version").is_some() {
            self.version_from_vcs = Some(VcsVersion::SetuptoolsScm);
        }
        if setup.get("pbr").is_some() {
            self.version_from_vcs = Some(VcsVersion::Pbr);
        }
    }

    /// An extra whose name may carry a marker, `test:python_version < "3"`.
    fn add_extra_with_marker(&mut self, name: &str, members: Vec<String>) {
        let (name, marker) = name.split_once(':').unwrap_or((name, ""));
        let members: Vec<String> = members
            .into_iter()
            .map(|member| match marker {
                "" => member,
                marker => format!("{member}; {marker}"),
            })
            .collect();
        match name {
            "" => self.dependencies.extend(members),
            name => self
                .extras
                .entry(canonical(name))
                .or_default()
                .extend(members),
        }
    }

    fn read_pkg_info(&mut self, tree: &dyn Tree) {
        let Some(text) = tree.read("PKG-INFO") else {
            return;
        };
        let headers = text.split("\n\n").next().unwrap_or_default();
        for line in headers.lines() {
            let Some((key, value)) = line.split_once(": ") else {
                continue;
            };
            match key {
                "Name" => _ = self.name.get_or_insert_with(|| canonical(value)),
                // The built version is the truth; files may hold a template.
                "Version" => self.version = Some(value.trim().to_owned()),
                "License" | "License-Expression" => self.add_license(Some(value.to_owned())),
                "Requires-Python" => self.requires_python.push(value.trim().to_owned()),
                "Classifier" => self.classifiers.push(value.trim().to_owned()),
                _ => {}
            }
        }
    }

    /// Whole texts and references to files are no names.
    fn add_license(&mut self, named: Option<String>) {
        let name = named.map(|n| n.trim().to_owned()).filter(|n| {
            !n.is_empty() && n.len() <= 100 && !n.contains(['\n', ':']) && n != "UNKNOWN"
        });
        if self.license.is_none() {
            self.license = name;
        }
    }

    /// Name of the licence: as stated, else by the first classifier.
    pub(crate) fn license(&self) -> Option<String> {
        let classified = || {
            let mut named = self
                .classifiers
                .iter()
                .filter_map(|c| c.strip_prefix("License :: "));
            let name = named.find(|c| *c != "OSI Approved")?;
            Some(name.rsplit(" :: ").next().unwrap_or(name).to_owned())
        };
        self.license.clone().or_else(classified)
    }

    fn detect_vcs_version(&mut self) {
        let requires = |name: &str| {
            self.build_requires
                .iter()
                .any(|r| requirements::name(r).as_deref() == Some(name))
        };
        let pdm_scm = at(&self.pyproject, &["tool", "pdm", "version"])
            .is_some_and(|v| v.get("source").and_then(Toml::as_str) == Some("scm"));
        let found = if requires("setuptools-scm")
            || requires("hatch-vcs")
            || requires("flit-scm")
            || requires("vcs-versioning")
            || self.tool("setuptools_scm").is_some()
        {
            Some(VcsVersion::SetuptoolsScm)
        } else if requires("pbr") || self.setup_cfg.section("pbr").is_some() {
            Some(VcsVersion::Pbr)
        } else if requires("poetry-dynamic-versioning") {
            Some(VcsVersion::PoetryDynamic)
        } else if pdm_scm {
            Some(VcsVersion::PdmScm)
        } else {
            None
        };
        self.version_from_vcs = found.or(self.version_from_vcs);
    }
}

/// Members of a PEP 735 group, with includes resolved.
fn dependency_group(groups: &Table, name: &str, seen: &mut Vec<String>) -> Vec<String> {
    if seen.iter().any(|s| s == name) {
        return Vec::new();
    }
    seen.push(name.to_owned());
    let members = groups.get(name).and_then(Toml::as_array);
    let mut out = Vec::new();
    for member in members.into_iter().flatten() {
        match member {
            Toml::String(requirement) => out.push(requirement.clone()),
            Toml::Table(include) => {
                if let Some(other) = string(include.get("include-group")) {
                    let key = groups.keys().find(|k| canonical(k) == canonical(&other));
                    out.extend(
                        key.map(|k| dependency_group(groups, k, seen))
                            .unwrap_or_default(),
                    );
                }
            }
            _ => {}
        }
    }
    out
}

/// A poetry dependency as a PEP 508 requirement; `None` for other sources.
fn poetry_requirement(name: &str, spec: &Toml) -> Option<String> {
    let (version, details) = match spec {
        Toml::String(version) => (version.as_str(), None),
        Toml::Table(details) => (
            details.get("version").and_then(Toml::as_str)?,
            Some(details),
        ),
        // Several alternatives, by marker: the last is the newest Python's.
        Toml::Array(alternatives) => return poetry_requirement(name, alternatives.last()?),
        _ => return None,
    };
    let extras = strings(details.and_then(|d| d.get("extras")));
    let mut out = name.to_owned();
    if !extras.is_empty() {
        out += &format!("[{}]", extras.join(","));
    }
    out += &poetry_version(version);
    let mut markers = Vec::new();
    if let Some(python) = string(details.and_then(|d| d.get("python"))) {
        let bounds = poetry_version(&python);
        markers.extend(bounds.split(',').filter(|b| !b.is_empty()).map(|bound| {
            let digits = bound.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
            format!("python_version {} '{}'", &bound[..digits], &bound[digits..])
        }));
    }
    markers.extend(string(details.and_then(|d| d.get("markers"))).map(|m| format!("({m})")));
    if !markers.is_empty() {
        out += &format!("; {}", markers.join(" and "));
    }
    Some(out)
}

/// Poetry's version constraints (`^1.2`, `~1.2`, `1.2.*`, `*`) in PEP 440.
fn poetry_version(text: &str) -> String {
    // Alternatives have no PEP 440 form: the last is taken.
    let text = text.rsplit("||").next().unwrap_or_default();
    let parts = text.split(',').map(str::trim).map(|part| {
        if let Some(version) = part.strip_prefix('^') {
            return caret(version.trim());
        }
        if let Some(version) = part.strip_prefix('~').filter(|v| !v.starts_with('=')) {
            return tilde(version.trim());
        }
        match part.chars().next() {
            None | Some('*') => String::new(),
            Some(c) if c.is_ascii_digit() => format!("=={part}"),
            Some(_) => part.replace(' ', ""),
        }
    });
    let parts: Vec<String> = parts.filter(|p| !p.is_empty()).collect();
    parts.join(",")
}

fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map_while(|p| p.parse().ok()).collect()
}

/// Up to the next change of the first part that is not zero.
fn caret(version: &str) -> String {
    let parts = numbers(version);
    let at = parts
        .iter()
        .position(|n| *n != 0)
        .unwrap_or_else(|| parts.len().saturating_sub(1));
    bounded(version, &parts, at)
}

/// Up to the next minor, or major where only that is named.
fn tilde(version: &str) -> String {
    let parts = numbers(version);
    let at = usize::from(parts.len() > 1);
    bounded(version, &parts, at)
}

fn bounded(version: &str, parts: &[u64], at: usize) -> String {
    let Some(last) = parts.get(at) else {
        return format!(">={version}");
    };
    let mut upper: Vec<String> = parts[..at].iter().map(u64::to_string).collect();
    upper.push((last + 1).to_string());
    format!(">={version},<{}", upper.join("."))
}

/// A table of a table.
pub(crate) fn table<'t>(of: &'t Table, key: &str) -> Option<&'t Table> {
    of.get(key)?.as_table()
}

/// A table at a path of keys.
pub(crate) fn at<'t>(of: &'t Table, path: &[&str]) -> Option<&'t Table> {
    path.iter().try_fold(of, |t, key| table(t, key))
}

/// The strings in a TOML list.
pub(crate) fn strings(value: Option<&Toml>) -> Vec<String> {
    let items = value.and_then(Toml::as_array).into_iter().flatten();
    items
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

pub(crate) fn string(value: Option<&Toml>) -> Option<String> {
    value.and_then(Toml::as_str).map(str::to_owned)
}

fn is_true(value: Option<&Toml>) -> bool {
    value.and_then(Toml::as_bool).unwrap_or(false)
}

/// Requirement files of the tree that match one of these stems, by the order
/// of the stems: `requirements/<stem>.txt`, `requirements-<stem>.txt`, ….
pub(crate) fn requirement_files(tree: &dyn Tree, stems: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for stem in stems {
        let names = [
            format!("requirements/{stem}.txt"),
            format!("requirements/requirements-{stem}.txt"),
            format!("requirements/{stem}-requirements.txt"),
            format!("requirements/requirements_{stem}.txt"),
            format!("requirements-{stem}.txt"),
            format!("requirements_{stem}.txt"),
            format!("requirements.{stem}.txt"),
            format!("{stem}-requirements.txt"),
            format!("{stem}_requirements.txt"),
            format!("{stem}/requirements.txt"),
            format!("{stem}/requirements/py3.txt"),
            format!("requirements/{stem}.in"),
            format!("requirements-{stem}.in"),
            format!("{stem}-requirements.in"),
        ];
        let found = names.into_iter().filter_map(|n| join("", &n));
        if let Some(first) = found.into_iter().find(|n| tree.has(n)) {
            out.push(first);
        }
    }
    out
}
