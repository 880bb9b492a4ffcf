//! The plainest agent: one tool, a shell, every command in a new one. In the
//! manner of mini-swe-agent.

use serde::Deserialize;
use serde_json::json;
use swegym_core::{ChatMessage, Exit, Tool};

use super::{Act, Dialect, Next, Prompts, Scaffold, StepError, Task, Turn, arguments, wrong};
use crate::workspace::{Workspace, shorten};

/// First line of the output that hands in the work (mini-swe-agent's).
pub const SENTINEL: &str = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT";
/// Fence of a command in the text dialect (mini-swe-agent's).
const FENCE: &str = "mswea_bash_command";
/// Characters of output that the model sees.
const MOST: usize = 10_000;

/// The `bash` scaffold.
pub struct Bash {
    prompts: Prompts,
    dialect: Dialect,
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
struct Arguments {
    command: String,
}

impl Bash {
    /// With these prompts.
    pub fn new(prompts: Prompts, dialect: Dialect) -> Self {
        let parameters = json!({
            "type": "object",
            "properties": {
                "command": {"type": "string", "description": "The command to run."}
            },
            "required": ["command"],
        });
        Self {
            prompts,
            dialect,
            tools: vec![Tool::new(
                "bash",
                "Runs a command in a new shell and returns its status and output.",
                Some(parameters),
            )],
        }
    }
}

impl Scaffold for Bash {
    fn name(&self) -> &'static str {
        "bash"
    }

    fn tools(&self) -> &[Tool] {
        &self.tools
    }

    fn fence(&self) -> Option<&'static str> {
        Some(FENCE)
    }

    fn begin(
        &mut self,
        task: &Task,
        workspace: &mut Workspace<'_>,
    ) -> Result<Vec<ChatMessage>, StepError> {
        let values = json!({
            "workdir": task.workdir,
            "repo": task.repo,
            "problem_statement": task.problem_statement,
            "dialect": self.dialect,
            "fence": FENCE,
            "sentinel": SENTINEL,
            "seconds": workspace.command_limit.as_secs(),
        });
        Ok(vec![
            ChatMessage::system(self.prompts.render("bash/system.j2", &values)?),
            ChatMessage::user(self.prompts.render("bash/task.j2", &values)?),
        ])
    }

    fn step(
        &mut self,
        answer: &ChatMessage,
        workspace: &mut Workspace<'_>,
    ) -> Result<Turn, StepError> {
        if answer.tool_calls.is_empty() {
            let found = match answer.text().matches(&format!("```{FENCE}")).count() {
                0 => "none".to_owned(),
                n => n.to_string(),
            };
            let values = json!({
                "dialect": self.dialect, "fence": FENCE, "sentinel": SENTINEL, "found": found,
            });
            return Ok(Turn::said(self.prompts.render("bash/format.j2", values)?));
        }
        let mut acts = Vec::new();
        for call in &answer.tool_calls {
            if call.function.name != "bash" {
                let name = &call.function.name;
                acts.push(wrong(
                    call,
                    format!("there is no tool `{name}`, only `bash`"),
                ));
                continue;
            }
            let command = arguments(call).and_then(|map| {
                serde_json::from_value::<Arguments>(map.into()).map_err(|e| format!("`bash`: {e}"))
            });
            let command = match command {
                Ok(arguments) => arguments.command,
                Err(problem) => {
                    acts.push(wrong(call, problem));
                    continue;
                }
            };
            let ran = workspace.fresh(&command)?;
            let first = ran.text.trim_start().lines().next().unwrap_or_default();
            if first.trim_end() == SENTINEL && ran.exit.success() {
                acts.push(Act {
                    call: call.clone(),
                    observation: "Handed in.".into(),
                    error: false,
                    same_as: None,
                });
                return Ok(Turn {
                    next: Next::Submitted,
                    ..Turn::acted(acts)
                });
            }
            let left_out = ran.text.chars().count().saturating_sub(MOST);
            let observation = self.prompts.render(
                "bash/result.j2",
                json!({
                    "code": ran.code(),
                    "timed_out": ran.exit == Exit::TimedOut,
                    "seconds": workspace.command_limit.as_secs(),
                    "left_out": left_out,
                    "output": shorten(&ran.text, MOST, "[…]").trim_end(),
                }),
            )?;
            acts.push(Act {
                call: call.clone(),
                observation,
                error: false,
                same_as: Some(format!("{command}\n{}", ran.code())),
            });
        }
        Ok(Turn::acted(acts))
    }
}
