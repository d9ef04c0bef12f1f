//! Attention: each query meets the keys that it sees. Scores, softmax, weighted sum of values.

use core::num::{NonZeroU32, NonZeroUsize};
use core::ops::Range;

use pocketlm_kernels::vector::scale;
use pocketlm_kernels::{
    Engine, Input, InputGroup, Isa, Kv, Matrix, RowsMut, Solo, TILE_ROWS, Workers, split_chunks,
};

use super::{Forward, row_mut, rows, rows_mut, split};
use crate::model::Dims;
use crate::run::BARE_METAL;
use crate::run::buffer::Buffer;
use crate::run::cache::{LayerCache, visible};
use crate::run::schedule::Batch;

/// The most queries that meet the keys of a head together: enough for a kernel to widen keys once
/// for several, few enough for their scores to stay in a cache.
const QUERIES: usize = 48;

/// The most queries of a token whose values are read together. One by one is as fast on a board.
const SHARED: usize = if BARE_METAL { 1 } else { 16 };

impl Forward<'_, '_> {
    /// Attention for `units`, which count the tokens of the first kv head, then those of the
    /// second, and so on.
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
        let workers = if !BARE_METAL && pieces == 1 {
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
    /// `[K][tokens][M P]`.
    queries: &'s [f32],
    /// The same quantised, if keys are.
    groups: &'s [InputGroup],
}

impl Attention<'_> {
    /// Numbers in the queries of a unit, and in its result.
    fn width(&self) -> usize {
        self.dims.kv_group_width()
    }

    /// Scores of a unit.
    fn unit_scores(&self) -> usize {
        self.dims.query_heads_per_kv * self.cache.rows
    }

    /// How many of `units` units are computed together, at least 1.
    fn together(&self, workers: &dyn Workers, units: usize) -> usize {
        let queries = QUERIES
            .checked_div(self.dims.query_heads_per_kv)
            .unwrap_or(0);
        let together = queries.min(self.tokens.get()).min(units);
        // Workers are not equally fast, so there are two pieces for each. A board's batch is short.
        let share = if BARE_METAL || workers.count() <= 1 {
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

    /// The scores of `count` tokens from `token` on, whose units start with `unit`, with the keys
    /// of a kv head: `[count][H/K][rows]`.
    fn scores(&self, unit: usize, token: usize, count: usize, keys: &[u8], scores: &mut [f32]) {
        let cached = self.cache.rows;
        let keys = Matrix::new(self.kv.dtype(), cached, self.dims.head_width, keys);
        let keys = keys.unwrap_or(Matrix::EMPTY);
        let query_groups = self.dims.query_groups_per_kv();
        let input = Input {
            count: count * self.dims.query_heads_per_kv,
            values: rows(self.queries, self.width(), unit..unit + count),
            groups: self.groups.get(unit * query_groups..).unwrap_or_default(),
            tiles: &[],
        };
        // All keys that one of these tokens sees. A tile may hold keys that none of them sees, or
        // none at all: their scores are computed and never read.
        let first = visible(self.positions, self.window, self.start + token).start;
        let mut out = RowsMut::all(scores, cached);
        for slots in self.cache.slots(first..self.start + token + count) {
            let tile_rows = slots.start / TILE_ROWS..slots.end.div_ceil(TILE_ROWS);
            let mut part = out.part(tile_rows.start * TILE_ROWS..cached);
            self.isa.matmul(&keys, &input, tile_rows, &mut part);
        }
    }

    /// Softmax and weighted sum of values for a token that sees the tokens `visible`.
    fn token(&self, visible: Range<usize>, values: &[u8], scores: &mut [f32], out: &mut [f32]) {
        let slots = self.cache.slots(visible);
        let cached = self.cache.rows;
        // The queries of a token see the same keys, so values are read once for several.
        for first in (0..self.dims.query_heads_per_kv).step_by(SHARED) {
            let end = self.dims.query_heads_per_kv.min(first + SHARED);
            let scores = rows_mut(scores, cached, first..end);
            let out = rows_mut(out, self.dims.head_width, first..end);
            let mut normalizers = [0.0; SHARED];
            for (query, normalizer) in (0..end - first).zip(&mut normalizers) {
                *normalizer = self.softmax(&slots, row_mut(scores, cached, query));
            }
            let [older, newer] = slots.clone();
            out.fill(0.0);
            let count = end - first;
            self.isa
                .weighted_sum(self.kv, values, older, scores, out, count);
            self.isa
                .weighted_sum(self.kv, values, newer, scores, out, count);
            for (query, normalizer) in (0..count).zip(normalizers) {
                scale(row_mut(out, self.dims.head_width, query), normalizer);
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
