//! [`Weights`]: where weights come from. Either they lie in memory as a part of the image, or they
//! are read, some tile rows at a time, from a [`WeightSource`](crate::model::WeightSource) (feature
//! `source`) into two buffers of the arena.

use pocketlm_kernels::Matrix;

use super::Plan;
use crate::model::{Model, TensorKind};

/// The tile rows of a matrix that are in memory: all of them, or some.
#[derive(Clone, Copy)]
pub(super) struct MatrixPart<'w> {
    pub matrix: Matrix<'w>,
    /// The tile row of the whole matrix that it starts with.
    pub first_tile_row: usize,
    /// Rows of the whole matrix.
    pub whole_rows: usize,
}

impl<'w> MatrixPart<'w> {
    pub const NONE: MatrixPart<'static> = MatrixPart {
        matrix: Matrix::EMPTY,
        first_tile_row: 0,
        whole_rows: 0,
    };

    fn mapped(model: &Model<'w>, layer: u32, kind: TensorKind) -> Self {
        let matrix = model.matrix(layer, kind);
        MatrixPart {
            matrix,
            first_tile_row: 0,
            whole_rows: matrix.rows(),
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

        #[cfg_attr(target_os = "none", inline(never))]
        pub fn vector<'w>(&self, model: &Model<'w>, layer: u32, kind: TensorKind) -> &'w [f32] {
            model.vector(layer, kind)
        }

        #[cfg_attr(target_os = "none", inline(never))]
        pub fn matrix<'w>(
            &self,
            model: &Model<'w>,
            layer: u32,
            kind: TensorKind,
        ) -> MatrixPart<'w> {
            MatrixPart::mapped(model, layer, kind)
        }
    }
}

#[cfg(feature = "source")]
pub(super) use read::{TileRows, Vectors, Weights};

#[cfg(feature = "source")]
mod read {
    use pocketlm_kernels::TILE_ROWS;

    use super::*;
    use crate::Error;
    use crate::model::WeightSource;

    /// The weights that have been read, if they are not in memory.
    pub struct Weights<'a> {
        /// Where they are read from. A read takes it out while it lasts.
        pub source: Option<&'a mut (dyn WeightSource + Send)>,
        /// True once a source has been attached, even while a read has temporarily taken it.
        has_source: bool,
        /// The vectors of a layer, one after the other, or the final norm.
        vectors: &'a mut [f32],
        /// Which of these `vectors` holds.
        vectors_of: Option<Vectors>,
        /// The weights that are computed with.
        pub front: &'a mut [u8],
        /// The weights that are read in the meantime. A read takes it out while it lasts.
        pub back: &'a mut [u8],
        /// What `front` holds.
        pub tile_rows: TileRows,
    }

    /// Tile rows of a matrix.
    #[derive(Clone, Copy)]
    pub struct TileRows {
        pub layer: u32,
        pub kind: TensorKind,
        pub first: usize,
        pub count: usize,
    }

    impl TileRows {
        pub const NONE: TileRows = TileRows {
            layer: 0,
            kind: TensorKind::Embedder,
            first: 0,
            count: 0,
        };
    }

    /// The vectors that are read together.
    #[derive(Clone, Copy, PartialEq)]
    pub enum Vectors {
        Layer(u32),
        Final,
    }

    impl Vectors {
        fn includes(self, kind: TensorKind) -> bool {
            !kind.is_matrix() && kind.is_per_layer() == matches!(self, Vectors::Layer(_))
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
                has_source: false,
                vectors,
                vectors_of: None,
                front,
                back,
                tile_rows: TileRows::NONE,
            }
        }

        /// Attaches the source that weights are read from.
        pub fn attach(
            &mut self,
            model: &Model<'_>,
            source: &'a mut (dyn WeightSource + Send),
        ) -> Result<(), Error> {
            let units = model
                .tensors()
                .map(|id| model.location(id.layer, id.kind))
                .filter(|location| location.tile_rows() > 0);
            let widest = units
                .map(|location| location.item_bytes())
                .max()
                .unwrap_or(0);
            if widest > self.front.len() {
                return Err(Error::WeightBufferTooSmall {
                    needed: widest.saturating_mul(2),
                    found: 2 * self.front.len(),
                });
            }
            self.source = Some(source);
            self.has_source = true;
            Ok(())
        }

        pub fn has_source(&self) -> bool {
            self.has_source
        }

        #[cfg_attr(target_os = "none", inline(never))]
        pub fn vector<'w>(&'w self, model: &Model<'w>, layer: u32, kind: TensorKind) -> &'w [f32] {
            let Some(of) = self.vectors_of else {
                return model.vector(layer, kind);
            };
            let length = |kind: TensorKind| model.location(layer, kind).columns;
            let before = TensorKind::ALL
                .into_iter()
                .take_while(|&other| other != kind)
                .filter(|&other| of.includes(other));
            let start = before.map(length).sum::<usize>();
            self.vectors
                .get(start..start + length(kind))
                .unwrap_or_default()
        }

        #[cfg_attr(target_os = "none", inline(never))]
        pub fn matrix<'w>(
            &'w self,
            model: &Model<'w>,
            layer: u32,
            kind: TensorKind,
        ) -> MatrixPart<'w> {
            if !self.has_source {
                return MatrixPart::mapped(model, layer, kind);
            }
            let location = model.location(layer, kind);
            let tile_rows = self.tile_rows;
            let mut weights = MatrixPart {
                matrix: Matrix::EMPTY,
                first_tile_row: 0,
                whole_rows: location.rows,
            };
            if tile_rows.kind == kind && (tile_rows.layer == layer || !kind.is_per_layer()) {
                let rows = (tile_rows.count * TILE_ROWS)
                    .min(location.rows.saturating_sub(tile_rows.first * TILE_ROWS));
                let bytes = self
                    .front
                    .get(..tile_rows.count * location.item_bytes())
                    .unwrap_or_default();
                weights.first_tile_row = tile_rows.first;
                weights.matrix = Matrix::new(location.dtype, rows, location.columns, bytes)
                    .unwrap_or(Matrix::EMPTY);
            }
            weights
        }

        /// Reads the vectors of a layer, or the final norm, unless they are there.
        pub fn read_vectors(&mut self, model: &Model<'_>, of: Vectors) -> Result<(), Error> {
            if self.vectors_of == Some(of) {
                return Ok(());
            }
            self.vectors_of = None;
            let Some(source) = &mut self.source else {
                return Ok(());
            };
            let layer = match of {
                Vectors::Layer(layer) => layer,
                Vectors::Final => 0,
            };
            let mut rest = &mut *self.vectors;
            for kind in TensorKind::ALL
                .into_iter()
                .filter(|&kind| of.includes(kind))
            {
                let location = model.location(layer, kind);
                let (vector, after) = rest
                    .split_at_mut_checked(location.columns)
                    .unwrap_or_default();
                rest = after;
                if !vector.is_empty() {
                    source.read(
                        model.header().weights_range().0 + location.offset,
                        bytemuck::cast_slice_mut(vector),
                    )?;
                }
            }
            self.vectors_of = Some(of);
            Ok(())
        }
    }
}
