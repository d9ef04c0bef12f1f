//! Queries, keys and values between the matmul and attention: biases, norms and rotation; then keys
//! and values are stored in the cache.

use core::ops::Range;

use pocketlm_kernels::vector::{add, rms_norm_in_place, rope, scale};
use pocketlm_kernels::{
    Engine, GROUP, InputGroup, Isa, Kv, TILE_ROWS, Workers, split_chunks, store_key, store_value,
};

use super::{Forward, copy, each_row, group_row_mut, row, row_mut, row_workers, split};
use crate::model::{Config, Dims, Rope, TensorKind};
use crate::run::SMALL;
use crate::run::buffer::Buffer;
use crate::run::cache::LayerCache;
use crate::run::schedule::Batch;

impl Forward<'_, '_> {
    /// Prepares queries, keys and values of tokens of the batch, and stores keys and values. A
    /// board takes one token at a time.
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
            TensorKind::QueryBias,
            TensorKind::QueryNorm,
            TensorKind::KeyBias,
            TensorKind::KeyNorm,
            TensorKind::ValueBias,
        ]
        .map(|kind| self.buffers.weights.vector(&self.model, batch.layer, kind));
        let is_unnormed =
            self.model.config().qk_norm_only_with_rope && matches!(layer.rope, Rope::None);
        let [
            mut query_bias,
            mut query_norm,
            mut key_bias,
            mut key_norm,
            value_bias,
        ] = vectors;
        if is_unnormed {
            (query_norm, key_norm) = (&[], &[]);
        }
        let buffers = [
            Buffer::Query,
            Buffer::Key,
            Buffer::Value,
            Buffer::QueryByHead,
        ];
        let [query, key, value, queries] = split(self.buffers.numbers, &self.plan, buffers);
        if self.model.config().qk_norm_across_heads {
            let eps = self.model.config().rms_norm_eps;
            for token in tokens.clone() {
                let query = row_mut(query, dims.queries, token);
                norm_across_heads(query, query_bias, query_norm, eps);
                let key = row_mut(key, dims.keys, token);
                norm_across_heads(key, key_bias, key_norm, eps);
            }
            (query_bias, query_norm) = (&[], &[]);
            (key_bias, key_norm) = (&[], &[]);
        }
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
            vectors: [query_bias, query_norm, key_bias, key_norm, value_bias],
        };
        let into = Prepared {
            queries,
            groups: self.buffers.groups,
            key,
            value,
            cache: self.buffers.cache,
        };
        if SMALL || tokens.len() == 1 {
            prepare.one(tokens.start, into);
        } else {
            prepare.shared(self.engine, tokens, into);
        }
    }
}

/// Bias and norm of the queries or keys of all heads.
#[cfg_attr(target_os = "none", inline(never))]
fn norm_across_heads(row: &mut [f32], bias: &[f32], norm: &[f32], eps: f32) {
    add(row, bias);
    if !norm.is_empty() {
        rms_norm_in_place(row, norm, eps);
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

    /// A token, without workers.
    fn one(&self, token: usize, into: Prepared<'_>) {
        let dims = self.dims;
        let slot = self.cache.slot(self.start + token);
        for head in 0..dims.kv_heads {
            let unit = head * self.count + token;
            let queries = row_mut(into.queries, self.width(), unit);
            let groups = group_row_mut(into.groups, self.group_width() * GROUP, unit);
            let key = row_mut(into.key, dims.head, token * dims.kv_heads + head);
            let value = row_mut(into.value, dims.head, token * dims.kv_heads + head);
            self.prepare(token, head, [queries, key, value], groups);
            self.store(into.cache, head, slot, [key, value]);
        }
    }

    /// Stores a token's key and value in a slot of a kv head.
    fn store(&self, cache: &mut [u8], head: usize, slot: usize, [key, value]: [&[f32]; 2]) {
        let keys = cache.get_mut(self.cache.keys(head));
        store_key(self.kv, keys.unwrap_or_default(), slot, key);
        let values = cache.get_mut(self.cache.values(head));
        store_value(self.kv, values.unwrap_or_default(), slot, value);
    }

    /// Head by head, the tokens shared between workers.
    fn shared(&self, engine: Engine<'_>, tokens: Range<usize>, into: Prepared<'_>) {
        let dims = self.dims;
        let width = self.width();
        let group_width = self.group_width();
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
            let bytes = into.cache.get_mut(bytes).unwrap_or_default();
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

    /// Norm of a query or key, if there is one, and rotation, if there are angles. The norm comes
    /// first, unless the config says otherwise.
    #[cfg_attr(target_os = "none", inline(never))]
    fn rotate(&self, head: &mut [f32], norm: &[f32], (cos, sin): (&[f32], &[f32])) {
        let is_turned_first = self.config.qk_norm_after_rope;
        if is_turned_first {
            rope(head, cos, sin);
        }
        if !norm.is_empty() {
            rms_norm_in_place(head, norm, self.config.rms_norm_eps);
        }
        if !is_turned_first {
            rope(head, cos, sin);
        }
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
