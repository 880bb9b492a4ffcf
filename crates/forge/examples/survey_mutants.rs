//! Looks at all mutants of all Python files below some folders.
//!
//! ```text
//! cargo run --release -p swegym-forge --example survey_mutants -- FOLDER… [--write DIR --every N]
//! ```
//!
//! Prints counts by operator and the speed, and stops at a mutant that does
//! not parse. With `--write`, every Nth mutant goes to a file of its own, for
//! a real Python to compile.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use swegym_forge::mutate::{OPERATORS, Operators, Options, functions, mutations, sample};

#[derive(Default)]
struct Survey {
    files: usize,
    skipped: BTreeMap<String, usize>,
    functions: usize,
    useless: BTreeMap<String, usize>,
    mutants: usize,
    bytes: usize,
    per_operator: BTreeMap<String, usize>,
    enumerating: Duration,
    sampling: Duration,
    sampled: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut folders = Vec::new();
    let mut write: Option<PathBuf> = None;
    let mut every = 1000;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--write" => write = args.next().map(PathBuf::from),
            "--every" => every = args.next().unwrap_or_default().parse()?,
            _ => folders.push(PathBuf::from(arg)),
        }
    }
    let mut survey = Survey::default();
    for folder in folders {
        for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
            let path = entry?.into_path();
            if path.extension().is_some_and(|e| e == "py")
                && let Ok(text) = fs::read_to_string(&path)
            {
                survey.file(&path.to_string_lossy(), &text, write.as_deref(), every)?;
            }
        }
    }
    survey.print();
    Ok(())
}

impl Survey {
    fn file(
        &mut self,
        path: &str,
        text: &str,
        write: Option<&std::path::Path>,
        every: usize,
    ) -> Result<(), Box<dyn Error>> {
        let all = match functions(text) {
            Ok(all) => all,
            Err(reason) => {
                let kind = format!("{reason:?}");
                let kind = kind.split([' ', '{']).next().unwrap_or_default().to_owned();
                *self.skipped.entry(kind).or_default() += 1;
                return Ok(());
            }
        };
        self.files += 1;
        self.bytes += text.len();
        self.functions += all.len();
        for useless in all.iter().filter_map(|f| f.useless) {
            *self.useless.entry(format!("{useless:?}")).or_default() += 1;
        }
        let start = Instant::now();
        let mutants = mutations(text, &Operators::default())?;
        self.enumerating += start.elapsed();
        let start = Instant::now();
        self.sampled += sample(path, text, &Options::default(), |_| true)?.len();
        self.sampling += start.elapsed();
        for mutant in mutants {
            let change = &mutant.changes[0];
            *self
                .per_operator
                .entry(change.operator.clone())
                .or_default() += 1;
            self.mutants += 1;
            if self.mutants.is_multiple_of(every) {
                let new = mutant.apply(text)?;
                ruff_python_parser::parse_module(&new)
                    .map_err(|e| format!("{path}: {change:?}: {e}"))?;
                if let Some(dir) = write {
                    fs::create_dir_all(dir)?;
                    let name = format!("{}_{}.py", change.operator, mutant.id);
                    fs::write(dir.join(name), new)?;
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::print_stdout)]
    fn print(&self) {
        println!("files read {}, skipped {:?}", self.files, self.skipped);
        println!("functions {}, useless {:?}", self.functions, self.useless);
        println!(
            "mutants {}, {:.1} MB",
            self.mutants,
            self.bytes as f64 / 1e6
        );
        let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64();
        println!(
            "all mutants: {:.0} files/s, {:.0} mutants/s",
            rate(self.files, self.enumerating),
            rate(self.mutants, self.enumerating)
        );
        println!(
            "sampled {} at {:.0} files/s",
            self.sampled,
            rate(self.files, self.sampling)
        );
        for operator in OPERATORS {
            let count = self.per_operator.get(operator.name).unwrap_or(&0);
            println!(
                "{:>9}  {:<14} {}",
                count,
                operator.family.name(),
                operator.name
            );
        }
    }
}
