//! `swegym rollout`: agents at work.

use std::sync::Arc;
use std::time::Duration;

use swegym::environment::Environments;
use swegym::rollout::{self, AgentSpec, Event, ModelSpec, Plan, Summary};
use swegym::{Error, exit};
use swegym_agent::episode::Limits;
use swegym_agent::model::{HttpOptions, Prices, Sampling};
use swegym_agent::scaffold::{Dialect, Prompts};
use swegym_core::Outcome;
use swegym_forge::Mode;

use crate::args::{DialectKind, Global, RolloutArgs};
use crate::commands;
use crate::ui::{DIM, Progress, Ui, human_time, table};

pub fn run(ui: &Ui, global: &Global, args: &RolloutArgs) -> Result<u8, Error> {
    let plan = plan(args)?;
    let home = commands::home(global)?;
    let environments = Environments::open(&home, commands::backend(ui, global)?, Mode::Auto)?;
    let cancel = commands::cancel_on_ctrl_c();
    let dir = plan.dir.clone();
    let mut bar: Option<Progress> = None;
    let mut resolved = 0;
    let environments = Arc::new(environments);
    let summary = rollout::run(plan, environments, &home, &cancel, &mut |event| {
        show(ui, &mut bar, &mut resolved, &event);
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    if let Some(why) = &summary.rejected {
        return Err(Error::input(
            format!("the model provider takes no request: {why}"),
            "check the model's name, its address and the key; nothing was lost",
        ));
    }
    ui.answer(&summary, |ui| print(ui, &summary));
    ui.say(format!("{DIM}run in {}{DIM:#}", dir.display()));
    Ok(code(ui, &summary))
}

fn plan(args: &RolloutArgs) -> Result<Plan, Error> {
    let mut agent = AgentSpec::parse(&args.agent)?;
    match &mut agent {
        AgentSpec::Command(command) => {
            command.packages.clone_from(&args.agent_packages);
            command.python.clone_from(&args.agent_python);
            command.mounts.clone_from(&args.agent_mounts);
        }
        _ if !args.agent_packages.is_empty() || !args.agent_mounts.is_empty() => {
            return Err(Error::input(
                "--agent-package and --agent-mount are for command agents",
                "name one with --agent 'cmd: …'",
            ));
        }
        _ => {}
    }
    let model = ModelSpec::parse(&args.model)?;
    let prices = args.prices.map(|(input, output, cached)| Prices {
        input,
        output,
        cached,
    });
    if model.is_remote() && prices.is_none() && (args.budget.is_some() || args.max_cost.is_some()) {
        return Err(Error::input(
            "--max-cost and --budget need the model's prices",
            "give them with --prices IN/OUT, US dollars per million tokens",
        ));
    }
    let prompts = match &args.prompts {
        None => Prompts::default(),
        Some(dir) => Prompts::overridden_by(dir)
            .map_err(|e| Error::input(e.to_string(), "see --prompts in the manual"))?,
    };
    let extra = match &args.request {
        None => serde_json::Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Error::input(format!("--request: {e}"), "give a JSON object"))?,
    };
    let instances = commands::instances(&args.run.tasks, &args.run.instances)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Plan {
        dir: commands::run_dir(&args.run),
        run_id: args.run.run_id.clone(),
        instances,
        samples: args.samples.max(1),
        agent,
        prompts,
        dialect: match args.dialect {
            Some(DialectKind::Tools) => Dialect::Tools,
            Some(DialectKind::Text) => Dialect::Text,
            None if matches!(model, ModelSpec::Local(_)) => Dialect::Text,
            None => Dialect::Tools,
        },
        model,
        examples: Vec::new(),
        prices,
        http: HttpOptions {
            timeout: Duration::from_secs(args.request_timeout),
            attempts: args.request_attempts.max(1),
            ..HttpOptions::default()
        },
        sampling: Sampling {
            temperature: args.temperature,
            top_p: args.top_p,
            max_tokens: args.max_output_tokens,
            seed: args.seed,
            token_ids: args.token_ids,
            extra,
        },
        limits: Limits {
            turns: Some(args.max_turns),
            tokens: args.max_tokens,
            cost: args.max_cost,
            time: Some(Duration::from_secs(args.max_time)),
            context: args.max_context,
            command: Duration::from_secs(args.command_timeout),
        },
        budget: args.budget,
        grading: (!args.no_grade).then(|| commands::grading(&args.run)),
        workers: args.workers,
        commands: args.commands.unwrap_or(2 * cores),
        attempts: args.attempts.max(1),
    })
}

fn show(ui: &Ui, bar: &mut Option<Progress>, resolved: &mut usize, event: &Event<'_>) {
    if let Event::Begin { total, resumed } = event {
        let mut new = ui.progress(*total, "rollout");
        if *resumed > 0 {
            ui.say(format!("{resumed} of {total} were done before"));
            new.resume(*resumed as u64);
        }
        *bar = Some(new);
        return;
    }
    let Some(bar) = bar else { return };
    match event {
        Event::Begin { .. } => {}
        Event::Step { instance_id, what } => bar.note(&format!("{instance_id}: {what}")),
        Event::Retrying { instance_id, why } => {
            bar.warn(format!("{instance_id}: {why}; trying again"));
        }
        Event::Ended { episode, outcome } => {
            if let swegym_core::End::Failed { why, .. } = &episode.end {
                bar.warn(format!("{}: {why}", episode.instance_id));
            }
            *resolved += usize::from(matches!(outcome, Some(Outcome::Resolved)));
            bar.advance(&format!(
                "{resolved} resolved  {}/{}: {}",
                episode.instance_id,
                episode.sample,
                episode.end.name()
            ));
        }
    }
}

fn code(ui: &Ui, summary: &Summary) -> u8 {
    if summary.failed > 0 {
        ui.warn(format!(
            "{} of {} episodes were broken by the machine or the provider",
            summary.failed, summary.total
        ));
        ui.hint("the same command tries those again; `swegym doctor` checks this machine");
        return exit::FINDINGS;
    }
    if !summary.complete {
        ui.hint("the same command goes on where this one stopped");
        return exit::INTERRUPTED;
    }
    exit::SUCCESS
}

fn print(ui: &Ui, summary: &Summary) {
    let rows = summary
        .ends
        .iter()
        .map(|(end, count)| vec![(*end).to_owned(), count.to_string()]);
    ui.data(table(&["end", "episodes"], &[1], rows));
    let spent = &summary.spent;
    let cost = spent.usage.cost_usd.unwrap_or_default();
    ui.say(format!(
        "\n{} of {} resolved, {} empty patches, {} calls, {} tokens, ${cost:.2}, in {}",
        summary.resolved,
        summary.done,
        summary.empty_patches,
        spent.calls,
        spent.usage.tokens(),
        human_time(summary.seconds)
    ));
}
