//! Attention over the cache: queries, keys and values are prepared and stored, then each query
//! meets the keys that it sees.

use core::num::{NonZeroU32, NonZeroUsize};
use core::ops::Range;

use pocketlm_kernels::vector::{add, rms_norm_in_place, rope, scale};
use pocketlm_kernels::{
    Engine, GROUP, Input, InputGroup, Isa, Kv, Matrix, RowsMut, Solo, TILE_ROWS, Workers,
    split_chunks, store_key, store_value,
};

use super::{Forward, copy, each_row, group_row_mut, row, row_mut, row_workers, split};
use crate::model::{Config, Dims, Role, Rope};
use crate::run::SMALL;
use crate::run::buffer::Buffer;
use crate::run::cache::{LayerCache, visible};
use crate::run::schedule::Batch;

/// The most queries that meet the keys of a head together: enough for a kernel to widen keys once
/// for several, few enough for their scores to stay in a cache.
const QUERIES: usize = 48;

/// The most queries of a token whose values are read together. One by one is as fast on a board.
const SHARED: usize = if SMALL { 1 } else { 16 };

impl Forward<'_, '_> {
    /// Whether queries are quantised to meet the keys of the cache.
    fn quantizes_queries(&self) -> bool {
        self.plan.kv_type().dtype().is_quantized()
    }

    /// Prepares queries, keys and values of tokens of the batch, and stores keys and values.
    #[inline(never)]
    pub(super) fn store_keys(&mut self, batch: &Batch, tokens: Range<usize>) {
        let dims = *self.plan.dims();
        let layer = self.layer(batch);
        let cache = self.layer_cache(batch);
        let tables = match layer.rope {
            Rope::None => &[],
            Rope::Global | Rope::Local => {
                let first = self.rope_row(layer.rope, 0) * dims.head;
                self.buffers.rope.get(first..).unwrap_or_default()
            }
        };
        let vector = |role| self.buffers.weights.vector(&self.model, batch.layer, role);
        let [query, key, value, queries] = split(
            self.buffers.numbers,
            &self.plan,
            [
                Buffer::Query,
                Buffer::Key,
                Buffer::Value,
                Buffer::QueryByHead,
            ],
        );
        let prepare = Prepare {
            isa: self.engine.isa,
            config: self.model.config(),
            dims,
            quantizes_queries: self.plan.kv_type().dtype().is_quantized(),
            query,
            tables,
            query_bias: vector(Role::QueryBias),
            query_norm: vector(Role::QueryNorm),
            key_bias: vector(Role::KeyBias),
            key_norm: vector(Role::KeyNorm),
            value_bias: vector(Role::ValueBias),
        };
        let width = dims.queries_per_kv * dims.head;
        let group_width = if prepare.quantizes_queries {
            dims.queries_per_kv * dims.head.div_ceil(GROUP)
        } else {
            0
        };
        let numbers = tokens.len().saturating_mul(width + 2 * dims.head);
        let workers = row_workers(self.engine, numbers);
        let store = Store {
            kv: self.plan.kv_type(),
            dims,
            indices: batch.start as usize + tokens.start..batch.start as usize + tokens.end,
            cache,
        };
        for head in 0..dims.kv_heads {
            // Queries that meet the same keys lie together.
            let before = head * batch.count as usize;
            let queries = queries.get_mut(before * width..).unwrap_or_default();
            let groups = self.buffers.groups.get_mut(before * group_width..);
            each_row(
                workers,
                [
                    (queries, width),
                    (&mut *key, dims.keys),
                    (&mut *value, dims.keys),
                ],
                (groups.unwrap_or_default(), group_width * GROUP),
                tokens.clone(),
                |token, [queries, key, value], groups| {
                    prepare.head(token, head, [queries, key, value], groups);
                },
            );
            let first = tokens.start * dims.keys + head * dims.head;
            let key = key.get(first..).unwrap_or_default();
            let value = value.get(first..).unwrap_or_default();
            let bytes = self.buffers.cache.get_mut(cache.head(head));
            store.head(workers, bytes.unwrap_or_default(), key, value);
        }
    }

    /// Attention for `units`, which count the tokens of the first kv head, then those of the second,
    /// and so on.
    #[inline(never)]
    pub(super) fn attend(&mut self, batch: &Batch, units: Range<usize>) {
        let mut start = units.start;
        while start < units.end {
            start += self.attend_some(batch, start..units.end);
        }
    }

    /// Processes as many units as the score buffer has room for; returns how many. Workers share
    /// them in pieces of several tokens that see nearly the same keys.
    fn attend_some(&mut self, batch: &Batch, units: Range<usize>) -> usize {
        let Engine { isa, workers } = self.engine;
        let dims = *self.plan.dims();
        let cache = self.layer_cache(batch);
        let window = self.layer(batch).window;
        let groups = if self.quantizes_queries() {
            &*self.buffers.groups
        } else {
            &[]
        };
        let [attended, queries, scores, _] = split(
            self.buffers.numbers,
            &self.plan,
            [
                Buffer::AttendedByHead,
                Buffer::QueryByHead,
                Buffer::Scores,
                Buffer::None,
            ],
        );
        let attention = Attention {
            isa,
            kv: self.plan.kv_type(),
            dims,
            soft_cap: self.model.config().attn_logits_soft_cap,
            window,
            start: batch.start as usize,
            tokens: NonZeroUsize::new(batch.count as usize).unwrap_or(NonZeroUsize::MIN),
            cache,
            bytes: self.buffers.cache,
            positions: self.buffers.positions,
            queries,
            groups,
        };
        let width = attention.width();
        let unit_scores = attention.unit_scores();
        let room = scores.len().checked_div(unit_scores).unwrap_or(0);
        let room = room.min(units.len());
        let together = attention.together(workers, room);
        let pieces = (room / together).max(1);
        // A single piece cannot be shared.
        let workers = if !SMALL && pieces == 1 {
            &Solo
        } else {
            workers
        };
        let attended = attended.get_mut(units.start * width..).unwrap_or_default();
        let buffers = [
            (attended, together * width),
            (scores, together * unit_scores),
        ];
        split_chunks(workers, buffers, 0..pieces, |piece, [attended, scores]| {
            let first = units.start + piece * together;
            attention.piece(first..first + together, attended, scores);
        });
        pieces * together
    }
}

/// How queries, keys and values are prepared.
struct Prepare<'s> {
    isa: &'static Isa,
    config: &'s Config,
    dims: Dims,
    quantizes_queries: bool,
    /// `[batch][H P]`.
    query: &'s [f32],
    /// `[batch][cos, sin][P/2]`; empty in a layer without rotation.
    tables: &'s [f32],
    query_bias: &'s [f32],
    query_norm: &'s [f32],
    key_bias: &'s [f32],
    key_norm: &'s [f32],
    value_bias: &'s [f32],
}

impl Prepare<'_> {
    /// Bias, qk-norm, rotation and scale of a token's queries that belong to kv head `head`, and of
    /// its key and value. `queries` is the place of these queries, `key` and `value` the token's
    /// rows.
    fn head(
        &self,
        token: usize,
        head: usize,
        [queries, key, value]: [&mut [f32]; 3],
        groups: &mut [InputGroup],
    ) {
        let dims = &self.dims;
        let width = dims.queries_per_kv * dims.head;
        let table = row(self.tables, dims.head, token);
        let angles = table.split_at_checked(dims.head / 2).unwrap_or_default();

        copy(
            queries,
            row(self.query, width, token * dims.kv_heads + head),
        );
        add(queries, row(self.query_bias, width, head));
        for index in 0..dims.queries_per_kv {
            let query = row_mut(queries, dims.head, index);
            self.rotate(query, self.query_norm, angles);
            scale(query, self.config.query_scaling_factor);
            if self.quantizes_queries {
                self.isa
                    .quantize(query, group_row_mut(groups, dims.head, index));
            }
        }

        let key = row_mut(key, dims.head, head);
        add(key, row(self.key_bias, dims.head, head));
        self.rotate(key, self.key_norm, angles);
        let value = row_mut(value, dims.head, head);
        add(value, row(self.value_bias, dims.head, head));
    }

    /// Norm of a query or key, if there is one, and rotation, if there are angles.
    fn rotate(&self, head: &mut [f32], norm: &[f32], (cos, sin): (&[f32], &[f32])) {
        if !norm.is_empty() {
            rms_norm_in_place(head, norm, self.config.rms_norm_eps);
        }
        rope(head, cos, sin);
    }
}

/// Where keys and values are stored.
struct Store {
    kv: Kv,
    dims: Dims,
    /// The tokens, as indices in the context.
    indices: Range<usize>,
    cache: LayerCache,
}

impl Store {
    /// Stores the keys and values of a kv head, whose part of the cache is `bytes`. `key` and
    /// `value` start with those of the first token.
    fn head(&self, workers: &dyn Workers, bytes: &mut [u8], key: &[f32], value: &[f32]) {
        let (keys, values) = bytes
            .split_at_mut_checked(self.cache.key_bytes)
            .unwrap_or_default();
        if SMALL {
            for (token, index) in self.indices.clone().enumerate() {
                let slot = self.cache.slot(index);
                store_key(self.kv, keys, slot, self.row(key, token));
                store_value(self.kv, values, slot, self.row(value, token));
            }
            return;
        }
        // Keys are stored in tiles of eight, so that is what workers share.
        let key_tile = self.kv.dtype().tile_row_bytes(self.dims.head).unwrap_or(0);
        let value_tile = TILE_ROWS * self.kv.value_bytes(self.dims.head).unwrap_or(0);
        let mut stored = 0;
        for slots in self.cache.slots(self.indices.clone()) {
            let tiles = slots.start / TILE_ROWS..slots.end.div_ceil(TILE_ROWS);
            let buffers = [(&mut *keys, key_tile), (&mut *values, value_tile)];
            split_chunks(workers, buffers, tiles, |tile, [keys, values]| {
                let first = tile * TILE_ROWS;
                for slot in slots.start.max(first)..slots.end.min(first + TILE_ROWS) {
                    let token = stored + slot - slots.start;
                    store_key(self.kv, keys, slot - first, self.row(key, token));
                    store_value(self.kv, values, slot - first, self.row(value, token));
                }
            });
            stored += slots.len();
        }
    }

    /// The head of a token.
    fn row<'r>(&self, rows: &'r [f32], token: usize) -> &'r [f32] {
        let start = token * self.dims.keys;
        rows.get(start..start + self.dims.head).unwrap_or_default()
    }
}

/// What attention reads.
struct Attention<'s> {
    isa: &'static Isa,
    kv: Kv,
    dims: Dims,
    soft_cap: Option<f32>,
    window: Option<NonZeroU32>,
    /// The batch: the index of its first token in the context, and how many it has.
    start: usize,
    tokens: NonZeroUsize,
    cache: LayerCache,
    /// The whole cache.
    bytes: &'s [u8],
    /// Of the context.
    positions: &'s [u32],
    /// `[K][tokens][H/K P]`.
    queries: &'s [f32],
    /// The same quantised, if keys are.
    groups: &'s [InputGroup],
}

impl Attention<'_> {
    /// Numbers in the queries of a unit, and in its result.
    fn width(&self) -> usize {
        self.dims.queries_per_kv * self.dims.head
    }

    /// Scores of a unit.
    fn unit_scores(&self) -> usize {
        self.dims.queries_per_kv * self.cache.rows
    }

    /// How many of `units` units are computed together, at least 1.
    fn together(&self, workers: &dyn Workers, units: usize) -> usize {
        let queries = QUERIES.checked_div(self.dims.queries_per_kv).unwrap_or(0);
        let together = queries.min(self.tokens.get()).min(units);
        // Workers are not equally fast, so there are two pieces for each. A board's batch is short.
        let share = if SMALL || workers.count() <= 1 {
            together
        } else {
            let pieces = workers.count().saturating_mul(2);
            units.checked_div(pieces).unwrap_or(0)
        };
        together.min(share).max(1)
    }

    /// Computes a piece of units, which may go on with the next kv head.
    fn piece(&self, units: Range<usize>, mut attended: &mut [f32], mut scores: &mut [f32]) {
        let mut unit = units.start;
        while unit < units.end {
            let head = unit / self.tokens;
            let token = unit % self.tokens;
            let count = (self.tokens.get() - token).min(units.end - unit);
            let bytes = self.bytes.get(self.cache.head(head)).unwrap_or_default();
            let (keys, values) = bytes
                .split_at_checked(self.cache.key_bytes)
                .unwrap_or_default();
            let (these, rest) = scores
                .split_at_mut_checked(count * self.unit_scores())
                .unwrap_or_default();
            self.scores(unit, token, count, keys, these);
            let (out, rest_out) = attended
                .split_at_mut_checked(count * self.width())
                .unwrap_or_default();
            for index in 0..count {
                let visible = visible(self.positions, self.window, self.start + token + index);
                let scores = row_mut(these, self.unit_scores(), index);
                let out = row_mut(out, self.width(), index);
                self.token(visible, values, scores, out);
            }
            scores = rest;
            attended = rest_out;
            unit += count;
        }
    }

    /// The scores of `count` tokens from `token` on, whose units start with `unit`, with the keys of
    /// a kv head: `[count][H/K][rows]`.
    fn scores(&self, unit: usize, token: usize, count: usize, keys: &[u8], scores: &mut [f32]) {
        let rows = self.cache.rows;
        let keys = Matrix::new(self.kv.dtype(), rows, self.dims.head, keys);
        let keys = keys.unwrap_or(Matrix::EMPTY);
        let group_width = self.dims.queries_per_kv * self.dims.head.div_ceil(GROUP);
        let input = Input {
            count: count * self.dims.queries_per_kv,
            values: self.queries.get(unit * self.width()..).unwrap_or_default(),
            groups: self.groups.get(unit * group_width..).unwrap_or_default(),
            tiles: &[],
        };
        // All keys that one of these tokens sees. A tile may hold keys that none of them sees, or
        // none at all: their scores are computed and never read.
        let first = visible(self.positions, self.window, self.start + token).start;
        let mut out = RowsMut::all(scores, rows);
        for slots in self.cache.slots(first..self.start + token + count) {
            let tile_rows = slots.start / TILE_ROWS..slots.end.div_ceil(TILE_ROWS);
            let mut part = out.part(tile_rows.start * TILE_ROWS..rows);
            self.isa.matmul(&keys, &input, tile_rows, &mut part);
        }
    }

    /// Softmax and weighted sum of values for a token that sees the tokens `visible`.
    fn token(&self, visible: Range<usize>, values: &[u8], scores: &mut [f32], out: &mut [f32]) {
        let slots = self.cache.slots(visible);
        let rows = self.cache.rows;
        // The queries of a token see the same keys, so values are read once for several.
        for first in (0..self.dims.queries_per_kv).step_by(SHARED) {
            let end = self.dims.queries_per_kv.min(first + SHARED);
            let scores = scores.get_mut(first * rows..end * rows).unwrap_or_default();
            let out = out
                .get_mut(first * self.dims.head..end * self.dims.head)
                .unwrap_or_default();
            let mut normalizers = [0.0; SHARED];
            for (query, normalizer) in (0..end - first).zip(&mut normalizers) {
                *normalizer = self.softmax(&slots, row_mut(scores, rows, query));
            }
            let [older, newer] = slots.clone();
            out.fill(0.0);
            let count = end - first;
            self.isa.mix(self.kv, values, older, scores, out, count);
            self.isa.mix(self.kv, values, newer, scores, out, count);
            for (query, normalizer) in (0..count).zip(normalizers) {
                scale(row_mut(out, self.dims.head, query), normalizer);
            }
        }
    }

    /// Turns the scores of a query in `slots` into weights of values. Returns what the sum of
    /// values has to be multiplied by.
    fn softmax(&self, [older, newer]: &[Range<usize>; 2], scores: &mut [f32]) -> f32 {
        let (start, end) = scores.split_at_mut_checked(older.start).unwrap_or_default();
        let newer = start.get_mut(newer.clone()).unwrap_or_default();
        let older = end.get_mut(..older.len()).unwrap_or_default();
        if let Some(cap) = self.soft_cap {
            self.isa.soft_cap(older, cap);
            self.isa.soft_cap(newer, cap);
        }
        self.isa.softmax(older, newer)
    }
}
