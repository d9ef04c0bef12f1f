//! Attention over the cache: queries, keys and values are prepared and stored, then each query
//! meets the keys that it sees.

use core::num::{NonZeroU32, NonZeroUsize};
use core::ops::Range;

use pocketlm_kernels::vector::{add, rms_norm_in_place, rope, scale};
use pocketlm_kernels::{
    Engine, GROUP, Input, InputGroup, Isa, Kv, Matrix, RowsMut, Solo, TILE_ROWS, Workers,
    split_chunks, store_key, store_value,
};

use super::{Forward, copy, each_row, group_row_mut, row, row_mut, row_workers, rows_mut, split};
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
    /// Prepares queries, keys and values of tokens of the batch, and stores keys and values.
    #[inline(never)]
    pub(super) fn store_keys(&mut self, batch: &Batch, tokens: Range<usize>) {
        let dims = self.plan.dims();
        let layer = self.layer(batch);
        let first_table = self.rope_row(layer.rope, 0);
        let tables = match layer.rope {
            Rope::None => &[],
            Rope::Global | Rope::Local => &*self.buffers.rope,
        };
        let vectors = [
            Role::QueryBias,
            Role::QueryNorm,
            Role::KeyBias,
            Role::KeyNorm,
            Role::ValueBias,
        ]
        .map(|role| self.buffers.weights.vector(&self.model, batch.layer, role));
        let buffers = [
            Buffer::Query,
            Buffer::Key,
            Buffer::Value,
            Buffer::QueryByHead,
        ];
        let [query, key, value, queries] = split(self.buffers.numbers, &self.plan, buffers);
        let prepare = Prepare {
            isa: self.engine.isa,
            config: self.model.config(),
            kv: self.plan.kv_type(),
            dims,
            cache: LayerCache::new(&self.plan, layer, batch.cache),
            start: batch.start as usize,
            count: batch.count as usize,
            query,
            tables,
            first_table,
            vectors,
        };
        let into = Prepared {
            queries,
            groups: self.buffers.groups,
            key,
            value,
            cache: self.buffers.cache,
        };
        if SMALL {
            prepare.one_by_one(tokens, into);
        } else {
            prepare.shared(self.engine, tokens, into);
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
        let dims = self.plan.dims();
        let cache = self.layer_cache(batch);
        let window = self.layer(batch).window;
        let groups = if self.plan.kv_type().dtype().is_quantized() {
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

/// How queries, keys and values are prepared and stored.
struct Prepare<'s> {
    isa: &'static Isa,
    config: &'s Config,
    kv: Kv,
    dims: &'s Dims,
    cache: LayerCache,
    /// The batch: the index of its first token in the context, and how many it has.
    start: usize,
    count: usize,
    /// `[batch][H P]`.
    query: &'s [f32],
    /// Cosines and sines, `[tables][cos, sin][P/2]`; empty in a layer without rotation.
    tables: &'s [f32],
    /// The table of the first token of the batch.
    first_table: usize,
    /// Query bias and norm, key bias and norm, value bias.
    vectors: [&'s [f32]; 5],
}

/// What is written: the buffers of all tokens and heads.
struct Prepared<'s> {
    queries: &'s mut [f32],
    groups: &'s mut [InputGroup],
    key: &'s mut [f32],
    value: &'s mut [f32],
    cache: &'s mut [u8],
}

impl Prepare<'_> {
    /// Numbers in the queries of a token that belong to a kv head.
    fn width(&self) -> usize {
        self.dims.queries_per_kv * self.dims.head
    }

    /// Groups of these queries, if keys are quantised.
    fn group_width(&self) -> usize {
        if self.kv.dtype().is_quantized() {
            self.dims.queries_per_kv * self.dims.head.div_ceil(GROUP)
        } else {
            0
        }
    }

    /// What a board does.
    fn one_by_one(&self, tokens: Range<usize>, into: Prepared<'_>) {
        let dims = self.dims;
        for token in tokens {
            let slot = self.cache.slot(self.start + token);
            for head in 0..dims.kv_heads {
                let unit = head * self.count + token;
                let queries = row_mut(into.queries, self.width(), unit);
                let groups = group_row_mut(into.groups, self.group_width() * GROUP, unit);
                let key = row_mut(into.key, dims.head, token * dims.kv_heads + head);
                let value = row_mut(into.value, dims.head, token * dims.kv_heads + head);
                self.prepare(token, head, [queries, key, value], groups);
                let keys = bytes_mut(into.cache, self.cache.keys(head));
                store_key(self.kv, keys, slot, key);
                let values = bytes_mut(into.cache, self.cache.values(head));
                store_value(self.kv, values, slot, value);
            }
        }
    }

    /// The same, shared between workers.
    fn shared(&self, engine: Engine<'_>, tokens: Range<usize>, into: Prepared<'_>) {
        let dims = self.dims;
        let (width, group_width) = (self.width(), self.group_width());
        let numbers = tokens.len().saturating_mul(width + 2 * dims.head);
        let workers = row_workers(engine, numbers);
        for head in 0..dims.kv_heads {
            // Queries that meet the same keys lie together.
            let before = head * self.count;
            let queries = into.queries.get_mut(before * width..);
            let groups = into.groups.get_mut(before * group_width..);
            each_row(
                workers,
                [
                    (queries.unwrap_or_default(), width),
                    (&mut *into.key, dims.keys),
                    (&mut *into.value, dims.keys),
                ],
                (groups.unwrap_or_default(), group_width * GROUP),
                tokens.clone(),
                |token, [queries, key, value], groups| {
                    let key = row_mut(key, dims.head, head);
                    let value = row_mut(value, dims.head, head);
                    self.prepare(token, head, [queries, key, value], groups);
                },
            );
            let bytes = self.cache.keys(head).start..self.cache.values(head).end;
            let bytes = bytes_mut(into.cache, bytes);
            self.store_shared(workers, tokens.clone(), head, bytes, [into.key, into.value]);
        }
    }

    /// Bias, qk-norm, rotation and scale of a token's queries that belong to kv head `head`, and of
    /// its key and value. `queries`, `groups`, `key` and `value` are those of this token and head.
    fn prepare(
        &self,
        token: usize,
        head: usize,
        [queries, key, value]: [&mut [f32]; 3],
        groups: &mut [InputGroup],
    ) {
        let dims = self.dims;
        let [query_bias, query_norm, key_bias, key_norm, value_bias] = self.vectors;
        let table = row(self.tables, dims.head, self.first_table + token);
        let angles = table.split_at_checked(dims.head / 2).unwrap_or_default();

        let index = token * dims.kv_heads + head;
        copy(queries, row(self.query, self.width(), index));
        add(queries, row(query_bias, self.width(), head));
        for index in 0..dims.queries_per_kv {
            let query = row_mut(queries, dims.head, index);
            self.rotate(query, query_norm, angles);
            scale(query, self.config.query_scaling_factor);
            if self.kv.dtype().is_quantized() {
                let groups = group_row_mut(groups, dims.head, index);
                self.isa.quantize(query, groups);
            }
        }
        add(key, row(key_bias, dims.head, head));
        self.rotate(key, key_norm, angles);
        add(value, row(value_bias, dims.head, head));
    }

    /// Norm of a query or key, if there is one, and rotation, if there are angles.
    fn rotate(&self, head: &mut [f32], norm: &[f32], (cos, sin): (&[f32], &[f32])) {
        if !norm.is_empty() {
            rms_norm_in_place(head, norm, self.config.rms_norm_eps);
        }
        rope(head, cos, sin);
    }

    /// Stores the keys and values of a kv head, whose part of the cache is `bytes`.
    fn store_shared(
        &self,
        workers: &dyn Workers,
        tokens: Range<usize>,
        head: usize,
        bytes: &mut [u8],
        [key, value]: [&[f32]; 2],
    ) {
        let dims = self.dims;
        let key_bytes = self.cache.keys(head).len();
        let (keys, values) = bytes.split_at_mut_checked(key_bytes).unwrap_or_default();
        // Keys are stored in tiles of eight, so these are what workers share.
        let key_tile = self.kv.dtype().tile_row_bytes(dims.head).unwrap_or(0);
        let value_tile = TILE_ROWS * self.kv.value_bytes(dims.head).unwrap_or(0);
        let mut first = tokens.start;
        for slots in self
            .cache
            .slots(self.start + tokens.start..self.start + tokens.end)
        {
            let tiles = slots.start / TILE_ROWS..slots.end.div_ceil(TILE_ROWS);
            let buffers = [(&mut *keys, key_tile), (&mut *values, value_tile)];
            split_chunks(workers, buffers, tiles, |tile, [keys, values]| {
                let tile = tile * TILE_ROWS..(tile + 1) * TILE_ROWS;
                for slot in slots.start.max(tile.start)..slots.end.min(tile.end) {
                    let token = first + slot - slots.start;
                    let index = token * dims.kv_heads + head;
                    let slot = slot - tile.start;
                    store_key(self.kv, keys, slot, row(key, dims.head, index));
                    store_value(self.kv, values, slot, row(value, dims.head, index));
                }
            });
            first += slots.len();
        }
    }
}

/// What attention reads.
struct Attention<'s> {
    isa: &'static Isa,
    kv: Kv,
    dims: &'s Dims,
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
    fn piece(&self, units: Range<usize>, attended: &mut [f32], scores: &mut [f32]) {
        let mut unit = units.start;
        while unit < units.end {
            let head = unit / self.tokens;
            let token = unit % self.tokens;
            let count = (self.tokens.get() - token).min(units.end - unit);
            let done = unit - units.start;
            let these = rows_mut(scores, self.unit_scores(), done..done + count);
            self.scores(unit, token, count, self.part(self.cache.keys(head)), these);
            let values = self.part(self.cache.values(head));
            for index in 0..count {
                let visible = visible(self.positions, self.window, self.start + token + index);
                let scores = row_mut(these, self.unit_scores(), index);
                let out = row_mut(attended, self.width(), done + index);
                self.token(visible, values, scores, out);
            }
            unit += count;
        }
    }

    /// A part of the cache.
    #[cfg_attr(target_os = "none", inline(never))]
    fn part(&self, bytes: Range<usize>) -> &[u8] {
        self.bytes.get(bytes).unwrap_or_default()
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
            values: super::rows(self.queries, self.width(), unit..unit + count),
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
        let cached = self.cache.rows;
        // The queries of a token see the same keys, so values are read once for several.
        for first in (0..self.dims.queries_per_kv).step_by(SHARED) {
            let end = self.dims.queries_per_kv.min(first + SHARED);
            let scores = rows_mut(scores, cached, first..end);
            let out = rows_mut(out, self.dims.head, first..end);
            let mut normalizers = [0.0; SHARED];
            for (query, normalizer) in (0..end - first).zip(&mut normalizers) {
                *normalizer = self.softmax(&slots, row_mut(scores, cached, query));
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

/// The bytes at `range`.
#[cfg_attr(target_os = "none", inline(never))]
fn bytes_mut(bytes: &mut [u8], range: Range<usize>) -> &mut [u8] {
    bytes.get_mut(range).unwrap_or_default()
}
