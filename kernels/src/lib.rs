#![no_std]
#![deny(unsafe_code)]
// A build with some of the weight types does not use the helpers of the others.
#![cfg_attr(
    not(all(
        feature = "f32",
        feature = "f16",
        feature = "bf16",
        feature = "q8",
        feature = "q6",
        feature = "q5",
        feature = "q4",
        feature = "nl4",
        feature = "nl3"
    )),
    allow(unused)
)]
//! The numerical kernels of pocketlm: operations on matrices and vectors. This crate knows nothing
//! of transformers.
//!
//! # The contract: the same bits on every target
//!
//! Every function returns the same bits on every target, for every number of workers and every
//! batch, with all compiler flags except those that allow reassociation. How:
//!
//! * **Lanes run across independent outputs, never along a sum.** A [`Matrix`] stores its rows in
//!   tiles of eight; a SIMD lane is an output row, and each output is summed in the order of the
//!   naive loop, `for c in columns { sum = sum + w[c] * x[c] }`.
//! * **Integer groups.** A quantised matrix is multiplied with an input that is quantised to 16
//!   bits. The dot product of a group of 32 columns is exact in `i32`; the groups are added in
//!   order, `sum = sum + dot as f32 * (weight_scale * input_scale)`.
//! * **Sums over a vector** (RMSNorm, the softmax denominator) use eight stripes, element `i` in
//!   stripe `i mod 8`, which are added in one fixed order: `((s0+s4)+(s2+s6)) + ((s1+s5)+(s3+s7))`.
//! * **No fused multiply-add, no reassociation**, and its own transcendental functions ([`math`]).
//! * **Cores without a floating-point unit** compute `sum + a * b` and the sum over groups in
//!   integers, rounded as IEEE 754 asks (`soft_float.rs`).
//!
//! The hot loops are in one table per instruction set, an [`Isa`]. [`Isa::SCALAR`] is the
//! specification: plain loops over lanes, which the compiler vectorises as far as it can. One test
//! suite holds the others to its bits. Targets must be little-endian.
//!
//! # Storage
//!
//! A matrix is stored in tile rows of eight rows:
//!
//! * f32, f16, bf16: for each column the values of the eight rows; 32, 16 and 16 bytes a column.
//! * q8: for each group of 32 columns 8 f16 scales, and then for each 4 columns the 4 bytes of each
//!   of the 8 rows; 272 bytes a group.
//! * q6: for each group 8 f16 scales, a plane of the low 4 bits and a plane of the high 2 bits of
//!   the value plus 32; 208 bytes a group.
//! * q5: for each group 8 f16 scales, a plane of the low 4 bits and a plane of the high bit of the
//!   value plus 16; 176 bytes a group.
//! * q4: for each group 8 f16 scales and a plane of 4 bits, the value plus 8; 144 bytes a group.
//! * q4min: as q4, with 8 f16 minima after the scales. A weight is the 4 bits * scale + minimum.
//!   160 bytes a group.
//! * nl4: 8 bf16 scales, one for each row. Then for each group 8 int8 scales and a plane of 4-bit
//!   codes. A weight is [`levels`](DType::levels)`[code] * (scale * row scale)`. 16 bytes, and 136
//!   bytes a group.
//! * nl3: as nl4, with a plane of the low 2 bits and a plane of the high bit of 3-bit codes. 16
//!   bytes, and 104 bytes a group.
//!
//! A plane of *n* bits has *n* bits of each of the 8 × 32 values of a group, in *n* vectors of 32
//! bytes, `[row][column % 4]`. A vector holds the bits of 32 / *n* columns: the first four columns
//! in the lowest *n* bits of its bytes, the next four in the *n* bits above, and so on.
//!
//! The last tile row and the last group are padded with zero weights. Eight rows by 32 columns suit
//! AVX2 (8 rows × 4 columns a register), NEON `sdot` (4 × 4), Armv7E-M DSP and MVE alike.

#[cfg(feature = "std")]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!("pocketlm reads images in place and runs on little-endian targets only");

#[cfg(not(any(
    feature = "f32",
    feature = "f16",
    feature = "bf16",
    feature = "q8",
    feature = "q6",
    feature = "q5",
    feature = "q4",
    feature = "nl4",
    feature = "nl3"
)))]
compile_error!(
    "no weight type is compiled in: enable a feature of f32, f16, bf16, q8, q6, q5, q4, nl4, nl3"
);

mod arch;
#[cfg(feature = "defmt")]
mod defmt_format;
mod dtype;
mod engine;
mod floats;
// The innermost loops of the portable kernels: one file is for cores without vector registers, the
// other for all others. Both compute the same.
#[cfg_attr(
    any(target_arch = "arm", target_arch = "riscv32", target_arch = "riscv64"),
    path = "inner_loops/without_vectors.rs"
)]
#[cfg_attr(
    not(any(target_arch = "arm", target_arch = "riscv32", target_arch = "riscv64")),
    path = "inner_loops/with_vectors.rs"
)]
mod inner_loops;
mod input_group;
mod input_tile;
mod isa;
mod kv;
pub mod math;
mod matmul;
mod matrix;
mod pack;
mod soft_float;
mod tile;
pub mod vector;
mod workers;

/// The atomics of `workers`. In `tests/loom`, which runs it in every possible order, they are
/// loom's.
#[cfg(target_has_atomic = "ptr")]
mod sync {
    pub(crate) use core::sync::atomic::{AtomicUsize, Ordering};
}

pub use dtype::{DType, GROUP, TILE_ROWS};
pub use engine::Engine;
pub use floats::floats_are_ieee;
pub use input_group::InputGroup;
pub use input_tile::InputTile;
pub use isa::{Activation, Isa};
pub use kv::{Kv, key_parts, store_key, store_value, value_part};
pub use matmul::Input;
pub use matrix::Matrix;
pub use pack::{pack_codes, pack_q4_group, pack_q8_group, pack_row, pack_row_scale, pack_values};
pub use workers::{Output, RowsMut, Solo, Workers, for_each_part, split_chunks, split_rows};
