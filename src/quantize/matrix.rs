//! Packs one matrix: exactly, if its weights lie on the grid of its type; else with feedback of the
//! strength that errs least on text that is held out.

use std::prelude::rust_2024::*;

use pocketlm_kernels::{Isa, TILE_ROWS, pack_codes, pack_q4_group, pack_row_scale, pack_values};
use rayon::prelude::*;

use super::feedback::{Row, round_rows};
use super::grid::Grid;
use super::moments::{Factor, Moments};
use crate::import::{ImportError, PackedMatrix, Tensor, check_range};
use crate::model::DType;

/// One of so many sequences is held out.
const HELD_OUT: usize = 8;
/// The fewest tokens that are held out. With fewer, all weights are rounded by themselves.
const JUDGES: usize = 64;
/// Tile rows of a matrix on which the candidates are tried.
const TRIED: usize = 8;
/// One of so many tile rows tells the error of a matrix.
const JUDGED: usize = 8;
/// The parts of the diagonal that are added to it. Less fits the calibration text better, more fits
/// all text.
const DAMPINGS: [f64; 4] = [0.03, 0.1, 0.25, 0.6];

/// What is known of the inputs of a matrix.
pub(super) struct Inputs {
    training: Moments,
    held_out: Moments,
    /// Tokens that are held out.
    judges: usize,
}

impl Inputs {
    pub fn new(width: usize) -> Self {
        Inputs {
            training: Moments::new(width),
            held_out: Moments::new(width),
            judges: 0,
        }
    }

    /// Adds the inputs of a sequence, `[tokens][width]`.
    pub fn add(&mut self, sequence: usize, values: &[f32], isa: &Isa) {
        if sequence % HELD_OUT == HELD_OUT / 2 {
            self.judges += values.len() / self.held_out.width;
            self.held_out.add(values, isa);
        } else {
            self.training.add(values, isa);
        }
    }

    /// `None` if they are of no use: not numbers, or too few to judge candidates by.
    pub fn finish(self) -> Option<Known> {
        if self.judges < JUDGES || !self.training.is_finite() || !self.held_out.is_finite() {
            return None;
        }
        let factor = |damping: &f64| Some((*damping, self.training.factor(*damping)?));
        let candidates = DAMPINGS.iter().filter_map(factor).collect();
        Some(Known {
            candidates,
            all: self.training.plus(&self.held_out),
            held_out: self.held_out,
        })
    }
}

/// The moments of the inputs of a matrix, and candidates for the feedback.
pub(super) struct Known {
    all: Moments,
    held_out: Moments,
    candidates: Vec<(f64, Factor)>,
}

/// A packed matrix.
pub(super) struct Rounded {
    pub matrix: PackedMatrix,
    /// The squared error of its outputs over the square of the outputs.
    pub error: Option<f64>,
}

/// The matrix, if all of its weights are numbers of the grid.
pub(super) fn exact(tensor: &Tensor<'_>, grid: &Grid) -> Result<Option<PackedMatrix>, ImportError> {
    // Mostly the first row says no.
    let mut row = vec![0.0; tensor.column_count()];
    tensor.row(0, &mut row)?;
    if grid.exact(&row).is_none() {
        return Ok(None);
    }
    let (words, are_exact) = pack(tensor, grid.dtype, |_, rows| {
        let exact: Option<Vec<Row>> = rows.iter().map(|row| grid.exact(row)).collect();
        (exact.is_some(), exact.unwrap_or_default())
    })?;
    let is_exact = are_exact.iter().all(|is_exact| *is_exact);
    Ok(is_exact.then_some(PackedMatrix {
        dtype: grid.dtype,
        words,
        is_exact,
    }))
}

/// Packs a matrix; with feedback, if something is known of its inputs.
pub(super) fn round(
    tensor: &Tensor<'_>,
    grid: &Grid,
    known: Option<&Known>,
) -> Result<Rounded, ImportError> {
    let factor = match known {
        Some(known) => {
            best_damping(tensor, grid, known)?.and_then(|damping| known.all.factor(damping))
        }
        None => None,
    };
    let factor = factor.as_ref();
    let (words, losses) = pack(tensor, grid.dtype, |index, rows| {
        let judge = known.filter(|_| index % JUDGED == 0);
        let size: Option<f64> = judge.map(|known| known.all.losses(rows).iter().sum());
        let rounded = round_rows(grid, rows, factor);
        let loss: Option<f64> = judge.map(|known| known.all.losses(rows).iter().sum());
        (size.zip(loss), rounded)
    })?;
    let losses = losses.iter().flatten();
    let (size, loss) = losses.fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    Ok(Rounded {
        matrix: PackedMatrix {
            dtype: grid.dtype,
            words,
            is_exact: false,
        },
        error: (size > 0.0).then(|| loss / size),
    })
}

/// The damping that errs least on the inputs that are held out; `None` if no feedback does.
fn best_damping(
    tensor: &Tensor<'_>,
    grid: &Grid,
    known: &Known,
) -> Result<Option<f64>, ImportError> {
    let tile_rows = tensor.row_count().div_ceil(TILE_ROWS);
    let tried = tile_rows.min(TRIED);
    let mut best = (f64::INFINITY, None);
    let candidates = known.candidates.iter();
    let candidates = candidates.map(|(damping, factor)| (Some(*damping), Some(factor)));
    for (damping, factor) in candidates.chain([(None, None)]) {
        let losses: Result<Vec<f64>, ImportError> = (0..tried)
            .into_par_iter()
            .map(|index| {
                let mut rows = read(tensor, index * tile_rows / tried, grid.dtype)?;
                round_rows(grid, &mut rows, factor);
                Ok(known.held_out.losses(&rows).iter().sum())
            })
            .collect();
        let loss: f64 = losses?.iter().sum();
        if loss < best.0 {
            best = (loss, damping);
        }
    }
    Ok(best.1)
}

/// Packs all rows of a matrix, eight at a time by all cores. `round` gets the index of a tile row
/// and its rows. What it says besides is collected.
fn pack<T: Send>(
    tensor: &Tensor<'_>,
    dtype: DType,
    round: impl Fn(usize, &mut [Vec<f32>]) -> (T, Vec<Row>) + Sync,
) -> Result<(Vec<u32>, Vec<T>), ImportError> {
    let tile_rows = tensor.row_count().div_ceil(TILE_ROWS);
    let bytes = dtype.tile_row_bytes(tensor.column_count());
    let bytes = bytes.ok_or_else(|| ImportError::new("larger than any memory"))?;
    let mut words = vec![0u32; bytes / 4 * tile_rows];
    let told: Result<Vec<T>, ImportError> = words
        .par_chunks_exact_mut(bytes / 4)
        .enumerate()
        .map(|(index, words)| {
            let (told, rows) = round(index, &mut read(tensor, index, dtype)?);
            for (lane, row) in rows.iter().enumerate() {
                write(dtype, bytemuck::cast_slice_mut(words), lane, row);
            }
            Ok(told)
        })
        .collect();
    Ok((words, told?))
}

/// The rows of a tile row.
fn read(tensor: &Tensor<'_>, tile_row: usize, dtype: DType) -> Result<Vec<Vec<f32>>, ImportError> {
    let first = tile_row * TILE_ROWS;
    let rows = first..tensor.row_count().min(first + TILE_ROWS);
    rows.map(|r| {
        let mut row = vec![0.0; tensor.column_count()];
        tensor.row(r, &mut row)?;
        check_range(&row, r, dtype)?;
        Ok(row)
    })
    .collect()
}

/// Writes a row as row `lane` of a tile row.
fn write(dtype: DType, tile_row: &mut [u8], lane: usize, row: &Row) {
    let levels = dtype.levels();
    pack_row_scale(dtype, tile_row, lane, (row.scale.to_bits() >> 16) as u16);
    for (index, group) in row.groups.iter().enumerate() {
        let code = group.scale.code;
        let values = group.levels.map(|level| level as i8);
        match dtype {
            DType::Q6 | DType::Q5 => pack_values(dtype, tile_row, lane, index, code, &values),
            DType::Q4 => {
                let values = values.map(|value| (value + 8) as u8);
                pack_q4_group(tile_row, lane, index, code, None, &values);
            }
            DType::Nl4 | DType::Nl3 => {
                let code_of = |value| levels.partition_point(|&level| level < value) as u8;
                pack_codes(
                    dtype,
                    tile_row,
                    lane,
                    index,
                    code as u8 as i8,
                    &values.map(code_of),
                );
            }
            DType::Q8 | DType::Q4Min | DType::F32 | DType::F16 | DType::Bf16 => {}
        }
    }
}
