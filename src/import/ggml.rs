//! ggml's element types: the size of their blocks, and the numbers in them.
//!
//! Formulas, and the order of operations where it changes the last bit, are those of the reference
//! functions `dequantize_row_*` in ggml's `ggml-quants.c`. Every product and every sum is rounded
//! to f32.

use std::fmt;
use std::prelude::rust_2024::*;

use half::{bf16, f16};

/// How a checkpoint stores the elements of a tensor: plain numbers, one of ggml's block types, or
/// `Affine`, for the quantised formats of Hugging Face folders.
///
/// Example: [`Checkpoint`](super::Checkpoint).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(non_camel_case_types, missing_docs)] // ggml's own names
pub enum Element {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    Q1_0,
    Q2_0,
    /// `f32 d, i16 z, u8 q[32]`: `d (q - z)`. No file holds such blocks: GPTQ, AWQ and
    /// compressed-tensors scatter these numbers over several tensors.
    Affine,
}

impl Element {
    /// ggml's types, in the order of declaration.
    pub const ALL: [Element; 16] = [
        Element::F32,
        Element::F16,
        Element::BF16,
        Element::Q4_0,
        Element::Q4_1,
        Element::Q5_0,
        Element::Q5_1,
        Element::Q8_0,
        Element::Q2_K,
        Element::Q3_K,
        Element::Q4_K,
        Element::Q5_K,
        Element::Q6_K,
        Element::IQ4_NL,
        Element::Q1_0,
        Element::Q2_0,
    ];

    /// Elements in a block: 1 for plain numbers, 32 to 256 for the block types.
    pub const fn block_len(self) -> usize {
        match self {
            Element::F32 | Element::F16 | Element::BF16 => 1,
            Element::Q4_0
            | Element::Q4_1
            | Element::Q5_0
            | Element::Q5_1
            | Element::Q8_0
            | Element::IQ4_NL
            | Element::Affine => 32,
            Element::Q2_0 => 64,
            Element::Q1_0 => 128,
            Element::Q2_K | Element::Q3_K | Element::Q4_K | Element::Q5_K | Element::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
            Element::Q4_0 | Element::IQ4_NL | Element::Q1_0 | Element::Q2_0 => 18,
            Element::Q4_1 => 20,
            Element::Q5_0 => 22,
            Element::Q5_1 => 24,
            Element::Q8_0 => 34,
            Element::Affine => 38,
            Element::Q2_K => 84,
            Element::Q3_K => 110,
            Element::Q4_K => 144,
            Element::Q5_K => 176,
            Element::Q6_K => 210,
        }
    }

    /// Whether elements are single numbers, not blocks.
    pub const fn is_plain(self) -> bool {
        self.block_len() == 1
    }

    /// Bytes of `elements` elements; `None` if they are no whole number of blocks, or more than fit
    /// in memory.
    pub const fn bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// ggml's name, where it has one.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F32 => "F32",
            Element::F16 => "F16",
            Element::BF16 => "BF16",
            Element::Q4_0 => "Q4_0",
            Element::Q4_1 => "Q4_1",
            Element::Q5_0 => "Q5_0",
            Element::Q5_1 => "Q5_1",
            Element::Q8_0 => "Q8_0",
            Element::Q2_K => "Q2_K",
            Element::Q3_K => "Q3_K",
            Element::Q4_K => "Q4_K",
            Element::Q5_K => "Q5_K",
            Element::Q6_K => "Q6_K",
            Element::IQ4_NL => "IQ4_NL",
            Element::Q1_0 => "Q1_0",
            Element::Q2_0 => "Q2_0",
            Element::Affine => "affine",
        }
    }

    /// Decodes whole blocks. If one side is longer, the rest of it is left alone.
    pub(super) fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        match self {
            Element::F32 => each(blocks, out, |b: &[u8; 4], y: &mut [f32; 1]| {
                y[0] = f32::from_le_bytes(*b)
            }),
            Element::F16 => each(blocks, out, |b: &[u8; 2], y: &mut [f32; 1]| {
                y[0] = f16::from_le_bytes(*b).to_f32()
            }),
            Element::BF16 => each(blocks, out, |b: &[u8; 2], y: &mut [f32; 1]| {
                y[0] = bf16::from_le_bytes(*b).to_f32()
            }),
            Element::Q4_0 => each(blocks, out, q4_0),
            Element::Q4_1 => each(blocks, out, q4_1),
            Element::Q5_0 => each(blocks, out, q5_0),
            Element::Q5_1 => each(blocks, out, q5_1),
            Element::Q8_0 => each(blocks, out, q8_0),
            Element::Q2_K => each(blocks, out, q2_k),
            Element::Q3_K => each(blocks, out, q3_k),
            Element::Q4_K => each(blocks, out, q4_k),
            Element::Q5_K => each(blocks, out, q5_k),
            Element::Q6_K => each(blocks, out, q6_k),
            Element::IQ4_NL => each(blocks, out, iq4_nl),
            Element::Q1_0 => each(blocks, out, q1_0),
            Element::Q2_0 => each(blocks, out, q2_0),
            Element::Affine => each(blocks, out, |b, y: &mut [f32; 32]| {
                *y = AffineBlock::from_bytes(b).values()
            }),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Decodes block by block.
fn each<const BYTES: usize, const LEN: usize>(
    blocks: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, y) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, y);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

// The 32-element types keep element j in the low half of byte j, element j + 16 in the high half.

/// `f16 d, u4 q[32]`: `d (q - 8)`.
fn q4_0(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        y[j] = f32::from((q & 15) as i8 - 8) * d;
        y[j + 16] = f32::from((q >> 4) as i8 - 8) * d;
    }
}

/// `f16 d, f16 m, u4 q[32]`: `d q + m`.
fn q4_1(block: &[u8; 20], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let m = half_at(block, 2);
    for j in 0..16 {
        let q = block[4 + j];
        y[j] = f32::from(q & 15) * d + m;
        y[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The five-bit numbers `j` and `j + 16` of 32 whose fifth bits are `high` and whose lower bits are
/// byte `low`.
fn five_bits(high: u32, low: u8, j: usize) -> (u8, u8) {
    let bit = |i: usize| ((high >> i & 1) as u8) << 4;
    (low & 15 | bit(j), low >> 4 | bit(j + 16))
}

/// `f16 d, u32 high bits, u4 q[32]`: `d (q - 16)`.
fn q5_0(block: &[u8; 22], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for j in 0..16 {
        let (a, b) = five_bits(high, block[6 + j], j);
        y[j] = f32::from(a as i8 - 16) * d;
        y[j + 16] = f32::from(b as i8 - 16) * d;
    }
}

/// `f16 d, f16 m, u32 high bits, u4 q[32]`: `d q + m`.
fn q5_1(block: &[u8; 24], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let m = half_at(block, 2);
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for j in 0..16 {
        let (a, b) = five_bits(high, block[8 + j], j);
        y[j] = f32::from(a) * d + m;
        y[j + 16] = f32::from(b) * d + m;
    }
}

/// `f16 d, i8 q[32]`: `d q`.
fn q8_0(block: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for j in 0..32 {
        y[j] = f32::from(block[2 + j] as i8) * d;
    }
}

/// What the 16 indices of [`Element::IQ4_NL`] stand for.
pub(super) const CODE_BOOK: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// `f16 d, u4 index[32]` into a code book of 16 integers.
fn iq4_nl(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        y[j] = d * f32::from(CODE_BOOK[usize::from(q & 15)]);
        y[j + 16] = d * f32::from(CODE_BOOK[usize::from(q >> 4)]);
    }
}

/// `f16 d, u1 q[128]`: `d` or, where the bit is 0, `-d`. The low bits come first.
fn q1_0(block: &[u8; 18], y: &mut [f32; 128]) {
    let d = half_at(block, 0);
    for (j, y) in y.iter_mut().enumerate() {
        *y = if bits(&block[2..], 1, j) == 1 { d } else { -d };
    }
}

/// `f16 d, u2 q[64]`: `d (q - 1)`. The low bits come first.
fn q2_0(block: &[u8; 18], y: &mut [f32; 64]) {
    let d = half_at(block, 0);
    for (j, y) in y.iter_mut().enumerate() {
        *y = f32::from(bits(&block[2..], 2, j) as i8 - 1) * d;
    }
}

/// Number `index` of numbers of `width` bits each, 1, 2 or 4, the low ones of a byte first.
pub(super) fn bits(bytes: &[u8], width: usize, index: usize) -> u8 {
    let at = index * width;
    bytes[at / 8] >> (at % 8) & ((1 << width) - 1)
}

/// A block of [`Element::Affine`].
pub(super) struct AffineBlock {
    pub(super) scale: f32,
    /// From -128 to 256.
    pub(super) zero: i16,
    pub(super) values: [u8; 32],
}

impl AffineBlock {
    pub(super) fn from_bytes(block: &[u8; 38]) -> Self {
        AffineBlock {
            scale: f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            zero: i16::from_le_bytes([block[4], block[5]]),
            values: std::array::from_fn(|c| block[6 + c]),
        }
    }

    pub(super) fn to_bytes(&self) -> [u8; 38] {
        let mut block = [0; 38];
        block[..4].copy_from_slice(&self.scale.to_le_bytes());
        block[4..6].copy_from_slice(&self.zero.to_le_bytes());
        block[6..].copy_from_slice(&self.values);
        block
    }

    /// The steps from the zero point to each value.
    pub(super) fn steps(&self) -> [i16; 32] {
        self.values.map(|value| i16::from(value) - self.zero)
    }

    /// A step has 9 bits, and a scale that was stored as f16 or bf16 has at most 11, so no product
    /// is rounded.
    fn values(&self) -> [f32; 32] {
        self.steps().map(|steps| f32::from(steps) * self.scale)
    }
}

// The "K" types hold 256 elements in sub-blocks of 16 or 32, each with a scale of a few bits that
// multiplies the block's f16 scale. Two-bit parts are packed four to a byte: byte `32 h + l` of the
// 64 has elements `128 h + l`, `+ 32`, `+ 64` and `+ 96`, lowest bits first.

/// Two bits of element `16 s + i`.
fn two_bits(packed: &[u8], s: usize, i: usize) -> u8 {
    packed[32 * (s / 8) + 16 * (s % 2) + i] >> (2 * (s % 8 / 2)) & 3
}

/// `u4 scale, u4 minimum [16]; u2 q[256]; f16 d, f16 dmin`: `(d scale) q - dmin minimum`, 16 to a
/// sub-block.
fn q2_k(block: &[u8; 84], y: &mut [f32; 256]) {
    let scales = &block[..16];
    let q = &block[16..80];
    let d = half_at(block, 80);
    let dmin = half_at(block, 82);
    for (s, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[s] & 15);
        let minimum = dmin * f32::from(scales[s] >> 4);
        for (i, y) in y.iter_mut().enumerate() {
            *y = scale * f32::from(two_bits(q, s, i)) - minimum;
        }
    }
}

/// `u1 high[256]; u2 q[256]; u6 scale[16]; f16 d`: `(d (scale - 32)) (q - 4)` with `q` of three
/// bits, 16 to a sub-block. Bit `b` of byte `l` of `high` belongs to element `32 b + l`.
fn q3_k(block: &[u8; 110], y: &mut [f32; 256]) {
    let high = &block[..32];
    let q = &block[32..96];
    let scales = &block[96..108];
    let d = half_at(block, 108);
    for (s, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low4 = if s < 8 {
            scales[s] & 15
        } else {
            scales[s - 8] >> 4
        };
        let high2 = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
        let scale = d * f32::from((high2 << 4 | low4) as i8 - 32);
        for (i, y) in y.iter_mut().enumerate() {
            let third_bit = high[16 * (s % 2) + i] >> (s / 2) & 1;
            *y = scale * f32::from((third_bit << 2 | two_bits(q, s, i)) as i8 - 4);
        }
    }
}

/// The six-bit scale and minimum of sub-block `s` of 8, as Q4_K and Q5_K pack them into 12 bytes.
fn scale_and_minimum(packed: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        (
            packed[s + 4] & 15 | packed[s - 4] >> 6 << 4,
            packed[s + 4] >> 4 | packed[s] >> 6 << 4,
        )
    }
}

/// Four bits of element `32 s + i`: byte `32 h + i` has elements `64 h + i` and `64 h + 32 + i`.
fn four_bits(packed: &[u8], s: usize, i: usize) -> u8 {
    packed[32 * (s / 2) + i] >> (4 * (s % 2)) & 15
}

/// `f16 d, f16 dmin; u6 scale, u6 minimum [8]; u4 q[256]`: `(d scale) q - dmin minimum`, 32 to a
/// sub-block.
fn q4_k(block: &[u8; 144], y: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let dmin = half_at(block, 2);
    let scales = &block[4..16];
    let q = &block[16..];
    for (s, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, s);
        let scale = d * f32::from(scale);
        let minimum = dmin * f32::from(minimum);
        for (i, y) in y.iter_mut().enumerate() {
            *y = scale * f32::from(four_bits(q, s, i)) - minimum;
        }
    }
}

/// `f16 d, f16 dmin; u6 scale, u6 minimum [8]; u1 high[256]; u4 q[256]`: Q4_K with a fifth bit,
/// kept as in Q3_K.
fn q5_k(block: &[u8; 176], y: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let dmin = half_at(block, 2);
    let scales = &block[4..16];
    let high = &block[16..48];
    let q = &block[48..];
    for (s, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, s);
        let scale = d * f32::from(scale);
        let minimum = dmin * f32::from(minimum);
        for (i, y) in y.iter_mut().enumerate() {
            let fifth_bit = high[i] >> s & 1;
            *y = scale * f32::from(fifth_bit << 4 | four_bits(q, s, i)) - minimum;
        }
    }
}

/// `u4 low[256]; u2 high[256]; i8 scale[16]; f16 d`: `(d scale) (q - 32)` with `q` of six bits, 16
/// to a sub-block. Byte `64 h + l` of the 128 has the low bits of elements `128 h + l` and
/// `128 h + 64 + l`.
fn q6_k(block: &[u8; 210], y: &mut [f32; 256]) {
    let low = &block[..128];
    let high = &block[128..192];
    let scales = &block[192..208];
    let d = half_at(block, 208);
    for (s, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[s] as i8);
        for (i, y) in y.iter_mut().enumerate() {
            let low4 = low[64 * (s / 8) + 16 * (s % 4) + i] >> (4 * (s % 8 / 4)) & 15;
            *y = scale * f32::from((two_bits(high, s, i) << 4 | low4) as i8 - 32);
        }
    }
}
