//! Which tensors a model has, and in what order an image stores them.

/// What a tensor is for. Names follow the seed's labels (penzai's "llama-like" transformer).
///
/// Matrices are `[rows = outputs][columns = inputs]`: `y = W x`. With `D = embedding_dim`,
/// `P = projection_dim`, `K = num_kv_heads`, `H = K * query_head_multiplier`, `F = mlp_hidden_dim`, `V = vocab_size`.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TensorId {
    /// The layer, 0 for [`Role::Embedder`], [`Role::LmHead`] and [`Role::FinalNorm`].
    pub layer: u32,
    /// What it is for.
    pub role: Role,
}
