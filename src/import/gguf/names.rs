//! Where a GGUF file stores each tensor, and whether it has those that a config calls for.

use std::collections::{BTreeMap, BTreeSet};
use std::prelude::rust_2024::*;

use super::reader::Stored;
use crate::import::ImportError;
use crate::import::family::{Family, Mlp, QkNorm};
use crate::import::place::{Layout, TensorPlace};
use crate::model::{Config, TensorId};

/// How a file stores its layers. Query, key and value are one tensor in Phi-3 and in newer
/// conversions of others.
pub(super) fn layout(tensors: &BTreeMap<String, Stored>, family: &Family) -> Layout {
    Layout {
        fused_qkv: tensors.contains_key("blk.0.attn_qkv.weight"),
        fused_gate_up: family.fused_gate_up && !tensors.contains_key("blk.0.ffn_gate.weight"),
        mlp: Mlp::Usual,
        qk_norm_names: family.qk_norm_names,
        unit_qk_norms: family.qk_norm == QkNorm::NoWeights,
        operator_names: family.operator_names,
        pre_feedforward_layernorm: family.pre_feedforward_layernorm,
    }
}

/// Where a file with this layout stores a tensor.
pub(super) fn place(layout: Layout, id: TensorId, config: &Config) -> TensorPlace {
    let name = layout.names(id.kind).gguf;
    let name = if id.kind.is_per_layer() {
        format!("blk.{}.{name}", id.layer)
    } else {
        name.into()
    };
    layout.place(id.kind, name, config)
}

/// Rejects a file in which a tensor is missing or has the wrong shape. Also rejects a tensor that
/// the config does not call for, because it would silently have no effect.
pub(super) fn check(
    tensors: &BTreeMap<String, Stored>,
    ids: impl Iterator<Item = TensorId>,
    layout: Layout,
    config: &Config,
) -> Result<(), ImportError> {
    let mut used = BTreeSet::new();
    for id in ids.filter(|id| layout.stores(id.kind)) {
        let TensorPlace { name, shape, .. } = place(layout, id, config);
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
        if !id.kind.is_matrix() && !stored.element.is_plain() {
            let reason = format!(
                "tensor `{name}`: a vector stored as {}, expected plain numbers",
                stored.element
            );
            return Err(ImportError::new(reason));
        }
        used.insert(name);
    }
    let is_known = |name: &str| {
        // `rope::global` reads these, or rejects the file.
        let is_rotary = matches!(
            name,
            "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight"
        );
        // A buffer of old versions of transformers: frequencies, which follow from the metadata.
        // llama.cpp does not read it either.
        let is_buffer = name.starts_with("blk.") && name.ends_with(".attn_rot_embd.weight");
        // `output.weight` is called for unless it equals the embeddings.
        used.contains(name) || is_rotary || is_buffer || name == "output.weight"
    };
    match tensors.keys().find(|name| !is_known(name)) {
        Some(name) => Err(ImportError::new(format!(
            "tensor `{name}` has no place in this architecture"
        ))),
        None => Ok(()),
    }
}
