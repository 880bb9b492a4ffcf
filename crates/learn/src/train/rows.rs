//! Training rows to tokens: what the model is shown, exactly as its template
//! writes it, and which tokens of it are learnt.

use serde_json::Value;
use swegym_core::{ChatMessage, Role, Tool};

use super::batch::Document;
use crate::error::{LearnError, Result};
use crate::model::Model;

/// Makes a document of a row. Read are
/// - `{"messages", "tools"?}`: every assistant message is learnt, but for
///   those with `"weight": 0` or `"train": false`;
/// - `{"prompt", "completion"}`, both messages or both text: the completion
///   is learnt;
/// - `{"conversations": [{"from", "value"}]}` (ShareGPT);
/// - `{"prompt_token_ids", "completion_token_ids", "loss_mask"?}`: tokens as
///   they are.
///
/// `name` stands for the row in errors.
///
/// # Errors
/// [`LearnError::Row`] if the row is none of these, does not render, or
/// leaves nothing to learn.
pub fn document(model: &Model, row: &Value, name: &str) -> Result<Document> {
    let bad = |problem: String| LearnError::Row {
        row: name.to_owned(),
        problem,
    };
    let Some(map) = row.as_object() else {
        return Err(bad("is no JSON object".into()));
    };
    let (tokens, learnt) = if map.contains_key("prompt_token_ids") {
        token_row(model, row).map_err(bad)?
    } else if map.contains_key("messages") {
        let messages = messages(&row["messages"], "messages").map_err(bad)?;
        let tools = tools(row).map_err(bad)?;
        let learnt = |n: usize| is_learnt(&messages[n]);
        rendered(model, &messages, &tools, &learnt, name)?
    } else if map.contains_key("conversations") {
        let messages = sharegpt(&row["conversations"]).map_err(bad)?;
        rendered(model, &messages, &[], &|_| true, name)?
    } else if map.contains_key("completion") {
        match (row["prompt"].as_str(), row["completion"].as_str()) {
            (Some(prompt), Some(completion)) => texts(model, prompt, completion)?,
            _ => {
                let mut all = messages(&row["prompt"], "prompt").map_err(bad)?;
                let first = all.len();
                all.extend(messages(&row["completion"], "completion").map_err(bad)?);
                let tools = tools(row).map_err(bad)?;
                let learnt = |n: usize| n >= first && is_learnt(&all[n]);
                rendered(model, &all, &tools, &learnt, name)?
            }
        }
    } else if map.contains_key("chosen") {
        return Err(bad(
            "is a preference pair, which a trainer of preferences reads; export chat rows".into(),
        ));
    } else {
        return Err(bad(
            "has neither `messages`, `prompt` and `completion`, `conversations` nor `prompt_token_ids`"
                .into(),
        ));
    };
    let document = Document {
        name: name.to_owned(),
        tokens,
        learnt,
    };
    if document.targets() == 0 {
        return Err(bad(
            "leaves no token to learn: it has no assistant message with a weight above 0".into(),
        ));
    }
    Ok(document)
}

fn is_learnt(message: &ChatMessage) -> bool {
    let weight = message.extra.get("weight").and_then(Value::as_f64);
    let train = message.extra.get("train").and_then(Value::as_bool);
    weight.is_none_or(|w| w > 0.0) && train != Some(false)
}

fn messages(value: &Value, field: &str) -> Result<Vec<ChatMessage>, String> {
    let list = value
        .as_array()
        .ok_or_else(|| format!("field `{field}` is no list of messages"))?;
    let one = |(n, message): (usize, &Value)| {
        serde_json::from_value(message.clone()).map_err(|e| format!("field `{field}[{n}]`: {e}"))
    };
    list.iter().enumerate().map(one).collect()
}

fn tools(row: &Value) -> Result<Vec<Tool>, String> {
    match row.get("tools") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(tools) => {
            serde_json::from_value(tools.clone()).map_err(|e| format!("field `tools`: {e}"))
        }
    }
}

fn sharegpt(value: &Value) -> Result<Vec<ChatMessage>, String> {
    let turns = value
        .as_array()
        .ok_or("field `conversations` is no list of turns")?;
    let one = |(n, turn): (usize, &Value)| {
        let role = match turn["from"].as_str() {
            Some("system") => Role::System,
            Some("human" | "user") => Role::User,
            Some("gpt" | "assistant") => Role::Assistant,
            Some("tool" | "observation") => Role::Tool,
            _ => {
                return Err(format!(
                    "field `conversations[{n}].from` is none of system, human, gpt, tool"
                ));
            }
        };
        let text = turn["value"]
            .as_str()
            .ok_or_else(|| format!("field `conversations[{n}].value` is no text"))?;
        Ok(ChatMessage::new(role, text))
    };
    turns.iter().enumerate().map(one).collect()
}

type Tokens = (Vec<u32>, Vec<bool>);

/// A conversation through the template. Text is split into tokens where an
/// answer begins, as it is when the model writes it: a merge across that place
/// would be learnt but never seen again.
fn rendered(
    model: &Model,
    messages: &[ChatMessage],
    tools: &[Tool],
    learnt: &dyn Fn(usize) -> bool,
    name: &str,
) -> Result<Tokens> {
    let template = model.template.as_ref().ok_or_else(|| LearnError::Template {
        model: model.name.clone(),
        problem: "there is none; rows of messages need one (put chat_template.jinja into the model's folder)".into(),
    })?;
    let (text, spans) = template
        .render_spans(messages, tools)
        .map_err(|e| LearnError::Row {
            row: name.to_owned(),
            problem: e.to_string(),
        })?;
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    let mut piece = |from: usize, to: usize, is_learnt: bool| -> Result<()> {
        if from < to {
            ids.extend(model.tokenizer.encode(&text[from..to], false)?);
            mask.resize(ids.len(), is_learnt);
        }
        Ok(())
    };
    let mut done = 0;
    for span in &spans {
        piece(done, span.start, false)?;
        piece(span.start, span.end, learnt(span.message))?;
        done = span.end;
    }
    piece(done, text.len(), false)?;
    Ok((ids, mask))
}

fn texts(model: &Model, prompt: &str, completion: &str) -> Result<Tokens> {
    let mut tokens = model.tokenizer.encode(prompt, true)?;
    let first = tokens.len();
    tokens.extend(model.tokenizer.encode(completion, false)?);
    let end = model.network.config.eos.first();
    if tokens.last() != end {
        tokens.extend(end);
    }
    let learnt = (0..tokens.len()).map(|i| i >= first).collect();
    Ok((tokens, learnt))
}

fn token_row(model: &Model, row: &Value) -> Result<Tokens, String> {
    let vocab = model.network.config.vocab as u64;
    let ids = |field: &str| -> Result<Vec<u32>, String> {
        let list = row[field]
            .as_array()
            .ok_or_else(|| format!("field `{field}` is no list of token ids"))?;
        let one = |(n, id): (usize, &Value)| {
            let id = id.as_u64().filter(|id| *id < vocab);
            id.map(|id| id as u32).ok_or_else(|| {
                format!(
                    "field `{field}[{n}]` is no token of {}, which has {vocab}",
                    model.name
                )
            })
        };
        list.iter().enumerate().map(one).collect()
    };
    let mut tokens = ids("prompt_token_ids")?;
    let prompt = tokens.len();
    let completion = ids("completion_token_ids")?;
    let mut learnt = vec![false; prompt];
    match row.get("loss_mask") {
        None | Some(Value::Null) => learnt.resize(prompt + completion.len(), true),
        Some(mask) => {
            let mask = mask
                .as_array()
                .filter(|mask| mask.len() == completion.len())
                .ok_or("field `loss_mask` is not as long as `completion_token_ids`")?;
            learnt.extend(mask.iter().map(|m| m.as_u64() == Some(1) || m == true));
        }
    }
    tokens.extend(completion);
    Ok((tokens, learnt))
}
