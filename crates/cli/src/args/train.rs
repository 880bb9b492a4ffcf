//! Arguments of `train`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrainKind {
    /// The model that works on tasks
    Policy,
    /// The model that judges attempts
    Verifier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ScheduleKind {
    /// Half a cosine to zero
    #[default]
    Cosine,
    /// A line to zero
    Linear,
    /// Not at all
    Constant,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// What the model is for
    #[arg(value_enum)]
    pub kind: TrainKind,
    /// Files of rows, as `swegym export` writes them
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Model: smollm2, another of `models list`, OWNER/NAME of the hub's cache,
    /// or a path
    #[arg(long, value_name = "MODEL")]
    pub base: String,
    /// Rank of the adapter that is trained [default: 16]
    #[arg(long, value_name = "R", conflicts_with = "full")]
    pub lora: Option<usize>,
    /// Alpha of the adapter [default: twice the rank]
    #[arg(long, value_name = "A", conflicts_with = "full")]
    pub alpha: Option<f32>,
    /// Train all weights instead of an adapter
    #[arg(long)]
    pub full: bool,
    /// Go on training this adapter
    #[arg(long, value_name = "DIR", conflicts_with = "full")]
    pub adapter: Option<PathBuf>,
    /// Folder for the result, metrics and checkpoints
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with the run in --out
    #[arg(long)]
    pub resume: bool,
    /// Times that every row is read
    #[arg(help_heading = "Training", long, default_value_t = 1, value_name = "N")]
    pub epochs: usize,
    /// Steps to stop after
    #[arg(help_heading = "Training", long, value_name = "N")]
    pub max_steps: Option<usize>,
    /// Highest learning rate
    #[arg(
        help_heading = "Training",
        long,
        default_value_t = 1e-4,
        value_name = "X"
    )]
    pub rate: f32,
    /// How it falls
    #[arg(help_heading = "Training", long, value_enum, default_value_t)]
    pub schedule: ScheduleKind,
    /// Steps in which it rises first
    #[arg(help_heading = "Training", long, default_value_t = 5, value_name = "N")]
    pub warmup: usize,
    /// Weight decay
    #[arg(
        help_heading = "Training",
        long,
        default_value_t = 0.01,
        value_name = "X"
    )]
    pub weight_decay: f32,
    /// Norm that gradients are scaled down to
    #[arg(
        help_heading = "Training",
        long,
        default_value_t = 1.0,
        value_name = "X"
    )]
    pub clip: f32,
    /// Seed of the order and of a new adapter
    #[arg(
        help_heading = "Training",
        long,
        default_value_t = 42,
        value_name = "N"
    )]
    pub seed: u64,
    /// Tokens in one pass, rows packed; also the longest row
    #[arg(
        help_heading = "Memory",
        long,
        default_value_t = 2048,
        value_name = "N"
    )]
    pub length: usize,
    /// Passes in a step
    #[arg(help_heading = "Memory", long, default_value_t = 1, value_name = "N")]
    pub accumulate: usize,
    /// Compute activations twice instead of keeping them: less than half of the
    /// memory, a third more time
    #[arg(help_heading = "Memory", long)]
    pub checkpoint_activations: bool,
    /// Leave rows out that are longer than --length
    #[arg(help_heading = "Rows", long)]
    pub skip_long: bool,
    /// Share of the instances whose rows are held out, for the loss alone
    #[arg(
        help_heading = "Rows",
        long,
        default_value_t = 0.05,
        value_name = "SHARE"
    )]
    pub held_out: f64,
    /// Rows that are held out, instead of a share
    #[arg(help_heading = "Rows", long, value_name = "FILE")]
    pub eval: Option<PathBuf>,
    /// Steps between checkpoints
    #[arg(
        help_heading = "Training",
        long,
        default_value_t = 50,
        value_name = "N"
    )]
    pub save_every: usize,
    /// Steps between measurements of the held-out loss
    #[arg(
        help_heading = "Training",
        long,
        default_value_t = 50,
        value_name = "N"
    )]
    pub evaluate_every: usize,
}
