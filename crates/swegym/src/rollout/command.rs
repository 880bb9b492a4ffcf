//! Any other agent: a command in the sandbox, with the capture proxy between
//! it and the model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use swegym_agent::episode::{Finished, Ledger, Limits, Seconds};
use swegym_agent::model::{Model, Sampling};
use swegym_agent::proxy::{Proxy, SessionOptions};
use swegym_agent::scaffold::Task;
use swegym_core::{AgentInfo, Bind, Command, End, Exit, Fault, Limit, Sandbox, SandboxSpec};
use swegym_forge::host::{self, Uv};

use super::relay;
use crate::home::Home;
use crate::{Error, hash};

/// Bytes of an agent's own output that are kept.
const OUTPUT: usize = 4 << 20;

/// An agent that is a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAgent {
    /// Script for bash, in the root of the codebase.
    pub script: String,
    /// Python packages (PEP 508) that it comes from.
    pub packages: Vec<String>,
    /// Python that they run on, `3.11`; any without it.
    pub python: Option<String>,
    /// Paths of this machine that the sandbox shows, read-only.
    pub mounts: Vec<(PathBuf, PathBuf)>,
}

impl CommandAgent {
    /// The first program of its script.
    pub fn name(&self) -> &str {
        let words = self.script.split_whitespace();
        let mut programs = words.filter(|word| !word.contains('='));
        programs.next().unwrap_or("command")
    }
}

/// A command agent that is installed.
#[derive(Debug)]
pub(super) struct Installed {
    agent: CommandAgent,
    binds: Vec<Bind>,
    /// Folder with the programs of its packages.
    programs: Option<PathBuf>,
    /// Folder with the sockets of episodes in flight. A socket's path must be
    /// short, so it is not in the run's.
    desks: PathBuf,
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.desks);
    }
}

/// The socket and files of one episode.
pub(super) struct Desk {
    dir: tempfile::TempDir,
}

impl Installed {
    /// Installs an agent's packages, once for all runs. What a killed process
    /// of the same run has left is removed.
    pub fn new(agent: &CommandAgent, home: &Home, run: &Path) -> Result<Self, Error> {
        let run = fs::canonicalize(run).map_err(|e| Error::io(run, e))?;
        let name = hash(run.as_os_str().as_encoded_bytes());
        let desks = std::env::temp_dir().join(format!("swegym-{}", &name[..16]));
        if desks.exists() {
            fs::remove_dir_all(&desks).map_err(|e| Error::io(&desks, e))?;
        }
        fs::create_dir(&desks).map_err(|e| Error::io(&desks, e))?;
        crate::make_traversable(&desks)?;
        let mut binds: Vec<Bind> = agent
            .mounts
            .iter()
            .map(|(source, target)| Bind {
                source: source.clone(),
                target: target.clone(),
                readonly: true,
            })
            .collect();
        let mut programs = None;
        if !agent.packages.is_empty() {
            let place = install(agent, home)?;
            binds.extend(place.iter().map(|path| Bind {
                source: path.clone(),
                target: path.clone(),
                readonly: true,
            }));
            programs = Some(place[0].join("programs"));
        }
        Ok(Self {
            agent: agent.clone(),
            binds,
            programs,
            desks,
        })
    }

    /// A place for an episode, made before its sandbox.
    pub fn desk(&self, task: &Task) -> Result<Desk, Error> {
        let dir = tempfile::tempdir_in(&self.desks).map_err(|e| Error::io(&self.desks, e))?;
        crate::make_traversable(dir.path())?;
        let path = dir.path().join(relay::TASK);
        fs::write(&path, &task.problem_statement).map_err(|e| Error::io(&path, e))?;
        Ok(Desk { dir })
    }

    /// The sandbox of an episode.
    pub fn spec(&self, spec: &SandboxSpec, desk: &Desk) -> Result<SandboxSpec, Error> {
        let own = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
        let mut spec = spec.clone();
        spec.binds.extend(self.binds.clone());
        if let Some(programs) = &self.programs {
            // Behind the task's own programs: `python` stays the task's.
            let path = spec.env.entry("PATH".into()).or_default();
            *path += &format!(":{}", programs.display());
        }
        spec.binds.push(Bind {
            source: own,
            target: RELAY.into(),
            readonly: true,
        });
        spec.binds.push(Bind {
            source: desk.dir.path().to_owned(),
            target: relay::DIR.into(),
            readonly: true,
        });
        Ok(spec)
    }
}

/// Where this program is in a sandbox.
const RELAY: &str = "/run/swegym/relay";

/// What an episode of a command agent needs.
pub(super) struct Run<'a> {
    pub id: &'a str,
    pub attempt: u32,
    pub task: &'a Task,
    pub model: Arc<dyn Model>,
    pub sampling: &'a Sampling,
    pub limits: &'a Limits,
    pub ledger: Arc<dyn Ledger>,
    pub proxy: &'a Proxy,
}

impl Installed {
    /// Runs the agent to its end; also what it wrote to its terminal.
    pub fn run(
        &self,
        run: Run<'_>,
        desk: &Desk,
        sandbox: &mut dyn Sandbox,
    ) -> Result<(Finished, String), Error> {
        let started = Instant::now();
        let socket = desk.dir.path().join(relay::SOCKET);
        let name = run.model.name().to_owned();
        let session = run
            .proxy
            .open(
                &socket,
                SessionOptions {
                    id: run.id.to_owned(),
                    attempt: run.attempt,
                    model: run.model,
                    sampling: run.sampling.clone(),
                    cap_output: true,
                    limits: *run.limits,
                    ledger: run.ledger,
                    stop_file: desk.dir.path().join(relay::STOP),
                },
            )
            .map_err(|e| Error::io(&socket, e))?;
        // The sandbox's user is another one.
        open_to_all(&socket)?;
        let output = sandbox.exec(&self.command(run.task, &name, run.limits))?;
        let transcript = session.finish(AgentInfo {
            name: self.agent.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model_name: Some(name),
            ..AgentInfo::default()
        });
        let log = output.stdout.text();
        let end = transcript.end.unwrap_or_else(|| match output.exit {
            Exit::TimedOut => End::Truncated { limit: Limit::Time },
            // An agent that fails without a word to the model was not run.
            exit if !exit.success() && transcript.turns == 0 => End::Failed {
                by: Fault::Swegym,
                why: format!(
                    "the agent made no call and ended with {exit:?}: {}",
                    last(&log)
                ),
            },
            _ => End::Submitted,
        });
        let mut trajectory = transcript.trajectory;
        trajectory.final_metrics = Some(transcript.usage.sums(trajectory.steps.len()));
        let total = started.elapsed().as_secs_f64();
        let finished = Finished {
            end,
            trajectory,
            usage: transcript.usage,
            turns: transcript.turns,
            seconds: Seconds {
                total,
                model: transcript.model_seconds,
                // What the agent itself does cannot be told from its commands.
                commands: (total - transcript.model_seconds).max(0.0),
            },
            rejected: transcript.rejected,
        };
        Ok((finished, log))
    }

    fn command(&self, task: &Task, model: &str, limits: &Limits) -> Command {
        let script = self.agent.script.clone();
        let argv = [RELAY.to_owned(), relay::ARGUMENT.into(), script];
        let mut command = Command::new(argv);
        command.cwd = Some(task.workdir.clone().into());
        command.merge_stderr = true;
        command.output_limit = Some(OUTPUT);
        // A little later than the proxy's own limit, which has a name.
        command.timeout = limits.time.map(|limit| limit + Duration::from_secs(5));
        for (name, value) in [
            (
                "SWEGYM_TASK_FILE",
                format!("{}/{}", relay::DIR, relay::TASK),
            ),
            (
                "SWEGYM_TASK",
                task.problem_statement.chars().take(30_000).collect(),
            ),
            ("SWEGYM_INSTANCE_ID", task.instance_id.clone()),
            ("SWEGYM_MODEL", model.to_owned()),
            // Clients want some key; the real one is not here.
            ("OPENAI_API_KEY", "swegym".to_owned()),
            ("ANTHROPIC_API_KEY", "swegym".to_owned()),
        ] {
            command.env.insert(name.into(), value);
        }
        command
    }
}

fn last(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

fn open_to_all(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(|e| Error::io(path, e))
}

/// Installs packages into a virtual environment of their own. Gives the
/// folders that a sandbox has to show: the environment's, and that of its
/// interpreter.
fn install(agent: &CommandAgent, home: &Home) -> Result<Vec<PathBuf>, Error> {
    let known = host::discover();
    let wanted = agent.python.as_deref();
    let fits = |version: &str| wanted.is_none_or(|w| version.starts_with(w));
    let interpreter = known
        .iter()
        .filter(|i| fits(&i.version.to_string()) && i.version.major == 3)
        .max_by_key(|i| (i.version.major, i.version.minor))
        .ok_or_else(|| {
            let version = wanted.unwrap_or("3");
            Error::setup(
                format!("there is no Python {version} for the agent's packages"),
                "`swegym doctor` lists those that were found; name another with --agent-python",
            )
        })?;
    let key = hash(format!("1 {:?} {:?}", agent.packages, interpreter.executable).as_bytes());
    let dir = home.root().join("agents").join(&key[..16]);
    let mut shown = vec![dir.clone()];
    if !interpreter.prefix.starts_with("/usr") {
        shown.push(interpreter.prefix.clone());
    }
    if dir.join("programs").is_dir() {
        return Ok(shown);
    }
    let uv =
        Uv::find_or_install(&home.tools(), &known).map_err(|e| Error::setup(e.to_string(), ""))?;
    fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
    let venv = dir.join("venv");
    let mut make = process::Command::new(&uv.path);
    make.arg("venv")
        .arg("--quiet")
        .arg("--clear")
        .arg("--python");
    make.arg(&interpreter.executable).arg(&venv);
    finish(make)?;
    let mut add = process::Command::new(&uv.path);
    add.args([
        "pip",
        "install",
        "--quiet",
        "--compile-bytecode",
        "--python",
    ]);
    add.arg(venv.join("bin/python")).args(&agent.packages);
    finish(add)?;
    link_programs(&venv.join("bin"), &dir)?;
    Ok(shown)
}

fn finish(mut command: process::Command) -> Result<(), Error> {
    let what = format!("{command:?}");
    let output = command
        .output()
        .map_err(|e| Error::setup(format!("{what}: {e}"), ""))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::setup(
        format!(
            "the agent's packages cannot be installed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        "check --agent-package; is the package registry reachable?",
    ))
}

/// Links to the programs of the packages, without interpreters and pip. The
/// folder appears when it is whole.
fn link_programs(bin: &Path, dir: &Path) -> Result<(), Error> {
    let io = |e| Error::io(dir, e);
    let temp = tempfile::Builder::new().tempdir_in(dir).map_err(io)?;
    crate::make_traversable(temp.path())?;
    for entry in fs::read_dir(bin).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let own = ["python", "pip", "activate", "deactivate", "pydoc"]
            .iter()
            .any(|tool| name.starts_with(tool));
        if !own {
            std::os::unix::fs::symlink(&path, temp.path().join(&name)).map_err(io)?;
        }
    }
    fs::rename(temp.keep(), dir.join("programs")).map_err(io)
}
