//! One file a command: arguments in, lines out, exit code.

pub mod bench;
pub mod best_of;
pub mod collect;
pub mod demo;
pub mod doctor;
pub mod env;
pub mod evaluate;
pub mod hand_over;
pub mod improve;
pub mod logs;
pub mod models;
pub mod rollout;
pub mod runs;
pub mod score;
pub mod serve;
pub mod study;
pub mod synth;
pub mod tasks;
pub mod train;
pub mod trajectories;
pub mod validate;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use swegym::curate::Part;
use swegym::dispatch::Cancel;
use swegym::home::Home;
use swegym::{Error, grade};
use swegym_core::{Backend, Instance};
use swegym_sandbox::{ContainerBackend, NativeBackend};

use crate::args::{BackendKind, Global, PartArgs, PartBy, RunArgs, SplitPart};
use crate::ui::{DIM, Ui};

/// The folder for caches.
pub fn home(global: &Global) -> Result<Home, Error> {
    match &global.home {
        Some(dir) => Ok(Home::at(
            std::path::absolute(dir).map_err(|e| Error::io(dir, e))?,
        )),
        None => Home::find(),
    }
}

/// The sandbox backend that was asked for; says what it does without.
pub fn backend(ui: &Ui, global: &Global) -> Result<Arc<dyn Backend>, Error> {
    let container = match global.backend {
        BackendKind::Native => return Ok(Arc::new(NativeBackend::new()?)),
        BackendKind::Podman => ContainerBackend::podman()?,
        BackendKind::Docker => ContainerBackend::docker()?,
    };
    for missing in container.unsupported() {
        ui.say(format!("{DIM}{}: {missing}{DIM:#}", container.name()));
    }
    Ok(Arc::new(container))
}

/// Instances of a dataset, all or those named; an unknown name is an error.
pub fn instances(dataset: &str, only: &[String]) -> Result<Vec<Instance>, Error> {
    let mut found = swegym::tasks::read(dataset)?;
    if !only.is_empty() {
        for id in only {
            if !found.iter().any(|i| i.instance_id == *id) {
                return Err(Error::input(
                    format!("{dataset} has no instance {id:?}"),
                    "`swegym tasks show` prints what it has",
                ));
            }
        }
        found.retain(|i| only.contains(&i.instance_id));
    }
    Ok(found)
}

/// A flag that Ctrl-C sets; a second one ends the program at once.
pub fn cancel_on_ctrl_c() -> Cancel {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    // Fails only where a handler is set already; then that one serves.
    let _ = ctrlc::set_handler(move || {
        if flag.is_cancelled() {
            std::process::exit(i32::from(swegym::exit::INTERRUPTED));
        }
        flag.cancel();
    });
    cancel
}

/// The folder of a run.
pub fn run_dir(args: &RunArgs) -> PathBuf {
    let default = || PathBuf::from("runs").join(&args.run_id);
    args.out.clone().unwrap_or_else(default)
}

/// The part of the attempts that a command reads; `None` for all.
pub fn part(args: &PartArgs) -> Option<Part> {
    let part = args.split?;
    Some(Part {
        by_repository: args.split_by == PartBy::Repository,
        share: args.split_share,
        seed: args.split_seed,
        first: part == SplitPart::Train,
    })
}

/// How a run grades.
pub fn grading(args: &RunArgs) -> grade::Options {
    grade::Options {
        timeout: Duration::from_secs(args.timeout),
        ..grade::Options::default()
    }
}
