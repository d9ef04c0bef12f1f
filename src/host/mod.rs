//! What only a host has: files, a heap and threads.
//!
//! * [`Llm`] is a model that a program owns and shares. Its [sessions](LlmSession) own their memory
//!   and threads, and write text.
//! * [`Image`] opens an image or any checkpoint.
//! * [`AlignedBytes`] is memory for an image, or for the arena of a session.
//! * [`Threads`] lets a [`Session`](crate::run::Session) use all cores of the host.
//! * [`harness`] compares models with golden cases.
//!
//! [`Error`] is what can go wrong. It fits `Box<dyn Error + Send + Sync>`.

mod bandwidth;
mod cache;
mod error;
mod handoff;
pub mod harness;
mod image;
mod llm;
mod options;
mod session;
mod text;
mod threads;

// For the command line.
#[doc(hidden)]
pub mod file {
    pub use crate::import::file::*;
}

/// The parts that [`handoff`] is built from. `tests/loom` replaces them by loom's, and runs the
/// code in every possible order.
mod sync {
    pub(super) use std::cell::UnsafeCell;
    pub(super) use std::hint::spin_loop;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use std::thread::yield_now;

    /// How often a waiting thread reads the word before it checks anything else.
    pub(super) const LOOKS: usize = 64;
}

pub use crate::aligned::AlignedBytes;
#[doc(hidden)] // for the command line
pub use bandwidth::read_bandwidth;
pub use error::Error;
pub use image::{Image, RefusedParts, is_image};
pub use llm::Llm;
#[doc(hidden)] // for the command line
pub use options::default_batch;
pub use options::{GenerateOptions, Sampling, SessionOptions};
pub use session::{Generated, LlmSession};
pub use threads::Threads;
