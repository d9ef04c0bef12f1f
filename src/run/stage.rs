//! The forward pass as a table. Read [`Stage::entry`] from top to bottom: it is the transformer.
//!
//! A stage is a number of independent units (tokens, tile rows of matrices, or heads of tokens), so
//! it can stop after any of them and go on later. `Schedule` counts the units and says what comes
//! next; `Forward` computes them; both read this table. `tests/common/bit_exact.rs` has the
//! same transformer once more, as a few plain loops.

use super::buffer::Buffer;
use crate::model::{LayerKind, TensorKind};

/// What is computed, in this order; the stages from `AttentionNorm` to `FfwResidual` once for each
/// layer. A convolution has those from `ConvNorm` to `ConvResidual` in place of attention's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Embed,
    AttentionNorm,
    QueryKeyValue,
    PrepareAttention,
    Attend,
    GatherHeads,
    AttentionOutput,
    AttentionResidual,
    #[cfg(feature = "convolution")]
    ConvNorm,
    #[cfg(feature = "convolution")]
    ConvIn,
    #[cfg(feature = "convolution")]
    PrepareConvolution,
    #[cfg(feature = "convolution")]
    Convolve,
    #[cfg(feature = "convolution")]
    ConvOut,
    #[cfg(feature = "convolution")]
    ConvResidual,
    GateUp,
    Activate,
    Down,
    FfwResidual,
    FinalNorm,
    Logits,
}

/// What the table says of a stage.
pub(super) struct Entry {
    /// The tokens that it is computed for.
    pub tokens: Tokens,
    /// What it computes.
    pub job: Job,
    /// What comes after it.
    pub next: Next,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Tokens {
    /// All of the batch.
    Batch,
    /// Those whose logits are wanted, as many at a time as there is room for.
    Logits,
}

/// What a stage computes. Biases and norms that a model does not have are left out.
///
/// If the next stage is a matmul with a quantised matrix, a [`PerToken`] stage or `Convolve` also
/// quantises the rows that it writes.
#[derive(Clone, Copy)]
pub(super) enum Job {
    /// The embedding of a token into `Hidden`, and the cosines and sines of its position. A unit is
    /// a token.
    Embed,
    /// What happens to each token by itself. A unit is a token.
    PerToken(PerToken),
    /// `output = matrix × input` for each matrix and each token. A unit is a tile row of a matrix,
    /// with all tokens; the tile rows of all matrices are counted one after the other.
    Matmul {
        input: Buffer,
        matrices: &'static [(TensorKind, Buffer)],
    },
    /// Queries, keys and values get their biases, norms and rotation, and queries their scale.
    /// Queries go to `QueryByHead`, keys and values into the cache. A unit is a token.
    PrepareAttention,
    /// Scores, softmax, weighted sum of values: from `QueryByHead` into `AttendedByHead`. A unit is
    /// a kv head of a token.
    Attend,
    /// `b * x` with their biases, from `ConvIn` into the cache. A unit is a token.
    #[cfg(feature = "convolution")]
    PrepareConvolution,
    /// The sum over the taps, its bias, times `c`: from the cache and `ConvIn` into `Convolved`. A
    /// unit is a token.
    #[cfg(feature = "convolution")]
    Convolve,
}

/// What happens to a token between two matmuls.
#[derive(Clone, Copy)]
pub(super) enum PerToken {
    /// `into = norm(of)`.
    Norm {
        of: Buffer,
        norm: TensorKind,
        into: Buffer,
    },
    /// The results of a token's kv heads, which are far apart in `from`, next to each other in
    /// `into`.
    Gather { from: Buffer, into: Buffer },
    /// `onto += post_norm(branch + bias)`, then `branch = next_norm(onto)`. A norm that the model
    /// does not have is an empty vector, and `branch` is a copy of `onto` then. `None`: no stage
    /// after this reads `branch`.
    Residual {
        branch: Buffer,
        bias: TensorKind,
        post_norm: TensorKind,
        onto: Buffer,
        next_norm: Option<TensorKind>,
    },
    /// `gate = activation(gate + gate_bias) * (up + up_bias)`.
    Activate {
        gate: Buffer,
        gate_bias: TensorKind,
        up: Buffer,
        up_bias: TensorKind,
    },
}

/// What comes after a stage.
#[derive(Clone, Copy)]
pub(super) enum Next {
    Stage(Stage),
    /// The first layer, or `FinalNorm` if the model has none.
    FirstLayer,
    /// The next layer, or `FinalNorm` after the last.
    FollowingLayer,
    /// More tokens whose logits are wanted, or the next batch.
    MoreTokens,
}

impl Stage {
    /// The first stage of a layer.
    pub const fn first(kind: LayerKind) -> Stage {
        match kind {
            LayerKind::Attention => Stage::AttentionNorm,
            #[cfg(feature = "convolution")]
            LayerKind::Convolution => Stage::ConvNorm,
            // `Layers::read` refuses such layers in this build.
            #[cfg(not(feature = "convolution"))]
            LayerKind::Convolution => Stage::AttentionNorm,
        }
    }

    #[cfg_attr(target_os = "none", inline(never))]
    pub const fn entry(self) -> &'static Entry {
        match self {
            // Scaled by `embedding_scale`.
            Stage::Embed => &Entry {
                tokens: Tokens::Batch,
                job: Job::Embed,
                next: Next::FirstLayer,
            },

            // A layer. Attention:
            Stage::AttentionNorm => &Entry {
                tokens: Tokens::Batch,
                job: Job::PerToken(PerToken::Norm {
                    of: Buffer::Hidden,
                    norm: TensorKind::PreAttentionNorm,
                    into: Buffer::Branch,
                }),
                next: Next::Stage(Stage::QueryKeyValue),
            },
            Stage::QueryKeyValue => &Entry {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Branch,
                    matrices: &[
                        (TensorKind::Query, Buffer::Query),
                        (TensorKind::Key, Buffer::Key),
                        (TensorKind::Value, Buffer::Value),
                    ],
                },
                next: Next::Stage(Stage::PrepareAttention),
            },
            // Biases, norms and rotation; `query_scaling_factor` and `attn_temperature`.
            Stage::PrepareAttention => &Entry {
                tokens: Tokens::Batch,
                job: Job::PrepareAttention,
                next: Next::Stage(Stage::Attend),
            },
            // With `attn_logits_soft_cap`.
            Stage::Attend => &Entry {
                tokens: Tokens::Batch,
                job: Job::Attend,
                next: Next::Stage(Stage::GatherHeads),
            },
            Stage::GatherHeads => &Entry {
                tokens: Tokens::Batch,
                job: Job::PerToken(PerToken::Gather {
                    from: Buffer::AttendedByHead,
                    into: Buffer::Attended,
                }),
                next: Next::Stage(Stage::AttentionOutput),
            },
            Stage::AttentionOutput => &Entry {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Attended,
                    matrices: &[(TensorKind::Output, Buffer::Branch)],
                },
                next: Next::Stage(Stage::AttentionResidual),
            },
            // Writes the feed-forward's input as well.
            Stage::AttentionResidual => &Entry {
                tokens: Tokens::Batch,
                job: Job::PerToken(PerToken::Residual {
                    branch: Buffer::Branch,
                    bias: TensorKind::OutputBias,
                    post_norm: TensorKind::PostAttentionNorm,
                    onto: Buffer::Hidden,
                    next_norm: Some(TensorKind::PreFfwNorm),
                }),
                next: Next::Stage(Stage::GateUp),
            },

            // A convolution:
            #[cfg(feature = "convolution")]
            Stage::ConvNorm => &Entry {
                tokens: Tokens::Batch,
                job: Job::PerToken(PerToken::Norm {
                    of: Buffer::Hidden,
                    norm: TensorKind::PreAttentionNorm,
                    into: Buffer::Branch,
                }),
                next: Next::Stage(Stage::ConvIn),
            },
            #[cfg(feature = "convolution")]
            Stage::ConvIn => &Entry {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Branch,
                    matrices: &[(TensorKind::ConvIn, Buffer::ConvIn)],
                },
                next: Next::Stage(Stage::PrepareConvolution),
            },
            #[cfg(feature = "convolution")]
            Stage::PrepareConvolution => &Entry {
                tokens: Tokens::Batch,
                job: Job::PrepareConvolution,
                next: Next::Stage(Stage::Convolve),
            },
            #[cfg(feature = "convolution")]
            Stage::Convolve => &Entry {
                tokens: Tokens::Batch,
                job: Job::Convolve,
                next: Next::Stage(Stage::ConvOut),
            },
            #[cfg(feature = "convolution")]
            Stage::ConvOut => &Entry {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Convolved,
                    matrices: &[(TensorKind::ConvOut, Buffer::Branch)],
                },
                next: Next::Stage(Stage::ConvResidual),
            },
            #[cfg(feature = "convolution")]
            // Writes the feed-forward's input as well.
            Stage::ConvResidual => &Entry {
                tokens: Tokens::Batch,
                job: Job::PerToken(PerToken::Residual {
                    branch: Buffer::Branch,
                    bias: TensorKind::ConvOutBias,
                    post_norm: TensorKind::PostAttentionNorm,
                    onto: Buffer::Hidden,
                    next_norm: Some(TensorKind::PreFfwNorm),
                }),
                next: Next::Stage(Stage::GateUp),
            },

            // The feed-forward:
            Stage::GateUp => &Entry {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Branch,
                    matrices: &[
                        (TensorKind::GatingLinear, Buffer::Gate),
                        (TensorKind::ValueLinear, Buffer::Up),
                    ],
                },
                next: Next::Stage(Stage::Activate),
            },
            Stage::Activate => &Entry {
                tokens: Tokens::Batch,
                job: Job::PerToken(PerToken::Activate {
                    gate: Buffer::Gate,
                    gate_bias: TensorKind::GatingLinearBias,
                    up: Buffer::Up,
                    up_bias: TensorKind::ValueLinearBias,
                }),
                next: Next::Stage(Stage::Down),
            },
            Stage::Down => &Entry {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Gate,
                    matrices: &[(TensorKind::OutLinear, Buffer::Branch)],
                },
                next: Next::Stage(Stage::FfwResidual),
            },
            Stage::FfwResidual => &Entry {
                tokens: Tokens::Batch,
                job: Job::PerToken(PerToken::Residual {
                    branch: Buffer::Branch,
                    bias: TensorKind::OutLinearBias,
                    post_norm: TensorKind::PostFfwNorm,
                    onto: Buffer::Hidden,
                    next_norm: None,
                }),
                next: Next::FollowingLayer,
            },

            // After the last layer:
            Stage::FinalNorm => &Entry {
                tokens: Tokens::Logits,
                job: Job::PerToken(PerToken::Norm {
                    of: Buffer::Hidden,
                    norm: TensorKind::FinalNorm,
                    into: Buffer::Branch,
                }),
                next: Next::Stage(Stage::Logits),
            },
            // With `final_logit_softcap`.
            Stage::Logits => &Entry {
                tokens: Tokens::Logits,
                job: Job::Matmul {
                    input: Buffer::Branch,
                    matrices: &[(TensorKind::LmHead, Buffer::Logits)],
                },
                next: Next::MoreTokens,
            },
        }
    }

    /// The matrices that read the rows which this stage writes.
    pub fn readers(self) -> &'static [(TensorKind, Buffer)] {
        let Next::Stage(next) = self.entry().next else {
            return &[];
        };
        match next.entry().job {
            Job::Matmul { matrices, .. } => matrices,
            Job::Embed | Job::PerToken(_) | Job::PrepareAttention | Job::Attend => &[],
            #[cfg(feature = "convolution")]
            Job::PrepareConvolution | Job::Convolve => &[],
        }
    }
}
