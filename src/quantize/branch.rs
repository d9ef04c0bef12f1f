//! What is missing in the hidden rows after a branch (attention or the feed-forward network), as
//! least squares for the matrix that the branch ends with.
//!
//! With a norm after the branch (Gemma 2 and 3) the hidden rows get `g y / rms(y)`, where `y` is
//! the output of the matrix and its bias. A small change of `y` changes them by `g / rms(y)` times
//! as much, if the change of `rms(y)` is left out. So the inputs are divided by `rms(y)`, and what
//! is missing by `g`.

use std::prelude::rust_2024::*;

/// What is added to `g²`, in parts of its mean. A change that the norm makes small takes a large
/// change of the outputs, and that would change `rms(y)`.
const RIDGE: f32 = 0.1;
/// Keeps rows of zeros from a division by 0.
const EPSILON: f32 = 1e-6;

/// Rows of a sequence, `[tokens][width]` each.
pub(super) struct Branch<'a> {
    /// What the branch computed, bias included, before its norm.
    pub outputs: &'a [f32],
    /// The norm after it, `[width]`, if there is one.
    pub norm: Option<&'a [f32]>,
    /// The hidden rows, to which it is added already.
    pub hidden: &'a [f32],
    /// The hidden rows of the checkpoint.
    pub target: &'a [f32],
}

impl Branch<'_> {
    /// Scales the inputs of the matrix, `[tokens][..]`, and returns what is missing in its outputs,
    /// `[tokens][width]`, scaled like them. Hidden rows are normed before they are read, so a token
    /// counts by its error over its size.
    pub fn missing(&self, inputs: &mut [f32], width: usize) -> Vec<f32> {
        if self.target.is_empty() {
            return Vec::new();
        }
        let input_width = inputs.len() / (self.target.len() / width);
        let mut missing: Vec<f32> = self
            .target
            .iter()
            .zip(self.hidden)
            .map(|(target, hidden)| target - hidden)
            .collect();
        let mean = |norm: &[f32]| norm.iter().map(|g| g * g).sum::<f32>() / width as f32;
        let ridge = self.norm.map_or(0.0, mean) * RIDGE + EPSILON;
        for ((inputs, missing), (target, outputs)) in inputs
            .chunks_exact_mut(input_width)
            .zip(missing.chunks_exact_mut(width))
            .zip(
                self.target
                    .chunks_exact(width)
                    .zip(self.outputs.chunks_exact(width)),
            )
        {
            let mut scale = 1.0 / root_mean_square(target);
            missing.iter_mut().for_each(|x| *x *= scale);
            if let Some(norm) = self.norm {
                scale /= root_mean_square(outputs);
                for (x, g) in missing.iter_mut().zip(norm) {
                    *x *= g / (g * g + ridge);
                }
            }
            inputs.iter_mut().for_each(|x| *x *= scale);
        }
        missing
    }
}

fn root_mean_square(row: &[f32]) -> f32 {
    let sum: f32 = row.iter().map(|x| x * x).sum();
    (sum / row.len() as f32 + EPSILON).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hidden rows after `outputs`, with the norm of `branch`.
    fn hidden(before: &[f32], outputs: &[f32], norm: Option<&[f32]>) -> Vec<f32> {
        let rms = root_mean_square(outputs);
        let added = outputs.iter().enumerate().map(|(i, y)| match norm {
            Some(norm) => norm[i] * y / rms,
            None => *y,
        });
        before.iter().zip(added).map(|(x, y)| x + y).collect()
    }

    #[test]
    fn outputs_changed_by_what_is_missing_come_near_to_the_target() {
        let before = [3.0, -1.0, 0.5, 2.0];
        let wanted = [0.9, -0.4, 0.2, 0.7];
        let outputs = [1.0, -0.3, 0.25, 0.6];
        for norm in [None, Some([2.0, 1.5, 3.0, 1.0])] {
            let norm = norm.as_ref().map(|norm| &norm[..]);
            let target = hidden(&before, &wanted, norm);
            let found = hidden(&before, &outputs, norm);
            let branch = Branch {
                outputs: &outputs,
                norm,
                hidden: &found,
                target: &target,
            };
            // With one input of 1, what is missing is what its weights should change by.
            let mut inputs = [1.0];
            let missing = branch.missing(&mut inputs, 4);
            let changed: Vec<f32> = outputs
                .iter()
                .zip(&missing)
                .map(|(y, missing)| y + missing / inputs[0])
                .collect();
            let off = |rows: &[f32]| {
                let off = rows.iter().zip(&target).map(|(x, t)| (x - t) * (x - t));
                off.sum::<f32>()
            };
            let corrected = hidden(&before, &changed, norm);
            let most = if norm.is_some() { 0.1 } else { 1e-6 };
            assert!(
                off(&corrected) < most * off(&found),
                "{corrected:?} {target:?}"
            );
        }
    }
}
