//! `swegym demo`: the main job on real packages of the registry.

use std::collections::HashMap;
use std::fs;

use swegym::demo::{self, RELEASES};
use swegym::dispatch::{Attempt, Event, dispatch};
use swegym::environment::Environments;
use swegym::evaluate::{self, Plan, Rules};
use swegym::report::{self, EnvironmentRow, Page};
use swegym::{Error, dispatch as pool, exit, grade, validate};
use swegym_core::Instance;
use swegym_forge::Mode;

use crate::args::{DemoArgs, Global};
use crate::commands;
use crate::ui::{DIM, Progress, Ui, human_bytes, human_time, table};

pub fn run(ui: &Ui, global: &Global, args: DemoArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let backend = commands::backend(ui, global)?;
    let cancel = commands::cancel_on_ctrl_c();
    let open = || Environments::open(&home, backend.clone(), Mode::Auto);
    let grading = grade::Options::default();
    let pool = pool::Options::with_workers(args.workers);

    ui.say("Tasks: what the next release of a package fixed, and the tests it came with.");
    let releases = if args.releases.is_empty() {
        let own = RELEASES.iter();
        own.map(|&(name, old, new)| (name.into(), old.into(), new.into()))
            .collect()
    } else {
        args.releases
    };
    let mut progress = ui.progress(releases.len(), "tasks");
    progress.resume(0);
    let options = validate::Options::default();
    let (environments, place) = (open()?, home.clone());
    let mut tasks: Vec<Instance> = Vec::new();
    let mut failure = None;
    let done = dispatch(
        releases,
        &pool,
        &cancel,
        move |release| {
            Attempt::Done(demo::task(
                &place,
                &environments,
                &options,
                release,
                &|_| {},
            ))
        },
        |event| match event {
            Event::Started { job, .. } => progress.note(&format!("{} {}", job.0, job.1)),
            Event::Retrying { .. } => {}
            Event::Finished { job, result, .. } => {
                progress.advance(&job.0);
                match result {
                    Ok(task) => tasks.push(task),
                    Err(e) => {
                        progress.warn(format!("{} {}: {e}", job.0, job.1));
                        failure = failure.take().or(Some(e));
                    }
                }
            }
        },
    );
    progress.finish();
    if !done {
        ui.hint("the same command goes on where this one stopped");
        return Ok(exit::INTERRUPTED);
    }
    if tasks.is_empty() {
        return Err(failure.unwrap_or_else(|| Error::bug("no task and no failure")));
    }
    tasks.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    let tasks_path = args.out.join("tasks.jsonl");
    swegym::tasks::write(&tasks_path, &tasks)?;

    ui.say("Predictions: the release itself, an answer beside the point, and a cheat.");
    let predictions: Vec<_> = tasks.iter().flat_map(demo::predictions).collect();
    let patches: HashMap<_, _> = predictions
        .iter()
        .map(|p| {
            (
                (p.instance_id.clone(), p.model_name_or_path.clone()),
                p.model_patch.clone(),
            )
        })
        .collect();
    let plan = Plan {
        run_id: "demo".into(),
        dir: args.out.clone(),
        instances: tasks.clone(),
        predictions,
        grading,
        dispatch: pool,
        rules: Rules::Strict,
    };
    let mut progress: Option<Progress> = None;
    let summary = evaluate::run(plan, open()?, &home, &cancel, &mut |event| {
        commands::evaluate::show(ui, &mut progress, &event);
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }

    let environments = open()?;
    let page = Page {
        title: "swegym demo".into(),
        subtitle: format!(
            "{} tasks from consecutive releases, three answers to each",
            tasks.len()
        ),
        environments: environment_rows(&environments, &tasks)?,
        footer: format!(
            "swegym {}, {}",
            env!("CARGO_PKG_VERSION"),
            human_time(summary.seconds)
        ),
    };
    let html = report::html(&page, &tasks, &summary.results, &|row| {
        patches
            .get(&(row.instance_id.clone(), row.model_name_or_path.clone()))
            .cloned()
            .flatten()
    })?;
    let html_path = args.out.join("report.html");
    fs::write(&html_path, html).map_err(|e| Error::io(&html_path, e))?;

    ui.answer(&summary, |ui| {
        if !page.environments.is_empty() {
            let rows = page.environments.iter().map(|e| {
                vec![
                    e.instance_id.clone(),
                    e.python.clone(),
                    e.recipe.clone(),
                    e.logical.clone(),
                    e.unique.clone(),
                    e.seconds.clone(),
                ]
            });
            let header = [
                "environment",
                "python",
                "recipe",
                "files",
                "unique",
                "build",
            ];
            ui.data(table(&header, &[3, 4, 5], rows));
            ui.data("");
        }
        commands::evaluate::print(ui, &summary);
    });
    ui.say(format!(
        "{DIM}tasks in {}, report in {}{DIM:#}",
        tasks_path.display(),
        html_path.display()
    ));
    let as_expected = summary
        .results
        .iter()
        .all(|r| r.resolved == (r.model_name_or_path == "release"));
    if !as_expected || failure.is_some() {
        ui.warn("not every answer got the verdict it deserves");
        return Ok(exit::FINDINGS);
    }
    Ok(commands::evaluate::code(ui, &summary))
}

fn environment_rows(
    environments: &Environments,
    tasks: &[Instance],
) -> Result<Vec<EnvironmentRow>, Error> {
    let usage = environments.store().list()?;
    let mut rows = Vec::new();
    for task in tasks {
        let Some(environment) = environments.peek(task)? else {
            continue;
        };
        let size = usage.environments.iter().find(|e| e.key == environment.key);
        rows.push(EnvironmentRow {
            instance_id: task.instance_id.clone(),
            python: environment.meta.interpreter.version.to_string(),
            recipe: format!("{:?}", environment.meta.recipe.origin).to_lowercase(),
            logical: size
                .map(|s| human_bytes(s.logical_bytes))
                .unwrap_or_default(),
            unique: size
                .map(|s| human_bytes(s.unique_bytes))
                .unwrap_or_default(),
            seconds: human_time(environment.meta.seconds),
        });
    }
    Ok(rows)
}
