//! Where weights come from: out of the image where it lies, or, piece by piece, out of a
//! [`WeightSource`](crate::model::WeightSource) (feature `source`) into two buffers of the arena.

use pocketlm_kernels::Matrix;

use super::Plan;
use crate::model::{Model, Role};

/// MatrixPart of a matrix that are in memory.
#[derive(Clone, Copy)]
pub(super) struct MatrixPart<'w> {
    /// All of its tile rows, or some.
    pub matrix: Matrix<'w>,
    /// The tile row of the whole matrix that those start with.
    pub first: usize,
    /// Rows of the whole matrix.
    pub rows: usize,
}

impl<'w> MatrixPart<'w> {
    pub const NONE: MatrixPart<'static> = MatrixPart {
        matrix: Matrix::EMPTY,
        first: 0,
        rows: 0,
    };

    fn mapped(model: &Model<'w>, layer: u32, role: Role) -> Self {
        let matrix = model.matrix(layer, role);
        MatrixPart {
            matrix,
            first: 0,
            rows: matrix.rows(),
        }
    }
}

#[cfg(not(feature = "source"))]
pub(super) use mapped::Weights;

#[cfg(not(feature = "source"))]
mod mapped {
    use core::marker::PhantomData;

    use super::*;

    /// Nothing: all weights are in memory.
    pub struct Weights<'a>(PhantomData<&'a ()>);

    impl<'a> Weights<'a> {
        pub fn new(_: &Plan<'_>, _: &'a mut [u8]) -> Self {
            Weights(PhantomData)
        }

        pub fn vector<'w>(&self, model: &Model<'w>, layer: u32, role: Role) -> &'w [f32] {
            model.vector(layer, role)
        }

        pub fn matrix<'w>(&self, model: &Model<'w>, layer: u32, role: Role) -> MatrixPart<'w> {
            MatrixPart::mapped(model, layer, role)
        }
    }
}

#[cfg(feature = "source")]
pub(super) use read::Weights;

#[cfg(feature = "source")]
mod read {
    use core::mem;
    use core::ops::Range;

    use pocketlm_kernels::TILE_ROWS;

    use super::*;
    use crate::Error;
    use crate::model::WeightSource;
    use crate::run::Session;
    use crate::run::block::Stage;

    /// What has been read of the weights, where they are not in memory.
    pub struct Weights<'a> {
        source: Option<&'a mut dyn WeightSource>,
        /// Whether there is one, be it away on a read just now.
        lent: bool,
        /// The vectors of a layer, one after the other, or the final norm.
        vectors: &'a mut [f32],
        /// Whose they are.
        vectors_of: Option<Vectors>,
        /// The weights that are computed with.
        front: &'a mut [u8],
        /// Those that are read meanwhile.
        back: &'a mut [u8],
        /// What `front` holds.
        piece: Piece,
    }

    /// Tile rows of a matrix.
    #[derive(Clone, Copy)]
    struct Piece {
        layer: u32,
        role: Role,
        first: usize,
        count: usize,
    }

    impl Piece {
        const NONE: Piece = Piece {
            layer: 0,
            role: Role::Embedder,
            first: 0,
            count: 0,
        };
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Vectors {
        Layer(u32),
        Final,
    }

    impl Vectors {
        fn includes(self, role: Role) -> bool {
            !role.is_matrix() && role.is_per_layer() == matches!(self, Vectors::Layer(_))
        }
    }

    impl<'a> Weights<'a> {
        pub fn new(plan: &Plan<'_>, bytes: &'a mut [u8]) -> Self {
            let half = plan.weight_parts().0;
            let (front, rest) = bytes.split_at_mut_checked(half).unwrap_or_default();
            let (back, vectors) = rest.split_at_mut_checked(half).unwrap_or_default();
            let vectors = bytemuck::try_cast_slice_mut(vectors).unwrap_or_default();
            Weights {
                source: None,
                lent: false,
                vectors,
                vectors_of: None,
                front,
                back,
                piece: Piece::NONE,
            }
        }

        /// From now on weights are read from `source`.
        pub fn lend(
            &mut self,
            model: &Model<'_>,
            source: &'a mut dyn WeightSource,
        ) -> Result<(), Error> {
            let units = model
                .tensors()
                .map(|id| model.place(id.layer, id.role))
                .filter(|place| place.tile_rows() > 0);
            let widest = units.map(|place| place.unit()).max().unwrap_or(0);
            if widest > self.front.len() {
                return Err(Error::WeightBufferTooSmall {
                    needed: widest.saturating_mul(2),
                    found: 2 * self.front.len(),
                });
            }
            (self.source, self.lent) = (Some(source), true);
            Ok(())
        }

        pub fn is_lent(&self) -> bool {
            self.lent
        }

        pub fn vector<'w>(&'w self, model: &Model<'w>, layer: u32, role: Role) -> &'w [f32] {
            let Some(of) = self.vectors_of else {
                return model.vector(layer, role);
            };
            let length = |role: Role| model.place(layer, role).columns;
            let before = Role::ALL
                .into_iter()
                .take_while(|&other| other != role)
                .filter(|&other| of.includes(other));
            let start = before.map(length).sum::<usize>();
            self.vectors
                .get(start..start + length(role))
                .unwrap_or_default()
        }

        pub fn matrix<'w>(&'w self, model: &Model<'w>, layer: u32, role: Role) -> MatrixPart<'w> {
            if !self.lent {
                return MatrixPart::mapped(model, layer, role);
            }
            let (place, piece) = (model.place(layer, role), self.piece);
            let mut weights = MatrixPart {
                matrix: Matrix::EMPTY,
                first: 0,
                rows: place.rows,
            };
            if piece.role == role && (piece.layer == layer || !role.is_per_layer()) {
                let rows = (piece.count * TILE_ROWS)
                    .min(place.rows.saturating_sub(piece.first * TILE_ROWS));
                let bytes = self
                    .front
                    .get(..piece.count * place.unit())
                    .unwrap_or_default();
                weights.first = piece.first;
                weights.matrix =
                    Matrix::new(place.dtype, rows, place.columns, bytes).unwrap_or(Matrix::EMPTY);
            }
            weights
        }

        /// Reads the vectors of a layer, or the final norm, unless they are there.
        fn read_vectors(&mut self, model: &Model<'_>, of: Vectors) -> Result<(), Error> {
            if self.vectors_of == Some(of) {
                return Ok(());
            }
            self.vectors_of = None;
            let Some(source) = &mut self.source else {
                return Ok(());
            };
            let layer = if let Vectors::Layer(layer) = of {
                layer
            } else {
                0
            };
            let mut rest = &mut *self.vectors;
            for role in Role::ALL.into_iter().filter(|&role| of.includes(role)) {
                let place = model.place(layer, role);
                let (vector, after) = rest.split_at_mut_checked(place.columns).unwrap_or_default();
                rest = after;
                if !vector.is_empty() {
                    source.read(
                        model.header().weights().0 + place.offset,
                        bytemuck::cast_slice_mut(vector),
                    )?;
                }
            }
            self.vectors_of = Some(of);
            Ok(())
        }
    }

    impl Session<'_, '_> {
        /// `compute`, where weights have to be read.
        pub fn compute_from_source(&mut self, units: Range<usize>) -> bool {
            let read = match self.work.stage {
                Stage::Embed => units.clone().try_for_each(|token| {
                    let id = self
                        .buffers
                        .tokens
                        .get(self.work.start as usize + token)
                        .copied()
                        .unwrap_or(0);
                    let piece = Piece {
                        layer: 0,
                        role: Role::Embedder,
                        first: id as usize / TILE_ROWS,
                        count: 1,
                    };
                    self.read_while(piece, &mut |_| ())?;
                    self.compute_units(token..token + 1);
                    Ok(())
                }),
                Stage::Head
                | Stage::QueryKeyValue
                | Stage::Output
                | Stage::GateValue
                | Stage::Out => self.compute_products(units),
                // These use norms and biases.
                Stage::Idle
                | Stage::AttentionNorm
                | Stage::Cache
                | Stage::Attend
                | Stage::Attended
                | Stage::AttentionResidual
                | Stage::Activate
                | Stage::FfwResidual
                | Stage::FinalNorm => {
                    let of = if self.work.stage == Stage::FinalNorm {
                        Vectors::Final
                    } else {
                        Vectors::Layer(self.work.layer)
                    };
                    let read = self.buffers.weights.read_vectors(&self.model, of);
                    read.map(|()| self.compute_units(units))
                }
            };
            read.is_ok()
        }

        /// Computes units of a product; the first are read, the next while those are computed, and
        /// so on.
        fn compute_products(&mut self, units: Range<usize>) -> Result<(), Error> {
            let (mut ready, mut next) = (units.start..units.start, units.start);
            while ready.end < units.end || !ready.is_empty() {
                let (piece, end) = self.piece(next..units.end);
                if end <= next && ready.is_empty() {
                    return Err(Error::Storage); // never: `lend` has seen that every tile row fits
                }
                let mut computed = false;
                let mut compute = |session: &mut Self| {
                    if !mem::replace(&mut computed, true) && !ready.is_empty() {
                        session.compute_units(ready.clone());
                    }
                };
                let read = match end > next {
                    true => self.read_while(piece, &mut compute),
                    false => Ok(()),
                };
                compute(self);
                // What is computed is done, whether there is more to compute with or not.
                self.work.unit = ready.end;
                read?;
                (ready, next) = (next..end, end);
            }
            // The caller counts the units.
            self.work.unit = units.start;
            Ok(())
        }

        /// What can be read together of the current stage's units `units`, and the unit after it.
        fn piece(&self, units: Range<usize>) -> (Piece, usize) {
            let layer = self.work.layer;
            let mut before = 0;
            for &role in self.product_roles() {
                let place = self.model.place(layer, role);
                let after = before + place.tile_rows();
                if units.start < after {
                    let most = self
                        .buffers
                        .weights
                        .back
                        .len()
                        .checked_div(place.unit())
                        .unwrap_or(0);
                    let count = (units.end.min(after) - units.start).min(most);
                    return (
                        Piece {
                            layer,
                            role,
                            first: units.start - before,
                            count,
                        },
                        units.start + count,
                    );
                }
                before = after;
            }
            (Piece::NONE, units.end)
        }

        /// Reads a piece while `work` is done with the one before it, which it replaces. `work` may
        /// be called twice.
        fn read_while(
            &mut self,
            piece: Piece,
            work: &mut dyn FnMut(&mut Self),
        ) -> Result<(), Error> {
            let place = self.model.place(piece.layer, piece.role);
            let offset = self.model.header().weights().0
                + place.offset
                + (piece.first * place.unit()) as u64;
            let back = mem::take(&mut self.buffers.weights.back);
            let source = self.buffers.weights.source.take();
            let buffer = back
                .get_mut(..piece.count * place.unit())
                .unwrap_or_default();
            let mut outcome = Err(Error::Storage);
            if let Some(source) = source {
                outcome = source.read_while(offset, buffer, &mut || work(self));
                self.buffers.weights.source = Some(source);
            }
            // A source that did not call it: before what it works with is replaced.
            work(self);
            let weights = &mut self.buffers.weights;
            weights.back = back;
            if outcome.is_ok() {
                mem::swap(&mut weights.front, &mut weights.back);
                weights.piece = piece;
            }
            outcome
        }
    }
}
