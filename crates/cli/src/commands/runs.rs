//! `swegym runs`: what was rolled out.

use std::path::Path;

use serde::Serialize;
use swegym::rollout::runs::{self, Run};
use swegym::{Error, exit, export};

use crate::args::RunsCommand;
use crate::commands::trajectories;
use crate::ui::{Ui, human_time, table};

pub fn run(ui: &Ui, command: RunsCommand) -> Result<u8, Error> {
    match command {
        RunsCommand::List { dir } => list(ui, &dir),
        RunsCommand::Show { run } => show(ui, &run),
        RunsCommand::Compare { first, second } => compare(ui, &first, &second),
        RunsCommand::Export(args) => trajectories::export(ui, &args),
    }
}

#[derive(Serialize)]
struct Row {
    run_id: String,
    agent: String,
    model: String,
    episodes: usize,
    resolved: usize,
    failed: usize,
    cost_usd: Option<f64>,
}

fn list(ui: &Ui, dir: &Path) -> Result<u8, Error> {
    let mut rows = Vec::new();
    for dir in runs::find(dir)? {
        let run = Run::read(&dir)?;
        let counted = run.entries.iter().filter(|e| e.episode.end.counts());
        let resolved = |e: &&runs::Entry| e.result.as_ref().is_some_and(|r| r.resolved);
        let episodes = counted.clone().count();
        rows.push(Row {
            run_id: run.manifest.run_id.clone(),
            agent: run.manifest.agent.clone(),
            model: run.manifest.model.clone(),
            episodes,
            resolved: counted.filter(resolved).count(),
            failed: run.entries.len() - episodes,
            cost_usd: run.spent()?.usage.cost_usd,
        });
    }
    ui.answer(&rows, |ui| {
        let lines = rows.iter().map(|row| {
            vec![
                row.run_id.clone(),
                row.agent.clone(),
                row.model.clone(),
                row.episodes.to_string(),
                row.resolved.to_string(),
                row.failed.to_string(),
                row.cost_usd.map(|c| format!("{c:.2}")).unwrap_or_default(),
            ]
        });
        ui.data(table(
            &[
                "run", "agent", "model", "episodes", "resolved", "failed", "$",
            ],
            &[3, 4, 5, 6],
            lines,
        ));
    });
    Ok(exit::SUCCESS)
}

fn show(ui: &Ui, dir: &Path) -> Result<u8, Error> {
    let run = Run::read(dir)?;
    let episodes: Vec<&runs::EpisodeRecord> = run.entries.iter().map(|e| &e.episode).collect();
    ui.answer(&episodes, |ui| {
        let lines = run.entries.iter().map(|entry| {
            let e = &entry.episode;
            let outcome = entry.result.as_ref().map(|r| r.outcome.name());
            vec![
                e.instance_id.clone(),
                e.sample.to_string(),
                e.end.name().to_owned(),
                outcome.unwrap_or("-").to_owned(),
                e.turns.to_string(),
                e.usage.tokens().to_string(),
                human_time(e.seconds.total),
            ]
        });
        ui.data(table(
            &[
                "instance", "sample", "end", "outcome", "turns", "tokens", "time",
            ],
            &[1, 4, 5, 6],
            lines,
        ));
    });
    Ok(exit::SUCCESS)
}

fn compare(ui: &Ui, first: &Path, second: &Path) -> Result<u8, Error> {
    let (a, b) = (Run::read(first)?, Run::read(second)?);
    let found = export::compare(&a, &b);
    if found.instances == 0 {
        return Err(Error::input(
            "the runs have no graded instance in common",
            "grade them (`swegym rollout` without --no-grade), or compare others",
        ));
    }
    ui.answer(&found, |ui| {
        let lines = found
            .differences
            .iter()
            .map(|(id, x, y)| vec![id.clone(), format!("{x:.2}"), format!("{y:.2}")]);
        let names = [a.manifest.run_id.as_str(), b.manifest.run_id.as_str()];
        ui.data(table(&["instance", names[0], names[1]], &[1, 2], lines));
        ui.say(format!(
            "\n{:.1} % and {:.1} % of {} instances; {} is better on {}, {} on {}; p = {:.3} \
             (exact sign test over instances)",
            100.0 * found.rates.0,
            100.0 * found.rates.1,
            found.instances,
            names[0],
            found.better.0,
            names[1],
            found.better.1,
            found.p
        ));
    });
    Ok(exit::SUCCESS)
}
