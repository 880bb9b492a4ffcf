//! Integration tests. A harness of their own, because the sandbox starts this
//! very program as its helper, and because a test that cannot run on a machine
//! has to say so by name.

mod integrity;
mod making;
mod mined;
mod real;
mod rebuild;
mod support;
mod tidy;

use libtest_mimic::{Arguments, Trial};

fn main() {
    swegym_sandbox::child_main();
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = tidy::trials();
    trials.extend(integrity::trials());
    trials.extend(rebuild::trials());
    trials.extend(making::trials());
    trials.extend(mined::trials());
    trials.extend(real::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
