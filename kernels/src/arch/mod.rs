#![allow(unsafe_code)]
//! Kernels for single instruction sets. All intrinsics and assembly are here.
//!
//! Each architecture has a function `tables()`: what this machine can run besides
//! [`Isa::SCALAR`](crate::Isa::SCALAR), the fastest first.

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use aarch64 as machine;

#[cfg(all(target_arch = "arm", any(feature = "dsp", feature = "mve")))]
mod arm;
#[cfg(all(target_arch = "arm", any(feature = "dsp", feature = "mve")))]
use arm as machine;

#[cfg(all(any(target_arch = "riscv32", target_arch = "riscv64"), feature = "rvv"))]
mod riscv;
#[cfg(all(any(target_arch = "riscv32", target_arch = "riscv64"), feature = "rvv"))]
use riscv as machine;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use wasm32 as machine;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

#[cfg(any(
    all(target_arch = "arm", any(feature = "dsp", feature = "mve")),
    all(any(target_arch = "riscv32", target_arch = "riscv64"), feature = "rvv")
))]
mod assembly;
#[cfg(any(
    all(target_arch = "aarch64", target_feature = "neon"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod registers_128;

/// There are only the portable kernels.
#[cfg(not(any(
    all(target_arch = "aarch64", target_feature = "neon"),
    all(target_arch = "arm", any(feature = "dsp", feature = "mve")),
    all(any(target_arch = "riscv32", target_arch = "riscv64"), feature = "rvv"),
    all(target_arch = "wasm32", target_feature = "simd128"),
    target_arch = "x86_64"
)))]
mod machine {
    pub(crate) fn tables() -> [Option<&'static crate::Isa>; 0] {
        []
    }
}

pub(crate) use machine::tables;

/// The square root, correctly rounded as IEEE 754 asks.
#[cfg(not(all(target_arch = "arm", target_abi = "eabihf")))]
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
core::arch::global_asm!(
    ".section .text.pocketlm_sqrt, \"ax\", %progbits",
    ".global pocketlm_sqrt",
    ".type pocketlm_sqrt, %function",
    ".thumb_func",
    "pocketlm_sqrt:",
    // vsqrt.f32 s0, s0. The assembler rejects the name without an `.fpu` directive, which would
    // apply to all assembly after it.
    ".inst.w 0xeeb10ac0",
    "bx lr",
    ".size pocketlm_sqrt, . - pocketlm_sqrt",
);

/// The square root, correctly rounded as IEEE 754 asks, by an instruction that libm does not use.
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    unsafe extern "C" {
        // SAFETY: this ABI passes floats in the registers of a floating-point unit, so there is
        // one. The function uses one such register and no memory.
        safe fn pocketlm_sqrt(x: f32) -> f32;
    }
    pocketlm_sqrt(x)
}
