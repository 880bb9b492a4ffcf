//! What only the native backend promises: that nothing is ever left, whoever
//! dies when, and that it says why where it cannot run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use swegym_core::{Backend as _, Command, Exit, SandboxError};
use swegym_sandbox::conformance::ATTACKER;
use swegym_sandbox::{NativeBackend, probe};

use crate::profiles::{Place, USER, is_root, loudly, readable_program};

/// Says to a child to be the victim of a kill.
const VICTIM: &str = "SWEGYM_TEST_VICTIM";

type Outcome = Result<(), Failed>;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("native::probe_agrees_with_the_backend", probe_agrees),
        Trial::test("native::cycles_leave_nothing", cycles_leave_nothing),
        Trial::test(
            "native::a_killed_supervisor_takes_all_along",
            killed_supervisor,
        ),
        Trial::test("native::a_killed_spawner_takes_all_along", killed_spawner),
        Trial::test("native::a_hung_init_is_noticed", hung_init),
        Trial::test("native::a_killed_init_is_noticed", killed_init),
        Trial::test("native::a_useless_helper_is_named", useless_helper),
        Trial::test("native::attacks_work_outside", attacks_work_outside),
        Trial::test("native::uids_are_not_shared", uids_are_not_shared),
    ]
}

fn probe_agrees() -> Outcome {
    let found = probe();
    for check in &found.checks {
        if !check.ok && check.advice.is_none() {
            return Err(format!("no advice: {check:?}").into());
        }
    }
    let backend = NativeBackend::new();
    if found.usable() != backend.is_ok() {
        return Err(format!("{found:?} but {:?}", backend.err()).into());
    }
    let limits = backend.map(|b| b.cgroup_limits()).unwrap_or_default();
    let has = |name: &str| found.checks.iter().any(|c| c.name == name && c.ok);
    same(
        "cgroups",
        (has("memory cgroup"), has("pids cgroup")),
        limits,
    )
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: T, expected: T) -> Outcome {
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{what}: {seen:?}, expected {expected:?}").into())
    }
}

/// What could be left behind by a backend.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    files: usize,
    spawner_files: usize,
    children_of_spawner: usize,
    mounts: usize,
}

impl Traces {
    fn of(backend: &NativeBackend) -> Self {
        let pid = backend.spawner_pid();
        let entries = |path: String| fs::read_dir(path).map_or(0, Iterator::count);
        Self {
            files: entries("/proc/self/fd".to_owned()),
            spawner_files: entries(format!("/proc/{pid}/fd")),
            children_of_spawner: children(pid).len(),
            mounts: fs::read_to_string("/proc/self/mountinfo").map_or(0, |m| m.lines().count()),
        }
    }
}

fn children(parent: u32) -> Vec<u32> {
    pids()
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
                let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
                after.split_whitespace().nth(1) == Some(parent.to_string().as_str())
            })
        })
        .collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Our cgroups, anywhere.
fn cgroups(spawner: u32) -> BTreeSet<String> {
    let prefix = format!("swegym-{spawner}-");
    let mut found = BTreeSet::new();
    let mut todo = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.insert(entry.path().display().to_string());
            }
            todo.push(entry.path());
        }
    }
    found
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(default)
}

/// Says to a child to count what cycles leave.
const CYCLES: &str = "SWEGYM_TEST_CYCLES_HERE";

/// In a process of its own, as other tests open files too.
fn cycles_leave_nothing() -> Outcome {
    let output = Process::new(std::env::current_exe()?)
        .env(CYCLES, "1")
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().into())
}

/// Started as a child: goes through the life of many sandboxes.
pub fn run_cycles() {
    if std::env::var_os(CYCLES).is_none() {
        return;
    }
    let failed = cycles().err();
    if let Some(failed) = &failed {
        loudly(failed.message().unwrap_or("failed"));
    }
    std::process::exit(i32::from(failed.is_some()))
}

fn cycles() -> Outcome {
    let backend = NativeBackend::new()?;
    let place = Place::new()?;
    let spec = place.spec()?;
    let cycle = |number: usize| -> Outcome {
        let mut sandbox = backend.create(&spec)?;
        let output = sandbox.exec(&Command::shell("echo x > /tmp/x; sleep 100 &"))?;
        same("exit", output.exit, Exit::Code(0))?;
        if number.is_multiple_of(4) {
            let mut session = sandbox.session()?;
            session.run("sleep 100 &", None)?;
            sandbox.reset()?;
            drop(session);
            let mut fork = sandbox.fork()?;
            let _left_open = fork.session()?;
        }
        Ok(())
    };
    // The first of each kind fill the caches.
    (0..8).try_for_each(cycle)?;
    let before = Traces::of(&backend);
    (0..number("SWEGYM_TEST_CYCLES", 200)).try_for_each(cycle)?;
    same("traces", Traces::of(&backend), before)?;
    let spawner = backend.spawner_pid();
    drop(backend);
    same("cgroups", cgroups(spawner), BTreeSet::new())?;
    same(
        "spawner",
        Path::new(&format!("/proc/{spawner}")).exists(),
        false,
    )
}

/// Started as a child: makes sandboxes in which things run, until it is
/// killed.
pub fn run_victim() {
    let Ok(mark) = std::env::var(VICTIM) else {
        return;
    };
    let work = || -> Result<(), Failed> {
        let backend = NativeBackend::new()?;
        say(&backend.spawner_pid().to_string());
        let place = Place::new()?;
        let spec = place.spec()?;
        let mut kept = Vec::new();
        for number in 0.. {
            let mut sandbox = backend.create(&spec)?;
            let mut session = sandbox.session()?;
            session.run(&format!("setsid -f sleep {mark}; sleep {mark} &"), None)?;
            say("running");
            if number % 3 == 0 {
                drop(session);
                sandbox.reset()?;
                kept.push((sandbox.fork()?, None));
            } else {
                kept.push((sandbox, Some(session)));
            }
            if kept.len() > 4 {
                kept.remove(0);
            }
        }
        Ok(())
    };
    let failed = work().err();
    loudly(failed.as_ref().and_then(|f| f.message()).unwrap_or("ended"));
    std::process::exit(1)
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}

/// A victim that has sandboxes running, its spawner, and the mark of what
/// runs.
fn victim(place: &Place, number: usize) -> Result<(Child, u32, String), Failed> {
    let mark = format!("77{}.{number}", std::process::id());
    let mut child = Process::new(std::env::current_exe()?)
        .env(VICTIM, &mark)
        .env("TMPDIR", place.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let spawner = lines.next().ok_or("no spawner")??.parse()?;
    lines.next().ok_or("nothing runs")??;
    // Its output must find a reader.
    std::thread::spawn(move || lines.count());
    Ok((child, spawner, mark))
}

/// Processes that sleep for a mark.
fn running(mark: &str) -> Vec<u32> {
    let sleeping = format!("sleep\0{mark}\0");
    pids()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&sleeping))
        })
        .collect()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        if Instant::now() > deadline {
            return Err(format!("still there: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until nothing of a spawner is left, or says what is.
fn nothing_left(spawner: u32, mark: &str) -> Outcome {
    wait_for("processes", || running(mark).is_empty())?;
    wait_for("spawner", || {
        !Path::new(&format!("/proc/{spawner}")).exists()
    })?;
    wait_for("cgroups", || cgroups(spawner).is_empty())
}

fn killed_supervisor() -> Outcome {
    let place = Place::new()?;
    for round in 0..number("SWEGYM_TEST_KILLS", 6) {
        let (mut child, spawner, mark) = victim(&place, round)?;
        // Anywhere in its cycle.
        std::thread::sleep(Duration::from_millis(round as u64 * 37 % 100));
        child.kill()?;
        child.wait()?;
        nothing_left(spawner, &mark)?;
    }
    Ok(())
}

fn kill(pid: u32, signal: &str) -> Outcome {
    let status = Process::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status()?;
    same("kill", status.success(), true)
}

/// Whether a child of this process has ended, reaped or not.
fn ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    })
}

fn killed_spawner() -> Outcome {
    let backend = NativeBackend::new()?;
    let place = Place::new()?;
    let spec = place.spec()?;
    let mut sandbox = backend.create(&spec)?;
    let mark = format!("78{}.0", std::process::id());
    let mut session = sandbox.session()?;
    session.run(&format!("sleep {mark} &"), None)?;
    let spawner = backend.spawner_pid();
    kill(spawner, "KILL")?;
    wait_for("the killed spawner", || ended(spawner))?;
    gone("exec", sandbox.exec(&Command::new(["true"])))?;
    gone("create", backend.create(&spec))?;
    sandbox.close().ok();
    drop((session, sandbox, backend));
    wait_for("sandboxes of a dead spawner", || running(&mark).is_empty())?;
    // Nobody was left to remove the cgroups; the next backend does, once the
    // kernel is done with what was in them.
    wait_for("cgroups of a dead spawner", || {
        drop(NativeBackend::new());
        cgroups(spawner).is_empty()
    })?;
    nothing_left(spawner, &mark)
}

fn gone<T>(what: &str, result: Result<T, SandboxError>) -> Outcome {
    match result {
        Err(SandboxError::Gone(_)) => Ok(()),
        Err(e) => Err(format!("{what}: {e}").into()),
        Ok(_) => Err(format!("{what}: worked").into()),
    }
}

/// The only init of a backend.
fn only_init(backend: &NativeBackend) -> Result<u32, Failed> {
    match children(backend.spawner_pid())[..] {
        [init] => Ok(init),
        ref others => Err(format!("children of the spawner: {others:?}").into()),
    }
}

fn hung_init() -> Outcome {
    let backend = NativeBackend::new()?;
    let place = Place::new()?;
    let mut sandbox = backend.create(&place.spec()?)?;
    kill(only_init(&backend)?, "STOP")?;
    gone(
        "exec",
        sandbox.exec(&Command::new(["true"]).timeout(Duration::from_millis(100))),
    )?;
    gone("read", sandbox.read("/etc/passwd".as_ref()))?;
    same("init", children(backend.spawner_pid()).len(), 0)
}

fn killed_init() -> Outcome {
    let backend = NativeBackend::new()?;
    let place = Place::new()?;
    let spec = place.spec()?;
    let mut sandbox = backend.create(&spec)?;
    let init = only_init(&backend)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            kill(init, "KILL").ok();
        });
        gone("exec", sandbox.exec(&Command::new(["sleep", "1000"])))
    })?;
    gone("session", sandbox.session())?;
    sandbox.close()?;
    // The backend is none the worse.
    let mut next = backend.create(&spec)?;
    same(
        "exit",
        next.exec(&Command::new(["true"]))?.exit,
        Exit::Code(0),
    )
}

fn useless_helper() -> Outcome {
    for helper in ["/bin/true", "/no/such/program"] {
        match NativeBackend::builder().helper(helper).start() {
            Err(SandboxError::Unavailable { reason, .. }) if reason.contains(helper) => {}
            other => return Err(format!("{helper}: {other:?}").into()),
        }
    }
    Ok(())
}

/// The attacks that the suite expects to fail inside do work outside, or
/// their failing would mean nothing.
fn attacks_work_outside() -> Outcome {
    let mut attack = Process::new(readable_program());
    attack.arg0(ATTACKER).arg("all").current_dir("/");
    if is_root() {
        attack.uid(USER).gid(USER);
    }
    let report = String::from_utf8(attack.output()?.stdout)?;
    let worked = report
        .lines()
        .filter(|line| line.ends_with(" worked"))
        .count();
    if worked < 5 {
        return Err(format!("only {worked} of the attacks work outside: {report}").into());
    }
    Ok(())
}

fn uids_are_not_shared() -> Outcome {
    if !is_root() {
        loudly("not root: uids_are_not_shared is skipped");
        return Ok(());
    }
    let place = Place::new()?;
    let spec = place.spec()?;
    let backends = [NativeBackend::new()?, NativeBackend::new()?];
    let mut sandboxes = Vec::new();
    for backend in &backends {
        for _ in 0..70 {
            sandboxes.push(backend.create(&spec)?);
        }
    }
    let mut seen = BTreeSet::new();
    for sandbox in &mut sandboxes {
        let uid = sandbox.exec(&Command::new(["id", "-u"]))?.stdout.text();
        if !seen.insert(uid.clone()) {
            return Err(format!("uid {uid} twice").into());
        }
    }
    Ok(())
}
