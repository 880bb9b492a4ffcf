//! Which attempts are learnt from: rejection sampling for a policy, balanced
//! sets for a verifier (SWE-GYM.md sections 3, 4, 6). What is left out is
//! counted with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use swegym_agent::rows::{self, Labelled, RowError};
use swegym_agent::verifier::Form;
use swegym_core::StepSource;
use swegym_learn::train::document;

use crate::export::{self, Record};
use crate::verify::{self, Length};
use crate::{Error, hash};

/// A part of the attempts, split so that an instance, or a repository, is
/// wholly in one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Whether repositories are kept together, or only instances.
    pub by_repository: bool,
    /// Share of the names that are in the first part.
    pub share: f64,
    /// Seed of the draw.
    pub seed: u64,
    /// Whether this is the first part, to train on, or the rest.
    pub first: bool,
}

impl Part {
    /// Keeps this part of the attempts.
    pub fn take(&self, records: Vec<Record>) -> Vec<Record> {
        let name = |r: &Record| match (self.by_repository, &r.repo) {
            (true, Some(repo)) => repo.clone(),
            _ => r.instance_id.clone(),
        };
        // The first so many of the names in an order drawn once, so that the
        // share is met as nearly as it can be.
        let names: BTreeSet<String> = records.iter().map(name).collect();
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_by_cached_key(|n| hash(format!("{}:{n}", self.seed).as_bytes()));
        let count = (names.len() as f64 * self.share).round() as usize;
        let first: BTreeSet<String> = names.into_iter().take(count).collect();
        let keeps = |r: &Record| first.contains(&name(r)) == self.first;
        records.into_iter().filter(keeps).collect()
    }
}

/// What rows are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// Conversations that resolved their issue.
    Sft,
    /// Attempts of both kinds, to be judged.
    Verifier,
    /// Pairs of one instance.
    Pairs,
}

/// How attempts are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Most attempts of an instance, of each label for a verifier; those with
    /// the fewest calls first.
    pub cap: Option<usize>,
    /// Unresolved attempts of a verifier for each resolved one.
    pub ratio: f64,
    /// Whether they are drawn from all runs together, or run by run.
    pub pooled: bool,
    /// Tokens of a row at most; longer rows are left out, or for a verifier
    /// shortened.
    pub length: Option<usize>,
    /// Tokens of all rows at most.
    pub budget: Option<usize>,
    /// Whether messages keep their tool calls, instead of being text.
    pub tools: bool,
    /// What a verifier is shown.
    pub form: Form,
    /// Seed of all draws.
    pub seed: u64,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            cap: None,
            ratio: 1.0,
            pooled: false,
            length: None,
            budget: None,
            tools: false,
            form: Form::Log,
            seed: 42,
        }
    }
}

/// What became of the attempts; `report.json` beside the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Attempts that were read.
    pub attempts: usize,
    /// Rows written.
    pub rows: usize,
    /// Of those, resolved.
    pub resolved: usize,
    /// Instances that they are of.
    pub instances: usize,
    /// Rows that were shortened.
    pub shortened: usize,
    /// Tokens, where a tokenizer counted.
    pub tokens: Option<usize>,
    /// Why attempts were left out.
    pub left_out: BTreeMap<String, usize>,
}

/// Rows with where each comes from, and what was left out.
#[derive(Debug, Default)]
pub struct Curated {
    /// Rows, in the order to be written.
    pub rows: Vec<Value>,
    /// What became of the attempts.
    pub report: Report,
}

impl Report {
    fn leave(&mut self, why: &str, count: usize) {
        if count > 0 {
            *self.left_out.entry(why.to_owned()).or_default() += count;
        }
    }
}

/// Calls of the model in an attempt.
pub fn calls(record: &Record) -> usize {
    let own = |s: &&swegym_core::AtifStep| {
        s.source == StepSource::Agent && s.is_copied_context != Some(true)
    };
    record.trajectory.steps.iter().filter(own).count()
}

/// What the model said in an attempt: two with the same are one.
fn said(record: &Record) -> String {
    let steps = record.trajectory.steps.iter();
    let own = steps.filter(|s| s.source == StepSource::Agent);
    let parts: Vec<Value> = own
        .map(|s| {
            serde_json::json!([
                s.message,
                s.tool_calls
                    .iter()
                    .flatten()
                    .map(|c| (&c.function_name, &c.arguments))
                    .collect::<Vec<_>>()
            ])
        })
        .collect();
    hash(serde_json::to_string(&parts).unwrap_or_default().as_bytes())
}

/// Makes rows of attempts. `groups` are the attempts by where they come from,
/// such as runs.
///
/// # Errors
/// If the tokenizer fails.
pub fn curate(
    groups: &[(String, Vec<Record>)],
    kind: Rows,
    choice: &Choice,
    tokenizer: Option<&swegym_learn::model::Model>,
) -> Result<Curated, Error> {
    let mut report = Report {
        attempts: groups.iter().map(|g| g.1.len()).sum(),
        ..Report::default()
    };
    let mut chosen: Vec<(&str, &Record)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (group, records) in groups {
        for record in records {
            if record.resolved.is_none() {
                report.leave("not graded", 1);
            } else if kind == Rows::Sft && record.resolved != Some(true) {
                report.leave("not resolved", 1);
            } else if !seen.insert((record.instance_id.clone(), said(record))) {
                report.leave("says the same as another attempt", 1);
            } else {
                chosen.push((group, record));
            }
        }
    }
    cap(&mut chosen, choice, &mut report);
    if kind == Rows::Pairs {
        return Ok(pairs(&chosen, report));
    }
    if kind == Rows::Verifier {
        balance(&mut chosen, choice, &mut report);
    }
    chosen.sort_by_cached_key(|(_, r)| draw(r, choice.seed));
    write_rows(&chosen, kind, choice, tokenizer, report)
}

/// The place of an attempt in an order that a seed draws.
fn draw(record: &Record, seed: u64) -> String {
    hash(format!("{seed}:{}:{}", record.instance_id, record.sample).as_bytes())
}

/// At most so many attempts of an instance and label, shortest first.
fn cap(chosen: &mut Vec<(&str, &Record)>, choice: &Choice, report: &mut Report) {
    let Some(most) = choice.cap else { return };
    chosen.sort_by_key(|(_, r)| (calls(r), r.instance_id.clone(), r.sample));
    let before = chosen.len();
    let mut counts: BTreeMap<(&str, Option<bool>), usize> = BTreeMap::new();
    chosen.retain(|(_, r)| {
        let count = counts.entry((&r.instance_id, r.resolved)).or_default();
        *count += 1;
        *count <= most
    });
    report.leave("more of its instance than the cap", before - chosen.len());
}

/// As many unresolved attempts as the ratio says, drawn from all or group by
/// group.
fn balance(chosen: &mut Vec<(&str, &Record)>, choice: &Choice, report: &mut Report) {
    let group_of = |group: &str| {
        if choice.pooled {
            String::new()
        } else {
            group.to_owned()
        }
    };
    let mut room: BTreeMap<String, usize> = BTreeMap::new();
    for (group, record) in chosen.iter() {
        let count = room.entry(group_of(group)).or_default();
        *count += usize::from(record.resolved == Some(true));
    }
    for count in room.values_mut() {
        *count = (*count as f64 * choice.ratio).floor() as usize;
    }
    chosen.sort_by_cached_key(|(_, r)| draw(r, choice.seed ^ 1));
    let before = chosen.len();
    chosen.retain(|(group, record)| {
        if record.resolved == Some(true) {
            return true;
        }
        let left = room
            .get_mut(&group_of(group))
            .expect("every group is there");
        let keeps = *left > 0;
        *left = left.saturating_sub(1);
        keeps
    });
    report.leave("unresolved beyond the ratio", before - chosen.len());
}

fn pairs(chosen: &[(&str, &Record)], mut report: Report) -> Curated {
    let mut by_instance: BTreeMap<&str, [Vec<&Record>; 2]> = BTreeMap::new();
    for (_, record) in chosen {
        let slot = by_instance.entry(&record.instance_id).or_default();
        slot[usize::from(record.resolved == Some(true))].push(record);
    }
    let mut rows = Vec::new();
    for [bad, good] in by_instance.into_values() {
        for _ in good.len().min(bad.len())..good.len().max(bad.len()) {
            report.leave("no attempt with the other label to pair with", 1);
        }
        for (good, bad) in good.iter().zip(&bad) {
            match rows::preference(&labelled(good), &labelled(bad)) {
                Ok(Some(row)) => rows.push(traced(row, good)),
                Ok(None) => report.leave("the two were asked differently", 2),
                Err(e) => report.leave(&e.to_string(), 2),
            }
        }
    }
    count(&rows, &mut report);
    Curated { rows, report }
}

/// An attempt as rows are made of.
pub fn labelled(record: &Record) -> Labelled<'_> {
    Labelled {
        trajectory: &record.trajectory,
        instance_id: &record.instance_id,
        resolved: record.resolved == Some(true),
    }
}

/// A row with the episode that it comes from.
fn traced(mut row: Value, record: &Record) -> Value {
    row["instance_id"] = record.instance_id.as_str().into();
    row["sample"] = record.sample.into();
    if let Some(source) = &record.source {
        row["source"] = source.as_str().into();
    }
    row
}

fn count(rows: &[Value], report: &mut Report) {
    report.rows = rows.len();
    let instances = rows.iter().filter_map(|r| r["instance_id"].as_str());
    report.instances = instances.collect::<BTreeSet<_>>().len();
    report.resolved = rows.iter().filter(|r| r["resolved"] == true).count();
}

fn write_rows(
    chosen: &[(&str, &Record)],
    kind: Rows,
    choice: &Choice,
    tokenizer: Option<&swegym_learn::model::Model>,
    mut report: Report,
) -> Result<Curated, Error> {
    let mut rows = Vec::new();
    let mut total = 0;
    for (_, record) in chosen {
        let made: Result<Value, String> = match kind {
            Rows::Verifier => {
                let length = tokenizer.zip(choice.length);
                let length = length.map(|(model, tokens)| Length { model, tokens });
                verify::row(record, choice.form, length).map(|(row, shortened)| {
                    report.shortened += usize::from(shortened);
                    row
                })
            }
            _ => {
                let row = match choice.tools {
                    true => rows::chat(&labelled(record)),
                    false => rows::text(&labelled(record)),
                };
                row.map_err(|e: RowError| e.to_string())
            }
        };
        let row = match made {
            Ok(row) => traced(row, record),
            Err(why) => {
                report.leave(&why, 1);
                continue;
            }
        };
        if let Some(model) = tokenizer {
            let name = format!("{} {}", record.instance_id, record.sample);
            let tokens = match document(model, &row, &name) {
                Ok(document) => document.tokens.len(),
                Err(swegym_learn::LearnError::Row { problem, .. }) => {
                    report.leave(&problem, 1);
                    continue;
                }
                Err(e) => return Err(crate::train::learn(e)),
            };
            if choice.length.is_some_and(|most| tokens > most) {
                report.leave("longer than a row may be", 1);
                continue;
            }
            if choice.budget.is_some_and(|most| total + tokens > most) {
                report.leave("beyond the token budget", 1);
                continue;
            }
            total += tokens;
        }
        rows.push(row);
    }
    report.tokens = tokenizer.map(|_| total);
    count(&rows, &mut report);
    Ok(Curated { rows, report })
}

/// Attempts of runs and files, each a group.
///
/// # Errors
/// If one cannot be read.
pub fn read_groups(
    paths: &[PathBuf],
    part: Option<&Part>,
) -> Result<Vec<(String, Vec<Record>)>, Error> {
    // Read together, so that attempts of one instance are numbered apart, and
    // split together, so that one instance is in one part.
    let records = export::read(paths)?;
    let records = match part {
        Some(part) => part.take(records),
        None => records,
    };
    let mut groups: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in records {
        let source = record.source.clone().unwrap_or_default();
        groups.entry(source).or_default().push(record);
    }
    Ok(groups.into_iter().collect())
}

/// Writes rows, one a line.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, rows: &[Value]) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    }
    let lines: Vec<String> = rows.iter().map(|r| r.to_string() + "\n").collect();
    Ok(swegym_data::atomic::write(path, lines.concat().as_bytes())?)
}
