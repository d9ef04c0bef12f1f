//! The embeddings of tokens, and the rotary angles of their positions.

use pocketlm_kernels::TILE_ROWS;
use pocketlm_kernels::vector::{rope_angles, scale};

use super::{Forward, buffer, row_mut};
use crate::model::{Rope, TensorKind};
use crate::run::buffer::Buffer;
use crate::run::schedule::Batch;

impl Forward<'_, '_> {
    #[inline(never)]
    pub(super) fn embed(&mut self, batch: &Batch, token: usize) {
        let index = batch.start as usize + token;
        let id = self.buffers.tokens.get(index).copied().unwrap_or(0);
        let hidden = buffer(self.buffers.numbers, &self.plan, Buffer::Hidden);
        let hidden = row_mut(hidden, self.plan.dims().embedding, token);
        let weights = &mut self.buffers.weights;
        let part = weights.matrix(&self.model, 0, TensorKind::Embedder);
        let first_row = part.first_tile_row * TILE_ROWS;
        part.matrix
            .row((id as usize).saturating_sub(first_row), hidden);
        let factor = self.model.config().embedding_scale;
        if factor != 1.0 {
            scale(hidden, factor);
        }

        let position = self.buffers.positions.get(index).copied().unwrap_or(0);
        let width = self.plan.dims().head_width;
        for rope in [Rope::Global, Rope::Local] {
            let (amplitude, frequencies) = self.model.rope(rope);
            let row = self.rope_row(rope, token);
            let angles = row_mut(self.buffers.rope, width, row);
            let (cos, sin) = angles.split_at_mut_checked(width / 2).unwrap_or_default();
            rope_angles(position, frequencies, amplitude, cos, sin);
        }
    }
}
