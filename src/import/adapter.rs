//! Adapters (LoRA and the other methods of PEFT) are trained on top of a model and do not contain
//! it. They are rejected. A model that an adapter was merged into is imported like any other.

use std::path::Path;
use std::prelude::rust_2024::*;

use serde_json::Value;

use super::{ImportError, json};

const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Rejects the folder of an adapter, and a model with an adapter that is not merged: without the
/// adapter it would be another model.
pub(super) fn refuse(folder: &Path) -> Result<(), ImportError> {
    let config = folder.join("adapter_config.json");
    let has_weights = WEIGHTS.iter().any(|name| folder.join(name).exists());
    // After a merge, the adapter's config sometimes remains beside the weights of the whole model.
    let is_left_behind = folder.join("config.json").exists() && !has_weights;
    if !config.exists() || is_left_behind {
        return Ok(());
    }
    let config = json::read_config(&config)?;
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let kind = text("peft_type").map_or_else(String::new, |kind| format!(" ({kind})"));
    let base = text("base_model_name_or_path").unwrap_or("its base model");
    Err(not_merged(&format!("this is an adapter{kind} for {base}, not a model")).in_file(folder))
}

/// Fails if a tensor's name says that it is part of an adapter.
pub(super) fn refuse_tensors<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), ImportError> {
    const OF_AN_ADAPTER: [&str; 3] = [".lora_", ".base_layer.", ".modules_to_save."];
    let of_an_adapter = |name: &&str| OF_AN_ADAPTER.iter().any(|part| name.contains(part));
    match names.filter(of_an_adapter).min() {
        Some(name) => Err(not_merged(&format!(
            "tensor `{name}` is part of an adapter that is not merged"
        ))),
        None => Ok(()),
    }
}

fn not_merged(reason: &str) -> ImportError {
    ImportError::new(reason).help(
        "merge it into its model with PEFT's `merge_and_unload()`, and import what \
         `save_pretrained` writes then",
    )
}
