//! QEMU's `virt` machine with a RISC-V core.

use core::arch::asm;

/// Defines the entry point, with static memory that can be taken once.
#[macro_export]
macro_rules! entry {
    ($program:path, $bytes:expr) => {
        static ARENA: pocketlm::run::StaticArena<{ $bytes }> = pocketlm::run::StaticArena::new();

        #[riscv_rt::entry]
        fn main() -> ! {
            #[cfg(feature = "rvv")]
            $crate::board::enable_vectors();
            $crate::board::exit(ARENA.take().is_some_and($program))
        }
    };
}

/// Lets programs use the vector registers, and the floating-point ones: `riscv-rt` does that for
/// these only where the target has them.
#[cfg(feature = "rvv")]
pub fn enable_vectors() {
    const INITIAL: usize = 1 << 9 | 1 << 13;
    // SAFETY: sets the bits of `mstatus` that say so, and nothing else.
    unsafe { asm!("csrs mstatus, {}", in(reg) INITIAL, options(nomem, nostack)) };
}

/// The core's counter of retired instructions.
pub struct Clock(u64);

impl Clock {
    /// Reads the counter.
    pub fn start() -> Clock {
        Clock(retired())
    }

    /// Instructions since the start.
    pub fn instructions(&self) -> u64 {
        retired() - self.0
    }
}

#[cfg(target_arch = "riscv64")]
fn retired() -> u64 {
    let retired;
    // SAFETY: reads a counter that every core with Zicntr has.
    unsafe { asm!("csrr {}, minstret", out(reg) retired, options(nomem, nostack)) };
    retired
}

#[cfg(target_arch = "riscv32")]
fn retired() -> u64 {
    loop {
        let (high, low, high_again): (u32, u32, u32);
        // SAFETY: reads counters that every core with Zicntr has.
        unsafe {
            asm!("csrr {}, minstreth", "csrr {}, minstret", "csrr {}, minstreth",
                out(reg) high, out(reg) low, out(reg) high_again, options(nomem, nostack));
        }
        // The low half may have wrapped between the reads.
        if high == high_again {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}

/// Where the stack ends.
pub fn stack_end() -> usize {
    unsafe extern "C" {
        static __estack: u8;
    }
    &raw const __estack as usize
}

/// Where the stack is.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}
