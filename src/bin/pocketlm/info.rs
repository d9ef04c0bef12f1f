//! `pocketlm info`: what a model is.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use pocketlm::import::ImportError;
use pocketlm::model::{DType, Layer, MlpVariant, Model, Role, Rope};
use serde_json::{Map, Value, json};

use crate::load::Image;
use crate::output::{Outcome, counted, print, print_json};
use crate::size;

/// Show a model's config in penzai's names, its tensors with types and bytes, and its checksum
#[derive(Args)]
#[command(after_help = "\
Two images with the same checksum hold the same model.

Examples:
  pocketlm info smol.plm
  pocketlm info ./SmolLM2-135M-Instruct --json | jq .config.num_kv_heads")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub fn info(arguments: Arguments) -> Outcome {
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let config = config(&model);
    let tokenizer = model.tokenizer().map_err(|error| image.refuse(error))?;
    let tokens = tokenizer.map(|tokenizer| tokenizer.vocab_size());
    let template = model.chat_template().is_some();
    let refused = image.refused_parts();
    let reason = |error: Option<ImportError>| error.map(|error| error.to_string());
    let (no_tokenizer, no_template) = (reason(refused.tokenizer), reason(refused.chat_template));
    let checksum = format!("{:08x}", model.checksum());
    let bytes = image.len();
    let tensors = tensors(&model);

    if arguments.json {
        let tensors: Vec<Value> = tensors
            .iter()
            .map(|tensor| {
                json!({
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": tensor.shape,
                    "bytes": tensor.bytes,
                })
            })
            .collect();
        return print_json(&json!({
            "config": config,
            "tensors": tensors,
            "tokenizer_vocab_size": tokens,
            "tokenizer_refused": no_tokenizer,
            "chat_template": template,
            "chat_template_refused": no_template,
            "bytes": bytes,
            "checksum": checksum,
        }));
    }

    for (name, value) in &config {
        let value = match name.as_str() {
            "attention_type" => attention_pattern(&model.layers().iter().collect::<Vec<_>>()),
            _ => plain(value),
        };
        print(format_args!("{name:26} {value}"))?;
    }
    print("")?;
    for tensor in &tensors {
        let shape = tensor
            .shape
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(" x ");
        print(format_args!(
            "{:48} {:5} {shape:>16} {:>12}",
            tensor.name, tensor.dtype, tensor.bytes
        ))?;
    }
    print("")?;
    let or_why = |part: Option<String>, refused: Option<String>| match (part, refused) {
        (Some(part), _) => part,
        (None, Some(reason)) => format!("none that can be used: {reason}"),
        (None, None) => "none".into(),
    };
    let tokens = tokens.map(|tokens| counted(tokens as usize, "token"));
    print(format_args!(
        "{:26} {}",
        "tokenizer",
        or_why(tokens, no_tokenizer)
    ))?;
    let template = template.then(|| "yes".into());
    print(format_args!(
        "{:26} {}",
        "chat template",
        or_why(template, no_template)
    ))?;
    print(format_args!(
        "{:26} {bytes} ({})",
        "bytes",
        size::show(bytes as u64)
    ))?;
    print(format_args!("{:26} {checksum}", "checksum"))
}

/// A line of the table of tensors.
pub struct TensorLine {
    name: String,
    /// As stored.
    pub dtype: &'static str,
    shape: Vec<usize>,
    /// Without the padding between tensors.
    pub bytes: u64,
    /// What it is for.
    pub role: Role,
}

/// Every tensor, in the order of the image.
pub fn tensors(model: &Model) -> Vec<TensorLine> {
    let line = |id: pocketlm::model::TensorId| {
        let (dtype, rows, columns) = model.tensor_type(id)?;
        let matrix = id.role.is_matrix();
        let bytes = if matrix {
            dtype.matrix_bytes(rows, columns)?
        } else {
            4 * columns
        };
        let shape = if matrix {
            vec![rows, columns]
        } else {
            vec![columns]
        };
        Some(TensorLine {
            name: id.to_string(),
            dtype: dtype.name(),
            shape,
            bytes: bytes as u64,
            role: id.role,
        })
    };
    model.tensors().filter_map(line).collect()
}

/// The config in penzai's names, with `attention_type` as a penzai-style config has it (a list when
/// layers differ).
fn config(model: &Model) -> Map<String, Value> {
    let config = model.config();
    let variant = match config.mlp_variant {
        MlpVariant::GegluExact => "geglu_exact",
        MlpVariant::GegluApprox => "geglu_approx",
        MlpVariant::Swiglu => "swiglu",
    };
    let layers: Vec<Value> = model.layers().iter().map(attention_type).collect();
    let attention = match layers.split_first() {
        Some((first, rest)) if rest.iter().all(|layer| layer == first) => first.clone(),
        _ => Value::from(layers),
    };
    let unturned: Vec<usize> = model
        .layers()
        .iter()
        .enumerate()
        .filter(|(_, layer)| layer.rope == Rope::None)
        .map(|(i, _)| i)
        .collect();
    let fields = json!({
        "num_kv_heads": config.num_kv_heads,
        "query_head_multiplier": config.query_head_multiplier,
        "embedding_dim": config.embedding_dim,
        "projection_dim": config.projection_dim,
        "mlp_hidden_dim": config.mlp_hidden_dim,
        "num_decoder_blocks": config.num_decoder_blocks,
        "vocab_size": config.vocab_size,
        "mlp_variant": variant,
        "tie_embedder_and_logits": config.tie_embedder_and_logits,
        "embedding_scale": number(config.embedding_scale),
        "rope_wavelength": number(config.rope_wavelength),
        "local_rope_wavelength": config.local_rope_wavelength.map(number),
        "global_scale_factor": config.global_scale_factor.map(number),
        "rms_norm_eps": number(config.rms_norm_eps),
        "attention_type": attention,
        "layers_without_rope": unturned,
        "use_post_attn_norm": config.use_post_attn_norm,
        "use_post_ffw_norm": config.use_post_ffw_norm,
        "final_logit_softcap": config.final_logit_softcap.map(number),
        "attn_logits_soft_cap": config.attn_logits_soft_cap.map(number),
        "query_scaling_factor": number(config.query_scaling_factor),
        "parameter_dtype": dtype(config.parameter_dtype),
        "activation_dtype": dtype(config.activation_dtype),
        "use_layer_stack": config.use_layer_stack,
        "use_qk_norm": config.use_qk_norm,
        "qkv_bias": config.qkv_bias,
        "output_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "max_position_embeddings": config.max_position_embeddings,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// As a penzai-style config writes it.
fn attention_type(layer: Layer) -> Value {
    match layer.window {
        Some(window) => {
            json!({ "type": "AttentionTypeSlidingWindowCausal", "window_size": window })
        }
        None => json!({ "type": "AttentionTypeGlobalCausal" }),
    }
}

/// What the layers see, for people: `5 × local 512, 1 × global, repeated 3 times`.
fn attention_pattern(layers: &[Layer]) -> String {
    let windows: Vec<_> = layers.iter().map(|layer| layer.window).collect();
    // The shortest start that the rest repeats, if that happens at all.
    let period = (1..=windows.len() / 2)
        .find(|&period| windows[period..] == windows[..windows.len() - period])
        .unwrap_or(windows.len());
    if period <= 1 {
        return runs(&windows);
    }
    let whole = windows.len() / period;
    let mut pattern = runs(&windows[..period]);
    if whole > 1 {
        pattern += &format!(", repeated {whole} times");
    }
    let rest = &windows[whole * period..];
    if !rest.is_empty() {
        pattern += &format!(", then {}", runs(rest));
    }
    pattern
}

/// Equal windows that follow each other, together.
fn runs(windows: &[Option<NonZeroU32>]) -> String {
    let runs = windows.chunk_by(|a, b| a == b).map(|run| match run[0] {
        Some(window) => format!("{} × local {window}", run.len()),
        None => format!("{} × global", run.len()),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// penzai-style configs have JAX's names for types. Types that JAX does not have keep ours.
fn dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        other => other.name(),
    }
}

/// The shortest decimal that is this f32: 1e-6, not 9.999999974752427e-7.
fn number(value: f32) -> Value {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, Value::from)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Object(fields) => fields.values().map(plain).collect::<Vec<_>>().join(" "),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_of_layers_is_shown_once() {
        let pattern = |windows: &[u32]| {
            let layer = |&window: &u32| Layer {
                window: NonZeroU32::new(window),
                rope: Rope::Global,
            };
            attention_pattern(&windows.iter().map(layer).collect::<Vec<_>>())
        };
        assert_eq!(pattern(&[0; 12]), "12 × global");
        assert_eq!(pattern(&[8; 3]), "3 × local 8");
        assert_eq!(pattern(&[8, 0]), "1 × local 8, 1 × global");
        assert_eq!(
            pattern(&[512, 512, 512, 512, 512, 0].repeat(3)),
            "5 × local 512, 1 × global, repeated 3 times"
        );
        let gemma_1b = [&[512, 512, 512, 512, 512, 0].repeat(4)[..], &[512; 2]].concat();
        assert_eq!(
            pattern(&gemma_1b),
            "5 × local 512, 1 × global, repeated 4 times, then 2 × local 512"
        );
        assert_eq!(
            pattern(&[8, 0, 0, 8, 0, 4]),
            "1 × local 8, 2 × global, 1 × local 8, 1 × global, 1 × local 4"
        );
        assert_eq!(pattern(&[]), "");
    }
}
