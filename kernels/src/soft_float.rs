//! The innermost operations, in integers, for cores without a floating-point unit.
//!
//! For such a core a compiler calls a function for every operation. It unpacks its numbers, checks
//! for zeros, infinities and subnormals, and packs the result, which the next one unpacks again.
//! The functions here do two or three operations at a time, for numbers of ordinary size. All other
//! numbers go to the compiler's functions. Every step is rounded as IEEE 754 asks, to nearest, ties
//! to even, so the bits are those of a floating-point unit.

use crate::TILE_ROWS;

/// Whether this core has no floating-point unit, as far as can be seen: `eabi` passes floats in
/// integer registers, and the F extension, which stable Rust does not show, implies Zicsr, which it
/// does.
pub(crate) const SOFT: bool = cfg!(any(
    all(target_arch = "arm", target_abi = "eabi"),
    all(
        any(target_arch = "riscv32", target_arch = "riscv64"),
        not(target_feature = "zicsr")
    )
));

/// `sum + a * b`, rounded twice.
#[inline(always)]
pub(crate) fn add_product(sum: f32, a: f32, b: f32) -> f32 {
    if SOFT {
        integers::add_product(sum, a, b)
    } else {
        sum + a * b
    }
}

/// Adds a group's exact dot products to the sums: `sum + dot * (scale * input_scale)`, every
/// operation rounded.
#[inline(always)]
pub(crate) fn join(
    sums: &mut [f32; TILE_ROWS],
    dots: &[i32; TILE_ROWS],
    scale: impl Fn(usize) -> f32,
    input_scale: f32,
) {
    if SOFT {
        return integers::join(sums, dots, &core::array::from_fn(scale), input_scale);
    }
    for (lane, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
        *sum += *dot as f32 * (scale(lane) * input_scale);
    }
}

mod integers {
    use super::*;

    const IMPLICIT: u32 = 1 << 23;
    const SIGN: u32 = 1 << 31;
    /// The lowest biased exponent of an ordinary number. Numbers from 2^-63 to 2^65 are ordinary:
    /// the product of two of them is normal or too large, and no difference is subnormal.
    const FIRST: u32 = 64;
    /// How many exponents ordinary numbers have: a power of two, so that one comparison is enough
    /// for two of them.
    const ORDINARY: u32 = 128;

    #[inline(always)]
    fn exponent(bits: u32) -> u32 {
        bits >> 23 & 0xff
    }

    /// `sum + a * b`.
    #[inline(never)]
    pub(super) fn add_product(sum: f32, a: f32, b: f32) -> f32 {
        let x = a.to_bits();
        let y = b.to_bits();
        let ex = exponent(x);
        let ey = exponent(y);
        if ex.wrapping_sub(FIRST) | ey.wrapping_sub(FIRST) < ORDINARY {
            let (mantissa, exponent) =
                multiply(y << 8 | SIGN, x & (IMPLICIT - 1) | IMPLICIT, ex + ey);
            if exponent < 254 {
                let product = (exponent << 23).wrapping_add(mantissa) | (x ^ y) & SIGN;
                if let Some(sum) = add(sum.to_bits(), product) {
                    return f32::from_bits(sum);
                }
            }
        }
        plain(sum, a, b)
    }

    #[cold]
    #[inline(never)]
    fn plain(sum: f32, a: f32, b: f32) -> f32 {
        sum + a * b
    }

    #[inline(never)]
    pub(super) fn join(
        sums: &mut [f32; TILE_ROWS],
        dots: &[i32; TILE_ROWS],
        scales: &[f32; TILE_ROWS],
        input_scale: f32,
    ) {
        let input = input_scale.to_bits();
        for ((sum, &dot), &scale) in sums.iter_mut().zip(dots).zip(scales) {
            *sum = match join_one(*sum, dot, scale.to_bits(), input) {
                Some(sum) => sum,
                None => plain_join(*sum, dot, scale, input_scale),
            };
        }
    }

    #[cold]
    #[inline(never)]
    fn plain_join(sum: f32, dot: i32, scale: f32, input_scale: f32) -> f32 {
        sum + dot as f32 * (scale * input_scale)
    }

    #[inline(always)]
    fn join_one(sum: f32, dot: i32, scale: u32, input: u32) -> Option<f32> {
        let scale_exponent = exponent(scale);
        let input_exponent = exponent(input);
        // Scales below 2^17, so that the product of all three is not too large either.
        if dot == 0
            || scale_exponent.wrapping_sub(FIRST) >= 80
            || input_exponent.wrapping_sub(FIRST) >= ORDINARY
        {
            return None;
        }
        let (factor, factor_exponent) = multiply(
            input << 8 | SIGN,
            scale & (IMPLICIT - 1) | IMPLICIT,
            scale_exponent + input_exponent,
        );
        let (number, number_exponent) = normalize(dot.unsigned_abs());
        // Rounding to 24 bits makes the other bits zero.
        let number = if number & 0xff == 0 {
            number
        } else {
            number.checked_add(0x7f + (number >> 8 & 1))? & !0xff
        };
        let (mantissa, exponent) = multiply(number, factor, number_exponent + factor_exponent + 1);
        let sign = (dot as u32) ^ input ^ scale;
        let product = (exponent << 23).wrapping_add(mantissa) | sign & SIGN;
        add(sum.to_bits(), product).map(f32::from_bits)
    }

    /// Whether the core lacks a long multiplication and a count of leading zeros: among Arm's
    /// cores, those without atomics do.
    const ARMV6M: bool = cfg!(all(target_arch = "arm", not(target_has_atomic = "ptr")));

    /// Shifts a number, not 0, until its highest bit is set; also returns the exponent of an `f32`
    /// of it.
    #[inline(always)]
    fn normalize(x: u32) -> (u32, u32) {
        if cfg!(target_arch = "arm") && !ARMV6M {
            return (x << (x.leading_zeros() & 31), 127 + 31 - x.leading_zeros());
        }
        let halve = |(x, exponent): (u32, u32), step| {
            if x >> (32 - step) == 0 {
                (x << step, exponent - step)
            } else {
                (x, exponent)
            }
        };
        // Written out, because a compiler that builds for size does not.
        halve(halve(halve(halve(halve((x, 127 + 31), 16), 8), 4), 2), 1)
    }

    /// The product of two mantissas, one of 32 bits and one of 24. `exponents` is the sum of their
    /// biased exponents. Returns the mantissa, rounded to 24 bits with its implicit bit, and the
    /// biased exponent less 1: in `(exponent << 23) + mantissa` the implicit bit adds the 1.
    #[inline(always)]
    fn multiply(a: u32, b: u32, exponents: u32) -> (u32, u32) {
        let (mut high, mut low) = wide(a, b);
        let mut exponent = exponents.wrapping_sub(127);
        if high < IMPLICIT {
            high = high << 1 | low >> 31;
            low <<= 1;
            exponent = exponent.wrapping_sub(1);
        }
        (high + (low | high & 1 > SIGN) as u32, exponent)
    }

    /// The upper and the lower half of a product; the last eight bits of `a` are zeros.
    #[inline(always)]
    fn wide(a: u32, b: u32) -> (u32, u32) {
        if ARMV6M {
            let [a, middle_a, b, middle_b] = [a >> 20, a >> 8 & 0xfff, b >> 12, b & 0xfff];
            let low = middle_a * middle_b;
            let middle = a * middle_b + middle_a * b + (low >> 12);
            return (a * b + (middle >> 12), middle << 20 | (low & 0xfff) << 8);
        }
        let product = a as u64 * b as u64;
        ((product >> 32) as u32, product as u32)
    }

    /// `x + y`, where `y` is a normal number. `None` if `x` is −0, or is not 0 and not ordinary:
    /// the caller adds them in the usual way then.
    #[inline(always)]
    fn add(mut x: u32, mut y: u32) -> Option<u32> {
        if exponent(x).wrapping_sub(FIRST) >= ORDINARY {
            return if x == 0 { Some(y) } else { None };
        }
        if x << 1 < y << 1 {
            (x, y) = (y, x);
        }
        let mut exponent = exponent(x) - 1;
        let distance = exponent + 1 - self::exponent(y);
        // Less than half of the last place, whatever `x` is.
        if distance > 25 {
            return Some(x);
        }
        let larger = (x << 8 | SIGN) >> 1;
        let smaller = (y << 8 | SIGN) >> 1;
        let lost = smaller << 1 << (31 - distance) != 0;
        let smaller = smaller >> distance | lost as u32;
        let mut mantissa;
        if (x ^ y) & SIGN == 0 {
            mantissa = larger + smaller;
            if mantissa & SIGN != 0 {
                mantissa = mantissa >> 1 | mantissa & 1;
                exponent += 1;
            }
        } else {
            mantissa = larger - smaller;
            if mantissa == 0 {
                return Some(0);
            }
            while mantissa < 1 << 30 {
                mantissa <<= 1;
                exponent -= 1;
            }
        }
        let rounded = (mantissa + 0x3f + (mantissa >> 7 & 1)) >> 7;
        Some(((exponent << 23) + rounded) | x & SIGN)
    }
}

#[cfg(test)]
mod tests {
    use super::integers::{add_product, join};
    use super::*;
    extern crate std;

    /// Whether both are the same number, or no number.
    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    fn check(sum: f32, a: f32, b: f32) {
        let got = add_product(sum, a, b);
        let want = sum + a * b;
        assert!(
            same(got, want),
            "{sum:e} + {a:e} * {b:e}: {got:e}, not {want:e}"
        );
    }

    /// Bit patterns without end: Steele et al. 2014, "Fast splittable pseudorandom number
    /// generators".
    fn random() -> impl FnMut() -> u64 {
        let mut state = 0u64;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }
    }

    const COUNT: u32 = if cfg!(debug_assertions) {
        300_000
    } else {
        100_000_000
    };

    #[test]
    fn every_kind_of_number_meets_every_other() {
        let mut kinds = std::vec::Vec::new();
        for exponent in [
            0, 1, 2, 38, 62, 63, 64, 65, 100, 126, 127, 128, 150, 151, 152, 153, 190, 191, 192,
            253, 254, 255,
        ] {
            for mantissa in [
                0, 1, 2, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x55_5555, 0x7f_fffe, 0x7f_ffff,
            ] {
                kinds.extend(
                    [0, 1 << 31].map(|sign| f32::from_bits(sign | exponent << 23 | mantissa)),
                );
            }
        }
        for &a in &kinds {
            // Debug builds take part of them.
            for &b in kinds
                .iter()
                .step_by(if cfg!(debug_assertions) { 7 } else { 1 })
            {
                kinds.iter().for_each(|&sum| check(sum, a, b));
            }
        }
    }

    #[test]
    fn a_product_is_added_as_a_floating_point_unit_does() {
        let mut random = random();
        for _ in 0..COUNT {
            let x = random();
            let y = random();
            let [a, b, sum] = [x as u32, (x >> 32) as u32, y as u32].map(f32::from_bits);
            check(sum, a, b);
            // A sum in the product's neighbourhood, where digits go and ties are found; and few
            // digits, for more ties.
            let near = f32::from_bits((a * b).to_bits().wrapping_add_signed((y >> 32) as i32 >> 4));
            check(near, a, b);
            let few = |x: f32| f32::from_bits(x.to_bits() & 0xffff_f000);
            check(near, few(a), few(b));
            check(-(a * b), a, b);
        }
    }

    #[test]
    fn a_dot_product_joins_as_a_floating_point_unit_does() {
        let mut random = random();
        for _ in 0..COUNT / TILE_ROWS as u32 {
            let input_scale = f32::from_bits(random() as u32);
            let dots = [(); TILE_ROWS].map(|()| random() as i32 >> (random() % 32));
            let scales = [(); TILE_ROWS].map(|()| f32::from_bits(random() as u32));
            let products: [f32; TILE_ROWS] =
                core::array::from_fn(|i| dots[i] as f32 * (scales[i] * input_scale));
            for distance in [None, Some(random() % 32)] {
                let mut sums = products.map(|product| match distance {
                    None => f32::from_bits(random() as u32),
                    Some(distance) => {
                        f32::from_bits(product.to_bits().wrapping_add(random() as u32 >> distance))
                    }
                });
                let want: [f32; TILE_ROWS] = core::array::from_fn(|i| sums[i] + products[i]);
                join(&mut sums, &dots, &scales, input_scale);
                assert!(
                    sums.iter().zip(want).all(|(&sum, want)| same(sum, want)),
                    "{dots:?} {scales:?} {input_scale:e}"
                );
            }
        }
    }
}
