//! [`Isa::weighted_sum`](crate::Isa::weighted_sum) of values, with registers of 8 or 16 floats. Up
//! to four queries share a value that was read and widened, and their independent sums keep the
//! adder busy.
//!
//! The code is written once over a register type, [`Vector`], and a macro makes a module for each.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::{Pod, Zeroable, cast, cast_slice, cast_slice_mut, pod_read_unaligned};

use crate::{GROUP, Kv};

/// A register of floats, a lane a channel. Its methods run only where its instructions were
/// detected.
trait Vector: Pod {
    /// As many numbers of two bytes.
    type Halves: Pod;
    /// As many of one byte.
    type Bytes: Pod;
    /// How many that is.
    const LANES: usize = size_of::<Self::Bytes>();
    /// Whether there are 32 of these registers, not 16.
    const MANY: bool;

    /// The same number in every lane.
    fn splat(x: f32) -> Self;
    fn multiply(self, other: Self) -> Self;
    /// `self + value * weight`, rounded twice.
    fn add_product(self, value: Self, weight: Self) -> Self;
    /// Exactly; the numbers are finite.
    fn from_f16(halves: Self::Halves) -> Self;
    /// Exactly.
    fn from_bf16(halves: Self::Halves) -> Self;
    /// Exactly.
    fn from_i8(bytes: Self::Bytes) -> Self;
}

/// Of AVX2 with F16C.
impl Vector for __m256 {
    type Halves = __m128i;
    type Bytes = i64;
    const MANY: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        cast([x; 8])
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    fn add_product(self, value: Self, weight: Self) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm256_add_ps(self, _mm256_mul_ps(value, weight)) }
    }

    #[inline(always)]
    fn from_f16(halves: Self::Halves) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm256_cvtph_ps(halves) }
    }

    #[inline(always)]
    fn from_bf16(halves: Self::Halves) -> Self {
        // SAFETY: as the trait says.
        cast(unsafe { _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)) })
    }

    #[inline(always)]
    fn from_i8(bytes: Self::Bytes) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bytes))) }
    }
}

/// Of AVX-512 F.
impl Vector for __m512 {
    type Halves = __m256i;
    type Bytes = __m128i;
    const MANY: bool = true;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        cast([x; 16])
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    fn add_product(self, value: Self, weight: Self) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm512_add_ps(self, _mm512_mul_ps(value, weight)) }
    }

    #[inline(always)]
    fn from_f16(halves: Self::Halves) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm512_cvtph_ps(halves) }
    }

    #[inline(always)]
    fn from_bf16(halves: Self::Halves) -> Self {
        // SAFETY: as the trait says.
        cast(unsafe { _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)) })
    }

    #[inline(always)]
    fn from_i8(bytes: Self::Bytes) -> Self {
        // SAFETY: as the trait says.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)) }
    }
}

/// Rows that are finished for all channels and queries before the next are read, so that they stay
/// in the first cache: 16 KB for a head of 64 in f16.
const STRETCH: usize = 128;
/// How many rows ahead values are prefetched.
const AHEAD: usize = 32;
/// Queries that are summed at the same time.
const QUERIES: usize = 4;

/// The functions for one register type. They cannot be generic over it, because the instructions
/// that a function uses are part of its declaration.
macro_rules! mix_with {
    ($module:ident, $vector:ty, $features:literal) => {
        pub(super) mod $module {
            use super::*;

            type V = $vector;

            /// [`Isa::weighted_sum`](crate::Isa::weighted_sum).
            #[target_feature(enable = $features)]
            pub(in super::super) fn weighted_sum(
                kv: Kv,
                values: &[u8],
                slots: Range<usize>,
                weights: &[f32],
                out: &mut [f32],
                count: usize,
            ) {
                let width = |all: usize| all.checked_div(count).unwrap_or(0);
                let table = width(weights.len());
                let channels = width(out.len());
                let bytes = kv.value_bytes(channels).unwrap_or(0);
                if bytes == 0 || !kv.dtype().enabled() {
                    return;
                }
                let end = slots.end.min(table).min(values.len() / bytes);
                for start in (slots.start..end).step_by(STRETCH) {
                    let slots = start..end.min(start.saturating_add(STRETCH));
                    let table_part = Table {
                        kv,
                        bytes,
                        channels,
                        rows: &values[slots.start * bytes..slots.end * bytes],
                    };
                    for first in (0..count).step_by(QUERIES) {
                        let out = &mut out[first * channels..];
                        let weights = |q: usize| {
                            let start = (first + q) * table;
                            &weights[start + slots.start..start + slots.end]
                        };
                        match count - first {
                            1 => table_part.weighted_sum::<1>([weights(0)], out),
                            2 => table_part.weighted_sum::<2>([weights(0), weights(1)], out),
                            3 => table_part
                                .weighted_sum::<3>([weights(0), weights(1), weights(2)], out),
                            _ => table_part.weighted_sum::<4>(
                                [weights(0), weights(1), weights(2), weights(3)],
                                out,
                            ),
                        }
                    }
                }
            }

            /// Some rows of a table of values.
            struct Table<'a> {
                kv: Kv,
                /// Of a row.
                bytes: usize,
                channels: usize,
                rows: &'a [u8],
            }

            impl Table<'_> {
                /// Adds the weighted rows for `Q` queries, whose channels `out` starts with.
                #[target_feature(enable = $features)]
                fn weighted_sum<const Q: usize>(&self, weights: [&[f32]; Q], out: &mut [f32]) {
                    match self.kv {
                        Kv::F32 => self.floats::<Q, V>(weights, out, |value| value),
                        Kv::F16 => self.floats::<Q, _>(weights, out, V::from_f16),
                        Kv::Bf16 => self.floats::<Q, _>(weights, out, V::from_bf16),
                        Kv::Q8 => {
                            // A group at a time, or half of one.
                            let whole = V::MANY || Q <= 2;
                            for first in
                                (0..self.channels).step_by(if whole { GROUP } else { GROUP / 2 })
                            {
                                if whole {
                                    self.q8::<Q, { GROUP / V::LANES }>(weights, out, first);
                                } else {
                                    self.q8::<Q, { GROUP / 2 / V::LANES }>(weights, out, first);
                                }
                            }
                        }
                    }
                }

                /// A register of channels is widened from an `E`.
                #[inline]
                #[target_feature(enable = $features)]
                fn floats<const Q: usize, E: Pod>(
                    &self,
                    weights: [&[f32]; Q],
                    out: &mut [f32],
                    widen: impl Fn(E) -> V + Copy,
                ) {
                    let mut first = 0;
                    while first < self.channels {
                        let left = self.channels - first;
                        if left >= 4 * V::LANES && (V::MANY || Q <= 2) {
                            self.some::<Q, 4>(
                                weights,
                                out,
                                first,
                                |row| read(row, first, widen),
                                |_, weight| weight,
                            );
                            first += 4 * V::LANES;
                        } else if left >= 2 * V::LANES {
                            self.some::<Q, 2>(
                                weights,
                                out,
                                first,
                                |row| read(row, first, widen),
                                |_, weight| weight,
                            );
                            first += 2 * V::LANES;
                        } else {
                            self.some::<Q, 1>(
                                weights,
                                out,
                                first,
                                |row| read(row, first, widen),
                                |_, weight| weight,
                            );
                            first += V::LANES;
                        }
                    }
                }

                /// `C` registers of channels from channel `first` on, all of one group.
                #[inline]
                #[target_feature(enable = $features)]
                fn q8<const Q: usize, const C: usize>(
                    &self,
                    weights: [&[f32]; Q],
                    out: &mut [f32],
                    first: usize,
                ) {
                    let group = first / GROUP * (2 + GROUP);
                    let read = |row: &[u8]| {
                        let bytes = &row[group + 2 + first % GROUP..];
                        let mut values = [V::zeroed(); C];
                        for c in 0..C {
                            values[c] =
                                V::from_i8(pod_read_unaligned(&bytes[c * V::LANES..][..V::LANES]));
                        }
                        values
                    };
                    let scale = |row: &[u8], weight: V| {
                        weight.multiply(V::splat(f16(u16::from_le_bytes([
                            row[group],
                            row[group + 1],
                        ]))))
                    };
                    self.some::<Q, C>(weights, out, first, read, scale);
                }

                /// Mixes `C` registers of channels from channel `first` on, which stay in registers
                /// over all rows. `read` gives them of a row, `scale` what a weight becomes for it.
                #[inline(never)]
                #[target_feature(enable = $features)]
                fn some<const Q: usize, const C: usize>(
                    &self,
                    mut weights: [&[f32]; Q],
                    out: &mut [f32],
                    first: usize,
                    read: impl Fn(&[u8]) -> [V; C],
                    scale: impl Fn(&[u8], V) -> V,
                ) {
                    let lanes = self.channels.saturating_sub(first).min(C * V::LANES);
                    let mut sums = [[V::zeroed(); C]; Q];
                    for q in 0..Q {
                        let mut channels = [V::zeroed(); C];
                        cast_slice_mut(&mut channels)[..lanes]
                            .copy_from_slice(&out[q * self.channels + first..][..lanes]);
                        for c in 0..C {
                            sums[q][c] = channels[c];
                        }
                    }
                    let rows = self.rows.chunks_exact(self.bytes);
                    for weights in &mut weights {
                        *weights = &weights[..rows.len()];
                    }
                    for (index, row) in rows.enumerate() {
                        prefetch(
                            row.as_ptr().wrapping_add(
                                AHEAD * self.bytes + first * self.bytes / self.channels,
                            ),
                        );
                        let values = read(row);
                        for q in 0..Q {
                            let weight = scale(row, V::splat(weights[q][index]));
                            for c in 0..C {
                                sums[q][c] = sums[q][c].add_product(values[c], weight);
                            }
                        }
                    }
                    for q in 0..Q {
                        let mut channels = [V::zeroed(); C];
                        for c in 0..C {
                            channels[c] = sums[q][c];
                        }
                        out[q * self.channels + first..][..lanes]
                            .copy_from_slice(&cast_slice(&channels)[..lanes]);
                    }
                }
            }
        }
    };
}

mix_with!(avx2, __m256, "avx2,f16c");
mix_with!(avx512, __m512, "avx2,f16c,avx512f,avx512bw,avx512vnni");

/// Prefetches values into the first cache.
#[inline(always)]
fn prefetch(values: *const u8) {
    // SAFETY: a prefetch has no effect that the program can observe, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(values.cast()) };
}

/// The number with these f16 bits. Only for where F16C was detected.
#[inline(always)]
fn f16(bits: u16) -> f32 {
    // SAFETY: the functions that call this run only where F16C was detected.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits.into()))) }
}

/// `C` registers of a row of floats from channel `first` on, padded with zeros.
#[inline(always)]
fn read<V: Vector, E: Pod, const C: usize>(
    row: &[u8],
    first: usize,
    widen: impl Fn(E) -> V,
) -> [V; C] {
    let bytes = &row[first * size_of::<E>() / V::LANES..];
    let mut padded = [E::zeroed(); C];
    let padded = cast_slice_mut(&mut padded);
    // The end of the row is checked once. With a check for each register, they go through memory.
    let bytes = match bytes.get(..padded.len()) {
        Some(bytes) => bytes,
        None => {
            padded[..bytes.len()].copy_from_slice(bytes);
            padded
        }
    };
    let mut values = [V::zeroed(); C];
    for c in 0..C {
        values[c] = widen(pod_read_unaligned(
            &bytes[c * size_of::<E>()..][..size_of::<E>()],
        ));
    }
    values
}
