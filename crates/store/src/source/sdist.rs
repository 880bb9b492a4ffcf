//! Source distributions, by requirement.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pep440_rs::Version;
use sha2::{Digest, Sha256};

use super::registry::{Link, Registry};
use super::{LineEnds, SourceError, UnpackLimits, unpack};
use crate::error::At;

/// Endings of source distributions, the usual one first.
const ENDINGS: &[&str] = &[".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar"];

/// Largest archive that is downloaded, bytes.
const MAX_DOWNLOAD: u64 = 2 << 30;

/// `name==version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Normalised name of the project.
    pub name: String,
    /// Its version.
    pub version: Version,
}

impl FromStr for Requirement {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || SourceError::BadRequirement(text.to_owned());
        let (name, version) = text.split_once("==").ok_or_else(bad)?;
        let name = normalise(name.trim());
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(bad());
        }
        let version = version.trim_start_matches('=').trim();
        Ok(Self {
            name,
            version: version.parse().map_err(|_| bad())?,
        })
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=={}", self.name, self.version)
    }
}

/// A downloaded source distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256, 64 hex digits.
    pub sha256: String,
}

impl Archive {
    /// Unpacks into a new folder, without the archive's single top folder.
    ///
    /// # Errors
    /// As [`unpack`].
    pub fn unpack(&self, dest: &Path, line_ends: LineEnds) -> Result<(), SourceError> {
        unpack(&self.path, dest, line_ends, &UnpackLimits::default())
    }
}

/// A release of a project that has a source distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its version, normalised (PEP 440).
    pub version: String,
    /// When its source distribution was uploaded, RFC 3339, where the
    /// registry says.
    pub uploaded: Option<String>,
}

impl Registry {
    /// The final releases of a project that have a source distribution and
    /// were not withdrawn, by version.
    ///
    /// # Errors
    /// If the registry cannot be reached or does not know the project.
    pub fn releases(&self, project: &str) -> Result<Vec<Release>, SourceError> {
        let name = normalise(project);
        let mut found: BTreeMap<Version, Option<String>> = BTreeMap::new();
        for link in self.links(&name)? {
            let version = sdist_version(&link.name, &name);
            let final_one = |v: &Version| !v.any_prerelease() && !v.is_local();
            if let Some(version) = version.filter(final_one)
                && !link.yanked
            {
                found.entry(version).or_insert(link.uploaded);
            }
        }
        Ok(found
            .into_iter()
            .map(|(version, uploaded)| Release {
                version: version.to_string(),
                uploaded,
            })
            .collect())
    }

    /// Downloads a source distribution, or takes it from the cache.
    ///
    /// With `sha256` it is that archive or an error, and a cached one needs
    /// no network.
    ///
    /// # Errors
    /// If the registry cannot be reached, has no such archive, or sends
    /// another.
    pub fn sdist(
        &self,
        requirement: &Requirement,
        sha256: Option<&str>,
    ) -> Result<Archive, SourceError> {
        self.fetch(sha256, |wanted| self.choose(requirement, wanted))
    }

    /// The archive of this digest from the cache, or else the one that is
    /// chosen, which has to have it.
    pub(super) fn fetch(
        &self,
        sha256: Option<&str>,
        choose: impl FnOnce(Option<&str>) -> Result<Link, SourceError>,
    ) -> Result<Archive, SourceError> {
        let wanted = sha256.map(str::to_ascii_lowercase);
        if let Some(archive) = wanted.as_deref().and_then(|hash| self.cached(hash)) {
            return Ok(archive);
        }
        let link = choose(wanted.as_deref())?;
        let expected = wanted.or_else(|| link.sha256.clone());
        if let Some(archive) = expected.as_deref().and_then(|hash| self.cached(hash)) {
            return Ok(archive);
        }
        self.download(&link, expected.as_deref())
    }

    /// The archive's address.
    fn choose(&self, requirement: &Requirement, wanted: Option<&str>) -> Result<Link, SourceError> {
        let links = self.links(&requirement.name)?;
        let sdists: Vec<(Version, Link)> = links
            .into_iter()
            .filter_map(|link| Some((sdist_version(&link.name, &requirement.name)?, link)))
            .collect();
        let mut fitting: Vec<&Link> = sdists
            .iter()
            .filter(|(version, _)| *version == requirement.version)
            .map(|(_, link)| link)
            .collect();
        fitting.sort_by_key(|link| {
            let other = wanted.is_some() && link.sha256.as_deref() != wanted;
            (other, ENDINGS.iter().position(|e| link.name.ends_with(e)))
        });
        let Some(link) = fitting.first() else {
            return Err(SourceError::NoSdist {
                requirement: requirement.to_string(),
                index: self.index(),
                versions: newest(&sdists),
            });
        };
        match (wanted, &link.sha256) {
            (Some(expected), Some(found)) if expected != found => Err(SourceError::WrongHash {
                file: link.name.clone(),
                found: found.clone(),
                expected: expected.to_owned(),
            }),
            _ => Ok((*link).clone()),
        }
    }

    fn cached(&self, sha256: &str) -> Option<Archive> {
        let path = fs::read_dir(self.cache().join(sha256))
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .next()?;
        // A cut-off file would fail every later run.
        (hash(&path).ok()? == sha256).then(|| Archive {
            path,
            sha256: sha256.to_owned(),
        })
    }

    pub(super) fn download(
        &self,
        link: &Link,
        expected: Option<&str>,
    ) -> Result<Archive, SourceError> {
        let cache = self.cache();
        fs::create_dir_all(cache).at("create", cache)?;
        let temp = tempfile::Builder::new()
            .prefix(".download-")
            .tempdir_in(cache)
            .at("create a folder in", cache)?;
        let path = temp.path().join(&link.name);
        self.get_file(&link.url, &path, MAX_DOWNLOAD)?;
        let found = hash(&path)?;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(SourceError::WrongHash {
                file: link.name.clone(),
                found,
                expected: expected.to_owned(),
            });
        }
        let dir = cache.join(&found);
        fs::create_dir_all(&dir).at("create", &dir)?;
        let kept = dir.join(&link.name);
        fs::rename(&path, &kept).at("create", &kept)?;
        Ok(Archive {
            path: kept,
            sha256: found,
        })
    }
}

/// The name as registries compare it: lower case, runs of `-_.` as one `-`.
fn normalise(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

/// The version in an archive's name, if it is a source distribution of the
/// project. Names may hold dashes: every split is tried.
fn sdist_version(file: &str, name: &str) -> Option<Version> {
    if file.contains('/') {
        return None;
    }
    let stem = ENDINGS.iter().find_map(|e| file.strip_suffix(e))?;
    stem.match_indices('-')
        .filter(|(at, _)| normalise(&stem[..*at]) == name)
        .find_map(|(at, _)| stem[at + 1..].parse().ok())
}

fn newest(sdists: &[(Version, Link)]) -> String {
    let mut versions: Vec<&Version> = sdists.iter().map(|(version, _)| version).collect();
    versions.sort();
    versions.dedup();
    let text: Vec<String> = versions
        .iter()
        .rev()
        .take(5)
        .map(|v| v.to_string())
        .collect();
    text.join(", ")
}

/// SHA-256 of a file, 64 hex digits.
///
/// # Errors
/// If it cannot be read.
pub fn hash(path: &Path) -> Result<String, SourceError> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).at("open", path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).at("read", path)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Copies at most `limit` bytes; says whether there was more.
pub(crate) fn copy_capped(
    from: &mut dyn Read,
    to: &mut dyn Write,
    limit: u64,
) -> io::Result<(u64, bool)> {
    let copied = io::copy(&mut from.take(limit + 1), to)?;
    Ok((copied, copied > limit))
}
