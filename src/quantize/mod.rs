//! Packs matrices so that the outputs err little, rather than each weight by itself.
//!
//! What the rounding of a weight costs depends on the inputs that it meets. So some text is run
//! through the checkpoint first, layer by layer, and the second moments of each matrix's inputs are
//! added up. Then the weights of a row are rounded one after the other, and those that follow make
//! up for the errors of those before. In the same way each layer makes up for the errors of the
//! layers before it: the matrices whose outputs are added to the hidden rows are changed first, so
//! that these rows come near to the checkpoint's.
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
use std::rc::Rc;

use pocketlm_kernels::Isa;

use crate::import::{Checkpoint, Description, ImportError, PackOptions, PackedMatrix, Tensor};
use crate::model::{DType, Model, TensorId, TensorKind};
use branch::Branch;
pub use calibration::Calibration;
use feedback::add;
use grid::Grid;
use layer::{
    BIASES, Computed, Kept, OneLayer, POST_NORMS, READERS, WRITERS, compute, embed, ranges,
};
use matrix::{InputSums, Rounded, exact, round_matrix};
pub use measure::{Agreement, measure};
pub use sensitivity::Sensitivity;

mod branch;
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
const SEQUENCES_AT_ONCE: usize = 8;

/// A checkpoint, some matrices of which are packed already.
///
/// Example: [`measure`](measure()).
pub struct Quantized<'c> {
    checkpoint: &'c dyn Checkpoint,
    packed: BTreeMap<TensorId, Rc<PackedMatrix>>,
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
        self.packed.get(&id).map(|matrix| &**matrix)
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
    /// and for a matrix that lost nothing. The outputs of a matrix that writes to the hidden rows
    /// are those after its correction, and a token counts by the size of its hidden row.
    pub error: Option<f64>,
    /// Weights that are packed.
    pub done: u64,
    /// Weights that are to be packed.
    pub total: u64,
}

/// Whether matrices of this type are rounded with calibration text. For the other types the
/// importer rounds each weight by itself, which is as good.
pub fn uses_calibration(dtype: DType) -> bool {
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
        // The same where the matrices are packed.
        let mut packed_hidden = hidden.clone();
        for layer in 0..config.num_decoder_blocks {
            // A model that computes what is not a number tells nothing more.
            if hidden.iter().chain(&packed_hidden).any(|x| !x.is_finite()) {
                return self.round_all(|_, _| true, None);
            }
            let targets = self.pack_readers(layer, &hidden, &ranges)?;
            for (half, target) in targets.iter().enumerate() {
                self.pack_writer(layer, half, &packed_hidden, target, &ranges)?;
            }
            let packed = self.packed_layer(layer, &packed_hidden);
            packed_hidden = packed.after(DType::Q8, sequences, isa)?;
            [_, hidden] = targets;
        }
        let states = measure::final_norm(checkpoint, &hidden)?;
        let width = config.embedding_dim as usize;
        let mut inputs = InputSums::new(width);
        for (index, range) in ranges.iter().enumerate() {
            inputs.add(index, &states[numbers(range, width)], None, isa);
        }
        self.round_all(|_, _| true, Some(inputs))
    }

    /// Packs the matrices of a layer that read the hidden rows. Returns the checkpoint's hidden
    /// rows after each half of the layer.
    fn pack_readers(
        &mut self,
        layer: u32,
        hidden: &[f32],
        ranges: &[Range<u32>],
    ) -> Result<[Vec<f32>; WRITERS.len()], ImportError> {
        // q8 is faster than f32, and its errors are far smaller than those of what is rounded.
        let image = OneLayer::new(self.quantized.checkpoint, layer, hidden).image(DType::Q8)?;
        let model = Model::open(&image).map_err(refuse)?;
        let mut readers: [Option<InputSums>; READERS.len()] = Default::default();
        let mut targets: [Vec<f32>; WRITERS.len()] = Default::default();
        self.each_sequence(&model, ranges, Kept::Readers, |isa, index, computed| {
            for (target, rows) in targets.iter_mut().zip(&computed.residual) {
                target.extend_from_slice(rows);
            }
            for (inputs, values) in readers.iter_mut().zip(&computed.readers) {
                if values.is_empty() {
                    continue;
                }
                let width = values.len() / ranges[index].len();
                let inputs = inputs.get_or_insert_with(|| InputSums::new(width));
                inputs.add(index, values, None, isa);
            }
        })?;
        drop(image);
        for (kinds, inputs) in READERS.iter().zip(readers) {
            self.round_all(|of, kind| of == layer && kinds.contains(&kind), inputs)?;
        }
        Ok(targets)
    }

    /// Packs the matrix that writes what a half of a layer computes, so that the hidden rows after
    /// it come near to `target`. `hidden` comes into the layer if all before it is packed.
    fn pack_writer(
        &mut self,
        layer: u32,
        half: usize,
        hidden: &[f32],
        target: &[f32],
        ranges: &[Range<u32>],
    ) -> Result<(), ImportError> {
        let is_meant = |of: u32, kind| of == layer && WRITERS[half].contains(&kind);
        if !self.grids.keys().any(|id| is_meant(id.layer, id.kind)) {
            return Ok(());
        }
        let image = self.packed_layer(layer, hidden).image(DType::Q8)?;
        let model = Model::open(&image).map_err(refuse)?;
        let width = model.config().embedding_dim as usize;
        let norm = self.vector(layer, &[POST_NORMS[half]])?;
        let bias = self.vector(layer, BIASES[half])?;
        let mut inputs = None;
        self.each_sequence(
            &model,
            ranges,
            Kept::Writer(half),
            |isa, index, mut computed| {
                let range = &ranges[index];
                let target = &target[numbers(range, width)];
                if let Some(bias) = &bias {
                    let outputs = computed.branches[half].chunks_exact_mut(width);
                    outputs.for_each(|row| add(row, bias, 1.0));
                }
                let branch = Branch {
                    outputs: &computed.branches[half],
                    norm: norm.as_deref(),
                    hidden: &computed.residual[half],
                    target,
                };
                let mut values = std::mem::take(&mut computed.writers[half]);
                let missing = branch.missing(&mut values, width);
                let inputs =
                    inputs.get_or_insert_with(|| InputSums::new(values.len() / range.len()));
                inputs.add(index, &values, Some(&missing), isa);
            },
        )?;
        drop(image);
        self.round_all(is_meant, inputs)
    }

    /// A layer's vector of one of these kinds, if the layer has it.
    fn vector(&self, layer: u32, kinds: &[TensorKind]) -> Result<Option<Vec<f32>>, ImportError> {
        let checkpoint = self.quantized.checkpoint;
        let mut ids = checkpoint.description().tensor_ids();
        let Some(id) = ids.find(|id| id.layer == layer && kinds.contains(&id.kind)) else {
            return Ok(None);
        };
        let tensor = checkpoint.tensor(id)?;
        let mut vector = vec![0.0; tensor.column_count()];
        tensor.row(0, &mut vector)?;
        Ok(Some(vector))
    }

    /// A layer with those of its matrices that are packed so far.
    fn packed_layer<'h>(&self, layer: u32, hidden: &'h [f32]) -> OneLayer<'h>
    where
        Self: 'h,
    {
        let packed = self.quantized.packed.iter();
        let packed = packed.filter(|(id, _)| id.kind.is_per_layer() && id.layer == layer);
        let packed = packed.map(|(id, matrix)| (id.kind, Rc::clone(matrix)));
        OneLayer::new(self.quantized.checkpoint, layer, hidden).with_packed(packed.collect())
    }

    /// Computes all sequences, some at a time.
    fn each_sequence(
        &self,
        model: &Model<'_>,
        ranges: &[Range<u32>],
        kept: Kept,
        mut see: impl FnMut(&'static Isa, usize, Computed),
    ) -> Result<(), ImportError> {
        for (part, ranges) in ranges.chunks(SEQUENCES_AT_ONCE).enumerate() {
            let computed = compute(model, ranges, kept, self.isa).map_err(refuse)?;
            for (index, computed) in computed.into_iter().enumerate() {
                see(self.isa, part * SEQUENCES_AT_ONCE + index, computed);
            }
        }
        Ok(())
    }

    /// Packs the matrices for which `is_meant` says so, by layer and kind.
    fn round_all(
        &mut self,
        is_meant: impl Fn(u32, TensorKind) -> bool,
        inputs: Option<InputSums>,
    ) -> Result<(), ImportError> {
        let ids = self.grids.keys().copied();
        let ids: Vec<TensorId> = ids.filter(|id| is_meant(id.layer, id.kind)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let statistics = inputs.and_then(InputSums::finish);
        for id in ids {
            let tensor = self.quantized.checkpoint.tensor(id)?;
            let rounded = round_matrix(&tensor, &self.grids[&id], statistics.as_ref());
            self.keep(id, rounded.map_err(|error| named(id, error))?)?;
        }
        Ok(())
    }

    fn keep(&mut self, id: TensorId, rounded: Rounded) -> Result<(), ImportError> {
        let tensor = self.quantized.checkpoint.tensor(id)?;
        self.done += tensor.row_count() as u64 * tensor.column_count() as u64;
        self.grids.remove(&id);
        self.quantized.packed.insert(id, Rc::new(rounded.matrix));
        (self.progress)(Progress {
            matrix: id,
            error: rounded.error,
            done: self.done,
            total: self.total,
        });
        Ok(())
    }
}

/// Where the numbers of some tokens are in rows of `width`.
fn numbers(tokens: &Range<u32>, width: usize) -> Range<usize> {
    tokens.start as usize * width..tokens.end as usize * width
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
