//! `swegym validate`: run candidates, keep those that hold.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use swegym::environment::Environments;
use swegym::provenance::Step;
use swegym::validate::stage::{self, Event, Plan};
use swegym::validate::{Options, Reason};
use swegym::{Error, dispatch, exit, grade};
use swegym_forge::Mode;

use crate::args::{Global, ValidateArgs};
use crate::commands::{self, collect::print_funnel};
use crate::ui::{DIM, Progress, Ui};

pub fn run(ui: &Ui, global: &Global, args: ValidateArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let candidates = commands::instances(&args.file, &args.instances)?;
    let backend = commands::backend(ui, global)?;
    let environments = Arc::new(Environments::open(&home, backend, Mode::Auto)?);
    let plan = Plan {
        dir: args.out,
        candidates,
        options: Options {
            repeats: args.repeats,
            grading: grade::Options {
                timeout: Duration::from_secs(args.timeout),
                ..grade::Options::default()
            },
            twins: !args.no_twins,
            cheats: !args.no_cheats,
            split: !args.whole,
        },
        dispatch: dispatch::Options::with_workers(args.jobs),
        scratch: home.scratch(),
    };
    let cancel = commands::cancel_on_ctrl_c();
    let mut progress = ui.progress(plan.candidates.len(), "validate");
    let resume = |progress: &mut Progress, total, resumed| {
        if resumed > 0 {
            ui.say(format!("{resumed} of {total} were done before"));
        }
        progress.restart(total, resumed);
    };
    let summary = stage::run(&plan, environments, &cancel, &mut |event| match event {
        Event::Splitting { total, resumed } => {
            ui.say(format!("{total} releases to split into tasks"));
            resume(&mut progress, total, resumed);
        }
        Event::Split { instance_id, tasks } => {
            progress.advance(&format!("{instance_id}: {tasks} to validate"));
        }
        Event::Begin { total, resumed } => resume(&mut progress, total, resumed),
        Event::Retrying { instance_id, why } => {
            progress.warn(format!("{instance_id}: {why}; trying again"));
        }
        Event::Done(record) => {
            let what = match &record.rejection {
                None => "kept".to_owned(),
                Some(rejection) => rejection.reason.to_string(),
            };
            progress.advance(&format!("{}: {what}", record.instance_id));
        }
    })?;
    progress.finish();
    let inputs = [PathBuf::from(args.file)];
    Step::here(&summary.funnel, &inputs)?.write(&plan.dir, &["tasks.jsonl", "rejected.jsonl"])?;
    ui.answer(&summary, |ui| print_funnel(ui, &summary.funnel));
    if summary.releases > 0 {
        ui.say(format!(
            "\n{} releases gave {} candidates",
            summary.releases, summary.from_releases
        ));
    }
    ui.say(format!(
        "\n{} tasks, {} of them with twin mutants",
        summary.kept, summary.with_mutants
    ));
    ui.say(format!("{DIM}tasks in {}{DIM:#}", summary.tasks.display()));
    if !summary.complete {
        ui.hint("the same command goes on where this one stopped");
        return Ok(exit::INTERRUPTED);
    }
    if summary.funnel.reasons.contains_key(Reason::Machine.name()) {
        ui.hint("the same command tries what the machine failed at again");
        return Ok(exit::FINDINGS);
    }
    Ok(exit::SUCCESS)
}
