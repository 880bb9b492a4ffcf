//! What trajectories are used for: files for other programs, rows for
//! trainers, statistics, comparisons.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use swegym_agent::rows::{self, Labelled, RowError};
use swegym_agent::verifier::Form;
use swegym_core::{Prediction, Trajectory};
use swegym_data::trajectory::{self, TrajectoryStats};
use swegym_grade::metrics::sign_test;

use crate::environment::file_name;
use crate::rollout::runs::Run;
use crate::{Error, tasks, verify};

/// A trajectory with what is known about it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What happened.
    pub trajectory: Trajectory,
    /// The instance; empty if nobody says.
    pub instance_id: String,
    /// Which sample of it.
    pub sample: u32,
    /// Its repository, where that is known.
    pub repo: Option<String>,
    /// Whether its patch resolves the instance.
    pub resolved: Option<bool>,
    /// Its patch.
    pub patch: Option<String>,
    /// How it ended, in a word.
    pub end: Option<String>,
    /// The run or file that it is from.
    pub source: Option<String>,
}

/// What a trajectory becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// ATIF, one a line.
    Atif,
    /// What each was imported from, one a line.
    Native,
    /// mini-swe-agent's folder: a `.traj.json` each, and `preds.json`.
    Mini,
    /// Predictions, as SWE-bench reads them.
    Predictions,
    /// A job of Harbor's.
    Harbor,
    /// Messages with tools.
    Chat,
    /// Messages of text alone.
    Text,
    /// ShareGPT's conversations.
    ShareGpt,
    /// Prompt, completion, label.
    Kto,
    /// Pairs of one instance, one resolved and one not.
    Preference,
    /// The verifier's rows.
    Verifier,
    /// Token ids with a mask.
    Tokens,
}

impl Target {
    /// Whether only resolved trajectories are of use, as in rejection
    /// sampling.
    pub fn is_policy_row(self) -> bool {
        matches!(self, Self::Chat | Self::Text | Self::ShareGpt)
    }
}

/// What came of an export.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Exported {
    /// Rows or files written.
    pub written: usize,
    /// Reason -> trajectories left out for it.
    pub left_out: BTreeMap<String, usize>,
}

/// Trajectories of runs' folders, files, or folders of files. Those of one
/// instance are numbered apart.
///
/// # Errors
/// At the first one that cannot be read.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Record>, Error> {
    let mut taken = BTreeSet::new();
    let mut records = Vec::new();
    for path in paths {
        let source = path.file_name().map(|n| n.to_string_lossy().into_owned());
        for mut record in read_one(path)? {
            record.source.clone_from(&source);
            while !taken.insert((record.instance_id.clone(), record.sample)) {
                record.sample += 1;
            }
            records.push(record);
        }
    }
    Ok(records)
}

fn read_one(path: &Path) -> Result<Vec<Record>, Error> {
    if path.join("run.json").is_file() {
        return of_run(&Run::read(path)?);
    }
    if path.join("improve.json").is_file() {
        return Err(Error::input(
            format!("{}: a loop of many runs, not one run", path.display()),
            "name one of its runs: `runs` in its summary.json lists them",
        ));
    }
    trajectory::read_trajectories(path)?
        .map(|imported| {
            let imported = imported?;
            Ok(Record {
                instance_id: imported.instance_id.clone().unwrap_or_default(),
                sample: 0,
                repo: imported.instance_id.as_deref().and_then(repo_of),
                resolved: imported.resolved,
                end: imported.exit_status.clone(),
                patch: imported.patch.clone(),
                source: None,
                trajectory: imported.trajectory,
            })
        })
        .collect()
}

/// `owner__name-12` is of `owner/name`.
fn repo_of(instance_id: &str) -> Option<String> {
    let (repo, _) = instance_id.rsplit_once('-')?;
    Some(repo.replacen("__", "/", 1))
}

/// Episodes that broke are no trajectories: nothing is learnt from them.
fn of_run(run: &Run) -> Result<Vec<Record>, Error> {
    let counted = run.entries.iter().filter(|e| e.episode.end.counts());
    counted
        .map(|entry| {
            let result = entry.result.as_ref();
            let graded = result.filter(|row| row.outcome.is_reward());
            let prediction = entry.prediction(&run.manifest.model_name_or_path)?;
            Ok(Record {
                trajectory: entry.trajectory()?,
                instance_id: entry.episode.instance_id.clone(),
                sample: entry.episode.sample,
                repo: Some(entry.episode.repo.clone()).filter(|r| !r.is_empty()),
                resolved: graded.map(|row| row.resolved),
                patch: prediction.model_patch,
                end: Some(entry.episode.end.name().to_owned()),
                source: None,
            })
        })
        .collect()
}

/// Writes trajectories as something else: a file, or for mini-swe-agent and
/// Harbor a folder. Policy rows are of resolved trajectories alone unless
/// `all`.
///
/// # Errors
/// If it cannot be written. A trajectory that cannot be such a row is left
/// out and counted.
pub fn write(
    records: &[Record],
    target: Target,
    all: bool,
    model: &str,
    out: &Path,
) -> Result<Exported, Error> {
    let mut exported = Exported::default();
    match target {
        Target::Mini => mini(records, model, out, &mut exported)?,
        Target::Harbor => harbor(records, out, &mut exported)?,
        _ => {
            let mut writer = tasks::Writer::create(out)?;
            for row in rows_of(records, target, all, model, &mut exported) {
                writer.add(&row)?;
            }
            exported.written = writer.finish()?;
        }
    }
    Ok(exported)
}

fn rows_of(
    records: &[Record],
    target: Target,
    all: bool,
    model: &str,
    exported: &mut Exported,
) -> Vec<Value> {
    let mut leave = |why: String| *exported.left_out.entry(why).or_default() += 1;
    if target == Target::Preference {
        return pairs(records, &mut leave);
    }
    let mut out = Vec::new();
    for record in records {
        let labelled = Labelled {
            trajectory: &record.trajectory,
            instance_id: &record.instance_id,
            resolved: record.resolved == Some(true),
        };
        let labels = !matches!(target, Target::Atif | Target::Native | Target::Predictions);
        if labels && record.resolved.is_none() && !all {
            leave("not graded".into());
            continue;
        }
        if target.is_policy_row() && !labelled.resolved && !all {
            leave("not resolved".into());
            continue;
        }
        let one = |row: Result<Value, RowError>| row.map(|row| vec![row]);
        let rows = match target {
            Target::Atif => Ok(vec![plain(&record.trajectory)]),
            Target::Native => match trajectory::native(&record.trajectory) {
                Ok(document) => Ok(vec![document]),
                Err(why) => {
                    leave(why);
                    continue;
                }
            },
            Target::Predictions => Ok(vec![plain(&Prediction {
                instance_id: record.instance_id.clone(),
                model_name_or_path: model.to_owned(),
                model_patch: record.patch.clone(),
            })]),
            Target::Chat => one(rows::chat(&labelled)),
            Target::Text => one(rows::text(&labelled)),
            Target::ShareGpt => one(rows::sharegpt(&labelled)),
            Target::Kto => one(rows::kto(&labelled)),
            Target::Verifier => match verify::row(record, Form::Log, None) {
                Ok((row, _)) => Ok(vec![row]),
                Err(why) => {
                    leave(why);
                    continue;
                }
            },
            Target::Tokens => rows::tokens(&labelled),
            Target::Preference | Target::Mini | Target::Harbor => unreachable!("not rows"),
        };
        match rows {
            Ok(rows) => out.extend(rows),
            Err(RowError::NoTokens(_)) => leave("no token ids".into()),
            Err(e) => leave(e.to_string()),
        }
    }
    out
}

fn plain(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("plain data")
}

/// Each resolved trajectory of an instance with one that is not, none twice.
fn pairs(records: &[Record], leave: &mut dyn FnMut(String)) -> Vec<Value> {
    let mut groups: BTreeMap<&str, (Vec<&Record>, Vec<&Record>)> = BTreeMap::new();
    for record in records {
        let group = groups.entry(&record.instance_id).or_default();
        match record.resolved {
            Some(true) => group.0.push(record),
            Some(false) => group.1.push(record),
            None => leave("not graded".into()),
        }
    }
    let mut out = Vec::new();
    for (good, bad) in groups.into_values() {
        for _ in bad.len()..good.len() {
            leave("no unresolved trajectory to pair with".into());
        }
        for _ in good.len()..bad.len() {
            leave("no resolved trajectory to pair with".into());
        }
        for (good, bad) in good.iter().zip(&bad) {
            let labelled = |record| -> Labelled<'_> {
                let record: &Record = record;
                Labelled {
                    trajectory: &record.trajectory,
                    instance_id: &record.instance_id,
                    resolved: record.resolved == Some(true),
                }
            };
            match rows::preference(&labelled(good), &labelled(bad)) {
                Ok(Some(row)) => out.push(row),
                Ok(None) => leave("the two were asked differently".into()),
                Err(e) => leave(e.to_string()),
            }
        }
    }
    out
}

/// A name for the files of a record.
fn name_of(record: &Record, index: usize) -> String {
    if record.instance_id.is_empty() {
        return format!("trajectory-{index}");
    }
    let id = file_name(&record.instance_id);
    match record.sample {
        0 => id,
        sample => format!("{id}.{sample}"),
    }
}

/// mini-swe-agent's folder. Only the first sample of an instance can be in
/// `preds.json`, which is by instance.
fn mini(records: &[Record], model: &str, out: &Path, done: &mut Exported) -> Result<(), Error> {
    let mut predictions = serde_json::Map::new();
    for (index, record) in records.iter().enumerate() {
        let name = name_of(record, index);
        let sums = record.trajectory.final_metrics.clone().unwrap_or_default();
        let status = match record.end.as_deref() {
            Some("submitted") | None => "Submitted",
            Some("turns" | "cost" | "tokens") => "LimitsExceeded",
            Some("time") => "TimeExceeded",
            Some(other) => other,
        };
        let patch = record.patch.clone().unwrap_or_default();
        let document = json!({
            "info": {
                "model_stats": {
                    "instance_cost": sums.total_cost_usd.unwrap_or_default(),
                    "api_calls": answers(&record.trajectory),
                },
                "config": {"model": {"model_name": record.trajectory.agent.model_name}},
                "exit_status": status, "submission": patch,
                "mini_version": record.trajectory.agent.version,
            },
            "messages": record.trajectory.to_chat(),
            "trajectory_format": "mini-swe-agent-1.1",
            "instance_id": record.instance_id,
        });
        let path = out.join(&name).join(format!("{name}.traj.json"));
        swegym_data::atomic::write_json(&path, &document)?;
        predictions
            .entry(record.instance_id.clone())
            .or_insert_with(|| {
                json!({"instance_id": record.instance_id, "model_name_or_path": model,
                "model_patch": patch})
            });
        done.written += 1;
    }
    Ok(swegym_data::atomic::write_json(
        &out.join("preds.json"),
        &predictions,
    )?)
}

fn answers(trajectory: &Trajectory) -> usize {
    let steps = trajectory.steps.iter();
    steps
        .filter(|s| s.source == swegym_core::StepSource::Agent)
        .count()
}

/// A job of Harbor's: a folder a trial.
fn harbor(records: &[Record], out: &Path, done: &mut Exported) -> Result<(), Error> {
    let mut trials = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let name = name_of(record, index);
        let trial = format!("{name}__{}", record.sample);
        let dir = out.join(&trial);
        let agent = &record.trajectory.agent;
        let sums = record.trajectory.final_metrics.clone().unwrap_or_default();
        let reward = record.resolved.map(|r| f64::from(u8::from(r)));
        let result = json!({
            "id": trial, "task_name": name, "trial_name": trial, "source": null,
            "trial_uri": format!("file://{}", absolute(&dir).display()),
            "agent_info": {"name": agent.name, "version": agent.version,
                "model_info": agent.model_name.as_ref().map(|m| json!({"name": m}))},
            "agent_result": {
                "n_input_tokens": sums.total_prompt_tokens,
                "n_cache_tokens": sums.total_cached_tokens,
                "n_output_tokens": sums.total_completion_tokens,
                "cost_usd": sums.total_cost_usd,
            },
            "verifier_result": reward.map(|r| json!({"rewards": {"reward": r}})),
            "exception_info": null,
        });
        let write =
            |name: &str, value: &Value| swegym_data::atomic::write_json(&dir.join(name), value);
        write("agent/trajectory.json", &plain(&record.trajectory))?;
        if let Some(reward) = reward {
            write("verifier/reward.json", &json!({"reward": reward}))?;
        }
        let patch = record.patch.clone().unwrap_or_default();
        swegym_data::atomic::write(&dir.join("artifacts/patch.diff"), patch.as_bytes())?;
        write("result.json", &result)?;
        trials.push(trial);
        done.written += 1;
    }
    let job = json!({"trials": trials});
    Ok(swegym_data::atomic::write_json(
        &out.join("result.json"),
        &job,
    )?)
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// Statistics of trajectories, as the paper's Table 8.
pub fn stats(records: &[Record]) -> TrajectoryStats {
    let mut stats = TrajectoryStats::default();
    for record in records {
        let empty = record.patch.as_ref().map(|p| p.trim().is_empty());
        stats.add(
            &record.trajectory,
            record.repo.as_deref(),
            record.resolved,
            empty,
        );
    }
    stats
}

/// Two runs, instance by instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Instances that both have graded episodes of.
    pub instances: usize,
    /// Mean share of resolved episodes over those instances, first and second
    /// run.
    pub rates: (f64, f64),
    /// Instances where the first, or the second, is better.
    pub better: (usize, usize),
    /// Two-sided p of the exact sign test over those; with one sample each
    /// this is McNemar's exact test.
    pub p: f64,
    /// Instances that differ: name, first rate, second rate.
    pub differences: Vec<(String, f64, f64)>,
}

/// Compares two runs on what they have in common.
pub fn compare(first: &Run, second: &Run) -> Comparison {
    let (a, b) = (rates(first), rates(second));
    let common: BTreeSet<&String> = a.keys().filter(|id| b.contains_key(*id)).collect();
    let mut sums = (0.0, 0.0);
    let mut better = (0, 0);
    let mut differences = Vec::new();
    for &id in &common {
        let (x, y) = (a[id], b[id]);
        sums = (sums.0 + x, sums.1 + y);
        if (x - y).abs() > 1e-12 {
            better.0 += usize::from(x > y);
            better.1 += usize::from(y > x);
            differences.push((id.clone(), x, y));
        }
    }
    let n = common.len().max(1) as f64;
    Comparison {
        instances: common.len(),
        rates: (sums.0 / n, sums.1 / n),
        better,
        p: sign_test(better.0 as u64, better.1 as u64),
        differences,
    }
}

fn rates(run: &Run) -> BTreeMap<String, f64> {
    let mut counts: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for entry in &run.entries {
        let row = entry.result.as_ref().filter(|r| r.outcome.is_reward());
        if let Some(row) = row.filter(|_| entry.episode.end.counts()) {
            let slot = counts.entry(row.instance_id.clone()).or_default();
            slot.0 += u32::from(row.resolved);
            slot.1 += 1;
        }
    }
    counts
        .into_iter()
        .map(|(id, (good, all))| (id, f64::from(good) / f64::from(all)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instances_name_says_its_repository() {
        assert_eq!(repo_of("a__b-c-12").as_deref(), Some("a/b-c"));
        assert_eq!(repo_of("plain"), None);
    }
}
