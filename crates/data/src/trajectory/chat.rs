//! Documents that are conversations: mini-swe-agent's, and the part of the
//! others that is one.

use serde_json::{Map, Value};
use swegym_core::{
    AgentInfo, ChatMessage, FinalMetrics, Role, StepMetrics, StepSource, Trajectory,
};

use super::{Imported, NATIVE, TrajectoryFormat, keep};

/// A list that a document must have.
pub(super) fn take_list(object: &mut Map<String, Value>, name: &str) -> Result<Vec<Value>, String> {
    match object.remove(name) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(format!("`{name}` is not a list")),
    }
}

/// Messages as the crate's type. Fields that it would write otherwise (`null`
/// where it writes nothing, roles that are no role) are kept as they were.
pub(super) fn messages(raw: &[Value]) -> Result<Vec<ChatMessage>, String> {
    raw.iter()
        .enumerate()
        .map(|(index, value)| message(value).map_err(|e| format!("message {}: {e}", index + 1)))
        .collect()
}

fn message(raw: &Value) -> Result<ChatMessage, String> {
    let object = raw.as_object().ok_or("not an object")?;
    let mut plain = object.clone();
    // Nulls say nothing, and an unknown role is somebody who speaks.
    plain.retain(|_, value| !value.is_null());
    let role = plain.get("role").cloned().unwrap_or_default();
    if serde_json::from_value::<Role>(role).is_err() {
        plain.insert("role".into(), "user".into());
    }
    for name in ["tool_call_id", "name", "reasoning_content"] {
        if plain.get(name).is_some_and(|v| !v.is_string()) {
            plain.remove(name);
        }
    }
    let mut message: ChatMessage = serde_json::from_value(Value::Object(plain.clone()))
        .or_else(|_| {
            // Calls of another shape stay as they are.
            plain.remove("tool_calls");
            serde_json::from_value(Value::Object(plain))
        })
        .map_err(|e: serde_json::Error| e.to_string())?;
    let written = serde_json::to_value(&message).map_err(|e| e.to_string())?;
    let written = written.as_object().cloned().unwrap_or_default();
    let mut set = Map::new();
    for (name, value) in object {
        if written.get(name) != Some(value) {
            set.insert(name.clone(), value.clone());
        }
    }
    let drop: Vec<Value> = written
        .keys()
        .filter(|name| !object.contains_key(*name))
        .map(|name| Value::from(name.clone()))
        .collect();
    if !set.is_empty() || !drop.is_empty() {
        let kept = Map::from_iter([
            ("set".to_owned(), Value::Object(set)),
            ("drop".to_owned(), Value::Array(drop)),
        ]);
        message.extra.insert(NATIVE.into(), Value::Object(kept));
    }
    Ok(message)
}

/// The messages as they were.
pub(super) fn messages_back(trajectory: &Trajectory) -> Vec<Value> {
    let chat = trajectory.to_chat().into_iter();
    chat.map(|mut message| {
        let kept = message.extra.shift_remove(NATIVE).unwrap_or_default();
        let value = serde_json::to_value(&message).expect("plain data");
        let mut object = value.as_object().cloned().unwrap_or_default();
        for name in kept["drop"].as_array().into_iter().flatten() {
            object.shift_remove(name.as_str().unwrap_or_default());
        }
        if let Some(set) = kept["set"].as_object() {
            object.extend(set.clone());
        }
        Value::Object(object)
    })
    .collect()
}

/// A submission: one that is `null` or not there is an empty patch.
pub(super) fn text_or_empty(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// Tokens of a provider's `usage`.
pub(super) fn metrics_of(usage: Option<&Value>, cost: Option<f64>) -> Option<StepMetrics> {
    let count = |path: &str| usage?.pointer(path)?.as_u64();
    let metrics = StepMetrics {
        prompt_tokens: count("/prompt_tokens"),
        completion_tokens: count("/completion_tokens"),
        cached_tokens: count("/prompt_tokens_details/cached_tokens"),
        cost_usd: cost,
        ..StepMetrics::default()
    };
    (metrics != StepMetrics::default()).then_some(metrics)
}

/// Sums of the steps' metrics, with the document's own cost where it has one.
pub(super) fn totals(trajectory: &Trajectory, cost: Option<f64>) -> FinalMetrics {
    let metrics = || trajectory.steps.iter().filter_map(|s| s.metrics.as_ref());
    let sum = |get: fn(&StepMetrics) -> Option<u64>| {
        let mut known = metrics().filter_map(get).peekable();
        known.peek().is_some().then(|| known.sum())
    };
    FinalMetrics {
        total_prompt_tokens: sum(|m| m.prompt_tokens),
        total_completion_tokens: sum(|m| m.completion_tokens),
        total_cached_tokens: sum(|m| m.cached_tokens),
        total_cost_usd: cost.or_else(|| {
            let mut known = metrics().filter_map(|m| m.cost_usd).peekable();
            known.peek().is_some().then(|| known.sum())
        }),
        total_steps: Some(trajectory.steps.len() as u64),
        extra: None,
    }
}

/// mini-swe-agent: `messages`, and the rest of its document.
pub(super) fn mini(
    list: Vec<Value>,
    mut rest: Map<String, Value>,
    bare: bool,
) -> Result<Imported, String> {
    let info = rest.get("info").cloned().unwrap_or_default();
    let text = |path: &str| info.pointer(path).and_then(Value::as_str);
    let agent = AgentInfo {
        name: "mini-swe-agent".into(),
        version: text("/mini_version").unwrap_or("1").to_owned(),
        model_name: text("/config/model/model_name").map(str::to_owned),
        ..AgentInfo::default()
    };
    let chat = messages(&list)?;
    let mut trajectory = Trajectory::from_chat(agent, &chat);
    let answers = list.iter().filter(|m| m["role"] == "assistant");
    let steps = trajectory.steps.iter_mut();
    let steps = steps.filter(|step| step.source == StepSource::Agent);
    for (step, raw) in steps.zip(answers) {
        let usage = raw.pointer("/extra/response/usage");
        step.metrics = metrics_of(usage, raw.pointer("/extra/cost").and_then(Value::as_f64));
    }
    let cost = info.pointer("/model_stats/instance_cost");
    let cost = cost.and_then(Value::as_f64);
    trajectory.final_metrics = Some(totals(&trajectory, cost));
    let last = list.last().cloned().unwrap_or_default();
    let submission =
        text("/submission").or(last.pointer("/extra/submission").and_then(Value::as_str));
    let imported = Imported {
        instance_id: rest
            .get("instance_id")
            .and_then(Value::as_str)
            .map(str::to_owned),
        resolved: None,
        patch: submission.map(str::to_owned),
        exit_status: text("/exit_status").map(str::to_owned),
        format: TrajectoryFormat::MiniSweAgent,
        trajectory,
    };
    if bare {
        rest.insert("bare".into(), true.into());
    }
    finish(imported, rest)
}

pub(super) fn mini_back(trajectory: &Trajectory, mut rest: Map<String, Value>) -> Value {
    let messages = messages_back(trajectory).into();
    if rest.contains_key("bare") {
        return messages;
    }
    rest.insert("messages".into(), messages);
    Value::Object(rest)
}

/// A document that was read: its rest is kept, and what came of it is valid.
pub(super) fn finish(mut imported: Imported, rest: Map<String, Value>) -> Result<Imported, String> {
    let trajectory = &mut imported.trajectory;
    if let Some(id) = &imported.instance_id {
        trajectory.note("instance_id", id.clone());
    }
    keep(trajectory, imported.format, rest);
    trajectory.check().map_err(|e| e.to_string())?;
    Ok(imported)
}
