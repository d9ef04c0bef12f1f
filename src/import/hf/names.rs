//! Where the tensors of the model are among those of the file: names, fused matrices, permuted
//! rows.

use std::prelude::rust_2024::*;

use super::config::Described;
use crate::import::roles::Sizes;
use crate::model::{Role, TensorId};

/// What precedes `embed_tokens.weight`: usual files, multimodal files of two eras, files of a model
/// without its head.
const PREFIXES: [&str; 4] = [
    "model.",
    "language_model.model.",
    "model.language_model.",
    "",
];
const HEADS: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];

/// Names the tensors of one checkpoint.
pub(super) struct Names {
    prefix: &'static str,
    head: &'static str,
    post_norms: bool,
    fused: bool,
}

/// A tensor, or a part of one, in the file.
pub(super) struct Place {
    pub(super) name: String,
    /// As stored: `[rows, columns]`, or `[elements]`.
    pub(super) shape: Vec<usize>,
    /// The part that is meant: this many rows (of a vector: elements) from the first one on.
    pub(super) first: usize,
    pub(super) count: usize,
}

impl Names {
    /// Finds out how this checkpoint names its tensors; `None` if it has no embeddings.
    pub(super) fn detect(described: &Described, has: impl Fn(&str) -> bool) -> Option<Self> {
        let prefix = PREFIXES
            .into_iter()
            .find(|prefix| has(&format!("{prefix}embed_tokens.weight")))?;
        let head = HEADS.into_iter().find(|head| has(head)).unwrap_or(HEADS[0]);
        let family = described.family;
        Some(Names {
            prefix,
            head,
            post_norms: family.has_post_norms(),
            fused: family.is_fused(),
        })
    }

    /// Where a tensor is.
    pub(super) fn place(&self, id: TensorId, sizes: &Sizes) -> Place {
        let (rows, columns) = sizes.of(id.role);
        let name = self.name(id);
        let is_vector =
            !name.ends_with("_proj.weight") && !matches!(id.role, Role::Embedder | Role::LmHead);
        let length = if is_vector { columns } else { rows };
        let (query, key) = (sizes.query(), sizes.key());
        // Fused rows (and biases) are query, key, value; and gate, up.
        let qkv = query.saturating_add(key).saturating_add(key);
        let (first, stored) = match id.role {
            Role::Query | Role::QueryBias if self.fused => (0, qkv),
            Role::Key | Role::KeyBias if self.fused => (query, qkv),
            Role::Value | Role::ValueBias if self.fused => (query.saturating_add(key), qkv),
            Role::GatingLinear | Role::GatingLinearBias if self.fused => {
                (0, sizes.hidden.saturating_mul(2))
            }
            Role::ValueLinear | Role::ValueLinearBias if self.fused => {
                (sizes.hidden, sizes.hidden.saturating_mul(2))
            }
            _ => (0, length),
        };
        let shape = if is_vector {
            vec![stored]
        } else {
            vec![stored, columns]
        };
        Place {
            name,
            shape,
            first,
            count: length,
        }
    }

    fn name(&self, id: TensorId) -> String {
        use Role::*;
        let rest = match id.role {
            Embedder => return self.embeddings(),
            LmHead => return self.head.into(),
            FinalNorm => return format!("{}norm.weight", self.prefix),
            PreAttentionNorm => "input_layernorm.weight",
            Query | Key | Value if self.fused => "self_attn.qkv_proj.weight",
            QueryBias | KeyBias | ValueBias if self.fused => "self_attn.qkv_proj.bias",
            Query => "self_attn.q_proj.weight",
            QueryBias => "self_attn.q_proj.bias",
            QueryNorm => "self_attn.q_norm.weight",
            Key => "self_attn.k_proj.weight",
            KeyBias => "self_attn.k_proj.bias",
            KeyNorm => "self_attn.k_norm.weight",
            Value => "self_attn.v_proj.weight",
            ValueBias => "self_attn.v_proj.bias",
            Output => "self_attn.o_proj.weight",
            OutputBias => "self_attn.o_proj.bias",
            // One name, two roles: Gemma 2 and 3 norm what attention gives, the others what the
            // feed-forward takes.
            PostAttentionNorm => "post_attention_layernorm.weight",
            PreFfwNorm if self.post_norms => "pre_feedforward_layernorm.weight",
            PreFfwNorm => "post_attention_layernorm.weight",
            GatingLinear | ValueLinear if self.fused => "mlp.gate_up_proj.weight",
            GatingLinearBias | ValueLinearBias if self.fused => "mlp.gate_up_proj.bias",
            GatingLinear => "mlp.gate_proj.weight",
            GatingLinearBias => "mlp.gate_proj.bias",
            ValueLinear => "mlp.up_proj.weight",
            ValueLinearBias => "mlp.up_proj.bias",
            OutLinear => "mlp.down_proj.weight",
            OutLinearBias => "mlp.down_proj.bias",
            PostFfwNorm => "post_feedforward_layernorm.weight",
        };
        format!("{}layers.{}.{rest}", self.prefix, id.layer)
    }

    /// What a tensor is called within its layer, if it is in one.
    pub(super) fn within_layer<'n>(&self, name: &'n str) -> Option<&'n str> {
        let (layer, rest) = name
            .strip_prefix(self.prefix)?
            .strip_prefix("layers.")?
            .split_once('.')?;
        layer.parse::<u32>().is_ok().then_some(rest)
    }

    /// What the embedding table is called.
    pub(super) fn embeddings(&self) -> String {
        format!("{}embed_tokens.weight", self.prefix)
    }

    /// What the output matrix is called where it is not tied.
    pub(super) fn head(&self) -> &'static str {
        self.head
    }

    /// Whether a tensor that the model does not use may be there all the same, because it cannot
    /// change what the model computes.
    pub(super) fn ignores(&self, name: &str) -> bool {
        // Old versions of transformers saved buffers: rotary frequencies, which follow from the
        // config, and causal masks, which are the same in all models. transformers itself does not
        // read them any more.
        const BUFFERS: [&str; 7] = [
            "rotary_emb.inv_freq",
            "rotary_emb_local.inv_freq",
            "self_attn.rotary_emb.inv_freq",
            "self_attn.rotary_emb.cos_cached",
            "self_attn.rotary_emb.sin_cached",
            "self_attn.bias",
            "self_attn.masked_bias",
        ];
        // The image half of a multimodal model: text alone never passes through it.
        const OTHER_HALVES: [&str; 4] = [
            "vision_tower.",
            "model.vision_tower.",
            "multi_modal_projector.",
            "model.multi_modal_projector.",
        ];
        let multimodal = matches!(
            self.prefix,
            "language_model.model." | "model.language_model."
        );
        let rest = self.within_layer(name).or(name.strip_prefix(self.prefix));
        rest.is_some_and(|rest| BUFFERS.contains(&rest))
            || multimodal && OTHER_HALVES.iter().any(|half| name.starts_with(half))
    }
}
