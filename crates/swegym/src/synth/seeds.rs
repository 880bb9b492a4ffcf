//! Where codebases to break come from.

use std::collections::BTreeSet;
use std::path::Path;

use swegym_core::{Instance, Source};
use swegym_store::source::{Registry, Requirement, SourceError};

use crate::home::Home;
use crate::{Error, tasks};

/// The codebases that a target names: a package (`name` or `name==version`),
/// a folder, or a dataset, each codebase of it once.
///
/// # Errors
/// If there is no such package, release or file.
pub fn seeds(home: &Home, target: &str) -> Result<Vec<Instance>, Error> {
    let path = Path::new(target);
    if is_codebase(path) {
        return folder(path).map(|seed| vec![seed]);
    }
    if path.exists() || target.contains('/') {
        return dataset(target);
    }
    package(home, target).map(|seed| vec![seed])
}

/// A folder that holds a project rather than a dataset.
fn is_codebase(path: &Path) -> bool {
    ["setup.py", "pyproject.toml", "setup.cfg", ".git"]
        .iter()
        .any(|name| path.join(name).exists())
}

fn folder(path: &Path) -> Result<Instance, Error> {
    let path = path.canonicalize().map_err(|e| Error::io(path, e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Instance {
        instance_id: name.clone().into_owned(),
        repo: format!("local/{name}"),
        source: Some(Source::Dir(path)),
        ..Instance::default()
    })
}

fn dataset(target: &str) -> Result<Vec<Instance>, Error> {
    let mut seen = BTreeSet::new();
    let mut seeds = tasks::read(target)?;
    seeds.retain(|row| {
        let source = serde_json::to_string(&row.codebase().ok().flatten()).unwrap_or_default();
        seen.insert((source, row.repo.clone(), row.base_commit.clone()))
    });
    if seeds.is_empty() {
        return Err(Error::input(
            format!("{target}: no task"),
            "name a package, a folder with a project, or a dataset",
        ));
    }
    Ok(seeds)
}

fn package(home: &Home, target: &str) -> Result<Instance, Error> {
    let (name, version) = match target.split_once("==") {
        Some((name, version)) => (name, Some(version)),
        None => (target, None),
    };
    let setup = |e: SourceError| Error::setup(e.to_string(), "is the package registry reachable?");
    let registry = Registry::from_env(home.sdists()).map_err(setup)?;
    let releases = registry.releases(name).map_err(|e| match e {
        SourceError::Refused { status: 404, .. } => Error::input(
            format!("{name}: no such package or folder"),
            "names are those of the package registry, not of modules",
        ),
        e => setup(e),
    })?;
    let wanted = match version {
        None => None,
        Some(_) => {
            let requirement: Requirement = target
                .parse()
                .map_err(|e: SourceError| Error::input(e.to_string(), ""))?;
            Some(requirement.version.to_string())
        }
    };
    let release = match &wanted {
        None => releases.last(),
        Some(version) => releases.iter().find(|r| r.version == *version),
    };
    let Some(release) = release else {
        return Err(Error::input(
            format!("{target}: no such release with a source distribution"),
            "`swegym synth NAME` takes the newest",
        ));
    };
    let requirement = format!("{name}=={}", release.version);
    let parsed: Requirement = requirement
        .parse()
        .map_err(|e: SourceError| Error::input(e.to_string(), ""))?;
    let archive = registry.sdist(&parsed, None).map_err(setup)?;
    Ok(Instance {
        instance_id: format!("{name}-{}", release.version),
        repo: format!("pypi/{name}"),
        version: Some(release.version.clone()),
        created_at: release.uploaded.clone(),
        source: Some(Source::Sdist {
            requirement,
            sha256: Some(archive.sha256),
            extra: serde_json::Map::new(),
        }),
        ..Instance::default()
    })
}
