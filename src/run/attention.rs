//! Attention over the cache: what is stored, which keys a token sees, and the scores, softmax and mix.

use core::ops::Range;

use pocketlm_kernels::vector::{add, rms_norm_in_place, rope, scale};
use pocketlm_kernels::{Engine, GROUP, Input, Matrix, RowsMut, TILE_ROWS, split_pair, store_key, store_value};

use super::Session;
use super::block::{attention_parts, group_row_mut, row, row_mut};
use crate::model::{Role, Rope};

/// One kv head's part of the cache of a layer.
#[derive(Clone, Copy)]
struct HeadCache {
    /// Positions it has room for, a multiple of 8. Index `i` of the context is kept in slot `i mod rows`.
    rows: usize,
    /// Where the first head starts in the cache.
    start: usize,
    /// Bytes of a head: keys, then values.
    bytes: usize,
    /// How many of them are keys.
    keys: usize,
}

impl HeadCache {
    fn range(&self, head: usize) -> Range<usize> {
        let start = self.start + head * self.bytes;
        start..start + self.bytes
    }
}

impl<'m, 'a> Session<'m, 'a> {
    fn head_cache(&self) -> HeadCache {
        let layer = self.model.layers().get(self.work.layer as usize);
        let (bytes, keys) = self.plan.head_cache_bytes(layer);
        HeadCache { rows: self.plan.cache_rows(layer), start: self.work.cache, bytes, keys }
    }

    /// Which indices of the context a token of the batch sees in the current layer: the first, and how many. Positions
    /// grow along the context, so what a window lets through is a stretch that ends with the token itself.
    pub(super) fn visible(&self, token: usize) -> (usize, usize) {
        let index = self.work.start as usize + token;
        let first = match self.model.layers().get(self.work.layer as usize).window {
            None => 0,
            Some(window) => {
                // Positions are at least as far apart as indices.
                let earliest = (index + 1).saturating_sub(window.get() as usize);
                let seen = self.buffers.positions.get(earliest..=index).unwrap_or_default();
                let position = seen.last().copied().unwrap_or(0);
                earliest + seen.partition_point(|p| position.wrapping_sub(*p) >= window.get())
            }
        };
        (first, index + 1 - first)
    }

    /// Bias, qk-norm, rotation and scale of a token's heads; its keys and values into the cache.
    pub(super) fn store(&mut self, token: usize) {
        let (model, widths) = (self.model, self.widths());
        let (config, layer) = (model.config(), model.layers().get(self.work.layer as usize));
        let (window, index) = (&self.buffers.window, self.work.layer);
        let vector = |role| window.vector(&model, index, role);
        let batch = self.plan.batch_tokens() as usize;
        let cache = self.head_cache();
        let slot = (self.work.start as usize + token) % cache.rows.max(1);
        let (rope_row, cosines) = self.rope_row(layer.rope, token);
        let table = row(self.buffers.rope, widths.projection, rope_row);
        let (cos, sin) = table.split_at_checked(cosines).unwrap_or_default();
        let turn = |head: &mut [f32], norm: &[f32]| {
            if !norm.is_empty() {
                rms_norm_in_place(head, norm, config.rms_norm_eps);
            }
            if layer.rope != Rope::None {
                rope(head, cos, sin);
            }
        };
        let projection = widths.projection;
        let (heads, quantizes_queries) = (config.num_query_heads() as usize, self.quantizes_queries());

        let [query, key, value, ..] = attention_parts(self.buffers.scratch, batch, widths);
        let query = row_mut(query, widths.queries, token);
        add(query, vector(Role::QueryBias));
        for index in 0..heads {
            let head = row_mut(query, projection, index);
            turn(head, vector(Role::QueryNorm));
            scale(head, config.query_scaling_factor);
            if quantizes_queries {
                self.engine.isa.quantize(head, group_row_mut(self.buffers.groups, projection, token * heads + index));
            }
        }

        let key = row_mut(key, widths.keys, token);
        let value = row_mut(value, widths.keys, token);
        add(key, vector(Role::KeyBias));
        add(value, vector(Role::ValueBias));
        for index in 0..config.num_kv_heads as usize {
            let (key, value) = (row_mut(key, projection, index), row(value, projection, index));
            turn(key, vector(Role::KeyNorm));
            let head = self.buffers.cache.get_mut(cache.range(index)).unwrap_or_default();
            let (keys, values) = head.split_at_mut_checked(cache.keys).unwrap_or_default();
            store_key(self.plan.kv_type(), keys, slot, key);
            store_value(self.plan.kv_type(), values, slot, value);
        }
    }

    /// Attention for units `units`, kv head by kv head of token by token.
    #[inline(never)]
    pub(super) fn attend(&mut self, units: Range<usize>) {
        let heads = (self.model.config().num_kv_heads as usize).max(1);
        for token in units.start / heads..units.end.div_ceil(heads) {
            let before = token * heads;
            self.attend_heads(token, units.start.max(before) - before..units.end.min(before + heads) - before);
        }
    }

    fn attend_heads(&mut self, token: usize, heads: Range<usize>) {
        let (widths, Engine { isa, workers }) = (self.widths(), self.engine);
        let (kv, batch) = (self.plan.kv_type(), self.plan.batch_tokens() as usize);
        let (multiplier, cap) =
            (self.model.config().query_head_multiplier as usize, self.model.config().attn_logits_soft_cap);
        let cache = self.head_cache();
        let rows = cache.rows;
        // What is visible lies in the ring from `slot` on, `older` keys, and goes on at its start with `newer` keys.
        let (first, visible) = self.visible(token);
        let slot = first % rows.max(1);
        let older = visible.min(rows - slot);
        let newer = visible - older;

        let width = multiplier * widths.projection;
        let group_width = multiplier * widths.projection.div_ceil(GROUP);
        let query_groups = if self.quantizes_queries() { &*self.buffers.groups } else { &[] };
        let all_cache = &*self.buffers.cache;
        let [query, _, _, attended, scores] = attention_parts(self.buffers.scratch, batch, widths);
        let query = row(query, widths.queries, token);
        let attended = row_mut(attended, widths.queries, token);
        let first_group = token * self.model.config().num_kv_heads as usize * group_width;

        split_pair(workers, attended, scores, (width, multiplier * rows), heads, |head, attended, scores| {
            let bytes = all_cache.get(cache.range(head)).unwrap_or_default();
            let (keys, values) = bytes.split_at_checked(cache.keys).unwrap_or_default();
            let keys = Matrix::new(kv.dtype(), rows, widths.projection, keys).unwrap_or(Matrix::EMPTY);
            let input = Input {
                count: multiplier,
                values: query.get(head * width..).unwrap_or_default(),
                groups: query_groups.get(first_group + head * group_width..).unwrap_or_default(),
            };
            // A tile may hold keys that are not visible, or none at all: their scores are computed and never read.
            let mut all = RowsMut::all(scores, rows);
            for slots in [slot..slot + older, 0..newer] {
                let tile_rows = slots.start / TILE_ROWS..slots.end.div_ceil(TILE_ROWS);
                let mut part = all.part(tile_rows.start * TILE_ROWS..rows);
                isa.matmul(&keys, &input, tile_rows, &mut part);
            }
            for query in 0..multiplier {
                let (scores, out) = (row_mut(scores, rows, query), row_mut(attended, widths.projection, query));
                let (start, end) = scores.split_at_mut_checked(slot).unwrap_or_default();
                let (newer_scores, older_scores) =
                    (start.get_mut(..newer).unwrap_or_default(), end.get_mut(..older).unwrap_or_default());
                if let Some(cap) = cap {
                    isa.soft_cap(older_scores, cap);
                    isa.soft_cap(newer_scores, cap);
                }
                let normalizer = isa.softmax(older_scores, newer_scores);
                out.fill(0.0);
                isa.mix(kv, values, slot..slot + older, older_scores, out);
                isa.mix(kv, values, 0..newer, newer_scores, out);
                scale(out, normalizer);
            }
        });
    }
}
