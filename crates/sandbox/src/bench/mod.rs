//! What sandboxes cost, each number beside the floor it is to stay near.
//!
//! CPU time, of all processes involved, is what is compared: unlike wall time
//! it hardly depends on what else runs. Rivals take turns, start by start.

#[path = "../../benches/prototype/mod.rs"]
mod prototype;

use std::fmt::Display;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use swegym_core::{Backend as _, Command, Exit, SandboxSpec};

use crate::NativeBackend;
use crate::native::sys;

pub use prototype::PROTOTYPE;

/// Runs the prototype if this process was started as one, and then never
/// returns. To be called first thing in `main`, with `child_main`.
pub fn prototype_main() {
    if std::env::args().next().as_deref() == Some(PROTOTYPE) {
        prototype::main();
    }
}

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Starts of this backend and of the prototype; a fifth for the rival.
    pub starts: usize,
    /// Commands in a session.
    pub round_trips: usize,
    /// Resets and forks, each with `upper_bytes` written.
    pub states: usize,
    /// Bytes written before each reset and fork.
    pub upper_bytes: usize,
    /// Sandboxes alive at once.
    pub live: usize,
    /// Start-stop cycles that must leave nothing.
    pub cycles: usize,
    /// A rival to start `/bin/true` with, such as `podman run …`.
    pub rival: Option<Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            starts: 200,
            round_trips: 2000,
            states: 50,
            upper_bytes: 10 << 20,
            live: 100,
            cycles: 500,
            rival: None,
        }
    }
}

/// A series of measurements.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// Short stable name.
    pub name: String,
    /// `ms` or `KiB`.
    pub unit: &'static str,
    /// Smallest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// How many.
    pub count: usize,
}

impl Series {
    fn of(name: &str, unit: &'static str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (values.len().saturating_sub(1) as f64 * share).round() as usize;
            values.get(index).copied().unwrap_or(f64::NAN)
        };
        Self {
            name: name.to_owned(),
            unit,
            min: at(0.0),
            p50: at(0.5),
            p95: at(0.95),
            count: values.len(),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Whether sandboxes ran as uids of the host rather than in a user
    /// namespace.
    pub root: bool,
    /// Every series.
    pub series: Vec<Series>,
    /// CPU time of a start to the prototype's (medians).
    pub start_to_prototype: f64,
    /// CPU time of a start to the rival's (medians).
    pub start_to_rival: Option<f64>,
    /// Descriptors, mounts, processes and cgroups that the cycles left.
    pub left_behind: usize,
}

/// Measures.
///
/// # Errors
/// What failed.
pub fn run(spec: &SandboxSpec, options: &Options) -> Result<Results, String> {
    let backend = NativeBackend::new().map_err(text)?;
    let mut series = starts(&backend, spec, options)?;
    let median = |name: &str| series.iter().find(|s| s.name == name).map(|s| s.p50);
    let own = median(START_CPU).unwrap_or(f64::NAN);
    let start_to_prototype = own / median(PROTOTYPE_CPU).unwrap_or(f64::NAN);
    let start_to_rival = median(RIVAL_CPU).map(|rival| own / rival);
    series.push(round_trips(&backend, spec, options.round_trips)?);
    series.extend(states(&backend, spec, options)?);
    series.extend(live(&backend, spec, options.live)?);
    let left_behind = cycles(&backend, spec, options.cycles)?;
    Ok(Results {
        root: backend.is_root(),
        series,
        start_to_prototype,
        start_to_rival,
        left_behind,
    })
}

const START_CPU: &str = "start, CPU";
const PROTOTYPE_CPU: &str = "start of the prototype, CPU";
const RIVAL_CPU: &str = "start of the rival, CPU";

fn text(error: impl Display) -> String {
    error.to_string()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// CPU time of this process and its reaped children.
fn own_cpu() -> Duration {
    let (own, children) = sys::cpu_time();
    Duration::from_micros(own + children)
}

/// Rivals take turns by so many starts, which share the cost of asking how
/// much CPU time was used.
const TURN: usize = 5;

fn starts(
    backend: &NativeBackend,
    spec: &SandboxSpec,
    options: &Options,
) -> Result<Vec<Series>, String> {
    let mut prototype = Prototype::start(spec)?;
    let (mut own, mut wall, mut floor, mut rival) = (vec![], vec![], vec![], vec![]);
    for round in 0..options.starts.div_ceil(TURN) + WARM_UP {
        let before = cpu_of(backend)?;
        let mut took = Vec::with_capacity(TURN);
        for _ in 0..TURN {
            took.push(milliseconds(one_start(backend, spec)?));
        }
        let cpu = cpu_of(backend)? - before;
        let before = prototype.cpu();
        for _ in 0..TURN {
            prototype.one_start()?;
        }
        let floor_cpu = prototype.cpu() - before;
        let rival_cpu = match &options.rival {
            Some(command) => Some(one_rival(command)?),
            None => None,
        };
        if round >= WARM_UP {
            own.push(milliseconds(cpu / TURN as u32));
            wall.extend(took);
            floor.push(milliseconds(floor_cpu / TURN as u32));
            rival.extend(rival_cpu.map(milliseconds));
        }
    }
    let mut series = vec![
        Series::of(START_CPU, "ms", own),
        Series::of("start, wall", "ms", wall),
        Series::of(PROTOTYPE_CPU, "ms", floor),
    ];
    if options.rival.is_some() {
        series.push(Series::of(RIVAL_CPU, "ms", rival));
    }
    Ok(series)
}

/// Turns not counted: they fill caches.
const WARM_UP: usize = 5;

/// CPU time of everything that has to do with a backend's sandboxes.
fn cpu_of(backend: &NativeBackend) -> Result<Duration, String> {
    Ok(backend.cpu_time().map_err(text)? + own_cpu())
}

/// A sandbox that runs one program and is closed; wall time until the program
/// has ended.
fn one_start(backend: &NativeBackend, spec: &SandboxSpec) -> Result<Duration, String> {
    let started = Instant::now();
    let mut sandbox = backend.create(spec).map_err(text)?;
    let output = sandbox.exec(&Command::new(["/bin/true"])).map_err(text)?;
    let took = started.elapsed();
    sandbox.close().map_err(text)?;
    if output.exit != Exit::Code(0) {
        return Err(format!("/bin/true: {:?}", output.exit));
    }
    Ok(took)
}

fn one_rival(command: &[String]) -> Result<Duration, String> {
    let [program, arguments @ ..] = command else {
        return Err("the rival has no program".to_owned());
    };
    let before = own_cpu();
    let output = Process::new(program)
        .args(arguments)
        .output()
        .map_err(text)?;
    if !output.status.success() {
        return Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(own_cpu() - before)
}

/// The prototype in a process of its own, as small as the spawner.
struct Prototype {
    child: Child,
    base: PathBuf,
    used: Duration,
}

impl Prototype {
    fn start(spec: &SandboxSpec) -> Result<Self, String> {
        let base = std::env::temp_dir().join(format!("swegym-prototype-{}", std::process::id()));
        fs::create_dir(&base).map_err(text)?;
        let layers: Vec<String> = spec
            .layers
            .iter()
            .map(|l| l.display().to_string())
            .collect();
        let child = Process::new("/proc/self/exe")
            .arg0(PROTOTYPE)
            .arg(&base)
            .arg(layers.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(text)?;
        let mut prototype = Self {
            child,
            base,
            used: Duration::ZERO,
        };
        prototype.one_start()?;
        Ok(prototype)
    }

    fn one_start(&mut self) -> Result<(), String> {
        let mut answer = [0; 8];
        let (Some(stdin), Some(stdout)) = (&mut self.child.stdin, &mut self.child.stdout) else {
            return Err("the prototype has no pipes".to_owned());
        };
        stdin.write_all(b"x").map_err(text)?;
        stdout.read_exact(&mut answer).map_err(text)?;
        self.used = Duration::from_micros(u64::from_le_bytes(answer));
        if self.used == Duration::from_micros(u64::MAX) {
            return Err("the prototype failed".to_owned());
        }
        Ok(())
    }

    /// CPU time of the prototype, what it started, and this process.
    fn cpu(&self) -> Duration {
        self.used + own_cpu()
    }
}

impl Drop for Prototype {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.base);
    }
}

fn round_trips(
    backend: &NativeBackend,
    spec: &SandboxSpec,
    count: usize,
) -> Result<Series, String> {
    let mut sandbox = backend.create(spec).map_err(text)?;
    let mut session = sandbox.session().map_err(text)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        session.run("true", None).map_err(text)?;
        values.push(milliseconds(started.elapsed()));
    }
    Ok(Series::of("command in a session, wall", "ms", values))
}

fn states(
    backend: &NativeBackend,
    spec: &SandboxSpec,
    options: &Options,
) -> Result<Vec<Series>, String> {
    let bytes = vec![b'x'; options.upper_bytes];
    let mut sandbox = backend.create(spec).map_err(text)?;
    let fill = |sandbox: &mut dyn swegym_core::Sandbox| {
        sandbox
            .write(Path::new("/tmp/large"), &bytes, false)
            .map_err(text)
    };
    let (mut resets, mut forks) = (vec![], vec![]);
    for _ in 0..options.states {
        fill(&mut *sandbox)?;
        let started = Instant::now();
        sandbox.reset().map_err(text)?;
        resets.push(milliseconds(started.elapsed()));
        fill(&mut *sandbox)?;
        let started = Instant::now();
        let fork = sandbox.fork().map_err(text)?;
        forks.push(milliseconds(started.elapsed()));
        drop(fork);
        sandbox.reset().map_err(text)?;
    }
    Ok(vec![
        Series::of("reset, wall", "ms", resets),
        Series::of("fork, wall", "ms", forks),
    ])
}

/// Batches that idle sandboxes are started in: what else the machine does
/// with its memory meanwhile shows in few of them.
const BATCHES: usize = 10;

/// Memory for each of many idle sandboxes, the kernel's included: that of the
/// whole machine, and what their cgroups count (where there are any, and
/// without what the spawner has done for them).
fn live(backend: &NativeBackend, spec: &SandboxSpec, count: usize) -> Result<Vec<Series>, String> {
    let batch = count.div_ceil(BATCHES);
    let mut used = Vec::with_capacity(BATCHES);
    let mut sandboxes = Vec::with_capacity(count);
    while sandboxes.len() < count {
        let before = available_kib()?;
        for _ in 0..batch {
            sandboxes.push(backend.create(spec).map_err(text)?);
        }
        used.push((before - available_kib()?) / batch as f64);
    }
    let counted = cgroups(backend.spawner_pid())
        .iter()
        .filter_map(|folder| memory_kib(folder))
        .collect();
    for sandbox in &mut sandboxes {
        let output = sandbox.exec(&Command::new(["/bin/true"])).map_err(text)?;
        if output.exit != Exit::Code(0) {
            return Err(format!("one of {count} sandboxes: {:?}", output.exit));
        }
    }
    let mut series = vec![
        Series::of("memory of an idle sandbox, its cgroup's", "KiB", counted),
        Series::of("memory of an idle sandbox, machine's", "KiB", used),
    ];
    series.retain(|series| series.count > 0);
    for series in &mut series {
        series.count = sandboxes.len();
    }
    Ok(series)
}

fn available_kib() -> Result<f64, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(text)?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .ok_or_else(|| "/proc/meminfo without MemAvailable".to_owned())
}

/// Starts and stops sandboxes; gives how many descriptors, mounts, processes
/// and cgroups there are more than before.
fn cycles(backend: &NativeBackend, spec: &SandboxSpec, count: usize) -> Result<usize, String> {
    let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let spawner = backend.spawner_pid();
    let spawner_files = format!("/proc/{spawner}/fd");
    let children = format!("/proc/{spawner}/task/{spawner}/children");
    let traces = || {
        let lines =
            |path: &str| fs::read_to_string(path).map_or(0, |t| t.split_whitespace().count());
        entries("/proc/self/fd")
            + entries(&spawner_files)
            + lines(&children)
            + cgroups(spawner).len()
            + fs::read_to_string("/proc/self/mountinfo").map_or(0, |m| m.lines().count())
    };
    one_start(backend, spec)?;
    let before = traces();
    for _ in 0..count {
        one_start(backend, spec)?;
    }
    Ok(traces().saturating_sub(before))
}

/// Cgroups of a spawner's sandboxes.
fn cgroups(spawner: u32) -> Vec<PathBuf> {
    let own = format!("/swegym-{spawner}-");
    let is_own = |folder: &Path| {
        let parent = folder.parent().unwrap_or(folder);
        parent.to_string_lossy().contains(&own)
    };
    let (mut found, mut todo) = (vec![], vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(folder) = todo.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        todo.extend(folders.map(|e| e.path()));
        found.extend(is_own(&folder).then_some(folder));
    }
    found
}

/// What a cgroup counts as its memory, if it does.
fn memory_kib(cgroup: &Path) -> Option<f64> {
    ["memory.usage_in_bytes", "memory.current"]
        .iter()
        .find_map(|name| {
            fs::read_to_string(cgroup.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        })
        .map(|bytes: f64| bytes / 1024.0)
}
