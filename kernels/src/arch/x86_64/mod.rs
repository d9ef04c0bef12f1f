//! x86-64.

#[cfg(all(feature = "std", target_os = "linux", not(miri)))]
mod amx;
mod avx2;
mod avx512;
mod avxvnni;
mod bytes;
mod input;
mod panel;
mod weighted_sum;

use crate::Isa;

/// What this machine can run, the fastest first.
pub(crate) fn tables() -> [Option<&'static Isa>; 4] {
    macro_rules! has {
        ($($feature:tt),*) => {{
            #[cfg(feature = "std")]
            let found = $(std::is_x86_feature_detected!($feature))&&*;
            #[cfg(not(feature = "std"))]
            let found = cfg!(all($(target_feature = $feature),*));
            found
        }};
    }
    let avx2 = has!("avx2", "f16c");
    let avxvnni = avx2 && has!("avxvnni");
    let avx512 = avx2 && has!("avx512f", "avx512bw", "avx512vnni");
    // The system has to be asked, once.
    #[cfg(all(feature = "std", target_os = "linux", not(miri)))]
    let amx = {
        static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        (avx512 && *ALLOWED.get_or_init(amx::is_allowed)).then_some(&amx::AMX)
    };
    #[cfg(not(all(feature = "std", target_os = "linux", not(miri))))]
    let amx = None;
    [
        amx,
        avx512.then_some(&avx512::AVX512),
        avxvnni.then_some(&avxvnni::AVXVNNI),
        avx2.then_some(&avx2::AVX2),
    ]
}
