//! 64-bit Arm. Advanced SIMD follows IEEE 754 here, subnormal numbers included. That of 32-bit Arm
//! flushes them to zero, so there is no table for it.

mod dotprod;
mod neon;

use crate::Isa;

/// What this machine can run, the fastest first.
pub(crate) fn tables() -> [Option<&'static Isa>; 2] {
    #[cfg(feature = "std")]
    let dotprod = std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(feature = "std"))]
    let dotprod = cfg!(target_feature = "dotprod");
    [dotprod.then_some(&dotprod::DOTPROD), Some(&neon::NEON)]
}
