//! `swegym export`: rows for `train`, or all that another trainer needs.

use swegym::curate::{self, Choice, Rows};
use swegym::hand_over::{self, Target, Trainer};
use swegym::train::{Dtype, Model, learn};
use swegym::verify::Form;
use swegym::{Error, exit, models};

use crate::args::{FormKind, Global, HandOverArgs, RowsKind, TrainerKind};
use crate::commands;
use crate::ui::{DIM, Ui};

pub fn run(ui: &Ui, global: &Global, args: &HandOverArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let tokenizer = match &args.tokenizer {
        None => None,
        Some(name) => {
            let path = models::resolve(&home, name, &mut |line| ui.say(line))?;
            Some(Model::read(&path, Dtype::Stored).map_err(learn)?)
        }
    };
    if args.length.is_some() && tokenizer.is_none() && args.trainer.is_none() {
        return Err(Error::input(
            "--length needs something to count tokens with",
            "name a model of this machine with --tokenizer",
        ));
    }
    let kind = match args.kind {
        RowsKind::Sft => Rows::Sft,
        RowsKind::Verifier => Rows::Verifier,
        RowsKind::Pairs => Rows::Pairs,
    };
    let choice = Choice {
        cap: args.cap,
        ratio: args.ratio,
        pooled: args.pooled,
        length: args.length,
        budget: args.budget,
        tools: args.tools,
        form: match args.form {
            FormKind::Log => Form::Log,
            FormKind::Patch => Form::Patch,
        },
        seed: args.seed,
    };
    let groups = curate::read_groups(&args.paths, commands::part(&args.part).as_ref())?;
    let curated = curate::curate(&groups, kind, &choice, tokenizer.as_ref())?;
    let target = args.trainer.map(|trainer| Target {
        trainer: match trainer {
            TrainerKind::Trl => Trainer::Trl,
            TrainerKind::Torchtune => Trainer::Torchtune,
            TrainerKind::Axolotl => Trainer::Axolotl,
        },
        model: args.model.clone(),
        gpus: args.gpus.max(1),
        length: args.length,
    });
    hand_over::write(&args.out, &curated, kind, target.as_ref())?;
    let report = &curated.report;
    ui.answer(report, |ui| {
        let tokens = report
            .tokens
            .map_or(String::new(), |n| format!(", {n} tokens"));
        ui.say(format!(
            "{} rows of {} instances, {} resolved{tokens}, from {} attempts, in {}",
            report.rows,
            report.instances,
            report.resolved,
            report.attempts,
            args.out.display()
        ));
        if report.shortened > 0 {
            ui.say(format!("{DIM}{} were shortened{DIM:#}", report.shortened));
        }
        for (why, count) in &report.left_out {
            ui.say(format!("{DIM}{count} left out: {why}{DIM:#}"));
        }
    });
    if report.rows == 0 {
        ui.warn("there are no rows");
        return Ok(exit::FINDINGS);
    }
    Ok(exit::SUCCESS)
}
