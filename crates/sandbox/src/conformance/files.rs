//! The file API, layers, binds and directories for writes.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use swegym_core::{Bind, SandboxError, Upper};

use super::{Backend, Check, Fixture, Outcome, create, holds, same, sh};

pub const CHECKS: &[Check] = &[
    Check {
        name: "files_go_in_and_out",
        run: files_go_in_and_out,
    },
    Check {
        name: "file_errors_name_the_path",
        run: file_errors_name_the_path,
    },
    Check {
        name: "paths_stay_inside",
        run: paths_stay_inside,
    },
    Check {
        name: "odd_files_are_refused",
        run: odd_files_are_refused,
    },
    Check {
        name: "layers_stay_as_they_are",
        run: layers_stay_as_they_are,
    },
    Check {
        name: "upper_layers_win",
        run: upper_layers_win,
    },
    Check {
        name: "binds",
        run: binds,
    },
    Check {
        name: "writable_binds",
        run: writable_binds,
    },
    Check {
        name: "readonly_paths",
        run: readonly_paths,
    },
    Check {
        name: "writes_to_a_directory",
        run: writes_to_a_directory,
    },
    Check {
        name: "bad_specs_are_refused",
        run: bad_specs_are_refused,
    },
];

fn files_go_in_and_out(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    spec.workdir = "/var/tmp".into();
    let mut sandbox = create(backend, &spec)?;
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(3_000_000).collect();
    let mut round_trip = |path: &str, bytes: &[u8], executable| -> Outcome {
        let path = Path::new(path);
        sandbox
            .write(path, bytes, executable)
            .map_err(|e| format!("write: {e}"))?;
        let back = sandbox.read(path).map_err(|e| format!("read: {e}"))?;
        holds(back == bytes, || {
            format!("{} came back changed", path.display())
        })
    };
    round_trip("/tmp/new/dirs/file", &bytes, false)?;
    round_trip("relative ñ", b"", false)?;
    round_trip("/tmp/script", b"#!/bin/sh\necho long ago\n", true)?;
    round_trip("/tmp/script", b"#!/bin/sh\necho hi\n", true)?;
    same(
        "run",
        sh(
            &mut *sandbox,
            "/tmp/script; echo more >> /tmp/new/dirs/file",
        )?
        .as_str(),
        "hi",
    )?;
    let modes = "stat -c %a /tmp/new/dirs/file '/var/tmp/relative ñ' /tmp/script";
    same("modes", sh(&mut *sandbox, modes)?.as_str(), "644\n644\n755")?;
    sh(
        &mut *sandbox,
        "ln -s /tmp/script /tmp/link; echo from inside > /tmp/other",
    )?;
    same(
        "through a link",
        sandbox.read("/tmp/link".as_ref()).ok(),
        Some(b"#!/bin/sh\necho hi\n".to_vec()),
    )?;
    same(
        "from inside",
        sandbox.read("/tmp/other".as_ref()).ok(),
        Some(b"from inside\n".to_vec()),
    )
}

fn file_errors_name_the_path(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    sh(
        &mut *sandbox,
        "mkdir /tmp/closed; echo x > /tmp/unreadable; chmod 000 /tmp/unreadable; echo > /tmp/file",
    )?;
    let mut kind = |path: &str, writing: bool| match if writing {
        sandbox.write(path.as_ref(), b"x", false)
    } else {
        sandbox.read(path.as_ref()).map(drop)
    } {
        Err(SandboxError::File {
            path: named,
            source,
        }) if named == Path::new(path) => Ok(source.kind()),
        Err(e) => Err(format!("{path}: {e}")),
        Ok(()) => Err(format!("{path}: no error")),
    };
    same("missing", kind("/tmp/none", false)?, ErrorKind::NotFound)?;
    same(
        "unreadable",
        kind("/tmp/unreadable", false)?,
        ErrorKind::PermissionDenied,
    )?;
    same(
        "directory",
        kind("/tmp/closed", false)?,
        ErrorKind::IsADirectory,
    )?;
    same(
        "directory",
        kind("/tmp/closed", true)?,
        ErrorKind::IsADirectory,
    )?;
    same(
        "below a file",
        kind("/tmp/file/x", true)?,
        ErrorKind::NotADirectory,
    )?;
    same(
        "read-only",
        kind("/usr/bin/x", true)?,
        ErrorKind::ReadOnlyFilesystem,
    )
}

fn paths_stay_inside(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let secret = fixture.scratch.join("secret");
    let planted = fixture.scratch.join("planted");
    fs::write(&secret, "host secret").map_err(|e| e.to_string())?;
    let mut sandbox = create(backend, &fixture.spec)?;
    let (secret, planted_text) = (secret.display().to_string(), planted.display().to_string());
    let scratch = fixture.scratch.display();
    sh(
        &mut *sandbox,
        &format!(
            "ln -s {secret} /tmp/absolute; ln -s ../../../../../..{secret} /tmp/relative; \
         ln -s {scratch} /tmp/directory; ln -s /proc/1/root /tmp/magic; ln -s /proc/self/cwd /tmp/cwd; \
         ln -s {planted_text} /tmp/out; ln -s loop /tmp/loop"
        ),
    )?;
    let reads = [
        "/tmp/absolute".to_owned(),
        "/tmp/relative".to_owned(),
        "/tmp/directory/secret".to_owned(),
        format!("/tmp/magic{secret}"),
        format!("/tmp/cwd/../..{secret}"),
        format!("../../../../../../..{secret}"),
        format!("/proc/1/root{secret}"),
        format!("/proc/self/root/../../..{secret}"),
        "/tmp/loop".to_owned(),
        secret.clone(),
    ];
    for path in reads {
        if let Ok(bytes) = sandbox.read(path.as_ref()) {
            return Err(format!("read {path}: {}", String::from_utf8_lossy(&bytes)));
        }
    }
    // Where a write succeeds it lands inside; on the host nothing appears.
    for path in [
        "/tmp/out".to_owned(),
        format!("../../../..{planted_text}"),
        format!("/tmp/magic{planted_text}"),
    ] {
        let _ = sandbox.write(path.as_ref(), b"planted", false);
    }
    holds(!planted.exists(), || "a write landed on the host".into())
}

fn odd_files_are_refused(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut sandbox = create(backend, &fixture.spec)?;
    sh(
        &mut *sandbox,
        "mkfifo /tmp/fifo; truncate -s 1G /tmp/sparse",
    )?;
    for path in ["/tmp/fifo", "/dev/zero", "/dev/tty", "/tmp/sparse"] {
        let read = sandbox.read(path.as_ref());
        holds(read.is_err(), || {
            format!("read {path}: {} bytes", read.map_or(0, |b| b.len()))
        })?;
    }
    for path in ["/tmp/fifo", "/dev/null"] {
        holds(sandbox.write(path.as_ref(), b"x", false).is_err(), || {
            format!("wrote to {path}")
        })?;
    }
    Ok(())
}

/// A layer of the host with these files.
pub fn layer(
    fixture: &Fixture,
    name: &str,
    files: &[(&str, &str)],
) -> Result<std::path::PathBuf, String> {
    let layer = fixture.scratch.join(name);
    for (path, text) in files {
        let path = layer.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&layer)).map_err(|e| e.to_string())?;
        fs::write(path, text).map_err(|e| e.to_string())?;
    }
    Ok(layer)
}

fn layers_stay_as_they_are(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let files = [
        ("testbed/a", "a"),
        ("testbed/d/b", "b"),
        ("testbed/d/c", "c"),
    ];
    let layer = layer(fixture, "layer-kept", &files)?;
    let mut spec = fixture.spec.clone();
    spec.layers.insert(0, layer.clone());
    for _ in 0..2 {
        let mut sandbox = create(backend, &spec)?;
        let seen = sh(&mut *sandbox, "cat /testbed/a /testbed/d/*")?;
        same("seen", seen.as_str(), "abc")?;
        sh(
            &mut *sandbox,
            "cd /testbed; echo changed > a; rm -r d; mkdir d; echo new > d/n; chmod 700 a; mv a e",
        )?;
        same(
            "changed",
            sh(&mut *sandbox, "cd /testbed; echo *; echo d/*")?.as_str(),
            "d e\nd/n",
        )?;
    }
    for (path, text) in files {
        let path = layer.join(path);
        same(
            "layer",
            fs::read_to_string(&path).ok().as_deref(),
            Some(text),
        )?;
        let mode = fs::metadata(&path)
            .map_err(|e| e.to_string())?
            .permissions()
            .mode();
        same("mode", mode & 0o777, 0o644)?;
    }
    Ok(())
}

fn upper_layers_win(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    // Many layers, as the store may well make.
    for number in 0..20 {
        let own = format!("testbed/own-{number}");
        let text = number.to_string();
        let files = [("testbed/same", text.as_str()), (own.as_str(), "x")];
        spec.layers
            .insert(0, layer(fixture, &format!("layer-{number}"), &files)?);
    }
    let mut sandbox = create(backend, &spec)?;
    same(
        "top",
        sh(
            &mut *sandbox,
            "cat /testbed/same; ls /testbed/own-* | wc -l",
        )?
        .as_str(),
        "1920",
    )
}

fn binds(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let source = layer(fixture, "bound", &[("f", "bound"), ("sub/g", "g")])?;
    let single = source.join("f");
    let mut spec = fixture.spec.clone();
    spec.binds.push(bind(&source, "/data/dir", true));
    spec.binds.push(bind(&single, "/data/file", true));
    let mut sandbox = create(backend, &spec)?;
    same(
        "read",
        sh(&mut *sandbox, "cat /data/dir/f /data/dir/sub/g /data/file")?.as_str(),
        "boundgbound",
    )?;
    sh(
        &mut *sandbox,
        "! (echo x > /data/dir/f) 2>/dev/null && ! (echo x > /data/file) 2>/dev/null && ! rm -f /data/dir/f 2>/dev/null",
    )?;
    // What was made to hold them is like any other directory.
    sh(&mut *sandbox, "mkdir /data/other && echo x > /data/other/x")?;
    sandbox.reset().map_err(|e| e.to_string())?;
    same(
        "after a reset",
        sh(&mut *sandbox, "cat /data/dir/f /data/file")?.as_str(),
        "boundbound",
    )?;
    same(
        "host",
        fs::read_to_string(single).ok().as_deref(),
        Some("bound"),
    )
}

fn bind(source: &Path, target: &str, readonly: bool) -> Bind {
    Bind {
        source: source.to_owned(),
        target: target.into(),
        readonly,
    }
}

fn writable_binds(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let writable = layer(fixture, "bound-writable", &[("f", "before")])?;
    let mut spec = fixture.spec.clone();
    spec.binds.push(bind(&writable, "/data/writable", false));
    let mut sandbox = create(backend, &spec)?;
    sh(
        &mut *sandbox,
        "echo after > /data/writable/f && mkdir /data/writable/d && echo new > /data/writable/d/n",
    )?;
    sandbox.reset().map_err(|e| e.to_string())?;
    same(
        "after a reset",
        sh(&mut *sandbox, "cat /data/writable/f")?.as_str(),
        "after",
    )?;
    same(
        "host",
        fs::read_to_string(writable.join("d/n")).ok().as_deref(),
        Some("new\n"),
    )
}

fn readonly_paths(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let mut spec = fixture.spec.clone();
    let below = layer(
        fixture,
        "layer-readonly",
        &[("opt/venv/bin/tool", "old"), ("opt/beside", "old")],
    )?;
    spec.layers.insert(0, below);
    spec.readonly.push("/opt/venv".into());
    let script = "cat /opt/venv/bin/tool; for c in 'echo x > /opt/venv/bin/tool' 'touch /opt/venv/new' \
                  'rm -r /opt/venv/bin' 'mv /opt/venv /opt/other' 'mv /opt /moved' 'chmod 777 /opt/venv'; do \
                  (eval \"$c\") 2>/dev/null && echo \"$c worked\"; done; \
                  echo > /opt/beside && touch /opt/new && echo writable";
    let mut sandbox = create(backend, &spec)?;
    same("seen", sh(&mut *sandbox, script)?.as_str(), "oldwritable")?;
    sandbox.reset().map_err(|e| format!("reset: {e}"))?;
    same(
        "after a reset",
        sh(&mut *sandbox, script)?.as_str(),
        "oldwritable",
    )?;
    let mut fork = sandbox.fork().map_err(|e| format!("fork: {e}"))?;
    for sandbox in [&mut sandbox, &mut fork] {
        same(
            "after a fork",
            sh(&mut **sandbox, script)?.as_str(),
            "oldwritable",
        )?;
    }
    let write = fork.write(Path::new("/opt/venv/bin/tool"), b"new", false);
    holds(matches!(write, Err(SandboxError::File { .. })), || {
        format!("written from outside: {write:?}")
    })?;
    spec.readonly.push("/opt/none".into());
    holds(backend.create(&spec).is_err(), || {
        "a missing read-only path was accepted".into()
    })
}

fn writes_to_a_directory(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let lower = layer(
        fixture,
        "layer-below",
        &[
            ("testbed/kept", "k"),
            ("testbed/removed", "r"),
            ("testbed/dir/x", "x"),
        ],
    )?;
    let parent = fixture.scratch.join("uppers");
    let upper = parent.join("an upper, with: odd name");
    fs::create_dir_all(&upper).map_err(|e| e.to_string())?;
    let mut spec = fixture.spec.clone();
    spec.layers.insert(0, lower);
    spec.upper = Upper::Directory(upper.clone());
    let mut sandbox = create(backend, &spec)?;
    sh(&mut *sandbox, "echo junk > /testbed/junk")?;
    sandbox.reset().map_err(|e| format!("reset: {e}"))?;
    let script = "cd /testbed; echo new > added; rm removed; mkdir -p deep/er; echo y > deep/er/y; \
                  echo x > tool; chmod 755 tool; ln -s added link; echo z > /dev/shm/not-kept; \
                  ! chmod u+s tool 2>/dev/null";
    sh(&mut *sandbox, script)?;
    holds(sandbox.fork().is_err(), || {
        "forked a sandbox that writes to disk".into()
    })?;
    sandbox.close().map_err(|e| format!("close: {e}"))?;
    let testbed = upper.join("testbed");
    let mut names: Vec<_> = fs::read_dir(&testbed)
        .map_err(|e| e.to_string())?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    same(
        "changes",
        names,
        ["added", "deep", "link", "removed", "tool"]
            .map(String::from)
            .to_vec(),
    )?;
    let about =
        |name: &str| fs::symlink_metadata(testbed.join(name)).map_err(|e| format!("{name}: {e}"));
    let removed = about("removed")?;
    holds(
        removed.file_type().is_char_device() && removed.rdev() == 0,
        || "no whiteout".into(),
    )?;
    same("mode", about("tool")?.permissions().mode() & 0o7777, 0o755)?;
    same(
        "owner",
        about("tool")?.uid(),
        fs::metadata(&parent).map_err(|e| e.to_string())?.uid(),
    )?;
    same(
        "contents",
        fs::read_to_string(testbed.join("deep/er/y"))
            .ok()
            .as_deref(),
        Some("y\n"),
    )?;
    let beside = fs::read_dir(&parent).map_err(|e| e.to_string())?.count();
    same("entries beside the upper", beside, 1)
}

fn bad_specs_are_refused(backend: &dyn Backend, fixture: &Fixture) -> Outcome {
    let refused = |what: &str, change: fn(&mut swegym_core::SandboxSpec)| {
        let mut spec = fixture.spec.clone();
        change(&mut spec);
        match backend.create(&spec) {
            Err(_) => Ok(()),
            Ok(_) => Err(format!("{what}: accepted")),
        }
    };
    refused("no layers", |s| s.layers.clear())?;
    refused("a missing layer", |s| {
        s.layers.push("/no/such/layer".into())
    })?;
    refused("a relative workdir", |s| s.workdir = "tmp".into())?;
    refused("a missing bind", |s| {
        s.binds.push(Bind {
            source: "/no/such".into(),
            target: "/x".into(),
            readonly: true,
        });
    })?;
    refused("a bind that climbs", |s| {
        s.binds.push(Bind {
            source: "/usr".into(),
            target: "/x/../..".into(),
            readonly: true,
        });
    })?;
    refused("a bad variable", |s| {
        s.env.insert("A=B".into(), String::new());
    })?;
    refused("a missing upper", |s| {
        s.upper = Upper::Directory("/no/such/upper".into())
    })?;
    refused("a bad host name", |s| s.hostname = "x".repeat(65))
}
