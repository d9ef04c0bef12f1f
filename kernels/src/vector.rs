//! Operations on vectors between two products: norms, rotation, softmax, activation.

use crate::Activation;
use crate::math::{
    self, exp, exp_of_at_most_0, gelu_approx, gelu_exact, silu, sin_cos_turns, sqrt,
};
use crate::soft_float::add_product;

/// Adds eight stripes in the one order (see the crate docs).
#[inline]
fn join(s: [f32; 8]) -> f32 {
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

/// The factor of RMSNorm, `1 / sqrt(mean(x²) + eps)`
/// (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization").
fn rms_factor(x: &[f32], eps: f32) -> f32 {
    let mut stripes = [0.0; 8];
    let (eights, rest) = x.as_chunks::<8>();
    for eight in eights {
        for (stripe, x) in stripes.iter_mut().zip(eight) {
            *stripe = add_product(*stripe, *x, *x);
        }
    }
    for (stripe, x) in stripes.iter_mut().zip(rest) {
        *stripe = add_product(*stripe, *x, *x);
    }
    1.0 / sqrt(join(stripes) / x.len() as f32 + eps)
}

/// Divides each part of `x` that is as long as `weight` by its root mean square, `sqrt(mean(x²) +
/// eps)`, and multiplies it by `weight`. Without weights, nothing.
#[cfg_attr(target_os = "none", inline(never))]
pub fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    if weight.is_empty() {
        return;
    }
    for part in x.chunks_exact_mut(weight.len()) {
        let factor = rms_factor(part, eps);
        for (x, weight) in part.iter_mut().zip(weight) {
            *x = *x * factor * weight;
        }
    }
}

/// `x += y`.
#[cfg_attr(target_os = "none", inline(never))]
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `x *= factor`.
#[cfg_attr(target_os = "none", inline(never))]
pub fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// [`Isa::gate`](crate::Isa::gate), portably.
#[inline(always)]
pub(crate) fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => gate_with(gate, up, silu),
        Activation::GeluExact => gate_with(gate, up, gelu_exact),
        Activation::GeluApprox => gate_with(gate, up, gelu_approx),
    }
}

#[inline(always)]
fn gate_with(gate: &mut [f32], up: &[f32], activation: impl Fn(f32) -> f32) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = activation(*gate) * up;
    }
}

/// [`Isa::soft_cap`](crate::Isa::soft_cap), portably.
#[inline(always)]
pub(crate) fn soft_cap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = math::soft_cap(*x, cap);
    }
}

/// The cosines and sines of the rotation of one position: pair `j` is rotated by
/// `position * frequencies[j]`, in units of 2^−64 turns. Both are multiplied by `amplitude`.
pub fn rope_angles(
    position: u32,
    frequencies: &[u64],
    amplitude: f32,
    cos: &mut [f32],
    sin: &mut [f32],
) {
    for ((&frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
        let (s, c) = sin_cos_turns(frequency.wrapping_mul(position as u64));
        *cos = c * amplitude;
        *sin = s * amplitude;
    }
}

/// Rotates a head in place, pairing channel `j` with `j + P/2` (Su et al. 2021, "RoFormer"; split
/// halves, as in GPT-NeoX).
pub fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let x = *a;
        let y = *b;
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}

/// The largest of `scores` and `before`, in independent lanes, which breaks the chain of
/// dependencies. NaN is ignored.
#[inline(always)]
fn largest(scores: &[f32], before: f32) -> f32 {
    let mut lanes = [before; 32];
    let (blocks, rest) = scores.as_chunks::<32>();
    for block in blocks {
        for (lane, score) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, *score);
        }
    }
    rest.iter().chain(&lanes).copied().fold(before, larger)
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// [`Isa::softmax`](crate::Isa::softmax), portably.
#[inline(always)]
pub(crate) fn softmax(older: &mut [f32], newer: &mut [f32]) -> f32 {
    // A microcontroller has no lanes and little flash.
    let largest = if cfg!(target_os = "none") {
        older
            .iter()
            .chain(newer.iter())
            .copied()
            .fold(f32::NEG_INFINITY, larger)
    } else {
        largest(older, largest(newer, f32::NEG_INFINITY))
    };
    for scores in [&mut *older, &mut *newer] {
        for score in scores {
            // No difference is above 0. A microcontroller has `exp` anyway, for activations.
            *score = if cfg!(target_os = "none") {
                exp(*score - largest)
            } else {
                exp_of_at_most_0(*score - largest)
            };
        }
    }
    let mut stripes = [0.0; 8];
    let (eights, rest) = older.as_chunks::<8>();
    for eight in eights {
        for (stripe, weight) in stripes.iter_mut().zip(eight) {
            *stripe += weight;
        }
    }
    // The older part may end at any stripe. Its remainder starts at stripe 0, and the newer part
    // continues at the next.
    for (turned, weight) in rest.iter().chain(newer.iter()).enumerate() {
        stripes[turned % 8] += weight;
    }
    1.0 / join(stripes)
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 2654435761 % 1000) as f32 - 500.0) / 77.0)
            .collect()
    }

    /// The specification in one line a step: element `i` goes to stripe `i mod 8`.
    fn striped_sum(x: &[f32]) -> f32 {
        let mut s = [0.0f32; 8];
        for (i, x) in x.iter().enumerate() {
            s[i % 8] += x;
        }
        ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    }

    #[test]
    fn rms_norm_is_the_striped_loop_at_every_length() {
        for n in 1..70 {
            let x = numbers(n);
            let squares: Vec<f32> = x.iter().map(|x| x * x).collect();
            let factor = 1.0 / (striped_sum(&squares) / n as f32 + 1e-6).sqrt();
            assert_eq!(rms_factor(&x, 1e-6).to_bits(), factor.to_bits());
        }
    }

    #[test]
    fn softmax_does_not_see_where_a_ring_was_cut() {
        for n in 1..40 {
            let scores = numbers(n);
            let largest = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let weights: Vec<f32> = scores.iter().map(|s| exp(s - largest)).collect();
            let normaliser = 1.0 / striped_sum(&weights);
            for cut in 0..=n {
                let mut ring = scores.clone();
                let (older, newer) = ring.split_at_mut(cut);
                assert_eq!(softmax(older, newer).to_bits(), normaliser.to_bits());
                assert_eq!(ring, weights);
            }
        }
    }

    #[test]
    fn rope_turns_a_pair_by_the_angle() {
        // A quarter turn a position.
        let mut cos = [0.0];
        let mut sin = [0.0];
        rope_angles(1, &[1 << 62], 1.0, &mut cos, &mut sin);
        let mut head = [3.0, 4.0];
        rope(&mut head, &cos, &sin);
        assert_eq!(head, [-4.0, 3.0]);
        rope_angles(4_000_000_000, &[1 << 62], 2.0, &mut cos, &mut sin);
        assert_eq!((cos, sin), ([2.0], [0.0]));
    }
}
