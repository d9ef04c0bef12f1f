//! Rotary embedding: which channels form a pair, and tables of frequencies, with and without the
//! scalings that checkpoints use.
//!
//! Formulas are those of Hugging Face's `modeling_rope_utils.py`, in f64. Powers and logarithms
//! come from `libm`, not from the platform, so that packing gives the same bytes everywhere.

use std::f64::consts::TAU;
use std::ops::Range;
use std::prelude::rust_2024::*;

/// Which channels of a head are a rotary pair in a checkpoint. In the forward pass they are `j` and
/// `j + P/2`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pairing {
    /// Among the rotated channels, the first half pairs with the second (Hugging Face).
    Halves,
    /// Each even channel pairs with the next (Meta's own files, llama2.c, llama.cpp's `llama`).
    Adjacent,
}

impl Pairing {
    /// The rows of a query or key matrix in the order of the forward pass. In each head of
    /// `head_dim` channels the first `2 * pairs` are rotated. The others have frequency 0, so their
    /// order does not matter.
    pub(super) fn rows(self, rows: Range<usize>, head_dim: usize, pairs: usize) -> Vec<usize> {
        let half = head_dim / 2;
        let passed = half.saturating_sub(pairs);
        let stored = |channel: usize| match (channel % half, channel / half) {
            (j, upper) if j >= pairs => 2 * pairs + upper * passed + (j - pairs),
            (j, upper) => match self {
                Pairing::Halves => upper * pairs + j,
                Pairing::Adjacent => 2 * j + upper,
            },
        };
        let within = |i: usize| i / head_dim * head_dim + stored(i % head_dim);
        (0..rows.len()).map(|i| rows.start + within(i)).collect()
    }
}

/// `base^(-2j / dim)` for `j` in `0..ceil(dim / 2)`: radians a position.
pub(super) fn plain(base: f64, dim: u32) -> Vec<f64> {
    (0..dim.div_ceil(2))
        .map(|j| 1.0 / libm::pow(base, 2.0 * f64::from(j) / f64::from(dim)))
        .collect()
}

/// Position interpolation: every frequency divided by `factor`.
pub(super) fn linear(frequencies: &mut [f64], factor: f64) {
    frequencies.iter_mut().for_each(|f| *f /= factor);
}

/// Llama 3.1's scaling: waves longer than `context / low` are divided by `factor`, shorter than
/// `context / high` kept, those between blended.
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

/// YaRN: pairs with more than `beta_fast` turns within `context` are kept, those with fewer than
/// `beta_slow` are divided by `factor`, and those between are blended along a ramp over the pairs.
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
        let pair_turning = |times: f64| {
            dim * libm::log(self.context / (times * TAU)) / (2.0 * libm::log(self.base))
        };
        let mut low = pair_turning(self.beta_fast);
        let mut high = pair_turning(self.beta_slow);
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
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * libm::log(factor) + 1.0
    }
}
