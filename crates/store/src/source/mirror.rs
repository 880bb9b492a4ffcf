//! One mirror per repository.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use swegym_core::Source;

use super::SourceError;
use super::git::{self, Git};
use crate::error::At;

/// Where repositories are looked for, and where clones are kept.
#[derive(Debug, Clone)]
pub struct Mirrors {
    /// Folder of the cache; made if missing.
    pub root: PathBuf,
    /// Folders with mirrors of others, which are only read. Looked for are
    /// `owner/name`, `owner__name`, `owner+name` and `name`, each also with
    /// `.git`, bare or with a work tree, and repositories one level inside
    /// `owner+name`.
    pub folders: Vec<PathBuf>,
    /// Addresses to clone from, with `{repo}` for `owner/name`.
    pub url_templates: Vec<String>,
}

/// A repository that holds the commit that was asked for.
#[derive(Debug, Clone)]
pub struct Repo {
    pub(crate) git: Git,
    pub(crate) name: String,
    /// Packs of older history, shared by all repositories.
    pub(crate) packs: PathBuf,
}

impl Mirrors {
    /// Finds the repository of a codebase, cloning or fetching where needed.
    ///
    /// `repo` (`owner/name`) and `commit` are used where the source does not
    /// say. Returns the repository and the full commit id.
    ///
    /// # Errors
    /// If there is none with this commit, or git is missing.
    pub fn resolve(
        &self,
        source: Option<&Source>,
        repo: &str,
        commit: &str,
    ) -> Result<(Repo, String), SourceError> {
        let (found, commit) = match source {
            Some(Source::Git {
                path: Some(path),
                commit,
                ..
            }) => (self.local(path, commit)?, commit.as_str()),
            Some(Source::Git {
                url: Some(url),
                commit,
                ..
            }) => (self.mirror(url, commit)?, commit.as_str()),
            Some(Source::Git { commit, .. }) => (self.by_name(repo, commit)?, commit.as_str()),
            _ => (self.by_name(repo, commit)?, commit),
        };
        let full = found
            .git
            .text(&["rev-parse", "--verify", &format!("{commit}^{{commit}}")])?;
        Ok((found, full))
    }

    /// Opens a folder that is a repository, for all of its history.
    ///
    /// # Errors
    /// If it is none, or has no commits.
    pub fn open_path(&self, path: &Path) -> Result<Repo, SourceError> {
        let name = path.display().to_string();
        let git = git::discover(path)?.ok_or_else(|| SourceError::NotRepository(name.clone()))?;
        self.with_history(git, name)
    }

    /// Opens the clone of an address: a new one, or an old one brought up to
    /// date unless it has `known`.
    ///
    /// # Errors
    /// If the address cannot be cloned, or has no commits.
    pub fn open_url(&self, url: &str, known: Option<&str>) -> Result<Repo, SourceError> {
        let git = self.clone_of(url, |git| match known {
            Some(commit) if git.has_commit(commit)? => Ok(()),
            _ => fetch_all(git),
        })?;
        self.with_history(git, url.to_owned())
    }

    /// Opens a repository by its name (`owner/name`): the first of the
    /// folders that has it, else as [`Mirrors::open_url`].
    ///
    /// # Errors
    /// If there is none, or it has no commits.
    pub fn open_name(&self, repo: &str, known: Option<&str>) -> Result<Repo, SourceError> {
        if let Some(git) = self.in_folders(repo)?.into_iter().next() {
            return self.with_history(git, repo.to_owned());
        }
        let mut failures = Vec::new();
        for template in &self.url_templates {
            match self.open_url(&template.replace("{repo}", repo), known) {
                Err(e @ SourceError::Git { .. }) => failures.push(e.to_string()),
                other => return other,
            }
        }
        Err(SourceError::NoMirror {
            repo: repo.to_owned(),
            folders: self
                .folders
                .iter()
                .map(|f| f.display().to_string())
                .collect(),
            failures,
        })
    }

    fn with_history(&self, git: Git, name: String) -> Result<Repo, SourceError> {
        if git.has_history()? {
            Ok(self.repo(git, name))
        } else {
            Err(SourceError::NoHistory(name))
        }
    }

    fn local(&self, path: &Path, commit: &str) -> Result<Repo, SourceError> {
        check_commit(commit)?;
        let git = git::discover(path)?.ok_or_else(|| SourceError::NoMirror {
            repo: path.display().to_string(),
            folders: vec![format!("{} (not a git repository)", path.display())],
            failures: Vec::new(),
        })?;
        let name = path.display().to_string();
        if git.has_commit(commit)? {
            Ok(self.repo(git, name))
        } else {
            Err(no_commit(&name, commit, vec![name.clone()]))
        }
    }

    fn by_name(&self, repo: &str, commit: &str) -> Result<Repo, SourceError> {
        check_commit(commit)?;
        let mut looked_in = Vec::new();
        for git in self.in_folders(repo)? {
            if git.has_commit(commit)? {
                return Ok(self.repo(git, repo.to_owned()));
            }
            looked_in.push(git.dir().display().to_string());
        }
        let mut failures = Vec::new();
        for template in &self.url_templates {
            match self.mirror(&template.replace("{repo}", repo), commit) {
                Ok(found) => return Ok(found),
                Err(SourceError::NoCommit {
                    looked_in: there, ..
                }) => looked_in.extend(there),
                Err(e @ SourceError::Git { .. }) => failures.push(e.to_string()),
                Err(e) => return Err(e),
            }
        }
        if looked_in.is_empty() {
            Err(SourceError::NoMirror {
                repo: repo.to_owned(),
                folders: self
                    .folders
                    .iter()
                    .map(|folder| folder.display().to_string())
                    .collect(),
                failures,
            })
        } else {
            looked_in.extend(failures);
            Err(no_commit(repo, commit, looked_in))
        }
    }

    fn in_folders(&self, repo: &str) -> Result<Vec<Git>, SourceError> {
        let name = repo.rsplit('/').next().unwrap_or(repo);
        let mut found = Vec::new();
        for folder in &self.folders {
            for stem in [
                repo.to_owned(),
                repo.replace('/', "__"),
                repo.replace('/', "+"),
                name.to_owned(),
            ] {
                let bare = folder.join(format!("{stem}.git"));
                let dir = folder.join(&stem);
                found.extend(git::discover(&bare)?);
                match git::discover(&dir)? {
                    Some(git) => found.push(git),
                    None if stem.contains('+') => found.extend(inside(&dir)?),
                    None => {}
                }
            }
        }
        Ok(found)
    }

    /// The clone of an address, with the commit.
    fn mirror(&self, url: &str, commit: &str) -> Result<Repo, SourceError> {
        check_commit(commit)?;
        let git = self.clone_of(url, |git| match git.has_commit(commit)? {
            true => Ok(()),
            false => fetch(git, commit),
        })?;
        if git.has_commit(commit)? {
            Ok(self.repo(git, url.to_owned()))
        } else {
            Err(no_commit(url, commit, vec![url.to_owned()]))
        }
    }

    /// The clone of an address, made if missing, else updated, one process at
    /// a time.
    fn clone_of(
        &self,
        url: &str,
        update: impl FnOnce(&Git) -> Result<(), SourceError>,
    ) -> Result<Git, SourceError> {
        let slug = slug(url);
        let dir = self.root.join(format!("{slug}.git"));
        fs::create_dir_all(&self.root).at("create", &self.root)?;
        let lock_path = self.root.join(format!("{slug}.lock"));
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lock_path)
            .at("open", &lock_path)?;
        lock.lock().at("lock", &lock_path)?;
        let git = Git::new(&dir);
        if dir.is_dir() {
            update(&git)?;
        } else {
            self.clone(url, &dir)?;
        }
        Ok(git)
    }

    /// Clones beside, then renames: a killed clone leaves no half mirror.
    fn clone(&self, url: &str, dir: &Path) -> Result<(), SourceError> {
        let temp = tempfile::Builder::new()
            .prefix(".clone-")
            .tempdir_in(&self.root)
            .at("create a folder in", &self.root)?;
        let bare = temp.path().join("repo.git");
        network(&["clone", "--mirror", "--quiet", "--"], url, &bare)?;
        fs::rename(&bare, dir).at("create", dir)?;
        Ok(())
    }

    fn repo(&self, git: Git, name: String) -> Repo {
        Repo {
            git,
            name,
            packs: self.root.join("packs"),
        }
    }
}

impl Repo {
    /// The git directory.
    pub fn git_dir(&self) -> &Path {
        self.git.dir()
    }

    /// When a commit was committed, seconds since 1970.
    ///
    /// # Errors
    /// If the commit is not there.
    pub fn commit_time(&self, commit: &str) -> Result<i64, SourceError> {
        let args = ["show", "--no-patch", "--format=%ct", commit, "--"];
        let text = self.git.text(&args)?;
        text.parse().map_err(|_| SourceError::Git {
            command: args.join(" "),
            message: format!("no time in {text:?}"),
        })
    }
}

fn network(args: &[&str], url: &str, dir: &Path) -> Result<(), SourceError> {
    let dir = dir.to_string_lossy();
    git::network(&[args, &[url, &dir]].concat())
}

/// Everything new; or this one commit, where no branch leads to it any more.
fn fetch(git: &Git, commit: &str) -> Result<(), SourceError> {
    fetch_all(git)?;
    if !git.has_commit(commit)? {
        // A server may refuse; the caller then reports the missing commit.
        let _ = fetch_ref(git, &format!("+{commit}:refs/swegym/{commit}"));
    }
    Ok(())
}

fn fetch_all(git: &Git) -> Result<(), SourceError> {
    fetch_ref(git, "+refs/*:refs/*")
}

fn fetch_ref(git: &Git, refspec: &str) -> Result<(), SourceError> {
    let dir = git.dir().to_string_lossy();
    git::network(&["--git-dir", &dir, "fetch", "--quiet", "origin", refspec])
}

/// Repositories one level inside a folder.
fn inside(dir: &Path) -> Result<Vec<Git>, SourceError> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        found.extend(git::discover(&path)?);
    }
    Ok(found)
}

fn check_commit(commit: &str) -> Result<(), SourceError> {
    if (7..=40).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(())
    } else {
        Err(SourceError::BadCommit(commit.to_owned()))
    }
}

fn no_commit(repo: &str, commit: &str, looked_in: Vec<String>) -> SourceError {
    SourceError::NoCommit {
        repo: repo.to_owned(),
        commit: commit.to_owned(),
        looked_in,
    }
}

/// A readable file name for an address, unique by a hash.
fn slug(url: &str) -> String {
    let tail = url.trim_end_matches('/').trim_end_matches(".git");
    let mut words: Vec<&str> = tail.rsplit(['/', ':']).take(2).collect();
    words.reverse();
    let readable: String = words
        .join("__")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let hash = blake3::hash(url.as_bytes()).to_hex();
    format!("{}-{}", readable.trim_start_matches('.'), &hash[..12])
}
