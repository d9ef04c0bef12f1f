//! [`Isa`]: the hot loops as one table per instruction set, and which tables this machine can run.

use core::fmt;
use core::ops::Range;

use crate::{
    Input, InputGroup, InputTile, Kv, Matrix, RowsMut, arch, input_group, kv, matmul, vector,
};

/// The kernels of one instruction set. Every table computes the same bits; [`Isa::SCALAR`] is the
/// specification.
///
/// A table that this machine cannot run is never handed out, which is what makes calling it safe.
///
/// ```
/// use pocketlm_kernels::{DType, Input, Isa, Matrix, RowsMut, pack_row};
///
/// // Two rows of three columns. Rows are stored in tiles of eight.
/// #[repr(align(64))]
/// struct Bytes([u8; 96]);
/// let mut bytes = Bytes([0; 96]);
/// assert_eq!(DType::F32.matrix_bytes(2, 3), Some(96));
/// pack_row(DType::F32, &mut bytes.0, 0, &[1.0, 2.0, 3.0]);
/// pack_row(DType::F32, &mut bytes.0, 1, &[0.0, 1.0, 0.0]);
/// let matrix = Matrix::new(DType::F32, 2, 3, &bytes.0).expect("96 aligned bytes");
///
/// let input = Input { values: &[1.0, 10.0, 100.0], groups: &[], tiles: &[], count: 1 };
/// let mut output = [0.0; 2];
/// Isa::best().matmul(&matrix, &input, 0..1, &mut RowsMut::all(&mut output, 2));
/// assert_eq!(output, [321.0, 10.0]);
/// ```
pub struct Isa {
    pub(crate) name: &'static str,
    pub(crate) matmul: fn(&Matrix<'_>, &Input<'_>, Range<usize>, &mut RowsMut<'_>),
    pub(crate) quantize: fn(&[f32], &mut [InputGroup]),
    /// Writes one group (32 columns) of each of 16 inputs in the form that a matrix unit reads, if
    /// there is such a unit.
    pub(crate) arrange: Option<fn([&InputGroup; InputTile::INPUTS], &mut InputTile)>,
    #[allow(clippy::type_complexity)] // as long as the arguments of `weighted_sum`
    pub(crate) weighted_sum: fn(Kv, &[u8], Range<usize>, &[f32], &mut [f32], usize),
    pub(crate) softmax: fn(&mut [f32], &mut [f32]) -> f32,
    pub(crate) gate: fn(Activation, &mut [f32], &[f32]),
    pub(crate) soft_cap: fn(&mut [f32], f32),
}

/// The functions of a gated feed-forward.
///
/// Example: [`Isa`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Activation {
    /// [`math::silu`](crate::math::silu), in SwiGLU.
    Silu,
    /// [`math::gelu_exact`](crate::math::gelu_exact), in GeGLU.
    GeluExact,
    /// [`math::gelu_approx`](crate::math::gelu_approx), in GeGLU.
    GeluApprox,
}

impl Isa {
    /// Plain loops, vectorised as far as the compiler can for the target it was given.
    pub const SCALAR: &'static Isa = &Isa {
        name: "scalar",
        matmul: matmul::matmul,
        arrange: None,
        quantize: input_group::quantize,
        weighted_sum: kv::weighted_sum,
        softmax: vector::softmax,
        gate: vector::gate,
        soft_cap: vector::soft_cap,
    };

    /// The tables this machine can run, the fastest first; [`Isa::SCALAR`] is always the last.
    ///
    /// With feature `std` the instruction sets of the machine are detected, once. Without it, those
    /// that were enabled with `-C target-feature` count.
    ///
    /// On a Linux machine with AMX, the first call also asks the system for permission to use its
    /// registers. They are 8 KB for which the stack of a signal handler needs room: a later
    /// `sigaltstack` with less fails, and if one is in use already, AMX is not available.
    pub fn available() -> impl Iterator<Item = &'static Isa> {
        arch::tables().into_iter().flatten().chain([Isa::SCALAR])
    }

    /// The fastest table this machine can run.
    pub fn best() -> &'static Isa {
        Self::available().next().unwrap_or(Isa::SCALAR)
    }

    /// The table called `name`, if this machine can run it.
    pub fn named(name: &str) -> Option<&'static Isa> {
        Self::available().find(|isa| isa.name == name)
    }

    /// `scalar`, `avx2`, `avxvnni`, `avx512`, `amx`, `neon`, `dotprod`, `dsp`, `mve`, `rvv` or
    /// `simd128`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Computes tile rows `tile_rows` of `matrix * input`. `out` holds just those rows:
    /// `[count][8 * tile_rows.len()]`, the last tile row cut where the matrix ends.
    ///
    /// Each output is, for float matrices, `for c in columns { sum = sum + w[c] * x[c] }`; for
    /// quantised ones, over the groups in order, `sum = sum + dot as f32 * (scale * input.scale)`,
    /// with `dot` the exact integer product (for q4 of the values less 8), and for q4min then
    /// `sum = sum + input.sum as f32 * (minimum * input.scale)`.
    ///
    /// Every table gives the same bits if weights and scales are finite ([`Matrix::is_finite`]).
    pub fn matmul(
        &self,
        matrix: &Matrix<'_>,
        input: &Input<'_>,
        tile_rows: Range<usize>,
        out: &mut RowsMut<'_>,
    ) {
        (self.matmul)(matrix, input, tile_rows, out);
    }

    /// Quantises `input` group by group; the last group is padded with zeros. For each group, with
    /// `largest` its largest magnitude: `scale = largest / 32767` and
    /// `value = round(input * (32767 / largest))`, ties to even. A group that holds a number that
    /// is not finite gets the scale NaN, which makes every output that depends on it NaN.
    pub fn quantize(&self, input: &[f32], groups: &mut [InputGroup]) {
        (self.quantize)(input, groups);
    }

    /// The weighted sum of values: `out += weight * value` over the rows `slots` of a value table,
    /// in order, for `count` queries. `weights` is `[count][slots of the table]` and `out`
    /// `[count][channels]`. For q8, `value as f32 * (weight * scale)` is added to a channel.
    pub fn weighted_sum(
        &self,
        kv: Kv,
        values: &[u8],
        slots: Range<usize>,
        weights: &[f32],
        out: &mut [f32],
        count: usize,
    ) {
        (self.weighted_sum)(kv, values, slots, weights, out, count);
    }

    /// Turns attention scores into weights, in place and not yet normalised: `e^(score − largest)`.
    /// `older` and then `newer` hold the scores from the oldest key to the newest (the two parts of
    /// a ring). Returns the factor that normalises: 1 over the sum of the weights.
    pub fn softmax(&self, older: &mut [f32], newer: &mut [f32]) -> f32 {
        (self.softmax)(older, newer)
    }

    /// `gate = activation(gate) * up`, the gated feed-forward.
    pub fn gate(&self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        (self.gate)(activation, gate, up);
    }

    /// `x = cap tanh(x / cap)`.
    pub fn soft_cap(&self, x: &mut [f32], cap: f32) {
        (self.soft_cap)(x, cap);
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
