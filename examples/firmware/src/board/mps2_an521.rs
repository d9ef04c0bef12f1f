//! The second Cortex-M33 of `mps2-an521`, as a worker beside the first. Both run in the secure
//! state.

use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use pocketlm::run::Workers;

/// Both cores. The second one is started by the first call.
pub fn workers() -> &'static dyn Workers {
    if CORES
        .state
        .compare_exchange(OFF, IDLE, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
    {
        // SAFETY: registers of the SSE-200's system control: where the second core finds its
        // vectors, and the bit that keeps it from starting. This is done once.
        unsafe {
            INITSVTOR1.write_volatile(&raw const VECTORS as u32);
            CPUWAIT.write_volatile(0);
        }
    }
    &CORES
}

static CORES: Cores = Cores {
    state: AtomicU32::new(OFF),
    job: UnsafeCell::new(None),
};

/// What the second core does: it is not running, waits for a job, is about to be given one, has
/// one.
const OFF: u32 = 0;
const IDLE: u32 = 1;
const BUSY: u32 = 2;
const POSTED: u32 = 3;

struct Cores {
    state: AtomicU32,
    job: UnsafeCell<Option<&'static (dyn Fn() + Sync)>>,
}

// SAFETY: `job` is written by whoever turned `state` from `IDLE` to `BUSY`, and read by the second
// core until it turns it back; the orderings of `state` make either see what the other wrote.
unsafe impl Sync for Cores {}

impl Workers for Cores {
    fn run(&self, job: &(dyn Fn() + Sync)) {
        if self
            .state
            .compare_exchange(IDLE, BUSY, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            // A job within a job.
            return job();
        }
        // SAFETY: the second core is done with `job` before this returns.
        let lent =
            unsafe { core::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(job) };
        // SAFETY: `state` was turned from `IDLE` to `BUSY` here.
        unsafe { *self.job.get() = Some(lent) };
        // A second turn, for the reader: `BUSY` alone does not say yet that the job is there.
        self.state.store(POSTED, Ordering::Release);
        signal();
        job();
        while self.state.load(Ordering::Acquire) != IDLE {
            wait();
        }
    }

    fn count(&self) -> usize {
        2
    }
}

/// The second core's work, for ever.
extern "C" fn serve() -> ! {
    loop {
        while CORES.state.load(Ordering::Acquire) != POSTED {
            wait();
        }
        // SAFETY: `POSTED` says that the job is written, and it stays until `state` is `IDLE`.
        if let Some(job) = unsafe { *CORES.job.get() } {
            job();
        }
        CORES.state.store(IDLE, Ordering::Release);
        signal();
    }
}

/// Waits until the other core signals, or a little: whoever waits looks again.
fn wait() {
    // SAFETY: waits.
    unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) };
}

fn signal() {
    // SAFETY: what was stored is seen before the signal is.
    unsafe { asm!("dsb", "sev", options(nostack, preserves_flags)) };
}

const INITSVTOR1: *mut u32 = 0x5002_1114 as *mut u32;
const CPUWAIT: *mut u32 = 0x5002_1118 as *mut u32;

/// Bytes of the second core's stack.
const STACK_BYTES: usize = 4096;

#[repr(C, align(8))]
struct Stack(UnsafeCell<[u8; STACK_BYTES]>);
// SAFETY: only the second core uses it.
unsafe impl Sync for Stack {}
static STACK: Stack = Stack(UnsafeCell::new([0; STACK_BYTES]));

/// Where the second core begins: its stack's end, its first instruction, and where it goes when
/// something fails.
#[repr(C, align(512))]
struct Vectors(
    *const Stack,
    unsafe extern "C" fn() -> !,
    [unsafe extern "C" fn() -> !; 14],
);
// SAFETY: nothing is written through it.
unsafe impl Sync for Vectors {}
static VECTORS: Vectors = Vectors((&raw const STACK).wrapping_add(1), reset, [failed; 14]);

/// Turns the floating-point unit on, lets nothing grow past the stack, and serves.
#[unsafe(naked)]
unsafe extern "C" fn reset() -> ! {
    naked_asm!(
        "ldr r0, =0xE000ED88", // CPACR
        "ldr r1, [r0]",
        "orr r1, r1, #0xF00000",
        "str r1, [r0]",
        "dsb",
        "isb",
        "ldr r0, ={stack}",
        "msr msplim, r0",
        "b {serve}",
        stack = sym STACK,
        serve = sym serve,
    )
}

unsafe extern "C" fn failed() -> ! {
    super::exit(false)
}
