//! Trajectories of other agents: in, as ATIF, and out again as they were.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};
use swegym_core::Trajectory;
use swegym_data::trajectory::{
    Imported, TrajectoryFormat, TrajectoryStats, import, native, read_trajectories,
};

use crate::shared;

/// In, to ATIF's text and back, out.
fn check(document: &Value, format: TrajectoryFormat) -> Imported {
    let imported = import(document.clone()).unwrap();
    assert_eq!(imported.format, format);
    imported.trajectory.check().unwrap();
    let text = serde_json::to_string(&imported.trajectory).unwrap();
    let back: Trajectory = serde_json::from_str(&text).unwrap();
    assert_eq!(&native(&back).unwrap(), document);
    // An exported file is recognised for what it was.
    let again = import(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(again, imported);
    if text.len() < 8000 {
        mutants(document);
    }
    imported
}

/// Whatever one place of a document holds instead: it is refused, or it comes
/// in valid and goes out as it was.
fn mutants(document: &Value) {
    let mut places = Vec::new();
    walk(document, String::new(), &mut places);
    let others = [
        Value::Null,
        json!(-1),
        json!(0.1),
        json!("x"),
        json!([]),
        json!({}),
        json!(["x"]),
        json!({"text": "x"}),
    ];
    for place in places {
        for other in &others {
            let mut mutant = document.clone();
            *mutant.pointer_mut(&place).unwrap() = other.clone();
            let Ok(imported) = import(mutant.clone()) else {
                continue;
            };
            imported.trajectory.check().unwrap();
            assert_eq!(imported.to_native().unwrap(), mutant, "{place}");
        }
    }
}

fn walk(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                walk(value, format!("{at}/{name}"), places);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                walk(value, format!("{at}/{index}"), places);
            }
        }
        _ => {}
    }
    if !at.is_empty() {
        places.push(at);
    }
}

#[test]
fn mini_swe_agent_comes_back() {
    let call = json!([{"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{\"command\": \"ls\"}"}}]);
    let document = json!({
        "info": {"model_stats": {"instance_cost": 0.024869039999999995}, "exit_status": "Submitted",
            "submission": "diff", "mini_version": "2.2.7", "config": {"model": {"model_name": "m"}}},
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "U"},
            {"role": "assistant", "content": null, "tool_calls": call, "function_call": null,
                "extra": {"cost": 0.003, "actions": [], "response": {"usage": {"prompt_tokens": 9}}}},
            {"role": "tool", "tool_call_id": "c", "content": "a.py", "extra": {"returncode": 0}},
            {"role": "assistant", "content": "```mswea_bash_command\nls\n```"},
            {"role": "user", "content": "<returncode>0</returncode>"},
            {"role": "exit", "content": "", "extra": {"exit_status": "Submitted"}}
        ],
        "trajectory_format": "mini-swe-agent-1.1", "instance_id": "a__b-1"
    });
    let got = check(&document, TrajectoryFormat::MiniSweAgent);
    assert_eq!(got.patch.as_deref(), Some("diff"));
    assert_eq!(got.instance_id.as_deref(), Some("a__b-1"));
    let step = &got.trajectory.steps[2];
    let metrics = step.metrics.as_ref().unwrap();
    assert_eq!(
        (metrics.cost_usd, metrics.prompt_tokens),
        (Some(0.003), Some(9))
    );
    assert_eq!(step.observation.as_ref().unwrap().results.len(), 1);
    // Its first version is a list of messages.
    check(
        &json!([{"role": "system", "content": "S"}, {"role": "assistant", "content": "```bash\nls\n```"}]),
        TrajectoryFormat::MiniSweAgent,
    );
}

#[test]
fn openhands_comes_back_nulls_and_all() {
    let message = |role: &str, content: Value| {
        json!({"role": role, "content": content, "tool_calls": null, "tool_call_id": null,
            "name": null, "function_call": null})
    };
    let mut answer = message("assistant", json!("Looking."));
    answer["tool_calls"] = json!([
        {"id": "1", "type": "function", "index": 1, "function": {"name": "execute_bash", "arguments": "{\"command\":\"ls\"}"}},
        {"id": "2", "type": "function", "index": 2, "function": {"name": "finish", "arguments": ""}}
    ]);
    let mut result = message("tool", json!("a.py"));
    result["tool_call_id"] = json!("1");
    result["name"] = json!("execute_bash");
    let row = json!({
        "instance_id": "i", "run_id": "gpt-4o_maxiter_30_N_v2.1", "resolved": true,
        "messages": [message("system", json!("S")), message("user", json!("U")), answer, result],
        "tools": [{"type": "function", "function": {"name": "finish", "parameters": null}}],
        "test_result": {"git_patch": "", "report": {"resolved": true}}
    });
    let got = check(&row, TrajectoryFormat::OpenHandsRow);
    assert_eq!(got.resolved, Some(true));
    assert_eq!(got.empty_patch(), Some(true));
    assert_eq!(got.trajectory.agent.model_name.as_deref(), Some("gpt-4o"));

    let part = json!([{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]);
    let completion = json!({
        "messages": [{"role": "system", "content": part}, {"role": "user", "content": []}],
        "response": {"model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": null}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        "args": [], "kwargs": {"tools": []}, "timestamp": 1733343863.366991, "cost": 0.052668
    });
    let got = check(&completion, TrajectoryFormat::OpenHandsCompletion);
    assert_eq!(got.trajectory.steps.len(), 3);
}

#[test]
fn swe_agent_comes_back_and_is_not_kept_twice() {
    let long = "x".repeat(500);
    let document = json!({
        "environment": "swe_main",
        "history": [
            {"role": "system", "content": "S", "agent": "primary"},
            {"role": "user", "content": "A demonstration", "agent": "primary", "is_demo": true},
            {"role": "assistant", "content": "demo", "agent": "primary", "is_demo": true, "thought": "t", "action": "a"},
            {"role": "user", "content": "The issue", "agent": "primary"},
            {"role": "assistant", "content": long, "agent": "primary", "thought": long, "action": "ls"},
            {"role": "user", "content": format!("{long}\n(Open file: n/a)"), "agent": "primary"}
        ],
        "trajectory": [{"action": "ls", "observation": long, "response": long, "state": "{}", "thought": long}],
        "info": {"exit_status": "submitted", "submission": null, "model_stats": {"instance_cost": 1.7, "tokens_sent": 9}}
    });
    let got = check(&document, TrajectoryFormat::SweAgent);
    assert_eq!(got.empty_patch(), Some(true));
    let copied: Vec<bool> = got
        .trajectory
        .steps
        .iter()
        .map(|s| s.is_copied_context == Some(true))
        .collect();
    assert_eq!(copied, [false, false, true, false, false, false]);
    let size = serde_json::to_string(&got.trajectory.extra).unwrap().len();
    assert!(size < 600, "{size}");
    // A demonstration is no turn.
    let mut stats = TrajectoryStats::default();
    stats.add(&got.trajectory, Some("a/b"), None, got.empty_patch());
    assert_eq!((stats.turns, stats.empty_patch, stats.labelled), (1, 1, 0));
    assert_eq!(stats.repositories["a/b"].count, 1);
}

#[test]
fn moatless_comes_back() {
    let transitions = json!({
        "name": "AgenticLoop", "initial_message": "The issue",
        "transitions": [
            {"name": "SearchCode", "state": {"model": "m", "temperature": 0.0}, "actions": [
                {"action": {"scratch_pad": "Hm.", "complete": false}, "output": {"ranked_spans": []},
                    "completion_cost": 0.012537, "input_tokens": 5, "output_tokens": 2},
                {"action": "nothing", "retry_message": "again", "completion_cost": null, "input_tokens": 1, "output_tokens": 1}]},
            {"name": "Finished", "state": {}, "actions": []}],
        "info": {"instance_id": "i", "submission": "diff", "total_cost": 0.08186100000000002, "status": "finished"}
    });
    let got = check(&transitions, TrajectoryFormat::Moatless);
    assert_eq!(got.trajectory.steps[1].message.text(), "Hm.");
    assert_eq!(got.patch.as_deref(), Some("diff"));
    let steps = json!({
        "name": "moatless", "input": {"problem_statement": "P"},
        "steps": [
            {"name": "Searching", "completion_cost": 0.1, "actions": [
                {"name": "search", "input": {"query": "q"}, "output": {"message": "none"}},
                {"name": "finish", "input": {}}]},
            {"name": "Coding", "thought": "T", "completion_cost": null, "actions": [], "error": "e"}],
        "output": {"message": "done"}, "info": {"instance_id": "i", "submission": null}
    });
    let got = check(&steps, TrajectoryFormat::MoatlessSteps);
    assert_eq!(
        got.trajectory.steps[1].tool_calls.as_ref().unwrap().len(),
        2
    );
}

#[test]
fn openhands_output_comes_back_event_by_event() {
    let first = json!({
        "instance_id": "i", "test_result": {"git_patch": "diff"}, "error": null,
        "metadata": {"llm_config": {"model": "m"}}, "metrics": {"accumulated_cost": 0.5},
        "history": [
            {"id": 0, "timestamp": "2024-12-04T20:10:31.123456", "source": "user", "action": "message",
                "message": "U", "args": {"content": "U", "image_urls": null}},
            {"id": 1, "source": "agent", "action": "run", "args": {"command": "ls", "thought": "Hm."}},
            {"id": 2, "source": "agent", "observation": "run", "content": "a.py", "cause": 1, "extras": {"exit_code": 0}},
            {"id": 3, "source": "agent", "action": "message", "args": {"content": "Done."}},
            {"id": 4, "source": "environment", "observation": "agent_state_changed", "content": "", "extras": {}},
            {"id": 5, "source": "agent", "action": "finish"}
        ]
    });
    let got = check(&first, TrajectoryFormat::OpenHandsOutput);
    assert_eq!(got.patch.as_deref(), Some("diff"));
    let step = &got.trajectory.steps[1];
    assert_eq!(step.message.text(), "Hm.");
    assert_eq!(step.observation.as_ref().unwrap().results.len(), 1);
    let sdk = json!({
        "instance_id": "i", "test_result": {"git_patch": ""}, "instance": {}, "history": [
            {"kind": "SystemPromptEvent", "id": "a", "source": "agent", "system_prompt": {"text": "S"}, "tools": []},
            {"kind": "MessageEvent", "id": "b", "source": "user",
                "llm_message": {"role": "user", "content": [{"type": "text", "text": "U"}]}},
            {"kind": "ActionEvent", "id": "c", "source": "agent", "thought": [{"type": "text", "text": "T"}],
                "tool_name": "terminal", "tool_call_id": "x", "action": {"command": "ls"}},
            {"kind": "ActionEvent", "id": "d", "source": "agent", "thought": [], "tool_name": "finish",
                "tool_call_id": "y", "action": null},
            {"kind": "ObservationEvent", "id": "e", "source": "environment", "tool_call_id": "x",
                "observation": {"content": [{"type": "text", "text": "a.py"}]}}
        ]
    });
    let got = check(&sdk, TrajectoryFormat::OpenHandsOutput);
    let call = &got.trajectory.steps[2].tool_calls.as_ref().unwrap()[0];
    assert_eq!(
        (call.function_name.as_str(), call.arguments.len()),
        ("terminal", 1)
    );
    assert!(got.trajectory.steps[2].observation.is_some());
    check(
        &json!({"instance_id": "i", "test_result": {}, "history": []}),
        TrajectoryFormat::OpenHandsOutput,
    );
}

#[test]
fn r2e_gym_comes_back() {
    let document = json!({
        "problem_statement": "P", "docker_image": "d", "output_patch": "diff", "reward": 1.0,
        "exit_reason": "agent", "trajectory_steps": [
            {"step_idx": 0, "thought": "T", "action": "<function=x>", "observation": "o", "done": false,
                "token_usage_prompt": 5, "token_usage_completion": 2},
            {"step_idx": 1, "thought": null, "action": "", "observation": null, "done": true}
        ]
    });
    let got = check(&document, TrajectoryFormat::R2e);
    assert_eq!(got.resolved, Some(true));
    assert_eq!(
        got.trajectory.final_metrics.unwrap().total_prompt_tokens,
        Some(5)
    );
}

#[test]
fn a_trial_of_harbor_has_its_label_beside() {
    let dir = tempfile::tempdir().unwrap();
    let trial = dir.path().join("job/t__0");
    std::fs::create_dir_all(trial.join("agent")).unwrap();
    let trajectory = json!({"schema_version": "ATIF-v1.6", "agent": {"name": "a", "version": "1"},
        "steps": [{"step_id": 1, "source": "user", "message": "hi"}]});
    let result = json!({"task_name": "t", "verifier_result": {"rewards": {"reward": 1}},
        "exception_info": null});
    std::fs::write(trial.join("agent/trajectory.json"), trajectory.to_string()).unwrap();
    std::fs::write(trial.join("result.json"), result.to_string()).unwrap();
    let all: Vec<Imported> = read_trajectories(dir.path())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].instance_id.as_deref(), Some("t"));
    assert_eq!(all[0].resolved, Some(true));
}

#[test]
fn what_is_no_trajectory_is_told() {
    for (document, word) in [
        (json!(1), "neither"),
        (json!({"a": 1}), "fields are a"),
        (
            json!({"history": {}, "trajectory": []}),
            "`history` is not a list",
        ),
        (json!({"messages": [1], "info": {}}), "message 1"),
        (
            json!({"schema_version": "ATIF-v1.8", "agent": {"name": "a", "version": "1"}, "steps": []}),
            "steps",
        ),
    ] {
        let got = import(document).unwrap_err();
        assert!(got.contains(word), "{got}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(read_trajectories(dir.path()).is_err());
    let file = dir.path().join("x.jsonl");
    std::fs::write(&file, "{\"messages\": [], \"info\": {}}\n{\"a\": 1}\n").unwrap();
    let all: Vec<_> = read_trajectories(dir.path()).unwrap().collect();
    let message = all[1].as_ref().unwrap_err().to_string();
    assert!(message.contains("x.jsonl:2"), "{message}");
}

#[test]
fn every_real_trajectory_comes_back() {
    let Some(data) = shared("trajectories") else {
        return;
    };
    let mut counts = BTreeMap::new();
    for path in std::fs::read_dir(data.join("trajectories")).unwrap() {
        let path = path.unwrap().path();
        let mut text = String::new();
        let file = std::fs::File::open(&path).unwrap();
        flate2::read::MultiGzDecoder::new(file)
            .read_to_string(&mut text)
            .unwrap();
        let rows: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let imported: Vec<Imported> = read_trajectories(&path)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(imported.len(), rows.len(), "{}", path.display());
        let (mut resolved, mut empty, mut native_size, mut size) = (0, 0, 0, 0);
        for (row, got) in rows.iter().zip(&imported) {
            let id = &row["instance_id"];
            check(&row["raw"], got.format);
            assert_eq!(got.resolved, row["resolved"].as_bool(), "{id}");
            assert_eq!(got.instance_id.as_deref(), id.as_str());
            if let Some(label) = row["empty_patch"].as_bool() {
                assert_eq!(got.empty_patch(), Some(label), "{id}");
            }
            resolved += usize::from(got.resolved == Some(true));
            empty += usize::from(got.empty_patch() == Some(true));
            native_size += row["raw"].to_string().len();
            size += serde_json::to_string(&got.trajectory).unwrap().len();
        }
        let ratio = size as f64 / native_size as f64;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        counts.insert(name, (rows.len(), resolved, empty, (ratio * 100.0).round()));
        assert!(ratio < 1.5, "{counts:?}");
    }
    assert!(!counts.is_empty());
    if let Some(out) = std::env::var_os("SWEGYM_TRAJECTORY_COUNTS") {
        std::fs::write(out, format!("{counts:#?}")).unwrap();
    }
}
