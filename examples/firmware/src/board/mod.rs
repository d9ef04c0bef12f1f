//! The boards. Each file offers the same few items:
//!
//! * `entry!(program, BYTES)` defines the entry point: `program` is called once, with `BYTES` bytes of static memory
//!   for a session, and says whether all went well;
//! * `Clock` counts instructions, when QEMU runs with `-icount shift=0`;
//! * `stack_pointer()` and `stack_end()`, the lowest address the stack may reach.

#[cfg(target_arch = "arm")]
mod mps2;
#[cfg(target_arch = "arm")]
pub use mps2::{Clock, stack_end, stack_pointer};

#[cfg(target_arch = "riscv32")]
mod virt_riscv32;
#[cfg(target_arch = "riscv32")]
pub use virt_riscv32::{Clock, stack_end, stack_pointer};

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

/// What the linker says.
pub fn memory() -> Memory {
    // Names that the scripts of cortex-m-rt and riscv-rt share; the image's are in `memory/`.
    unsafe extern "C" {
        static __stext: u8;
        static __etext: u8;
        static __srodata: u8;
        static __erodata: u8;
        static __simage: u8;
        static __eimage: u8;
        static __sdata: u8;
        static __edata: u8;
        static __sbss: u8;
        static __ebss: u8;
    }
    let length = |start: *const u8, end: *const u8| end as usize - start as usize;
    Memory {
        text: length(&raw const __stext, &raw const __etext),
        rodata: length(&raw const __srodata, &raw const __erodata),
        image: length(&raw const __simage, &raw const __eimage),
        data: length(&raw const __sdata, &raw const __edata),
        bss: length(&raw const __sbss, &raw const __ebss),
    }
}

/// Ends the program. QEMU hands the code to whoever started it; with a debug probe the board waits.
pub fn exit(success: bool) -> ! {
    semihosting::process::exit(if success { 0 } else { 1 })
}
