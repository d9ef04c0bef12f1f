//! The forward pass, one stage at a time. Read from top to bottom, [`Stage`] is the transformer:
//! embed; for each layer norm, attention, residual, norm, feed-forward, residual; final norm,
//! output matrix.
//!
//! A stage is a number of independent units (tile rows of a product, or tokens, or heads), so it
//! can stop after any of them and go on later: [`Session::step`] and [`Session::feed`] differ only
//! in how many units they do at once.

use core::ops::Range;

use bytemuck::try_cast_slice_mut;

use pocketlm_kernels::vector::{add, rms_norm, rms_norm_in_place, rope_table, scale};
use pocketlm_kernels::{
    Activation, Engine, GROUP, Input, InputGroup, InputTile, Isa, Output, Solo, TILE_ROWS, Workers,
    split_chunks, split_rows,
};

use super::Session;
use super::session::{Buffers, Work};
use super::weights::MatrixPart;
use crate::model::{MlpVariant, Place, Role, Rope};

/// What is computed, in this order; the stages from `AttentionNorm` to `FfwResidual` once for each
/// layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing to do.
    Idle,
    /// Token by token: `hidden` = the embedding, and the rotary tables of its position.
    Embed,
    /// Token by token: `normed` = norm of `hidden`.
    AttentionNorm,
    /// Tile row by tile row: queries, keys, values.
    QueryKeyValue,
    /// Token by token: bias, qk-norm, rotation; keys and values into the cache.
    Cache,
    /// Token by token of head by head: scores, softmax, mix.
    Attend,
    /// Token by token: what attention gave, all heads together, as the next product takes it.
    Attended,
    /// Tile row by tile row: the projection back, into `normed`.
    Output,
    /// Token by token: bias and post norm, onto `hidden`; `normed` = norm of that.
    AttentionResidual,
    /// Tile row by tile row: both branches of the feed-forward.
    GateValue,
    /// Token by token: the activation.
    Activate,
    /// Tile row by tile row: the way back, into `normed`.
    Out,
    /// Token by token: bias and post norm, onto `hidden`.
    FfwResidual,
    /// Token by token of those whose logits are wanted: `normed` = norm of `hidden`.
    FinalNorm,
    /// Tile row by tile row: the logits.
    Head,
}

impl Stage {
    /// The stage after this one, within a layer and past the last.
    pub(super) fn next(self) -> Stage {
        match self {
            Stage::Idle | Stage::Head => Stage::Idle,
            Stage::Embed => Stage::AttentionNorm,
            Stage::AttentionNorm => Stage::QueryKeyValue,
            Stage::QueryKeyValue => Stage::Cache,
            Stage::Cache => Stage::Attend,
            Stage::Attend => Stage::Attended,
            Stage::Attended => Stage::Output,
            Stage::Output => Stage::AttentionResidual,
            Stage::AttentionResidual => Stage::GateValue,
            Stage::GateValue => Stage::Activate,
            Stage::Activate => Stage::Out,
            Stage::Out => Stage::FfwResidual,
            Stage::FfwResidual => Stage::FinalNorm,
            Stage::FinalNorm => Stage::Head,
        }
    }
}

/// Multiply-adds from which work is shared between workers.
const SHARED_FROM: usize = 1 << 18;
/// How many of them what happens to an element between two products takes as long as.
const ROW_COST: usize = 16;
/// The rows a unit of elementwise work is counted as.
const TOKEN_COST: usize = TILE_ROWS;
/// The fewest rows of a matrix that are worth claiming: a kernel walks several tile rows at once.
const PIECE: usize = 4 * TILE_ROWS;

/// The fewest inputs for which a worker goes through all weights, and not only its share of them
/// with all inputs.
const TOGETHER: usize = 4 * InputTile::INPUTS;

/// Sizes that the buffers are cut by.
#[derive(Clone, Copy)]
pub(super) struct Widths {
    /// D.
    pub embedding: usize,
    /// P.
    pub projection: usize,
    /// H P.
    pub queries: usize,
    /// K P.
    pub keys: usize,
    /// F.
    pub hidden: usize,
}

impl<'m, 'a> Session<'m, 'a> {
    #[cfg_attr(target_os = "none", inline(never))]
    pub(super) fn widths(&self) -> Widths {
        let config = self.model.config();
        let projection = config.projection_dim as usize;
        Widths {
            embedding: config.embedding_dim as usize,
            projection,
            queries: config.num_query_heads() as usize * projection,
            keys: config.num_kv_heads as usize * projection,
            hidden: config.mlp_hidden_dim as usize,
        }
    }

    #[cfg_attr(target_os = "none", inline(never))]
    fn place(&self, role: Role) -> Place {
        self.model.place(self.work.layer, role)
    }

    /// The matrix that turns the last hidden state into logits.
    fn head_role(&self) -> &'static Role {
        if self.model.config().tie_embedder_and_logits {
            &Role::Embedder
        } else {
            &Role::LmHead
        }
    }

    /// The matrices of a stage that is a product.
    pub(super) fn product_roles(&self) -> &'static [Role] {
        match self.work.stage {
            Stage::QueryKeyValue => &[Role::Query, Role::Key, Role::Value],
            Stage::Output => &[Role::Output],
            Stage::GateValue => &[Role::GatingLinear, Role::ValueLinear],
            Stage::Out => &[Role::OutLinear],
            Stage::Head => core::slice::from_ref(self.head_role()),
            Stage::Idle
            | Stage::Embed
            | Stage::AttentionNorm
            | Stage::Cache
            | Stage::Attend
            | Stage::Attended
            | Stage::AttentionResidual
            | Stage::Activate
            | Stage::FfwResidual
            | Stage::FinalNorm => &[],
        }
    }

    /// How many tokens the current stage is for.
    fn stage_tokens(&self) -> usize {
        let Work {
            stage,
            count,
            heads,
            ..
        } = self.work;
        match stage {
            Stage::FinalNorm | Stage::Head => heads as usize,
            Stage::Idle
            | Stage::Embed
            | Stage::AttentionNorm
            | Stage::QueryKeyValue
            | Stage::Cache
            | Stage::Attend
            | Stage::Attended
            | Stage::Output
            | Stage::AttentionResidual
            | Stage::GateValue
            | Stage::Activate
            | Stage::Out
            | Stage::FfwResidual => count as usize,
        }
    }

    /// How many units the current stage has, and what each costs: the unit of that is a row of the
    /// embedding's width times one token.
    pub(super) fn size(&self) -> (usize, usize) {
        let (tokens, roles) = (self.stage_tokens(), self.product_roles());
        let tile_rows = roles.iter().map(|&role| self.place(role).tile_rows()).sum();
        let widths = self.widths();
        let tile_row =
            |columns: usize| TILE_ROWS * tokens * columns.div_ceil(widths.embedding.max(1));
        match self.work.stage {
            Stage::Idle => (0, 0),
            Stage::QueryKeyValue | Stage::GateValue => (tile_rows, tile_row(widths.embedding)),
            Stage::Output => (tile_rows, tile_row(widths.queries)),
            Stage::Out => (tile_rows, tile_row(widths.hidden)),
            Stage::Head => (tile_rows, tile_row(widths.embedding)),
            Stage::FinalNorm => (tokens, TOKEN_COST),
            Stage::Attend => {
                let config = self.model.config();
                let (_, keys) = self.visible(tokens.saturating_sub(1));
                // Each key is met twice by each query: in the scores and, with its value, in the
                // mix.
                let rows = 2 * widths.projection.div_ceil(widths.embedding.max(1));
                (
                    tokens * config.num_kv_heads as usize,
                    rows * keys * config.query_head_multiplier as usize,
                )
            }
            Stage::Embed
            | Stage::AttentionNorm
            | Stage::Cache
            | Stage::Attended
            | Stage::AttentionResidual
            | Stage::Activate
            | Stage::FfwResidual => (tokens, TOKEN_COST),
        }
    }

    /// Computes units `units` of the current stage. `false` if weights could not be read: units
    /// before those that lack them may be done.
    pub(super) fn compute(&mut self, units: Range<usize>) -> bool {
        #[cfg(feature = "source")]
        if self.buffers.weights.is_lent() {
            return self.compute_from_source(units);
        }
        self.compute_units(units);
        true
    }

    /// The same with weights that are there.
    pub(super) fn compute_units(&mut self, units: Range<usize>) {
        match self.work.stage {
            Stage::Idle => {}
            Stage::QueryKeyValue | Stage::Output | Stage::GateValue | Stage::Out | Stage::Head => {
                self.products(units)
            }
            Stage::Attend => self.attend(units),
            Stage::Embed => units.for_each(|token| self.compute_token(token, true)),
            Stage::Cache => {
                if !cfg!(target_os = "none") && units.len() > 1 {
                    self.store_shared(units)
                } else {
                    units.for_each(|token| self.compute_token(token, false))
                }
            }
            Stage::AttentionNorm
            | Stage::Attended
            | Stage::AttentionResidual
            | Stage::Activate
            | Stage::FfwResidual
            | Stage::FinalNorm => self.rows(units),
        }
    }

    /// The same for one token, of `Embed` (if `embeds`) or `Cache`.
    // Not part of its caller, nor are the other stages: their variables would all lie on the stack
    // at once.
    #[inline(never)]
    fn compute_token(&mut self, token: usize, embeds: bool) {
        if embeds {
            self.embed(token)
        } else {
            self.store(token)
        }
    }

    fn embed(&mut self, token: usize) {
        let widths = self.widths();
        let index = self.work.start as usize + token;
        let id = self.buffers.tokens.get(index).copied().unwrap_or(0);
        let position = self.buffers.positions.get(index).copied().unwrap_or(0);
        let hidden = row_mut(self.buffers.hidden, widths.embedding, token);
        let MatrixPart { matrix, first, .. } =
            self.buffers.weights.matrix(&self.model, 0, Role::Embedder);
        matrix.row((id as usize).saturating_sub(first * TILE_ROWS), hidden);
        let factor = self.model.config().embedding_scale;
        if factor != 1.0 {
            scale(hidden, factor);
        }
        for rope in [Rope::Global, Rope::Local] {
            let (amplitude, frequencies) = self.model.rope(rope);
            let (row, cosines) = self.rope_row(rope, token);
            let table = row_mut(self.buffers.rope, widths.projection, row);
            let (cos, sin) = table.split_at_mut_checked(cosines).unwrap_or_default();
            rope_table(position, frequencies, amplitude, cos, sin);
        }
    }

    /// Where the rotary table of a token of the batch is: its row of P numbers, and how many of
    /// them are cosines.
    pub(super) fn rope_row(&self, rope: Rope, token: usize) -> (usize, usize) {
        let table = if rope == Rope::Local {
            self.plan.batch_tokens() as usize
        } else {
            0
        };
        (
            table + token,
            self.model.config().projection_dim as usize / 2,
        )
    }

    /// What happens between two products to each token's row by itself.
    #[inline(never)]
    fn rows(&mut self, tokens: Range<usize>) {
        let (widths, batch) = (self.widths(), self.plan.batch_tokens() as usize);
        let (count, config) = (self.stage_tokens(), self.model.config());
        // See `Between`; and what meets the row that comes of it.
        let (step, bias, other, norm, matrices): (_, _, _, _, &[Role]) = match self.work.stage {
            Stage::AttentionNorm => (
                Step::Norm,
                None,
                None,
                Some(Role::PreAttentionNorm),
                &[Role::Query, Role::Key, Role::Value],
            ),
            Stage::Attended => (Step::Gather, None, None, None, &[Role::Output]),
            Stage::AttentionResidual => (
                Step::Residual,
                Some(Role::OutputBias),
                Some(Role::PostAttentionNorm),
                Some(Role::PreFfwNorm),
                &[Role::GatingLinear, Role::ValueLinear],
            ),
            Stage::Activate => (
                Step::Activate,
                Some(Role::GatingLinearBias),
                Some(Role::ValueLinearBias),
                None,
                &[Role::OutLinear],
            ),
            Stage::FfwResidual => (
                Step::Residual,
                Some(Role::OutLinearBias),
                Some(Role::PostFfwNorm),
                None,
                &[],
            ),
            Stage::FinalNorm => (
                Step::Norm,
                None,
                None,
                Some(Role::FinalNorm),
                core::slice::from_ref(self.head_role()),
            ),
            // These are not computed row by row.
            Stage::Idle
            | Stage::Embed
            | Stage::QueryKeyValue
            | Stage::Cache
            | Stage::Attend
            | Stage::Output
            | Stage::GateValue
            | Stage::Out
            | Stage::Head => return,
        };
        let quantized = self.any_quantized(matrices);
        let Buffers {
            hidden,
            normed,
            scratch,
            groups,
            blocks,
            weights,
            ..
        } = &mut self.buffers;
        let vector = |role: Option<Role>| {
            role.map_or(&[] as &[f32], |role| {
                weights.vector(&self.model, self.work.layer, role)
            })
        };
        let (bias, other, norm) = (vector(bias), vector(other), vector(norm));
        let (mut by_head, mut rows): (&[f32], _) = (
            &[],
            [
                (&mut **hidden, widths.embedding),
                (&mut **normed, widths.embedding),
            ],
        );
        match step {
            Step::Gather => {
                let [attention, _, _, attended, _] = attention_parts(scratch, batch, widths);
                by_head = attention;
                rows = [(attended, widths.queries), (&mut [], 0)];
            }
            Step::Activate => {
                rows = ffw_parts(scratch, batch, widths).map(|branch| (branch, widths.hidden))
            }
            // The final norm writes the rows of the tokens from `work.head` on to the first places.
            // In a layer, `work.head` is 0.
            Step::Norm => {
                let [(hidden, _), _] = &mut rows;
                *hidden = core::mem::take(hidden)
                    .get_mut(self.work.head as usize * widths.embedding..)
                    .unwrap_or_default();
            }
            Step::Residual => {}
        }
        let [first, second] = rows;
        let isa = self.engine.isa;
        let groups = (&mut **groups, if quantized { first.1 } else { 0 });
        let between = Between {
            step,
            isa,
            bias,
            other,
            norm,
            eps: config.rms_norm_eps,
            activation: match config.mlp_variant {
                MlpVariant::GegluExact => Activation::GeluExact,
                MlpVariant::GegluApprox => Activation::GeluApprox,
                MlpVariant::Swiglu => Activation::Silu,
            },
            by_head,
            heads: config.num_kv_heads as usize,
            head_width: config.query_head_multiplier as usize * widths.projection,
            tokens: count,
        };
        let workers = row_workers(self.engine, tokens.len().saturating_mul(first.1));
        let rows = [first, second, (&mut [], 0)];
        each_row(
            workers,
            rows,
            (&mut *groups.0, groups.1),
            tokens.clone(),
            |token, [first, second, _], groups| {
                between.compute(token, first, second, groups);
            },
        );
        // Once all of them are there. There are no such blocks for a microcontroller.
        if !cfg!(target_os = "none") && tokens.end == count && isa.arranges(count) {
            let width = groups.1.div_ceil(GROUP);
            isa.arrange(
                workers,
                groups.0.get(..count * width).unwrap_or_default(),
                count,
                blocks,
            );
        }
    }

    /// The products of the stage's matrices with the rows of its tokens; `units` counts their tile
    /// rows one after the other.
    #[inline(never)]
    fn products(&mut self, units: Range<usize>) {
        let (widths, batch) = (self.widths(), self.plan.batch_tokens() as usize);
        let (roles, stage, count) = (self.product_roles(), self.work.stage, self.stage_tokens());
        let Buffers {
            scratch,
            normed,
            logits,
            groups,
            blocks,
            weights,
            ..
        } = &mut self.buffers;
        // Three outputs whatever there are, of which some may be empty: one copy of this in the
        // program, not one a number.
        let (values, values_out): (&[f32], [&mut [f32]; 3]) = match stage {
            Stage::QueryKeyValue => {
                let [query, key, value, ..] = attention_parts(scratch, batch, widths);
                (normed, [query, key, value])
            }
            Stage::Output => {
                let [_, _, _, attended, _] = attention_parts(scratch, batch, widths);
                (attended, [normed, &mut [], &mut []])
            }
            Stage::GateValue => {
                let [gating, value] = ffw_parts(scratch, batch, widths);
                (normed, [gating, value, &mut []])
            }
            Stage::Out => {
                let [gating, _] = ffw_parts(scratch, batch, widths);
                (gating, [normed, &mut [], &mut []])
            }
            Stage::Head => (normed, [logits, &mut [], &mut []]),
            // These are not products.
            Stage::Idle
            | Stage::Embed
            | Stage::AttentionNorm
            | Stage::Cache
            | Stage::Attend
            | Stage::Attended
            | Stage::AttentionResidual
            | Stage::Activate
            | Stage::FfwResidual
            | Stage::FinalNorm => return,
        };
        let cap = if stage == Stage::Head {
            self.model.config().final_logit_softcap
        } else {
            None
        };
        let isa = self.engine.isa;
        // There is no such table for a microcontroller.
        let blocks: &[InputTile] = if !cfg!(target_os = "none") && isa.arranges(count) {
            blocks
        } else {
            &[]
        };
        let input = Input {
            count,
            values,
            groups,
            tiles: blocks,
        };

        let mut matrices = [MatrixPart::NONE; 3];
        let (mut before, mut work) = (0, 0usize);
        let mut index = 0;
        let outputs = values_out.map(|values| {
            let weights = roles.get(index).map_or(MatrixPart::NONE, |&role| {
                weights.matrix(&self.model, self.work.layer, role)
            });
            if let Some(slot) = matrices.get_mut(index) {
                *slot = weights;
            }
            index += 1;
            let rows = weights.rows;
            let end = before + rows.div_ceil(TILE_ROWS);
            let units = units.start.max(before) - before..units.end.min(end).saturating_sub(before);
            before = end;
            let range = units.start * TILE_ROWS..units.end.max(units.start) * TILE_ROWS;
            work = work.saturating_add(range.len().saturating_mul(weights.matrix.columns()));
            Output {
                values: values.get_mut(..rows * count).unwrap_or_default(),
                rows,
                range,
            }
        });
        let workers = workers(self.engine, work.saturating_mul(count));
        // Whoever computes all rows of an input has it in its cache, and what comes of it for the
        // stages between; but weights are widened again for every set.
        let together = if cfg!(target_os = "none") {
            usize::MAX
        } else {
            count
                .div_ceil(workers.count().max(1))
                .next_multiple_of(InputTile::INPUTS)
                .max(TOGETHER)
        };
        split_rows(
            workers,
            outputs,
            (PIECE, together),
            |index, inputs, rows, mut part| {
                let MatrixPart { matrix, first, .. } =
                    matrices.get(index).copied().unwrap_or(MatrixPart::NONE);
                let input = if cfg!(target_os = "none") {
                    input
                } else {
                    input.some(inputs, matrix.columns())
                };
                isa.matmul(&matrix, &input, tile_rows(rows, first), &mut part);
                if let Some(cap) = cap {
                    (0..input.count).for_each(|token| isa.soft_cap(part.column(token), cap));
                }
            },
        );
    }

    fn any_quantized(&self, roles: &[Role]) -> bool {
        roles
            .iter()
            .any(|&role| self.place(role).dtype.is_quantized())
    }

    /// Whether queries are quantised to meet the keys of the cache.
    pub(super) fn quantizes_queries(&self) -> bool {
        self.plan.kv_type().dtype().is_quantized()
    }
}

/// What a stage does to each token's rows.
#[derive(Clone, Copy)]
enum Step {
    /// Puts what attention gave, head by head, into one row.
    Gather,
    /// Bias and activation of both branches.
    Activate,
    /// `normed` = norm of `hidden`.
    Norm,
    /// Bias and post norm, onto `hidden`; `normed` = norm of that.
    Residual,
}

/// What happens to a token's rows between two products.
struct Between<'s> {
    step: Step,
    isa: &'static Isa,
    /// The bias of the product before, or of the first of two.
    bias: &'s [f32],
    /// The norm after that, or the bias of the second.
    other: &'s [f32],
    /// The norm before the next product.
    norm: &'s [f32],
    eps: f32,
    activation: Activation,
    /// What attention gave, `[K][tokens][H/K P]`.
    by_head: &'s [f32],
    /// K.
    heads: usize,
    /// H/K P.
    head_width: usize,
    tokens: usize,
}

impl Between<'_> {
    /// `first` and `second` are the token's rows of both branches, of attention's result alone, or
    /// of `hidden` and `normed`; the last written of them goes to `groups`, where they are not
    /// empty.
    fn compute(
        &self,
        token: usize,
        first: &mut [f32],
        second: &mut [f32],
        groups: &mut [InputGroup],
    ) {
        let input = match self.step {
            Step::Gather => {
                for head in 0..self.heads {
                    let from = row(self.by_head, self.head_width, head * self.tokens + token);
                    copy(row_mut(first, self.head_width, head), from);
                }
                first
            }
            Step::Activate => {
                add(first, self.bias);
                add(second, self.other);
                self.isa.gate(self.activation, first, second);
                first
            }
            Step::Norm | Step::Residual => {
                if let Step::Residual = self.step {
                    add(second, self.bias);
                    if !self.other.is_empty() {
                        rms_norm_in_place(second, self.other, self.eps);
                    }
                    add(first, second);
                }
                if !self.norm.is_empty() {
                    rms_norm(first, self.norm, self.eps, second);
                }
                second
            }
        };
        if !groups.is_empty() {
            self.isa.quantize(input, groups);
        }
    }
}

/// Who does `work` multiply-adds: what is done in microseconds is not worth waking anybody for.
fn workers(engine: Engine<'_>, work: usize) -> &dyn Workers {
    if work < SHARED_FROM {
        &Solo
    } else {
        engine.workers
    }
}

/// Who does what happens to `numbers` elements between two products.
pub(super) fn row_workers(engine: Engine<'_>, numbers: usize) -> &dyn Workers {
    workers(engine, numbers.saturating_mul(ROW_COST))
}

/// Calls `job` with each of the rows `rows` of three buffers, some of which may be empty, and of
/// groups, whose rows are of as many numbers as is said beside them. `workers` share them, unless
/// this is a microcontroller, which has one core or two, a token or a few, and little flash.
#[inline(always)]
pub(super) fn each_row(
    workers: &dyn Workers,
    buffers: [(&mut [f32], usize); 3],
    (groups, group_width): (&mut [InputGroup], usize),
    rows: Range<usize>,
    job: impl Fn(usize, [&mut [f32]; 3], &mut [InputGroup]) + Sync,
) {
    let [mut a, mut b, mut c] = buffers;
    if cfg!(target_os = "none") {
        for index in rows {
            let row =
                [&mut a, &mut b, &mut c].map(|(buffer, width)| row_mut(buffer, *width, index));
            job(index, row, group_row_mut(groups, group_width, index));
        }
        return;
    }
    // As numbers, which groups are made of.
    let numbers = group_width.div_ceil(GROUP) * size_of::<InputGroup>() / size_of::<f32>();
    let groups = (try_cast_slice_mut(groups).unwrap_or_default(), numbers);
    split_chunks(
        workers,
        [a, b, c, groups],
        rows,
        |index, [a, b, c, groups]| {
            job(
                index,
                [a, b, c],
                try_cast_slice_mut(groups).unwrap_or_default(),
            );
        },
    );
}

/// The tile rows that hold `rows`, counted from tile row `first`.
fn tile_rows(rows: Range<usize>, first: usize) -> Range<usize> {
    (rows.start / TILE_ROWS).saturating_sub(first)
        ..rows.end.div_ceil(TILE_ROWS).saturating_sub(first)
}

/// The scratch buffer in attention: queries `[batch][H P]`, keys and values `[batch][K P]`, another
/// `[batch][H P]`, and scores, `[H][rows of the longest cache]` at least.
///
/// The two buffers of H P take turns: what projection gave is in the first; `Cache` moves it,
/// rotated and ordered by kv head, `[K][tokens][H/K P]`, to the second; attention's result goes to
/// the first in the same order, and `Attended` puts it into the second token by token.
#[cfg_attr(target_os = "none", inline(never))]
pub(super) fn attention_parts(
    scratch: &mut [f32],
    batch: usize,
    widths: Widths,
) -> [&mut [f32]; 5] {
    let (query, rest) = scratch
        .split_at_mut_checked(batch * widths.queries)
        .unwrap_or_default();
    let (key, rest) = rest
        .split_at_mut_checked(batch * widths.keys)
        .unwrap_or_default();
    let (value, rest) = rest
        .split_at_mut_checked(batch * widths.keys)
        .unwrap_or_default();
    let (attended, scores) = rest
        .split_at_mut_checked(batch * widths.queries)
        .unwrap_or_default();
    [query, key, value, attended, scores]
}

/// The scratch buffer in the feed-forward: both branches, `[batch][F]`.
fn ffw_parts(scratch: &mut [f32], batch: usize, widths: Widths) -> [&mut [f32]; 2] {
    let (gating, value) = scratch
        .split_at_mut_checked(batch * widths.hidden)
        .unwrap_or_default();
    [gating, value]
}

/// `to = from`.
pub(super) fn copy(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Row `index` of a buffer of rows of `width` numbers.
#[cfg_attr(target_os = "none", inline(never))]
pub(super) fn row(buffer: &[f32], width: usize, index: usize) -> &[f32] {
    buffer
        .get(index * width..(index + 1) * width)
        .unwrap_or_default()
}

/// Row `index` of a buffer of rows of `width` numbers.
#[cfg_attr(target_os = "none", inline(never))]
pub(super) fn row_mut(buffer: &mut [f32], width: usize, index: usize) -> &mut [f32] {
    buffer
        .get_mut(index * width..(index + 1) * width)
        .unwrap_or_default()
}

/// The groups of row `index`, where rows have `width` numbers each.
#[cfg_attr(target_os = "none", inline(never))]
pub(super) fn group_row_mut(
    groups: &mut [InputGroup],
    width: usize,
    index: usize,
) -> &mut [InputGroup] {
    let width = width.div_ceil(GROUP);
    groups
        .get_mut(index * width..(index + 1) * width)
        .unwrap_or_default()
}
