//! The program as its users see it: output, exit codes, kills.

mod bad_input;
mod collecting;
mod datasets;
mod git;
mod kills;
mod learning;
mod provider;
mod rollout;
mod serving;
mod support;
mod trainers;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = bad_input::trials();
    trials.extend(datasets::trials());
    trials.extend(collecting::trials());
    trials.extend(git::trials());
    trials.extend(kills::trials());
    trials.extend(learning::trials());
    trials.extend(rollout::trials());
    trials.extend(serving::trials());
    trials.extend(trainers::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
