//! Reset, snapshot, restore and fork.

use swegym_core::Sandbox;

use super::files::layer;
use super::{
    Backend, Check, Command, Exit, Fixture, Outcome, create, exec, holds, running, same, sh,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "reset_goes_back",
        run: reset_goes_back,
    },
    Check {
        name: "snapshot_and_restore",
        run: snapshot_and_restore,
    },
    Check {
        name: "forks_are_independent",
        run: forks_are_independent,
    },
    Check {
        name: "forks_of_forks",
        run: forks_of_forks,
    },
    Check {
        name: "forks_outlive_their_parent",
        run: forks_outlive_their_parent,
    },
    Check {
        name: "reset_after_snapshot",
        run: reset_after_snapshot,
    },
    Check {
        name: "snapshots_can_be_dropped",
        run: snapshots_can_be_dropped,
    },
    Check {
        name: "many_snapshots_in_a_row",
        run: many_snapshots_in_a_row,
    },
];

/// A layer for changes to be made to.
const FILES: &[(&str, &str)] = &[
    ("testbed/appended", "old\n"),
    ("testbed/removed", "old\n"),
    ("testbed/replaced/old", "old\n"),
    ("testbed/moved/old", "old\n"),
];

/// Changes of every kind that an overlay treats differently.
const CHANGE: &str = "set -e; mkdir -p /tmp/d/e; echo one > /tmp/d/e/f; cd /testbed; echo x >> appended; rm removed; \
                      rm -r replaced; mkdir replaced; echo new > replaced/new; mv moved elsewhere; \
                      ln -s f /tmp/d/e/l; printf '#!/bin/sh\\necho ran' > /tmp/tool; chmod 755 /tmp/tool";

/// Shows them.
const SHOW: &str = "cat /tmp/d/e/l; cd /testbed; cat appended; ls . replaced elsewhere; /tmp/tool";

const SHOWN: &str =
    "one\nold\nx\n.:\nappended\nelsewhere\nreplaced\n\nelsewhere:\nold\n\nreplaced:\nnew\nran";

/// A sandbox over the layer.
fn over_files(backend: &dyn Backend, fixture: &Fixture) -> Result<Box<dyn Sandbox>, String> {
    let mut spec = fixture.spec.clone();
    spec.layers.insert(0, layer(fixture, "changing", FILES)?);
    create(backend, &spec)
}

fn fork(sandbox: &mut dyn Sandbox) -> Result<Box<dyn Sandbox>, String> {
    sandbox.fork().map_err(|e| format!("fork: {e}"))
}

fn reset(sandbox: &mut dyn Sandbox) -> Outcome {
    sandbox.reset().map_err(|e| format!("reset: {e}"))
}

fn reset_goes_back(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = over_files(backend, fixture)?;
    // In memory: sort's own files would be listed too.
    let listing = "find / -xdev -not -path '/proc/*' | sort -S 64M | cksum; cat /testbed/appended";
    let before = sh(&mut *sandbox, listing)?;
    for _ in 0..5 {
        sh(&mut *sandbox, CHANGE)?;
        same("changed", sh(&mut *sandbox, SHOW)?.as_str(), SHOWN)?;
        sh(&mut *sandbox, "echo x > /dev/shm/x")?;
        reset(&mut *sandbox)?;
        same("files", sh(&mut *sandbox, listing)?, before.clone())?;
        same(
            "shared memory",
            sh(&mut *sandbox, "ls /dev/shm")?.as_str(),
            "",
        )?;
        same("running", running(&mut *sandbox)?, Vec::new())?;
    }
    Ok(())
}

fn snapshot_and_restore(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = over_files(backend, fixture)?;
    sh(&mut *sandbox, CHANGE)?;
    let snapshot = sandbox.snapshot().map_err(|e| format!("snapshot: {e}"))?;
    same("after", sh(&mut *sandbox, SHOW)?.as_str(), SHOWN)?;
    sh(
        &mut *sandbox,
        "echo two > /tmp/d/e/f; rm /tmp/tool; echo later > /tmp/later",
    )?;
    for _ in 0..2 {
        let mut restored = backend
            .restore(&snapshot)
            .map_err(|e| format!("restore: {e}"))?;
        same("restored", sh(&mut *restored, SHOW)?.as_str(), SHOWN)?;
        same("later", sh(&mut *restored, "ls /tmp")?.as_str(), "d\ntool")?;
        // All of it belongs to the user of the restored sandbox.
        sh(
            &mut *restored,
            "echo three > /tmp/d/e/f; chmod 700 /tmp/d; rm -r /tmp/d /tmp/tool /testbed/replaced; echo y >> /testbed/elsewhere/old",
        )?;
    }
    same(
        "original",
        sh(&mut *sandbox, "cat /tmp/d/e/f /tmp/later")?.as_str(),
        "two\nlater",
    )?;
    backend.drop_snapshot(&snapshot).map_err(|e| e.to_string())
}

fn forks_are_independent(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut parent = create(backend, &fixture.spec)?;
    sh(
        &mut *parent,
        "echo 0 > /tmp/n; mkdir /tmp/dir; echo old > /tmp/dir/old",
    )?;
    let mut forks = Vec::new();
    for number in 1..=3 {
        let mut fork = fork(&mut *parent)?;
        sh(
            &mut *fork,
            &format!(
                "echo {number} > /tmp/n; rm -r /tmp/dir; mkdir /tmp/dir; echo {number} > /tmp/dir/new"
            ),
        )?;
        forks.push(fork);
    }
    same(
        "parent",
        sh(&mut *parent, "cat /tmp/n; ls /tmp/dir")?.as_str(),
        "0\nold",
    )?;
    for (number, fork) in forks.iter_mut().enumerate() {
        let number = number + 1;
        same(
            "fork",
            sh(&mut **fork, "cat /tmp/n; cat /tmp/dir/*; ls /tmp/dir")?,
            format!("{number}\n{number}\nnew"),
        )?;
        same("processes", running(&mut **fork)?, Vec::new())?;
        let mut session = fork.session().map_err(|e| e.to_string())?;
        let output = session.run("cat /tmp/n", None).map_err(|e| e.to_string())?;
        same(
            "session in a fork",
            output.stdout.text(),
            format!("{number}\n"),
        )?;
    }
    Ok(())
}

fn forks_of_forks(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandboxes = vec![create(backend, &fixture.spec)?];
    for depth in 0..6 {
        let last = sandboxes.last_mut().ok_or("none")?;
        sh(
            &mut **last,
            &format!(
                "echo {depth} >> /tmp/line; echo {depth} > /tmp/file-{depth}; rm -f /tmp/file-{}",
                depth - 2
            ),
        )?;
        let next = fork(&mut **last)?;
        sandboxes.push(next);
    }
    for (depth, sandbox) in sandboxes.iter_mut().enumerate() {
        let written = sh(&mut **sandbox, "cat /tmp/line | wc -l")?;
        same(
            "lines",
            written.trim().to_owned(),
            (depth + 1).min(6).to_string(),
        )?;
        sh(
            &mut **sandbox,
            "echo mine >> /tmp/line; rm -f /tmp/file-*; test -z \"$(ls /tmp/file-* 2>/dev/null)\"",
        )?;
    }
    Ok(())
}

fn forks_outlive_their_parent(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut parent = over_files(backend, fixture)?;
    sh(&mut *parent, CHANGE)?;
    let mut child = fork(&mut *parent)?;
    sh(&mut *parent, "rm -rf /tmp/d /tmp/tool")?;
    parent.close().map_err(|e| e.to_string())?;
    drop(parent);
    // Others may use what the parent had.
    let _other = create(backend, &fixture.spec)?;
    same("child", sh(&mut *child, SHOW)?.as_str(), SHOWN)?;
    let mut grandchild = fork(&mut *child)?;
    child.close().map_err(|e| e.to_string())?;
    same("grandchild", sh(&mut *grandchild, SHOW)?.as_str(), SHOWN)
}

fn reset_after_snapshot(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut parent = create(backend, &fixture.spec)?;
    sh(&mut *parent, "echo before > /tmp/before")?;
    let mut child = fork(&mut *parent)?;
    sh(&mut *child, "echo after > /tmp/after; rm /tmp/before")?;
    let _grandchild = fork(&mut *child)?;
    sh(&mut *child, "echo more > /tmp/more")?;
    reset(&mut *child)?;
    same(
        "child is as it was forked",
        sh(&mut *child, "ls /tmp")?.as_str(),
        "before",
    )?;
    sh(&mut *parent, "echo more > /tmp/more")?;
    reset(&mut *parent)?;
    same(
        "parent is as it was created",
        sh(&mut *parent, "ls /tmp")?.as_str(),
        "",
    )?;
    let mut again = fork(&mut *parent)?;
    same(
        "fork after a reset",
        sh(&mut *again, "ls /tmp")?.as_str(),
        "",
    )?;
    same(
        "child still",
        sh(&mut *child, "cat /tmp/before")?.as_str(),
        "before",
    )
}

fn snapshots_can_be_dropped(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    sh(&mut *sandbox, "echo x > /tmp/x")?;
    let snapshot = sandbox.snapshot().map_err(|e| e.to_string())?;
    let mut restored = backend.restore(&snapshot).map_err(|e| e.to_string())?;
    backend
        .drop_snapshot(&snapshot)
        .map_err(|e| e.to_string())?;
    holds(backend.restore(&snapshot).is_err(), || {
        "restored a dropped snapshot".into()
    })?;
    holds(backend.drop_snapshot(&snapshot).is_err(), || {
        "dropped it twice".into()
    })?;
    same(
        "restored lives on",
        sh(&mut *restored, "cat /tmp/x")?.as_str(),
        "x",
    )?;
    reset(&mut *restored)?;
    same(
        "and can be reset",
        sh(&mut *restored, "cat /tmp/x")?.as_str(),
        "x",
    )
}

fn many_snapshots_in_a_row(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    let mut snapshots = Vec::new();
    for number in 0..40 {
        sh(
            &mut *sandbox,
            &format!("echo {number} > /tmp/n; : > /tmp/f{number}"),
        )?;
        snapshots.push(
            sandbox
                .snapshot()
                .map_err(|e| format!("snapshot {number}: {e}"))?,
        );
    }
    for (number, snapshot) in snapshots.iter().enumerate().step_by(13) {
        let mut restored = backend
            .restore(snapshot)
            .map_err(|e| format!("restore {number}: {e}"))?;
        let seen = sh(&mut *restored, "cat /tmp/n; ls /tmp/f* | wc -l")?;
        same("restored", seen, format!("{number}\n{}", number + 1))?;
    }
    let output = exec(
        &mut *sandbox,
        &Command::shell("test $(ls /tmp/f* | wc -l) = 40"),
    )?;
    same("the last", output.exit, Exit::Code(0))?;
    snapshots
        .iter()
        .try_for_each(|s| backend.drop_snapshot(s).map_err(|e| e.to_string()))
}
