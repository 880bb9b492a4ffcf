//! Tool calls as text, for models and servers without function calling: the
//! reference's format (SWE-GYM section 2), in which its policies and verifiers
//! were trained. The structure is the reference's, the words are ours.

use std::fmt::Write;

use regex::Regex;
use serde_json::{Map, Value};
use swegym_core::{ChatMessage, ChatToolCall, Role, Tool};
use thiserror::Error;

/// Ends an answer once it holds a call; what is missing is put back.
pub const STOP: &str = "</function";

/// A call that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// More than one call in an answer.
    #[error("an answer holds one function call, and this one holds {0}")]
    Several(usize),
    /// It begins as a call and is none.
    #[error("the function call is not in its form: {0}")]
    Form(&'static str),
    /// No such function.
    #[error("there is no function {name:?}; there are {known}")]
    Unknown {
        /// As the model wrote it.
        name: String,
        /// What there is.
        known: String,
    },
    /// A parameter that the function does not have.
    #[error("the function `{function}` has no parameter {parameter:?}; it has {known}")]
    Parameter {
        /// The function.
        function: String,
        /// As the model wrote it.
        parameter: String,
        /// What there is.
        known: String,
    },
    /// Required parameters that are not there.
    #[error("the function `{function}` lacks its parameters {missing}")]
    Missing {
        /// The function.
        function: String,
        /// What is not there.
        missing: String,
    },
    /// A value that the parameter does not take.
    #[error("parameter `{parameter}`: {problem}")]
    Value {
        /// The parameter.
        parameter: String,
        /// What is wrong.
        problem: String,
    },
}

/// An answer that holds a call.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedCall {
    /// The answer, with the end that a stop word took.
    pub text: String,
    /// What stands before the call.
    pub content: String,
    /// The call, without an id.
    pub call: ChatToolCall,
}

/// What the system message says of the tools.
pub fn system_suffix(tools: &[Tool]) -> String {
    format!(
        "\n\nYou have access to the following functions:\n\n{}\n\n{USAGE}",
        describe(tools)
    )
}

const USAGE: &str = "\
To call a function, end your answer with this and nothing after it:

<function=name_of_the_function>
<parameter=name_of_a_parameter>value</parameter>
<parameter=name_of_another>
a value
of several lines
</parameter>
</function>

<IMPORTANT>
Keep in mind:
- A call has exactly this form: it begins with <function= and ends with </function>
- Give every required parameter
- Make one call in an answer, no more
- What you have to say comes before the call, never after it
- Where no function is of use, answer in words alone, and do not mention functions
";

/// The tools, one block each.
fn describe(tools: &[Tool]) -> String {
    let blocks: Vec<String> = tools
        .iter()
        .enumerate()
        .map(|(index, tool)| {
            let f = &tool.function;
            let number = index + 1;
            let mut block = format!("---- BEGIN FUNCTION #{number}: {} ----\n", f.name);
            let description = f.description.as_deref().unwrap_or_default();
            let _ = writeln!(block, "Description: {description}");
            let parameters = parameters(tool);
            if parameters.is_empty() {
                block.push_str("No parameters are required for this function.\n");
            } else {
                block.push_str("Parameters:\n");
                for (at, p) in parameters.iter().enumerate() {
                    let need = if p.required { "required" } else { "optional" };
                    let _ = write!(
                        block,
                        "  ({}) {} ({}, {need}): {}",
                        at + 1,
                        p.name,
                        p.kind,
                        p.description
                    );
                    if let Some(allowed) = &p.allowed {
                        let words: Vec<String> =
                            allowed.iter().map(|v| format!("`{}`", bare(v))).collect();
                        let _ = write!(block, "\nAllowed values: [{}]", words.join(", "));
                    }
                    block.push('\n');
                }
            }
            let _ = writeln!(block, "---- END FUNCTION #{number} ----");
            block
        })
        .collect();
    blocks.join("\n").trim_end().to_owned()
}

struct Parameter<'a> {
    name: &'a str,
    kind: &'a str,
    description: &'a str,
    required: bool,
    allowed: Option<&'a Vec<Value>>,
}

fn parameters(tool: &Tool) -> Vec<Parameter<'_>> {
    let schema = tool.function.parameters.as_ref();
    let required: Vec<&str> = schema
        .and_then(|s| s.get("required")?.as_array())
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.and_then(|s| s.get("properties")?.as_object());
    properties
        .into_iter()
        .flatten()
        .map(|(name, property)| {
            let word = |field: &str| property.get(field).and_then(Value::as_str);
            Parameter {
                name,
                kind: word("type").unwrap_or("string"),
                description: word("description").unwrap_or_default(),
                required: required.contains(&name.as_str()),
                allowed: property.get("enum").and_then(Value::as_array),
            }
        })
        .collect()
}

/// A value without the quotes of a string.
fn bare(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A call as text. Arguments that are no JSON object, as models also write
/// them, cannot be said in this form.
///
/// # Errors
/// [`CallError::Form`] for those.
pub fn render_call(call: &ChatToolCall) -> Result<String, CallError> {
    let text = call.function.arguments.trim();
    let arguments: Map<String, Value> = if text.is_empty() {
        Map::new()
    } else {
        serde_json::from_str(text)
            .map_err(|_| CallError::Form("the arguments are not a JSON object"))?
    };
    let mut out = format!("<function={}>\n", call.function.name);
    for (name, value) in &arguments {
        let long = matches!(value, Value::String(text) if text.contains('\n'));
        let line = if long { "\n" } else { "" };
        let _ = writeln!(
            out,
            "<parameter={name}>{line}{}{line}</parameter>",
            bare(value)
        );
    }
    out.push_str("</function>");
    Ok(out)
}

/// The result of a call, as the user says it.
pub fn result(name: &str, content: &str) -> String {
    format!("EXECUTION RESULT of [{name}]:\n{content}")
}

/// The call of an answer; `None` if it holds none.
///
/// # Errors
/// If it holds one that cannot be made.
pub fn parse_call(answer: &str, tools: &[Tool]) -> Result<Option<ParsedCall>, CallError> {
    let begins = answer.matches("<function=").count();
    if begins == 0 {
        return Ok(None);
    }
    if begins > 1 {
        return Err(CallError::Several(begins));
    }
    let text = repaired(answer);
    let function = Regex::new(r"(?s)<function=([^>]+)>\n?(.*?)</function>").expect("valid");
    let found = function
        .captures(&text)
        .ok_or(CallError::Form("there is no line `<function=name>`"))?;
    let (whole, [name, body]) = found.extract();
    let tool = tools.iter().find(|tool| tool.function.name == name);
    let tool = tool.ok_or_else(|| CallError::Unknown {
        name: name.to_owned(),
        known: names(tools.iter().map(|tool| tool.function.name.as_str())),
    })?;
    let arguments = read_arguments(body, tool)?;
    let begin = text.find(whole).unwrap_or_default();
    Ok(Some(ParsedCall {
        content: text[..begin].trim_end().to_owned(),
        call: ChatToolCall::new("", name, &Value::Object(arguments)),
        // What follows a call is the model playing the environment.
        text: text[..begin + whole.len()].to_owned(),
    }))
}

/// An answer with the end that the stop word took.
fn repaired(answer: &str) -> String {
    if answer.contains("</function>") {
        return answer.to_owned();
    }
    let trimmed = answer.trim_end();
    if let Some(rest) = trimmed.strip_suffix(STOP) {
        return format!("{rest}</function>");
    }
    match trimmed.strip_suffix("</") {
        Some(rest) => format!("{rest}</function>"),
        None => format!("{trimmed}\n</function>"),
    }
}

fn read_arguments(body: &str, tool: &Tool) -> Result<Map<String, Value>, CallError> {
    let name = &tool.function.name;
    let known = parameters(tool);
    let parameter = Regex::new(r"(?s)<parameter=([^>]+)>(.*?)</parameter>").expect("valid");
    let mut arguments = Map::new();
    for found in parameter.captures_iter(body) {
        let (_, [key, value]) = found.extract();
        let parameter = known.iter().find(|p| p.name == key);
        let parameter = parameter.ok_or_else(|| CallError::Parameter {
            function: name.clone(),
            parameter: key.to_owned(),
            known: names(known.iter().map(|p| p.name)),
        })?;
        arguments.insert(key.to_owned(), read_value(value.trim(), parameter)?);
    }
    let missing: Vec<&str> = known
        .iter()
        .filter(|p| p.required && !arguments.contains_key(p.name))
        .map(|p| p.name)
        .collect();
    if missing.is_empty() {
        Ok(arguments)
    } else {
        Err(CallError::Missing {
            function: name.clone(),
            missing: names(missing.into_iter()),
        })
    }
}

fn read_value(text: &str, parameter: &Parameter<'_>) -> Result<Value, CallError> {
    let wrong = |problem: String| CallError::Value {
        parameter: parameter.name.to_owned(),
        problem,
    };
    let value = match parameter.kind {
        "integer" => Value::from(
            text.parse::<i64>()
                .map_err(|_| wrong(format!("{text:?} is no whole number")))?,
        ),
        kind @ ("array" | "object" | "number" | "boolean") => serde_json::from_str(text)
            .ok()
            .filter(|value: &Value| match kind {
                "array" => value.is_array(),
                "object" => value.is_object(),
                "number" => value.is_number(),
                _ => value.is_boolean(),
            })
            .ok_or_else(|| wrong(format!("{text:?} is no JSON {kind}")))?,
        _ => Value::String(text.to_owned()),
    };
    if let Some(allowed) = parameter.allowed
        && !allowed.contains(&value)
    {
        let words: Vec<String> = allowed.iter().map(bare).collect();
        return Err(wrong(format!(
            "{text:?} is not one of {}",
            words.join(", ")
        )));
    }
    Ok(value)
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if quoted.is_empty() {
        return "none".into();
    }
    quoted.join(", ")
}

/// A conversation in tool calls as one in text: no `tools`, no tool messages,
/// the sides in turns. An answer of several calls becomes several answers,
/// each with its result; calls that were never answered are left out.
///
/// # Errors
/// If a call cannot be said in this form.
pub fn to_text(messages: &[ChatMessage], tools: &[Tool]) -> Result<Vec<ChatMessage>, CallError> {
    let mut out: Vec<ChatMessage> = Vec::new();
    let mut rest = messages.iter().peekable();
    while let Some(message) = rest.next() {
        match message.role {
            Role::System | Role::Developer => {
                let text = message.text() + &system_suffix(tools);
                out.push(ChatMessage::system(text));
            }
            Role::User => say(&mut out, message.text()),
            // The result of a call that this conversation does not show.
            Role::Tool => {
                let name = message.name.as_deref().unwrap_or("function");
                say(&mut out, result(name, &message.text()));
            }
            Role::Assistant if message.tool_calls.is_empty() => {
                out.push(ChatMessage::assistant(message.text()));
            }
            Role::Assistant => {
                let mut content = message.text();
                while let Some(heard) = rest.next_if(|next| next.role == Role::Tool) {
                    let id = heard.tool_call_id.as_deref().unwrap_or_default();
                    let call = message.tool_calls.iter().find(|call| call.id == id);
                    let Some(call) = call else {
                        let name = heard.name.as_deref().unwrap_or("function");
                        say(&mut out, result(name, &heard.text()));
                        continue;
                    };
                    let text = format!("{content}\n\n{}", render_call(call)?);
                    out.push(ChatMessage::assistant(text.trim_start()));
                    content = String::new();
                    say(&mut out, result(&call.function.name, &heard.text()));
                }
                // An answer that ends the conversation has no result.
                if rest.peek().is_none()
                    && let [call] = &message.tool_calls[..]
                    && out.last().is_none_or(|m| m.role != Role::Assistant)
                    && !content.is_empty() | !answered(messages, &call.id)
                {
                    let text = format!("{content}\n\n{}", render_call(call)?);
                    out.push(ChatMessage::assistant(text.trim_start()));
                }
            }
        }
    }
    Ok(out)
}

fn answered(messages: &[ChatMessage], id: &str) -> bool {
    messages
        .iter()
        .any(|m| m.role == Role::Tool && m.tool_call_id.as_deref() == Some(id))
}

/// Words of the user; two in a row are one message.
fn say(out: &mut Vec<ChatMessage>, text: String) {
    match out.last_mut() {
        Some(last) if last.role == Role::User => {
            *last = ChatMessage::user(format!("{}\n\n{text}", last.text()));
        }
        _ => out.push(ChatMessage::user(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tools() -> Vec<Tool> {
        let editor = json!({
            "type": "object",
            "properties": {
                "command": {"type": "string", "enum": ["view", "create"], "description": "What."},
                "path": {"type": "string", "description": "Where."},
                "line": {"type": "integer", "description": "Which."},
                "range": {"type": "array", "description": "From, to."},
            },
            "required": ["command", "path"],
        });
        vec![
            Tool::new("finish", "Ends.", None),
            Tool::new("edit", "Edits.", Some(editor)),
        ]
    }

    fn parse(answer: &str) -> Result<Option<ParsedCall>, CallError> {
        parse_call(answer, &tools())
    }

    #[test]
    fn the_tools_are_listed_block_by_block() {
        let text = describe(&tools());
        assert_eq!(
            text,
            "---- BEGIN FUNCTION #1: finish ----\nDescription: Ends.\n\
             No parameters are required for this function.\n---- END FUNCTION #1 ----\n\n\
             ---- BEGIN FUNCTION #2: edit ----\nDescription: Edits.\nParameters:\n\
             \u{20} (1) command (string, required): What.\nAllowed values: [`view`, `create`]\n\
             \u{20} (2) path (string, required): Where.\n\
             \u{20} (3) line (integer, optional): Which.\n\
             \u{20} (4) range (array, optional): From, to.\n---- END FUNCTION #2 ----"
        );
    }

    #[test]
    fn an_answer_that_a_stop_word_cut_is_mended() {
        let body = "Look.\n<function=edit>\n<parameter=command>view</parameter>\n\
                    <parameter=path>/a\n</parameter>\n";
        for end in [
            "</function>",
            "</function",
            "</",
            "",
            "</function>\nand more",
        ] {
            let got = parse(&format!("{body}{end}")).unwrap().unwrap();
            assert_eq!(got.content, "Look.");
            assert_eq!(
                got.call.function.arguments,
                r#"{"command":"view","path":"/a"}"#
            );
            assert!(got.text.ends_with("</function>"), "{}", got.text);
        }
        assert_eq!(parse("No call."), Ok(None));
    }

    #[test]
    fn a_wrong_call_is_told_apart() {
        let call = |inner: &str| parse(&format!("<function=edit>\n{inner}</function>"));
        let p = |k: &str, v: &str| format!("<parameter={k}>{v}</parameter>\n");
        let base = p("command", "view") + &p("path", "/a");
        assert!(matches!(
            parse("<function=finish>\n</function><function=finish>\n</function>"),
            Err(CallError::Several(2))
        ));
        assert!(matches!(
            parse("<function=fly>\n</function>"),
            Err(CallError::Unknown { .. })
        ));
        assert!(matches!(
            call(&p("path", "/a")),
            Err(CallError::Missing { .. })
        ));
        assert!(matches!(
            call(&(base.clone() + &p("x", "1"))),
            Err(CallError::Parameter { .. })
        ));
        assert!(matches!(
            call(&(base.clone() + &p("line", "two"))),
            Err(CallError::Value { .. })
        ));
        assert!(matches!(
            call(&(p("command", "fly") + &p("path", "/a"))),
            Err(CallError::Value { .. })
        ));
        let got = call(&(base + &p("line", "7") + &p("range", "[1, -1]")));
        let got = got.unwrap().unwrap().call.function.arguments;
        assert!(got.contains(r#""line":7,"range":[1,-1]"#), "{got}");
    }

    #[test]
    fn several_calls_become_several_answers() {
        let call = |id: &str, path: &str| {
            ChatToolCall::new(id, "edit", &json!({"command": "view", "path": path}))
        };
        let mut both = ChatMessage::assistant("Both.");
        both.tool_calls = vec![call("1", "/a"), call("2", "/b")];
        let mut last = ChatMessage::assistant("");
        last.tool_calls = vec![ChatToolCall::new("3", "finish", &json!({}))];
        let got = to_text(
            &[
                ChatMessage::system("S"),
                ChatMessage::user("U"),
                ChatMessage::user("V"),
                both,
                ChatMessage::tool("2", "edit", "b"),
                ChatMessage::tool("1", "edit", "a"),
                last,
            ],
            &tools(),
        )
        .unwrap();
        let roles: Vec<Role> = got.iter().map(|m| m.role).collect();
        use Role::{Assistant, System, User};
        assert_eq!(
            roles,
            [System, User, Assistant, User, Assistant, User, Assistant]
        );
        assert_eq!(got[1].text(), "U\n\nV");
        assert!(got[2].text().starts_with("Both.\n\n<function=edit>"));
        assert!(got[2].text().contains("/b"));
        assert_eq!(got[3].text(), "EXECUTION RESULT of [edit]:\nb");
        assert!(got[4].text().starts_with("<function=edit>"));
        assert_eq!(got[6].text(), "<function=finish>\n</function>");
    }

    proptest! {
        #[test]
        fn a_call_comes_back(path in "[a-z<>/=\" ]{1,12}(\n[a-z]{1,4}){0,2}", line in any::<i32>()) {
            prop_assume!(!path.contains("</") && !path.contains("<function") && path.trim() == path);
            prop_assume!(!path.is_empty());
            let arguments = json!({"command": "create", "path": path, "line": line});
            let call = ChatToolCall::new("", "edit", &arguments);
            let text = format!("Well.\n\n{}", render_call(&call).unwrap());
            let parsed = parse(&text).unwrap().unwrap();
            let back: Value = serde_json::from_str(&parsed.call.function.arguments).unwrap();
            prop_assert_eq!(back, arguments);
            prop_assert_eq!(parsed.content, "Well.");
            prop_assert_eq!(parsed.text, text);
        }

        #[test]
        fn nothing_that_a_model_writes_panics(text in ".{0,80}", tail in "(<function=edit>|<parameter=path>|</parameter>|</function>|\n){0,6}") {
            let _ = parse(&format!("{text}{tail}"));
        }
    }
}
