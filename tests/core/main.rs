//! The core: plans, sessions, sampling, generation, snapshots, and what they refuse.

mod codes;
mod compile_fail;
mod formats;
mod sampler;

#[cfg(feature = "std")]
#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "std")]
mod arena;
#[cfg(all(feature = "std", unix))]
mod faults;
#[cfg(feature = "std")]
mod generate;
#[cfg(feature = "std")]
mod grammar;
#[cfg(feature = "std")]
mod knobs;
#[cfg(feature = "std")]
mod lookup;
#[cfg(feature = "std")]
mod no_heap;
#[cfg(feature = "std")]
mod numbers;
#[cfg(feature = "std")]
mod plan;
#[cfg(feature = "std")]
mod refusals;
#[cfg(feature = "std")]
mod snapshot;
#[cfg(feature = "std")]
mod source;
#[cfg(feature = "std")]
mod steps;
