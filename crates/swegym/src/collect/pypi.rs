//! Candidates from consecutive releases of a package: what changed in its
//! sources is the gold patch, what changed in its tests the test patch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use pep440_rs::Version;
use swegym_core::{Instance, Source};
use swegym_data::patch::{BinaryHunk, Content, FilePatch, Patch};
use swegym_forge::changelog::{self, Document, Entry};
use swegym_store::source::{LineEnds, Registry, Release, Requirement, SourceError};
use tempfile::TempDir;

use super::Raw;
use crate::Error;
use crate::home::Home;
use crate::protect::is_test_path;
use crate::validate::split::ENTRIES;

/// Gold patches beyond this many changed files are rewrites.
const MAX_SOURCES: usize = 200;

/// Which releases of a package.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// The first release to fix something in.
    pub since: Option<String>,
    /// The last release that may be the fix.
    pub until: Option<String>,
    /// Most pairs, the newest first.
    pub limit: Option<usize>,
}

/// An unpacked source distribution.
struct Unpacked {
    dir: PathBuf,
    sha256: String,
}

impl Unpacked {
    /// Makes room.
    fn remove(self) {
        // Gone at the end of the run anyway.
        let _ = fs::remove_dir_all(self.dir);
    }
}

/// The candidates of a package and what fell out, oldest first.
///
/// # Errors
/// If the registry cannot be reached or does not know the package.
pub fn candidates(
    home: &Home,
    package: &str,
    range: &Range,
    on_step: &dyn Fn(&str),
) -> Result<Vec<Raw>, Error> {
    let registry = Registry::from_env(home.sdists()).map_err(reachable)?;
    on_step(&format!("{package}: releases"));
    let releases = registry.releases(package).map_err(|e| match e {
        SourceError::Refused { status: 404, .. } => Error::input(
            format!("{package}: no such package"),
            "names are those of the package registry, not of modules",
        ),
        e => reachable(e),
    })?;
    if releases.is_empty() {
        return Err(Error::input(
            format!("{package}: no release has a source distribution"),
            "mine its repository instead: `swegym collect git`",
        ));
    }
    let releases = chosen(package, &releases, range)?;
    let folder = TempDir::new().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    // The same inputs give the same rows on every machine.
    let cache = format!("{}/", registry.cache().display());
    let steady = |mut raw: Raw| {
        raw.detail = raw.detail.replace(&cache, "");
        raw
    };
    let mut before: Option<(Release, Unpacked)> = None;
    let mut found = Vec::new();
    for release in releases {
        on_step(&format!("{package} {}", release.version));
        let after = match unpack(&registry, package, &release, folder.path()) {
            Ok(after) if has_tests(&after.dir) => after,
            // What it changed belongs to the next release that can be used.
            unusable => {
                let id = match &before {
                    Some((old, _)) => Some(id(package, old, &release)),
                    None => unusable
                        .is_err()
                        .then(|| format!("{package}-{}", release.version)),
                };
                if let Some(id) = id {
                    let raw = match &unusable {
                        Ok(_) => {
                            let why = "the source distribution holds no tests";
                            Raw::dropped(id, "no_tests", why)
                        }
                        Err(e) => Raw::dropped(id, "no_archive", e.to_string()),
                    };
                    found.push(steady(raw));
                }
                match unusable {
                    // Tests that are new are worth as much as changed ones.
                    Ok(first) if before.is_none() => first,
                    unusable => {
                        unusable.into_iter().for_each(Unpacked::remove);
                        continue;
                    }
                }
            }
        };
        if let Some((old, unpacked)) = before.take() {
            found.push(steady(candidate(
                package, &old, &release, &unpacked, &after,
            )));
            unpacked.remove();
        }
        before = Some((release, after));
    }
    Ok(found)
}

fn id(package: &str, old: &Release, new: &Release) -> String {
    format!("{package}-{}-{}", old.version, new.version)
}

/// The releases of a range, oldest first.
fn chosen(package: &str, releases: &[Release], range: &Range) -> Result<Vec<Release>, Error> {
    let position = |version: &Option<String>, option: &str| match version {
        None => Ok(None),
        Some(version) => {
            let wanted: Requirement = format!("{package}=={version}")
                .parse()
                .map_err(|e: SourceError| Error::input(format!("{option}: {e}"), ""))?;
            let found = releases
                .iter()
                .position(|r| r.version == wanted.version.to_string());
            match found {
                Some(at) => Ok(Some(at)),
                None => Err(Error::input(
                    format!(
                        "{option}: {package} has no release {version} with a source distribution"
                    ),
                    format!(
                        "the newest is {}",
                        releases.last().map_or("", |r| &r.version)
                    ),
                )),
            }
        }
    };
    let first = position(&range.since, "--since")?.unwrap_or(0);
    let last = position(&range.until, "--until")?.unwrap_or(releases.len() - 1);
    let chosen = releases.get(first..=last).unwrap_or_default();
    let surplus = range.limit.map_or(0, |limit| {
        chosen.len().saturating_sub(limit.saturating_add(1))
    });
    Ok(chosen[surplus..].to_vec())
}

fn unpack(
    registry: &Registry,
    package: &str,
    release: &Release,
    folder: &Path,
) -> Result<Unpacked, Error> {
    let dir = folder.join(&release.version);
    let run = || -> Result<String, SourceError> {
        let requirement: Requirement = format!("{package}=={}", release.version).parse()?;
        let archive = registry.sdist(&requirement, None)?;
        archive.unpack(&dir, LineEnds::Auto)?;
        Ok(archive.sha256)
    };
    match run() {
        Ok(sha256) => Ok(Unpacked { dir, sha256 }),
        Err(e) => Err(reachable(e)),
    }
}

fn candidate(
    package: &str,
    old: &Release,
    new: &Release,
    before: &Unpacked,
    after: &Unpacked,
) -> Raw {
    let id = id(package, old, new);
    let packaged = |path: &str| {
        [before, after].iter().any(|side| {
            let mut folder = side.dir.join(path);
            folder.pop() && folder != side.dir && folder.join("__init__.py").is_file()
        })
    };
    let (tests, sources) = match diff(&before.dir, &after.dir) {
        Ok(mut patch) => {
            for file in &mut patch.files {
                if let Err(e) = no_text_as_binary(file, &before.dir, &after.dir) {
                    return Raw::dropped(id, "no_diff", e.to_string());
                }
            }
            split(patch, packaged)
        }
        Err(e) => return Raw::dropped(id, "no_diff", e.to_string()),
    };
    if tests.files.is_empty() {
        return Raw::dropped(id, "tests_unchanged", "no test changed");
    }
    if sources.files.is_empty() {
        return Raw::dropped(id, "sources_unchanged", "no source changed");
    }
    if sources.files.len() > MAX_SOURCES {
        let detail = format!("{} files changed", sources.files.len());
        return Raw::dropped(id, "too_large", detail);
    }
    let text = |patch: &Patch| String::from_utf8_lossy(&patch.render()).into_owned();
    // Validation writes a text from what fails where the changelog has none.
    let (entries, problem_statement, detail) = match entries(old, new, before, after) {
        Ok(entries) => {
            let all: Vec<&Entry> = entries.iter().collect();
            match changelog::problem_statement(&all, package, &old.version) {
                Some(text) => (entries, text, String::new()),
                None => {
                    let why = "its entries tell of nothing that tests could see";
                    (entries, String::new(), why.to_owned())
                }
            }
        }
        Err(why) => (Vec::new(), String::new(), why),
    };
    let entries = match serde_json::to_value(&entries) {
        Ok(entries) => entries,
        Err(e) => return Raw::dropped(id, "no_text", e.to_string()),
    };
    let instance = Instance {
        instance_id: id.clone(),
        repo: format!("pypi/{package}"),
        version: Some(old.version.clone()),
        patch: text(&sources),
        test_patch: text(&tests),
        problem_statement,
        // Hidden tests may need what was current when they were written.
        created_at: new.uploaded.clone().or_else(|| old.uploaded.clone()),
        source: Some(Source::Sdist {
            requirement: format!("{package}=={}", old.version),
            sha256: Some(before.sha256.clone()),
            extra: serde_json::Map::new(),
        }),
        // Validation gives each part of the release its own.
        extra: [(ENTRIES.to_owned(), entries)].into_iter().collect(),
        ..Instance::default()
    };
    Raw {
        instance_id: id,
        instance: Some(instance),
        reason: None,
        detail,
    }
}

/// What the changelog says of the release.
///
/// # Errors
/// In a line, why it says nothing.
fn entries(
    old: &Release,
    new: &Release,
    before: &Unpacked,
    after: &Unpacked,
) -> Result<Vec<Entry>, String> {
    let version = |release: &Release| {
        Version::from_str(&release.version).map_err(|e| format!("{}: {e}", release.version))
    };
    let (before, after) = (documents(&before.dir), documents(&after.dir));
    let found = changelog::read(
        &borrowed(&before),
        &borrowed(&after),
        &version(old)?,
        &version(new)?,
    )
    .map_err(|nothing| nothing.to_string())?;
    Ok(found.relevant().cloned().collect())
}

/// Files that may hold a changelog: path and text.
fn documents(dir: &Path) -> Vec<(String, String)> {
    files(dir)
        .filter(|path| changelog::role(path).is_some())
        .filter_map(|path| {
            let text = fs::read_to_string(dir.join(&path)).ok()?;
            Some((path, text))
        })
        .collect()
}

fn borrowed(documents: &[(String, String)]) -> Vec<Document<'_>> {
    documents
        .iter()
        .map(|(path, text)| Document { path, text })
        .collect()
}

/// Paths of the files of a folder, from there.
fn files(dir: &Path) -> impl Iterator<Item = String> {
    walkdir::WalkDir::new(dir)
        .sort_by_file_name()
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .filter_map(move |entry| Some(entry.path().strip_prefix(dir).ok()?.to_str()?.to_owned()))
}

/// The difference of two folders, with paths as of git.
fn diff(before: &Path, after: &Path) -> Result<Patch, Error> {
    let dir = TempDir::new().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    for (name, target) in [("a", before), ("b", after)] {
        let link = dir.path().join(name);
        std::os::unix::fs::symlink(target, &link).map_err(|e| Error::io(&link, e))?;
    }
    let output = Command::new("git")
        .args(["diff", "--no-index", "--no-prefix", "--no-color"])
        .args(["--no-ext-diff", "--binary", "--full-index", "--no-renames"])
        .args(["a/", "b/"])
        .current_dir(dir.path())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .map_err(|e| Error::setup(format!("cannot run git: {e}"), "install git"))?;
    // 1 says that there are differences.
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(Error::bug(String::from_utf8_lossy(&output.stderr)));
    }
    Patch::parse(&output.stdout).map_err(Error::bug)
}

/// Makes a change of lines that are no UTF-8 one of bytes: datasets hold text.
fn no_text_as_binary(file: &mut FilePatch, before: &Path, after: &Path) -> Result<(), Error> {
    let mut lines = file.hunks().iter().flat_map(|hunk| &hunk.lines);
    if lines.all(|line| std::str::from_utf8(&line.text).is_ok()) {
        return Ok(());
    }
    let bytes = |root: &Path, path: &str| {
        let path = root.join(path);
        match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(|e| Error::io(path, e)),
        }
    };
    file.content = Content::Binary {
        forward: BinaryHunk::literal(&bytes(after, &file.new_path)?),
        reverse: Some(BinaryHunk::literal(&bytes(before, &file.old_path)?)),
    };
    Ok(())
}

/// Tests and sources: Python files, and texts beside the modules of a package.
/// What is neither (documents, metadata) is left out, and what is compiled: no
/// patch of a person brings it.
fn split(patch: Patch, packaged: impl Fn(&str) -> bool) -> (Patch, Patch) {
    let (mut tests, mut sources) = (Patch::default(), Patch::default());
    for file in patch.files {
        let path = &file.new_path;
        let is_text = matches!(file.content, Content::Text(_) | Content::None);
        if is_test_path(path) {
            tests.files.push(file);
        } else if (path.ends_with(".py") || is_text && packaged(path)) && !is_settings(path) {
            sources.files.push(file);
        }
    }
    (tests, sources)
}

/// Python files that are no part of a package.
fn is_settings(path: &str) -> bool {
    matches!(
        path,
        "setup.py" | "noxfile.py" | "tasks.py" | "fabfile.py" | "versioneer.py"
    ) || [
        "docs/",
        "doc/",
        "examples/",
        "benchmarks/",
        "tools/",
        "scripts/",
    ]
    .iter()
    .any(|dir| path.starts_with(dir))
}

fn has_tests(dir: &Path) -> bool {
    files(dir).any(|path| path.ends_with(".py") && is_test_path(&path))
}

fn reachable(e: SourceError) -> Error {
    Error::setup(e.to_string(), "is the package registry reachable?")
}

#[cfg(test)]
mod tests {
    use swegym_data::patch::{DirTree, Matching};

    use super::*;

    #[test]
    fn bytes_that_are_no_text_survive_a_dataset() {
        let dir = TempDir::new().unwrap();
        let [before, after] = ["before", "after"].map(|name| {
            let folder = dir.path().join(name);
            fs::create_dir_all(folder.join("tests")).unwrap();
            folder
        });
        let path = "tests/latin.txt";
        fs::write(before.join(path), b"caf\xe9\n").unwrap();
        fs::write(after.join(path), b"th\xe9\n").unwrap();
        fs::write(after.join("tests/plain.txt"), "plain\n").unwrap();
        let mut patch = diff(&before, &after).unwrap();
        for file in &mut patch.files {
            no_text_as_binary(file, &before, &after).unwrap();
        }
        let text = String::from_utf8(patch.render()).unwrap();
        assert!(text.contains("GIT binary patch") && text.contains("+plain"));
        let read = Patch::parse(text.as_bytes()).unwrap();
        let applied = read.apply(&DirTree::new(&before), Matching::Exact).unwrap();
        let entry = applied.files[path].as_ref().unwrap();
        assert_eq!(entry.bytes, b"th\xe9\n");
        // git reads it, too.
        fs::write(dir.path().join("patch"), &text).unwrap();
        let status = Command::new("git")
            .args(["apply", "../patch"])
            .current_dir(&before)
            .env("GIT_CEILING_DIRECTORIES", dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(fs::read(before.join(path)).unwrap(), b"th\xe9\n");
    }
}
