//! The conversation with a model: what was said, and how the model reads it.
//!
//! `history` is always in tool calls, which is what trajectories keep. In the
//! text dialect the model reads and writes `wire` instead, made of it as it
//! grows, so that a step costs no more late than early.

use regex::Regex;
use serde_json::json;
use swegym_core::{ChatMessage, ChatToolCall, Role, Tool};

use crate::scaffold::{Act, Dialect};
use crate::text_form;

/// Where `history` keeps an answer as the model is shown it again in the text
/// dialect: what it wrote, with the end that a stop word took.
pub(crate) const SHOWN: &str = "shown_text";

pub(crate) struct Dialogue {
    dialect: Dialect,
    tools: Vec<Tool>,
    fence: Option<(&'static str, Regex)>,
    stop: Vec<String>,
    /// In tool calls.
    pub history: Vec<ChatMessage>,
    /// As the model reads it, in the text dialect.
    wire: Vec<ChatMessage>,
    calls: usize,
}

/// An answer, understood.
pub(crate) enum Understood {
    /// A message, with its tool calls if it has any.
    Message(ChatMessage),
    /// It tries to call a tool, and does it wrong.
    Wrong(String),
}

impl Dialogue {
    pub fn new(
        dialect: Dialect,
        tools: &[Tool],
        fence: Option<&'static str>,
        beginning: Vec<ChatMessage>,
    ) -> Self {
        let fence = fence.filter(|_| dialect == Dialect::Text).map(|word| {
            let pattern = format!(r"(?s)```{word}\s*\n(.*?)\n?```");
            (word, Regex::new(&pattern).expect("a fence is a word"))
        });
        let mut wire = Vec::new();
        if dialect == Dialect::Text {
            wire.clone_from(&beginning);
            if let Some(system) = wire.first_mut().filter(|_| fence.is_none()) {
                let text = system.text() + &text_form::system_suffix(tools);
                *system = ChatMessage::system(text);
            }
        }
        let stop = match (dialect, &fence) {
            (Dialect::Text, None) => vec![text_form::STOP.to_owned()],
            _ => Vec::new(),
        };
        Self {
            dialect,
            tools: tools.to_vec(),
            fence,
            stop,
            history: beginning,
            wire,
            calls: 0,
        }
    }

    /// What the model is sent.
    pub fn messages(&self) -> &[ChatMessage] {
        match self.dialect {
            Dialect::Tools => &self.history,
            Dialect::Text => &self.wire,
        }
    }

    /// Tools that the API is told of.
    pub fn api_tools(&self) -> &[Tool] {
        match self.dialect {
            Dialect::Tools => &self.tools,
            Dialect::Text => &[],
        }
    }

    /// Words that end an answer.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// Takes in an answer.
    pub fn answered(&mut self, message: &ChatMessage) -> Understood {
        if self.dialect == Dialect::Tools {
            self.history.push(message.clone());
            return Understood::Message(message.clone());
        }
        let raw = message.text();
        let read = self.read(&raw);
        let (text, understood) = match read {
            Ok((text, content, call)) => {
                let mut answer = ChatMessage {
                    content: Some(content.into()),
                    ..message.clone()
                };
                answer.extra.insert(SHOWN.into(), text.clone().into());
                answer.tool_calls = call.into_iter().collect();
                (text, Understood::Message(answer))
            }
            Err(problem) => (raw.clone(), Understood::Wrong(problem)),
        };
        self.history.push(match &understood {
            Understood::Message(answer) => answer.clone(),
            Understood::Wrong(_) => message.clone(),
        });
        self.wire.push(ChatMessage::assistant(text));
        understood
    }

    /// Text as the model is shown it again, content beside the call, call.
    fn read(&mut self, raw: &str) -> Result<(String, String, Option<ChatToolCall>), String> {
        let id = format!("call_{}", self.calls);
        self.calls += 1;
        if let Some((_, block)) = &self.fence {
            let mut found = block.captures_iter(raw);
            let call = match (found.next(), found.next()) {
                (Some(one), None) => {
                    let arguments = json!({"command": one[1].to_owned()});
                    let name = &self.tools[0].function.name;
                    Some(ChatToolCall::new(id, name, &arguments))
                }
                _ => None,
            };
            return Ok((raw.to_owned(), raw.to_owned(), call));
        }
        match text_form::parse_call(raw, &self.tools) {
            Ok(Some(parsed)) => {
                let mut call = parsed.call;
                call.id = id;
                Ok((parsed.text, parsed.content, Some(call)))
            }
            Ok(None) => Ok((raw.to_owned(), raw.to_owned(), None)),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Takes in what came of an answer.
    pub fn heard(&mut self, acts: &[Act], say: Option<&str>) {
        for act in acts {
            let name = &act.call.function.name;
            let result = ChatMessage::tool(&act.call.id, name, &act.observation);
            self.history.push(result);
            if self.dialect == Dialect::Text {
                let text = match &self.fence {
                    Some(_) => act.observation.clone(),
                    None => text_form::result(name, &act.observation),
                };
                self.tell(text);
            }
        }
        if let Some(say) = say.filter(|say| !say.is_empty()) {
            self.history.push(ChatMessage::user(say));
            if self.dialect == Dialect::Text {
                self.tell(say.to_owned());
            }
        }
    }

    /// Chat templates want the sides to take turns.
    fn tell(&mut self, text: String) {
        match self.wire.last_mut() {
            Some(last) if last.role == Role::User => {
                *last = ChatMessage::user(format!("{}\n\n{text}", last.text()));
            }
            _ => self.wire.push(ChatMessage::user(text)),
        }
    }
}
