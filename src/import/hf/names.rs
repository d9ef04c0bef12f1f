//! The names of a checkpoint's tensors, and which tensors it may have besides those of the model.

use std::prelude::rust_2024::*;

use crate::import::family::{Family, QkNorm};
use crate::import::place::{Layout, TensorPlace};
use crate::model::{Config, TensorId, TensorKind};

/// The possible prefixes of `embed_tokens.weight`: in usual files, in older and newer multimodal
/// files, and in files of a model without its output matrix.
const PREFIXES: [&str; 4] = [
    "model.",
    "language_model.model.",
    "model.language_model.",
    "",
];
const HEADS: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];

/// How one checkpoint names its tensors.
pub(super) struct Names {
    prefix: &'static str,
    head: &'static str,
    layout: Layout,
}

impl Names {
    /// Finds out how this checkpoint names its tensors; `None` if it has no embeddings.
    pub(super) fn detect(family: &Family, has: impl Fn(&str) -> bool) -> Option<Self> {
        let prefix = PREFIXES
            .into_iter()
            .find(|prefix| has(&format!("{prefix}embed_tokens.weight")))?;
        let head = HEADS.into_iter().find(|head| has(head)).unwrap_or(HEADS[0]);
        Some(Names {
            prefix,
            head,
            layout: Layout {
                fused_qkv: family.fused_qkv,
                fused_gate_up: family.fused_gate_up,
                mlp: family.mlp,
                qk_norm_names: family.qk_norm_names,
                unit_qk_norms: family.qk_norm == QkNorm::NoWeights,
                operator_names: family.operator_names,
                pre_feedforward_layernorm: family.pre_feedforward_layernorm,
            },
        })
    }

    /// Where a tensor is stored.
    pub(super) fn place(&self, id: TensorId, config: &Config) -> TensorPlace {
        let prefix = self.prefix;
        let layer = id.layer;
        let name = self.layout.names(id.kind).hf;
        let name = match id.kind {
            TensorKind::LmHead => self.head.into(),
            kind if kind.is_per_layer() => format!("{prefix}layers.{layer}.{name}"),
            _ => format!("{prefix}{name}"),
        };
        let mut place = self.layout.place(id.kind, name, config);
        if id.kind == TensorKind::ConvTaps {
            // PyTorch has an axis for groups of channels, of which each is one.
            place.shape.insert(1, 1);
        }
        place
    }

    /// Whether a tensor is stored: see [`Layout::stores`].
    pub(super) fn stores(&self, kind: TensorKind) -> bool {
        self.layout.stores(kind)
    }

    /// The name of a tensor within its layer, if it is in one.
    pub(super) fn within_layer<'n>(&self, name: &'n str) -> Option<&'n str> {
        let (layer, rest) = name
            .strip_prefix(self.prefix)?
            .strip_prefix("layers.")?
            .split_once('.')?;
        layer.parse::<u32>().is_ok().then_some(rest)
    }

    /// The name of the embedding table.
    pub(super) fn embeddings(&self) -> String {
        format!("{}embed_tokens.weight", self.prefix)
    }

    /// The name of the output matrix if it is not tied.
    pub(super) fn head(&self) -> &'static str {
        self.head
    }

    /// Whether a tensor that the model does not use may be there, because it cannot change what the
    /// model computes.
    pub(super) fn ignores(&self, name: &str) -> bool {
        // Old versions of transformers saved buffers: rotary frequencies, which follow from the
        // config, and causal masks, which are the same in all models. New versions do not read
        // them.
        const BUFFERS: [&str; 7] = [
            "rotary_emb.inv_freq",
            "rotary_emb_local.inv_freq",
            "self_attn.rotary_emb.inv_freq",
            "self_attn.rotary_emb.cos_cached",
            "self_attn.rotary_emb.sin_cached",
            "self_attn.bias",
            "self_attn.masked_bias",
        ];
        // The part of a multimodal model for images. Text does not use it.
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
