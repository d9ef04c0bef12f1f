//! x86-64.

mod avx2;
mod input;
mod mix;
mod panel;

use crate::Isa;

/// What this machine can run, the fastest first.
pub(crate) fn tables() -> [Option<&'static Isa>; 1] {
    #[cfg(feature = "std")]
    let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("f16c");
    #[cfg(not(feature = "std"))]
    let avx2 = cfg!(all(target_feature = "avx2", target_feature = "f16c"));
    [avx2.then_some(&avx2::AVX2)]
}
