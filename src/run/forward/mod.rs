//! [`Forward`]: computes the stages of the [table](super::stage), with only what they may touch.

mod attention;
#[cfg(feature = "convolution")]
mod convolution;
mod embed;
mod matmul;
mod per_token;
mod prepare_attention;
#[cfg(feature = "source")]
mod streamed;

use core::ops::Range;

use bytemuck::try_cast_slice_mut;
use pocketlm_kernels::{Engine, GROUP, InputGroup, InputTile, Solo, Workers, split_chunks};

use super::buffer::Buffer;
use super::cache::{LayerCache, visible};
use super::schedule::Batch;
use super::stage::Job;
use super::weights::Weights;
use super::{BARE_METAL, Plan};
use crate::model::{Layer, Model, Rope};

/// What computes: a model, and the memory and the cores that it is computed with.
pub(super) struct Forward<'m, 'a> {
    pub model: Model<'m>,
    pub plan: Plan<'m>,
    pub engine: Engine<'a>,
    pub buffers: Buffers<'a>,
}

/// The buffers of the plan, cut out of the arena.
pub(super) struct Buffers<'a> {
    /// `[context]`.
    pub tokens: &'a mut [u32],
    /// `[context]`.
    pub positions: &'a mut [u32],
    /// All of [`Buffer`].
    pub numbers: &'a mut [f32],
    /// `[batch][…]`, the input of a quantised matmul.
    pub groups: &'a mut [InputGroup],
    /// `[batch.div_ceil(16)][…]`, the same as matrix units read it; empty for short batches.
    pub input_tiles: &'a mut [InputTile],
    /// The rotary angles of the batch, `[global, local][batch][cos, sin][P/2]`.
    pub rope: &'a mut [f32],
    /// Weights that are not in memory.
    pub weights: Weights<'a>,
    /// Layer by layer, kv head by kv head: keys, values; or the vectors of a convolution.
    pub cache: &'a mut [u8],
}

impl<'a> Buffers<'a> {
    /// Cuts `arena`, which holds all of the plan's bytes and starts at a multiple of 64.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn cut(plan: &Plan<'_>, arena: &'a mut [u8]) -> Self {
        let [
            tokens,
            hidden,
            branch,
            scratch,
            logits,
            groups,
            rope,
            weights,
            cache,
        ] = *plan.sizes();
        let mut rest = arena;
        let (tokens, positions) = numbers(cut(&mut rest, tokens))
            .split_at_mut_checked(plan.context_tokens() as usize)
            .unwrap_or_default();
        // A board has no matrix units, which alone read input tiles.
        let input_tiles = if BARE_METAL {
            0
        } else {
            plan.input_tile_bytes()
        };
        Buffers {
            tokens,
            positions,
            numbers: numbers(cut(&mut rest, hidden + branch + scratch + logits)),
            groups: numbers(cut(&mut rest, groups.saturating_sub(input_tiles))),
            input_tiles: if input_tiles > 0 {
                numbers(cut(&mut rest, input_tiles))
            } else {
                &mut []
            },
            rope: numbers(cut(&mut rest, rope)),
            weights: Weights::new(plan, cut(&mut rest, weights)),
            cache: cut(&mut rest, cache),
        }
    }
}

/// Multiply-adds from which a job is shared between workers. Below, waking them costs more than it
/// saves.
const SHARED_FROM: usize = 1 << 18;
/// Cost of an elementwise operation, in multiply-adds.
const ELEMENT_COST: usize = 16;

impl Forward<'_, '_> {
    /// Computes units `units` of the batch's stage. Returns how many it computed: fewer if weights
    /// could not be read.
    pub fn compute(&mut self, batch: &Batch, units: Range<usize>) -> usize {
        #[cfg(feature = "source")]
        if self.buffers.weights.has_source() {
            return self.compute_from_source(batch, units);
        }
        let count = units.len();
        self.compute_units(batch, units);
        count
    }

    /// The same with weights that are in memory.
    // Each of these is a function by itself: else the variables of all would lie on the stack at
    // once.
    fn compute_units(&mut self, batch: &Batch, units: Range<usize>) {
        match batch.stage.entry().job {
            Job::Embed => units.for_each(|token| self.embed(batch, token)),
            Job::PerToken(job) => self.per_token(batch, job, units),
            Job::Matmul { input, matrices } => self.matmul(batch, input, matrices, units),
            Job::PrepareAttention => {
                if BARE_METAL {
                    units.for_each(|token| self.prepare_attention(batch, token..token + 1));
                } else {
                    self.prepare_attention(batch, units);
                }
            }
            Job::Attend => self.attend(batch, units),
            #[cfg(feature = "convolution")]
            Job::PrepareConvolution => self.prepare_convolution(batch, units),
            #[cfg(feature = "convolution")]
            Job::Convolve => self.convolve(batch, units),
        }
    }

    /// How many keys the last token of the batch sees.
    pub fn visible_keys(&self, batch: &Batch) -> usize {
        let last = batch.end().saturating_sub(1) as usize;
        visible(self.buffers.positions, self.layer(batch).window, last).len()
    }

    fn layer(&self, batch: &Batch) -> Layer {
        self.model.layers().get(batch.layer as usize)
    }

    fn layer_cache(&self, batch: &Batch) -> LayerCache {
        LayerCache::new(&self.plan, self.layer(batch), batch.cache)
    }

    /// Where the rotary angles of a token of the batch are: their row of P numbers.
    fn rope_row(&self, rope: Rope, token: usize) -> usize {
        match rope {
            Rope::Local => self.plan.batch_tokens() as usize + token,
            Rope::None | Rope::Global => token,
        }
    }

    /// How many of the `width` numbers that the stage writes to a row are quantised as well: all,
    /// if one of the matrices that read them is quantised, else none.
    fn quantized_width(&self, batch: &Batch, width: usize) -> usize {
        let matrix = |kind| self.model.location(batch.layer, kind);
        let mut readers = batch.stage.readers().iter();
        if readers.any(|&(kind, _)| matrix(kind).dtype.is_quantized()) {
            width
        } else {
            0
        }
    }
}

/// Several buffers at once. No two of them may share a place.
#[cfg_attr(target_os = "none", inline(never))]
fn split<'b>(numbers: &'b mut [f32], plan: &Plan<'_>, buffers: [Buffer; 4]) -> [&'b mut [f32]; 4] {
    let ranges = buffers.map(|buffer| plan.range(buffer));
    numbers.get_disjoint_mut(ranges).unwrap_or_default()
}

/// One buffer.
#[cfg_attr(target_os = "none", inline(never))]
pub(super) fn buffer<'b>(numbers: &'b mut [f32], plan: &Plan<'_>, buffer: Buffer) -> &'b mut [f32] {
    numbers.get_mut(plan.range(buffer)).unwrap_or_default()
}

/// The workers for a job of `work` multiply-adds.
fn workers(engine: Engine<'_>, work: usize) -> &dyn Workers {
    if work < SHARED_FROM {
        &Solo
    } else {
        engine.workers
    }
}

/// The workers for an elementwise operation on `numbers` elements.
fn row_workers(engine: Engine<'_>, numbers: usize) -> &dyn Workers {
    workers(engine, numbers.saturating_mul(ELEMENT_COST))
}

/// For each row index in `rows`, calls `job` with that row of each of the three buffers and of
/// `groups`. `workers` share the rows.
///
/// The `usize` beside a buffer is the length of its rows. The one beside `groups` is how many `f32`
/// a row of groups quantises. Length 0: there is no such buffer, and `job` gets an empty row.
#[inline(always)]
fn each_row(
    workers: &dyn Workers,
    buffers: [(&mut [f32], usize); 3],
    (groups, quantized_width): (&mut [InputGroup], usize),
    rows: Range<usize>,
    job: impl Fn(usize, [&mut [f32]; 3], &mut [InputGroup]) + Sync,
) {
    let [a, b, c] = buffers;
    // As numbers, which groups are made of.
    let numbers = quantized_width.div_ceil(GROUP) * size_of::<InputGroup>() / size_of::<f32>();
    let groups = (try_cast_slice_mut(groups).unwrap_or_default(), numbers);
    split_chunks(
        workers,
        [a, b, c, groups],
        rows,
        |index, [a, b, c, groups]| {
            let groups = try_cast_slice_mut(groups).unwrap_or_default();
            job(index, [a, b, c], groups);
        },
    );
}

/// `to = from`.
fn copy(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Some rows of a buffer of rows of `width` numbers.
#[cfg_attr(target_os = "none", inline(never))]
fn rows(buffer: &[f32], width: usize, rows: Range<usize>) -> &[f32] {
    let range = rows.start * width..rows.end * width;
    buffer.get(range).unwrap_or_default()
}

/// Some rows of a buffer of rows of `width` numbers.
#[cfg_attr(target_os = "none", inline(never))]
fn rows_mut(buffer: &mut [f32], width: usize, rows: Range<usize>) -> &mut [f32] {
    let range = rows.start * width..rows.end * width;
    buffer.get_mut(range).unwrap_or_default()
}

/// One row.
fn row(buffer: &[f32], width: usize, index: usize) -> &[f32] {
    rows(buffer, width, index..index + 1)
}

/// One row.
pub(super) fn row_mut(buffer: &mut [f32], width: usize, index: usize) -> &mut [f32] {
    rows_mut(buffer, width, index..index + 1)
}

/// The groups of row `index`, where rows have `width` numbers each.
#[cfg_attr(target_os = "none", inline(never))]
fn group_row_mut(groups: &mut [InputGroup], width: usize, index: usize) -> &mut [InputGroup] {
    let width = width.div_ceil(GROUP);
    groups
        .get_mut(index * width..(index + 1) * width)
        .unwrap_or_default()
}

/// Cuts the first `bytes` off `rest`.
#[cfg_attr(target_os = "none", inline(never))]
fn cut<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (part, after) = core::mem::take(rest)
        .split_at_mut_checked(bytes)
        .unwrap_or_default();
    *rest = after;
    part
}

/// Bytes of the arena as numbers. Every part starts at a multiple of 64. It is padded to one as
/// well, so that it may end with bytes that are not a whole number.
#[cfg_attr(target_os = "none", inline(never))]
fn numbers<T: bytemuck::Pod>(bytes: &mut [u8]) -> &mut [T] {
    let whole = bytes.len() / size_of::<T>() * size_of::<T>();
    try_cast_slice_mut(bytes.get_mut(..whole).unwrap_or_default()).unwrap_or_default()
}
