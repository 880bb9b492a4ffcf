//! Patches to compiled extensions: they are graded by what they compile to,
//! and what their build does besides counts for nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use swegym::evaluate::describe;
use swegym_core::{EnvSpec, Instance, Outcome, Prediction, Source, Status};
use swegym_data::ResultRow;
use swegym_forge::Mode;

use crate::integrity::REQUIREMENTS;
use crate::support::{evaluate, obstacle, root};

/// One case never ends.
const TIMEOUT: Duration = Duration::from_secs(40);

#[derive(Debug, Deserialize)]
struct Expected {
    /// Name of the outcome.
    outcome: String,
    /// What the patch does.
    what: String,
    /// The flag that its build must leave; without it, none.
    flag: Option<String>,
    /// Tests that fail.
    #[serde(default)]
    failed: Vec<String>,
}

pub fn trials() -> Vec<Trial> {
    ["clamp", "span"]
        .map(|name| {
            let title = format!("rebuild: {name}");
            let reason = obstacle().or_else(|| (!has_compiler()).then_some("no C compiler"));
            match reason {
                Some(reason) => Trial::test(format!("{title} (cannot run: {reason})"), || Ok(()))
                    .with_ignored_flag(true),
                None => Trial::test(title, move || {
                    check(&root().join("fixtures/rebuild").join(name))
                }),
            }
        })
        .into()
}

fn has_compiler() -> bool {
    ["/usr/bin/cc", "/usr/local/bin/cc"]
        .iter()
        .any(|path| Path::new(path).exists())
}

fn check(dir: &Path) -> Result<(), Failed> {
    let instance = instance(dir)?;
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("cases"))?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    let mut cases = Vec::new();
    let mut predictions = vec![swegym_data::gold(&instance), swegym_data::empty(&instance)];
    for file in files {
        let expected: Expected = serde_json::from_slice(&fs::read(&file)?)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        predictions.push(Prediction {
            instance_id: instance.instance_id.clone(),
            model_name_or_path: name.clone().into_owned(),
            model_patch: Some(fs::read_to_string(file.with_extension("diff"))?),
        });
        cases.push((name.into_owned(), expected));
    }
    let rows = evaluate(vec![instance], predictions, Mode::Auto, TIMEOUT);
    let row = |model: &str| {
        rows.iter()
            .find(|row| row.model_name_or_path == model)
            .expect("a result for every prediction")
    };
    let mut wrong = Vec::new();
    if !row("gold").resolved || row("empty").outcome != Outcome::EmptyPatch {
        wrong.push(format!("gold: {:?}", row("gold").outcome));
    }
    for (name, expected) in &cases {
        if let Some(what) = difference(row(name), expected) {
            wrong.push(format!("{name} ({}): {what}", expected.what));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn difference(row: &ResultRow, expected: &Expected) -> Option<String> {
    let flag = row
        .flags
        .iter()
        .map(|flag| flag.name.as_str())
        .find(|name| ["does_not_build", "extension_lost"].contains(name));
    let failed = |id: &String| row.tests.get(id) == Some(&Status::Failed);
    let right = row.outcome.name() == expected.outcome
        && row.official_resolved == Some(row.resolved)
        && flag == expected.flag.as_deref()
        && expected.failed.iter().all(failed);
    (!right).then(|| {
        format!(
            "{} {}; official {:?}; {:?}; {:?}",
            row.outcome.name(),
            describe(&row.outcome),
            row.official_resolved,
            row.tests,
            row.flags
        )
    })
}

fn instance(dir: &Path) -> Result<Instance, Failed> {
    let mut instance: Instance = serde_json::from_slice(&fs::read(dir.join("task.json"))?)?;
    instance.patch = fs::read_to_string(dir.join("gold.diff"))?;
    instance.test_patch = fs::read_to_string(dir.join("test.diff"))?;
    instance.source = Some(Source::Dir(dir.join("repo")));
    instance.environment = Some(EnvSpec {
        python: Some("3.11".into()),
        requirements: REQUIREMENTS.iter().map(|&r| r.to_owned()).collect(),
        install: Some("python -m pip install -e .".into()),
        ..EnvSpec::default()
    });
    Ok(instance)
}
