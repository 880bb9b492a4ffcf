//! Datasets from a Hugging Face hub, or anything that speaks its protocol,
//! kept in the hub's own cache layout.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::error::{DataError, Result};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const DEFAULT_REVISION: &str = "main";
/// Tries per file after the first.
const RETRIES: usize = 3;

/// `owner/name[:split][@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repo: String,
    /// Split; the only one, or `test`, `train`, `dev` (first that exists)
    /// without it.
    pub split: Option<String>,
    /// Branch, tag or commit; `main` without it.
    pub revision: Option<String>,
}

impl HubName {
    /// Parses a name; `None` if it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, revision) = match text.split_once('@') {
            Some((text, revision)) => (text, Some(revision)),
            None => (text, None),
        };
        let (repo, split) = match text.split_once(':') {
            Some((repo, split)) => (repo, Some(split)),
            None => (text, None),
        };
        let (owner, name) = repo.split_once('/')?;
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !text.contains("..")
        };
        let revision_ok = revision.is_none_or(|r| r.split('/').all(word));
        (word(owner) && word(name) && split.is_none_or(word) && revision_ok).then(|| Self {
            repo: repo.to_owned(),
            split: split.map(str::to_owned),
            revision: revision.map(str::to_owned),
        })
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(split) = &self.split {
            write!(f, ":{split}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        Ok(())
    }
}

/// A hub and the cache of what was fetched from it.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
}

/// Files of a repository at a revision, kept so that a fetched dataset can be
/// told from a half-fetched one without the hub.
#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    files: Vec<String>,
}

impl Hub {
    /// A hub at an endpoint, with a cache directory and no token.
    pub fn new(endpoint: impl Into<String>, cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.into(),
            cache: cache.into(),
            token: None,
        }
    }

    /// The hub of the environment: `HF_ENDPOINT`, `HF_HUB_CACHE` or
    /// `HF_HOME`, and `HF_TOKEN` or the stored token.
    ///
    /// # Errors
    /// If there is neither a cache variable nor a home directory.
    pub fn from_env() -> Result<Self> {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home_missing = || DataError::Hub {
            name: "cache".into(),
            problem: "no home directory; set HF_HOME".into(),
        };
        let cache = match (var("HF_HUB_CACHE"), var("HF_HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(home)) => Path::new(&home).join("hub"),
            (None, None) => std::env::home_dir()
                .ok_or_else(home_missing)?
                .join(".cache/huggingface/hub"),
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        Ok(Self {
            token: var("HF_TOKEN").or_else(|| Cache::new(cache.clone()).token()),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
        })
    }

    /// The data files of a split, fetched where the cache lacks them. A
    /// revision that is wholly in the cache needs no network.
    ///
    /// # Errors
    /// If the hub has no such dataset or split, or cannot be reached.
    pub fn fetch(&self, name: &HubName) -> Result<Vec<PathBuf>> {
        self.fetch_files(RepoType::Dataset, name, &|files| split_files(name, files))
    }

    /// The folder of a model, with its weights as safetensors, its tokenizer
    /// and its chat template, fetched where the cache lacks them.
    ///
    /// # Errors
    /// If the hub has no such model, it has no safetensors, or the hub cannot
    /// be reached.
    pub fn fetch_model(&self, name: &HubName) -> Result<PathBuf> {
        let files = self.fetch_files(RepoType::Model, name, &|files| {
            let wanted = |file: &&str| MODEL_FILES.contains(file) || file.ends_with(".safetensors");
            let top = files
                .iter()
                .map(String::as_str)
                .filter(|f| !f.contains('/'));
            let wanted: Vec<&str> = top.filter(wanted).collect();
            let has = |end: &str| wanted.iter().any(|f| f.ends_with(end));
            match has(".safetensors") && has("config.json") {
                true => Ok(wanted),
                false => Err(DataError::Hub {
                    name: name.to_string(),
                    problem: "holds no config.json with *.safetensors; only such models are read"
                        .into(),
                }),
            }
        })?;
        let first = files.first().and_then(|f| f.parent());
        Ok(first.expect("at least the weights").to_owned())
    }

    /// The folder of a model that is wholly in the cache; `None` without.
    pub fn cached_model(&self, name: &HubName) -> Option<PathBuf> {
        let folder = self.folder(RepoType::Model, name);
        let reference = folder.join("refs").join(name.revision());
        let sha = match std::fs::read_to_string(reference) {
            Ok(sha) => sha.trim().to_owned(),
            Err(_) => name.revision().to_owned(),
        };
        let snapshot = folder.join("snapshots").join(sha);
        snapshot.join("config.json").is_file().then_some(snapshot)
    }

    fn fetch_files(
        &self,
        kind: RepoType,
        name: &HubName,
        wanted: &dyn for<'a> Fn(&'a [String]) -> Result<Vec<&'a str>>,
    ) -> Result<Vec<PathBuf>> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .with_retries(RETRIES)
            .build()
            .map_err(|e| self.error(name, &e))?;
        let repo =
            |revision: &str| Repo::with_revision(name.repo.clone(), kind, revision.to_owned());
        let (sha, files) = match api.repo(repo(name.revision())).info() {
            Ok(info) => {
                let files = info.siblings.into_iter().map(|s| s.rfilename).collect();
                self.remember(kind, name, &info.sha, files)?
            }
            Err(e) => self
                .recall(kind, name)
                .ok_or_else(|| self.error(name, &e))?,
        };
        // One commit for all files, even if the branch moves meanwhile.
        let pinned = api.repo(repo(&sha));
        let snapshot = self.folder(kind, name).join("snapshots").join(&sha);
        wanted(&files)?
            .into_iter()
            .map(|file| self.fetch_file(name, &pinned, &snapshot, file))
            .collect()
    }

    fn fetch_file(
        &self,
        name: &HubName,
        repo: &ApiRepo,
        snapshot: &Path,
        file: &str,
    ) -> Result<PathBuf> {
        let cached = snapshot.join(file);
        if cached.is_file() {
            return Ok(cached);
        }
        repo.download(file).map_err(|e| match self.error(name, &e) {
            DataError::Hub { name, problem } => DataError::Hub {
                name,
                problem: format!("{file}: {problem}"),
            },
            other => other,
        })
    }

    /// The cache folder of a dataset or model.
    fn folder(&self, kind: RepoType, name: &HubName) -> PathBuf {
        let repo = Repo::new(name.repo.clone(), kind);
        self.cache.join(repo.folder_name())
    }

    fn listing_path(&self, kind: RepoType, name: &HubName, sha: &str) -> PathBuf {
        self.folder(kind, name)
            .join("swegym")
            .join(format!("{sha}.json"))
    }

    fn ref_path(&self, kind: RepoType, name: &HubName) -> PathBuf {
        self.folder(kind, name).join("refs").join(name.revision())
    }

    fn remember(
        &self,
        kind: RepoType,
        name: &HubName,
        sha: &str,
        files: Vec<String>,
    ) -> Result<(String, Vec<String>)> {
        if !sha.bytes().all(|b| b.is_ascii_alphanumeric()) || sha.is_empty() {
            return Err(DataError::Hub {
                name: name.to_string(),
                problem: format!("{} answers with commit {sha:?}", self.endpoint),
            });
        }
        let listing = Listing { files };
        atomic::write_json(&self.listing_path(kind, name, sha), &listing)?;
        atomic::write(&self.ref_path(kind, name), sha.as_bytes())?;
        Ok((sha.to_owned(), listing.files))
    }

    /// What the last visit to the hub saw.
    fn recall(&self, kind: RepoType, name: &HubName) -> Option<(String, Vec<String>)> {
        let sha = match std::fs::read_to_string(self.ref_path(kind, name)) {
            Ok(sha) => sha.trim().to_owned(),
            // A commit names itself.
            Err(_) => name.revision().to_owned(),
        };
        let text = std::fs::read(self.listing_path(kind, name, &sha)).ok()?;
        let listing: Listing = serde_json::from_slice(&text).ok()?;
        Some((sha, listing.files))
    }

    fn error(&self, name: &HubName, error: &ApiError) -> DataError {
        let endpoint = &self.endpoint;
        let status = match error {
            ApiError::RequestError(e) => match e.as_ref() {
                ureq::Error::StatusCode(status) => Some(*status),
                _ => None,
            },
            _ => None,
        };
        let problem = match status {
            Some(404) => format!("{endpoint} has no such repository or revision; check the name"),
            Some(401 | 403) => format!(
                "{endpoint} refuses access (or has no such repository); check the name, or set HF_TOKEN"
            ),
            Some(status) => format!("{endpoint} answers with status {status}; try again later"),
            None => format!(
                "cannot reach {endpoint} ({error}); check the network or HF_ENDPOINT, or name a local file"
            ),
        };
        DataError::Hub {
            name: name.to_string(),
            problem,
        }
    }
}

/// Files of a model beside its weights.
const MODEL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
];

/// Ends of the names of data files, best first.
const DATA_ENDS: [&str; 4] = [".parquet", ".jsonl", ".jsonl.gz", ".json"];

/// The data files of the wanted split.
fn split_files<'a>(name: &HubName, files: &'a [String]) -> Result<Vec<&'a str>> {
    let of_kind = |end: &str| -> Vec<&'a str> {
        let data = files.iter().map(String::as_str);
        data.filter(|file| file.ends_with(end) && split_of(file).is_some())
            .collect()
    };
    let data = DATA_ENDS
        .iter()
        .map(|end| of_kind(end))
        .find(|files| !files.is_empty());
    let error = |problem: String| DataError::Hub {
        name: name.to_string(),
        problem,
    };
    let data = data.ok_or_else(|| error("holds no parquet or JSON files".into()))?;
    let mut splits: Vec<&str> = data.iter().filter_map(|file| split_of(file)).collect();
    splits.sort_unstable();
    splits.dedup();
    let split = match (&name.split, splits.as_slice()) {
        (Some(split), _) => splits.iter().find(|s| **s == split.as_str()).copied(),
        (None, [only]) => Some(*only),
        (None, _) => ["test", "train", "dev"]
            .into_iter()
            .find(|s| splits.contains(s)),
    };
    let split = split.ok_or_else(|| {
        error(format!(
            "choose one of its splits as {}:SPLIT ({})",
            name.repo,
            splits.join(", ")
        ))
    })?;
    let mut wanted: Vec<&str> = data
        .into_iter()
        .filter(|file| split_of(file) == Some(split))
        .collect();
    wanted.sort_unstable();
    Ok(wanted)
}

/// The split a data file belongs to: `data/test-00000-of-00001.parquet`,
/// `test.jsonl`, `default/test/0000.parquet`.
fn split_of(file: &str) -> Option<&str> {
    let (folder, base) = file.rsplit_once('/').unwrap_or(("", file));
    let stem = DATA_ENDS.iter().find_map(|end| base.strip_suffix(end))?;
    let stem = match stem.split_once("-of-") {
        Some((start, _)) => start.rsplit_once('-').map_or(start, |(split, _)| split),
        None => stem,
    };
    let numbered = stem.bytes().all(|b| b.is_ascii_digit());
    // Not data: dataset_infos.json and the like.
    let metadata = ["dataset_infos", "dataset_info", "config"].contains(&stem);
    match folder.rsplit('/').next() {
        Some(parent) if numbered && !parent.is_empty() => Some(parent),
        _ if numbered || metadata || stem.is_empty() => None,
        _ => Some(stem),
    }
}
