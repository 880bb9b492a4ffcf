//! Answers: the forward pass over cached keys and values, sampling, and an
//! engine that decodes many sequences together.

mod cache;
mod engine;
mod forward;
mod sample;

pub use cache::{Cache, PAGE, Page, PrefixCache};
pub use engine::{Answer, Ask, Engine, EngineOptions, Finish, Progress};
pub use forward::{Chunk, Runner, Wanted};
pub use sample::{Sampler, Sampling};
