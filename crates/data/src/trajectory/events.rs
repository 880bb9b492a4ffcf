//! Documents that are lists of events: OpenHands' `output.jsonl`, of its first
//! program (V0) and of its SDK (V1), and R2E-Gym's steps.

use serde_json::{Map, Value, json};
use swegym_core::{
    AgentInfo, AtifContent, AtifStep, AtifToolCall, Observation, ObservationResult, StepMetrics,
    StepSource, Trajectory,
};

use super::chat::{finish, take_list, text_or_empty, totals};
use super::{Imported, NATIVE, TrajectoryFormat};

/// An event, taken apart.
struct Parts {
    source: StepSource,
    /// Where its text is, as a JSON pointer; taken out of the event.
    text_at: Option<&'static str>,
    text: String,
    call: Option<Called>,
    /// The result of the call with this id, or of the event with it.
    answers: Option<String>,
}

/// A call of an event.
struct Called {
    id: String,
    name: String,
    /// Taken out of the event, if it has any.
    arguments: Option<Map<String, Value>>,
    /// Field that they were in.
    at: &'static str,
}

pub(super) fn read_openhands(mut rest: Map<String, Value>) -> Result<Imported, String> {
    let events = take_list(&mut rest, "history")?;
    let model = rest
        .get("metadata")
        .and_then(|m| m.pointer("/llm_config/model").or(m.pointer("/llm/model")))
        .and_then(Value::as_str)
        .map(str::to_owned);
    let mut trajectory = Trajectory::new(AgentInfo {
        name: "openhands".into(),
        version: "unknown".into(),
        model_name: model,
        ..AgentInfo::default()
    });
    for (index, event) in events.into_iter().enumerate() {
        let Value::Object(mut event) = event else {
            return Err(format!("event {} is not an object", index + 1));
        };
        let parts = match event.contains_key("kind") {
            true => of_sdk(&mut event),
            false => of_first(&mut event),
        };
        add(&mut trajectory, index, parts, event);
    }
    if trajectory.steps.is_empty() {
        trajectory.push(AtifStep::new(StepSource::System, "There is no event."));
        rest.insert("no_event".into(), true.into());
    }
    let cost = rest.get("metrics").and_then(|m| m.get("accumulated_cost"));
    let cost = cost.and_then(Value::as_f64);
    trajectory.final_metrics = Some(totals(&trajectory, cost));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let patch = rest.get("test_result").and_then(|r| r.get("git_patch"));
    let imported = Imported {
        instance_id: text(rest.get("instance_id")),
        resolved: rest
            .get("test_result")
            .and_then(|r| r.pointer("/report/resolved"))
            .and_then(Value::as_bool),
        patch: Some(text_or_empty(patch)),
        exit_status: text(rest.get("error")),
        format: TrajectoryFormat::OpenHandsOutput,
        trajectory,
    };
    finish(imported, rest)
}

/// Text at a place, taken out.
fn cut(event: &mut Map<String, Value>, at: &'static str) -> Option<(String, &'static str)> {
    let mut value = Value::Object(std::mem::take(event));
    let cut = value.pointer_mut(at).filter(|v| v.is_string());
    let text = cut.and_then(|v| v.take().as_str().map(str::to_owned));
    if let Value::Object(object) = value {
        *event = object;
    }
    text.map(|text| (text, at))
}

fn cut_object(event: &mut Map<String, Value>, name: &str) -> Option<Map<String, Value>> {
    match event.get_mut(name) {
        Some(slot) if slot.is_object() => match slot.take() {
            Value::Object(object) => Some(object),
            _ => None,
        },
        _ => None,
    }
}

fn source(event: &Map<String, Value>) -> StepSource {
    match event.get("source").and_then(Value::as_str) {
        Some("agent") => StepSource::Agent,
        Some("user") => StepSource::User,
        _ => StepSource::System,
    }
}

fn number(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_i64).map(|n| format!("event-{n}"))
}

/// V0: `action` with `args`, or `observation` with `content` and `cause`.
fn of_first(event: &mut Map<String, Value>) -> Parts {
    let word = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
    let own = source(event);
    if let Some(action) = word("action") {
        let id = number(event.get("id")).unwrap_or_else(|| "event".into());
        let mut parts = Parts {
            source: own,
            text_at: None,
            text: String::new(),
            call: None,
            answers: None,
        };
        let text_at = if action == "message" {
            "/args/content"
        } else {
            "/args/thought"
        };
        if let Some((text, at)) = cut(event, text_at) {
            (parts.text, parts.text_at) = (text, Some(at));
        }
        if own == StepSource::Agent && action != "message" {
            let arguments = cut_object(event, "args");
            parts.call = Some(Called {
                id,
                name: action,
                arguments,
                at: "args",
            });
        }
        return parts;
    }
    let found = cut(event, "/content");
    let (text, text_at) = found.map_or((String::new(), None), |(t, at)| (t, Some(at)));
    Parts {
        source: StepSource::System,
        text_at,
        text,
        call: None,
        answers: number(event.get("cause")),
    }
}

/// V1: `kind`, with `tool_call_id` joining an action and its observation.
fn of_sdk(event: &mut Map<String, Value>) -> Parts {
    let word = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
    let kind = word("kind").unwrap_or_default();
    let (id, name) = (word("tool_call_id"), word("tool_name"));
    let mut own = source(event);
    let places: &[&'static str] = match kind.as_str() {
        "MessageEvent" => &["/llm_message/content/0/text", "/content"],
        "SystemPromptEvent" => &["/system_prompt/text"],
        "ActionEvent" => &["/thought/0/text"],
        _ => &[
            "/observation/content/0/text",
            "/observation/output",
            "/error",
        ],
    };
    let found = places.iter().find_map(|at| cut(event, at));
    let (text, text_at) = found.map_or((String::new(), None), |(t, at)| (t, Some(at)));
    let mut call = None;
    let mut answers = None;
    if kind == "ActionEvent" {
        own = StepSource::Agent;
        let name = name.unwrap_or_else(|| "action".into());
        let arguments = cut_object(event, "action");
        call = Some(Called {
            id: id.unwrap_or_else(|| "call".into()),
            name,
            arguments,
            at: "action",
        });
    } else if kind.ends_with("ObservationEvent") || kind == "AgentErrorEvent" {
        own = StepSource::System;
        answers = id;
    }
    Parts {
        source: own,
        text_at,
        text,
        call,
        answers,
    }
}

/// Adds an event as a step, or as the result of an earlier one.
fn add(trajectory: &mut Trajectory, index: usize, parts: Parts, rest: Map<String, Value>) {
    let mut native = json!({"index": index, "rest": rest});
    if let Some(at) = parts.text_at {
        native["text_at"] = at.into();
    }
    let timestamp = native["rest"]["timestamp"].as_str().map(str::to_owned);
    if let Some(id) = &parts.answers {
        let step = trajectory.steps.iter_mut().rev().find(|step| {
            let calls = step.tool_calls.iter().flatten();
            calls.into_iter().any(|call| call.tool_call_id == *id)
        });
        if let Some(step) = step {
            let observation = step.observation.get_or_insert_default();
            observation.results.push(ObservationResult {
                source_call_id: Some(id.clone()),
                content: Some(AtifContent::Text(parts.text)),
                subagent_trajectory_ref: None,
                extra: Some(Map::from_iter([(NATIVE.to_owned(), native)])),
            });
            return;
        }
    }
    let mut step = AtifStep::new(parts.source, parts.text);
    // An agent's times are often without an offset, which is ISO all the same.
    step.timestamp = timestamp.filter(|t| t.len() >= 19 && t.is_char_boundary(10));
    if let Some(call) = parts.call {
        if call.arguments.is_some() {
            native["arguments_at"] = call.at.into();
        }
        step.tool_calls = Some(vec![AtifToolCall {
            tool_call_id: call.id,
            function_name: call.name,
            arguments: call.arguments.unwrap_or_default(),
            extra: None,
        }]);
    }
    step.note(NATIVE, native);
    trajectory.push(step);
}

pub(super) fn openhands_back(
    trajectory: &Trajectory,
    mut rest: Map<String, Value>,
) -> Result<Value, String> {
    let mut events = Vec::new();
    if rest.shift_remove("no_event").is_none() {
        for step in &trajectory.steps {
            let native = step.extra.as_ref().and_then(|e| e.get(NATIVE));
            let call = step.tool_calls.iter().flatten().next();
            let arguments = call.map(|c| &c.arguments);
            events.push(event(native, &step.message.text(), arguments)?);
            for result in step.observation.iter().flat_map(|o| &o.results) {
                let native = result.extra.as_ref().and_then(|e| e.get(NATIVE));
                let text = result.content.as_ref().map(AtifContent::text);
                events.push(event(native, &text.unwrap_or_default(), None)?);
            }
        }
    }
    events.sort_by_key(|(index, _)| *index);
    let events: Vec<Value> = events.into_iter().map(|(_, event)| event).collect();
    rest.insert("history".into(), events.into());
    Ok(Value::Object(rest))
}

fn event(
    native: Option<&Value>,
    text: &str,
    arguments: Option<&Map<String, Value>>,
) -> Result<(u64, Value), String> {
    let native = native.ok_or("an event is lost")?;
    let mut event = native["rest"].clone();
    if let (Some(at), Some(arguments)) = (native["arguments_at"].as_str(), arguments) {
        event[at] = Value::Object(arguments.clone());
    }
    if let Some(slot) = native["text_at"]
        .as_str()
        .and_then(|at| event.pointer_mut(at))
    {
        *slot = text.into();
    }
    Ok((native["index"].as_u64().unwrap_or_default(), event))
}

/// R2E-Gym: thought, action, observation.
pub(super) fn read_r2e(mut rest: Map<String, Value>) -> Result<Imported, String> {
    let steps = take_list(&mut rest, "trajectory_steps")?;
    let mut trajectory = Trajectory::new(AgentInfo {
        name: "r2e-gym".into(),
        version: "unknown".into(),
        ..AgentInfo::default()
    });
    let statement = text_or_empty(rest.get("problem_statement"));
    trajectory.push(AtifStep::new(StepSource::User, statement));
    for (index, step) in steps.into_iter().enumerate() {
        let Value::Object(mut left) = step else {
            return Err(format!("step {} is not an object", index + 1));
        };
        let mut text = |name: &str| match left.get(name) {
            Some(Value::String(_)) => match left.shift_remove(name) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            },
            _ => None,
        };
        let (thought, action, seen) = (text("thought"), text("action"), text("observation"));
        let mut step = AtifStep::new(StepSource::Agent, thought.clone().unwrap_or_default());
        if thought.is_none() {
            left.insert("no_thought".into(), true.into());
        }
        let id = format!("step-{index}");
        step.tool_calls = action.map(|action| {
            vec![AtifToolCall {
                tool_call_id: id.clone(),
                function_name: "action".into(),
                arguments: Map::from_iter([("action".to_owned(), action.into())]),
                extra: None,
            }]
        });
        let called = step.tool_calls.is_some();
        step.observation = seen.map(|seen| Observation {
            results: vec![ObservationResult {
                source_call_id: called.then_some(id),
                content: Some(seen.into()),
                ..ObservationResult::default()
            }],
        });
        let count = |name: &str| left.get(name).and_then(Value::as_u64);
        step.metrics = Some(StepMetrics {
            prompt_tokens: count("token_usage_prompt"),
            completion_tokens: count("token_usage_completion"),
            ..StepMetrics::default()
        });
        step.note(NATIVE, Value::Object(left));
        trajectory.push(step);
    }
    trajectory.final_metrics = Some(totals(&trajectory, None));
    let text = |name: &str| rest.get(name).and_then(Value::as_str).map(str::to_owned);
    let imported = Imported {
        instance_id: None,
        resolved: rest.get("reward").and_then(Value::as_f64).map(|r| r == 1.0),
        patch: Some(text_or_empty(rest.get("output_patch"))),
        exit_status: text("exit_reason"),
        format: TrajectoryFormat::R2e,
        trajectory,
    };
    finish(imported, rest)
}

pub(super) fn r2e_back(trajectory: &Trajectory, mut rest: Map<String, Value>) -> Value {
    let steps = trajectory.steps.iter().skip(1).map(|step| {
        let native = step.extra.as_ref().and_then(|e| e.get(NATIVE));
        let mut left = native
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        if left.shift_remove("no_thought").is_none() {
            left.insert("thought".into(), step.message.text().into());
        }
        if let Some(call) = step.tool_calls.iter().flatten().next() {
            left.extend(call.arguments.clone());
        }
        let results = step.observation.iter().flat_map(|o| &o.results);
        if let Some(content) = results.filter_map(|r| r.content.as_ref()).next() {
            left.insert("observation".into(), content.text().into());
        }
        Value::Object(left)
    });
    let steps: Vec<Value> = steps.collect();
    rest.insert("trajectory_steps".into(), steps.into());
    Value::Object(rest)
}
