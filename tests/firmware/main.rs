//! The firmware in `examples/firmware`, in QEMU: what a board computes is, bit for bit, what this
//! machine computes; the story is the same text; and no panic can be reached in what is linked.
#![cfg(feature = "std")]

mod board;
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod digests;
mod log;
mod pins;
mod proofs;
#[path = "../../examples/firmware/src/sequence.rs"]
mod sequence;
mod watchdog;
