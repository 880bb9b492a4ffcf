//! `swegym tasks`: look at, count, convert and check datasets.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use swegym::card::CardBuilder;
use swegym::provenance::Step;
use swegym::{Error, exit};
use swegym_core::Instance;
use swegym_data::curate::{
    DEFAULT_THRESHOLD, Dedup, DedupRules, Difficulty, Leak, Leaks, RepoSplitter, SameBecause,
    SplitSide, lite, measure, short,
};
use swegym_data::{
    Checker, Dataset, Finding, Mean, SWE_BENCH_COLUMNS, Severity, Stats, StatsBuilder, WriteFormat,
    WriteOptions, convert,
};

use crate::args::{Format, TasksCommand};
use crate::ui::{DIM, Ui, table};

pub fn run(ui: &Ui, command: TasksCommand) -> Result<u8, Error> {
    match command {
        TasksCommand::Show { files, instances } => show(ui, &files, &instances),
        TasksCommand::Stats { files, plot } => stats(ui, &files, plot.as_deref()),
        TasksCommand::Card { file, name, out } => card(ui, &file, name, &out),
        TasksCommand::Dedup {
            files,
            near,
            same_tests,
            out,
        } => dedup(ui, &files, DedupRules { near, same_tests }, &out),
        TasksCommand::Convert { file, to, out } => converted(ui, &file, to, &out),
        TasksCommand::Check { files } => check(ui, &files),
        TasksCommand::Lite { file, out } => {
            let broken = |i: &Instance| lite(i).iter().map(|rule| rule.name()).collect();
            kept(ui, &file, &out, &broken)
        }
        TasksCommand::Short { file, out } => {
            let broken = |i: &Instance| short(i).iter().map(|rule| rule.name()).collect();
            kept(ui, &file, &out, &broken)
        }
        TasksCommand::Split {
            file,
            share,
            seed,
            out,
        } => split(ui, &file, share, seed, &out),
    }
}

fn show(ui: &Ui, files: &[String], only: &[String]) -> Result<u8, Error> {
    let mut left: Vec<&String> = only.iter().collect();
    for file in files {
        for instance in Dataset::open(file)?.instances() {
            let instance = instance?;
            if only.is_empty() && !ui.json {
                ui.data(one_line(&instance));
            } else if only.is_empty() || only.contains(&instance.instance_id) {
                left.retain(|id| **id != instance.instance_id);
                if ui.json {
                    ui.data(serde_json::to_string(&instance).expect("plain data"));
                } else {
                    ui.data(in_full(&instance));
                }
            }
        }
    }
    match left.first() {
        None => Ok(exit::SUCCESS),
        Some(id) => Err(Error::input(
            format!("no instance {id:?} in {}", files.join(", ")),
            "without `--instance` this command lists them",
        )),
    }
}

fn one_line(instance: &Instance) -> String {
    let title = instance
        .problem_statement
        .lines()
        .find(|l| !l.trim().is_empty());
    let tests = (instance.fail_to_pass.len(), instance.pass_to_pass.len());
    format!(
        "{}  {DIM}{} to fix, {} to keep{DIM:#}  {}",
        instance.instance_id,
        tests.0,
        tests.1,
        title.unwrap_or_default().trim()
    )
}

fn in_full(instance: &Instance) -> String {
    let mut text = format!("{}\n", instance.instance_id);
    let fields = [
        ("repository", instance.repo.as_str()),
        ("base commit", &instance.base_commit),
        ("version", instance.version.as_deref().unwrap_or_default()),
        (
            "created",
            instance.created_at.as_deref().unwrap_or_default(),
        ),
        (
            "test command",
            instance.test_command.as_deref().unwrap_or_default(),
        ),
    ];
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        text += &format!("{DIM}{name}{DIM:#}  {value}\n");
    }
    let sections = [
        ("issue", instance.problem_statement.clone()),
        ("FAIL_TO_PASS", instance.fail_to_pass.join("\n")),
        ("PASS_TO_PASS", instance.pass_to_pass.join("\n")),
        ("gold patch", instance.patch.clone()),
        ("test patch", instance.test_patch.clone()),
    ];
    for (name, body) in sections {
        text += &format!("\n{DIM}-- {name} --{DIM:#}\n{}\n", body.trim_end());
    }
    text
}

/// Statistics of a file, and its instances by difficulty.
#[derive(Serialize)]
struct Counted {
    #[serde(flatten)]
    stats: Stats,
    difficulty: BTreeMap<Difficulty, usize>,
}

fn stats(ui: &Ui, files: &[String], plot: Option<&Path>) -> Result<u8, Error> {
    let mut all = BTreeMap::new();
    for file in files {
        let mut builder = StatsBuilder::default();
        let mut difficulty = BTreeMap::new();
        for instance in Dataset::open(file)?.instances() {
            let instance = instance?;
            builder.add(&instance);
            *difficulty
                .entry(measure(&instance).difficulty())
                .or_default() += 1;
        }
        let stats = builder.finish();
        all.insert(file.clone(), Counted { stats, difficulty });
    }
    if let Some(path) = plot {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (repo, count) in all.values().flat_map(|c| &c.stats.per_repository) {
            *counts.entry(repo).or_default() += count;
        }
        let mut bars: Vec<(String, usize)> =
            counts.into_iter().map(|(r, n)| (r.to_owned(), n)).collect();
        bars.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let svg = swegym::plot::bars("Instances per repository", &bars)?;
        swegym_data::atomic::write(path, svg.as_bytes())?;
        ui.say(format!("plot in {}", path.display()));
    }
    ui.answer(&all, |ui| {
        for (file, counted) in &all {
            if all.len() > 1 {
                ui.data(format!("{file}:"));
            }
            print_stats(ui, &counted.stats);
            ui.data("");
            let lines = counted.difficulty.iter().map(|(class, n)| {
                let share = 100.0 * *n as f64 / counted.stats.instances.max(1) as f64;
                let class = format!("{class:?}").to_lowercase();
                vec![class, n.to_string(), format!("{share:.1} %")]
            });
            ui.data(table(&["difficulty", "instances", "share"], &[1, 2], lines));
        }
    });
    Ok(exit::SUCCESS)
}

fn card(ui: &Ui, file: &str, name: Option<String>, out: &Path) -> Result<u8, Error> {
    let mut builder = CardBuilder::default();
    for instance in Dataset::open(file)?.instances() {
        builder.add(&instance?);
    }
    let steps = Step::leading_to(Path::new(file))?;
    if steps.is_empty() {
        ui.warn(format!("{file}: no record beside it of how it was made"));
    }
    let folder = out.canonicalize().unwrap_or_else(|_| out.to_owned());
    let name = name.unwrap_or_else(|| {
        let last = folder.file_name().unwrap_or(folder.as_os_str());
        last.to_string_lossy().into_owned()
    });
    let written = builder.write(&name, &steps, out)?;
    ui.answer(&written, |ui| {
        for path in &written {
            ui.data(path.display());
        }
    });
    Ok(exit::SUCCESS)
}

fn dedup(ui: &Ui, files: &[String], rules: DedupRules, out: &Path) -> Result<u8, Error> {
    if rules.near.is_some_and(|near| !(near > 0.0 && near <= 1.0)) {
        return Err(Error::input(
            "--near: not above 0 and up to 1",
            "0.9 calls solutions the same that share nine tenths",
        ));
    }
    let mut seen = Dedup::new(rules);
    let mut dropped: BTreeMap<SameBecause, usize> = BTreeMap::new();
    let mut rows = 0;
    let mut writer = swegym::tasks::Writer::create(out)?;
    for file in files {
        for instance in Dataset::open(file)?.instances() {
            let instance = instance?;
            rows += 1;
            match seen.check(&instance) {
                Some(duplicate) => *dropped.entry(duplicate.because).or_default() += 1,
                None => writer.add(&instance)?,
            }
        }
    }
    let kept = writer.finish()?;
    let answer = serde_json::json!({ "rows": rows, "kept": kept, "dropped": dropped });
    ui.answer(&answer, |ui| {
        let lines = dropped.iter().map(|(because, n)| {
            let because = match because {
                SameBecause::Id => "the same name",
                SameBecause::Patch => "the same solution",
                SameBecause::NearPatch => "nearly the same solution",
                SameBecause::Tests => "the same tests of the same functions",
            };
            vec![because.to_owned(), n.to_string()]
        });
        ui.data(table(&["dropped for", "rows"], &[1], lines));
    });
    ui.say(format!("{kept} of {rows} rows in {}", out.display()));
    Ok(exit::SUCCESS)
}

fn print_stats(ui: &Ui, stats: &Stats) {
    let row = |group: &str, name: &str, mean: &Mean| {
        let (average, max) = match mean.count {
            0 => ("-".to_owned(), "-".to_owned()),
            _ => (format!("{:.1}", mean.mean), format!("{:.0}", mean.max)),
        };
        vec![group.to_owned(), name.to_owned(), average, max]
    };
    let rows = [
        row("issue", "words", &stats.issue_words),
        row("codebase", "non-test files", &stats.non_test_files),
        row("", "non-test lines", &stats.non_test_lines),
        row("gold patch", "lines edited", &stats.gold_lines),
        row("", "files edited", &stats.gold_files),
        row("", "functions edited", &stats.gold_functions),
        row("tests", "fail to pass", &stats.fail_to_pass),
        row("", "in total", &stats.tests),
    ];
    ui.data(format!(
        "{} instances of {} repositories",
        stats.instances, stats.repositories
    ));
    ui.data(table(&["", "", "mean", "max"], &[2, 3], rows));
    ui.data("");
    let rows = stats.per_repository.iter().map(|(repo, count)| {
        let share = 100.0 * *count as f64 / stats.instances.max(1) as f64;
        vec![repo.clone(), count.to_string(), format!("{share:.1} %")]
    });
    ui.data(table(&["repository", "instances", "share"], &[1, 2], rows));
    if stats.bad_patches > 0 {
        ui.warn(format!("{} gold patches do not parse", stats.bad_patches));
        ui.hint("`swegym tasks check` names them");
    }
}

fn converted(ui: &Ui, file: &str, to: Format, out: &std::path::Path) -> Result<u8, Error> {
    let mut options = WriteOptions::default();
    let format = match to {
        Format::Jsonl => WriteFormat::JsonLines,
        Format::Json => WriteFormat::JsonList,
        Format::Parquet => WriteFormat::Parquet,
        Format::ParquetSwebench => {
            options.tests_as_text = true;
            options.columns = Some(SWE_BENCH_COLUMNS.iter().map(|&c| c.to_owned()).collect());
            WriteFormat::Parquet
        }
        Format::Harbor => WriteFormat::Harbor,
        Format::TaskRepo => WriteFormat::TaskRepo,
    };
    let done = convert(&Dataset::open(file)?, out, format, &options)?;
    let dropped: BTreeMap<&str, usize> = done
        .dropped
        .iter()
        .map(|d| (d.column.as_str(), d.rows))
        .collect();
    let answer = serde_json::json!({ "rows": done.rows, "dropped": dropped });
    ui.answer(&answer, |ui| {
        ui.say(format!("{} instances in {}", done.rows, out.display()));
        for (column, rows) in &dropped {
            ui.warn(format!(
                "the format has no place for `{column}` ({rows} rows had it)"
            ));
        }
    });
    Ok(exit::SUCCESS)
}

/// Writes the rows that break no rule, and says how many break which.
fn kept(
    ui: &Ui,
    file: &str,
    out: &Path,
    broken_by: &dyn Fn(&Instance) -> Vec<&'static str>,
) -> Result<u8, Error> {
    let mut broken: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut rows, mut kept) = (0, Vec::new());
    for instance in Dataset::open(file)?.instances() {
        let instance = instance?;
        rows += 1;
        let rules = broken_by(&instance);
        for rule in &rules {
            *broken.entry(rule).or_default() += 1;
        }
        if rules.is_empty() {
            kept.push(instance);
        }
    }
    swegym::tasks::write(out, &kept)?;
    let answer = serde_json::json!({ "rows": rows, "kept": kept.len(), "broken": broken });
    ui.answer(&answer, |ui| {
        let lines = broken
            .iter()
            .map(|(rule, n)| vec![(*rule).to_owned(), n.to_string()]);
        ui.data(table(&["rule", "rows that break it"], &[1], lines));
    });
    ui.say(format!(
        "{} of {rows} rows in {}",
        kept.len(),
        out.display()
    ));
    Ok(exit::SUCCESS)
}

fn split(ui: &Ui, file: &str, share: f64, seed: u64, out: &Path) -> Result<u8, Error> {
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::input(
            format!("--share {share}: not between 0 and 1"),
            "0.2 gives a fifth of the tasks to the test side",
        ));
    }
    let instances = swegym::tasks::read(file)?;
    let mut splitter = RepoSplitter::default();
    for instance in &instances {
        splitter.add(instance);
    }
    let sides = splitter.split(share, seed);
    let (test, train): (Vec<Instance>, Vec<Instance>) = instances
        .into_iter()
        .partition(|instance| sides.side(instance) == SplitSide::Test);
    let mut leaks = Leaks::new(DEFAULT_THRESHOLD);
    for instance in &test {
        leaks.hold_out(instance, &[]);
    }
    let mut found: Vec<Leak> = Vec::new();
    let train: Vec<Instance> = train
        .into_iter()
        .filter(|instance| {
            let shared = leaks.check(instance, &[]);
            let clean = shared.is_empty();
            found.extend(shared);
            clean
        })
        .collect();
    swegym::tasks::write(&out.join("train.jsonl"), &train)?;
    swegym::tasks::write(&out.join("test.jsonl"), &test)?;
    swegym::tasks::write_lines(&out.join("leaks.jsonl"), &found)?;
    let answer = serde_json::json!({
        "train": train.len(), "test": test.len(), "leaks": found.len(),
        "repositories": sides,
    });
    ui.answer(&answer, |ui| {
        ui.say(format!(
            "{} tasks to train on, {} to test on, {} findings of leaks left out; in {}",
            train.len(),
            test.len(),
            found.len(),
            out.display()
        ));
    });
    Ok(exit::SUCCESS)
}

fn check(ui: &Ui, files: &[String]) -> Result<u8, Error> {
    let mut worst = None;
    let mut counts: BTreeMap<Severity, usize> = BTreeMap::new();
    let mut rows = 0;
    for file in files {
        let mut checker = Checker::default();
        for row in Dataset::open(file)?.instances() {
            rows += 1;
            for finding in checker.check(&row) {
                worst = worst.max(Some(finding.severity));
                *counts.entry(finding.severity).or_default() += 1;
                report(ui, file, &finding);
            }
        }
    }
    let count = |severity| counts.get(&severity).copied().unwrap_or_default();
    ui.say(format!(
        "{rows} rows: {} errors, {} warnings, {} remarks",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Info)
    ));
    Ok(if worst == Some(Severity::Error) {
        exit::FINDINGS
    } else {
        exit::SUCCESS
    })
}

fn report(ui: &Ui, file: &str, finding: &Finding) {
    if ui.json {
        ui.data(serde_json::to_string(finding).expect("plain data"));
        return;
    }
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "remark",
    };
    ui.data(format!(
        "{file}: row {}: {severity}: {}{}",
        finding.row,
        if finding.instance_id.is_empty() {
            String::new()
        } else {
            format!("{}: ", finding.instance_id)
        },
        finding.problem
    ));
}
