//! The `swegym` program: parses the command line, runs one command, turns its
//! error into a hint and an exit code.

mod args;
mod commands;
mod ui;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use swegym::{Error, exit};

use crate::args::{Cli, Command};
use crate::ui::Ui;

fn main() -> ExitCode {
    // The sandbox starts this very program as its helper.
    swegym_sandbox::child_main();
    // And again, inside, as the way from an agent to its model.
    swegym::rollout::relay::run_if_asked();
    let cli = Cli::parse();
    let ui = Ui::new(&cli.global);
    match run(&ui, cli) {
        Ok(code) => code.into(),
        Err(e) => {
            ui.error(&e);
            if let Some(hint) = e.hint() {
                ui.hint(hint);
            }
            e.exit_code().into()
        }
    }
}

fn run(ui: &Ui, cli: Cli) -> Result<u8, Error> {
    let global = &cli.global;
    match cli.command {
        Command::Doctor => commands::doctor::run(ui, global),
        Command::Demo(args) => commands::demo::run(ui, global, args),
        Command::Collect(command) => commands::collect::run(ui, global, command),
        Command::Synth(args) => commands::synth::run(ui, global, args),
        Command::Validate(args) => commands::validate::run(ui, global, args),
        Command::Tasks(command) => commands::tasks::run(ui, command),
        Command::Env(command) => commands::env::run(ui, global, command),
        Command::Rollout(args) => commands::rollout::run(ui, global, &args),
        Command::Runs(command) => commands::runs::run(ui, command),
        Command::Trajectories(command) => commands::trajectories::run(ui, command),
        Command::Models(command) => commands::models::run(ui, global, command),
        Command::Serve(args) => commands::serve::run(ui, global, &args),
        Command::Export(args) => commands::hand_over::run(ui, global, &args),
        Command::BestOf(args) => commands::best_of::run(ui, global, &args),
        Command::Improve(args) => commands::improve::run(ui, global, &args),
        Command::Score(args) => commands::score::run(ui, global, &args),
        Command::Study(command) => commands::study::run(ui, global, command),
        Command::Train(args) => commands::train::run(ui, global, &args),
        Command::Evaluate(args) => commands::evaluate::run(ui, global, args),
        Command::Logs(command) => commands::logs::run(ui, command),
        Command::Bench(args) => commands::bench::run(ui, global, args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "swegym", &mut std::io::stdout());
            Ok(exit::SUCCESS)
        }
        Command::Man { dir } => {
            clap_mangen::generate_to(Cli::command(), &dir).map_err(|e| Error::io(&dir, e))?;
            Ok(exit::SUCCESS)
        }
    }
}
