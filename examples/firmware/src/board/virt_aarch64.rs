//! QEMU's `virt` machine with a 64-bit Arm core, at EL1.

use core::arch::asm;

use aarch64_rt::ExceptionHandlers;

/// Defines the entry point, with static memory that can be taken once.
#[macro_export]
macro_rules! entry {
    ($program:path, $bytes:expr) => {
        static ARENA: pocketlm::run::StaticArena<{ $bytes }> = pocketlm::run::StaticArena::new();

        aarch64_rt::entry!(main, 8);
        fn main(_: u64, _: u64, _: u64, _: u64) -> ! {
            $crate::board::exit(ARENA.take().is_some_and($program))
        }
    };
}

// The first GiB of addresses is devices, the second memory, each at its own address: bits 0
// (valid), 10 (accessed), 2 (the second of the kinds of memory below) and 8 and 9 (shared by the
// cores).
aarch64_rt::initial_pagetable!({
    let mut table = [0; 512];
    table[0] = 0x401;
    table[1] = 0x4000_0000 | 0x705;
    aarch64_rt::InitialPagetable(table)
});

struct Exceptions;

// What is not handled panics.
impl ExceptionHandlers for Exceptions {}

aarch64_rt::exception_handlers!(Exceptions);

/// The core's virtual counter, which counts at 62.5 MHz.
pub struct Clock(u64);

impl Clock {
    /// QEMU's instruction counter says an instruction takes 1 ns.
    const INSTRUCTIONS_PER_TICK: u64 = 16;

    /// Reads the counter.
    pub fn start() -> Clock {
        Clock(ticks())
    }

    /// Instructions since the start, to within 16.
    pub fn instructions(&self) -> u64 {
        (ticks() - self.0) * Self::INSTRUCTIONS_PER_TICK
    }
}

fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags))
    };
    ticks
}

/// Where the stack ends.
pub fn stack_end() -> usize {
    unsafe extern "C" {
        static boot_stack_begin: u8;
    }
    &raw const boot_stack_begin as usize
}

/// Where the stack is.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}
