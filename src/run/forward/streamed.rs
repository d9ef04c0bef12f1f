//! Computing with weights that are read some tile rows at a time: while those in one buffer are
//! multiplied, the next are read into the other.

use core::mem;
use core::ops::Range;

use pocketlm_kernels::TILE_ROWS;

use super::Forward;
use crate::Error;
use crate::model::TensorKind;
use crate::run::buffer::Buffer;
use crate::run::schedule::Batch;
use crate::run::stage::Job;
use crate::run::weights::{TileRows, Vectors};

impl Forward<'_, '_> {
    /// [`compute`](Forward::compute), reading the weights that the units need.
    pub(super) fn compute_from_source(&mut self, batch: &Batch, units: Range<usize>) -> usize {
        match batch.stage.entry().job {
            Job::Embed => self.embed_from_source(batch, units),
            Job::Matmul { matrices, .. } => self.matmul_from_source(batch, matrices, units),
            Job::PerToken(_) | Job::PrepareAttention | Job::Attend => {
                self.with_vectors(batch, units)
            }
            #[cfg(feature = "convolution")]
            Job::PrepareConvolution | Job::Convolve => self.with_vectors(batch, units),
        }
    }

    /// Reads the vectors that a stage without matrices needs, and computes its units.
    fn with_vectors(&mut self, batch: &Batch, units: Range<usize>) -> usize {
        let of = if (batch.layer as usize) < self.model.layers().len() {
            Vectors::Layer(batch.layer)
        } else {
            Vectors::Final
        };
        if self.buffers.weights.read_vectors(&self.model, of).is_err() {
            return 0;
        }
        let count = units.len();
        self.compute_units(batch, units);
        count
    }

    /// Reads the tile row that holds a token's embedding, token by token.
    fn embed_from_source(&mut self, batch: &Batch, tokens: Range<usize>) -> usize {
        for token in tokens.clone() {
            let index = batch.start as usize + token;
            let id = self.buffers.tokens.get(index).copied().unwrap_or(0);
            let tile_rows = TileRows {
                layer: 0,
                kind: TensorKind::Embedder,
                first: id as usize / TILE_ROWS,
                count: 1,
            };
            if self.read_while(tile_rows, &mut |_| ()).is_err() {
                return token - tokens.start;
            }
            self.compute_units(batch, token..token + 1);
        }
        tokens.len()
    }

    /// Computes units of a matmul. The first are read; then the next are read while those are
    /// computed, and so on.
    fn matmul_from_source(
        &mut self,
        batch: &Batch,
        matrices: &[(TensorKind, Buffer)],
        units: Range<usize>,
    ) -> usize {
        let mut ready = units.start..units.start;
        while ready.end < units.end || !ready.is_empty() {
            let next = self.tile_rows(batch, matrices, ready.end..units.end);
            if next.count == 0 && ready.is_empty() {
                break; // never: `Weights::attach` has seen that every tile row fits
            }
            let mut computed = false;
            let mut compute = |forward: &mut Self| {
                if !mem::replace(&mut computed, true) && !ready.is_empty() {
                    forward.compute_units(batch, ready.clone());
                }
            };
            let read = if next.count > 0 {
                self.read_while(next, &mut compute)
            } else {
                Ok(())
            };
            compute(self);
            ready = ready.end..ready.end + next.count;
            if read.is_err() {
                return ready.start - units.start;
            }
        }
        ready.start - units.start
    }

    /// The tile rows that can be read together from the first of `units` on: of one matrix, as many
    /// as the buffer holds.
    fn tile_rows(
        &self,
        batch: &Batch,
        matrices: &[(TensorKind, Buffer)],
        units: Range<usize>,
    ) -> TileRows {
        let mut before = 0;
        for &(kind, _) in matrices {
            let location = self.model.location(batch.layer, kind);
            let after = before + location.tile_rows();
            if units.start < after {
                let room = self.buffers.weights.back.len();
                let most = room.checked_div(location.item_bytes()).unwrap_or(0);
                return TileRows {
                    layer: batch.layer,
                    kind,
                    first: units.start - before,
                    count: (units.end.min(after) - units.start).min(most),
                };
            }
            before = after;
        }
        TileRows::NONE
    }

    /// Reads tile rows. Meanwhile `work` computes with those that were read before. It may be
    /// called twice.
    fn read_while(
        &mut self,
        tile_rows: TileRows,
        work: &mut dyn FnMut(&mut Self),
    ) -> Result<(), Error> {
        let location = self.model.location(tile_rows.layer, tile_rows.kind);
        let offset = self.model.header().weights_range().0
            + location.offset
            + (tile_rows.first * location.item_bytes()) as u64;
        let back = mem::take(&mut self.buffers.weights.back);
        let source = self.buffers.weights.source.take();
        let buffer = back
            .get_mut(..tile_rows.count * location.item_bytes())
            .unwrap_or_default();
        let mut outcome = Err(Error::Storage);
        if let Some(source) = source {
            outcome = source.read_while(offset, buffer, &mut || work(self));
            self.buffers.weights.source = Some(source);
        }
        // If the source did not call it, this is the last moment: its weights are about to go.
        work(self);
        let weights = &mut self.buffers.weights;
        weights.back = back;
        if outcome.is_ok() {
            mem::swap(&mut weights.front, &mut weights.back);
            weights.tile_rows = tile_rows;
        }
        outcome
    }
}
