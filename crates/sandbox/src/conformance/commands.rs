//! Commands: what goes in, what comes out, and how they end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{
    Backend, Check, Command, Exit, Fixture, Outcome, create, exec, gone, holds, running, same, sh,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "exit_codes",
        run: exit_codes,
    },
    Check {
        name: "signals",
        run: signals,
    },
    Check {
        name: "missing_programs",
        run: missing_programs,
    },
    Check {
        name: "exact_bytes",
        run: exact_bytes,
    },
    Check {
        name: "stdin_that_nobody_reads",
        run: stdin_that_nobody_reads,
    },
    Check {
        name: "stdin_is_empty_by_default",
        run: stdin_is_empty_by_default,
    },
    Check {
        name: "streams_apart_and_together",
        run: streams_apart_and_together,
    },
    Check {
        name: "both_streams_full",
        run: both_streams_full,
    },
    Check {
        name: "unicode",
        run: unicode,
    },
    Check {
        name: "environment_is_the_specs",
        run: environment_is_the_specs,
    },
    Check {
        name: "working_directory",
        run: working_directory,
    },
    Check {
        name: "host_name",
        run: host_name,
    },
    Check {
        name: "unprivileged_user",
        run: unprivileged_user,
    },
    Check {
        name: "hosts_file_is_the_users",
        run: hosts_file_is_the_users,
    },
    Check {
        name: "entries_in_the_root_directory",
        run: entries_in_the_root_directory,
    },
    Check {
        name: "devices",
        run: devices,
    },
    Check {
        name: "loopback",
        run: loopback,
    },
    Check {
        name: "private_channel",
        run: private_channel,
    },
    Check {
        name: "only_standard_streams_open",
        run: only_standard_streams_open,
    },
    Check {
        name: "resource_limits",
        run: resource_limits,
    },
    Check {
        name: "timeout_kills_the_tree",
        run: timeout_kills_the_tree,
    },
    Check {
        name: "default_wall_limit",
        run: default_wall_limit,
    },
    Check {
        name: "daemons_end_with_the_command",
        run: daemons_end_with_the_command,
    },
    Check {
        name: "huge_output_is_capped",
        run: huge_output_is_capped,
    },
    Check {
        name: "usage_is_measured",
        run: usage_is_measured,
    },
    Check {
        name: "sandboxes_do_not_see_each_other",
        run: sandboxes_do_not_see_each_other,
    },
    Check {
        name: "closing_ends_everything",
        run: closing_ends_everything,
    },
];

fn exit_codes(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for code in [0, 1, 7, 126, 127, 200, 255] {
        let output = exec(&mut *sandbox, &Command::shell(format!("exit {code}")))?;
        same("exit", output.exit, Exit::Code(code))?;
    }
    Ok(())
}

fn signals(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for signal in [9, 11, 15] {
        let output = exec(
            &mut *sandbox,
            &Command::shell(format!("kill -{signal} $$; sleep 9")),
        )?;
        same("exit", output.exit, Exit::Signal(signal))?;
    }
    // A pipe that breaks kills, as it does everywhere.
    same(
        "broken pipe",
        sh(&mut *sandbox, "yes | head -n1; echo ${PIPESTATUS[0]}")?.as_str(),
        "y\n141",
    )
}

fn missing_programs(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for (program, code) in [
        ("no-such-program", 127),
        ("/no/such/program", 127),
        ("/etc", 126),
    ] {
        let output = exec(&mut *sandbox, &Command::new([program]))?;
        same(program, output.exit, Exit::Code(code))?;
        holds(!output.stderr.bytes.is_empty(), || {
            format!("{program}: stderr is silent")
        })?;
    }
    same(
        "no program",
        sandbox.exec(&Command::new([""; 0])).is_err(),
        true,
    )?;
    same(
        "nul byte",
        sandbox.exec(&Command::new(["echo", "a\0b"])).is_err(),
        true,
    )
}

fn exact_bytes(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let every_byte: Vec<u8> = (0..=255).collect();
    for bytes in [
        every_byte.clone(),
        every_byte.repeat(8192),
        b"no line break".to_vec(),
    ] {
        let mut command = Command::new(["cat"]);
        command.stdin.clone_from(&bytes);
        let output = exec(&mut *sandbox, &command)?;
        holds(output.stdout.bytes == bytes, || {
            format!(
                "{} bytes came back as {}",
                bytes.len(),
                output.stdout.bytes.len()
            )
        })?;
        same("dropped", output.stdout.dropped, 0)?;
    }
    Ok(())
}

fn stdin_that_nobody_reads(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut command = Command::new(["true"]);
    command.stdin = vec![b'x'; 1 << 20];
    same("exit", exec(&mut *sandbox, &command)?.exit, Exit::Code(0))
}

fn stdin_is_empty_by_default(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    same("bytes", sh(&mut *sandbox, "wc -c")?.trim(), "0")
}

fn streams_apart_and_together(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut command = Command::shell("for i in 1 2 3; do echo out$i; echo err$i >&2; done");
    let output = exec(&mut *sandbox, &command)?;
    same(
        "stdout",
        output.stdout.text().as_str(),
        "out1\nout2\nout3\n",
    )?;
    same(
        "stderr",
        output.stderr.text().as_str(),
        "err1\nerr2\nerr3\n",
    )?;
    command.merge_stderr = true;
    let output = exec(&mut *sandbox, &command)?;
    same(
        "merged",
        output.stdout.text().as_str(),
        "out1\nerr1\nout2\nerr2\nout3\nerr3\n",
    )?;
    same("stderr when merged", output.stderr.text().as_str(), "")
}

fn both_streams_full(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let script = "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; cat";
    let mut command = Command::shell(script);
    command.stdin = vec![b'x'; 3_000_000];
    let output = exec(&mut *sandbox, &command)?;
    same("stdout", output.stdout.bytes.len(), 6_000_000)?;
    same("stderr", output.stderr.bytes.len(), 3_000_000)
}

fn unicode(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let text = "naïve 漢字 🦀 a\u{301}\t'\"\\$";
    let command = Command::new(["printf", "%s|%s", text, "two words"]);
    let output = exec(&mut *sandbox, &command)?;
    same(
        "argument",
        output.stdout.text(),
        format!("{text}|two words"),
    )?;
    let command = Command::shell("printf %s \"$V\" > \"/tmp/$V1\"; cat /tmp/ñ*")
        .env("V", text)
        .env("V1", "ñ 漢");
    same(
        "variable",
        exec(&mut *sandbox, &command)?.stdout.text(),
        text.to_owned(),
    )
}

fn environment_is_the_specs(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut seen = |command: &Command| -> Result<BTreeMap<String, String>, String> {
        let text = exec(&mut *sandbox, command)?.stdout.text();
        let pairs = text
            .split_terminator('\0')
            .filter_map(|pair| pair.split_once('='));
        Ok(pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    };
    let command = Command::new(["env", "-0"]);
    same("environment", seen(&command)?, fixture.spec.env.clone())?;
    let command = command.env("HOME", "/elsewhere").env("EXTRA", "a=b\nc");
    let mut expected = fixture.spec.env.clone();
    expected.insert("HOME".into(), "/elsewhere".into());
    expected.insert("EXTRA".into(), "a=b\nc".into());
    same("environment of a command", seen(&command)?, expected)
}

fn working_directory(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.workdir = "/var/tmp".into();
    let mut sandbox = create(backend, &spec)?;
    let mut pwd = |dir: Option<&str>| -> Result<String, String> {
        let mut command = Command::new(["pwd"]);
        command.cwd = dir.map(Into::into);
        Ok(exec(&mut *sandbox, &command)?
            .stdout
            .text()
            .trim()
            .to_owned())
    };
    same("workdir", pwd(None)?.as_str(), "/var/tmp")?;
    same("absolute", pwd(Some("/tmp"))?.as_str(), "/tmp")?;
    same("relative", pwd(Some(".."))?.as_str(), "/var")?;
    let missing = Command::new(["true"]).cwd("/no/such/directory");
    match sandbox.exec(&missing) {
        Err(e) => holds(e.to_string().contains("/no/such/directory"), || {
            e.to_string()
        }),
        Ok(output) => Err(format!("a missing directory gave {:?}", output.exit)),
    }
}

fn host_name(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.hostname = "box-17".into();
    let mut sandbox = create(backend, &spec)?;
    same(
        "host name",
        sh(&mut *sandbox, "cat /proc/sys/kernel/hostname")?.as_str(),
        "box-17",
    )
}

fn unprivileged_user(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    holds(sh(&mut *sandbox, "id -u")? != "0", || "uid 0 inside".into())?;
    let status = sh(&mut *sandbox, "cat /proc/self/status")?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        same(set, field(set).trim_matches('0').len(), 0)?;
    }
    same("NoNewPrivs", field("NoNewPrivs").as_str(), "1")?;
    same("Seccomp", field("Seccomp").as_str(), "2")?;
    // The user has a name, and owns what it finds.
    sh(
        &mut *sandbox,
        "id -un && touch /etc/x && rm /etc/x && echo x >> /etc/passwd",
    )?;
    Ok(())
}

fn hosts_file_is_the_users(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    sh(&mut *sandbox, "echo 192.0.2.1 example >> /etc/hosts").map(drop)
}

fn entries_in_the_root_directory(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    sh(&mut *sandbox, "touch /x && mkdir /y && rm -r /x /y").map(drop)
}

fn devices(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let script = "set -e; echo x > /dev/null; head -c1 /dev/zero | od -An -tx1; \
                  test $(head -c9 /dev/urandom | wc -c) = 9; echo a > /dev/stdout; \
                  cat <(echo b); echo c > /dev/shm/f; cat /dev/shm/f; test -c /dev/ptmx; \
                  ! (echo x > /dev/full) 2>/dev/null; echo e > /dev/stderr";
    same(
        "devices",
        sh(&mut *sandbox, script)?.as_str(),
        " 00\na\nb\nc",
    )
}

fn loopback(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    same(
        "exit",
        exec(&mut *sandbox, &fixture.attack(&["loopback"]))?.exit,
        Exit::Code(0),
    )
}

fn private_channel(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for number in [3, 9, 40] {
        let mut command = Command::shell(format!(
            "echo public; printf 'a\\0b' >&{number}; (printf child >&{number})"
        ));
        command.channel = Some(number);
        let output = exec(&mut *sandbox, &command)?;
        same("channel", output.channel.as_slice(), &b"a\0bchild"[..])?;
        same("stdout", output.stdout.text().as_str(), "public\n")?;
        // Without a channel the number means nothing.
        let output = exec(&mut *sandbox, &Command::shell(format!("echo x >&{number}")))?;
        holds(!output.exit.success(), || {
            format!("{number} is open without a channel")
        })?;
    }
    let mut command = Command::new(["true"]);
    command.channel = Some(1);
    same("channel over stdout", sandbox.exec(&command).is_err(), true)
}

fn only_standard_streams_open(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    // 3 is the directory being listed.
    let mut command = Command::new(["ls", "/proc/self/fd"]);
    let listing = exec(&mut *sandbox, &command)?.stdout.text();
    same(
        "open files",
        listing.split_whitespace().collect::<Vec<_>>(),
        vec!["0", "1", "2", "3"],
    )?;
    command.channel = Some(7);
    let listing = exec(&mut *sandbox, &command)?.stdout.text();
    same(
        "open files",
        listing.split_whitespace().collect::<Vec<_>>(),
        vec!["0", "1", "2", "3", "7"],
    )
}

fn resource_limits(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.open_files = Some(99);
    let mut sandbox = create(backend, &spec)?;
    same(
        "limits",
        sh(&mut *sandbox, "ulimit -n; ulimit -Hn; ulimit -c")?.as_str(),
        "99\n99\n0",
    )
}

fn timeout_kills_the_tree(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let script = "trap '' TERM INT HUP; (trap '' TERM; sleep 1000 & sleep 1000) & \
                  setsid sleep 1000 & (setsid setsid sleep 1000 &) ; echo ready; sleep 1000";
    let started = Instant::now();
    let output = exec(
        &mut *sandbox,
        &Command::shell(script).timeout(Duration::from_millis(500)),
    )?;
    same("exit", output.exit, Exit::TimedOut)?;
    same(
        "output until then",
        output.stdout.text().as_str(),
        "ready\n",
    )?;
    holds(started.elapsed() < PROMPT, || {
        format!("took {:?}", started.elapsed())
    })?;
    same("left running", running(&mut *sandbox)?, Vec::new())
}

/// Generous on a loaded machine, and far from the sleeps that must not be
/// waited for.
const PROMPT: Duration = Duration::from_secs(30);

fn default_wall_limit(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.wall = Some(Duration::from_millis(300));
    let mut sandbox = create(backend, &spec)?;
    let output = sandbox
        .exec(&Command::new(["sleep", "1000"]))
        .map_err(|e| e.to_string())?;
    same("exit", output.exit, Exit::TimedOut)
}

fn daemons_end_with_the_command(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let script = "sleep 1000 & setsid nohup sleep 1000 >/dev/null 2>&1 & \
                  (setsid bash -c 'sleep 1000 & disown; sleep 1000' &) ; disown -a; echo done";
    let started = Instant::now();
    let output = exec(&mut *sandbox, &Command::shell(script))?;
    same("exit", output.exit, Exit::Code(0))?;
    same("output", output.stdout.text().as_str(), "done\n")?;
    holds(started.elapsed() < PROMPT, || {
        format!("took {:?}", started.elapsed())
    })?;
    same("left running", running(&mut *sandbox)?, Vec::new())
}

fn huge_output_is_capped(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut command = Command::shell("echo first; head -c 50000000 /dev/zero; echo; echo last");
    command.output_limit = Some(100_000);
    let output = exec(&mut *sandbox, &command)?;
    let kept = output.stdout;
    same("dropped", kept.dropped, 50_000_000 + 12 - 100_000)?;
    holds(kept.bytes.len() < 101_000, || {
        format!("kept {} bytes", kept.bytes.len())
    })?;
    let text = String::from_utf8_lossy(&kept.bytes);
    holds(
        text.starts_with("first\n") && text.ends_with("\nlast\n"),
        || "head or tail is missing".into(),
    )?;
    holds(text.contains(&kept.dropped.to_string()), || {
        "nothing says what is missing".into()
    })
}

fn usage_is_measured(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    // A grandchild that nobody waits for counts too.
    let output = exec(&mut *sandbox, &Command::shell(format!("({busy}); {busy}")))?;
    holds(output.seconds > 0.0, || "no wall time".into())?;
    match output.cpu_seconds {
        Some(cpu) => holds(cpu > 0.05 && cpu < output.seconds * 8.0, || {
            format!("{cpu} s of CPU in {} s", output.seconds)
        }),
        None => Ok(()),
    }
}

fn sandboxes_do_not_see_each_other(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn(move || {
                    for round in 0..3 {
                        let mut sandbox = create(backend, &fixture.spec)?;
                        let mark = format!("{number}-{round}");
                        sh(
                            &mut *sandbox,
                            &format!("echo {mark} > /tmp/mark; sleep 0.05"),
                        )?;
                        same(
                            "mark",
                            sh(
                                &mut *sandbox,
                                "cat /tmp/mark /tmp/other 2>/dev/null; ls /tmp",
                            )?,
                            format!("{mark}\nmark"),
                        )?;
                        same("processes", running(&mut *sandbox)?, Vec::new())?;
                        sandbox.close().map_err(|e| e.to_string())?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        })
    })
}

fn closing_ends_everything(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    session
        .run("sleep 1000 &", None)
        .map_err(|e| e.to_string())?;
    sandbox.close().map_err(|e| e.to_string())?;
    sandbox
        .close()
        .map_err(|e| format!("a second close: {e}"))?;
    gone("exec", sandbox.exec(&Command::new(["true"])))?;
    gone("session", sandbox.session())?;
    gone("read", sandbox.read("/etc/passwd".as_ref()))?;
    gone("write", sandbox.write("/tmp/x".as_ref(), b"", false))?;
    gone("reset", sandbox.reset())?;
    gone("snapshot", sandbox.snapshot())?;
    gone("fork", sandbox.fork())?;
    gone("run", session.run("true", None))
}
