//! Short convolutions: `b * x` of each token is kept, and a token sums those of its window, channel
//! by channel, each times a tap.

use core::num::NonZeroU32;
use core::ops::Range;

use bytemuck::{try_cast_slice, try_cast_slice_mut};
use pocketlm_kernels::vector::add;
use pocketlm_kernels::{InputGroup, Isa, split_chunks};

use super::{Forward, buffer, copy, each_row, group_row_mut, row, row_mut, row_workers, split};
use crate::model::TensorKind;
use crate::run::BARE_METAL;
use crate::run::buffer::Buffer;
use crate::run::cache::{LayerCache, visible};
use crate::run::schedule::Batch;

impl Forward<'_, '_> {
    /// Keeps `b * x` of tokens of the batch.
    #[inline(never)]
    pub(super) fn prepare_convolution(&mut self, batch: &Batch, tokens: Range<usize>) {
        let width = self.plan.dims().convolved;
        let cache = self.layer_cache(batch);
        let bias = TensorKind::ConvInBias;
        let bias = self.buffers.weights.vector(&self.model, batch.layer, bias);
        let inputs = Inputs {
            rows: buffer(self.buffers.numbers, &self.plan, Buffer::ConvIn),
            bias,
            width,
        };
        let kept = self.buffers.cache.get_mut(cache.values(0));
        let kept = try_cast_slice_mut(kept.unwrap_or_default()).unwrap_or_default();
        let start = batch.start as usize;
        // A board has nothing to share.
        if BARE_METAL {
            for token in tokens {
                inputs.product(token, row_mut(kept, width, cache.slot(start + token)));
            }
            return;
        }
        let workers = row_workers(self.engine, tokens.len().saturating_mul(width));
        let mut first = tokens.start;
        for slots in cache.slots(start + tokens.start..start + tokens.end) {
            let rows = [(&mut *kept, width)];
            split_chunks(workers, rows, slots.clone(), |slot, [kept]| {
                inputs.product(first + slot - slots.start, kept);
            });
            first += slots.len();
        }
    }

    /// Sums what is kept of the windows of tokens of the batch.
    #[inline(never)]
    pub(super) fn convolve(&mut self, batch: &Batch, tokens: Range<usize>) {
        let width = self.plan.dims().convolved;
        let quantized_width = self.quantized_width(batch, width);
        let count = batch.count as usize;
        let cache = self.layer_cache(batch);
        let window = self.layer(batch).window;
        let [in_bias, taps, taps_bias] = [
            TensorKind::ConvInBias,
            TensorKind::ConvTaps,
            TensorKind::ConvTapsBias,
        ]
        .map(|kind| self.buffers.weights.vector(&self.model, batch.layer, kind));
        let kept = self.buffers.cache.get(cache.values(0)).unwrap_or_default();
        let buffers = [
            Buffer::ConvIn,
            Buffer::Convolved,
            Buffer::None,
            Buffer::None,
        ];
        let [rows, convolved, ..] = split(self.buffers.numbers, &self.plan, buffers);
        let convolution = Convolution {
            isa: self.engine.isa,
            inputs: Inputs {
                rows,
                bias: in_bias,
                width,
            },
            cache,
            kept: try_cast_slice(kept).unwrap_or_default(),
            start: batch.start as usize,
            positions: self.buffers.positions,
            window,
            taps,
            taps_bias,
        };
        let groups = &mut *self.buffers.groups;
        if BARE_METAL {
            for token in tokens {
                let groups = group_row_mut(groups, quantized_width, token);
                convolution.token(token, row_mut(convolved, width, token), groups);
            }
            return;
        }
        let workers = row_workers(self.engine, tokens.len().saturating_mul(width));
        let is_last = tokens.end == count;
        each_row(
            workers,
            [(convolved, width), (&mut [], 0), (&mut [], 0)],
            (groups, quantized_width),
            tokens,
            |token, [sum, _, _], groups| convolution.token(token, sum, groups),
        );
        if is_last && self.engine.isa.arranges(count) {
            self.arrange(workers, count, quantized_width);
        }
    }
}

/// What the first matrix makes of the layer's inputs.
struct Inputs<'s> {
    /// `[batch][b, c, x][D]`.
    rows: &'s [f32],
    /// `[b, c, x][D]`, or empty.
    bias: &'s [f32],
    width: usize,
}

impl Inputs<'_> {
    /// `into = b * x` of a token.
    fn product(&self, token: usize, into: &mut [f32]) {
        let [b, _, x] = self.parts(token);
        let [b_bias, _, x_bias] = thirds(self.bias, self.width);
        copy(into, x);
        add(into, x_bias);
        multiply_biased(into, b, b_bias);
    }

    fn parts(&self, token: usize) -> [&[f32]; 3] {
        thirds(row(self.rows, 3 * self.width, token), self.width)
    }
}

/// What a token needs.
struct Convolution<'s> {
    isa: &'static Isa,
    inputs: Inputs<'s>,
    cache: LayerCache,
    /// `[rows of the cache][D]`.
    kept: &'s [f32],
    /// The index of the batch's first token in the context.
    start: usize,
    /// Of the context.
    positions: &'s [u32],
    window: Option<NonZeroU32>,
    /// `[taps][D]`.
    taps: &'s [f32],
    taps_bias: &'s [f32],
}

impl Convolution<'_> {
    /// The sum over the window of a token, the oldest position first, and what follows. The last
    /// tap is for the token itself. A position without a token counts as 0.
    fn token(&self, token: usize, sum: &mut [f32], groups: &mut [InputGroup]) {
        let width = self.inputs.width;
        let index = self.start + token;
        let position = |index: usize| self.positions.get(index).copied().unwrap_or(0);
        let last = self.window.map_or(0, |window| window.get() as usize - 1);
        sum.fill(0.0);
        for seen in visible(self.positions, self.window, index) {
            let back = position(index).saturating_sub(position(seen)) as usize;
            let taps = row(self.taps, width, last.saturating_sub(back));
            let kept = row(self.kept, width, self.cache.slot(seen));
            for ((sum, tap), kept) in sum.iter_mut().zip(taps).zip(kept) {
                *sum += tap * kept;
            }
        }
        add(sum, self.taps_bias);
        let [_, c, _] = self.inputs.parts(token);
        let [_, c_bias, _] = thirds(self.inputs.bias, width);
        multiply_biased(sum, c, c_bias);
        if !groups.is_empty() {
            self.isa.quantize(sum, groups);
        }
    }
}

/// The parts `b`, `c` and `x` of a row; empty ones of an empty row.
#[cfg_attr(target_os = "none", inline(never))]
fn thirds(row: &[f32], width: usize) -> [&[f32]; 3] {
    let (b, rest) = row.split_at_checked(width).unwrap_or_default();
    let (c, x) = rest.split_at_checked(width).unwrap_or_default();
    [b, c, x]
}

/// `x *= factor + bias`.
#[cfg_attr(target_os = "none", inline(never))]
fn multiply_biased(x: &mut [f32], factors: &[f32], bias: &[f32]) {
    if bias.is_empty() {
        for (x, factor) in x.iter_mut().zip(factors) {
            *x *= factor;
        }
        return;
    }
    for ((x, factor), bias) in x.iter_mut().zip(factors).zip(bias) {
        *x *= factor + bias;
    }
}
