//! Moatless, before and after it had transitions. Its messages to the model
//! are not in the files; what it decided and found is.

use serde_json::{Map, Value};
use swegym_core::{
    AgentInfo, AtifContent, AtifStep, AtifToolCall, Observation, ObservationResult, StepMetrics,
    StepSource, Trajectory,
};

use super::chat::{finish, take_list, text_or_empty, totals};
use super::{Imported, NATIVE, TrajectoryFormat};

fn agent(model: Option<String>) -> AgentInfo {
    AgentInfo {
        name: "moatless".into(),
        version: "unknown".into(),
        model_name: model,
        ..AgentInfo::default()
    }
}

fn imported(
    trajectory: Trajectory,
    rest: Map<String, Value>,
    format: TrajectoryFormat,
) -> Result<Imported, String> {
    let info = rest.get("info").cloned().unwrap_or_default();
    let text = |name: &str| info.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut trajectory = trajectory;
    let cost = info.get("total_cost").and_then(Value::as_f64);
    trajectory.final_metrics = Some(totals(&trajectory, cost));
    let imported = Imported {
        instance_id: text("instance_id"),
        resolved: None,
        patch: Some(text_or_empty(info.get("submission"))),
        exit_status: text("status"),
        format,
        trajectory,
    };
    finish(imported, rest)
}

/// A field that a value has, taken out of it.
fn take(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    object.shift_remove(name)
}

/// A value as text: strings as they are, anything else as JSON. The mark says
/// which.
fn text_of(value: &Value) -> (String, bool) {
    match value {
        Value::String(text) => (text.clone(), false),
        other => (other.to_string(), true),
    }
}

fn value_of(text: &str, json: bool) -> Result<Value, String> {
    if json {
        serde_json::from_str(text).map_err(|e| e.to_string())
    } else {
        Ok(text.into())
    }
}

/// A call with its result; what is not one of the two stays in `rest`.
fn call(
    id: String,
    name: &str,
    arguments: Option<Value>,
    output: Option<Value>,
    rest: &mut Map<String, Value>,
) -> (AtifToolCall, Option<ObservationResult>) {
    let arguments = match arguments {
        Some(Value::Object(arguments)) => arguments,
        Some(other) => {
            rest.insert("arguments".into(), other);
            Map::new()
        }
        None => {
            rest.insert("no_arguments".into(), true.into());
            Map::new()
        }
    };
    let result = output.map(|output| {
        let (text, json) = text_of(&output);
        if json {
            rest.insert("json".into(), true.into());
        }
        ObservationResult {
            source_call_id: Some(id.clone()),
            content: Some(AtifContent::Text(text)),
            ..ObservationResult::default()
        }
    });
    let call = AtifToolCall {
        tool_call_id: id,
        function_name: name.to_owned(),
        arguments,
        extra: None,
    };
    (call, result)
}

/// The way back of [`call`].
fn call_back(
    call: &AtifToolCall,
    result: Option<&ObservationResult>,
    rest: &mut Map<String, Value>,
) -> Result<(Option<Value>, Option<Value>), String> {
    let arguments = match take(rest, "arguments") {
        Some(other) => Some(other),
        None if take(rest, "no_arguments").is_some() => None,
        None => Some(Value::Object(call.arguments.clone())),
    };
    let json = take(rest, "json").is_some();
    let output = match result.and_then(|r| r.content.as_ref()) {
        Some(content) => Some(value_of(&content.text(), json)?),
        None => None,
    };
    Ok((arguments, output))
}

fn result_of<'a>(step: &'a AtifStep, call: &AtifToolCall) -> Option<&'a ObservationResult> {
    let observation = step.observation.as_ref()?;
    let mut results = observation.results.iter();
    results.find(|r| r.source_call_id.as_ref() == Some(&call.tool_call_id))
}

fn kept(step: &AtifStep) -> Map<String, Value> {
    let extra = step.extra.as_ref().and_then(|e| e.get(NATIVE));
    extra
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

pub(super) fn read(mut rest: Map<String, Value>) -> Result<Imported, String> {
    let mut transitions = take_list(&mut rest, "transitions")?;
    let model = transitions.iter().find_map(|t| {
        let model = t.pointer("/state/model")?.as_str()?;
        Some(model.to_owned())
    });
    let mut trajectory = Trajectory::new(agent(model));
    let first = take(&mut rest, "initial_message").unwrap_or_default();
    let (text, json) = text_of(&first);
    trajectory.push(AtifStep::new(StepSource::User, text));
    if json {
        rest.insert("initial_json".into(), true.into());
    }
    for (t, transition) in transitions.iter_mut().enumerate() {
        let Some(transition) = transition.as_object_mut() else {
            return Err(format!("transition {} is not an object", t + 1));
        };
        let name = transition.get("name").and_then(Value::as_str);
        let name = name.unwrap_or("unknown").to_owned();
        let actions = take_list(transition, "actions")?;
        transition.insert("actions".into(), actions.len().into());
        for (a, action) in actions.into_iter().enumerate() {
            let Value::Object(mut left) = action else {
                return Err(format!("transition {}: an action is not an object", t + 1));
            };
            let mut arguments = take(&mut left, "action");
            let thought = arguments
                .as_mut()
                .and_then(Value::as_object_mut)
                .filter(|o| o.get("scratch_pad").is_some_and(Value::is_string))
                .and_then(|o| take(o, "scratch_pad"));
            let message = thought.as_ref().and_then(Value::as_str).map(str::to_owned);
            if message.is_none() {
                left.insert("no_message".into(), true.into());
            }
            let mut step = AtifStep::new(StepSource::Agent, message.unwrap_or_default());
            step.llm_call_count = Some(1);
            let count = |left: &Map<String, Value>, name: &str| left.get(name)?.as_u64();
            step.metrics = Some(StepMetrics {
                prompt_tokens: count(&left, "input_tokens"),
                completion_tokens: count(&left, "output_tokens"),
                cost_usd: left.get("completion_cost").and_then(Value::as_f64),
                ..StepMetrics::default()
            });
            let output = take(&mut left, "output");
            let id = format!("{t}.{a}");
            let (one, result) = call(id, &name, arguments, output, &mut left);
            step.tool_calls = Some(vec![one]);
            step.observation = result.map(|r| Observation { results: vec![r] });
            step.note(NATIVE, Value::Object(left));
            trajectory.push(step);
        }
    }
    rest.insert("transitions".into(), transitions.into());
    imported(trajectory, rest, TrajectoryFormat::Moatless)
}

pub(super) fn back(trajectory: &Trajectory, mut rest: Map<String, Value>) -> Result<Value, String> {
    let mut steps = trajectory.steps.iter();
    let first = steps.next().map(|s| s.message.text()).unwrap_or_default();
    let json = take(&mut rest, "initial_json").is_some();
    rest.insert("initial_message".into(), value_of(&first, json)?);
    let transitions = rest.get_mut("transitions").and_then(Value::as_array_mut);
    for transition in transitions.into_iter().flatten() {
        let count = transition["actions"].as_u64().unwrap_or_default();
        let mut actions = Vec::new();
        for _ in 0..count {
            let step = steps.next().ok_or("a step is missing")?;
            let mut left = kept(step);
            let calls = step.tool_calls.as_deref().unwrap_or_default();
            let one = calls.first().ok_or("a call is missing")?;
            let (mut arguments, output) = call_back(one, result_of(step, one), &mut left)?;
            if take(&mut left, "no_message").is_none()
                && let Some(object) = arguments.as_mut().and_then(Value::as_object_mut)
            {
                object.insert("scratch_pad".into(), step.message.text().into());
            }
            left.extend(arguments.map(|a| ("action".to_owned(), a)));
            left.extend(output.map(|o| ("output".to_owned(), o)));
            actions.push(Value::Object(left));
        }
        transition["actions"] = actions.into();
    }
    Ok(Value::Object(rest))
}

pub(super) fn read_steps(mut rest: Map<String, Value>) -> Result<Imported, String> {
    let steps = take_list(&mut rest, "steps")?;
    let mut trajectory = Trajectory::new(agent(None));
    let statement = rest
        .get_mut("input")
        .and_then(Value::as_object_mut)
        .filter(|input| input.get("problem_statement").is_some_and(Value::is_string))
        .and_then(|input| take(input, "problem_statement"));
    if statement.is_none() {
        rest.insert("no_statement".into(), true.into());
    }
    let statement = statement.as_ref().and_then(Value::as_str);
    trajectory.push(AtifStep::new(
        StepSource::User,
        statement.unwrap_or_default(),
    ));
    for (s, raw) in steps.into_iter().enumerate() {
        let Value::Object(mut left) = raw else {
            return Err(format!("step {} is not an object", s + 1));
        };
        let thought = match left.get("thought") {
            Some(Value::String(_)) => take(&mut left, "thought"),
            _ => None,
        };
        let message = thought.as_ref().and_then(Value::as_str).map(str::to_owned);
        if message.is_none() {
            left.insert("no_message".into(), true.into());
        }
        let mut step = AtifStep::new(StepSource::Agent, message.unwrap_or_default());
        step.metrics = Some(StepMetrics {
            cost_usd: left.get("completion_cost").and_then(Value::as_f64),
            ..StepMetrics::default()
        });
        let actions = take_list(&mut left, "actions")?;
        let (mut calls, mut results, mut lefts) = (Vec::new(), Vec::new(), Vec::new());
        for (a, action) in actions.into_iter().enumerate() {
            let Value::Object(mut more) = action else {
                return Err(format!("step {}: an action is not an object", s + 1));
            };
            let name = more.get("name").and_then(Value::as_str);
            let name = name.unwrap_or("unknown").to_owned();
            let (input, output) = (take(&mut more, "input"), take(&mut more, "output"));
            let (one, result) = call(format!("{s}.{a}"), &name, input, output, &mut more);
            calls.push(one);
            results.extend(result);
            lefts.push(Value::Object(more));
        }
        left.insert("actions".into(), lefts.into());
        step.tool_calls = (!calls.is_empty()).then_some(calls);
        step.observation = (!results.is_empty()).then_some(Observation { results });
        step.note(NATIVE, Value::Object(left));
        trajectory.push(step);
    }
    imported(trajectory, rest, TrajectoryFormat::MoatlessSteps)
}

pub(super) fn steps_back(
    trajectory: &Trajectory,
    mut rest: Map<String, Value>,
) -> Result<Value, String> {
    let mut all = trajectory.steps.iter();
    let first = all.next().map(|s| s.message.text()).unwrap_or_default();
    if take(&mut rest, "no_statement").is_none()
        && let Some(input) = rest.get_mut("input").and_then(Value::as_object_mut)
    {
        input.insert("problem_statement".into(), first.into());
    }
    let mut steps = Vec::new();
    for step in all {
        let mut left = kept(step);
        let lefts = match take(&mut left, "actions") {
            Some(Value::Array(lefts)) => lefts,
            _ => Vec::new(),
        };
        if take(&mut left, "no_message").is_none() {
            left.insert("thought".into(), step.message.text().into());
        }
        let calls = step.tool_calls.as_deref().unwrap_or_default();
        let mut actions = Vec::new();
        for (one, more) in calls.iter().zip(lefts) {
            let Value::Object(mut more) = more else {
                return Err("an action is damaged".into());
            };
            let (input, output) = call_back(one, result_of(step, one), &mut more)?;
            more.extend(input.map(|v| ("input".to_owned(), v)));
            more.extend(output.map(|v| ("output".to_owned(), v)));
            actions.push(Value::Object(more));
        }
        left.insert("actions".into(), actions.into());
        steps.push(Value::Object(left));
    }
    rest.insert("steps".into(), steps.into());
    Ok(Value::Object(rest))
}
