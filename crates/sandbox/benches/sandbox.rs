//! `cargo bench -p swegym-sandbox`: prints the numbers, and writes them to
//! `benches/results/<date>-sandbox.json` of the workspace. `SWEGYM_BENCH_FULL`
//! asks for 1,000 live sandboxes and 10,000 cycles, `SWEGYM_BENCH_STARTS` for
//! so many starts and little else, `SWEGYM_BENCH_RIVAL` names a command to
//! compare with.
#![allow(clippy::print_stdout)]

fn main() {
    #[cfg(target_os = "linux")]
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;

    use swegym_core::SandboxSpec;
    use swegym_sandbox::bench::{Options, Results, prototype_main, run};
    use swegym_sandbox::{child_main, host_base};

    pub fn main() {
        child_main();
        prototype_main();
        if let Err(e) = bench() {
            println!("{e}");
            std::process::exit(1);
        }
    }

    fn bench() -> Result<(), Box<dyn std::error::Error>> {
        let mut options = Options::default();
        if std::env::var_os("SWEGYM_BENCH_FULL").is_some() {
            (options.live, options.cycles) = (1000, 10_000);
        }
        if let Ok(starts) = std::env::var("SWEGYM_BENCH_STARTS") {
            options.starts = starts.parse::<usize>()?.max(options.starts);
            (
                options.round_trips,
                options.states,
                options.live,
                options.cycles,
            ) = (200, 1, 1, 1);
        }
        if let Ok(rival) = std::env::var("SWEGYM_BENCH_RIVAL") {
            options.rival = Some(rival.split_whitespace().map(str::to_owned).collect());
        }
        let dir = tempfile::tempdir()?;
        let base = host_base(dir.path(), false)?;
        let spec = SandboxSpec {
            layers: vec![dir.path().to_owned()],
            binds: base.binds,
            ..SandboxSpec::default()
        };
        let results = run(&spec, &options)?;
        let text = serde_json::to_string_pretty(&results)? + "\n";
        print!("{text}");
        if let Err(e) = keep(&results, &text) {
            println!("not kept: {e}");
        }
        Ok(())
    }

    /// Writes the numbers down, where the caller may.
    fn keep(results: &Results, text: &str) -> std::io::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/results");
        std::fs::create_dir_all(&folder)?;
        let who = if results.root { "root" } else { "user" };
        let today = jiff::Timestamp::now().strftime("%Y-%m-%d");
        std::fs::write(folder.join(format!("{today}-sandbox-{who}.json")), text)
    }
}
