//! Arm MPS2: Cortex-M3 (`mps2-an385`), Cortex-M4F (`mps2-an386`), Cortex-M7 (`mps2-an500`). Programs for Armv6-M
//! (Cortex-M0, M0+) run on the Cortex-M3, which executes all of their instructions.

use core::arch::asm;

/// Defines the entry point, with static memory that cortex-m-rt lends to it. On Armv6-M no atomic instruction could
/// tell a second `take` of a `StaticArena` from the first; that the entry point runs once is known without one.
#[macro_export]
macro_rules! entry {
    ($program:path, $bytes:expr) => {
        #[cortex_m_rt::entry]
        fn main() -> ! {
            static mut ARENA: pocketlm::run::Arena<{ $bytes }> = pocketlm::run::Arena::new();
            $crate::board::exit($program(ARENA))
        }
    };
}

/// The board's first timer (CMSDK APB timer), which counts down at 25 MHz.
pub struct Clock(());

impl Clock {
    const BASE: *mut u32 = 0x4000_0000 as *mut u32;
    /// QEMU's instruction counter says an instruction takes 1 ns.
    const INSTRUCTIONS_PER_TICK: u64 = 40;

    /// Starts the timer.
    pub fn start() -> Clock {
        // SAFETY: the timer's registers: CTRL, VALUE, RELOAD. Nothing else in these programs uses it.
        unsafe {
            Self::BASE.write_volatile(0);
            Self::BASE.add(2).write_volatile(u32::MAX);
            Self::BASE.add(1).write_volatile(u32::MAX);
            Self::BASE.write_volatile(1);
        }
        Clock(())
    }

    /// Instructions since the start, to within 40; right up to 170 thousand million.
    pub fn instructions(self) -> u64 {
        // SAFETY: VALUE may be read at any time.
        let left = unsafe { Self::BASE.add(1).read_volatile() };
        u64::from(u32::MAX - left) * Self::INSTRUCTIONS_PER_TICK
    }
}

/// Where the stack ends.
pub fn stack_end() -> usize {
    unsafe extern "C" {
        static _stack_end: u8;
    }
    &raw const _stack_end as usize
}

/// Where the stack is.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}
