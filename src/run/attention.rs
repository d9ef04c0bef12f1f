//! Attention over the cache: what is stored, which keys a token sees, and the scores, softmax and
//! mix.

use core::num::{NonZeroU32, NonZeroUsize};
use core::ops::Range;

use pocketlm_kernels::vector::{add, rms_norm_in_place, rope, scale};
use pocketlm_kernels::{
    Engine, GROUP, Input, InputGroup, Matrix, RowsMut, Solo, TILE_ROWS, split_chunks, store_key,
    store_value,
};

use super::Session;
use super::block::{attention_parts, copy, each_row, group_row_mut, row, row_mut, row_workers};
use super::session::Buffers;
use crate::model::{Role, Rope};

/// One kv head's part of the cache of a layer.
#[derive(Clone, Copy)]
struct HeadCache {
    /// Positions it has room for, a multiple of 8. Index `i` of the context is kept in slot
    /// `i mod rows`.
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
        HeadCache {
            rows: self.plan.cache_rows(layer),
            start: self.work.cache,
            bytes,
            keys,
        }
    }

    /// Which indices of the context a token of the batch sees in the current layer: the first, and
    /// how many.
    pub(super) fn visible(&self, token: usize) -> (usize, usize) {
        let window = self.model.layers().get(self.work.layer as usize).window;
        visible(
            self.buffers.positions,
            window,
            self.work.start as usize + token,
        )
    }

    /// Bias, qk-norm, rotation and scale of a token's heads; its keys and values into the cache.
    pub(super) fn store(&mut self, token: usize) {
        let (model, widths) = (self.model, self.widths());
        let (config, layer) = (model.config(), model.layers().get(self.work.layer as usize));
        let (weights, index) = (&self.buffers.weights, self.work.layer);
        let vector = |role| weights.vector(&model, index, role);
        let batch = self.plan.batch_tokens() as usize;
        let cache = self.head_cache();
        let slot = (self.work.start as usize + token) % cache.rows.max(1);
        let (rope_row, cosines) = self.rope_row(layer.rope, token);
        let table = if layer.rope == Rope::None {
            &[]
        } else {
            row(self.buffers.rope, widths.projection, rope_row)
        };
        let angles = table.split_at_checked(cosines).unwrap_or_default();
        let turn = |head: &mut [f32], norm| turn(head, norm, config.rms_norm_eps, angles);
        let projection = widths.projection;
        let (multiplier, quantizes_queries) = (
            config.query_head_multiplier as usize,
            self.quantizes_queries(),
        );
        let tokens = self.work.count as usize;

        let [query, key, value, queries, _] = attention_parts(self.buffers.scratch, batch, widths);
        let query = row_mut(query, widths.queries, token);
        add(query, vector(Role::QueryBias));
        for index in 0..config.num_kv_heads as usize {
            for shared in index * multiplier..(index + 1) * multiplier {
                let head = row_mut(query, projection, shared);
                turn(head, vector(Role::QueryNorm));
                scale(head, config.query_scaling_factor);
                // Those that meet the same keys lie together.
                let place = (index * tokens + token) * multiplier + shared - index * multiplier;
                if quantizes_queries {
                    self.engine
                        .isa
                        .quantize(head, group_row_mut(self.buffers.groups, projection, place));
                }
                copy(row_mut(queries, projection, place), head);
            }
        }

        let key = row_mut(key, widths.keys, token);
        let value = row_mut(value, widths.keys, token);
        add(key, vector(Role::KeyBias));
        add(value, vector(Role::ValueBias));
        for index in 0..config.num_kv_heads as usize {
            let (key, value) = (
                row_mut(key, projection, index),
                row(value, projection, index),
            );
            turn(key, vector(Role::KeyNorm));
            let head = self
                .buffers
                .cache
                .get_mut(cache.range(index))
                .unwrap_or_default();
            let (keys, values) = head.split_at_mut_checked(cache.keys).unwrap_or_default();
            store_key(self.plan.kv_type(), keys, slot, key);
            store_value(self.plan.kv_type(), values, slot, value);
        }
    }

    /// [`store`](Self::store) for several tokens, shared between workers. A microcontroller does
    /// without: it has a few tokens, and little flash.
    #[inline(never)]
    pub(super) fn store_shared(&mut self, tokens: Range<usize>) {
        let (model, widths, kv) = (self.model, self.widths(), self.plan.kv_type());
        let (config, layer) = (model.config(), model.layers().get(self.work.layer as usize));
        let (batch, projection) = (self.plan.batch_tokens() as usize, widths.projection);
        let (heads, multiplier) = (
            config.num_kv_heads as usize,
            config.query_head_multiplier as usize,
        );
        let (cache, quantizes_queries) = (self.head_cache(), self.quantizes_queries());
        let (start, count) = (self.work.start as usize, self.work.count as usize);
        let (rope_row, cosines) = self.rope_row(layer.rope, 0);
        let isa = self.engine.isa;
        // Head by head.
        let workers = row_workers(
            self.engine,
            tokens.len().saturating_mul((multiplier + 2) * projection),
        );
        let Buffers {
            scratch,
            groups,
            rope: tables,
            cache: all,
            weights,
            ..
        } = &mut self.buffers;
        let (tables, index) = (&**tables, self.work.layer);
        let [query_bias, query_norm, key_bias, key_norm, value_bias] = [
            Role::QueryBias,
            Role::QueryNorm,
            Role::KeyBias,
            Role::KeyNorm,
            Role::ValueBias,
        ]
        .map(|role| weights.vector(&model, index, role));
        let [query, key, value, queries, _] = attention_parts(scratch, batch, widths);

        let (query, width) = (&*query, multiplier * projection);
        let group_width = if quantizes_queries {
            multiplier * projection.div_ceil(GROUP)
        } else {
            0
        };
        let key_tile = kv.dtype().tile_row_bytes(projection).unwrap_or(0);
        let value_tile = TILE_ROWS * kv.value_bytes(projection).unwrap_or(0);
        for head in 0..heads {
            let prepare = |token,
                           [queries, key, value]: [&mut [f32]; 3],
                           groups: &mut [InputGroup]| {
                let table = if layer.rope == Rope::None {
                    &[]
                } else {
                    row(tables, projection, rope_row + token)
                };
                let angles = table.split_at_checked(cosines).unwrap_or_default();
                let turn = |head: &mut [f32], norm| turn(head, norm, config.rms_norm_eps, angles);
                copy(queries, row(query, width, token * heads + head));
                add(queries, row(query_bias, width, head));
                for shared in 0..multiplier {
                    let query = row_mut(queries, projection, shared);
                    turn(query, query_norm);
                    scale(query, config.query_scaling_factor);
                    if quantizes_queries {
                        isa.quantize(query, group_row_mut(groups, projection, shared));
                    }
                }
                let key = row_mut(key, projection, head);
                add(key, row(key_bias, projection, head));
                turn(key, key_norm);
                add(
                    row_mut(value, projection, head),
                    row(value_bias, projection, head),
                );
            };
            // Queries that meet the same keys lie together.
            let queries = queries.get_mut(head * count * width..).unwrap_or_default();
            let groups = groups
                .get_mut(head * count * group_width..)
                .unwrap_or_default();
            let rows = [
                (queries, width),
                (&mut *key, widths.keys),
                (&mut *value, widths.keys),
            ];
            each_row(
                workers,
                rows,
                (groups, group_width * GROUP),
                tokens.clone(),
                prepare,
            );

            let (key, value) = (&*key, &*value);
            let table = all.get_mut(cache.range(head)).unwrap_or_default();
            let (keys, values) = table.split_at_mut_checked(cache.keys).unwrap_or_default();
            let mut token = tokens.start;
            let stretches = stretches(start + token, tokens.len(), cache.rows);
            for slots in stretches.into_iter().filter(|slots| !slots.is_empty()) {
                // Keys are stored eight together.
                let tiles = slots.start / TILE_ROWS..slots.end.div_ceil(TILE_ROWS);
                let buffers = [(&mut *keys, key_tile), (&mut *values, value_tile)];
                split_chunks(workers, buffers, tiles, |tile, [keys, values]| {
                    let first = tile * TILE_ROWS;
                    for slot in slots.start.max(first)..slots.end.min(first + TILE_ROWS) {
                        let row_of = |buffer| {
                            row(
                                buffer,
                                projection,
                                (token + slot - slots.start) * heads + head,
                            )
                        };
                        store_key(kv, keys, slot - first, row_of(key));
                        store_value(kv, values, slot - first, row_of(value));
                    }
                });
                token += slots.len();
            }
        }
    }

    /// Attention for units `units`, token by token of kv head by kv head.
    pub(super) fn attend(&mut self, units: Range<usize>) {
        let mut start = units.start;
        while start < units.end {
            start += self.attend_some(start..units.end);
        }
    }

    /// As many units as there is room for scores, and how many that were. Workers share them in
    /// pieces of several tokens that see nearly the same keys.
    #[inline(never)]
    fn attend_some(&mut self, units: Range<usize>) -> usize {
        let (widths, Engine { isa, workers }) = (self.widths(), self.engine);
        let (kv, batch) = (self.plan.kv_type(), self.plan.batch_tokens() as usize);
        let (multiplier, cap) = (
            self.model.config().query_head_multiplier as usize,
            self.model.config().attn_logits_soft_cap,
        );
        let window = self.model.layers().get(self.work.layer as usize).window;
        let (start, tokens) = (
            self.work.start as usize,
            NonZeroUsize::new(self.work.count as usize),
        );
        let tokens = tokens.unwrap_or(NonZeroUsize::MIN);
        let cache = self.head_cache();
        let rows = cache.rows;

        let projection = widths.projection;
        let width = multiplier * projection;
        let group_width = multiplier * projection.div_ceil(GROUP);
        let query_groups = if self.quantizes_queries() {
            &*self.buffers.groups
        } else {
            &[]
        };
        let (all_cache, positions) = (&*self.buffers.cache, &*self.buffers.positions);
        let [attended, _, _, queries, scores] =
            attention_parts(self.buffers.scratch, batch, widths);
        let queries = &*queries;
        let unit_scores = multiplier * rows;

        let room = scores.len().checked_div(unit_scores).unwrap_or(0);
        let mut together = QUERIES
            .checked_div(multiplier)
            .unwrap_or(0)
            .min(tokens.get())
            .min(units.len())
            .min(room);
        // Each worker is to have a piece and one more: they are not equally fast. A
        // microcontroller's batch is short.
        if !cfg!(target_os = "none") && workers.count() > 1 {
            let shares = workers.count().saturating_mul(2);
            together = together.min(room.min(units.len()).checked_div(shares).unwrap_or(0));
        }
        let together = together.max(1);
        let pieces = (room.min(units.len()) / together).max(1);
        let done = pieces * together;
        let attended = attended.get_mut(units.start * width..).unwrap_or_default();
        let buffers = [
            (attended, together * width),
            (scores, together * unit_scores),
        ];
        // One piece is nothing to share.
        let workers = if !cfg!(target_os = "none") && pieces == 1 {
            &Solo
        } else {
            workers
        };
        split_chunks(
            workers,
            buffers,
            0..pieces,
            |piece, [mut attended, mut scores]| {
                let mut unit = units.start + piece * together;
                let end = unit + together;
                // A piece may go on with the next head.
                while unit < end {
                    let (head, token) = (unit / tokens, unit % tokens);
                    let count = (tokens.get() - token).min(end - unit);
                    let bytes = all_cache.get(cache.range(head)).unwrap_or_default();
                    let (keys, values) = bytes.split_at_checked(cache.keys).unwrap_or_default();
                    let keys =
                        Matrix::new(kv.dtype(), rows, projection, keys).unwrap_or(Matrix::EMPTY);
                    let input = Input {
                        count: count * multiplier,
                        values: queries.get(unit * width..).unwrap_or_default(),
                        groups: query_groups.get(unit * group_width..).unwrap_or_default(),
                        tiles: &[],
                    };
                    let (these, after) = scores
                        .split_at_mut_checked(count * unit_scores)
                        .unwrap_or_default();
                    // What any of these tokens sees. A tile may hold keys that none does, or none
                    // at all: their scores are computed and never read.
                    let (first, _) = visible(positions, window, start + token);
                    let mut all = RowsMut::all(these, rows);
                    for slots in stretches(first, start + token + count - first, rows) {
                        let tile_rows = slots.start / TILE_ROWS..slots.end.div_ceil(TILE_ROWS);
                        let mut part = all.part(tile_rows.start * TILE_ROWS..rows);
                        isa.matmul(&keys, &input, tile_rows, &mut part);
                    }
                    for index in 0..count {
                        let (first, visible) = visible(positions, window, start + token + index);
                        let [older, newer] = stretches(first, visible, rows);
                        // The queries of a token see the same, so values are read once for them.
                        for first in (0..multiplier).step_by(SHARED) {
                            let queries = first..multiplier.min(first + SHARED);
                            let (count, start) = (queries.len(), index * multiplier + first);
                            let scores = these
                                .get_mut(start * rows..(start + count) * rows)
                                .unwrap_or_default();
                            let out = attended
                                .get_mut(start * projection..(start + count) * projection)
                                .unwrap_or_default();
                            let mut normalizers = [0.0; SHARED];
                            for (query, normalizer) in (0..count).zip(&mut normalizers) {
                                let scores = row_mut(scores, rows, query);
                                let (start, end) =
                                    scores.split_at_mut_checked(older.start).unwrap_or_default();
                                let (newer_scores, older_scores) = (
                                    start.get_mut(newer.clone()).unwrap_or_default(),
                                    end.get_mut(..older.len()).unwrap_or_default(),
                                );
                                if let Some(cap) = cap {
                                    isa.soft_cap(older_scores, cap);
                                    isa.soft_cap(newer_scores, cap);
                                }
                                *normalizer = isa.softmax(older_scores, newer_scores);
                            }
                            out.fill(0.0);
                            isa.mix(kv, values, older.clone(), scores, out, count);
                            isa.mix(kv, values, newer.clone(), scores, out, count);
                            for (query, normalizer) in (0..count).zip(normalizers) {
                                scale(row_mut(out, projection, query), normalizer);
                            }
                        }
                    }
                    scores = after;
                    attended = attended
                        .split_at_mut_checked(count * width)
                        .unwrap_or_default()
                        .1;
                    unit += count;
                }
            },
        );
        done
    }
}

/// Queries that meet the keys of a head together: enough for a kernel to widen keys once for
/// several, few enough for their scores to stay in a cache.
const QUERIES: usize = 48;

/// Queries of a token whose values are read together. A microcontroller would gain nothing by it,
/// and has little flash.
const SHARED: usize = if cfg!(target_os = "none") { 1 } else { 16 };

/// Norm, if there is one, and rotation of a head; none where there are no angles.
fn turn(head: &mut [f32], norm: &[f32], eps: f32, (cos, sin): (&[f32], &[f32])) {
    if !norm.is_empty() {
        rms_norm_in_place(head, norm, eps);
    }
    rope(head, cos, sin);
}

/// Which indices of the context the token at `index` sees: the first, and how many. Positions grow
/// along the context, so what a window lets through is a stretch that ends with the token itself.
fn visible(positions: &[u32], window: Option<NonZeroU32>, index: usize) -> (usize, usize) {
    let first = match window {
        None => 0,
        Some(window) => {
            // Positions are at least as far apart as indices.
            let earliest = (index + 1).saturating_sub(window.get() as usize);
            let seen = positions.get(earliest..=index).unwrap_or_default();
            let position = seen.last().copied().unwrap_or(0);
            earliest + seen.partition_point(|p| position.wrapping_sub(*p) >= window.get())
        }
    };
    (first, index + 1 - first)
}

/// Where `count` indices from `first` on lie in a ring of `rows` slots: from some slot on, and then
/// from its start.
fn stretches(first: usize, count: usize, rows: usize) -> [Range<usize>; 2] {
    let slot = first % rows.max(1);
    let older = count.min(rows - slot);
    [slot..slot + older, 0..count - older]
}
