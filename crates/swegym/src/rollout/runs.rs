//! The folder of a rollout run: what it is, its episodes, their results.
//!
//! ```text
//! run.json                               what the run is; two runs with the same are one
//! calls.jsonl                            the ledger
//! episodes/<instance>/<sample>/
//!     episode.json trajectory.json patch.diff [agent.log]   committed by one rename
//!     result.json test_output.txt                 the verdict, when it is there
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use swegym_agent::episode::{Limits, Seconds};
use swegym_agent::model::{Prices, Sampling, Usage};
use swegym_agent::scaffold::Dialect;
use swegym_core::{End, Prediction, Trajectory};
use swegym_data::ResultRow;

use super::command::CommandAgent;
use super::ledger::Spent;
use crate::Error;
use crate::environment::file_name;

/// What makes a run what it is. Another one needs another name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this record, 1.
    pub schema: u32,
    /// Name of the run.
    pub run_id: String,
    /// The agent, `codeact` and so on; `cmd` for a command.
    pub agent: String,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandAgent>,
    /// Digest of its prompts.
    pub prompts: String,
    /// How tools are spoken of.
    pub dialect: Dialect,
    /// The model, as the command line names it.
    pub model: String,
    /// `model_name_or_path` of the predictions.
    pub model_name_or_path: String,
    /// Digest of the demonstrations in its prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<String>,
    /// How it samples.
    pub sampling: Sampling,
    /// Limits of an episode.
    pub limits: Limits,
    /// Prices of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
    /// Version of the program that began it.
    pub swegym: String,
    /// When it began.
    pub created_at: Timestamp,
}

impl Manifest {
    /// Reads the manifest of a run.
    ///
    /// # Errors
    /// If the folder is no run, or its manifest is damaged.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("run.json");
        if !path.is_file() {
            return Err(Error::input(
                format!("{}: no rollout run", dir.display()),
                "`swegym runs list` prints what there is",
            ));
        }
        read_json(&path)
    }

    /// The agent in a word or two.
    pub fn agent_name(&self) -> String {
        match &self.command {
            Some(command) => format!("cmd: {}", command.name()),
            None => self.agent.clone(),
        }
    }

    /// What differs between two runs in more than when and by what they were
    /// made.
    fn difference(&self, other: &Self) -> Option<String> {
        let fields = |m: &Self| match serde_json::to_value(m) {
            Ok(serde_json::Value::Object(mut map)) => {
                map.remove("created_at");
                map.remove("swegym");
                map
            }
            _ => unreachable!("a struct is an object"),
        };
        let (a, b) = (fields(self), fields(other));
        let names = a.keys().chain(b.keys());
        let mut differ = names.filter(|name| a.get(*name) != b.get(*name));
        let name = differ.next()?;
        let show = |v: Option<&serde_json::Value>| v.map_or("nothing".into(), ToString::to_string);
        Some(format!(
            "{name} was {}, is {}",
            show(a.get(name)),
            show(b.get(name))
        ))
    }
}

/// One episode that was committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeRecord {
    /// Version of this record, 1.
    pub schema: u32,
    /// The instance.
    pub instance_id: String,
    /// Repository of the instance.
    pub repo: String,
    /// Which sample of it, from 0.
    pub sample: u32,
    /// Which try of the episode this is, from 1.
    pub attempt: u32,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// Whether the agent changed anything.
    pub empty_patch: bool,
    /// Why there is no patch although the agent may have changed something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_error: Option<String>,
    /// Calls of the model that were answered.
    pub turns: u32,
    /// Tokens and cost of this try.
    pub usage: Usage,
    /// Where the time went.
    pub seconds: Seconds,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// A run that is worked on. Only one process has it open at a time.
#[derive(Debug)]
pub struct OpenRun {
    dir: PathBuf,
    /// Held for the lifetime; the system frees it when we die.
    _lock: File,
}

impl OpenRun {
    /// Opens or makes a run.
    ///
    /// # Errors
    /// If another process works on it, or it is another run.
    pub fn open(dir: &Path, manifest: &Manifest) -> Result<Self, Error> {
        let io = |e| Error::io(dir, e);
        fs::create_dir_all(dir.join("episodes")).map_err(io)?;
        let lock = File::create(dir.join(".lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input(
                    format!("{}: another process is working on this run", dir.display()),
                    "wait for it, or choose another --run-id",
                ));
            }
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        let path = dir.join("run.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let known: Manifest = serde_json::from_slice(&bytes).map_err(|e| {
                    Error::input(
                        format!("{}: {e}", path.display()),
                        "choose another --run-id, or move the folder away",
                    )
                })?;
                if let Some(difference) = known.difference(manifest) {
                    return Err(Error::input(
                        format!("{} is another run: {difference}", dir.display()),
                        "choose another --run-id, or the options it was begun with",
                    ));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                swegym_data::atomic::write_json(&path, manifest)?;
            }
            Err(e) => return Err(Error::io(&path, e)),
        }
        let run = Self {
            dir: dir.to_owned(),
            _lock: lock,
        };
        run.remove_leftovers()?;
        Ok(run)
    }

    /// What a killed process was still writing.
    fn remove_leftovers(&self) -> Result<(), Error> {
        for entry in list(&self.dir)? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(TEMP) {
                let removed = if entry.is_dir() {
                    fs::remove_dir_all(&entry)
                } else {
                    fs::remove_file(&entry)
                };
                removed.map_err(|e| Error::io(&entry, e))?;
            }
        }
        Ok(())
    }

    /// Commits an episode: all of it or nothing. Replaces one that failed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn commit(
        &self,
        record: &EpisodeRecord,
        trajectory: &Trajectory,
        patch: &str,
        log: Option<&str>,
    ) -> Result<(), Error> {
        let target = episode_dir(&self.dir, &record.instance_id, record.sample);
        let io = |e| Error::io(&target, e);
        let temp = tempfile::Builder::new()
            .prefix(TEMP)
            .tempdir_in(&self.dir)
            .map_err(io)?;
        crate::make_traversable(temp.path())?;
        swegym_data::atomic::write_json(&temp.path().join("trajectory.json"), trajectory)?;
        swegym_data::atomic::write(&temp.path().join("patch.diff"), patch.as_bytes())?;
        if let Some(log) = log {
            swegym_data::atomic::write(&temp.path().join("agent.log"), log.as_bytes())?;
        }
        swegym_data::atomic::write_json(&temp.path().join("episode.json"), record)?;
        let parent = target.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(io)?;
        if target.exists() {
            // A failed try: it goes, and at no point are there two.
            let old = temp.path().with_extension("old");
            fs::rename(&target, &old).map_err(io)?;
            fs::rename(temp.keep(), &target).map_err(io)?;
            fs::remove_dir_all(&old).map_err(io)?;
        } else {
            fs::rename(temp.keep(), &target).map_err(io)?;
        }
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(io)
    }

    /// Keeps the verdict of an episode, and the output of its tests.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_result(&self, sample: u32, row: &ResultRow, log: &str) -> Result<(), Error> {
        let dir = episode_dir(&self.dir, &row.instance_id, sample);
        swegym_data::atomic::write(&dir.join("test_output.txt"), log.as_bytes())?;
        Ok(swegym_data::atomic::write_json(
            &dir.join("result.json"),
            row,
        )?)
    }
}

/// Start of the names of folders in the making.
const TEMP: &str = ".tmp-";

fn episode_dir(run: &Path, instance_id: &str, sample: u32) -> PathBuf {
    run.join("episodes")
        .join(file_name(instance_id))
        .join(sample.to_string())
}

/// An episode of a run, with its verdict if it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is.
    pub episode: EpisodeRecord,
    /// How it was graded.
    pub result: Option<ResultRow>,
}

impl Entry {
    /// Reads an episode from its folder.
    ///
    /// # Errors
    /// If a record is missing or damaged.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let result = dir.join("result.json");
        Ok(Self {
            dir: dir.to_owned(),
            episode: read_json(&dir.join("episode.json"))?,
            result: if result.is_file() {
                Some(read_json(&result)?)
            } else {
                None
            },
        })
    }

    /// What the agent did.
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn trajectory(&self) -> Result<Trajectory, Error> {
        read_json(&self.dir.join("trajectory.json"))
    }

    /// Its patch, as a prediction.
    ///
    /// # Errors
    /// If the file is missing.
    pub fn prediction(&self, model: &str) -> Result<Prediction, Error> {
        let path = self.dir.join("patch.diff");
        let patch = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Prediction {
            instance_id: self.episode.instance_id.clone(),
            model_name_or_path: model.to_owned(),
            model_patch: Some(patch),
        })
    }
}

/// A run, to be read.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// Its episodes, by instance and sample.
    pub entries: Vec<Entry>,
}

impl Run {
    /// Reads a run. Episodes that are being written are not there yet.
    ///
    /// # Errors
    /// If it is no run, or a record of it is damaged.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let manifest = Manifest::read(dir)?;
        let all = episodes(dir)?.into_iter();
        let mut entries: Vec<Entry> = all
            .map(|episode| Entry::read(&episode))
            .collect::<Result<_, _>>()?;
        entries.sort_by(|a, b| {
            let key = |e: &Entry| (e.episode.instance_id.clone(), e.episode.sample);
            key(a).cmp(&key(b))
        });
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            entries,
        })
    }

    /// What the run has spent, killed episodes too.
    ///
    /// # Errors
    /// If its ledger cannot be read.
    pub fn spent(&self) -> Result<Spent, Error> {
        Spent::read(&self.dir.join("calls.jsonl"))
    }

    /// The trajectory of an episode.
    ///
    /// # Errors
    /// If the run has none.
    pub fn trajectory(&self, instance_id: &str, sample: u32) -> Result<Trajectory, Error> {
        let found = self
            .entries
            .iter()
            .find(|e| e.episode.instance_id == instance_id && e.episode.sample == sample);
        match found {
            Some(entry) => entry.trajectory(),
            None => Err(Error::input(
                format!(
                    "{}: no episode of {instance_id}, sample {sample}",
                    self.dir.display()
                ),
                "",
            )),
        }
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::input(format!("{}: {e}", path.display()), "the file is damaged"))
}

/// Folders of the episodes of a run that were committed.
pub(super) fn episodes(run: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for instance in list(&run.join("episodes"))? {
        let samples = list(&instance)?.into_iter();
        found.extend(samples.filter(|dir| dir.join("episode.json").is_file()));
    }
    Ok(found)
}

/// Runs below a folder.
///
/// # Errors
/// If it cannot be read.
pub fn find(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let all = list(dir)?.into_iter();
    Ok(all.filter(|dir| dir.join("run.json").is_file()).collect())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(|e| Error::io(dir, e))?;
    paths.sort();
    Ok(paths)
}
