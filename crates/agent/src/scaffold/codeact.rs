//! The paper's general-purpose agent: a live shell, an editor, and a word for
//! the end (SWE-GYM section 2).

use serde_json::{Value, json};
use swegym_core::{ChatMessage, ChatToolCall, Exit, Tool};

use super::editor::Editor;
use super::{Act, Next, Prompts, Scaffold, StepError, Task, Turn, arguments, wrong};
use crate::workspace::{Workspace, shorten};

/// Characters of a result that the model sees (OpenHands' max_message_chars).
const MOST: usize = 30_000;
const MARK: &str = "[... Observation truncated due to length ...]";

/// The `codeact` scaffold.
pub struct CodeAct {
    prompts: Prompts,
    tools: Vec<Tool>,
    editor: Editor,
    replies: u32,
}

impl CodeAct {
    /// With these prompts.
    pub fn new(prompts: Prompts) -> Self {
        Self {
            prompts,
            tools: tools(),
            editor: Editor::default(),
            replies: 0,
        }
    }

    fn bash(&self, call: &ChatToolCall, workspace: &mut Workspace<'_>) -> Result<Act, StepError> {
        let command = match arguments(call) {
            Ok(map) => match map.get("command").and_then(Value::as_str) {
                Some(command) => command.to_owned(),
                None => return Ok(wrong(call, "`execute_bash` needs the string `command`")),
            },
            Err(problem) => return Ok(wrong(call, problem)),
        };
        let ran = workspace.live(&command)?;
        let mut observation = shorten(ran.text.trim_end(), MOST, MARK);
        if ran.exit == Exit::TimedOut {
            let seconds = workspace.command_limit.as_secs();
            observation += &format!(
                "\n[Command stopped after {seconds} seconds; a new shell will run the next one]"
            );
        }
        observation += &format!("\n[Command finished with exit code {}]", ran.code());
        Ok(Act {
            call: call.clone(),
            observation: observation.trim_start().to_owned(),
            error: false,
            same_as: Some(format!("{command}\n{}", ran.code())),
        })
    }

    fn edit(
        &mut self,
        call: &ChatToolCall,
        workspace: &mut Workspace<'_>,
    ) -> Result<Act, StepError> {
        let map = match arguments(call) {
            Ok(map) => map,
            Err(problem) => return Ok(wrong(call, problem)),
        };
        Ok(match self.editor.run(map, workspace)? {
            Ok(text) => Act {
                call: call.clone(),
                observation: shorten(&text, MOST, MARK),
                error: false,
                same_as: None,
            },
            Err(problem) => Act {
                observation: format!(
                    "ERROR: {problem}\n[Error occurred in processing last action]"
                ),
                ..wrong(call, "")
            },
        })
    }
}

impl Scaffold for CodeAct {
    fn name(&self) -> &'static str {
        "codeact"
    }

    fn tools(&self) -> &[Tool] {
        &self.tools
    }

    fn begin(&mut self, task: &Task, _: &mut Workspace<'_>) -> Result<Vec<ChatMessage>, StepError> {
        Ok(vec![
            ChatMessage::system(self.prompts.render("codeact/system.j2", task)?),
            ChatMessage::user(self.prompts.render("codeact/task.j2", task)?),
        ])
    }

    fn step(
        &mut self,
        answer: &ChatMessage,
        workspace: &mut Workspace<'_>,
    ) -> Result<Turn, StepError> {
        if answer.tool_calls.is_empty() {
            self.replies += 1;
            let values = json!({"replies": self.replies});
            return Ok(Turn::said(self.prompts.render("codeact/nudge.j2", values)?));
        }
        let mut acts = Vec::new();
        for call in &answer.tool_calls {
            let act = match call.function.name.as_str() {
                "execute_bash" => self.bash(call, workspace)?,
                "str_replace_editor" => self.edit(call, workspace)?,
                "finish" => {
                    acts.push(Act {
                        call: call.clone(),
                        observation: "Finished.".into(),
                        error: false,
                        same_as: None,
                    });
                    return Ok(Turn {
                        next: Next::Submitted,
                        ..Turn::acted(acts)
                    });
                }
                other => wrong(
                    call,
                    format!(
                        "there is no tool `{other}`; there are `execute_bash`, `finish` and \
                         `str_replace_editor`"
                    ),
                ),
            };
            acts.push(act);
        }
        Ok(Turn::acted(acts))
    }
}

/// Names, parameters and order are the reference's, so that trajectories and
/// models are interchangeable; the words are ours.
fn tools() -> Vec<Tool> {
    let bash = json!({
        "type": "object",
        "properties": {
            "command": {
                "type": "string",
                "description": "The command, or several joined by `&&` or `;`. Start long-running \
                    ones in the background with their output in a file."
            }
        },
        "required": ["command"],
    });
    let editor = json!({
        "type": "object",
        "properties": {
            "command": {
                "type": "string",
                "enum": ["view", "create", "str_replace", "insert", "undo_edit"],
                "description": "What to do."
            },
            "path": {
                "type": "string",
                "description": "Absolute path of a file or directory."
            },
            "file_text": {
                "type": "string",
                "description": "For `create`: the whole content of the new file."
            },
            "old_str": {
                "type": "string",
                "description": "For `str_replace`: text of the file that is to be replaced."
            },
            "new_str": {
                "type": "string",
                "description": "For `str_replace`: what replaces it, nothing if left out. For \
                    `insert`: the lines to insert."
            },
            "insert_line": {
                "type": "integer",
                "description": "For `insert`: the line after which to insert; 0 is the top."
            },
            "view_range": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "For `view` of a file: first and last line, such as [11, 40]; -1 as \
                    the last is the end."
            }
        },
        "required": ["command", "path"],
    });
    vec![
        Tool::new(
            "execute_bash",
            "Runs a command in a bash shell that stays open: its directory and variables carry \
             over to the next command.",
            Some(bash),
        ),
        Tool::new(
            "finish",
            "Ends the work on the task, when it is solved or when you cannot get further.",
            None,
        ),
        Tool::new(
            "str_replace_editor",
            "Views, creates and edits files.\n\
             * `view` shows a file with line numbers, or what a directory holds, two levels deep.\n\
             * `create` makes a new file; it does not overwrite one.\n\
             * `str_replace` replaces `old_str`, which must occur in the file exactly once, \
             white space included; give enough lines around it to make it unique.\n\
             * `insert` puts lines after a line.\n\
             * `undo_edit` takes back the last edit of a file.",
            Some(editor),
        ),
    ]
}
