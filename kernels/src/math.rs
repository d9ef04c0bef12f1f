//! The transcendental functions of the forward pass: one polynomial each, in multiplications,
//! additions and one division, so that every target computes the same bits (see the crate docs) and
//! the compiler can vectorise the loops that call them. All are branch-free: both sides of a choice
//! are computed and one is selected.
//!
//! Error bounds, over every `f32` and held by the tests below (ulp of the correctly rounded
//! result):
//!
//! | function | bound | outside its range |
//! |---|---|---|
//! | [`exp`] | 1 ulp | below −87.33655, where results are subnormal: 0; above 88.72284: ∞ |
//! | [`tanh`] | 2 ulp | ±1 |
//! | [`erf`] | 2 ulp | ±1 |
//! | [`sigmoid`] | 3 ulp | 0 and 1 |
//!
//! NaN gives NaN.

use core::f32::consts::LOG2_E;

use crate::soft_float::add_product;

/// Adding this rounds a float below 2^22 in magnitude to an integer, ties to even, in its low
/// mantissa bits.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// Rounds to the nearest integer, ties to even. `|x|` must be below 2^22.
#[inline(always)]
pub fn round_to_i32(x: f32) -> i32 {
    ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// `2^n` for `n` in −126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^x`. Cody and Waite's reduction and the polynomial of Cephes' `expf`.
// Loops over it are vectorised where it is inlined. A microcontroller has no vectors and little
// flash: there the compiler decides, and a build for size has it once.
#[cfg_attr(not(target_os = "none"), inline(always))]
pub fn exp(x: f32) -> f32 {
    let inside = if x < LARGEST { x } else { LARGEST };
    let (p, n) = exp_parts(inside);
    // 2^128 does not exist, so the power goes on in two steps.
    let half = n >> 1;
    let y = p * power_of_two(half) * power_of_two(n - half);
    let y = if x < SMALLEST { 0.0 } else { y };
    let y = if x > LARGEST { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// [`exp`] of a number that is not above 0, or NaN, with the same bits in fewer steps.
#[inline(always)]
pub(crate) fn exp_of_at_most_0(x: f32) -> f32 {
    let (p, n) = exp_parts(x);
    let y = p * power_of_two(n);
    let y = if x < SMALLEST { 0.0 } else { y };
    if x.is_nan() { x } else { y }
}

/// e^x is below the smallest normal number under this.
const SMALLEST: f32 = -87.336_54;
/// e^x is above the largest number over this.
const LARGEST: f32 = 88.722_84;

/// `p` and `n` with e^x = p 2^n; no lower `x` than the smallest counts.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, i32) {
    let inside = if x > SMALLEST { x } else { SMALLEST };
    let n = round_to_i32(inside * LOG2_E);
    let whole = n as f32;
    // ln 2 in two parts; the first has few enough bits that `whole * 0.693359375` is exact.
    let r = add_product(
        add_product(inside, -whole, 0.693_359_4),
        whole,
        2.121_944_4e-4,
    );
    let p = 1.987_569_1e-4_f32;
    let p = add_product(1.398_199_9e-3, p, r);
    let p = add_product(8.333_452e-3, p, r);
    let p = add_product(4.166_579_6e-2, p, r);
    let p = add_product(0.166_666_65, p, r);
    let p = add_product(0.5, p, r);
    (add_product(r, p, r * r) + 1.0, n)
}

/// Hyperbolic tangent. Cephes' polynomial near zero, `1 − 2 / (e^2x + 1)` beyond.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3_f32;
    let p = add_product(2.063_909e-2, p, z);
    let p = add_product(-5.373_971_6e-2, p, z);
    let p = add_product(0.133_314_42, p, z);
    let p = add_product(-0.333_332_8, p, z);
    let near = add_product(x, p * z, x);
    let magnitude = x.abs();
    let far = (1.0 - 2.0 / (exp(magnitude + magnitude) + 1.0)).copysign(x);
    if magnitude < 0.625 { near } else { far }
}

/// The error function. Near zero `x + x P(x²)`, beyond `1 − e^−Q(|x|)` with `Q` fitted to
/// `−ln erfc` (both minimax fits of ours, after the scheme of N. Juffa's `erff`).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let z = x * x;
    let p = -5.988_753e-4_f32;
    let p = add_product(4.993_275e-3, p, z);
    let p = add_product(-2.676_71e-2, p, z);
    let p = add_product(0.112_818_44, p, z);
    let p = add_product(-0.376_124_98, p, z);
    let p = add_product(0.128_379_15, p, z);
    let near = add_product(x, p, x);
    let t = x.abs();
    let t = if t < 4.0 { t } else { 4.0 };
    let q = 2.109_505_3e-5_f32;
    let q = add_product(-4.344_626_5e-4, q, t);
    let q = add_product(4.171_063e-3, q, t);
    let q = add_product(-2.511_942_8e-2, q, t);
    let q = add_product(0.108_280_09, q, t);
    let q = add_product(0.633_346_9, q, t);
    let q = add_product(1.129_515, q, t);
    let q = add_product(-1.746_844_6e-4, q, t);
    let far = (1.0 - exp(-q)).copysign(x);
    let y = if x.abs() < 0.925 { near } else { far };
    if x.is_nan() { x } else { y }
}

/// `1 / (1 + e^−x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `a sigmoid(a)`, as in SwiGLU (Shazeer 2020, "GLU Variants Improve Transformer").
#[inline(always)]
pub fn silu(a: f32) -> f32 {
    a * sigmoid(a)
}

/// `0.5 a (1 + erf(a / sqrt 2))` (Hendrycks and Gimpel 2016).
#[inline(always)]
pub fn gelu_exact(a: f32) -> f32 {
    0.5 * a * (1.0 + erf(a * core::f32::consts::FRAC_1_SQRT_2))
}

/// `0.5 a (1 + tanh(u))` with `u = sqrt(2/pi) (a + 0.044715 a³)`, the tanh form of the same paper.
/// Computed as `a sigmoid(2u)`, which is the same number: `1 + tanh(u)` would lose all digits where
/// `tanh(u)` is near −1, and a norm after the feed-forward can make what is left as large as any
/// other activation.
#[inline(always)]
pub fn gelu_approx(a: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 2.0 * 0.797_884_6;
    a * sigmoid(TWO_SQRT_2_OVER_PI * (a + 0.044715 * (a * a * a)))
}

/// `cap tanh(x / cap)` (Gemma 2, section 2).
#[inline(always)]
pub fn soft_cap(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// Square root, correctly rounded as IEEE 754 asks, on targets with and without the instruction.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    crate::arch::sqrt(x)
}

/// The sine and cosine of an angle in units of 2^−64 turns. Rotary angles are kept in this unit
/// because `position * frequency` then wraps around exactly, so no angle is too large to reduce.
///
/// The bits are those of `libm::sinf` and `libm::cosf` (FreeBSD's msun, from Sun's fdlibm), which
/// compute these polynomials in f64. In 64-bit fixed point they round to the same f32 for every
/// angle, as a test below checks, and a microcontroller needs no 2 KB of double precision in
/// software.
pub fn sin_cos_turns(turns: u64) -> (f32, f32) {
    const RADIANS: f32 = 1.462_918_1e-9; // 2 pi / 2^32
    // The nearest quarter turn is subtracted exactly, which leaves at most an eighth of a turn.
    let quarter = turns.wrapping_add(1 << 61) >> 62;
    let rest = turns.wrapping_sub(quarter << 62);
    let angle = ((rest as i64 >> 32) as i32) as f32 * RADIANS;
    let (sin, cos) = sin_cos_eighth(angle.abs());
    let sin = sin.copysign(angle);
    match quarter {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// The sine and cosine of `0..=pi / 4`.
fn sin_cos_eighth(angle: f32) -> (f32, f32) {
    // Coefficients in units of 2^−64, their signs in the alternation of the sums.
    const SINE: [u64; 4] = [
        0x2aaa_aaa9_9758_ee00,
        0x0222_2211_2ddf_7640,
        0x000d_007c_f165_73ba,
        0x0000_2d9b_0f18_768d,
    ];
    const COSINE: [u64; 4] = [
        0x7fff_fff4_317a_0400,
        0x0aaa_a9f0_829d_2100,
        0x005b_021f_a03c_789c,
        0x0001_9934_2e0e_e507,
    ];
    // Below 2^−12 the sine is the angle, and the cosine is 1.
    const SMALL: u32 = 115 << 23;
    let bits = angle.to_bits();
    if bits < SMALL {
        return (angle, 1.0);
    }
    let x = u64::from(bits & 0x7f_ffff | 0x80_0000) << (((bits >> 23) - 86) & 63);
    let z = high(x, x);
    // `z (a - z (b - z (c - z d)))`
    let sum = |factors: [u64; 4]| {
        factors
            .iter()
            .rev()
            .fold(0, |sum, factor| high(z, factor - sum))
    };
    let sin = x - high(x, sum(SINE));
    let cos = sum(COSINE).wrapping_neg();
    (fraction(sin), fraction(cos))
}

/// `x / 2^64`, rounded to nearest: a conversion of 32 bits, the last of which stands for all after
/// it.
#[cfg_attr(target_os = "none", inline(never))]
fn fraction(x: u64) -> f32 {
    let zeros = x.leading_zeros() & 63;
    let x = x << zeros;
    let rounded = ((x >> 32) as u32 | u32::from(x as u32 != 0)) as f32;
    rounded * f32::from_bits((127 - 32 - zeros) << 23)
}

/// The upper half of a product.
#[cfg_attr(target_os = "none", inline(never))]
fn high(a: u64, b: u64) -> u64 {
    let product = |a: u64, b: u64| (a & 0xffff_ffff) * (b & 0xffff_ffff);
    let middle = product(a >> 32, b) + (product(a, b) >> 32);
    let other = product(a, b >> 32) + (middle & 0xffff_ffff);
    product(a >> 32, b >> 32) + (middle >> 32) + (other >> 32)
}

/// The `f32` of finite binary16 bits. Branch-free where there are vectors, so that loops over it
/// vectorise; infinities and NaN, which a checked matrix does not hold, come out as large finite
/// numbers.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = ((bits & 0x8000) as u32) << 16;
    let magnitude = ((bits & 0x7fff) as u32) << 13;
    let normal = f32::from_bits(magnitude + (112 << 23));
    let value = if magnitude < 1 << 23 {
        f16_subnormal(magnitude)
    } else {
        normal
    };
    f32::from_bits(value.to_bits() | sign)
}

/// A subnormal's mantissa under the exponent of 2^-14, less that 2^-14, is its value, exactly.
// Where there are no vectors, and perhaps no floating-point unit, it is worth a branch: subnormals
// are rare.
#[cfg_attr(
    any(target_arch = "arm", target_arch = "riscv32", target_arch = "riscv64"),
    cold,
    inline(never)
)]
#[cfg_attr(
    not(any(target_arch = "arm", target_arch = "riscv32", target_arch = "riscv64")),
    inline(always)
)]
fn f16_subnormal(magnitude: u32) -> f32 {
    f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)
}

/// The `f32` of bfloat16 bits, exactly.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The nearest finite binary16, ties to even; magnitudes beyond its range become ±65504. So does
/// NaN, as +65504 whatever its sign: the sign of a NaN is the machine's choice, and [`f16_to_f32`]
/// would turn it into that of a number.
pub fn f16_from_f32(x: f32) -> u16 {
    const LARGEST: u32 = 0x477f_e000; // 65504
    const SMALLEST_NORMAL: u32 = 113 << 23; // 2^-14
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let bits = if magnitude < SMALLEST_NORMAL {
        // The last bit of a number from 1/2 on is worth as much as the last of a subnormal.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let magnitude = magnitude.min(LARGEST);
        (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13
    };
    let sign = if x.is_nan() { 0 } else { x.to_bits() >> 31 };
    (bits | sign << 15) as u16
}

/// The nearest finite bfloat16, ties to even; magnitudes that would round to infinity stay finite.
pub fn bf16_from_f32(x: f32) -> u16 {
    const LARGEST: f32 = 3.389_531_4e38;
    half::bf16::from_f32_const(x.clamp(-LARGEST, LARGEST)).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in ulp of the correctly rounded result; both may be zero or infinite.
    fn ulps(got: f32, exact: f64) -> f64 {
        let want = exact as f32;
        if got == want {
            return 0.0;
        }
        let exponent = (want.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127;
        (got as f64 - exact).abs() / libm::exp2((exponent - 23) as f64)
    }

    /// A dense sweep of all bit patterns but those of NaN; a step of 1 is all 2^32 of them.
    fn numbers() -> impl Iterator<Item = f32> {
        let step = option_env!("POCKETLM_SWEEP").map_or(211, |s| s.parse().unwrap());
        (0..=u32::MAX)
            .step_by(step)
            .map(f32::from_bits)
            .filter(|x| !x.is_nan())
    }

    /// The worst error over them; the bounds stated above were found with all.
    fn worst(f: fn(f32) -> f32, exact: fn(f64) -> f64, inputs: impl Fn(f32) -> bool) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for x in numbers().filter(|x| inputs(*x)) {
            let error = ulps(f(x), exact(x as f64));
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
        worst
    }

    #[test]
    fn exp_is_within_1_ulp() {
        let (error, x) = worst(exp, libm::exp, |x| x > -87.336_54);
        assert!(error <= 1.0, "{error} ulp at {x}");
        assert_eq!(exp(-87.34), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_of_at_most_0_is_exp() {
        for x in numbers().filter(|x| *x <= 0.0).chain([
            0.0,
            SMALLEST,
            SMALLEST.next_up(),
            SMALLEST.next_down(),
            f32::NEG_INFINITY,
        ]) {
            assert_eq!(exp_of_at_most_0(x).to_bits(), exp(x).to_bits(), "{x}");
        }
        assert!(exp_of_at_most_0(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_2_ulp() {
        let (error, x) = worst(tanh, libm::tanh, |_| true);
        assert!(error <= 2.0, "{error} ulp at {x}");
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_2_ulp() {
        let (error, x) = worst(erf, libm::erf, |_| true);
        assert!(error <= 2.0, "{error} ulp at {x}");
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_within_3_ulp() {
        let (error, x) = worst(sigmoid, |x| 1.0 / (1.0 + libm::exp(-x)), |x| x > -87.336_54);
        assert!(error <= 3.0, "{error} ulp at {x}");
    }

    #[test]
    fn gelu_keeps_its_digits_where_it_vanishes() {
        for i in 0..=30_000 {
            let a = i as f32 / 2000.0 - 7.5;
            let u =
                (2.0 / core::f64::consts::PI).sqrt() * (a as f64 + 0.044715 * (a as f64).powi(3));
            let exact = a as f64 / (1.0 + libm::exp(-2.0 * u));
            // The rounding of 2u, as a share of the result, and the few roundings of sigmoid.
            let bound = exact.abs() * 2f64.powi(-24) * (4.0 + 8.0 * u.abs());
            assert!(
                (gelu_approx(a) as f64 - exact).abs() <= bound,
                "{a}: {} for {exact}",
                gelu_approx(a)
            );
        }
        assert_eq!(
            [-1e30, -100.0, 0.0, 100.0, f32::MAX].map(gelu_approx),
            [0.0, 0.0, 0.0, 100.0, f32::MAX]
        );
    }

    #[test]
    fn sine_and_cosine_of_turns_are_those_of_the_angle() {
        for k in 0..100_000u64 {
            let turns = k.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let angle = turns as f64 / 2f64.powi(64) * core::f64::consts::TAU;
            let (sin, cos) = sin_cos_turns(turns);
            assert!(
                (sin as f64 - libm::sin(angle)).abs() < 1.5e-7
                    && (cos as f64 - libm::cos(angle)).abs() < 1.5e-7
            );
        }
    }

    #[test]
    fn sine_and_cosine_are_those_of_libm_to_the_bit() {
        // Every angle up to an eighth of a turn either way; a sample of them in a debug build.
        let step = if cfg!(debug_assertions) { 61 } else { 1 };
        for n in (-(1i64 << 29)..1 << 29)
            .step_by(step)
            .chain([(1 << 29) - 1])
        {
            let angle = n as i32 as f32 * 1.462_918_1e-9;
            let (sin, cos) = sin_cos_turns((n as u64) << 32);
            assert_eq!(sin.to_bits(), libm::sinf(angle).to_bits(), "{n}");
            assert_eq!(cos.to_bits(), libm::cosf(angle).to_bits(), "{n}");
        }
    }

    #[test]
    fn half_floats_convert_as_ieee_says() {
        for bits in 0..=u16::MAX {
            let f16 = half::f16::from_bits(bits);
            if f16.is_finite() {
                assert_eq!(f16_to_f32(bits).to_bits(), f16.to_f32().to_bits());
                assert_eq!(f16_from_f32(f16.to_f32()), bits);
            }
            let bf16 = half::bf16::from_bits(bits);
            if bf16.is_finite() {
                assert_eq!(bf16_to_f32(bits).to_bits(), bf16.to_f32().to_bits());
                assert_eq!(bf16_from_f32(bf16.to_f32()), bits);
            }
        }
        // Every number in a release build, and a sample of them in a debug build.
        for bits in (0..=u32::MAX).step_by(if cfg!(debug_assertions) { 997 } else { 1 }) {
            let x = f32::from_bits(bits);
            if !x.is_nan() {
                let nearest = half::f16::from_f32_const(x.clamp(-65504.0, 65504.0));
                assert_eq!(f16_from_f32(x), nearest.to_bits(), "{x}");
            }
        }
        assert_eq!(f16_to_f32(f16_from_f32(1e9)), 65504.0);
        assert_eq!(
            [f32::NAN, -f32::NAN].map(|nan| f16_to_f32(f16_from_f32(nan))),
            [65504.0; 2]
        );
        assert!(bf16_to_f32(bf16_from_f32(f32::MIN)).is_finite());
    }
}
