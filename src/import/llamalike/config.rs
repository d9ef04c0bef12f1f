//! The `config.json` of a penzai-style folder.

use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use crate::import::json::{Object, excerpt};
use crate::import::safetensors::Weights;
use crate::import::{Description, ImportError, RopeTable, heads_fit, rope};
use crate::model::{AttnTemperature, Config, DType, Layer, LayerKind, MlpVariant, Rope};

/// All fields of `LlamalikeTransformerConfig`, and those that penzai does not have.
const FIELDS: [&str; 31] = [
    "num_kv_heads",
    "query_head_multiplier",
    "embedding_dim",
    "projection_dim",
    "mlp_hidden_dim",
    "num_decoder_blocks",
    "vocab_size",
    "mlp_variant",
    "tie_embedder_and_logits",
    "rope_wavelength",
    "rms_norm_eps",
    "attention_type",
    "use_pre_attn_norm",
    "use_pre_ffw_norm",
    "use_post_attn_norm",
    "use_post_ffw_norm",
    "final_logit_softcap",
    "attn_logits_soft_cap",
    "query_scaling_factor",
    "parameter_dtype",
    "activation_dtype",
    "use_layer_stack",
    "use_qk_norm",
    "qk_norm_after_rope",
    "qk_norm_across_heads",
    "qk_norm_only_with_rope",
    "attn_temperature",
    "layers_without_rope",
    "conv_bias",
    "global_scale_factor",
    "local_rope_wavelength",
];

/// No model has wider heads. This bounds tables whose size depends on this number alone.
const WIDEST_HEAD: u32 = 1 << 16;

/// Reads a parsed config; the weights bound the number of layers.
///
/// # Errors
/// An unknown field, or a value that penzai rejects or that makes no sense; names the field.
pub(super) fn describe(
    map: &Map<String, Value>,
    weights: &Weights,
) -> Result<Description, ImportError> {
    let fields = Object::root(map);
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(key)) {
        return Err(fields.object_to(unknown, "is not a field of the llama-like config"));
    }
    let num_decoder_blocks = fields
        .natural("num_decoder_blocks")?
        .ok_or_else(|| fields.refuse("num_decoder_blocks", "an integer of at least 0"))?;
    let use_layer_stack = flag(&fields, "use_layer_stack")?;
    check_layers(&fields, num_decoder_blocks, use_layer_stack, weights)?;
    let mut layers = layers(&fields, num_decoder_blocks, use_layer_stack)?;
    let projection_dim = projection_dim(&fields)?;
    let rotary = Rotary::read(&fields, &layers, projection_dim)?;
    let mut config = config(&fields, num_decoder_blocks, projection_dim, &rotary)?;
    config.conv_taps = conv_taps(&fields, &layers)?;
    if !heads_fit(&config) {
        return Err(ImportError::new(
            "`num_kv_heads` times `query_head_multiplier` times `projection_dim` is too large",
        ));
    }
    for layer in &mut layers {
        layer.rope = match layer.kind {
            LayerKind::Convolution => Rope::None,
            LayerKind::Attention if layer.window.is_some() && rotary.local.is_some() => Rope::Local,
            LayerKind::Attention => Rope::Global,
        };
    }
    for index in layers_without_rope(&fields, layers.len())? {
        layers[index].rope = Rope::None;
    }
    Ok(Description {
        config,
        layers,
        global_rope: rotary.global,
        local_rope: rotary.local,
        tokenizer: None,
        chat_template: None,
    })
}

// A required field must not be null. An optional one may be null only if it may be None in Python.

fn dimension(fields: &Object, key: &str) -> Result<u32, ImportError> {
    fields
        .count(key)?
        .ok_or_else(|| fields.refuse(key, "an integer above 0"))
}

fn flag(fields: &Object, key: &str) -> Result<bool, ImportError> {
    if !fields.mentions(key) {
        return Ok(false);
    }
    fields
        .flag(key)?
        .ok_or_else(|| fields.refuse(key, "true or false"))
}

fn positive(fields: &Object, key: &str, default: f64) -> Result<f64, ImportError> {
    if !fields.mentions(key) {
        return Ok(default);
    }
    fields
        .positive(key)?
        .ok_or_else(|| fields.refuse(key, "a number above 0"))
}

fn projection_dim(fields: &Object) -> Result<u32, ImportError> {
    let width = dimension(fields, "projection_dim")?;
    if !width.is_multiple_of(2) || width > WIDEST_HEAD {
        let expected = format!("an even number up to {WIDEST_HEAD}");
        return Err(fields.refuse("projection_dim", &expected));
    }
    Ok(width)
}

/// The config, whose layers were checked before.
fn config(
    fields: &Object,
    num_decoder_blocks: u32,
    projection_dim: u32,
    rotary: &Rotary,
) -> Result<Config, ImportError> {
    let embedding_dim = dimension(fields, "embedding_dim")?;
    let tie_embedder_and_logits = is_tied(fields)?;
    let parameter_dtype = dtype(fields, "parameter_dtype")?;
    let activation_dtype = dtype(fields, "activation_dtype")?;
    let eps = eps(fields, parameter_dtype)?;
    let embedding_scale = embedding_scale(embedding_dim, tie_embedder_and_logits);
    let query_scale = query_scaling_factor(fields, projection_dim)?;
    let config = Config {
        num_kv_heads: dimension(fields, "num_kv_heads")?,
        query_head_multiplier: dimension(fields, "query_head_multiplier")?,
        embedding_dim,
        projection_dim,
        mlp_hidden_dim: dimension(fields, "mlp_hidden_dim")?,
        num_decoder_blocks,
        vocab_size: dimension(fields, "vocab_size")?,
        mlp_variant: mlp_variant(fields)?,
        tie_embedder_and_logits,
        embedding_scale: round(activation_dtype, embedding_scale),
        rms_norm_eps: eps,
        use_pre_attn_norm: fields.flag("use_pre_attn_norm")?.unwrap_or(true),
        use_pre_ffw_norm: fields.flag("use_pre_ffw_norm")?.unwrap_or(true),
        use_post_attn_norm: flag(fields, "use_post_attn_norm")?,
        use_post_ffw_norm: flag(fields, "use_post_ffw_norm")?,
        final_logit_softcap: logit_cap(fields, activation_dtype)?,
        attn_logits_soft_cap: cap(fields, "attn_logits_soft_cap", activation_dtype)?,
        query_scaling_factor: round(activation_dtype, query_scale),
        parameter_dtype,
        activation_dtype,
        use_layer_stack: flag(fields, "use_layer_stack")?,
        use_qk_norm: flag(fields, "use_qk_norm")?,
        qk_norm_after_rope: flag(fields, "qk_norm_after_rope")?,
        qk_norm_across_heads: flag(fields, "qk_norm_across_heads")?,
        qk_norm_only_with_rope: flag(fields, "qk_norm_only_with_rope")?,
        attn_temperature: attn_temperature(fields)?,
        conv_bias: flag(fields, "conv_bias")?,
        ..rotary.config()
    };
    // What was read above passes this, as long as the rules agree.
    let checked = config.check();
    checked.map_err(|error| ImportError::new(error.to_string()))?;
    Ok(config)
}

/// Whether the output matrix is the embedding table. The config has to say it.
fn is_tied(fields: &Object) -> Result<bool, ImportError> {
    let key = "tie_embedder_and_logits";
    fields
        .flag(key)?
        .ok_or_else(|| fields.refuse(key, "true or false"))
}

/// What embeddings are multiplied by.
fn embedding_scale(embedding_dim: u32, is_tied: bool) -> f64 {
    if is_tied {
        f64::from((embedding_dim as f32).sqrt())
    } else {
        1.0
    }
}

/// The epsilon of the norms, in the type of the parameters.
fn eps(fields: &Object, dtype: DType) -> Result<f32, ImportError> {
    let eps = round(dtype, positive(fields, "rms_norm_eps", 1e-6)?);
    if eps <= 0.0 {
        let expected = format!("a number above 0 in {}", dtype.name());
        return Err(fields.refuse("rms_norm_eps", &expected));
    }
    Ok(eps)
}

/// A soft cap, in the type of the activations.
fn cap(fields: &Object, key: &str, dtype: DType) -> Result<Option<f32>, ImportError> {
    let cap = fields.positive(key)?;
    Ok(cap.map(|cap| round(dtype, cap)))
}

/// The soft cap on logits. penzai tests the truth of this one, so 0 turns it off. It compares the
/// other one with None.
fn logit_cap(fields: &Object, dtype: DType) -> Result<Option<f32>, ImportError> {
    let key = "final_logit_softcap";
    match fields.number(key)? {
        Some(0.0) => Ok(None),
        _ => cap(fields, key, dtype),
    }
}

/// What a config says about rotary embeddings.
struct Rotary {
    wavelength: f64,
    local_wavelength: Option<f64>,
    scale_factor: Option<f64>,
    global: RopeTable,
    /// `None` if no layer needs a table of its own.
    local: Option<RopeTable>,
}

impl Rotary {
    fn read(fields: &Object, layers: &[Layer], projection_dim: u32) -> Result<Self, ImportError> {
        let attention = || {
            layers
                .iter()
                .filter(|layer| layer.kind == LayerKind::Attention)
        };
        let wavelength = positive(fields, "rope_wavelength", 10_000.0)?;
        let local_wavelength = fields.positive("local_rope_wavelength")?;
        let scale_factor = fields.positive("global_scale_factor")?;
        if attention().any(|layer| layer.window.is_none())
            && scale_factor.is_some_and(|factor| factor < 1.0)
        {
            return Err(fields.refuse("global_scale_factor", "at least 1"));
        }
        let global = table(wavelength, scale_factor.unwrap_or(1.0), projection_dim)?;
        let local = table(local_wavelength.unwrap_or(wavelength), 1.0, projection_dim)?;
        let is_needed = local != global && attention().any(|layer| layer.window.is_some());
        Ok(Rotary {
            wavelength,
            local_wavelength,
            scale_factor,
            global,
            local: is_needed.then_some(local),
        })
    }

    /// The fields of a config that are about rotary embeddings.
    fn config(&self) -> Config {
        // A factor below 1 gets here only if no layer is global. Nothing uses it then.
        let factor = self.scale_factor.filter(|&factor| factor >= 1.0);
        Config {
            rope_wavelength: self.wavelength as f32,
            local_rope_wavelength: self.local_wavelength.map(|wavelength| wavelength as f32),
            global_scale_factor: factor.map(|factor| factor as f32),
            ..Config::PLAIN
        }
    }
}

fn table(wavelength: f64, divisor: f64, projection_dim: u32) -> Result<RopeTable, ImportError> {
    let mut frequencies = rope::plain(wavelength, projection_dim);
    rope::linear(&mut frequencies, divisor);
    if frequencies.iter().any(|f| !(*f as f32).is_finite()) {
        return Err(ImportError::new(format!(
            "a rope wavelength of {wavelength} makes rotary frequencies overflow"
        )));
    }
    Ok(RopeTable {
        amplitude: 1.0,
        frequencies,
    })
}

/// Checks the number of layers against the file before anything of that size is allocated.
fn check_layers(
    fields: &Object,
    count: u32,
    stacked: bool,
    weights: &Weights,
) -> Result<(), ImportError> {
    if count == 0 {
        return Ok(());
    }
    let label = "transformer/blocks/pre_attention_norm/scale.weights";
    let stored = match (stacked, weights.get(label)) {
        (false, _) => weights.len(),
        (true, Some(norm)) => norm.data.len(),
        (true, None) => {
            return Err(ImportError::new(format!(
                "parameter `{label}` is missing, which `use_layer_stack` calls for"
            )));
        }
    };
    if count as usize <= stored {
        Ok(())
    } else {
        Err(fields.object_to(
            "num_decoder_blocks",
            &format!("is {count}, more than the weights have room for"),
        ))
    }
}

/// How many taps convolutions have.
fn conv_taps(fields: &Object, layers: &[Layer]) -> Result<Option<NonZeroU32>, ImportError> {
    let mut convolutions = layers
        .iter()
        .filter(|layer| layer.kind == LayerKind::Convolution);
    let taps = convolutions.next().and_then(|layer| layer.window);
    if convolutions.any(|layer| layer.window != taps) {
        let clause = "has convolutions with different window sizes";
        return Err(fields.object_to("attention_type", clause));
    }
    Ok(taps)
}

/// Kind and window of each layer. The config has one type for all layers, or a list that repeats.
fn layers(fields: &Object, count: u32, stacked: bool) -> Result<Vec<Layer>, ImportError> {
    let key = "attention_type";
    match fields.get(key) {
        None if fields.mentions(key) => {
            Err(fields.refuse(key, "an attention type, or a list of them"))
        }
        None => Ok(vec![Layer::default(); count as usize]),
        Some(Value::Object(_)) => {
            let one = fields.object(key)?.map(|one| layer(&one)).transpose()?;
            Ok(vec![one.unwrap_or_default(); count as usize])
        }
        Some(Value::Array(list)) => {
            if stacked {
                return Err(fields.object_to(key, "is a list, which use_layer_stack rules out"));
            }
            if list.is_empty() || !(count as usize).is_multiple_of(list.len()) {
                let clause = format!(
                    "has {} entries, expected a divisor of num_decoder_blocks, {count}",
                    list.len()
                );
                return Err(fields.object_to(key, &clause));
            }
            let cycle = list
                .iter()
                .map(|value| match value {
                    Value::Object(map) => layer(&Object::root(map)).map_err(|mut error| {
                        error.reason = format!("in `{key}`: {}", error.reason);
                        error
                    }),
                    other => Err(fields.object_to(
                        key,
                        &format!("lists {}, expected attention types", excerpt(other)),
                    )),
                })
                .collect::<Result<Vec<_>, _>>()?;
            Ok(cycle.into_iter().cycle().take(count as usize).collect())
        }
        Some(_) => Err(fields.refuse(key, "an attention type, or a list of them")),
    }
}

fn layer(fields: &Object) -> Result<Layer, ImportError> {
    let (kind, known): (_, &[&str]) = match fields.text("type")? {
        Some("AttentionTypeGlobalCausal") => (LayerKind::Attention, &["type"]),
        Some("AttentionTypeSlidingWindowCausal") => {
            (LayerKind::Attention, &["type", "window_size"])
        }
        Some("ShortConvolution") => (LayerKind::Convolution, &["type", "window_size"]),
        _ => {
            return Err(fields.refuse(
                "type",
                "AttentionTypeGlobalCausal, AttentionTypeSlidingWindowCausal or ShortConvolution",
            ));
        }
    };
    if let Some(unknown) = fields.keys().find(|key| !known.contains(key)) {
        return Err(fields.object_to(unknown, "is not a field of this attention type"));
    }
    if known.len() == 1 {
        return Ok(Layer::default());
    }
    match fields.count("window_size")? {
        None => Err(fields.refuse("window_size", "an integer above 0")),
        window => Ok(Layer {
            kind,
            window: window.and_then(NonZeroU32::new),
            ..Layer::default()
        }),
    }
}

fn mlp_variant(fields: &Object) -> Result<MlpVariant, ImportError> {
    match fields.text("mlp_variant")? {
        Some("geglu_exact") => Ok(MlpVariant::GegluExact),
        Some("geglu_approx") => Ok(MlpVariant::GegluApprox),
        Some("swiglu") => Ok(MlpVariant::Swiglu),
        _ => Err(fields.refuse("mlp_variant", "geglu_exact, geglu_approx or swiglu")),
    }
}

fn query_scaling_factor(fields: &Object, projection_dim: u32) -> Result<f64, ImportError> {
    let key = "query_scaling_factor";
    match fields.get(key) {
        None if fields.mentions(key) => Err(fields.refuse(key, "\"default\" or a number")),
        Some(Value::Number(_)) => match fields.number(key)? {
            Some(factor) if factor as f32 != 0.0 => Ok(factor),
            _ => Err(fields.refuse(key, "\"default\" or a number other than 0")),
        },
        Some(value) if value.as_str() != Some("default") => {
            Err(fields.refuse(key, "\"default\" or a number"))
        }
        _ => Ok(1.0 / f64::from(projection_dim).sqrt()),
    }
}

/// The indices of layers that see no positions; none unless given.
fn layers_without_rope(fields: &Object, count: usize) -> Result<Vec<usize>, ImportError> {
    let key = "layers_without_rope";
    let index = |value: &Value| {
        let index = value.as_u64().and_then(|index| usize::try_from(index).ok());
        index.filter(|&index| index < count).ok_or_else(|| {
            let clause = format!(
                "lists {}, expected numbers of layers below {count}",
                excerpt(value)
            );
            fields.object_to(key, &clause)
        })
    };
    fields
        .list(key)?
        .unwrap_or_default()
        .iter()
        .map(index)
        .collect()
}

fn attn_temperature(fields: &Object) -> Result<Option<AttnTemperature>, ImportError> {
    let key = "attn_temperature";
    let Some(object) = fields.object(key)? else {
        return Ok(None);
    };
    let known = ["scale", "length", "only_without_rope"];
    if let Some(unknown) = object.keys().find(|key| !known.contains(key)) {
        return Err(object.object_to(unknown, "is not a field of attn_temperature"));
    }
    let scale = object.positive("scale")?;
    let length = object.count("length")?.and_then(NonZeroU32::new);
    Ok(Some(AttnTemperature {
        scale: scale.ok_or_else(|| object.refuse("scale", "a number above 0"))? as f32,
        length: length.ok_or_else(|| object.refuse("length", "an integer above 0"))?,
        only_without_rope: flag(&object, "only_without_rope")?,
    }))
}

fn dtype(fields: &Object, key: &str) -> Result<DType, ImportError> {
    match fields.text(key)? {
        None if !fields.mentions(key) => Ok(DType::F32),
        Some("float32") => Ok(DType::F32),
        Some("bfloat16") => Ok(DType::Bf16),
        Some("float16") => Ok(DType::F16),
        _ => Err(fields.refuse(key, "float32, bfloat16 or float16")),
    }
}

/// A constant, rounded to the type in which penzai keeps it.
fn round(dtype: DType, x: f64) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f64(x).to_f32(),
        DType::Bf16 => half::bf16::from_f64(x).to_f32(),
        _ => x as f32,
    }
}
