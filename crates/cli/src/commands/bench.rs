//! `swegym bench`: this machine and program beside their peers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use swegym::bench::{self, Effort, Measured, Spread};
use swegym::{Error, exit, models};
use swegym_core::{Backend, SandboxSpec};
use swegym_grade::LogRow;
use swegym_store::Store;

use crate::args::{BenchArgs, BenchPart, Global};
use crate::commands;
use crate::ui::{Ui, human_bytes, table};

pub fn run(ui: &Ui, global: &Global, args: BenchArgs) -> Result<u8, Error> {
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    let mut answer: BTreeMap<&str, Value> = BTreeMap::new();
    if wanted(BenchPart::Sandbox) {
        answer.insert("sandbox", sandboxes(ui, global, &args)?);
    }
    if wanted(BenchPart::Store) {
        answer.insert("store", store(ui, global)?);
    }
    if let Some(logs) = args.logs.as_deref().filter(|_| wanted(BenchPart::Logs)) {
        answer.insert("logs", parsing(ui, logs, args.runs, &args.python)?);
    } else if args.parts.contains(&BenchPart::Logs) {
        return Err(Error::input(
            "no logs to parse",
            "name a file with `--logs`",
        ));
    }
    if let Some(model) = args.model.as_deref().filter(|_| wanted(BenchPart::Model)) {
        answer.insert("model", speeds(ui, global, model, &args)?);
    } else if args.parts.contains(&BenchPart::Model) {
        return Err(Error::input("no model to measure", "name one with --model"));
    }
    if ui.json {
        ui.answer(&answer, |_| ());
    }
    Ok(exit::SUCCESS)
}

/// Measurements of a model without `--measure`.
const SPEEDS: [&str; 7] = [
    "prefill-512",
    "decode-1",
    "decode-8",
    "decode-32",
    "train-512",
    "train-1024",
    "train-2048",
];

fn speeds(ui: &Ui, global: &Global, model: &str, args: &BenchArgs) -> Result<Value, Error> {
    let home = commands::home(global)?;
    let names: Vec<&str> = match args.measure.is_empty() {
        true => SPEEDS.to_vec(),
        false => args.measure.iter().map(String::as_str).collect(),
    };
    let path = models::resolve(&home, model, &mut |line| ui.say(line))?;
    let mut rows = Vec::new();
    for name in names {
        let speed = bench::model(&path, name, args.runs.min(5))?;
        if !ui.json {
            ui.say(format!(
                "{name}: {:.1} tokens/s, peak {}",
                speed.tokens_per_second,
                human_bytes(speed.peak_bytes)
            ));
        }
        rows.push(speed);
    }
    Ok(json!(rows))
}

fn sandboxes(ui: &Ui, global: &Global, args: &BenchArgs) -> Result<Value, Error> {
    let backend = commands::backend(ui, global)?;
    let layer = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let base =
        swegym_sandbox::host_base(layer.path(), false).map_err(|e| Error::io(layer.path(), e))?;
    // The sandbox's user has to be able to look into it.
    fs::set_permissions(layer.path(), fs::Permissions::from_mode(0o755))
        .map_err(|e| Error::io(layer.path(), e))?;
    let spec = SandboxSpec {
        layers: vec![layer.path().to_owned()],
        binds: base.binds,
        ..SandboxSpec::default()
    };
    let effort = Effort {
        runs: args.runs,
        live: args.live,
        cycles: args.cycles,
    };
    let progress = ui.progress(4, "bench");
    let measured = bench::sandbox(&*backend, &spec, effort, &|step| progress.advance(step))?;
    progress.finish();
    if !ui.json {
        print(ui, &*backend, &measured);
    }
    Ok(serde_json::to_value(measured).expect("plain data"))
}

fn print(ui: &Ui, backend: &dyn Backend, m: &Measured) {
    let ours = m.start.first().map_or(1.0, |s| s.cpu_ms);
    let rows = m.start.iter().map(|s| {
        vec![
            s.name.clone(),
            format!("{:.2} ms", s.cpu_ms),
            format!("{:.2} ms", s.wall.p50),
            format!("{:.2}", s.cpu_ms / ours),
        ]
    });
    ui.data(table(
        &["start /bin/true", "cpu", "wall p50", "to ours"],
        &[1, 2, 3],
        rows,
    ));
    let row = |name: &str, spread: &Spread| {
        vec![
            name.to_owned(),
            format!("{:.3} ms", spread.min),
            format!("{:.3} ms", spread.p50),
            format!("{:.3} ms", spread.max),
        ]
    };
    let rows = [
        row("command in a session", &m.round_trip),
        row("a new bash outside", &m.fresh_bash),
        row("reset", &m.reset),
        row("fork, 10 MB written", &m.fork),
    ];
    ui.data("");
    ui.data(table(&["", "min", "p50", "max"], &[1, 2, 3], rows));
    ui.data(format!(
        "\n{} {} sandboxes at once, {} each; {} start-stop cycles left {}",
        m.live,
        backend.name(),
        human_bytes(m.idle_bytes),
        m.cycles,
        if m.left.is_empty() {
            "nothing".to_owned()
        } else {
            m.left.join(", ")
        }
    ));
}

fn store(ui: &Ui, global: &Global) -> Result<Value, Error> {
    let usage = Store::open(commands::home(global)?.store())?.list()?;
    let ratio = usage.logical_bytes as f64 / usage.disk_bytes.max(1) as f64;
    if !ui.json {
        ui.data(format!(
            "\n{} environments of {} take {} of disk: {ratio:.1} times less",
            usage.environments.len(),
            human_bytes(usage.logical_bytes),
            human_bytes(usage.disk_bytes)
        ));
    }
    Ok(json!({
        "environments": usage.environments.len(),
        "logical_bytes": usage.logical_bytes,
        "disk_bytes": usage.disk_bytes,
        "ratio": ratio,
    }))
}

/// Times our parsers and, in turn, the official ones in Python.
fn parsing(ui: &Ui, path: &Path, runs: usize, python: &Path) -> Result<Value, Error> {
    let rows: Vec<LogRow> = commands::logs::read_rows(path)?;
    let bytes: usize = rows.iter().map(|r| r.test_output.len()).sum();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs.clamp(1, 10) {
        let clock = Instant::now();
        for row in &rows {
            let _ = row.clone().parse();
        }
        ours.push(clock.elapsed().as_secs_f64());
        theirs.extend(official(path, python));
    }
    let best = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = best(&theirs) / best(&ours);
    if !ui.json {
        let peer = match theirs.is_empty() {
            true => "swebench is not installed for the Python given".to_owned(),
            false => format!(
                "the official Python {:.2} s: {ratio:.0} times more",
                best(&theirs)
            ),
        };
        ui.data(format!(
            "\n{} logs of {} in {:.3} s; {peer}",
            rows.len(),
            human_bytes(bytes as u64),
            best(&ours)
        ));
    }
    Ok(json!({ "rows": rows.len(), "bytes": bytes, "seconds": ours, "official_seconds": theirs }))
}

/// Seconds that the official parsers take, if that Python has them.
fn official(path: &Path, python: &Path) -> Option<f64> {
    const SCRIPT: &str = "\
import gzip, json, sys, time
from swebench.harness.log_parsers import PARSER_REGISTRY
opened = gzip.open if sys.argv[1].endswith('.gz') else open
rows = [json.loads(line) for line in opened(sys.argv[1], 'rt')]
start = time.perf_counter()
for row in rows:
    PARSER_REGISTRY[row['log_parser']](row['test_output'], None)
print(time.perf_counter() - start)";
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(path)
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
