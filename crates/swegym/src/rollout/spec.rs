//! Which agent, which model: the words of the command line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use swegym_agent::model::{
    Anthropic, HttpOptions, Line, Model, OpenAi, Prices, Script, ScriptedCall,
};
use swegym_agent::scaffold::{
    Bash, CodeAct, Definition, Dialect, Outline, Prompts, Repair, Scaffold, Workflow,
};
use swegym_core::{Instance, StepSource, Trajectory};
use swegym_data::patch::Tree;

use super::command::CommandAgent;
use super::gold;
use super::runs::Run;
use crate::home::Home;
use crate::local::Local;
use crate::{Error, models};

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSpec {
    /// Shell, editor, finish.
    CodeAct,
    /// The state machine.
    Workflow,
    /// One edit of the likeliest functions.
    Repair,
    /// A shell alone.
    Bash,
    /// Any other agent: a command in the sandbox.
    Command(CommandAgent),
}

impl AgentSpec {
    /// Reads `codeact`, `workflow`, `repair`, `bash` or `cmd:…`.
    ///
    /// # Errors
    /// Any other word.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(script) = text.strip_prefix("cmd:") {
            return Ok(Self::Command(CommandAgent {
                script: script.trim().to_owned(),
                packages: Vec::new(),
                python: None,
                mounts: Vec::new(),
            }));
        }
        match text {
            "codeact" => Ok(Self::CodeAct),
            "workflow" => Ok(Self::Workflow),
            "repair" => Ok(Self::Repair),
            "bash" => Ok(Self::Bash),
            other => Err(Error::input(
                format!("--agent: there is no agent {other:?}"),
                "use codeact, workflow, repair, bash, or 'cmd: …' for a command",
            )),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CodeAct => "codeact",
            Self::Workflow => "workflow",
            Self::Repair => "repair",
            Self::Bash => "bash",
            Self::Command(_) => "cmd",
        }
    }

    /// The command, where that is the agent.
    pub fn command(&self) -> Option<&CommandAgent> {
        match self {
            Self::Command(agent) => Some(agent),
            _ => None,
        }
    }

    /// A new agent for an episode; none where a command is the agent.
    pub fn scaffold(&self, prompts: &Prompts, dialect: Dialect) -> Option<Box<dyn Scaffold>> {
        let prompts = prompts.clone();
        Some(match self {
            Self::CodeAct => Box::new(CodeAct::new(prompts)),
            Self::Bash => Box::new(Bash::new(prompts, dialect)),
            Self::Workflow => Box::new(Workflow::new(prompts, dialect, Arc::new(Python))),
            Self::Repair => Box::new(Repair::new(prompts, dialect, Arc::new(Python))),
            Self::Command(_) => return None,
        })
    }
}

/// Outlines of Python, by the parser that tasks are made with.
struct Python;

impl Outline for Python {
    fn definitions(&self, source: &str) -> Vec<Definition> {
        let items = swegym_forge::outline::outline(source).unwrap_or_default();
        let items = items.into_iter().map(|item| Definition {
            name: item.name,
            start: item.first_line,
            end: item.last_line,
        });
        items.collect()
    }

    fn syntax_error(&self, source: &str) -> Option<String> {
        let error = swegym_forge::outline::outline(source).err()?;
        Some(error.to_string())
    }
}

/// A model, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSpec {
    /// `openai:NAME[@URL]`.
    OpenAi {
        /// Model name.
        name: String,
        /// Base URL.
        url: String,
    },
    /// `anthropic:NAME[@URL]`.
    Anthropic {
        /// Model name.
        name: String,
        /// Base URL.
        url: String,
    },
    /// `local:MODEL`: a model that this program runs, by a name or path of
    /// [`crate::models::open`].
    Local(String),
    /// `scripted:FILE`: says the lines of a file.
    Scripted(PathBuf),
    /// `replay:RUN`: says what the model of an earlier run said.
    Replay(PathBuf),
    /// `gold`: plays each instance's gold patch.
    Gold,
    /// `patches:FILE`: plays predictions.
    Patches(PathBuf),
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenAi { name, url } => write!(f, "openai:{name}@{url}"),
            Self::Anthropic { name, url } => write!(f, "anthropic:{name}@{url}"),
            Self::Local(model) => write!(f, "local:{model}"),
            Self::Scripted(path) => write!(f, "scripted:{}", path.display()),
            Self::Replay(path) => write!(f, "replay:{}", path.display()),
            Self::Gold => f.write_str("gold"),
            Self::Patches(path) => write!(f, "patches:{}", path.display()),
        }
    }
}

const KINDS: &str = "use openai:NAME@URL, anthropic:NAME, local:MODEL, scripted:FILE, replay:RUN, patches:FILE or gold";

impl ModelSpec {
    /// Reads a model's name.
    ///
    /// # Errors
    /// If it is of no known kind.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let env = |name: &str, default: &str| {
            let set = std::env::var(name).ok().filter(|v| !v.is_empty());
            set.unwrap_or_else(|| default.to_owned())
        };
        if text == "gold" {
            return Ok(Self::Gold);
        }
        let wrong = || Error::input(format!("--model: {text:?} names no model"), KINDS);
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        if rest.is_empty() {
            return Err(wrong());
        }
        // Names may hold `@`; an address begins with a scheme.
        let split = rest
            .rsplit_once("@http")
            .map(|(name, tail)| (name.to_owned(), format!("http{tail}")));
        match kind {
            "openai" => {
                let (name, url) = split.unwrap_or_else(|| {
                    let url = env("OPENAI_BASE_URL", "https://api.openai.com/v1");
                    (rest.to_owned(), url)
                });
                Ok(Self::OpenAi { name, url })
            }
            "anthropic" => {
                let (name, url) = split.unwrap_or_else(|| {
                    let url = env("ANTHROPIC_BASE_URL", "https://api.anthropic.com");
                    (rest.to_owned(), url)
                });
                Ok(Self::Anthropic { name, url })
            }
            "local" => Ok(Self::Local(rest.into())),
            "scripted" => Ok(Self::Scripted(rest.into())),
            "replay" => Ok(Self::Replay(rest.into())),
            "patches" => Ok(Self::Patches(rest.into())),
            _ => Err(wrong()),
        }
    }

    /// `model_name_or_path` of its predictions.
    pub fn name(&self) -> String {
        let stem = |path: &Path| {
            let stem = path.file_stem().unwrap_or_default();
            stem.to_string_lossy().into_owned()
        };
        match self {
            Self::OpenAi { name, .. } | Self::Anthropic { name, .. } => name.clone(),
            Self::Local(model) => models::short_name(model),
            Self::Scripted(path) => format!("scripted-{}", stem(path)),
            Self::Replay(path) => format!("replay-{}", stem(path)),
            Self::Patches(path) => format!("patches-{}", stem(path)),
            Self::Gold => "gold".into(),
        }
    }

    /// Whether calls cost money.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::OpenAi { .. } | Self::Anthropic { .. })
    }

    /// Opens one that says the same to everybody, see [`Self::open`].
    ///
    /// # Errors
    /// If it plays episodes of tasks, and as [`Self::open`].
    pub fn open_shared(
        &self,
        home: &Home,
        prices: Option<Prices>,
        http: HttpOptions,
    ) -> Result<Arc<dyn Model>, Error> {
        match self.open(home, prices, http)? {
            Models::Shared(model) => Ok(model),
            Models::Scripted { name, lines } => Ok(Arc::new(Script::new(name, lines))),
            Models::Replay { .. } | Models::Patches { .. } => Err(Error::input(
                format!("--model: {self} plays episodes, and nothing else"),
                "use openai:NAME@URL, anthropic:NAME, local:MODEL or scripted:FILE",
            )),
        }
    }

    /// Opens it. Keys come from the environment (`OPENAI_API_KEY`,
    /// `ANTHROPIC_API_KEY`) and are written nowhere.
    ///
    /// # Errors
    /// If a file is missing or wrong, or there is no key.
    pub fn open(
        &self,
        home: &Home,
        prices: Option<Prices>,
        http: HttpOptions,
    ) -> Result<Models, Error> {
        let key = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        Ok(match self {
            Self::OpenAi { name, url } => {
                let key = key("OPENAI_API_KEY");
                let model = OpenAi::new(name, url, key.as_deref(), prices, http);
                Models::Shared(Arc::new(model))
            }
            Self::Anthropic { name, url } => {
                let key = key("ANTHROPIC_API_KEY").ok_or_else(|| {
                    Error::input(
                        "there is no key for Anthropic's API",
                        "set ANTHROPIC_API_KEY; it is written nowhere",
                    )
                })?;
                Models::Shared(Arc::new(Anthropic::new(name, url, &key, prices, http)))
            }
            Self::Local(model) => Models::Shared(Arc::new(Local::open(home, model)?)),
            Self::Scripted(path) => Models::Scripted {
                name: self.name(),
                lines: read_script(path)?,
            },
            Self::Replay(path) => Models::Replay {
                name: self.name(),
                run: Box::new(Run::read(path)?),
            },
            Self::Gold => Models::Patches {
                name: self.name(),
                patches: None,
            },
            Self::Patches(path) => {
                let read = swegym_data::read_predictions(path)?;
                let patches = read.into_iter().map(|located| {
                    let p = located.prediction;
                    let patch = p.patch().unwrap_or_default().to_owned();
                    (p.instance_id, patch)
                });
                Models::Patches {
                    name: self.name(),
                    patches: Some(patches.collect()),
                }
            }
        })
    }
}

/// Models of a run.
pub enum Models {
    /// One for all episodes.
    Shared(Arc<dyn Model>),
    /// Lines of a file, from the first in each episode.
    Scripted {
        /// Its name.
        name: String,
        /// All lines.
        lines: Vec<Line>,
    },
    /// What was said in another run.
    Replay {
        /// Its name.
        name: String,
        /// That run.
        run: Box<Run>,
    },
    /// Patches.
    Patches {
        /// Its name.
        name: String,
        /// By instance; gold without any.
        patches: Option<std::collections::HashMap<String, String>>,
    },
}

impl Models {
    /// The model of one episode. `tree` is the codebase as the agent finds
    /// it.
    ///
    /// # Errors
    /// If there is nothing to say in it.
    pub fn model(
        &self,
        instance: &Instance,
        sample: u32,
        scaffold: &str,
        tree: &dyn Tree,
    ) -> Result<Arc<dyn Model>, Error> {
        let id = &instance.instance_id;
        Ok(match self {
            Self::Shared(model) => model.clone(),
            Self::Scripted { name, lines } => {
                let fits = |line: &&Line| line.instance_id.as_ref().is_none_or(|i| i == id);
                let lines = lines.iter().filter(fits).cloned().collect();
                Arc::new(Script::new(name, lines))
            }
            Self::Replay { name, run } => {
                let trajectory = run.trajectory(id, sample)?;
                Arc::new(Script::new(name, said(&trajectory)))
            }
            Self::Patches { name, patches } => {
                let patch = match patches {
                    None => &instance.patch,
                    Some(patches) => patches.get(id).ok_or_else(|| {
                        Error::input(format!("no prediction for {id}"), "leave it out of --tasks")
                    })?,
                };
                gold::player(name, scaffold, patch, tree)?.into()
            }
        })
    }
}

/// What the model of a trajectory said.
fn said(trajectory: &Trajectory) -> Vec<Line> {
    let steps = trajectory.steps.iter();
    let steps = steps.filter(|step| step.source == StepSource::Agent);
    steps
        .map(|step| Line {
            content: step.message.text(),
            tool_calls: step
                .tool_calls
                .iter()
                .flatten()
                .map(|call| ScriptedCall {
                    name: call.function_name.clone(),
                    arguments: call.arguments.clone(),
                })
                .collect(),
            ..Line::default()
        })
        .collect()
}

fn read_script(path: &Path) -> Result<Vec<Line>, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let numbered = text.lines().enumerate();
    numbered
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|e| {
                Error::input(
                    format!("{}:{}: {e}", path.display(), number + 1),
                    "a line is {\"content\": …, \"tool_calls\": [{\"name\", \"arguments\"}]}",
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_says_where_it_is() {
        let at = |text: &str| ModelSpec::parse(text).map(|spec| spec.to_string());
        assert_eq!(
            at("openai:org/m@v2@http://127.0.0.1:8000/v1").unwrap(),
            "openai:org/m@v2@http://127.0.0.1:8000/v1"
        );
        assert_eq!(at("gold").unwrap(), "gold");
        assert_eq!(at("replay:runs/a").unwrap(), "replay:runs/a");
        for wrong in ["", "openai:", "local", "telepathy:x"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
