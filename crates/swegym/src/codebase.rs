//! Puts the codebase of an instance, at its base commit, into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use swegym_core::{Instance, Source};
use swegym_store::source::{
    LineEnds, Mirrors, Registry, Repo, Requirement, SourceError, Submodule, single_commit,
};

use crate::Error;
use crate::home::Home;

/// Where codebases come from.
pub struct Sources {
    mirrors: Mirrors,
    home: Home,
}

/// Mirrors by the settings of the user: `SWEGYM_MIRRORS` lists folders with
/// git mirrors (like `PATH`), `SWEGYM_GIT_URLS` addresses with `{repo}` to
/// clone from, separated by spaces (empty for none).
pub fn mirrors_from_env(home: &Home) -> Mirrors {
    let folders = std::env::var_os("SWEGYM_MIRRORS")
        .map(|v| {
            std::env::split_paths(&v)
                .filter(|p| !p.as_os_str().is_empty())
                .collect()
        })
        .unwrap_or_default();
    let url_templates = std::env::var("SWEGYM_GIT_URLS")
        .unwrap_or_else(|_| "https://github.com/{repo}.git".into())
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    Mirrors {
        root: home.mirrors(),
        folders,
        url_templates,
    }
}

/// A codebase in a folder.
pub struct Codebase {
    /// When it was current, where that is known.
    pub date: Option<Date>,
    /// Repositories inside it whose content is missing.
    pub submodules: Vec<Submodule>,
    origin: Origin,
}

enum Origin {
    Git { repo: Repo, commit: String },
    Folder,
}

impl Sources {
    /// Sources by the settings of the user, see [`mirrors_from_env`].
    pub fn from_env(home: &Home) -> Self {
        Self {
            mirrors: mirrors_from_env(home),
            home: home.clone(),
        }
    }

    /// What identifies the codebase of an instance, without fetching it.
    ///
    /// # Errors
    /// If the row does not say where it comes from.
    pub fn identity(&self, instance: &Instance) -> Result<String, Error> {
        Ok(match source_of(instance)? {
            Some(Source::Dir(path)) => format!("dir {}", dir_digest(&path)?),
            Some(source) => serde_json::to_string(&source).expect("plain data"),
            None => format!("git {} {}", instance.repo, instance.base_commit),
        })
    }

    /// Writes the codebase into a new folder.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn export(&self, instance: &Instance, dest: &Path) -> Result<Codebase, Error> {
        let source = source_of(instance)?;
        match &source {
            Some(Source::Sdist {
                requirement,
                sha256,
                ..
            }) => {
                let registry = Registry::from_env(self.home.sdists()).map_err(source_error)?;
                let requirement: Requirement = requirement
                    .parse()
                    .map_err(|e: SourceError| in_row(instance, &e))?;
                let archive = registry
                    .sdist(&requirement, sha256.as_deref())
                    .map_err(source_error)?;
                archive.unpack(dest, LineEnds::Auto).map_err(source_error)?;
                Ok(Codebase {
                    date: None,
                    submodules: Vec::new(),
                    origin: Origin::Folder,
                })
            }
            Some(Source::Dir(path)) => {
                copy_dir(path, dest)?;
                Ok(Codebase {
                    date: None,
                    submodules: Vec::new(),
                    origin: Origin::Folder,
                })
            }
            Some(Source::Image(image)) => Err(Error::input(
                format!("{}: source is the image {image}", instance.instance_id),
                "images are not pulled yet; give the row a `git`, `sdist` or `dir` source",
            )),
            git @ (Some(Source::Git { .. }) | None) => {
                let (repo, commit) = self
                    .mirrors
                    .resolve(git.as_ref(), &instance.repo, &instance.base_commit)
                    .map_err(|e| in_row(instance, &e))?;
                let date = repo.commit_time(&commit).ok().and_then(date_of);
                let exported = repo.export_tree(&commit, dest).map_err(source_error)?;
                Ok(Codebase {
                    date,
                    submodules: exported.submodules,
                    origin: Origin::Git { repo, commit },
                })
            }
        }
    }
}

impl Codebase {
    /// What `git describe --tags` says of the base commit, where there is
    /// history with tags; versions are made of it.
    pub fn describe(&self) -> Option<String> {
        let Origin::Git { repo, commit } = &self.origin else {
            return None;
        };
        repo.describe(commit)
    }

    /// Makes the `.git` that an agent sees: history up to the base commit, or
    /// one commit where there is none.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn history(&self, tree: &Path, dest: &Path) -> Result<(), Error> {
        match &self.origin {
            Origin::Git { repo, commit } => repo.history(commit, dest).map_err(source_error),
            Origin::Folder => single_commit(tree, dest, "Base")
                .map(|_| ())
                .map_err(source_error),
        }
    }
}

fn source_of(instance: &Instance) -> Result<Option<Source>, Error> {
    let source = instance.codebase().map_err(|e| {
        Error::input(
            format!("{}: field `sdist`: {e}", instance.instance_id),
            "expected {\"requirement\": \"name==version\", \"sha256\": …}",
        )
    })?;
    if source.is_none() && (instance.repo.is_empty() || instance.base_commit.is_empty()) {
        return Err(Error::input(
            format!(
                "{}: no codebase: `source`, `repo` and `base_commit` are empty",
                instance.instance_id
            ),
            "give the row a `source`, or `repo` and `base_commit`",
        ));
    }
    Ok(source)
}

fn in_row(instance: &Instance, error: &SourceError) -> Error {
    Error::input(
        format!("{}: {error}", instance.instance_id),
        "name folders with git mirrors in SWEGYM_MIRRORS, or addresses in SWEGYM_GIT_URLS",
    )
}

fn source_error(error: SourceError) -> Error {
    Error::setup(error.to_string(), "")
}

fn date_of(seconds: i64) -> Option<Date> {
    Some(
        Timestamp::from_second(seconds)
            .ok()?
            .to_zoned(TimeZone::UTC)
            .date(),
    )
}

fn files_of(dir: &Path) -> impl Iterator<Item = Result<walkdir::DirEntry, Error>> {
    let dir = dir.to_owned();
    walkdir::WalkDir::new(&dir)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|e| e.depth() == 0 || e.file_name() != ".git")
        .map(move |entry| {
            entry.map_err(|e| {
                let path = e.path().unwrap_or(&dir).to_owned();
                Error::io(path, e.into())
            })
        })
}

fn dir_digest(dir: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    for entry in files_of(dir) {
        let entry = entry?;
        let path = entry.path();
        let name = relative(path, dir);
        hasher.update(name.as_os_str().as_encoded_bytes());
        hasher.update(b"\0");
        if entry.file_type().is_symlink() {
            let target = fs::read_link(path).map_err(|e| Error::io(path, e))?;
            hasher.update(target.as_os_str().as_encoded_bytes());
        } else if entry.file_type().is_file() {
            let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

pub(crate) fn copy_dir(from: &Path, to: &Path) -> Result<(), Error> {
    for entry in files_of(from) {
        let entry = entry?;
        let path = entry.path();
        let target = to.join(relative(path, from));
        let kind = entry.file_type();
        let done = if kind.is_dir() {
            fs::create_dir_all(&target)
        } else if kind.is_symlink() {
            fs::read_link(path).and_then(|link| std::os::unix::fs::symlink(link, &target))
        } else {
            fs::copy(path, &target).map(|_| ())
        };
        done.map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}

fn relative(path: &Path, root: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}
