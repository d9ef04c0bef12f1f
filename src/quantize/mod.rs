//! Packs matrices so that the outputs err little, rather than each weight by itself.
//!
//! What the rounding of a weight costs depends on the inputs that it meets. So some text is run
//! through the checkpoint first, layer by layer, and the second moments of each matrix's inputs are
//! added up. Then the weights of a row are rounded one after the other, and those that follow make
//! up for the errors of those before.
//!
//! ```no_run
//! use pocketlm::import::{self, PackOptions};
//! use pocketlm::model::DType;
//! use pocketlm::quantize::{Calibration, quantize};
//!
//! let checkpoint = import::open("SmolLM2-135M-Instruct".as_ref())?;
//! let options = PackOptions { dtype: Some(DType::Nl4), ..PackOptions::default() };
//! let calibration = Calibration::new(checkpoint.description(), None)?;
//! let quantized = quantize(&*checkpoint, &options, calibration.as_ref(), &mut |_| {})?;
//! import::pack_to_file(&quantized, &options, "smol.plm".as_ref(), &mut |_, _| {})?;
//! # Ok::<(), pocketlm::import::ImportError>(())
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::prelude::rust_2024::*;

use pocketlm_kernels::Isa;

use crate::import::{Checkpoint, Description, ImportError, PackOptions, PackedMatrix, Tensor};
use crate::model::{DType, Model, TensorId, TensorKind};
pub use calibration::Calibration;
use grid::Grid;
use layer::{INPUTS, OneLayer, compute, embed, ranges};
use matrix::{Inputs, Rounded, exact, round};
pub use measure::{Agreement, measure};
pub use sensitivity::Sensitivity;

mod calibration;
mod feedback;
mod grid;
mod layer;
mod matrix;
mod measure;
mod moments;
mod sensitivity;
#[cfg(test)]
mod tests;

/// Sequences that are computed before their moments are added up.
const ROUND: usize = 4;

/// A checkpoint, some matrices of which are packed already.
///
/// Example: [`measure`](measure()).
pub struct Quantized<'c> {
    checkpoint: &'c dyn Checkpoint,
    packed: BTreeMap<TensorId, PackedMatrix>,
}

impl Quantized<'_> {
    /// The type of each matrix in the image.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn types(&self, options: &PackOptions) -> Result<BTreeMap<TensorId, DType>, ImportError> {
        let ids = self.description().tensor_ids();
        let ids = ids.filter(|id| id.kind.is_matrix());
        let dtype = |id| match self.packed(id) {
            Some(matrix) => Ok((id, matrix.dtype)),
            None => Ok((id, options.dtype(id, &self.tensor(id)?))),
        };
        ids.map(dtype).collect()
    }

    /// The bits that a weight of a matrix takes in the image, scales included, on average.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn bits_per_weight(&self, options: &PackOptions) -> Result<f64, ImportError> {
        let config = self.description().config;
        let mut weights = 0;
        let mut bytes = 0;
        for (id, dtype) in self.types(options)? {
            let (rows, columns) = id.kind.shape(&config).unwrap_or_default();
            weights += rows * columns;
            bytes += dtype.matrix_bytes(rows, columns).unwrap_or_default();
        }
        Ok(8.0 * bytes as f64 / weights as f64)
    }
}

impl Checkpoint for Quantized<'_> {
    fn description(&self) -> &Description {
        self.checkpoint.description()
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        self.checkpoint.tensor(id)
    }

    fn packed(&self, id: TensorId) -> Option<&PackedMatrix> {
        self.packed.get(&id)
    }
}

/// How far [`quantize`] is.
///
/// Example: [`measure`](measure()).
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The matrix that was packed last.
    pub matrix: TensorId,
    /// The squared error of its outputs over the square of the outputs; `None` without calibration,
    /// and for a matrix that lost nothing.
    pub error: Option<f64>,
    /// Weights that are packed.
    pub done: u64,
    /// Weights that are to be packed.
    pub total: u64,
}

/// Whether matrices of this type are packed here. What the importer does to the others is as good.
pub fn is_rounded(dtype: DType) -> bool {
    Grid::of(dtype).is_some()
}

/// Packs the matrices that `options` wants in q6, q5, q4, nl4 or nl3. Weights that lie on the
/// type's grid already are kept as they are. Without `calibration` each weight goes to the nearest
/// number of a searched scale.
///
/// The result depends on the checkpoint, the options and the text, not on the machine.
///
/// # Errors
/// A tensor cannot be read, or holds what is not a number.
pub fn quantize<'c>(
    checkpoint: &'c dyn Checkpoint,
    options: &PackOptions,
    calibration: Option<&Calibration>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Quantized<'c>, ImportError> {
    quantize_with(checkpoint, options, calibration, Isa::best(), progress)
}

/// [`quantize`], computed with the kernels of `isa`.
fn quantize_with<'c>(
    checkpoint: &'c dyn Checkpoint,
    options: &PackOptions,
    calibration: Option<&Calibration>,
    isa: &'static Isa,
    progress: &mut dyn FnMut(Progress),
) -> Result<Quantized<'c>, ImportError> {
    let mut grids = BTreeMap::new();
    let mut total = 0;
    for id in checkpoint.description().tensor_ids() {
        let tensor = checkpoint.tensor(id)?;
        let dtype = options.dtype(id, &tensor);
        // The importer takes over what the checkpoint stores in this type.
        if let Some(grid) = Grid::of(dtype).filter(|_| dtype != tensor.nearest()) {
            total += tensor.row_count() as u64 * tensor.column_count() as u64;
            grids.insert(id, grid);
        }
    }
    let mut work = Work {
        quantized: Quantized {
            checkpoint,
            packed: BTreeMap::new(),
        },
        grids,
        done: 0,
        total,
        isa,
        progress,
    };
    // Weights that lie on their grid need no text.
    for id in work.grids.keys().copied().collect::<Vec<_>>() {
        let tensor = checkpoint.tensor(id)?;
        if let Some(matrix) = exact(&tensor, &work.grids[&id]).map_err(|e| named(id, e))? {
            work.keep(
                id,
                Rounded {
                    matrix,
                    error: None,
                },
            )?;
        }
    }
    match calibration.filter(|calibration| !calibration.sequences.is_empty()) {
        Some(calibration) if !work.grids.is_empty() => {
            work.calibrated(&calibration.sequences)?;
        }
        _ => work.round_all(|_, _| true, None)?,
    }
    Ok(work.quantized)
}

/// What is done so far, and what is left.
struct Work<'c, 'p> {
    quantized: Quantized<'c>,
    /// What is left.
    grids: BTreeMap<TensorId, Grid>,
    done: u64,
    total: u64,
    isa: &'static Isa,
    progress: &'p mut dyn FnMut(Progress),
}

impl Work<'_, '_> {
    /// Layer after layer, then the matrices that meet the final state.
    fn calibrated(&mut self, sequences: &[Vec<u32>]) -> Result<(), ImportError> {
        let isa = self.isa;
        let checkpoint = self.quantized.checkpoint;
        let config = checkpoint.description().config;
        let ranges = ranges(sequences);
        let mut hidden = embed(checkpoint, sequences)?;
        for layer in 0..config.num_decoder_blocks {
            // A model that computes what is not a number tells nothing more.
            if hidden.iter().any(|x| !x.is_finite()) {
                return self.round_all(|_, _| true, None);
            }
            // q8 is faster than f32, and its errors are far smaller than those of what is rounded.
            let image = OneLayer::new(checkpoint, layer, &hidden).image(DType::Q8)?;
            let model = Model::open(&image).map_err(refuse)?;
            let inputs;
            (inputs, hidden) = layer_inputs(&model, &ranges, isa)?;
            drop(image);
            for (roles, inputs) in INPUTS.iter().zip(inputs) {
                self.round_all(|of, kind| of == layer && roles.contains(&kind), inputs)?;
            }
        }
        let states = measure::final_norm(checkpoint, &hidden)?;
        drop(hidden);
        let width = config.embedding_dim as usize;
        let mut inputs = Inputs::new(width);
        for (index, range) in ranges.iter().enumerate() {
            let states = &states[range.start as usize * width..range.end as usize * width];
            inputs.add(index, states, isa);
        }
        self.round_all(|_, _| true, Some(inputs))
    }

    /// Packs the matrices for which `is_meant` says so, by layer and kind.
    fn round_all(
        &mut self,
        is_meant: impl Fn(u32, TensorKind) -> bool,
        inputs: Option<Inputs>,
    ) -> Result<(), ImportError> {
        let ids = self.grids.keys().copied();
        let ids: Vec<TensorId> = ids.filter(|id| is_meant(id.layer, id.kind)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let moments = inputs.and_then(Inputs::finish);
        for id in ids {
            let tensor = self.quantized.checkpoint.tensor(id)?;
            let rounded = round(&tensor, &self.grids[&id], moments.as_ref());
            self.keep(id, rounded.map_err(|error| named(id, error))?)?;
        }
        Ok(())
    }

    fn keep(&mut self, id: TensorId, rounded: Rounded) -> Result<(), ImportError> {
        let tensor = self.quantized.checkpoint.tensor(id)?;
        self.done += tensor.row_count() as u64 * tensor.column_count() as u64;
        self.grids.remove(&id);
        self.quantized.packed.insert(id, rounded.matrix);
        (self.progress)(Progress {
            matrix: id,
            error: rounded.error,
            done: self.done,
            total: self.total,
        });
        Ok(())
    }
}

/// The inputs of a layer's matrices, one of each group in [`INPUTS`], and the hidden rows after the
/// layer. `None` for matrices of another kind of layer.
fn layer_inputs(
    model: &Model<'_>,
    ranges: &[Range<u32>],
    isa: &'static Isa,
) -> Result<([Option<Inputs>; INPUTS.len()], Vec<f32>), ImportError> {
    let mut inputs: [Option<Inputs>; INPUTS.len()] = Default::default();
    let mut after = Vec::new();
    for (round, ranges) in ranges.chunks(ROUND).enumerate() {
        let computed = compute(model, ranges, isa).map_err(refuse)?;
        for (index, computed) in computed.iter().enumerate() {
            after.extend_from_slice(&computed.hidden);
            for (inputs, values) in inputs.iter_mut().zip(&computed.inputs) {
                if values.is_empty() {
                    continue;
                }
                let width = values.len() / ranges[index].len();
                let inputs = inputs.get_or_insert_with(|| Inputs::new(width));
                inputs.add(round * ROUND + index, values, isa);
            }
        }
    }
    Ok((inputs, after))
}

fn named(id: TensorId, error: ImportError) -> ImportError {
    ImportError {
        reason: format!("tensor {id}: {}", error.reason),
        ..error
    }
}

fn refuse(error: crate::Error) -> ImportError {
    ImportError::new(error.to_string())
}
