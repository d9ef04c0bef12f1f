//! `src/host/handoff.rs` and `kernels/src/workers.rs` in every order that their threads can run in,
//! and with every value that their loads may see, as far as loom tells them apart: nobody waits for
//! ever, no piece of work is claimed twice, nobody reads what is still being written, and when
//! `run` returns all of the job is done and seen.
//! `cargo test --manifest-path tests/loom/Cargo.toml`.

#[path = "../../../src/host/handoff.rs"]
#[allow(dead_code)]
mod handoff;

#[path = "../../../kernels/src/workers.rs"]
#[allow(dead_code)]
mod workers;

/// What they are made of.
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
    use loom::thread::{self, JoinHandle};

    use super::handoff::{Handoff, Waited};
    use super::sync::UnsafeCell;
    use super::workers::{Output, Workers, for_each_part, split_chunks, split_rows};

    /// What a job writes: places that are written by whoever claims them, not even atomically.
    struct Places(Vec<UnsafeCell<usize>>);

    // SAFETY: loom looks whether two threads are at one place.
    unsafe impl Sync for Places {}

    impl Places {
        fn new(count: usize) -> Self {
            Places((0..count).map(|_| UnsafeCell::new(0)).collect())
        }

        fn write(&self, place: usize, value: usize) {
            // SAFETY: claimed once.
            unsafe { self.0[place].write(value) };
        }

        /// What is there when the job is done.
        fn values(&self) -> Vec<usize> {
            // SAFETY: the job is done.
            self.0.iter().map(|place| unsafe { place.read() }).collect()
        }
    }

    /// As `host::Threads`.
    struct Threads {
        handoff: Arc<Handoff>,
        helpers: Vec<JoinHandle<()>>,
    }

    impl Threads {
        fn new(helpers: usize) -> Self {
            let handoff = Arc::new(Handoff::new());
            Threads {
                helpers: (0..helpers).map(|_| helper(&handoff)).collect(),
                handoff,
            }
        }

        fn stop(self) {
            self.handoff.stop();
            for helper in self.helpers {
                helper.thread().unpark();
                helper.join().unwrap();
            }
        }
    }

    impl Workers for Threads {
        fn run(&self, job: &(dyn Fn() + Sync)) {
            let wake = || {
                self.helpers
                    .iter()
                    .for_each(|helper| helper.thread().unpark())
            };
            // Always late: what is late now and then is among its orders.
            self.handoff.run(job, wake, || true);
        }

        fn count(&self) -> usize {
            self.helpers.len() + 1
        }
    }

    /// As in `host/threads.rs`, with no patience.
    fn helper(handoff: &Arc<Handoff>) -> JoinHandle<()> {
        let handoff = handoff.clone();
        thread::spawn(move || {
            let mut last = 0;
            loop {
                match handoff.wait(&mut last, || false) {
                    Waited::Worked | Waited::Late => {}
                    Waited::Asleep => thread::park(),
                    Waited::Stopped => return,
                }
            }
        })
    }

    /// Shares `count` pieces of work, and sees that each was done, once.
    fn share(workers: &dyn Workers, count: usize, value: usize) {
        let places = Places::new(count);
        for_each_part(workers, 0..count, |part| {
            part.for_each(|place| places.write(place, value))
        });
        assert_eq!(places.values(), vec![value; count]);
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
            let threads = Threads::new(1);
            for value in 1..=2 {
                share(&threads, 2, value);
            }
            threads.stop();
        });
    }

    #[test]
    fn a_helper_is_late_for_no_job_but_the_one_that_had_to_wait() {
        every_order(3, || {
            let handoff = Arc::new(Handoff::new());
            let helper = {
                let handoff = handoff.clone();
                thread::spawn(move || {
                    let mut last = 0;
                    loop {
                        match handoff.wait(&mut last, || false) {
                            Waited::Worked => {}
                            Waited::Late => assert_eq!(last, 1),
                            Waited::Asleep => thread::park(),
                            Waited::Stopped => return,
                        }
                    }
                })
            };
            for late in [true, false] {
                handoff.run(&|| (), || helper.thread().unpark(), || late);
            }
            handoff.stop();
            helper.thread().unpark();
            helper.join().unwrap();
        });
    }

    #[test]
    fn two_helpers_share_a_job() {
        every_order(2, || {
            let threads = Threads::new(2);
            share(&threads, 2, 1);
            threads.stop();
        });
    }

    #[test]
    fn two_callers_do_not_get_into_each_others_jobs() {
        every_order(2, || {
            let threads = Arc::new(Threads::new(1));
            let other = {
                let threads = threads.clone();
                thread::spawn(move || share(&*threads, 1, 2))
            };
            share(&*threads, 1, 1);
            other.join().unwrap();
            Arc::try_unwrap(threads).ok().unwrap().stop();
        });
    }

    /// Parts that are longer than one piece: with two threads the first is claimed a quarter at a
    /// time.
    #[test]
    fn parts_of_any_length_are_all_of_it_once() {
        every_order(2, || {
            let threads = Threads::new(1);
            share(&threads, 9, 1);
            threads.stop();
        });
    }

    #[test]
    fn rows_of_two_outputs_are_each_computed_once_by_one_thread() {
        rows_of_two_outputs(2);
    }

    #[test]
    fn so_are_rows_of_each_column_by_itself() {
        rows_of_two_outputs(1);
    }

    fn rows_of_two_outputs(together: usize) {
        every_order(2, move || {
            let threads = Threads::new(1);
            // Two columns of 5 rows, of which 1 to 5 are asked for in pieces of 2; one column of 3
            // rows.
            let mut first = [0.0; 10];
            let mut second = [0.0; 3];
            let claimed = Places::new(15);
            let outputs = [
                Output {
                    values: &mut first,
                    rows: 5,
                    range: 1..5,
                },
                Output {
                    values: &mut second,
                    rows: 3,
                    range: 0..3,
                },
            ];
            split_rows(
                &threads,
                outputs,
                (2, together),
                |output, columns, rows, mut view| {
                    for (index, column) in columns.enumerate() {
                        for (value, row) in view.vector(index).iter_mut().zip(rows.clone()) {
                            claimed.write(5 * (output * 2 + column) + row, 1);
                            *value += (100 * output + 10 * column + row) as f32 + 1.0;
                        }
                    }
                },
            );
            assert_eq!(
                claimed.values(),
                [0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
            );
            assert_eq!(
                first,
                [0.0, 2.0, 3.0, 4.0, 5.0, 0.0, 12.0, 13.0, 14.0, 15.0]
            );
            assert_eq!(second, [101.0, 102.0, 103.0]);
            threads.stop();
        });
    }

    #[test]
    fn chunks_of_several_buffers_are_each_given_to_one_thread() {
        every_order(2, || {
            let threads = Threads::new(1);
            let mut first = [0.0; 7];
            let mut second = [0.0; 4];
            let claimed = Places::new(4);
            split_chunks(
                &threads,
                [(&mut first, 2), (&mut second, 1)],
                0..4,
                |index, [first, second]| {
                    claimed.write(index, 1);
                    first
                        .iter_mut()
                        .chain(second)
                        .for_each(|value| *value += index as f32 + 1.0);
                },
            );
            // The last chunk does not fit the first buffer.
            assert_eq!(claimed.values(), [1, 1, 1, 0]);
            assert_eq!(
                (first, second),
                ([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 0.0], [1.0, 2.0, 3.0, 0.0])
            );
            threads.stop();
        });
    }
}
