//! `swegym rollout`: agents, models that break, kills.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::provider::{Answer, Provider, says, turn};
use crate::support::{expect, obstacle, swegym, tally, trial, write};

pub fn trials() -> Vec<Trial> {
    let test = |name: &str, run: fn() -> Result<(), Failed>| {
        trial(&format!("rollout: {name}"), obstacle(), run)
    };
    vec![
        test(
            "gold resolves through every scaffold, nothing else does",
            scaffolds,
        ),
        test("the text dialect calls tools too", text),
        test("a provider that breaks ends as what it is", faults),
        test("a key that is not taken stops the run", rejected),
        test("kills lose nothing and double nothing", kills),
        test(
            "a command agent reaches its model and nothing else",
            command,
        ),
        test("a budget and a cap hold", caps),
        test("an injected bug cannot be read off the history", injected),
    ]
}

struct Ran {
    output: Output,
    dir: tempfile::TempDir,
}

impl Ran {
    fn episodes(&self) -> Result<Vec<Value>, Failed> {
        episodes(&self.dir.path().join("run"))
    }

    fn end(&self) -> Result<String, Failed> {
        let all = self.episodes()?;
        let stderr = String::from_utf8_lossy(&self.output.stderr);
        let one = all.first().ok_or_else(|| format!("no episode: {stderr}"))?;
        Ok(one["end"].as_str().unwrap_or_default().to_owned())
    }
}

fn episodes(run: &Path) -> Result<Vec<Value>, Failed> {
    let mut all = Vec::new();
    for instance in fs::read_dir(run.join("episodes"))? {
        for sample in fs::read_dir(instance?.path())? {
            let path = sample?.path().join("episode.json");
            all.push(serde_json::from_slice(&fs::read(path)?)?);
        }
    }
    Ok(all)
}

fn rollout(model: &str, agent: &str, more: &[&str]) -> Result<Ran, Failed> {
    let dir = tempfile::tempdir()?;
    let tasks = dir.path().join("tasks.jsonl");
    write(&tasks, &[tally()]);
    let mut command = swegym(["rollout", "--json", "--run-id", "test", "--agent", agent]);
    command.args(["--model", model, "--tasks"]).arg(&tasks);
    command.arg("--out").arg(dir.path().join("run")).args(more);
    command.env("OPENAI_API_KEY", "secret-of-the-test");
    let output = command.output()?;
    Ok(Ran { output, dir })
}

fn summary(ran: &Ran) -> Result<Value, Failed> {
    let stderr = String::from_utf8_lossy(&ran.output.stderr);
    serde_json::from_slice(&ran.output.stdout).map_err(|e| format!("{e}: {stderr}").into())
}

fn scaffolds() -> Result<(), Failed> {
    for agent in ["bash", "codeact", "workflow"] {
        let ran = rollout("gold", agent, &[])?;
        let got = summary(&ran)?;
        if got["resolved"] != 1 || got["ends"]["submitted"] != 1 {
            return Err(format!("{agent}, gold: {got}").into());
        }
        let trajectory = ran
            .dir
            .path()
            .join("run/episodes/tally-mod/0/trajectory.json");
        let trajectory: Value = serde_json::from_slice(&fs::read(trajectory)?)?;
        if trajectory["schema_version"] != "ATIF-v1.8" {
            return Err(format!("{agent}: {trajectory}").into());
        }
        exports(&ran)?;
        let wrong = tempfile::NamedTempFile::with_suffix(".jsonl")?;
        let patch = "diff --git a/notes.md b/notes.md\nnew file mode 100644\n--- /dev/null\n\
                     +++ b/notes.md\n@@ -0,0 +1 @@\n+Works as designed.\n";
        write(
            wrong.path(),
            &[json!({"instance_id": "tally-mod", "model_name_or_path": "m", "model_patch": patch})],
        );
        let got = summary(&rollout(
            &format!("patches:{}", wrong.path().display()),
            agent,
            &[],
        )?)?;
        if got["resolved"] != 0 || got["done"] != 1 || got["empty_patches"] != 0 {
            return Err(format!("{agent}, wrong: {got}").into());
        }
    }
    Ok(())
}

/// A run becomes what trainers and other programs read.
fn exports(ran: &Ran) -> Result<(), Failed> {
    let run = ran.dir.path().join("run");
    for target in [
        "atif",
        "chat",
        "text",
        "sharegpt",
        "kto",
        "verifier",
        "predictions",
    ] {
        let out = ran.dir.path().join(format!("{target}.jsonl"));
        let mut command = swegym(["runs", "export", "--to", target, "--out"]);
        expect(&command.arg(&out).arg(&run).output()?, 0, &["1 written"])?;
        if fs::read_to_string(&out)?.lines().count() != 1 {
            return Err(target.into());
        }
    }
    let mini = ran.dir.path().join("mini");
    for (target, file) in [
        ("mini", "tally-mod/tally-mod.traj.json"),
        ("harbor", "result.json"),
    ] {
        let mut command = swegym(["runs", "export", "--to", target, "--out"]);
        expect(&command.arg(&mini).arg(&run).output()?, 0, &["1 written"])?;
        serde_json::from_slice::<Value>(&fs::read(mini.join(file))?)?;
    }
    // There are no tokens to be exact about, and none are made up.
    let out = ran.dir.path().join("tokens.jsonl");
    let mut command = swegym(["runs", "export", "--to", "tokens", "--out"]);
    expect(&command.arg(&out).arg(&run).output()?, 1, &["no token ids"])?;
    let output = swegym(["runs", "compare", "--json"])
        .arg(&run)
        .arg(&run)
        .output()?;
    expect(&output, 0, &[])?;
    let compared: Value = serde_json::from_slice(&output.stdout)?;
    if compared["instances"] != 1 || compared["p"] != 1.0 {
        return Err(compared.to_string().into());
    }
    // The second list is read from the index that the first has left.
    for _ in 0..2 {
        let output = swegym(["runs", "list", "--json"])
            .arg(ran.dir.path())
            .output()?;
        expect(&output, 0, &[])?;
        let listed: Value = serde_json::from_slice(&output.stdout)?;
        let row = &listed[0];
        if [&row["episodes"], &row["graded"], &row["resolved"]] != [1, 1, 1] {
            return Err(listed.to_string().into());
        }
    }
    let output = swegym(["trajectories", "stats", "--json"])
        .arg(&run)
        .output()?;
    let stats: Value = serde_json::from_slice(&output.stdout)?;
    if stats["count"] != 1 || stats["resolved"] != 1 {
        return Err(stats.to_string().into());
    }
    Ok(())
}

/// The gold patch as a command.
fn fix() -> String {
    let patch = tally()["patch"].as_str().unwrap_or_default().to_owned();
    format!("git apply - <<'EOF'\n{patch}EOF")
}

fn hand_in() -> (&'static str, &'static str) {
    (
        "bash",
        r#"{"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"}"#,
    )
}

/// Fixes the bug, then hands in.
fn works(request: &Value) -> Value {
    match turn(request) {
        0 => {
            let arguments = json!({"command": fix()}).to_string();
            says("Fixing.", &[("bash", &arguments)])
        }
        _ => says("Done.", &[hand_in()]),
    }
}

fn text() -> Result<(), Failed> {
    let fix = fix();
    let provider = Provider::start(move |_, request| {
        if request.get("tools").is_some() {
            return Answer::Json(400, "", json!({"error": {"message": "no tools here"}}));
        }
        let said = match turn(request) {
            // As a server leaves it that took the stop word away.
            0 => format!("<function=execute_bash>\n<parameter=command>\n{fix}\n</parameter>\n"),
            1 => "<function=finish>\n<parameter=message>x</parameter>\n</function>".into(),
            _ => "Now.\n\n<function=finish>\n".to_owned(),
        };
        Answer::Json(200, "", says(&said, &[]))
    });
    let model = format!("openai:fake@{}", provider.url);
    let ran = rollout(&model, "codeact", &["--dialect", "text"])?;
    let got = summary(&ran)?;
    // The wrong call of `finish` costs a turn and nothing else.
    if got["resolved"] != 1 || ran.episodes()?[0]["turns"] != 3 {
        return Err(format!("{got} {:?}", ran.episodes()?).into());
    }
    Ok(())
}

fn faults() -> Result<(), Failed> {
    type Fault = fn(usize, &Value) -> Answer;
    let cases: [(&str, &str, Fault); 11] = [
        ("429 with Retry-After", "submitted", |n, r| match n {
            0 => Answer::Json(429, "retry-after: 1\r\n", json!({})),
            _ => Answer::Json(200, "", works(r)),
        }),
        ("429 without", "submitted", |n, r| match n {
            0 => Answer::Json(429, "", json!({"error": {"message": "slow down"}})),
            _ => Answer::Json(200, "", works(r)),
        }),
        ("500 for good", "failed", |_, _| {
            Answer::Json(500, "", json!({}))
        }),
        ("a reset in the middle", "submitted", |n, r| match n {
            1 => Answer::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 500\r\n\r\n{\"choi".to_vec()),
            _ => Answer::Json(200, "", works(r)),
        }),
        ("no JSON", "submitted", |n, r| match n {
            0 => Answer::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 6\r\n\r\n<html>".to_vec()),
            _ => Answer::Json(200, "", works(r)),
        }),
        ("arguments that are none", "submitted", |n, r| match n {
            0 => Answer::Json(200, "", says("", &[("bash", "{\"command\": \"ls")])),
            1 => Answer::Json(200, "", says("", &[("shell", "{}"), ("bash", "[1]")])),
            // Two answers in error, then the fix.
            2 => {
                let arguments = json!({"command": fix()}).to_string();
                Answer::Json(200, "", says("", &[("bash", &arguments)]))
            }
            _ => Answer::Json(200, "", works(r)),
        }),
        ("output without end", "failed", |_, _| Answer::Endless),
        ("a connection that hangs", "failed", |_, _| Answer::Hang),
        ("too long for the context", "context", |n, r| match n {
            0 => Answer::Json(200, "", works(r)),
            _ => Answer::Json(
                400,
                "",
                json!({"error": {"code": "context_length_exceeded", "message": "too long"}}),
            ),
        }),
        ("a refusal", "refused", |_, _| {
            let mut body = says("I will not.", &[]);
            body["choices"][0]["finish_reason"] = json!("content_filter");
            Answer::Json(200, "", body)
        }),
        ("the same over and over", "stuck", |_, _| {
            Answer::Json(200, "", says("", &[("bash", "{\"command\": \"ls\"}")]))
        }),
    ];
    let mut wrong = Vec::new();
    for (name, want, fault) in cases {
        let provider = Provider::start(fault);
        let model = format!("openai:fake@{}", provider.url);
        let more = [
            "--request-attempts",
            "2",
            "--request-timeout",
            "2",
            "--attempts",
            "1",
        ];
        let ran = rollout(&model, "bash", &more)?;
        let end = match ran.episodes()?.first() {
            Some(episode) => match episode["limit"].as_str() {
                Some(limit) => limit.to_owned(),
                None => ran.end()?,
            },
            None => "nothing".into(),
        };
        let got = summary(&ran)?;
        let resolved = got["resolved"] == 1;
        // What was fixed before the context ran out counts.
        let should = matches!(want, "submitted" | "context");
        if end != want || resolved != should {
            let stderr = String::from_utf8_lossy(&ran.output.stderr).into_owned();
            wrong.push(format!("{name}: {end} instead of {want}; {got}; {stderr}"));
        }
        let by_provider = ran.episodes()?[0]["by"] == "model_provider";
        if (want == "failed") != by_provider {
            wrong.push(format!("{name}: {:?}", ran.episodes()?[0]));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn rejected() -> Result<(), Failed> {
    let provider =
        Provider::start(|_, _| Answer::Json(401, "", json!({"error": {"message": "bad key"}})));
    let model = format!("openai:fake@{}", provider.url);
    let ran = rollout(&model, "codeact", &["--samples", "5"])?;
    expect(&ran.output, 3, &["takes no request", "bad key"])?;
    if !ran.episodes()?.is_empty() {
        return Err("an episode was committed".into());
    }
    for entry in walk(&ran.dir.path().join("run"))? {
        if String::from_utf8_lossy(&fs::read(&entry)?).contains("secret-of-the-test") {
            return Err(format!("the key is in {}", entry.display()).into());
        }
    }
    Ok(())
}

fn walk(dir: &Path) -> Result<Vec<std::path::PathBuf>, Failed> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn kills() -> Result<(), Failed> {
    let samples = 24;
    let provider = Provider::start(|_, request| {
        std::thread::sleep(Duration::from_millis(120));
        Answer::Json(200, "", works(request))
    });
    let dir = tempfile::tempdir()?;
    let tasks = dir.path().join("tasks.jsonl");
    write(&tasks, &[tally()]);
    let run = dir.path().join("run");
    let command = || {
        let mut command = swegym(["rollout", "--json", "--quiet", "--run-id", "test"]);
        command.args(["--agent", "bash", "--workers", "4", "--prices", "1/10"]);
        command.args(["--samples", &samples.to_string()]);
        command.args(["--model", &format!("openai:fake@{}", provider.url)]);
        command.arg("--tasks").arg(&tasks).arg("--out").arg(&run);
        command
    };
    let kills = std::env::var("SWEGYM_KILLS").ok();
    let kills: u64 = kills.and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut committed = std::collections::BTreeMap::new();
    for kill in 0..kills {
        let mut child = command().stdout(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(150 + kill * 7919 % 900));
        child.kill()?;
        child.wait()?;
        // What was committed once stays as it is.
        for (path, bytes) in &committed {
            if fs::read(path)? != *bytes {
                return Err(format!("{path:?} changed after kill {kill}").into());
            }
        }
        if run.join("episodes").is_dir() {
            for path in walk(&run.join("episodes"))? {
                if path.ends_with("episode.json") {
                    committed.insert(path.clone(), fs::read(&path)?);
                }
            }
        }
    }
    let output = command().output()?;
    expect(&output, 0, &[])?;
    let got: Value = serde_json::from_slice(&output.stdout)?;
    let all = episodes(&run)?;
    if all.len() != samples || got["resolved"] != samples || got["complete"] != true {
        return Err(format!("{} episodes: {got}", all.len()).into());
    }
    let calls = got["spent"]["calls"].as_u64().unwrap_or_default() as usize;
    let unanswered = got["spent"]["unanswered"].as_u64().unwrap_or_default() as usize;
    let served = provider.served.load(Ordering::SeqCst);
    let cost = got["spent"]["usage"]["cost_usd"]
        .as_f64()
        .unwrap_or_default();
    let exact = calls as f64 * (100.0 + 10.0 * 10.0) / 1e6;
    if !(calls <= served && served <= calls + unanswered) || (cost - exact).abs() > 1e-9 {
        return Err(format!("{served} answers, but {calls} + {unanswered}, ${cost}").into());
    }
    Ok(())
}

/// An agent of a few lines, in both APIs and streamed.
const AGENT: &str = r#"
import json, os, subprocess, sys, urllib.request
def post(url, body):
    headers = {"content-type": "application/json", "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request).read().decode()
messages = [{"role": "system", "content": "You fix."}, {"role": "user", "content": os.environ["SWEGYM_TASK"]}]
first = json.loads(post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", {"model": "any", "messages": messages}))
messages.append(first["choices"][0]["message"])
command = json.loads(messages[-1]["tool_calls"][0]["function"]["arguments"])["command"]
output = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, universal_newlines=True).stdout
messages.append({"role": "tool", "tool_call_id": messages[-1]["tool_calls"][0]["id"], "content": output})
stream = post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", {"model": "any", "messages": messages, "stream": True})
assert stream.rstrip().endswith("data: [DONE]"), stream
other = json.loads(post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages",
    {"model": "any", "max_tokens": 5, "messages": [{"role": "user", "content": "A title, please."}]}))
assert other["content"][0]["text"] == "Done.", other
try:
    urllib.request.urlopen("http://1.1.1.1/", timeout=1)
except OSError:
    print("no network, as it should be")
"#;

fn command() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let (agent, script) = (dir.path().join("agent.py"), dir.path().join("script.jsonl"));
    fs::write(&agent, AGENT)?;
    let line = json!({"content": "Fixing.", "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "tool_calls": [{"name": "bash", "arguments": {"command": fix()}}]});
    let done = json!({"content": "Done."});
    write(&script, &[line, done.clone(), done]);
    let mount = format!("{}:/opt/agent.py", agent.display());
    let model = format!("scripted:{}", script.display());
    let agent = "cmd: python /opt/agent.py";
    let ran = rollout(&model, agent, &["--agent-mount", &mount])?;
    let got = summary(&ran)?;
    let episode = ran.dir.path().join("run/episodes/tally-mod/0");
    let log = fs::read_to_string(episode.join("agent.log"))?;
    if got["resolved"] != 1 || !log.contains("no network") {
        return Err(format!("{got}\n{log}").into());
    }
    let trajectory: Value = serde_json::from_slice(&fs::read(episode.join("trajectory.json"))?)?;
    let sources: Vec<&str> = trajectory["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|step| step["source"].as_str())
        .collect();
    let aside = trajectory["subagent_trajectories"].as_array();
    if sources != ["system", "user", "agent", "agent"] || aside.is_none_or(|a| a.len() != 1) {
        return Err(format!("{trajectory:#}").into());
    }
    // The cap ends an agent that would go on.
    let ran = rollout(
        &model,
        agent,
        &["--agent-mount", &mount, "--max-turns", "1", "--no-grade"],
    )?;
    if ran.episodes()?[0]["limit"] != "turns" {
        return Err(format!("{:?}", ran.episodes()?).into());
    }
    Ok(())
}

fn caps() -> Result<(), Failed> {
    let talk = |n: usize, _: &Value| {
        let command = json!({"command": format!("echo {n}")}).to_string();
        Answer::Json(200, "", says("", &[("bash", &command)]))
    };
    let provider = Provider::start(talk);
    let model = format!("openai:fake@{}", provider.url);
    // A call costs a quarter of a dollar.
    let price = ["--prices", "1250/12500", "--no-grade"];
    let ran = rollout(
        &model,
        "bash",
        &[&price[..], &["--max-cost", "0.6"]].concat(),
    )?;
    let one = &ran.episodes()?[0];
    if one["limit"] != "cost" || one["turns"] != 3 {
        return Err(format!("cap: {one}").into());
    }
    let provider = Provider::start(talk);
    let model = format!("openai:fake@{}", provider.url);
    let more = ["--budget", "2", "--samples", "8", "--workers", "8"];
    let ran = rollout(&model, "bash", &[&price[..], &more].concat())?;
    let got = summary(&ran)?;
    let calls = provider.served.load(Ordering::SeqCst);
    if calls != 8 || got["ends"]["cost"] != 8 {
        return Err(format!("budget: {calls} calls, {got}").into());
    }
    Ok(())
}

/// A task whose base is its source with a patch: an injected bug, and a test
/// file that is gone.
fn injected() -> Result<(), Failed> {
    let root = crate::support::root().join("fixtures/integrity/repos/tally");
    let ledger = fs::read_to_string(root.join("src/tally/ledger.py"))?;
    let first = ledger.lines().next().unwrap_or_default();
    let gone = fs::read_to_string(root.join("tests/test_ledger.py"))?;
    let removed: String = gone.lines().map(|line| format!("-{line}\n")).collect();
    let count = gone.lines().count();
    let mut row = tally();
    row["base_patch"] = json!(format!(
        "diff --git a/src/tally/ledger.py b/src/tally/ledger.py\n--- a/src/tally/ledger.py\n\
         +++ b/src/tally/ledger.py\n@@ -1 +1 @@\n-{first}\n+BUG = 1\n\
         diff --git a/tests/test_ledger.py b/tests/test_ledger.py\ndeleted file mode 100644\n\
         --- a/tests/test_ledger.py\n+++ /dev/null\n@@ -1,{count} +0,0 @@\n{removed}"
    ));
    let dir = tempfile::tempdir()?;
    let (tasks, script) = (
        dir.path().join("tasks.jsonl"),
        dir.path().join("script.jsonl"),
    );
    write(&tasks, &[row]);
    let look = "head -1 src/tally/ledger.py; ls tests; git status --short; git log --oneline | wc -l; \
                git log --all -p | grep -cF -- \"$FIRST\"";
    let look = format!("FIRST={}; {look}", shell_word(first));
    let call = |command: &str| json!({"tool_calls": [{"name": "bash", "arguments": {"command": command}}]});
    write(
        &script,
        &[call(&look), call("echo x > new.txt"), call(SUBMIT)],
    );
    let run = dir.path().join("run");
    let mut command = swegym(["rollout", "--run-id", "t", "--agent", "bash", "--no-grade"]);
    command
        .arg("--model")
        .arg(format!("scripted:{}", script.display()));
    let output = command
        .arg("--tasks")
        .arg(&tasks)
        .arg("--out")
        .arg(&run)
        .output()?;
    expect(&output, 0, &[])?;
    let episode = run.join("episodes/tally-mod/0");
    let trajectory: Value = serde_json::from_slice(&fs::read(episode.join("trajectory.json"))?)?;
    let seen = trajectory["steps"][2]["observation"]["results"][0]["content"].as_str();
    let seen = seen.unwrap_or_default();
    let clean =
        seen.contains("BUG = 1") && !seen.contains("test_ledger") && seen.contains("\n1\n0\n");
    if !clean {
        return Err(seen.into());
    }
    // The patch is what the agent did, not what the task did.
    let patch = fs::read_to_string(episode.join("patch.diff"))?;
    if !patch.contains("new.txt") || patch.matches("diff --git").count() != 1 {
        return Err(patch.into());
    }
    Ok(())
}

const SUBMIT: &str = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT";

fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
