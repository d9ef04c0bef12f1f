//! From metadata to a [`Description`]: what the keys mean. What the format has no key for is in the
//! table of [families](Family), and agrees with llama.cpp's loader (`load_arch_hparams` of each
//! model in its `src/models`).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use super::layers::{convolutions, layers};
use super::metadata::Metadata;
use super::names;
use super::reader::{Stored, Value};
use super::{rope, tokenizer_keys};
use crate::import::family::{Family, Gguf, SoftCap};
use crate::import::multipliers::Multipliers;
use crate::import::place::Layout;
use crate::import::rope::Pairing;
use crate::import::round::nearest;
use crate::import::tokenizer::{for_rows, from_gguf, with_variables};
use crate::import::{Description, ImportError, heads_fit, kinds};
use crate::model::{AttnTemperature, Config, DType, Layer, Rope, tensor_ids};

/// What a file says about its model.
pub(super) struct Described {
    pub(super) description: Description,
    pub(super) layout: Layout,
    /// Folded into the config already, but for the final norm.
    pub(super) multipliers: Multipliers,
    pub(super) pairing: Pairing,
    /// How many channel pairs of a head have a rotary embedding.
    pub(super) rotary_pairs: usize,
}

/// Keys that can change the computation in ways that are not supported, and the values that change
/// nothing.
const NEUTRAL: [(&str, Value); 5] = [
    ("expert_count", Value::Unsigned(0)),
    ("attention.causal", Value::Bool(true)),
    ("attention.clamp_kqv", Value::Float(0.0)),
    ("attention.max_alibi_bias", Value::Float(0.0)),
    ("use_parallel_residual", Value::Bool(false)),
];
/// The same in families without [`multipliers`](Family::multipliers).
const NO_MULTIPLIERS: [(&str, Value); 3] = [
    ("embedding_scale", Value::Float(1.0)),
    ("residual_scale", Value::Float(1.0)),
    ("logit_scale", Value::Float(1.0)),
];
/// The same in families without [`temperature`](Gguf::temperature).
const NO_TEMPERATURE: [(&str, Value); 1] = [("attention.temperature_scale", Value::Float(0.0))];

/// Describes the model of a file, and checks that its tensors are those that the description calls
/// for.
///
/// # Errors
/// A key that is missing, makes no sense or asks for what is not supported; a tensor that is
/// missing, has the wrong shape or has no place.
pub(super) fn describe(
    metadata: &Metadata<'_>,
    tensors: &BTreeMap<String, Stored>,
) -> Result<Described, ImportError> {
    let name = architecture(metadata)?;
    let (family, gguf) = Family::of_architecture(name)?;
    refuse_unsupported(metadata, family, gguf)?;
    let multipliers = multipliers(metadata, family, name)?;
    let mut config = config(metadata, tensors, family, gguf)?;
    config.embedding_scale *= multipliers.embedding_scale() as f32;
    config.rms_norm_eps = multipliers.eps(f64::from(config.rms_norm_eps)) as f32;
    if !heads_fit(&config) {
        let key = format!("{name}.attention.head_count");
        return Err(metadata.refuse(&key, "heads that fit 32 bits together"));
    }
    // Checks the config's numbers against the tensors before anything of that size is allocated.
    let layout = names::layout(tensors, family);
    let layers = layers(metadata, family, gguf, &config)?;
    let ids = tensor_ids(&config, kinds(&layers));
    names::check(tensors, ids, layout, &config)?;

    let pairs = rope::pairs(metadata, name, config.projection_dim)?;
    let rotary = rope::global(metadata, tensors, name, config.projection_dim, pairs)?;
    config.rope_wavelength = rotary.base as f32;
    config.global_scale_factor = rotary.divisor.map(|divisor| divisor as f32);
    if gguf.temperature {
        config.attn_temperature = temperature(metadata, name)?;
    }

    let is_local = |layer: &Layer| layer.rope == Rope::Local;
    let local_base = local_base(metadata, family, name)?.filter(|_| layers.iter().any(is_local));
    config.local_rope_wavelength = local_base.map(|base| base as f32);
    let plain = |base| rope::plain(base, config.projection_dim, pairs);
    let local_rope = local_base.map(plain).transpose()?;

    Ok(Described {
        description: Description {
            config,
            layers,
            global_rope: rotary.table,
            local_rope,
            tokenizer: for_rows(tokenizer(metadata), config.vocab_size),
            chat_template: chat_template(metadata).transpose(),
        },
        layout,
        multipliers,
        pairing: gguf.pairing,
        rotary_pairs: pairs as usize,
    })
}

/// Refuses a file with a key that would change the computation.
fn refuse_unsupported(
    metadata: &Metadata<'_>,
    family: &Family,
    gguf: Gguf,
) -> Result<(), ImportError> {
    let no_multipliers = NO_MULTIPLIERS.iter().filter(|_| !family.multipliers);
    let no_temperature = NO_TEMPERATURE.iter().filter(|_| !gguf.temperature);
    for (key, neutral) in NEUTRAL.iter().chain(no_multipliers).chain(no_temperature) {
        let key = format!("{}.{key}", gguf.architecture);
        let value = metadata.values.get(&key);
        if value.is_some_and(|value| value != neutral) {
            return Err(metadata.refuse(&key, "none: this is not supported"));
        }
    }
    Ok(())
}

/// The base of the rotary frequencies of layers with a window, if it can be another.
fn local_base(
    metadata: &Metadata<'_>,
    family: &Family,
    architecture: &str,
) -> Result<Option<f64>, ImportError> {
    let Some(default) = family.local_rope_theta else {
        return Ok(None);
    };
    let given = metadata.positive(&format!("{architecture}.rope.freq_base_swa"))?;
    Ok(Some(given.unwrap_or(default)))
}

/// The scale of queries by their position.
fn temperature(
    metadata: &Metadata<'_>,
    architecture: &str,
) -> Result<Option<AttnTemperature>, ImportError> {
    let key = format!("{architecture}.attention.temperature_scale");
    if matches!(metadata.number(&key)?, None | Some(0.0)) {
        return Ok(None);
    }
    let scale = metadata.positive(&key)?;
    let length_key = format!("{architecture}.rope.scaling.original_context_length");
    let length = metadata.count(&length_key)?.and_then(NonZeroU32::new);
    let length = length.ok_or_else(|| metadata.refuse(&length_key, "a number of tokens"))?;
    Ok(scale.map(|scale| AttnTemperature {
        scale: scale as f32,
        length,
        only_without_rope: false,
    }))
}

/// Granite's multipliers; 1 in other families, and where a file has none.
fn multipliers(
    metadata: &Metadata<'_>,
    family: &Family,
    architecture: &str,
) -> Result<Multipliers, ImportError> {
    let multiplier = |name: &str| {
        if !family.multipliers {
            return Ok(1.0);
        }
        let key = format!("{architecture}.{name}");
        // To llama.cpp, 0 means that there is none.
        match metadata.number(&key)? {
            None | Some(0.0) => Ok(1.0),
            Some(_) => Ok(metadata.positive(&key)?.unwrap_or(1.0)),
        }
    };
    Ok(Multipliers {
        embedding: multiplier("embedding_scale")?,
        residual: multiplier("residual_scale")?,
        logits: multiplier("logit_scale")?,
    })
}

/// The tokenizer section, if the file has a vocabulary.
fn tokenizer(metadata: &Metadata<'_>) -> Result<Option<Vec<u8>>, ImportError> {
    tokenizer_keys::read(metadata)?
        .map(|vocabulary| from_gguf(&vocabulary))
        .transpose()
}

/// The chat template, with the variables that llama.cpp gives it. If there is no default template
/// but exactly one with a name, that one.
fn chat_template(metadata: &Metadata<'_>) -> Result<Option<String>, ImportError> {
    let mut source = metadata.text("tokenizer.chat_template")?;
    if source.is_none()
        && let [name] = metadata.texts("tokenizer.chat_templates")?.as_slice()
    {
        source = metadata.text(&format!("tokenizer.chat_template.{name}"))?;
    }
    let Some(source) = source else {
        return Ok(None);
    };
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let mut variables = Vec::new();
    for name in ["bos_token", "eos_token"] {
        let id = metadata.natural(&format!("tokenizer.ggml.{name}_id"))?;
        let token = id.and_then(|id| tokens.get(id as usize));
        variables.extend(token.map(|token| (name.to_owned(), (*token).to_owned())));
    }
    Ok(Some(with_variables(source, &variables)))
}

/// The architecture's name. Rejects a file that does not hold a whole model.
fn architecture<'f>(metadata: &Metadata<'f>) -> Result<&'f str, ImportError> {
    if let Some(kind) = metadata.text("general.type")?
        && kind != "model"
    {
        return Err(metadata.refuse("general.type", "\"model\""));
    }
    if metadata
        .natural("split.count")?
        .is_some_and(|count| count > 1)
    {
        let error = metadata.refuse("split.count", "a model in one file");
        return Err(error.help("join the parts with llama.cpp's `llama-gguf-split --merge`"));
    }
    metadata
        .text("general.architecture")?
        .ok_or_else(|| metadata.refuse("general.architecture", "a name"))
}

/// The config, except for the fields about rotary frequencies.
fn config(
    metadata: &Metadata<'_>,
    tensors: &BTreeMap<String, Stored>,
    family: &Family,
    gguf: Gguf,
) -> Result<Config, ImportError> {
    let key = |rest: &str| format!("{}.{rest}", gguf.architecture);
    let embedding_dim = required(metadata, &key("embedding_length"))?;
    let num_decoder_blocks = layer_count(metadata, tensors, gguf)?;
    let heads = Heads::read(metadata, family, gguf, embedding_dim)?;
    let conv_taps = conv_taps(metadata, family, gguf, num_decoder_blocks)?;
    let vocab_size = vocab_size(tensors)?;
    let eps_key = key("attention.layer_norm_rms_epsilon");
    let eps = metadata.positive(&eps_key)?;
    let eps = eps.ok_or_else(|| metadata.refuse(&eps_key, "a number above 0"))?;
    let mlp_hidden_dim = required(metadata, &key("feed_forward_length"))?;
    let logit_cap = key("final_logit_softcapping");
    let attention_cap = key("attn_logit_softcapping");
    let final_logit_softcap = soft_cap(metadata, &logit_cap, family.logit_cap)?;
    let attn_logits_soft_cap = soft_cap(metadata, &attention_cap, family.attention_cap)?;
    let query_scale = query_scale(metadata, gguf, num_decoder_blocks, embedding_dim, &heads)?;
    let context = metadata.count(&key("context_length"))?;
    Ok(Config {
        num_kv_heads: heads.kv,
        query_head_multiplier: heads.query / heads.kv,
        embedding_dim,
        projection_dim: heads.width,
        mlp_hidden_dim,
        num_decoder_blocks,
        vocab_size,
        tie_embedder_and_logits: !has_head_of_its_own(metadata, tensors),
        embedding_scale: if family.scaled_embeddings {
            libm::sqrt(f64::from(embedding_dim)) as f32
        } else {
            1.0
        },
        rms_norm_eps: eps as f32,
        final_logit_softcap,
        attn_logits_soft_cap,
        query_scaling_factor: query_scale,
        parameter_dtype: commonest_matrix_type(tensors),
        qkv_bias: has_bias(tensors, &["attn_q", "attn_k", "attn_v", "attn_qkv"]),
        output_bias: has_bias(tensors, &["attn_output"]),
        mlp_bias: has_bias(tensors, &["ffn_gate", "ffn_up", "ffn_down"]),
        conv_bias: has_bias(tensors, &["shortconv"]),
        conv_taps,
        max_position_embeddings: context.and_then(NonZeroU32::new),
        ..family.plain_config()
    })
}

/// A number that every file has.
fn required(metadata: &Metadata<'_>, key: &str) -> Result<u32, ImportError> {
    metadata
        .uniform(key)?
        .ok_or_else(|| metadata.refuse(key, "an integer above 0"))
}

/// The number of layers: no more than there are tensors.
fn layer_count(
    metadata: &Metadata<'_>,
    tensors: &BTreeMap<String, Stored>,
    gguf: Gguf,
) -> Result<u32, ImportError> {
    let key = format!("{}.block_count", gguf.architecture);
    let count = required(metadata, &key)?;
    if count as usize > tensors.len() {
        let tensors = tensors.len();
        let expected = format!("no more layers than the file has tensors, {tensors}");
        return Err(metadata.refuse(&key, &expected));
    }
    Ok(count)
}

/// How many taps convolutions have, if any of the `layers` layers is one.
fn conv_taps(
    metadata: &Metadata<'_>,
    family: &Family,
    gguf: Gguf,
    layers: u32,
) -> Result<Option<NonZeroU32>, ImportError> {
    if !convolutions(metadata, family, gguf, layers)?.contains(&true) {
        return Ok(None);
    }
    let taps = required(
        metadata,
        &format!("{}.shortconv.l_cache", gguf.architecture),
    )?;
    Ok(NonZeroU32::new(taps))
}

/// A soft cap: 0 means none. Files from before these keys leave them out.
fn soft_cap(
    metadata: &Metadata<'_>,
    key: &str,
    absent: SoftCap,
) -> Result<Option<f32>, ImportError> {
    match metadata.number(key)? {
        Some(0.0) => Ok(None),
        Some(_) => Ok(metadata.positive(key)?.map(|cap| cap as f32)),
        None => Ok(absent.default()),
    }
}

/// What queries are multiplied by. 0 means that the file does not say it.
fn query_scale(
    metadata: &Metadata<'_>,
    gguf: Gguf,
    layers: u32,
    embedding: u32,
    heads: &Heads,
) -> Result<f32, ImportError> {
    let key = format!("{}.attention.scale", gguf.architecture);
    match metadata.number(&key)? {
        Some(n) if n != 0.0 => Ok(metadata.positive(&key)?.unwrap_or(n) as f32),
        _ => Ok(default_query_scale(
            gguf,
            layers,
            embedding,
            heads.query,
            heads.width,
        )),
    }
}

/// Whether one of these tensors of a layer has a bias.
fn has_bias(tensors: &BTreeMap<String, Stored>, stems: &[&str]) -> bool {
    let is_bias = |name: &String| {
        let mut parts = name.split('.').skip(2);
        let stem = parts.next();
        stem.is_some_and(|stem| stems.contains(&stem)) && parts.last() == Some("bias")
    };
    tensors.keys().any(is_bias)
}

/// How many heads there are, and how wide they are.
struct Heads {
    query: u32,
    kv: u32,
    width: u32,
}

impl Heads {
    fn read(
        metadata: &Metadata<'_>,
        family: &Family,
        gguf: Gguf,
        embedding_dim: u32,
    ) -> Result<Self, ImportError> {
        let architecture = gguf.architecture;
        let key = |rest: &str| format!("{architecture}.attention.{rest}");
        let expected = |rest: &str, what: &str| metadata.refuse(&key(rest), what);
        let query = metadata.uniform(&key("head_count"))?;
        let query = query.ok_or_else(|| expected("head_count", "an integer above 0"))?;
        let kv = if family.convolutions {
            metadata.uniform_or_zero(&key("head_count_kv"))?
        } else {
            metadata.uniform(&key("head_count_kv"))?
        };
        let kv = kv.unwrap_or(query);
        if !query.is_multiple_of(kv) {
            let what = format!("a multiple of head_count_kv, {kv}");
            return Err(expected("head_count", &what));
        }
        let width = match metadata.count(&key("key_length"))? {
            Some(given) => given,
            None if embedding_dim.is_multiple_of(query) => embedding_dim / query,
            None => {
                let key = format!("{architecture}.embedding_length");
                return Err(metadata.refuse(&key, &format!("a multiple of head_count, {query}")));
            }
        };
        if !width.is_multiple_of(2) {
            return Err(expected("key_length", "an even number"));
        }
        let values = metadata.count(&key("value_length"))?;
        if values.is_some_and(|values| values != width) {
            return Err(expected("value_length", &format!("key_length, {width}")));
        }
        Ok(Heads { query, kv, width })
    }
}

/// The number of rows of the embedding table.
fn vocab_size(tensors: &BTreeMap<String, Stored>) -> Result<u32, ImportError> {
    let embedder = tensors.get("token_embd.weight");
    let Some(&[vocab, _]) = embedder.map(|stored| stored.shape.as_slice()) else {
        return Err(ImportError::new(
            "tensor `token_embd.weight` is missing or not a matrix",
        ));
    };
    u32::try_from(vocab).map_err(|_| {
        ImportError::new(format!(
            "tensor `token_embd.weight`: a vocabulary of {vocab} is too large"
        ))
    })
}

/// Whether there is an output matrix that differs from the embeddings. One that is the same, which
/// some converters write for tied models, need not be stored twice.
fn has_head_of_its_own(metadata: &Metadata<'_>, tensors: &BTreeMap<String, Stored>) -> bool {
    let same = |a: &Stored, b: &Stored| {
        (a.element, &a.shape) == (b.element, &b.shape)
            && metadata.file[a.bytes.clone()] == metadata.file[b.bytes.clone()]
    };
    match (
        tensors.get("token_embd.weight"),
        tensors.get("output.weight"),
    ) {
        (Some(embeddings), Some(head)) => !same(embeddings, head),
        (_, head) => head.is_some(),
    }
}

/// `head_dim^-0.5`, or `(embedding_dim / heads)^-0.5` in models of
/// [`wide_query_layers`](Gguf::wide_query_layers) layers.
fn default_query_scale(gguf: Gguf, layers: u32, embedding: u32, heads: u32, head_dim: u32) -> f32 {
    let width = if gguf.wide_query_layers == Some(layers) {
        embedding / heads
    } else {
        head_dim
    };
    (1.0 / libm::sqrt(f64::from(width))) as f32
}

/// The type most matrices are stored in; of two that are equally common, the one that comes first
/// in ggml's order.
fn commonest_matrix_type(tensors: &BTreeMap<String, Stored>) -> DType {
    let mut counts = BTreeMap::new();
    for stored in tensors.values().filter(|stored| stored.shape.len() == 2) {
        *counts.entry(stored.element).or_insert(0usize) += 1;
    }
    let mut commonest = (0, DType::F32);
    for (element, count) in counts {
        if count > commonest.0 {
            commonest = (count, nearest(element));
        }
    }
    commonest.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_27b_gemmas_scale_queries_by_the_width_of_the_stream() {
        let scale = |architecture, layers, embedding, heads, head_dim| {
            let (_, gguf) = Family::of_architecture(architecture).unwrap();
            default_query_scale(gguf, layers, embedding, heads, head_dim)
        };
        assert_eq!(scale("gemma2", 46, 4608, 32, 128), 1.0 / 12.0); // 144^-0.5
        assert_eq!(scale("gemma3", 62, 5376, 32, 128), 0.077_151_68); // 168^-0.5
        assert_eq!(scale("gemma2", 26, 2304, 8, 256), 1.0 / 16.0);
        assert_eq!(scale("llama", 46, 4608, 32, 64), 1.0 / 8.0);
    }
}
