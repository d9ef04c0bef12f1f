//! The model families as a table. The importers of GGUF files and of Hugging Face folders share it.
//! A family whose differences the fields of a row can express is one more row.
//!
//! A row of [`FAMILIES`] says what differs from [`LLAMA`], or from another row. [`Absent`] has the
//! defaults of the config classes in transformers 5, for keys that a `config.json` leaves out.
//! Where older versions have another default, the files they wrote name the key.

use std::prelude::rust_2024::*;

use super::rope::Pairing;
use super::{ImportError, refused};
use crate::model::{Config, MlpVariant};

/// What models of one family have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// `model_type` in `config.json`.
    pub(super) model_type: &'static str,
    /// `model_type` of multimodal models whose `text_config` is of this family.
    pub(super) multimodal: Option<&'static str>,
    /// What its GGUF files are like. `None`: there are none, or they have another family's name.
    pub(super) gguf: Option<Gguf>,

    /// A norm with weights `w` multiplies by `1 + w`. (In GGUF files the 1 is added already.)
    pub(super) one_plus_norms: bool,
    /// There are norms on the inputs of attention and of the feed-forward.
    pub(super) pre_norms: bool,
    /// There are norms on the outputs of attention and of the feed-forward.
    pub(super) post_norms: bool,
    /// Hugging Face folders call the norm before the feed-forward `pre_feedforward_layernorm`, and
    /// not `post_attention_layernorm`.
    pub(super) pre_feedforward_layernorm: bool,
    /// Whether each head's query and key are normed, and how.
    pub(super) qk_norm: QkNorm,
    /// What Hugging Face folders call these norms.
    pub(super) qk_norm_names: QkNormNames,
    /// Hugging Face folders call the norms `operator_norm`, `ffn_norm` and `embedding_norm`, and
    /// attention's output matrix `out_proj`. GGUF files call the final norm `token_embd_norm`.
    pub(super) operator_names: bool,
    /// The key in `config.json` of the norms' epsilon.
    pub(super) eps_key: &'static str,

    /// Embeddings are multiplied by the square root of their width.
    pub(super) scaled_embeddings: bool,
    /// The config has Granite's four multipliers: on embeddings, residuals, attention and logits.
    pub(super) multipliers: bool,
    /// Which channels make a rotary pair in Hugging Face folders.
    pub(super) pairing: Pairing,
    /// Hugging Face folders store query, key and value as one matrix.
    pub(super) fused_qkv: bool,
    /// Hugging Face folders store gate and up as one matrix. In GGUF files without an `ffn_gate`,
    /// `ffn_up` is both.
    pub(super) fused_gate_up: bool,
    /// What Hugging Face folders call the feed-forward.
    pub(super) mlp: Mlp,

    /// Query, key and value have biases, even if the config does not mention them.
    pub(super) qkv_bias: bool,
    /// The key in `config.json` that says whether attention has biases.
    pub(super) attention_bias_key: Option<&'static str>,
    /// That key is for the output matrix of attention, too.
    pub(super) output_bias: bool,
    /// The key in `config.json` that says whether the feed-forward has biases.
    pub(super) mlp_bias_key: Option<&'static str>,
    /// An older name of `tie_word_embeddings`, which wins.
    pub(super) tie_key: Option<&'static str>,

    /// Some layers are short convolutions.
    pub(super) convolutions: bool,

    /// The activation of the feed-forward, unless `activation_key` says otherwise.
    pub(super) activation: MlpVariant,
    /// The key in `config.json` that names the activation.
    pub(super) activation_key: &'static str,
    /// If a config says "gelu", it means the tanh approximation.
    pub(super) gelu_is_approximate: bool,

    /// The soft cap on attention scores.
    pub(super) attention_cap: SoftCap,
    /// The soft cap on logits.
    pub(super) logit_cap: SoftCap,
    /// Queries are divided by the square root of `query_pre_attn_scalar`, or of this number if the
    /// config has none. `None`: by that of the head's width.
    pub(super) query_pre_attn_scalar: Option<f64>,

    /// Which layers attend to a window.
    pub(super) windows: Windows,
    /// Windows are off unless the config sets `use_sliding_window`.
    pub(super) windows_are_optional: bool,
    /// The last of every so many layers has no rotary embedding, unless the config lists those
    /// layers.
    pub(super) no_rope_interval: Option<u32>,
    /// If some layers have a window, only these have a rotary embedding.
    pub(super) full_layers_without_rope: bool,
    /// No layer has a rotary embedding unless `position_embedding_type` is "rope".
    pub(super) rope_is_optional: bool,

    /// Whether queries are scaled by their position.
    pub(super) temperature: Temperature,

    /// The base of the rotary frequencies of layers with a window, if it is one of its own.
    pub(super) local_rope_theta: Option<f64>,
    /// `partial_rotary_factor` may limit the rotary embedding to some channels of a head.
    pub(super) partial_rotary: bool,
    /// Rope scaling of the types "yarn" and "su" is longrope.
    pub(super) yarn_is_longrope: bool,
    /// What rope scaling of the type "dynamic" does.
    pub(super) dynamic: DynamicRope,

    /// The defaults for keys that `config.json` leaves out.
    pub(super) absent: Absent,
}

/// What the GGUF files of a family are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gguf {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// Which channels make a rotary pair, as the query and key rows are stored.
    pub(super) pairing: Pairing,
    /// A window in a file is for all layers. (In a family with [`Windows::Pattern`] it is for the
    /// layers of the pattern. In other families it is an error.)
    pub(super) window_for_all: bool,
    /// The window of files that state none.
    pub(super) window: Option<u32>,
    /// Models of this many layers divide queries by the square root of `embedding_dim / heads`. The
    /// format has no key for this, and llama.cpp recognises these models by the same number.
    pub(super) wide_query_layers: Option<u32>,
    /// If `rope.scaling.finetuned` is false, no layer has a rotary embedding.
    pub(super) rope_switch: bool,
    /// `attention.sliding_window` has to be 0. Then all layers attend to all tokens before, and
    /// have a rotary embedding. Otherwise they attend to chunks.
    pub(super) full_attention: bool,
    /// Queries are scaled by their position if there is an `attention.temperature_scale`.
    pub(super) temperature: bool,
}

/// What Hugging Face folders call the feed-forward. `Shared` and `FeedForward` are of families that
/// can have experts, of which only models without experts are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mlp {
    /// `mlp`, of the width `intermediate_size`.
    Usual,
    /// `shared_mlp`, of the width `shared_intermediate_size`, with gate and up as one matrix.
    Shared,
    /// `feed_forward`, of the width `intermediate_size_mlp`.
    FeedForward,
    /// `feed_forward` with the matrices `w1` (gate), `w3` (up) and `w2`, of a width that
    /// `block_ff_dim` and other keys say together.
    Adjusted,
}

/// Whether each head's query and key are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QkNorm {
    /// They are not.
    None,
    /// Before the rotary embedding, with weights.
    Weights,
    /// Queries of all heads together, and keys, before the rotary embedding, with weights.
    AcrossHeads,
    /// After the rotary embedding, with weights.
    WeightsAfterRope,
    /// Without weights, in layers with a rotary embedding, if the config does not turn it off.
    /// (Before or after the rotary embedding is the same.) An image has weights of 1.
    NoWeights,
}

/// What Hugging Face folders call the norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QkNormNames {
    /// `q_norm` and `k_norm`.
    Norm,
    /// `query_layernorm` and `key_layernorm`.
    Layernorm,
    /// `q_layernorm` and `k_layernorm`.
    ShortLayernorm,
}

/// Whether queries are [scaled by their position](crate::model::AttnTemperature).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temperature {
    /// They are not.
    None,
    /// In all layers, if the rotary settings have a `llama_4_scaling_beta`.
    InRopeParameters,
    /// In layers without rotary embedding, unless `attn_temperature_tuning` is false.
    WithoutRope,
}

/// What rope scaling of the type "dynamic" does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DynamicRope {
    /// The frequencies change with the length of the text: this is refused.
    ByLength,
    /// With `alpha`, the base is stretched once for all texts.
    Alpha,
    /// Nothing, up to `max_position_embeddings`. Then the frequencies change with the length of the
    /// text, which is ignored: such texts are longer than those the model was trained for.
    BeyondContext,
}

/// A soft cap, `cap * tanh(x / cap)`.
#[derive(Clone, Copy, Debug)]
pub(super) enum SoftCap {
    /// None, whatever `config.json` says.
    Never,
    /// If there is a key for it.
    IfGiven,
    /// This, if there is no key for it.
    Default(f32),
}

impl SoftCap {
    /// The cap if no key says otherwise.
    pub(super) fn default(self) -> Option<f32> {
        match self {
            SoftCap::Default(cap) => Some(cap),
            SoftCap::Never | SoftCap::IfGiven => None,
        }
    }
}

/// Which layers attend to a window. `layer_types` may give all but the first two.
#[derive(Clone, Copy, Debug)]
pub(super) enum Windows {
    /// None: the config class has no window.
    None,
    /// All.
    All,
    /// All, unless `layer_types` says otherwise.
    AllUnlessListed,
    /// All but the last of every `period`.
    Pattern {
        period: u32,
        /// `sliding_window_pattern` in `config.json` may say another period.
        has_key: bool,
    },
    /// Those from `max_window_layers` on, or from this layer if the config has no such key.
    From(u32),
    /// Those without rotary embedding.
    WithoutRope,
}

/// What a key that is absent from `config.json` means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent {
    pub(super) vocab_size: u32,
    pub(super) hidden_size: u32,
    pub(super) intermediate_size: u32,
    pub(super) num_hidden_layers: u32,
    pub(super) num_attention_heads: u32,
    /// `None`: as many as query heads.
    pub(super) num_key_value_heads: Option<u32>,
    /// `None`: the hidden size divided by the heads.
    pub(super) head_dim: Option<u32>,
    pub(super) max_position_embeddings: u32,
    pub(super) rms_norm_eps: f64,
    pub(super) tie_word_embeddings: bool,
    /// The base of the rotary frequencies (in layers without a window, if those differ).
    pub(super) rope_theta: f64,
    /// `None`: no window.
    pub(super) sliding_window: Option<u32>,
}

/// Llama and SmolLM2, the base of the other rows.
const LLAMA: Family = Family {
    model_type: "llama",
    multimodal: None,
    gguf: Some(Gguf {
        pairing: Pairing::Adjacent,
        // Mistral's files have this name as well. The converter writes no window. If a file has
        // one, the model was trained with it.
        window_for_all: true,
        ..gguf("llama")
    }),
    one_plus_norms: false,
    pre_norms: true,
    post_norms: false,
    pre_feedforward_layernorm: false,
    qk_norm: QkNorm::None,
    qk_norm_names: QkNormNames::Norm,
    operator_names: false,
    eps_key: "rms_norm_eps",
    scaled_embeddings: false,
    multipliers: false,
    pairing: Pairing::Halves,
    fused_qkv: false,
    fused_gate_up: false,
    mlp: Mlp::Usual,
    qkv_bias: false,
    attention_bias_key: Some("attention_bias"),
    output_bias: true,
    mlp_bias_key: Some("mlp_bias"),
    tie_key: None,
    convolutions: false,
    activation: MlpVariant::Swiglu,
    activation_key: "hidden_act",
    gelu_is_approximate: false,
    attention_cap: SoftCap::Never,
    logit_cap: SoftCap::Never,
    query_pre_attn_scalar: None,
    windows: Windows::None,
    windows_are_optional: false,
    no_rope_interval: None,
    full_layers_without_rope: false,
    rope_is_optional: false,
    temperature: Temperature::None,
    local_rope_theta: None,
    partial_rotary: false,
    yarn_is_longrope: false,
    dynamic: DynamicRope::ByLength,
    absent: Absent {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        rope_theta: 1e4,
        sliding_window: Some(4096),
    },
};

/// GGUF files of a name that keep the channels of a head as Hugging Face does.
const fn gguf(architecture: &'static str) -> Gguf {
    Gguf {
        architecture,
        pairing: Pairing::Halves,
        window_for_all: false,
        window: None,
        wide_query_layers: None,
        rope_switch: false,
        full_attention: false,
        temperature: false,
    }
}

/// The base of the three Gemmas.
const GEMMA: Family = Family {
    model_type: "gemma",
    gguf: Some(gguf("gemma")),
    one_plus_norms: true,
    scaled_embeddings: true,
    mlp_bias_key: None,
    activation: MlpVariant::GegluApprox,
    gelu_is_approximate: true,
    absent: Absent {
        vocab_size: 256_000,
        hidden_size: 3072,
        intermediate_size: 24_576,
        num_hidden_layers: 28,
        num_attention_heads: 16,
        num_key_value_heads: Some(16),
        head_dim: Some(256),
        max_position_embeddings: 8192,
        tie_word_embeddings: true,
        ..LLAMA.absent
    },
    ..LLAMA
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    gguf: Some(Gguf {
        window: Some(4096),
        wide_query_layers: Some(46), // the 27B
        ..gguf("gemma2")
    }),
    post_norms: true,
    pre_feedforward_layernorm: true,
    activation_key: "hidden_activation",
    gelu_is_approximate: false,
    attention_cap: SoftCap::Default(50.0),
    logit_cap: SoftCap::Default(30.0),
    query_pre_attn_scalar: Some(256.0),
    windows: Windows::Pattern {
        period: 2,
        has_key: false,
    },
    absent: Absent {
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        num_attention_heads: 8,
        num_key_value_heads: Some(4),
        ..GEMMA.absent
    },
    ..GEMMA
};

const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    multimodal: Some("gemma3"),
    gguf: Some(Gguf {
        wide_query_layers: Some(62), // the 27B
        ..gguf("gemma3")
    }),
    qk_norm: QkNorm::Weights,
    // transformers reads a cap on attention as well, but never applies it.
    attention_cap: SoftCap::Never,
    logit_cap: SoftCap::IfGiven,
    windows: Windows::Pattern {
        period: 6,
        has_key: true,
    },
    local_rope_theta: Some(1e4),
    absent: Absent {
        vocab_size: 262_208,
        max_position_embeddings: 131_072,
        rope_theta: 1e6,
        ..GEMMA2.absent
    },
    ..GEMMA2
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    gguf: Some(gguf("qwen2")),
    qkv_bias: true,
    attention_bias_key: None,
    mlp_bias_key: None,
    windows: Windows::From(28),
    windows_are_optional: true,
    absent: Absent {
        vocab_size: 151_936,
        intermediate_size: 22_016,
        num_key_value_heads: Some(32),
        max_position_embeddings: 32_768,
        ..LLAMA.absent
    },
    ..LLAMA
};

const MISTRAL: Family = Family {
    model_type: "mistral",
    gguf: None, // its files say "llama"
    attention_bias_key: None,
    mlp_bias_key: None,
    windows: Windows::All,
    absent: Absent {
        intermediate_size: 14_336,
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        ..LLAMA.absent
    },
    ..LLAMA
};

const GRANITE: Family = Family {
    model_type: "granite",
    gguf: Some(Gguf {
        pairing: Pairing::Adjacent,
        rope_switch: true,
        ..gguf("granite")
    }),
    multipliers: true,
    ..LLAMA
};

/// Every family, in the order in which messages list them.
static FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        multimodal: Some("mistral3"),
        ..MISTRAL
    },
    Family {
        model_type: "ministral",
        windows: Windows::AllUnlessListed,
        ..MISTRAL
    },
    Family {
        model_type: "ministral3",
        multimodal: Some("mistral3"),
        gguf: Some(Gguf {
            pairing: Pairing::Adjacent,
            temperature: true,
            ..gguf("mistral3")
        }),
        windows: Windows::AllUnlessListed,
        temperature: Temperature::InRopeParameters,
        absent: Absent {
            vocab_size: 131_072,
            num_hidden_layers: 34,
            head_dim: Some(128),
            max_position_embeddings: 262_144,
            rms_norm_eps: 1e-5,
            sliding_window: None,
            rope_theta: 1e6,
            ..MISTRAL.absent
        },
        ..MISTRAL
    },
    GEMMA,
    GEMMA2,
    GEMMA3,
    Family {
        model_type: "vaultgemma",
        gguf: None,
        post_norms: false,
        ..GEMMA2
    },
    QWEN2,
    Family {
        model_type: "qwen3",
        gguf: Some(gguf("qwen3")),
        qk_norm: QkNorm::Weights,
        qkv_bias: false,
        attention_bias_key: Some("attention_bias"),
        absent: Absent {
            head_dim: Some(128),
            ..QWEN2.absent
        },
        ..QWEN2
    },
    Family {
        model_type: "smollm3",
        gguf: Some(Gguf {
            pairing: Pairing::Adjacent,
            ..gguf("smollm3")
        }),
        windows: Windows::WithoutRope,
        windows_are_optional: true,
        no_rope_interval: Some(4),
        absent: Absent {
            vocab_size: 128_256,
            hidden_size: 2048,
            num_hidden_layers: 36,
            num_attention_heads: 16,
            num_key_value_heads: Some(4),
            max_position_embeddings: 32_768,
            tie_word_embeddings: true,
            rope_theta: 2e6,
            sliding_window: None,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    Family {
        model_type: "phi3",
        gguf: Some(Gguf {
            // llama.cpp ignores the window, but the model was trained with it.
            window_for_all: true,
            ..gguf("phi3")
        }),
        fused_qkv: true,
        fused_gate_up: true,
        attention_bias_key: None,
        mlp_bias_key: None,
        windows: Windows::All,
        partial_rotary: true,
        yarn_is_longrope: true,
        absent: Absent {
            vocab_size: 32_064,
            hidden_size: 3072,
            intermediate_size: 8192,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            sliding_window: None,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    GRANITE,
    // Granite 4 without recurrent layers and without experts.
    Family {
        model_type: "granitemoehybrid",
        gguf: None, // its files say "granite"
        fused_gate_up: true,
        mlp: Mlp::Shared,
        mlp_bias_key: None,
        rope_is_optional: true,
        ..GRANITE
    },
    Family {
        model_type: "olmo2",
        gguf: Some(gguf("olmo2")),
        pre_norms: false,
        post_norms: true,
        pre_feedforward_layernorm: true,
        qk_norm: QkNorm::AcrossHeads,
        mlp_bias_key: None,
        absent: Absent {
            vocab_size: 50_304,
            rms_norm_eps: 1e-5,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    Family {
        model_type: "exaone4",
        gguf: Some(gguf("exaone4")),
        pre_norms: false,
        post_norms: true,
        pre_feedforward_layernorm: true,
        qk_norm: QkNorm::Weights,
        attention_bias_key: None,
        mlp_bias_key: None,
        windows: Windows::Pattern {
            period: 4,
            has_key: false,
        },
        full_layers_without_rope: true,
        absent: Absent {
            vocab_size: 102_400,
            hidden_size: 4096,
            intermediate_size: 16_384,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-5,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    Family {
        model_type: "hunyuan_v1_dense",
        gguf: Some(gguf("hunyuan-dense")),
        qk_norm: QkNorm::WeightsAfterRope,
        qk_norm_names: QkNormNames::Layernorm,
        mlp_bias_key: None,
        dynamic: DynamicRope::Alpha,
        absent: Absent {
            vocab_size: 290_943,
            rms_norm_eps: 1e-5,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    Family {
        model_type: "internlm3",
        gguf: None, // its files say "llama"
        attention_bias_key: Some("qkv_bias"),
        output_bias: false,
        mlp_bias_key: Some("bias"),
        dynamic: DynamicRope::BeyondContext,
        absent: Absent {
            vocab_size: 128_512,
            num_key_value_heads: Some(2),
            head_dim: Some(128),
            max_position_embeddings: 32_768,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    // MobileLLM-R1: Llama 4 without experts.
    Family {
        model_type: "llama4_text",
        gguf: Some(Gguf {
            pairing: Pairing::Adjacent,
            full_attention: true,
            ..gguf("llama4")
        }),
        pairing: Pairing::Adjacent,
        mlp: Mlp::FeedForward,
        qk_norm: QkNorm::NoWeights,
        mlp_bias_key: None,
        no_rope_interval: Some(4),
        temperature: Temperature::WithoutRope,
        absent: Absent {
            vocab_size: 202_048,
            hidden_size: 5120,
            intermediate_size: 16_384,
            num_hidden_layers: 48,
            num_attention_heads: 40,
            num_key_value_heads: Some(8),
            head_dim: Some(128),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            rope_theta: 5e5,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    Family {
        model_type: "ernie4_5",
        gguf: Some(Gguf {
            pairing: Pairing::Adjacent,
            ..gguf("ernie4_5")
        }),
        pairing: Pairing::Adjacent,
        attention_bias_key: Some("use_bias"),
        mlp_bias_key: Some("use_bias"),
        absent: Absent {
            vocab_size: 103_424,
            hidden_size: 1024,
            intermediate_size: 3072,
            num_hidden_layers: 18,
            num_attention_heads: 16,
            num_key_value_heads: Some(2),
            head_dim: Some(128),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            rope_theta: 5e5,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    Family {
        model_type: "helium",
        gguf: None,
        pairing: Pairing::Adjacent,
        output_bias: false,
        absent: Absent {
            vocab_size: 48_000,
            hidden_size: 2560,
            intermediate_size: 7040,
            num_hidden_layers: 24,
            num_attention_heads: 20,
            num_key_value_heads: Some(20),
            head_dim: Some(128),
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-8,
            rope_theta: 1e5,
            ..LLAMA.absent
        },
        ..LLAMA
    },
    Family {
        model_type: "lfm2",
        gguf: Some(gguf("lfm2")),
        qk_norm: QkNorm::Weights,
        qk_norm_names: QkNormNames::ShortLayernorm,
        operator_names: true,
        eps_key: "norm_eps",
        mlp: Mlp::Adjusted,
        attention_bias_key: None,
        mlp_bias_key: None,
        tie_key: Some("tie_embedding"),
        convolutions: true,
        absent: Absent {
            vocab_size: 65_536,
            hidden_size: 2560,
            intermediate_size: 12_288,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(8),
            max_position_embeddings: 128_000,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            rope_theta: 1e6,
            ..LLAMA.absent
        },
        ..LLAMA
    },
];

impl Family {
    /// Its name in messages.
    pub(super) fn name(&self) -> &'static str {
        self.multimodal.unwrap_or(self.model_type)
    }

    /// A config with the norms and the activation of the family. The rest is as in
    /// [`Config::PLAIN`].
    pub(super) fn plain_config(&self) -> Config {
        Config {
            mlp_variant: self.activation,
            use_pre_attn_norm: self.pre_norms,
            use_pre_ffw_norm: self.pre_norms,
            use_post_attn_norm: self.post_norms,
            use_post_ffw_norm: self.post_norms,
            use_qk_norm: self.qk_norm != QkNorm::None,
            qk_norm_after_rope: self.qk_norm == QkNorm::WeightsAfterRope,
            qk_norm_across_heads: self.qk_norm == QkNorm::AcrossHeads,
            qk_norm_only_with_rope: self.qk_norm == QkNorm::NoWeights,
            ..Config::PLAIN
        }
    }

    /// The family of a `model_type`.
    ///
    /// # Errors
    /// It is not supported. The error says why if the reason is known.
    pub(super) fn of_model_type(model_type: &str) -> Result<&'static Self, ImportError> {
        FAMILIES
            .iter()
            .find(|family| family.model_type == model_type)
            .ok_or_else(|| unsupported(model_type))
    }

    /// Whether `model_type` is that of multimodal models whose text half we know.
    pub(super) fn is_multimodal(model_type: &str) -> bool {
        Self::of_multimodal(model_type, None).is_some()
    }

    /// The family of the text half of a multimodal model: the one whose `model_type` is `text`, or
    /// the first that such models can have.
    pub(super) fn of_multimodal(model_type: &str, text: Option<&str>) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| {
            family.multimodal == Some(model_type)
                && text.is_none_or(|text| family.model_type == text)
        })
    }

    /// The `model_type`s of the text halves of a multimodal model, in quotes, for messages.
    pub(super) fn text_halves(model_type: &str) -> String {
        let families = FAMILIES.iter();
        let families = families.filter(|family| family.multimodal == Some(model_type));
        let names: Vec<_> = families
            .map(|family| format!("{:?}", family.model_type))
            .collect();
        names.join(" or ")
    }

    /// The family of a `general.architecture`, and what its GGUF files are like.
    ///
    /// # Errors
    /// It is not supported.
    pub(super) fn of_architecture(name: &str) -> Result<(&'static Self, Gguf), ImportError> {
        let known = || {
            FAMILIES
                .iter()
                .filter_map(|family| Some((family, family.gguf?)))
        };
        known()
            .find(|(_, gguf)| gguf.architecture == name)
            .ok_or_else(|| {
                let names = list(known().map(|(_, gguf)| gguf.architecture));
                let why = refused::why(name).unwrap_or("it is not one of the supported families");
                ImportError::new(format!("architecture {name:?}: {why}"))
                    .help(format!("supported are {names}"))
            })
    }
}

/// The `model_type`s of families that fit, as a list in words.
pub(super) fn model_types(fits: impl Fn(&Family) -> bool) -> String {
    let families = FAMILIES.iter().filter(|family| fits(family));
    let names =
        families.flat_map(|family| family.multimodal.into_iter().chain([family.model_type]));
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    list(seen.into_iter())
}

/// "a, b and c".
fn list(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<_> = names.collect();
    match names.split_last() {
        Some((last, [])) => (*last).into(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

fn unsupported(model_type: &str) -> ImportError {
    let short: String = model_type.chars().take(60).collect();
    let why = refused::why(model_type).unwrap_or("it is not one of the supported families");
    ImportError::new(format!("`model_type` is {short:?}: {why}"))
        .help(format!("supported are {}", model_types(|_| true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of two rows with one name would hide the other: a row must not inherit names.
    #[test]
    fn no_two_families_share_a_name() {
        let types = FAMILIES.iter().map(|family| Some(family.model_type));
        let architectures = FAMILIES
            .iter()
            .map(|family| family.gguf.map(|gguf| gguf.architecture));
        let names: [Vec<_>; 2] = [types.flatten().collect(), architectures.flatten().collect()];
        for names in names {
            for (i, name) in names.iter().enumerate() {
                assert!(!names[..i].contains(name), "{name}");
            }
        }
    }
}
