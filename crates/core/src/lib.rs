//! The nouns of the gym: instances, predictions, test runs, outcomes, messages,
//! trajectories, and the traits that sandboxes implement.
//!
//! This crate does no I/O and so cannot fail on it. Every other crate depends
//! on it and on nothing else of ours, except `swegym`, which joins them.

mod chat;
mod command;
mod episode;
mod instance;
mod outcome;
mod prediction;
mod run;
mod sandbox;
pub mod stuck;
mod trajectory;
mod transcript;

pub use chat::{ChatMessage, ChatToolCall, Content, FunctionCall, Role, Tool, ToolFunction};
pub use command::{Command, ExecOutput, Exit, Output};
pub use episode::{End, Fault, Limit};
pub use instance::{EnvSpec, EvalType, Instance, Mutants, Source, TestIds};
pub use outcome::{Flag, InfraKind, Outcome};
pub use prediction::Prediction;
pub use run::{Phase, Record, RunReport, Status, StatusMap, TestRun, verdict_word};
pub use sandbox::{
    Backend, Bind, Limits, Network, Sandbox, SandboxError, SandboxSpec, Session, SnapshotId, Upper,
};
pub use trajectory::{
    ATIF_VERSION, AgentInfo, AtifContent, AtifStep, AtifToolCall, ContentPart, FinalMetrics,
    Observation, ObservationResult, StepMetrics, StepSource, Trajectory, TrajectoryError,
};
