//! The `config.json` of a penzai-style folder.

use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use crate::import::json::{Object, excerpt};
use crate::import::safetensors::Weights;
use crate::import::{Description, ImportError, RopeTable, heads_fit, rope};
use crate::model::{Config, DType, Layer, MlpVariant, Rope};

/// The fields of `LlamalikeTransformerConfig`, all of them.
const FIELDS: [&str; 23] = [
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
    "use_post_attn_norm",
    "use_post_ffw_norm",
    "final_logit_softcap",
    "attn_logits_soft_cap",
    "query_scaling_factor",
    "parameter_dtype",
    "activation_dtype",
    "use_layer_stack",
    "use_qk_norm",
    "global_scale_factor",
    "local_rope_wavelength",
];

/// Wider heads than any model has. It bounds tables whose size follows from this number alone.
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
    // A required field must not be null; another may be if it may be None in Python.
    let required = |key: &str, expected: &str| fields.refuse(key, expected);
    let dimension = |key: &str| {
        fields
            .count(key)?
            .ok_or_else(|| required(key, "an integer above 0"))
    };
    let flag = |key: &str| {
        if fields.mentions(key) {
            fields
                .flag(key)?
                .ok_or_else(|| required(key, "true or false"))
        } else {
            Ok(false)
        }
    };
    let positive = |key: &str, default: f64| {
        if fields.mentions(key) {
            fields
                .positive(key)?
                .ok_or_else(|| required(key, "a number above 0"))
        } else {
            Ok(default)
        }
    };

    let num_decoder_blocks = fields
        .natural("num_decoder_blocks")?
        .ok_or_else(|| required("num_decoder_blocks", "an integer of at least 0"))?;
    let use_layer_stack = flag("use_layer_stack")?;
    check_layers(&fields, num_decoder_blocks, use_layer_stack, weights)?;
    let projection_dim = dimension("projection_dim")?;
    if !projection_dim.is_multiple_of(2) || projection_dim > WIDEST_HEAD {
        return Err(required(
            "projection_dim",
            &format!("an even number up to {WIDEST_HEAD}"),
        ));
    }
    let embedding_dim = dimension("embedding_dim")?;
    let tie_embedder_and_logits = fields
        .flag("tie_embedder_and_logits")?
        .ok_or_else(|| required("tie_embedder_and_logits", "true or false"))?;
    let parameter_dtype = dtype(&fields, "parameter_dtype")?;
    let activation_dtype = dtype(&fields, "activation_dtype")?;

    let windows = windows(&fields, num_decoder_blocks, use_layer_stack)?;
    let rope_wavelength = positive("rope_wavelength", 10_000.0)?;
    let local_rope_wavelength = fields.positive("local_rope_wavelength")?;
    let global_scale_factor = fields.positive("global_scale_factor")?;
    if windows.contains(&None) && global_scale_factor.is_some_and(|factor| factor < 1.0) {
        return Err(required("global_scale_factor", "at least 1"));
    }
    let table = |wavelength: f64, divisor: f64| {
        let mut frequencies = rope::plain(wavelength, projection_dim);
        rope::linear(&mut frequencies, divisor);
        if frequencies.iter().all(|f| (*f as f32).is_finite()) {
            Ok(RopeTable {
                amplitude: 1.0,
                frequencies,
            })
        } else {
            Err(ImportError::new(format!(
                "a rope wavelength of {wavelength} makes rotary frequencies overflow"
            )))
        }
    };
    let global_rope = table(rope_wavelength, global_scale_factor.unwrap_or(1.0))?;
    let local_rope = Some(table(
        local_rope_wavelength.unwrap_or(rope_wavelength),
        1.0,
    )?)
    .filter(|local| *local != global_rope && windows.iter().any(Option::is_some));
    let rope = |window: &Option<NonZeroU32>| {
        if window.is_some() && local_rope.is_some() {
            Rope::Local
        } else {
            Rope::Global
        }
    };
    let layers = windows
        .iter()
        .map(|window| Layer {
            window: *window,
            rope: rope(window),
        })
        .collect();

    let eps = round(parameter_dtype, positive("rms_norm_eps", 1e-6)?);
    if eps <= 0.0 {
        return Err(required(
            "rms_norm_eps",
            &format!("a number above 0 in {}", parameter_dtype.name()),
        ));
    }
    let cap = |key: &str| {
        Ok::<_, ImportError>(
            fields
                .positive(key)?
                .map(|cap| round(activation_dtype, cap)),
        )
    };
    let config = Config {
        num_kv_heads: dimension("num_kv_heads")?,
        query_head_multiplier: dimension("query_head_multiplier")?,
        embedding_dim,
        projection_dim,
        mlp_hidden_dim: dimension("mlp_hidden_dim")?,
        num_decoder_blocks,
        vocab_size: dimension("vocab_size")?,
        mlp_variant: mlp_variant(&fields)?,
        tie_embedder_and_logits,
        embedding_scale: if tie_embedder_and_logits {
            round(activation_dtype, f64::from((embedding_dim as f32).sqrt()))
        } else {
            1.0
        },
        rope_wavelength: rope_wavelength as f32,
        local_rope_wavelength: local_rope_wavelength.map(|wavelength| wavelength as f32),
        // If it is below 1 here, no layer is global, and nothing uses it.
        global_scale_factor: global_scale_factor
            .filter(|&factor| factor >= 1.0)
            .map(|factor| factor as f32),
        rms_norm_eps: eps,
        use_post_attn_norm: flag("use_post_attn_norm")?,
        use_post_ffw_norm: flag("use_post_ffw_norm")?,
        // penzai tests the truth of this one, so 0 turns it off. It compares the other one with
        // None.
        final_logit_softcap: match fields.number("final_logit_softcap")? {
            Some(0.0) => None,
            _ => cap("final_logit_softcap")?,
        },
        attn_logits_soft_cap: cap("attn_logits_soft_cap")?,
        query_scaling_factor: round(
            activation_dtype,
            query_scaling_factor(&fields, projection_dim)?,
        ),
        parameter_dtype,
        activation_dtype,
        use_layer_stack,
        use_qk_norm: flag("use_qk_norm")?,
        ..Config::PLAIN
    };
    // The checks above have refused everything that this refuses, as long as the rules agree.
    config
        .check()
        .map_err(|error| ImportError::new(error.to_string()))?;
    if !heads_fit(&config) {
        return Err(ImportError::new(
            "`num_kv_heads` times `query_head_multiplier` times `projection_dim` is too large",
        ));
    }
    Ok(Description {
        config,
        layers,
        global_rope,
        local_rope,
        tokenizer: None,
        chat_template: None,
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

/// The window of each layer, `None` for a global one. The config has one type for all layers, or a
/// list that repeats.
fn windows(
    fields: &Object,
    count: u32,
    stacked: bool,
) -> Result<Vec<Option<NonZeroU32>>, ImportError> {
    let key = "attention_type";
    match fields.get(key) {
        None if fields.mentions(key) => {
            Err(fields.refuse(key, "an attention type, or a list of them"))
        }
        None => Ok(vec![None; count as usize]),
        Some(Value::Object(_)) => {
            let one = fields
                .object(key)?
                .map(|one| window(&one))
                .transpose()?
                .flatten();
            Ok(vec![one; count as usize])
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
                    Value::Object(map) => window(&Object::root(map)).map_err(|mut error| {
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

fn window(fields: &Object) -> Result<Option<NonZeroU32>, ImportError> {
    let known: &[&str] = match fields.text("type")? {
        Some("AttentionTypeGlobalCausal") => &["type"],
        Some("AttentionTypeSlidingWindowCausal") => &["type", "window_size"],
        _ => {
            return Err(fields.refuse(
                "type",
                "AttentionTypeGlobalCausal or AttentionTypeSlidingWindowCausal",
            ));
        }
    };
    if let Some(unknown) = fields.keys().find(|key| !known.contains(key)) {
        return Err(fields.object_to(unknown, "is not a field of this attention type"));
    }
    if known.len() == 1 {
        return Ok(None);
    }
    match fields.count("window_size")? {
        None => Err(fields.refuse("window_size", "an integer above 0")),
        window => Ok(window.and_then(NonZeroU32::new)),
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
