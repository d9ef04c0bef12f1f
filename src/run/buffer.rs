//! [`Buffer`]: the rows of numbers that the stages read and write. They share one part of the
//! arena, where [`Plan::range`] says what lies where.

use core::ops::Range;

use super::Plan;
use crate::model::Dims;

/// A buffer with a row for each token of the batch. The letters are those of
/// [`TensorKind`](crate::model::TensorKind), `B` is the batch and `M` is `H / K`. Where two buffers
/// share memory, one is no longer needed when the other is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Buffer {
    /// No buffer: fills the unused places where four are asked for.
    None,
    /// `[B][D]`, the residual stream.
    Hidden,
    /// `[B][D]`, both ends of a branch off the residual stream: its input, normed; later its
    /// output, until that joins the stream. After the last layer, the input of `lm_head`, normed.
    Branch,
    /// `[B][H P]`, the queries as they come out of the matmul.
    Query,
    /// `[B][K P]`.
    Key,
    /// `[B][K P]`.
    Value,
    /// `[K][tokens][M P]`, the queries that meet the same keys together, ready to meet them.
    QueryByHead,
    /// `[K][tokens][M P]`, the result of attention. In the memory of `Query`.
    AttendedByHead,
    /// `[B][H P]`, the same, token by token. In the memory of `QueryByHead`.
    Attended,
    /// Attention scores, for as many pairs of a token and a kv head as there is room for:
    /// `[H/K][rows of the layer's cache]` each.
    Scores,
    /// `[B][F]`, the half of the feed-forward that gets the activation. In the memory of
    /// attention's.
    Gate,
    /// `[B][F]`, the other half.
    Up,
    /// `[logits][V]`.
    Logits,
    /// `[B][3 D]`, what a convolution makes of its input: `b`, `c`, `x`. In the memory of
    /// attention's. It and the next come last: the others have the same numbers without them.
    #[cfg(feature = "convolution")]
    ConvIn,
    /// `[B][D]`, the result of a convolution, times `c`.
    #[cfg(feature = "convolution")]
    Convolved,
}

const CONVOLUTION_BUFFERS: usize = if cfg!(feature = "convolution") { 2 } else { 0 };

impl Buffer {
    pub const COUNT: usize = Buffer::Logits as usize + 1 + CONVOLUTION_BUFFERS;
}

impl Plan<'_> {
    /// Numbers in a row of a buffer.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(super) const fn width(&self, buffer: Buffer) -> usize {
        let dims = self.dims();
        match buffer {
            Buffer::None | Buffer::Scores => 0,
            Buffer::Hidden | Buffer::Branch => dims.embedding,
            Buffer::Query | Buffer::QueryByHead | Buffer::AttendedByHead | Buffer::Attended => {
                dims.queries_width
            }
            Buffer::Key | Buffer::Value => dims.keys_width,
            Buffer::Gate | Buffer::Up => dims.feed_forward,
            #[cfg(feature = "convolution")]
            Buffer::ConvIn => 3 * dims.convolved,
            #[cfg(feature = "convolution")]
            Buffer::Convolved => dims.convolved,
            Buffer::Logits => dims.vocabulary,
        }
    }

    /// Where a buffer lies among the numbers that the stages work on.
    pub(super) fn range(&self, buffer: Buffer) -> Range<usize> {
        let [start, end] = self
            .layout()
            .get(buffer as usize)
            .copied()
            .unwrap_or([0; 2]);
        start..end
    }
}

/// Where each [`Buffer`] starts and ends.
pub(super) type Layout = [[usize; 2]; Buffer::COUNT];

/// The layout of the numbers that the stages work on, for a batch of `batch` tokens: the parts
/// `hidden`, `branch`, `scratch` and `logits`, of so many numbers each, lie one after the other. If
/// a size overflows, the layout is of no use, nor is the plan.
pub(super) const fn layout(dims: &Dims, batch: usize, parts: [usize; 4]) -> Layout {
    let [hidden, branch, scratch, logits] = parts;
    let queries = batch.saturating_mul(dims.queries_width);
    let keys = batch.saturating_mul(dims.keys_width);
    let feed_forward = batch.saturating_mul(dims.feed_forward);

    let hidden = after(0, hidden);
    let branch = after(hidden[1], branch);
    let scratch = after(branch[1], scratch);
    let logits = after(scratch[1], logits);
    // Attention:
    let query = after(scratch[0], queries);
    let key = after(query[1], keys);
    let value = after(key[1], keys);
    let query_by_head = after(value[1], queries);
    let scores = [query_by_head[1], scratch[1]];
    // The feed-forward:
    let gate = after(scratch[0], feed_forward);
    let up = after(gate[1], feed_forward);

    let mut layout = [[0; 2]; Buffer::COUNT];
    layout[Buffer::Hidden as usize] = hidden;
    layout[Buffer::Branch as usize] = branch;
    layout[Buffer::Query as usize] = query;
    layout[Buffer::Key as usize] = key;
    layout[Buffer::Value as usize] = value;
    layout[Buffer::QueryByHead as usize] = query_by_head;
    layout[Buffer::AttendedByHead as usize] = query;
    layout[Buffer::Attended as usize] = query_by_head;
    layout[Buffer::Scores as usize] = scores;
    layout[Buffer::Gate as usize] = gate;
    layout[Buffer::Up as usize] = up;
    layout[Buffer::Logits as usize] = logits;
    #[cfg(feature = "convolution")]
    {
        let convolved = batch.saturating_mul(dims.convolved);
        let conv_in = after(scratch[0], convolved.saturating_mul(3));
        layout[Buffer::ConvIn as usize] = conv_in;
        layout[Buffer::Convolved as usize] = after(conv_in[1], convolved);
    }
    layout
}

const fn after(start: usize, length: usize) -> [usize; 2] {
    [start, start.saturating_add(length)]
}
