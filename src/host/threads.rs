//! [`Threads`]: the cores of a host as [`Workers`].

use std::prelude::rust_2024::*;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Error;
use super::handoff::{Handoff, MOST_HELPERS, Waited};
use crate::run::Workers;

/// How long a thread that has nothing to do looks out for work before it sleeps. Between two
/// products of a token there are some microseconds, and waking a thread takes as long as a product.
const PATIENCE: Duration = Duration::from_micros(200);
/// How long the caller waits for helpers before it finds them late, if it did not work for longer
/// itself: then another program has their core, which systems take away for some milliseconds at a
/// time.
const LATE: Duration = Duration::from_micros(500);
/// How long such a helper then takes no more jobs, at first and at most: twice as long each time
/// that it is late again `SOON` after it. While another program has its share of the core, it holds
/// a piece that all the others wait for, and they are better off without it.
const REST: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(128)];
/// Longer than a system lets one of two programs run before the other has its turn: after a rest a
/// helper works for so long at most.
const SOON: Duration = Duration::from_millis(30);

/// Threads that share each product and each token's attention; the calling thread is one of them.
/// The logits are the same bits with any number of threads. Between tokens they wait in a loop for
/// 0.2 ms, then asleep.
///
/// Nobody waits for a thread that comes late: what the others have not claimed by then is all it
/// gets, and work ends when everything is done and nobody is at it. A thread that loses its core to
/// another program while it is at work is waited for, and then left out for a while.
pub struct Threads {
    handoff: Arc<Handoff>,
    helpers: Vec<JoinHandle<()>>,
}

impl Threads {
    /// `count` threads in all, the calling one included; 0 for one a core. There are never more
    /// than the machine runs at once: they would only wait for each other.
    ///
    /// # Errors
    /// [`Error::Threads`] if the system does not start so many threads.
    pub fn new(count: usize) -> Result<Self, Error> {
        let most = thread::available_parallelism().map_or(1, usize::from);
        // Two threads of one core share its multipliers and its caches.
        let count = if count == 0 {
            num_cpus::get_physical()
        } else {
            count
        }
        .clamp(1, most.min(MOST_HELPERS + 1));
        let mut threads = Threads {
            handoff: Arc::new(Handoff::new()),
            helpers: Vec::new(),
        };
        for _ in 1..count {
            let handoff = threads.handoff.clone();
            let helper = thread::Builder::new()
                .name("pocketlm".into())
                .spawn(move || help(&handoff));
            // Dropping the threads that there are ends them.
            threads
                .helpers
                .push(helper.map_err(|error| Error::Threads(count, error))?);
        }
        Ok(threads)
    }
}

/// What a helper does all its life.
fn help(handoff: &Handoff) {
    let mut last = 0;
    let [mut rest, longest] = REST;
    let mut rested = None;
    loop {
        let start = Instant::now();
        match handoff.wait(&mut last, || start.elapsed() < PATIENCE) {
            Waited::Worked => {}
            Waited::Late => {
                // When the job came in which it lost its core, not when it got it back.
                let soon = rested.is_some_and(|rested| start.duration_since(rested) < SOON);
                rest = if soon {
                    (2 * rest).min(longest)
                } else {
                    REST[0]
                };
                let late = Instant::now();
                // Others' calls to wake helpers do not end it.
                while !handoff.is_stopped() && late.elapsed() < rest {
                    thread::park_timeout(rest.saturating_sub(late.elapsed()));
                }
                rested = Some(Instant::now());
            }
            Waited::Asleep => thread::park(),
            Waited::Stopped => return,
        }
    }
}

impl Workers for Threads {
    fn run(&self, job: &(dyn Fn() + Sync)) {
        if self.helpers.is_empty() {
            return job();
        }
        let wake = || {
            self.helpers
                .iter()
                .for_each(|helper| helper.thread().unpark())
        };
        let start = Instant::now();
        let mut waiting = None;
        let late = || {
            let since: Instant = *waiting.get_or_insert_with(Instant::now);
            since.elapsed() > LATE.max(since - start)
        };
        self.handoff.run(job, wake, late);
    }

    fn count(&self) -> usize {
        self.helpers.len() + 1
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.handoff.stop();
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            _ = helper.join();
        }
    }
}
