//! Which tensors a model has, and in what order an image stores them.

use core::fmt;

use super::{Config, Dims, LayerKind};

/// What a tensor is in the transformer. Names follow the labels of penzai's llama-like transformer.
///
/// Matrices are `[rows = outputs][columns = inputs]`: `y = W x`. With `D = embedding_dim`,
/// `P = projection_dim`, `K = num_kv_heads`, `H = K * query_head_multiplier`, `F = mlp_hidden_dim`,
/// `V = vocab_size`, `T = conv_taps`.
///
/// Example: [`Model`](super::Model).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum TensorKind {
    /// `[V][D]`, a row a token; also `lm_head` when tied.
    Embedder = 0,
    /// `[V][D]`, `lm_head`; present when not tied.
    LmHead,
    /// f32 `[D]`.
    FinalNorm,
    /// f32 `[D]`, the norm before attention or the convolution.
    PreAttentionNorm,
    /// `[H*P][D]`, rows ordered by kv head, then query head within it, then channel.
    Query,
    /// f32 `[H*P]`.
    QueryBias,
    /// f32 `[P]`, shared by all heads; `[H*P]` with `qk_norm_across_heads`.
    QueryNorm,
    /// `[K*P][D]`.
    Key,
    /// f32 `[K*P]`.
    KeyBias,
    /// f32 `[P]`, shared by all heads; `[K*P]` with `qk_norm_across_heads`.
    KeyNorm,
    /// `[K*P][D]`.
    Value,
    /// f32 `[K*P]`.
    ValueBias,
    /// `[D][H*P]`, attention's projection back (`o_proj`).
    Output,
    /// f32 `[D]`.
    OutputBias,
    /// f32 `[D]`, on the output of attention or the convolution, before it joins the residual.
    PostAttentionNorm,
    /// f32 `[D]`, the norm before the feed-forward.
    PreFfwNorm,
    /// `[F][D]`, the gate: the branch with the activation (`gate_proj`).
    GatingLinear,
    /// f32 `[F]`.
    GatingLinearBias,
    /// `[F][D]`, the branch without activation, called up elsewhere (`up_proj`).
    ValueLinear,
    /// f32 `[F]`.
    ValueLinearBias,
    /// `[D][F]`, the projection back (`down_proj`).
    OutLinear,
    /// f32 `[D]`.
    OutLinearBias,
    /// f32 `[D]`, on the output of the feed-forward, before it joins the residual.
    PostFfwNorm,
    /// `[3 D][D]`: the rows of `b`, then of `c`, then of `x` (see [`LayerKind::Convolution`]).
    ConvIn,
    /// f32 `[3 D]`.
    ConvInBias,
    /// f32 `[T][D]`, the tap of the oldest position first.
    ConvTaps,
    /// f32 `[D]`, on the sum over the taps.
    ConvTapsBias,
    /// `[D][D]`, the projection back.
    ConvOut,
    /// f32 `[D]`.
    ConvOutBias,
}

/// One tensor of a model: its kind, and its layer (0 for the three that belong to none).
///
/// Example: [`Model`](super::Model).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TensorId {
    /// The layer; 0 for a kind that belongs to no layer ([`TensorKind::is_per_layer`]).
    pub layer: u32,
    /// What it is for.
    pub kind: TensorKind,
}

impl TensorKind {
    /// Every kind, in the order of an image: the three that belong to no layer, then a layer's.
    pub const ALL: [TensorKind; 29] = [
        TensorKind::Embedder,
        TensorKind::LmHead,
        TensorKind::FinalNorm,
        TensorKind::PreAttentionNorm,
        TensorKind::Query,
        TensorKind::QueryBias,
        TensorKind::QueryNorm,
        TensorKind::Key,
        TensorKind::KeyBias,
        TensorKind::KeyNorm,
        TensorKind::Value,
        TensorKind::ValueBias,
        TensorKind::Output,
        TensorKind::OutputBias,
        TensorKind::PostAttentionNorm,
        TensorKind::PreFfwNorm,
        TensorKind::GatingLinear,
        TensorKind::GatingLinearBias,
        TensorKind::ValueLinear,
        TensorKind::ValueLinearBias,
        TensorKind::OutLinear,
        TensorKind::OutLinearBias,
        TensorKind::PostFfwNorm,
        TensorKind::ConvIn,
        TensorKind::ConvInBias,
        TensorKind::ConvTaps,
        TensorKind::ConvTapsBias,
        TensorKind::ConvOut,
        TensorKind::ConvOutBias,
    ];

    /// Whether it is a layer's, rather than the model's.
    pub const fn is_per_layer(self) -> bool {
        match self {
            TensorKind::Embedder | TensorKind::LmHead | TensorKind::FinalNorm => false,
            TensorKind::PreAttentionNorm
            | TensorKind::Query
            | TensorKind::QueryBias
            | TensorKind::QueryNorm
            | TensorKind::Key
            | TensorKind::KeyBias
            | TensorKind::KeyNorm
            | TensorKind::Value
            | TensorKind::ValueBias
            | TensorKind::Output
            | TensorKind::OutputBias
            | TensorKind::PostAttentionNorm
            | TensorKind::PreFfwNorm
            | TensorKind::GatingLinear
            | TensorKind::GatingLinearBias
            | TensorKind::ValueLinear
            | TensorKind::ValueLinearBias
            | TensorKind::OutLinear
            | TensorKind::OutLinearBias
            | TensorKind::PostFfwNorm
            | TensorKind::ConvIn
            | TensorKind::ConvInBias
            | TensorKind::ConvTaps
            | TensorKind::ConvTapsBias
            | TensorKind::ConvOut
            | TensorKind::ConvOutBias => true,
        }
    }

    /// Whether it is a matrix of any type, rather than an f32 vector.
    pub const fn is_matrix(self) -> bool {
        match self {
            TensorKind::Embedder
            | TensorKind::LmHead
            | TensorKind::Query
            | TensorKind::Key
            | TensorKind::Value
            | TensorKind::Output
            | TensorKind::GatingLinear
            | TensorKind::ValueLinear
            | TensorKind::OutLinear
            | TensorKind::ConvIn
            | TensorKind::ConvOut => true,
            TensorKind::FinalNorm
            | TensorKind::PreAttentionNorm
            | TensorKind::QueryBias
            | TensorKind::QueryNorm
            | TensorKind::KeyBias
            | TensorKind::KeyNorm
            | TensorKind::ValueBias
            | TensorKind::OutputBias
            | TensorKind::PostAttentionNorm
            | TensorKind::PreFfwNorm
            | TensorKind::GatingLinearBias
            | TensorKind::ValueLinearBias
            | TensorKind::OutLinearBias
            | TensorKind::PostFfwNorm
            | TensorKind::ConvInBias
            | TensorKind::ConvTaps
            | TensorKind::ConvTapsBias
            | TensorKind::ConvOutBias => false,
        }
    }

    /// Whether a model of this config has it; if it is a layer's, whether layers of this kind do.
    // Where flash is scarce it is a function, for which a call is enough.
    #[cfg_attr(target_os = "none", inline(never))]
    pub const fn is_present(self, config: &Config, kind: LayerKind) -> bool {
        match self {
            TensorKind::LmHead => !config.tie_embedder_and_logits,
            TensorKind::QueryBias | TensorKind::KeyBias | TensorKind::ValueBias => {
                kind.is_attention() && config.qkv_bias
            }
            TensorKind::OutputBias => kind.is_attention() && config.output_bias,
            TensorKind::GatingLinearBias
            | TensorKind::ValueLinearBias
            | TensorKind::OutLinearBias => config.mlp_bias,
            TensorKind::QueryNorm | TensorKind::KeyNorm => {
                kind.is_attention() && config.use_qk_norm
            }
            TensorKind::PreAttentionNorm => config.use_pre_attn_norm,
            TensorKind::PreFfwNorm => config.use_pre_ffw_norm,
            TensorKind::PostAttentionNorm => config.use_post_attn_norm,
            TensorKind::PostFfwNorm => config.use_post_ffw_norm,
            TensorKind::Query | TensorKind::Key | TensorKind::Value | TensorKind::Output => {
                kind.is_attention()
            }
            TensorKind::ConvIn | TensorKind::ConvTaps | TensorKind::ConvOut => {
                kind.is_convolution()
            }
            TensorKind::ConvInBias | TensorKind::ConvTapsBias | TensorKind::ConvOutBias => {
                kind.is_convolution() && config.conv_bias
            }
            TensorKind::Embedder
            | TensorKind::FinalNorm
            | TensorKind::GatingLinear
            | TensorKind::ValueLinear
            | TensorKind::OutLinear => true,
        }
    }

    /// Rows and columns; a vector is one row. `None` on overflow.
    pub const fn shape(self, config: &Config) -> Option<(usize, usize)> {
        let Dims {
            embedding,
            head_width,
            queries_width,
            keys_width,
            feed_forward,
            vocabulary,
            ..
        } = config.dims();
        if queries_width == usize::MAX {
            return None;
        }
        let across_heads = config.qk_norm_across_heads;
        let convolved = if cfg!(feature = "convolution") {
            embedding
        } else {
            0
        };
        Some(match self {
            TensorKind::Embedder | TensorKind::LmHead => (vocabulary, embedding),
            TensorKind::Query => (queries_width, embedding),
            TensorKind::Key | TensorKind::Value => (keys_width, embedding),
            TensorKind::Output => (embedding, queries_width),
            TensorKind::GatingLinear | TensorKind::ValueLinear => (feed_forward, embedding),
            TensorKind::OutLinear => (embedding, feed_forward),
            TensorKind::QueryBias => (1, queries_width),
            TensorKind::KeyBias | TensorKind::ValueBias => (1, keys_width),
            TensorKind::QueryNorm => (
                1,
                if across_heads {
                    queries_width
                } else {
                    head_width
                },
            ),
            TensorKind::KeyNorm => (1, if across_heads { keys_width } else { head_width }),
            TensorKind::GatingLinearBias | TensorKind::ValueLinearBias => (1, feed_forward),
            TensorKind::FinalNorm
            | TensorKind::PreAttentionNorm
            | TensorKind::OutputBias
            | TensorKind::PostAttentionNorm
            | TensorKind::PreFfwNorm
            | TensorKind::OutLinearBias
            | TensorKind::PostFfwNorm
            | TensorKind::ConvTapsBias
            | TensorKind::ConvOutBias => (1, embedding),
            TensorKind::ConvIn => (convolved.saturating_mul(3), convolved),
            TensorKind::ConvInBias => (1, convolved.saturating_mul(3)),
            TensorKind::ConvTaps => {
                let taps = match config.conv_taps {
                    Some(taps) => taps.get() as usize,
                    None => 0,
                };
                (1, convolved.saturating_mul(taps))
            }
            TensorKind::ConvOut => (convolved, convolved),
        })
    }

    /// Numbers in it, if it is a vector that layers of this kind, or the model, have.
    #[cfg(feature = "source")]
    pub(crate) const fn vector_len(self, config: &Config, kind: LayerKind) -> usize {
        match self.shape(config) {
            Some((_, columns)) if !self.is_matrix() && self.is_present(config, kind) => columns,
            _ => 0,
        }
    }

    /// The label in penzai's style, without the layer.
    pub const fn label(self) -> &'static str {
        match self {
            TensorKind::Embedder => "embedder.embeddings",
            TensorKind::LmHead => "lm_head.weights",
            TensorKind::FinalNorm => "final_norm/scale.weights",
            TensorKind::PreAttentionNorm => "pre_attention_norm/scale.weights",
            TensorKind::Query => "attention/query.weights",
            TensorKind::QueryBias => "attention/query.bias",
            TensorKind::QueryNorm => "attention/query_norm/scale.weights",
            TensorKind::Key => "attention/key.weights",
            TensorKind::KeyBias => "attention/key.bias",
            TensorKind::KeyNorm => "attention/key_norm/scale.weights",
            TensorKind::Value => "attention/value.weights",
            TensorKind::ValueBias => "attention/value.bias",
            TensorKind::Output => "attention/output.weights",
            TensorKind::OutputBias => "attention/output.bias",
            TensorKind::PostAttentionNorm => "post_attention_norm/scale.weights",
            TensorKind::PreFfwNorm => "pre_ffw_norm/scale.weights",
            TensorKind::GatingLinear => "mlp/gating_linear.weights",
            TensorKind::GatingLinearBias => "mlp/gating_linear.bias",
            TensorKind::ValueLinear => "mlp/value_linear.weights",
            TensorKind::ValueLinearBias => "mlp/value_linear.bias",
            TensorKind::OutLinear => "mlp/out_linear.weights",
            TensorKind::OutLinearBias => "mlp/out_linear.bias",
            TensorKind::PostFfwNorm => "post_ffw_norm/scale.weights",
            TensorKind::ConvIn => "convolution/in.weights",
            TensorKind::ConvInBias => "convolution/in.bias",
            TensorKind::ConvTaps => "convolution/taps.weights",
            TensorKind::ConvTapsBias => "convolution/taps.bias",
            TensorKind::ConvOut => "convolution/out.weights",
            TensorKind::ConvOutBias => "convolution/out.bias",
        }
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_per_layer() {
            write!(f, "block_{}/", self.layer)?;
        }
        f.write_str(self.kind.label())
    }
}
