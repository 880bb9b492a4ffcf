//! `swegym env`: build, list, enter, check and clean environments.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use serde::Serialize;
use swegym::dispatch::{self, Attempt, Event, dispatch};
use swegym::environment::Environments;
use swegym::rollout::collect_bases;
use swegym::{Error, exit};
use swegym_core::{Command, Exit, Instance};
use swegym_forge::Mode;
use swegym_store::{GcOptions, GcReport};

use crate::args::{EnvBuildArgs, EnvCommand, Global};
use crate::commands;
use crate::ui::{Ui, human_bytes, human_time, table};

pub fn run(ui: &Ui, global: &Global, command: EnvCommand) -> Result<u8, Error> {
    match command {
        EnvCommand::Build(args) => build(ui, global, args),
        EnvCommand::List => list(ui, global),
        EnvCommand::Shell { id, command } => shell(ui, global, &id, &command),
        EnvCommand::Verify { repair } => verify(ui, global, repair),
        EnvCommand::Gc { dry_run, forget } => gc(ui, global, dry_run, &forget),
    }
}

#[derive(Serialize)]
struct Built {
    instance_id: String,
    key: Option<String>,
    recipe: Option<String>,
    cached: bool,
    seconds: f64,
    error: Option<String>,
    hint: Option<String>,
}

fn build(ui: &Ui, global: &Global, args: EnvBuildArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let instances = commands::instances(&args.tasks, &args.instances)?;
    let mode = if args.inferred {
        Mode::InferredOnly
    } else {
        Mode::Auto
    };
    let environments = Environments::open(&home, commands::backend(ui, global)?, mode)?;
    let cancel = commands::cancel_on_ctrl_c();
    let options = dispatch::Options {
        memory_per_job: 1 << 30,
        ..dispatch::Options::with_workers(args.jobs)
    };
    let mut progress = ui.progress(instances.len(), "build");
    progress.resume(0);
    let total = instances.len();
    let mut built = Vec::new();
    let mut code = exit::SUCCESS;
    dispatch(
        instances,
        &options,
        &cancel,
        move |instance: &Instance| Attempt::Done(environments.get(instance, &|_| {})),
        |event| match event {
            Event::Started { job, .. } => progress.note(&job.instance_id),
            Event::Retrying { .. } => {}
            Event::Finished {
                job,
                result,
                elapsed,
            } => {
                let seconds = elapsed.as_secs_f64();
                progress.advance(&job.instance_id);
                let mut row = Built {
                    instance_id: job.instance_id.clone(),
                    key: None,
                    recipe: None,
                    cached: false,
                    seconds,
                    error: None,
                    hint: None,
                };
                match result {
                    Ok(environment) => {
                        row.key = Some(environment.key);
                        row.recipe = Some(environment.meta.because);
                        row.cached = environment.cached;
                    }
                    Err(e) => {
                        code = code.max(e.exit_code());
                        progress.warn(&e);
                        row.error = Some(e.to_string());
                        row.hint = e.hint();
                    }
                }
                built.push(row);
            }
        },
    );
    progress.finish();
    ui.answer(&built, |ui| {
        let rows = built.iter().map(|b| {
            let state = match (&b.key, b.cached) {
                (None, _) => "failed",
                (_, true) => "was there",
                (_, false) => "built",
            };
            vec![
                b.instance_id.clone(),
                state.into(),
                human_time(b.seconds),
                b.recipe.clone().unwrap_or_default(),
                b.key.clone().or_else(|| b.hint.clone()).unwrap_or_default(),
            ]
        });
        ui.data(table(
            &["instance", "environment", "time", "recipe", "key"],
            &[2],
            rows,
        ));
    });
    if built.len() < total {
        ui.hint("the same command goes on where this one stopped");
        return Ok(exit::INTERRUPTED);
    }
    Ok(code)
}

fn list(ui: &Ui, global: &Global) -> Result<u8, Error> {
    let store = swegym_store::Store::open(commands::home(global)?.store())?;
    let usage = store.list()?;
    ui.answer(&usage, |ui| {
        let rows = usage.environments.iter().map(|e| {
            vec![
                e.key.clone(),
                e.instance_ids.join(" "),
                human_bytes(e.logical_bytes),
                human_bytes(e.unique_bytes),
                human_bytes(e.shared_bytes),
            ]
        });
        let header = ["key", "instances", "logical", "unique", "shared"];
        ui.data(table(&header, &[2, 3, 4], rows));
        ui.say(format!(
            "\n{} environments of {} on {} of disk",
            usage.environments.len(),
            human_bytes(usage.logical_bytes),
            human_bytes(usage.disk_bytes)
        ));
    });
    Ok(exit::SUCCESS)
}

fn shell(ui: &Ui, global: &Global, id: &str, command: &[String]) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let environments = Environments::open(&home, commands::backend(ui, global)?, Mode::Auto)?;
    let environment = environments.by_name(id)?;
    let mut sandbox = environments
        .backend()
        .create(&environment.sandbox_spec(true))?;
    if !command.is_empty() {
        let mut command = Command::new(command.iter().cloned());
        command.merge_stderr = true;
        let output = sandbox.exec(&command)?;
        let _ = io::stdout().write_all(&output.stdout.bytes);
        sandbox.close()?;
        return Ok(match output.exit {
            Exit::Code(code) => u8::try_from(code).unwrap_or(exit::FINDINGS),
            _ => exit::FINDINGS,
        });
    }
    ui.say(format!(
        "{}: what you write here is gone when you leave (Ctrl-D)",
        environment.key
    ));
    let mut session = sandbox.session()?;
    let prompt = io::stdin().is_terminal();
    for line in prompted(prompt) {
        let line = line.map_err(|e| Error::io(Path::new("stdin"), e))?;
        if line.trim() == "exit" {
            break;
        }
        let output = session.run(&line, None)?;
        let _ = io::stdout().write_all(&output.stdout.bytes);
        let _ = io::stderr().write_all(&output.stderr.bytes);
    }
    session.close()?;
    sandbox.close()?;
    Ok(exit::SUCCESS)
}

fn prompted(show: bool) -> impl Iterator<Item = io::Result<String>> {
    let mut lines = io::stdin().lock().lines();
    std::iter::from_fn(move || {
        if show {
            let _ = write!(io::stderr(), "testbed$ ");
        }
        lines.next()
    })
}

fn verify(ui: &Ui, global: &Global, repair: bool) -> Result<u8, Error> {
    let store = swegym_store::Store::open(commands::home(global)?.store())?;
    let found = store.verify(repair)?;
    ui.answer(&found, |ui| {
        for finding in &found.findings {
            ui.data(finding);
        }
        ui.say(format!(
            "{} objects and {} layers checked",
            found.objects, found.layers
        ));
    });
    let left = found.findings.len() - found.repaired.len().min(found.findings.len());
    Ok(if left > 0 && !repair {
        ui.hint("`swegym env verify --repair` rebuilds trees whose objects are right");
        exit::FINDINGS
    } else {
        exit::SUCCESS
    })
}

/// What went.
#[derive(Serialize)]
struct Collected {
    #[serde(flatten)]
    report: GcReport,
    /// Bases of instances whose environment is gone.
    bases: usize,
}

fn gc(ui: &Ui, global: &Global, dry_run: bool, forget: &[String]) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let store = swegym_store::Store::open(home.store())?;
    for id in forget {
        let mut known = false;
        for key in store.env_keys()? {
            let record = store.get_env(&key)?;
            if record.is_some_and(|r| r.key == *id || r.instance_ids.contains(id)) {
                known = true;
                if !dry_run {
                    store.remove_env(&key)?;
                }
            }
        }
        if !known {
            return Err(Error::input(
                format!("no environment of {id:?}"),
                "`swegym env list` prints what there is",
            ));
        }
    }
    let report = store.gc(&GcOptions {
        dry_run,
        ..GcOptions::default()
    })?;
    let kept: BTreeSet<String> = store.env_keys()?.into_iter().collect();
    let bases = collect_bases(&home, dry_run, &|key| kept.contains(key))?;
    let report = Collected { report, bases };
    ui.answer(&report, |ui| {
        let verb = if dry_run { "would remove" } else { "removed" };
        ui.say(format!(
            "{verb} {} layers, {} objects, {}, and {} bases",
            report.report.layers.len(),
            report.report.objects,
            human_bytes(report.report.freed_bytes),
            report.bases
        ));
    });
    Ok(exit::SUCCESS)
}
