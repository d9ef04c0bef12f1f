//! The rotary frequencies: base, scaling keys and factor tensors, as llama.cpp's loader reads them.

use std::collections::BTreeMap;
use std::prelude::rust_2024::*;

use super::metadata::Metadata;
use super::reader::Stored;
use crate::import::rope::{self, Yarn};
use crate::import::{ImportError, RopeTable, Tensor};

/// What a file says about rotary embedding.
pub(super) struct Rotary {
    pub(super) table: RopeTable,
    pub(super) base: f64,
    /// The divisor of all frequencies, if there is no other scaling and it is at least 1.
    pub(super) divisor: Option<f64>,
}

/// The scaling that the keys under `{arch}.rope.scaling` ask for.
enum Scaling {
    None,
    Linear(f64),
    Yarn {
        yarn: Yarn,
        /// What cosines and sines are multiplied by.
        amplitude: f64,
    },
}

/// How many channel pairs of a head are rotated: `rope.dimension_count`, or all.
pub(super) fn pairs(
    metadata: &Metadata<'_>,
    arch: &str,
    head_dim: u32,
) -> Result<u32, ImportError> {
    let key = format!("{arch}.rope.dimension_count");
    match metadata.count(&key)? {
        None => Ok(head_dim / 2),
        Some(n) if n <= head_dim && n.is_multiple_of(2) => Ok(n / 2),
        Some(_) => Err(metadata.refuse(
            &key,
            &format!("an even number up to the head's width, {head_dim}"),
        )),
    }
}

/// The table of the global layers: `head_dim / 2` frequencies, of which all but the first `pairs`
/// are 0.
///
/// # Errors
/// A scaling that depends on the length of the text, or is unknown, or whose numbers make no sense.
pub(super) fn global(
    metadata: &Metadata<'_>,
    tensors: &BTreeMap<String, Stored>,
    arch: &str,
    head_dim: u32,
    pairs: u32,
) -> Result<Rotary, ImportError> {
    let base_key = format!("{arch}.rope.freq_base");
    let base = metadata.positive(&base_key)?.unwrap_or(10_000.0);
    let mut frequencies = rope::plain(base, 2 * pairs);
    let factors = factors(metadata, tensors, arch)?;
    if let Some(factors) = &factors {
        divide(&mut frequencies, factors)?;
    }
    let scaling = Scaling::read(metadata, arch, base)?;
    let attn_factor = metadata.positive(&format!("{arch}.rope.scaling.attn_factor"))?;
    let mut amplitude = attn_factor.unwrap_or(1.0);
    let mut divisor = None;
    match scaling {
        Scaling::None => {}
        Scaling::Linear(factor) => {
            rope::linear(&mut frequencies, factor);
            divisor = Some(factor).filter(|&factor| factor >= 1.0 && factors.is_none());
        }
        Scaling::Yarn {
            yarn,
            amplitude: yarn_amplitude,
        } => {
            if base <= 1.0 {
                return Err(metadata.refuse(&base_key, "more than 1 with yarn"));
            }
            yarn.stretch(&mut frequencies, 2 * pairs);
            amplitude *= yarn_amplitude;
        }
    }
    let amplitude = amplitude as f32;
    Ok(Rotary {
        table: RopeTable {
            amplitude,
            frequencies: finish(frequencies, base, head_dim)?,
        },
        base,
        divisor,
    })
}

/// A table without scaling, for local layers.
pub(super) fn plain(base: f64, head_dim: u32, pairs: u32) -> Result<RopeTable, ImportError> {
    Ok(RopeTable {
        amplitude: 1.0,
        frequencies: finish(rope::plain(base, 2 * pairs), base, head_dim)?,
    })
}

/// Checks the frequencies, and appends those of the channels that are not rotated.
fn finish(mut frequencies: Vec<f64>, base: f64, head_dim: u32) -> Result<Vec<f64>, ImportError> {
    if !frequencies.iter().all(|f| (*f as f32).is_finite()) {
        return Err(ImportError::new(format!(
            "a rotary base of {base} makes frequencies overflow"
        )));
    }
    frequencies.resize(head_dim as usize / 2, 0.0);
    Ok(frequencies)
}

impl Scaling {
    /// Reads the keys; `base` is that of the frequencies.
    fn read(metadata: &Metadata<'_>, arch: &str, base: f64) -> Result<Self, ImportError> {
        let key = |name: &str| format!("{arch}.rope.scaling.{name}");
        let kind = metadata.text(&key("type"))?;
        let factor = match metadata.number(&key("factor"))? {
            None => metadata.number(&format!("{arch}.rope.scale_linear"))?,
            given => given,
        };
        // 0 and 1 both mean no scaling.
        let Some(factor) = factor.filter(|&factor| factor != 0.0 && factor != 1.0) else {
            return match kind {
                None | Some("none" | "linear" | "longrope" | "yarn") => Ok(Scaling::None),
                Some(_) => Err(metadata.refuse(&key("type"), "none, linear or yarn")),
            };
        };
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(metadata.refuse(&key("factor"), "a number above 0"));
        }
        let ext_factor = key("yarn_ext_factor");
        let is_blended = metadata
            .number(&ext_factor)?
            .is_some_and(|n| n >= 0.0 && n != 1.0);
        if kind == Some("yarn") && is_blended {
            return Err(metadata.refuse(&ext_factor, "1: others are not supported"));
        }
        match kind {
            // The factors of longrope are tensors.
            Some("none" | "longrope") => Ok(Scaling::None),
            None | Some("linear") => Ok(Scaling::Linear(factor)),
            Some("yarn") => Self::yarn(metadata, arch, base, factor),
            Some(_) => Err(metadata.refuse(&key("type"), "none, linear or yarn")),
        }
    }

    /// Scaling of the type "yarn", for frequencies of the base `base`.
    fn yarn(
        metadata: &Metadata<'_>,
        arch: &str,
        base: f64,
        factor: f64,
    ) -> Result<Self, ImportError> {
        let key = |name: &str| format!("{arch}.rope.scaling.{name}");
        let original = key("original_context_length");
        let context = match metadata.count(&original)? {
            None => metadata.count(&format!("{arch}.context_length"))?,
            given => given,
        };
        let context = context.ok_or_else(|| metadata.refuse(&original, "a number of tokens"))?;
        Ok(Scaling::Yarn {
            yarn: Yarn {
                base,
                factor,
                beta_fast: metadata.positive(&key("yarn_beta_fast"))?.unwrap_or(32.0),
                beta_slow: metadata.positive(&key("yarn_beta_slow"))?.unwrap_or(1.0),
                context: f64::from(context),
                truncate: true,
            },
            amplitude: yarn_amplitude(metadata, &key, factor)?,
        })
    }
}

/// What cosines and sines are multiplied by. Converters copy `yarn_attn_factor` from the
/// `attention_factor` of a `config.json`, where it is this number itself: with it, a GGUF file and
/// the folder it was made from give the same results. (llama.cpp multiplies it by `0.1 ln(factor) +
/// 1`.) `yarn_log_multiplier` is `mscale_all_dim`, beside an `mscale` of 1.
fn yarn_amplitude(
    metadata: &Metadata<'_>,
    key: &dyn Fn(&str) -> String,
    factor: f64,
) -> Result<f64, ImportError> {
    if let Some(amplitude) = metadata.positive(&key("yarn_attn_factor"))? {
        return Ok(amplitude);
    }
    let log_multiplier = key("yarn_log_multiplier");
    let all_dim = metadata.number(&log_multiplier)?.unwrap_or(0.0).max(0.0);
    Ok(rope::yarn_amplitude(factor, 1.0) / rope::yarn_amplitude(factor, all_dim))
}

/// A divisor for each frequency: `rope_freqs` (Llama 3's scaling, computed by the converter), or
/// the factors of [longrope](check_longrope) (Phi-3).
fn factors(
    metadata: &Metadata<'_>,
    tensors: &BTreeMap<String, Stored>,
    arch: &str,
) -> Result<Option<Vec<f32>>, ImportError> {
    let long = tensors.contains_key("rope_factors_long.weight");
    let short = "rope_factors_short.weight";
    let name = if long || tensors.contains_key(short) {
        check_longrope(metadata, tensors, arch)?;
        short
    } else {
        "rope_freqs.weight"
    };
    match tensors.get(name) {
        Some(stored) => vector(metadata, stored)
            .map(Some)
            .map_err(|error| ImportError::new(format!("tensor `{name}`: {}", error.reason))),
        None if long => Err(ImportError::new(format!("tensor `{name}` is missing"))),
        None => Ok(None),
    }
}

/// Refuses longrope if the model's context is longer than the original one. It has two sets of
/// factors, for texts up to the original context and for longer texts, so which one is right for a
/// token depends on how long the text becomes. Otherwise the short set is right for all texts.
fn check_longrope(
    metadata: &Metadata<'_>,
    tensors: &BTreeMap<String, Stored>,
    arch: &str,
) -> Result<(), ImportError> {
    if tensors.contains_key("rope_freqs.weight") {
        return Err(ImportError::new(
            "tensor `rope_freqs.weight` is beside rope_factors_*, which have the same purpose",
        ));
    }
    let context = metadata.count(&format!("{arch}.context_length"))?;
    let original = metadata.count(&format!("{arch}.rope.scaling.original_context_length"))?;
    if context.is_none() || original.is_some_and(|original| context > Some(original)) {
        let reason = "longrope: two sets of rotary frequencies, and which one counts depends on \
                      the text's length";
        return Err(
            ImportError::new(reason).help("there may be a variant with a short context (\"4k\")")
        );
    }
    Ok(())
}

/// Reads a tensor that is a vector.
fn vector(metadata: &Metadata<'_>, stored: &Stored) -> Result<Vec<f32>, ImportError> {
    let [count] = *stored.shape else {
        let reason = format!("shape {:?}, expected a vector", stored.shape);
        return Err(ImportError::new(reason));
    };
    let bytes = &metadata.file[stored.bytes.clone()];
    let mut vector = vec![0.0; count];
    Tensor::dense(stored.element, bytes, 1, count)?.row(0, &mut vector)?;
    Ok(vector)
}

fn divide(frequencies: &mut [f64], factors: &[f32]) -> Result<(), ImportError> {
    if factors.len() != frequencies.len() {
        let reason = format!(
            "{} rotary factors for {} pairs of channels",
            factors.len(),
            frequencies.len()
        );
        return Err(ImportError::new(reason));
    }
    for (frequency, &factor) in frequencies.iter_mut().zip(factors) {
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(ImportError::new(format!(
                "a rotary factor of {factor}, expected a number above 0"
            )));
        }
        *frequency /= f64::from(factor);
    }
    Ok(())
}
