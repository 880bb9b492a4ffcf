//! `swegym improve`: the loop from demonstrations to best@k.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use swegym::environment::Environments;
use swegym::improve::results::{PolicyResult, RankingResult};
use swegym::improve::{self, Event, Plan, Summary};
use swegym::rollout::AgentSpec;
use swegym::train::{TrainEvent, TrainOptions};
use swegym::{Error, exit, grade, rollout};
use swegym_agent::episode::Limits;
use swegym_agent::scaffold::Prompts;
use swegym_core::Outcome;
use swegym_forge::Mode;
use swegym_grade::metrics::Estimate;

use crate::args::{Global, ImproveArgs};
use crate::commands;
use crate::ui::{DIM, Progress, Ui, human_time, table};

pub fn run(ui: &Ui, global: &Global, args: &ImproveArgs) -> Result<u8, Error> {
    let plan = plan(args)?;
    let home = commands::home(global)?;
    let backend = commands::backend(ui, global)?;
    let environments = Arc::new(Environments::open(&home, backend, Mode::Auto)?);
    let cancel = commands::cancel_on_ctrl_c();
    let mut display = Display::new(ui);
    let summary = improve::run(&plan, environments, &home, &cancel, &mut |event| {
        display.show(&event);
    })?;
    display.end();
    let Some(summary) = summary else {
        ui.hint("the same command goes on where this one stopped");
        return Ok(exit::INTERRUPTED);
    };
    ui.answer(&summary, |ui| print(ui, &summary));
    ui.say(format!("{DIM}run in {}{DIM:#}", plan.dir.display()));
    Ok(exit::SUCCESS)
}

fn plan(args: &ImproveArgs) -> Result<Plan, Error> {
    let options = |epochs: usize, max_steps: Option<usize>| TrainOptions {
        rate: args.rate,
        length: args.length,
        epochs,
        max_steps,
        seed: args.seed,
        ..TrainOptions::default()
    };
    let default = || PathBuf::from("runs").join(&args.run_id);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if args.lora == 0 {
        return Err(Error::input("--lora must be at least 1", ""));
    }
    Ok(Plan {
        dir: args.out.clone().unwrap_or_else(default),
        train: commands::instances(&args.tasks, &[])?,
        test: commands::instances(&args.eval, &[])?,
        model: args.model.trim_start_matches("local:").to_owned(),
        agent: AgentSpec::parse(&args.agent)?,
        prompts: Prompts::default(),
        limits: Limits {
            turns: Some(args.max_turns),
            ..Limits::default()
        },
        max_tokens: args.max_output_tokens,
        rounds: args.rounds,
        samples: args.samples,
        cap: args.cap,
        temperatures: args.temperatures.clone(),
        eval_samples: args.eval_samples,
        eval_temperature: args.eval_temperature,
        shots: args.shots,
        lora: (args.lora, 2.0 * args.lora as f32),
        policy: options(args.epochs, args.max_steps),
        verifier: (!args.no_verifier).then(|| options(args.verifier_epochs, args.max_steps)),
        leaks: args.allow_leaks,
        seed: args.seed,
        grading: grade::Options {
            timeout: Duration::from_secs(args.timeout),
            ..grade::Options::default()
        },
        workers: args.workers,
        commands: 2 * cores,
    })
}

/// The loop on a terminal: a line a stage, and a bar in it.
pub struct Display<'a> {
    ui: &'a Ui,
    bar: Option<Progress>,
    stage: String,
    resolved: usize,
}

impl<'a> Display<'a> {
    pub fn new(ui: &'a Ui) -> Self {
        Self {
            ui,
            bar: None,
            stage: String::new(),
            resolved: 0,
        }
    }

    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    fn begin(&mut self, total: usize, what: &'static str, done: usize) {
        self.end();
        let mut bar = self.ui.progress(total, what);
        bar.resume(done as u64);
        self.bar = Some(bar);
    }

    pub fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Stage(what) => {
                self.end();
                (*what).clone_into(&mut self.stage);
                self.resolved = 0;
                self.begin(0, "preparing", 0);
            }
            Event::Finished(line, known) => {
                self.end();
                let before = if *known { ", as before" } else { "" };
                self.ui
                    .say(format!("{}: {line}{DIM}{before}{DIM:#}", self.stage));
            }
            Event::Scored(count, total) => {
                if *count == 1 {
                    self.begin(*total, "score", 0);
                }
                if let Some(bar) = &self.bar {
                    bar.advance("");
                }
            }
            Event::Rollout(event) => self.rollout(event),
            Event::Train(event) => self.train(event),
        }
    }

    fn rollout(&mut self, event: &rollout::Event<'_>) {
        if let rollout::Event::Begin { total, resumed } = event {
            self.begin(*total, "rollout", *resumed);
        }
        let Some(bar) = &self.bar else { return };
        match event {
            rollout::Event::Begin { .. } => {}
            rollout::Event::Step { instance_id, what } => {
                bar.note(&format!("{}: {instance_id}: {what}", self.stage));
            }
            rollout::Event::Retrying { instance_id, why } => {
                bar.warn(format!("{instance_id}: {why}; trying again"));
            }
            rollout::Event::Ended { episode, outcome } => {
                if let swegym_core::End::Failed { why, .. } = &episode.end {
                    bar.warn(format!("{}: {why}", episode.instance_id));
                }
                self.resolved += usize::from(matches!(outcome, Some(Outcome::Resolved)));
                bar.advance(&format!("{}: {} resolved", self.stage, self.resolved));
            }
        }
    }

    fn train(&mut self, event: &TrainEvent<'_>) {
        match event {
            TrainEvent::Start { estimate, done, .. } => {
                self.begin(estimate.steps, "train", *done);
                if let Some(bar) = &self.bar {
                    let time = human_time(estimate.seconds);
                    bar.note(&format!("{}: about {time}", self.stage));
                }
            }
            TrainEvent::Step(step) => {
                if let Some(bar) = &self.bar {
                    let speed = step.tokens as f64 / step.seconds;
                    bar.advance(&format!(
                        "{}: loss {:.3}, {speed:.0} tokens/s",
                        self.stage, step.loss
                    ));
                }
            }
            TrainEvent::Evaluated(..) => {}
        }
    }
}

/// `12.5 % (8.1 to 17.0)`.
pub fn share(estimate: &Estimate) -> String {
    let mean = 100.0 * estimate.mean;
    match estimate.interval {
        Some((low, high)) => {
            format!("{mean:.1} % ({:.1} to {:.1})", 100.0 * low, 100.0 * high)
        }
        None => format!("{mean:.1} %"),
    }
}

/// Those at the first and the last k.
fn ends(curve: &[(usize, Estimate)]) -> [Option<&(usize, Estimate)>; 2] {
    [curve.first(), curve.last()]
}

pub fn print(ui: &Ui, summary: &Summary) {
    let k = summary
        .policies
        .iter()
        .filter_map(|p| Some(p.pass.last()?.0));
    let k = k.max().unwrap_or(1);
    let rows = summary.policies.iter().map(|p: &PolicyResult| {
        let [one, last] = ends(&p.pass);
        vec![
            p.name.clone(),
            p.rows.to_string(),
            p.greedy.as_ref().map(share).unwrap_or_default(),
            one.map(|e| share(&e.1)).unwrap_or_default(),
            last.map(|e| share(&e.1)).unwrap_or_default(),
            format!("{:.0} %", 100.0 * p.behaviour.empty_patch),
        ]
    });
    let pass = format!("pass@{k}");
    let header = ["policy", "rows", "temperature 0", "pass@1", &pass, "empty"];
    ui.data(table(&header, &[1, 2, 3, 4, 5], rows));
    if let Some(last) = summary.policies.last() {
        for (name, paired) in &last.against {
            let interval = paired.interval.map_or(String::new(), |(a, b)| {
                format!(" ({:+.1} to {:+.1})", 100.0 * a, 100.0 * b)
            });
            ui.say(format!(
                "{} against {name}: {:+.1} points{interval}, better on {} tasks, worse on {}, p = {:.2}",
                last.name,
                100.0 * paired.difference,
                paired.better.1,
                paired.better.0,
                paired.p
            ));
        }
    }
    if let Err(why) = &summary.verifier {
        ui.say(format!("no verifier: {why}"));
    }
    ui.data("");
    let rows = summary.rankings.iter().map(|r: &RankingResult| {
        let [_, last] = ends(&r.best);
        vec![
            r.name.clone(),
            r.auc.map_or("–".into(), |a| format!("{a:.3}")),
            last.map(|e| share(&e.1)).unwrap_or_default(),
            r.recovers
                .map_or("–".into(), |x| format!("{:.0} %", 100.0 * x)),
        ]
    });
    let best = format!("best@{k}");
    let header = ["ranking", "AUC", &best, "of the room to pass@k"];
    ui.data(table(&header, &[1, 2, 3], rows));
    ui.say(format!(
        "{} held-out tasks of {} repositories, {} tasks to learn from of {}, {} demonstrations; 95 % intervals over tasks",
        summary.tasks.1, summary.repositories.1, summary.tasks.0, summary.repositories.0, summary.experts
    ));
}
