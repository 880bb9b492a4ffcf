//! Runs the conformance suite on the native backend, as every kind of user
//! this machine allows: root, root without cgroups, and an ordinary user.

#[cfg(target_os = "linux")]
mod container;
#[cfg(target_os = "linux")]
mod native;
#[cfg(target_os = "linux")]
mod profiles;

fn main() {
    #[cfg(target_os = "linux")]
    {
        swegym_sandbox::child_main();
        swegym_sandbox::conformance::attack_main();
        profiles::run_single();
        native::run_victim();
        native::run_cycles();
        let arguments = libtest_mimic::Arguments::from_args();
        let mut trials = profiles::trials();
        trials.extend(native::trials());
        trials.extend(container::trials());
        let conclusion = libtest_mimic::run(&arguments, trials);
        container::clean();
        profiles::clean();
        conclusion.exit();
    }
}
