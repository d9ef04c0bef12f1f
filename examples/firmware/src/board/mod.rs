//! The boards. `boards/` names one, and `build.rs` says here which it is. Each file offers the same
//! few items:
//!
//! * `entry!(program, BYTES)` defines the entry point: `program` is called once, with `BYTES` bytes
//!   of static memory for a session, and says whether all went well;
//! * `Clock` counts instructions, when QEMU runs with `-icount shift=0`;
//! * `stack_pointer()` and `stack_end()`, the lowest address the stack may reach.

#[cfg(target_arch = "arm")]
mod memory;
#[cfg(target_arch = "arm")]
mod mps;
#[cfg(target_arch = "arm")]
pub use mps::{Clock, stack_end, stack_pointer};

#[cfg(board = "mps2_an521")]
mod mps2_an521;
#[cfg(board = "mps2_an521")]
pub use mps2_an521::workers;

#[cfg(board = "virt_riscv")]
mod virt_riscv;
#[cfg(all(board = "virt_riscv", feature = "rvv"))]
pub use virt_riscv::enable_vectors;
#[cfg(board = "virt_riscv")]
pub use virt_riscv::{Clock, stack_end, stack_pointer};

#[cfg(board = "virt_aarch64")]
mod virt_aarch64;
#[cfg(board = "virt_aarch64")]
pub use virt_aarch64::{Clock, stack_end, stack_pointer};

#[cfg(board = "wasm32")]
mod wasm32;
#[cfg(board = "wasm32")]
pub use wasm32::*;

#[cfg(not(board = "wasm32"))]
mod elf;
#[cfg(not(board = "wasm32"))]
pub use elf::*;

/// The cores that share the work: this one alone, but on a board with two.
#[cfg(not(board = "mps2_an521"))]
pub fn workers() -> &'static dyn pocketlm::run::Workers {
    &pocketlm::run::Solo
}

/// Bytes of the parts of the linked program.
pub struct Memory {
    /// Code.
    pub text: usize,
    /// Constants, the image left out.
    pub rodata: usize,
    /// The model.
    pub image: usize,
    /// Initialised variables: they take flash and RAM.
    pub data: usize,
    /// Zeroed variables, the arena among them.
    pub bss: usize,
}
