//! `swegym runs`: what was rolled out.

use std::path::Path;

use swegym::rollout::index::Index;
use swegym::rollout::runs::{EpisodeRecord, Run};
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

fn list(ui: &Ui, dir: &Path) -> Result<u8, Error> {
    let (index, unread) = Index::open(dir)?;
    for why in unread {
        ui.warn(format!("left out: {why}"));
    }
    let rows = index.summaries()?;
    ui.answer(&rows, |ui| {
        let lines = rows.iter().map(|row| {
            vec![
                row.run_id.clone(),
                row.agent.clone(),
                row.model.clone(),
                row.episodes.to_string(),
                row.graded.to_string(),
                row.resolved.to_string(),
                row.failed.to_string(),
                row.cost_usd.map(|c| format!("{c:.2}")).unwrap_or_default(),
            ]
        });
        ui.data(table(
            &[
                "run", "agent", "model", "episodes", "graded", "resolved", "failed", "$",
            ],
            &[3, 4, 5, 6, 7],
            lines,
        ));
    });
    Ok(exit::SUCCESS)
}

fn show(ui: &Ui, dir: &Path) -> Result<u8, Error> {
    let run = Run::read(dir)?;
    let episodes: Vec<&EpisodeRecord> = run.entries.iter().map(|e| &e.episode).collect();
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
            "\n{:.1} % and {:.1} % of {} instances; {} is better on {}, {} on {}; p = {} \
             (exact sign test over instances)",
            100.0 * found.rates.0,
            100.0 * found.rates.1,
            found.instances,
            names[0],
            found.better.0,
            names[1],
            found.better.1,
            small(found.p)
        ));
    });
    Ok(exit::SUCCESS)
}

/// A probability, of which three digits say enough.
fn small(p: f64) -> String {
    if p < 0.001 {
        return format!("{p:.0e}");
    }
    format!("{p:.3}")
}
