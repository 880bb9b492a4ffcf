//! What a patch is applied to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::FileMode;

/// A file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Content; of a symbolic link, its target.
    pub bytes: Vec<u8>,
    /// Regular, executable or symbolic link.
    pub mode: FileMode,
}

impl FileEntry {
    /// A regular file.
    pub fn regular(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.into(),
            mode: FileMode::Regular,
        }
    }
}

/// A directory tree, seen through paths relative to its root. Symbolic links
/// are entries; they are never followed.
pub trait Tree {
    /// The file or link at a path; `None` for a directory or nothing.
    ///
    /// # Errors
    /// If it exists but cannot be read.
    fn read(&self, path: &str) -> io::Result<Option<FileEntry>>;

    /// Names in the directory at a path; `None` where there is no directory.
    ///
    /// # Errors
    /// If it exists but cannot be read.
    fn list(&self, path: &str) -> io::Result<Option<Vec<String>>>;
}

/// A tree in memory: path -> file.
pub type MemoryTree = BTreeMap<String, FileEntry>;

impl Tree for MemoryTree {
    fn read(&self, path: &str) -> io::Result<Option<FileEntry>> {
        Ok(self.get(path).cloned())
    }

    fn list(&self, path: &str) -> io::Result<Option<Vec<String>>> {
        let prefix = format!("{path}/");
        let mut names: Vec<String> = self
            .range(prefix.clone()..)
            .map_while(|(path, _)| path.strip_prefix(&prefix))
            .map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
            .collect();
        names.dedup();
        Ok((!names.is_empty()).then_some(names))
    }
}

/// A directory of the host.
#[derive(Debug, Clone)]
pub struct DirTree {
    root: PathBuf,
}

impl DirTree {
    /// The tree below a directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The host path, unless a link or file is in the way.
    fn resolve(&self, path: &str) -> io::Result<Option<(PathBuf, std::fs::Metadata)>> {
        let mut at = self.root.clone();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            let Some(meta) = present(&at)? else {
                return Ok(None);
            };
            if parts.peek().is_none() {
                return Ok(Some((at, meta)));
            }
            if !meta.is_dir() {
                return Ok(None);
            }
        }
        Ok(None)
    }
}

fn present(path: &Path) -> io::Result<Option<std::fs::Metadata>> {
    match path.symlink_metadata() {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Tree for DirTree {
    fn read(&self, path: &str) -> io::Result<Option<FileEntry>> {
        let Some((at, meta)) = self.resolve(path)? else {
            return Ok(None);
        };
        if meta.is_symlink() {
            let target = std::fs::read_link(&at)?;
            return Ok(Some(FileEntry {
                bytes: target.into_os_string().into_encoded_bytes(),
                mode: FileMode::Symlink,
            }));
        }
        if !meta.is_file() {
            return Ok(None);
        }
        Ok(Some(FileEntry {
            bytes: std::fs::read(&at)?,
            mode: if executable(&meta) {
                FileMode::Executable
            } else {
                FileMode::Regular
            },
        }))
    }

    fn list(&self, path: &str) -> io::Result<Option<Vec<String>>> {
        let Some((at, meta)) = self.resolve(path)? else {
            return Ok(None);
        };
        if !meta.is_dir() {
            return Ok(None);
        }
        std::fs::read_dir(at)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()
            .map(Some)
    }
}

#[cfg(unix)]
fn executable(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
fn executable(_: &std::fs::Metadata) -> bool {
    false
}
