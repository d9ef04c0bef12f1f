//! What only a host has: files as memory, a heap, threads, and the harness that tests images against golden cases.

mod aligned;
mod bandwidth;
pub mod file;
mod handoff;
pub mod harness;
mod threads;

pub use aligned::AlignedBytes;
pub use bandwidth::read_bandwidth;
pub use threads::Threads;
