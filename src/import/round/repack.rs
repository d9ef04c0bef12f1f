//! Copies the blocks of a checkpoint value by value into a type of an image that has these values.

use std::ops::Range;
use std::prelude::rust_2024::*;

use pocketlm_kernels::GROUP;
use pocketlm_kernels::math::{f16_from_f32, f16_to_f32};

use super::{Fidelity, Group4, LARGEST_F16, Lane};
use crate::import::ggml::{AffineBlock, CODE_BOOK, bits};
use crate::import::{Element, ImportError};
use crate::model::DType;

/// Packs the block at this index of a row. `None`: it has a scale that is not a finite number.
type PackBlock = fn(&[u8], usize, &mut Lane<'_>) -> Option<()>;

/// Copies the blocks of a row, if the type of `lane` can hold their values.
///
/// # Errors
/// A scale is not a finite number.
pub(super) fn repack(
    element: Element,
    blocks: &[u8],
    lane: &mut Lane<'_>,
) -> Result<Option<Fidelity>, ImportError> {
    if element == Element::Affine {
        return Ok(affine(blocks, lane));
    }
    let pack_block: PackBlock = match (element, lane.dtype) {
        (Element::Q8_0, DType::Q8) => q8_0,
        (Element::Q5_0, DType::Q8 | DType::Q5) => q5_0,
        (Element::IQ4_NL, DType::Q8) => iq4_nl,
        (Element::Q4_0, DType::Q4) => q4_0,
        (Element::Q1_0, DType::Q4) => q1_0,
        (Element::Q2_0, DType::Q4) => q2_0,
        (Element::Q4_1, DType::Q4Min) => q4_1,
        (Element::Q4_K, DType::Q4Min) => q4_k,
        _ => return Ok(None),
    };
    for (index, block) in blocks.chunks_exact(element.block_bytes()).enumerate() {
        pack_block(block, index, lane).ok_or_else(|| {
            ImportError::new(format!("a {element} block has a scale that is not finite"))
        })?;
    }
    // The scales of Q4_K are products, and f16 cannot hold all of them.
    Ok(Some(Fidelity::exact(element != Element::Q4_K)))
}

/// A scale and 32 integers.
fn q8_0(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let values = std::array::from_fn(|c| block[2 + c] as i8);
    lane.put(index, finite(block, 0)?, &values);
    Some(())
}

/// A scale, the high bits of 32 integers and their low nibbles.
fn q5_0(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let low = nibbles(&block[6..]);
    let values = std::array::from_fn(|c| (low[c] as i8 | ((high >> c & 1) as i8) << 4) - 16);
    lane.put(index, finite(block, 0)?, &values);
    Some(())
}

/// A scale and 32 indices into the code book.
fn iq4_nl(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let values = nibbles(&block[2..]).map(|index| CODE_BOOK[usize::from(index)]);
    lane.put(index, finite(block, 0)?, &values);
    Some(())
}

/// A scale and 32 nibbles.
fn q4_0(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let group = Group4 {
        scale: finite(block, 0)?,
        minimum: None,
        values: nibbles(&block[2..]),
    };
    lane.put4(index, &group);
    Some(())
}

/// A scale, a minimum and 32 nibbles.
fn q4_1(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let group = Group4 {
        scale: finite(block, 0)?,
        minimum: Some(finite(block, 2)?),
        values: nibbles(&block[4..]),
    };
    lane.put4(index, &group);
    Some(())
}

/// A scale and single bits: -1 or 1.
fn q1_0(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let value = |at| 7 + 2 * bits(&block[2..], 1, at);
    let groups = Element::Q1_0.block_len() / GROUP;
    let groups = index * groups..(index + 1) * groups;
    one_scale(finite(block, 0)?, groups, value, lane);
    Some(())
}

/// A scale and numbers of two bits: -1 to 2.
fn q2_0(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let value = |at| 7 + bits(&block[2..], 2, at);
    let groups = Element::Q2_0.block_len() / GROUP;
    let groups = index * groups..(index + 1) * groups;
    one_scale(finite(block, 0)?, groups, value, lane);
    Some(())
}

/// Packs the groups of a block that have one scale; `value` has the values of the block.
fn one_scale(scale: u16, groups: Range<usize>, value: impl Fn(usize) -> u8, lane: &mut Lane<'_>) {
    for (group, index) in groups.enumerate() {
        let group = Group4 {
            scale,
            minimum: None,
            values: std::array::from_fn(|c| value(group * GROUP + c)),
        };
        lane.put4(index, &group);
    }
}

/// Eight groups of nibbles, whose scales and minima are 6-bit multiples of two numbers.
fn q4_k(block: &[u8], index: usize, lane: &mut Lane<'_>) -> Option<()> {
    let scale = f16_to_f32(finite(block, 0)?);
    let minimum = f16_to_f32(finite(block, 2)?);
    for group in 0..8 {
        let (s, m) = q4_k_scales(&block[4..16], group);
        // Two groups share 32 bytes: the low nibbles are the first group's, the high ones the
        // second's.
        let bytes = &block[16 + group / 2 * 32..][..32];
        let values = std::array::from_fn(|c| {
            if group % 2 == 0 {
                bytes[c] & 15
            } else {
                bytes[c] >> 4
            }
        });
        let packed = Group4 {
            scale: f16_from_f32(scale * s as f32),
            minimum: Some(f16_from_f32(-minimum * m as f32)),
            values,
        };
        lane.put4(index * 8 + group, &packed);
    }
    Some(())
}

/// The bits of the f16 at a byte of a block, if it is a finite number.
fn finite(block: &[u8], at: usize) -> Option<u16> {
    let bits = u16::from_le_bytes([block[at], block[at + 1]]);
    (bits & 0x7c00 != 0x7c00).then_some(bits)
}

/// 32 nibbles, the low ones first, as Q4_0 and Q4_1 store them.
fn nibbles(bytes: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|c| {
        if c < 16 {
            bytes[c] & 15
        } else {
            bytes[c - 16] >> 4
        }
    })
}

/// The 6-bit scale and minimum of a group of a Q4_K block (ggml's `get_scale_min_k4`).
fn q4_k_scales(packed: &[u8], group: usize) -> (u8, u8) {
    match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let (low, high) = (
                packed[group + 4],
                [packed[group - 4] >> 6, packed[group] >> 6],
            );
            (low & 15 | high[0] << 4, low >> 4 | high[1] << 4)
        }
    }
}

/// [`Element::Affine`] into a type that holds its values: q4 if all of them have the zero point 8,
/// q4min for 4 bits, q8 if none is further than 128 from its zero point. What is rounded, if
/// anything, are scales that f16 does not hold, and minima; and where the scale is rounded, q8 and
/// q4 are left to the search for a better one.
fn affine(blocks: &[u8], lane: &mut Lane<'_>) -> Option<Fidelity> {
    let blocks = blocks.as_chunks().0.iter().map(AffineBlock::from_bytes);
    let mut fidelity = Fidelity::Exact;
    for (index, block) in blocks.enumerate() {
        let scale = f16_from_f32(block.scale);
        let is_exact = f16_to_f32(scale) == block.scale;
        match lane.dtype {
            DType::Q8 if is_exact => {
                let steps = block.steps().map(i8::try_from);
                if steps.iter().any(Result::is_err) {
                    return None;
                }
                lane.put(index, scale, &steps.map(Result::unwrap_or_default));
            }
            DType::Q4 if is_exact && block.zero == 8 && is_four_bits(&block) => {
                let group = Group4 {
                    scale,
                    minimum: None,
                    values: block.values,
                };
                lane.put4(index, &group);
            }
            DType::Q4Min if is_four_bits(&block) => {
                let (group, of_group) = affine_with_minimum(&block)?;
                fidelity = fidelity.and(of_group);
                lane.put4(index, &group);
            }
            _ => return None,
        }
    }
    Some(fidelity)
}

/// A block of 4 bits with a minimum instead of a zero point. `None` if f16 is too small for its
/// scale or its minimum; the caller says which number that is.
fn affine_with_minimum(block: &AffineBlock) -> Option<(Group4, Fidelity)> {
    let (rounding, minimum, is_flipped) = minimum_of(block);
    let scale = f16_from_f32(block.scale);
    let is_exact = f16_to_f32(scale) == block.scale && rounding == 0.0;
    let (scale, values) = if is_flipped {
        (
            f16_from_f32(-block.scale),
            block.values.map(|value| 15 - value),
        )
    } else {
        (scale, block.values)
    };
    if [scale, minimum]
        .iter()
        .any(|half| half & 0x7fff > LARGEST_F16)
    {
        return None;
    }
    let group = Group4 {
        scale,
        minimum: Some(minimum),
        values,
    };
    Some((group, Fidelity::exact(is_exact)))
}

/// The minimum of 4-bit values, how far f16 is off it, and whether it is that of the values counted
/// from the other end. `d (q - z)` is `d q - d z`, and `-d (15 - q) + d (15 - z)` as well; of the
/// two products f16 mostly holds one better, and of the zero points in the middle, 7 and 8, always
/// one exactly.
fn minimum_of(block: &AffineBlock) -> (f32, u16, bool) {
    let rounded = |product: f32| {
        let half = f16_from_f32(product);
        ((f16_to_f32(half) - product).abs(), half)
    };
    let zero = f32::from(block.zero);
    let (from_below, below) = rounded(-zero * block.scale);
    let (from_above, above) = rounded((15.0 - zero) * block.scale);
    if from_above < from_below {
        (from_above, above, true)
    } else {
        (from_below, below, false)
    }
}

fn is_four_bits(block: &AffineBlock) -> bool {
    block.values.iter().all(|&value| value < 16)
}
