//! Text in and out: tokenizer and sampler.

pub mod sampler;

pub use sampler::{Distribution, Penalties, Recent, Sampler};
