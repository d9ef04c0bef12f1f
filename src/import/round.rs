//! Packs one row of a checkpoint as one row of a tile row: unchanged where the types match, rounded
//! where they do not. Rounding with calibration text is in `src/quantize`.

mod repack;

use std::prelude::rust_2024::*;

use pocketlm_kernels::math::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32, round_to_i32};
use pocketlm_kernels::{
    GROUP, pack_codes, pack_q4_group, pack_q8_group, pack_row, pack_row_scale, pack_values,
};

use repack::repack;

use super::{Element, ImportError, Tensor};
use crate::model::DType;

/// How many scales are tried for a group of q8: up to 3 % above the smallest.
const SCALES: u16 = 63;
/// The bits of 65504.
const LARGEST_F16: u16 = 0x7bff;

/// The type of an image that is nearest to a type of a checkpoint.
///
/// Nothing is lost of F32, F16, BF16, Q8_0, Q5_0, IQ4_NL, Q4_0, Q4_1, Q2_0 and Q1_0. The last two
/// become q4, which has their values: an image holds no fewer bits a weight. Q4_K keeps its 4-bit
/// values; each group's scale and minimum, which are products of two numbers, are rounded to f16.
/// The others (Q6_K, Q5_K, Q5_1, Q3_K, Q2_K) are requantised to q8, whose steps are finer than
/// theirs: with q6, Gemma 3 270M in Q4_K_M chooses another token at 2 of 62 positions.
/// [`Element::Affine`] of 8 bits keeps its values if they are at most 128 steps from the zero
/// point; for 4 bits, see [`Tensor::nearest`](super::Tensor::nearest).
pub(super) fn nearest(element: Element) -> DType {
    match element {
        Element::F32 => DType::F32,
        Element::F16 => DType::F16,
        Element::BF16 => DType::Bf16,
        Element::Q4_0 | Element::Q1_0 | Element::Q2_0 => DType::Q4,
        Element::Q4_1 | Element::Q4_K => DType::Q4Min,
        Element::Q5_0 => DType::Q5,
        Element::Q8_0
        | Element::Q5_1
        | Element::Q2_K
        | Element::Q3_K
        | Element::Q5_K
        | Element::Q6_K
        | Element::IQ4_NL
        | Element::Affine => DType::Q8,
    }
}

/// Whether packing lost anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fidelity {
    /// The packed values are exactly the numbers that the checkpoint stores.
    Exact,
    Rounded,
}

impl Fidelity {
    pub(super) fn exact(is_exact: bool) -> Self {
        if is_exact {
            Fidelity::Exact
        } else {
            Fidelity::Rounded
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self::exact(self == Fidelity::Exact && other == Fidelity::Exact)
    }
}

/// Where a row is packed: one of the rows of a tile row.
struct Lane<'t> {
    dtype: DType,
    tile_row: &'t mut [u8],
    lane: usize,
}

impl Lane<'_> {
    /// Writes group `index` of a row of q8, q6 or q5.
    fn put(&mut self, index: usize, scale: u16, values: &[i8; GROUP]) {
        if self.dtype == DType::Q8 {
            pack_q8_group(self.tile_row, self.lane, index, scale, values);
        } else {
            pack_values(self.dtype, self.tile_row, self.lane, index, scale, values);
        }
    }

    /// Writes group `index` of a row of q4 (without a minimum) or q4min (with one).
    fn put4(&mut self, index: usize, group: &Group4) {
        let Group4 {
            scale,
            minimum,
            values,
        } = group;
        pack_q4_group(self.tile_row, self.lane, index, *scale, *minimum, values);
    }
}

/// Packs row `r` of `tensor` as row `r mod 8` of `tile_row`. `values` is scratch for one row.
pub(super) fn pack(
    tensor: &Tensor<'_>,
    r: usize,
    dtype: DType,
    tile_row: &mut [u8],
    values: &mut [f32],
) -> Result<Fidelity, ImportError> {
    let mut lane = Lane {
        dtype,
        tile_row,
        lane: r % pocketlm_kernels::TILE_ROWS,
    };
    let element = tensor.element();
    if let Some(blocks) = tensor.blocks(r)
        && let Some(fidelity) = repack(element, blocks, &mut lane)?
    {
        return Ok(fidelity);
    }
    tensor.row(r, values)?;
    check_range(values, r, dtype)?;
    round(values, &mut lane);
    // An f32 holds every stored number; a plain type holds the numbers of its own type.
    let holds = dtype == DType::F32 || element.is_plain() && dtype == nearest(element);
    Ok(Fidelity::exact(holds))
}

/// Packs a row of numbers, rounded to those that the type of `lane` has.
fn round(row: &[f32], lane: &mut Lane<'_>) {
    let groups = row.chunks(GROUP).enumerate();
    match lane.dtype {
        DType::Q4 => {
            for (index, weights) in groups {
                lane.put4(index, &symmetric(weights));
            }
        }
        DType::Q4Min => {
            for (index, weights) in groups {
                lane.put4(index, &with_minimum(weights));
            }
        }
        DType::Q8 => {
            for (index, weights) in groups {
                let (scale, values) = eight_bits(weights);
                lane.put(index, scale, &values);
            }
        }
        DType::Q6 | DType::Q5 => {
            let reach = if lane.dtype == DType::Q6 { 32 } else { 16 };
            for (index, weights) in groups {
                let (scale, values) = even_levels(weights, reach);
                lane.put(index, scale, &values);
            }
        }
        DType::Nl4 | DType::Nl3 => uneven_levels(row, lane),
        DType::F32 | DType::F16 | DType::Bf16 => {
            pack_row(lane.dtype, lane.tile_row, lane.lane, row);
        }
    }
}

/// Refuses what is not a number, and numbers that a type cannot hold, in row `r`.
pub(crate) fn check_range(values: &[f32], r: usize, dtype: DType) -> Result<(), ImportError> {
    let largest = match dtype {
        DType::F16 => 65504.0,
        DType::Q8 => 65504.0 * 127.0,
        DType::Q4 => 65504.0 * 8.0,
        DType::Q4Min => 65504.0,
        DType::Q5 => 65504.0 * 16.0,
        DType::Q6 => 65504.0 * 32.0,
        DType::Nl3 | DType::Nl4 => f32::MAX / 4.0,
        DType::F32 | DType::Bf16 => f32::MAX,
    };
    if let Some(c) = values.iter().position(|x| x.is_nan() || x.abs() > largest) {
        let reason = if values[c].is_finite() {
            format!(
                "element [{r}][{c}] is {}, beyond the range of {}",
                values[c],
                dtype.name()
            )
        } else {
            format!("element [{r}][{c}] is {}", values[c])
        };
        return Err(ImportError::new(reason));
    }
    Ok(())
}

/// Up to 32 weights; a shorter group is padded with zeros.
fn padded(weights: &[f32]) -> [f32; GROUP] {
    let mut padded = [0.0; GROUP];
    padded[..weights.len()].copy_from_slice(weights);
    padded
}

/// A sum over a group in eight parts, which the compiler keeps in registers.
#[inline(always)]
fn sum(of: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0; 8];
    for start in (0..GROUP).step_by(8) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += of(start + lane);
        }
    }
    sums.iter().sum()
}

/// 8 bits. Tries f16 scales from the smallest one that reaches the largest weight upwards, and
/// takes the one with the smallest error. Weights that were quantised before are on a grid, and one
/// of the scales nearly matches it.
fn eight_bits(weights: &[f32]) -> (u16, [i8; GROUP]) {
    let weights = padded(weights);
    let largest = weights
        .iter()
        .fold(0.0f32, |largest, w| largest.max(w.abs()));
    let smallest_scale = f16_from_f32(largest / 127.0);
    let rounded = |w: f32, inverse: f32| round_to_i32((w * inverse).clamp(-127.0, 127.0));
    let mut best = (f32::INFINITY, smallest_scale);
    for scale in smallest_scale..=smallest_scale.saturating_add(SCALES).min(LARGEST_F16) {
        let step = f16_to_f32(scale);
        let inverse = inverse(step);
        let error = sum(|c| (rounded(weights[c], inverse) as f32 * step - weights[c]).powi(2));
        if error < best.0 {
            best = (error, scale);
        }
    }
    let inverse = inverse(f16_to_f32(best.1));
    (best.1, weights.map(|w| rounded(w, inverse) as i8))
}

/// Integers from `-reach` to `reach - 1` and their f16 scale.
fn even_levels(weights: &[f32], reach: i32) -> (u16, [i8; GROUP]) {
    let weights = padded(weights);
    let reach = reach as f32;
    let round = |x: f32| round_to_i32(x.clamp(-reach, reach - 1.0)) as f32;
    let scale = searched_scale(&weights, reach, round).clamp(-65504.0, 65504.0);
    let scale = f16_from_f32(scale);
    let step = f16_to_f32(scale);
    let inverse = inverse(step);
    (scale, weights.map(|w| round(w * inverse) as i8))
}

/// Writes a row of uneven levels. The scales of the groups are searched first. The scale of the row
/// is such that the largest of them is 127; then each group takes the best multiple of it.
fn uneven_levels(row: &[f32], lane: &mut Lane<'_>) {
    let levels = Levels::new(lane.dtype.levels());
    let scales: Vec<f32> = row
        .chunks(GROUP)
        .map(|weights| {
            let round = |x| levels.round(x);
            searched_scale(&padded(weights), levels.largest(), round)
        })
        .collect();
    let largest = scales
        .iter()
        .fold(0.0f32, |largest, s| largest.max(s.abs()));
    // Rounded up: no group needs more than 127.
    let mut row_scale = bf16_from_f32(largest / 127.0);
    if bf16_to_f32(row_scale) * 127.0 < largest {
        row_scale += 1;
    }
    pack_row_scale(lane.dtype, lane.tile_row, lane.lane, row_scale);
    let unit = bf16_to_f32(row_scale);
    for (index, (weights, scale)) in row.chunks(GROUP).zip(scales).enumerate() {
        let weights = padded(weights);
        let near = round_to_i32((scale * inverse(unit)).clamp(-127.0, 127.0));
        let mut best = (f32::INFINITY, 0);
        for multiple in (near - 1).max(-127)..=(near + 1).min(127) {
            let error = error(&weights, multiple as f32 * unit, |x| levels.round(x));
            if error < best.0 {
                best = (error, multiple);
            }
        }
        let inverse = inverse(best.1 as f32 * unit);
        let codes = weights.map(|w| levels.code(w * inverse));
        let scale = best.1 as i8;
        pack_codes(lane.dtype, lane.tile_row, lane.lane, index, scale, &codes);
    }
}

/// The levels of a type, and the nearest of them to each half of an integer.
struct Levels {
    levels: &'static [i8],
    nearest: [u8; 513],
}

impl Levels {
    fn new(levels: &'static [i8]) -> Self {
        let nearest = std::array::from_fn(|half| {
            let distance = |level: i8| (2 * i32::from(level) - (half as i32 - 256)).abs();
            let code = (0..levels.len()).min_by_key(|&code| distance(levels[code]));
            code.unwrap_or_default() as u8
        });
        Levels { levels, nearest }
    }

    /// The level of the largest magnitude.
    fn largest(&self) -> f32 {
        let magnitudes = self.levels.iter().map(|level| level.unsigned_abs());
        f32::from(magnitudes.max().unwrap_or_default())
    }

    fn code(&self, x: f32) -> u8 {
        self.nearest[(round_to_i32((2.0 * x).clamp(-256.0, 256.0)) + 256) as usize]
    }

    fn round(&self, x: f32) -> f32 {
        f32::from(self.levels[usize::from(self.code(x))])
    }
}

/// A scale for which `scale * round(weight / scale)` is near the weights. The start is the largest
/// weight over the largest level, of either sign, and a little less; each rounding is followed by
/// the best scale for what it gave. The padding of a short group is zeros, whose rounding does not
/// matter.
fn searched_scale(weights: &[f32; GROUP], largest_level: f32, round: impl Fn(f32) -> f32) -> f32 {
    let largest = weights
        .iter()
        .fold(0.0f32, |largest, w| largest.max(w.abs()));
    let mut best = (f32::INFINITY, 0.0);
    for narrowing in 0..6 {
        let start = largest / largest_level * (1.0 - narrowing as f32 / 20.0);
        for mut scale in [start, -start] {
            for _ in 0..2 {
                let error = error(weights, scale, &round);
                if error < best.0 {
                    best = (error, scale);
                }
                let inverse = inverse(scale);
                let level = weights.map(|w| round(w * inverse));
                let squares = sum(|c| level[c] * level[c]);
                if squares > 0.0 {
                    scale = sum(|c| level[c] * weights[c]) / squares;
                }
            }
        }
    }
    best.1
}

/// The squared error of weights that are rounded to multiples of a scale.
fn error(weights: &[f32; GROUP], scale: f32, round: impl Fn(f32) -> f32) -> f32 {
    let inverse = inverse(scale);
    sum(|c| (round(weights[c] * inverse) * scale - weights[c]).powi(2))
}

fn inverse(scale: f32) -> f32 {
    if scale != 0.0 && (1.0 / scale).is_finite() {
        1.0 / scale
    } else {
        0.0
    }
}

/// 32 values of 4 bits, with their scale and perhaps a minimum, as q4 and q4min have them.
struct Group4 {
    scale: u16,
    minimum: Option<u16>,
    values: [u8; GROUP],
}

/// 4 bits without a minimum: the scale is the largest weight over −8 (so that it is met exactly),
/// as in ggml's Q4_0.
fn symmetric(weights: &[f32]) -> Group4 {
    let largest = weights.iter().fold(
        0.0,
        |largest: f32, &w| if w.abs() > largest.abs() { w } else { largest },
    );
    let scale = f16_from_f32(largest / -8.0);
    let step = f16_to_f32(scale);
    let mut values = [8; GROUP];
    if step != 0.0 {
        for (value, w) in values.iter_mut().zip(weights) {
            *value = ((w / step).round().clamp(-8.0, 7.0) + 8.0) as u8;
        }
    }
    Group4 {
        scale,
        minimum: None,
        values,
    }
}

/// 4 bits with a minimum. Starts from the range of the weights and from ranges a little narrower,
/// and after each rounding fits scale and minimum to the rounded values by least squares. Keeps the
/// result with the smallest error.
fn with_minimum(weights: &[f32]) -> Group4 {
    // The padding of a short group is multiplied by inputs of zero, so its weights do not matter:
    // it repeats one of the group's.
    let (mut filled, weights) = ([weights.first().copied().unwrap_or(0.0); GROUP], weights);
    filled[..weights.len()].copy_from_slice(weights);
    let weights = filled;
    let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let levels = |step: f32, base: f32| {
        let inverse = if step != 0.0 { 1.0 / step } else { 0.0 };
        weights.map(|w| round_to_i32(((w - base) * inverse).clamp(0.0, 15.0)) as f32)
    };
    let mut best = (f32::INFINITY, 0, f16_from_f32(low));
    for narrowing in 0..8 {
        let narrow = (high - low) * narrowing as f32 / 64.0;
        let (mut scale, mut minimum) = ((high - low - narrow) / 15.0, low + narrow / 2.0);
        for _ in 0..3 {
            let rounded = (f16_from_f32(scale), f16_from_f32(minimum));
            let (step, base) = (f16_to_f32(rounded.0), f16_to_f32(rounded.1));
            let levels = levels(step, base);
            let error = sum(|c| (levels[c] * step + base - weights[c]).powi(2));
            if error < best.0 {
                best = (error, rounded.0, rounded.1);
            }
            match least_squares(&weights, &levels) {
                Some(fitted) => (scale, minimum) = fitted,
                None => break,
            }
        }
    }
    let (_, scale, minimum) = best;
    Group4 {
        scale,
        minimum: Some(minimum),
        values: levels(f16_to_f32(scale), f16_to_f32(minimum)).map(|v| v as u8),
    }
}

/// The scale and minimum for which `level * scale + minimum` is nearest to the weights; `None` if
/// all levels are equal.
fn least_squares(weights: &[f32; GROUP], levels: &[f32; GROUP]) -> Option<(f32, f32)> {
    let n = GROUP as f32;
    let (x, y) = (sum(|c| levels[c]), sum(|c| weights[c]));
    let (xx, xy) = (
        sum(|c| levels[c] * levels[c]),
        sum(|c| levels[c] * weights[c]),
    );
    let determinant = n * xx - x * x;
    (determinant > 0.0).then(|| {
        let scale = (n * xy - x * y) / determinant;
        (scale, (y - scale * x) / n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pocketlm_kernels::Matrix;

    /// Random blocks of a type with moderate scales, one row of `blocks` blocks.
    fn blocks(element: Element, blocks: usize) -> Vec<u8> {
        let mut state = 12345u32;
        let mut bytes: Vec<u8> = (0..blocks * element.block_bytes())
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 24) as u8
            })
            .collect();
        let scales: &[usize] = match element {
            Element::Q8_0
            | Element::Q5_0
            | Element::Q4_0
            | Element::IQ4_NL
            | Element::Q1_0
            | Element::Q2_0 => &[0],
            Element::Q4_1 | Element::Q4_K => &[0, 2],
            _ => &[],
        };
        for block in bytes.chunks_exact_mut(element.block_bytes()) {
            for &at in scales {
                block[at + 1] = block[at + 1] & 0x83 | 0x20; // an exponent in the middle
            }
        }
        bytes
    }

    #[test]
    fn what_the_image_can_hold_comes_in_without_loss() {
        for element in [
            Element::Q8_0,
            Element::Q5_0,
            Element::IQ4_NL,
            Element::Q4_0,
            Element::Q4_1,
            Element::Q4_K,
            Element::Q1_0,
            Element::Q2_0,
        ] {
            let count = 2;
            let columns = count * element.block_len();
            let data = blocks(element, count);
            let tensor = Tensor::dense(element, data, 1, columns).unwrap();
            let dtype = nearest(element);
            let mut words = vec![0u32; dtype.matrix_bytes(1, columns).unwrap() / 4];
            let mut expected = vec![0.0; columns];
            pack(
                &tensor,
                0,
                dtype,
                bytemuck::cast_slice_mut(&mut words),
                &mut expected,
            )
            .unwrap();
            tensor.row(0, &mut expected).unwrap();
            let mut packed = vec![0.0; columns];
            Matrix::new(dtype, 1, columns, bytemuck::cast_slice(&words))
                .unwrap()
                .row(0, &mut packed);
            for (c, (&a, &b)) in packed.iter().zip(&expected).enumerate() {
                match element {
                    // Scale and minimum are products that f16 rounds.
                    Element::Q4_K => {
                        let scales = expected[c / 32 * 32..][..32]
                            .iter()
                            .fold(0.0f32, |x, y| x.max(y.abs()));
                        assert!(
                            (a - b).abs() <= scales * 2f32.powi(-9),
                            "{element} {c}: {a} {b}"
                        );
                    }
                    _ => assert_eq!(a, b, "{element} {c}"),
                }
            }
        }
    }

    /// The squared error of a row in a type, relative to the row's square.
    fn error_of(dtype: DType, row: &[f32]) -> f64 {
        let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = Tensor::dense(Element::F32, bytes, 1, row.len()).unwrap();
        let mut words = vec![0u32; dtype.matrix_bytes(1, row.len()).unwrap() / 4];
        let tile_row = bytemuck::cast_slice_mut(&mut words);
        pack(&tensor, 0, dtype, tile_row, &mut vec![0.0; row.len()]).unwrap();
        let matrix = Matrix::new(dtype, 1, row.len(), bytemuck::cast_slice(&words)).unwrap();
        let mut packed = vec![0.0; row.len()];
        matrix.row(0, &mut packed);
        let square = |x: f32| f64::from(x).powi(2);
        let error: f64 = row.iter().zip(&packed).map(|(a, b)| square(a - b)).sum();
        error / row.iter().map(|x| square(*x)).sum::<f64>()
    }

    #[test]
    fn more_bits_err_less_whatever_the_size_of_the_weights() {
        // Sums of four numbers, which lie about as weights do. The last group is not full.
        let mut state = 7u32;
        let mut number = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let weights: Vec<f32> = (0..1000).map(|_| (0..4).map(|_| number()).sum()).collect();
        // 6 dB a bit, roughly; the uneven levels fit such weights better than even ones.
        let bounds = [
            (DType::Q8, 4e-5),
            (DType::Q6, 5e-4),
            (DType::Q5, 2e-3),
            (DType::Nl4, 6e-3),
            (DType::Q4, 7e-3),
            (DType::Nl3, 2.6e-2),
        ];
        for scale in [1.0, 1e-4, 1e4] {
            let row: Vec<f32> = weights.iter().map(|w| w * scale).collect();
            let errors = bounds.map(|(dtype, bound)| {
                let error = error_of(dtype, &row);
                assert!(error < bound, "{} at {scale}: {error}", dtype.name());
                error
            });
            assert!(errors.is_sorted(), "{errors:?}");
        }
        // A row of zeros stays one: 0 / 0.
        for (dtype, _) in bounds {
            assert!(error_of(dtype, &[0.0; 40]).is_nan(), "{}", dtype.name());
        }
    }

    #[test]
    fn fitted_4_bit_groups_err_less_than_plain_rounding() {
        let weights: Vec<f32> = (0..32)
            .map(|i| ((i * 37 % 32) as f32 - 11.0) * ((i % 5) as f32 + 1.0) / 50.0)
            .collect();
        let (low, high) = weights
            .iter()
            .fold((0.0f32, 0.0f32), |(l, h), &w| (l.min(w), h.max(w)));
        let step = (high - low) / 15.0;
        let plain: f32 = weights
            .iter()
            .map(|w| (((w - low) / step).round() * step + low - w).powi(2))
            .sum();
        let group = with_minimum(&weights);
        let (scale, minimum) = (f16_to_f32(group.scale), f16_to_f32(group.minimum.unwrap()));
        let fitted: f32 = weights
            .iter()
            .zip(group.values)
            .map(|(w, v)| (v as f32 * scale + minimum - w).powi(2))
            .sum();
        assert!(fitted < plain, "{fitted} {plain}");
        assert_eq!(with_minimum(&[0.0; 32]).values, [0; 32]);
        let constant = with_minimum(&[0.5; 32]);
        assert_eq!(
            (constant.values, constant.minimum),
            ([0; 32], Some(f16_from_f32(0.5)))
        );
    }

    #[test]
    fn numbers_a_type_cannot_hold_are_refused_by_place() {
        for (bad, dtype, words) in [
            (
                1e6f32,
                DType::F16,
                "element [0][1] is 1000000, beyond the range of f16",
            ),
            (f32::INFINITY, DType::F32, "element [0][1] is inf"),
            (f32::NAN, DType::Q8, "element [0][1] is NaN"),
        ] {
            let data: Vec<u8> = [0.0f32, bad].iter().flat_map(|x| x.to_le_bytes()).collect();
            let tensor = Tensor::dense(Element::F32, data, 1, 2).unwrap();
            let mut tile_row = vec![0u32; 128];
            let error = pack(
                &tensor,
                0,
                dtype,
                bytemuck::cast_slice_mut(&mut tile_row),
                &mut [0.0; 2],
            )
            .unwrap_err();
            assert_eq!(error.to_string(), words);
        }
    }
}
