//! [`Buffer`]: the rows of numbers that the stages read and write. They share one part of the
//! arena, where [`Plan::range`] says what lies where.

use core::ops::Range;

use super::Plan;

/// A buffer with a row for each token of the batch. Letters as in [`Role`](crate::model::Role), `B`
/// the batch; where two buffers share a place, one is no longer needed when the other is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Buffer {
    /// Where a stage needs fewer buffers than there is room to name.
    None,
    /// `[B][D]`, the residual stream.
    Hidden,
    /// `[B][D]`, the input of a matmul, normed; or the output of one on its way to the residual
    /// stream.
    Normed,
    /// `[B][H P]`, the queries as they come out of the matmul.
    Query,
    /// `[B][K P]`.
    Key,
    /// `[B][K P]`.
    Value,
    /// `[K][tokens][H/K P]`, the queries that meet the same keys together, ready to meet them.
    QueryByHead,
    /// `[K][tokens][H/K P]`, the result of attention. In the place of `Query`.
    AttendedByHead,
    /// `[B][H P]`, the same, token by token. In the place of `QueryByHead`.
    Attended,
    /// Attention scores, for as many pairs of a token and a kv head as there is room for:
    /// `[H/K][rows of the layer's cache]` each.
    Scores,
    /// `[B][F]`, the branch of the feed-forward with the activation. In the place of attention's.
    Gate,
    /// `[B][F]`, the branch without.
    Up,
    /// `[logits][V]`.
    Logits,
}

impl Plan<'_> {
    /// Numbers in a row of a buffer.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(super) const fn width(&self, buffer: Buffer) -> usize {
        let dims = self.dims();
        match buffer {
            Buffer::None | Buffer::Scores => 0,
            Buffer::Hidden | Buffer::Normed => dims.embedding,
            Buffer::Query | Buffer::QueryByHead | Buffer::AttendedByHead | Buffer::Attended => {
                dims.queries
            }
            Buffer::Key | Buffer::Value => dims.keys,
            Buffer::Gate | Buffer::Up => dims.hidden,
            Buffer::Logits => dims.vocabulary,
        }
    }

    /// Where a buffer lies among the numbers that the stages work on.
    pub(super) fn range(&self, buffer: Buffer) -> Range<usize> {
        let batch = self.batch_tokens() as usize;
        let [hidden, normed, scratch, logits] = self.numbers();
        let scratch_start = hidden + normed;
        let logits_start = scratch_start + scratch;
        let dims = self.dims();
        let queries = batch * dims.queries;
        let keys = batch * dims.keys;
        let (start, width) = match buffer {
            Buffer::None => (0, 0),
            Buffer::Hidden => (0, dims.embedding),
            Buffer::Normed => (hidden, dims.embedding),
            Buffer::Query | Buffer::AttendedByHead => (scratch_start, dims.queries),
            Buffer::Key => (scratch_start + queries, dims.keys),
            Buffer::Value => (scratch_start + queries + keys, dims.keys),
            Buffer::QueryByHead | Buffer::Attended => {
                (scratch_start + queries + 2 * keys, dims.queries)
            }
            Buffer::Scores => return scratch_start + 2 * (queries + keys)..logits_start,
            Buffer::Gate => (scratch_start, dims.hidden),
            Buffer::Up => (scratch_start + batch * dims.hidden, dims.hidden),
            Buffer::Logits => return logits_start..logits_start + logits,
        };
        start..start + batch * width
    }
}
