//! Hugging Face folders: `config.json`, safetensors, tokenizer files.
//!
//! Supported are the model types `llama` (SmolLM 1 and 2 as well), `mistral`, `ministral`,
//! `ministral3`, the text half of `mistral3`, `gemma`, `gemma2`, `gemma3_text`, the text half of
//! `gemma3`, `vaultgemma`, `qwen2`, `qwen3`, `smollm3`, `phi3`, `granite`, `granitemoehybrid` (if
//! all layers are attention and there are no experts), `olmo2`, `exaone4`, `hunyuan_v1_dense`,
//! `internlm3` (up to `max_position_embeddings`: its frequencies change in longer texts),
//! `llama4_text` (MobileLLM-R1: if there are no experts), `ernie4_5`, `helium` and `lfm2`.
//!
//! Matrices may be quantised: GPTQ (4 and 8 bits, with and without `desc_act`, checkpoint formats
//! `gptq` and `gptq_v2`), AWQ (`gemm`), and compressed-tensors (`pack-quantized` of 4 and 8 bits,
//! `int-quantized`). `quantized` has their layouts, and says what of them an image keeps.
//!
//! Where tensors and `config.json` disagree, the tensors are right: element types, biases and an
//! output matrix are taken from them, and every shape is checked before anything is used. A tensor
//! that is neither part of the model nor known to be harmless is refused: the model has a part that
//! we would not run.
//!
//! If a tokenizer or chat template cannot be used, the model can: the [`Description`] has the
//! reason.

mod config;
mod layers;
mod names;
mod quantized;
mod rope;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use config::Described;
use names::Names;
use quantized::{Linear, Scheme};

use super::file;
use super::multipliers::Multipliers;
use super::place::unit_norm;
use super::rope::Pairing;
use super::safetensors::{Stored, Weights};
use super::{
    Checkpoint, Description, Element, ImportError, Tensor, adapter, heads_fit, json, kinds,
    llamalike, tokenizer,
};
use crate::model::{Config, DType, TensorId, TensorKind, tensor_ids};

/// Whether a folder is for [`open`]: it has a `config.json`, and is not a [penzai-style](llamalike)
/// folder.
pub fn looks_like(folder: &Path) -> bool {
    file::is_there(&folder.join("config.json")) && !llamalike::looks_like(folder)
}

/// Opens a Hugging Face folder.
///
/// # Errors
/// A file is missing or damaged; the config describes a model that is not supported, or makes no
/// sense; or the tensors are not those that the config calls for.
pub fn open(folder: &Path) -> Result<impl Checkpoint + use<>, ImportError> {
    let config_path = folder.join("config.json");
    let map = json::read_config(&config_path)?;
    let weights = Weights::in_folder(folder)?
        .without_wrappers()
        .map_err(|error| error.in_file(folder))?;
    adapter::refuse_tensors(weights.names()).map_err(|error| error.in_file(folder))?;
    let scheme = Scheme::read(&map, folder, &weights)?;
    let mut described =
        config::describe(&map, weights.len()).map_err(|error| error.in_file(&config_path))?;
    let names = Names::detect(described.family, |name| weights.get(name).is_some())
        .ok_or_else(|| missing_embeddings(&weights).in_file(folder))?;
    detect_biases(&mut described, &weights, &names).map_err(|error| error.in_file(folder))?;
    if let Some(is_tied) = stored_head_is_tied(&weights, &names) {
        described.config.tie_embedder_and_logits = is_tied;
    }
    check_config(&described.config).map_err(|error| error.in_file(&config_path))?;
    check_tensors(&described, &weights, scheme, &names).map_err(|error| error.in_file(folder))?;

    let dtype = embeddings_dtype(&weights, &names);
    let vocab_size = described.config.vocab_size;
    let description = Description {
        // transformers runs a model in the type in which it is stored, unless told otherwise.
        config: Config {
            parameter_dtype: dtype,
            activation_dtype: dtype,
            ..described.config
        },
        layers: described.layers,
        global_rope: described.global_rope,
        local_rope: described.local_rope,
        tokenizer: tokenizer::for_rows(tokenizer::from_folder(folder), vocab_size)
            .map(|tokenizer| tokenizer.map_err(|error| error.in_file(folder))),
        chat_template: tokenizer::chat_template(folder).transpose(),
    };
    let family = described.family;
    Ok(Folder {
        path: folder.to_owned(),
        description,
        weights,
        scheme,
        names,
        norm_add: if family.one_plus_norms { 1.0 } else { 0.0 },
        rotary_pairs: described.rotary_pairs as usize,
        multipliers: described.multipliers,
        pairing: family.pairing,
    })
}

/// The error of a folder without an embedding table; names a tensor that may be one.
fn missing_embeddings(weights: &Weights) -> ImportError {
    let error = ImportError::new("tensor `model.embed_tokens.weight` is missing");
    let similar = |name: &&str| name.ends_with("embed_tokens.weight");
    match weights.names().filter(similar).min() {
        Some(other) => error.help(format!(
            "there is `{other}`: remove the prefix from the names of the tensors"
        )),
        None => error,
    }
}

/// Refuses a config whose numbers do not go together.
fn check_config(config: &Config) -> Result<(), ImportError> {
    let checked = config.check();
    checked.map_err(|error| ImportError::new(error.to_string()))?;
    if !heads_fit(config) {
        let reason = "`num_attention_heads` times `head_dim` is too large";
        return Err(ImportError::new(reason));
    }
    Ok(())
}

/// The type in which the embedding table is stored, or the nearest plain one.
fn embeddings_dtype(weights: &Weights, names: &Names) -> DType {
    let embeddings = weights.get(&names.embeddings());
    match embeddings.and_then(|stored| stored.element()) {
        Some(Element::F16) => DType::F16,
        Some(Element::BF16) => DType::Bf16,
        _ => DType::F32,
    }
}

struct Folder {
    path: PathBuf,
    description: Description,
    weights: Weights,
    scheme: Option<Scheme>,
    names: Names,
    norm_add: f32,
    rotary_pairs: usize,
    multipliers: Multipliers,
    pairing: Pairing,
}

impl Checkpoint for Folder {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let config = &self.description.config;
        if !self.names.stores(id.kind) {
            return unit_norm(config);
        }
        let place = self.names.place(id, config);
        let head_dim = config.projection_dim as usize;
        let rows = place.rows(self.pairing, head_dim, self.rotary_pairs);
        let found = find(&self.weights, self.scheme, &place.name, &place.shape);
        let stored = match found.map_err(|error| error.in_file(&self.path))? {
            Found::Plain(stored) => stored,
            Found::Quantized(linear) => {
                return linear
                    .tensor(&rows)
                    .map_err(|error| error.in_file(linear.path));
            }
        };
        // `find` refuses other elements.
        let element = stored.element().unwrap_or(Element::F32);
        let is_norm = matches!(
            id.kind,
            TensorKind::FinalNorm
                | TensorKind::PreAttentionNorm
                | TensorKind::QueryNorm
                | TensorKind::KeyNorm
                | TensorKind::PostAttentionNorm
                | TensorKind::PreFfwNorm
                | TensorKind::PostFfwNorm
        );
        let add = if is_norm { self.norm_add } else { 0.0 };
        let tensor = place.tensor(element, stored.data, rows, add);
        let tensor = if id.kind == TensorKind::FinalNorm {
            tensor.and_then(|norm| self.multipliers.final_norm(norm))
        } else {
            tensor
        };
        tensor.map_err(|error| error.in_file(stored.path))
    }
}

/// A tensor that the model needs, as it is stored.
enum Found<'w> {
    Plain(Stored<'w>),
    Quantized(Linear<'w>),
}

/// Finds a tensor of the shape that the config calls for.
///
/// # Errors
/// It is missing, or has another shape, or is of a type that is not known.
fn find<'w>(
    weights: &'w Weights,
    scheme: Option<Scheme>,
    name: &str,
    shape: &[usize],
) -> Result<Found<'w>, ImportError> {
    if let (Some(scheme), &[rows, columns]) = (scheme, shape)
        && let Some(linear) = scheme.find(weights, name, rows, columns)?
    {
        return Ok(Found::Quantized(linear));
    }
    match (weights.get(name), quantized::part_of(weights, name)) {
        (None, Some(part)) => Err(ImportError::new(format!(
            "tensor `{part}` is quantised, and not in the way that config.json says"
        ))),
        _ => weights.expect(name, shape).map(Found::Plain),
    }
}

/// Looks for biases among the tensors. Older configs have no key for them; if there is a key, it
/// must agree. Biases that are all zero do not count: old GPTQ files have them everywhere.
fn detect_biases(
    described: &mut Described,
    weights: &Weights,
    names: &Names,
) -> Result<(), ImportError> {
    let any = |biases: &[&str]| {
        // The first by name, so that the error is always the same.
        weights
            .names()
            .filter(|name| {
                names
                    .within_layer(name)
                    .is_some_and(|name| biases.contains(&name))
                    && !is_zero(weights, name)
            })
            .min()
    };
    let qkv = any(&QKV_BIASES);
    let output = any(&[OUTPUT_BIAS]);
    let mlp = any(&MLP_BIASES);
    let conv = any(&CONV_BIASES);
    for (key, said, found) in [
        (
            described.family.attention_bias_key,
            described.attention_bias,
            qkv.or(output),
        ),
        (described.family.mlp_bias_key, described.mlp_bias, mlp),
        (Some("conv_bias"), described.conv_bias, conv),
    ] {
        if let (Some(key), Some(false), Some(name)) = (key, said, found) {
            return Err(ImportError::new(format!(
                "config.json says `{key}` is false, but there is a tensor `{name}`"
            )));
        }
    }
    // If the family or the config calls for biases, `check_tensors` names a missing one.
    let wanted = described.attention_bias == Some(true);
    described.config.qkv_bias = qkv.is_some() || wanted || described.family.qkv_bias;
    described.config.output_bias = output.is_some() || wanted && described.family.output_bias;
    described.config.mlp_bias = mlp.is_some() || described.mlp_bias == Some(true);
    described.config.conv_bias = conv.is_some() || described.conv_bias == Some(true);
    Ok(())
}

const QKV_BIASES: [&str; 4] = [
    "self_attn.q_proj.bias",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.bias",
    "self_attn.qkv_proj.bias",
];
const OUTPUT_BIAS: &str = "self_attn.o_proj.bias";
const CONV_BIASES: [&str; 3] = ["conv.in_proj.bias", "conv.conv.bias", "conv.out_proj.bias"];
const MLP_BIASES: [&str; 4] = [
    "mlp.gate_proj.bias",
    "mlp.up_proj.bias",
    "mlp.gate_up_proj.bias",
    "mlp.down_proj.bias",
];

/// Whether a bias changes nothing.
fn is_zero(weights: &Weights, name: &str) -> bool {
    let zero = |stored: Stored<'_>| Some(stored.numbers()?.iter().all(|x| *x == 0.0));
    weights.get(name).and_then(zero) == Some(true)
}

/// Whether the output matrix in the file equals the embedding table; `None` if there is none. If it
/// differs it is used, whatever the config says, as in transformers. If it is equal, the image need
/// not store it twice.
fn stored_head_is_tied(weights: &Weights, names: &Names) -> Option<bool> {
    let embeddings = weights.get(&names.embeddings())?;
    match weights.get(names.head()) {
        Some(head) => Some(head.equals(&embeddings)),
        None => quantized::part_of(weights, names.head()).map(|_| false),
    }
}

/// Checks that all tensors are there in the shapes that the config calls for, and that there are no
/// others that could change the result.
fn check_tensors(
    described: &Described,
    weights: &Weights,
    scheme: Option<Scheme>,
    names: &Names,
) -> Result<(), ImportError> {
    let mut used = HashSet::new();
    let config = &described.config;
    let ids = tensor_ids(config, kinds(&described.layers));
    for id in ids.filter(|id| names.stores(id.kind)) {
        let place = names.place(id, config);
        let found =
            find(weights, scheme, &place.name, &place.shape).map_err(|error| match id.kind {
                TensorKind::LmHead if weights.get(&place.name).is_none() => {
                    error.help("config.json does not tie it to the embeddings")
                }
                _ => error,
            })?;
        match found {
            Found::Plain(_) => drop(used.insert(place.name)),
            Found::Quantized(linear) => used.extend(linear.names),
        }
    }
    match strangers(described, weights, names, &used).as_slice() {
        [] => Ok(()),
        [name, others @ ..] => Err(unused_tensors(name, others.len())),
    }
}

/// The tensors that are not `used` and could change the result, by name.
fn strangers<'w>(
    described: &Described,
    weights: &'w Weights,
    names: &Names,
    used: &HashSet<String>,
) -> Vec<&'w str> {
    let is_tied = described.config.tie_embedder_and_logits;
    let mut strangers: Vec<&str> = weights
        .names()
        .filter(|&name| {
            let is_known = used.contains(name) || names.ignores(name);
            let is_tied_head = is_tied && name == names.head();
            !is_known && !is_tied_head && !is_zero_bias(weights, names, name)
        })
        .collect();
    strangers.sort_unstable();
    strangers
}

/// Whether a tensor is a bias that changes nothing.
fn is_zero_bias(weights: &Weights, names: &Names, name: &str) -> bool {
    let is_bias = |rest: &str| {
        rest == OUTPUT_BIAS
            || [&QKV_BIASES[..], &MLP_BIASES, &CONV_BIASES]
                .iter()
                .any(|biases| biases.contains(&rest))
    };
    names.within_layer(name).is_some_and(is_bias) && is_zero(weights, name)
}

/// The error of a tensor that would not be used, and of so many others.
fn unused_tensors(name: &str, others: usize) -> ImportError {
    let (others, are) = match others {
        0 => (String::new(), "is"),
        1 => (" and 1 other".to_owned(), "are"),
        many => (format!(" and {many} others"), "are"),
    };
    ImportError::new(format!(
        "tensor `{name}`{others} {are} not part of the model that config.json describes"
    ))
}
