//! The model families, and what their config classes assume of keys that a `config.json` leaves
//! out.
//!
//! Defaults are those of transformers 5; where older versions differ, the files they wrote name the
//! key.

use std::prelude::rust_2024::*;

use crate::import::ImportError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Gemma,
    Gemma2,
    Gemma3,
    Qwen2,
    Qwen3,
    SmolLm3,
    Phi3,
    Granite,
}

/// What holds when a key is absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
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
}

impl Family {
    /// The family of a `model_type`.
    ///
    /// # Errors
    /// It is not one of ours; says what is in the way, where we know.
    pub(super) fn named(model_type: &str) -> Result<Self, ImportError> {
        Ok(match model_type {
            "llama" => Family::Llama,
            "mistral" => Family::Mistral,
            "gemma" => Family::Gemma,
            "gemma2" => Family::Gemma2,
            "gemma3_text" => Family::Gemma3,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "smollm3" => Family::SmolLm3,
            "phi3" => Family::Phi3,
            "granite" => Family::Granite,
            other => return Err(unsupported(other)),
        })
    }

    /// Norm weights are stored as `w`, meant as `1 + w`.
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }

    /// Norms on the outputs of attention and feed-forward.
    pub(super) fn has_post_norms(self) -> bool {
        matches!(self, Family::Gemma2 | Family::Gemma3)
    }

    pub(super) fn has_qk_norm(self) -> bool {
        matches!(self, Family::Gemma3 | Family::Qwen3)
    }

    /// The config class knows `attention_bias`.
    pub(super) fn knows_attention_bias(self) -> bool {
        !matches!(self, Family::Mistral | Family::Qwen2 | Family::Phi3)
    }

    /// The config class knows `mlp_bias`.
    pub(super) fn knows_mlp_bias(self) -> bool {
        matches!(self, Family::Llama | Family::SmolLm3 | Family::Granite)
    }

    /// Query, key and value are one stored matrix, and gate and up another.
    pub(super) fn is_fused(self) -> bool {
        self == Family::Phi3
    }

    pub(super) fn rope_theta(self) -> f64 {
        match self {
            Family::Gemma3 => 1e6,
            Family::SmolLm3 => 2e6,
            _ => 1e4,
        }
    }

    #[rustfmt::skip] // one family a line
    pub(super) fn defaults(self) -> Defaults {
        let d = |vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, max_position_embeddings| Defaults {
            vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, max_position_embeddings,
            rms_norm_eps: if self == Family::Phi3 { 1e-5 } else { 1e-6 },
            tie_word_embeddings: self.is_gemma() || self == Family::SmolLm3,
        };
        match self {
            Family::Llama | Family::Granite => d(32_000, 4096, 11_008, 32, 32, None, None, 2048),
            Family::Mistral => d(32_000, 4096, 14_336, 32, 32, Some(8), None, 131_072),
            Family::Gemma => d(256_000, 3072, 24_576, 28, 16, Some(16), Some(256), 8192),
            Family::Gemma2 => d(256_000, 2304, 9216, 26, 8, Some(4), Some(256), 8192),
            Family::Gemma3 => d(262_208, 2304, 9216, 26, 8, Some(4), Some(256), 131_072),
            Family::Qwen2 => d(151_936, 4096, 22_016, 32, 32, Some(32), None, 32_768),
            Family::Qwen3 => d(151_936, 4096, 22_016, 32, 32, Some(32), Some(128), 32_768),
            Family::SmolLm3 => d(128_256, 2048, 11_008, 36, 16, Some(4), None, 32_768),
            Family::Phi3 => d(32_064, 3072, 8192, 32, 32, None, None, 4096),
        }
    }
}

fn unsupported(model_type: &str) -> ImportError {
    let short: String = model_type.chars().take(60).collect();
    let why = match model_type {
        "olmo" => "its norms have no weights",
        "olmo2" | "olmo3" => {
            "it norms only the outputs of its blocks, and queries and keys across all heads"
        }
        "cohere" | "cohere2" => {
            "its attention and feed-forward run side by side, behind a LayerNorm"
        }
        "gemma3n" | "gemma3n_text" => "its layers have per-layer inputs and alternating updates",
        "mixtral" | "dbrx" | "jamba" | "llama4" | "llama4_text" | "gpt_oss" | "deepseek_v2"
        | "deepseek_v3" => "it is a mixture of experts",
        other if other.contains("moe") => "it is a mixture of experts",
        _ => "it is not one of the supported families",
    };
    ImportError::new(format!("`model_type` is {short:?}: {why}")).help(
        "supported are llama, mistral, gemma, gemma2, gemma3, gemma3_text, qwen2, qwen3, smollm3, phi3 and granite",
    )
}
