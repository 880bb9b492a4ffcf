//! `swegym evaluate`: grade predictions.

use swegym::environment::Environments;
use swegym::evaluate::{self, Event, Plan, Rules, Summary, describe};
use swegym::{Error, dispatch, exit};
use swegym_core::Outcome;
use swegym_data::ResultRow;
use swegym_forge::Mode;

use crate::args::{Compat, EvaluateArgs, Global};
use crate::commands;
use crate::ui::{BAD, DIM, GOOD, Progress, Ui, human_time, table};

pub fn run(ui: &Ui, global: &Global, args: EvaluateArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let instances = commands::instances(&args.run.tasks, &args.run.instances)?;
    let predictions = evaluate::predictions(
        &args.predictions,
        &instances,
        !args.run.instances.is_empty(),
    )?;
    evaluate::check(&instances, &predictions)?;
    let mode = if args.inferred {
        Mode::InferredOnly
    } else {
        Mode::Auto
    };
    let environments = Environments::open(&home, commands::backend(ui, global)?, mode)?;
    let plan = Plan {
        dir: commands::run_dir(&args.run),
        instances,
        predictions,
        grading: commands::grading(&args.run),
        run_id: args.run.run_id,
        dispatch: dispatch::Options::with_workers(args.workers),
        rules: match args.compat {
            None => Rules::Strict,
            Some(Compat::Swebench) => Rules::Swebench,
            Some(Compat::Swegym) => Rules::Swegym,
        },
    };
    let cancel = commands::cancel_on_ctrl_c();
    let mut progress: Option<Progress> = None;
    let dir = plan.dir.clone();
    let summary = evaluate::run(plan, environments, &home, &cancel, &mut |event| {
        show(ui, &mut progress, &event);
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    ui.answer(&summary, |ui| print(ui, &summary));
    ui.say(format!("{DIM}results in {}{DIM:#}", dir.display()));
    Ok(code(ui, &summary))
}

/// Shows an event of an evaluation.
pub fn show(ui: &Ui, progress: &mut Option<Progress>, event: &Event<'_>) {
    match event {
        Event::Begin { total, resumed } => {
            let mut bar = ui.progress(*total, "evaluate");
            if *resumed > 0 {
                ui.say(format!("{resumed} of {total} were graded before"));
                bar.resume(*resumed as u64);
            }
            *progress = Some(bar);
        }
        Event::Step { instance_id, what } => {
            if let Some(bar) = progress {
                bar.note(&format!("{instance_id}: {what}"));
            }
        }
        Event::Retrying { instance_id, why } => {
            if let Some(bar) = progress {
                bar.warn(format!("{instance_id}: {why}; trying again"));
            }
        }
        Event::Graded(row) => {
            if let Some(bar) = progress {
                if let Outcome::InfraError(_) = row.outcome {
                    bar.warn(format!("{}: {}", row.instance_id, describe(&row.outcome)));
                }
                bar.advance(&format!("{}: {}", row.instance_id, row.outcome.name()));
            }
        }
    }
}

/// The exit code of a finished evaluation, and what to say about it.
pub fn code(ui: &Ui, summary: &Summary) -> u8 {
    if !summary.complete {
        ui.hint("the same command goes on where this one stopped");
        return exit::INTERRUPTED;
    }
    match summary.infra_errors() {
        0 => exit::SUCCESS,
        n => {
            ui.warn(format!(
                "{n} of {} could not be graded",
                summary.results.len()
            ));
            ui.hint("the same command tries those again; `swegym doctor` checks this machine");
            exit::FINDINGS
        }
    }
}

pub fn print(ui: &Ui, summary: &Summary) {
    let rows = summary.results.iter().map(line);
    ui.data(table(
        &["instance", "model", "outcome", "time", "notes"],
        &[3],
        rows,
    ));
    let resolved = summary.results.iter().filter(|r| r.resolved).count();
    let graded = summary.results.len() - summary.infra_errors();
    ui.say(format!(
        "\n{resolved} of {graded} resolved, in {}",
        human_time(summary.seconds)
    ));
}

fn line(row: &ResultRow) -> Vec<String> {
    let style = if row.resolved { GOOD } else { BAD };
    let flags: Vec<&str> = row.flags.iter().map(|f| f.name.as_str()).collect();
    let mut notes = describe(&row.outcome);
    if notes.is_empty() {
        notes = flags.join(", ");
    }
    vec![
        row.instance_id.clone(),
        row.model_name_or_path.clone(),
        format!("{style}{}{style:#}", row.outcome.name()),
        human_time(row.seconds),
        notes,
    ]
}
