//! 32-bit Arm microcontrollers.

#[cfg(feature = "dsp")]
mod dsp;
#[cfg(feature = "mve")]
mod mve;

use crate::Isa;

/// What this machine can run: what the cargo features say.
pub(crate) fn tables() -> [Option<&'static Isa>; 2] {
    [
        #[cfg(feature = "mve")]
        Some(&mve::MVE),
        #[cfg(feature = "dsp")]
        Some(&dsp::DSP),
        #[cfg(not(all(feature = "mve", feature = "dsp")))]
        None,
    ]
}
