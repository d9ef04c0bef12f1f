//! Which tensors a config calls for, and their sizes.

use std::prelude::rust_2024::*;

use crate::model::{Config, Role, TensorId};

/// Every tensor of a model with this config: the three that belong to no layer, then layer by layer.
pub(super) fn tensors(config: &Config) -> impl Iterator<Item = TensorId> {
    let outer =
        [Some(Role::Embedder), (!config.tie_embedder_and_logits).then_some(Role::LmHead), Some(Role::FinalNorm)];
    let inner = layer_roles(config);
    outer.into_iter().flatten().map(|role| TensorId { layer: 0, role }).chain(
        (0..config.num_decoder_blocks)
            .flat_map(move |layer| inner.clone().into_iter().map(move |role| TensorId { layer, role })),
    )
}

fn layer_roles(config: &Config) -> Vec<Role> {
    use Role::*;
    let optional = |on: bool, role: Role| on.then_some(role);
    [
        Some(PreAttentionNorm),
        Some(Query),
        optional(config.qkv_bias, QueryBias),
        optional(config.use_qk_norm, QueryNorm),
        Some(Key),
        optional(config.qkv_bias, KeyBias),
        optional(config.use_qk_norm, KeyNorm),
        Some(Value),
        optional(config.qkv_bias, ValueBias),
        Some(Output),
        optional(config.output_bias, OutputBias),
        optional(config.use_post_attn_norm, PostAttentionNorm),
        Some(PreFfwNorm),
        Some(GatingLinear),
        optional(config.mlp_bias, GatingLinearBias),
        Some(ValueLinear),
        optional(config.mlp_bias, ValueLinearBias),
        Some(OutLinear),
        optional(config.mlp_bias, OutLinearBias),
        optional(config.use_post_ffw_norm, PostFfwNorm),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The sizes a config gives its tensors, as `usize`, with products that cannot overflow: [`Sizes::new`] saw to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// `V`.
    pub(super) vocab: usize,
    /// `D`.
    pub(super) embedding: usize,
    /// `F`.
    pub(super) hidden: usize,
    /// `P`.
    pub(super) head: usize,
    /// `K`.
    pub(super) kv_heads: usize,
    /// `M`.
    pub(super) multiplier: usize,
}

impl Sizes {
    /// `None` if heads times their width is no `u32`.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let heads = config.num_kv_heads.checked_mul(config.query_head_multiplier)?;
        heads.checked_mul(config.projection_dim)?;
        Some(Sizes {
            vocab: config.vocab_size as usize,
            embedding: config.embedding_dim as usize,
            hidden: config.mlp_hidden_dim as usize,
            head: config.projection_dim as usize,
            kv_heads: config.num_kv_heads as usize,
            multiplier: config.query_head_multiplier as usize,
        })
    }

    /// Rows of the query matrix, `K * M * P`.
    pub(super) fn query(&self) -> usize {
        self.kv_heads * self.multiplier * self.head
    }

    /// Rows of the key matrix and of the value matrix, `K * P`.
    pub(super) fn key(&self) -> usize {
        self.kv_heads * self.head
    }

    /// `(rows, columns)` of a matrix, `(1, elements)` of a vector.
    pub(super) fn of(&self, role: Role) -> (usize, usize) {
        use Role::*;
        let d = self.embedding;
        match role {
            Embedder | LmHead => (self.vocab, d),
            Query => (self.query(), d),
            Key | Value => (self.key(), d),
            Output => (d, self.query()),
            GatingLinear | ValueLinear => (self.hidden, d),
            OutLinear => (d, self.hidden),
            QueryBias => (1, self.query()),
            KeyBias | ValueBias => (1, self.key()),
            QueryNorm | KeyNorm => (1, self.head),
            GatingLinearBias | ValueLinearBias => (1, self.hidden),
            FinalNorm | PreAttentionNorm | OutputBias | PostAttentionNorm | PreFfwNorm | OutLinearBias
            | PostFfwNorm => (1, d),
        }
    }
}
