//! What only a host has: files as memory, a heap, threads, and the harness that tests images
//! against golden cases.

mod bandwidth;
mod handoff;
pub mod harness;
mod threads;

/// Files: mapped, read whole, or written so that a failure loses nothing.
pub mod file {
    pub use crate::import::file::*;
}

/// What [`handoff`] is made of. In `tests/loom`, where it is run in every order there is, these are
/// loom's.
mod sync {
    pub(super) use std::cell::UnsafeCell;
    pub(super) use std::hint::spin_loop;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use std::thread::yield_now;

    /// Looks at a word between two times that other things are looked at.
    pub(super) const LOOKS: usize = 64;
}

pub use crate::aligned::AlignedBytes;
pub use bandwidth::read_bandwidth;
pub use threads::Threads;
