//! The forward pass as a table. Read [`Stage::row`] from top to bottom: it is the transformer.
//!
//! A stage is a number of independent units (tokens, tile rows of matrices, or heads of tokens), so
//! it can stop after any of them and go on later. `Schedule` counts the units and says what comes
//! next; `Forward` computes them; both read this table. `tests/common/plain.rs` has the same
//! transformer once more, as a few plain loops.

use super::buffer::Buffer;
use crate::model::{LayerKind, TensorKind};

/// What is computed, in this order; the stages from `AttentionNorm` to `FfwResidual` once for each
/// layer. A convolution has those from `ConvNorm` to `ConvResidual` in place of attention's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Embed,
    AttentionNorm,
    QueryKeyValue,
    StoreKeys,
    Attend,
    GatherHeads,
    Output,
    AttentionResidual,
    #[cfg(feature = "convolution")]
    ConvNorm,
    #[cfg(feature = "convolution")]
    ConvIn,
    #[cfg(feature = "convolution")]
    StoreRows,
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
pub(super) struct Row {
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
/// If the next stage is a matmul with a quantised matrix, a stage of [`Rows`] or `Convolve` also
/// quantises the rows that it writes.
#[derive(Clone, Copy)]
pub(super) enum Job {
    /// The embedding of a token into `Hidden`, and the cosines and sines of its position. A unit is
    /// a token.
    Embed,
    /// Something that happens to each token's row by itself. A unit is a token.
    Rows(Rows),
    /// `output = matrix × input` for each matrix and each token. A unit is a tile row of a matrix,
    /// with all tokens; the tile rows of all matrices are counted one after the other.
    Matmul {
        input: Buffer,
        matrices: &'static [(TensorKind, Buffer)],
    },
    /// Queries, keys and values get their biases, norms and rotation. Queries go to `QueryByHead`,
    /// keys and values into the cache. A unit is a token.
    StoreKeys,
    /// Scores, softmax, weighted sum of values: from `QueryByHead` into `AttendedByHead`. A unit is
    /// a kv head of a token.
    Attend,
    /// `b * x` with their biases, from `ConvIn` into the cache. A unit is a token.
    #[cfg(feature = "convolution")]
    StoreRows,
    /// The sum over the taps, its bias, times `c`: from the cache and `ConvIn` into `Convolved`. A
    /// unit is a token.
    #[cfg(feature = "convolution")]
    Convolve,
}

/// What happens to a token's row between two matmuls.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// `into = norm(of)`.
    Norm {
        of: Buffer,
        norm: TensorKind,
        into: Buffer,
    },
    /// The heads of a token, which are far apart in `from`, next to each other in `into`.
    Gather { from: Buffer, into: Buffer },
    /// `onto += post_norm(branch + bias)`, then `branch = norm(onto)`.
    Residual {
        branch: Buffer,
        bias: TensorKind,
        post_norm: TensorKind,
        onto: Buffer,
        norm: Option<TensorKind>,
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
            // `Layers` knows none.
            #[cfg(not(feature = "convolution"))]
            LayerKind::Convolution => Stage::AttentionNorm,
        }
    }

    #[cfg_attr(target_os = "none", inline(never))]
    pub const fn row(self) -> &'static Row {
        match self {
            Stage::Embed => &Row {
                tokens: Tokens::Batch,
                job: Job::Embed,
                next: Next::FirstLayer,
            },

            // A layer. Attention:
            Stage::AttentionNorm => &Row {
                tokens: Tokens::Batch,
                job: Job::Rows(Rows::Norm {
                    of: Buffer::Hidden,
                    norm: TensorKind::PreAttentionNorm,
                    into: Buffer::Normed,
                }),
                next: Next::Stage(Stage::QueryKeyValue),
            },
            Stage::QueryKeyValue => &Row {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Normed,
                    matrices: &[
                        (TensorKind::Query, Buffer::Query),
                        (TensorKind::Key, Buffer::Key),
                        (TensorKind::Value, Buffer::Value),
                    ],
                },
                next: Next::Stage(Stage::StoreKeys),
            },
            Stage::StoreKeys => &Row {
                tokens: Tokens::Batch,
                job: Job::StoreKeys,
                next: Next::Stage(Stage::Attend),
            },
            Stage::Attend => &Row {
                tokens: Tokens::Batch,
                job: Job::Attend,
                next: Next::Stage(Stage::GatherHeads),
            },
            Stage::GatherHeads => &Row {
                tokens: Tokens::Batch,
                job: Job::Rows(Rows::Gather {
                    from: Buffer::AttendedByHead,
                    into: Buffer::Attended,
                }),
                next: Next::Stage(Stage::Output),
            },
            Stage::Output => &Row {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Attended,
                    matrices: &[(TensorKind::Output, Buffer::Normed)],
                },
                next: Next::Stage(Stage::AttentionResidual),
            },
            Stage::AttentionResidual => &Row {
                tokens: Tokens::Batch,
                job: Job::Rows(Rows::Residual {
                    branch: Buffer::Normed,
                    bias: TensorKind::OutputBias,
                    post_norm: TensorKind::PostAttentionNorm,
                    onto: Buffer::Hidden,
                    norm: Some(TensorKind::PreFfwNorm),
                }),
                next: Next::Stage(Stage::GateUp),
            },

            // A convolution:
            #[cfg(feature = "convolution")]
            Stage::ConvNorm => &Row {
                tokens: Tokens::Batch,
                job: Job::Rows(Rows::Norm {
                    of: Buffer::Hidden,
                    norm: TensorKind::PreAttentionNorm,
                    into: Buffer::Normed,
                }),
                next: Next::Stage(Stage::ConvIn),
            },
            #[cfg(feature = "convolution")]
            Stage::ConvIn => &Row {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Normed,
                    matrices: &[(TensorKind::ConvIn, Buffer::ConvIn)],
                },
                next: Next::Stage(Stage::StoreRows),
            },
            #[cfg(feature = "convolution")]
            Stage::StoreRows => &Row {
                tokens: Tokens::Batch,
                job: Job::StoreRows,
                next: Next::Stage(Stage::Convolve),
            },
            #[cfg(feature = "convolution")]
            Stage::Convolve => &Row {
                tokens: Tokens::Batch,
                job: Job::Convolve,
                next: Next::Stage(Stage::ConvOut),
            },
            #[cfg(feature = "convolution")]
            Stage::ConvOut => &Row {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Convolved,
                    matrices: &[(TensorKind::ConvOut, Buffer::Normed)],
                },
                next: Next::Stage(Stage::ConvResidual),
            },
            #[cfg(feature = "convolution")]
            Stage::ConvResidual => &Row {
                tokens: Tokens::Batch,
                job: Job::Rows(Rows::Residual {
                    branch: Buffer::Normed,
                    bias: TensorKind::ConvOutBias,
                    post_norm: TensorKind::PostAttentionNorm,
                    onto: Buffer::Hidden,
                    norm: Some(TensorKind::PreFfwNorm),
                }),
                next: Next::Stage(Stage::GateUp),
            },

            // The feed-forward:
            Stage::GateUp => &Row {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Normed,
                    matrices: &[
                        (TensorKind::GatingLinear, Buffer::Gate),
                        (TensorKind::ValueLinear, Buffer::Up),
                    ],
                },
                next: Next::Stage(Stage::Activate),
            },
            Stage::Activate => &Row {
                tokens: Tokens::Batch,
                job: Job::Rows(Rows::Activate {
                    gate: Buffer::Gate,
                    gate_bias: TensorKind::GatingLinearBias,
                    up: Buffer::Up,
                    up_bias: TensorKind::ValueLinearBias,
                }),
                next: Next::Stage(Stage::Down),
            },
            Stage::Down => &Row {
                tokens: Tokens::Batch,
                job: Job::Matmul {
                    input: Buffer::Gate,
                    matrices: &[(TensorKind::OutLinear, Buffer::Normed)],
                },
                next: Next::Stage(Stage::FfwResidual),
            },
            Stage::FfwResidual => &Row {
                tokens: Tokens::Batch,
                job: Job::Rows(Rows::Residual {
                    branch: Buffer::Normed,
                    bias: TensorKind::OutLinearBias,
                    post_norm: TensorKind::PostFfwNorm,
                    onto: Buffer::Hidden,
                    norm: None,
                }),
                next: Next::FollowingLayer,
            },

            // After the last layer:
            Stage::FinalNorm => &Row {
                tokens: Tokens::Logits,
                job: Job::Rows(Rows::Norm {
                    of: Buffer::Hidden,
                    norm: TensorKind::FinalNorm,
                    into: Buffer::Normed,
                }),
                next: Next::Stage(Stage::Logits),
            },
            Stage::Logits => &Row {
                tokens: Tokens::Logits,
                job: Job::Matmul {
                    input: Buffer::Normed,
                    matrices: &[(TensorKind::LmHead, Buffer::Logits)],
                },
                next: Next::MoreTokens,
            },
        }
    }

    /// The matrices that read the rows which this stage writes.
    pub fn readers(self) -> &'static [(TensorKind, Buffer)] {
        let Next::Stage(next) = self.row().next else {
            return &[];
        };
        match next.row().job {
            Job::Matmul { matrices, .. } => matrices,
            Job::Embed | Job::Rows(_) | Job::StoreKeys | Job::Attend => &[],
            #[cfg(feature = "convolution")]
            Job::StoreRows | Job::Convolve => &[],
        }
    }
}
