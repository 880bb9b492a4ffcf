//! Every wrong input has a clear error that names what is wrong, and a
//! documented exit code.

use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::{expect, obstacle, root, swegym, tally, trial, write};

const INPUT: i32 = 3;
const BUILD: i32 = 4;
const MACHINE: i32 = 5;
const USAGE: i32 = 2;

pub fn trials() -> Vec<Trial> {
    let full_disk = if rustix::process::geteuid().is_root() {
        obstacle()
    } else {
        Some("needs root to mount a small file system")
    };
    vec![
        trial("bad input: datasets", None, datasets),
        trial("bad input: parsers and logs", None, logs),
        trial("bad input: usage", None, usage),
        trial("bad input: predictions", None, predictions),
        trial("bad input: registry unreachable", None, registry),
        trial("bad input: sdist with another hash", obstacle(), wrong_hash),
        trial("bad input: absent interpreter", obstacle(), interpreter),
        trial("bad input: failing build step", obstacle(), build_step),
        trial(
            "bad input: patches that leave the tree",
            obstacle(),
            escaping_patches,
        ),
        trial("bad input: full disk", full_disk, disk),
    ]
}

fn datasets() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let check = |name: &str, bytes: &[u8], words: &[&str]| -> Result<(), Failed> {
        let path = dir.path().join(name);
        fs::write(&path, bytes)?;
        expect(
            &swegym(["tasks", "stats"]).arg(&path).output()?,
            INPUT,
            words,
        )
    };
    expect(
        &swegym(["tasks", "stats", "nowhere.jsonl"]).output()?,
        INPUT,
        &["nowhere.jsonl"],
    )?;
    check(
        "bad.jsonl",
        b"{\"instance_id\": \"a\", \"repo\": \"x/y\"}\n{oops\n",
        &["bad.jsonl:2", "invalid JSON"],
    )?;
    check(
        "columns.jsonl",
        b"{\"colour\": \"red\"}\n",
        &["columns.jsonl", "instance_id"],
    )?;
    check(
        "lists.jsonl",
        b"{\"instance_id\": \"a\", \"FAIL_TO_PASS\": 7}\n",
        &["lists.jsonl", "FAIL_TO_PASS"],
    )?;
    check("cut.parquet", b"PAR1 and then nothing", &["cut.parquet"])?;
    check("empty.jsonl", b"", &["empty.jsonl"])
}

fn logs() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log.txt");
    fs::write(&log, "PASSED a.py::test\n")?;
    let parse = |args: &[&str]| swegym(["logs", "parse"]).args(args).arg(&log).output();
    expect(
        &parse(&["--parser", "parse_log_nobody"])?,
        INPUT,
        &["parse_log_nobody", "--parser list"],
    )?;
    expect(&parse(&[])?, INPUT, &["no parser"])?;
    expect(
        &parse(&["--parser", "parse_log_pytest"])?,
        0,
        &["PASSED", "a.py::test"],
    )?;
    let rows = dir.path().join("rows.jsonl");
    fs::write(
        &rows,
        "{\"log_parser\": \"parse_log_nobody\", \"test_output\": \"\"}\n",
    )?;
    let output = swegym(["logs", "parse", "--jsonl"]).arg(&rows).output()?;
    expect(
        &output,
        INPUT,
        &["rows.jsonl", "line 1", "parse_log_nobody"],
    )?;
    let tasks = dir.path().join("tasks.jsonl");
    fs::write(
        &tasks,
        r#"{"instance_id": "a__a-1", "repo": "a/a", "base_commit": "0", "log_parser": "parse_log_pytest", "patch": "", "test_patch": "", "problem_statement": "", "FAIL_TO_PASS": ["a.py::test"], "PASS_TO_PASS": []}"#,
    )?;
    let row = |id: &str, word: &str| {
        format!(
            "{{\"instance_id\": \"{id}\", \"log_parser\": \"parse_log_pytest\", \"test_output\": \
             \">>>>> Start Test Output\\n{word} a.py::test\\n>>>>> End Test Output\\n\"}}\n"
        )
    };
    let verdicts = || {
        swegym(["logs", "parse", "--jsonl"])
            .arg(&rows)
            .arg("--tasks")
            .arg(&tasks)
            .output()
    };
    fs::write(&rows, row("a__a-1", "PASSED") + &row("a__a-1", "FAILED"))?;
    expect(
        &verdicts()?,
        0,
        &["\"resolved\":true", "\"resolved\":false"],
    )?;
    fs::write(&rows, row("a__a-2", "PASSED"))?;
    expect(&verdicts()?, INPUT, &["line 1", "a__a-2", "--tasks"])
}

fn usage() -> Result<(), Failed> {
    expect(&swegym(["evaluate"]).output()?, USAGE, &["--tasks"])?;
    expect(&swegym(["dance"]).output()?, USAGE, &["dance"])
}

fn predictions() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let tasks = dir.path().join("tasks.jsonl");
    write(&tasks, &[tally()]);
    let preds = dir.path().join("preds.jsonl");
    let evaluate = |rows: &[Value]| {
        write(&preds, rows);
        swegym(["evaluate", "--run-id", "bad", "--tasks"])
            .arg(&tasks)
            .arg("--predictions")
            .arg(&preds)
            .arg("--out")
            .arg(dir.path().join("run"))
            .output()
    };
    let of = |id: &str| json!({"instance_id": id, "model_name_or_path": "m", "model_patch": ""});
    expect(
        &evaluate(&[of("nobody-1")])?,
        INPUT,
        &["unknown instance", "nobody-1"],
    )?;
    expect(
        &evaluate(&[of("tally-mod"), of("tally-mod")])?,
        INPUT,
        &["tally-mod", "preds.jsonl"],
    )?;
    expect(
        &evaluate(&[json!({"instance_id": "tally-mod"})])?,
        INPUT,
        &["model_patch", "preds.jsonl"],
    )
}

/// Builds one row with an empty home; the error is about the row alone.
fn build(
    row: &Value,
    dir: &Path,
    settings: &[(&str, &str)],
) -> std::io::Result<std::process::Output> {
    let tasks = dir.join("tasks.jsonl");
    write(&tasks, std::slice::from_ref(row));
    let mut command = swegym(["env", "build"]);
    command.arg(&tasks);
    for (name, value) in settings {
        command.env(name, value);
    }
    command.output()
}

fn registry() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("home");
    let mut row = tally();
    row["source"] = json!({"sdist": {"requirement": "iniconfig==2.0.0"}});
    let nowhere = "http://127.0.0.1:9/simple/";
    let settings = [
        ("SWEGYM_HOME", home.to_str().ok_or("a path")?),
        ("PIP_INDEX_URL", nowhere),
        ("UV_DEFAULT_INDEX", nowhere),
        ("UV_INDEX_URL", nowhere),
    ];
    expect(
        &build(&row, dir.path(), &settings)?,
        MACHINE,
        &["127.0.0.1:9"],
    )
}

fn wrong_hash() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let mut row = tally();
    let hash = "0".repeat(64);
    row["source"] = json!({"sdist": {"requirement": "iniconfig==2.0.0", "sha256": hash}});
    expect(
        &build(&row, dir.path(), &[])?,
        MACHINE,
        &["iniconfig", &hash],
    )
}

fn interpreter() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let mut row = tally();
    row["environment"]["python"] = json!("3.99");
    expect(&build(&row, dir.path(), &[])?, MACHINE, &["3.99"])
}

fn build_step() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let mut row = tally();
    row["environment"]["pre_install"] = json!(["echo it is not to be", "exit 7"]);
    expect(
        &build(&row, dir.path(), &[])?,
        BUILD,
        &["pre_install", "exit status 7", "not to be", "the log is"],
    )
}

fn escaping_patches() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let tasks = dir.path().join("tasks.jsonl");
    write(&tasks, &[tally()]);
    let corpus = root().join("fixtures/integrity/cheats");
    let rows: Vec<Value> = [
        "path_parent",
        "path_absolute",
        "path_git_dir",
        "path_symlink_escape",
    ]
    .iter()
    .map(|name| {
        let patch = fs::read_to_string(corpus.join(name).join("patch.diff")).expect("the corpus");
        json!({"instance_id": "tally-mod", "model_name_or_path": name, "model_patch": patch})
    })
    .collect();
    for row in rows {
        let preds = dir.path().join("preds.jsonl");
        write(&preds, std::slice::from_ref(&row));
        let output = swegym(["evaluate", "--run-id", "escape", "--json", "--tasks"])
            .arg(&tasks)
            .arg("--predictions")
            .arg(&preds)
            .arg("--out")
            .arg(dir.path().join("run"))
            .output()?;
        expect(&output, 0, &["invalid_patch"])
            .map_err(|e| format!("{}: {e:?}", row["model_name_or_path"]))?;
    }
    Ok(())
}

fn disk() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let small = dir.path().join("small");
    fs::create_dir(&small)?;
    let mount = |program: &str, args: &[&str]| -> Result<(), Failed> {
        let status = std::process::Command::new(program)
            .args(args)
            .arg(&small)
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{program}: {status}").into())
        }
    };
    mount("mount", &["-t", "tmpfs", "-o", "size=2m", "none"])?;
    let settings = [("SWEGYM_HOME", small.to_str().ok_or("a path")?)];
    let output = build(&tally(), dir.path(), &settings);
    mount("umount", &[])?;
    expect(&output?, MACHINE, &["No space left"])
}
