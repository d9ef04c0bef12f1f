//! Where a GGUF file keeps each tensor: llama.cpp's names, fused or apart.

use std::collections::{BTreeMap, BTreeSet};
use std::prelude::rust_2024::*;

use super::reader::Stored;
use crate::import::ImportError;
use crate::import::roles::Sizes;
use crate::model::{Role, TensorId};

/// Which of the possible layouts a file has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// Query, key and value are one matrix, in this order: Phi-3, and newer conversions of others.
    pub(super) fused_qkv: bool,
    /// `ffn_up` holds the gating rows, then the value rows (Phi-3).
    pub(super) fused_ffn: bool,
}

/// Rows of a stored tensor.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    /// The shape the stored tensor must have.
    pub(super) shape: Vec<usize>,
    /// The first row that counts (of a vector: the first element).
    pub(super) first: usize,
    /// How many.
    pub(super) count: usize,
}

impl Names {
    /// `may_fuse_ffn`: the architecture stores both halves of the feed-forward as one, if there is
    /// no gate.
    pub(super) fn of(tensors: &BTreeMap<String, Stored>, may_fuse_ffn: bool) -> Self {
        let fused_qkv = tensors.contains_key("blk.0.attn_qkv.weight");
        Names {
            fused_qkv,
            fused_ffn: may_fuse_ffn && !tensors.contains_key("blk.0.ffn_gate.weight"),
        }
    }

    pub(super) fn place(&self, id: TensorId, sizes: &Sizes) -> Place {
        use Role::*;
        let (rows, columns) = sizes.of(id.role);
        let is_matrix = matches!(
            id.role,
            Embedder
                | LmHead
                | Query
                | Key
                | Value
                | Output
                | GatingLinear
                | ValueLinear
                | OutLinear
        );
        let count = if is_matrix { rows } else { columns };
        let (query, key) = (sizes.query(), sizes.key());
        let (first, stored) = match id.role {
            Query | QueryBias if self.fused_qkv => (0, query + 2 * key),
            Key | KeyBias if self.fused_qkv => (query, query + 2 * key),
            Value | ValueBias if self.fused_qkv => (query + key, query + 2 * key),
            GatingLinear | GatingLinearBias if self.fused_ffn => (0, 2 * count),
            ValueLinear | ValueLinearBias if self.fused_ffn => (count, 2 * count),
            _ => (0, count),
        };
        let shape = if is_matrix {
            vec![stored, columns]
        } else {
            vec![stored]
        };
        Place {
            name: self.name(id),
            shape,
            first,
            count,
        }
    }

    fn name(&self, id: TensorId) -> String {
        use Role::*;
        let (query, key, value) = match self.fused_qkv {
            true => ("attn_qkv", "attn_qkv", "attn_qkv"),
            false => ("attn_q", "attn_k", "attn_v"),
        };
        let gate = if self.fused_ffn { "ffn_up" } else { "ffn_gate" };
        let (stem, suffix) = match id.role {
            Embedder => return "token_embd.weight".into(),
            LmHead => return "output.weight".into(),
            FinalNorm => return "output_norm.weight".into(),
            PreAttentionNorm => ("attn_norm", "weight"),
            Query => (query, "weight"),
            QueryBias => (query, "bias"),
            QueryNorm => ("attn_q_norm", "weight"),
            Key => (key, "weight"),
            KeyBias => (key, "bias"),
            KeyNorm => ("attn_k_norm", "weight"),
            Value => (value, "weight"),
            ValueBias => (value, "bias"),
            Output => ("attn_output", "weight"),
            OutputBias => ("attn_output", "bias"),
            PostAttentionNorm => ("post_attention_norm", "weight"),
            PreFfwNorm => ("ffn_norm", "weight"),
            GatingLinear => (gate, "weight"),
            GatingLinearBias => (gate, "bias"),
            ValueLinear => ("ffn_up", "weight"),
            ValueLinearBias => ("ffn_up", "bias"),
            OutLinear => ("ffn_down", "weight"),
            OutLinearBias => ("ffn_down", "bias"),
            PostFfwNorm => ("post_ffw_norm", "weight"),
        };
        format!("blk.{}.{stem}.{suffix}", id.layer)
    }
}

/// Refuses a file that lacks a tensor, has one of another shape, or has one that is not called for:
/// what is not understood would silently be left out of the computation.
pub(super) fn check(
    tensors: &BTreeMap<String, Stored>,
    ids: impl Iterator<Item = TensorId>,
    names: &Names,
    sizes: &Sizes,
) -> Result<(), ImportError> {
    let mut used = BTreeSet::new();
    for id in ids {
        let Place { name, shape, .. } = names.place(id, sizes);
        let Some(stored) = tensors.get(&name) else {
            return Err(ImportError::new(format!("tensor `{name}` is missing")));
        };
        if stored.shape != shape {
            let reason = format!(
                "tensor `{name}`: shape {:?}, expected {shape:?}",
                stored.shape
            );
            return Err(ImportError::new(reason));
        }
        if shape.len() == 1 && !stored.element.is_plain() {
            let reason = format!(
                "tensor `{name}`: a vector stored as {}, expected plain numbers",
                stored.element
            );
            return Err(ImportError::new(reason));
        }
        used.insert(name);
    }
    let is_known = |name: &str| {
        // The rotary tables are read from these, or the file is refused.
        let is_rotary = matches!(
            name,
            "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight"
        );
        // The buffer of frequencies of old versions of transformers, which follow from the metadata;
        // llama.cpp does not read it either.
        let is_buffer = name.starts_with("blk.") && name.ends_with(".attn_rot_embd.weight");
        // It is called for unless it is the same as the embeddings.
        used.contains(name) || is_rotary || is_buffer || name == "output.weight"
    };
    match tensors.keys().find(|name| !is_known(name)) {
        Some(name) => Err(ImportError::new(format!(
            "tensor `{name}` has no place in this architecture"
        ))),
        None => Ok(()),
    }
}
