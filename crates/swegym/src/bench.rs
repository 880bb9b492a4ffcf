//! Measures sandboxes beside their peers, in one interleaved run.
//!
//! CPU time is the robust figure on a shared machine, so it is what ratios are
//! made of: that of this process, of its children, and of all they waited for.

use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::Instant;

use serde::Serialize;
use swegym_core::{Backend, Command, Sandbox, SandboxSpec};
use swegym_learn::model::{Dtype, Model};
use swegym_learn::speed;

use crate::Error;
use crate::train::learn;

/// Smallest, middle and largest of some measurements.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Spread {
    /// Number of measurements.
    pub count: usize,
    /// Smallest, milliseconds.
    pub min: f64,
    /// Middle, milliseconds.
    pub p50: f64,
    /// Largest, milliseconds.
    pub max: f64,
}

impl Spread {
    fn of(mut millis: Vec<f64>) -> Self {
        millis.sort_by(f64::total_cmp);
        let at = |i: usize| millis.get(i).copied().unwrap_or_default();
        Self {
            count: millis.len(),
            min: at(0),
            p50: at(millis.len() / 2),
            max: at(millis.len().saturating_sub(1)),
        }
    }
}

/// One way to start `/bin/true` in isolation.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// Which.
    pub name: String,
    /// CPU time of a start, milliseconds, mean.
    pub cpu_ms: f64,
    /// Wall time.
    pub wall: Spread,
}

/// All that was measured of the sandbox.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Ours first, then the peers that exist here.
    pub start: Vec<Start>,
    /// A command in a live session.
    pub round_trip: Spread,
    /// The same as a new process of bash outside, for comparison.
    pub fresh_bash: Spread,
    /// Reset.
    pub reset: Spread,
    /// Fork with 10 MB written.
    pub fork: Spread,
    /// Memory of an idle sandbox, kernel's included, bytes.
    pub idle_bytes: u64,
    /// Sandboxes that lived at once.
    pub live: usize,
    /// Start-stop cycles made.
    pub cycles: usize,
    /// What those left behind; empty is good.
    pub left: Vec<String>,
}

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Repetitions of a start, reset or fork.
    pub runs: usize,
    /// Sandboxes to have at once.
    pub live: usize,
    /// Start-stop cycles.
    pub cycles: usize,
}

/// Measures.
///
/// # Errors
/// If a sandbox fails.
pub fn sandbox(
    backend: &dyn Backend,
    spec: &SandboxSpec,
    effort: Effort,
    on_step: &dyn Fn(&str),
) -> Result<Measured, Error> {
    on_step("start");
    let start = starts(backend, spec, effort.runs)?;
    on_step("session");
    let mut sandbox = backend.create(spec)?;
    let mut session = sandbox.session()?;
    let round_trip = timed(effort.runs * 100, || {
        session.run("true", None)?;
        Ok(())
    })?;
    session.close()?;
    let fresh_bash = timed(effort.runs, || quiet("/bin/bash", &["-c", "true"]))?;
    on_step("reset and fork");
    let reset = timed(effort.runs, || Ok(sandbox.reset()?))?;
    sandbox.exec(&Command::shell("head -c 10000000 /dev/urandom > /tmp/ten"))?;
    let mut forks = Vec::new();
    let fork = timed(effort.runs.min(30), || {
        forks.push(sandbox.fork()?);
        Ok(())
    })?;
    for mut fork in forks {
        fork.close()?;
    }
    sandbox.close()?;
    on_step("many at once");
    let (idle_bytes, live) = many(backend, spec, effort.live)?;
    on_step("start and stop");
    // The first one opens what is kept from then on.
    start_true(backend, spec)?;
    let before = Leftovers::now();
    for _ in 0..effort.cycles {
        start_true(backend, spec)?;
    }
    let left = before.compare(&Leftovers::now());
    Ok(Measured {
        start,
        round_trip,
        fresh_bash,
        reset,
        fork,
        idle_bytes,
        live,
        cycles: effort.cycles,
        left,
    })
}

fn start_true(backend: &dyn Backend, spec: &SandboxSpec) -> Result<(), Error> {
    let mut sandbox = backend.create(spec)?;
    let output = sandbox.exec(&Command::new(["/bin/true"]))?;
    sandbox.close()?;
    if output.exit.success() {
        Ok(())
    } else {
        Err(Error::bug(format!(
            "/bin/true ended with {:?}",
            output.exit
        )))
    }
}

type Starter<'a> = Box<dyn Fn() -> Result<(), Error> + 'a>;

/// Ours and every peer, in turn, so that all see the same machine.
fn starts(backend: &dyn Backend, spec: &SandboxSpec, runs: usize) -> Result<Vec<Start>, Error> {
    let mut ways: Vec<(String, Starter<'_>)> = vec![(
        backend.name().to_owned(),
        Box::new(|| start_true(backend, spec)),
    )];
    let unshare = [
        "--user",
        "--map-root-user",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--mount",
        "--fork",
        "/bin/true",
    ];
    ways.push((
        "unshare (no file system)".into(),
        Box::new(move || quiet("unshare", &unshare)),
    ));
    let bwrap = [
        "--unshare-all",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/bin",
        "/bin",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "/bin/true",
    ];
    ways.push((
        "bubblewrap (no overlay)".into(),
        Box::new(move || quiet("bwrap", &bwrap)),
    ));
    ways.retain(|(_, start)| start().is_ok());
    let mut cpu = vec![0.0; ways.len()];
    let mut wall = vec![Vec::new(); ways.len()];
    // The kernel counts in hundredths of a second: measure in batches.
    const BATCH: usize = 10;
    for _ in 0..runs.div_ceil(BATCH) {
        for (i, (_, start)) in ways.iter().enumerate() {
            let before = cpu_seconds();
            for _ in 0..BATCH {
                let clock = Instant::now();
                start()?;
                wall[i].push(clock.elapsed().as_secs_f64() * 1e3);
            }
            cpu[i] += cpu_seconds() - before;
        }
    }
    Ok(ways
        .into_iter()
        .zip(cpu)
        .zip(wall)
        .map(|(((name, _), cpu), wall)| Start {
            name,
            cpu_ms: cpu * 1e3 / wall.len() as f64,
            wall: Spread::of(wall),
        })
        .collect())
}

/// Runs a program without output.
fn quiet(program: &str, args: &[&str]) -> Result<(), Error> {
    let status = Process::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::setup(format!("{program}: {status}"), "")),
        Err(e) => Err(Error::setup(format!("{program}: {e}"), "")),
    }
}

fn timed(runs: usize, mut what: impl FnMut() -> Result<(), Error>) -> Result<Spread, Error> {
    let mut millis = Vec::with_capacity(runs);
    for _ in 0..runs {
        let clock = Instant::now();
        what()?;
        millis.push(clock.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::of(millis))
}

fn many(backend: &dyn Backend, spec: &SandboxSpec, count: usize) -> Result<(u64, usize), Error> {
    let before = memory_used();
    let mut all: Vec<Box<dyn Sandbox>> = Vec::with_capacity(count);
    for _ in 0..count {
        all.push(backend.create(spec)?);
    }
    let used = memory_used().saturating_sub(before);
    let live = all.len();
    for mut sandbox in all {
        sandbox.close()?;
    }
    Ok((used / live.max(1) as u64, live))
}

/// CPU time of this process, its children, and all that they waited for.
fn cpu_seconds() -> f64 {
    let own = stat_seconds(Path::new("/proc/self/stat"), &[13, 14, 15, 16]);
    own + children()
        .iter()
        .map(|pid| stat_seconds(Path::new(&format!("/proc/{pid}/stat")), &[13, 14, 15, 16]))
        .sum::<f64>()
}

fn stat_seconds(path: &Path, fields: &[usize]) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The name, second, may hold spaces; count from behind it.
    let Some((_, rest)) = text.rsplit_once(')') else {
        return 0.0;
    };
    let values: Vec<f64> = rest
        .split_whitespace()
        .map(|v| v.parse().unwrap_or(0.0))
        .collect();
    let ticks: f64 = fields.iter().filter_map(|f| values.get(f - 2)).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

fn children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

fn memory_used() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    };
    let (total, free) = (
        kib("MemTotal:").unwrap_or(0),
        kib("MemAvailable:").unwrap_or(0),
    );
    total.saturating_sub(free) * 1024
}

/// What could be left behind, counted.
struct Leftovers(Vec<(String, usize)>);

impl Leftovers {
    fn now() -> Self {
        let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
        let mut counts = vec![
            ("mounts".to_owned(), lines("/proc/self/mounts")),
            ("descriptors".to_owned(), entries("/proc/self/fd")),
        ];
        for pid in children() {
            counts.push((
                format!("descriptors of child {pid}"),
                entries(&format!("/proc/{pid}/fd")),
            ));
            counts.push((format!("children of child {pid}"), grandchildren(pid)));
            counts.push((
                format!("mounts of child {pid}"),
                lines(&format!("/proc/{pid}/mounts")),
            ));
        }
        for controller in ["memory", "pids", "unified", "cpuacct", ""] {
            let dir = format!("/sys/fs/cgroup/{controller}");
            counts.push((format!("groups in {dir}"), entries(&dir)));
        }
        Self(counts)
    }

    fn compare(&self, after: &Self) -> Vec<String> {
        let pairs = self.0.iter().zip(&after.0);
        pairs
            .filter(|((_, before), (_, after))| after > before)
            .map(|((name, before), (_, after))| format!("{name}: {before} before, {after} after"))
            .collect()
    }
}

fn lines(path: &str) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn grandchildren(pid: u32) -> usize {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().count()
}

/// How fast a model is at one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSpeed {
    /// What was measured, as it was asked for.
    pub measure: String,
    /// Tokens a second, the best run.
    pub tokens_per_second: f64,
    /// Of every run.
    pub runs: Vec<f64>,
    /// Most memory that this process had until then, bytes.
    pub peak_bytes: u64,
}

/// Prompt behind which answers are measured, tokens.
const BEHIND: usize = 512;
/// Tokens of each answer.
const ANSWER: usize = 32;

/// Measures a model: `prefill-N`, `decode-BATCH` behind prompts of 512 tokens,
/// `train-N` (LoRA of rank 16 on all linear layers, all tokens learnt),
/// `checkpointed-N` (the same with activations computed twice) and `full-N`.
///
/// # Errors
/// If the measurement is none of these, or the model cannot be read.
pub fn model(path: &Path, measure: &str, runs: usize) -> Result<ModelSpeed, Error> {
    let unknown = || {
        Error::input(
            format!("{measure:?} is nothing to measure"),
            "use prefill-N, decode-BATCH, train-N, checkpointed-N or full-N",
        )
    };
    let (kind, n) = measure.rsplit_once('-').ok_or_else(unknown)?;
    let n: usize = n.parse().ok().filter(|n| *n > 0).ok_or_else(unknown)?;
    let mut model = Model::read(path, Dtype::Stored).map_err(learn)?;
    let network = &mut model.network;
    let mut rates = Vec::new();
    match kind {
        "prefill" | "decode" => {
            for _ in 0..runs {
                rates.push(match kind {
                    "prefill" => n as f64 / speed::prefill(network, n).map_err(learn)?,
                    _ => n as f64 / speed::decode(network, n, BEHIND, ANSWER).map_err(learn)?,
                });
            }
        }
        "train" | "checkpointed" | "full" => {
            network.unpack();
            if kind != "full" {
                network.add_lora(16, 32.0, 1);
            }
            let seconds = speed::train(network, n, runs + 1, kind == "checkpointed");
            // The first step finds its memory new.
            let seconds = seconds.map_err(learn)?;
            rates.extend(seconds.iter().skip(1).map(|s| n as f64 / s));
        }
        _ => return Err(unknown()),
    }
    Ok(ModelSpeed {
        measure: measure.to_owned(),
        tokens_per_second: rates.iter().copied().fold(0.0, f64::max),
        runs: rates,
        peak_bytes: peak_memory(),
    })
}

/// Most memory that this process ever had, bytes; 0 where the system does not
/// say.
fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
