//! Chat templates: the Jinja text of a checkpoint that writes a conversation
//! down, rendered as `transformers` does with Jinja2.

use std::path::Path;
use std::sync::Arc;

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use serde_json::Value as Json;
use swegym_core::{ChatMessage, Role, Tool};

use crate::error::{LearnError, Result};

/// A checkpoint's chat template. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    model: Arc<str>,
    source: Arc<str>,
    environment: Arc<Environment<'static>>,
    bos: Arc<str>,
    eos: Arc<str>,
}

/// Where an assistant message lies in a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Index of the message.
    pub message: usize,
    /// First byte of what the model writes.
    pub start: usize,
    /// Past its last byte, the token that ends the answer included.
    pub end: usize,
}

impl ChatTemplate {
    /// A template with the words that begin and end a text.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn new(model: &str, source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_keep_trailing_newline(false);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python_formatter);
        environment.add_filter("tojson", to_json);
        environment.add_filter("string", |value: &Value| python_text(value));
        environment.add_function("raise_exception", |text: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", strftime_now);
        // The generation tag only marks what is trained on.
        let plain = without_generation_tags(source);
        environment
            .add_template_owned("chat", plain)
            .map_err(|e| problem(model, &e))?;
        Ok(Self {
            model: model.into(),
            source: source.into(),
            environment: Arc::new(environment),
            bos: bos.into(),
            eos: eos.into(),
        })
    }

    /// The template of a folder: `chat_template.jinja`, or the field of
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// If there is one that does not parse.
    pub(crate) fn from_folder(
        dir: &Path,
        model: &str,
        config: Option<&Json>,
    ) -> Result<Option<Self>> {
        let file = dir.join("chat_template.jinja");
        let field = config.and_then(|c| c.get("chat_template"));
        let source = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(LearnError::io(&file, e));
            }
            Err(_) => match field {
                Some(Json::String(text)) => text.clone(),
                // Several by name.
                Some(Json::Array(list)) => {
                    let default = list.iter().find(|t| t["name"] == "default");
                    match default.and_then(|t| t["template"].as_str()) {
                        Some(text) => text.to_owned(),
                        None => return Ok(None),
                    }
                }
                _ => return Ok(None),
            },
        };
        let word = |field: &str| {
            let value = config.and_then(|c| c.get(field));
            match value {
                Some(Json::String(text)) => text.clone(),
                Some(Json::Object(map)) => map
                    .get("content")
                    .and_then(Json::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                _ => String::new(),
            }
        };
        Self::new(model, &source, &word("bos_token"), &word("eos_token")).map(Some)
    }

    /// The template's own text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The words that begin and end a text.
    pub fn words(&self) -> (&str, &str) {
        (&self.bos, &self.eos)
    }

    /// A conversation as the model reads it; with `prompt` followed by what
    /// begins the assistant's next answer.
    ///
    /// # Errors
    /// If the template refuses the messages, as some do for two of one role.
    pub fn render(&self, messages: &[ChatMessage], tools: &[Tool], prompt: bool) -> Result<String> {
        let messages: Vec<Json> = messages.iter().map(as_json).collect();
        let tools = (!tools.is_empty()).then_some(tools);
        self.render_json(
            &serde_json::to_value(messages).unwrap_or_default(),
            &serde_json::to_value(tools).unwrap_or_default(),
            prompt,
        )
    }

    /// The same for messages and tools as JSON.
    ///
    /// # Errors
    /// As above.
    pub fn render_json(&self, messages: &Json, tools: &Json, prompt: bool) -> Result<String> {
        let template = self
            .environment
            .get_template("chat")
            .map_err(|e| problem(&self.model, &e))?;
        let tools = if tools.is_null() {
            Value::from(())
        } else {
            Value::from_serialize(tools)
        };
        template
            .render(minijinja::context! {
                messages => Value::from_serialize(messages),
                tools => tools,
                documents => Value::from(()),
                add_generation_prompt => prompt,
                bos_token => &*self.bos,
                eos_token => &*self.eos,
            })
            .map_err(|e| problem(&self.model, &e))
    }

    /// A conversation, and where the assistant's messages lie in it: from
    /// behind the words that prompt for an answer to the end of the turn.
    /// Found by rendering every prefix, so it holds for any template that
    /// only appends; one that rewrites earlier turns is refused.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], and if a prefix of the conversation does
    /// not render to a prefix of its text.
    pub fn render_spans(
        &self,
        messages: &[ChatMessage],
        tools: &[Tool],
    ) -> Result<(String, Vec<Span>)> {
        let text = self.render(messages, tools, false)?;
        let mut spans = Vec::new();
        for (n, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant {
                continue;
            }
            let before = self.render(&messages[..n], tools, true)?;
            let after = if n + 1 == messages.len() {
                text.clone()
            } else {
                self.render(&messages[..=n], tools, false)?
            };
            if !text.starts_with(&after) || !after.starts_with(&before) {
                return Err(LearnError::Template {
                    model: self.model.to_string(),
                    problem: format!(
                        "message {n} is written differently with and without what follows it, so that what the model is to learn cannot be told apart; train on each turn as a row of its own"
                    ),
                });
            }
            // What the template puts behind the end of a turn, mostly a line
            // break, is not written by the model.
            let own = &after[before.len()..];
            let end = match own.rfind(&*self.eos) {
                Some(at) if !self.eos.is_empty() => before.len() + at + self.eos.len(),
                _ => before.len() + own.trim_end().len(),
            };
            spans.push(Span {
                message: n,
                start: before.len(),
                end,
            });
        }
        Ok((text, spans))
    }
}

fn problem(model: &str, error: &Error) -> LearnError {
    let mut text = error
        .detail()
        .map_or_else(|| error.to_string(), str::to_owned);
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line} of the template)"));
    }
    LearnError::Template {
        model: model.to_owned(),
        problem: text,
    }
}

/// A message as templates expect it: text as a string, no fields of ours,
/// arguments of calls as objects.
fn as_json(message: &ChatMessage) -> Json {
    let mut json = serde_json::to_value(message).unwrap_or_default();
    let Some(map) = json.as_object_mut() else {
        return json;
    };
    map.insert("content".into(), message.text().into());
    if message.role == Role::Developer {
        map.insert("role".into(), "system".into());
    }
    if let Some(Json::Array(calls)) = map.get_mut("tool_calls") {
        for call in calls {
            let Some(arguments) = call.pointer_mut("/function/arguments") else {
                continue;
            };
            if let Some(Ok(parsed @ Json::Object(_))) = arguments.as_str().map(serde_json::from_str)
            {
                *arguments = parsed;
            }
        }
    }
    json
}

/// `{% generation %}` and its end are no tags of Jinja's.
fn without_generation_tags(source: &str) -> String {
    let mut plain = source.to_owned();
    for word in ["generation", "endgeneration"] {
        for (open, close) in [("{%", "%}"), ("{%-", "-%}"), ("{%-", "%}"), ("{%", "-%}")] {
            for space in [" ", ""] {
                let tag = format!("{open}{space}{word}{space}{close}");
                let empty = format!("{open} if true {close}");
                let end = format!("{open} endif {close}");
                plain = plain.replace(&tag, if word == "generation" { &empty } else { &end });
            }
        }
    }
    plain
}

fn strftime_now(format: &str) -> Result<String, Error> {
    // Templates use it to tell the model the date; a fixed one would be a lie,
    // and a prompt that changes from day to day cannot be trained on.
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("the template asks for today's date ({format}), which prompts here do not tell"),
    ))
}

/// Values print as in Python.
fn python_formatter(out: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    out.write_str(&python_text(value)).map_err(Error::from)
}

fn python_text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => python_repr(value),
    }
}

fn python_repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => "Undefined".into(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::String => python_string(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let parts: Vec<String> = value
                .try_iter()
                .map(|items| items.map(|v| python_repr(&v)).collect())
                .unwrap_or_default();
            format!("[{}]", parts.join(", "))
        }
        ValueKind::Map => {
            let parts: Vec<String> = value
                .try_iter()
                .map(|keys| {
                    keys.map(|key| {
                        let item = value.get_item(&key).unwrap_or_default();
                        format!("{}: {}", python_repr(&key), python_repr(&item))
                    })
                    .collect()
                })
                .unwrap_or_default();
            format!("{{{}}}", parts.join(", "))
        }
        _ => value.to_string(),
    }
}

fn python_string(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// `json.dumps(value, ensure_ascii=False, indent=…, separators=…)`, which is
/// the `tojson` of `transformers`, and escapes no HTML.
fn to_json(value: &Value, rest: minijinja::value::Rest<Value>) -> Result<String, Error> {
    let (options,): (Kwargs,) = from_args(&rest)?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        _ if indent.is_some() => (",".into(), ": ".into()),
        _ => (", ".into(), ": ".into()),
    };
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let style = JsonStyle {
        comma,
        colon,
        indent,
        sorted,
    };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
}

struct JsonStyle {
    comma: String,
    colon: String,
    indent: Option<usize>,
    sorted: bool,
}

impl JsonStyle {
    fn write(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) if !items.is_empty() => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    self.between(n, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push(']');
            }
            Json::Object(map) if !map.is_empty() => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (n, (key, item)) in entries.into_iter().enumerate() {
                    self.between(n, depth + 1, out);
                    out.push_str(&Json::from(key.as_str()).to_string());
                    out.push_str(&self.colon);
                    self.write(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn between(&self, n: usize, depth: usize, out: &mut String) {
        if n > 0 {
            out.push_str(&self.comma);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}
