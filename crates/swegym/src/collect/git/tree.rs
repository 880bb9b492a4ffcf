//! A commit as a tree of texts.

use swegym_forge::Tree;
use swegym_store::source::{Repo, SourceError};

/// Largest file that is read; those that state a version are far smaller.
const MAX_TEXT: u64 = 1 << 20;

/// The files of a commit, read when they are asked for.
pub(super) struct GitTree<'a> {
    repo: &'a Repo,
    commit: &'a str,
    files: Vec<String>,
}

impl<'a> GitTree<'a> {
    pub fn open(repo: &'a Repo, commit: &'a str) -> Result<Self, SourceError> {
        Ok(Self {
            repo,
            commit,
            files: repo.files(commit)?,
        })
    }
}

impl Tree for GitTree<'_> {
    fn files(&self) -> &[String] {
        &self.files
    }

    fn read(&self, path: &str) -> Option<String> {
        if !self.has(path) {
            return None;
        }
        let bytes = self.repo.file(self.commit, path, MAX_TEXT)?;
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        Some(String::from_utf8_lossy(text).replace("\r\n", "\n"))
    }

    fn describe(&self) -> Option<String> {
        self.repo.describe(self.commit)
    }
}
