//! What is handed over really runs: TRL, torchtune and PEFT over our files, and
//! what they write over ours. `SWEGYM_TRAINERS` names the `bin` folder of a
//! Python environment that has them; `.ci/run` makes one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::{expect, obstacle, root, swegym, trial, write};

pub fn trials() -> Vec<Trial> {
    let why = match bin() {
        None => Some("no SWEGYM_TRAINERS: a Python environment with trl, torchtune and peft"),
        Some(_) => obstacle(),
    };
    let test = |name: &str, run: fn() -> Result<(), Failed>| {
        trial(&format!("trainers: {name}"), why, move || {
            // Each takes all cores, and gigabytes.
            static ONE: Mutex<()> = Mutex::new(());
            let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
            run()
        })
    };
    vec![
        test(
            "TRL fine-tunes smollm2 on our rows, and we read the result",
            trl,
        ),
        test(
            "torchtune fine-tunes smollm2 on our rows, and we read the result",
            torchtune,
        ),
        test("our adapter says the same in PEFT", peft),
    ]
}

fn bin() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("SWEGYM_TRAINERS")?);
    let dir = if dir.is_absolute() {
        dir
    } else {
        root().join(dir)
    };
    dir.join("python").exists().then_some(dir)
}

fn python(dir: &Path) -> Result<Command, Failed> {
    let bin = bin().ok_or("checked before")?;
    let mut command = Command::new(bin.join("python"));
    command
        .current_dir(dir)
        .env("PYTHONPATH", dir)
        .env("HF_HUB_OFFLINE", "1")
        // Threads that spin while they wait starve all others.
        .env("OMP_WAIT_POLICY", "PASSIVE")
        .env("CUDA_VISIBLE_DEVICES", "");
    Ok(command)
}

fn succeeded(what: &str, output: &Output) -> Result<(), Failed> {
    if output.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let skip = text.chars().count().saturating_sub(3000);
        text.chars().skip(skip).collect()
    };
    Err(format!(
        "{what}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
    .into())
}

/// smollm2 as a folder of safetensors, written once.
fn model() -> Result<&'static Path, Failed> {
    static MODEL: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let dir = MODEL.get_or_init(|| {
        let dir = tempfile::tempdir().ok()?;
        let output = swegym([
            "models",
            "export",
            "smollm2",
            "--to",
            "safetensors",
            "--dtype",
            "f32",
        ])
        .arg("--out")
        .arg(dir.path().join("smollm2"))
        .output()
        .ok()?;
        output.status.success().then_some(dir)
    });
    let dir = dir.as_ref().ok_or("smollm2 could not be written")?;
    Ok(Box::leak(dir.path().join("smollm2").into_boxed_path()))
}

/// Attempts with several turns, of which some are in error.
fn attempts(path: &Path) {
    let one = |n: u32| {
        json!({
            "instance_id": format!("own__repo-{n}"), "run_id": "r", "resolved": n.is_multiple_of(2),
            "messages": [
                {"role": "system", "content": "Work carefully."},
                {"role": "user", "content": format!("What is {n} + {n}?")},
                {"role": "assistant", "content": format!("  It is {}.\n", 2 * n)},
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "Yes."},
            ],
            "test_result": {"git_patch": "", "report": {"resolved": n.is_multiple_of(2)}},
        })
    };
    write(path, &(0..12).map(one).collect::<Vec<_>>());
}

fn export(kind: &str, trainer: &str, out: &Path) -> Result<(), Failed> {
    let attempts_file = out.with_extension("jsonl");
    attempts(&attempts_file);
    let output = swegym(["export", kind])
        .arg(&attempts_file)
        .args([
            "--for", trainer, "--length", "512", "--gpus", "1", "--model",
        ])
        .arg(model()?)
        .arg("--out")
        .arg(out)
        .output()?;
    expect(&output, 0, &[])
}

fn trl() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    for (kind, adapter) in [("sft", false), ("verifier", true)] {
        let out = dir.path().join(kind);
        export(kind, "trl", &out)?;
        let output = python(&out)?
            .args(["fine_tune.py", "--max-steps", "2", "--out", "trained"])
            .output()?;
        succeeded("fine_tune.py", &output)?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if told.matches("'loss'").count() < 2 || !told.contains("rows, 0 left out") {
            return Err(format!("no two steps: {told}").into());
        }
        let trained = out.join("trained");
        let output = if adapter {
            swegym(["models", "export", "smollm2", "--to", "peft", "--adapter"])
                .arg(&trained)
                .arg("--out")
                .arg(out.join("again"))
                .output()?
        } else {
            swegym(["models", "export", "--to", "safetensors", "--out"])
                .arg(out.join("again"))
                .arg(&trained)
                .output()?
        };
        expect(&output, 0, &["written to"])?;
    }
    same_tokens(&dir.path().join("sft"))
}

/// Both sides make the same tokens of the rows, and learn the same of them.
fn same_tokens(dir: &Path) -> Result<(), Failed> {
    let count = "import sys, rows\n\
        from transformers import AutoTokenizer\n\
        t = AutoTokenizer.from_pretrained(sys.argv[1])\n\
        all = rows.encode_all(t, 'rows.jsonl', 512)\n\
        print(sum(len(r['input_ids']) for r in all), sum(l != -100 for r in all for l in r['labels']))\n";
    let output = python(dir)?.args(["-c", count]).arg(model()?).output()?;
    succeeded("rows.py", &output)?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let theirs = told.lines().last().unwrap_or_default().to_owned();
    let output = swegym([
        "train",
        "policy",
        "--base",
        "smollm2",
        "--held-out",
        "0",
        "--data",
    ])
    .arg(dir.join("rows.jsonl"))
    .args(["--length", "512", "--out"])
    .arg(dir.join("ours"))
    .output()?;
    expect(&output, 0, &[])?;
    let record: Value = serde_json::from_slice(&fs::read(dir.join("ours/training.json"))?)?;
    let ours = format!("{} {}", record["tokens"][0], record["tokens"][1]);
    match ours == theirs {
        true => Ok(()),
        false => Err(format!("tokens and learnt tokens: {ours} here, {theirs} there").into()),
    }
}

fn torchtune() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("sft");
    export("sft", "torchtune", &out)?;
    let bin = bin().ok_or("checked before")?;
    let output = python(&out)?
        .arg(bin.join("tune"))
        .args([
            "run",
            "full_finetune_single_device",
            "--config",
            "torchtune.yaml",
        ])
        .args([
            "device=cpu",
            "dtype=fp32",
            "max_steps_per_epoch=2",
            "epochs=1",
        ])
        // The paper's setting is for GPUs.
        .args(["optimizer_in_bwd=false", "optimizer.fused=false"])
        .output()?;
    succeeded("tune run", &output)?;
    let logs = fs::read_dir(out.join("trained/logs"))?
        .next()
        .ok_or("no log")??;
    let log = fs::read_to_string(logs.path())?;
    if log.matches("loss:").count() < 2 {
        return Err(format!("no two steps: {log}").into());
    }
    let output = swegym(["models", "export", "--to", "safetensors", "--out"])
        .arg(out.join("again"))
        .arg(out.join("trained/epoch_0"))
        .output()?;
    expect(&output, 0, &["written to"])
}

/// Log-probabilities of an answer: ours by the server, and PEFT's of the same
/// tokens.
fn peft() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let rows = dir.path().join("rows.jsonl");
    let row = |n: usize| {
        json!({"messages": [
            {"role": "user", "content": format!("Say {n}.")},
            {"role": "assistant", "content": format!("The number is {n}, of course.")},
        ]})
    };
    write(&rows, &(0..16).map(row).collect::<Vec<_>>());
    let adapter = dir.path().join("adapter");
    let output = swegym(["train", "policy", "--base"])
        .arg(model()?)
        .args([
            "--held-out",
            "0",
            "--rate",
            "0.001",
            "--epochs",
            "4",
            "--length",
            "256",
            "--data",
        ])
        .arg(&rows)
        .arg("--out")
        .arg(&adapter)
        .output()?;
    expect(&output, 0, &[])?;
    let answer = served(&adapter)?;
    fs::write(dir.path().join("answer.json"), answer.to_string())?;
    let compare = "import json, sys, torch\n\
        from peft import PeftModel\n\
        from transformers import AutoModelForCausalLM\n\
        a = json.load(open('answer.json'))\n\
        m = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n\
        m = PeftModel.from_pretrained(m, sys.argv[2]).eval()\n\
        prompt, ids = a['prompt_token_ids'], a['choices'][0]['token_ids']\n\
        x = torch.tensor([prompt + ids])\n\
        with torch.no_grad():\n\
        \x20   logits = m(x, attention_mask=torch.ones_like(x)).logits[0].log_softmax(-1)\n\
        theirs = [logits[len(prompt) + i - 1, t].item() for i, t in enumerate(ids)]\n\
        ours = [c['logprob'] for c in a['choices'][0]['logprobs']['content']]\n\
        print(len(ids), max(abs(x - y) for x, y in zip(ours, theirs)))\n";
    let output = python(dir.path())?
        .args(["-c", compare])
        .arg(model()?)
        .arg(&adapter)
        .output()?;
    succeeded("PEFT", &output)?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = told.split_whitespace();
    let count: usize = words.next().unwrap_or_default().parse().unwrap_or(0);
    let off: f64 = words.next().unwrap_or_default().parse().unwrap_or(f64::NAN);
    if count >= 5 && off < 2e-3 {
        return Ok(());
    }
    Err(format!("log-probabilities of {count} tokens are off by {off}").into())
}

/// An answer of the model with the adapter, by its own folder alone.
fn served(adapter: &Path) -> Result<Value, Failed> {
    let mut child = swegym(["serve", "--port", "0", "--name", "m"])
        .arg(adapter)
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let line = lines.map_while(Result::ok).find(|l| l.contains(" on http"));
    let answer = line
        .ok_or_else(|| Failed::from("it did not start"))
        .and_then(|line| {
            let url = line.split(" on ").nth(1).unwrap_or_default().to_owned();
            let body = json!({
                "model": "m", "messages": [{"role": "user", "content": "Say 7."}], "temperature": 0,
                "max_tokens": 24, "logprobs": true, "return_token_ids": true,
            });
            let mut response = ureq::post(format!("{url}/chat/completions"))
                .header("Content-Type", "application/json")
                .send(body.to_string())?;
            Ok(serde_json::from_str(
                &response.body_mut().read_to_string()?,
            )?)
        });
    child.kill()?;
    child.wait()?;
    answer
}
