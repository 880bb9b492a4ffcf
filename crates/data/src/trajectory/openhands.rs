//! OpenHands: SWE-Gym's rows, and the files of `llm_completions`.

use serde_json::{Map, Value};
use swegym_core::{AgentInfo, StepSource, Trajectory};

use super::chat::{finish, messages, messages_back, metrics_of, take_list, totals};
use super::{Imported, TrajectoryFormat};

/// A value without its nulls: tables materialise columns that a row lacks.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k.clone(), without_nulls(v)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn agent(model: Option<&str>, tools: Option<&Value>) -> AgentInfo {
    AgentInfo {
        name: "openhands-codeact".into(),
        version: "unknown".into(),
        model_name: model.map(str::to_owned),
        tool_definitions: tools
            .and_then(Value::as_array)
            .map(|tools| tools.iter().map(without_nulls).collect()),
        extra: None,
    }
}

pub(super) fn read_row(mut rest: Map<String, Value>) -> Result<Imported, String> {
    let list = take_list(&mut rest, "messages")?;
    // `gpt-4o-2024-08-06_maxiter_30_N_v2.1-…`
    let run = rest.get("run_id").and_then(Value::as_str);
    let model = run.and_then(|run| run.split("_maxiter").next());
    let agent = agent(model, rest.get("tools"));
    let mut trajectory = Trajectory::from_chat(agent, &messages(&list)?);
    trajectory.session_id = run.map(str::to_owned);
    trajectory.final_metrics = Some(totals(&trajectory, None));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let result = rest.get("test_result");
    let imported = Imported {
        instance_id: text(rest.get("instance_id")),
        resolved: rest.get("resolved").and_then(Value::as_bool),
        patch: text(result.and_then(|r| r.get("git_patch"))),
        exit_status: None,
        format: TrajectoryFormat::OpenHandsRow,
        trajectory,
    };
    finish(imported, rest)
}

pub(super) fn row_back(trajectory: &Trajectory, mut rest: Map<String, Value>) -> Value {
    rest.insert("messages".into(), messages_back(trajectory).into());
    Value::Object(rest)
}

/// The whole conversation is the request and its answer.
pub(super) fn read_completion(mut rest: Map<String, Value>) -> Result<Imported, String> {
    let mut list = take_list(&mut rest, "messages")?;
    let response = rest.get_mut("response").ok_or("`response` is missing")?;
    let usage = response.get("usage").cloned();
    let model = response.get("model").and_then(Value::as_str);
    let model = model.map(str::to_owned);
    let answer = response
        .pointer_mut("/choices/0/message")
        .map(Value::take)
        .ok_or("`response` has no message")?;
    list.push(answer);
    let agent = agent(
        model.as_deref(),
        rest.get("kwargs").and_then(|k| k.get("tools")),
    );
    let mut trajectory = Trajectory::from_chat(agent, &messages(&list)?);
    let cost = rest.get("cost").and_then(Value::as_f64);
    let last = trajectory.steps.iter_mut().rev();
    if let Some(step) = last
        .into_iter()
        .find(|step| step.source == StepSource::Agent)
    {
        // Only the last call's usage is in the file.
        step.metrics = metrics_of(usage.as_ref(), cost);
    }
    let imported = Imported {
        instance_id: None,
        resolved: None,
        patch: None,
        exit_status: None,
        format: TrajectoryFormat::OpenHandsCompletion,
        trajectory,
    };
    finish(imported, rest)
}

pub(super) fn completion_back(trajectory: &Trajectory, mut rest: Map<String, Value>) -> Value {
    let mut messages = messages_back(trajectory);
    let answer = messages.pop().unwrap_or_default();
    let response = rest.get_mut("response");
    if let Some(slot) = response.and_then(|r| r.pointer_mut("/choices/0/message")) {
        *slot = answer;
    }
    rest.insert("messages".into(), messages.into());
    Value::Object(rest)
}
