//! [`Threads`]: the cores of a host as [`Workers`].

use std::prelude::rust_2024::*;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Error;
use super::handoff::{Handoff, MOST_HELPERS, Waited};
use crate::run::Workers;

/// How long an idle thread waits in a loop before it sleeps. Between two matmuls of a token there
/// are some microseconds, and waking a thread takes as long as a matmul.
const PATIENCE: Duration = Duration::from_micros(200);
/// The caller calls helpers late after waiting this long, or as long as it worked itself if that is
/// longer. Another program then probably has their core, for some milliseconds.
const LATE: Duration = Duration::from_micros(500);
/// How long a late helper rests, at first and at most. The rest doubles each time that it is late
/// again within `SOON` after a rest. Without its core, a helper only holds up a piece of work that
/// all others wait for, so they are faster without it.
const REST: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(128)];
/// Longer than a time slice of the operating system.
const SOON: Duration = Duration::from_millis(30);

/// Threads that share each matmul and each token's attention; the calling thread is one of them.
/// The logits are the same bits with any number of threads. Between tokens the threads wait in a
/// loop for 0.2 ms, and then sleep.
///
/// A thread that starts late does not delay the others: it gets only what they have not claimed,
/// and a job ends when all of it is claimed and done. If a thread loses its core to another program
/// during a job, the others have to wait, and then do without it for a while.
///
/// ```
/// use pocketlm::host::{AlignedBytes, Threads};
/// use pocketlm::{include_image, model::Model, run::{Plan, Session}};
///
/// let model = Model::open(include_image!("../bin/pocketlm/story/story.plm"))?;
/// let plan = Plan::new(model.header()).context(16).batch(4);
/// let mut arena = AlignedBytes::zeroed(plan.bytes());
/// let threads = Threads::new(2)?;
/// let mut session = Session::new(&model, &plan, &mut arena, &threads)?;
/// assert_eq!(session.feed(&[2, 17, 40])?.len(), 1024);
/// # Ok::<(), pocketlm::host::Error>(())
/// ```
pub struct Threads {
    handoff: Arc<Handoff>,
    helpers: Vec<JoinHandle<()>>,
}

impl Threads {
    /// `count` threads in all, the calling one included; 0 for one a core. There are never more
    /// than the machine can run at once, because they would only wait for each other.
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
            // If one fails, dropping `threads` ends the others.
            threads
                .helpers
                .push(helper.map_err(|error| Error::Threads(count, error))?);
        }
        Ok(threads)
    }
}

/// The main loop of a helper.
fn help(handoff: &Handoff) {
    let mut last = 0;
    let [mut rest, longest] = REST;
    let mut rested = None;
    loop {
        let start = Instant::now();
        match handoff.wait(&mut last, || start.elapsed() < PATIENCE) {
            Waited::Worked => {}
            Waited::Late => {
                // Counts from the start of the job in which it lost its core.
                let soon = rested.is_some_and(|rested| start.duration_since(rested) < SOON);
                rest = if soon {
                    (2 * rest).min(longest)
                } else {
                    REST[0]
                };
                let late = Instant::now();
                // The loop is needed because a wake-up for a job ends a pause early.
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
