//! The matrices times the rows of the batch: where nearly all of the time is spent.

use core::ops::Range;

use pocketlm_kernels::{Input, InputTile, Matrix, Output, TILE_ROWS, Workers, split_rows};

use super::{Forward, split, workers};
use crate::model::TensorKind;
use crate::run::BARE_METAL;
use crate::run::buffer::Buffer;
use crate::run::schedule::Batch;
use crate::run::stage::Stage;
use crate::run::weights::MatrixPart;

/// The fewest rows of a matrix that are worth claiming: a kernel walks several tile rows at once.
const PIECE: usize = 4 * TILE_ROWS;

/// The fewest inputs that a worker takes at a time. With fewer than that, workers share the rows of
/// the matrices, and each takes all inputs.
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
        matrices: &[(TensorKind, Buffer)],
        units: Range<usize>,
    ) {
        let count = batch.tokens();
        let cap = self.soft_cap(batch);
        // Always as many, of which some may be empty: one copy of this code, not one for each
        // number of matrices.
        let mut parts = [MatrixPart::NONE; MATRICES];
        let mut buffers = [input, Buffer::None, Buffer::None, Buffer::None];
        let [_, outputs @ ..] = &mut buffers;
        for ((&(kind, output), part), buffer) in matrices.iter().zip(&mut parts).zip(outputs) {
            *part = self.buffers.weights.matrix(&self.model, batch.layer, kind);
            *buffer = output;
        }
        let [values, a, b, c] = split(self.buffers.numbers, &self.plan, buffers);

        let mut work: usize = 0;
        let mut before = 0;
        let mut parts_left = parts.iter();
        let outputs = [a, b, c].map(|values| {
            let part = parts_left.next().unwrap_or(&MatrixPart::NONE);
            let after = before + part.whole_rows.div_ceil(TILE_ROWS);
            let output = rows_of(part, values, count, before..after, &units);
            before = after;
            let numbers = output.range.len().saturating_mul(part.matrix.columns());
            work = work.saturating_add(numbers);
            output
        });
        let workers = workers(self.engine, work.saturating_mul(count));
        let isa = self.engine.isa;
        let mut input = Input {
            count,
            values,
            groups: self.buffers.groups,
            tiles: &[],
        };
        // Only matrix units read input tiles, and boards have none.
        if !BARE_METAL && isa.arranges(count) {
            input.tiles = self.buffers.input_tiles;
        }
        split_rows(
            workers,
            outputs,
            (PIECE, together(workers, count)),
            |index, inputs, rows, mut out| {
                let part = parts.get(index).copied().unwrap_or(MatrixPart::NONE);
                let input = some(input, inputs, &part.matrix);
                let tile_rows = tile_rows(rows, part.first_tile_row);
                isa.matmul(&part.matrix, &input, tile_rows, &mut out);
                if let Some(cap) = cap {
                    (0..input.count).for_each(|token| isa.soft_cap(out.vector(token), cap));
                }
            },
        );
    }

    /// The cap of the stage's output.
    fn soft_cap(&self, batch: &Batch) -> Option<f32> {
        let cap = self.model.config().final_logit_softcap;
        cap.filter(|_| batch.stage == Stage::Logits)
    }
}

/// Where the product of a matrix with `count` inputs goes. `own` are the units of the stage that
/// are this matrix's tile rows; those of them that are in `units` are computed.
fn rows_of<'o>(
    part: &MatrixPart<'_>,
    values: &'o mut [f32],
    count: usize,
    own: Range<usize>,
    units: &Range<usize>,
) -> Output<'o> {
    let start = units.start.max(own.start);
    let end = units.end.min(own.end).max(start);
    let rows = (start - own.start) * TILE_ROWS..(end - own.start) * TILE_ROWS;
    Output {
        values: values
            .get_mut(..part.whole_rows * count)
            .unwrap_or_default(),
        rows: part.whole_rows,
        range: rows,
    }
}

/// Some of the inputs of a matrix. A board takes all together.
fn some<'i>(input: Input<'i>, inputs: Range<usize>, matrix: &Matrix<'_>) -> Input<'i> {
    if BARE_METAL {
        input
    } else {
        input.some(inputs, matrix.columns())
    }
}

/// How many of `count` inputs a worker takes together. If a worker computes all rows of some
/// inputs, they stay in its cache from stage to stage. But weights are converted again for every
/// set of inputs, so sets must not be small.
fn together(workers: &dyn Workers, count: usize) -> usize {
    if BARE_METAL {
        return usize::MAX;
    }
    count
        .div_ceil(workers.count().max(1))
        .next_multiple_of(InputTile::INPUTS)
        .max(TOGETHER)
}

/// The tile rows that hold `rows`, counted from tile row `first`.
fn tile_rows(rows: Range<usize>, first: usize) -> Range<usize> {
    (rows.start / TILE_ROWS).saturating_sub(first)
        ..rows.end.div_ceil(TILE_ROWS).saturating_sub(first)
}
