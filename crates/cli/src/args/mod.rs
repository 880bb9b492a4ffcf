//! The command line, exactly as typed. Needs no I/O; the commands make sense
//! of it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

mod improve;
mod learn;
mod rollout;
mod train;

pub use improve::{BestOfArgs, ImproveArgs, RankingKind};
pub use learn::{
    DtypeKind, FormKind, HandOverArgs, InferenceArgs, ModelForm, ModelsCommand, PartArgs, PartBy,
    RowsKind, ScoreArgs, ScoringArgs, ServeArgs, SplitPart, StudyCommand, TrainerKind,
};
pub use train::{ScheduleKind, TrainArgs, TrainKind};

pub use rollout::{
    DialectKind, ExportArgs, ExportTarget, RolloutArgs, RunsCommand, TrajectoriesCommand,
};

/// Train and evaluate software-engineering agents on real tasks.
#[derive(Debug, Parser)]
#[command(name = "swegym", version, propagate_version = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  swegym doctor                                   what this machine offers
  swegym demo                                     the main job, on real packages
  swegym collect pypi humanize                    candidates from its releases
  swegym collect git ./project                    candidates from its commits
  swegym synth humanize                           tasks from injected bugs
  swegym evaluate --tasks tasks.jsonl --predictions gold --run-id check
  swegym rollout --tasks tasks.jsonl --agent codeact --model gold --run-id try
  swegym logs parse --parser parse_log_pytest test_output.txt

Exit codes: 0 done; 1 done, and something was found; 2 usage; 3 wrong input;
4 environment not built; 5 the machine lacks something; 70 a fault of swegym;
130 interrupted, the same command resumes.";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print data as JSON on stdout; everything for people goes to stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Say only what went wrong
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Folder for caches (environments, mirrors, downloads)
    #[arg(long, global = true, env = "SWEGYM_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// What makes sandboxes
    #[arg(
        long,
        global = true,
        env = "SWEGYM_BACKEND",
        value_enum,
        default_value_t
    )]
    pub backend: BackendKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BackendKind {
    /// Namespaces of the kernel
    #[default]
    Native,
    /// Containers of podman: slower, for machines without user namespaces
    Podman,
    /// Containers of docker
    Docker,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell what this machine offers, and what to do about what it lacks
    Doctor,
    /// Run the main job on real packages from the registry
    Demo(DemoArgs),
    /// Collect candidates for tasks from releases of packages, or from the
    /// history of a repository
    #[command(subcommand)]
    Collect(CollectCommand),
    /// Make tasks by injecting bugs into functions that tests cover
    Synth(SynthArgs),
    /// Run candidates, and keep those that hold as tasks
    Validate(ValidateArgs),
    /// Look at, count, convert and check datasets
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// Build and keep the environments of tasks
    #[command(subcommand)]
    Env(EnvCommand),
    /// Let agents work on tasks, and grade what they made
    Rollout(Box<RolloutArgs>),
    /// Look at rollout runs, compare and export them
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Look at trajectories, of ours and of other agents, and make other
    /// things of them
    #[command(subcommand)]
    Trajectories(TrajectoriesCommand),
    /// Look at, fetch and write models that this program runs
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Serve a model as the OpenAI API
    Serve(ServeArgs),
    /// Make training rows of runs, for `train` or another trainer
    Export(Box<HandOverArgs>),
    /// Fine-tune a model: a policy on what resolved, a verifier on what did
    /// and did not
    Train(Box<TrainArgs>),
    /// Score attempts by how likely they resolved their issue
    Score(ScoreArgs),
    /// Choose the likeliest attempt at each instance, as predictions
    BestOf(BestOfArgs),
    /// Make a policy better: demonstrations, fine-tuning, rejection sampling,
    /// a verifier, all measured on tasks that are held out
    Improve(Box<ImproveArgs>),
    /// Measure how results scale
    #[command(subcommand)]
    Study(StudyCommand),
    /// Grade predictions
    Evaluate(EvaluateArgs),
    /// Read the logs of test runs
    #[command(subcommand)]
    Logs(LogsCommand),
    /// Measure this machine and program beside their peers
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages into a folder
    Man { dir: PathBuf },
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Other releases than the demo's own, such as sqlparse:0.5.0:0.5.1
    #[arg(long = "release", value_name = "NAME:OLD:NEW", value_parser = release)]
    pub releases: Vec<(String, String, String)>,
    /// Folder for the run and its report
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    pub out: PathBuf,
    /// Tests in flight at once
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

fn release(text: &str) -> Result<(String, String, String), String> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [name, old, new] => Ok((name.into(), old.into(), new.into())),
        _ => Err("expected NAME:OLD:NEW".into()),
    }
}

#[derive(Debug, Subcommand)]
pub enum CollectCommand {
    /// From consecutive releases of packages: what a release changed in its
    /// sources is the gold patch, what it changed in its tests the hidden tests
    #[command(after_help = "\
Examples:
  swegym collect pypi humanize sqlparse --out candidates
  swegym collect pypi attrs --since 22.1.0 --limit 5
Writes DIR/candidates.jsonl, and DIR/raw.jsonl with what fell out and why.
`swegym validate DIR/candidates.jsonl` makes tasks of them.")]
    Pypi(CollectPypiArgs),
    /// From the history of a repository: from its commits, or from pull
    /// requests and the issues they resolve
    #[command(after_help = "\
Examples:
  swegym collect git ./project --since 2024-01-01 --out candidates
  swegym collect git https://host.example/owner/name.git --limit 500
  swegym collect git owner/name --pulls pulls.jsonl --issues issues.jsonl
  GITHUB_TOKEN=… swegym collect git owner/name --github --since 2024-01-01
Writes DIR/candidates.jsonl, and DIR/raw.jsonl with every change that was looked
at and, where it fell out, why. A killed run goes on where it was.
`swegym validate DIR/candidates.jsonl` makes tasks of them.")]
    Git(CollectGitArgs),
}

#[derive(Debug, Args)]
pub struct CollectGitArgs {
    /// Folder of a repository, address to clone, or OWNER/NAME of a mirror
    #[arg(value_name = "PATH|URL")]
    pub repository: String,
    /// Pull requests: a dump of GitHub's API, one object a line
    #[arg(long, value_name = "FILE")]
    pub pulls: Option<PathBuf>,
    /// Issues and their comments, likewise (else issues.jsonl beside the pull
    /// requests)
    #[arg(long, value_name = "FILE", requires = "pulls")]
    pub issues: Option<PathBuf>,
    /// Ask GitHub for the pull requests and their issues, with a token; they
    /// are kept in DIR/github
    #[cfg(feature = "github")]
    #[arg(long, conflicts_with = "pulls")]
    pub github: bool,
    /// Variable that holds the token
    #[cfg(feature = "github")]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "GITHUB_TOKEN",
        requires = "github"
    )]
    pub token_env: String,
    /// Address of GitHub's API
    #[cfg(feature = "github")]
    #[arg(
        long,
        value_name = "URL",
        env = "GITHUB_API_URL",
        default_value = "https://api.github.com"
    )]
    pub api_url: String,
    /// Longest wait for GitHub's rate limit, seconds; beyond it the command
    /// stops, to be run again
    #[cfg(feature = "github")]
    #[arg(long, value_name = "S", default_value_t = 3900, requires = "github")]
    pub max_wait: u64,
    /// Name of the repository, where its address or folder does not say it
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository)]
    pub repo: Option<String>,
    /// First day (or moment) of commits, or of the opening of pull requests
    #[arg(long, value_name = "DATE", value_parser = first_moment)]
    pub since: Option<Timestamp>,
    /// Last day (or moment) likewise
    #[arg(long, value_name = "DATE", value_parser = last_moment)]
    pub until: Option<Timestamp>,
    /// Most changes to look at: the newest commits, or the first pull requests
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Which files of a change are its tests, and which its solution
    #[arg(long, value_enum, value_name = "RULE", default_value_t)]
    pub split: SplitBy,
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "collected")]
    pub out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum SplitBy {
    /// Tests by folder and name; documents are on neither side
    #[default]
    Ours,
    /// As SWE-bench: `test` or `e2e` anywhere in the path; all else is solution
    Swebench,
}

fn repository(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((owner, name)) if !owner.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("expected OWNER/NAME".into()),
    }
}

fn first_moment(text: &str) -> Result<Timestamp, String> {
    swegym::collect::git::moment(text, false)
}

fn last_moment(text: &str) -> Result<Timestamp, String> {
    swegym::collect::git::moment(text, true)
}

#[derive(Debug, Args)]
pub struct CollectPypiArgs {
    /// Packages of the registry
    #[arg(required = true, value_name = "PACKAGE")]
    pub packages: Vec<String>,
    /// First release to fix something in (with one package)
    #[arg(long, value_name = "VERSION")]
    pub since: Option<String>,
    /// Last release that may be the fix (with one package)
    #[arg(long, value_name = "VERSION")]
    pub until: Option<String>,
    /// Most pairs of releases for each package, the newest first
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "collected")]
    pub out: PathBuf,
    /// Packages in flight at once
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swegym synth humanize --per-function 2 --out bugs
  swegym synth sqlparse==0.5.0 --operators comparison,boundary --limit 200
  swegym synth ./my-project
  swegym synth humanize --per-function 0 --model openai:NAME@URL --limit 50
Writes DIR/tasks.jsonl, and DIR/rejected.jsonl with what fell out and why.
The same seed and inputs give the same tasks; a killed run goes on where it was.")]
pub struct SynthArgs {
    /// Packages (name or name==version), folders, or datasets of tasks
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Bugs to try in each function
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub per_function: usize,
    /// Families of operators, joined by commas (all without it): comparison,
    /// boundary, arithmetic, boolean, condition, constant, return, argument,
    /// branch, call, name, exception, slice, default, loop, assignment, async,
    /// comprehension, method
    #[arg(long, value_name = "FAMILIES")]
    pub operators: Option<String>,
    /// Bugs of two or three changes to try in each file
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub combined: usize,
    /// Most bugs to try in each codebase
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Another seed, other bugs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Leave the tests that find a bug in the codebase (no twin mutants then)
    #[arg(long)]
    pub visible_tests: bool,
    /// Most test files that a bug is run against
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub test_files: usize,
    /// Model that also breaks functions, such as openai:NAME@URL
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// Times that each function is asked for
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "model",
        help_heading = "Model"
    )]
    pub rewrites: usize,
    /// Sampling temperature
    #[arg(long, value_name = "T", requires = "model", help_heading = "Model")]
    pub temperature: Option<f64>,
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "synthesised")]
    pub out: PathBuf,
    /// Bugs in flight at once
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swegym validate collected/candidates.jsonl --out tasks
  swegym validate SWE-Gym/SWE-Gym-Lite --instance getmoto__moto-7365
Candidates that `collect pypi` made are whole releases: they are split first,
where their parts stand on their own.
Writes DIR/tasks.jsonl, DIR/rejected.jsonl with the reason of each, DIR/logs and
DIR/funnel.json. A killed run goes on where it was.")]
pub struct ValidateArgs {
    /// Dataset: a file, folder, or hub name
    pub file: String,
    /// Only these instances
    #[arg(long = "instance", value_name = "ID")]
    pub instances: Vec<String>,
    /// Runs with the gold patch, besides one backwards
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub repeats: usize,
    /// Wall-time limit of one test run, seconds
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub timeout: u64,
    /// Make no twin mutants
    #[arg(long)]
    pub no_twins: bool,
    /// Try no tampering patches
    #[arg(long)]
    pub no_cheats: bool,
    /// Keep releases whole, instead of splitting them into independent tasks
    #[arg(long)]
    pub whole: bool,
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "validated")]
    pub out: PathBuf,
    /// Candidates in flight at once
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub enum TasksCommand {
    /// Show instances in full
    Show {
        /// Files, folders, or hub names (owner/name[:split][@revision])
        #[arg(required = true)]
        files: Vec<String>,
        /// Only these instances
        #[arg(long = "instance", value_name = "ID")]
        instances: Vec<String>,
    },
    /// Count: the paper's Table 2, difficulty, the distribution over repositories
    Stats {
        #[arg(required = true)]
        files: Vec<String>,
        /// Plot the distribution over repositories (SVG)
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
    /// Write the card of a dataset: README.md with counts, yields, licences, plots
    #[command(
        after_help = "Example:\n  swegym tasks card kept/tasks.jsonl --out kept/\nThe steps that made the dataset are found by the provenance.json that each left\nin its folder."
    )]
    Card {
        /// File, folder, or hub name
        file: String,
        /// Heading; without it the name of the folder
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Drop tasks that are the same task again, keeping the first
    #[command(
        after_help = "Example:\n  swegym tasks dedup a.jsonl b.jsonl --near 0.9 --out all.jsonl\nSame: the name; the solution but for white space and comments; nearly the same\nsolution (with --near); the same failing tests of the same functions (with\n--same-tests: too strict for several injected bugs in one function)."
    )]
    Dedup {
        /// Files, folders, or hub names
        #[arg(required = true)]
        files: Vec<String>,
        /// Solutions that share so much of their text are the same
        #[arg(long, value_name = "SHARE")]
        near: Option<f64>,
        /// The same failing tests of the same functions make the same task
        #[arg(long)]
        same_tests: bool,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Convert to another format, saying what it cannot carry
    #[command(
        after_help = "Example:\n  swegym tasks convert SWE-Gym/SWE-Gym --to harbor --out tasks/"
    )]
    Convert {
        /// File, folder, or hub name
        file: String,
        /// Format to write
        #[arg(long, value_enum)]
        to: Format,
        /// File or folder to write
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
    },
    /// Keep what SWE-bench Lite's rules admit
    #[command(after_help = "Example:\n  swegym tasks lite tasks.jsonl --out lite.jsonl")]
    Lite {
        /// File, folder, or hub name
        file: String,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Keep tasks for small models: one small edit, in a function that the issue
    /// names
    #[command(after_help = "Example:\n  swegym tasks short tasks.jsonl --out short.jsonl")]
    Short {
        /// File, folder, or hub name
        file: String,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Split into training and test by repository, without leaks between them
    #[command(
        after_help = "Example:\n  swegym tasks split tasks.jsonl --share 0.2 --out split/\nWrites train.jsonl and test.jsonl; what of the training side nearly repeats a\npatch or function of the test side is left out and listed in leaks.jsonl."
    )]
    Split {
        /// File, folder, or hub name
        file: String,
        /// Share of the tasks that the test side should have
        #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
        share: f64,
        /// Another seed, another split
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Find truncated ids, malformed diffs, missing fields, duplicates
    Check {
        #[arg(required = true)]
        files: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Jsonl,
    /// One JSON list
    Json,
    /// Parquet, lists as lists (SWE-Gym's columns)
    Parquet,
    /// Parquet, test lists as JSON strings (SWE-bench's columns)
    ParquetSwebench,
    /// Harbor task directories
    Harbor,
    /// SWE-bench 5 task repository
    TaskRepo,
}

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Build the environments of a dataset
    #[command(
        after_help = "Example:\n  swegym env build tasks.jsonl --instance sympy__sympy-24102"
    )]
    Build(EnvBuildArgs),
    /// List environments with their logical, unique and shared size
    List,
    /// Open a shell in the environment of an instance
    Shell {
        /// Instance id, or the key of an environment
        id: String,
        /// Run this instead of a shell
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Rehash every stored file and tree
    Verify {
        /// Rebuild trees whose objects are right
        #[arg(long)]
        repair: bool,
    },
    /// Remove what nothing references
    Gc {
        /// Say what would go, and keep it
        #[arg(long)]
        dry_run: bool,
        /// Also forget the environments of these instances
        #[arg(long = "forget", value_name = "ID")]
        forget: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct EnvBuildArgs {
    /// Dataset: a file, folder, or hub name
    pub tasks: String,
    /// Only these instances
    #[arg(long = "instance", value_name = "ID")]
    pub instances: Vec<String>,
    /// Builds in flight at once
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Ignore the recipe of rows and specs; infer it from the codebase
    #[arg(long)]
    pub inferred: bool,
}

/// Options of everything that runs a dataset into the folder of a run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Dataset: a file, folder, or hub name
    #[arg(long, value_name = "FILE")]
    pub tasks: String,
    /// Only these instances
    #[arg(long = "instance", value_name = "ID")]
    pub instances: Vec<String>,
    /// Name of the run
    #[arg(long, value_name = "NAME")]
    pub run_id: String,
    /// Folder of the run, instead of runs/<run-id>
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Wall-time limit of one test run, seconds
    #[arg(long, value_name = "S", default_value_t = 1800)]
    pub timeout: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swegym evaluate --tasks tasks.jsonl --predictions preds.jsonl --run-id mine
  swegym evaluate --tasks SWE-Gym/SWE-Gym-Lite --predictions gold --run-id check
The run lives in runs/<run-id>/; the same command resumes it.")]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Predictions (jsonl, json list or map), `gold`, or `empty`
    #[arg(long, value_name = "FILE")]
    pub predictions: String,
    /// Test runs in flight at once
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Take the verdict of the reports by the reference's rules
    #[arg(long, value_enum)]
    pub compat: Option<Compat>,
    /// Ignore the recipe of rows and specs; infer it from the codebase
    #[arg(long)]
    pub inferred: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    /// The rules of the official harness
    Swebench,
    /// The rules of SWE-Gym's fork
    Swegym,
}

#[derive(Debug, Subcommand)]
pub enum LogsCommand {
    /// Print the status of every test in a log
    Parse {
        /// Parser, such as parse_log_pytest; `list` prints their names
        #[arg(long, value_name = "NAME")]
        parser: Option<String>,
        /// Rows with `log_parser` and `test_output`, one answer a line (.gz too)
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        jsonl: Option<PathBuf>,
        /// Tasks of the rows: each answer also says whether the official rules
        /// call the log `resolved` (null where they give no verdict)
        #[arg(long, value_name = "FILE|NAME", requires = "jsonl")]
        tasks: Vec<String>,
        /// A log; stdin without it
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Only these parts (all without it)
    #[arg(value_enum)]
    pub parts: Vec<BenchPart>,
    /// Repetitions of each measurement
    #[arg(long, default_value_t = 30)]
    pub runs: usize,
    /// Sandboxes to have at once
    #[arg(long, default_value_t = 100)]
    pub live: usize,
    /// Start-stop cycles to make
    #[arg(long, default_value_t = 200)]
    pub cycles: usize,
    /// Logs to parse: rows with `log_parser` and `test_output` (.gz too)
    #[arg(long, value_name = "FILE")]
    pub logs: Option<PathBuf>,
    /// Model to measure: smollm2, another of `models list`, or a path
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// What of it: prefill-N, decode-BATCH, train-N (tokens), full-N,
    /// checkpointed-N [default: a few of each]
    #[arg(long, value_name = "WHAT", num_args = 1..)]
    pub measure: Vec<String>,
    /// Python with swebench installed, the peer for logs
    #[arg(long, value_name = "PATH", default_value = "python3")]
    pub python: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// Start, round trip, reset, fork, memory
    Sandbox,
    /// Disk use of the environments at hand
    Store,
    /// Parsing of test logs
    Logs,
    /// Prompts, answers and training of a model, with --model
    Model,
}
