//! AMX in bfloat16, in Intel's servers since Sapphire Rapids (2023): products of quantised weights
//! with several inputs. The rest is AVX-512's.
//!
//! `tdpbf16ps` multiplies 16 rows of 32 numbers by 32 rows of 16 columns and adds the products to
//! 16 × 16 sums: one group (32 columns) of each of 16 inputs meets the same group of a pair of tile
//! rows. As its operation is defined (Intel's manual, volume 2, TDPBF16PS), a dot product of
//! integers is exact but for one rounding, the one that [`Isa::matmul`] asks for:
//! - An int8 is a bfloat16, and an input of 16 bits is the sum of two, its digits: a multiple of
//!   256, and what is left.
//! - The sum over the columns of a group is an integer of at most 20 bits for the low digits, and
//!   256 times such an integer for the high digits. f32 holds both exactly, and every partial sum.
//!   The instruction adds the products first, and adds the result to the tile at the end.
//! - So the first instruction leaves the exact low part in a tile that was zero. The second rounds
//!   once, when it adds the high part.
//!
//! The dot products then go through memory, since there is no other way out of a tile, and AVX-512
//! joins them to the sums. Weights are 2²⁴ times too large here and inputs 2²⁴ times too small,
//! which saves shifting them and, being a power of two, changes no bit.
//!
//! The language does not promise that tiles keep their contents from one `asm!` to the next. The
//! compiler does not use these registers, and neither does anything that is called in between.
//!
//! On Linux, a process must ask for permission to use them.
#![allow(clippy::needless_range_loop)]

use core::arch::asm;
use core::arch::x86_64::*;
use core::ops::Range;

use bytemuck::{Zeroable, cast};

use super::avx2::{row_scales, tiles};
use super::avx512::{self, AVX512};
use super::bytes::Bytes;
use super::panel;
use crate::dtype::LEVELS_4;
use crate::matrix::Tiles;
use crate::tile::{Plane, TileRow, TileRows};
use crate::{DType, GROUP, Input, InputGroup, InputTile, Isa, Matrix, RowsMut, TILE_ROWS};

/// The table. It is handed out only where [`AVX512`] is available and [`is_allowed`] is true.
pub(crate) static AMX: Isa = Isa {
    name: "amx",
    // SAFETY: the table is handed out only where these instructions are, and may be used.
    matmul: |matrix, input, tile_rows, out| unsafe { matmul(matrix, input, tile_rows, out) },
    // SAFETY: as above.
    arrange: Some(|groups, block| unsafe { arrange(groups, block) }),
    quantize: AVX512.quantize,
    weighted_sum: AVX512.weighted_sum,
    softmax: AVX512.softmax,
    gate: AVX512.gate,
    soft_cap: AVX512.soft_cap,
};

/// Whether the machine, which has AVX-512, has AMX in bfloat16 as well, and the system lets this
/// process use it. This asks the system for permission.
pub(super) fn is_allowed() -> bool {
    let [amx_bf16, amx_tile] = [22, 24].map(|bit| __cpuid_count(7, 0).edx >> bit & 1);
    if amx_tile == 0 || amx_bf16 == 0 {
        return false;
    }
    // `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: 0 if it is granted, which then holds
    // for all threads until the process ends.
    let mut outcome = 158u64;
    // SAFETY: the call takes two numbers and writes no memory. A kernel that does not know it
    // returns an error.
    unsafe {
        asm!("syscall", inlateout("rax") outcome, in("rdi") 0x1023, in("rsi") 18, out("rcx") _, out("r11") _, options(nostack));
    }
    outcome == 0
}

/// The most blocks of inputs that widened weights are multiplied with before others are widened.
const BLOCKS: usize = 8;
/// Groups of a row that are widened at a time.
const GROUPS: usize = 5;
/// Tile rows of weights that make one of the machine's tiles.
const PAIR: usize = 2;
/// The most pairs that are multiplied with a block at a time. Their weights stay in the first
/// cache. Reading a block of inputs from the second cache takes about as long as multiplying it
/// with four pairs. The sums of all blocks are in the second cache as well.
const PAIRS: usize = 4;
/// Bytes of inputs that are multiplied with the same weights: they stay in the second cache.
const CACHE: usize = 1 << 20;

/// For each pair of inputs, the two columns of each row that it is multiplied with.
type Words = [__m512i; GROUP / 2];

/// A group of a pair of tile rows.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Weights {
    words: Words,
    scales: [__m256; PAIR],
    minima: [__m256; PAIR],
}

/// The dot products of a block of inputs with a pair of tile rows, or their sums.
type Sums = [__m512; InputTile::INPUTS];

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles 0 and 1 hold the low and high digits of inputs, 2 and 3 weights, 4 and 5 dot products.
/// Pairs of tile rows alternate between 2 and 4, and 3 and 5. All tiles have the full size.
static SHAPES: Shapes = Shapes {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};

#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn matmul(matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
    let width = matrix.columns().div_ceil(GROUP);
    let needed = input
        .count
        .div_ceil(InputTile::INPUTS)
        .saturating_mul(width);
    let blocks = input.tiles.get(..needed).unwrap_or_default();
    macro_rules! product {
        ($rows:ident, |$tiles:ident, $words:ident| $widen:expr) => {
            product(
                ($rows.range(tile_rows), blocks),
                input.count,
                out,
                |$tiles, $words| $widen,
                matrix.dtype() == DType::Q4Min,
            )
        };
    }
    macro_rules! nibbles {
        ($rows:ident, $plane:ident, $values:expr) => {
            product!($rows, |tiles, words| widen_nibbles(
                tiles.map(|tile| &tile.$plane),
                const { tables($values) },
                words
            ))
        };
    }
    if blocks.is_empty() {
        return avx512::matmul(matrix, input, tile_rows, out);
    }
    match matrix.tiles {
        #[cfg(feature = "f32")]
        Tiles::F32(_) => avx512::matmul(matrix, input, tile_rows, out),
        #[cfg(feature = "f16")]
        Tiles::F16(_) => avx512::matmul(matrix, input, tile_rows, out),
        #[cfg(feature = "bf16")]
        Tiles::Bf16(_) => avx512::matmul(matrix, input, tile_rows, out),
        #[cfg(feature = "q8")]
        Tiles::Q8(rows) => product!(rows, |tiles, words| widen(tiles, words)),
        #[cfg(feature = "q6")]
        Tiles::Q6(rows) => product!(rows, |tiles, words| widen(tiles, words)),
        #[cfg(feature = "q5")]
        Tiles::Q5(rows) => product!(rows, |tiles, words| widen(tiles, words)),
        #[cfg(feature = "q4")]
        Tiles::Q4(rows) => nibbles!(rows, nibbles, counted(-8)),
        #[cfg(feature = "q4")]
        Tiles::Q4Min(rows) => nibbles!(rows, nibbles, counted(0)),
        #[cfg(feature = "nl4")]
        Tiles::Nl4(rows) => nibbles!(rows, codes, LEVELS_4),
        #[cfg(feature = "nl3")]
        Tiles::Nl3(rows) => product!(rows, |tiles, words| widen(tiles, words)),
    }
}

/// Some groups of a row. For a row past the end, those of the last row.
fn groups<'m, W: Bytes>(
    rows: &TileRows<'m, W>,
    row: usize,
    groups: Range<usize>,
) -> TileRow<'m, W> {
    panel::part(rows.row(row.min(rows.len() - 1)), groups)
}

/// The working memory of a product.
struct Memory {
    /// Group by group, pair by pair.
    weights: [Weights; PAIRS * GROUPS],
    /// The dot products of a group, pair by pair.
    dots: [Sums; PAIRS],
    /// The sums of each block, pair by pair.
    sums: [[Sums; PAIRS]; BLOCKS],
}

/// Goes through sets of blocks and, for each, through the rows, several pairs at a time. Not
/// inlined, so that products with few inputs need no stack for its memory.
#[inline(never)]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn product<W: Bytes>(
    (rows, blocks): (TileRows<'_, W>, &[InputTile]),
    count: usize,
    out: &mut RowsMut<'_>,
    widen: impl Fn([&W; PAIR], &mut Words),
    minima: bool,
) {
    let width = rows.width();
    let mut memory = Memory {
        weights: [Weights::zeroed(); PAIRS * GROUPS],
        dots: Zeroable::zeroed(),
        sums: Zeroable::zeroed(),
    };
    let together = (CACHE / size_of::<InputTile>() / width).clamp(1, BLOCKS);
    // SAFETY: the system gave the state that this sets up, from 64 bytes that are what it asks for.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(nostack, readonly)) };
    for (set, blocks) in blocks.chunks(together * width).enumerate() {
        let mut row = 0;
        while row < rows.len() {
            // At least two, because they alternate.
            let pairs = if rows.len() - row > 2 * PAIR {
                add_pairs::<_, PAIRS>(&rows, row, blocks, &widen, minima, &mut memory);
                PAIRS
            } else {
                add_pairs::<_, 2>(&rows, row, blocks, &widen, minima, &mut memory);
                2
            };
            for (block, sums) in memory.sums.iter().enumerate().take(blocks.len() / width) {
                let first = (set * together + block) * InputTile::INPUTS;
                for (pair, sums) in sums.iter().enumerate().take(pairs) {
                    let row = row + PAIR * pair;
                    let lanes = rows.len().saturating_sub(row).min(PAIR) * TILE_ROWS;
                    for (sums, t) in sums.iter().zip(first..count) {
                        panel::put(out, t, row, lanes, &cast(*sums));
                    }
                }
            }
            row += pairs * PAIR;
        }
    }
    // SAFETY: the tiles are not used any more. Without them, a context switch is cheaper.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// Adds up the sums of `P` pairs of tile rows from row `row` on with a set of blocks, stretch by
/// stretch of groups.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn add_pairs<W: Bytes, const P: usize>(
    rows: &TileRows<'_, W>,
    row: usize,
    blocks: &[InputTile],
    widen: &impl Fn([&W; PAIR], &mut Words),
    minima: bool,
    memory: &mut Memory,
) {
    let Memory {
        weights,
        dots,
        sums,
    } = memory;
    let width = rows.width();
    let count = blocks.len() / width;
    sums[..count].fill(Zeroable::zeroed());
    // The stretches are about equally long.
    let length = width.div_ceil(width.div_ceil(GROUPS));
    for groups in (0..width)
        .step_by(length)
        .map(|start| start..width.min(start + length))
    {
        for pair in 0..P {
            let pair_of_rows =
                [0, 1].map(|r| self::groups(rows, row + PAIR * pair + r, groups.clone()));
            let row_scales = row_scales(&pair_of_rows);
            let [first, second] = tiles(&pair_of_rows);
            for (group, tiles) in first.iter().zip(second).enumerate() {
                let tiles = [tiles.0, tiles.1];
                let weights = &mut weights[P * group + pair];
                widen(tiles, &mut weights.words);
                for r in 0..PAIR {
                    weights.scales[r] = tiles[r].scales(row_scales[r]);
                    if let Some(minima) = tiles[r].minima() {
                        weights.minima[r] = minima;
                    }
                }
            }
        }
        let mut stretches = [&[] as &[InputTile]; BLOCKS];
        for (stretch, block) in stretches.iter_mut().zip(blocks.chunks(width)) {
            *stretch = &block[groups.clone()];
        }
        // The next tiles are prefetched while these are multiplied, some lines of each row at a
        // time.
        let steps = count * groups.len();
        let (next_row, next) = if groups.end < width {
            (row, groups.end)
        } else {
            (row + PAIR * P, 0)
        };
        let next = next..width.min(next + length);
        let lines = if next_row < rows.len() {
            size_of::<W>() * next.len() / 64 + 1
        } else {
            0
        };
        let ask = |step: usize| {
            for line in lines * step / steps..lines * (step + 1) / steps {
                for r in 0..PAIR * P {
                    let tiles = self::groups(rows, next_row + r, next.clone()).tiles;
                    panel::prefetch_line(tiles.as_ptr().cast(), 64 * line);
                }
            }
        };
        multiply::<P>(
            &weights[..P * groups.len()],
            &stretches[..count],
            dots,
            sums,
            minima,
            ask,
        );
    }
}

/// One group (32 columns) of each of 16 inputs, as `256 high + low`, both of which are bfloat16.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn arrange(inputs: [&InputGroup; InputTile::INPUTS], block: &mut InputTile) {
    let bits = _mm512_set1_epi16(0xff00_u16 as i16);
    // Saturated, 32,640 and more leave more than half of 256, but no more than 255.
    let half = _mm512_set1_epi16(128);
    let factor = _mm512_set1_ps(f32::from_bits((127 - 16 - SHIFT) << 23));
    // Words of at most 8 bits to bfloat16: each as the upper half of an i32, then of an f32 which
    // has no more than that.
    let narrow = |words: __m512i| {
        let upper = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        let [lower, upper] = [_mm512_slli_epi32::<16>(words), upper]
            .map(|word| _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(word), factor)));
        _mm512_or_si512(_mm512_srli_epi32::<16>(lower), upper)
    };
    for (t, x) in inputs.into_iter().enumerate() {
        let words = cast(x.values);
        let high = _mm512_and_si512(_mm512_adds_epi16(words, half), bits);
        block.high[t] = cast(narrow(high));
        block.low[t] = cast(narrow(_mm512_sub_epi16(words, high)));
        block.scales[t] = x.scale;
        // Exactly: it has at most 21 bits.
        block.sums[t] = x.sum as f32;
    }
}

/// How many times weights are doubled, and inputs halved.
const SHIFT: u32 = 24;

/// Bytes as bfloat16.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw")]
fn widen<W: Bytes>(tiles: [&W; PAIR], words: &mut Words) {
    let offset = _mm512_set1_epi8(W::OFFSET as i8);
    for step in 0..GROUP / 4 {
        let bytes = both([tiles[0].bytes(step), tiles[1].bytes(step)]);
        let bytes = _mm512_sub_epi8(bytes, offset);
        // Each byte as the uppermost of an i32, then, of f32, the upper halves of two.
        let upper =
            |bytes: __m512i| _mm512_and_si512(bytes, _mm512_set1_epi32(0xff00_0000_u32 as i32));
        let [b0, b1, b2, b3] = [
            _mm512_slli_epi32::<24>(bytes),
            upper(_mm512_slli_epi32::<16>(bytes)),
            upper(_mm512_slli_epi32::<8>(bytes)),
            upper(bytes),
        ]
        .map(|byte| _mm512_castps_si512(_mm512_cvtepi32_ps(byte)));
        words[2 * step] = _mm512_or_si512(_mm512_srli_epi32::<16>(b0), b2);
        words[2 * step + 1] = _mm512_or_si512(_mm512_srli_epi32::<16>(b1), b3);
    }
}

/// Nibbles as the bfloat16 of the values they stand for: both bytes come from a table.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw")]
fn widen_nibbles(nibbles: [&Plane<4>; PAIR], tables: [[u8; 16]; 2], words: &mut Words) {
    let [lower, upper] = tables.map(|table| _mm512_broadcast_i32x4(cast(table)));
    let nibble = _mm512_set1_epi8(15);
    let even = _mm512_set1_epi16(0x00ff);
    for step in 0..GROUP / 8 {
        let bytes = both(nibbles.map(|nibbles| cast(nibbles[step])));
        for (half, bytes) in [bytes, _mm512_srli_epi16::<4>(bytes)]
            .into_iter()
            .enumerate()
        {
            let bytes = _mm512_and_si512(bytes, nibble);
            let lower = _mm512_shuffle_epi8(lower, bytes);
            let upper = _mm512_shuffle_epi8(upper, bytes);
            // `even ? first : second`, bit by bit.
            let select = |first, second| _mm512_ternarylogic_epi32::<0xca>(even, first, second);
            words[4 * step + 2 * half] = select(lower, _mm512_slli_epi16::<8>(upper));
            words[4 * step + 2 * half + 1] = select(_mm512_srli_epi16::<8>(lower), upper);
        }
    }
}

/// The lower and the upper bytes of 16 values as they are in tiles.
const fn tables(values: [i8; 16]) -> [[u8; 16]; 2] {
    let mut tables = [[0; 16]; 2];
    let mut nibble = 0;
    while nibble < 16 {
        let number = ((values[nibble] as i32) << SHIFT) as f32;
        let [_, _, lower, upper] = number.to_bits().to_le_bytes();
        (tables[0][nibble], tables[1][nibble]) = (lower, upper);
        nibble += 1;
    }
    tables
}

/// The 16 values from `first` on.
const fn counted(first: i8) -> [i8; 16] {
    let mut values = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        values[nibble] = first + nibble as i8;
        nibble += 1;
    }
    values
}

/// The rows of a pair of tiles side by side.
#[inline]
#[target_feature(enable = "avx512f")]
fn both([first, second]: [__m256i; 2]) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// For each block of inputs, group by group, the exact dot products with `P` pairs of tile rows,
/// joined to the sums; `minima` says whether the groups have minima. While AVX-512 joins a group,
/// the tiles multiply the next one and load the one after that. Each of these steps is longer than
/// the processor's reorder window, so the code interleaves them. `begin` is called at the start of
/// each group.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn multiply<const P: usize>(
    weights: &[Weights],
    blocks: &[&[InputTile]],
    dots: &mut [Sums; PAIRS],
    sums: &mut [[Sums; PAIRS]; BLOCKS],
    minima: bool,
    begin: impl Fn(usize),
) {
    let length = weights.len() / P;
    // Loading runs ahead through all blocks without a pause; what it loads last is not used.
    let mut block = 0;
    let mut group = 0;
    let mut coming = || {
        let inputs = &blocks[block][group];
        group += 1;
        if group == length {
            (block, group) = ((block + 1).min(blocks.len() - 1), 0);
        }
        inputs
    };
    let mut inputs = coming();
    let mut next = if weights.len() > 2 { 2 } else { 0 };
    load_low(inputs);
    load_high(inputs);
    even::load(&weights[0]);
    odd::load(&weights[1]);
    macro_rules! turn {
        ($turn:ident, $pair:expr, $joined:expr) => {{
            let pair = $pair;
            $turn::multiply_low();
            if pair + 1 == P {
                inputs = coming();
                load_low(inputs);
            }
            if let Some((block, group)) = $joined {
                let weights = &weights[P * group + pair];
                let inputs = &blocks[block][group];
                join_all(&mut sums[block][pair], &dots[pair], weights, inputs, minima);
            }
            $turn::multiply_high();
            $turn::load(&weights[next]);
            next = if next + 1 == weights.len() {
                0
            } else {
                next + 1
            };
            if pair + 1 == P {
                load_high(inputs);
            }
            $turn::store(&mut dots[pair]);
        }};
    }
    for pair in (0..P).step_by(2) {
        turn!(even, pair, None::<(usize, usize)>);
        turn!(odd, pair + 1, None::<(usize, usize)>);
    }
    let mut step = 0;
    for block in 0..blocks.len() {
        for group in 0..length {
            begin(step);
            step += 1;
            for pair in (0..P).step_by(2) {
                turn!(even, pair, Some((block, group)));
                turn!(odd, pair + 1, Some((block, group)));
            }
        }
    }
}

/// Joins the dot products of a group to the sums.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn join_all(sums: &mut Sums, dots: &Sums, weights: &Weights, inputs: &InputTile, minima: bool) {
    for t in 0..InputTile::INPUTS {
        sums[t] = join(sums[t], dots[t], cast(weights.scales), inputs.scales[t]);
    }
    if minima {
        for t in 0..InputTile::INPUTS {
            sums[t] = join(
                sums[t],
                _mm512_set1_ps(inputs.sums[t]),
                cast(weights.minima),
                inputs.scales[t],
            );
        }
    }
}

/// `sum + dots * (scales * input_scale)`.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(sum: __m512, dots: __m512, scales: __m512, input_scale: f32) -> __m512 {
    _mm512_add_ps(
        sum,
        _mm512_mul_ps(dots, _mm512_mul_ps(scales, _mm512_set1_ps(input_scale))),
    )
}

/// Loads the low digits of inputs.
#[inline(always)]
fn load_low(inputs: &InputTile) {
    // SAFETY: in `SHAPES` every tile has 16 rows of 64 bytes. That is the size of this field, and
    // of those below.
    unsafe {
        asm!("tileloadd tmm0, [{low} + {row}]", low = in(reg) &inputs.low, row = in(reg) 64usize, out("tmm0") _, options(nostack, readonly));
    }
}

/// Loads the high ones.
#[inline(always)]
fn load_high(inputs: &InputTile) {
    // SAFETY: as above.
    unsafe {
        asm!("tileloadd tmm1, [{high} + {row}]", high = in(reg) &inputs.high, row = in(reg) 64usize, out("tmm1") _, options(nostack, readonly));
    }
}

/// The operations of a pair of tile rows on its two tiles.
macro_rules! tiles {
    ($turn:ident, $weights:tt, $dots:tt) => {
        mod $turn {
            use super::*;

            #[inline(always)]
            pub(super) fn load(weights: &Weights) {
                // SAFETY: as above.
                unsafe {
                    asm!(
                        concat!("tileloadd ", $weights, ", [{words} + {row}]"),
                        words = in(reg) &weights.words,
                        row = in(reg) 64usize,
                        out($weights) _,
                        options(nostack, readonly),
                    );
                }
            }

            #[inline(always)]
            pub(super) fn multiply_low() {
                // SAFETY: no memory is involved, and tiles that are all alike fit each other.
                unsafe {
                    asm!(
                        concat!("tilezero ", $dots),
                        concat!("tdpbf16ps ", $dots, ", tmm0, ", $weights),
                        out($dots) _,
                        options(nostack, nomem),
                    );
                }
            }

            #[inline(always)]
            pub(super) fn multiply_high() {
                // SAFETY: as above.
                unsafe {
                    asm!(concat!("tdpbf16ps ", $dots, ", tmm1, ", $weights), out($dots) _, options(nostack, nomem));
                }
            }

            #[inline(always)]
            pub(super) fn store(dots: &mut Sums) {
                // SAFETY: a tile is just what `dots` holds.
                unsafe {
                    asm!(
                        concat!("tilestored [{dots} + {row}], ", $dots),
                        dots = in(reg) dots,
                        row = in(reg) 64usize,
                        options(nostack),
                    );
                }
            }
        }
    };
}
tiles!(even, "tmm2", "tmm4");
tiles!(odd, "tmm3", "tmm5");
