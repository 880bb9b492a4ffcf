//! Fine-tuning: documents, the passes forward and backward, the optimiser and
//! the loop around them.

mod batch;
mod estimate;
mod gradients;
mod heads;
mod optimizer;
mod pass;
mod rows;
mod trainer;

pub use batch::{Document, Packed, pack};
pub use estimate::{Estimate, estimate};
pub use gradients::{Gradients, LayerGradients, Slot, Trained};
pub use optimizer::{AdamW, AdamWOptions, Schedule, norm};
pub use pass::{Losses, Pass};
pub use rows::document;
pub use trainer::{StepReport, TrainOptions, Trainer, checkpoints};
