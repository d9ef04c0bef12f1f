//! Threads as a caller meets them: jobs, panics, several callers at once.

#![cfg(feature = "std")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pocketlm::host::Threads;
use pocketlm::run::Workers;

/// Rounds of a test: Miri, which looks at every access to memory, has to be content with fewer.
fn rounds(rounds: usize) -> usize {
    if cfg!(miri) { rounds / 200 } else { rounds }
}

/// Shares `pieces` pieces of work and says how many were done.
fn share(workers: &dyn Workers, pieces: usize) -> usize {
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    workers.run(&|| {
        while next.fetch_add(1, Ordering::Relaxed) < pieces {
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    done.into_inner()
}

#[test]
fn every_piece_is_done_when_run_returns_awake_or_asleep() {
    let threads = Threads::new(2).unwrap();
    for round in 0..rounds(20_000) {
        assert_eq!(share(&threads, round % 7), round % 7);
        // Now and then long enough for the helper to fall asleep.
        if round % rounds(5000) == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn several_callers_and_jobs_within_jobs_do_not_wait_for_each_other() {
    let threads = Threads::new(2).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..rounds(2000)).for_each(|_| assert_eq!(share(&threads, 5), 5)));
        }
    });
    threads.run(&|| assert_eq!(share(&threads, 3), 3));
}

#[test]
fn a_panic_on_any_thread_reaches_the_caller_and_the_threads_go_on() {
    let threads = Threads::new(2).unwrap();
    for _ in 0..rounds(200) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            threads.run(&|| panic!("a bug in a job"))
        }));
        assert!(outcome.is_err());
        assert_eq!(share(&threads, 9), 9);
    }
    // On the other thread alone, for which the caller waits.
    if threads.count() > 1 {
        let caller = thread::current().id();
        let came = AtomicBool::new(false);
        let job = || {
            if thread::current().id() != caller {
                came.store(true, Ordering::Relaxed);
                panic!("a bug in a job");
            }
            while !came.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        assert!(catch_unwind(AssertUnwindSafe(|| threads.run(&job))).is_err());
        assert_eq!(share(&threads, 9), 9);
    }
}

/// What happens to a thread whose core another program is given, but that it sleeps.
#[test]
#[cfg_attr(miri, ignore = "a matter of time")]
fn a_thread_that_all_others_had_to_wait_for_is_left_out_for_a_while() {
    let threads = Threads::new(2).unwrap();
    if threads.count() == 1 {
        return;
    }
    let caller = thread::current().id();
    // A job that lasts until the helper has come, but not for longer than `patience`; whether it
    // came.
    let comes = |patience: Duration, helper: &(dyn Fn() + Sync)| {
        let start = Instant::now();
        let came = AtomicBool::new(false);
        threads.run(&|| {
            if thread::current().id() != caller {
                came.store(true, Ordering::Relaxed);
                helper();
            }
            while !came.load(Ordering::Relaxed) && start.elapsed() < patience {
                std::hint::spin_loop();
            }
        });
        came.into_inner()
    };
    let late = Duration::from_millis(100);
    let mut seen = 0;
    let mut left_out = 0;
    for _ in 0..200 {
        let start = Instant::now();
        let end = Mutex::new(Instant::now());
        let helper = || {
            thread::sleep(late);
            *end.lock().unwrap() = Instant::now();
        };
        assert!(
            comes(Duration::from_secs(10), &helper),
            "it never comes again"
        );
        let end = *end.lock().unwrap();
        let came = comes(Duration::from_micros(500), &|| ());
        // Unless this thread had its core all the while, nothing can be said.
        if end - start < 2 * late && end.elapsed() < Duration::from_millis(2) {
            (seen, left_out) = (seen + 1, left_out + usize::from(!came));
        }
        if seen == 10 {
            break;
        }
    }
    assert!(
        seen > 0 && left_out == seen,
        "it was left out {left_out} times of {seen}"
    );
}
