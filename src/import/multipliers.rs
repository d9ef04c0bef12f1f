//! Granite's four multipliers, which an image does not have. They are folded into numbers that it
//! has.

use std::prelude::rust_2024::*;

use super::{Element, ImportError, Tensor};

/// The multipliers of a family that has [`multipliers`](super::family::Family::multipliers); all 1
/// for others.
///
/// The forward pass needs no residual multiplier. With `y = x / r`, `x + r * block(norm(x))` is
/// `y + block(norm(y))`, if the norms' epsilon is divided by `r^2` and the embeddings by `r`.
#[derive(Clone, Copy)]
pub(super) struct Multipliers {
    pub(super) embedding: f64,
    pub(super) residual: f64,
    /// Divides the logits.
    pub(super) logits: f64,
}

impl Multipliers {
    /// What embeddings are multiplied by.
    pub(super) fn embedding_scale(&self) -> f64 {
        self.embedding / self.residual
    }

    /// The epsilon of the norms.
    pub(super) fn eps(&self, eps: f64) -> f64 {
        eps / (self.residual * self.residual)
    }

    /// Divides the weights of the final norm. That is the same as dividing the logits, and leaves a
    /// tied embedding table unchanged.
    pub(super) fn final_norm<'c>(&self, norm: Tensor<'c>) -> Result<Tensor<'c>, ImportError> {
        if self.logits == 1.0 {
            return Ok(norm);
        }
        let mut weights = vec![0.0; norm.column_count()];
        norm.row(0, &mut weights)?;
        let data: Vec<u8> = weights
            .iter()
            .flat_map(|&w| ((f64::from(w) / self.logits) as f32).to_le_bytes())
            .collect();
        Tensor::dense(Element::F32, data, 1, weights.len())
    }
}
