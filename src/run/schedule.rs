//! [`Schedule`]: what a session computes next. Arithmetic over the table of stages; it knows no
//! weights and no buffers.

use core::ops::Range;

use pocketlm_kernels::TILE_ROWS;

use super::Plan;
use super::stage::{Job, Next, Stage, Tokens};
use crate::model::Layers;

/// A batch of tokens, and where its computation is: in which stage and layer.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    pub stage: Stage,
    /// The layer; the number of layers, if all are done.
    pub layer: u32,
    /// The byte at which the layer's part of the cache starts.
    pub cache: usize,
    /// The index of the first token in the context.
    pub start: u32,
    /// How many tokens there are.
    pub count: u32,
    /// The first token whose logits are computed, counted from the start of the batch.
    pub logits_from: u32,
    /// How many tokens' logits are computed together.
    pub logits_count: u32,
}

impl Batch {
    /// How many tokens the stage is for.
    pub fn tokens(&self) -> usize {
        match self.stage.entry().tokens {
            Tokens::Batch => self.count as usize,
            Tokens::Logits => self.logits_count as usize,
        }
    }

    /// The index in the context of the token after the last.
    pub fn end(&self) -> u32 {
        self.start + self.count
    }
}

/// The work that `start` began.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    pub batch: Batch,
    /// How many units of the stage are done.
    pub unit: usize,
    /// The index in the context of the first token given.
    pub first: u32,
    /// The index after the last token given.
    pub end: u32,
    /// The position of the first token given.
    pub position: u32,
    /// Whether the logits of every token are wanted, or the last one's only.
    pub every: bool,
}

/// What a token's elementwise work costs.
const TOKEN_COST: usize = TILE_ROWS;

impl Schedule {
    /// Begins with the tokens at the indices `tokens` of the context; `position` is that of the
    /// first.
    pub fn new(tokens: Range<u32>, position: u32, plan: &Plan<'_>) -> Self {
        let mut schedule = Schedule {
            batch: Batch {
                stage: Stage::Embed,
                layer: 0,
                cache: 0,
                start: tokens.start,
                count: 0,
                logits_from: 0,
                logits_count: 0,
            },
            unit: 0,
            first: tokens.start,
            end: tokens.end,
            position,
            every: false,
        };
        schedule.start_batch(plan);
        schedule
    }

    /// Whether all is done.
    pub fn is_done(&self) -> bool {
        self.batch.start == self.end
    }

    /// How many units the stage has, and what each costs. A cost of 1 is a row of a matrix as wide
    /// as the embedding, times one token. `visible` tells how many keys the last token of the batch
    /// sees.
    pub fn size(&self, plan: &Plan<'_>, visible: impl FnOnce() -> usize) -> (usize, usize) {
        let dims = plan.dims();
        let tokens = self.batch.tokens();
        match self.batch.stage.entry().job {
            Job::Embed | Job::PerToken(_) | Job::PrepareAttention => (tokens, TOKEN_COST),
            Job::Matmul { input, matrices } => {
                let tile_rows = |output| plan.width(output).div_ceil(TILE_ROWS);
                let units = matrices.iter().map(|&(_, output)| tile_rows(output)).sum();
                let width = plan.width(input).div_ceil(dims.embedding.max(1));
                (units, TILE_ROWS * tokens * width)
            }
            Job::Attend => {
                // A query meets each key twice: for its score, and in the weighted sum of values.
                let width = 2 * dims.head_width.div_ceil(dims.embedding.max(1));
                let cost = width * visible() * dims.query_heads_per_kv;
                (tokens * dims.kv_heads, cost)
            }
            #[cfg(feature = "convolution")]
            Job::PrepareConvolution => (tokens, TOKEN_COST),
            #[cfg(feature = "convolution")]
            Job::Convolve => (tokens, TOKEN_COST + visible()),
        }
    }

    /// Moves on from a stage that is done. Gives the tokens, as indices in the context, whose
    /// logits are ready.
    pub fn next(&mut self, plan: &Plan<'_>, layers: Layers<'_>) -> Option<Range<u32>> {
        self.unit = 0;
        let batch = &mut self.batch;
        match batch.stage.entry().next {
            Next::Stage(stage) => batch.stage = stage,
            Next::FirstLayer => self.start_layer(plan, layers),
            Next::FollowingLayer => {
                let layer = layers.get(batch.layer as usize);
                let bytes = plan.layer_cache_bytes(layer);
                batch.cache = batch.cache.saturating_add(bytes);
                batch.layer += 1;
                self.start_layer(plan, layers);
            }
            Next::MoreTokens => {
                let first = batch.start + batch.logits_from;
                let ready = first..first + batch.logits_count;
                batch.logits_from += batch.logits_count;
                self.start_logits(plan);
                return Some(ready);
            }
        }
        None
    }

    fn start_layer(&mut self, plan: &Plan<'_>, layers: Layers<'_>) {
        let batch = &mut self.batch;
        if (batch.layer as usize) < layers.len() {
            batch.stage = Stage::first(layers.kind(batch.layer as usize));
            return;
        }
        batch.logits_from = if self.every {
            0
        } else if batch.end() == self.end {
            batch.count - 1
        } else {
            // The logits of this batch are not wanted.
            batch.count
        };
        self.start_logits(plan);
    }

    /// Goes on with the tokens from `logits_from` on, or with the next batch if there are none.
    fn start_logits(&mut self, plan: &Plan<'_>) {
        let batch = &mut self.batch;
        batch.logits_count = plan.logits_tokens().min(batch.count - batch.logits_from);
        if batch.logits_count > 0 {
            batch.stage = Stage::FinalNorm;
            return;
        }
        batch.start += batch.count;
        self.start_batch(plan);
    }

    /// Takes the next tokens into a batch.
    fn start_batch(&mut self, plan: &Plan<'_>) {
        self.batch = Batch {
            stage: Stage::Embed,
            layer: 0,
            cache: 0,
            start: self.batch.start,
            count: plan.batch_tokens().min(self.end - self.batch.start),
            logits_from: 0,
            logits_count: 0,
        };
    }
}
