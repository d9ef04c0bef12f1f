#![allow(unsafe_code)]
//! Memory that a program sets aside for a [`Session`](super::Session).

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// `N` bytes, aligned as a session needs them, for memory that a program has to itself: a local
/// variable, a box, or a `static mut` that cortex-m-rt's `#[entry]` lends to the entry point.
/// [`StaticArena`] is the same as a `static`.
///
/// ```
/// use pocketlm::{include_image, model::Model, run::{Arena, Plan, Session, Solo}};
///
/// const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
/// const PLAN: Plan = Plan::of(STORY).context(16);
/// let mut arena = Arena::<{ PLAN.bytes() }>::new();
///
/// let model = Model::open(STORY)?;
/// let mut session = Session::new(&model, &PLAN, &mut arena, &Solo)?;
/// assert_eq!(session.feed(&[2, 17, 40])?.len(), 1024);
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[repr(C, align(64))]
pub struct Arena<const N: usize>([u8; N]);

impl<const N: usize> Arena<N> {
    /// Zeroed memory: as a static it costs no flash.
    pub const fn new() -> Self {
        Arena([0; N])
    }
}

impl<const N: usize> Default for Arena<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Deref for Arena<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> DerefMut for Arena<N> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// `N` bytes of static memory, aligned as a session needs it, that can be taken once. With a plan
/// in a `const`, the program does not link if there is too little memory, and does not compile if
/// the image is invalid or the plan needs more than it may ([`Plan::within`](super::Plan::within)).
///
/// It needs no critical section, and works on cores without compare-and-swap (Armv6-M, RV32IMC).
///
/// ```
/// use pocketlm::{include_image, model::{Kv, Model}, run::{Plan, Session, Solo, StaticArena}};
///
/// const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
/// const PLAN: Plan = Plan::of(STORY).context(128).batch(4).kv(Kv::F16);
/// static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
///
/// let model = Model::open(STORY)?;
/// let arena = ARENA.take().expect("taken once");
/// let mut session = Session::new(&model, &PLAN, arena, &Solo)?;
/// let logits = session.feed(&[2, 17, 40])?;
/// assert_eq!(logits.len(), 1024);
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[repr(C, align(64))]
pub struct StaticArena<const N: usize> {
    bytes: UnsafeCell<[u8; N]>,
    /// The number of the call that began last; 0 before the first one.
    last: AtomicUsize,
    /// Whether a call came past its first step: later calls get nothing.
    closed: AtomicBool,
}

// SAFETY: the bytes are reached through `take` alone, which hands them out at most once.
unsafe impl<const N: usize> Sync for StaticArena<N> {}

impl<const N: usize> StaticArena<N> {
    /// Zeroed memory: it costs no flash.
    pub const fn new() -> Self {
        StaticArena {
            bytes: UnsafeCell::new([0; N]),
            last: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// The memory, the first time; `None` after that. If two cores or an interrupt call it at the
    /// same moment, at most one of them gets the memory, and perhaps none.
    #[allow(clippy::mut_from_ref)] // it is handed out once
    pub fn take(&'static self) -> Option<&'static mut [u8]> {
        // The splitter of Moir and Anderson (1995, "Wait-free algorithms for fast, long-lived
        // renaming"), which needs no more than loads and stores. Every call that is under way has a
        // number of its own: the address of a variable.
        let call = 0u8;
        let number = (&raw const call).addr();
        self.last.store(number, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        self.closed.store(true, Ordering::SeqCst);
        if self.last.load(Ordering::SeqCst) != number {
            return None;
        }
        // SAFETY: this is the only call that ever gets here. Suppose that two do, and that A stored
        // its number before B did. A read its own number in `last` after it had closed, so B stored
        // its number after that. Then B saw that it was closed, and did not get here.
        Some(unsafe { &mut *self.bytes.get() })
    }
}

impl<const N: usize> Default for StaticArena<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn a_static_arena_is_handed_out_at_most_once() {
        const THREADS: usize = 4;
        let mut taken = 0;
        for _ in 0..2000 {
            let arena: &'static StaticArena<64> = Box::leak(Box::default());
            let barrier = Barrier::new(THREADS);
            let takers = thread::scope(|scope| {
                let take = || {
                    barrier.wait();
                    usize::from(arena.take().is_some())
                };
                let threads = [(); THREADS].map(|()| scope.spawn(take));
                threads
                    .map(|thread| thread.join().unwrap())
                    .iter()
                    .sum::<usize>()
            });
            assert!(takers <= 1);
            assert!(arena.take().is_none());
            taken += takers;
        }
        assert!(taken > 0);
    }

    #[test]
    fn one_caller_gets_it_and_then_nobody() {
        static ARENA: StaticArena<128> = StaticArena::new();
        let bytes = ARENA.take().unwrap();
        assert_eq!((bytes.len(), bytes.as_ptr() as usize % 64), (128, 0));
        assert!(ARENA.take().is_none());
        assert!(ARENA.take().is_none());
    }
}
