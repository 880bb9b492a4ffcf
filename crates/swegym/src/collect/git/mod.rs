//! Candidates from the history of a repository: from its commits, or from the
//! pull requests of a dump of GitHub's API. What is decided about one change
//! is `forge::pulls`; here changes are read one at a time and judged in order.
//!
//! Every change becomes one line of `raw.jsonl`, in an order that depends on
//! the inputs alone. While it grows it is called `raw.jsonl.part`: a killed
//! run counts its lines and goes on behind them.

mod commits;
#[cfg(feature = "github")]
mod live;
mod pulls;
mod rows;
mod tree;

use std::fs::File;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use swegym_core::Source;
use swegym_forge::pulls::{Mined, SplitRule, version_of};
use swegym_store::source::{Mirrors, Repo, SourceError};

use super::Raw;
use crate::dispatch::Cancel;
use crate::funnel::Funnel;
use crate::home::Home;
use crate::{Error, codebase, hash};

#[cfg(feature = "github")]
pub use live::{Download, Step, download};

/// Part of the key of a collection: other rules make other rows.
const COLLECTOR_VERSION: u32 = 1;

/// Largest difference that is kept, bytes; beyond it a change is data, or a
/// new beginning.
const MAX_DIFF: u64 = 8 << 20;

/// The dump speaks of another repository.
const OTHER_REPOSITORY: &str = "other_repository";
/// A line of the dump cannot be used.
const BROKEN_ROW: &str = "broken_row";
/// The dump had this pull request before.
const DUPLICATE: &str = "duplicate";
/// The base commit is not in the repository.
const COMMIT_MISSING: &str = "commit_missing";
/// Neither the dump nor the repository has the difference.
const DIFF_MISSING: &str = "diff_missing";
/// The difference is too large.
const TOO_LARGE: &str = "too_large";
/// The difference is not UTF-8.
const NOT_UTF8: &str = "not_utf8";

/// A reason of ours, and its line of detail.
type Own = (&'static str, String);

/// What to collect, and where to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The repository: a folder, an address, or `owner/name`.
    pub place: Place,
    /// What it is called, where it does not say so itself.
    pub repo: Option<String>,
    /// Dump of pull requests; without it, commits are the candidates.
    pub pulls: Option<PathBuf>,
    /// Dump of issues; else `issues.jsonl` beside the pull requests.
    pub issues: Option<PathBuf>,
    /// Which changes.
    pub range: Range,
    /// How changes are split into solution and tests.
    pub rule: SplitRule,
    /// Folder of `raw.jsonl` and `candidates.jsonl`.
    pub dir: PathBuf,
}

/// Which changes to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// Most changes: the newest commits, or the first lines of the dump.
    pub limit: Option<usize>,
}

impl Range {
    fn has(&self, moment: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= moment)
            && self.until.is_none_or(|until| moment < until)
    }

    fn is_open(&self) -> bool {
        self.since.is_none() && self.until.is_none()
    }
}

/// Reads `YYYY-MM-DD` (UTC) or a moment of RFC 3339. With `whole_day` a day is
/// its end, otherwise its beginning.
///
/// # Errors
/// In a line, what was expected.
pub fn moment(text: &str, whole_day: bool) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let expected = |e: jiff::Error| format!("expected YYYY-MM-DD or RFC 3339: {e}");
    let mut day: Date = text.parse().map_err(expected)?;
    if whole_day {
        day = day.tomorrow().map_err(expected)?;
    }
    let start = day.to_zoned(TimeZone::UTC).map_err(expected)?;
    Ok(start.timestamp())
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder, bare or with a work tree.
    Path(PathBuf),
    /// An address to clone from.
    Url(String),
    /// `owner/name`, by the mirrors of the user's settings.
    Name(String),
}

impl Place {
    /// Tells them apart: addresses have a scheme or a host, folders exist.
    ///
    /// # Errors
    /// If it is none of the three.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let path = Path::new(text);
        let remote = text.contains("://")
            || text.split_once(':').is_some_and(|(host, _)| {
                host.contains('@') && !host.contains('/') && !path.exists()
            });
        if remote {
            return Ok(Self::Url(text.to_owned()));
        }
        if path.exists() {
            let full = path.canonicalize().map_err(|e| Error::io(path, e))?;
            return Ok(Self::Path(full));
        }
        match text.split_once('/') {
            Some((owner, name)) if plain(owner) && plain(name) => Ok(Self::Name(text.to_owned())),
            _ => Err(Error::input(
                format!("{text}: no such folder"),
                "name a folder, an address, or OWNER/NAME of a mirror",
            )),
        }
    }

    /// `owner/name`, as far as the place itself says.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name.clone()),
            Self::Url(url) => last_two(url),
            Self::Path(path) => path.ancestors().take(2).find_map(|folder| {
                let stem = folder.file_name()?.to_str()?.trim_end_matches(".git");
                let (owner, name) = stem.split_once('+').or_else(|| stem.split_once("__"))?;
                (plain(owner) && plain(name)).then(|| format!("{owner}/{name}"))
            }),
        }
    }

    fn source(&self, commit: &str) -> Source {
        let (url, path) = match self {
            Self::Path(path) => (None, Some(path.clone())),
            Self::Url(url) => (Some(url.clone()), None),
            Self::Name(_) => (None, None),
        };
        Source::Git {
            url,
            path,
            commit: commit.to_owned(),
        }
    }
}

/// Whether a text can be an owner or a name.
fn plain(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
}

/// `https://host/owner/name.git` and `git@host:owner/name` -> `owner/name`.
fn last_two(url: &str) -> Option<String> {
    let path = match url.split_once("://") {
        Some(("file", _)) => return None,
        Some((_, rest)) => rest.split_once('/')?.1,
        None => url.split_once(':')?.1,
    };
    let path = path.trim_end_matches('/').trim_end_matches(".git");
    let mut parts = path.rsplit('/').filter(|part| !part.is_empty());
    let (name, owner) = (parts.next()?, parts.next()?);
    Some(format!("{owner}/{name}"))
}

/// What happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// It begins; so many rows are there from earlier.
    Begin {
        /// Changes in all, where that is known.
        total: Option<usize>,
        /// Of those, already done.
        resumed: usize,
    },
    /// A line of a dump that cannot be used.
    Broken(&'a str),
    /// A change is judged.
    Done(&'a Raw),
}

/// The end of a collection.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// `owner/name`.
    pub repo: String,
    /// Changes, candidates, and why the others fell out.
    pub funnel: Funnel,
    /// Whether every change has a row.
    pub complete: bool,
    /// Lines of dumps that could not be used.
    pub broken: usize,
    /// All changes.
    pub raw: PathBuf,
    /// Those that did not fall out.
    pub candidates: PathBuf,
}

/// What a collection in a folder is of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    key: String,
    /// The commit whose history is read: a fetch in between adds nothing.
    tip: String,
}

/// Collects. A run that was killed, or stopped by `cancel`, goes on where it
/// was; the files depend on the inputs alone.
///
/// # Errors
/// If there is no repository, no history or no dump, if the dump is of another
/// repository, or if no line of it can be used.
pub fn run(
    plan: &Plan,
    home: &Home,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    if let (Some(since), Some(until)) = (plan.range.since, plan.range.until)
        && since >= until
    {
        return Err(Error::input(
            format!("--since: {since} is not before --until"),
            "",
        ));
    }
    let mirrors = codebase::mirrors_from_env(home);
    let issues = issues_of(plan);
    let key = key(plan, issues.as_deref())?;
    let state_path = plan.dir.join("collect.json");
    let earlier: Option<State> = std::fs::read(&state_path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .filter(|state: &State| state.key == key);
    let known = earlier.as_ref().map(|state| state.tip.as_str());
    let repo = open(&mirrors, &plan.place, known)?;
    let tip = match earlier {
        Some(state) if repo.find_commit(&state.tip).map_err(of_source)?.is_some() => state.tip,
        _ => head(&repo)?,
    };
    let state = State { key, tip };
    let mut rows = rows::Rows::open(&plan.dir, &state_path, &state)?;
    let mut miner = Miner {
        plan,
        repo: &repo,
        name: plan.repo.clone().or_else(|| name_of(&plan.place, &repo)),
        cancel,
        broken: 0,
    };
    let complete = rows.is_complete()
        || match &plan.pulls {
            None => miner.commits(&state.tip, &mut rows, on_event)?,
            Some(pulls) => miner.pulls(pulls, issues.as_deref(), &mut rows, on_event)?,
        };
    let mut summary = rows.finish(complete, miner.or_local())?;
    summary.broken += miner.broken;
    Ok(summary)
}

/// Everything that the miners of both kinds share.
struct Miner<'a> {
    plan: &'a Plan,
    repo: &'a Repo,
    /// `owner/name`, if anything says so.
    name: Option<String>,
    cancel: &'a Cancel,
    /// Lines of the issues that cannot be used.
    broken: usize,
}

impl Miner<'_> {
    /// A name for a repository that has none.
    fn or_local(&self) -> String {
        let folder = || {
            let path = Path::new(self.repo.name());
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("local/{}", name.trim_end_matches(".git"))
        };
        self.name.clone().unwrap_or_else(folder)
    }

    /// The row of a change. `own` is a reason of ours, which counts where the
    /// rules find none, or none but that there is no difference.
    fn row(&self, mined: Mined, own: Option<Own>) -> Raw {
        let rules = mined.reason.map(|reason| reason.name().to_owned());
        let (reason, detail) = match (rules, own) {
            (None, Some((reason, detail))) => (Some(reason.to_owned()), detail),
            (Some(rule), Some((reason, detail))) if rule == "no_diff" => {
                (Some(reason.to_owned()), detail)
            }
            (rules, _) => (rules, String::new()),
        };
        let mut instance = mined.candidate.into_instance();
        if reason.is_none() {
            instance.version = tree::GitTree::open(self.repo, &instance.base_commit)
                .ok()
                .and_then(|tree| version_of(&tree));
            instance.source = Some(self.plan.place.source(&instance.base_commit));
        }
        Raw {
            instance_id: instance.instance_id.clone(),
            instance: Some(instance),
            reason,
            detail,
        }
    }
}

/// RFC 3339, UTC.
fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| String::new(), |moment| moment.to_string())
}

fn issues_of(plan: &Plan) -> Option<PathBuf> {
    let beside = || {
        let path = plan.pulls.as_ref()?.with_file_name("issues.jsonl");
        path.is_file().then_some(path)
    };
    plan.issues.clone().or_else(beside)
}

/// Everything that the rows depend on, but for the repository.
fn key(plan: &Plan, issues: Option<&Path>) -> Result<String, Error> {
    let digest = |path: Option<&Path>| -> Result<Option<String>, Error> {
        let Some(path) = path else {
            return Ok(None);
        };
        let mut hasher = blake3::Hasher::new();
        let mut file = open_dump(path)?;
        std::io::copy(&mut file, &mut hasher).map_err(|e| Error::io(path, e))?;
        Ok(Some(hasher.finalize().to_hex().to_string()))
    };
    let parts = (
        COLLECTOR_VERSION,
        plan.place.source(""),
        &plan.place.name(),
        &plan.repo,
        digest(plan.pulls.as_deref())?,
        digest(issues)?,
        &plan.range,
        plan.rule == SplitRule::Reference,
    );
    Ok(hash(&serde_json::to_vec(&parts).map_err(Error::bug)?)[..32].to_owned())
}

fn open_dump(path: &Path) -> Result<File, Error> {
    let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(std::io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    });
    opened.map_err(|e| {
        let hint = "a dump is a file with one JSON object of GitHub's API a line";
        Error::input(format!("{}: {e}", path.display()), hint)
    })
}

fn open(mirrors: &Mirrors, place: &Place, known: Option<&str>) -> Result<Repo, Error> {
    let opened = match place {
        Place::Path(path) => mirrors.open_path(path),
        Place::Url(url) => mirrors.open_url(url, known),
        Place::Name(name) => mirrors.open_name(name, known),
    };
    opened.map_err(|e| match (e, place) {
        (e @ SourceError::NotRepository(_), _) => {
            Error::input(e.to_string(), "name a clone, bare or with its work tree")
        }
        (e @ SourceError::NoHistory(_), _) => {
            Error::input(e.to_string(), "candidates are made of commits")
        }
        (e @ SourceError::NoMirror { .. }, _) => Error::input(
            e.to_string(),
            "name folders with git mirrors in SWEGYM_MIRRORS, or addresses in SWEGYM_GIT_URLS",
        ),
        (SourceError::Git { message, .. }, Place::Url(url)) => Error::setup(
            format!("{url}: {message}"),
            "is the address right, and can it be reached from here?",
        ),
        (e, _) => of_source(e),
    })
}

fn head(repo: &Repo) -> Result<String, Error> {
    repo.find_commit("HEAD").map_err(of_source)?.ok_or_else(|| {
        Error::input(
            format!("{}: HEAD names no commit", repo.name()),
            "`git symbolic-ref HEAD refs/heads/NAME` sets its branch",
        )
    })
}

/// `owner/name` of where a folder was cloned from, or else of the place.
fn name_of(place: &Place, repo: &Repo) -> Option<String> {
    let origin = match place {
        Place::Path(_) => repo.origin().and_then(|url| last_two(&url)),
        Place::Url(_) | Place::Name(_) => None,
    };
    origin.or_else(|| place.name())
}

fn of_source(error: SourceError) -> Error {
    Error::setup(error.to_string(), "")
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        of_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_what_they_are() {
        let url = |text: &str| Place::Url(text.to_owned());
        for text in [
            "https://host/a/b.git",
            "git@host.example:a/b",
            "file:///x/y",
        ] {
            assert_eq!(Place::parse(text).unwrap(), url(text));
        }
        assert_eq!(
            Place::parse("a/b-c.d").unwrap(),
            Place::Name("a/b-c.d".into())
        );
        for text in ["nowhere", "/not/there", "../a/b", "a/b/c", "a/"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
        assert!(matches!(Place::parse("/").unwrap(), Place::Path(_)));
        let name = |place: Place| place.name().unwrap_or_default();
        assert_eq!(name(url("https://user@host/a/b.git/")), "a/b");
        assert_eq!(name(url("git@host.example:a/b.git")), "a/b");
        assert_eq!(name(url("file:///x/y")), "");
        for (path, expected) in [
            ("/m/a+b/repo", "a/b"),
            ("/m/a__b.git", "a/b"),
            ("/m/c++/repo", ""),
            ("/m/b", ""),
        ] {
            assert_eq!(name(Place::Path(path.into())), expected, "{path}");
        }
    }

    #[test]
    fn days_are_whole() {
        let text = |text, whole| moment(text, whole).map(|m| m.to_string());
        assert_eq!(text("2024-02-29", false).unwrap(), "2024-02-29T00:00:00Z");
        assert_eq!(text("2024-02-29", true).unwrap(), "2024-03-01T00:00:00Z");
        let moment = "2024-02-29T12:00:00+02:00";
        assert_eq!(text(moment, true).unwrap(), "2024-02-29T10:00:00Z");
        assert!(
            text("2023-02-29", false)
                .unwrap_err()
                .contains("YYYY-MM-DD")
        );
    }
}
