//! What is the same on every board: what the linker knows of the program, semihosting.

pub use semihosting::{eprintln, print, println};

use super::Memory;

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

/// The region `IMAGE`: images that were written there apart from the program.
pub fn partition() -> &'static [u8] {
    unsafe extern "C" {
        static _image_start: u8;
        static _image_end: u8;
    }
    let start = &raw const _image_start;
    let end = &raw const _image_end;
    // SAFETY: `memory/` says that this is memory; nothing writes to it while the program runs.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Ends the program. QEMU hands the code to whoever started it; with a debug probe the board waits.
pub fn exit(success: bool) -> ! {
    semihosting::process::exit(if success { 0 } else { 1 })
}
