#![no_std]
//! pocketlm on boards: what the programs in `src/bin` share.
//!
//! [`board`] is the only module that differs from board to board; `memory/` holds the linker script
//! that goes with it. All of this runs in QEMU. `README.md` says what to change for a board of your
//! own.

pub mod board;
pub mod cost;
pub mod image;
pub mod report;
pub mod sequence;
