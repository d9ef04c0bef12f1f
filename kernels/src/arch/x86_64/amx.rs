//! AMX in int8, which Intel's servers have had since Sapphire Rapids (2023): products of quantised weights with 16 inputs and
//! more. The rest is AVX-512's.
//!
//! `tdpbssd` multiplies 16 rows of 32 bytes by 32 rows of 16 columns and adds the products, exactly, to 16 × 16 words: a group
//! of 16 inputs meets a group of a pair of tile rows. An input of 16 bits goes in two digits, `256 high + low`. Dot products
//! then leave through memory, there is no other way, to be joined to the sums by AVX-512: that is what takes the time.
//!
//! The compiler does not know these registers: it does not touch them, so they keep what they hold from one `asm!` to
//! the next. Linux gives a process their state when it asks for it.
#![allow(clippy::needless_range_loop)]

use core::arch::asm;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

use bytemuck::{Zeroable, cast};

use super::avx2::from_f16;
use super::avx512::{self, AVX512, join_pair};
use super::panel;
use crate::matrix::{Q4MinTile, Q4Tile, Q8Tile, Tiles};
use crate::{GROUP, Input, InputGroup, Isa, Matrix, RowsMut, TILE_ROWS};

/// The table. Whoever hands it out has found what [`AVX512`] needs, and [`is_allowed`].
pub(crate) static AMX: Isa = Isa {
    name: "amx",
    // SAFETY: the table is handed out only where these instructions are, and may be used.
    matmul: |matrix, input, tile_rows, out| unsafe { matmul(matrix, input, tile_rows, out) },
    quantize: AVX512.quantize,
    mix: AVX512.mix,
    softmax: AVX512.softmax,
    gate: AVX512.gate,
    soft_cap: AVX512.soft_cap,
};

/// Whether the machine, which has AVX-512, has AMX in int8 too and the system lets this process use it, for which it is asked.
pub(super) fn is_allowed() -> bool {
    let [amx_tile, amx_int8] = [24, 25].map(|bit| __cpuid_count(7, 0).edx >> bit & 1);
    if amx_tile == 0 || amx_int8 == 0 {
        return false;
    }
    // `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: 0 where it is granted, to all threads and for good.
    let mut outcome = 158u64;
    // SAFETY: the call reads two numbers and writes no memory; a kernel that does not know it says so.
    unsafe {
        asm!("syscall", inlateout("rax") outcome, in("rdi") 0x1023, in("rsi") 18, out("rcx") _, out("r11") _, options(nostack));
    }
    outcome == 0
}

/// Inputs that meet weights at once: the rows of a tile.
const INPUTS: usize = 16;
/// Blocks of inputs that meet weights while these are widened.
const BLOCKS: usize = 4;
/// Groups of a row that are worked on at once: the weights of 16 rows in 12 KB, which stay in the first cache, and the
/// inputs of all blocks in 81 KB.
const GROUPS: usize = 18;
/// Rows of weights that inputs meet at once.
const ROWS: usize = 2 * TILE_ROWS;

/// A group of 16 rows of weights.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Weights {
    /// Of each row the four columns that meet these four of the inputs.
    bytes: [[__m256i; 2]; GROUP / 4],
    scales: [__m256; 2],
    minima: [__m256; 2],
}

/// A group of 16 inputs.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Inputs {
    /// Of each input the low bytes, then the high ones, both in the order of the columns.
    digits: [[__m256i; 2]; INPUTS],
    scales: [f32; INPUTS],
    sums: [i32; INPUTS],
}

/// The dot products of 16 inputs with 16 rows: what the low bytes give, then what the high ones do.
#[repr(C, align(64))]
struct Dots([[[i32; ROWS]; INPUTS]; 2]);

/// What `ldtilecfg` takes.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Dot products are tiles 0 and 1, inputs 2 and 3, weights 4.
static SHAPES: Shapes = Shapes {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 32, 32, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};

#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn matmul(matrix: &Matrix<'_>, input: &Input<'_>, tile_rows: Range<usize>, out: &mut RowsMut<'_>) {
    let groups = matrix.columns().div_ceil(GROUP);
    let enough = input.count >= INPUTS && input.groups.len() >= input.count * groups;
    macro_rules! product {
        ($tiles:ident, $widen:ident, $minima:literal) => {
            product(($tiles, input), groups, tile_rows, out, |t, r, w| $widen(t, r, w), $minima)
        };
    }
    match matrix.tiles {
        _ if !enough => avx512::matmul(matrix, input, tile_rows, out),
        Tiles::Q8(tiles) if cfg!(feature = "q8") => product!(tiles, widen_q8, false),
        Tiles::Q4(tiles) if cfg!(feature = "q4") => product!(tiles, widen_q4, false),
        Tiles::Q4Min(tiles) if cfg!(feature = "q4") => product!(tiles, widen_q4min, true),
        _ => avx512::matmul(matrix, input, tile_rows, out),
    }
}

/// Walks blocks of inputs, stretches of groups, and pairs of tile rows, of which `widen` takes a group of one into its half.
/// The last block starts early enough to be full, and computes some of what the one before it has once more. Between two
/// stretches of a row the sums wait in the output, which changes nothing about them: they are f32 in a register as well.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn product<W>(
    (tiles, input): (&[W], &Input<'_>),
    width: usize,
    tile_rows: Range<usize>,
    out: &mut RowsMut<'_>,
    widen: impl Fn(&W, usize, &mut Weights),
    minima: bool,
) {
    let end = tile_rows.end.min(tiles.len().checked_div(width).unwrap_or(0));
    let rows = end.saturating_sub(tile_rows.start);
    // Not zeroed: for a small part of a matrix that would be a good part of the work.
    let mut inputs = [[const { MaybeUninit::<Inputs>::uninit() }; GROUPS]; BLOCKS];
    let mut weights = [Weights::zeroed(); GROUPS];
    // All stretches of a row about as long.
    let length = width.div_ceil(width.div_ceil(GROUPS).max(1)).max(1);
    // SAFETY: the system gave the state that this sets up, from 64 bytes that are what it asks for.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(nostack, readonly)) };
    for first in (0..input.count).step_by(BLOCKS * INPUTS) {
        let blocks = (input.count - first).div_ceil(INPUTS).min(BLOCKS);
        let start = |block: usize| (first + block * INPUTS).min(input.count - INPUTS);
        for groups in (0..width).step_by(length).map(|start| start..width.min(start + length)) {
            for (block, inputs) in inputs.iter_mut().enumerate().take(blocks) {
                for t in 0..INPUTS {
                    let x = (start(block) + t) * width;
                    let x = &input.groups[x + groups.start..x + groups.end];
                    x.iter().zip(&mut *inputs).for_each(|(x, inputs)| digits(x, t, inputs));
                }
            }
            let inputs: [&[Inputs]; BLOCKS] = core::array::from_fn(|block| {
                // SAFETY: of a block there is, `digits` has been given every row of every group.
                if block < blocks { unsafe { inputs[block][..groups.len()].assume_init_ref() } } else { &[] }
            });
            for row in (0..rows).step_by(2) {
                // What there is of the pair.
                let lanes = (rows - row).min(2) * TILE_ROWS;
                for r in 0..2 {
                    let tile = (tile_rows.start + (row + r).min(rows - 1)) * width;
                    let tile = tiles.get(tile + groups.start..tile + groups.end).unwrap_or_default();
                    tile.iter().zip(&mut weights).for_each(|(tile, weights)| widen(tile, r, weights));
                }
                // The weights after these, on the way while these are at work.
                let ahead = [2, 3].map(|r| {
                    let tile = (tile_rows.start + row + r) * width;
                    let tiles = if row + r < rows { tiles.get(tile + groups.start..tile + groups.end) } else { None };
                    tiles.unwrap_or_default()
                });
                let share = groups.len().div_ceil(blocks);
                let mut sums = [[[0.0; ROWS]; INPUTS]; BLOCKS];
                if groups.start > 0 {
                    for (block, sums) in sums.iter_mut().enumerate().take(blocks) {
                        for t in 0..INPUTS {
                            panel::take(out, start(block) + t, row, &mut sums[t]);
                        }
                    }
                }
                multiply(&weights[..groups.len()], &inputs[..blocks], &mut sums, minima, |block| {
                    for tiles in ahead {
                        let start = (block * share).min(tiles.len());
                        panel::prefetch(&tiles[start..tiles.len().min(start + share)]);
                    }
                });
                for (block, sums) in sums.iter().enumerate().take(blocks) {
                    for t in 0..INPUTS {
                        panel::put(out, start(block) + t, row, lanes, &sums[t]);
                    }
                }
            }
        }
    }
    // SAFETY: nobody needs the tiles any more. Without them a change of threads is cheaper.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// Writes a group of an input as row `t`, all of it.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn digits(x: &InputGroup, t: usize, inputs: &mut MaybeUninit<Inputs>) {
    // Of each four columns, which are kept as 0 2 1 3, the low bytes; of two fours first those, then the high bytes.
    let bytes = _mm_setr_epi8(0, 4, 2, 6, 8, 12, 10, 14, 1, 5, 3, 7, 9, 13, 11, 15);
    let fours = _mm512_shuffle_epi8(cast(x.values), _mm512_broadcast_i32x4(bytes));
    let digits = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), fours);
    assert!(t < INPUTS);
    let inputs = inputs.as_mut_ptr();
    // SAFETY: these are places in what `inputs` has memory for.
    unsafe {
        (&raw mut (*inputs).digits[t]).write(cast(digits));
        (&raw mut (*inputs).scales[t]).write(x.scale);
        (&raw mut (*inputs).sums[t]).write(x.sum);
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_q8(tile: &Q8Tile, r: usize, weights: &mut Weights) {
    for step in 0..GROUP / 4 {
        weights.bytes[step][r] = cast(tile.values[step]);
    }
    weights.scales[r] = from_f16(tile.scales);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_q4(tile: &Q4Tile, r: usize, weights: &mut Weights) {
    nibbles(&tile.nibbles, 8, r, weights);
    weights.scales[r] = from_f16(tile.scales);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_q4min(tile: &Q4MinTile, r: usize, weights: &mut Weights) {
    nibbles(&tile.nibbles, 0, r, weights);
    weights.scales[r] = from_f16(tile.scales);
    weights.minima[r] = from_f16(tile.minima);
}

/// Nibbles less `offset`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn nibbles(nibbles: &[[[u8; 4]; TILE_ROWS]; GROUP / 8], offset: i8, r: usize, weights: &mut Weights) {
    let (nibble, offset) = (_mm256_set1_epi8(15), _mm256_set1_epi8(offset));
    for step in 0..GROUP / 8 {
        let bytes = cast(nibbles[step]);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
        weights.bytes[2 * step][r] = _mm256_sub_epi8(_mm256_and_si256(bytes, nibble), offset);
        weights.bytes[2 * step + 1][r] = _mm256_sub_epi8(high, offset);
    }
}

/// For each block of inputs, group by group, the exact dot products, joined to the sums; `minima` says whether the groups have
/// minima. While those of a group are joined, the tiles multiply the next one, and the one after it is loaded: each of
/// the three takes longer than the processor looks ahead. `begin` is called as a block begins.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vnni")]
fn multiply(
    weights: &[Weights],
    inputs: &[&[Inputs]],
    out: &mut [panel::Sums<INPUTS>],
    minima: bool,
    begin: impl Fn(usize),
) {
    let weights = &weights[..weights.len().min(GROUPS)];
    if weights.is_empty() || inputs.is_empty() {
        return;
    }
    let mut dots = Dots([[[0; ROWS]; INPUTS]; 2]);
    // What is loaded goes through all blocks without a pause; nobody needs what comes last.
    let (mut block, mut group) = (0, 0);
    let mut load = || {
        load_tiles(&weights[group], &inputs[block][group]);
        group += 1;
        if group == weights.len() {
            (block, group) = ((block + 1).min(inputs.len() - 1), 0);
        }
    };
    load();
    multiply_tiles();
    load();
    store_tiles(&mut dots);
    for (block, (&inputs, out)) in inputs.iter().zip(out).enumerate() {
        begin(block);
        let mut sums: [__m512; INPUTS] = panel::load(out);
        for (weights, inputs) in weights.iter().zip(inputs) {
            multiply_tiles();
            load();
            let [low, high] = &dots.0;
            for t in 0..INPUTS {
                let dots = _mm512_add_epi32(cast(low[t]), _mm512_slli_epi32::<8>(cast(high[t])));
                sums[t] = join_pair(sums[t], dots, cast(weights.scales), inputs.scales[t]);
            }
            if minima {
                for t in 0..INPUTS {
                    let sum = _mm512_set1_epi32(inputs.sums[t]);
                    sums[t] = join_pair(sums[t], sum, cast(weights.minima), inputs.scales[t]);
                }
            }
            store_tiles(&mut dots);
        }
        panel::store(sums, out);
    }
}

/// Loads a group.
#[inline(always)]
fn load_tiles(weights: &Weights, inputs: &Inputs) {
    // SAFETY: `SHAPES` has the tiles of inputs as 16 rows of 32 bytes, which here are 64 apart, and that of weights as 8 rows of
    // 64 bytes: just what the fields hold.
    unsafe {
        asm!(
            "tileloadd tmm2, [{inputs} + {row}]",
            "tileloadd tmm3, [{inputs} + {row} + 32]",
            "tileloadd tmm4, [{weights} + {row}]",
            inputs = in(reg) &inputs.digits,
            weights = in(reg) &weights.bytes,
            row = in(reg) 64usize,
            out("tmm2") _,
            out("tmm3") _,
            out("tmm4") _,
            options(nostack, readonly),
        );
    }
}

/// Multiplies what is loaded.
#[inline(always)]
fn multiply_tiles() {
    // SAFETY: no memory is involved, and by `SHAPES` the tiles fit each other.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tdpbusd tmm0, tmm2, tmm4",
            "tdpbssd tmm1, tmm3, tmm4",
            out("tmm0") _,
            out("tmm1") _,
            options(nostack, nomem),
        );
    }
}

/// Stores what was multiplied.
#[inline(always)]
fn store_tiles(dots: &mut Dots) {
    // SAFETY: by `SHAPES` the tiles of dot products are 16 rows of 64 bytes: each is one half of this.
    unsafe {
        asm!(
            "tilestored [{dots} + {row}], tmm0",
            "tilestored [{dots} + {row} + 1024], tmm1",
            dots = in(reg) dots,
            row = in(reg) 64usize,
            options(nostack),
        );
    }
}
