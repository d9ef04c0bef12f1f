//! The values of a tile as bytes in registers, for every quantised type. The products of these
//! kernels begin with this, and do not know the types otherwise.

use core::arch::x86_64::*;

use bytemuck::{cast, cast_ref};

use super::avx2::{from_bf16, from_f16};
use crate::dtype::{LEVELS_3, LEVELS_4};
use crate::tile::{
    Nl3Tile, Nl4Tile, Plane, Q4MinTile, Q4Tile, Q5Tile, Q6Tile, Q8Tile, QuantizedTile, RowScales,
    Tile,
};
use crate::{GROUP, TILE_ROWS};

/// The scales of a tile. As for [`Bytes`], the functions are inlined into kernels.
pub(super) trait Scales: Tile {
    /// What [`scales`](Self::scales) needs of the tile row.
    fn row_scales(header: &Self::Header) -> __m256;

    /// The scale of each row.
    fn scales(&self, row_scales: __m256) -> __m256;
}

/// What the kernels ask of a tile.
///
/// The functions are inlined into kernels, which run only where AVX2 and F16C were detected.
/// Functions with `wide` in their names also need AVX-512 F and BW. A trait's function cannot say
/// that with `target_feature`.
pub(super) trait Bytes: QuantizedTile + Scales {
    /// Whether bytes are int8. If not, they are 0 to 63: the value plus
    /// [`OFFSET`](QuantizedTile::OFFSET).
    const SIGNED: bool;
    /// Which two steps of four columns each register of [`wide_bytes`](Self::wide_bytes) holds.
    const STEPS: [[usize; 2]; 4];

    /// The bytes of four columns.
    fn bytes(&self, step: usize) -> __m256i;

    /// The bytes of twice four columns, register by register.
    fn wide_bytes(&self, k: usize) -> __m512i;

    /// The minima of the rows, for the types that have them.
    #[inline(always)]
    fn minima(&self) -> Option<__m256> {
        None
    }
}

/// Steps that are next to each other.
const IN_ORDER: [[usize; 2]; 4] = [[0, 1], [2, 3], [4, 5], [6, 7]];
/// Steps whose 4 bits are at the same place of two vectors.
const BY_FOURS: [[usize; 2]; 4] = [[0, 2], [1, 3], [4, 6], [5, 7]];
/// The same for 2 bits.
const BY_TWOS: [[usize; 2]; 4] = [[0, 4], [1, 5], [2, 6], [3, 7]];

/// The bits of four columns, moved to bit `at` of their bytes.
#[inline(always)]
fn bits<const N: usize>(plane: &Plane<N>, step: usize, at: usize) -> __m256i {
    let vector = cast(plane[step * N / 8]);
    let from = N * (step % (8 / N));
    // SAFETY: the trait says where this runs.
    unsafe {
        let moved = if from > at {
            _mm256_srl_epi16(vector, _mm_cvtsi32_si128((from - at) as i32))
        } else {
            _mm256_sll_epi16(vector, _mm_cvtsi32_si128((at - from) as i32))
        };
        _mm256_and_si256(moved, _mm256_set1_epi8(mask::<N>(at)))
    }
}

/// The bits of twice four columns, moved to bit `at` of their bytes.
#[inline(always)]
fn wide_bits<const N: usize>(plane: &Plane<N>, steps: [usize; 2], at: usize) -> __m512i {
    let [first, second] = [steps[0] * N / 8, steps[1] * N / 8];
    let turn = |step: usize| [(N * (step % (8 / N)) + 32 - at) as i32 % 32; TILE_ROWS];
    let bytes = plane.as_flattened().as_flattened();
    // SAFETY: as above.
    unsafe {
        let vectors = match bytes[32 * first..].first_chunk::<64>() {
            Some(both) if first != second => cast(*both),
            _ => _mm512_broadcast_i64x4(cast(plane[first])),
        };
        let moved = _mm512_rorv_epi32(vectors, cast([turn(steps[0]), turn(steps[1])]));
        _mm512_and_si512(moved, _mm512_set1_epi8(mask::<N>(at)))
    }
}

const fn mask<const N: usize>(at: usize) -> i8 {
    (((1 << N) - 1) << at) as u8 as i8
}

/// Levels as often as a register has room for them.
const fn table<const L: usize, const N: usize>(levels: [i8; L]) -> [i8; N] {
    let mut table = [0; N];
    let mut place = 0;
    while place < N {
        table[place] = levels[place % L];
        place += 1;
    }
    table
}

#[inline(always)]
fn levels(table: [i8; 32], codes: __m256i) -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_shuffle_epi8(cast(table), codes) }
}

#[inline(always)]
fn wide_levels(table: [i8; 64], codes: __m512i) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_shuffle_epi8(cast(table), codes) }
}

#[inline(always)]
fn or(low: __m256i, high: __m256i) -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_or_si256(low, high) }
}

#[inline(always)]
fn wide_or(low: __m512i, high: __m512i) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_or_si512(low, high) }
}

/// f16 as f32.
#[inline(always)]
fn halves(bits: [u16; TILE_ROWS]) -> __m256 {
    // SAFETY: as above.
    unsafe { from_f16(bits) }
}

/// bf16 as f32.
#[inline(always)]
fn brains(bits: &RowScales) -> __m256 {
    // SAFETY: as above.
    unsafe { from_bf16(*bits) }
}

/// Multiples of the scales of rows.
#[inline(always)]
fn multiples(multiples: [i8; TILE_ROWS], row_scales: __m256) -> __m256 {
    // SAFETY: as above.
    unsafe {
        let integers = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(cast(multiples)));
        _mm256_mul_ps(_mm256_cvtepi32_ps(integers), row_scales)
    }
}

macro_rules! f16_scales {
    ($($tile:ty),*) => {$(
        impl Scales for $tile {
            #[inline(always)]
            fn row_scales(_: &[u16; 0]) -> __m256 {
                halves([0; TILE_ROWS])
            }

            #[inline(always)]
            fn scales(&self, _: __m256) -> __m256 {
                halves(self.scales)
            }
        }
    )*};
}
f16_scales!(Q8Tile, Q6Tile, Q5Tile, Q4Tile, Q4MinTile);

macro_rules! row_scales {
    ($($tile:ty),*) => {$(
        impl Scales for $tile {
            #[inline(always)]
            fn row_scales(header: &RowScales) -> __m256 {
                brains(header)
            }

            #[inline(always)]
            fn scales(&self, row_scales: __m256) -> __m256 {
                multiples(self.scales, row_scales)
            }
        }
    )*};
}
row_scales!(Nl4Tile, Nl3Tile);

impl Bytes for Q8Tile {
    const SIGNED: bool = true;
    const STEPS: [[usize; 2]; 4] = IN_ORDER;

    #[inline(always)]
    fn bytes(&self, step: usize) -> __m256i {
        cast(self.values[step])
    }

    #[inline(always)]
    fn wide_bytes(&self, k: usize) -> __m512i {
        cast(cast_ref::<_, [[u8; 64]; GROUP / 8]>(&self.values)[k])
    }
}

impl Bytes for Q6Tile {
    const SIGNED: bool = false;
    const STEPS: [[usize; 2]; 4] = BY_FOURS;

    #[inline(always)]
    fn bytes(&self, step: usize) -> __m256i {
        or(bits(&self.low, step, 0), bits(&self.high, step, 4))
    }

    #[inline(always)]
    fn wide_bytes(&self, k: usize) -> __m512i {
        wide_or(
            wide_bits(&self.low, Self::STEPS[k], 0),
            wide_bits(&self.high, Self::STEPS[k], 4),
        )
    }
}

impl Bytes for Q5Tile {
    const SIGNED: bool = false;
    const STEPS: [[usize; 2]; 4] = BY_FOURS;

    #[inline(always)]
    fn bytes(&self, step: usize) -> __m256i {
        or(bits(&self.low, step, 0), bits(&self.high, step, 4))
    }

    #[inline(always)]
    fn wide_bytes(&self, k: usize) -> __m512i {
        wide_or(
            wide_bits(&self.low, Self::STEPS[k], 0),
            wide_bits(&self.high, Self::STEPS[k], 4),
        )
    }
}

impl Bytes for Q4Tile {
    const SIGNED: bool = false;
    const STEPS: [[usize; 2]; 4] = BY_FOURS;

    #[inline(always)]
    fn bytes(&self, step: usize) -> __m256i {
        bits(&self.nibbles, step, 0)
    }

    #[inline(always)]
    fn wide_bytes(&self, k: usize) -> __m512i {
        wide_bits(&self.nibbles, Self::STEPS[k], 0)
    }
}

impl Bytes for Q4MinTile {
    const SIGNED: bool = false;
    const STEPS: [[usize; 2]; 4] = BY_FOURS;

    #[inline(always)]
    fn bytes(&self, step: usize) -> __m256i {
        bits(&self.nibbles, step, 0)
    }

    #[inline(always)]
    fn wide_bytes(&self, k: usize) -> __m512i {
        wide_bits(&self.nibbles, Self::STEPS[k], 0)
    }

    #[inline(always)]
    fn minima(&self) -> Option<__m256> {
        Some(halves(self.minima))
    }
}

impl Bytes for Nl4Tile {
    const SIGNED: bool = true;
    const STEPS: [[usize; 2]; 4] = BY_FOURS;

    #[inline(always)]
    fn bytes(&self, step: usize) -> __m256i {
        levels(const { table(LEVELS_4) }, bits(&self.codes, step, 0))
    }

    #[inline(always)]
    fn wide_bytes(&self, k: usize) -> __m512i {
        wide_levels(
            const { table(LEVELS_4) },
            wide_bits(&self.codes, Self::STEPS[k], 0),
        )
    }
}

impl Bytes for Nl3Tile {
    const SIGNED: bool = true;
    const STEPS: [[usize; 2]; 4] = BY_TWOS;

    #[inline(always)]
    fn bytes(&self, step: usize) -> __m256i {
        levels(
            const { table(LEVELS_3) },
            or(bits(&self.low, step, 0), bits(&self.high, step, 2)),
        )
    }

    #[inline(always)]
    fn wide_bytes(&self, k: usize) -> __m512i {
        wide_levels(
            const { table(LEVELS_3) },
            wide_or(
                wide_bits(&self.low, Self::STEPS[k], 0),
                wide_bits(&self.high, Self::STEPS[k], 2),
            ),
        )
    }
}
