//! Arguments of `improve` and `best-of`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  swegym tasks short tasks.jsonl --out short.jsonl
  swegym tasks split short.jsonl --out parts
  swegym improve --tasks parts/train.jsonl --eval parts/test.jsonl --model smollm2 \\
      --agent repair --rounds 2 --samples 4 --cap 2 --run-id first
The run lives in runs/<run-id>/: every stage is a part named by what goes into it.
The same command goes on where a killed one stopped, and ends with the same numbers.")]
pub struct ImproveArgs {
    /// Tasks to learn from: a file, folder, or hub name
    #[arg(long, value_name = "FILE")]
    pub tasks: String,
    /// Tasks to measure on, of other repositories
    #[arg(long, value_name = "FILE")]
    pub eval: String,
    /// Model that this program runs: smollm2, another of `models list`, or a path
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Agent: repair, workflow, codeact or bash
    #[arg(long, value_name = "NAME", default_value = "repair")]
    pub agent: String,
    /// Policies to train, each on the attempts of those before
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rounds: usize,
    /// Attempts of each policy at a task to learn from
    #[arg(long, value_name = "K", default_value_t = 4)]
    pub samples: u32,
    /// Most attempts of a task that a policy learns from, fewest calls first
    #[arg(long, value_name = "C")]
    pub cap: Option<usize>,
    /// Name of the run
    #[arg(long, value_name = "NAME")]
    pub run_id: String,
    /// Folder of the run, instead of runs/<run-id>
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Temperatures of the attempts to learn from, by round
    #[arg(help_heading = "Rollouts", long = "temperature", value_name = "T", num_args = 1.., default_values_t = [0.8])]
    pub temperatures: Vec<f64>,
    /// Attempts of each policy at a task that is held out, beside one at
    /// temperature 0
    #[arg(help_heading = "Rollouts", long, value_name = "K", default_value_t = 8)]
    pub eval_samples: u32,
    /// Their temperature
    #[arg(
        help_heading = "Rollouts",
        long,
        value_name = "T",
        default_value_t = 0.8
    )]
    pub eval_temperature: f64,
    /// Demonstrations in the prompt of a second untrained baseline; 0 for none
    #[arg(help_heading = "Rollouts", long, value_name = "N", default_value_t = 3)]
    pub shots: usize,
    /// Most calls of the model in an episode
    #[arg(
        help_heading = "Rollouts",
        long,
        value_name = "N",
        default_value_t = 10
    )]
    pub max_turns: u32,
    /// Most tokens of one answer
    #[arg(
        help_heading = "Rollouts",
        long,
        value_name = "N",
        default_value_t = 256
    )]
    pub max_output_tokens: u64,
    /// Wall-time limit of one test run, seconds
    #[arg(
        help_heading = "Rollouts",
        long,
        value_name = "S",
        default_value_t = 300
    )]
    pub timeout: u64,
    /// Episodes in flight at once
    #[arg(
        help_heading = "Rollouts",
        long,
        value_name = "N",
        default_value_t = 16
    )]
    pub workers: usize,
    /// Rank of adapters; alpha is twice that
    #[arg(
        help_heading = "Training",
        long,
        value_name = "R",
        default_value_t = 16
    )]
    pub lora: usize,
    /// Times that a policy reads every row
    #[arg(help_heading = "Training", long, value_name = "N", default_value_t = 2)]
    pub epochs: usize,
    /// Steps of a policy at most
    #[arg(help_heading = "Training", long, value_name = "N")]
    pub max_steps: Option<usize>,
    /// Highest learning rate
    #[arg(
        help_heading = "Training",
        long,
        value_name = "X",
        default_value_t = 4e-4
    )]
    pub rate: f32,
    /// Tokens in one pass, rows packed; also the longest row
    #[arg(
        help_heading = "Training",
        long,
        value_name = "N",
        default_value_t = 1024
    )]
    pub length: usize,
    /// Times that the verifier reads every row
    #[arg(help_heading = "Training", long, value_name = "N", default_value_t = 2)]
    pub verifier_epochs: usize,
    /// Train no verifier
    #[arg(help_heading = "Training", long)]
    pub no_verifier: bool,
    /// Allow tasks to learn from that are like those held out, such as of the
    /// same packages
    #[arg(long)]
    pub allow_leaks: bool,
    /// Seed of all draws
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RankingKind {
    /// The verifier's probability
    Verifier,
    /// The feature model's, fitted to --fit
    Features,
    /// Both
    Ensemble,
    /// The policy's own log-probability
    Logprob,
    /// Whether the tests that the attempt ran itself passed
    Tests,
    /// Whether they passed, then verifier and log-probability
    Hybrid,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  swegym best-of --run runs/mine --verifier judge --k 8 --out best.jsonl
  swegym evaluate --tasks tasks.jsonl --predictions best.jsonl --run-id best")]
pub struct BestOfArgs {
    /// Runs, or files of trajectories
    #[arg(long = "run", required = true, num_args = 1.., value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder of a verifier, as `train verifier` writes it
    #[arg(long, value_name = "DIR")]
    pub verifier: Option<PathBuf>,
    /// Graded attempts at other instances, to fit the feature model to
    #[arg(long, num_args = 1.., value_name = "RUN")]
    pub fit: Vec<PathBuf>,
    /// What to rank by [default: verifier, or features with --fit alone]
    #[arg(long, value_enum)]
    pub by: Option<RankingKind>,
    /// Attempts of an instance to choose from, the first ones [default: all]
    #[arg(long, value_name = "K")]
    pub k: Option<usize>,
    /// File for the predictions
    #[arg(long, value_name = "FILE", default_value = "best.jsonl")]
    pub out: PathBuf,
    /// `model_name_or_path` of the predictions
    #[arg(long, value_name = "NAME", default_value = "best-of")]
    pub name: String,
}
