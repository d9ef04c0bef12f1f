//! What happens between two matmuls to each token by itself: biases, norms, the residual
//! stream, the activation.

use core::ops::Range;

use pocketlm_kernels::vector::{add, rms_norm};
use pocketlm_kernels::{Activation, GROUP, InputGroup, Isa, Workers};

use super::{Forward, copy, each_row, group_row_mut, row, row_mut, row_workers, rows_mut, split};
use crate::model::{MlpVariant, TensorKind};
use crate::run::BARE_METAL;
use crate::run::buffer::Buffer;
use crate::run::schedule::Batch;
use crate::run::stage::PerToken;

impl Forward<'_, '_> {
    #[inline(never)]
    pub(super) fn per_token(&mut self, batch: &Batch, job: PerToken, tokens: Range<usize>) {
        let ([from, first, second], kinds) = operands(job);
        let count = batch.tokens();
        let isa = self.engine.isa;
        let dims = self.plan.dims();
        let width = self.plan.width(first);
        let second_width = self.plan.width(second);
        let quantized_width = self.quantized_width(batch, width);
        let vector = |kind: Option<TensorKind>| match kind {
            Some(kind) => self.buffers.weights.vector(&self.model, batch.layer, kind),
            None => &[],
        };
        let [by_head, first, second, _] = split(
            self.buffers.numbers,
            &self.plan,
            [from, first, second, Buffer::None],
        );
        let work = TokenWork {
            job,
            isa,
            vectors: kinds.map(vector),
            eps: self.model.config().rms_norm_eps,
            activation: activation(self.model.config().mlp_variant),
            by_head,
            kv_group_width: dims.kv_group_width(),
            kv_heads: dims.kv_heads,
            tokens: count,
        };
        // `FinalNorm` reads the rows from `logits_from` on and writes them from row 0 on. In all
        // other stages `logits_from` is 0.
        let first = rows_mut(
            first,
            width,
            batch.logits_from as usize..batch.count as usize,
        );
        let groups = &mut *self.buffers.groups;
        // A board has nothing to share.
        if BARE_METAL {
            for token in tokens {
                let first = row_mut(first, width, token);
                let second = row_mut(second, second_width, token);
                let groups = group_row_mut(groups, quantized_width, token);
                work.compute(token, first, second, groups);
            }
            return;
        }
        let workers = row_workers(self.engine, tokens.len().saturating_mul(width));
        let is_last = tokens.end == count;
        each_row(
            workers,
            [(first, width), (second, second_width), (&mut [], 0)],
            (&mut *groups, quantized_width),
            tokens,
            |token, [first, second, _], groups| work.compute(token, first, second, groups),
        );
        if is_last && isa.arranges(count) {
            self.arrange(workers, count, quantized_width);
        }
    }

    /// Puts the quantised rows of all tokens into the order in which matrix units read them.
    pub(super) fn arrange(&mut self, workers: &dyn Workers, count: usize, quantized_width: usize) {
        let groups = count * quantized_width.div_ceil(GROUP);
        let groups = self.buffers.groups.get(..groups).unwrap_or_default();
        let input_tiles = &mut *self.buffers.input_tiles;
        self.engine.isa.arrange(workers, groups, count, input_tiles);
    }
}

/// What [`TokenWork`] gets of a job:
///
/// | job | by kv head | first | second | vectors |
/// |---|---|---|---|---|
/// | `Norm` | | `of`, read | `into`, written | norm |
/// | `Gather` | `from`, read | `into`, written | | |
/// | `Residual` | | `onto`, read and written | `branch`, read and written | bias and both norms |
/// | `Activate` | | `gate`, read and written | `up`, read | their biases |
fn operands(job: PerToken) -> ([Buffer; 3], [Option<TensorKind>; 3]) {
    match job {
        PerToken::Norm { of, norm, into } => ([Buffer::None, of, into], [None, None, Some(norm)]),
        PerToken::Gather { from, into } => ([from, into, Buffer::None], [None; 3]),
        PerToken::Residual {
            branch,
            bias,
            post_norm,
            onto,
            next_norm,
        } => (
            [Buffer::None, onto, branch],
            [Some(bias), Some(post_norm), next_norm],
        ),
        PerToken::Activate {
            gate,
            gate_bias,
            up,
            up_bias,
        } => (
            [Buffer::None, gate, up],
            [Some(gate_bias), Some(up_bias), None],
        ),
    }
}

fn activation(variant: MlpVariant) -> Activation {
    match variant {
        MlpVariant::GegluExact => Activation::GeluExact,
        MlpVariant::GegluApprox => Activation::GeluApprox,
        MlpVariant::Swiglu => Activation::Silu,
    }
}

/// What a token needs.
struct TokenWork<'s> {
    job: PerToken,
    isa: &'static Isa,
    /// Biases and norms, in the order in which they are applied. An empty one is left out.
    vectors: [&'s [f32]; 3],
    eps: f32,
    activation: Activation,
    /// `[kv_heads][tokens][kv_group_width]`.
    by_head: &'s [f32],
    kv_heads: usize,
    kv_group_width: usize,
    tokens: usize,
}

impl TokenWork<'_> {
    /// `first` and `second` are the token's rows of the two buffers. The row that the next matmul
    /// reads goes to `groups` as well, unless that is empty.
    fn compute(
        &self,
        token: usize,
        first: &mut [f32],
        second: &mut [f32],
        groups: &mut [InputGroup],
    ) {
        let [a, b, norm] = self.vectors;
        let written = match self.job {
            PerToken::Gather { .. } => {
                for head in 0..self.kv_heads {
                    let from = row(
                        self.by_head,
                        self.kv_group_width,
                        head * self.tokens + token,
                    );
                    copy(row_mut(first, self.kv_group_width, head), from);
                }
                first
            }
            PerToken::Activate { .. } => {
                add(first, a);
                add(second, b);
                self.isa.gate(self.activation, first, second);
                first
            }
            PerToken::Residual { next_norm, .. } => {
                add(second, a);
                rms_norm(second, b, self.eps);
                add(first, second);
                if next_norm.is_none() {
                    return;
                }
                self.norm(first, norm, second)
            }
            PerToken::Norm { .. } => self.norm(first, norm, second),
        };
        if !groups.is_empty() {
            self.isa.quantize(written, groups);
        }
    }

    /// The row `of` of the residual stream, normed into `into`; copied if the model has no such
    /// norm.
    fn norm<'r>(&self, of: &[f32], norm: &[f32], into: &'r mut [f32]) -> &'r mut [f32] {
        copy(into, of);
        rms_norm(into, norm, self.eps);
        into
    }
}
