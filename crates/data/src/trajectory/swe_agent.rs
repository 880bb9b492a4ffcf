//! SWE-agent's `.traj`: a history of messages, and beside it a list of steps
//! that says most of it again. The history is the conversation; of the steps
//! only what the history does not hold is kept.

use serde_json::{Map, Value, json};
use swegym_core::{AgentInfo, StepSource, Trajectory};

use super::chat::{finish, messages, messages_back, take_list, text_or_empty, totals};
use super::{Imported, TrajectoryFormat};

/// Fields of a step that its answer in the history may hold, with the names
/// there.
const SAME: [(&str, &str); 3] = [
    ("response", "content"),
    ("thought", "thought"),
    ("action", "action"),
];

/// Says that a text is in the history. No program writes such a field; a
/// document that has one is not taken.
const HERE: &str = "in_history";

pub(super) fn read(mut rest: Map<String, Value>) -> Result<Imported, String> {
    let history = take_list(&mut rest, "history")?;
    let mut steps = take_list(&mut rest, "trajectory")?;
    let info = rest.get("info").cloned().unwrap_or_default();
    let text = |path: &str| info.pointer(path).and_then(Value::as_str);
    let agent = AgentInfo {
        name: "swe-agent".into(),
        version: text("/swe_agent_version").unwrap_or("unknown").to_owned(),
        ..AgentInfo::default()
    };
    let mut trajectory = Trajectory::from_chat(agent, &messages(&history)?);
    // Demonstrations are of another task.
    let mut places = Vec::new();
    for (index, message) in history.iter().enumerate() {
        let answer = message["role"] == "assistant";
        let demo = message["is_demo"] == true;
        if answer && !demo {
            places.push(index);
        }
    }
    let answers: Vec<&Value> = history
        .iter()
        .filter(|m| m["role"] == "assistant")
        .collect();
    let agents = trajectory.steps.iter_mut();
    let agents = agents.filter(|step| step.source == StepSource::Agent);
    for (step, raw) in agents.zip(answers) {
        if raw["is_demo"] == true {
            step.is_copied_context = Some(true);
        }
    }
    let fields = steps.iter().filter_map(Value::as_object).flatten();
    if fields
        .into_iter()
        .any(|(_, value)| value.get(HERE).is_some())
    {
        return Err(format!("a step has a field `{HERE}`"));
    }
    for (step, &place) in steps.iter_mut().zip(&places) {
        shorten(step, &history, place);
    }
    if !steps.is_empty() || trajectory.steps.is_empty() {
        rest.insert("trajectory".into(), steps.into());
    }
    let stats = |name: &str| info.pointer(&format!("/model_stats/{name}"));
    let cost = stats("instance_cost").and_then(Value::as_f64);
    let mut sums = totals(&trajectory, cost);
    sums.total_prompt_tokens = stats("tokens_sent").and_then(Value::as_u64);
    sums.total_completion_tokens = stats("tokens_received").and_then(Value::as_u64);
    trajectory.final_metrics = Some(sums);
    let imported = Imported {
        instance_id: None,
        resolved: None,
        patch: Some(text_or_empty(info.get("submission"))),
        exit_status: text("/exit_status").map(str::to_owned),
        format: TrajectoryFormat::SweAgent,
        trajectory,
    };
    finish(imported, rest)
}

/// Replaces what the history holds by where it is: `{"in_history": message}`,
/// with `from` and `to`, bytes, for a part of a text.
fn shorten(step: &mut Value, history: &[Value], place: usize) {
    let Some(step) = step.as_object_mut() else {
        return;
    };
    for (name, there) in SAME {
        if step.get(name).is_some_and(Value::is_string)
            && step.get(name) == history[place].get(there)
        {
            step.insert(name.into(), json!({HERE: place}));
        }
    }
    let next = history.get(place + 1).and_then(|m| m["content"].as_str());
    let observation = step.get("observation").and_then(Value::as_str);
    if let (Some(observation), Some(next)) = (observation, next)
        && observation.len() > 40
        && let Some(from) = next.find(observation)
    {
        let to = from + observation.len();
        let part = json!({HERE: place + 1, "from": from, "to": to});
        step.insert("observation".into(), part);
    }
}

pub(super) fn back(trajectory: &Trajectory, mut rest: Map<String, Value>) -> Result<Value, String> {
    let history = messages_back(trajectory);
    let mut steps = match rest.remove("trajectory") {
        Some(Value::Array(steps)) => steps,
        _ => Vec::new(),
    };
    let lost = || "a step's text is no longer in the history".to_owned();
    for step in steps.iter_mut().filter_map(Value::as_object_mut) {
        for (name, there) in SAME {
            let Some(at) = step.get(name).and_then(|v| v.get(HERE)?.as_u64()) else {
                continue;
            };
            let message = history.get(at as usize).ok_or_else(lost)?;
            let text = message.get(there).ok_or_else(lost)?.clone();
            step.insert(name.into(), text);
        }
        let part = step.get("observation").filter(|v| v.get(HERE).is_some());
        let part = part.cloned();
        if let Some(part) = part {
            let number = |name: &str| part[name].as_u64().map(|n| n as usize);
            let (at, from, to) = (number(HERE), number("from"), number("to"));
            let text = at
                .and_then(|at| history.get(at)?["content"].as_str())
                .and_then(|text| text.get(from?..to?))
                .ok_or_else(lost)?;
            step.insert("observation".into(), text.into());
        }
    }
    rest.insert("history".into(), history.into());
    rest.insert("trajectory".into(), steps.into());
    Ok(Value::Object(rest))
}
