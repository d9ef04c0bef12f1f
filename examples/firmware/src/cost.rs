//! What something takes: instructions, and stack. For the stack: paint it, run, look how far the
//! paint is gone.

use core::hint::black_box;

use crate::board::{self, Clock};

/// How much of the stack is painted; what takes more is measured as this much.
const PAINTED: usize = 16 * 1024;
const PAINT: u32 = 0xA5A5_A5A5;

/// What [`of`] measured.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Instructions, of all cores, if QEMU counts them (`-icount shift=0`).
    pub instructions: u64,
    /// Bytes of stack below the caller's.
    pub stack: usize,
}

impl Cost {
    /// The larger of both in each respect.
    pub fn max(self, other: Cost) -> Cost {
        Cost {
            instructions: self.instructions.max(other.instructions),
            stack: self.stack.max(other.stack),
        }
    }
}

/// Runs `work` and says what it took.
pub fn of(mut work: impl FnMut()) -> Cost {
    measure(&mut work)
}

// Through a pointer that the optimiser cannot follow: were `work` inlined here, its variables would
// lie above the paint.
#[inline(never)]
fn measure(work: &mut dyn FnMut()) -> Cost {
    let start = board::stack_pointer() as *mut u32;
    let end = board::stack_end()
        .max((start as usize).saturating_sub(PAINTED))
        .next_multiple_of(size_of::<u32>()) as *mut u32;
    let mut at = start;
    while at > end {
        // SAFETY: between the end of the stack and the stack pointer nothing is in use: there are
        // no interrupts here, and neither this loop nor the one below calls anything.
        unsafe {
            at = at.sub(1);
            at.write_volatile(PAINT);
        }
    }
    let clock = Clock::start();
    black_box(work)();
    let instructions = clock.instructions();
    // SAFETY: as above; what `work` left there are plain numbers.
    while at < start && unsafe { at.read_volatile() } == PAINT {
        at = at.wrapping_add(1);
    }
    Cost {
        instructions,
        stack: start as usize - at as usize,
    }
}
