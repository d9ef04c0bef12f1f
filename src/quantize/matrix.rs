//! Packs one matrix: exactly, if its weights lie on the grid of its type; else with feedback of the
//! strength that errs least on the validation text. The weights of a matrix that writes to the
//! hidden rows are changed before, to make up for the errors that are in these rows already.

use std::prelude::rust_2024::*;

use pocketlm_kernels::{Isa, TILE_ROWS, pack_codes, pack_q4_group, pack_row_scale, pack_values};
use rayon::prelude::*;

use super::feedback::{Row, add, round_rows};
use super::grid::Grid;
use super::moments::{Columns, Factor, Moments, add_over_tokens};
use crate::import::{ImportError, PackedMatrix, Tensor, check_range};
use crate::model::DType;

/// One of so many sequences is validation text: candidates are compared on it.
const VALIDATION_EVERY: usize = 8;
/// The fewest tokens of validation text. With fewer, all weights are rounded by themselves.
const FEWEST_VALIDATION_TOKENS: usize = 64;
/// Tile rows of a matrix on which the candidates are tried.
const TRIED: usize = 4;
/// One of so many tile rows tells the error of a matrix.
const JUDGED: usize = 8;
/// The parts of the diagonal that are added to it. Less fits the calibration text better, more fits
/// all text.
const DAMPINGS: [f64; 4] = [0.03, 0.1, 0.25, 0.6];

/// Sums over the inputs of a matrix, to which the tokens of the text are added.
pub(super) struct InputSums {
    training: Sums,
    validation: Sums,
    /// Tokens of the validation text.
    validation_tokens: usize,
}

/// Sums over the tokens of a text.
struct Sums {
    inputs: Moments,
    /// What is missing in the outputs, times the inputs: `[rows][width]`. Empty if that is not
    /// known.
    missing: Vec<f32>,
}

impl InputSums {
    /// Of inputs of `width` numbers.
    pub fn new(width: usize) -> Self {
        let sums = || Sums {
            inputs: Moments::new(width),
            missing: Vec::new(),
        };
        InputSums {
            training: sums(),
            validation: sums(),
            validation_tokens: 0,
        }
    }

    /// Adds the inputs of a sequence, `[tokens][width]`, and what is missing in the outputs of the
    /// matrix, `[tokens][rows]`, if that is known.
    pub fn add(&mut self, sequence: usize, inputs: &[f32], missing: Option<&[f32]>, isa: &Isa) {
        let is_validation = sequence % VALIDATION_EVERY == VALIDATION_EVERY / 2;
        let sums = if is_validation {
            &mut self.validation
        } else {
            &mut self.training
        };
        let width = sums.inputs.width;
        let tokens = inputs.len() / width;
        if is_validation {
            self.validation_tokens += tokens;
        }
        let inputs = Columns::new(inputs, width);
        sums.inputs.add(&inputs, isa);
        if let Some(missing) = missing.filter(|_| tokens > 0) {
            let rows = missing.len() / tokens;
            sums.missing.resize(rows * width, 0.0);
            let missing = Columns::new(missing, rows);
            add_over_tokens(&mut sums.missing, &missing, &inputs, false, isa);
        }
    }

    /// `None` if they are of no use: not numbers, or too few to judge candidates by.
    pub fn finish(self) -> Option<InputStatistics> {
        let InputSums {
            training,
            validation,
            validation_tokens,
        } = self;
        if validation_tokens < FEWEST_VALIDATION_TOKENS
            || !training.is_finite()
            || !validation.is_finite()
        {
            return None;
        }
        let factor = |damping: &f64| Some((*damping, training.inputs.factor(*damping)?));
        let candidates = DAMPINGS.iter().filter_map(factor).collect();
        Some(InputStatistics {
            candidates,
            all: training.plus(&validation),
            missing_in_training: training.missing,
            validation,
        })
    }
}

impl Sums {
    fn is_finite(&self) -> bool {
        self.inputs.is_finite() && self.missing.iter().all(|x| x.is_finite())
    }

    fn plus(&self, other: &Sums) -> Sums {
        let missing = self.missing.iter().zip(&other.missing);
        Sums {
            inputs: self.inputs.plus(&other.inputs),
            missing: missing.map(|(a, b)| a + b).collect(),
        }
    }
}

/// The moments of the inputs of a matrix, and candidates for the feedback.
pub(super) struct InputStatistics {
    all: Sums,
    /// [`Sums::missing`] without the validation text.
    missing_in_training: Vec<f32>,
    validation: Sums,
    candidates: Vec<(f64, Factor)>,
}

impl InputStatistics {
    /// By how much corrections reduce the squared error of the rows from `first` on. It is measured
    /// on the validation text.
    fn gain(&self, first: usize, corrections: &[Vec<f32>]) -> f64 {
        let validation = &self.validation;
        let width = validation.inputs.width;
        let missing = validation.missing[first * width..].chunks_exact(width);
        let along: f64 = corrections
            .iter()
            .zip(missing)
            .flat_map(|(correction, missing)| correction.iter().zip(missing))
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum();
        let curve: f64 = validation.inputs.squared_outputs(corrections).iter().sum();
        2.0 * along - curve
    }
}

/// What is added to `count` rows of a matrix from `first` on, so that least is missing in the
/// outputs.
fn corrections(missing: &[f32], factor: &Factor, first: usize, count: usize) -> Vec<Vec<f32>> {
    let width = factor.pivots.len();
    let rows = missing[first * width..].chunks_exact(width).take(count);
    let mut rows: Vec<Vec<f32>> = rows.map(<[f32]>::to_vec).collect();
    factor.solve(&mut rows);
    rows
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
    let (words, are_exact) = store_rows(tensor, grid.dtype, |_, rows| {
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

/// Rounds a matrix and stores it; with feedback, if there are statistics of its inputs.
pub(super) fn round_matrix(
    tensor: &Tensor<'_>,
    grid: &Grid,
    statistics: Option<&InputStatistics>,
) -> Result<Rounded, ImportError> {
    let chosen = match statistics {
        Some(statistics) => choose(tensor, grid, statistics)?,
        None => Chosen::default(),
    };
    let factor = |damping: Option<f64>| {
        statistics
            .zip(damping)
            .and_then(|(statistics, damping)| statistics.all.inputs.factor(damping))
    };
    let correction = statistics.zip(factor(chosen.correction_damping));
    let feedback = factor(chosen.feedback_damping);
    let (words, losses) = store_rows(tensor, grid.dtype, |index, rows| {
        if let Some((statistics, factor)) = &correction {
            let first = index * TILE_ROWS;
            let mut corrected = rows.to_vec();
            let missing = &statistics.all.missing;
            add_rows(
                &mut corrected,
                &corrections(missing, factor, first, rows.len()),
            );
            // Inputs that are almost always zero can ask for weights that the type cannot hold.
            let is_storable = |row: &Vec<f32>| check_range(row, 0, grid.dtype).is_ok();
            if corrected.iter().all(is_storable) {
                rows.clone_from_slice(&corrected);
            }
        }
        let judge = statistics.filter(|_| index % JUDGED == 0);
        let squares = |rows: &[Vec<f32>]| -> Option<f64> {
            Some(judge?.all.inputs.squared_outputs(rows).iter().sum())
        };
        let size = squares(rows);
        let rounded = round_rows(grid, rows, feedback.as_ref());
        // `rows` holds the errors of the weights now.
        let loss = squares(rows);
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

fn add_rows(rows: &mut [Vec<f32>], others: &[Vec<f32>]) {
    for (row, other) in rows.iter_mut().zip(others) {
        add(row, other, 1.0);
    }
}

/// What is added to the diagonal, in parts of it: the choices that err least on the validation
/// text.
#[derive(Clone, Copy, Default)]
struct Chosen {
    /// `None` if no correction errs less than none.
    correction_damping: Option<f64>,
    /// `None` if no feedback errs less than none.
    feedback_damping: Option<f64>,
}

/// Tries the candidates on some rows.
fn choose(
    tensor: &Tensor<'_>,
    grid: &Grid,
    statistics: &InputStatistics,
) -> Result<Chosen, ImportError> {
    let tile_rows = tensor.row_count().div_ceil(TILE_ROWS);
    let count = tile_rows.min(TRIED);
    let tried = (0..count).map(|index| index * tile_rows / count);
    let read = |index| Ok((index * TILE_ROWS, read(tensor, index, grid.dtype)?));
    let mut tried: Vec<Tried> = tried.map(read).collect::<Result<_, ImportError>>()?;
    let correction_damping = choose_correction(statistics, &mut tried);
    let mut feedback_damping = None;
    let mut least = f64::INFINITY;
    let candidates = statistics.candidates.iter();
    let candidates = candidates.map(|(damping, factor)| (Some(*damping), Some(factor)));
    for (damping, factor) in candidates.chain([(None, None)]) {
        let losses = tried.par_iter().map(|(_, rows)| {
            let mut rows = rows.clone();
            round_rows(grid, &mut rows, factor);
            statistics
                .validation
                .inputs
                .squared_outputs(&rows)
                .iter()
                .sum()
        });
        let losses: Vec<f64> = losses.collect();
        let loss: f64 = losses.iter().sum();
        if loss < least {
            least = loss;
            feedback_damping = damping;
        }
    }
    Ok(Chosen {
        correction_damping,
        feedback_damping,
    })
}

/// The first of some rows, and the rows.
type Tried = (usize, Vec<Vec<f32>>);

/// Corrects some rows by what gains most on the validation text.
fn choose_correction(statistics: &InputStatistics, tried: &mut [Tried]) -> Option<f64> {
    if statistics.missing_in_training.is_empty() {
        return None;
    }
    let mut chosen = None;
    let mut most = 0.0;
    for (damping, factor) in &statistics.candidates {
        let found: Vec<(Vec<Vec<f32>>, f64)> = tried
            .par_iter()
            .map(|(first, rows)| {
                let corrections =
                    corrections(&statistics.missing_in_training, factor, *first, rows.len());
                let gain = statistics.gain(*first, &corrections);
                (corrections, gain)
            })
            .collect();
        let gain: f64 = found.iter().map(|(_, gain)| gain).sum();
        if gain > most {
            most = gain;
            chosen = Some((*damping, found));
        }
    }
    let (damping, found) = chosen?;
    for ((_, rows), (corrections, _)) in tried.iter_mut().zip(&found) {
        add_rows(rows, corrections);
    }
    Some(damping)
}

/// Stores all rows of a matrix, eight at a time by all cores. `numbers` gets the index of a tile
/// row and its rows. What it says besides is collected.
fn store_rows<T: Send>(
    tensor: &Tensor<'_>,
    dtype: DType,
    numbers: impl Fn(usize, &mut [Vec<f32>]) -> (T, Vec<Row>) + Sync,
) -> Result<(Vec<u32>, Vec<T>), ImportError> {
    let tile_rows = tensor.row_count().div_ceil(TILE_ROWS);
    let bytes = dtype.tile_row_bytes(tensor.column_count());
    let bytes = bytes.ok_or_else(|| ImportError::new("larger than any memory"))?;
    let mut words = vec![0u32; bytes / 4 * tile_rows];
    let told: Result<Vec<T>, ImportError> = words
        .par_chunks_exact_mut(bytes / 4)
        .enumerate()
        .map(|(index, words)| {
            let (told, rows) = numbers(index, &mut read(tensor, index, dtype)?);
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
