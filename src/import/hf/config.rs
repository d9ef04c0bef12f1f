//! Reads `config.json` as transformers has written it since 4.3x. Keys were renamed; a key that
//! equals the class's default may be left out; `null` can mean "off" where absence means the
//! default.
//!
//! If versions disagree about what a key means, this follows transformers 5.

use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use super::rope::{self, Tables};
use crate::import::family::{Family, Mlp, QkNorm, SoftCap, Temperature, Windows};
use crate::import::json::{Object, excerpt};
use crate::import::multipliers::Multipliers;
use crate::import::{ImportError, RopeTable};
use crate::model::{AttnTemperature, Config, Layer, LayerKind, MlpVariant, Rope};

/// No model has wider heads. This bounds tables whose size depends on this number alone.
const WIDEST_HEAD: u32 = 1 << 16;
/// The width of a shared feed-forward whose config does not say it.
const SHARED_WIDTH: u32 = 1024;

/// What a `config.json` says.
pub(super) struct Described {
    pub(super) family: &'static Family,
    /// Complete, except for biases and stored types: the tensors say these.
    pub(super) config: Config,
    pub(super) layers: Vec<Layer>,
    pub(super) global_rope: RopeTable,
    pub(super) local_rope: Option<RopeTable>,
    /// How many channel pairs of a head are rotated (`partial_rotary_factor`).
    pub(super) rotary_pairs: u32,
    /// Folded into the config already, but for the final norm.
    pub(super) multipliers: Multipliers,
    /// Whether attention has biases, if the config says so.
    pub(super) attention_bias: Option<bool>,
    /// The same for the feed-forward.
    pub(super) mlp_bias: Option<bool>,
    /// The same for convolutions.
    pub(super) conv_bias: Option<bool>,
}

/// Reads a parsed `config.json`; `tensors` is how many tensors the checkpoint has, a bound on its
/// layers.
///
/// # Errors
/// A family, a feature or a value that is not supported or makes no sense; names the key.
pub(super) fn describe(map: &Map<String, Value>, tensors: usize) -> Result<Described, ImportError> {
    let root = Object::root(map);
    let model_type = root
        .text("model_type")?
        .ok_or_else(|| root.refuse("model_type", "a model family"))?;
    if !Family::is_multimodal(model_type) {
        let tie = root.flag("tie_word_embeddings")?;
        return text_model(Family::of_model_type(model_type)?, &root, tie, tensors);
    }
    // The text half of a multimodal model. In old files `text_config` has only the keys that differ
    // from the class's defaults, and may be missing.
    let nothing = Map::new();
    let text = root
        .object("text_config")?
        .unwrap_or_else(|| Object::root(&nothing));
    let inner = text.text("model_type")?;
    let family = Family::of_multimodal(model_type, inner)
        .ok_or_else(|| text.refuse("model_type", &Family::text_halves(model_type)))?;
    let tie = root
        .flag("tie_word_embeddings")?
        .or(text.flag("tie_word_embeddings")?);
    let mut described = text_model(family, &text, tie, tensors)?;
    // The multimodal class never applies the cap.
    described.config.final_logit_softcap = None;
    Ok(described)
}

fn text_model(
    family: &'static Family,
    keys: &Object,
    tie: Option<bool>,
    tensors: usize,
) -> Result<Described, ImportError> {
    let absent = &family.absent;
    let dimension = |key: &str, default: u32| dimension(keys, key, default);
    let embedding_dim = dimension("hidden_size", absent.hidden_size)?;
    let num_layers = dimension("num_hidden_layers", absent.num_hidden_layers)?;
    if num_layers as usize > tensors {
        let clause = format!("is {num_layers}, but the files hold only {tensors} tensors");
        return Err(keys.object_to("num_hidden_layers", &clause));
    }
    let num_heads = dimension("num_attention_heads", absent.num_attention_heads)?;
    let num_kv_heads = kv_heads(keys, absent.num_key_value_heads, num_heads)?;
    let head_dim = head_dim(keys, absent.head_dim, embedding_dim, num_heads)?;

    let tables = rope::tables(family, keys, head_dim)?;
    let mut layers = layers(family, keys, num_layers, tables.local.is_some())?;
    let conv_taps = convolutions(family, keys, &mut layers)?;
    let local_rope = tables
        .local
        .filter(|_| layers.iter().any(|layer| layer.rope == Rope::Local));
    let Tables {
        global,
        global_base,
        local_base,
        divisor,
        rotary_pairs,
        temperature,
        ..
    } = tables;

    let eps = keys
        .positive(family.eps_key)?
        .unwrap_or(absent.rms_norm_eps);
    let multipliers = multipliers(family, keys)?;
    match family.mlp {
        Mlp::Usual | Mlp::Adjusted => {}
        Mlp::Shared => check_shared_mlp(keys)?,
        Mlp::FeedForward => check_feed_forward(keys)?,
    }
    let soft_cap = |key: &str, cap: SoftCap| match cap {
        SoftCap::IfGiven | SoftCap::Default(_) if keys.mentions(key) => {
            Ok(keys.positive(key)?.map(|cap| cap as f32))
        }
        _ => Ok(cap.default()),
    };
    let attn_logits_soft_cap = soft_cap("attn_logit_softcapping", family.attention_cap)?;
    let final_logit_softcap = soft_cap("final_logit_softcapping", family.logit_cap)?;
    if keys.flag("use_bidirectional_attention")? == Some(true) {
        return Err(keys.refuse(
            "use_bidirectional_attention",
            "false: attention here is causal",
        ));
    }
    let flag = |key: Option<&str>| match key {
        Some(key) => keys.flag(key),
        None => Ok(None),
    };
    let mlp_hidden_dim = match family.mlp {
        Mlp::Usual => dimension("intermediate_size", absent.intermediate_size)?,
        Mlp::Shared => dimension("shared_intermediate_size", SHARED_WIDTH)?,
        Mlp::FeedForward => dimension("intermediate_size_mlp", absent.intermediate_size)?,
        Mlp::Adjusted => adjusted_width(keys, absent.intermediate_size)?,
    };
    let tie = flag(family.tie_key)?.or(tie);
    let conv_bias = flag(Some("conv_bias").filter(|_| family.convolutions))?;
    if keys.flag("use_cla")? == Some(true) {
        return Err(keys.refuse("use_cla", "false: layers here share no keys and values"));
    }
    let use_qk_norm = match family.qk_norm {
        QkNorm::None => false,
        QkNorm::Weights | QkNorm::AcrossHeads => true,
        QkNorm::WeightsAfterRope => {
            if keys.flag("use_qk_norm")? == Some(false) {
                return Err(keys.refuse("use_qk_norm", "true"));
            }
            true
        }
        QkNorm::NoWeights => keys.flag("use_qk_norm")?.unwrap_or(true),
    };
    Ok(Described {
        family,
        config: Config {
            num_kv_heads,
            query_head_multiplier: num_heads / num_kv_heads,
            embedding_dim,
            projection_dim: head_dim,
            mlp_hidden_dim,
            num_decoder_blocks: num_layers,
            vocab_size: dimension("vocab_size", absent.vocab_size)?,
            mlp_variant: mlp_variant(family, keys)?,
            tie_embedder_and_logits: tie.unwrap_or(absent.tie_word_embeddings),
            embedding_scale: if family.scaled_embeddings {
                f64::from(embedding_dim).sqrt() as f32
            } else {
                multipliers.embedding_scale() as f32
            },
            rope_wavelength: global_base as f32,
            local_rope_wavelength: local_rope.is_some().then_some(local_base as f32),
            // The field means interpolation. A divisor below 1 is in the table only.
            global_scale_factor: divisor
                .filter(|&factor| factor >= 1.0)
                .map(|factor| factor as f32),
            rms_norm_eps: multipliers.eps(eps) as f32,
            use_pre_attn_norm: family.pre_norms,
            use_pre_ffw_norm: family.pre_norms,
            use_post_attn_norm: family.post_norms,
            use_post_ffw_norm: family.post_norms,
            final_logit_softcap,
            attn_logits_soft_cap,
            query_scaling_factor: query_scale(family, keys, head_dim)? as f32,
            use_qk_norm,
            qk_norm_after_rope: family.qk_norm == QkNorm::WeightsAfterRope,
            qk_norm_across_heads: family.qk_norm == QkNorm::AcrossHeads,
            qk_norm_only_with_rope: family.qk_norm == QkNorm::NoWeights,
            attn_temperature: match family.temperature {
                Temperature::None | Temperature::InRopeParameters => temperature,
                Temperature::WithoutRope => temperature_without_rope(keys, &layers)?,
            },
            conv_taps,
            max_position_embeddings: NonZeroU32::new(rope::max_positions(keys, family)?),
            ..Config::PLAIN
        },
        layers,
        global_rope: global,
        local_rope,
        rotary_pairs,
        multipliers,
        attention_bias: flag(family.attention_bias_key)?,
        mlp_bias: flag(family.mlp_bias_key)?,
        conv_bias,
    })
}

/// The width of LFM2's feed-forward: two thirds of `block_ff_dim`, times a factor, rounded up;
/// unless `block_auto_adjust_ff_dim` is false.
fn adjusted_width(keys: &Object, default: u32) -> Result<u32, ImportError> {
    let key = if keys.count("block_ff_dim")?.is_some() {
        "block_ff_dim"
    } else {
        "intermediate_size"
    };
    let width = dimension(keys, key, default)?;
    if keys.flag("block_auto_adjust_ff_dim")? == Some(false) {
        return Ok(width);
    }
    let multiple = dimension(keys, "block_multiple_of", 256)?;
    let factor = "block_ffn_dim_multiplier";
    let mut width = f64::from((2 * u64::from(width) / 3) as u32);
    if let Some(factor) = keys.positive(factor)? {
        width = (width * factor).trunc();
    }
    let width = (width / f64::from(multiple)).ceil() * f64::from(multiple);
    if width >= 1.0 && width <= f64::from(u32::MAX) {
        Ok(width as u32)
    } else {
        Err(keys.refuse(key, "a width that stays a width when it is adjusted"))
    }
}

/// Makes convolutions of those layers that are, and returns how many taps they have.
/// `layer_types` lists them, or `full_attn_idxs` the others; without either there are none.
fn convolutions(
    family: &Family,
    keys: &Object,
    layers: &mut [Layer],
) -> Result<Option<NonZeroU32>, ImportError> {
    if !family.convolutions {
        return Ok(None);
    }
    let mut is_convolution = vec![false; layers.len()];
    if let Some(list) = keys.list("layer_types")? {
        if list.len() != layers.len() {
            return Err(wrong_length(keys, "layer_types", list, layers.len()));
        }
        for (is_convolution, kind) in is_convolution.iter_mut().zip(list) {
            *is_convolution = match kind.as_str() {
                Some("conv") => true,
                Some("full_attention") => false,
                _ => {
                    let clause = format!("says {}, expected full_attention or conv", excerpt(kind));
                    return Err(keys.object_to("layer_types", &clause));
                }
            };
        }
    } else if let Some(list) = keys.list("full_attn_idxs")? {
        is_convolution.fill(true);
        for index in list {
            let place = index.as_u64().and_then(|i| usize::try_from(i).ok());
            let Some(layer) = place.and_then(|i| is_convolution.get_mut(i)) else {
                let clause = format!("says {}, expected a layer", excerpt(index));
                return Err(keys.object_to("full_attn_idxs", &clause));
            };
            *layer = false;
        }
    }
    if !is_convolution.contains(&true) {
        return Ok(None);
    }
    let taps = NonZeroU32::new(dimension(keys, "conv_L_cache", 3)?);
    for (layer, _) in layers.iter_mut().zip(is_convolution).filter(|pair| pair.1) {
        *layer = Layer {
            kind: LayerKind::Convolution,
            window: taps,
            rope: Rope::None,
        };
    }
    Ok(taps)
}

fn query_scale(family: &Family, keys: &Object, head_dim: u32) -> Result<f64, ImportError> {
    Ok(match family.query_pre_attn_scalar {
        Some(default) => {
            let scalar = keys.positive("query_pre_attn_scalar")?;
            1.0 / scalar.unwrap_or(default).sqrt()
        }
        None if family.multipliers => keys.positive("attention_multiplier")?.unwrap_or(1.0),
        None => 1.0 / f64::from(head_dim).sqrt(),
    })
}

/// A dimension. If the key is absent, the class's default counts; `null` is not allowed.
fn dimension(keys: &Object, key: &str, default: u32) -> Result<u32, ImportError> {
    if !keys.mentions(key) {
        return Ok(default);
    }
    keys.count(key)?
        .ok_or_else(|| keys.refuse(key, "an integer above 0"))
}

fn kv_heads(keys: &Object, default: Option<u32>, heads: u32) -> Result<u32, ImportError> {
    let kv_heads = if keys.mentions("num_key_value_heads") {
        keys.count("num_key_value_heads")?
    } else {
        default
    };
    let kv_heads = kv_heads.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let clause = format!("is {heads}, not a multiple of num_key_value_heads, {kv_heads}");
        return Err(keys.object_to("num_attention_heads", &clause));
    }
    Ok(kv_heads)
}

/// `head_dim`. If it is `null`, or if it is absent and the class has no default: the hidden size
/// divided by the heads.
fn head_dim(
    keys: &Object,
    default: Option<u32>,
    hidden: u32,
    heads: u32,
) -> Result<u32, ImportError> {
    let given = if keys.mentions("head_dim") {
        keys.count("head_dim")?
    } else {
        default
    };
    let head_dim = match given {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let clause = format!(
                "is {hidden}, not a multiple of num_attention_heads, {heads}, and there is no \
                 head_dim"
            );
            return Err(keys.object_to("hidden_size", &clause));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim > WIDEST_HEAD {
        let clause = format!("is {head_dim}, expected an even number up to {WIDEST_HEAD}");
        return Err(keys.object_to("head_dim", &clause));
    }
    Ok(head_dim)
}

fn mlp_variant(family: &Family, keys: &Object) -> Result<MlpVariant, ImportError> {
    let key = family.activation_key;
    let Some(name) = keys.text(key)? else {
        return Ok(family.activation);
    };
    match name {
        "gelu" if family.gelu_is_approximate => Ok(MlpVariant::GegluApprox),
        "silu" | "swish" => Ok(MlpVariant::Swiglu),
        "gelu" | "gelu_python" => Ok(MlpVariant::GegluExact),
        // Five names for one formula.
        "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_new" | "gelu_fast" | "gelu_accurate" => {
            Ok(MlpVariant::GegluApprox)
        }
        _ => Err(keys.refuse(key, "silu, gelu or gelu_pytorch_tanh")),
    }
}

/// Window and rotary table of each layer.
fn layers(
    family: &Family,
    keys: &Object,
    count: u32,
    local_table: bool,
) -> Result<Vec<Layer>, ImportError> {
    let sliding = sliding_layers(family, keys, count)?;
    let is_sliding = sliding.iter().any(|&sliding| sliding);
    let window = if is_sliding || family.full_layers_without_rope {
        window(family, keys)?
    } else {
        None
    };
    let rotary = if family.full_layers_without_rope && window.is_some() {
        sliding.clone()
    } else {
        rotary_layers(family, keys, count)?
    };
    let layer = |(&sliding, rotary): (&bool, bool)| Layer {
        kind: LayerKind::Attention,
        window: window.filter(|_| sliding),
        rope: match (rotary, sliding && local_table) {
            (false, _) => Rope::None,
            (true, true) => Rope::Local,
            (true, false) => Rope::Global,
        },
    };
    Ok(sliding.iter().zip(rotary).map(layer).collect())
}

/// The error of a list that has not an entry for each of `count` layers.
fn wrong_length(keys: &Object, key: &str, list: &[Value], count: usize) -> ImportError {
    let entries = list.len();
    let clause = format!("has {entries} entries, expected num_hidden_layers, {count}");
    keys.object_to(key, &clause)
}

/// Which layers have a window.
fn sliding_layers(family: &Family, keys: &Object, count: u32) -> Result<Vec<bool>, ImportError> {
    // The list below does not turn windows on by itself.
    let enabled = !family.windows_are_optional || keys.flag("use_sliding_window")? == Some(true);
    let listed = match family.windows {
        // The classes of these have no `layer_types`.
        Windows::None => return Ok(vec![false; count as usize]),
        Windows::All => return Ok(vec![true; count as usize]),
        Windows::AllUnlessListed
        | Windows::Pattern { .. }
        | Windows::From(_)
        | Windows::WithoutRope => keys.list("layer_types")?,
    };
    if let Some(list) = listed {
        if list.len() != count as usize {
            return Err(wrong_length(keys, "layer_types", list, count as usize));
        }
        return list
            .iter()
            .map(|value| match value.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") if enabled => Ok(true),
                Some("sliding_attention") => Err(keys.object_to(
                    "layer_types",
                    "says sliding_attention, but use_sliding_window is not true",
                )),
                _ => {
                    let clause = format!(
                        "says {}, expected full_attention or sliding_attention",
                        excerpt(value)
                    );
                    Err(keys.object_to("layer_types", &clause))
                }
            })
            .collect();
    }
    let has_window: Vec<bool> = match family.windows {
        Windows::None => vec![false; count as usize],
        Windows::All | Windows::AllUnlessListed => vec![true; count as usize],
        Windows::Pattern { period, has_key } => {
            let given = if has_key {
                keys.count("sliding_window_pattern")?
                    .or(keys.count("_sliding_window_pattern")?)
            } else {
                None
            };
            let period = given.unwrap_or(period);
            (0..count).map(|i| (i + 1) % period != 0).collect()
        }
        Windows::From(default) => {
            let from = keys.natural("max_window_layers")?.unwrap_or(default);
            (0..count).map(|i| i >= from).collect()
        }
        Windows::WithoutRope => {
            let rotary = rotary_layers(family, keys, count)?;
            rotary.iter().map(|rotary| !rotary).collect()
        }
    };
    Ok(has_window
        .into_iter()
        .map(|has_window| enabled && has_window)
        .collect())
}

/// The window: absent means the class default, `null` means none.
fn window(family: &Family, keys: &Object) -> Result<Option<NonZeroU32>, ImportError> {
    if keys.mentions("sliding_window") {
        return Ok(keys.count("sliding_window")?.and_then(NonZeroU32::new));
    }
    Ok(family.absent.sliding_window.and_then(NonZeroU32::new))
}

/// Which layers have rotary embedding: all or none if it [is optional](Family::rope_is_optional);
/// all in other families, except those with a [`no_rope_interval`](Family::no_rope_interval), whose
/// `no_rope_layers` says 1 for those that do.
fn rotary_layers(family: &Family, keys: &Object, count: u32) -> Result<Vec<bool>, ImportError> {
    if family.rope_is_optional {
        let is_rotary = keys.text("position_embedding_type")? == Some("rope");
        return Ok(vec![is_rotary; count as usize]);
    }
    let Some(interval) = family.no_rope_interval else {
        return Ok(vec![true; count as usize]);
    };
    let list = keys.list("no_rope_layers")?;
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        let interval = keys.count("no_rope_layer_interval")?.unwrap_or(interval);
        return Ok((0..count).map(|i| (i + 1) % interval != 0).collect());
    };
    if list.len() < count as usize {
        return Err(wrong_length(keys, "no_rope_layers", list, count as usize));
    }
    let rotary = |value: &Value| match (value.as_u64(), value.as_bool()) {
        (Some(0), _) | (_, Some(false)) => Ok(false),
        (Some(1), _) | (_, Some(true)) => Ok(true),
        _ => Err(keys.object_to(
            "no_rope_layers",
            &format!("says {}, expected 0 or 1", excerpt(value)),
        )),
    };
    list.iter().take(count as usize).map(rotary).collect()
}

/// Granite's multipliers; 1 in other families.
fn multipliers(family: &Family, keys: &Object) -> Result<Multipliers, ImportError> {
    let multiplier = |key: &str| {
        if family.multipliers {
            Ok(keys.positive(key)?.unwrap_or(1.0))
        } else {
            Ok(1.0)
        }
    };
    Ok(Multipliers {
        embedding: multiplier("embedding_multiplier")?,
        residual: multiplier("residual_multiplier")?,
        logits: multiplier("logits_scaling")?,
    })
}

/// Refuses what only some models of a family are made of: recurrent layers and experts.
fn check_shared_mlp(keys: &Object) -> Result<(), ImportError> {
    let experts = keys.natural("num_local_experts")?;
    if experts != Some(0) {
        return Err(keys.refuse("num_local_experts", "0: it is a mixture of experts"));
    }
    let mut key = "layer_types";
    let mut list = keys.list(key)?;
    if list.is_none() {
        key = "layers_block_type"; // its older name
        list = keys.list(key)?;
    }
    let Some(list) = list else {
        return Err(keys.refuse("layer_types", "a list that says which layers are attention"));
    };
    let is_attention = |kind: &Value| {
        let kind = kind.as_str();
        matches!(kind, Some("attention" | "full_attention"))
    };
    match list.iter().find(|kind| !is_attention(kind)) {
        Some(kind) => {
            let clause = format!("says {}: recurrent layers are not supported", excerpt(kind));
            Err(keys.object_to(key, &clause))
        }
        None => Ok(()),
    }
}

/// Refuses what Llama 4 has and MobileLLM-R1 does not: experts, and attention in chunks.
fn check_feed_forward(keys: &Object) -> Result<(), ImportError> {
    let experts = "it is a mixture of experts";
    match keys.list("moe_layers")? {
        Some([]) => {}
        Some(_) => {
            let clause = format!("lists layers: {experts}");
            return Err(keys.object_to("moe_layers", &clause));
        }
        None => return Err(keys.refuse("moe_layers", &format!("[]: {experts}"))),
    }
    let chunks = "attention in chunks is not supported";
    match keys.list("layer_types")? {
        Some(list) => {
            let is_full = |kind: &&Value| kind.as_str() == Some("full_attention");
            if let Some(kind) = list.iter().find(|kind| !is_full(kind)) {
                let clause = format!("says {}: {chunks}", excerpt(kind));
                return Err(keys.object_to("layer_types", &clause));
            }
        }
        // Absent means the class default, `null` means none.
        None if keys.mentions("attention_chunk_size")
            && keys.count("attention_chunk_size")?.is_none() => {}
        None => {
            return Err(keys.refuse("attention_chunk_size", &format!("null: {chunks}")));
        }
    }
    Ok(())
}

/// Llama 4 scales the queries of layers without rotary embedding by their position.
fn temperature_without_rope(
    keys: &Object,
    layers: &[Layer],
) -> Result<Option<AttnTemperature>, ImportError> {
    let is_off = keys.flag("attn_temperature_tuning")? == Some(false);
    if is_off || layers.iter().all(|layer| layer.rope != Rope::None) {
        return Ok(None);
    }
    let scale = keys.positive("attn_scale")?.unwrap_or(0.1);
    let length = keys.count("floor_scale")?.unwrap_or(8192);
    Ok(NonZeroU32::new(length).map(|length| AttnTemperature {
        scale: scale as f32,
        length,
        only_without_rope: true,
    }))
}
