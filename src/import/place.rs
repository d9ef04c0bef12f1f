//! Where a checkpoint stores each tensor: its name in GGUF files and in Hugging Face folders, and
//! its rows if several matrices are stored as one tensor.

use std::ops::Range;
use std::prelude::rust_2024::*;
use std::slice;

use super::family::{Mlp, QkNormNames};
use super::rope::Pairing;
use super::{Columns, Element, ImportError, Tensor};
use crate::model::{Config, TensorKind};

/// What differs between checkpoints in how they store a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Query, key and value are one tensor, in this order.
    pub(super) fused_qkv: bool,
    /// The two matrices that read the feed-forward's input are one tensor, the gating one first.
    pub(super) fused_gate_up: bool,
    /// Hugging Face's names for the feed-forward.
    pub(super) mlp: Mlp,
    /// Hugging Face's names for the norms of queries and keys.
    pub(super) qk_norm_names: QkNormNames,
    /// The norms of queries and keys have no weights.
    pub(super) unit_qk_norms: bool,
    /// See [`Family::operator_names`](super::family::Family::operator_names).
    pub(super) operator_names: bool,
    /// Hugging Face's name for the norm before the feed-forward is `pre_feedforward_layernorm`. In
    /// most families it is `post_attention_layernorm`, which here is a norm on attention's output.
    pub(super) pre_feedforward_layernorm: bool,
}

/// What a tensor is called, without its layer.
pub(super) struct Names {
    pub(super) gguf: &'static str,
    pub(super) hf: &'static str,
}

/// Where a tensor is stored.
#[derive(Debug)]
pub(super) struct TensorPlace {
    kind: TensorKind,
    /// The name of the stored tensor.
    pub(super) name: String,
    /// The shape it must have: `[rows, columns]`, or `[elements]` of a vector.
    pub(super) shape: Vec<usize>,
    /// The rows of the stored tensor that belong to this one; elements if it is a vector.
    rows: Range<usize>,
}

impl Layout {
    /// The names of a tensor.
    pub(super) fn names(self, kind: TensorKind) -> Names {
        use TensorKind::*;
        let (gguf, hf) = match kind {
            Embedder => ("token_embd.weight", "embed_tokens.weight"),
            LmHead => ("output.weight", "lm_head.weight"),
            FinalNorm if self.operator_names => ("token_embd_norm.weight", "embedding_norm.weight"),
            FinalNorm => ("output_norm.weight", "norm.weight"),
            PreAttentionNorm if self.operator_names => ("attn_norm.weight", "operator_norm.weight"),
            PreAttentionNorm => ("attn_norm.weight", "input_layernorm.weight"),
            Query | Key | Value if self.fused_qkv => {
                ("attn_qkv.weight", "self_attn.qkv_proj.weight")
            }
            QueryBias | KeyBias | ValueBias if self.fused_qkv => {
                ("attn_qkv.bias", "self_attn.qkv_proj.bias")
            }
            Query => ("attn_q.weight", "self_attn.q_proj.weight"),
            QueryBias => ("attn_q.bias", "self_attn.q_proj.bias"),
            QueryNorm if self.qk_norm_names == QkNormNames::Layernorm => {
                ("attn_q_norm.weight", "self_attn.query_layernorm.weight")
            }
            KeyNorm if self.qk_norm_names == QkNormNames::Layernorm => {
                ("attn_k_norm.weight", "self_attn.key_layernorm.weight")
            }
            QueryNorm if self.qk_norm_names == QkNormNames::ShortLayernorm => {
                ("attn_q_norm.weight", "self_attn.q_layernorm.weight")
            }
            KeyNorm if self.qk_norm_names == QkNormNames::ShortLayernorm => {
                ("attn_k_norm.weight", "self_attn.k_layernorm.weight")
            }
            QueryNorm => ("attn_q_norm.weight", "self_attn.q_norm.weight"),
            Key => ("attn_k.weight", "self_attn.k_proj.weight"),
            KeyBias => ("attn_k.bias", "self_attn.k_proj.bias"),
            KeyNorm => ("attn_k_norm.weight", "self_attn.k_norm.weight"),
            Value => ("attn_v.weight", "self_attn.v_proj.weight"),
            ValueBias => ("attn_v.bias", "self_attn.v_proj.bias"),
            Output if self.operator_names => ("attn_output.weight", "self_attn.out_proj.weight"),
            Output => ("attn_output.weight", "self_attn.o_proj.weight"),
            OutputBias => ("attn_output.bias", "self_attn.o_proj.bias"),
            PostAttentionNorm => (
                "post_attention_norm.weight",
                "post_attention_layernorm.weight",
            ),
            PreFfwNorm if self.pre_feedforward_layernorm => {
                ("ffn_norm.weight", "pre_feedforward_layernorm.weight")
            }
            PreFfwNorm if self.operator_names => ("ffn_norm.weight", "ffn_norm.weight"),
            PreFfwNorm => ("ffn_norm.weight", "post_attention_layernorm.weight"),
            GatingLinear | ValueLinear if self.mlp == Mlp::Shared => {
                ("ffn_up.weight", "shared_mlp.input_linear.weight")
            }
            OutLinear if self.mlp == Mlp::Shared => {
                ("ffn_down.weight", "shared_mlp.output_linear.weight")
            }
            GatingLinear if self.mlp == Mlp::FeedForward => {
                ("ffn_gate.weight", "feed_forward.gate_proj.weight")
            }
            ValueLinear if self.mlp == Mlp::FeedForward => {
                ("ffn_up.weight", "feed_forward.up_proj.weight")
            }
            OutLinear if self.mlp == Mlp::FeedForward => {
                ("ffn_down.weight", "feed_forward.down_proj.weight")
            }
            GatingLinear if self.mlp == Mlp::Adjusted => {
                ("ffn_gate.weight", "feed_forward.w1.weight")
            }
            ValueLinear if self.mlp == Mlp::Adjusted => ("ffn_up.weight", "feed_forward.w3.weight"),
            OutLinear if self.mlp == Mlp::Adjusted => ("ffn_down.weight", "feed_forward.w2.weight"),
            GatingLinear | ValueLinear if self.fused_gate_up => {
                ("ffn_up.weight", "mlp.gate_up_proj.weight")
            }
            GatingLinearBias | ValueLinearBias if self.fused_gate_up => {
                ("ffn_up.bias", "mlp.gate_up_proj.bias")
            }
            GatingLinear => ("ffn_gate.weight", "mlp.gate_proj.weight"),
            GatingLinearBias => ("ffn_gate.bias", "mlp.gate_proj.bias"),
            ValueLinear => ("ffn_up.weight", "mlp.up_proj.weight"),
            ValueLinearBias => ("ffn_up.bias", "mlp.up_proj.bias"),
            OutLinear => ("ffn_down.weight", "mlp.down_proj.weight"),
            OutLinearBias => ("ffn_down.bias", "mlp.down_proj.bias"),
            PostFfwNorm => ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
            ConvIn => ("shortconv.in_proj.weight", "conv.in_proj.weight"),
            ConvInBias => ("shortconv.in_proj.bias", "conv.in_proj.bias"),
            ConvTaps => ("shortconv.conv.weight", "conv.conv.weight"),
            ConvTapsBias => ("shortconv.conv.bias", "conv.conv.bias"),
            ConvOut => ("shortconv.out_proj.weight", "conv.out_proj.weight"),
            ConvOutBias => ("shortconv.out_proj.bias", "conv.out_proj.bias"),
        };
        Names { gguf, hf }
    }

    /// Whether a tensor is stored. The weights of a norm that has none are not.
    pub(super) fn stores(self, kind: TensorKind) -> bool {
        let is_qk_norm = matches!(kind, TensorKind::QueryNorm | TensorKind::KeyNorm);
        !(self.unit_qk_norms && is_qk_norm)
    }

    /// Where a tensor is stored, in a checkpoint that calls it `name`.
    pub(super) fn place(self, kind: TensorKind, name: String, config: &Config) -> TensorPlace {
        use TensorKind::*;
        let together = match kind {
            Query | Key | Value if self.fused_qkv => &[Query, Key, Value][..],
            QueryBias | KeyBias | ValueBias if self.fused_qkv => &[QueryBias, KeyBias, ValueBias],
            GatingLinear | ValueLinear if self.fused_gate_up => &[GatingLinear, ValueLinear],
            GatingLinearBias | ValueLinearBias if self.fused_gate_up => {
                &[GatingLinearBias, ValueLinearBias]
            }
            _ => slice::from_ref(&kind),
        };
        let shape = |kind: TensorKind| kind.shape(config).unwrap_or_default();
        let rows = |kind: TensorKind| {
            let (rows, columns) = shape(kind);
            if kind.is_matrix() { rows } else { columns }
        };
        let before = together.iter().take_while(|&&other| other != kind);
        let sum = |sum: usize, other: &TensorKind| sum.saturating_add(rows(*other));
        let first = before.fold(0, sum);
        let stored = together.iter().fold(0, sum);
        TensorPlace {
            kind,
            name,
            shape: if kind == ConvTaps {
                let channels = config.embedding_dim as usize;
                vec![channels, stored.checked_div(channels).unwrap_or(0)]
            } else if kind.is_matrix() {
                vec![stored, shape(kind).1]
            } else {
                vec![stored]
            },
            rows: first..first.saturating_add(rows(kind)),
        }
    }
}

/// The weights of a norm of queries or keys that has none: 1, which changes nothing.
pub(super) fn unit_norm(config: &Config) -> Result<Tensor<'static>, ImportError> {
    let width = config.projection_dim as usize;
    Tensor::dense(Element::F32, 1f32.to_le_bytes().repeat(width), 1, width)
}

impl TensorPlace {
    /// The rows in the order of an image. In each head of queries and keys, the first `pairs`
    /// channel pairs have a rotary embedding, and `pairing` says how they are stored.
    pub(super) fn rows(&self, pairing: Pairing, head_dim: usize, pairs: usize) -> Vec<usize> {
        use TensorKind::*;
        match self.kind {
            Query | QueryBias | QueryNorm | Key | KeyBias | KeyNorm => {
                pairing.rows(self.rows.clone(), head_dim, pairs)
            }
            _ => self.rows.clone().collect(),
        }
    }

    /// The tensor, made of these [rows](TensorPlace::rows) of the stored one. `add` is added to
    /// each of its numbers.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub(super) fn tensor<'c>(
        &self,
        element: Element,
        data: &'c [u8],
        rows: Vec<usize>,
        add: f32,
    ) -> Result<Tensor<'c>, ImportError> {
        let (rows, columns) = match *self.shape {
            // Stored channel by channel; an image has them tap by tap.
            [channels, .., taps] if self.kind == TensorKind::ConvTaps => {
                let of_tap = |tap| (0..channels).map(move |channel| channel * taps + tap);
                (
                    vec![0],
                    Columns::Offsets((0..taps).flat_map(of_tap).collect()),
                )
            }
            [_, columns] => {
                let starts = rows.iter().map(|row| row * columns).collect();
                (starts, Columns::Contiguous(columns))
            }
            _ if rows.iter().copied().eq(0..rows.len()) => {
                (vec![0], Columns::Contiguous(rows.len()))
            }
            _ => (vec![0], Columns::Offsets(rows)),
        };
        Tensor::new(element, data, rows, columns, add)
    }
}
