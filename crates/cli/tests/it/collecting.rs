//! Releases of packages, served on loopback, become tasks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::{expect, obstacle, swegym, trial};

const INPUT: i32 = 3;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("collecting: wrong input", None, wrong_input),
        trial("collecting: releases without a task", None, no_candidates),
        trial("collecting: a release without tests between", None, gap),
        trial("collecting: tests that cannot be", obstacle(), no_tasks),
        trial("collecting: releases are split", obstacle(), splitting),
        trial("collecting: a kill while splitting", obstacle(), kill),
    ]
}

/// A file of an index: name and content.
type Served = (String, Vec<u8>);

/// A package index: path -> body.
struct Index {
    url: String,
}

impl Index {
    /// Serves projects, each with the name and content of its files.
    fn serve(projects: &[(&str, Vec<Served>)]) -> Result<Self, Failed> {
        let mut pages: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (project, files) in projects {
            let mut listed = Vec::new();
            for (name, body) in files {
                let path = format!("/files/{name}");
                listed.push(json!({"filename": name, "url": path, "hashes": {}}));
                pages.insert(path, body.clone());
            }
            let page = json!({ "files": listed }).to_string();
            pages.insert(format!("/simple/{project}/"), page.into_bytes());
        }
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/simple/", listener.local_addr()?);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that went away is its own affair.
                let _ = answer(stream, &pages);
            }
        });
        Ok(Self { url })
    }

    fn collect(&self, dir: &Path, args: &[&str]) -> std::io::Result<Output> {
        swegym(["collect", "pypi"])
            .args(args)
            .arg("--out")
            .arg(dir)
            .env("UV_DEFAULT_INDEX", &self.url)
            .output()
    }
}

fn answer(mut stream: TcpStream, pages: &BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let nothing = Vec::new();
    let (status, body) = match pages.get(path) {
        Some(body) => (200, body),
        None => (404, &nothing),
    };
    let kind = "application/vnd.pypi.simple.v1+json";
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// An entry of an archive: path, and content or `-> target`.
type Entry<'a> = (&'a str, &'a str);

fn archive(name: &str, version: &str, entries: &[Entry<'_>]) -> Served {
    let top = format!("{name}-{version}");
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        // The library refuses paths that leave the archive.
        let full = format!("{top}/{path}");
        header.as_old_mut().name[..full.len()].copy_from_slice(full.as_bytes());
        match content.strip_prefix("-> ") {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                header.set_size(0);
                header.set_cksum();
                tar.append(&header, std::io::empty()).expect("memory");
            }
            None => {
                header.set_size(content.len() as u64);
                header.set_cksum();
                tar.append(&header, content.as_bytes()).expect("memory");
            }
        }
    }
    let bytes = tar.into_inner().and_then(GzEncoder::finish);
    (format!("{top}.tar.gz"), bytes.expect("memory"))
}

/// A release of a package with modules, tests and a changelog.
fn release(name: &str, version: &str, files: &[Entry<'_>]) -> Served {
    let project = format!(
        "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n\
         [project]\nname = '{name}'\nversion = '{version}'\n\
         [tool.setuptools]\npackages = ['pair']\n\
         [tool.pytest.ini_options]\ntestpaths = ['tests']\n"
    );
    let mut entries = vec![("pyproject.toml", project.as_str())];
    entries.extend(files);
    archive(name, version, &entries)
}

fn rows(path: &Path) -> Result<Vec<Value>, Failed> {
    let text = fs::read_to_string(path)?;
    let rows = text.lines().map(serde_json::from_str);
    Ok(rows.collect::<Result<_, _>>()?)
}

fn wrong_input() -> Result<(), Failed> {
    let wheel = ("wheels-1.0-py3-none-any.whl".to_owned(), Vec::new());
    let index = Index::serve(&[("wheels", vec![wheel])])?;
    let dir = tempfile::tempdir()?;
    let collect = |args: &[&str]| index.collect(dir.path(), args);
    expect(
        &collect(&["nobody-made-this"])?,
        INPUT,
        &["nobody-made-this: no such package"],
    )?;
    expect(
        &collect(&["wheels"])?,
        INPUT,
        &[
            "wheels: no release has a source distribution",
            "collect git",
        ],
    )?;
    expect(
        &collect(&["two", "packages", "--since", "1.0"])?,
        INPUT,
        &["--since"],
    )
}

/// A release without tests is passed over, and what it changed is the next
/// one's; data of a package belongs to it, documents do not.
fn gap() -> Result<(), Failed> {
    let code = |value: u32| format!("def f():\n    return {value}\n");
    let (one, two, three) = (code(1), code(2), code(3));
    let index = Index::serve(&[(
        "gap",
        vec![
            release(
                "gap",
                "1.0",
                &[("pair/__init__.py", &one), ("tests/test_f.py", "A = 1\n")],
            ),
            release("gap", "1.1", &[("pair/__init__.py", &two)]),
            release(
                "gap",
                "1.2",
                &[
                    ("pair/__init__.py", &three),
                    ("pair/words.txt", "new\n"),
                    ("docs/index.rst", "New.\n"),
                    ("tests/test_f.py", "A = 2\n"),
                ],
            ),
        ],
    )])?;
    let dir = tempfile::tempdir()?;
    expect(
        &index.collect(dir.path(), &["gap"])?,
        0,
        &["gap-1.0-1.1: no_tests"],
    )?;
    let candidates = rows(&dir.path().join("candidates.jsonl"))?;
    let [candidate] = &candidates[..] else {
        return Err(format!("{candidates:?}").into());
    };
    let patch = candidate["patch"].as_str().unwrap_or_default();
    let right = candidate["instance_id"] == "gap-1.0-1.2"
        && patch.contains("-    return 1\n+    return 3")
        && patch.contains("words.txt")
        && !patch.contains("index.rst")
        && !patch.contains("test_f");
    if right {
        Ok(())
    } else {
        Err(format!("{candidate}").into())
    }
}

fn no_candidates() -> Result<(), Failed> {
    let code = |value: u32| format!("def f():\n    return {value}\n");
    let (one, two) = (code(1), code(2));
    let tests = "def test_f():\n    pass\n";
    let good = |name: &str, version: &str, text: &str| {
        release(
            name,
            version,
            &[("pair/__init__.py", text), ("tests/test_f.py", tests)],
        )
    };
    let mut broken = good("broken", "1.1", &two);
    broken.1.truncate(broken.1.len() / 2);
    let index = Index::serve(&[
        ("broken", vec![good("broken", "1.0", &one), broken]),
        (
            "dots",
            vec![
                good("dots", "1.0", &one),
                archive("dots", "1.1", &[("../../out.py", "x = 1\n")]),
            ],
        ),
        (
            "links",
            vec![
                good("links", "1.0", &one),
                archive("links", "1.1", &[("pair/etc.py", "-> ../../../etc/passwd")]),
            ],
        ),
        (
            "untested",
            vec![
                release("untested", "1.0", &[("pair/__init__.py", &one)]),
                release("untested", "1.1", &[("pair/__init__.py", &two)]),
            ],
        ),
        (
            "same",
            vec![good("same", "1.0", &one), good("same", "1.1", &two)],
        ),
    ])?;
    let dir = tempfile::tempdir()?;
    for (package, reason, words) in [
        ("broken", "no_archive", "broken archive"),
        ("dots", "no_archive", "leaves the tree"),
        ("links", "no_archive", "leaves the tree"),
        ("untested", "no_tests", "holds no tests"),
        ("same", "tests_unchanged", "no test changed"),
    ] {
        let output = index.collect(dir.path(), &[package])?;
        expect(
            &output,
            0,
            &[&format!("{package}-1.0-1.1: {reason}"), words],
        )?;
        let raw = rows(&dir.path().join("raw.jsonl"))?;
        if raw.len() != 1 || raw[0]["reason"] != reason || raw[0]["instance"] != Value::Null {
            return Err(format!("{package}: {raw:?}").into());
        }
        let detail = raw[0]["detail"].as_str().unwrap_or_default();
        if detail.contains("/target/") {
            return Err(format!("{package}: a path of this machine in {detail:?}").into());
        }
    }
    Ok(())
}

/// Validates what an index gives; the folder with the results.
fn validate(candidates: &Path, out: &Path, more: &[&str]) -> std::process::Command {
    let mut command = swegym(["validate", "--no-twins", "--no-cheats", "--repeats", "1"]);
    command.args(["--timeout", "30"]).args(more);
    command
        .arg(candidates.join("candidates.jsonl"))
        .arg("--out")
        .arg(out);
    command
}

fn no_tasks() -> Result<(), Failed> {
    let with = |name: &str, version: &str, value: u32, test: &str| {
        let code = format!("def f():\n    return {value}\n");
        let tests = format!("from pair import f\n\n\ndef test_kept():\n    assert f()\n\n\n{test}");
        release(
            name,
            version,
            &[("pair/__init__.py", &code), ("tests/test_f.py", &tests)],
        )
    };
    let service = "def test_f():\n    import socket\n    socket.create_connection(('127.0.0.1', 5432))\n    assert f() == 2\n";
    let hangs = "def test_f():\n    while f() == 2:\n        pass\n";
    let endless = "def test_f():\n    while f() == 1:\n        pass\n\n\ndef test_g():\n    assert f() == 2\n";
    let index = Index::serve(&[
        (
            "made-service",
            vec![
                with("made-service", "1.0", 1, ""),
                with("made-service", "1.1", 2, service),
            ],
        ),
        (
            "made-hang",
            vec![
                with("made-hang", "1.0", 1, ""),
                with("made-hang", "1.1", 2, hangs),
            ],
        ),
        (
            "made-endless",
            vec![
                with("made-endless", "1.0", 1, ""),
                with("made-endless", "1.1", 2, endless),
            ],
        ),
    ])?;
    let dir = tempfile::tempdir()?;
    let collected = dir.path().join("collected");
    expect(
        &index.collect(&collected, &["made-service", "made-hang", "made-endless"])?,
        0,
        &[],
    )?;
    let out = dir.path().join("validated");
    expect(
        &validate(&collected, &out, &[]).output()?,
        0,
        &["needs_service", "timed_out"],
    )?;
    for row in rows(&out.join("rejected.jsonl"))? {
        let detail = row["rejection"]["detail"].as_str().unwrap_or_default();
        let (id, said) = match row["rejection"]["reason"].as_str() {
            Some("needs_service") => ("made-service-1.0-1.1", "tests/test_f.py::test_f"),
            Some("timed_out") => ("made-hang-1.0-1.1", "over 30 s"),
            other => return Err(format!("{other:?}").into()),
        };
        if row["instance_id"] != id || !detail.contains(said) {
            return Err(format!("{row}").into());
        }
        if !out.join(format!("logs/{id}.log")).is_file() {
            return Err(format!("{id}: no log").into());
        }
    }
    // A test that hangs without the fix is in no task, the others are.
    let tasks = rows(&out.join("tasks.jsonl"))?;
    match &tasks[..] {
        [task] if strings(task, "FAIL_TO_PASS") == ["tests/test_f.py::test_g"] => Ok(()),
        other => {
            let rejected = fs::read_to_string(out.join("rejected.jsonl"))?;
            Err(format!("{other:?}\n{rejected}").into())
        }
    }
}

const WORDS: &str = "\
def shorten(text, width):
    return text[:width]


def title(text):
    return text.title()
";

const WORDS_FIXED: &str = "\
import re


def _cut(text, width):
    found = re.match('(.{0,%d})( |$)' % width, text)
    return found.group(1) if found else text[:width]


def shorten(text, width):
    return _cut(text, width)


def title(text):
    \"\"\"In capitals.\"\"\"
    return text.title()
";

const NUMBERS: &str = "\
def clamp(value, low, high):
    return max(value, low)
";

const NUMBERS_FIXED: &str = "\
def clamp(value, low, high):
    return min(max(value, low), high)
";

/// Both functions know of each other's form of a point, which changes.
const POINTS: &str = "\
def parse(text):
    return text.split(',')


def show(point):
    return ','.join(point)


def move(point, by):
    return point
";

const POINTS_CHANGED: &str = "\
def parse(text):
    x, y = text.split(',')
    return {'x': int(x), 'y': int(y)}


def show(point):
    return '{x},{y}'.format(**point)


def move(point, by):
    return {'x': point['x'] + by, 'y': point['y'] + by}
";

const TESTS: &str = "\
from pair.words import title


def test_title():
    assert title('a') == 'A'
";

const TESTS_SPLIT: &str = "\
import pytest
from pair.numbers import clamp
from pair.words import shorten, title


def test_title():
    assert title('a') == 'A'


def test_shorten():
    assert shorten('one two', 5) == 'one'


@pytest.mark.parametrize('value', [5, 6])
def test_clamp(value):
    assert clamp(value, 0, 3) == 3
";

const TESTS_ENTANGLED: &str = "\
from pair.points import move, parse, show


def test_there_and_back():
    assert show(move(parse('1,2'), 1)) == '2,3'


def test_back_from_elsewhere():
    assert show(move(parse('7,7'), 2)) == '9,9'
";

fn changes(version: &str) -> String {
    let mut text = String::from("Changes\n=======\n\n");
    if version == "1.2" {
        text += "1.2\n---\n\n- Points have coordinates and can be moved.\n\n";
    }
    if version != "1.0" {
        text += "1.1\n---\n\n- ``shorten`` keeps words whole.\n\n";
    }
    text + "1.0\n---\n\n- First release.\n"
}

/// A package whose first release after the first holds two fixes, and whose
/// second one change of two functions.
fn pair() -> Result<Index, Failed> {
    let with = |version: &str, words: &str, numbers: &str, points: &str, tests: [&str; 2]| {
        let changes = changes(version);
        let mut files = vec![
            ("CHANGES.rst", changes.as_str()),
            ("pair/__init__.py", ""),
            ("pair/words.py", words),
            ("pair/numbers.py", numbers),
            ("pair/points.py", points),
            ("tests/test_pair.py", tests[0]),
        ];
        if !tests[1].is_empty() {
            files.push(("tests/test_points.py", tests[1]));
        }
        release("made-pair", version, &files)
    };
    Index::serve(&[(
        "made-pair",
        vec![
            with("1.0", WORDS, NUMBERS, POINTS, [TESTS, ""]),
            with("1.1", WORDS_FIXED, NUMBERS_FIXED, POINTS, [TESTS_SPLIT, ""]),
            with(
                "1.2",
                WORDS_FIXED,
                NUMBERS_FIXED,
                POINTS_CHANGED,
                [TESTS_SPLIT, TESTS_ENTANGLED],
            ),
        ],
    )])
}

fn strings(row: &Value, column: &str) -> Vec<String> {
    let items = row[column].as_array().into_iter().flatten();
    items
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

fn splitting() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let collected = dir.path().join("collected");
    expect(&pair()?.collect(&collected, &["made-pair"])?, 0, &[])?;
    let out = dir.path().join("validated");
    expect(
        &validate(&collected, &out, &[]).output()?,
        0,
        &["2 releases gave 3 candidates", "3 tasks"],
    )?;
    let tasks = rows(&out.join("tasks.jsonl"))?;
    let seen: Vec<(&str, Vec<String>)> = tasks
        .iter()
        .map(|task| {
            let id = task["instance_id"].as_str().unwrap_or_default();
            (id, strings(task, "FAIL_TO_PASS"))
        })
        .collect();
    let clamp = ["5", "6"].map(|n| format!("tests/test_pair.py::test_clamp[{n}]"));
    let points = ["back_from_elsewhere", "there_and_back"]
        .map(|test| format!("tests/test_points.py::test_{test}"));
    let expected = [
        ("made-pair-1.0-1.1-part1", clamp.to_vec()),
        (
            "made-pair-1.0-1.1-part2",
            vec!["tests/test_pair.py::test_shorten".to_owned()],
        ),
        ("made-pair-1.1-1.2", points.to_vec()),
    ];
    let mut found = seen;
    found.iter_mut().for_each(|(_, tests)| tests.sort());
    if found != expected {
        return Err(format!("{found:?} instead of {expected:?}").into());
    }
    for (task, has, lacks) in [
        (&tasks[0], &["min(max("][..], &["_cut", "shorten"][..]),
        (
            &tasks[1],
            &["import re", "_cut"],
            // Neither the other fix nor a docstring that no test sees.
            &["min(max(", "In capitals"],
        ),
        (&tasks[2], &["int(x)", "{x},{y}"], &[]),
    ] {
        let patch = task["patch"].as_str().unwrap_or_default();
        let tests = task["test_patch"].as_str().unwrap_or_default();
        for word in has {
            if !patch.contains(word) {
                return Err(format!("no {word:?} in {patch}").into());
            }
        }
        for word in lacks {
            if patch.contains(word) || tests.contains(word) {
                return Err(format!("{word:?} in {patch}{tests}").into());
            }
        }
        if task.get("release_entries").is_some() {
            return Err("a task with the entries of its release".into());
        }
    }
    let text = |n: usize| tasks[n]["problem_statement"].as_str().unwrap_or_default();
    if !text(1).contains("keeps words whole") || !text(2).contains("coordinates") {
        return Err(format!("{}\n{}", text(1), text(2)).into());
    }
    // No entry is about it, so the text is the symptom.
    if text(0).contains("words") || !text(0).contains("assert") || text(0).contains("min(max") {
        return Err(text(0).to_owned().into());
    }
    let whole = dir.path().join("whole");
    expect(
        &validate(&collected, &whole, &["--whole"]).output()?,
        0,
        &["2 releases gave 2 candidates", "2 tasks"],
    )
}

fn kill() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let collected = dir.path().join("collected");
    let index = pair()?;
    expect(&index.collect(&collected, &["made-pair"])?, 0, &[])?;
    let again = dir.path().join("again");
    expect(&index.collect(&again, &["made-pair"])?, 0, &[])?;
    let candidates = |dir: &Path| fs::read(dir.join("candidates.jsonl"));
    if candidates(&collected)? != candidates(&again)? {
        return Err("a second collection gives other candidates".into());
    }
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    expect(
        &validate(&collected, &whole, &[]).output()?,
        0,
        &["3 tasks"],
    )?;
    let mut child = validate(&collected, &killed, &["--jobs", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let records = || -> Vec<_> {
        let entries = fs::read_dir(killed.join("records")).into_iter().flatten();
        let entries = entries.flatten().map(|entry| entry.path());
        entries
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .collect()
    };
    let begun = Instant::now();
    while records().is_empty() && begun.elapsed() < Duration::from_secs(300) {
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    let Some(first) = records().pop() else {
        return Err("nothing was done in 300 s".into());
    };
    let written = fs::metadata(&first)?.modified()?;
    expect(
        &validate(&collected, &killed, &[]).output()?,
        0,
        &["3 tasks"],
    )?;
    if fs::metadata(&first)?.modified()? != written {
        return Err("finished work was done again".into());
    }
    let tasks = |dir: &Path| fs::read(dir.join("tasks.jsonl"));
    if tasks(&killed)? != tasks(&whole)? {
        return Err("other tasks after a kill".into());
    }
    Ok(())
}
