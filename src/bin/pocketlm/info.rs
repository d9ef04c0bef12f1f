//! `pocketlm info`: shows what a model consists of.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use pocketlm::import::ImportError;
use pocketlm::model::{DType, Layer, LayerKind, MlpVariant, Model, Rope, TensorKind};
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
    let tokens = match model.tokenizer() {
        Ok(tokenizer) => Some(tokenizer.vocab_size()),
        Err(pocketlm::Error::NoTokenizer) => None,
        Err(error) => return Err(image.failure(error)),
    };
    let refused = image.refused_parts();
    let reason = |error: Option<ImportError>| error.map(|error| error.to_string());
    let facts = Facts {
        config: config(&model),
        tensors: tensors(&model),
        tokens,
        no_tokenizer: reason(refused.tokenizer),
        has_template: model.chat_template().is_some(),
        no_template: reason(refused.chat_template),
        bytes: image.len(),
        checksum: format!("{:08x}", model.checksum()),
    };
    if arguments.json {
        print_json(&facts.to_json())
    } else {
        facts.print(&model)
    }
}

/// What is printed about a model.
struct Facts {
    config: Map<String, Value>,
    tensors: Vec<TensorLine>,
    /// How many tokens the tokenizer has, if there is one.
    tokens: Option<u32>,
    /// Why the checkpoint's tokenizer cannot be used.
    no_tokenizer: Option<String>,
    has_template: bool,
    /// Why the checkpoint's chat template cannot be used.
    no_template: Option<String>,
    bytes: usize,
    checksum: String,
}

impl Facts {
    fn to_json(&self) -> Value {
        let tensor = |tensor: &TensorLine| {
            json!({
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "bytes": tensor.bytes,
            })
        };
        json!({
            "config": self.config,
            "tensors": self.tensors.iter().map(tensor).collect::<Vec<_>>(),
            "tokenizer_vocab_size": self.tokens,
            "tokenizer_refused": self.no_tokenizer,
            "chat_template": self.has_template,
            "chat_template_refused": self.no_template,
            "bytes": self.bytes,
            "checksum": self.checksum,
        })
    }

    fn print(&self, model: &Model) -> Outcome {
        for (name, value) in &self.config {
            let value = match name.as_str() {
                "attention_type" => attention_pattern(&model.layers().iter().collect::<Vec<_>>()),
                _ => plain(value),
            };
            print(format_args!("{name:26} {value}"))?;
        }
        print("")?;
        for tensor in &self.tensors {
            let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
            print(format_args!(
                "{:48} {:5} {:>16} {:>12}",
                tensor.name,
                tensor.dtype,
                shape.join(" x "),
                tensor.bytes
            ))?;
        }
        print("")?;
        let tokens = self.tokens.map(|tokens| counted(tokens as usize, "token"));
        let tokenizer = or_why(tokens, &self.no_tokenizer);
        print(format_args!("{:26} {tokenizer}", "tokenizer"))?;
        let template = self.has_template.then(|| "yes".into());
        let template = or_why(template, &self.no_template);
        print(format_args!("{:26} {template}", "chat template"))?;
        let size = size::show(self.bytes as u64);
        print(format_args!("{:26} {} ({size})", "bytes", self.bytes))?;
        print(format_args!("{:26} {}", "checksum", self.checksum))
    }
}

/// A part of a model, or why there is none.
fn or_why(part: Option<String>, refused: &Option<String>) -> String {
    match (part, refused) {
        (Some(part), _) => part,
        (None, Some(reason)) => format!("none that can be used: {reason}"),
        (None, None) => "none".into(),
    }
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
    pub kind: TensorKind,
}

/// Every tensor, in the order of the image.
pub fn tensors(model: &Model) -> Vec<TensorLine> {
    let line = |id: pocketlm::model::TensorId| {
        let (dtype, rows, columns) = model.tensor_type(id)?;
        let matrix = id.kind.is_matrix();
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
            kind: id.kind,
        })
    };
    model.tensors().filter_map(line).collect()
}

/// The config with penzai's names.
fn config(model: &Model) -> Map<String, Value> {
    let config = model.config();
    let fields = json!({
        "num_kv_heads": config.num_kv_heads,
        "query_head_multiplier": config.query_head_multiplier,
        "embedding_dim": config.embedding_dim,
        "projection_dim": config.projection_dim,
        "mlp_hidden_dim": config.mlp_hidden_dim,
        "num_decoder_blocks": config.num_decoder_blocks,
        "vocab_size": config.vocab_size,
        "mlp_variant": variant(config.mlp_variant),
        "tie_embedder_and_logits": config.tie_embedder_and_logits,
        "embedding_scale": number(config.embedding_scale),
        "rope_wavelength": number(config.rope_wavelength),
        "local_rope_wavelength": config.local_rope_wavelength.map(number),
        "global_scale_factor": config.global_scale_factor.map(number),
        "rms_norm_eps": number(config.rms_norm_eps),
        "attention_type": attention_types(model),
        "layers_without_rope": layers_without_rope(model),
        "use_pre_attn_norm": config.use_pre_attn_norm,
        "use_pre_ffw_norm": config.use_pre_ffw_norm,
        "use_post_attn_norm": config.use_post_attn_norm,
        "use_post_ffw_norm": config.use_post_ffw_norm,
        "final_logit_softcap": config.final_logit_softcap.map(number),
        "attn_logits_soft_cap": config.attn_logits_soft_cap.map(number),
        "query_scaling_factor": number(config.query_scaling_factor),
        "parameter_dtype": dtype(config.parameter_dtype),
        "activation_dtype": dtype(config.activation_dtype),
        "use_layer_stack": config.use_layer_stack,
        "use_qk_norm": config.use_qk_norm,
        "qk_norm_after_rope": config.qk_norm_after_rope,
        "qk_norm_across_heads": config.qk_norm_across_heads,
        "qk_norm_only_with_rope": config.qk_norm_only_with_rope,
        "attn_temperature": config.attn_temperature.map(|temperature| json!({
            "scale": number(temperature.scale),
            "length": temperature.length,
            "only_without_rope": temperature.only_without_rope,
        })),
        "qkv_bias": config.qkv_bias,
        "output_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "conv_bias": config.conv_bias,
        "max_position_embeddings": config.max_position_embeddings,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The name of an activation in penzai.
fn variant(variant: MlpVariant) -> &'static str {
    match variant {
        MlpVariant::GegluExact => "geglu_exact",
        MlpVariant::GegluApprox => "geglu_approx",
        MlpVariant::Swiglu => "swiglu",
    }
}

/// As in a penzai-style config, a list if layers differ.
fn attention_types(model: &Model) -> Value {
    let layers: Vec<Value> = model.layers().iter().map(attention_type).collect();
    match layers.split_first() {
        Some((first, rest)) if rest.iter().all(|layer| layer == first) => first.clone(),
        _ => Value::from(layers),
    }
}

/// The attention layers without a rotary embedding, by number.
fn layers_without_rope(model: &Model) -> Vec<usize> {
    model
        .layers()
        .iter()
        .enumerate()
        .filter(|(_, layer)| layer.kind == LayerKind::Attention && layer.rope == Rope::None)
        .map(|(i, _)| i)
        .collect()
}

/// As a penzai-style config writes it.
fn attention_type(layer: Layer) -> Value {
    match (layer.kind, layer.window) {
        (LayerKind::Convolution, window) => {
            json!({ "type": "ShortConvolution", "window_size": window })
        }
        (LayerKind::Attention, Some(window)) => {
            json!({ "type": "AttentionTypeSlidingWindowCausal", "window_size": window })
        }
        (LayerKind::Attention, None) => json!({ "type": "AttentionTypeGlobalCausal" }),
    }
}

/// The kinds of all layers in short: `5 × local 512, 1 × global, repeated 3 times`.
fn attention_pattern(layers: &[Layer]) -> String {
    let windows: Vec<_> = layers
        .iter()
        .map(|layer| (layer.kind, layer.window))
        .collect();
    // The length of the shortest pattern that repeats, or of all layers.
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

/// Runs of equal layers.
fn runs(layers: &[(LayerKind, Option<NonZeroU32>)]) -> String {
    let runs = layers.chunk_by(|a, b| a == b).map(|run| match run[0] {
        (LayerKind::Convolution, window) => {
            let taps = window.map_or(0, NonZeroU32::get);
            format!("{} × convolution {taps}", run.len())
        }
        (LayerKind::Attention, Some(window)) => format!("{} × local {window}", run.len()),
        (LayerKind::Attention, None) => format!("{} × global", run.len()),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// The name of a type in penzai-style configs, which use JAX's names. JAX has no q8 and q4; these
/// keep our names.
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
                ..Layer::default()
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
