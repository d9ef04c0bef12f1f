#![allow(unsafe_code)]
//! Memory that a program sets aside for a [`Session`](super::Session).

use core::ops::{Deref, DerefMut};
#[cfg(target_has_atomic = "8")]
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

/// `N` bytes, aligned as a session needs them, for a program that has exclusive memory anyway: on a
/// large stack, in a static cell, or in a `static mut` that cortex-m-rt's `#[entry]` lends to the
/// entry point.
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
///
/// # Cores without compare-and-swap
///
/// `StaticArena` needs an atomic instruction to be taken only once, and Armv6-M (Cortex-M0 and M0+)
/// and some RISC-V cores have none. There the crate
/// [`static_cell`](https://docs.rs/static_cell) does the same with a critical section:
///
/// ```ignore
/// static ARENA: ConstStaticCell<Arena<{ PLAN.bytes() }>> = ConstStaticCell::new(Arena::new());
///
/// let arena: &'static mut Arena<_> = ARENA.take();
/// let mut session = Session::new(&model, &PLAN, arena, &Solo)?;
/// ```
///
/// It needs one of the features `critical-section` and `unsafe-assume-single-core` of the crate
/// `portable-atomic`. Without it, `#[entry]` of cortex-m-rt does it as well:
///
/// ```ignore
/// #[entry]
/// fn main() -> ! {
///     static mut ARENA: Arena<{ PLAN.bytes() }> = Arena::new();
///     let arena: &'static mut Arena<_> = ARENA;
///     // …
/// }
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
/// Cores without compare-and-swap use an [`Arena`].
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
#[cfg(target_has_atomic = "8")]
#[repr(C, align(64))]
pub struct StaticArena<const N: usize> {
    bytes: UnsafeCell<[u8; N]>,
    taken: AtomicBool,
}

// SAFETY: the bytes are reached through `take` alone, which hands them out at most once.
#[cfg(target_has_atomic = "8")]
unsafe impl<const N: usize> Sync for StaticArena<N> {}

#[cfg(target_has_atomic = "8")]
impl<const N: usize> StaticArena<N> {
    /// Zeroed memory: it costs no flash.
    pub const fn new() -> Self {
        StaticArena {
            bytes: UnsafeCell::new([0; N]),
            taken: AtomicBool::new(false),
        }
    }

    /// The memory, the first time; `None` after that.
    #[allow(clippy::mut_from_ref)] // it is handed out once
    pub fn take(&'static self) -> Option<&'static mut [u8]> {
        if self.taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        // SAFETY: `taken` was false and is never reset, so this is the only reference that was ever
        // made.
        Some(unsafe { &mut *self.bytes.get() })
    }
}

#[cfg(target_has_atomic = "8")]
impl<const N: usize> Default for StaticArena<N> {
    fn default() -> Self {
        Self::new()
    }
}
