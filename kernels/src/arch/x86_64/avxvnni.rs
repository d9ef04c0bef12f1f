//! AVX-VNNI: Intel's processors without AVX-512 since Alder Lake (2021) and Sierra Forest.
//!
//! Two kinds of products are here: quantised weights with one input, and with more than six. The
//! rest is AVX2's. With more than six inputs, `vpdpwssd` multiplies the words of a [panel], adds
//! pairs and adds to the dot product, for which AVX2 needs two instructions. With one input,
//! weights are multiplied as they are stored, with the input in two digits: see `avx512.rs`.
#![allow(clippy::needless_range_loop)]

use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::{cast, cast_ref};

use super::avx2::{self, AVX2, BLOCK, ahead, corrected, cut, join, row_scales, shortest, tiles};
use super::bytes::Bytes;
use super::panel::{self, Group};
use crate::matrix::match_tiles;
use crate::tile::{TileRow, TileRows};
use crate::{DType, GROUP, Input, InputGroup, Isa, Matrix, RowsMut};

/// The table. It is handed out only where AVX2, F16C and AVX-VNNI were detected.
pub(crate) static AVXVNNI: Isa = Isa {
    name: "avxvnni",
    // SAFETY: the table is handed out only where these instructions are.
    matmul: |matrix, input, tile_rows, out| unsafe { matmul(matrix, input, tile_rows, out) },
    arrange: None,
    quantize: AVX2.quantize,
    weighted_sum: AVX2.weighted_sum,
    softmax: AVX2.softmax,
    gate: AVX2.gate,
    soft_cap: AVX2.soft_cap,
};

/// The most inputs for which AVX2's kernels are as fast: two blocks of three, without a panel.
const FEW: usize = 6;

#[target_feature(enable = "avx2,f16c,avxvnni")]
fn matmul(matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
    match_tiles!(matrix.tiles;
        F32(_rows) => avx2::matmul(matrix, input, tile_rows, out),
        F16(_rows) => avx2::matmul(matrix, input, tile_rows, out),
        Bf16(_rows) => avx2::matmul(matrix, input, tile_rows, out),
        groups(rows) => match input.count {
            // A closure cannot be generic over the number of tile rows, so it is written twice.
            // There is one input, so the function for blocks is never called.
            ..=1 => avx2::product(
                rows.range(tile_rows),
                (input.groups, input.count),
                out,
                |t, [x]| single(t, x),
                |t, [x]| single(t, x),
                |_, _| [[_mm256_setzero_ps(); BLOCK]; 2],
            ),
            2..=FEW => avx2::matmul(matrix, input, tile_rows, out),
            _ => {
                let minima = matrix.dtype() == DType::Q4Min;
                with_panels(rows.range(tile_rows), input, out, minima);
            }
        },
    );
}

/// Not inlined, so that products with few inputs need no stack for a panel.
#[inline(never)]
#[target_feature(enable = "avx2,f16c,avxvnni")]
fn with_panels<W: Bytes>(
    rows: TileRows<'_, W>,
    input: &Input<'_>,
    out: &mut RowsMut<'_>,
    minima: bool,
) {
    panel::product::<_, _, _, BLOCK, { panel::GROUPS }>(
        rows,
        (input.groups, input.count),
        out,
        |row, r, panel| panel::widen(row, r, panel),
        |panel, x, sums| groups(panel, x, sums, minima),
    );
}

/// Group by group the exact dot products, joined to the sums; `minima` says whether the groups have
/// minima. Not inlined: the loop around it would take registers away.
#[inline(never)]
#[target_feature(enable = "avx2,f16c,avxvnni")]
fn groups(panel: &[Group], x: [&[InputGroup]; BLOCK], out: &mut panel::Sums<BLOCK>, minima: bool) {
    let (panel, x) = panel::cut(panel, x);
    let mut sums: [[__m256; 2]; BLOCK] = panel::load(out);
    for (g, group) in panel.iter().enumerate() {
        let mut dots = [[_mm256_setzero_si256(); 2]; BLOCK];
        for pair in 0..GROUP / 2 {
            for t in 0..BLOCK {
                let pairs: &[[i16; 2]; GROUP / 2] = cast_ref(&x[t][g].values);
                let x = _mm256_set1_epi32(cast(pairs[pair]));
                for r in 0..2 {
                    dots[t][r] = _mm256_dpwssd_avx_epi32(dots[t][r], group.words[pair][r], x);
                }
            }
        }
        for t in 0..BLOCK {
            let x = &x[t][g];
            for r in 0..2 {
                sums[t][r] = join(sums[t][r], dots[t][r], group.scales[r], x.scale);
                if minima {
                    sums[t][r] = join(
                        sums[t][r],
                        _mm256_set1_epi32(x.sum),
                        group.minima[r],
                        x.scale,
                    );
                }
            }
        }
    }
    panel::store(sums, out);
}

/// The inputs of a group, `256 high + low`, four columns a word.
struct Digits {
    low: [i32; GROUP / 4],
    high: [i32; GROUP / 4],
    /// What 128 more in every weight adds to the products with `high`, negated.
    offset: __m256i,
}

#[inline]
#[target_feature(enable = "avx2,f16c,avxvnni")]
fn digits(x: &InputGroup) -> Digits {
    // Of each four columns, which are kept as 0 2 1 3, the low bytes; of two fours first those,
    // then the high bytes.
    let bytes = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 4, 2, 6, 8, 12, 10, 14, 1, 5, 3, 7, 9, 13, 11, 15,
    ));
    let halves: [__m256i; 2] = cast(x.values);
    let mut digits = Digits {
        low: [0; GROUP / 4],
        high: [0; GROUP / 4],
        offset: _mm256_setzero_si256(),
    };
    for k in 0..2 {
        let fours: [[i32; 2]; 4] = cast(_mm256_shuffle_epi8(halves[k], bytes));
        for half in 0..2 {
            for four in 0..2 {
                digits.low[4 * k + 2 * half + four] = fours[2 * half][four];
                digits.high[4 * k + 2 * half + four] = fours[2 * half + 1][four];
            }
        }
    }
    for high in digits.high {
        digits.offset = _mm256_dpbusd_avx_epi32(
            digits.offset,
            _mm256_set1_epi8(-128),
            _mm256_set1_epi32(high),
        );
    }
    digits.offset = _mm256_sub_epi32(_mm256_setzero_si256(), digits.offset);
    digits
}

/// The exact dot products of `R` tile rows with one input, joined to their sums group by group.
#[inline]
#[target_feature(enable = "avx2,f16c,avxvnni")]
fn single<W: Bytes, const R: usize>(
    rows: [TileRow<'_, W>; R],
    x: &[InputGroup],
) -> avx2::Sums<R, 1> {
    let mut sums = [[_mm256_setzero_ps()]; R];
    let row_scales = row_scales(&rows);
    let tiles = tiles(&rows);
    let groups = shortest(&tiles).min(x.len());
    let tiles = cut(tiles, groups);
    for (g, x) in x[..groups].iter().enumerate() {
        let digits = digits(x);
        for r in 0..R {
            let tile = &tiles[r][g];
            ahead(tile);
            let dots = corrected::<W>(dots(tile, &digits), x);
            sums[r][0] = join(sums[r][0], dots, tile.scales(row_scales[r]), x.scale);
            if let Some(minima) = tile.minima() {
                sums[r][0] = join(sums[r][0], _mm256_set1_epi32(x.sum), minima, x.scale);
            }
        }
    }
    sums
}

/// The exact dot products of a group. Bytes up to 63 fit either operand.
#[inline]
#[target_feature(enable = "avx2,f16c,avxvnni")]
fn dots<W: Bytes>(tile: &W, x: &Digits) -> __m256i {
    let mut low = _mm256_setzero_si256();
    let mut high = if W::SIGNED { x.offset } else { low };
    for k in 0..GROUP / 4 {
        let bytes = tile.bytes(k);
        let unsigned = if W::SIGNED {
            _mm256_xor_si256(bytes, _mm256_set1_epi8(-128))
        } else {
            bytes
        };
        low = _mm256_dpbusd_avx_epi32(low, _mm256_set1_epi32(x.low[k]), bytes);
        high = _mm256_dpbusd_avx_epi32(high, unsigned, _mm256_set1_epi32(x.high[k]));
    }
    _mm256_add_epi32(low, _mm256_slli_epi32::<8>(high))
}
