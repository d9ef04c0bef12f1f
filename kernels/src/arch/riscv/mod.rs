//! RISC-V.

mod rvv;

use crate::Isa;

/// What this machine can run: what the cargo feature says.
pub(crate) fn tables() -> [Option<&'static Isa>; 1] {
    [Some(&rvv::RVV)]
}
