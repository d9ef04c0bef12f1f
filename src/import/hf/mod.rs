//! Hugging Face folders: `config.json`, safetensors, tokenizer files.
//!
//! Supported are the model types `llama` (SmolLM 1 and 2 as well), `mistral`, `gemma`, `gemma2`,
//! `gemma3_text`, the text half of `gemma3`, `qwen2`, `qwen3`, `smollm3`, `phi3` and `granite`.
//!
//! What a file says decides over what its `config.json` says: element types are read from the
//! tensors, biases are looked for among them, and every shape is checked before anything is used. A
//! tensor that is neither part of the model nor known to be harmless is refused, since a model that
//! has more parts than we run is another model.

mod config;
mod family;
mod names;
mod rope;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use config::Described;
use family::Family;
use names::{Names, Place};

use super::roles::{self, Sizes};
use super::rope::Pairing;
use super::safetensors::Weights;
use super::{
    Checkpoint, Columns, Description, Element, ImportError, Tensor, json, llamalike, vocabulary,
};
use crate::model::{Config, DType, Role, TensorId};

/// Whether a folder is for [`open`]: it has a `config.json`, and that is not [`llamalike`]'s.
pub fn looks_like(folder: &Path) -> bool {
    folder.join("config.json").is_file() && !llamalike::looks_like(folder)
}

/// Opens a Hugging Face folder.
///
/// # Errors
/// A file is missing or damaged; the config describes a model that is not supported, or makes no
/// sense; or the tensors are not those that the config calls for.
pub fn open(folder: &Path) -> Result<impl Checkpoint + use<>, ImportError> {
    let config_path = folder.join("config.json");
    let map = json::read_config(&config_path)?;
    let weights = Weights::in_folder(folder)?;
    let mut described =
        config::describe(&map, weights.len()).map_err(|error| error.in_file(&config_path))?;
    let Some(names) = Names::detect(&described, |name| weights.get(name).is_some()) else {
        return Err(
            ImportError::new("tensor `model.embed_tokens.weight` is missing").in_file(folder),
        );
    };
    detect_biases(&mut described, &weights, &names).map_err(|error| error.in_file(folder))?;
    let checked = described
        .config
        .check()
        .map_err(|error| ImportError::new(error.to_string()));
    checked.map_err(|error| error.in_file(&config_path))?;
    let Some(sizes) = Sizes::new(&described.config) else {
        let error = ImportError::new("`num_attention_heads` times `head_dim` is too large");
        return Err(error.in_file(&config_path));
    };
    check_tensors(&described, &weights, &names, &sizes).map_err(|error| error.in_file(folder))?;

    let embeddings = weights.get(
        &names
            .place(
                TensorId {
                    layer: 0,
                    role: Role::Embedder,
                },
                &sizes,
            )
            .name,
    );
    let dtype = match embeddings.and_then(|stored| stored.element()) {
        Some(Element::F16) => DType::F16,
        Some(Element::BF16) => DType::Bf16,
        _ => DType::F32,
    };
    let Described {
        family,
        config,
        layers,
        global_rope,
        local_rope,
        rotary_pairs,
        logits_scaling,
        ..
    } = described;
    let description = Description {
        // transformers runs a model in the type it is stored in, unless told otherwise.
        config: Config {
            parameter_dtype: dtype,
            activation_dtype: dtype,
            ..config
        },
        layers,
        global_rope,
        local_rope,
        tokenizer: vocabulary::from_folder(folder)?,
        chat_template: vocabulary::chat_template(folder)?,
    };
    Ok(Folder {
        path: folder.to_owned(),
        description,
        weights,
        names,
        sizes,
        norm_add: if family.is_gemma() { 1.0 } else { 0.0 },
        rotary_pairs: rotary_pairs as usize,
        logits_scaling,
    })
}

struct Folder {
    path: PathBuf,
    description: Description,
    weights: Weights,
    names: Names,
    sizes: Sizes,
    norm_add: f32,
    rotary_pairs: usize,
    logits_scaling: f64,
}

impl Checkpoint for Folder {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let Place {
            name,
            shape,
            first,
            count,
        } = self.names.place(id, &self.sizes);
        let stored = self
            .weights
            .expect(&name, &shape)
            .map_err(|error| error.in_file(&self.path))?;
        let element = stored.element().unwrap_or(Element::F32); // `expect` let nothing else through
        let rows = match id.role {
            Role::Query | Role::Key | Role::QueryBias | Role::KeyBias => {
                Pairing::Halves.rows(first..first + count, self.sizes.head, self.rotary_pairs)
            }
            _ => (first..first + count).collect(),
        };
        let (rows, columns) = match *shape {
            [_, columns] => (
                rows.iter().map(|row| row * columns).collect(),
                Columns::Contiguous(columns),
            ),
            _ if first == 0 && rows.iter().copied().eq(0..count) => {
                (vec![0], Columns::Contiguous(count))
            }
            _ => (vec![0], Columns::Offsets(rows)),
        };
        let is_norm = matches!(
            id.role,
            Role::FinalNorm
                | Role::PreAttentionNorm
                | Role::QueryNorm
                | Role::KeyNorm
                | Role::PostAttentionNorm
                | Role::PreFfwNorm
                | Role::PostFfwNorm
        );
        let add = if is_norm { self.norm_add } else { 0.0 };
        let tensor = Tensor::new(element, stored.data, rows, columns, add);
        let tensor = match id.role == Role::FinalNorm && self.logits_scaling != 1.0 {
            true => tensor.and_then(|norm| divided(&norm, self.logits_scaling)),
            false => tensor,
        };
        tensor.map_err(|error| error.in_file(stored.path))
    }
}

/// Granite divides its logits by a number; dividing the last norm's weights by it comes to the
/// same, and leaves a tied embedding table as it is.
fn divided<'c>(norm: &Tensor<'_>, by: f64) -> Result<Tensor<'c>, ImportError> {
    let mut weights = vec![0.0; norm.column_count()];
    norm.row(0, &mut weights)?;
    let data: Vec<u8> = weights
        .iter()
        .flat_map(|&w| ((f64::from(w) / by) as f32).to_le_bytes())
        .collect();
    Tensor::dense(Element::F32, data, 1, weights.len())
}

/// Looks for biases among the tensors. Older configs have no key for them; where there is one, it
/// must agree.
fn detect_biases(
    described: &mut Described,
    weights: &Weights,
    names: &Names,
) -> Result<(), ImportError> {
    let any = |biases: &[&str]| {
        // The first by name, so that a refusal is the same each time.
        weights
            .names()
            .filter(|name| {
                names
                    .within_layer(name)
                    .is_some_and(|name| biases.contains(&name))
            })
            .min()
    };
    let qkv = any(&[
        "self_attn.q_proj.bias",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",
        "self_attn.qkv_proj.bias",
    ]);
    let output = any(&["self_attn.o_proj.bias"]);
    let mlp = any(&[
        "mlp.gate_proj.bias",
        "mlp.up_proj.bias",
        "mlp.gate_up_proj.bias",
        "mlp.down_proj.bias",
    ]);
    for (key, said, found) in [
        ("attention_bias", described.attention_bias, qkv.or(output)),
        ("mlp_bias", described.mlp_bias, mlp),
    ] {
        if let (Some(false), Some(name)) = (said, found) {
            return Err(ImportError::new(format!(
                "config.json says `{key}` is false, but there is a tensor `{name}`"
            )));
        }
    }
    // Where the family or the config wants them, a missing one is then refused by name.
    let wanted = described.attention_bias == Some(true);
    described.config.qkv_bias = qkv.is_some() || wanted || described.family == Family::Qwen2;
    described.config.output_bias = output.is_some() || wanted;
    described.config.mlp_bias = mlp.is_some() || described.mlp_bias == Some(true);
    Ok(())
}

/// Checks that all tensors are there, in the shapes the config calls for, and no others that could
/// matter.
fn check_tensors(
    described: &Described,
    weights: &Weights,
    names: &Names,
    sizes: &Sizes,
) -> Result<(), ImportError> {
    let mut used = HashSet::new();
    for id in roles::tensors(&described.config) {
        let place = names.place(id, sizes);
        weights
            .expect(&place.name, &place.shape)
            .map_err(|error| match id.role {
                Role::LmHead => error.help("config.json does not tie it to the embeddings"),
                _ => error,
            })?;
        used.insert(place.name);
    }
    let mut strangers: Vec<&str> = weights
        .names()
        .filter(|name| !used.contains(*name) && !names.ignores(name, described))
        .collect();
    strangers.sort_unstable();
    match strangers.first() {
        None => Ok(()),
        Some(name) => Err(ImportError::new(format!(
            "tensor `{name}` is no part of the model that config.json describes ({} such tensors)",
            strangers.len()
        ))),
    }
}
