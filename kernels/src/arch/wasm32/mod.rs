//! WebAssembly.

mod simd128;

use crate::Isa;

/// What this machine can run. A module that holds an instruction its engine lacks does not load at
/// all, so there is nothing to ask: it is what the compiler was told with
/// `-C target-feature=+simd128`.
pub(crate) fn tables() -> [Option<&'static Isa>; 1] {
    [Some(&simd128::SIMD128)]
}
