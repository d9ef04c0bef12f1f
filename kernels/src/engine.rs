//! [`Engine`]: which kernels compute, on which cores.

use crate::{Isa, Workers};

/// The kernels and the cores that a computation uses. Neither changes a bit of the result.
///
/// A reference to [`Workers`] converts to an engine with the fastest kernels of the machine, so a
/// function that takes `impl Into<Engine>` also takes `&Solo`.
///
/// Example: [`Workers`](crate::Workers).
#[derive(Clone, Copy)]
pub struct Engine<'w> {
    /// The kernels.
    pub isa: &'static Isa,
    /// The cores.
    pub workers: &'w dyn Workers,
}

impl<'w, W: Workers> From<&'w W> for Engine<'w> {
    fn from(workers: &'w W) -> Self {
        Engine {
            isa: Isa::best(),
            workers,
        }
    }
}

impl<'w> From<&'w dyn Workers> for Engine<'w> {
    fn from(workers: &'w dyn Workers) -> Self {
        Engine {
            isa: Isa::best(),
            workers,
        }
    }
}
