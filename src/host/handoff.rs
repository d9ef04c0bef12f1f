#![allow(unsafe_code)]
//! [`Handoff`]: a thread lends a job to helper threads that join before it is done. It contains all
//! of the synchronisation of [`Threads`](super::Threads).
//!
//! One word holds the whole state: the number of the job, whether it is open, how many helpers work
//! on it, whether they are late, and whether any helper sleeps. So every step is a single atomic
//! change of that word, and no two words can disagree.
//!
//! 1. The caller stores the job and opens it.
//! 2. A helper that sees a new open job joins it, works, and leaves. A helper that has seen none
//!    for a while marks itself as asleep; this fails if a job was opened in the meantime.
//! 3. The caller works too. When it is done, nothing is left to claim. It closes the job, so that
//!    no helper joins any more, and waits for the helpers that still work. It does not wait for
//!    helpers that never joined. Helpers that it waits for too long learn that when they leave.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::prelude::rust_2024::*;

use super::sync::{AtomicBool, AtomicUsize, LOOKS, Ordering, UnsafeCell, spin_loop, yield_now};

/// Helpers may join the job.
const OPEN: usize = 1;
/// A helper sleeps, or is about to.
const ASLEEP: usize = 2;
/// Helpers are to end.
const STOPPED: usize = 4;
/// The caller has waited too long for the helpers that still work.
const LATE: usize = 8;
/// A helper works on the job. Higher bits count further helpers.
const HELPER: usize = 16;
/// The most helpers there can be.
pub(super) const MOST_HELPERS: usize = JOB / HELPER - 1;
/// The number of the job. It wraps around. A helper that slept through exactly all numbers takes a
/// new job for the old one and does not join it, which is harmless.
const JOB: usize = 1 << 15;

type Job = dyn Fn() + Sync;

/// See the module. It has cache lines of its own, two because processors fetch them in pairs:
/// helpers read it all the time.
#[repr(align(128))]
pub(super) struct Handoff {
    word: AtomicUsize,
    job: UnsafeCell<Option<*const Job>>,
    /// A helper's job panicked.
    panicked: AtomicBool,
    /// Some thread is in `run`.
    taken: AtomicBool,
}

// SAFETY: `job` is written by the one thread that has set `taken`, while the job is closed and no
// helper is at it, and read by helpers at an open job; `word` orders the two. What it points to is
// `Sync`.
unsafe impl Sync for Handoff {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Handoff {}

/// The result of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// A job came and is done.
    Worked,
    /// The same, but the caller had to wait for this helper.
    Late,
    /// No job came. The next one will find this helper asleep and call `wake`.
    Asleep,
    /// There will be no more jobs.
    Stopped,
}

impl Handoff {
    pub(super) fn new() -> Self {
        Handoff {
            word: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            taken: AtomicBool::new(false),
        }
    }

    /// Calls `job` here, and on every helper that joins before this call is done. Returns when all
    /// have returned. `wake` wakes sleeping helpers. `late` is called now and then, and says
    /// whether the helpers that still work are late. If another thread's job is running, this
    /// thread does its job alone.
    pub(super) fn run(
        &self,
        job: &(dyn Fn() + Sync),
        wake: impl FnOnce(),
        late: impl FnMut() -> bool,
    ) {
        if self.taken.swap(true, Ordering::Acquire) {
            return job();
        }
        // SAFETY: only the lifetime changes. Helpers call the job only while they are counted in
        // `word`, and `Opened` does not let this function end, not even by a panic, before no
        // helper can join and all have left.
        let lent = unsafe { core::mem::transmute::<&(dyn Fn() + Sync), &'static Job>(job) };
        // SAFETY: `taken` is ours, so no other thread writes; no job is open and no helper counted,
        // so none reads.
        unsafe { self.job.get().write(Some(lent)) };
        let open = |word: usize| ((word & !(ASLEEP | LATE)) | OPEN).wrapping_add(JOB);
        // Release: a helper that sees the job open also sees the stored job.
        let before = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| Some(open(word)));
        let opened = Opened(self);
        if before.is_ok_and(|before| before & ASLEEP != 0) {
            wake();
        }
        job();
        // Nothing is left to claim.
        let panicked = self.close(late);
        core::mem::forget(opened);
        if panicked {
            std::panic!("a job panicked on another thread");
        }
    }

    /// Waits for a job and works on it. `last` is the last job that this helper knows, 0 at first.
    /// `patient` is called now and then, and says whether to keep waiting.
    pub(super) fn wait(&self, last: &mut usize, mut patient: impl FnMut() -> bool) -> Waited {
        loop {
            for _ in 0..LOOKS {
                // Relaxed: the exchanges below make the decisions.
                let word = self.word.load(Ordering::Relaxed);
                if word & STOPPED != 0 {
                    return Waited::Stopped;
                }
                if word & OPEN == 0 || word / JOB == *last {
                    spin_loop();
                // Acquire: pairs with the release that opened the job.
                } else if self.exchange(word, word + HELPER, Ordering::Acquire) {
                    *last = word / JOB;
                    return self.help();
                }
            }
            if !patient() {
                let word = self.word.load(Ordering::Relaxed);
                let nothing = word & OPEN == 0 || word / JOB == *last;
                if nothing
                    && word & STOPPED == 0
                    && self.exchange(word, word | ASLEEP, Ordering::Relaxed)
                {
                    return Waited::Asleep;
                }
            }
        }
    }

    fn exchange(&self, from: usize, to: usize, success: Ordering) -> bool {
        self.word
            .compare_exchange(from, to, success, Ordering::Relaxed)
            .is_ok()
    }

    /// Works on the job, counted as a helper.
    fn help(&self) -> Waited {
        // SAFETY: the job is not written while a helper is counted.
        let job = unsafe { self.job.get().read() };
        // SAFETY: the pointer was a reference, and the thread that lent it waits for this helper to
        // leave.
        let job = job.map(|job| unsafe { &*job });
        // This helper must leave even after a panic. The caller reports it.
        if catch_unwind(AssertUnwindSafe(|| job.map(|job| job()))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        // Release: what the job wrote, for the caller that waits.
        let word = self.word.fetch_sub(HELPER, Ordering::Release);
        if word & LATE == 0 {
            Waited::Worked
        } else {
            Waited::Late
        }
    }

    /// Tells the helpers to end. Those that sleep must be woken.
    pub(super) fn stop(&self) {
        self.word.fetch_or(STOPPED, Ordering::Relaxed);
    }

    /// Whether helpers are to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.word.load(Ordering::Relaxed) & STOPPED != 0
    }

    /// Closes the job, waits until all helpers have left, and makes room for the next caller.
    /// Whether a helper panicked.
    fn close(&self, mut late: impl FnMut() -> bool) -> bool {
        let mut word = self.word.fetch_and(!OPEN, Ordering::Acquire);
        let mut looks = 0;
        while word & (JOB - HELPER) != 0 {
            looks += 1;
            // A helper is soon done, unless it has lost its core. Yielding this core earlier would
            // be worse, because another program could keep it.
            if looks % LOOKS == 0 && late() {
                self.word.fetch_or(LATE, Ordering::Relaxed);
                yield_now()
            } else {
                spin_loop()
            }
            word = self.word.load(Ordering::Acquire);
        }
        // This must come before `taken` is cleared, so that the next caller does not see this job's
        // panic.
        let panicked = self.panicked.swap(false, Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
        panicked
    }
}

/// Closes an open job if it panics on the caller's thread. The caller then reports its own panic.
struct Opened<'h>(&'h Handoff);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        // No helper counts as late here.
        self.0.close(|| false);
    }
}
