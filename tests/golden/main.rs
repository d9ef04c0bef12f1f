//! Logits and texts against those of other implementations.

#![cfg(feature = "std")]

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod real;
mod real_models;
