//! Live shells.

use std::time::{Duration, Instant};

use swegym_core::{Session, SnapshotId};

use super::{
    Backend, Check, Command, ExecOutput, Exit, Fixture, Outcome, SandboxError, create, exec, gone,
    holds, running, same, sh,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "session_keeps_state",
        run: session_keeps_state,
    },
    Check {
        name: "session_scripts_cannot_break_out",
        run: session_scripts_cannot_break_out,
    },
    Check {
        name: "session_output_is_exact",
        run: session_output_is_exact,
    },
    Check {
        name: "session_ends_with_exit",
        run: session_ends_with_exit,
    },
    Check {
        name: "session_timeout",
        run: session_timeout,
    },
    Check {
        name: "session_timeout_spares_others",
        run: session_timeout_spares_others,
    },
    Check {
        name: "session_loop_times_out",
        run: session_loop_times_out,
    },
    Check {
        name: "session_background_jobs",
        run: session_background_jobs,
    },
    Check {
        name: "sessions_and_commands_side_by_side",
        run: sessions_and_commands,
    },
    Check {
        name: "session_makes_busy",
        run: session_makes_busy,
    },
    Check {
        name: "session_close_kills",
        run: session_close_kills,
    },
];

fn run(session: &mut dyn Session, script: &str) -> Result<ExecOutput, String> {
    session
        .run(script, Some(super::PATIENCE))
        .map_err(|e| format!("run {script:?}: {e}"))
}

fn out(session: &mut dyn Session, script: &str) -> Result<String, String> {
    let output = run(session, script)?;
    if output.exit.success() {
        Ok(output.stdout.text().trim_end_matches('\n').to_owned())
    } else {
        Err(format!(
            "{script:?} gave {:?}: {}",
            output.exit,
            output.stderr.text()
        ))
    }
}

fn session_keeps_state(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    same(
        "workdir",
        out(&mut *session, "pwd")?.as_str(),
        &*fixture.spec.workdir.to_string_lossy(),
    )?;
    run(
        &mut *session,
        "cd /tmp; A='x y'; export B=z; f() { echo \"f:$1\"; }; shopt -s extglob",
    )?;
    same(
        "state",
        out(&mut *session, "pwd; echo $A; printenv B; f 1")?.as_str(),
        "/tmp\nx y\nz\nf:1",
    )?;
    for code in [1, 17, 127] {
        same(
            "status",
            run(&mut *session, &format!("(exit {code})"))?.exit,
            Exit::Code(code),
        )?;
    }
    same("status", run(&mut *session, "true")?.exit, Exit::Code(0))?;
    let output = run(&mut *session, "echo o; echo e >&2")?;
    same("stdout", output.stdout.text().as_str(), "o\n")?;
    same("stderr", output.stderr.text().as_str(), "e\n")?;
    same(
        "variables",
        out(&mut *session, "echo \"${PS1-}${HISTFILE-}$HOME\"")?,
        fixture.spec.env["HOME"].clone(),
    )
}

fn session_scripts_cannot_break_out(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    run(&mut *session, "kept=1")?;
    let output = run(&mut *session, "echo 'unbalanced")?;
    holds(
        !output.exit.success() && !output.stderr.bytes.is_empty(),
        || {
            format!(
                "a syntax error gave {:?}, {:?}",
                output.exit,
                output.stderr.text()
            )
        },
    )?;
    let broken = [
        "echo 'unbalanced",
        "echo \"unbalanced",
        "if true; then",
        "for",
        "cat <<EOF",
        "$(",
        "`",
        "((",
        ")",
        "echo ${x!}",
        "f() {",
        "}",
        "echo \\",
        "! !!",
        "!!",
        "case x in",
        "# only a comment",
        "",
        "\n\n",
        "&",
        "| |",
        "set -u; echo $unset_variable; set +u",
        "${unset?message}",
        "readonly R=1; R=2",
        "shift 99",
        "return 3",
        "exec /no/such/program",
        "exec 62>&-",
        "exec 2>&1 1>/dev/null; exec >&2",
        "printf '\\e[2J'",
        "break",
        "local x=1",
        ". /no/such/file",
        "eval 'eval \"'",
        "kill -INT $$",
        "trap 'echo trapped' EXIT DEBUG; trap - DEBUG EXIT",
        "LANG=nonsense",
        "IFS=x",
        "unset PATH; PATH=/usr/bin:/bin",
        "set -- a b; shift",
    ];
    for script in broken {
        run(&mut *session, script)?;
        let kept =
            out(&mut *session, "echo $kept").map_err(|e| format!("after {script:?}: {e}"))?;
        same(script, kept.as_str(), "1")?;
    }
    same(
        "here-document",
        out(&mut *session, "cat <<'EOF'\n'\"$x\nEOF\necho after")?.as_str(),
        "'\"$x\nafter",
    )?;
    same(
        "quotes",
        out(&mut *session, "echo 'a'\\''b' \"c'd\"")?.as_str(),
        "a'b c'd",
    )?;
    // Nothing a script reads is the next script.
    same(
        "stdin",
        out(
            &mut *session,
            "cat; read -r line; echo \"[$line]\"; bash -c 'cat'; echo $kept",
        )?
        .as_str(),
        "[]\n1",
    )?;
    same("nul byte", session.run("a\0b", None).is_err(), true)?;
    let large = format!("x='{}'; echo ${{#x}}", "y".repeat(200_000));
    same(
        "large script",
        out(&mut *session, &large)?.as_str(),
        "200000",
    )
}

fn session_output_is_exact(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.output = 100_000;
    let mut sandbox = create(backend, &spec)?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    for _ in 0..50 {
        let output = run(
            &mut *session,
            "printf 'no line break'; printf '\\xff\\0' >&2",
        )?;
        same("stdout", output.stdout.bytes.as_slice(), b"no line break")?;
        same("stderr", output.stderr.bytes.as_slice(), b"\xff\0")?;
    }
    same(
        "unicode",
        out(&mut *session, "echo 'naïve 漢字 🦀'")?.as_str(),
        "naïve 漢字 🦀",
    )?;
    let output = run(&mut *session, "head -c 5000000 /dev/zero; echo end")?;
    same("dropped", output.stdout.dropped, 5_000_004 - 100_000)?;
    holds(output.stdout.bytes.ends_with(b"end\n"), || {
        "the tail is missing".into()
    })
}

fn session_ends_with_exit(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for script in ["echo bye; exit 3", "echo bye; (sleep 1000 &) ; exit 3"] {
        let mut session = sandbox.session().map_err(|e| e.to_string())?;
        let output = run(&mut *session, script)?;
        same("exit", output.exit, Exit::Code(3))?;
        same("output", output.stdout.text().as_str(), "bye\n")?;
        same("stderr", output.stderr.text().as_str(), "")?;
        gone("a script after exit", session.run("true", None))?;
        session
            .close()
            .map_err(|e| format!("close after exit: {e}"))?;
    }
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    same(
        "killed",
        run(&mut *session, "kill -9 $$")?.exit,
        Exit::Signal(9),
    )?;
    gone("a script after a kill", session.run("true", None))?;
    same("left running", running(&mut *sandbox)?, Vec::new())
}

/// Whatever a script does to go on, nothing of it runs after its limit, and
/// the session has ended.
fn session_timeout(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let scripts = [
        "echo begun; sleep 1000; echo never",
        "echo begun; bash -c 'trap \"\" INT TERM; sleep 1000 & sleep 1000; sleep 1000'; echo never",
        "echo begun; (sleep 1000 | cat; echo never)",
        "echo begun; sleep 1000 | (read -r line; echo never)",
        "trap 'sleep 1000' INT; echo begun; sleep 1000; echo never",
        "trap 'echo never' INT TERM CHLD EXIT ERR; echo begun; sleep 1000 || echo never",
        "trap '' INT TERM HUP; echo begun; while :; do sleep 1000; echo never; done",
        "echo begun; (trap 'echo never' EXIT TERM; sleep 1000 & wait; echo never) & wait; echo never",
        "echo begun; setsid bash -c 'sleep 1000; echo never' & wait; echo never",
        "echo begun; exec bash -c 'sleep 1000; echo never'",
    ];
    for script in scripts {
        let mut session = sandbox.session().map_err(|e| e.to_string())?;
        let started = Instant::now();
        let output = session
            .run(script, Some(Duration::from_millis(1500)))
            .map_err(|e| format!("{script}: {e}"))?;
        same(script, output.exit, Exit::TimedOut)?;
        same(script, output.stdout.text().as_str(), "begun\n")?;
        holds(!output.stderr.text().contains("never"), || {
            format!("{script}: {:?}", output.stderr.text())
        })?;
        holds(started.elapsed() < Duration::from_secs(20), || {
            format!("{script}: {:?}", started.elapsed())
        })?;
        gone("a script after a timeout", session.run("true", None))?;
        session.close().map_err(|e| e.to_string())?;
        same(script, running(&mut *sandbox)?, Vec::new())?;
    }
    Ok(())
}

/// A timeout of one session is none of the others' business.
fn session_timeout_spares_others(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut first = sandbox.session().map_err(|e| e.to_string())?;
    let mut second = sandbox.session().map_err(|e| e.to_string())?;
    run(&mut *second, "kept=1; sleep 1000 & job=$!")?;
    let script = "sleep 1001 & sleep 1001";
    let output = first
        .run(script, Some(Duration::from_millis(200)))
        .map_err(|e| e.to_string())?;
    same(script, output.exit, Exit::TimedOut)?;
    let alive = "kill -0 $job && echo $kept; jobs -s";
    same("second", out(&mut *second, alive)?.as_str(), "1")?;
    let sleeping = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -E '^100[01]$'";
    same("alive", sh(&mut *sandbox, sleeping)?.as_str(), "1000")?;
    second.close().map_err(|e| e.to_string())?;
    same("left running", running(&mut *sandbox)?, Vec::new())
}

fn session_loop_times_out(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for script in [
        "while :; do :; done",
        "while :; do sleep 0.01; done",
        "f() { f & f; }; while :; do sleep 0.001 & done",
        "while :; do (sleep 0.01; while :; do sleep 0.01; done) & sleep 0.01; done",
    ] {
        let mut session = sandbox.session().map_err(|e| e.to_string())?;
        let output = session
            .run(script, Some(Duration::from_millis(200)))
            .map_err(|e| e.to_string())?;
        same(script, output.exit, Exit::TimedOut)?;
        gone("a script after a timeout", session.run("true", None))?;
        same(script, running(&mut *sandbox)?, Vec::new())?;
    }
    Ok(())
}

fn session_background_jobs(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    run(
        &mut *session,
        "(sleep 0.3; echo late > /tmp/late) & sleep 1000 >/dev/null 2>&1 &",
    )?;
    run(&mut *session, "setsid -f sleep 1001")?;
    same(
        "job lives on",
        out(
            &mut *session,
            "wait %1; cat /tmp/late; kill -0 %2 && echo alive",
        )?
        .as_str(),
        "late\nalive",
    )?;
    session.close().map_err(|e| e.to_string())?;
    same("left running", running(&mut *sandbox)?, Vec::new())
}

fn sessions_and_commands(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut first = sandbox.session().map_err(|e| e.to_string())?;
    let mut second = sandbox.session().map_err(|e| e.to_string())?;
    run(
        &mut *first,
        "x=first; cd /tmp; setsid -f sleep 1000; sleep 1000 &",
    )?;
    run(&mut *second, "x=second; cd /var")?;
    // A command's end takes its own children along, not the sessions'.
    let script = "(setsid bash -c 'exec -a stray sleep 1002' &) ; sleep 0.1; echo file > /tmp/file";
    same(
        "command",
        exec(&mut *sandbox, &Command::shell(script))?.exit,
        Exit::Code(0),
    )?;
    let output = exec(
        &mut *sandbox,
        &Command::new(["sleep", "1003"]).timeout(Duration::from_millis(200)),
    )?;
    same("command", output.exit, Exit::TimedOut)?;
    let sleeping = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done | grep -c '^sleep 1000 $'";
    same("sessions' own", sh(&mut *sandbox, sleeping)?.as_str(), "2")?;
    let stray =
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cE '^(1002|1003)$'; true";
    same("strays", sh(&mut *sandbox, stray)?.as_str(), "0")?;
    same(
        "first",
        out(&mut *first, "echo $x; cat file")?.as_str(),
        "first\nfile",
    )?;
    same(
        "second",
        out(&mut *second, "echo $x; pwd")?.as_str(),
        "second\n/var",
    )?;
    // One shell ends; the other does not notice.
    same("exit", run(&mut *first, "exit 4")?.exit, Exit::Code(4))?;
    same("second", out(&mut *second, "echo $x")?.as_str(), "second")?;
    second.close().map_err(|e| e.to_string())?;
    same("left running", running(&mut *sandbox)?, Vec::new())
}

fn session_makes_busy(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    let busy = |result: Result<SnapshotId, SandboxError>| match result {
        Err(SandboxError::Busy(_)) => Ok(()),
        other => Err(format!("a snapshot with a live session gave {other:?}")),
    };
    busy(sandbox.snapshot())?;
    session.close().map_err(|e| e.to_string())?;
    let snapshot = sandbox
        .snapshot()
        .map_err(|e| format!("after the session: {e}"))?;
    backend
        .drop_snapshot(&snapshot)
        .map_err(|e| e.to_string())?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    sandbox
        .reset()
        .map_err(|e| format!("reset with a live session: {e}"))?;
    gone(
        "a session after a reset",
        match session.run("true", None) {
            // The shell was killed under it: that may be said once as an exit.
            Ok(output) if output.exit == Exit::Signal(9) => session.run("true", None),
            other => other,
        },
    )
}

fn session_close_kills(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for _ in 0..5 {
        let mut session = sandbox.session().map_err(|e| e.to_string())?;
        let script = "trap '' TERM HUP INT; for i in 1 2 3 4 5; do (trap '' TERM; while :; do sleep 0.01; done) & setsid -f sleep 1000; done";
        run(&mut *session, script)?;
        session.close().map_err(|e| e.to_string())?;
        session
            .close()
            .map_err(|e| format!("a second close: {e}"))?;
        gone("run", session.run("true", None))?;
        same("left running", running(&mut *sandbox)?, Vec::new())?;
    }
    Ok(())
}
