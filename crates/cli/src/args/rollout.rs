//! Options of rollouts, their runs and trajectories.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::RunArgs;

const ROLLOUT_HELP: &str = "\
Examples:
  swegym rollout --tasks tasks.jsonl --agent codeact --model gold --run-id check
  swegym rollout --tasks tasks.jsonl --agent bash --run-id qwen \\
      --model openai:qwen3-32b@http://127.0.0.1:8000/v1 \\
      --samples 8 --temperature 0.7 --workers 64
  swegym rollout --tasks tasks.jsonl --agent codeact --run-id sonnet \\
      --model anthropic:claude-sonnet-4-5 \\
      --prices 3/15/0.3 --max-cost 1 --budget 100
  swegym rollout --tasks tasks.jsonl --run-id mini --model openai:NAME@URL \\
      --agent-package mini-swe-agent \\
      --agent 'cmd: mini -y -m openai/$SWEGYM_MODEL -t \"$SWEGYM_TASK\"'

A command agent runs in the root of the codebase, without network but for the
model: OPENAI_BASE_URL and ANTHROPIC_BASE_URL lead to the run's model, whatever
it is. SWEGYM_TASK and SWEGYM_TASK_FILE hold the issue, SWEGYM_MODEL the model.

Models: openai:NAME@URL, anthropic:NAME, local:PATH (a folder with config.json and
*.safetensors, or a .gguf file; run by this program), scripted:FILE, replay:RUN,
patches:FILE, gold. Keys come from OPENAI_API_KEY and ANTHROPIC_API_KEY, and are written nowhere.
A killed run goes on where it was with the same command.";

#[derive(Debug, Args)]
#[command(after_help = ROLLOUT_HELP)]
pub struct RolloutArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Agent: codeact, workflow, repair, bash, or 'cmd: …' for any other
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// Model, such as openai:NAME@URL
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Episodes of each instance
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub samples: u32,
    /// Python packages that a command agent comes from
    #[arg(
        help_heading = "Agent",
        long = "agent-package",
        value_name = "REQUIREMENT"
    )]
    pub agent_packages: Vec<String>,
    /// Python that they run on, such as 3.11
    #[arg(help_heading = "Agent", long, value_name = "VERSION")]
    pub agent_python: Option<String>,
    /// Path of this machine that a command agent sees, read-only
    #[arg(help_heading = "Agent", long = "agent-mount", value_name = "PATH[:INSIDE]", value_parser = mount)]
    pub agent_mounts: Vec<(PathBuf, PathBuf)>,
    /// How tools are spoken of: the API's function calling, or text, which is
    /// what models run by this program know [default: tools, or text for local:]
    #[arg(help_heading = "Agent", long, value_enum)]
    pub dialect: Option<DialectKind>,
    /// Folder with templates that replace built-in ones
    #[arg(help_heading = "Agent", long, value_name = "DIR")]
    pub prompts: Option<PathBuf>,
    /// Sampling temperature
    #[arg(help_heading = "Model", long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Nucleus sampling
    #[arg(help_heading = "Model", long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Most tokens of one answer
    #[arg(help_heading = "Model", long, value_name = "N", default_value_t = 4096)]
    pub max_output_tokens: u64,
    /// Seed of the first sample, where the provider takes one
    #[arg(help_heading = "Model", long, value_name = "N")]
    pub seed: Option<u64>,
    /// More fields of every request, such as '{"top_k": 20}'
    #[arg(help_heading = "Model", long, value_name = "JSON")]
    pub request: Option<String>,
    /// Ask for the ids and log-probabilities of tokens (vLLM, SGLang)
    #[arg(help_heading = "Model", long)]
    pub token_ids: bool,
    /// Prices, US dollars per million tokens, where the provider tells no cost
    #[arg(help_heading = "Model", long, value_name = "IN/OUT[/CACHED]", value_parser = prices)]
    pub prices: Option<(f64, f64, f64)>,
    /// Longest call of the model, seconds
    #[arg(help_heading = "Model", long, value_name = "S", default_value_t = 600)]
    pub request_timeout: u64,
    /// Tries of a call before the provider counts as failed
    #[arg(help_heading = "Model", long, value_name = "N", default_value_t = 8)]
    pub request_attempts: u32,
    /// Most calls of the model in an episode
    #[arg(help_heading = "Limits", long, value_name = "N", default_value_t = 50)]
    pub max_turns: u32,
    /// Most tokens of an episode, prompts and answers together
    #[arg(help_heading = "Limits", long, value_name = "N")]
    pub max_tokens: Option<u64>,
    /// Most tokens of one call, prompt and answer
    #[arg(help_heading = "Limits", long, value_name = "N")]
    pub max_context: Option<u64>,
    /// Most that an episode may cost, US dollars
    #[arg(help_heading = "Limits", long, value_name = "USD")]
    pub max_cost: Option<f64>,
    /// Longest episode, seconds
    #[arg(
        help_heading = "Limits",
        long,
        value_name = "S",
        default_value_t = 7200
    )]
    pub max_time: u64,
    /// Longest command, seconds
    #[arg(help_heading = "Limits", long, value_name = "S", default_value_t = 300)]
    pub command_timeout: u64,
    /// Most that the run may spend, US dollars, all episodes together
    #[arg(help_heading = "Limits", long, value_name = "USD")]
    pub budget: Option<f64>,
    /// Episodes in flight at once
    #[arg(help_heading = "Work", long, value_name = "N", default_value_t = 16)]
    pub workers: usize,
    /// Commands and test runs at once, instead of twice the cores
    #[arg(help_heading = "Work", long, value_name = "N")]
    pub commands: Option<usize>,
    /// Tries of an episode that the machine or the provider broke
    #[arg(help_heading = "Work", long, value_name = "N", default_value_t = 3)]
    pub attempts: u32,
    /// Do not grade; the same command without this does it later
    #[arg(help_heading = "Work", long)]
    pub no_grade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DialectKind {
    /// Function calling of the API
    Tools,
    /// Text that holds the calls
    Text,
}

fn mount(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (source, target) = text.split_once(':').unwrap_or((text, text));
    let source = std::path::absolute(source).map_err(|e| e.to_string())?;
    let target = if target == text {
        source.clone()
    } else {
        target.into()
    };
    if !source.exists() {
        return Err(format!("{}: no such file or directory", source.display()));
    }
    if !target.is_absolute() {
        return Err("the path inside is not absolute".into());
    }
    Ok((source, target))
}

fn prices(text: &str) -> Result<(f64, f64, f64), String> {
    let wrong = || "expected IN/OUT or IN/OUT/CACHED, such as 3/15/0.3".to_owned();
    let numbers: Vec<f64> = text
        .split('/')
        .map(|part| {
            part.parse()
                .ok()
                .filter(|n: &f64| n.is_finite() && *n >= 0.0)
        })
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    match numbers[..] {
        [input, output] => Ok((input, output, input)),
        [input, output, cached] => Ok((input, output, cached)),
        _ => Err(wrong()),
    }
}

#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Print the runs of a folder
    List {
        /// Folder of runs
        #[arg(default_value = "runs", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print the episodes of a run
    Show {
        /// Folder of the run
        #[arg(value_name = "RUN")]
        run: PathBuf,
    },
    /// Compare two runs on the instances that both have, with a test
    Compare {
        /// Folder of the first run
        #[arg(value_name = "RUN")]
        first: PathBuf,
        /// Folder of the second
        #[arg(value_name = "RUN")]
        second: PathBuf,
    },
    /// Make other things of the trajectories of runs
    Export(ExportArgs),
}

#[derive(Debug, Subcommand)]
pub enum TrajectoriesCommand {
    /// Print trajectories for people, or with --json as ATIF
    Show {
        /// A run, a file, or a folder of files
        path: PathBuf,
        /// Only of this instance
        #[arg(long, value_name = "ID")]
        instance: Option<String>,
    },
    /// Read trajectories of other agents and write them as ATIF, one a line
    Import {
        /// Files or folders: mini-swe-agent, SWE-agent, OpenHands, SWE-Gym's
        /// rows, Moatless, ATIF; their formats are told by themselves
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make other things of trajectories
    Export(ExportArgs),
    /// Count them: resolved, without a patch, stuck, turns, tokens
    Stats {
        /// Runs, files or folders
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swegym runs export runs/mine --to text --out sft.jsonl
  swegym runs export runs/mine runs/mini --to preference --out pairs.jsonl
  swegym trajectories export sampled.jsonl.gz --to atif --out sampled.atif.jsonl")]
pub struct ExportArgs {
    /// Runs, files, or folders of files
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// What to make of them
    #[arg(long, value_enum)]
    pub to: ExportTarget,
    /// File, or for mini and harbor folder, to write
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Also those that are not resolved or not graded, in rows for a policy
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportTarget {
    /// ATIF 1.8, one a line
    Atif,
    /// What they were imported from, as it was
    Native,
    /// mini-swe-agent's folder with preds.json
    Mini,
    /// SWE-bench's predictions
    Predictions,
    /// A job of Harbor's
    Harbor,
    /// Chat messages with tools, with a weight each
    Chat,
    /// Chat messages of text alone, calls in the reference's form
    Text,
    /// ShareGPT's conversations
    Sharegpt,
    /// Prompt, completion, label
    Kto,
    /// Prompt, chosen, rejected
    Preference,
    /// Rows for a verifier
    Verifier,
    /// Token ids with a mask
    Tokens,
}
