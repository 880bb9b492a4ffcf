//! Bases of instances with a `base_patch`: what an agent finds there is not
//! the codebase of the environment.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use swegym_core::Instance;
use swegym_store::source::single_commit;

use crate::environment::{Environment, TESTBED};
use crate::home::Home;
use crate::{Error, codebase, compose, hash};

/// Layers of bases, kept from one run to the next.
#[derive(Debug)]
pub(super) struct Bases {
    home: Home,
    /// Held from the first use on: what is in use is not removed.
    lock: Mutex<Option<File>>,
}

impl Bases {
    pub fn new(home: &Home) -> Self {
        Self {
            home: home.clone(),
            lock: Mutex::new(None),
        }
    }

    /// A layer with what a base patch changes, and a history of one commit
    /// that holds the result: what was changed must not be there to read.
    pub fn get(
        &self,
        instance: &Instance,
        base_patch: &str,
        environment: &Environment,
    ) -> Result<PathBuf, Error> {
        self.hold()?;
        let key = hash(format!("1 {} {base_patch}", environment.key).as_bytes());
        let parent = root(&self.home).join(&environment.key);
        let dir = parent.join(&key[..32]);
        if dir.is_dir() {
            return Ok(dir);
        }
        let scratch = self.home.scratch();
        for folder in [&scratch, &parent] {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let temp = tempfile::Builder::new()
            .prefix("base-")
            .tempdir_in(&scratch)
            .map_err(|e| Error::io(&scratch, e))?;
        let source = environment.tree();
        let tree = compose::base_tree(&source, instance)
            .map_err(|e| Error::input(e.to_string(), "the row's `base_patch` is damaged"))?;
        let (whole, layer) = (temp.path().join("whole"), temp.path().join("layer"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |e| Error::io(path, e)
        };
        fs::create_dir_all(&whole).map_err(io(&whole))?;
        codebase::copy_dir(source.root(), &whole)?;
        for (path, entry) in tree.changes() {
            let target = whole.join(path);
            if target.symlink_metadata().is_ok() {
                fs::remove_file(&target).map_err(io(&target))?;
            }
            if entry.is_none() {
                continue;
            }
            let one = [(path.clone(), entry.clone())].into();
            compose::write_layer(&one, &whole, "").map_err(io(&target))?;
        }
        compose::write_layer(tree.changes(), &layer, TESTBED).map_err(io(&layer))?;
        single_commit(&whole, &layer.join("testbed/.git"), "Base")
            .map_err(|e| Error::setup(e.to_string(), ""))?;
        crate::make_traversable(&layer)?;
        match fs::rename(&layer, &dir) {
            // Another process was faster, with the same content.
            Err(_) if dir.is_dir() => Ok(dir),
            Err(e) => Err(Error::io(&dir, e)),
            Ok(()) => Ok(dir),
        }
    }

    fn hold(&self) -> Result<(), Error> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            let file = open_lock(&self.home)?;
            file.lock_shared()
                .map_err(|e| Error::io(root(&self.home), e))?;
            *lock = Some(file);
        }
        Ok(())
    }
}

/// Removes the bases of environments that `exists` does not know, and says
/// how many. Where a run uses bases, all stay.
///
/// # Errors
/// If the folder cannot be read or a base not be removed.
pub fn collect_bases(
    home: &Home,
    dry_run: bool,
    exists: &dyn Fn(&str) -> bool,
) -> Result<usize, Error> {
    let root = root(home);
    if !root.is_dir() {
        return Ok(0);
    }
    let lock = open_lock(home)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(0),
        Err(TryLockError::Error(e)) => return Err(Error::io(&root, e)),
    }
    let mut count = 0;
    for entry in fs::read_dir(&root).map_err(|e| Error::io(&root, e))? {
        let path = entry.map_err(|e| Error::io(&root, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !path.is_dir() || exists(&name) {
            continue;
        }
        count += fs::read_dir(&path)
            .map_err(|e| Error::io(&path, e))?
            .count();
        if !dry_run {
            fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(count)
}

fn root(home: &Home) -> PathBuf {
    home.root().join("bases")
}

fn open_lock(home: &Home) -> Result<File, Error> {
    let root = root(home);
    fs::create_dir_all(&root).map_err(|e| Error::io(&root, e))?;
    let path = root.join(".lock");
    File::create(&path).map_err(|e| Error::io(&path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_go_with_their_environment_and_stay_while_in_use() {
        let temp = tempfile::tempdir().expect("a folder");
        let home = Home::at(temp.path());
        assert_eq!(collect_bases(&home, false, &|_| false).expect("none"), 0);
        for dir in ["gone/1", "gone/2", "here/1"] {
            fs::create_dir_all(root(&home).join(dir)).expect("made");
        }
        let collect = |dry_run| collect_bases(&home, dry_run, &|key| key == "here").expect("reads");
        assert_eq!(collect(true), 2);
        let bases = Bases::new(&home);
        bases.hold().expect("locks");
        assert_eq!(collect(false), 0);
        assert!(root(&home).join("gone/1").is_dir());
        drop(bases);
        assert_eq!(collect(false), 2);
        assert!(!root(&home).join("gone").exists());
        assert!(root(&home).join("here/1").is_dir());
    }
}
