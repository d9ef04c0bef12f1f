//! [`Threads`]: the cores of a host as [`Workers`].

use std::prelude::rust_2024::*;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::import::ImportError;
use crate::run::Workers;

/// A pool of threads that share each product and each token's attention; the calling thread is one of them. The
/// logits are the same bits with any number of threads.
pub struct Threads {
    /// `None` with one thread, which needs no pool.
    helpers: Option<ThreadPool>,
}

impl Threads {
    /// `count` threads in all, the calling one included; 0 for as many as the machine runs at once, which is also the
    /// most there will be: more would only wait for each other.
    ///
    /// # Errors
    /// The machine does not give so many threads.
    pub fn new(count: usize) -> Result<Self, ImportError> {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if count == 0 { most } else { count.min(most) };
        let pool = |helpers| ThreadPoolBuilder::new().num_threads(helpers).build();
        let helpers = match count - 1 {
            0 => None,
            helpers => Some(pool(helpers).map_err(|error| ImportError::new(format!("{count} threads: {error}")))?),
        };
        Ok(Threads { helpers })
    }

    /// How many threads share the work.
    pub fn count(&self) -> usize {
        self.helpers.as_ref().map_or(0, ThreadPool::current_num_threads) + 1
    }
}

impl Workers for Threads {
    fn run(&self, job: &(dyn Fn() + Sync)) {
        match &self.helpers {
            None => job(),
            Some(helpers) => helpers.in_place_scope(|scope| {
                scope.spawn_broadcast(|_, _| job());
                job();
            }),
        }
    }
}
