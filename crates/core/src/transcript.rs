//! Chat messages as the steps of a trajectory, and back, without loss.
//!
//! A tool's result belongs to the step that called it. What a step has no
//! place for is kept in `extra` under the names below, and only where it
//! differs from what the way back would make up by itself.

use serde_json::{Map, Value};

use crate::{
    AgentInfo, AtifContent, AtifStep, AtifToolCall, ChatMessage, ChatToolCall, Content,
    ObservationResult, Role, StepSource, Trajectory,
};

/// Content that is no text: parts, or none at all.
const CONTENT: &str = "chat_content";
/// The role, where the step's source does not say it.
const ROLE: &str = "chat_role";
/// Every other field of the message.
const FIELDS: &str = "chat_fields";
/// Arguments as the model wrote them.
const ARGUMENTS: &str = "arguments_text";

impl Trajectory {
    /// The trajectory of a conversation.
    pub fn from_chat(agent: AgentInfo, messages: &[ChatMessage]) -> Self {
        let mut trajectory = Self::new(agent);
        for message in messages {
            if message.role == Role::Tool
                && let Some(last) = trajectory.steps.last_mut()
                && add_result(last, message)
            {
                continue;
            }
            trajectory.push(step(message));
        }
        trajectory
    }

    /// The conversation of a trajectory. Steps that were copied from another
    /// are in it: what a model was shown is not what it is trained on.
    pub fn to_chat(&self) -> Vec<ChatMessage> {
        let mut messages = Vec::new();
        for step in &self.steps {
            messages.push(message(step));
            let results = step.observation.iter().flat_map(|o| &o.results);
            for result in results {
                messages.push(result_message(step, result));
            }
        }
        messages
    }
}

fn step(message: &ChatMessage) -> AtifStep {
    let source = match message.role {
        Role::System | Role::Developer => StepSource::System,
        Role::User | Role::Tool => StepSource::User,
        Role::Assistant => StepSource::Agent,
    };
    let mut step = AtifStep::new(source, message.text());
    if matches!(message.role, Role::Developer | Role::Tool) {
        step.note(ROLE, plain(&message.role));
    }
    if let Some(kept) = shape(message) {
        step.note(CONTENT, kept);
    }
    let agent = source == StepSource::Agent;
    let mut fields = fields(message);
    if agent {
        step.reasoning_content
            .clone_from(&message.reasoning_content);
        if !message.tool_calls.is_empty() {
            step.tool_calls = Some(message.tool_calls.iter().map(call).collect());
        }
    } else {
        if let Some(reasoning) = &message.reasoning_content {
            fields.insert("reasoning_content".into(), reasoning.clone().into());
        }
        if !message.tool_calls.is_empty() {
            fields.insert("tool_calls".into(), plain(&message.tool_calls));
        }
    }
    if !fields.is_empty() {
        step.note(FIELDS, Value::Object(fields));
    }
    step
}

/// Fields of a message that no step has.
fn fields(message: &ChatMessage) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(name) = &message.name {
        fields.insert("name".into(), name.clone().into());
    }
    if let Some(id) = &message.tool_call_id {
        fields.insert("tool_call_id".into(), id.clone().into());
    }
    fields.extend(message.extra.clone());
    fields
}

fn call(call: &ChatToolCall) -> AtifToolCall {
    let text = &call.function.arguments;
    let arguments: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    let mut extra = Map::new();
    let written = serde_json::to_string(&arguments).unwrap_or_default();
    if written != *text {
        extra.insert(ARGUMENTS.into(), text.clone().into());
    }
    if call.kind != "function" {
        extra.insert("type".into(), call.kind.clone().into());
    }
    if !call.extra.is_empty() {
        extra.insert(FIELDS.into(), plain(&call.extra));
    }
    AtifToolCall {
        tool_call_id: call.id.clone(),
        function_name: call.function.name.clone(),
        arguments,
        extra: (!extra.is_empty()).then_some(extra),
    }
}

/// Adds a tool's result to the step that called the tool; `false` if this
/// step did not.
fn add_result(step: &mut AtifStep, message: &ChatMessage) -> bool {
    let Some(id) = &message.tool_call_id else {
        return false;
    };
    let calls = step.tool_calls.as_deref().unwrap_or_default();
    let Some(called) = calls.iter().find(|call| call.tool_call_id == *id) else {
        return false;
    };
    let mut fields = fields(message);
    fields.remove("tool_call_id");
    // The usual name is that of the tool.
    if fields.get("name").and_then(Value::as_str) == Some(&called.function_name) {
        fields.remove("name");
    } else if message.name.is_none() {
        fields.insert("name".into(), Value::Null);
    }
    if let Some(reasoning) = &message.reasoning_content {
        fields.insert("reasoning_content".into(), reasoning.clone().into());
    }
    if !message.tool_calls.is_empty() {
        fields.insert("tool_calls".into(), plain(&message.tool_calls));
    }
    let mut extra = Map::new();
    if let Some(kept) = shape(message) {
        extra.insert(CONTENT.into(), kept);
    }
    if !fields.is_empty() {
        extra.insert(FIELDS.into(), fields.into());
    }
    let observation = step.observation.get_or_insert_default();
    observation.results.push(ObservationResult {
        source_call_id: Some(id.clone()),
        content: Some(AtifContent::Text(message.text())),
        subagent_trajectory_ref: None,
        extra: (!extra.is_empty()).then_some(extra),
    });
    true
}

fn message(step: &AtifStep) -> ChatMessage {
    let noted = |name: &str| step.extra.as_ref().and_then(|extra| extra.get(name));
    let role = noted(ROLE)
        .and_then(|role| serde_json::from_value(role.clone()).ok())
        .unwrap_or(match step.source {
            StepSource::System => Role::System,
            StepSource::User => Role::User,
            StepSource::Agent => Role::Assistant,
        });
    let mut message = ChatMessage {
        content: content(&step.message, noted(CONTENT)),
        reasoning_content: step.reasoning_content.clone(),
        tool_calls: step.tool_calls.iter().flatten().map(called).collect(),
        ..ChatMessage::new(role, "")
    };
    if let Some(Value::Object(fields)) = noted(FIELDS) {
        take_fields(&mut message, fields);
    }
    message
}

/// How content is made of its text, where it is no text: parts with the length
/// of each text in its place, or `null` for none.
fn shape(message: &ChatMessage) -> Option<Value> {
    let parts = match &message.content {
        Some(Content::Text(_)) => return None,
        None => return Some(Value::Null),
        Some(Content::Parts(parts)) => parts,
    };
    let mut shape = parts.clone();
    for text in shape.iter_mut().filter_map(|part| part.get_mut("text")) {
        if let Some(length) = text.as_str().map(str::len) {
            *text = length.into();
        }
    }
    Some(shape.into())
}

fn content(text: &AtifContent, shape: Option<&Value>) -> Option<Content> {
    let text = text.text();
    let Some(shape) = shape else {
        return Some(Content::Text(text));
    };
    let mut parts = shape.as_array()?.clone();
    let mut at = 0;
    for slot in parts.iter_mut().filter_map(|part| part.get_mut("text")) {
        if let Some(length) = slot.as_u64() {
            let end = at + length as usize;
            *slot = text.get(at..end).unwrap_or_default().into();
            at = end;
        }
    }
    Some(Content::Parts(parts))
}

fn called(call: &AtifToolCall) -> ChatToolCall {
    let noted = |name: &str| call.extra.as_ref().and_then(|extra| extra.get(name));
    let mut back = ChatToolCall::new(
        &call.tool_call_id,
        &call.function_name,
        &Value::Object(call.arguments.clone()),
    );
    if let Some(text) = noted(ARGUMENTS).and_then(Value::as_str) {
        text.clone_into(&mut back.function.arguments);
    }
    if let Some(kind) = noted("type").and_then(Value::as_str) {
        kind.clone_into(&mut back.kind);
    }
    if let Some(Value::Object(fields)) = noted(FIELDS) {
        back.extra = fields.clone().into_iter().collect();
    }
    back
}

fn result_message(step: &AtifStep, result: &ObservationResult) -> ChatMessage {
    let noted = |name: &str| result.extra.as_ref().and_then(|extra| extra.get(name));
    let text = result.content.clone();
    let text = text.unwrap_or_else(|| String::new().into());
    let mut message = ChatMessage {
        content: content(&text, noted(CONTENT)),
        tool_call_id: result.source_call_id.clone(),
        ..ChatMessage::new(Role::Tool, "")
    };
    let calls = step.tool_calls.iter().flatten();
    let name = calls
        .filter(|call| Some(&call.tool_call_id) == result.source_call_id.as_ref())
        .map(|call| call.function_name.clone());
    message.name = name.into_iter().next();
    if message.tool_call_id.is_none() {
        // Not the result of a call: the model hears it from the user.
        message.role = Role::User;
    }
    if let Some(Value::Object(fields)) = noted(FIELDS) {
        take_fields(&mut message, fields);
    }
    message
}

fn take_fields(message: &mut ChatMessage, fields: &Map<String, Value>) {
    for (name, value) in fields {
        let text = || value.as_str().map(str::to_owned);
        match name.as_str() {
            "name" => message.name = text(),
            "tool_call_id" => message.tool_call_id = text(),
            "reasoning_content" => message.reasoning_content = text(),
            "tool_calls" => {
                message.tool_calls = serde_json::from_value(value.clone()).unwrap_or_default();
            }
            _ => {
                message.extra.insert(name.clone(), value.clone());
            }
        }
    }
}

fn plain(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "[a-z\\{\"\n ]{0,6}"]
    }

    fn contents() -> impl Strategy<Value = Option<Content>> {
        prop_oneof![
            Just(None),
            text().prop_map(|t| Some(Content::Text(t))),
            text().prop_map(|t| Some(Content::Parts(vec![
                serde_json::json!({"type": "text", "text": t, "cache_control": {}})
            ]))),
        ]
    }

    fn calls() -> impl Strategy<Value = Vec<ChatToolCall>> {
        let one = (
            "[ab]",
            "[fg]",
            prop_oneof![text(), Just("{\"x\":1}".to_owned())],
            any::<bool>(),
        );
        prop::collection::vec(one, 0..3).prop_map(|all| {
            all.into_iter()
                .map(|(id, name, arguments, index)| {
                    let mut call = ChatToolCall::new(id, name, &Value::Null);
                    call.function.arguments = arguments;
                    if index {
                        call.extra.insert("index".into(), 0.into());
                    }
                    call
                })
                .collect()
        })
    }

    fn message() -> impl Strategy<Value = ChatMessage> {
        let role = prop_oneof![
            Just(Role::System),
            Just(Role::Developer),
            Just(Role::User),
            Just(Role::Assistant),
            Just(Role::Tool)
        ];
        (
            role,
            contents(),
            prop::option::of(text()),
            calls(),
            prop::option::of("[ab]"),
            prop::option::of("[fg]"),
            any::<bool>(),
        )
            .prop_map(
                |(role, content, reasoning_content, tool_calls, id, name, more)| {
                    let mut message = ChatMessage {
                        content,
                        reasoning_content,
                        tool_calls,
                        tool_call_id: id,
                        name,
                        ..ChatMessage::new(role, "")
                    };
                    if more {
                        message.extra.insert("weight".into(), Value::Null);
                    }
                    message
                },
            )
    }

    proptest! {
        #[test]
        fn a_conversation_comes_back_as_it_was(all in prop::collection::vec(message(), 0..6)) {
            let trajectory = Trajectory::from_chat(AgentInfo::default(), &all);
            let text = serde_json::to_string(&trajectory).unwrap();
            let back: Trajectory = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.to_chat(), all);
        }
    }
}
