//! The model config, in the seed's names.

use super::DType;

/// Which activation gates the feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum MlpVariant {
    /// `0.5 a (1 + erf(a / sqrt 2))`.
    GegluExact = 0,
    /// `0.5 a (1 + tanh(sqrt(2/pi) (a + 0.044715 a^3)))`.
    GegluApprox = 1,
    /// `a sigmoid(a)`.
    Swiglu = 2,
}

/// Which table of rotary frequencies a layer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Rope {
    /// None: the layer sees no positions (SmolLM3's NoPE layers).
    None = 0,
    /// The table of the global layers.
    Global = 1,
    /// The table of the local (sliding-window) layers.
    Local = 2,
}

/// What differs from layer to layer: the seed's `attention_type`, expanded to one entry a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Layer {
    /// `Some(w)`: sliding-window causal attention over `w` positions, the query's own included.
    /// `None`: global causal attention.
    pub window: Option<core::num::NonZeroU32>,
    /// The rotary table.
    pub rope: Rope,
}

/// The model config, in the seed's names; what penzai's `LlamalikeTransformerConfig` says, resolved.
///
/// `attention_type` is the list of [`Layer`]s beside it, since it has one entry a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Config {
    /// Key/value heads, `K`.
    pub num_kv_heads: u32,
    /// Query heads for each key/value head, `M`.
    pub query_head_multiplier: u32,
    /// Width of the residual stream, `D`.
    pub embedding_dim: u32,
    /// Width of one head's query, key and value, `P`; even.
    pub projection_dim: u32,
    /// Width of the feed-forward, `F`.
    pub mlp_hidden_dim: u32,
    /// Layers, `L`.
    pub num_decoder_blocks: u32,
    /// Tokens, `V`.
    pub vocab_size: u32,
    /// The activation of the feed-forward.
    pub mlp_variant: MlpVariant,
    /// The output matrix is the embedding table.
    pub tie_embedder_and_logits: bool,
    /// What embeddings are multiplied by: `sqrt(D)` for the seed's tied models and Gemma, 1 for the others.
    pub embedding_scale: f32,
    /// Base of the rotary frequencies of global layers. A record of where the image's frequency tables
    /// came from, like the next two; the forward pass reads the tables.
    pub rope_wavelength: f32,
    /// The base in local layers, when it differs.
    pub local_rope_wavelength: Option<f32>,
    /// Divides the rotary angle in global layers.
    pub global_scale_factor: Option<f32>,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// A norm on the output of attention.
    pub use_post_attn_norm: bool,
    /// A norm on the output of the feed-forward.
    pub use_post_ffw_norm: bool,
    /// `cap * tanh(z / cap)` on the logits.
    pub final_logit_softcap: Option<f32>,
    /// The same on attention scores, before the mask.
    pub attn_logits_soft_cap: Option<f32>,
    /// What a rotated query is multiplied by; the seed's "default" is `P^-0.5`.
    pub query_scaling_factor: f32,
    /// What the parameters were stored as in the checkpoint.
    pub parameter_dtype: DType,
    /// What the checkpoint would keep activations and KV tables in.
    pub activation_dtype: DType,
    /// Whether the checkpoint stacked its layers; the numbers are the same.
    pub use_layer_stack: bool,
    /// RMSNorm over each head's query and key, before RoPE.
    pub use_qk_norm: bool,
    /// Biases on query, key and value (Qwen2).
    pub qkv_bias: bool,
    /// A bias on the attention output projection (Llama's `attention_bias`).
    pub output_bias: bool,
    /// Biases on the three feed-forward matrices (Llama's `mlp_bias`).
    pub mlp_bias: bool,
}
