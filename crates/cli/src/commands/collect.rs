//! `swegym collect`: candidates for tasks.

use swegym::collect::{Raw, pypi};
use swegym::dispatch::{self, Attempt, Event, dispatch};
use swegym::funnel::Funnel;
use swegym::{Error, exit, tasks};
use swegym_core::Instance;

use crate::args::{CollectCommand, CollectPypiArgs, Global};
use crate::commands;
use crate::ui::{Ui, table};

pub fn run(ui: &Ui, global: &Global, command: CollectCommand) -> Result<u8, Error> {
    match command {
        CollectCommand::Pypi(args) => releases(ui, global, args),
    }
}

fn releases(ui: &Ui, global: &Global, args: CollectPypiArgs) -> Result<u8, Error> {
    if args.packages.len() > 1 && (args.since.is_some() || args.until.is_some()) {
        return Err(Error::input(
            "--since and --until are versions of one package",
            "name one package, or leave them out",
        ));
    }
    let home = commands::home(global)?;
    let range = pypi::Range {
        since: args.since,
        until: args.until,
        limit: args.limit,
    };
    let cancel = commands::cancel_on_ctrl_c();
    let pool = dispatch::Options::with_workers(args.jobs);
    let mut progress = ui.progress(args.packages.len(), "collect");
    progress.resume(0);
    let total = args.packages.len();
    let mut found: Vec<(String, Vec<Raw>)> = Vec::new();
    let mut failure = None;
    dispatch(
        args.packages,
        &pool,
        &cancel,
        move |package: &String| Attempt::Done(pypi::candidates(&home, package, &range, &|_| {})),
        |event| match event {
            Event::Started { job, .. } => progress.note(&job),
            Event::Retrying { .. } => {}
            Event::Finished { job, result, .. } => {
                progress.advance(&job);
                match result {
                    Ok(raw) => found.push((job.to_string(), raw)),
                    Err(e) => {
                        progress.warn(&e);
                        failure = failure.take().or(Some(e));
                    }
                }
            }
        },
    );
    progress.finish();
    if let (true, Some(e)) = (found.is_empty(), failure.take()) {
        return Err(e);
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let rows: Vec<&Raw> = found.iter().flat_map(|(_, raw)| raw).collect();
    let candidates: Vec<&Instance> = rows.iter().filter_map(|r| r.instance.as_ref()).collect();
    let path = args.out.join("candidates.jsonl");
    tasks::write_lines(&path, &candidates)?;
    tasks::write_lines(&args.out.join("raw.jsonl"), &rows)?;
    let mut funnel = Funnel::of(&["pairs", "candidates"]);
    for row in &rows {
        match &row.reason {
            None => funnel.reached("candidates"),
            Some(reason) => {
                funnel.reached("pairs");
                funnel.fell_out(reason);
            }
        }
    }
    ui.answer(&funnel, |ui| {
        let lines = found.iter().map(|(package, raw)| {
            let kept = raw.iter().filter(|r| r.instance.is_some()).count();
            vec![package.clone(), raw.len().to_string(), kept.to_string()]
        });
        ui.data(table(&["package", "pairs", "candidates"], &[1, 2], lines));
        print_funnel(ui, &funnel);
    });
    ui.say(format!("\ncandidates in {}", path.display()));
    ui.hint(format!("swegym validate {}", path.display()));
    if found.len() < total {
        return Ok(if cancel.is_cancelled() {
            exit::INTERRUPTED
        } else {
            exit::FINDINGS
        });
    }
    Ok(exit::SUCCESS)
}

/// Stages and reasons of a funnel.
pub fn print_funnel(ui: &Ui, funnel: &Funnel) {
    ui.data("");
    let stages = funnel
        .stages
        .iter()
        .map(|(stage, n)| vec![stage.clone(), n.to_string()]);
    ui.data(table(&["stage", "reached"], &[1], stages));
    if !funnel.reasons.is_empty() {
        ui.data("");
        let reasons = funnel
            .reasons
            .iter()
            .map(|(reason, n)| vec![reason.clone(), n.to_string()]);
        ui.data(table(&["fell out for", "candidates"], &[1], reasons));
    }
}
