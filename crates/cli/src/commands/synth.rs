//! `swegym synth`: tasks from injected bugs.

use std::path::PathBuf;
use std::sync::Arc;

use swegym::environment::Environments;
use swegym::funnel::Funnel;
use swegym::provenance::Step;
use swegym::rollout::ModelSpec;
use swegym::synth::stage::{self, Event, Plan, STAGES};
use swegym::synth::{Options, Rewriter, seeds};
use swegym::{Error, dispatch, exit};
use swegym_agent::model::{HttpOptions, Sampling};
use swegym_forge::{Mode, mutate};

use crate::args::{Global, SynthArgs};
use crate::commands::{self, collect::print_funnel};
use crate::ui::{DIM, Progress, Ui, human_time, table};

pub fn run(ui: &Ui, global: &Global, args: SynthArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let operators = match &args.operators {
        None => mutate::Operators::default(),
        Some(names) => mutate::Operators::parse(names)
            .map_err(|e| Error::input(format!("--operators: {e}"), ""))?,
    };
    let rewriter = match &args.model {
        None => None,
        Some(model) => Some(Rewriter {
            model: ModelSpec::parse(model)?.open_shared(&home, None, HttpOptions::default())?,
            sampling: Sampling {
                temperature: args.temperature,
                seed: Some(args.seed),
                ..Sampling::default()
            },
            per_function: args.rewrites,
        }),
    };
    let mut found = Vec::new();
    for target in &args.targets {
        found.extend(seeds::seeds(&home, target)?);
    }
    let environments = Environments::open(&home, commands::backend(ui, global)?, Mode::Auto)?;
    let plan = Plan {
        dir: args.out,
        seeds: found,
        options: Options {
            mutate: mutate::Options {
                per_function: args.per_function,
                operators,
                seed: args.seed,
                ..mutate::Options::default()
            },
            combined: args.combined,
            limit: args.limit,
            visible_tests: args.visible_tests,
            test_files: args.test_files,
            ..Options::default()
        },
        rewriter,
        dispatch: dispatch::Options::with_workers(args.jobs),
        scratch: home.scratch(),
    };
    let cancel = commands::cancel_on_ctrl_c();
    let mut bar: Option<Progress> = None;
    let environments = Arc::new(environments);
    let summary = stage::run(&plan, &environments, &cancel, &mut |event| {
        show(ui, &mut bar, &event);
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    let mut funnel = Funnel::of(&STAGES);
    for codebase in &summary.codebases {
        funnel.add(&codebase.funnel);
    }
    let inputs: Vec<PathBuf> = args.targets.iter().map(PathBuf::from).collect();
    Step::here(&funnel, &inputs)?.write(&plan.dir, &["tasks.jsonl", "rejected.jsonl"])?;
    ui.answer(&summary, |ui| {
        let rows = summary.codebases.iter().map(|c| {
            let count = |stage: &str| c.funnel.stages[stage].to_string();
            vec![
                c.seed.clone(),
                count("bugs"),
                count("kept"),
                human_time(c.seconds),
                c.unusable.clone().unwrap_or_default(),
            ]
        });
        ui.data(table(
            &["codebase", "bugs", "tasks", "time", "notes"],
            &[1, 2, 3],
            rows,
        ));
        print_funnel(ui, &funnel);
    });
    ui.say(format!(
        "\n{} tasks, {} of them with twin mutants",
        summary.kept, summary.with_mutants
    ));
    if let Some(asked) = &summary.asked {
        let cost = asked.cost_usd.map(|c| format!(", ${c:.2}"));
        ui.say(format!(
            "the model's part: {} tokens{}",
            asked.tokens(),
            cost.unwrap_or_default()
        ));
    }
    ui.say(format!("{DIM}tasks in {}{DIM:#}", summary.tasks.display()));
    if !summary.complete {
        ui.hint("the same command goes on where this one stopped");
        return Ok(exit::INTERRUPTED);
    }
    let unusable = summary.codebases.iter().any(|c| c.unusable.is_some());
    Ok(if unusable {
        exit::FINDINGS
    } else {
        exit::SUCCESS
    })
}

fn show(ui: &Ui, bar: &mut Option<Progress>, event: &Event<'_>) {
    match event {
        Event::Preparing(seed) => {
            if let Some(bar) = bar.take() {
                bar.finish();
            }
            ui.say(format!("{seed}: environment and baseline"));
        }
        Event::Unusable { seed, why } => ui.warn(format!("{seed}: {why}")),
        Event::Asking {
            seed,
            total,
            resumed,
        } => {
            let mut new = ui.progress(*total, "answers");
            ui.say(format!(
                "{seed}: {total} functions to rewrite, {resumed} done before"
            ));
            new.resume(*resumed as u64);
            *bar = Some(new);
        }
        Event::Answered => {
            if let Some(bar) = bar {
                bar.advance("");
            }
        }
        Event::Begin {
            seed,
            total,
            resumed,
        } => {
            if let Some(bar) = bar.take() {
                bar.finish();
            }
            ui.say(format!(
                "{seed}: {total} bugs to try, {resumed} done before"
            ));
            let mut started = ui.progress(*total, "synth");
            started.resume(*resumed as u64);
            *bar = Some(started);
        }
        Event::Retrying(why) => {
            if let Some(bar) = bar {
                bar.warn(format!("{why}; trying again"));
            }
        }
        Event::Done(record) => {
            if let Some(bar) = bar {
                let what = match (&record.instance, &record.rejection) {
                    (Some(instance), _) => instance.instance_id.clone(),
                    (None, Some(rejection)) => rejection.reason.to_string(),
                    (None, None) => String::new(),
                };
                bar.advance(&what);
            }
        }
    }
}
