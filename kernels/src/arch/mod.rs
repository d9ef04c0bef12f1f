#![allow(unsafe_code)]
//! Kernels written for one instruction set each. Intrinsics live here and nowhere else.

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
