//! `swegym train`: rows in, an adapter or a model out.

use std::path::PathBuf;

use swegym::train::{
    self, AdamWOptions, HeldOut, Schedule, TrainEvent, TrainOptions, TrainPlan, TrainRecord,
};
use swegym::{Error, exit, models};

use crate::args::{Global, ScheduleKind, TrainArgs, TrainKind};
use crate::commands;
use crate::ui::{DIM, Progress, Ui, human_bytes, human_time};

pub fn run(ui: &Ui, global: &Global, args: &TrainArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let base = models::resolve(&home, &args.base, &mut |line| ui.say(line))?;
    // The adapter remembers its model, wherever it is used from.
    let base = std::path::absolute(&base).map_err(|e| Error::io(&base, e))?;
    let plan = plan(args, base)?;
    let cancel = commands::cancel_on_ctrl_c();
    let mut bar: Option<Progress> = None;
    let mut held_out = None;
    let record = train::run(&plan, &cancel, &mut |event| {
        show(ui, &mut bar, &mut held_out, event);
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    ui.answer(&record, |ui| print(ui, &record));
    if !record.finished {
        ui.hint("the same command with --resume goes on");
        return Ok(exit::INTERRUPTED);
    }
    let what = if plan.lora.is_some() {
        "adapter"
    } else {
        "model"
    };
    ui.say(format!("{what} in {}", plan.out.display()));
    Ok(exit::SUCCESS)
}

fn plan(args: &TrainArgs, base: PathBuf) -> Result<TrainPlan, Error> {
    let rank = args.lora.unwrap_or(16);
    let alpha = args.alpha.unwrap_or(2.0 * rank as f32);
    let share = args.held_out;
    if !(0.0..1.0).contains(&share) {
        return Err(Error::input(
            format!("--held-out {share} is no share of the rows"),
            "give a number from 0 to below 1",
        ));
    }
    if rank == 0 || args.save_every == 0 || args.evaluate_every == 0 {
        return Err(Error::input(
            "--lora, --save-every and --evaluate-every must be at least 1",
            "",
        ));
    }
    Ok(TrainPlan {
        data: args.data.clone(),
        held_out: match &args.eval {
            Some(path) => HeldOut::File(path.clone()),
            None => HeldOut::Share(share),
        },
        base,
        adapter: args.adapter.clone(),
        lora: (!args.full).then_some((rank, alpha)),
        verifier: args.kind == TrainKind::Verifier,
        options: TrainOptions {
            rate: args.rate,
            schedule: match args.schedule {
                ScheduleKind::Cosine => Schedule::Cosine,
                ScheduleKind::Linear => Schedule::Linear,
                ScheduleKind::Constant => Schedule::Constant,
            },
            warmup: args.warmup,
            adamw: AdamWOptions {
                weight_decay: args.weight_decay,
                ..AdamWOptions::default()
            },
            clip: args.clip,
            length: args.length,
            accumulate: args.accumulate,
            epochs: args.epochs,
            max_steps: args.max_steps,
            seed: args.seed,
            checkpoint_activations: args.checkpoint_activations,
        },
        skip_long: args.skip_long,
        save_every: args.save_every,
        evaluate_every: args.evaluate_every,
        resume: args.resume,
        out: args.out.clone(),
    })
}

fn show(ui: &Ui, bar: &mut Option<Progress>, held_out: &mut Option<f64>, event: TrainEvent<'_>) {
    match event {
        TrainEvent::Start {
            estimate,
            rows: (learnt, held_out, left_out),
            done,
        } => {
            ui.say(format!("{learnt} rows to learn from, {held_out} held out"));
            for (why, count) in left_out {
                ui.say(format!("{DIM}{count} left out: {why}{DIM:#}"));
            }
            ui.say(format!(
                "{} steps, {} tokens: about {}, {} of memory ({} weights, {} activations, {} optimiser)",
                estimate.steps,
                estimate.tokens,
                human_time(estimate.seconds),
                human_bytes(estimate.memory()),
                human_bytes(estimate.weights),
                human_bytes(estimate.activations),
                human_bytes(estimate.optimizer),
            ));
            let mut progress = ui.progress(estimate.steps, "train");
            if done > 0 {
                ui.say(format!("{DIM}{done} steps were done before{DIM:#}"));
                progress.resume(done as u64);
            }
            *bar = Some(progress);
        }
        TrainEvent::Step(step) => {
            if let Some(bar) = bar {
                let held_out = held_out.map_or(String::new(), |l| format!(", held out {l:.3}"));
                let speed = step.tokens as f64 / step.seconds;
                bar.advance(&format!(
                    "loss {:.3}{held_out}, {speed:.0} tokens/s",
                    step.loss
                ));
            }
        }
        TrainEvent::Evaluated(_, loss) => *held_out = Some(loss),
    }
}

fn print(ui: &Ui, record: &TrainRecord) {
    if let Some(loss) = record.loss {
        ui.say(format!(
            "{} steps in {}, loss {loss:.3} nats a learnt token ({} of {} tokens are learnt)",
            record.steps,
            human_time(record.seconds),
            record.tokens.1,
            record.tokens.0
        ));
    }
    if let Some((before, after)) = record.held_out_loss {
        ui.say(format!(
            "held-out loss {before:.3} before, {after:.3} after"
        ));
    }
}
