//! The matrices times the rows of the batch: where nearly all of the time is spent.

use core::ops::Range;

use pocketlm_kernels::{Input, InputTile, Output, TILE_ROWS, split_rows};

use super::{Forward, split, workers};
use crate::model::Role;
use crate::run::SMALL;
use crate::run::buffer::Buffer;
use crate::run::schedule::Batch;
use crate::run::stage::Stage;
use crate::run::weights::MatrixPart;

/// The fewest rows of a matrix that are worth claiming: a kernel walks several tile rows at once.
const PIECE: usize = 4 * TILE_ROWS;

/// The fewest inputs for which a worker goes through all weights, and not only its share of them
/// with all inputs.
const TOGETHER: usize = 4 * InputTile::INPUTS;

/// The most matrices of a stage.
const MATRICES: usize = 3;

impl Forward<'_, '_> {
    /// `units` counts the tile rows of the matrices, one matrix after the other.
    #[inline(never)]
    pub(super) fn matmul(
        &mut self,
        batch: &Batch,
        input: Buffer,
        matrices: &[(Role, Buffer)],
        units: Range<usize>,
    ) {
        let count = batch.tokens();
        // Always as many, of which some may be empty: one copy of this code, not one for each
        // number of matrices.
        let mut parts = [MatrixPart::NONE; MATRICES];
        let mut buffers = [input, Buffer::None, Buffer::None, Buffer::None];
        let [_, outputs @ ..] = &mut buffers;
        for ((&(role, output), part), buffer) in matrices.iter().zip(&mut parts).zip(outputs) {
            *part = self.buffers.weights.matrix(&self.model, batch.layer, role);
            *buffer = output;
        }
        let [values, a, b, c] = split(self.buffers.numbers, &self.plan, buffers);

        let mut before = 0;
        let mut work: usize = 0;
        let mut parts_left = parts.iter();
        let outputs = [a, b, c].map(|values| {
            let part = parts_left.next().unwrap_or(&MatrixPart::NONE);
            let start = units.start.max(before) - before;
            let tile_rows = part.rows.div_ceil(TILE_ROWS);
            let end = units.end.saturating_sub(before).min(tile_rows).max(start);
            before += tile_rows;
            let range = start * TILE_ROWS..end * TILE_ROWS;
            work = work.saturating_add(range.len().saturating_mul(part.matrix.columns()));
            Output {
                values: values.get_mut(..part.rows * count).unwrap_or_default(),
                rows: part.rows,
                range,
            }
        });
        let workers = workers(self.engine, work.saturating_mul(count));
        // A worker that computes all rows of an input has it in its cache, and so have the stages
        // between; but weights are widened again for every set of inputs.
        let together = if SMALL {
            usize::MAX
        } else {
            count
                .div_ceil(workers.count().max(1))
                .next_multiple_of(InputTile::INPUTS)
                .max(TOGETHER)
        };
        let isa = self.engine.isa;
        let input = Input {
            count,
            values,
            groups: self.buffers.groups,
            // Only matrix units read blocks, and boards have none.
            tiles: if !SMALL && isa.arranges(count) {
                self.buffers.blocks
            } else {
                &[]
            },
        };
        let cap = if batch.stage == Stage::Logits {
            self.model.config().final_logit_softcap
        } else {
            None
        };
        split_rows(
            workers,
            outputs,
            (PIECE, together),
            |index, inputs, rows, mut out| {
                let MatrixPart { matrix, first, .. } =
                    parts.get(index).copied().unwrap_or(MatrixPart::NONE);
                let input = if SMALL {
                    input
                } else {
                    input.some(inputs, matrix.columns())
                };
                isa.matmul(&matrix, &input, tile_rows(rows, first), &mut out);
                if let Some(cap) = cap {
                    (0..input.count).for_each(|token| isa.soft_cap(out.column(token), cap));
                }
            },
        );
    }
}

/// The tile rows that hold `rows`, counted from tile row `first`.
fn tile_rows(rows: Range<usize>, first: usize) -> Range<usize> {
    (rows.start / TILE_ROWS).saturating_sub(first)
        ..rows.end.div_ceil(TILE_ROWS).saturating_sub(first)
}
