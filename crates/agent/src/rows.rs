//! Training rows: what a trajectory is to a trainer (FORMATS 5.5, SWE-GYM
//! sections 2 and 4).
//!
//! A row holds what the model was shown and said. Every assistant message has
//! a `weight`: 0 for what is not to be learnt, calls that were in error and
//! context that was copied from elsewhere.

use serde_json::{Map, Value, json};
use swegym_core::{ChatMessage, Role, StepSource, Tool, Trajectory};
use thiserror::Error;

use crate::dialogue::SHOWN;
use crate::text_form::{self, CallError};
use crate::verifier::Form;

/// A trajectory with its labels.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// What happened.
    pub trajectory: &'a Trajectory,
    /// The instance.
    pub instance_id: &'a str,
    /// Whether its patch resolves the instance.
    pub resolved: bool,
}

/// A trajectory that cannot be a row of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RowError {
    /// A call of it cannot be said in text.
    #[error("{0}")]
    Call(#[from] CallError),
    /// It has no token ids; they are never made by tokenising again.
    #[error("step {0} has no token ids; roll out with --token-ids on an engine that gives them")]
    NoTokens(u64),
    /// The model said nothing in it.
    #[error("there is no answer of the model")]
    Empty,
}

/// A message and whether it is learnt.
pub(crate) struct Said {
    pub(crate) message: ChatMessage,
    learnt: bool,
}

/// Messages without what only we and other agents keep in them.
pub(crate) fn said(trajectory: &Trajectory) -> Vec<Said> {
    let mut steps = trajectory.steps.iter();
    let mut learnt = false;
    let chat = trajectory.to_chat().into_iter();
    chat.map(|mut message| {
        // Each step but results of tools begins with its own message.
        if message.role != Role::Tool
            && let Some(step) = steps.next()
        {
            let results = step.observation.iter().flat_map(|o| &o.results);
            let in_error = results
                .filter_map(|r| r.content.as_ref())
                .any(|content| content.text().starts_with("ERROR"));
            learnt = step.source == StepSource::Agent
                && step.is_copied_context != Some(true)
                && !in_error;
        }
        let shown = message.extra.shift_remove(SHOWN);
        message.extra.clear();
        message
            .extra
            .extend(shown.map(|text| (SHOWN.to_owned(), text)));
        let assistant = message.role == Role::Assistant;
        Said {
            message,
            learnt: learnt && assistant,
        }
    })
    .collect()
}

fn tools(trajectory: &Trajectory) -> Vec<Tool> {
    let definitions = trajectory.agent.tool_definitions.iter().flatten();
    definitions
        .filter_map(|tool| serde_json::from_value(tool.clone()).ok())
        .collect()
}

fn labels(of: &Labelled<'_>) -> Map<String, Value> {
    Map::from_iter([
        ("instance_id".to_owned(), of.instance_id.into()),
        ("resolved".to_owned(), of.resolved.into()),
        ("reward".to_owned(), f64::from(u8::from(of.resolved)).into()),
    ])
}

/// A message as trainers read it.
fn plain(said: &Said) -> Value {
    let mut message = said.message.clone();
    message.extra.clear();
    let mut value = serde_json::to_value(&message).expect("plain data");
    value["content"] = message.text().into();
    if message.role == Role::Assistant {
        value["weight"] = u8::from(said.learnt).into();
    }
    value
}

/// `{"messages", "tools", "instance_id", "resolved", "reward"}`.
///
/// # Errors
/// [`RowError::Empty`].
pub fn chat(of: &Labelled<'_>) -> Result<Value, RowError> {
    let all = said(of.trajectory);
    some_answer(&all)?;
    let mut row = Map::new();
    row.insert("messages".into(), all.iter().map(plain).collect());
    row.insert("tools".into(), json!(tools(of.trajectory)));
    row.extend(labels(of));
    Ok(row.into())
}

fn some_answer(all: &[Said]) -> Result<(), RowError> {
    match all.iter().any(|s| s.message.role == Role::Assistant) {
        true => Ok(()),
        false => Err(RowError::Empty),
    }
}

/// The conversation as text alone, as a model without function calling has
/// it: as it was, where the run spoke in text, else in the reference's form.
fn in_text(trajectory: &Trajectory) -> Result<Vec<Said>, RowError> {
    let all = said(trajectory);
    some_answer(&all)?;
    let note = |name: &str| {
        trajectory
            .extra
            .as_ref()
            .and_then(|e| e.get(name)?.as_str())
    };
    if note("dialect") == Some("text") {
        let tools = note("fence").is_none().then(|| tools(trajectory));
        return Ok(as_shown(all, tools.as_deref()));
    }
    // Several calls of one answer become several answers; those that are not
    // learnt are told by their place.
    let learnt: Vec<bool> = all
        .iter()
        .filter(|s| s.message.role == Role::Assistant)
        .flat_map(|s| std::iter::repeat_n(s.learnt, s.message.tool_calls.len().max(1)))
        .collect();
    let messages: Vec<ChatMessage> = all.into_iter().map(|s| s.message).collect();
    let text = text_form::to_text(&messages, &tools(trajectory))?;
    let answers = text.iter().filter(|m| m.role == Role::Assistant).count();
    let mut place = learnt.into_iter();
    // Calls without a result are left out of the text, always at the end.
    let learnt: Vec<bool> = place.by_ref().take(answers).collect();
    let mut learnt = learnt.into_iter();
    Ok(text
        .into_iter()
        .map(|message| Said {
            learnt: message.role == Role::Assistant && learnt.next().unwrap_or(false),
            message,
        })
        .collect())
}

/// The conversation as the model was shown it. With `tools`, in the general
/// text form; without, results are the user's words as they are.
fn as_shown(all: Vec<Said>, tools: Option<&[Tool]>) -> Vec<Said> {
    let mut out: Vec<Said> = Vec::new();
    for said in all {
        let message = &said.message;
        let shown = message.extra.get(SHOWN).and_then(Value::as_str);
        let mut text = shown.map_or_else(|| message.text(), str::to_owned);
        let mut role = message.role;
        match (role, tools) {
            (Role::System, Some(tools)) if out.is_empty() => {
                text += &text_form::system_suffix(tools);
            }
            (Role::Tool, tools) => {
                role = Role::User;
                if tools.is_some() {
                    let name = message.name.as_deref().unwrap_or("function");
                    text = text_form::result(name, &text);
                }
            }
            _ => {}
        }
        match out.last_mut() {
            Some(last) if role == Role::User && last.message.role == Role::User => {
                let both = format!("{}\n\n{text}", last.message.text());
                last.message = ChatMessage::user(both);
            }
            _ => out.push(Said {
                message: ChatMessage::new(role, text),
                learnt: said.learnt,
            }),
        }
    }
    out
}

/// [`chat`] in text: `{"messages": [{"role", "content", "weight"}], …}`.
///
/// # Errors
/// If a call cannot be said in text.
pub fn text(of: &Labelled<'_>) -> Result<Value, RowError> {
    let all = in_text(of.trajectory)?;
    let mut row = Map::new();
    row.insert("messages".into(), all.iter().map(plain).collect());
    row.extend(labels(of));
    Ok(row.into())
}

/// `{"conversations": [{"from", "value"}]}`, in text.
///
/// # Errors
/// As [`text`].
pub fn sharegpt(of: &Labelled<'_>) -> Result<Value, RowError> {
    let all = in_text(of.trajectory)?;
    let turns = all.iter().map(|said| {
        let from = match said.message.role {
            Role::System | Role::Developer => "system",
            Role::User | Role::Tool => "human",
            Role::Assistant => "gpt",
        };
        json!({"from": from, "value": said.message.text()})
    });
    let mut row = Map::new();
    row.insert("conversations".into(), turns.collect());
    row.extend(labels(of));
    Ok(row.into())
}

/// What the model is given before its first answer, and all that follows.
fn split(all: &[Said]) -> (Vec<Value>, Vec<Value>) {
    let first = all
        .iter()
        .position(|s| s.message.role == Role::Assistant)
        .unwrap_or(all.len());
    let values = |part: &[Said]| part.iter().map(plain).collect();
    (values(&all[..first]), values(&all[first..]))
}

/// `{"prompt", "completion", "label"}` for KTO, in text.
///
/// # Errors
/// As [`text`].
pub fn kto(of: &Labelled<'_>) -> Result<Value, RowError> {
    let (prompt, completion) = split(&in_text(of.trajectory)?);
    Ok(json!({
        "prompt": prompt, "completion": completion, "label": of.resolved,
        "instance_id": of.instance_id,
    }))
}

/// `{"prompt", "chosen", "rejected"}` of one instance, in text; `None` if the
/// two were asked differently.
///
/// # Errors
/// As [`text`].
pub fn preference(
    chosen: &Labelled<'_>,
    rejected: &Labelled<'_>,
) -> Result<Option<Value>, RowError> {
    let (prompt, good) = split(&in_text(chosen.trajectory)?);
    let (other, bad) = split(&in_text(rejected.trajectory)?);
    if prompt != other {
        return Ok(None);
    }
    Ok(Some(json!({
        "prompt": prompt, "chosen": good, "rejected": bad, "instance_id": chosen.instance_id,
    })))
}

/// `{"messages", "resolved", "form"}`: a verifier's prompt, and the answer
/// that is true.
pub fn verifier(prompt: &[ChatMessage], form: Form, instance_id: &str, resolved: bool) -> Value {
    let [yes, no] = form.answers();
    let mut messages = prompt.to_vec();
    messages.push(ChatMessage::assistant(if resolved { yes } else { no }));
    json!({
        "messages": messages, "resolved": resolved, "form": form, "instance_id": instance_id,
    })
}

/// Token-exact rows: `{"prompt_token_ids", "completion_token_ids",
/// "logprobs", "loss_mask", "reward", "group_id"}`. Calls of which each goes
/// on with the tokens of the last are one row, whose mask (as long as the
/// completion) is 1 for what the model wrote.
///
/// # Errors
/// [`RowError::NoTokens`] if an answer has no ids.
pub fn tokens(of: &Labelled<'_>) -> Result<Vec<Value>, RowError> {
    struct Row {
        prompt: Vec<i64>,
        completion: Vec<i64>,
        logprobs: Option<Vec<f64>>,
        mask: Vec<u8>,
    }
    let mut rows: Vec<Row> = Vec::new();
    let agents = of.trajectory.steps.iter();
    let agents =
        agents.filter(|s| s.source == StepSource::Agent && s.is_copied_context != Some(true));
    for step in agents {
        let metrics = step.metrics.as_ref();
        let ids = metrics.and_then(|m| {
            Some((
                m.prompt_token_ids.as_ref()?,
                m.completion_token_ids.as_ref()?,
            ))
        });
        let (prompt, completion) = ids.ok_or(RowError::NoTokens(step.step_id))?;
        let logprobs = metrics
            .and_then(|m| m.logprobs.clone())
            .filter(|l| l.len() == completion.len());
        let goes_on = rows.last_mut().filter(|row| {
            let known = row.prompt.len() + row.completion.len();
            prompt.len() >= known
                && prompt.starts_with(&row.prompt)
                && prompt[row.prompt.len()..].starts_with(&row.completion)
        });
        match goes_on {
            Some(row) => {
                let between = &prompt[row.prompt.len() + row.completion.len()..];
                row.mask.extend(between.iter().map(|_| 0));
                row.mask.extend(completion.iter().map(|_| 1));
                row.logprobs = match (row.logprobs.take(), logprobs) {
                    (Some(mut all), Some(more)) => {
                        all.extend(between.iter().map(|_| 0.0));
                        all.extend(more);
                        Some(all)
                    }
                    _ => None,
                };
                row.completion.extend(between);
                row.completion.extend(completion);
            }
            None => rows.push(Row {
                prompt: prompt.clone(),
                completion: completion.clone(),
                logprobs,
                mask: vec![1; completion.len()],
            }),
        }
    }
    if rows.is_empty() {
        return Err(RowError::Empty);
    }
    let rows = rows.into_iter().map(|row| {
        json!({
            "prompt_token_ids": row.prompt, "completion_token_ids": row.completion,
            "logprobs": row.logprobs, "loss_mask": row.mask,
            "reward": f64::from(u8::from(of.resolved)), "group_id": of.instance_id,
        })
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use swegym_core::{AgentInfo, ChatToolCall, StepMetrics};

    fn trajectory() -> Trajectory {
        let tool = Tool::new(
            "bash",
            "Runs.",
            Some(json!({"type": "object",
            "properties": {"command": {"type": "string", "description": "What."}},
            "required": ["command"]})),
        );
        let call =
            |id: &str, command: &str| ChatToolCall::new(id, "bash", &json!({"command": command}));
        let mut both = ChatMessage::assistant("Looking.");
        both.tool_calls = vec![call("1", "ls"), call("2", "pwd")];
        let mut wrong = ChatMessage::assistant("");
        wrong.tool_calls = vec![call("3", "x")];
        let chat = [
            ChatMessage::system("S"),
            ChatMessage::user("U"),
            both,
            ChatMessage::tool("1", "bash", "a.py"),
            ChatMessage::tool("2", "bash", "/"),
            wrong,
            ChatMessage::tool("3", "bash", "ERROR: no"),
            ChatMessage::assistant("Done."),
        ];
        let agent = AgentInfo {
            tool_definitions: Some(vec![serde_json::to_value(tool).unwrap()]),
            ..AgentInfo::default()
        };
        Trajectory::from_chat(agent, &chat)
    }

    fn labelled(trajectory: &Trajectory) -> Labelled<'_> {
        Labelled {
            trajectory,
            instance_id: "i",
            resolved: true,
        }
    }

    fn roles_and_weights(row: &Value) -> Vec<(String, Option<u64>)> {
        let messages = row["messages"].as_array().unwrap().iter();
        messages
            .map(|m| {
                let role = m["role"].as_str().unwrap().to_owned();
                (role, m.get("weight").and_then(Value::as_u64))
            })
            .collect()
    }

    #[test]
    fn errors_are_not_learnt_in_either_form() {
        let trajectory = trajectory();
        let row = chat(&labelled(&trajectory)).unwrap();
        let weights: Vec<u64> = roles_and_weights(&row)
            .into_iter()
            .filter_map(|(_, w)| w)
            .collect();
        assert_eq!(weights, [1, 0, 1]);
        assert_eq!(row["tools"].as_array().unwrap().len(), 1);
        assert_eq!(row["messages"][3]["tool_call_id"], "1");
        let row = text(&labelled(&trajectory)).unwrap();
        let (roles, weights): (Vec<_>, Vec<_>) = roles_and_weights(&row).into_iter().unzip();
        let a = "assistant";
        assert_eq!(
            roles,
            ["system", "user", a, "user", a, "user", a, "user", a]
        );
        let weights: Vec<u64> = weights.into_iter().flatten().collect();
        assert_eq!(weights, [1, 1, 0, 1]);
        let row = sharegpt(&labelled(&trajectory)).unwrap();
        assert_eq!(row["conversations"][2]["from"], "gpt");
    }

    #[test]
    fn a_run_in_text_is_learnt_as_it_was_shown() {
        let mut trajectory = trajectory();
        let shown = "Hm.\n\n<function=bash>\n<parameter=command>ls</parameter></function>";
        let step = &mut trajectory.steps[2];
        step.note("chat_fields", json!({SHOWN: shown}));
        trajectory.note("dialect", "text");
        let row = text(&labelled(&trajectory)).unwrap();
        let content = |n: usize| row["messages"][n]["content"].as_str().unwrap();
        assert!(content(0).contains("BEGIN FUNCTION #1: bash"));
        assert_eq!(content(2), shown);
        assert_eq!(
            content(3),
            "EXECUTION RESULT of [bash]:\na.py\n\nEXECUTION RESULT of [bash]:\n/"
        );
        trajectory.note("fence", "mswea_bash_command");
        let row = text(&labelled(&trajectory)).unwrap();
        assert_eq!(row["messages"][0]["content"], "S");
        assert_eq!(row["messages"][3]["content"], "a.py\n\n/");
    }

    #[test]
    fn the_verifier_reads_one_text() {
        let trajectory = trajectory();
        let attempt = crate::verifier::Attempt {
            trajectory: &trajectory,
            issue: "",
            excerpts: &[],
        };
        let prompt = crate::verifier::prompt::<RowError>(Form::Log, &attempt, &mut |_| Ok(true));
        let row = verifier(&prompt.unwrap().unwrap().messages, Form::Log, "i", true);
        insta::assert_snapshot!(row["messages"][1]["content"].as_str().unwrap());
        assert_eq!(row["messages"][2]["content"], "<judgement>YES</judgement>");
    }

    #[test]
    fn a_pair_was_asked_the_same() {
        let (good, mut bad) = (trajectory(), trajectory());
        let pair = preference(&labelled(&good), &labelled(&bad))
            .unwrap()
            .unwrap();
        assert_eq!(pair["prompt"].as_array().unwrap().len(), 2);
        bad.steps[1].message = "V".to_owned().into();
        let pair = preference(&labelled(&good), &labelled(&bad)).unwrap();
        assert_eq!(pair, None);
        assert_eq!(kto(&labelled(&good)).unwrap()["label"], true);
    }

    #[test]
    fn token_rows_join_where_the_engine_says_so_and_nowhere_else() {
        let mut trajectory = trajectory();
        assert!(matches!(
            tokens(&labelled(&trajectory)),
            Err(RowError::NoTokens(3))
        ));
        let ids = [
            (vec![1, 2], vec![3]),
            (vec![1, 2, 3, 9], vec![4, 5]),
            (vec![7], vec![8]),
        ];
        let agents = trajectory.steps.iter_mut();
        let agents = agents.filter(|s| s.source == StepSource::Agent);
        for (step, (prompt, completion)) in agents.zip(ids) {
            step.metrics = Some(StepMetrics {
                logprobs: Some(vec![-0.5; completion.len()]),
                prompt_token_ids: Some(prompt),
                completion_token_ids: Some(completion),
                ..StepMetrics::default()
            });
        }
        let rows = tokens(&labelled(&trajectory)).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["completion_token_ids"], json!([3, 9, 4, 5]));
        assert_eq!(rows[0]["loss_mask"], json!([1, 0, 1, 1]));
        assert_eq!(rows[0]["logprobs"], json!([-0.5, 0.0, -0.5, -0.5]));
        assert_eq!(rows[1]["prompt_token_ids"], json!([7]));
    }
}
