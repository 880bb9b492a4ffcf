//! `swegym collect`: candidates for tasks.

use std::path::PathBuf;
#[cfg(feature = "github")]
use std::time::Duration;

use swegym::collect::{Raw, git, pypi};
#[cfg(feature = "github")]
use swegym::dispatch::Cancel;
use swegym::dispatch::{self, Attempt, Event, dispatch};
use swegym::funnel::Funnel;
use swegym::provenance::Step;
use swegym::{Error, exit, tasks};
use swegym_core::Instance;
use swegym_forge::pulls::SplitRule;
#[cfg(feature = "github")]
use swegym_store::source::github::GitHub;

use crate::args::{CollectCommand, CollectGitArgs, CollectPypiArgs, Global, SplitBy};
use crate::commands;
use crate::ui::{Progress, Ui, table};

pub fn run(ui: &Ui, global: &Global, command: CollectCommand) -> Result<u8, Error> {
    match command {
        CollectCommand::Pypi(args) => releases(ui, global, args),
        CollectCommand::Git(args) => history(ui, global, args),
    }
}

fn history(ui: &Ui, global: &Global, args: CollectGitArgs) -> Result<u8, Error> {
    let home = commands::home(global)?;
    let cancel = commands::cancel_on_ctrl_c();
    let plan = git::Plan {
        place: git::Place::parse(&args.repository)?,
        repo: args.repo,
        pulls: args.pulls,
        issues: args.issues,
        range: git::Range {
            since: args.since,
            until: args.until,
            limit: args.limit,
        },
        rule: match args.split {
            SplitBy::Ours => SplitRule::Ours,
            SplitBy::Swebench => SplitRule::Reference,
        },
        dir: args.out,
    };
    #[cfg(feature = "github")]
    let plan = if args.github {
        let asked = Asked {
            token_env: &args.token_env,
            api_url: &args.api_url,
            max_wait: Duration::from_secs(args.max_wait),
        };
        let Some(plan) = asked.download(ui, plan, &cancel)? else {
            ui.hint("the same command goes on where this one stopped");
            return Ok(exit::INTERRUPTED);
        };
        plan
    } else {
        plan
    };
    // How many there are is known once the history was read.
    let mut progress: Option<Progress> = None;
    let summary = git::run(&plan, &home, &cancel, &mut |event| match event {
        git::Event::Begin { total, resumed } => {
            if resumed > 0 {
                ui.say(format!("{resumed} changes were looked at before"));
            }
            let mut bar = ui.progress(total.unwrap_or_default(), "collect");
            bar.resume(resumed as u64);
            progress = Some(bar);
        }
        git::Event::Broken(problem) => match &progress {
            Some(progress) => progress.warn(problem),
            None => ui.warn(problem),
        },
        git::Event::Done(row) => {
            if let Some(progress) = &progress {
                progress.advance(&row.instance_id);
            }
        }
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    ui.answer(&summary, |ui| {
        ui.data(&summary.repo);
        print_funnel(ui, &summary.funnel);
    });
    if !summary.complete {
        ui.hint("the same command goes on where this one stopped");
        return Ok(exit::INTERRUPTED);
    }
    let inputs: Vec<PathBuf> = plan.pulls.iter().chain(&plan.issues).cloned().collect();
    Step::here(&summary.funnel, &inputs)?.write(&plan.dir, &FILES)?;
    let path = summary.candidates.display();
    ui.say(format!("\ncandidates in {path}"));
    if summary.funnel.stages["candidates"] > 0 {
        ui.hint(format!("swegym validate {path}"));
    }
    if summary.funnel.reasons.contains_key("issue_missing") {
        ui.hint("--issues names a dump of the issues that pull requests resolve");
    }
    if summary.broken > 0 {
        ui.warn(format!(
            "{} lines of the dump were left out",
            summary.broken
        ));
        return Ok(exit::FINDINGS);
    }
    Ok(exit::SUCCESS)
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
    Step::here(&funnel, &[])?.write(&args.out, &FILES)?;
    ui.answer(&funnel, |ui| {
        let lines = found.iter().map(|(package, raw)| {
            let kept = raw.iter().filter(|r| r.instance.is_some()).count();
            vec![package.clone(), raw.len().to_string(), kept.to_string()]
        });
        ui.data(table(&["package", "pairs", "candidates"], &[1, 2], lines));
        print_funnel(ui, &funnel);
    });
    for row in &rows {
        if let Some(reason) = &row.reason {
            ui.say(format!("{}: {reason}: {}", row.instance_id, row.detail));
        }
    }
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

/// How to ask GitHub.
#[cfg(feature = "github")]
struct Asked<'a> {
    token_env: &'a str,
    api_url: &'a str,
    max_wait: Duration,
}

#[cfg(feature = "github")]
impl Asked<'_> {
    /// Makes a dump, and makes it the plan's; none if that was interrupted.
    fn download(
        &self,
        ui: &Ui,
        mut plan: git::Plan,
        cancel: &Cancel,
    ) -> Result<Option<git::Plan>, Error> {
        let token = std::env::var(self.token_env)
            .ok()
            .filter(|token| !token.is_empty())
            .ok_or_else(|| {
                Error::setup(
                    format!("{} holds no token for GitHub", self.token_env),
                    "set it to a token that may read the repository, or name another with --token-env",
                )
            })?;
        let repo = plan.repo.clone().or_else(|| plan.place.name());
        let repo = repo.ok_or_else(|| {
            Error::input(
                "GitHub's name of the repository is not known",
                "give it with --repo OWNER/NAME",
            )
        })?;
        let github = GitHub::new(self.api_url, &token)
            .map_err(|e| Error::input(format!("--api-url: {e}"), ""))?;
        let dir = plan.dir.join("github");
        let progress = ui.progress(plan.range.limit.unwrap_or_default(), "pull requests");
        let complete = git::download(
            &git::Download {
                github: &github,
                repo: &repo,
                range: &plan.range,
                max_wait: self.max_wait,
                dir: &dir,
            },
            cancel,
            &mut |step| match step {
                git::Step::Pulls(n) => progress.advance(&format!("{n} pull requests")),
                git::Step::Waiting(wait) => progress.warn(format!(
                    "GitHub's rate limit is used up; waiting {} s",
                    wait.as_secs()
                )),
            },
        );
        progress.finish();
        plan.repo = Some(repo);
        plan.pulls = Some(dir.join("pulls.jsonl"));
        Ok(complete?.then_some(plan))
    }
}

/// What both kinds of collection write.
const FILES: [&str; 2] = ["candidates.jsonl", "raw.jsonl"];

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
