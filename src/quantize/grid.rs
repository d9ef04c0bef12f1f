//! The numbers that a weight of a group can be: levels times a scale.

use std::prelude::rust_2024::*;

use pocketlm_kernels::math::{f16_from_f32, f16_to_f32, round_to_i32};
use pocketlm_kernels::{DType, GROUP};

use super::feedback::{Group, Row};

/// The levels of a type, and what its scales can be.
#[derive(Clone)]
pub(super) struct Grid {
    pub dtype: DType,
    low: f32,
    high: f32,
    /// The nearest level of each number of −128..=127; for uneven levels.
    nearest: Option<Box<[f32; 256]>>,
    /// Whether the scale of a group is 8 bits times the scale of its row, and not an f16.
    pub by_row: bool,
    /// The least part of the largest weight that the outermost level may be.
    narrowest: f32,
}

/// A group's scale as it is stored, and as a number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    /// f16, or an 8-bit number.
    pub code: u16,
    pub value: f32,
}

/// How many scales are tried for a group, of one sign.
const SCALES: usize = 20;

impl Grid {
    pub fn of(dtype: DType) -> Option<Grid> {
        let even = |low: f32, high: f32| Grid {
            dtype,
            low,
            high,
            nearest: None,
            by_row: false,
            narrowest: 0.6,
        };
        let book = |levels: &[i8]| {
            let level = |x: i32| {
                let distance = |level: &&i8| (i32::from(**level) - x).abs();
                f32::from(*levels.iter().min_by_key(distance).unwrap_or(&0))
            };
            Grid {
                dtype,
                low: -127.0,
                high: 127.0,
                nearest: Some(Box::new(std::array::from_fn(|i| level(i as i32 - 128)))),
                by_row: true,
                narrowest: if levels.len() > 8 { 0.7 } else { 0.5 },
            }
        };
        Some(match dtype {
            DType::Q6 => even(-32.0, 31.0),
            DType::Q5 => even(-16.0, 15.0),
            DType::Q4 => even(-8.0, 7.0),
            DType::Nl4 | DType::Nl3 => book(dtype.levels()),
            DType::Q8 | DType::Q4Min | DType::F32 | DType::F16 | DType::Bf16 => return None,
        })
    }

    /// The level nearest to `x`, a weight over its scale.
    #[inline(always)]
    pub fn round(&self, x: f32) -> f32 {
        match &self.nearest {
            None => round_to_i32(x.clamp(self.low, self.high)) as f32,
            Some(nearest) => {
                let x = round_to_i32(x.clamp(-128.0, 127.0)) + 128;
                nearest[x as usize & 255]
            }
        }
    }

    /// The scales worth trying for weights the largest of which is `largest`; `row` is the scale of
    /// the row.
    pub fn scales(&self, largest: f32, row: f32, scales: &mut Vec<Scale>) {
        scales.clear();
        let widest = largest / -self.low;
        if widest.is_nan() || widest <= 0.0 {
            scales.push(Scale::default());
            return;
        }
        let step = (1.06 - self.narrowest) / SCALES as f32;
        let mut last = 0;
        for i in 0..=SCALES {
            let value = widest * (self.narrowest + step * i as f32);
            let scale = self.scale_near(value, row);
            if scale.code == last || scale.code == 0 {
                continue;
            }
            last = scale.code;
            scales.push(scale);
            // The levels reach further down than up, or are uneven: the other way round may fit
            // better.
            scales.push(self.scale_near(-value, row));
        }
        // Weights that are too small for any scale.
        if scales.is_empty() {
            scales.push(Scale::default());
        }
    }

    /// The scale that can be stored nearest to `value`.
    pub fn scale_near(&self, value: f32, row: f32) -> Scale {
        if self.by_row {
            let code = round_to_i32((value / row).clamp(-127.0, 127.0));
            Scale {
                code: u16::from(code as i8 as u8),
                value: code as f32 * row,
            }
        } else {
            let code = f16_from_f32(value);
            Scale {
                code,
                value: f16_to_f32(code),
            }
        }
    }

    /// The scale of a row whose groups are `weights`: the largest that a group wants takes 8 bits.
    pub fn row_scale(&self, weights: &[f32], importance: &[f32]) -> f32 {
        if !self.by_row {
            return 0.0;
        }
        let mut scales = Vec::new();
        let groups = weights.chunks(GROUP).zip(importance.chunks(GROUP));
        let largest = groups.fold(0.0f32, |largest, (weights, importance)| {
            let reach = largest_of(weights);
            // No scale that is tried is larger.
            if reach / -self.low <= largest {
                return largest;
            }
            // As fine as 8 bits can be.
            self.scales(reach, reach / -self.low / 127.0, &mut scales);
            let best = scales
                .iter()
                .map(|scale| {
                    (
                        self.error(scale.value, weights, importance),
                        scale.value.abs(),
                    )
                })
                .fold((f32::INFINITY, 0.0), |a, b| if b.0 < a.0 { b } else { a });
            largest.max(best.1)
        });
        let scale = largest * 1.05 / 127.0;
        // Rounded up to bf16.
        f32::from_bits(scale.to_bits().wrapping_add(0xffff) & 0xffff_0000)
    }

    /// The row, if all of its weights are numbers of the grid. Rows with a scale of their own are
    /// not looked for.
    pub fn exact(&self, weights: &[f32]) -> Option<Row> {
        if self.by_row {
            return None;
        }
        let groups = weights
            .chunks(GROUP)
            .map(|weights| self.exact_group(weights));
        Some(Row {
            scale: 0.0,
            groups: groups.collect::<Option<_>>()?,
        })
    }

    /// The largest weight is one of the levels, so there are few scales to try.
    fn exact_group(&self, weights: &[f32]) -> Option<Group> {
        let by_size = |a: &&f32, b: &&f32| a.abs().total_cmp(&b.abs());
        let largest = *weights.iter().max_by(by_size)?;
        let scale_of = |level: f32| {
            let code = f16_from_f32(largest / level);
            let value = f16_to_f32(code);
            Scale { code, value }
        };
        let levels_with = |scale: Scale| {
            let mut levels = [0.0; GROUP];
            for (level, w) in levels.iter_mut().zip(weights) {
                *level = if scale.value != 0.0 {
                    self.round(w / scale.value)
                } else {
                    0.0
                };
                if *level * scale.value != *w {
                    return None;
                }
            }
            Some(Group { scale, levels })
        };
        let magnitudes = (1..=-self.low as i32).rev().map(|level| level as f32);
        magnitudes
            .flat_map(|level| [-level, level])
            .map(scale_of)
            .filter(|scale| scale.value.is_finite())
            .find_map(levels_with)
    }

    /// The weighted squared error of a group with this scale.
    #[inline(always)]
    pub fn error(&self, scale: f32, weights: &[f32], importance: &[f32]) -> f32 {
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        let mut sums = [0.0f32; 8];
        for (weights, importance) in weights.chunks(8).zip(importance.chunks(8)) {
            for ((sum, w), d) in sums.iter_mut().zip(weights).zip(importance) {
                let error = self.round(w * inverse) * scale - w;
                *sum += error * error * d;
            }
        }
        sums.iter().sum()
    }
}

pub(super) fn largest_of(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |largest, w| largest.max(w.abs()))
}
