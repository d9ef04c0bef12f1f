//! Adapters (LoRA and the other methods of PEFT): what is trained on top of a model, without the
//! model. They are refused; once merged into their model, it comes in as any other.

use std::path::Path;
use std::prelude::rust_2024::*;

use serde_json::Value;

use super::{ImportError, json};

const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Refuses the folder of an adapter, and one of a model with an adapter that is not merged: the
/// model alone would be another one than the folder says.
pub(super) fn refuse(folder: &Path) -> Result<(), ImportError> {
    let config = folder.join("adapter_config.json");
    let has_weights = WEIGHTS.iter().any(|name| folder.join(name).exists());
    // After a merge the config is sometimes left behind, beside the weights of the whole model.
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

/// The refusal of an adapter by the name of one of its tensors, where that is what it is.
pub(super) fn refuse_tensor(name: &str) -> Option<ImportError> {
    let of_an_adapter = [".lora_", ".base_layer.", ".modules_to_save."];
    of_an_adapter
        .iter()
        .any(|part| name.contains(part))
        .then(|| {
            not_merged(&format!(
                "tensor `{name}` is part of an adapter that is not merged"
            ))
        })
}

fn not_merged(reason: &str) -> ImportError {
    ImportError::new(reason).help(
        "merge it into its model with PEFT's `merge_and_unload()`, and import what `save_pretrained` writes then",
    )
}
