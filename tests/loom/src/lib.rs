//! `src/host/handoff.rs` in every order that its threads can run in, and with every value that their loads may see, as far
//! as loom tells them apart: nobody waits for ever, nobody reads what is still being written, and when `run` returns all of
//! the job is done and seen. `cargo test --manifest-path tests/loom/Cargo.toml`.

#[path = "../../../src/host/handoff.rs"]
#[allow(dead_code)]
mod handoff;

/// What the handoff is made of.
mod sync {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub use loom::thread::yield_now;

    /// Looking twice changes nothing here.
    pub const LOOKS: usize = 1;

    /// As std's, with an eye on who reads and who writes.
    pub struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

    impl<T: Copy> UnsafeCell<T> {
        pub fn new(value: T) -> Self {
            UnsafeCell(loom::cell::UnsafeCell::new(value))
        }

        pub fn get(&self) -> &Self {
            self
        }

        /// # Safety
        /// Nobody writes: loom looks.
        pub unsafe fn read(&self) -> T {
            // SAFETY: the pointer is the cell's.
            self.0.with(|value| unsafe { *value })
        }

        /// # Safety
        /// Nobody else reads or writes: loom looks.
        pub unsafe fn write(&self, value: T) {
            // SAFETY: the pointer is the cell's.
            self.0.with_mut(|place| unsafe { *place = value });
        }
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread::{self, JoinHandle};

    use super::handoff::{Handoff, Waited};
    use super::sync::UnsafeCell;

    /// What a job writes: places that are written by whoever claims them, not even atomically.
    struct Places {
        next: AtomicUsize,
        places: Vec<UnsafeCell<usize>>,
    }

    // SAFETY: loom looks whether two threads are at one place.
    unsafe impl Sync for Places {}
    // SAFETY: as above.
    unsafe impl Send for Places {}

    impl Places {
        fn new(count: usize) -> Self {
            Places { next: AtomicUsize::new(0), places: (0..count).map(|_| UnsafeCell::new(0)).collect() }
        }

        /// Claims as `pocketlm_kernels::workers::for_each_part` does.
        fn fill(&self, value: usize) {
            let claim = || {
                let next = |place| if place < self.places.len() { Some(place + 1) } else { None };
                self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            };
            while let Ok(place) = claim() {
                // SAFETY: claimed once.
                unsafe { self.places[place].write(value) };
            }
        }

        fn assert_full(&self, value: usize) {
            // SAFETY: the job is done.
            self.places.iter().for_each(|place| assert_eq!(unsafe { place.read() }, value));
        }
    }

    /// As in `host/threads.rs`, with no patience.
    fn helper(handoff: &Arc<Handoff>) -> JoinHandle<()> {
        let handoff = handoff.clone();
        thread::spawn(move || {
            let mut last = 0;
            loop {
                match handoff.wait(&mut last, || false) {
                    Waited::Worked => {}
                    Waited::Asleep => thread::park(),
                    Waited::Stopped => return,
                }
            }
        })
    }

    fn run(handoff: &Handoff, helpers: &[JoinHandle<()>], places: &Places, value: usize) {
        handoff.run(&|| places.fill(value), || helpers.iter().for_each(|helper| helper.thread().unpark()));
        places.assert_full(value);
    }

    fn stop(handoff: &Handoff, helpers: Vec<JoinHandle<()>>) {
        handoff.stop();
        for helper in helpers {
            helper.thread().unpark();
            helper.join().unwrap();
        }
    }

    /// All orders in which threads are interrupted at most `interruptions` times.
    fn every_order(interruptions: usize, model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(interruptions);
        builder.max_branches = 10_000;
        builder.check(model);
    }

    #[test]
    fn jobs_one_after_the_other_are_done_when_run_returns() {
        every_order(3, || {
            let handoff = Arc::new(Handoff::new());
            let helpers = vec![helper(&handoff)];
            for value in 1..=2 {
                let places = Places::new(2);
                run(&handoff, &helpers, &places, value);
            }
            stop(&handoff, helpers);
        });
    }

    #[test]
    fn two_helpers_share_a_job() {
        every_order(2, || {
            let handoff = Arc::new(Handoff::new());
            let helpers = vec![helper(&handoff), helper(&handoff)];
            run(&handoff, &helpers, &Places::new(2), 1);
            stop(&handoff, helpers);
        });
    }

    #[test]
    fn two_callers_do_not_get_into_each_others_jobs() {
        every_order(2, || {
            let handoff = Arc::new(Handoff::new());
            let helpers = Arc::new(vec![helper(&handoff)]);
            let other = {
                let (handoff, helpers) = (handoff.clone(), helpers.clone());
                thread::spawn(move || run(&handoff, &helpers, &Places::new(1), 2))
            };
            run(&handoff, &helpers, &Places::new(1), 1);
            other.join().unwrap();
            stop(&handoff, Arc::try_unwrap(helpers).ok().unwrap());
        });
    }
}
