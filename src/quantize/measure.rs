//! How far a packed model is from its checkpoint, in the memory of a layer.

use std::ops::Range;
use std::prelude::rust_2024::*;

use pocketlm_kernels::math::exp;
use pocketlm_kernels::vector::rms_norm;
use pocketlm_kernels::{DType, Input, Isa, Matrix, Output, Solo, TILE_ROWS, pack_row, split_rows};
use rayon::prelude::*;

use super::Calibration;
use super::layer::{Numbers, OneLayer, dequantized, embed};
use crate::import::{Checkpoint, ImportError};
use crate::model::{TensorId, TensorKind};

/// Tokens of the vocabulary whose logits are computed at a time.
const LOGITS: usize = 256;

/// How far a packed model is from its checkpoint on text that was held out.
///
/// Example: [`measure`](measure()).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Tokens of the text.
    pub tokens: usize,
    /// The mean of KL(checkpoint ‖ packed) over the tokens, in nats; NaN if one of them computes
    /// what is not a number.
    pub kl: f64,
    /// The share of tokens after which both think the same token the most probable.
    pub top1: f64,
}

/// Compares two checkpoints of one shape: one as it is, and one with packed matrices.
///
/// # Errors
/// A tensor cannot be read, or the text is empty.
///
/// ```no_run
/// use pocketlm::import::{self, PackOptions};
/// use pocketlm::model::DType;
/// use pocketlm::quantize::{Calibration, measure, quantize};
///
/// let checkpoint = import::open("SmolLM2-135M-Instruct".as_ref())?;
/// let options = PackOptions { dtype: Some(DType::Nl4), ..PackOptions::default() };
/// let calibration = Calibration::new(checkpoint.description(), None)?.expect("a tokenizer");
/// let quantized = quantize(&*checkpoint, &options, Some(&calibration), &mut |progress| {
///     println!("{}: {} of {} weights", progress.matrix, progress.done, progress.total);
/// })?;
/// let agreement = measure(&*checkpoint, &quantized, &calibration)?;
/// println!("KL {} nats a token, top-1 {}", agreement.kl, agreement.top1);
/// # Ok::<(), pocketlm::import::ImportError>(())
/// ```
pub fn measure(
    reference: &dyn Checkpoint,
    packed: &dyn Checkpoint,
    calibration: &Calibration,
) -> Result<Agreement, ImportError> {
    let sequences = &calibration.held_out;
    let states = final_states(reference, sequences, Isa::best())?;
    let reference = Predictions::new(reference, states)?;
    let states = final_states(packed, sequences, Isa::best())?;
    let packed = Predictions::new(packed, states)?;
    compare(&reference, &packed)
}

/// What the logits of some tokens are computed from.
pub(super) struct Predictions<'c> {
    lm_head: Numbers<'c>,
    /// Normed, `[tokens][embedding_dim]`.
    states: Vec<f32>,
    final_logit_softcap: Option<f32>,
}

impl<'c> Predictions<'c> {
    /// The `lm_head` of a checkpoint, and final states.
    pub fn new(checkpoint: &'c dyn Checkpoint, states: Vec<f32>) -> Result<Self, ImportError> {
        let config = checkpoint.description().config;
        let kind = if config.tie_embedder_and_logits {
            TensorKind::Embedder
        } else {
            TensorKind::LmHead
        };
        Ok(Predictions {
            lm_head: dequantized(checkpoint, TensorId { layer: 0, kind })?,
            states,
            final_logit_softcap: config.final_logit_softcap,
        })
    }

    /// The logits of some tokens of the vocabulary: `[tokens][rows]`.
    fn logits(&self, rows: Range<usize>) -> Result<Vec<f32>, ImportError> {
        let isa = Isa::best();
        let mut logits = product(&self.lm_head, rows, &self.states, isa)?;
        if let Some(cap) = self.final_logit_softcap {
            isa.soft_cap(&mut logits, cap);
        }
        Ok(logits)
    }
}

/// Compares the logits of two models with one vocabulary.
pub(super) fn compare(
    reference: &Predictions,
    packed: &Predictions,
) -> Result<Agreement, ImportError> {
    let tokens = reference.states.len() / reference.lm_head.columns();
    let sums = over_vocabulary(reference.lm_head.rows(), tokens, |rows| {
        let p = reference.logits(rows.clone())?;
        let q = packed.logits(rows.clone())?;
        let tokens = p.chunks_exact(rows.len()).zip(q.chunks_exact(rows.len()));
        Ok(tokens.map(|(p, q)| Sums::of(p, q, rows.start)).collect())
    })?;
    let same = sums.iter().filter(|sum| sum.p.best == sum.q.best).count();
    Ok(Agreement {
        tokens,
        kl: mean_kl(&sums),
        top1: same as f64 / tokens as f64,
    })
}

/// The divergence of each of several models from the first one. They have the same `lm_head`,
/// and `model` holds the states of one after the other, `tokens` of each.
pub(super) fn divergences(model: &Predictions, tokens: usize) -> Result<Vec<f64>, ImportError> {
    let others = model.states.len() / model.lm_head.columns() - tokens;
    let sums = over_vocabulary(model.lm_head.rows(), others, |rows| {
        let logits = model.logits(rows.clone())?;
        let (p, q) = logits.split_at(tokens * rows.len());
        let p = p.chunks_exact(rows.len()).cycle();
        let tokens = p.zip(q.chunks_exact(rows.len()));
        Ok(tokens.map(|(p, q)| Sums::of(p, q, rows.start)).collect())
    })?;
    Ok(sums.chunks_exact(tokens).map(mean_kl).collect())
}

/// Adds up what `part` says of `count` tokens in each part of a vocabulary: some parts at a time,
/// by all cores, added in order.
fn over_vocabulary(
    vocabulary: usize,
    count: usize,
    part: impl Fn(Range<usize>) -> Result<Vec<Sums>, ImportError> + Sync,
) -> Result<Vec<Sums>, ImportError> {
    let starts: Vec<usize> = (0..vocabulary).step_by(LOGITS).collect();
    let mut sums = vec![Sums::NONE; count];
    for starts in starts.chunks(16) {
        let parts = starts.par_iter();
        let parts = parts.map(|&start| part(start..vocabulary.min(start + LOGITS)));
        let parts: Result<Vec<Vec<Sums>>, ImportError> = parts.collect();
        for part in parts? {
            for (sum, part) in sums.iter_mut().zip(part) {
                sum.add(&part);
            }
        }
    }
    Ok(sums)
}

fn mean_kl(sums: &[Sums]) -> f64 {
    sums.iter().map(Sums::kl).sum::<f64>() / sums.len() as f64
}

/// The normed rows that come out of the last layer.
fn final_states(
    checkpoint: &dyn Checkpoint,
    sequences: &[Vec<u32>],
    isa: &'static Isa,
) -> Result<Vec<f32>, ImportError> {
    let config = checkpoint.description().config;
    let mut hidden = embed(checkpoint, sequences)?;
    for layer in 0..config.num_decoder_blocks {
        if hidden.iter().any(|x| !x.is_finite()) {
            hidden.fill(f32::NAN);
            break;
        }
        let layer = OneLayer::new(checkpoint, layer, &hidden);
        hidden = layer.after(DType::F32, sequences, isa)?;
    }
    final_norm(checkpoint, &hidden)
}

/// The final norm of rows.
pub(super) fn final_norm(
    checkpoint: &dyn Checkpoint,
    hidden: &[f32],
) -> Result<Vec<f32>, ImportError> {
    let config = checkpoint.description().config;
    let width = config.embedding_dim as usize;
    let id = TensorId {
        layer: 0,
        kind: TensorKind::FinalNorm,
    };
    let mut norm = vec![0.0; width];
    checkpoint.tensor(id)?.row(0, &mut norm)?;
    let mut normed = hidden.to_vec();
    rms_norm(&mut normed, &norm, config.rms_norm_eps);
    Ok(normed)
}

/// Rows of a matrix times inputs: `[inputs][rows]`.
fn product(
    tensor: &Numbers<'_>,
    rows: Range<usize>,
    inputs: &[f32],
    isa: &Isa,
) -> Result<Vec<f32>, ImportError> {
    let columns = tensor.columns();
    let count = inputs.len() / columns;
    let tile_row = TILE_ROWS * columns;
    let mut tiles = vec![0.0f32; rows.len().div_ceil(TILE_ROWS) * tile_row];
    let mut values = vec![0.0; columns];
    for (index, r) in rows.clone().enumerate() {
        tensor.row(r, &mut values)?;
        let tile = &mut tiles[index / TILE_ROWS * tile_row..][..tile_row];
        let tile = bytemuck::cast_slice_mut(tile);
        pack_row(DType::F32, tile, index % TILE_ROWS, &values);
    }
    let matrix = Matrix::new(
        DType::F32,
        rows.len(),
        columns,
        bytemuck::cast_slice(&tiles),
    );
    let matrix = matrix.expect("as large as it says");
    let mut out = vec![0.0; count * rows.len()];
    let output = Output {
        values: &mut out,
        rows: rows.len(),
        range: 0..rows.len(),
    };
    let input = Input {
        count,
        values: inputs,
        groups: &[],
        tiles: &[],
    };
    split_rows(
        &Solo,
        [output],
        (rows.len(), usize::MAX),
        |_, inputs, rows, mut out| {
            let input = input.some(inputs, columns);
            let tile_rows = rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS);
            isa.matmul(&matrix, &input, tile_rows, &mut out);
        },
    );
    Ok(out)
}

/// What is left of the logits of a token, as far as they are seen.
#[derive(Clone, Copy)]
struct Side {
    largest: f32,
    best: usize,
    /// The sum of `e^(logit - largest)`.
    sum: f64,
}

/// The logits of a token in both models.
#[derive(Clone, Copy)]
struct Sums {
    p: Side,
    q: Side,
    /// The sum of `e^(p - largest p) (p - q)`.
    difference: f64,
}

impl Side {
    const NONE: Side = Side {
        largest: f32::NEG_INFINITY,
        best: 0,
        sum: 0.0,
    };

    fn of(logits: &[f32], start: usize) -> Side {
        let mut side = Side::NONE;
        for (index, &logit) in logits.iter().enumerate() {
            if logit > side.largest {
                (side.largest, side.best) = (logit, start + index);
            }
        }
        let terms = logits
            .iter()
            .map(|logit| f64::from(exp(logit - side.largest)));
        side.sum = terms.sum();
        side
    }

    /// Takes in logits that come after these. Returns what sums over these and those are scaled by.
    fn add(&mut self, other: &Side) -> [f64; 2] {
        let largest = self.largest.max(other.largest);
        let scale = |side: &Side| match side.sum {
            0.0 => 0.0,
            _ => f64::from(exp(side.largest - largest)),
        };
        let scales = [scale(self), scale(other)];
        self.sum = self.sum * scales[0] + other.sum * scales[1];
        if other.largest > self.largest {
            (self.largest, self.best) = (other.largest, other.best);
        }
        scales
    }

    /// The logarithm of the sum of `e^logit`.
    fn log_sum(&self) -> f64 {
        f64::from(self.largest) + self.sum.ln()
    }
}

impl Sums {
    const NONE: Sums = Sums {
        p: Side::NONE,
        q: Side::NONE,
        difference: 0.0,
    };

    fn of(p: &[f32], q: &[f32], start: usize) -> Sums {
        let side = Side::of(p, start);
        let terms = p
            .iter()
            .zip(q)
            .map(|(p, q)| f64::from(exp(p - side.largest)) * f64::from(p - q));
        Sums {
            difference: terms.sum(),
            p: side,
            q: Side::of(q, start),
        }
    }

    fn add(&mut self, other: &Sums) {
        let [own, others] = self.p.add(&other.p);
        self.difference = self.difference * own + other.difference * others;
        self.q.add(&other.q);
    }

    fn kl(&self) -> f64 {
        self.difference / self.p.sum - self.p.log_sum() + self.q.log_sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_parts_give_the_divergence_of_the_whole() {
        let p: Vec<f32> = (0..40).map(|i| ((i * 7 % 13) as f32 - 5.0) * 1.5).collect();
        let q: Vec<f32> = (0..40)
            .map(|i| ((i * 7 % 13) as f32 - 5.0) + (i % 3) as f32)
            .collect();
        let mut sums = Sums::NONE;
        for start in (0..40).step_by(9) {
            let part = start..40.min(start + 9);
            sums.add(&Sums::of(&p[part.clone()], &q[part], start));
        }
        let softmax = |logits: &[f32]| -> Vec<f64> {
            let e: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.iter().map(|x| x / sum).collect()
        };
        let pairs = softmax(&p).into_iter().zip(softmax(&q));
        let expected: f64 = pairs.map(|(p, q)| p * (p / q).ln()).sum();
        assert!(
            (sums.kl() - expected).abs() < 1e-5,
            "{} {expected}",
            sums.kl()
        );
        assert_eq!((sums.p.best, sums.q.best), (11, 11));
    }
}
