//! Reads `config.json` as transformers has written it since 4.3x. Keys were renamed; a key that
//! equals the class's default may be left out; `null` can mean "off" where absence means the
//! default.
//!
//! If versions disagree about what a key means, this follows transformers 5.

use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use super::layers::{convolutions, layers};
use super::rope::{self, Tables};
use crate::import::family::{Family, Mlp, QkNorm, SoftCap, Temperature};
use crate::import::json::{Object, excerpt};
use crate::import::multipliers::Multipliers;
use crate::import::{ImportError, RopeTable};
use crate::model::{AttnTemperature, Config, Layer, MlpVariant, Rope};

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

/// Reads the config of a text model, or of the text half of a multimodal one. `tie` is whether the
/// output matrix is tied to the embeddings, if a key says so; `tensors` is as in [`describe`].
fn text_model(
    family: &'static Family,
    keys: &Object,
    tie: Option<bool>,
    tensors: usize,
) -> Result<Described, ImportError> {
    let sizes = sizes(family, keys, tensors)?;
    let mut tables = rope::tables(family, keys, sizes.projection_dim)?;
    let has_local = tables.local.is_some();
    let mut layers = layers(family, keys, sizes.num_decoder_blocks, has_local)?;
    let conv_taps = convolutions(family, keys, &mut layers)?;
    let is_local = |layer: &Layer| layer.rope == Rope::Local;
    tables.local = tables.local.filter(|_| layers.iter().any(is_local));
    let eps = eps(family, keys)?;
    let multipliers = multipliers(family, keys)?;
    check_mlp(family, keys)?;
    let attn_logits_soft_cap = soft_cap(keys, "attn_logit_softcapping", family.attention_cap)?;
    let final_logit_softcap = soft_cap(keys, "final_logit_softcapping", family.logit_cap)?;
    let causal = "attention here is causal";
    refuse_true(keys, "use_bidirectional_attention", causal)?;
    let mlp_hidden_dim = mlp_hidden_dim(family, keys)?;
    let tie = flag(keys, family.tie_key)?.or(tie);
    let conv_bias = flag(keys, Some("conv_bias").filter(|_| family.convolutions))?;
    refuse_true(keys, "use_cla", "layers here share no keys and values")?;
    let config = Config {
        mlp_hidden_dim,
        use_qk_norm: use_qk_norm(family, keys)?,
        vocab_size: dimension(keys, "vocab_size", family.absent.vocab_size)?,
        mlp_variant: mlp_variant(family, keys)?,
        tie_embedder_and_logits: tie.unwrap_or(family.absent.tie_word_embeddings),
        embedding_scale: embedding_scale(family, sizes.embedding_dim, &multipliers),
        rms_norm_eps: multipliers.eps(eps) as f32,
        final_logit_softcap,
        attn_logits_soft_cap,
        conv_taps,
        ..with_queries(sizes, family, keys, &tables, &layers)?
    };
    Ok(Described {
        family,
        config,
        layers,
        global_rope: tables.global,
        local_rope: tables.local,
        rotary_pairs: tables.rotary_pairs,
        multipliers,
        attention_bias: flag(keys, family.attention_bias_key)?,
        mlp_bias: flag(keys, family.mlp_bias_key)?,
        conv_bias,
    })
}

/// The [plain config](Family::plain_config) of the family, with the sizes of the embedding, of the
/// layers and of the heads.
fn sizes(family: &Family, keys: &Object, tensors: usize) -> Result<Config, ImportError> {
    let absent = &family.absent;
    let embedding_dim = dimension(keys, "hidden_size", absent.hidden_size)?;
    let num_layers = dimension(keys, "num_hidden_layers", absent.num_hidden_layers)?;
    if num_layers as usize > tensors {
        let clause = format!("is {num_layers}, but the files hold only {tensors} tensors");
        return Err(keys.object_to("num_hidden_layers", &clause));
    }
    let num_heads = dimension(keys, "num_attention_heads", absent.num_attention_heads)?;
    let num_kv_heads = kv_heads(keys, absent.num_key_value_heads, num_heads)?;
    Ok(Config {
        num_kv_heads,
        query_head_multiplier: num_heads / num_kv_heads,
        embedding_dim,
        projection_dim: head_dim(keys, absent.head_dim, embedding_dim, num_heads)?,
        num_decoder_blocks: num_layers,
        ..family.plain_config()
    })
}

/// `config` with how queries are scaled and rotated: their factors, the bases and the divisor that
/// the rotary frequencies were made from, and the positions they are for.
fn with_queries(
    config: Config,
    family: &Family,
    keys: &Object,
    tables: &Tables,
    layers: &[Layer],
) -> Result<Config, ImportError> {
    let local_base = tables.local_base as f32;
    Ok(Config {
        query_scaling_factor: query_scale(family, keys, config.projection_dim)? as f32,
        attn_temperature: temperature(family, keys, tables, layers)?,
        max_position_embeddings: NonZeroU32::new(rope::max_positions(keys, family)?),
        rope_wavelength: tables.global_base as f32,
        local_rope_wavelength: tables.local.is_some().then_some(local_base),
        // The field means interpolation. A divisor below 1 is in the table only.
        global_scale_factor: tables
            .divisor
            .filter(|&factor| factor >= 1.0)
            .map(|factor| factor as f32),
        ..config
    })
}

/// The epsilon of the norms.
fn eps(family: &Family, keys: &Object) -> Result<f64, ImportError> {
    let eps = keys.positive(family.eps_key)?;
    Ok(eps.unwrap_or(family.absent.rms_norm_eps))
}

/// What embeddings are multiplied by.
fn embedding_scale(family: &Family, embedding_dim: u32, multipliers: &Multipliers) -> f32 {
    if family.scaled_embeddings {
        f64::from(embedding_dim).sqrt() as f32
    } else {
        multipliers.embedding_scale() as f32
    }
}

/// How queries are scaled by their position.
fn temperature(
    family: &Family,
    keys: &Object,
    tables: &Tables,
    layers: &[Layer],
) -> Result<Option<AttnTemperature>, ImportError> {
    match family.temperature {
        Temperature::None | Temperature::InRopeParameters => Ok(tables.temperature),
        Temperature::WithoutRope => temperature_without_rope(keys, layers),
    }
}

/// A flag; `None` if the family has no key for it, or the config does not mention it.
fn flag(keys: &Object, key: Option<&str>) -> Result<Option<bool>, ImportError> {
    match key {
        Some(key) => keys.flag(key),
        None => Ok(None),
    }
}

/// Refuses a config that turns on a feature that is not supported, because of `reason`.
fn refuse_true(keys: &Object, key: &str, reason: &str) -> Result<(), ImportError> {
    if keys.flag(key)? == Some(true) {
        return Err(keys.refuse(key, &format!("false: {reason}")));
    }
    Ok(())
}

/// A soft cap. The key counts only in families that can have this cap; `null` in it means none.
fn soft_cap(keys: &Object, key: &str, cap: SoftCap) -> Result<Option<f32>, ImportError> {
    match cap {
        SoftCap::IfGiven | SoftCap::Default(_) if keys.mentions(key) => {
            Ok(keys.positive(key)?.map(|cap| cap as f32))
        }
        _ => Ok(cap.default()),
    }
}

/// Whether each head's query and key are normed. Only some families let the config decide.
fn use_qk_norm(family: &Family, keys: &Object) -> Result<bool, ImportError> {
    match family.qk_norm {
        QkNorm::None => Ok(false),
        QkNorm::Weights | QkNorm::AcrossHeads => Ok(true),
        QkNorm::WeightsAfterRope => {
            if keys.flag("use_qk_norm")? == Some(false) {
                return Err(keys.refuse("use_qk_norm", "true"));
            }
            Ok(true)
        }
        QkNorm::NoWeights => Ok(keys.flag("use_qk_norm")?.unwrap_or(true)),
    }
}

/// Refuses the models of a family that have experts or recurrent layers.
fn check_mlp(family: &Family, keys: &Object) -> Result<(), ImportError> {
    match family.mlp {
        Mlp::Usual | Mlp::Adjusted => Ok(()),
        Mlp::Shared => check_shared_mlp(keys),
        Mlp::FeedForward => check_feed_forward(keys),
    }
}

/// The width of the feed-forward.
fn mlp_hidden_dim(family: &Family, keys: &Object) -> Result<u32, ImportError> {
    let absent = family.absent.intermediate_size;
    match family.mlp {
        Mlp::Usual => dimension(keys, "intermediate_size", absent),
        Mlp::Shared => dimension(keys, "shared_intermediate_size", SHARED_WIDTH),
        Mlp::FeedForward => dimension(keys, "intermediate_size_mlp", absent),
        Mlp::Adjusted => adjusted_width(keys, absent),
    }
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
pub(super) fn dimension(keys: &Object, key: &str, default: u32) -> Result<u32, ImportError> {
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
