//! The model config, in the names of penzai's `LlamalikeTransformerConfig`.

use core::fmt;
use core::num::NonZeroU32;

use pocketlm_kernels::GROUP;

use super::image::{Section, u32_at};
use super::{DType, Rope};
use crate::Error;

/// Bytes of the config section.
pub(super) const CONFIG_BYTES: usize = 80;
/// Bytes more, if queries have a temperature.
pub(super) const TEMPERATURE_BYTES: usize = 8;

/// Which activation gates the feed-forward.
///
/// Example: [`Config`].
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

/// A scale on queries that grows with their position: the temperature tuning of Llama 4, which
/// Ministral 3 has too. The query of position `p` is multiplied by `1 + scale ln(1 + floor(p /
/// length))`, after RoPE. An image holds these factors for the positions up to
/// `max_position_embeddings`, or 131,072 if that is not known. Later positions have the last one.
///
/// ```
/// use core::num::NonZeroU32;
/// use pocketlm::model::{AttnTemperature, Config};
///
/// let attn_temperature = AttnTemperature {
///     scale: 0.1,
///     length: NonZeroU32::new(16_384).unwrap(),
///     only_without_rope: false,
/// };
/// let config = Config { attn_temperature: Some(attn_temperature), ..Config::PLAIN };
/// # let _ = config;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AttnTemperature {
    /// HF's `llama_4_scaling_beta` or `attn_scale`; above 0.
    pub scale: f32,
    /// Positions from one step to the next: `original_max_position_embeddings` or `floor_scale`.
    pub length: NonZeroU32,
    /// As in Llama 4: only layers without RoPE scale their queries, and `p` counts from 1.
    pub only_without_rope: bool,
}

impl AttnTemperature {
    /// The factors of the steps from the first on, as an image holds them: enough for `positions`
    /// positions, and an even number.
    #[cfg(feature = "std")]
    pub(crate) fn factors(&self, positions: u32) -> impl Iterator<Item = f32> + use<> {
        let steps = positions / self.length;
        let scale = f64::from(self.scale);
        let factor = move |step| (1.0 + scale * libm::log(f64::from(step) + 1.0)) as f32;
        (0..=steps | 1).map(factor)
    }

    /// The step of a position in a layer with these rotary frequencies: which of the factors scales
    /// its query.
    pub(crate) fn step(&self, position: u32, rope: Rope) -> u32 {
        match (self.only_without_rope, rope) {
            (true, Rope::None) => position.saturating_add(1) / self.length,
            (true, Rope::Global | Rope::Local) => 0,
            (false, Rope::None | Rope::Global | Rope::Local) => position / self.length,
        }
    }
}

/// The model config. The names are those of penzai's `LlamalikeTransformerConfig`; defaults are
/// resolved, so that every field is the number that is computed with.
///
/// `attention_type` is the list of [`Layer`](super::Layer)s beside it, since it has one entry a
/// layer.
///
/// To make one, start from [`Config::PLAIN`].
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
    /// `lm_head` is the embedding table.
    pub tie_embedder_and_logits: bool,
    /// What embeddings are multiplied by: `sqrt(D)` for Gemma and for tied models of penzai, 1 for
    /// the others.
    pub embedding_scale: f32,
    /// Base of the rotary frequencies of global layers. A record of where the image's frequency
    /// tables came from, like the next two; the forward pass reads the tables.
    pub rope_wavelength: f32,
    /// The base in local layers, when it differs.
    pub local_rope_wavelength: Option<f32>,
    /// Divides the rotary angle in global layers.
    pub global_scale_factor: Option<f32>,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// A norm before attention. Without it, attention reads the residual stream as it is (OLMo 2,
    /// EXAONE 4).
    pub use_pre_attn_norm: bool,
    /// A norm before the feed-forward.
    pub use_pre_ffw_norm: bool,
    /// A norm on the output of attention.
    pub use_post_attn_norm: bool,
    /// A norm on the output of the feed-forward.
    pub use_post_ffw_norm: bool,
    /// `cap * tanh(z / cap)` on the logits.
    pub final_logit_softcap: Option<f32>,
    /// The same on attention scores, before the mask.
    pub attn_logits_soft_cap: Option<f32>,
    /// What a rotated query is multiplied by; penzai's "default" is `P^-0.5`.
    pub query_scaling_factor: f32,
    /// What the parameters were stored as in the checkpoint.
    pub parameter_dtype: DType,
    /// What the checkpoint would keep activations and KV tables in.
    pub activation_dtype: DType,
    /// Whether the checkpoint stacked its layers; the numbers are the same.
    pub use_layer_stack: bool,
    /// RMSNorm over each head's query and key: before RoPE, unless `qk_norm_after_rope`.
    pub use_qk_norm: bool,
    /// That norm comes after RoPE (Hunyuan). Without effect on a norm across heads.
    pub qk_norm_after_rope: bool,
    /// That norm is over the queries, and over the keys, of all heads together (OLMo 2), before
    /// RoPE. Its weights are `[H*P]` and `[K*P]`.
    pub qk_norm_across_heads: bool,
    /// That norm is left out in layers without RoPE (Llama 4).
    pub qk_norm_only_with_rope: bool,
    /// Scales queries by their position. `None`: not at all.
    pub attn_temperature: Option<AttnTemperature>,
    /// Biases on query, key and value (Qwen2).
    pub qkv_bias: bool,
    /// A bias on the attention output projection (Llama's `attention_bias`).
    pub output_bias: bool,
    /// Biases on the three feed-forward matrices (Llama's `mlp_bias`).
    pub mlp_bias: bool,
    /// Biases on both matrices and on the taps of convolutions (LFM2's `conv_bias`).
    pub conv_bias: bool,
    /// How many taps a convolution has, its layer's [`window`](super::Layer::window): the same in
    /// all layers. `None` if no layer is one.
    pub conv_taps: Option<NonZeroU32>,
    /// Tokens of the longest text the model was trained for, where the checkpoint says so. Nothing
    /// stops at it: a longer context runs, but what is written there may make no sense.
    pub max_position_embeddings: Option<NonZeroU32>,
}

/// The field of a [`Config`] (or of a [`Layer`](super::Layer)) that was refused.
/// [`Display`](fmt::Display) says what it must be.
///
/// Example: [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[allow(missing_docs)] // the names of the fields
pub enum ConfigField {
    NumKvHeads,
    QueryHeadMultiplier,
    EmbeddingDim,
    ProjectionDim,
    MlpHiddenDim,
    NumDecoderBlocks,
    VocabSize,
    MlpVariant,
    Flags,
    EmbeddingScale,
    RopeWavelength,
    LocalRopeWavelength,
    GlobalScaleFactor,
    RmsNormEps,
    FinalLogitSoftcap,
    AttnLogitsSoftCap,
    QueryScalingFactor,
    ParameterDtype,
    ActivationDtype,
    Rope,
    AttentionType,
    AttnTemperature,
    ConvTaps,
}

impl fmt::Display for ConfigField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfigField::NumKvHeads => "num_kv_heads must be above 0",
            ConfigField::QueryHeadMultiplier => "query_head_multiplier must be above 0",
            ConfigField::EmbeddingDim => "embedding_dim must be above 0",
            ConfigField::ProjectionDim => "projection_dim must be even and above 0",
            ConfigField::MlpHiddenDim => "mlp_hidden_dim must be above 0",
            ConfigField::NumDecoderBlocks => {
                "num_decoder_blocks is not the number of layers listed"
            }
            ConfigField::VocabSize => "vocab_size must be above 0",
            ConfigField::MlpVariant => "mlp_variant must be geglu_exact, geglu_approx or swiglu",
            ConfigField::Flags => "a flag is set that this version does not know",
            ConfigField::EmbeddingScale => "embedding_scale must be a finite number other than 0",
            ConfigField::RopeWavelength => "rope_wavelength must be finite and above 0",
            ConfigField::LocalRopeWavelength => "local_rope_wavelength must be finite and above 0",
            ConfigField::GlobalScaleFactor => "global_scale_factor must be finite and at least 1",
            ConfigField::RmsNormEps => "rms_norm_eps must be finite and above 0",
            ConfigField::FinalLogitSoftcap => "final_logit_softcap must be finite and above 0",
            ConfigField::AttnLogitsSoftCap => "attn_logits_soft_cap must be finite and above 0",
            ConfigField::QueryScalingFactor => {
                "query_scaling_factor must be a finite number other than 0"
            }
            ConfigField::ParameterDtype => "parameter_dtype is unknown",
            ConfigField::ActivationDtype => "activation_dtype is unknown",
            ConfigField::Rope => {
                "the rotary amplitude must be finite and above 0, and the word after it 0"
            }
            ConfigField::AttentionType => "a layer's kind or rotary frequencies are unknown",
            ConfigField::AttnTemperature => {
                "attn_temperature's scale and factors must be finite, and the scale above 0"
            }
            ConfigField::ConvTaps => {
                "conv_taps must be above 0, and the window of every convolution"
            }
        })
    }
}

/// `true` for a number that can divide: finite and above 0, which in bits is one comparison.
const fn positive(x: f32) -> bool {
    x.to_bits().wrapping_sub(1) < f32::INFINITY.to_bits() - 1
}

/// Bits of the flags field.
mod flag {
    pub const TIED: u32 = 1;
    pub const POST_ATTN_NORM: u32 = 1 << 1;
    pub const POST_FFW_NORM: u32 = 1 << 2;
    pub const QK_NORM: u32 = 1 << 3;
    pub const QKV_BIAS: u32 = 1 << 4;
    pub const OUTPUT_BIAS: u32 = 1 << 5;
    pub const MLP_BIAS: u32 = 1 << 6;
    pub const LAYER_STACK: u32 = 1 << 7;
    pub const LOCAL_ROPE_WAVELENGTH: u32 = 1 << 8;
    pub const GLOBAL_SCALE_FACTOR: u32 = 1 << 9;
    pub const FINAL_LOGIT_SOFTCAP: u32 = 1 << 10;
    pub const ATTN_LOGITS_SOFT_CAP: u32 = 1 << 11;
    pub const NO_PRE_ATTN_NORM: u32 = 1 << 12;
    pub const NO_PRE_FFW_NORM: u32 = 1 << 13;
    pub const QK_NORM_AFTER_ROPE: u32 = 1 << 14;
    pub const QK_NORM_ONLY_WITH_ROPE: u32 = 1 << 15;
    pub const QK_NORM_ACROSS_HEADS: u32 = 1 << 16;
    pub const CONV_BIAS: u32 = 1 << 17;
    pub const TEMPERATURE_ONLY_WITHOUT_ROPE: u32 = 1 << 18;
    pub const ALL: u32 = (1 << 19) - 1;
}

/// The sizes of a model's vectors, in numbers: what the shapes of its tensors and buffers are
/// made of. The letters are those of [`TensorKind`](super::TensorKind). A product that overflows is
/// `usize::MAX`, which no memory holds.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    /// `D`.
    pub embedding: usize,
    /// `P`, a query, a key or a value of one head.
    pub head_width: usize,
    /// `K`.
    pub kv_heads: usize,
    /// `H / K`, the query heads that share a kv head.
    pub query_heads_per_kv: usize,
    /// `H P`, the queries of all heads.
    pub queries_width: usize,
    /// `K P`, the keys, or the values, of all heads.
    pub keys_width: usize,
    /// `F`, the width of the feed-forward's gate and up.
    pub feed_forward: usize,
    /// `V`.
    pub vocabulary: usize,
    /// `D`, if there are convolutions, else 0.
    #[cfg(feature = "convolution")]
    pub convolved: usize,
}

impl Dims {
    /// `H P / K`, the queries of the heads that share a kv head.
    pub const fn kv_group_width(&self) -> usize {
        self.query_heads_per_kv * self.head_width
    }

    /// Groups of 32 that the queries of these heads make: each head starts a group.
    pub const fn query_groups_per_kv(&self) -> usize {
        self.query_heads_per_kv * self.head_width.div_ceil(GROUP)
    }
}

impl Config {
    /// A config without sizes, with every option off and Llama's usual constants: SwiGLU, an
    /// `lm_head` of its own, no biases, no norms beyond the usual three, no soft caps. It is the
    /// base of others, which state what differs:
    ///
    /// ```
    /// # use pocketlm::model::Config;
    /// let config = Config {
    ///     num_kv_heads: 4,
    ///     query_head_multiplier: 2,
    ///     embedding_dim: 64,
    ///     projection_dim: 8,
    ///     mlp_hidden_dim: 172,
    ///     num_decoder_blocks: 5,
    ///     vocab_size: 512,
    ///     query_scaling_factor: 0.353_553_38, // 8^-0.5
    ///     ..Config::PLAIN
    /// };
    /// assert_eq!(config.check(), Ok(()));
    /// ```
    ///
    /// The sizes and `query_scaling_factor` are 0, which [`Config::check`] refuses.
    pub const PLAIN: Config = Config {
        num_kv_heads: 0,
        query_head_multiplier: 0,
        embedding_dim: 0,
        projection_dim: 0,
        mlp_hidden_dim: 0,
        num_decoder_blocks: 0,
        vocab_size: 0,
        mlp_variant: MlpVariant::Swiglu,
        tie_embedder_and_logits: false,
        embedding_scale: 1.0,
        rope_wavelength: 10_000.0,
        local_rope_wavelength: None,
        global_scale_factor: None,
        rms_norm_eps: 1e-5,
        use_pre_attn_norm: true,
        use_pre_ffw_norm: true,
        use_post_attn_norm: false,
        use_post_ffw_norm: false,
        final_logit_softcap: None,
        attn_logits_soft_cap: None,
        query_scaling_factor: 0.0,
        parameter_dtype: DType::F32,
        activation_dtype: DType::F32,
        use_layer_stack: false,
        use_qk_norm: false,
        qk_norm_after_rope: false,
        qk_norm_across_heads: false,
        qk_norm_only_with_rope: false,
        attn_temperature: None,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        conv_bias: false,
        conv_taps: None,
        max_position_embeddings: None,
    };

    /// The sizes that follow from it.
    pub(crate) const fn dims(&self) -> Dims {
        let head_width = self.projection_dim as usize;
        let kv_heads = self.num_kv_heads as usize;
        let query_heads_per_kv = self.query_head_multiplier as usize;
        let keys_width = kv_heads.saturating_mul(head_width);
        Dims {
            embedding: self.embedding_dim as usize,
            head_width,
            kv_heads,
            query_heads_per_kv,
            queries_width: keys_width.saturating_mul(query_heads_per_kv),
            keys_width,
            feed_forward: self.mlp_hidden_dim as usize,
            vocabulary: self.vocab_size as usize,
            #[cfg(feature = "convolution")]
            convolved: match self.conv_taps {
                Some(_) => self.embedding_dim as usize,
                None => 0,
            },
        }
    }

    /// Refuses a config that cannot describe a model. Penzai accepts some of them (zero heads,
    /// negative caps, an epsilon of 0).
    pub const fn check(&self) -> Result<(), Error> {
        let refused = if self.num_kv_heads == 0 {
            ConfigField::NumKvHeads
        } else if self.query_head_multiplier == 0 {
            ConfigField::QueryHeadMultiplier
        } else if self.embedding_dim == 0 {
            ConfigField::EmbeddingDim
        } else if self.projection_dim == 0 || !self.projection_dim.is_multiple_of(2) {
            ConfigField::ProjectionDim
        } else if self.mlp_hidden_dim == 0 {
            ConfigField::MlpHiddenDim
        } else if self.vocab_size == 0 {
            ConfigField::VocabSize
        } else if !positive(self.embedding_scale.abs()) {
            ConfigField::EmbeddingScale
        } else if !positive(self.rope_wavelength) {
            ConfigField::RopeWavelength
        } else if matches!(self.local_rope_wavelength, Some(x) if !positive(x)) {
            ConfigField::LocalRopeWavelength
        } else if matches!(self.global_scale_factor, Some(x) if !(positive(x) && x >= 1.0)) {
            ConfigField::GlobalScaleFactor
        } else if !positive(self.rms_norm_eps) {
            ConfigField::RmsNormEps
        } else if matches!(self.final_logit_softcap, Some(x) if !positive(x)) {
            ConfigField::FinalLogitSoftcap
        } else if matches!(self.attn_logits_soft_cap, Some(x) if !positive(x)) {
            ConfigField::AttnLogitsSoftCap
        } else if !positive(self.query_scaling_factor.abs()) {
            ConfigField::QueryScalingFactor
        } else if matches!(self.attn_temperature, Some(x) if !positive(x.scale)) {
            ConfigField::AttnTemperature
        } else {
            return Ok(());
        };
        Err(Error::Config(refused))
    }

    /// Reads and checks the config section. The layers know the rest of it.
    pub(super) const fn read(bytes: &[u8]) -> Result<Config, Error> {
        let attn_temperature = match NonZeroU32::new(u32_at(bytes, CONFIG_BYTES + 4)) {
            Some(length) => Some(AttnTemperature {
                scale: f32::from_bits(u32_at(bytes, CONFIG_BYTES)),
                length,
                only_without_rope: u32_at(bytes, 32) & flag::TEMPERATURE_ONLY_WITHOUT_ROPE != 0,
            }),
            None => None,
        };
        if bytes.len() != CONFIG_BYTES + attn_temperature.is_some() as usize * TEMPERATURE_BYTES {
            return Err(Error::Layout(Section::Config));
        }
        let mut words = [0; CONFIG_BYTES / 4];
        let mut i = 0;
        while i < words.len() {
            words[i] = u32_at(bytes, 4 * i);
            i += 1;
        }
        let flags = words[8];
        if flags & !flag::ALL != 0 {
            return Err(Error::Config(ConfigField::Flags));
        }
        let mlp_variant = match words[7] {
            0 => MlpVariant::GegluExact,
            1 => MlpVariant::GegluApprox,
            2 => MlpVariant::Swiglu,
            _ => return Err(Error::Config(ConfigField::MlpVariant)),
        };
        let Some(parameter_dtype) = DType::from_code(words[17]) else {
            return Err(Error::Config(ConfigField::ParameterDtype));
        };
        let Some(activation_dtype) = DType::from_code(words[18]) else {
            return Err(Error::Config(ConfigField::ActivationDtype));
        };
        let config = Config {
            num_kv_heads: words[0],
            query_head_multiplier: words[1],
            embedding_dim: words[2],
            projection_dim: words[3],
            mlp_hidden_dim: words[4],
            num_decoder_blocks: words[5],
            vocab_size: words[6],
            mlp_variant,
            tie_embedder_and_logits: flags & flag::TIED != 0,
            embedding_scale: f32::from_bits(words[9]),
            rope_wavelength: f32::from_bits(words[14]),
            local_rope_wavelength: number(flags & flag::LOCAL_ROPE_WAVELENGTH, words[15]),
            global_scale_factor: number(flags & flag::GLOBAL_SCALE_FACTOR, words[16]),
            rms_norm_eps: f32::from_bits(words[11]),
            use_pre_attn_norm: flags & flag::NO_PRE_ATTN_NORM == 0,
            use_pre_ffw_norm: flags & flag::NO_PRE_FFW_NORM == 0,
            use_post_attn_norm: flags & flag::POST_ATTN_NORM != 0,
            use_post_ffw_norm: flags & flag::POST_FFW_NORM != 0,
            final_logit_softcap: number(flags & flag::FINAL_LOGIT_SOFTCAP, words[12]),
            attn_logits_soft_cap: number(flags & flag::ATTN_LOGITS_SOFT_CAP, words[13]),
            query_scaling_factor: f32::from_bits(words[10]),
            parameter_dtype,
            activation_dtype,
            use_layer_stack: flags & flag::LAYER_STACK != 0,
            use_qk_norm: flags & flag::QK_NORM != 0,
            qk_norm_after_rope: flags & (flag::QK_NORM_AFTER_ROPE | flag::QK_NORM_ACROSS_HEADS)
                == flag::QK_NORM_AFTER_ROPE,
            qk_norm_across_heads: flags & flag::QK_NORM_ACROSS_HEADS != 0,
            qk_norm_only_with_rope: flags & flag::QK_NORM_ONLY_WITH_ROPE != 0,
            attn_temperature,
            qkv_bias: flags & flag::QKV_BIAS != 0,
            output_bias: flags & flag::OUTPUT_BIAS != 0,
            mlp_bias: flags & flag::MLP_BIAS != 0,
            conv_bias: flags & flag::CONV_BIAS != 0,
            conv_taps: None, // the layers say it
            max_position_embeddings: NonZeroU32::new(words[19]),
        };
        match config.check() {
            Ok(()) => Ok(config),
            Err(error) => Err(error),
        }
    }

    /// The config section of an image.
    #[cfg(feature = "std")]
    pub(crate) fn to_bytes(self) -> std::vec::Vec<u8> {
        let temperature = self.attn_temperature;
        let flags = [
            (
                temperature.is_some_and(|temperature| temperature.only_without_rope),
                flag::TEMPERATURE_ONLY_WITHOUT_ROPE,
            ),
            (self.tie_embedder_and_logits, flag::TIED),
            (!self.use_pre_attn_norm, flag::NO_PRE_ATTN_NORM),
            (!self.use_pre_ffw_norm, flag::NO_PRE_FFW_NORM),
            (self.use_post_attn_norm, flag::POST_ATTN_NORM),
            (self.use_post_ffw_norm, flag::POST_FFW_NORM),
            (self.use_qk_norm, flag::QK_NORM),
            (self.qk_norm_after_rope, flag::QK_NORM_AFTER_ROPE),
            (self.qk_norm_across_heads, flag::QK_NORM_ACROSS_HEADS),
            (self.qk_norm_only_with_rope, flag::QK_NORM_ONLY_WITH_ROPE),
            (self.qkv_bias, flag::QKV_BIAS),
            (self.output_bias, flag::OUTPUT_BIAS),
            (self.mlp_bias, flag::MLP_BIAS),
            (self.conv_bias, flag::CONV_BIAS),
            (self.use_layer_stack, flag::LAYER_STACK),
            (
                self.local_rope_wavelength.is_some(),
                flag::LOCAL_ROPE_WAVELENGTH,
            ),
            (
                self.global_scale_factor.is_some(),
                flag::GLOBAL_SCALE_FACTOR,
            ),
            (
                self.final_logit_softcap.is_some(),
                flag::FINAL_LOGIT_SOFTCAP,
            ),
            (
                self.attn_logits_soft_cap.is_some(),
                flag::ATTN_LOGITS_SOFT_CAP,
            ),
        ];
        let flags = flags
            .iter()
            .filter(|(set, _)| *set)
            .fold(0, |flags, (_, bit)| flags | bit);
        let words = [
            self.num_kv_heads,
            self.query_head_multiplier,
            self.embedding_dim,
            self.projection_dim,
            self.mlp_hidden_dim,
            self.num_decoder_blocks,
            self.vocab_size,
            self.mlp_variant as u32,
            flags,
            self.embedding_scale.to_bits(),
            self.query_scaling_factor.to_bits(),
            self.rms_norm_eps.to_bits(),
            self.final_logit_softcap.unwrap_or(0.0).to_bits(),
            self.attn_logits_soft_cap.unwrap_or(0.0).to_bits(),
            self.rope_wavelength.to_bits(),
            self.local_rope_wavelength.unwrap_or(0.0).to_bits(),
            self.global_scale_factor.unwrap_or(0.0).to_bits(),
            self.parameter_dtype as u32,
            self.activation_dtype as u32,
            self.max_position_embeddings.map_or(0, NonZeroU32::get),
        ];
        let temperature =
            temperature.map(|temperature| [temperature.scale.to_bits(), temperature.length.get()]);
        let words = words.into_iter().chain(temperature.into_iter().flatten());
        words.flat_map(u32::to_le_bytes).collect()
    }
}

/// A number that is there if its flag is set.
const fn number(flag: u32, bits: u32) -> Option<f32> {
    if flag != 0 {
        Some(f32::from_bits(bits))
    } else {
        None
    }
}
