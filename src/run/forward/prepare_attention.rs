//! Queries, keys and values between the matmul and attention: biases, norms and rotation; then keys
//! and values are stored in the cache.

use core::ops::Range;

use pocketlm_kernels::vector::{add, rms_norm, rope, scale};
use pocketlm_kernels::{
    Engine, GROUP, InputGroup, Isa, Kv, TILE_ROWS, Workers, split_chunks, store_key, store_value,
};

use super::{Forward, copy, each_row, group_row_mut, row, row_mut, row_workers, split};
use crate::model::{Config, Dims, Rope, TensorKind};
use crate::run::BARE_METAL;
use crate::run::buffer::Buffer;
use crate::run::cache::LayerCache;
use crate::run::schedule::Batch;

impl Forward<'_, '_> {
    /// Prepares queries, keys and values of tokens of the batch, and stores keys and values. A
    /// board takes one token at a time.
    #[inline(never)]
    pub(super) fn prepare_attention(&mut self, batch: &Batch, tokens: Range<usize>) {
        let dims = self.plan.dims();
        let layer = self.layer(batch);
        let first_row = self.rope_row(layer.rope, 0);
        let angles = match layer.rope {
            Rope::None => &[],
            Rope::Global | Rope::Local => &*self.buffers.rope,
        };
        let [query_bias, key_bias, value_bias, query_norm, key_norm] = [
            TensorKind::QueryBias,
            TensorKind::KeyBias,
            TensorKind::ValueBias,
            TensorKind::QueryNorm,
            TensorKind::KeyNorm,
        ]
        .map(|kind| self.buffers.weights.vector(&self.model, batch.layer, kind));
        let config = self.model.config();
        let mut norms = [query_norm, key_norm];
        if config.qk_norm_only_with_rope && matches!(layer.rope, Rope::None) {
            norms = [&[]; 2];
        }
        let buffers = [
            Buffer::Query,
            Buffer::Key,
            Buffer::Value,
            Buffer::QueryByHead,
        ];
        let [query, key, value, queries] = split(self.buffers.numbers, &self.plan, buffers);
        let prepare = Prepare {
            isa: self.engine.isa,
            config,
            rope: layer.rope,
            query_factors: self.model.query_factors(),
            kv: self.plan.kv_type(),
            dims,
            cache: LayerCache::new(&self.plan, layer, batch.cache),
            positions: self.buffers.positions,
            start: batch.start as usize,
            count: batch.count as usize,
            angles,
            first_row,
            biases: [query_bias, key_bias, value_bias],
            norms,
        };
        let into = Prepared {
            queries: query,
            queries_by_head: queries,
            groups: self.buffers.groups,
            key,
            value,
            cache: self.buffers.cache,
        };
        if BARE_METAL || tokens.len() == 1 {
            prepare.one(tokens.start, into);
        } else {
            prepare.shared(self.engine, tokens, into);
        }
    }
}

/// How queries, keys and values are prepared and stored.
struct Prepare<'s> {
    isa: &'static Isa,
    config: &'s Config,
    rope: Rope,
    /// By the steps of [`AttnTemperature`](crate::model::AttnTemperature); empty without.
    query_factors: &'s [f32],
    kv: Kv,
    dims: &'s Dims,
    cache: LayerCache,
    /// Of all tokens of the context.
    positions: &'s [u32],
    /// The batch: the index of its first token in the context, and how many it has.
    start: usize,
    count: usize,
    /// The rotary angles, `[global, local][batch][cos, sin][P/2]`; empty in a layer without
    /// rotation.
    angles: &'s [f32],
    /// The row of `angles` that the first token of the batch has in this layer.
    first_row: usize,
    /// Of queries, keys and values; empty without biases.
    biases: [&'s [f32]; 3],
    /// Of queries and keys; empty without norms.
    norms: [&'s [f32]; 2],
}

/// What is written: the buffers of all tokens and heads.
struct Prepared<'s> {
    /// `[batch][H P]`.
    queries: &'s mut [f32],
    /// The same by kv head, `[K][batch][M P]`.
    queries_by_head: &'s mut [f32],
    groups: &'s mut [InputGroup],
    key: &'s mut [f32],
    value: &'s mut [f32],
    cache: &'s mut [u8],
}

impl Prepare<'_> {
    /// Numbers in the queries of a token that belong to a kv head.
    fn width(&self) -> usize {
        self.dims.kv_group_width()
    }

    /// How many groups of inputs these queries make, if keys are quantised.
    fn query_groups(&self) -> usize {
        if self.kv.dtype().is_quantized() {
            self.dims.query_groups_per_kv()
        } else {
            0
        }
    }

    /// A token, without workers.
    fn one(&self, token: usize, into: Prepared<'_>) {
        let dims = self.dims;
        let slot = self.cache.slot(self.start + token);
        let query = row_mut(into.queries, dims.queries_width, token);
        let keys = row_mut(into.key, dims.keys_width, token);
        let values = row_mut(into.value, dims.keys_width, token);
        self.add_biases_and_norm([&mut *query, &mut *keys, &mut *values]);
        for head in 0..dims.kv_heads {
            let unit = head * self.count + token;
            let queries = row_mut(into.queries_by_head, self.width(), unit);
            let groups = group_row_mut(into.groups, self.query_groups() * GROUP, unit);
            let key = row_mut(keys, dims.head_width, head);
            let value = row(values, dims.head_width, head);
            copy(queries, row(query, self.width(), head));
            self.rotate(token, [queries, key], groups);
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
        let query_groups = self.query_groups();
        let numbers = tokens.len().saturating_mul(width + 2 * dims.head_width);
        let workers = row_workers(engine, numbers);
        let mut vectors = self.biases.iter().chain(&self.norms);
        if vectors.any(|vector| !vector.is_empty()) {
            each_row(
                workers,
                [
                    (&mut *into.queries, dims.queries_width),
                    (&mut *into.key, dims.keys_width),
                    (&mut *into.value, dims.keys_width),
                ],
                (&mut [], 0),
                tokens.clone(),
                |_, rows, _| self.add_biases_and_norm(rows),
            );
        }
        for head in 0..dims.kv_heads {
            // Queries that meet the same keys lie together.
            let before = head * self.count;
            let queries = into.queries_by_head.get_mut(before * width..);
            let groups = into.groups.get_mut(before * query_groups..);
            each_row(
                workers,
                [
                    (queries.unwrap_or_default(), width),
                    (&mut *into.queries, dims.queries_width),
                    (&mut *into.key, dims.keys_width),
                ],
                (groups.unwrap_or_default(), query_groups * GROUP),
                tokens.clone(),
                |token, [queries, query, key], groups| {
                    copy(queries, row(query, width, head));
                    let key = row_mut(key, dims.head_width, head);
                    self.rotate(token, [queries, key], groups);
                },
            );
            let bytes = self.cache.keys(head).start..self.cache.values(head).end;
            let bytes = into.cache.get_mut(bytes).unwrap_or_default();
            self.store_shared(workers, tokens.clone(), head, bytes, [into.key, into.value]);
        }
    }

    /// Biases of a token's queries, keys and values; then the norm of its queries and keys, if it
    /// comes before rotation.
    fn add_biases_and_norm(&self, [query, key, value]: [&mut [f32]; 3]) {
        let [query_bias, key_bias, value_bias] = self.biases;
        add(query, query_bias);
        add(key, key_bias);
        add(value, value_bias);
        if !self.config.qk_norm_after_rope {
            let [query_norm, key_norm] = self.norms;
            rms_norm(query, query_norm, self.config.rms_norm_eps);
            rms_norm(key, key_norm, self.config.rms_norm_eps);
        }
    }

    /// Rotation of a token's queries that belong to a kv head, and of its key; then their norm, if
    /// it comes after rotation. Queries are scaled, and quantised for quantised keys.
    fn rotate(&self, token: usize, [queries, key]: [&mut [f32]; 2], groups: &mut [InputGroup]) {
        let dims = self.dims;
        let angles = row(self.angles, dims.head_width, self.first_row + token);
        let (cos, sin) = angles
            .split_at_checked(dims.head_width / 2)
            .unwrap_or_default();
        for index in 0..dims.query_heads_per_kv {
            rope(row_mut(queries, dims.head_width, index), cos, sin);
        }
        rope(key, cos, sin);
        if self.config.qk_norm_after_rope {
            let [query_norm, key_norm] = self.norms;
            rms_norm(queries, query_norm, self.config.rms_norm_eps);
            rms_norm(key, key_norm, self.config.rms_norm_eps);
        }
        scale(queries, self.config.query_scaling_factor);
        if let Some(temperature) = self.config.attn_temperature {
            let position = self.positions.get(self.start + token).copied();
            let step = temperature.step(position.unwrap_or(0), self.rope);
            let factors = self.query_factors;
            let factor = factors.get(step as usize).or(factors.last());
            scale(queries, factor.copied().unwrap_or(1.0));
        }
        if self.kv.dtype().is_quantized() {
            for index in 0..dims.query_heads_per_kv {
                let query = row(queries, dims.head_width, index);
                self.isa
                    .quantize(query, group_row_mut(groups, dims.head_width, index));
            }
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
        let key_tile = self.kv.dtype().tile_row_bytes(dims.head_width).unwrap_or(0);
        let value_tile = TILE_ROWS * self.kv.value_bytes(dims.head_width).unwrap_or(0);
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
                    store_key(self.kv, keys, slot, row(key, dims.head_width, index));
                    store_value(self.kv, values, slot, row(value, dims.head_width, index));
                }
            });
            first += slots.len();
        }
    }
}
