//! The sandbox under attack.

use std::time::{Duration, Instant};

use swegym_core::Sandbox;

use super::{
    Backend, Check, Command, Exit, Fixture, Outcome, create, exec, holds, running, same, sh,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "attack_kernel_interfaces",
        run: kernel_interfaces,
    },
    Check {
        name: "attack_fork_bomb",
        run: fork_bomb,
    },
    Check {
        name: "attack_fork_bomb_beside_a_session",
        run: fork_bomb_beside_a_session,
    },
    Check {
        name: "attack_memory_hog",
        run: memory_hog,
    },
    Check {
        name: "attack_memory_by_many",
        run: memory_by_many,
    },
    Check {
        name: "attack_disk_fill",
        run: disk_fill,
    },
    Check {
        name: "attack_inode_fill",
        run: inode_fill,
    },
    Check {
        name: "attack_huge_channel",
        run: huge_channel,
    },
    Check {
        name: "attack_kill_everything",
        run: kill_everything,
    },
    Check {
        name: "attack_no_network",
        run: no_network,
    },
    Check {
        name: "attack_host_is_invisible",
        run: host_is_invisible,
    },
    Check {
        name: "attack_set_uid_programs",
        run: set_uid_programs,
    },
    Check {
        name: "mounts_are_nosuid",
        run: mounts_are_nosuid,
    },
];

/// It still does what it should.
fn works(sandbox: &mut dyn Sandbox) -> Outcome {
    same("still works", sh(sandbox, "echo alive")?.as_str(), "alive")?;
    same("left running", running(sandbox)?, Vec::new())
}

fn kernel_interfaces(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let output = exec(&mut *sandbox, &fixture.attack(&["all"]))?;
    same("exit", output.exit, Exit::Code(0))?;
    let report = output.stdout.text();
    let worked: Vec<&str> = report
        .lines()
        .filter_map(|l| l.strip_suffix(" worked"))
        .collect();
    holds(worked.is_empty(), || {
        format!("these worked: {}", worked.join(", "))
    })?;
    holds(report.lines().count() > 50, || {
        format!("only part was tried: {report}")
    })?;
    works(&mut *sandbox)
}

fn fork_bomb(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.processes = Some(100);
    let mut sandbox = create(backend, &spec)?;
    let bombs = [
        ":() { : | : & }; :; sleep 1000",
        // Short-lived, each in a session of its own, never below its parent.
        "b() { setsid bash -c \"$1\" x \"$1\" >/dev/null 2>&1 & }; export -f b; \
         s='trap \"\" TERM; while :; do b \"$1\"; b \"$1\"; exit; done'; b \"$s\"; sleep 1000",
    ];
    for bomb in bombs {
        let command = Command::shell(bomb).timeout(Duration::from_secs(2));
        let started = Instant::now();
        exec(&mut *sandbox, &command)?;
        holds(started.elapsed() < Duration::from_secs(60), || {
            format!("took {:?}", started.elapsed())
        })?;
        works(&mut *sandbox)?;
    }
    // The limit is what stopped it.
    let count = "n=0; while [ $n -lt 300 ] && sleep 100 & do n=$((n+1)); done 2>/dev/null; \
                 ls -d /proc/[0-9]* | wc -l";
    let output = exec(
        &mut *sandbox,
        &Command::shell(count).timeout(Duration::from_secs(20)),
    )?;
    let seen: usize = output.stdout.text().trim().parse().unwrap_or(0);
    holds(seen <= 102, || format!("{seen} processes"))?;
    works(&mut *sandbox)
}

fn fork_bomb_beside_a_session(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.processes = Some(100);
    let mut sandbox = create(backend, &spec)?;
    let mut session = sandbox.session().map_err(|e| e.to_string())?;
    session
        .run("kept=1; sleep 1000 &", None)
        .map_err(|e| e.to_string())?;
    let bomb = Command::shell(":() { (: | : &) ; }; :; sleep 1000").timeout(Duration::from_secs(1));
    exec(&mut *sandbox, &bomb)?;
    let output = session.run("echo $kept", None).map_err(|e| e.to_string())?;
    same("session", output.stdout.text().as_str(), "1\n")?;
    let mut others = running(&mut *sandbox)?;
    // By process id, which may grow another digit meanwhile.
    others.sort();
    same(
        "left running",
        others,
        vec!["bash".to_owned(), "sleep".to_owned()],
    )
}

fn memory_hog(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.memory = Some(128 << 20);
    let mut sandbox = create(backend, &spec)?;
    let large = (1_u64 << 30).to_string();
    for _ in 0..2 {
        let output = exec(&mut *sandbox, &fixture.attack(&["allocate", &large]))?;
        if fixture.counts_memory {
            same("exit", output.exit, Exit::OutOfMemory)?;
        } else {
            holds(!output.exit.success(), || {
                "1 GiB fitted into 128 MiB".into()
            })?;
        }
        works(&mut *sandbox)?;
    }
    let small = (32_u64 << 20).to_string();
    same(
        "below the limit",
        exec(&mut *sandbox, &fixture.attack(&["allocate", &small]))?.exit,
        Exit::Code(0),
    )
}

fn memory_by_many(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.memory = Some(256 << 20);
    let mut sandbox = create(backend, &spec)?;
    let attacker = fixture.attacker.display();
    // No process is over the limit alone; each stays until it is killed.
    let script = format!(
        "hog() {{ head -c 100000000 /dev/zero | tail -c 100000000 | (sleep 1000; cat) >/dev/null; }}; \
         for i in 1 2 3 4 5 6 7 8; do hog & done; {attacker} allocate 1; wait"
    );
    let output = exec(
        &mut *sandbox,
        &Command::shell(script).timeout(Duration::from_secs(20)),
    )?;
    if fixture.counts_memory {
        holds(output.exit != Exit::Code(0), || {
            "800 MB fitted into 256 MiB".into()
        })?;
    } else {
        same("exit", output.exit, Exit::OutOfMemory)?;
    }
    works(&mut *sandbox)
}

fn disk_fill(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.disk = Some(32 << 20);
    let mut sandbox = create(backend, &spec)?;
    for script in [
        "head -c 200M /dev/zero > /tmp/big",
        "for i in 1 2 3 4 5 6 7 8; do head -c 8M /dev/zero > /tmp/part$i || exit 1; done",
        "for i in 1 2 3 4 5 6 7 8; do head -c 8M /dev/zero > /dev/shm/part$i || exit 1; done",
    ] {
        let output = exec(&mut *sandbox, &Command::shell(script))?;
        holds(!output.exit.success(), || {
            format!("{script}: fitted into 32 MiB")
        })?;
        let used = sh(&mut *sandbox, "du -cbm /tmp /dev/shm | tail -n1 | cut -f1")?;
        holds(used.parse::<u64>().is_ok_and(|mb| mb <= 34), || {
            format!("{used} MB used")
        })?;
        sh(
            &mut *sandbox,
            "rm -f /tmp/* /dev/shm/*; echo x > /tmp/works-again; rm /tmp/works-again",
        )?;
    }
    let write = sandbox.write("/tmp/big".as_ref(), &vec![0; 64 << 20], false);
    holds(write.is_err(), || {
        "the file API wrote 64 MiB into 32".into()
    })?;
    works(&mut *sandbox)
}

fn inode_fill(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.limits.disk = Some(8 << 20);
    let mut sandbox = create(backend, &spec)?;
    let script = "mkdir /tmp/d && cd /tmp/d && for i in {1..40000}; do : > $i || exit 7; done";
    let output = exec(&mut *sandbox, &Command::shell(script))?;
    same("exit", output.exit, Exit::Code(7))?;
    sh(&mut *sandbox, "rm -r /tmp/d")?;
    works(&mut *sandbox)
}

fn huge_channel(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut command = Command::shell("head -c 200000000 /dev/zero >&5");
    command.channel = Some(5);
    let output = exec(&mut *sandbox, &command)?;
    same("exit", output.exit, Exit::Code(0))?;
    holds(output.channel.len() <= 64 << 20, || {
        format!("kept {} bytes", output.channel.len())
    })
}

fn kill_everything(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    for script in [
        "kill -9 -1",
        "kill -9 1",
        "kill -STOP 1; kill -TERM 1; kill -CHLD 1; kill -SEGV 1",
        "kill -STOP -1",
    ] {
        exec(
            &mut *sandbox,
            &Command::shell(script).timeout(Duration::from_secs(2)),
        )?;
        works(&mut *sandbox)?;
    }
    Ok(())
}

fn no_network(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let interfaces = sh(
        &mut *sandbox,
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '",
    )?;
    // Tunnels that the kernel puts into every namespace carry nothing.
    let real: Vec<&str> = interfaces
        .lines()
        .filter(|name| {
            ![
                "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0",
                "ip6gre0",
            ]
            .contains(name)
        })
        .collect();
    same("interfaces", real, vec!["lo"])?;
    let output = exec(
        &mut *sandbox,
        &Command::shell("exec 3<>/dev/tcp/192.0.2.1/80").timeout(Duration::from_secs(5)),
    )?;
    same("exit", output.exit, Exit::Code(1))
}

fn host_is_invisible(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let scratch = fixture.scratch.display();
    let script = format!(
        "test ! -e {scratch} && test ! -e /etc/shadow && test ! -e /sys/kernel && test ! -e /dev/kmsg && \
         test ! -e /dev/mem && ! ls /proc/1/root/ 2>/dev/null && ! cat /proc/1/environ 2>/dev/null | grep -q ."
    );
    sh(&mut *sandbox, &script)?;
    let kernel = "! (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && ! (echo b > /proc/sysrq-trigger) 2>/dev/null";
    sh(&mut *sandbox, kernel)?;
    // Only init and what looks: the host's processes are not to be seen.
    same("processes", running(&mut *sandbox)?, Vec::new())
}

fn set_uid_programs(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let script = "for p in $(find /usr/bin /usr/sbin /usr/lib -xdev -perm -4000 2>/dev/null | head -n 20); do echo $p; done; \
                  cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; /tmp/id -u; /tmp/id -ru";
    let text = sh(&mut *sandbox, script)?;
    let own = sh(&mut *sandbox, "id -u")?;
    same(
        "ids of a set-uid copy",
        text.lines().rev().take(2).collect::<Vec<_>>(),
        vec![own.as_str(), own.as_str()],
    )
}

fn mounts_are_nosuid(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let options = sh(
        &mut *sandbox,
        "while read -r _ dir _ opts _; do echo \"$dir $opts\"; done < /proc/self/mounts",
    )?;
    for line in options.lines() {
        let (dir, options) = line.split_once(' ').unwrap_or((line, ""));
        holds(options.split(',').any(|o| o == "nosuid"), || {
            format!("{dir} is not nosuid: {options}")
        })?;
    }
    Ok(())
}
