//! Which tensors a model has, and in what order an image stores them.

use core::fmt;

use super::{Config, Dims};

/// What a tensor is for. Names follow the labels of penzai's llama-like transformer.
///
/// Matrices are `[rows = outputs][columns = inputs]`: `y = W x`. With `D = embedding_dim`,
/// `P = projection_dim`, `K = num_kv_heads`, `H = K * query_head_multiplier`, `F = mlp_hidden_dim`,
/// `V = vocab_size`.
///
/// Example: [`Model`](super::Model).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Role {
    /// `[V][D]`, a row a token; also the output matrix when tied.
    Embedder = 0,
    /// `[V][D]`, present when not tied.
    LmHead,
    /// f32 `[D]`.
    FinalNorm,
    /// f32 `[D]`, the norm before attention.
    PreAttentionNorm,
    /// `[H*P][D]`, rows ordered by kv head, then query head within it, then channel.
    Query,
    /// f32 `[H*P]`.
    QueryBias,
    /// f32 `[P]`, shared by all heads.
    QueryNorm,
    /// `[K*P][D]`.
    Key,
    /// f32 `[K*P]`.
    KeyBias,
    /// f32 `[P]`.
    KeyNorm,
    /// `[K*P][D]`.
    Value,
    /// f32 `[K*P]`.
    ValueBias,
    /// `[D][H*P]`, the projection back.
    Output,
    /// f32 `[D]`.
    OutputBias,
    /// f32 `[D]`, on the output of attention, before it joins the residual.
    PostAttentionNorm,
    /// f32 `[D]`, the norm before the feed-forward.
    PreFfwNorm,
    /// `[F][D]`, the branch with the activation.
    GatingLinear,
    /// f32 `[F]`.
    GatingLinearBias,
    /// `[F][D]`, the branch without.
    ValueLinear,
    /// f32 `[F]`.
    ValueLinearBias,
    /// `[D][F]`.
    OutLinear,
    /// f32 `[D]`.
    OutLinearBias,
    /// f32 `[D]`, on the output of the feed-forward, before it joins the residual.
    PostFfwNorm,
}

/// One tensor of a model: its role, and its layer (0 for the three that belong to none).
///
/// Example: [`Model`](super::Model).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TensorId {
    /// The layer, 0 for [`Role::Embedder`], [`Role::LmHead`] and [`Role::FinalNorm`].
    pub layer: u32,
    /// What it is for.
    pub role: Role,
}

impl Role {
    /// Every role, in the order of an image: the three that belong to no layer, then a layer's.
    pub const ALL: [Role; 23] = [
        Role::Embedder,
        Role::LmHead,
        Role::FinalNorm,
        Role::PreAttentionNorm,
        Role::Query,
        Role::QueryBias,
        Role::QueryNorm,
        Role::Key,
        Role::KeyBias,
        Role::KeyNorm,
        Role::Value,
        Role::ValueBias,
        Role::Output,
        Role::OutputBias,
        Role::PostAttentionNorm,
        Role::PreFfwNorm,
        Role::GatingLinear,
        Role::GatingLinearBias,
        Role::ValueLinear,
        Role::ValueLinearBias,
        Role::OutLinear,
        Role::OutLinearBias,
        Role::PostFfwNorm,
    ];

    /// Whether every layer has one, rather than the model.
    pub const fn is_per_layer(self) -> bool {
        match self {
            Role::Embedder | Role::LmHead | Role::FinalNorm => false,
            Role::PreAttentionNorm
            | Role::Query
            | Role::QueryBias
            | Role::QueryNorm
            | Role::Key
            | Role::KeyBias
            | Role::KeyNorm
            | Role::Value
            | Role::ValueBias
            | Role::Output
            | Role::OutputBias
            | Role::PostAttentionNorm
            | Role::PreFfwNorm
            | Role::GatingLinear
            | Role::GatingLinearBias
            | Role::ValueLinear
            | Role::ValueLinearBias
            | Role::OutLinear
            | Role::OutLinearBias
            | Role::PostFfwNorm => true,
        }
    }

    /// Whether it is a matrix of any type, rather than an f32 vector.
    pub const fn is_matrix(self) -> bool {
        match self {
            Role::Embedder
            | Role::LmHead
            | Role::Query
            | Role::Key
            | Role::Value
            | Role::Output
            | Role::GatingLinear
            | Role::ValueLinear
            | Role::OutLinear => true,
            Role::FinalNorm
            | Role::PreAttentionNorm
            | Role::QueryBias
            | Role::QueryNorm
            | Role::KeyBias
            | Role::KeyNorm
            | Role::ValueBias
            | Role::OutputBias
            | Role::PostAttentionNorm
            | Role::PreFfwNorm
            | Role::GatingLinearBias
            | Role::ValueLinearBias
            | Role::OutLinearBias
            | Role::PostFfwNorm => false,
        }
    }

    /// Whether a model of this config has it.
    // Where flash is scarce it is a function, for which a call is enough.
    #[cfg_attr(target_os = "none", inline(never))]
    pub const fn is_present(self, config: &Config) -> bool {
        match self {
            Role::LmHead => !config.tie_embedder_and_logits,
            Role::QueryBias | Role::KeyBias | Role::ValueBias => config.qkv_bias,
            Role::OutputBias => config.output_bias,
            Role::GatingLinearBias | Role::ValueLinearBias | Role::OutLinearBias => config.mlp_bias,
            Role::QueryNorm | Role::KeyNorm => config.use_qk_norm,
            Role::PostAttentionNorm => config.use_post_attn_norm,
            Role::PostFfwNorm => config.use_post_ffw_norm,
            Role::Embedder
            | Role::FinalNorm
            | Role::PreAttentionNorm
            | Role::Query
            | Role::Key
            | Role::Value
            | Role::Output
            | Role::PreFfwNorm
            | Role::GatingLinear
            | Role::ValueLinear
            | Role::OutLinear => true,
        }
    }

    /// Rows and columns; a vector is one row. `None` on overflow.
    pub const fn shape(self, config: &Config) -> Option<(usize, usize)> {
        let Dims {
            embedding,
            head,
            queries,
            keys,
            hidden,
            vocabulary,
            ..
        } = config.dims();
        if queries == usize::MAX {
            return None;
        }
        Some(match self {
            Role::Embedder | Role::LmHead => (vocabulary, embedding),
            Role::Query => (queries, embedding),
            Role::Key | Role::Value => (keys, embedding),
            Role::Output => (embedding, queries),
            Role::GatingLinear | Role::ValueLinear => (hidden, embedding),
            Role::OutLinear => (embedding, hidden),
            Role::QueryBias => (1, queries),
            Role::KeyBias | Role::ValueBias => (1, keys),
            Role::QueryNorm | Role::KeyNorm => (1, head),
            Role::GatingLinearBias | Role::ValueLinearBias => (1, hidden),
            Role::FinalNorm
            | Role::PreAttentionNorm
            | Role::OutputBias
            | Role::PostAttentionNorm
            | Role::PreFfwNorm
            | Role::OutLinearBias
            | Role::PostFfwNorm => (1, embedding),
        })
    }

    /// Numbers in it, if it is a vector that a model of this config has.
    #[cfg(feature = "source")]
    pub(crate) const fn vector_len(self, config: &Config) -> usize {
        match self.shape(config) {
            Some((_, columns)) if !self.is_matrix() && self.is_present(config) => columns,
            _ => 0,
        }
    }

    /// The label in penzai's style, without the layer.
    pub const fn label(self) -> &'static str {
        match self {
            Role::Embedder => "embedder.embeddings",
            Role::LmHead => "lm_head.weights",
            Role::FinalNorm => "final_norm/scale.weights",
            Role::PreAttentionNorm => "pre_attention_norm/scale.weights",
            Role::Query => "attention/query.weights",
            Role::QueryBias => "attention/query.bias",
            Role::QueryNorm => "attention/query_norm/scale.weights",
            Role::Key => "attention/key.weights",
            Role::KeyBias => "attention/key.bias",
            Role::KeyNorm => "attention/key_norm/scale.weights",
            Role::Value => "attention/value.weights",
            Role::ValueBias => "attention/value.bias",
            Role::Output => "attention/output.weights",
            Role::OutputBias => "attention/output.bias",
            Role::PostAttentionNorm => "post_attention_norm/scale.weights",
            Role::PreFfwNorm => "pre_ffw_norm/scale.weights",
            Role::GatingLinear => "mlp/gating_linear.weights",
            Role::GatingLinearBias => "mlp/gating_linear.bias",
            Role::ValueLinear => "mlp/value_linear.weights",
            Role::ValueLinearBias => "mlp/value_linear.bias",
            Role::OutLinear => "mlp/out_linear.weights",
            Role::OutLinearBias => "mlp/out_linear.bias",
            Role::PostFfwNorm => "post_ffw_norm/scale.weights",
        }
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.role.is_per_layer() {
            write!(f, "block_{}/", self.layer)?;
        }
        f.write_str(self.role.label())
    }
}
