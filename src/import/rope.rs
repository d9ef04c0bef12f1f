//! Tables of rotary frequencies: the plain one and the ways checkpoints stretch it.
//!
//! Formulas are those of Hugging Face's `modeling_rope_utils.py`, in f64. Powers and logarithms come from `libm`, not
//! from the platform, so that packing gives the same bytes everywhere.

use std::f64::consts::TAU;
use std::prelude::rust_2024::*;

/// `base^(-2j / dim)` for `j` in `0..ceil(dim / 2)`: radians a position.
pub(super) fn plain(base: f64, dim: u32) -> Vec<f64> {
    (0..dim.div_ceil(2)).map(|j| 1.0 / libm::pow(base, 2.0 * f64::from(j) / f64::from(dim))).collect()
}

/// Position interpolation: every frequency divided by `factor`.
pub(super) fn linear(frequencies: &mut [f64], factor: f64) {
    frequencies.iter_mut().for_each(|f| *f /= factor);
}

/// Llama 3.1's scaling: waves longer than `context / low` are divided by `factor`, shorter than `context / high` kept,
/// those between blended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Llama3 {
    pub(super) factor: f64,
    /// `low_freq_factor`, below `high`.
    pub(super) low: f64,
    /// `high_freq_factor`.
    pub(super) high: f64,
    /// `original_max_position_embeddings`.
    pub(super) context: f64,
}

impl Llama3 {
    pub(super) fn stretch(&self, frequencies: &mut [f64]) {
        for f in frequencies {
            let waves = self.context * *f / TAU;
            if waves < self.low {
                *f /= self.factor;
            } else if waves <= self.high {
                let keep = (waves - self.low) / (self.high - self.low);
                *f = (1.0 - keep) * *f / self.factor + keep * *f;
            }
        }
    }
}

/// YaRN: pairs that turn more than `beta_fast` times within `context` are kept, fewer than `beta_slow` times divided
/// by `factor`, those between blended along a ramp over the pairs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yarn {
    pub(super) base: f64,
    pub(super) factor: f64,
    pub(super) beta_fast: f64,
    pub(super) beta_slow: f64,
    /// `original_max_position_embeddings`.
    pub(super) context: f64,
    /// Whether the ends of the ramp are rounded to whole pairs.
    pub(super) truncate: bool,
}

impl Yarn {
    pub(super) fn stretch(&self, frequencies: &mut [f64], dim: u32) {
        let dim = f64::from(dim);
        let pair_turning = |times: f64| dim * libm::log(self.context / (times * TAU)) / (2.0 * libm::log(self.base));
        let (mut low, mut high) = (pair_turning(self.beta_fast), pair_turning(self.beta_slow));
        if self.truncate {
            (low, high) = (libm::floor(low), libm::ceil(high));
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001; // as in the original: a step instead of a division by zero
        }
        for (j, f) in frequencies.iter_mut().enumerate() {
            let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
            *f = *f / self.factor * ramp + *f * (1.0 - ramp);
        }
    }
}

/// YaRN's factor on cos and sin, `0.1 mscale ln(factor) + 1`.
pub(super) fn yarn_amplitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(factor) + 1.0 }
}
