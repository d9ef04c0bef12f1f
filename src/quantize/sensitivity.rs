//! What each matrix costs in each type, and which types a budget of bytes buys.
//!
//! Each matrix in turn is rounded to three bits while the others stay as they are, and the
//! divergence from the checkpoint is measured on a little text. A small error moves the outputs in
//! proportion, and the divergence grows with its square. So the cost of a matrix in another type is
//! its cost in three bits, times the ratio of the squared errors of its weights. Costs of several
//! matrices add up, as their errors are independent. The packer's error feedback makes all of them
//! smaller: see `left_by_feedback`.

use std::collections::BTreeMap;
use std::prelude::rust_2024::*;
use std::rc::Rc;

use pocketlm_kernels::{Isa, TILE_ROWS};

use super::feedback::round_rows;
use super::grid::Grid;
use super::layer::{OneLayer, embed};
use super::matrix::{exact, round_matrix};
use super::measure::{Predictions, compare, divergences, final_norm};
use super::{Calibration, Quantized, named};
use crate::import::{Checkpoint, ImportError, PackedMatrix, Tensor};
use crate::model::{DType, TensorId, TensorKind};

/// Sequences of calibration text that are used, and tokens of each.
const SEQUENCES: usize = 8;
const LENGTH: usize = 64;
/// Of so many tokens one is compared: `lm_head` is often the largest matrix.
const COMPARED: usize = 2;
/// Tile rows of a matrix from which its error in each type is estimated.
const TRIED: usize = 8;
/// The type whose cost is measured.
const MEASURED: DType = DType::Nl3;
/// The squared error of q8 over that of q6: their steps are 1/127 and 1/31.5 of the largest weight.
const Q8_TO_Q6: f64 = 31.5 * 31.5 / (127.0 * 127.0);

/// A matrix in one type.
#[derive(Clone, Copy, Debug)]
struct Choice {
    dtype: DType,
    bytes: u64,
    /// The divergence that is expected, in nats a token.
    kl: f64,
}

/// What the matrices of a checkpoint cost in each type.
///
/// ```no_run
/// use pocketlm::import::{self, PackOptions};
/// use pocketlm::quantize::{Calibration, Sensitivity, quantize};
///
/// let checkpoint = import::open("SmolLM2-135M-Instruct".as_ref())?;
/// let calibration = Calibration::new(checkpoint.description(), None)?.expect("a tokenizer");
/// let sensitivity = Sensitivity::measure(&*checkpoint, &calibration, &mut |_, _| {})?;
/// let types = sensitivity.types(sensitivity.weights() * 9 / 2 / 8).expect("4.5 bits are enough");
/// let options = PackOptions { types, ..PackOptions::default() };
/// let quantized = quantize(&*checkpoint, &options, Some(&calibration), &mut |_| {})?;
/// # Ok::<(), pocketlm::import::ImportError>(())
/// ```
pub struct Sensitivity {
    /// Each matrix's choices from small to large, without those that another one beats.
    choices: BTreeMap<TensorId, Vec<Choice>>,
    weights: u64,
}

/// A checkpoint with one rounded matrix, and the rows that come out of its layers so far.
struct Variant<'c> {
    id: TensorId,
    /// The checkpoint, if the matrix belongs to no layer: it may be `lm_head`.
    whole: Option<Quantized<'c>>,
    hidden: Vec<f32>,
}

impl Sensitivity {
    /// Measures each matrix. Calls `progress` with the layers done and the total.
    ///
    /// # Errors
    /// A tensor cannot be read, the text is empty, or the model computes what is not a number.
    pub fn measure(
        checkpoint: &dyn Checkpoint,
        calibration: &Calibration,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Sensitivity, ImportError> {
        let mut sensitivity = Sensitivity {
            choices: BTreeMap::new(),
            weights: 0,
        };
        for (id, kl) in costs(checkpoint, &excerpt(calibration), progress)? {
            if !kl.is_finite() {
                let reason =
                    "the model computes what is not a number; its matrices cannot be compared";
                return Err(ImportError::new(reason));
            }
            let tensor = checkpoint.tensor(id)?;
            let kl = kl.max(0.0) * left_by_feedback(id.kind);
            let choices = choices(&tensor, kl).map_err(|error| named(id, error))?;
            sensitivity.weights += tensor.row_count() as u64 * tensor.column_count() as u64;
            sensitivity.choices.insert(id, choices);
        }
        Ok(sensitivity)
    }

    /// The weights of all matrices.
    pub fn weights(&self) -> u64 {
        self.weights
    }

    /// The bytes of all matrices in their smallest types.
    pub fn smallest(&self) -> u64 {
        let smallest = |choices: &Vec<Choice>| choices.first().map_or(0, |choice| choice.bytes);
        self.choices.values().map(smallest).sum()
    }

    /// The types for which the expected divergence is least while all matrices take `bytes` at
    /// most. `None` if the smallest types take more.
    pub fn types(&self, bytes: u64) -> Option<BTreeMap<TensorId, DType>> {
        let left = bytes.checked_sub(self.smallest())?;
        let all: Vec<(TensorId, &[Choice])> = self
            .choices
            .iter()
            .map(|(id, choices)| (*id, choices.as_slice()))
            .collect();
        let mut steps = Vec::new();
        for (matrix, (_, choices)) in all.iter().enumerate() {
            for (index, pair) in choices.windows(2).enumerate() {
                steps.push((gain(&pair[0], &pair[1]), matrix, index + 1));
            }
        }
        // Those first that gain most for a byte.
        steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let smallest = vec![0; all.len()];
        let mut best = fill(&all, &steps, smallest.clone(), left);
        // A large matrix may not fit any more when it is its turn. So each matrix in each type is
        // tried first, too.
        for &(_, matrix, index) in &steps {
            let choices = all[matrix].1;
            let more = choices[index].bytes - choices[0].bytes;
            if more <= left {
                let mut first = smallest.clone();
                first[matrix] = index;
                let found = fill(&all, &steps, first, left - more);
                if found.0 < best.0 {
                    best = found;
                }
            }
        }
        let dtype =
            |((id, choices), index): (&(TensorId, &[Choice]), usize)| (*id, choices[index].dtype);
        Some(all.iter().zip(best.1).map(dtype).collect())
    }
}

/// Spends `left` bytes on `steps` to larger types, in their order, from the choices `chosen` on.
/// Returns the divergence that is expected, and the choices.
fn fill(
    all: &[(TensorId, &[Choice])],
    steps: &[(f64, usize, usize)],
    mut chosen: Vec<usize>,
    mut left: u64,
) -> (f64, Vec<usize>) {
    for &(_, matrix, index) in steps {
        let choices = all[matrix].1;
        let more = choices[index].bytes - choices[index - 1].bytes;
        // A step that does not fit ends the way of its matrix: later steps need this one.
        if chosen[matrix] + 1 == index && more <= left {
            left -= more;
            chosen[matrix] = index;
        }
    }
    let kl = |((_, choices), index): (&(TensorId, &[Choice]), &usize)| choices[*index].kl;
    (all.iter().zip(&chosen).map(kl).sum(), chosen)
}

/// A guess at the part of a matrix's cost that error feedback leaves: about a third in layers.
/// Feedback helps an embedding table only where it is `lm_head` too. Where its rows are the inputs
/// of the model, it does not. So a half is left there.
fn left_by_feedback(kind: TensorKind) -> f64 {
    match kind {
        TensorKind::Embedder | TensorKind::LmHead => 0.5,
        _ => 1.0 / 3.0,
    }
}

/// The divergence that a byte more saves.
fn gain(small: &Choice, large: &Choice) -> f64 {
    (small.kl - large.kl) / (large.bytes - small.bytes) as f64
}

/// A little of the calibration text, from all over it.
fn excerpt(calibration: &Calibration) -> Vec<Vec<u32>> {
    let sequences = &calibration.sequences;
    let count = sequences.len().min(SEQUENCES);
    let sequence = |index: usize| {
        let sequence = &sequences[index * sequences.len() / count];
        sequence[..sequence.len().min(LENGTH)].to_vec()
    };
    (0..count).map(sequence).collect()
}

/// The divergence that each matrix causes if it alone is rounded to [`MEASURED`].
fn costs(
    checkpoint: &dyn Checkpoint,
    sequences: &[Vec<u32>],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<(TensorId, f64)>, ImportError> {
    let config = checkpoint.description().config;
    let layers = config.num_decoder_blocks;
    let ids = checkpoint.description().tensor_ids();
    let ids: Vec<TensorId> = ids.filter(|id| id.kind.is_matrix()).collect();
    let mut hidden = embed(checkpoint, sequences)?;
    if hidden.is_empty() {
        return Err(ImportError::new("there is no text to compare matrices on"));
    }
    let mut variants: Vec<Variant<'_>> = Vec::new();
    for &id in ids.iter().filter(|id| !id.kind.is_per_layer()) {
        let whole = Quantized {
            checkpoint,
            packed: BTreeMap::from([(id, Rc::new(rounded(checkpoint, id)?))]),
        };
        variants.push(Variant {
            id,
            hidden: embed(&whole, sequences)?,
            whole: Some(whole),
        });
    }
    for layer in 0..layers {
        let of_layer = |id: &&TensorId| id.kind.is_per_layer() && id.layer == layer;
        let ids: Vec<TensorId> = ids.iter().filter(of_layer).copied().collect();
        compute_layer(checkpoint, &ids, sequences, &mut hidden, &mut variants)?;
        progress(u64::from(layer) + 1, u64::from(layers) + 1);
    }
    let costs = final_divergences(checkpoint, &hidden, &variants)?;
    progress(u64::from(layers) + 1, u64::from(layers) + 1);
    Ok(costs)
}

/// Takes the hidden rows of the reference and of all variants through a layer, whose matrices are
/// `ids`, and begins a variant for each of these matrices.
fn compute_layer(
    checkpoint: &dyn Checkpoint,
    ids: &[TensorId],
    sequences: &[Vec<u32>],
    hidden: &mut Vec<f32>,
    variants: &mut Vec<Variant<'_>>,
) -> Result<(), ImportError> {
    let Some(layer) = ids.first().map(|id| id.layer) else {
        return Ok(());
    };
    // The errors that are measured are far larger than those of q8, which is faster than f32.
    let packed = OneLayer::new(checkpoint, layer, hidden).pack(DType::Q8)?;
    let mut begun = Vec::new();
    for &id in ids {
        let mut packed = packed.clone();
        packed.insert(id.kind, Rc::new(rounded(checkpoint, id)?));
        let one = OneLayer::new(checkpoint, layer, hidden).with_packed(packed);
        let hidden = one.after(DType::Q8, sequences, Isa::best())?;
        begun.push(Variant {
            id,
            whole: None,
            hidden,
        });
    }
    // The reference and all variants at once, because preparing a layer takes time.
    let rows: Vec<f32> = variants.iter().fold(hidden.clone(), |mut rows, variant| {
        rows.extend_from_slice(&variant.hidden);
        rows
    });
    let copies: Vec<Vec<u32>> = (0..=variants.len())
        .flat_map(|_| sequences.to_vec())
        .collect();
    let one = OneLayer::new(checkpoint, layer, &rows).with_packed(packed);
    let rows = one.after(DType::Q8, &copies, Isa::best())?;
    let mut parts = rows.chunks_exact(hidden.len());
    *hidden = parts.next().unwrap_or_default().to_vec();
    for (variant, part) in variants.iter_mut().zip(parts) {
        variant.hidden = part.to_vec();
    }
    variants.extend(begun);
    Ok(())
}

/// The divergence of each variant from the reference, both after the last layer.
fn final_divergences(
    checkpoint: &dyn Checkpoint,
    hidden: &[f32],
    variants: &[Variant<'_>],
) -> Result<Vec<(TensorId, f64)>, ImportError> {
    let states = compared(checkpoint, hidden)?;
    let tokens = states.len() / checkpoint.description().config.embedding_dim as usize;
    let mut costs = Vec::new();
    // Models with an `lm_head` of their own; then the others, all at once.
    let reference = Predictions::new(checkpoint, states.clone())?;
    let mut all = states;
    let mut in_layers = Vec::new();
    for variant in variants {
        let states = compared(checkpoint, &variant.hidden)?;
        match &variant.whole {
            None => {
                all.extend(states);
                in_layers.push(variant.id);
            }
            Some(whole) => {
                let agreement = compare(&reference, &Predictions::new(whole, states)?)?;
                costs.push((variant.id, agreement.kl));
            }
        }
    }
    let divergences = divergences(&Predictions::new(checkpoint, all)?, tokens)?;
    costs.extend(in_layers.into_iter().zip(divergences));
    Ok(costs)
}

/// A matrix in three bits.
fn rounded(checkpoint: &dyn Checkpoint, id: TensorId) -> Result<PackedMatrix, ImportError> {
    let tensor = checkpoint.tensor(id)?;
    let grid = Grid::of(MEASURED).expect("a type that is rounded");
    let rounded = round_matrix(&tensor, &grid, None).map_err(|error| named(id, error))?;
    Ok(rounded.matrix)
}

/// The final states of the tokens that are compared.
fn compared(checkpoint: &dyn Checkpoint, hidden: &[f32]) -> Result<Vec<f32>, ImportError> {
    let width = checkpoint.description().config.embedding_dim as usize;
    let rows = hidden.chunks_exact(width).skip(COMPARED - 1);
    let rows: Vec<f32> = rows.step_by(COMPARED).flatten().copied().collect();
    final_norm(checkpoint, &rows)
}

/// The types that a matrix can have, with their costs, if three bits cost `kl`.
fn choices(tensor: &Tensor<'_>, kl: f64) -> Result<Vec<Choice>, ImportError> {
    let mut errors = Vec::new();
    for dtype in [DType::Nl3, DType::Nl4, DType::Q4, DType::Q5, DType::Q6] {
        let grid = Grid::of(dtype).expect("a type that is rounded");
        let error = match exact(tensor, &grid)? {
            Some(_) => 0.0,
            None => squared_error(tensor, &grid)?,
        };
        errors.push((dtype, error));
    }
    let [(_, of_measured), .., (_, of_q6)] = errors[..] else {
        return Ok(Vec::new());
    };
    errors.push((DType::Q8, of_q6 * Q8_TO_Q6));
    // What the checkpoint stores loses nothing.
    errors.push((tensor.nearest(), 0.0));
    let mut all = Vec::new();
    for (dtype, error) in errors {
        let bytes = dtype.matrix_bytes(tensor.row_count(), tensor.column_count());
        let bytes = bytes.ok_or_else(|| ImportError::new("larger than any memory"))? as u64;
        let ratio = if of_measured > 0.0 {
            error / of_measured
        } else {
            0.0
        };
        all.push(Choice {
            dtype,
            bytes,
            kl: kl * ratio,
        });
    }
    all.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.kl.total_cmp(&b.kl)));
    Ok(best_for_their_size(&all))
}

/// The choices on the lower convex hull: each gains more for a byte than the one after it.
fn best_for_their_size(all: &[Choice]) -> Vec<Choice> {
    let mut hull: Vec<Choice> = Vec::new();
    for &choice in all {
        if hull
            .last()
            .is_some_and(|last| choice.kl >= last.kl || choice.bytes == last.bytes)
        {
            continue;
        }
        while let [.., before, last] = &hull[..]
            && gain(before, last) <= gain(last, &choice)
        {
            hull.pop();
        }
        hull.push(choice);
    }
    hull
}

/// The squared error of some rows of a matrix, rounded without feedback.
fn squared_error(tensor: &Tensor<'_>, grid: &Grid) -> Result<f64, ImportError> {
    let tile_rows = tensor.row_count().div_ceil(TILE_ROWS);
    let tried = tile_rows.min(TRIED);
    let mut sum = 0.0;
    for index in 0..tried {
        let first = index * tile_rows / tried * TILE_ROWS;
        let mut rows = Vec::new();
        for r in first..tensor.row_count().min(first + TILE_ROWS) {
            let mut row = vec![0.0; tensor.column_count()];
            tensor.row(r, &mut row)?;
            rows.push(row);
        }
        round_rows(grid, &mut rows, None);
        let errors = rows.iter().flatten();
        sum += errors
            .map(|error| f64::from(*error) * f64::from(*error))
            .sum::<f64>();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(dtype: DType, bytes: u64, kl: f64) -> Choice {
        Choice { dtype, bytes, kl }
    }

    #[test]
    fn a_choice_that_another_beats_is_dropped() {
        let all = [
            choice(DType::Nl3, 3, 8.0),
            // On the way from nl3 to q5 a mixture is better.
            choice(DType::Nl4, 4, 7.0),
            choice(DType::Q5, 5, 1.0),
            choice(DType::Q6, 6, 1.5),
            choice(DType::Q8, 8, 0.0),
        ];
        let kept: Vec<DType> = best_for_their_size(&all).iter().map(|c| c.dtype).collect();
        assert_eq!(kept, [DType::Nl3, DType::Q5, DType::Q8]);
    }

    fn two_matrices() -> [TensorId; 2] {
        [TensorKind::Embedder, TensorKind::LmHead].map(|kind| TensorId { layer: 0, kind })
    }

    #[test]
    fn the_matrix_that_costs_more_gets_the_bytes() {
        let [cheap, dear] = two_matrices();
        let of = |kl: f64| vec![choice(DType::Nl3, 30, kl), choice(DType::Nl4, 40, kl / 4.0)];
        let sensitivity = Sensitivity {
            choices: BTreeMap::from([(cheap, of(1.0)), (dear, of(2.0))]),
            weights: 160,
        };
        assert_eq!(sensitivity.types(59), None);
        for (bytes, types) in [
            (60, [DType::Nl3, DType::Nl3]),
            (69, [DType::Nl3, DType::Nl3]),
            (70, [DType::Nl3, DType::Nl4]),
            (80, [DType::Nl4, DType::Nl4]),
        ] {
            let expected = BTreeMap::from([(cheap, types[0]), (dear, types[1])]);
            assert_eq!(sensitivity.types(bytes), Some(expected), "{bytes}");
        }
    }

    #[test]
    fn a_large_matrix_gets_its_turn() {
        let [small, large] = two_matrices();
        let sensitivity = Sensitivity {
            choices: BTreeMap::from([
                (
                    small,
                    vec![choice(DType::Nl3, 3, 1.0), choice(DType::Nl4, 4, 0.5)],
                ),
                (
                    large,
                    vec![choice(DType::Nl3, 300, 50.0), choice(DType::Nl4, 400, 10.0)],
                ),
            ]),
            weights: 0,
        };
        // The small one gains more for a byte, but then the large one does not fit.
        let expected = BTreeMap::from([(small, DType::Nl3), (large, DType::Nl4)]);
        assert_eq!(sensitivity.types(403), Some(expected));
    }
}
