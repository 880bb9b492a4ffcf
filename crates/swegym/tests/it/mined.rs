//! Pull requests of SWE-bench's development split, mined again from mirrors of
//! their repositories: the split into solution and tests must be theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use libtest_mimic::{Failed, Trial};
use serde_json::json;
use swegym::collect::git::{self, Place, Plan, Range};
use swegym::dispatch::Cancel;
use swegym::{codebase, tasks};
use swegym_core::Instance;
use swegym_data::Dataset;
use swegym_data::patch::{Content, Line, Patch};
use swegym_forge::pulls::SplitRule;

use crate::support::{home, shared};

pub fn trials() -> Vec<Trial> {
    let title = "mined: pull requests of the development split";
    let ignored = |reason: &str| {
        let name = format!("{title} (cannot run: {reason})");
        vec![Trial::test(name, || Ok(())).with_ignored_flag(true)]
    };
    let Some(rows) = rows() else {
        return ignored("no folder of real data");
    };
    let mut mirrors = codebase::mirrors_from_env(&home());
    mirrors.url_templates.clear();
    let mut of_repository: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for row in rows {
        of_repository.entry(row.repo.clone()).or_default().push(row);
    }
    of_repository.retain(|repo, _| mirrors.open_name(repo, None).is_ok());
    if of_repository.is_empty() {
        return ignored("SWEGYM_MIRRORS has none of its repositories");
    }
    of_repository
        .into_iter()
        .map(|(repo, rows)| Trial::test(format!("{title}: {repo}"), move || mined(&repo, rows)))
        .collect()
}

fn rows() -> Option<Vec<Instance>> {
    let file = shared()?.join("data/swebench/SWE-bench-dev.parquet");
    let rows = Dataset::open_path(&file).ok()?;
    rows.instances().collect::<Result<_, _>>().ok()
}

fn mined(repo: &str, rows: Vec<Instance>) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let pulls = dir.path().join("pulls.jsonl");
    let lines: Result<Vec<String>, Failed> = rows.iter().map(line).collect();
    fs::write(&pulls, lines?.concat())?;
    let plan = Plan {
        place: Place::Name(repo.to_owned()),
        repo: None,
        pulls: Some(pulls),
        issues: None,
        range: Range::default(),
        rule: SplitRule::Reference,
        dir: dir.path().join("out"),
    };
    let summary = git::run(&plan, &home(), &Cancel::default(), &mut |_| {})?;
    if summary.funnel.stages["candidates"] != rows.len() {
        return Err(format!("{:?} of {} rows", summary.funnel, rows.len()).into());
    }
    let candidates = read(summary.candidates)?;
    let mut wrong = Vec::new();
    for (theirs, ours) in rows.iter().zip(&candidates) {
        let id = &theirs.instance_id;
        let said = |text: &str| text.replace('\r', "").trim_end().to_owned();
        if (id, &theirs.base_commit) != (&ours.instance_id, &ours.base_commit) {
            wrong.push(format!(
                "{id}: {} at {}",
                ours.instance_id, ours.base_commit
            ));
        }
        if said(&theirs.problem_statement) != said(&ours.problem_statement) {
            wrong.push(format!("{id}: another text"));
        }
        for (what, theirs, ours) in [
            ("solution", &theirs.patch, &ours.patch),
            ("tests", &theirs.test_patch, &ours.test_patch),
        ] {
            let (theirs, mut ours) = (hunks(theirs)?, hunks(ours)?);
            for (path, hunks) in theirs {
                if ours.remove(&path) != Some(hunks) {
                    wrong.push(format!("{id}: {what}: {path} differs"));
                }
            }
            // The rows of this split have no other files in their solutions.
            let more = ours.keys().find(|p| what == "tests" || p.ends_with(".py"));
            wrong.extend(more.map(|path| format!("{id}: {what}: {path} is ours alone")));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// A row as a dump would have it; difference and commits are the mirror's.
fn line(row: &Instance) -> Result<String, Failed> {
    let number = row.instance_id.rsplit('-').next().unwrap_or_default();
    let number: u64 = number.parse()?;
    let (title, body) = row
        .problem_statement
        .split_once('\n')
        .unwrap_or((&row.problem_statement, ""));
    let line = json!({
        "number": number, "repo": row.repo, "merged": true, "created_at": row.created_at,
        "base": {"sha": row.base_commit},
        "resolved_issues": [{"number": number, "title": title, "body": body}],
    });
    Ok(format!("{line}\n"))
}

fn read(path: PathBuf) -> Result<Vec<Instance>, Failed> {
    Ok(tasks::read(path.to_str().ok_or("a path")?)?)
}

type Hunks = Vec<(usize, usize, Vec<Line>)>;

/// Changed lines by file, without what versions of git write differently.
fn hunks(text: &str) -> Result<BTreeMap<String, Hunks>, Failed> {
    let files = Patch::parse(text.as_bytes())?.files.into_iter();
    let of = |content| match content {
        Content::Text(hunks) => hunks
            .into_iter()
            .map(|hunk| (hunk.old_start, hunk.new_start, hunk.lines))
            .collect(),
        _ => Vec::new(),
    };
    Ok(files
        .map(|file| (file.new_path, of(file.content)))
        .collect())
}
