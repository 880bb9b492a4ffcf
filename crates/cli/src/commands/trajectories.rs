//! `swegym trajectories`: look at them, and make other things of them.

use std::path::Path;

use swegym::export::{self, Record, Target};
use swegym::{Error, exit};
use swegym_core::StepSource;
use swegym_data::trajectory::{TrajectoryStats, wilson};

use crate::args::{ExportArgs, ExportTarget, TrajectoriesCommand};
use crate::ui::{DIM, Ui, table};

pub fn run(ui: &Ui, command: TrajectoriesCommand) -> Result<u8, Error> {
    match command {
        TrajectoriesCommand::Show { path, instance } => show(ui, &path, instance.as_deref()),
        TrajectoriesCommand::Import { paths, out } => {
            let records = export::read(&paths)?;
            let done = export::write(&records, Target::Atif, true, "", &out)?;
            ui.say(format!(
                "{} trajectories in {}",
                done.written,
                out.display()
            ));
            Ok(exit::SUCCESS)
        }
        TrajectoriesCommand::Export(args) => export(ui, &args),
        TrajectoriesCommand::Stats { paths } => stats(ui, &paths),
    }
}

/// Makes other things of trajectories; `runs export` does the same.
pub fn export(ui: &Ui, args: &ExportArgs) -> Result<u8, Error> {
    let records = export::read(&args.paths)?;
    let target = match args.to {
        ExportTarget::Atif => Target::Atif,
        ExportTarget::Native => Target::Native,
        ExportTarget::Mini => Target::Mini,
        ExportTarget::Predictions => Target::Predictions,
        ExportTarget::Harbor => Target::Harbor,
        ExportTarget::Chat => Target::Chat,
        ExportTarget::Text => Target::Text,
        ExportTarget::Sharegpt => Target::ShareGpt,
        ExportTarget::Kto => Target::Kto,
        ExportTarget::Preference => Target::Preference,
        ExportTarget::Verifier => Target::Verifier,
        ExportTarget::Tokens => Target::Tokens,
    };
    let model = records
        .iter()
        .find_map(|r| r.trajectory.agent.model_name.clone());
    let model = model.unwrap_or_else(|| "unknown".into());
    let done = export::write(&records, target, args.all, &model, &args.out)?;
    ui.answer(&done, |ui| {
        ui.say(format!(
            "{} written to {}",
            done.written,
            args.out.display()
        ));
        for (why, count) in &done.left_out {
            ui.say(format!("{DIM}{count} left out: {why}{DIM:#}"));
        }
    });
    if done.written == 0 {
        ui.warn("nothing was written");
        return Ok(exit::FINDINGS);
    }
    Ok(exit::SUCCESS)
}

fn show(ui: &Ui, path: &Path, instance: Option<&str>) -> Result<u8, Error> {
    let records = export::read(&[path.to_owned()])?;
    let wanted: Vec<&Record> = records
        .iter()
        .filter(|r| instance.is_none_or(|id| r.instance_id == id))
        .collect();
    if wanted.is_empty() {
        return Err(Error::input(
            format!("{}: no trajectory of {instance:?}", path.display()),
            "leave --instance out to see all",
        ));
    }
    for record in wanted {
        if ui.json {
            ui.answer(&record.trajectory, |_| {});
            continue;
        }
        ui.data(format!(
            "# {} ({})",
            record.instance_id,
            record.end.as_deref().unwrap_or("end unknown")
        ));
        for step in &record.trajectory.steps {
            let who = match step.source {
                StepSource::System => "system",
                StepSource::User => "user",
                StepSource::Agent => "agent",
            };
            ui.data(format!(
                "\n## {} {who}\n{}",
                step.step_id,
                step.message.text()
            ));
            for call in step.tool_calls.iter().flatten() {
                ui.data(format!("\n→ {}", call.function_name));
                for (name, value) in &call.arguments {
                    let text = value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned);
                    ui.data(format!("  {name}: {}", text.replace('\n', "\n    ")));
                }
            }
            for result in step.observation.iter().flat_map(|o| &o.results) {
                let text = result.content.as_ref().map(|c| c.text());
                ui.data(format!("\n← {}", text.unwrap_or_default()));
            }
        }
    }
    Ok(exit::SUCCESS)
}

fn stats(ui: &Ui, paths: &[std::path::PathBuf]) -> Result<u8, Error> {
    let stats = export::stats(&export::read(paths)?);
    ui.answer(&stats, |ui| {
        let all = std::iter::once(line("all", &stats));
        let rest = stats.repositories.iter().map(|(name, s)| line(name, s));
        ui.data(table(
            &[
                "repository",
                "trajectories",
                "resolved",
                "95 %",
                "empty patch",
                "stuck",
                "turns",
                "prompt tokens",
                "completion",
            ],
            &[1, 2, 3, 4, 5, 6, 7, 8],
            all.chain(rest),
        ));
    });
    Ok(exit::SUCCESS)
}

fn line(name: &str, stats: &TrajectoryStats) -> Vec<String> {
    let percent = |share: Option<f64>| share.map_or("-".into(), |s| format!("{:.1} %", 100.0 * s));
    let mean = |sum: u64| match stats.count {
        0 => "-".into(),
        count => format!("{:.1}", sum as f64 / count as f64),
    };
    let rate = (stats.labelled > 0).then(|| stats.resolved as f64 / stats.labelled as f64);
    let interval = wilson(stats.resolved, stats.labelled);
    vec![
        name.to_owned(),
        stats.count.to_string(),
        percent(rate),
        interval.map_or("-".into(), |(low, high)| {
            format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)
        }),
        percent(stats.share(stats.empty_patch)),
        percent(stats.share(stats.stuck_in_loop)),
        mean(stats.turns),
        mean(stats.prompt_tokens),
        mean(stats.completion_tokens),
    ]
}
