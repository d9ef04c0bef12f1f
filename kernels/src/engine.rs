//! [`Engine`]: what computes, which kernels on which cores.

use crate::{Isa, Workers};

/// The kernels and the cores that a computation uses. Neither changes a bit of what it computes.
///
/// Workers alone are an engine as well, with the fastest kernels of the machine: whatever takes
/// `impl Into<Engine>` takes `&Solo`.
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
