//! Requirement strings and requirement files.

use std::collections::BTreeSet;
use std::str::FromStr;

use pep508_rs::{
    MarkerEnvironment, MarkerEnvironmentBuilder, Requirement, VerbatimUrl, VersionOrUrl,
};

use crate::PyVersion;
use crate::tree::{Tree, join, parent};

/// What a requirement file asks for, with everything it includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequirementFile {
    /// Requirements that a package registry can serve.
    pub(crate) requirements: Vec<String>,
    /// From `-c` files.
    pub(crate) constraints: Vec<String>,
    /// Extras of the project itself, from lines such as `-e .[test]`.
    pub(crate) extras: Vec<String>,
    /// Lines that were left out: other sources than the registry, mistakes.
    pub(crate) skipped: Vec<String>,
}

/// Reads a requirement file; `None` if there is none of that path.
pub(crate) fn read(tree: &dyn Tree, path: &str) -> Option<RequirementFile> {
    let mut out = RequirementFile::default();
    tree.has(path).then(|| {
        include(tree, path, false, &mut out, &mut BTreeSet::new());
        out
    })
}

fn include(
    tree: &dyn Tree,
    path: &str,
    constraint: bool,
    out: &mut RequirementFile,
    seen: &mut BTreeSet<String>,
) {
    let Some(text) = tree.read(path).filter(|_| seen.insert(path.to_owned())) else {
        return;
    };
    for line in logical_lines(&text) {
        match option(&line, &["-r", "--requirement"]) {
            Some(file) => {
                if let Some(file) = join(parent(path), file) {
                    include(tree, &file, constraint, out, seen);
                }
                continue;
            }
            None => {
                if let Some(file) = option(&line, &["-c", "--constraint"]) {
                    if let Some(file) = join(parent(path), file) {
                        include(tree, &file, true, out, seen);
                    }
                    continue;
                }
            }
        }
        let target = option(&line, &["-e", "--editable"]).unwrap_or(&line);
        if let Some(extras) = own_extras(target) {
            out.extras.extend(extras);
        } else if let Some(requirement) = normal(&line) {
            if constraint {
                out.constraints.push(requirement);
            } else {
                out.requirements.push(requirement);
            }
        } else if !line.starts_with("--") && !line.starts_with("-i") && !line.starts_with("-f") {
            out.skipped.push(line);
        }
    }
}

/// Lines without comments, with continuations joined.
fn logical_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined
        .lines()
        .map(|line| {
            let line = line.trim();
            let at = line
                .find(" #")
                .or_else(|| line.starts_with('#').then_some(0))
                .unwrap_or(line.len());
            line[..at].trim().to_owned()
        })
        .filter(|line| !line.is_empty())
        .collect()
}

/// The argument of an option in any of its spellings.
fn option<'l>(line: &'l str, names: &[&str]) -> Option<&'l str> {
    names.iter().find_map(|name| {
        let rest = line.strip_prefix(name)?;
        let separated = name.len() == 2 || rest.starts_with([' ', '=', '\t']);
        separated.then(|| rest.trim_start_matches([' ', '=', '\t']).trim())
    })
}

/// The extras in `.`, `.[a,b]` or `file:.[a]`; `None` for anything else.
pub(crate) fn own_extras(target: &str) -> Option<Vec<String>> {
    let target = target.trim_matches(['"', '\'']);
    let target = target.strip_prefix("file:").unwrap_or(target);
    let rest = target
        .strip_prefix("./")
        .or_else(|| target.strip_prefix('.'))?;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let inner = rest.strip_prefix('[')?.strip_suffix(']')?;
    Some(
        inner
            .split(',')
            .map(|e| e.trim().to_owned())
            .filter(|e| !e.is_empty())
            .collect(),
    )
}

/// A requirement as it is handed to the installer; `None` if a package
/// registry cannot serve it or it is not one.
pub(crate) fn normal(text: &str) -> Option<String> {
    let text = text.split(" --").next().unwrap_or_default().trim();
    let text = text.trim_end_matches([',', ';']).trim();
    let parsed = parse(text)?;
    if matches!(parsed.version_or_url, Some(VersionOrUrl::Url(_))) {
        return None;
    }
    // A wildcard is only legal after `==` and `!=`.
    Some(text.to_owned())
}

pub(crate) fn parse(text: &str) -> Option<Requirement<VerbatimUrl>> {
    Requirement::from_str(text).ok()
}

/// Whether a requirement is one on Linux with a Python, whatever the extra.
pub(crate) fn admits(requirement: &str, python: PyVersion) -> bool {
    let Some(requirement) = parse(requirement) else {
        return false;
    };
    let version = python.to_string();
    let full = format!("{version}.0");
    let environment = MarkerEnvironment::try_from(MarkerEnvironmentBuilder {
        implementation_name: "cpython",
        implementation_version: &full,
        os_name: "posix",
        platform_machine: std::env::consts::ARCH,
        platform_python_implementation: "CPython",
        platform_release: "",
        platform_system: "Linux",
        platform_version: "",
        python_full_version: &full,
        python_version: &version,
        sys_platform: "linux",
    });
    let marker = requirement.marker.simplify_extras_with(|_| true);
    environment.is_ok_and(|environment| marker.evaluate(&environment, &[]))
}

/// Normalised distribution name (PEP 503) of a requirement string.
pub(crate) fn name(requirement: &str) -> Option<String> {
    parse(requirement).map(|r| r.name.to_string())
}

/// Normalises a distribution name (PEP 503).
pub(crate) fn canonical(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

/// Whether every requirement is pinned to one version.
pub(crate) fn all_pinned(requirements: &[String]) -> bool {
    !requirements.is_empty()
        && requirements
            .iter()
            .all(|r| parse(r).is_some_and(|r| is_pin(&r)))
}

fn is_pin(requirement: &Requirement<VerbatimUrl>) -> bool {
    match &requirement.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => specifiers.iter().any(|s| {
            matches!(
                s.operator(),
                pep440_rs::Operator::Equal | pep440_rs::Operator::ExactEqual
            )
        }),
        _ => false,
    }
}
