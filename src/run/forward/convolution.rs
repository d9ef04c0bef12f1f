//! Short convolutions: `b * x` of each token is kept, and a token sums those of its window, channel
//! by channel, each times a tap.

use core::ops::Range;

use bytemuck::{try_cast_slice, try_cast_slice_mut};
use pocketlm_kernels::split_chunks;
use pocketlm_kernels::vector::add;

use super::{Forward, copy, each_row, row, row_workers, split};
use crate::model::TensorKind;
use crate::run::SMALL;
use crate::run::buffer::Buffer;
use crate::run::cache::{LayerCache, visible};
use crate::run::schedule::Batch;

impl Forward<'_, '_> {
    /// Keeps `b * x` of tokens of the batch.
    #[inline(never)]
    pub(super) fn store_rows(&mut self, batch: &Batch, tokens: Range<usize>) {
        let width = self.plan.dims().convolved;
        let cache = self.layer_cache(batch);
        let weights = &self.buffers.weights;
        let bias = weights.vector(&self.model, batch.layer, TensorKind::ConvInBias);
        let [b_bias, _, x_bias] = thirds(bias, width);
        let inputs = super::buffer(self.buffers.numbers, &self.plan, Buffer::ConvIn);
        let inputs = &*inputs;
        let kept = self.buffers.cache.get_mut(cache.values(0));
        let kept = try_cast_slice_mut(kept.unwrap_or_default()).unwrap_or_default();
        let workers = row_workers(self.engine, tokens.len().saturating_mul(width));
        let start = batch.start as usize;
        let mut first = tokens.start;
        for slots in cache.slots(start + tokens.start..start + tokens.end) {
            let count = slots.len();
            split_chunks(
                workers,
                [(&mut *kept, width)],
                slots.clone(),
                |slot, [u]| {
                    let token = first + slot - slots.start;
                    let [b, _, x] = thirds(row(inputs, 3 * width, token), width);
                    copy(u, x);
                    add(u, x_bias);
                    gate(u, b, b_bias);
                },
            );
            first += count;
        }
    }

    /// Sums what is kept of the windows of tokens of the batch.
    #[inline(never)]
    pub(super) fn convolve(&mut self, batch: &Batch, tokens: Range<usize>) {
        let width = self.plan.dims().convolved;
        let group_width = self.quantized(batch, width);
        let count = batch.count as usize;
        let isa = self.engine.isa;
        let [taps, taps_bias, in_bias] = [
            TensorKind::ConvTaps,
            TensorKind::ConvTapsBias,
            TensorKind::ConvInBias,
        ]
        .map(|kind| {
            let weights = &self.buffers.weights;
            weights.vector(&self.model, batch.layer, kind)
        });
        let [_, c_bias, _] = thirds(in_bias, width);
        let cache = self.layer_cache(batch);
        let kept = self.buffers.cache.get(cache.values(0)).unwrap_or_default();
        let [inputs, convolved, ..] = split(
            self.buffers.numbers,
            &self.plan,
            [
                Buffer::ConvIn,
                Buffer::Convolved,
                Buffer::None,
                Buffer::None,
            ],
        );
        let window = Window {
            cache,
            kept: try_cast_slice(kept).unwrap_or_default(),
            positions: self.buffers.positions,
            taps,
            width,
        };
        let window_size = self.model.layers().get(batch.layer as usize).window;
        let workers = row_workers(self.engine, tokens.len().saturating_mul(width));
        let is_last = tokens.end == count;
        each_row(
            workers,
            [(convolved, width), (&mut [], 0), (&mut [], 0)],
            (&mut *self.buffers.groups, group_width),
            tokens,
            |token, [y, _, _], groups| {
                let index = batch.start as usize + token;
                window.sum(visible(window.positions, window_size, index), index, y);
                add(y, taps_bias);
                let [_, c, _] = thirds(row(inputs, 3 * width, token), width);
                gate(y, c, c_bias);
                if !groups.is_empty() {
                    isa.quantize(y, groups);
                }
            },
        );
        // A board has no matrix units.
        if !SMALL && is_last && isa.arranges(count) {
            self.arrange(workers, count, group_width);
        }
    }
}

/// What tokens see.
struct Window<'s> {
    cache: LayerCache,
    /// `[rows][D]`, a ring.
    kept: &'s [f32],
    /// Of the context.
    positions: &'s [u32],
    /// `[taps][D]`.
    taps: &'s [f32],
    width: usize,
}

impl Window<'_> {
    /// The sum over the tokens `visible` for the token at `index`, the oldest first. The last tap
    /// is for the token itself, and a position without a token counts as 0.
    fn sum(&self, visible: Range<usize>, index: usize, sum: &mut [f32]) {
        let position = |index: usize| self.positions.get(index).copied().unwrap_or(0);
        let last = (self.taps.len().checked_div(self.width).unwrap_or(0)).saturating_sub(1);
        sum.fill(0.0);
        for seen in visible {
            let back = position(index).saturating_sub(position(seen)) as usize;
            let tap = row(self.taps, self.width, last.saturating_sub(back));
            let kept = row(self.kept, self.width, self.cache.slot(seen));
            for ((sum, tap), kept) in sum.iter_mut().zip(tap).zip(kept) {
                *sum += tap * kept;
            }
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

/// `x *= gate + bias`.
#[cfg_attr(target_os = "none", inline(never))]
fn gate(x: &mut [f32], gate: &[f32], bias: &[f32]) {
    if bias.is_empty() {
        for (x, gate) in x.iter_mut().zip(gate) {
            *x *= gate;
        }
        return;
    }
    for ((x, gate), bias) in x.iter_mut().zip(gate).zip(bias) {
        *x *= gate + bias;
    }
}
