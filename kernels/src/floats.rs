//! [`floats_are_ieee`]: does this machine compute as the contract needs it?

use core::hint::black_box;

use crate::math::sqrt;

/// Numbers to add, subtract, multiply and divide: subnormal operands and results, ties, overflow,
/// quotients that do not end, zeros with a sign.
const PAIRS: [(f32, f32); 12] = [
    (1e-39, 1.5),
    (-1e-39, 3e-45),
    (f32::MIN_POSITIVE, 0.75),
    (1.000_000_1 * f32::MIN_POSITIVE, f32::MIN_POSITIVE),
    (1e-20, 1.3e-22),
    (3e-30, 7e12),
    (1.0, 1.0 / 16_777_216.0),
    (1.000_000_1, 1.0 / 16_777_216.0),
    (f32::MAX, 2.0),
    (0.1, -0.3),
    (1.0, 3.0),
    (-0.0, 1e-45),
];

/// `a * b + c` has other bits here if the product is not rounded.
const PRODUCT: (f32, f32, f32) = (1.0 + 1.0 / 4096.0, 1.0 + 1.0 / 4096.0, -1.0 - 1.0 / 2048.0);

/// What the compiler says, which computes as IEEE 754 asks on every host.
const EXPECTED: [[u32; 4]; PAIRS.len()] = {
    let mut expected = [[0; 4]; PAIRS.len()];
    let mut i = 0;
    while i < PAIRS.len() {
        expected[i] = results(PAIRS[i].0, PAIRS[i].1);
        i += 1;
    }
    expected
};

const fn results(a: f32, b: f32) -> [u32; 4] {
    [
        (a + b).to_bits(),
        (a - b).to_bits(),
        (a * b).to_bits(),
        (a / b).to_bits(),
    ]
}

/// Whether `f32` is computed as IEEE 754 asks: subnormal numbers are kept, every operation rounds
/// to the nearest number and ties to even, and no product is fused with a sum. If not, the logits
/// are not the bits that other machines compute.
///
/// It takes a few thousand instructions. Call it once after the start, in the mode that the program
/// computes in: some operating systems and RTOSes set a flag that flushes subnormal numbers to
/// zero, and the floating-point routines in some chips' ROMs always do.
///
/// ```
/// assert!(pocketlm_kernels::floats_are_ieee());
/// ```
pub fn floats_are_ieee() -> bool {
    let mut right = true;
    for ((a, b), expected) in PAIRS.into_iter().zip(EXPECTED) {
        right &= results(black_box(a), black_box(b)) == expected;
    }
    let (a, b, c) = PRODUCT;
    right &= (black_box(a) * black_box(b) + black_box(c)).to_bits() == 0;
    // Comparisons and conversions.
    right &= black_box(1e-39f32) > 0.0 && black_box(-1e-39f32) < 0.0;
    right &= black_box(16_777_217i32) as f32 == 16_777_216.0;
    right &= black_box(16_777_219i32) as f32 == 16_777_220.0;
    right &= black_box(-2.75f32) as i32 == -2;
    // Of 2, and of the smallest subnormal number, 2^-149.
    right &= sqrt(black_box(2.0)).to_bits() == 0x3fb5_04f3;
    right &= sqrt(black_box(f32::from_bits(1))).to_bits() == 0x1a35_04f3;
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_computes_as_ieee_754_asks() {
        assert!(floats_are_ieee());
    }

    /// Flags of the control register of SSE: subnormal results become 0; subnormal operands count
    /// as 0; results are rounded down, up, towards 0.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn other_modes_are_noticed() {
        for flags in [1 << 15, 1 << 6, 1 << 13, 2 << 13, 3 << 13] {
            assert!(!in_mode(flags), "{flags:#x}");
        }
        assert!(in_mode(0));
    }

    /// [`floats_are_ieee`] with these flags set meanwhile.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[allow(unsafe_code)]
    fn in_mode(flags: u32) -> bool {
        use core::arch::asm;
        let mut mode = 0u32;
        let result;
        // SAFETY: `mode` can be written, and the register has its old value again afterwards.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut mode);
            let other = mode | flags;
            asm!("ldmxcsr [{}]", in(reg) &raw const other);
            result = floats_are_ieee();
            asm!("ldmxcsr [{}]", in(reg) &raw const mode);
        }
        result
    }
}
