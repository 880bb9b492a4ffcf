//! The tree that is graded (GRADING: step 3): base plus the prediction, minus
//! what a prediction may not decide, plus the hidden tests.
//!
//! Nothing is patched twice and git is never run: both patches are applied to
//! the pristine base on the trusted side, and the second one's result wins.
//! So a prediction that creates the very file the tests add neither breaks
//! the test patch nor survives it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde::{Deserialize, Serialize};
use swegym_core::Instance;
use swegym_data::patch::{Applied, FileEntry, FileMode, Matching, Patch, Tree};
use thiserror::Error;

use crate::protect::{Protection, Reason};

/// Fuzz of the reference's last resort, `patch --fuzz=5`.
const FUZZ: Matching = Matching::Fuzz(5);

/// Changes against the base: path -> new file, `None` where it is gone.
pub type Delta = BTreeMap<String, Option<FileEntry>>;

/// A composed tree.
#[derive(Debug, Clone, Default)]
pub struct Composed {
    /// Its difference from the base.
    pub delta: Delta,
    /// Paths of the prediction that were not taken.
    pub reverted: Vec<Reverted>,
    /// Hunks that did not go exactly where the patch says, for people.
    pub moved: Vec<String>,
    /// The prediction's version of build settings that were not taken because
    /// they configure the test run too. A rebuild, which runs no tests, reads
    /// them.
    pub build_settings: Delta,
    /// What decided which paths are taken.
    pub protection: Protection,
}

impl Composed {
    /// What the prediction itself changed: the delta without hidden tests.
    pub fn product(&self) -> Delta {
        let own = |path: &String| !self.protection.test_files.contains(path);
        let delta = self.delta.iter().filter(|(path, _)| own(path));
        delta.map(|(p, e)| (p.clone(), e.clone())).collect()
    }
}

/// A path that the prediction changed and the grader did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverted {
    /// Path in the codebase.
    pub path: String,
    /// Short name of the reason (see [`Reason::name`]).
    pub reason: String,
}

/// Composition failed.
#[derive(Debug, Error)]
pub enum ComposeError {
    /// The prediction is at fault.
    #[error("{0}")]
    Prediction(String),
    /// The task is: its test or gold patch does not apply.
    #[error("{0}")]
    Task(String),
}

/// The base of a codebase, and what is known about its environment.
pub struct Base<'a> {
    /// Files of the codebase at the base commit.
    pub tree: &'a dyn Tree,
    /// Their paths.
    pub files: &'a BTreeSet<String>,
    /// Top-level names importable without the codebase.
    pub importable: &'a BTreeSet<String>,
}

/// Composes the tree for a prediction; an empty patch gives base plus tests.
///
/// # Errors
/// [`ComposeError::Prediction`] if the prediction does not parse or apply,
/// [`ComposeError::Task`] if the instance's own patches do not.
pub fn compose(
    base: &Base<'_>,
    instance: &Instance,
    prediction: &str,
) -> Result<Composed, ComposeError> {
    let of_task = |field: &str, e: String| {
        ComposeError::Task(format!("{field} of {}: {e}", instance.instance_id))
    };
    let tree = base_tree(base.tree, instance)?;
    let files = changed_files(base.files, &tree.changes);
    let base = &Base {
        tree: &tree,
        files: &files,
        importable: base.importable,
    };
    let tests = apply(base.tree, &instance.test_patch).map_err(|e| of_task("test_patch", e))?;
    let gold =
        Patch::parse(instance.patch.as_bytes()).map_err(|e| of_task("patch", e.to_string()))?;
    let applied = apply(base.tree, prediction).map_err(ComposeError::Prediction)?;
    let protection = protection(base, &tests, &gold);

    let mut composed = Composed {
        moved: moved_hunks(&applied),
        ..Composed::default()
    };
    for (path, entry) in applied.files {
        let before = read(base, &path)?;
        if before == entry {
            continue;
        }
        let reason = protection.reason(&path, before.is_none()).or_else(|| {
            config_reason(
                &path,
                before.as_ref(),
                entry.as_ref(),
                protection.allowed.contains(&path),
            )
        });
        match reason {
            Some(reason) => {
                if reason == Reason::Config && is_build_settings(&path) {
                    composed.build_settings.insert(path.clone(), entry);
                }
                composed.reverted.push(Reverted {
                    path,
                    reason: reason.name().into(),
                });
            }
            None => {
                composed.delta.insert(path, entry);
            }
        }
    }
    composed.delta.extend(tests.files);
    drop_usurpers(base, &mut composed);
    for (path, entry) in tree.changes {
        composed.delta.entry(path).or_insert(entry);
    }
    composed.protection = protection;
    Ok(composed)
}

/// The codebase of an instance: that of its source, with the base patch.
pub struct BaseTree<'a> {
    below: &'a dyn Tree,
    changes: Delta,
}

impl BaseTree<'_> {
    /// What the base patch changes.
    pub fn changes(&self) -> &Delta {
        &self.changes
    }
}

/// The codebase that an instance's patches are for.
///
/// # Errors
/// If its base patch does not apply.
pub fn base_tree<'a>(
    source: &'a dyn Tree,
    instance: &Instance,
) -> Result<BaseTree<'a>, ComposeError> {
    let patch = instance.base_patch.as_deref().unwrap_or_default();
    let applied = apply(source, patch)
        .map_err(|e| ComposeError::Task(format!("base_patch of {}: {e}", instance.instance_id)))?;
    Ok(BaseTree {
        below: source,
        changes: applied.files,
    })
}

impl Tree for BaseTree<'_> {
    fn read(&self, path: &str) -> io::Result<Option<FileEntry>> {
        match self.changes.get(path) {
            Some(entry) => Ok(entry.clone()),
            None => self.below.read(path),
        }
    }

    fn list(&self, path: &str) -> io::Result<Option<Vec<String>>> {
        let below = format!("{path}/");
        let mut names = self.below.list(path)?.unwrap_or_default();
        for (changed, entry) in &self.changes {
            let Some(rest) = changed.strip_prefix(&below) else {
                continue;
            };
            match (rest.split_once('/'), entry) {
                (None, None) => names.retain(|name| name != rest),
                (None, Some(_)) => names.push(rest.to_owned()),
                (Some((dir, _)), Some(_)) => names.push(dir.to_owned()),
                (Some(_), None) => {}
            }
        }
        names.sort();
        names.dedup();
        Ok((!names.is_empty()).then_some(names))
    }
}

fn changed_files(files: &BTreeSet<String>, changes: &Delta) -> BTreeSet<String> {
    let mut files = files.clone();
    for (path, entry) in changes {
        if entry.is_some() {
            files.insert(path.clone());
        } else {
            files.remove(path);
        }
    }
    files
}

fn apply(tree: &dyn Tree, patch: &str) -> Result<Applied, String> {
    if patch.trim().is_empty() {
        return Ok(Applied::default());
    }
    let patch = Patch::parse(patch.as_bytes()).map_err(|e| e.to_string())?;
    patch.apply(tree, FUZZ).map_err(|e| e.to_string())
}

fn read(base: &Base<'_>, path: &str) -> Result<Option<FileEntry>, ComposeError> {
    base.tree
        .read(path)
        .map_err(|e| ComposeError::Task(format!("{path}: {e}")))
}

fn protection(base: &Base<'_>, tests: &Applied, gold: &Patch) -> Protection {
    let test_files: BTreeSet<String> = tests.files.keys().cloned().collect();
    let allowed = gold.paths().into_iter().map(str::to_owned).collect();
    let test_dirs = Protection::find_test_dirs(base.files.iter().map(String::as_str), &test_files);
    let import_roots = ["", "src", "lib"].map(str::to_owned).into();
    Protection {
        test_files,
        test_dirs,
        allowed,
        importable: base.importable.clone(),
        import_roots,
    }
}

fn moved_hunks(applied: &Applied) -> Vec<String> {
    let hunks = applied.moved.iter().map(|m| {
        format!(
            "{}: hunk {} at offset {}, fuzz {}",
            m.path, m.hunk, m.offset, m.fuzz
        )
    });
    let skipped = applied
        .skipped
        .iter()
        .map(|s| format!("{}: {}", s.path, s.reason));
    hunks.chain(skipped).collect()
}

/// Files that configure the test run among other things. In the tests' tree
/// those other things have no effect (a rebuild reads them elsewhere): the
/// base's version stays, unless gold changes the file; then only its part about the
/// test run must be the base's.
fn config_reason(
    path: &str,
    before: Option<&FileEntry>,
    after: Option<&FileEntry>,
    allowed: bool,
) -> Option<Reason> {
    if !is_build_settings(path) {
        return None;
    }
    (!allowed || runner_sections(before) != runner_sections(after)).then_some(Reason::Config)
}

fn is_build_settings(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    name == "setup.cfg" || name == "pyproject.toml"
}

/// Lines of every section whose header mentions a test runner. Deliberately
/// coarse: a header that only looks like one counts too.
fn runner_sections(entry: Option<&FileEntry>) -> Vec<String> {
    let text = entry
        .map(|e| String::from_utf8_lossy(&e.bytes).into_owned())
        .unwrap_or_default();
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.split(['\n', '\r']) {
        if line.trim_start().starts_with('[') {
            let header = line.to_lowercase();
            inside = ["pytest", "nose", "unittest", "tox", "aliases"]
                .iter()
                .any(|w| header.contains(w));
        }
        if inside && !line.trim().is_empty() {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// Takes back every file or link that would stand where a directory of kept
/// files is: `tests` as a link, while `tests/test_a.py` was kept.
fn drop_usurpers(base: &Base<'_>, composed: &mut Composed) {
    let kept: BTreeSet<&str> = base
        .files
        .iter()
        .map(String::as_str)
        .filter(|path| !matches!(composed.delta.get(*path), Some(None)))
        .chain(
            composed
                .delta
                .iter()
                .filter(|(_, e)| e.is_some())
                .map(|(p, _)| p.as_str()),
        )
        .collect();
    let usurpers: Vec<String> = composed
        .delta
        .iter()
        .filter(|(_, entry)| entry.is_some())
        .map(|(path, _)| path)
        .filter(|path| {
            let below = format!("{path}/");
            kept.range(below.as_str()..)
                .next()
                .is_some_and(|next| next.starts_with(&below))
        })
        .cloned()
        .collect();
    for path in usurpers {
        composed.delta.remove(&path);
        composed.reverted.push(Reverted {
            path,
            reason: Reason::Test.name().into(),
        });
    }
}

/// Writes a delta as an overlay layer: `dest/<at>/…`, deletions as whiteouts.
///
/// # Errors
/// If a file cannot be written.
pub fn write_layer(delta: &Delta, dest: &Path, at: &str) -> io::Result<()> {
    let root = dest.join(at.trim_start_matches('/'));
    fs::create_dir_all(&root)?;
    // Deletions first: a file may stand where a deleted directory was.
    let (gone, files): (Vec<_>, Vec<_>) = delta.iter().partition(|(_, entry)| entry.is_none());
    for (path, entry) in files {
        let Some(entry) = entry else { continue };
        let target = root.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        match entry.mode {
            FileMode::Symlink => {
                let link = std::str::from_utf8(&entry.bytes)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                std::os::unix::fs::symlink(link, &target)?;
            }
            FileMode::Submodule => fs::create_dir_all(&target)?,
            FileMode::Regular | FileMode::Executable => {
                fs::write(&target, &entry.bytes)?;
                let mode = if entry.mode == FileMode::Executable {
                    0o755
                } else {
                    0o644
                };
                fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
            }
        }
    }
    for (path, _) in gone {
        let target = root.join(path);
        if target.symlink_metadata().is_ok() || shadowed(&root, path) {
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        mknodat(
            CWD,
            &target,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        )?;
    }
    Ok(())
}

/// Whether a new file stands where a directory of the path was.
fn shadowed(root: &Path, path: &str) -> bool {
    let mut at = root.to_owned();
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    parts.into_iter().any(|part| {
        at.push(part);
        at.symlink_metadata().is_ok_and(|m| !m.is_dir())
    })
}

#[cfg(test)]
mod tests {
    use swegym_data::patch::MemoryTree;

    use super::*;

    fn tree() -> MemoryTree {
        [
            ("calc/core.py", "x = 1\n"),
            ("tests/test_core.py", "def test(): pass\n"),
            ("tests/conftest.py", "a\n"),
            (
                "setup.cfg",
                "[metadata]\nname = calc\n[tool:pytest]\ntestpaths = tests\n",
            ),
        ]
        .into_iter()
        .map(|(p, t)| (p.to_owned(), FileEntry::regular(t)))
        .collect()
    }

    fn instance() -> Instance {
        Instance {
            instance_id: "t".into(),
            patch: edit("calc/core.py", "x = 1", "x = 2"),
            test_patch: edit(
                "tests/test_core.py",
                "def test(): pass",
                "def test(): assert 1",
            ),
            ..Instance::default()
        }
    }

    fn edit(path: &str, old: &str, new: &str) -> String {
        format!(
            "diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-{old}\n+{new}\n"
        )
    }

    fn create(path: &str, line: &str) -> String {
        format!(
            "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{line}\n"
        )
    }

    fn check(prediction: &str, expect_delta: &[(&str, Option<&str>)], expect_reverted: &[&str]) {
        let tree = tree();
        let files = tree.keys().cloned().collect();
        let importable = ["pytest".to_owned()].into();
        let base = Base {
            tree: &tree,
            files: &files,
            importable: &importable,
        };
        let composed = compose(&base, &instance(), prediction).unwrap();
        let delta: Vec<_> = composed
            .delta
            .iter()
            .map(|(p, e)| {
                (
                    p.as_str(),
                    e.as_ref().map(|e| std::str::from_utf8(&e.bytes).unwrap()),
                )
            })
            .filter(|(p, _)| *p != "tests/test_core.py")
            .collect();
        let reverted: Vec<_> = composed.reverted.iter().map(|r| r.path.as_str()).collect();
        assert_eq!(
            (delta.as_slice(), reverted.as_slice()),
            (expect_delta, expect_reverted)
        );
        let hidden = composed.delta["tests/test_core.py"].as_ref().unwrap();
        assert_eq!(hidden.bytes, b"def test(): assert 1\n");
    }

    #[test]
    fn source_is_taken_and_tests_are_not() {
        let patch = edit("calc/core.py", "x = 1", "x = 3")
            + &edit(
                "tests/test_core.py",
                "def test(): pass",
                "def test(): return",
            )
            + &create("tests/test_mine.py", "def test_mine(): pass")
            + &create("pytest.py", "boo")
            + &create("calc/util.py", "y = 1");
        check(
            &patch,
            &[
                ("calc/core.py", Some("x = 3\n")),
                ("calc/util.py", Some("y = 1\n")),
            ],
            &["pytest.py", "tests/test_core.py", "tests/test_mine.py"],
        );
    }

    #[test]
    fn deleted_tests_come_back_and_a_link_cannot_take_their_place() {
        let patch = "diff --git a/tests/conftest.py b/tests/conftest.py\ndeleted file mode 100644\n--- a/tests/conftest.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n\
diff --git a/tests/test_core.py b/tests/test_core.py\ndeleted file mode 100644\n--- a/tests/test_core.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-def test(): pass\n\
diff --git a/tests b/tests\nnew file mode 120000\n--- /dev/null\n+++ b/tests\n@@ -0,0 +1 @@\n+calc\n\\ No newline at end of file\n";
        check(
            patch,
            &[],
            &["tests", "tests/conftest.py", "tests/test_core.py"],
        );
    }

    #[test]
    fn settings_of_the_runner_stay() {
        let cfg = "diff --git a/setup.cfg b/setup.cfg\n--- a/setup.cfg\n+++ b/setup.cfg\n@@ -4 +4,2 @@\n testpaths = tests\n+addopts = -p calc.evil\n";
        check(cfg, &[], &["setup.cfg"]);
    }

    #[test]
    fn a_layer_holds_files_links_and_whiteouts() {
        let dir = tempfile::tempdir().unwrap();
        let delta: Delta = [
            (
                "a/new.sh".to_owned(),
                Some(FileEntry {
                    bytes: b"x".to_vec(),
                    mode: FileMode::Executable,
                }),
            ),
            (
                "a/link".to_owned(),
                Some(FileEntry {
                    bytes: b"new.sh".to_vec(),
                    mode: FileMode::Symlink,
                }),
            ),
            ("b".to_owned(), Some(FileEntry::regular("now a file"))),
            ("b/old.py".to_owned(), None),
            ("c/gone.py".to_owned(), None),
        ]
        .into();
        write_layer(&delta, dir.path(), "/testbed").unwrap();
        let root = dir.path().join("testbed");
        let mode = fs::metadata(root.join("a/new.sh"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(
            fs::read_link(root.join("a/link")).unwrap(),
            Path::new("new.sh")
        );
        assert!(root.join("b").is_file());
        use std::os::unix::fs::FileTypeExt;
        assert!(
            fs::metadata(root.join("c/gone.py"))
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }
}
