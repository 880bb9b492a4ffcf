//! Trajectories of other agents, as ATIF and back without loss.
//!
//! What has a place in ATIF is put there; what is left of the native document
//! is kept under `extra.native` of the trajectory or of the step that it is
//! about. See docs/design/trajectories.md.

mod chat;
mod events;
mod moatless;
mod openhands;
mod stats;
mod swe_agent;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swegym_core::Trajectory;

use crate::dataset::list;
use crate::error::{DataError, Place, Result};
use crate::json::Items;

pub use stats::{TrajectoryStats, wilson};

/// Where a native document's rest is kept.
pub(crate) const NATIVE: &str = "native";

/// Formats of trajectories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrajectoryFormat {
    /// ATIF itself.
    Atif,
    /// mini-swe-agent's `.traj.json`, and the list of messages of its first
    /// version.
    MiniSweAgent,
    /// SWE-agent's `.traj`.
    SweAgent,
    /// A row of SWE-Gym's OpenHands trajectories.
    OpenHandsRow,
    /// A file of OpenHands' `llm_completions`.
    OpenHandsCompletion,
    /// A row of OpenHands' `output.jsonl`, V0 or V1.
    #[serde(rename = "openhands-output")]
    OpenHandsOutput,
    /// A row of R2E-Gym's trajectories.
    R2e,
    /// Moatless with transitions.
    Moatless,
    /// Moatless with steps.
    MoatlessSteps,
}

/// A trajectory that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// What happened.
    pub trajectory: Trajectory,
    /// The instance, where the document names it.
    pub instance_id: Option<String>,
    /// Whether its patch resolves the instance, where that is said.
    pub resolved: Option<bool>,
    /// Its patch, where there is one.
    pub patch: Option<String>,
    /// How it ended, in the agent's own word.
    pub exit_status: Option<String>,
    /// What it was read from.
    pub format: TrajectoryFormat,
}

impl Imported {
    /// Whether the agent handed in nothing; unknown where the document does
    /// not hold the patch.
    pub fn empty_patch(&self) -> Option<bool> {
        let patch = self.patch.as_ref()?;
        Some(patch.trim().is_empty())
    }

    /// The native document, as it was read.
    ///
    /// # Errors
    /// If the trajectory was changed since.
    pub fn to_native(&self) -> std::result::Result<Value, String> {
        native(&self.trajectory)
    }
}

/// The native document of a trajectory that was imported; a trajectory that
/// was not is its own.
///
/// # Errors
/// If it was changed since.
pub fn native(trajectory: &Trajectory) -> std::result::Result<Value, String> {
    let rest = trajectory.extra.as_ref().and_then(|e| e.get(NATIVE));
    let Some(rest) = rest.and_then(Value::as_object) else {
        return serde_json::to_value(trajectory).map_err(|e| e.to_string());
    };
    let format = rest.get("format").cloned().unwrap_or_default();
    let format: TrajectoryFormat =
        serde_json::from_value(format).map_err(|e| format!("extra.native.format: {e}"))?;
    let rest = rest.get("rest").and_then(Value::as_object);
    let rest = rest.cloned().unwrap_or_default();
    match format {
        TrajectoryFormat::Atif => serde_json::to_value(trajectory).map_err(|e| e.to_string()),
        TrajectoryFormat::MiniSweAgent => Ok(chat::mini_back(trajectory, rest)),
        TrajectoryFormat::SweAgent => swe_agent::back(trajectory, rest),
        TrajectoryFormat::OpenHandsRow => Ok(openhands::row_back(trajectory, rest)),
        TrajectoryFormat::OpenHandsCompletion => Ok(openhands::completion_back(trajectory, rest)),
        TrajectoryFormat::OpenHandsOutput => events::openhands_back(trajectory, rest),
        TrajectoryFormat::R2e => Ok(events::r2e_back(trajectory, rest)),
        TrajectoryFormat::Moatless => moatless::back(trajectory, rest),
        TrajectoryFormat::MoatlessSteps => moatless::steps_back(trajectory, rest),
    }
}

/// Reads one native document.
///
/// # Errors
/// What is wrong with it.
pub fn import(document: Value) -> std::result::Result<Imported, String> {
    let Value::Object(object) = document else {
        return match document {
            Value::Array(messages) => chat::mini(messages, Map::new(), true),
            _ => Err("neither an object nor a list of messages".into()),
        };
    };
    let has = |name: &str| object.get(name).is_some_and(|v| !v.is_null());
    if has("schema_version") && has("steps") && has("agent") {
        return atif(object);
    }
    if has("trajectory_steps") {
        return events::read_r2e(object);
    }
    if has("history") && (has("test_result") || has("instance")) && !has("trajectory") {
        return events::read_openhands(object);
    }
    if has("transitions") && has("initial_message") {
        return moatless::read(object);
    }
    if has("steps") && has("input") && has("info") {
        return moatless::read_steps(object);
    }
    if has("history") && has("trajectory") {
        return swe_agent::read(object);
    }
    if has("messages") && has("response") {
        return openhands::read_completion(object);
    }
    if has("messages") && (has("trajectory_format") || has("info")) {
        let mut object = object;
        let messages = chat::take_list(&mut object, "messages")?;
        return chat::mini(messages, object, false);
    }
    if has("messages") && (has("test_result") || has("run_id")) {
        return openhands::read_row(object);
    }
    Err(format!(
        "no trajectory of a known format; its fields are {}",
        object.keys().cloned().collect::<Vec<_>>().join(", ")
    ))
}

fn atif(object: Map<String, Value>) -> std::result::Result<Imported, String> {
    let trajectory: Trajectory =
        serde_json::from_value(Value::Object(object)).map_err(|e| e.to_string())?;
    trajectory.check().map_err(|e| e.to_string())?;
    if let Some(rest) = trajectory.extra.as_ref().and_then(|e| e.get(NATIVE))
        && rest.get("format").is_some()
        && let Ok(document) = native(&trajectory)
        && let Ok(imported) = import(document)
    {
        return Ok(imported);
    }
    let note = |name: &str| trajectory.extra.as_ref().and_then(|e| e.get(name));
    let text = |name: &str| note(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Imported {
        instance_id: text("instance_id"),
        resolved: note("resolved").and_then(Value::as_bool),
        patch: text("patch"),
        exit_status: note("end")
            .and_then(|end| end.get("end")?.as_str())
            .map(str::to_owned),
        format: TrajectoryFormat::Atif,
        trajectory,
    })
}

/// Puts the rest of a native document where it can be found again.
pub(crate) fn keep(
    trajectory: &mut Trajectory,
    format: TrajectoryFormat,
    rest: Map<String, Value>,
) {
    let format = serde_json::to_value(format).expect("a word");
    let kept = Map::from_iter([
        ("format".to_owned(), format),
        ("rest".to_owned(), Value::Object(rest)),
    ]);
    trajectory.note(NATIVE, Value::Object(kept));
}

/// Trajectories of a file (JSON, JSON lines, gzip) or of the files below a
/// folder, one at a time. Rows that wrap a document in `raw` beside their
/// labels are unwrapped.
///
/// # Errors
/// If there is nothing to read.
pub fn read_trajectories(path: &Path) -> Result<Trajectories> {
    let mut files = Vec::new();
    if path.is_dir() {
        collect(path, &mut files)?;
        if files.is_empty() {
            return Err(DataError::format(
                path,
                "no trajectory below this folder: looked for *.traj, *.traj.json, \
                 trajectory.json and *.jsonl",
            ));
        }
    } else {
        files.push(path.to_owned());
    }
    files.reverse();
    Ok(Trajectories { files, open: None })
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in list(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            collect(&path, files)?;
        } else if name.ends_with(".traj")
            || name.ends_with(".traj.json")
            || name == "trajectory.json"
            || name.ends_with(".jsonl")
            || name.ends_with(".jsonl.gz")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// An iterator over trajectories.
pub struct Trajectories {
    /// Files that are yet to be read, the next one last.
    files: Vec<PathBuf>,
    open: Option<Items>,
}

impl Iterator for Trajectories {
    type Item = Result<Imported>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(items) = &mut self.open else {
                let path = self.files.pop()?;
                match open(&path) {
                    Ok(items) => self.open = Some(items),
                    Err(e) => return Some(Err(e)),
                }
                continue;
            };
            match items.next() {
                Some(Ok(item)) => {
                    let imported = unwrap(item.value, &item.at);
                    return Some(imported.map(|imported| labelled(imported, &item.at.path)));
                }
                Some(Err(e)) => return Some(Err(e)),
                None => self.open = None,
            }
        }
    }
}

/// A list of messages is one document, not many.
fn open(path: &Path) -> Result<Items> {
    Items::open(path, |_| false)
}

/// A trial of a Harbor job has its task and reward in a file beside.
fn labelled(mut imported: Imported, path: &Path) -> Imported {
    let agent = path.parent().filter(|dir| dir.ends_with("agent"));
    let result = agent
        .and_then(Path::parent)
        .map(|dir| dir.join("result.json"));
    let result: Option<Value> = result
        .and_then(|path| std::fs::read(path).ok())
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(result) = result else {
        return imported;
    };
    if let Some(task) = result.get("task_name").and_then(Value::as_str) {
        imported.instance_id.get_or_insert_with(|| task.to_owned());
    }
    let reward = result.pointer("/verifier_result/rewards/reward");
    if let Some(reward) = reward.and_then(Value::as_f64) {
        imported.resolved = Some(reward >= 1.0);
    }
    if let Some(kind) = result.pointer("/exception_info/exception_type") {
        imported.exit_status = kind.as_str().map(str::to_owned);
    }
    let patch = agent
        .and_then(Path::parent)
        .map(|dir| dir.join("artifacts/patch.diff"));
    if let Some(patch) = patch.and_then(|path| std::fs::read_to_string(path).ok()) {
        imported.patch.get_or_insert(patch);
    }
    imported
}

fn unwrap(value: Value, at: &Place) -> Result<Imported> {
    let wrapped = value.get("raw").is_some() && value.get("source").is_some();
    let wrong = |problem: String| DataError::Json {
        at: at.clone(),
        problem,
    };
    if !wrapped {
        return import(value).map_err(wrong);
    }
    let Value::Object(mut row) = value else {
        unreachable!("it has a field")
    };
    let document = row.remove("raw").unwrap_or_default();
    let mut imported = import(document).map_err(wrong)?;
    if let Some(id) = row.get("instance_id").and_then(Value::as_str) {
        imported.instance_id = Some(id.to_owned());
    }
    if let Some(resolved) = row.get("resolved").and_then(Value::as_bool) {
        imported.resolved = Some(resolved);
    }
    Ok(imported)
}
