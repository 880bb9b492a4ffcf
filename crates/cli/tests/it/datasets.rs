//! Counting, cards, duplicates.

use std::fs;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::{expect, swegym, tally, write};

const INPUT: i32 = 3;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("datasets::a_card_says_what_is_in_it", card),
        Trial::test("datasets::duplicates_are_dropped", duplicates),
        Trial::test("datasets::statistics_are_plotted", statistics),
    ]
}

/// Two tasks of one repository, and one of another.
fn rows() -> Vec<Value> {
    let mut rows = vec![tally(), tally(), tally()];
    rows[1]["instance_id"] = json!("other-1");
    rows[1]["patch"] = json!(
        "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@ def f():\n-    return 1\n+    return 2\n     # end\n"
    );
    rows[1]["license_name"] = json!("ISC");
    rows[2]["instance_id"] = json!("third-1");
    rows[2]["repo"] = json!("some/where");
    rows[2]["environment_lock"] = json!({"python": "3.9.1", "requirements": []});
    rows
}

fn card() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let tasks = dir.path().join("tasks.jsonl");
    write(&tasks, &rows());
    let step = json!({
        "program": "swegym 0", "arguments": ["synth", "thing"], "inputs": {},
        "funnel": {"stages": {"zebras": 9, "apples": 3}, "reasons": {"no_tests": 6}},
        "outputs": {"tasks.jsonl": "c0ffee"},
    });
    fs::write(dir.path().join("provenance.json"), step.to_string())?;
    let out = dir.path().join("card");
    let run = || {
        let mut command = swegym(["tasks", "card"]);
        command.arg(&tasks).arg("--out").arg(&out).output()
    };
    expect(&run()?, 0, &[])?;
    let text = fs::read_to_string(out.join("README.md"))?;
    for part in [
        "# card\n",
        "3 executable software-engineering tasks from 2 repositories",
        "1 name the interpreter",
        "| ISC | 1 |",
        "| not stated | 2 |",
        "`swegym synth thing`",
        "zebras 9, apples 3",
        "no_tests 6",
        "`tasks.jsonl` BLAKE3 `c0ffee`",
    ] {
        if !text.contains(part) {
            return Err(format!("no {part:?} in {text}").into());
        }
    }
    for (plot, part) in [
        ("repositories.svg", "some/where"),
        ("yield.svg", "synth: zebras"),
    ] {
        if !fs::read_to_string(out.join(plot))?.contains(part) {
            return Err(format!("no {part} in {plot}").into());
        }
    }
    fs::remove_file(dir.path().join("provenance.json"))?;
    expect(&run()?, 0, &["no record"])
}

fn duplicates() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let [tasks, out] = ["tasks.jsonl", "kept.jsonl"].map(|name| dir.path().join(name));
    let mut rows = rows();
    rows.push(rows[1].clone());
    let mut same = rows[1].clone();
    same["instance_id"] = json!("other-2");
    same["patch"] = json!(
        same["patch"]
            .as_str()
            .unwrap_or_default()
            .replace("return 2", "return  2")
    );
    rows.push(same);
    write(&tasks, &rows);
    let dedup = |more: &[&str]| {
        let mut command = swegym(["tasks", "dedup", "--json"]);
        command
            .arg(&tasks)
            .arg("--out")
            .arg(&out)
            .args(more)
            .output()
    };
    let output = dedup(&[])?;
    expect(&output, 0, &["3 of 5"])?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    if answer["dropped"] != json!({"id": 1, "patch": 1}) || answer["kept"] != json!(3) {
        return Err(answer.to_string().into());
    }
    let kept = fs::read_to_string(&out)?;
    let ids: Vec<Value> = kept
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).map(|row| row["instance_id"].clone()))
        .collect::<Result<_, _>>()?;
    if ids
        != [
            rows[0]["instance_id"].clone(),
            json!("other-1"),
            json!("third-1"),
        ]
    {
        return Err(format!("kept {ids:?}").into());
    }
    expect(&dedup(&["--near", "2"])?, INPUT, &["--near", "0.9"])
}

fn statistics() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let [tasks, plot] = ["tasks.jsonl", "plot.svg"].map(|name| dir.path().join(name));
    write(&tasks, &rows());
    let output = swegym(["tasks", "stats"])
        .arg(&tasks)
        .arg("--plot")
        .arg(&plot)
        .output()?;
    expect(&output, 0, &["plot in"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains("easy") || !text.contains("66.7 %") {
        return Err(text.into_owned().into());
    }
    if !fs::read_to_string(&plot)?.contains("some/where") {
        return Err("the plot names no repository".into());
    }
    Ok(())
}
