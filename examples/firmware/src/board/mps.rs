//! Arm MPS2 and MPS3: Cortex-M3 (`mps2-an385`), Cortex-M4F (`mps2-an386`), Cortex-M7
//! (`mps2-an500`), two Cortex-M33 (`mps2-an521`, whose second core has a file of its own) and
//! Cortex-M55 (`mps3-an547`). Programs for Armv6-M (Cortex-M0, M0+) run on the Cortex-M3, which
//! executes all of their instructions.

use core::arch::asm;

/// Defines the entry point, with static memory that cortex-m-rt lends to it. A `StaticArena` would
/// do as well, and would take some flash to find out that the entry point runs once.
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

/// The counter in the board's FPGA.
pub struct Clock(u32);

impl Clock {
    /// The register `COUNTER` of the FPGA's system control and I/O, and at how many MHz it counts.
    const COUNTER: (*const u32, u32) = if cfg!(board = "mps3_an547") {
        (0x5930_2018 as *const u32, 20)
    } else if cfg!(board = "mps2_an521") {
        (0x5030_2018 as *const u32, 20)
    } else {
        (0x4002_8018 as *const u32, 25)
    };

    /// Reads the counter.
    pub fn start() -> Clock {
        Clock(Self::ticks())
    }

    /// Instructions since the start, of all cores: QEMU's instruction counter says one takes 1 ns.
    /// Right to within 50, and up to 130 thousand million.
    pub fn instructions(&self) -> u64 {
        u64::from(Self::ticks().wrapping_sub(self.0)) * 1000 / u64::from(Self::COUNTER.1)
    }

    fn ticks() -> u32 {
        // SAFETY: a register that may be read at any time.
        unsafe { Self::COUNTER.0.read_volatile() }
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
