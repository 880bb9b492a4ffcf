//! The card of a dataset: what is in it, how it was made, how to make it
//! again; as README.md with plots, in the form that the Hugging Face hub shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use minijinja::{Environment as Templates, context};
use serde::Serialize;
use swegym_core::Instance;
use swegym_data::curate::{Difficulty, measure};
use swegym_data::{Stats, StatsBuilder};

use crate::provenance::Step;
use crate::{Error, plot};

const TEMPLATE: &str = include_str!("../templates/card.md");

/// Repositories that the plot shows.
const SHOWN: usize = 30;

/// Sums a dataset up, instance by instance.
#[derive(Debug, Default)]
pub struct CardBuilder {
    stats: StatsBuilder,
    difficulty: BTreeMap<Difficulty, usize>,
    licenses: BTreeMap<String, usize>,
    with_mutants: usize,
    with_environment: usize,
}

#[derive(Serialize)]
struct Row {
    name: String,
    mean: String,
    max: String,
}

impl CardBuilder {
    /// Takes an instance in.
    pub fn add(&mut self, instance: &Instance) {
        self.stats.add(instance);
        let difficulty = measure(instance).difficulty();
        *self.difficulty.entry(difficulty).or_default() += 1;
        let license = instance.extra.get("license_name").and_then(|l| l.as_str());
        let license = license.unwrap_or("not stated").to_owned();
        *self.licenses.entry(license).or_default() += 1;
        self.with_mutants += usize::from(instance.mutants.is_some());
        self.with_environment += usize::from(instance.extra.contains_key("environment_lock"));
    }

    /// Writes `README.md` and the plots that it shows into a folder; gives
    /// their paths. `steps` are what made the dataset, first to last.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(self, name: &str, steps: &[Step], dir: &Path) -> Result<Vec<PathBuf>, Error> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let stats = self.stats.finish();
        let mut written = Vec::new();
        let mut put = |name: &str, text: &str| -> Result<(), Error> {
            let path = dir.join(name);
            swegym_data::atomic::write(&path, text.as_bytes())?;
            written.push(path);
            Ok(())
        };
        let mut repositories = stats.per_repository.clone();
        repositories.truncate(SHOWN);
        put(
            "repositories.svg",
            &plot::bars("Instances per repository", &repositories)?,
        )?;
        let yields: Vec<(String, usize)> = steps
            .iter()
            .flat_map(|step| {
                let command = step.arguments.first().cloned().unwrap_or_default();
                let stages = step.funnel.stages.iter();
                stages.map(move |(stage, n)| (format!("{command}: {stage}"), *n))
            })
            .collect();
        if !yields.is_empty() {
            put(
                "yield.svg",
                &plot::bars("Candidates at each stage", &yields)?,
            )?;
        }
        let mut licenses: Vec<(&String, &usize)> = self.licenses.iter().collect();
        licenses.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
        let mut templates = Templates::new();
        templates
            .add_template("card.md", TEMPLATE)
            .map_err(Error::bug)?;
        let text = templates
            .get_template("card.md")
            .and_then(|template| {
                template.render(context! {
                    name => name,
                    size => size_category(stats.instances),
                    instances => stats.instances,
                    repositories => stats.repositories,
                    more_repositories => stats.repositories.saturating_sub(SHOWN),
                    rows => table(&stats),
                    difficulty => self.difficulty,
                    licenses => licenses,
                    with_mutants => self.with_mutants,
                    with_environment => self.with_environment,
                    steps => steps,
                    plotted => !yields.is_empty(),
                })
            })
            .map_err(Error::bug)?;
        put("README.md", &text)?;
        Ok(written)
    }
}

/// The paper's Table 2, without what no instance has.
fn table(stats: &Stats) -> Vec<Row> {
    let rows = [
        ("words of the issue", &stats.issue_words),
        ("non-test files of the codebase", &stats.non_test_files),
        ("non-test lines of the codebase", &stats.non_test_lines),
        ("lines the gold patch edits", &stats.gold_lines),
        ("files it edits", &stats.gold_files),
        ("functions it edits", &stats.gold_functions),
        ("tests to fix", &stats.fail_to_pass),
        ("tests in total", &stats.tests),
    ];
    rows.into_iter()
        .filter(|(_, mean)| mean.count > 0)
        .map(|(name, mean)| Row {
            name: name.to_owned(),
            mean: format!("{:.1}", mean.mean),
            max: format!("{:.0}", mean.max),
        })
        .collect()
}

/// The hub's classes of size.
fn size_category(rows: usize) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        _ => "100K<n<1M",
    }
}
