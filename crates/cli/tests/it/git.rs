//! `collect git`: commits, dumps of pull requests, GitHub itself; what falls
//! out and why, and what validation then keeps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::support::{expect, obstacle, swegym, trial, write};

const INPUT: i32 = 3;
const MACHINE: i32 = 5;
const USAGE: i32 = 2;
const FINDINGS: i32 = 1;

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("git: commits as candidates", None, commits),
        trial("git: pull requests as candidates", None, pulls),
        trial("git: ranges and limits", None, ranges),
        trial("git: validation keeps the fixes", obstacle(), validated),
        trial("git: rows that are there are not made again", None, resumed),
        trial("git: kills", None, kills),
        trial("git: clones of an address", None, cloned),
        trial("git: repositories that are none", None, bad_repositories),
        trial("git: broken dumps", None, bad_dumps),
        trial("git: dumps of other repositories", None, other_dumps),
        trial("git: dates that are none", None, bad_dates),
    ];
    trials.extend(live::trials());
    trials
}

/// Runs git as an author of fixtures would, away from the user's settings;
/// every commit is a day after the last.
struct Author {
    dir: PathBuf,
    day: u32,
}

impl Author {
    fn git(&self, args: &[&str]) -> Result<String, Failed> {
        let date = format!("2024-01-{:02}T12:00:00Z", self.day);
        let output = Command::new("git")
            .current_dir(&self.dir)
            .args(["-c", "user.name=a", "-c", "user.email=a@b"])
            .args([
                "-c",
                "init.defaultBranch=main",
                "-c",
                "commit.gpgsign=false",
            ])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .output()?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        } else {
            Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
        }
    }

    fn put(&self, path: &str, text: &str) -> Result<(), Failed> {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().ok_or("a parent")?)?;
        Ok(fs::write(path, text)?)
    }

    fn commit(&mut self, message: &str) -> Result<String, Failed> {
        self.day += 1;
        self.git(&["add", "-A"])?;
        self.git(&["commit", "-q", "-m", message])?;
        self.git(&["rev-parse", "HEAD"])
    }
}

const FIRST: &str = "def total(items):
    out = 0
    for item in items[1:]:
        out += item
    return out


def unique(items):
    return sorted(set(items))
";

const FIRST_TESTS: &str = "from pkg.core import total, unique


def test_nothing():
    assert total([]) == 0


def test_unique():
    assert unique([1, 1]) == [1]
";

/// A small repository: two fixes, a refactoring, documents, a merge.
struct Project {
    dir: PathBuf,
    first: String,
    total: String,
    refactoring: String,
    docs: String,
    unique: String,
    merge: String,
}

impl Project {
    fn make(dir: &Path) -> Result<Self, Failed> {
        let dir = dir.join("acme__pkg");
        fs::create_dir(&dir)?;
        let mut author = Author {
            dir: dir.clone(),
            day: 0,
        };
        author.git(&["init", "-q"])?;
        author.put(
            "pyproject.toml",
            "[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n\n\
             [project]\nname = \"pkg\"\nversion = \"0.3.1\"\nrequires-python = \">=3.9\"\n\n\
             [project.optional-dependencies]\ntest = [\"pytest\"]\n\n\
             [tool.setuptools]\npackages = [\"pkg\"]\n",
        )?;
        author.put("pkg/__init__.py", "")?;
        author.put("pkg/core.py", FIRST)?;
        author.put("tests/test_core.py", FIRST_TESTS)?;
        let first = author.commit("Begin with sums")?;

        let fixed = FIRST.replace("items[1:]", "items");
        let tests = format!("{FIRST_TESTS}\n\ndef test_total():\n    assert total([1, 2]) == 3\n");
        author.put("pkg/core.py", &fixed)?;
        author.put("tests/test_core.py", &tests)?;
        let total = author.commit("Count the first item, too (#1)\n\nIt was left out.")?;

        let renamed = fixed.replace("out", "result");
        author.put("pkg/core.py", &renamed)?;
        author.put(
            "tests/test_core.py",
            &tests.replace("test_nothing", "test_empty"),
        )?;
        let refactoring = author.commit("Rename a variable and a test")?;

        author.put("docs/usage.rst", "Import it.\n")?;
        let docs = author.commit("Say how to use it")?;

        author.git(&["checkout", "-q", "-b", "side", &total])?;
        author.put(
            "pkg/core.py",
            &fixed.replace("sorted(set(items))", "list(dict.fromkeys(items))"),
        )?;
        author.put(
            "tests/test_order.py",
            "from pkg.core import unique\n\n\ndef test_order():\n    assert unique([2, 1, 2]) == [2, 1]\n",
        )?;
        let unique = author.commit("Keep the order of unique items")?;
        author.git(&["checkout", "-q", "main"])?;
        author.day += 1;
        author.git(&[
            "merge",
            "-q",
            "--no-ff",
            "-m",
            "Merge branch 'side'",
            "side",
        ])?;
        let merge = author.git(&["rev-parse", "HEAD"])?;
        Ok(Self {
            dir,
            first,
            total,
            refactoring,
            docs,
            unique,
            merge,
        })
    }

    /// Writes a dump of its pull requests, and one of its issues.
    fn dump(&self, dir: &Path) -> Result<PathBuf, Failed> {
        let pull = |number: u64, body: &str, base: &str, head: &str| {
            json!({
                "number": number, "state": "closed", "title": "A change", "body": body,
                "created_at": format!("2024-02-0{number}T00:00:00Z"),
                "merged_at": format!("2024-03-0{number}T00:00:00Z"),
                "base": {"sha": base, "repo": {"full_name": "acme/pkg"}},
                "head": {"sha": head}, "merge_commit_sha": null,
            })
        };
        let mut open = pull(5, "fixes #1", &self.first, &self.total);
        open["merged_at"] = Value::Null;
        // Its branch is gone; the merge is not.
        let mut merged = pull(2, "Closes #2.", &self.docs, &"9".repeat(40));
        merged["merge_commit_sha"] = json!(self.merge);
        let path = dir.join("pulls.jsonl");
        write(
            &path,
            &[
                pull(1, "Fixes #1.", &self.first, &self.total),
                merged,
                pull(3, "Cleans up.", &self.total, &self.refactoring),
                pull(4, "Resolves #3", &self.refactoring, &self.docs),
                open,
                pull(6, "fixes #1", &"8".repeat(40), &"9".repeat(40)),
                pull(7, "fixes #1", &self.first, &"9".repeat(40)),
            ],
        );
        let issue = |number: u64, title: &str, comments: Value| {
            json!({"number": number, "title": title, "body": "It is wrong.",
                "repository_url": "https://api.host.example/repos/acme/pkg", "comments": comments})
        };
        let said = json!([
            {"body": "Seen, too.", "created_at": "2024-01-01T00:00:00Z"},
            {"body": "Fixed by now.", "created_at": "2024-06-01T00:00:00Z"},
        ]);
        write(
            &dir.join("issues.jsonl"),
            &[
                issue(1, "The first item is not counted", said),
                issue(2, "Items are sorted", json!([])),
                issue(3, "No documents", json!([])),
            ],
        );
        Ok(path)
    }
}

fn collect(repository: &Path, out: &Path, more: &[&str]) -> Result<Output, Failed> {
    let mut command = swegym(["collect", "git"]);
    command.arg(repository).arg("--out").arg(out).args(more);
    Ok(command.output()?)
}

fn rows(path: &Path) -> Result<Vec<Value>, Failed> {
    let text = fs::read_to_string(path)?;
    text.lines().map(|l| Ok(serde_json::from_str(l)?)).collect()
}

/// Why each change fell out, by its name.
fn reasons(out: &Path) -> Result<BTreeMap<String, Option<String>>, Failed> {
    let of = |row: Value| {
        let id = row["instance_id"].as_str().unwrap_or_default().to_owned();
        (id, row["reason"].as_str().map(str::to_owned))
    };
    Ok(rows(&out.join("raw.jsonl"))?.into_iter().map(of).collect())
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<(), Failed> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:#?} instead of {expected:#?}").into())
    }
}

fn named(expected: &[(String, Option<&str>)]) -> BTreeMap<String, Option<String>> {
    let owned = |(id, reason): &(String, Option<&str>)| (id.clone(), reason.map(str::to_owned));
    expected.iter().map(owned).collect()
}

fn by_commit(id: &str) -> String {
    format!("acme__pkg-{}", &id[..12])
}

fn commits() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let out = dir.path().join("out");
    expect(
        &collect(&project.dir, &out, &[])?,
        0,
        &["acme/pkg", "candidates.jsonl"],
    )?;
    let expected = [
        (by_commit(&project.first), Some("no_base")),
        (by_commit(&project.total), None),
        (by_commit(&project.refactoring), None),
        (by_commit(&project.docs), Some("no_source")),
        (by_commit(&project.unique), None),
        (by_commit(&project.merge), Some("merge")),
    ];
    same(reasons(&out)?, named(&expected))?;
    let candidates = rows(&out.join("candidates.jsonl"))?;
    let fix = candidates
        .iter()
        .find(|row| row["instance_id"] == by_commit(&project.total))
        .ok_or("the fix is no candidate")?;
    same(&fix["version"], &json!("0.3"))?;
    same(&fix["base_commit"], &json!(project.first))?;
    same(&fix["created_at"], &json!("2024-01-02T12:00:00Z"))?;
    same(
        &fix["source"],
        &json!({"git": {"path": project.dir.canonicalize()?, "commit": project.first}}),
    )?;
    same(
        &fix["problem_statement"],
        &json!("Count the first item, too\n\nIt was left out."),
    )?;
    let text = |name: &str| fix[name].as_str().unwrap_or_default().to_owned();
    let (patch, tests) = (text("patch"), text("test_patch"));
    if !patch.contains("+    for item in items:\n") || patch.contains("tests/") {
        return Err(format!("the solution is {patch}").into());
    }
    if !tests.contains("+def test_total():\n") || tests.contains("pkg/core.py b") {
        return Err(format!("the tests are {tests}").into());
    }
    // The same inputs give the same bytes, and a finished run is not redone.
    let again = dir.path().join("again");
    collect(&project.dir, &again, &[])?;
    for name in ["raw.jsonl", "candidates.jsonl"] {
        same(fs::read(out.join(name))?, fs::read(again.join(name))?)?;
    }
    Ok(())
}

fn pulls() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let dump = project.dump(dir.path())?;
    let dump = dump.to_str().ok_or("a path")?;
    let out = dir.path().join("out");
    expect(
        &collect(&project.dir, &out, &["--pulls", dump])?,
        0,
        &["acme/pkg"],
    )?;
    let id = |number: u64| format!("acme__pkg-{number}");
    let expected = [
        (id(1), None),
        (id(2), None),
        (id(3), Some("no_issue")),
        (id(4), Some("no_source")),
        (id(5), Some("not_merged")),
        (id(6), Some("commit_missing")),
        (id(7), Some("diff_missing")),
    ];
    same(reasons(&out)?, named(&expected))?;
    let candidates = rows(&out.join("candidates.jsonl"))?;
    let first = &candidates[0];
    same(
        &first["problem_statement"],
        &json!("The first item is not counted\nIt is wrong.\n"),
    )?;
    // The commits are the repository's; what was said after the first is no hint.
    same(&first["hints_text"], &json!("Seen, too."))?;
    same(&first["base_commit"], &json!(project.first))?;
    // Without its branch, a pull request is what its merge changed.
    same(&candidates[1]["base_commit"], &json!(project.docs))?;
    let patch = candidates[1]["patch"].as_str().unwrap_or_default();
    if !patch.contains("dict.fromkeys") {
        return Err(format!("the solution is {patch}").into());
    }
    let again = dir.path().join("again");
    collect(&project.dir, &again, &["--pulls", dump])?;
    for name in ["raw.jsonl", "candidates.jsonl"] {
        same(fs::read(out.join(name))?, fs::read(again.join(name))?)?;
    }
    Ok(())
}

fn ranges() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let ids = |name: &str, more: &[&str]| -> Result<Vec<String>, Failed> {
        let out = dir.path().join(name);
        expect(&collect(&project.dir, &out, more)?, 0, &[])?;
        Ok(reasons(&out)?.into_keys().collect())
    };
    let mut expected = vec![by_commit(&project.total), by_commit(&project.refactoring)];
    expected.sort();
    let days = ["--since", "2024-01-02", "--until", "2024-01-03"];
    same(ids("days", &days)?, expected.clone())?;
    let moments = [
        "--since",
        "2024-01-02T12:00:00Z",
        "--until",
        "2024-01-03T12:00:01Z",
    ];
    same(ids("moments", &moments)?, expected)?;
    same(
        ids("newest", &["--limit", "1"])?,
        vec![by_commit(&project.merge)],
    )
}

fn validated() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let dump = project.dump(dir.path())?;
    let dump = dump.to_str().ok_or("a path")?.to_owned();
    let (refactored, order) = (by_commit(&project.refactoring), by_commit(&project.unique));
    let total = "tests/test_core.py::test_total".to_owned();
    let unique = "tests/test_order.py::test_order".to_owned();
    for (kind, more, kept, fallen) in [
        (
            "commits",
            vec![],
            vec![(by_commit(&project.total), &total), (order, &unique)],
            vec![refactored],
        ),
        (
            "pulls",
            vec!["--pulls", &dump],
            vec![
                ("acme__pkg-1".to_owned(), &total),
                ("acme__pkg-2".to_owned(), &unique),
            ],
            vec![],
        ),
    ] {
        let out = dir.path().join(kind);
        collect(&project.dir, &out, &more)?;
        let tasks = dir.path().join(format!("{kind}-tasks"));
        let output = swegym(["validate", "--no-cheats", "--no-twins", "--repeats", "2"])
            .arg(out.join("candidates.jsonl"))
            .arg("--out")
            .arg(&tasks)
            .output()?;
        expect(&output, 0, &[])?;
        let mut found = Vec::new();
        for row in rows(&tasks.join("tasks.jsonl"))? {
            found.push((row["instance_id"].clone(), row["FAIL_TO_PASS"].clone()));
        }
        let expected: Vec<(Value, Value)> = kept
            .into_iter()
            .map(|(id, test)| (json!(id), json!([test])))
            .collect();
        same(found, expected)?;
        let mut rejected = Vec::new();
        for row in rows(&tasks.join("rejected.jsonl"))? {
            same(&row["rejection"]["reason"], &json!("no_fail_to_pass"))?;
            rejected.push(row["instance_id"].as_str().unwrap_or_default().to_owned());
        }
        same(rejected, fallen)?;
    }
    Ok(())
}

fn resumed() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let dump = project.dump(dir.path())?;
    let dump = dump.to_str().ok_or("a path")?;
    for (kind, more) in [("commits", vec![]), ("pulls", vec!["--pulls", dump])] {
        let out = dir.path().join(kind);
        collect(&project.dir, &out, &more)?;
        let raw = out.join("raw.jsonl");
        let whole = fs::read_to_string(&raw)?;
        let candidates = fs::read(out.join("candidates.jsonl"))?;
        // As after a kill in the fourth row; the first tells whether it is
        // made again.
        let mut lines: Vec<String> = whole.lines().map(|l| format!("{l}\n")).collect();
        lines[0] = lines[0].replacen('{', "{\"detail\":\"marked\",", 1);
        let marked = lines.concat();
        let half: String = lines[3].chars().take(40).collect();
        fs::write(out.join("raw.jsonl.part"), lines[..3].concat() + &half)?;
        fs::remove_file(&raw)?;
        let output = collect(&project.dir, &out, &more)?;
        expect(&output, 0, &["3 changes were looked at before"])?;
        same(fs::read_to_string(&raw)?, marked)?;
        same(fs::read(out.join("candidates.jsonl"))?, candidates)?;
        // Another range is another collection.
        let mut other = more.clone();
        other.extend(["--limit", "2"]);
        expect(&collect(&project.dir, &out, &other)?, 0, &[])?;
        same(rows(&raw)?.len(), 2)?;
    }
    Ok(())
}

/// A history long enough to be killed in.
fn long_history(dir: &Path) -> Result<PathBuf, Failed> {
    let dir = dir.join("long");
    fs::create_dir(&dir)?;
    let author = Author {
        dir: dir.clone(),
        day: 1,
    };
    author.git(&["init", "-q"])?;
    let mut stream = String::new();
    for n in 0..600 {
        let message = format!("Make the number {n} right");
        let (code, test) = (format!("a = {n}\n"), format!("assert {n}\n"));
        stream += &format!(
            "commit refs/heads/main\ncommitter a <a@b> {} +0000\ndata {}\n{message}\n\
             M 100644 inline pkg/core.py\ndata {}\n{code}\nM 100644 inline tests/test_core.py\ndata {}\n{test}\n",
            1_700_000_000 + n,
            message.len(),
            code.len(),
            test.len(),
        );
    }
    let input = dir.join("stream");
    fs::write(&input, stream)?;
    let status = Command::new("git")
        .current_dir(&dir)
        .args(["fast-import", "--quiet"])
        .stdin(fs::File::open(&input)?)
        .status()?;
    same(status.success(), true)?;
    Ok(dir)
}

fn kills() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let repository = long_history(dir.path())?;
    let whole = dir.path().join("whole");
    expect(&collect(&repository, &whole, &[])?, 0, &[])?;
    let out = dir.path().join("killed");
    let mut before = 0;
    for round in 1..6 {
        let mut child = swegym(["collect", "git"])
            .arg(&repository)
            .arg("--out")
            .arg(&out)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(150 * round));
        child.kill()?;
        child.wait()?;
        // No row is lost.
        let there = ["raw.jsonl.part", "raw.jsonl"]
            .iter()
            .filter_map(|name| fs::read_to_string(out.join(name)).ok())
            .map(|text| text.matches('\n').count())
            .max()
            .unwrap_or(0);
        if there < before {
            return Err(format!("{before} rows, then {there}").into());
        }
        before = there;
    }
    expect(&collect(&repository, &out, &[])?, 0, &[])?;
    for name in ["raw.jsonl", "candidates.jsonl"] {
        same(fs::read(out.join(name))?, fs::read(whole.join(name))?)?;
    }
    same(out.join("raw.jsonl.part").exists(), false)
}

fn cloned() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let out = dir.path().join("out");
    let url = format!("file://{}", project.dir.display());
    let output = swegym(["collect", "git", &url, "--repo", "acme/pkg", "--out"])
        .arg(&out)
        .env("SWEGYM_HOME", dir.path().join("home"))
        .output()?;
    expect(&output, 0, &["acme/pkg"])?;
    let candidates = rows(&out.join("candidates.jsonl"))?;
    same(candidates.len(), 3)?;
    let source = json!({"git": {"url": url, "commit": candidates[0]["base_commit"]}});
    same(&candidates[0]["source"], &source)
}

fn bad_repositories() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty)?;
    expect(
        &collect(&empty, &out, &[])?,
        INPUT,
        &["empty", "not a git repository"],
    )?;
    let author = Author {
        dir: empty.clone(),
        day: 1,
    };
    author.git(&["init", "-q"])?;
    expect(
        &collect(&empty, &out, &[])?,
        INPUT,
        &["empty", "has no commits"],
    )?;
    expect(
        &collect(Path::new("/nowhere/at/all"), &out, &[])?,
        INPUT,
        &["/nowhere/at/all", "no such folder"],
    )?;
    let unknown = swegym(["collect", "git", "acme/unknown", "--out"])
        .arg(&out)
        .env("SWEGYM_MIRRORS", &empty)
        .env("SWEGYM_GIT_URLS", "")
        .output()?;
    expect(
        &unknown,
        INPUT,
        &["acme/unknown", "no mirror", "SWEGYM_MIRRORS"],
    )?;
    expect(
        &collect(Path::new("http://127.0.0.1:9/acme/pkg.git"), &out, &[])?,
        MACHINE,
        &["http://127.0.0.1:9/acme/pkg.git", "can it be reached"],
    )
}

fn bad_dumps() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let good = fs::read_to_string(project.dump(dir.path())?)?;
    let first = good.lines().next().ok_or("a line")?;
    let path = dir.path().join("broken.jsonl");
    let with = |lines: &[&str]| -> Result<(Output, PathBuf), Failed> {
        fs::write(&path, lines.join("\n") + "\n")?;
        let out = dir.path().join("out");
        let dump = path.to_str().ok_or("a path")?;
        Ok((collect(&project.dir, &out, &["--pulls", dump])?, out))
    };
    let without = |field: &str| -> Result<String, Failed> {
        let mut row: Value = serde_json::from_str(first)?;
        row.as_object_mut().ok_or("an object")?.remove(field);
        Ok(row.to_string())
    };
    let (no_base, no_merge) = (without("base")?, without("number")?);
    // Lines that cannot be used are named and left out; the others are used.
    let (output, out) = with(&[first, "{\"number\": 2, ", &no_base, &no_merge])?;
    expect(
        &output,
        FINDINGS,
        &[
            "broken.jsonl:2: expected a JSON object on one line",
            "broken.jsonl:3: field `base.",
            "broken.jsonl:4: field `number`: missing",
            "3 lines of the dump were left out",
        ],
    )?;
    let expected = [
        ("acme__pkg-1".to_owned(), None),
        ("broken.jsonl:2".to_owned(), Some("broken_row")),
        ("broken.jsonl:3".to_owned(), Some("broken_row")),
        ("broken.jsonl:4".to_owned(), Some("broken_row")),
    ];
    same(reasons(&out)?, named(&expected))?;
    // Where none can be used, that is an error.
    expect(
        &with(&[&no_merge])?.0,
        INPUT,
        &["broken.jsonl:1: field `number`: missing"],
    )?;
    expect(
        &with(&["oops"])?.0,
        INPUT,
        &["broken.jsonl:1: expected a JSON object"],
    )?;
    expect(&with(&[])?.0, INPUT, &["broken.jsonl", "no pull request"])?;
    let nowhere = collect(&project.dir, &out, &["--pulls", "nowhere.jsonl"])?;
    expect(&nowhere, INPUT, &["nowhere.jsonl"])?;
    let issues = dir.path().join("bad-issues.jsonl");
    fs::write(&issues, "{\"title\": \"no number\"}\n")?;
    let (dump, issues) = (dir.path().join("pulls.jsonl"), issues.display().to_string());
    let dump = dump.to_str().ok_or("a path")?;
    let output = collect(&project.dir, &out, &["--pulls", dump, "--issues", &issues])?;
    expect(
        &output,
        INPUT,
        &["bad-issues.jsonl:1: field `number`: missing"],
    )
}

fn other_dumps() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let dump = fs::read_to_string(project.dump(dir.path())?)?;
    let other = dir.path().join("other.jsonl");
    let out = dir.path().join("out");
    let with = |text: &str, more: &[&str]| -> Result<Output, Failed> {
        fs::write(&other, text)?;
        let mut args = vec!["--pulls", other.to_str().ok_or("a path")?];
        args.extend(more);
        collect(&project.dir, &out, &args)
    };
    expect(
        &with(&dump.replace("acme/pkg", "acme/other"), &[])?,
        INPUT,
        &[
            "other.jsonl: field `base.repo.full_name`: pull request 1 is of acme/other, the repository is acme/pkg",
            "--repo",
        ],
    )?;
    same(out.join("raw.jsonl").exists(), false)?;
    // By its name it is right, and by its commits it is not.
    let commits = dump.replace(&project.first, &"7".repeat(40));
    let commits: String = commits.lines().take(1).collect();
    expect(
        &with(&(commits + "\n"), &[])?,
        INPUT,
        &["other.jsonl: no base commit is in", "7777777"],
    )?;
    // A dump of many repositories is fine; the others are passed over.
    let mixed = dump.replace("acme/pkg", "acme/other") + &dump;
    expect(&with(&mixed, &[])?, 0, &["other_repository"])?;
    // A repository that was renamed.
    let renamed = dump.replace("acme/pkg", "old/pkg");
    expect(&with(&renamed, &["--repo", "old/pkg"])?, 0, &["old/pkg"])
}

fn bad_dates() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let project = Project::make(dir.path())?;
    let out = dir.path().join("out");
    let dated = |more: &[&str]| collect(&project.dir, &out, more);
    expect(
        &dated(&["--since", "2024-13-01"])?,
        USAGE,
        &["--since", "2024-13-01", "YYYY-MM-DD"],
    )?;
    expect(
        &dated(&["--until", "yesterday"])?,
        USAGE,
        &["--until", "yesterday"],
    )?;
    expect(
        &dated(&["--since", "2024-02-01", "--until", "2024-01-01"])?,
        INPUT,
        &["--since", "not before --until"],
    )?;
    // A date in the dump that is asked for, and is none.
    let dump = fs::read_to_string(project.dump(dir.path())?)?;
    let path = dir.path().join("dated.jsonl");
    fs::write(&path, dump.replacen("2024-02-01T00:00:00Z", "in May", 1))?;
    let path = path.to_str().ok_or("a path")?;
    let output = dated(&["--pulls", path, "--since", "2024-01-01"])?;
    expect(
        &output,
        FINDINGS,
        &["dated.jsonl:1: field `created_at`", "in May"],
    )
}

#[cfg(not(feature = "github"))]
mod live {
    pub fn trials() -> Vec<libtest_mimic::Trial> {
        Vec::new()
    }
}

#[cfg(feature = "github")]
mod live {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    pub fn trials() -> Vec<Trial> {
        vec![
            trial("git: GitHub as a dump", None, download),
            trial("git: the rate limit of GitHub", None, limited),
            trial("git: GitHub that refuses", None, refused),
        ]
    }

    /// A GitHub of one repository, on loopback.
    struct Server {
        url: String,
        asked: Arc<Mutex<Vec<String>>>,
        /// Requests that are answered before the limit is used up, and the
        /// seconds it then takes.
        limit: Arc<Mutex<Option<(usize, u64)>>>,
    }

    impl Server {
        fn start(project: &Project) -> Result<Self, Failed> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let server = Self {
                url: format!("http://{}", listener.local_addr()?),
                asked: Arc::default(),
                limit: Arc::default(),
            };
            let (asked, limit) = (server.asked.clone(), server.limit.clone());
            let answers = answers(project)?;
            // It ends with the test.
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that went away is no matter.
                    let _ = serve(stream, &answers, &asked, &limit);
                }
            });
            Ok(server)
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().expect("no panic").clone()
        }

        fn limit(&self, limit: Option<(usize, u64)>) {
            *self.limit.lock().expect("no panic") = limit;
        }

        fn collect(&self, project: &Project, out: &Path, more: &[&str]) -> Result<Output, Failed> {
            let mut command = swegym(["collect", "git", "--github", "--api-url", &self.url]);
            command.arg(&project.dir).arg("--out").arg(out).args(more);
            command.env("TOKEN", "secret");
            Ok(command.args(["--token-env", "TOKEN"]).output()?)
        }
    }

    /// Answers by their path; the difference of a pull request by itself.
    fn answers(project: &Project) -> Result<BTreeMap<String, String>, Failed> {
        let dir = tempfile::tempdir()?;
        let pulls = rows(&project.dump(dir.path())?)?;
        let issues = rows(&dir.path().join("issues.jsonl"))?;
        let author = Author {
            dir: project.dir.clone(),
            day: 1,
        };
        let mut answers = BTreeMap::new();
        let mut add = |path: String, value: String| answers.insert(path, value);
        // The API gives no commits with a pull request, and much else.
        let mut listed: Vec<Value> = pulls.iter().take(5).cloned().collect();
        for pull in &mut listed {
            pull["user"] = json!({"login": "a"});
            let number = &pull["number"];
            let commits = json!([{"sha": "x", "commit": {
                "message": "work", "author": {"date": "2024-01-02T12:00:00Z"}}}]);
            add(
                format!("/repos/acme/pkg/pulls/{number}/commits?per_page=100&page=1"),
                commits.to_string(),
            );
            let (base, head) = match number.as_u64() {
                Some(2) => (format!("{}^1", project.merge), project.merge.clone()),
                _ => {
                    let name = |side: &str| pull[side]["sha"].as_str().unwrap_or_default();
                    (name("base").to_owned(), name("head").to_owned())
                }
            };
            let diff = author.git(&["diff", &base, &head])?;
            add(format!("/repos/acme/pkg/pulls/{number}"), diff + "\n");
        }
        listed.reverse();
        add(
            "/repos/acme/pkg/pulls?state=all&sort=created&direction=desc&per_page=100&page=1"
                .into(),
            Value::from(listed).to_string(),
        );
        for mut issue in issues {
            let number = issue["number"].clone();
            let comments = issue["comments"].take();
            issue["comments"] = json!(comments.as_array().map_or(0, Vec::len));
            add(
                format!("/repos/acme/pkg/issues/{number}/comments?per_page=100&page=1"),
                comments.to_string(),
            );
            add(
                format!("/repos/acme/pkg/issues/{number}"),
                issue.to_string(),
            );
        }
        Ok(answers)
    }

    fn serve(
        mut stream: TcpStream,
        answers: &BTreeMap<String, String>,
        asked: &Mutex<Vec<String>>,
        limit: &Mutex<Option<(usize, u64)>>,
    ) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut token = String::new();
        for line in lines {
            let line = line?;
            if line.to_lowercase().starts_with("authorization:") {
                token = line;
            } else if line.is_empty() {
                break;
            }
        }
        let mut limit = limit.lock().expect("no panic");
        let (status, head, body) = match (&mut *limit, answers.get(&path)) {
            _ if !token.ends_with("secret") => (
                "401 Unauthorized",
                String::new(),
                "{\"message\": \"Bad credentials\"}",
            ),
            (Some((0, wait)), _) => {
                let reset = std::time::SystemTime::UNIX_EPOCH
                    .elapsed()
                    .map_or(0, |d| d.as_secs())
                    + *wait;
                let head = format!("x-ratelimit-remaining: 0\r\nx-ratelimit-reset: {reset}\r\n");
                *limit = None;
                (
                    "403 Forbidden",
                    head,
                    "{\"message\": \"API rate limit exceeded\"}",
                )
            }
            (left, answer) => {
                if let Some((left, _)) = left {
                    *left -= 1;
                }
                asked.lock().expect("no panic").push(path);
                match answer {
                    Some(body) => ("200 OK", String::new(), body.as_str()),
                    None => (
                        "404 Not Found",
                        String::new(),
                        "{\"message\": \"Not Found\"}",
                    ),
                }
            }
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{head}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn download() -> Result<(), Failed> {
        let dir = tempfile::tempdir()?;
        let project = Project::make(dir.path())?;
        let server = Server::start(&project)?;
        let out = dir.path().join("out");
        expect(&server.collect(&project, &out, &[])?, 0, &["acme/pkg"])?;
        let id = |number: u64| format!("acme__pkg-{number}");
        let expected = [
            (id(1), None),
            (id(2), None),
            (id(3), Some("no_issue")),
            (id(4), Some("no_source")),
            (id(5), Some("not_merged")),
        ];
        same(reasons(&out)?, named(&expected))?;
        let candidates = rows(&out.join("candidates.jsonl"))?;
        same(&candidates[1]["hints_text"], &json!("Seen, too."))?;
        // A pull request without an issue costs its commits, an open one nothing.
        let asked = server.asked();
        let of = |n: u64| {
            asked
                .iter()
                .filter(|p| p.contains(&format!("/pulls/{n}")))
                .count()
        };
        same((of(3), of(5)), (1, 0))?;
        // What is there is not asked for again.
        expect(&server.collect(&project, &out, &[])?, 0, &[])?;
        same(server.asked().len(), asked.len())?;
        // A dump is a dump: nothing else is needed to collect from it.
        let again = dir.path().join("again");
        let dump = out.join("github/pulls.jsonl");
        collect(
            &project.dir,
            &again,
            &["--pulls", dump.to_str().ok_or("a path")?],
        )?;
        same(
            fs::read(out.join("candidates.jsonl"))?,
            fs::read(again.join("candidates.jsonl"))?,
        )
    }

    fn limited() -> Result<(), Failed> {
        let dir = tempfile::tempdir()?;
        let project = Project::make(dir.path())?;
        let server = Server::start(&project)?;
        let whole = dir.path().join("whole");
        server.collect(&project, &whole, &[])?;
        let needed = server.asked().len();
        // It waits for the reset where that is soon …
        server.limit(Some((4, 1)));
        let waited = dir.path().join("waited");
        expect(
            &server.collect(&project, &waited, &[])?,
            0,
            &["rate limit", "waiting"],
        )?;
        same(server.asked().len(), 2 * needed)?;
        // … and stops where it is not; then what was done is not done again.
        server.limit(Some((6, 1000)));
        let stopped = dir.path().join("stopped");
        let output = server.collect(&project, &stopped, &["--max-wait", "10"])?;
        expect(
            &output,
            MACHINE,
            &["rate limit used up for another", "--max-wait"],
        )?;
        expect(&server.collect(&project, &stopped, &[])?, 0, &[])?;
        let again = server.asked().len() - 2 * needed;
        // The list once more, and at most one pull request that was begun.
        if again > needed + 4 {
            return Err(format!("{again} requests instead of {needed}").into());
        }
        for out in [waited, stopped] {
            for name in [
                "raw.jsonl",
                "candidates.jsonl",
                "github/pulls.jsonl",
                "github/issues.jsonl",
            ] {
                same(fs::read(out.join(name))?, fs::read(whole.join(name))?)?;
            }
        }
        Ok(())
    }

    fn refused() -> Result<(), Failed> {
        let dir = tempfile::tempdir()?;
        let project = Project::make(dir.path())?;
        let server = Server::start(&project)?;
        let out = dir.path().join("out");
        let run = |token: &str, more: &[&str]| {
            swegym([
                "collect",
                "git",
                "--github",
                "--token-env",
                "TOKEN",
                "--api-url",
                &server.url,
            ])
            .arg(&project.dir)
            .arg("--out")
            .arg(&out)
            .args(more)
            .env("TOKEN", token)
            .output()
        };
        expect(&run("", &[])?, MACHINE, &["TOKEN holds no token"])?;
        expect(
            &run("wrong", &[])?,
            MACHINE,
            &["401", "Bad credentials", "token"],
        )?;
        expect(
            &run("secret", &["--repo", "acme/unknown"])?,
            INPUT,
            &["/repos/acme/unknown/pulls", "GitHub has no such thing"],
        )?;
        let output = swegym(["collect", "git", "--github", "--token-env", "TOKEN"])
            .args(["--api-url", "http://127.0.0.1:9"])
            .arg(&project.dir)
            .arg("--out")
            .arg(&out)
            .env("TOKEN", "secret")
            .output()?;
        expect(
            &output,
            MACHINE,
            &["http://127.0.0.1:9/repos/acme/pkg/pulls", "unreachable"],
        )
    }
}
