//! Importers: every number of a checkpoint where it belongs, every bad file refused.

#![cfg(feature = "std")]

#[path = "../common/mod.rs"]
mod common;

mod gguf;
mod hf;
mod limits;
mod llamalike;
mod refusals;
mod sweep;
mod trimmed;
