//! The kind, the window and the rotary frequencies of each layer.

use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use super::metadata::Metadata;
use super::reader::Value;
use crate::import::ImportError;
use crate::import::family::{Family, Gguf, Windows};
use crate::model::{Config, Layer, LayerKind, Rope};

/// Kind, window and rotary frequencies of each layer.
pub(super) fn layers(
    metadata: &Metadata<'_>,
    family: &Family,
    gguf: Gguf,
    config: &Config,
) -> Result<Vec<Layer>, ImportError> {
    let count = config.num_decoder_blocks;
    let is_convolution = convolutions(metadata, family, gguf, count)?;
    let window = window(metadata, gguf)?;
    let has_window = windowed_layers(metadata, family, gguf, window, count)?;
    let only_windowed = family.full_layers_without_rope && window.is_some();
    let has_rope = rotary_layers(metadata, family, gguf, &has_window, only_windowed)?;
    let layer = |((is_convolution, has_window), has_rope): ((bool, bool), bool)| {
        if is_convolution {
            return Layer {
                kind: LayerKind::Convolution,
                window: config.conv_taps,
                rope: Rope::None,
            };
        }
        let rope = if !has_rope {
            Rope::None
        } else if has_window && family.local_rope_theta.is_some() {
            Rope::Local
        } else {
            Rope::Global
        };
        Layer {
            kind: LayerKind::Attention,
            window: window.filter(|_| has_window),
            rope,
        }
    };
    let layers = is_convolution.into_iter().zip(has_window).zip(has_rope);
    Ok(layers.map(layer).collect())
}

/// Which layers are convolutions: those without kv heads.
pub(super) fn convolutions(
    metadata: &Metadata<'_>,
    family: &Family,
    gguf: Gguf,
    count: u32,
) -> Result<Vec<bool>, ImportError> {
    let key = format!("{}.attention.head_count_kv", gguf.architecture);
    let is_list = matches!(metadata.values.get(&key), Some(Value::Array(_)));
    if !family.convolutions || !is_list {
        return Ok(vec![false; count as usize]);
    }
    let has_heads = metadata.flags(&key, count)?;
    Ok(has_heads.into_iter().map(|has_heads| !has_heads).collect())
}

/// The window of the layers that have one.
fn window(metadata: &Metadata<'_>, gguf: Gguf) -> Result<Option<NonZeroU32>, ImportError> {
    let key = format!("{}.attention.sliding_window", gguf.architecture);
    let window = metadata.natural(&key)?;
    if gguf.full_attention && window != Some(0) {
        return Err(metadata.refuse(&key, "0: others are attention in chunks"));
    }
    Ok(window.or(gguf.window).and_then(NonZeroU32::new))
}

/// Which of the `count` layers have the window.
fn windowed_layers(
    metadata: &Metadata<'_>,
    family: &Family,
    gguf: Gguf,
    window: Option<NonZeroU32>,
    count: u32,
) -> Result<Vec<bool>, ImportError> {
    let is_local = match family.windows {
        Windows::Pattern { period, .. } => local_layers(metadata, gguf, period, count)?,
        _ if gguf.window_for_all || window.is_none() => vec![true; count as usize],
        _ => {
            let key = format!("{}.attention.sliding_window", gguf.architecture);
            return Err(metadata.refuse(&key, "none: which layers it is for is not known"));
        }
    };
    let has_window = |is_local: bool| is_local && window.is_some();
    Ok(is_local.into_iter().map(has_window).collect())
}

/// The layers of the pattern: `sliding_window_pattern` lists them, or says that they are all but
/// the last of every so many, `default` if there is no such key.
fn local_layers(
    metadata: &Metadata<'_>,
    gguf: Gguf,
    default: u32,
    count: u32,
) -> Result<Vec<bool>, ImportError> {
    let key = format!("{}.attention.sliding_window_pattern", gguf.architecture);
    if matches!(metadata.values.get(&key), Some(Value::Array(_))) {
        return metadata.flags(&key, count);
    }
    let period = metadata.natural(&key)?.unwrap_or(default);
    let is_local = |i: u32| period == 0 || i % period < period - 1;
    Ok((0..count).map(is_local).collect())
}

/// Which layers have a rotary embedding: `only_windowed` if only those with a window can have one.
fn rotary_layers(
    metadata: &Metadata<'_>,
    family: &Family,
    gguf: Gguf,
    has_window: &[bool],
    only_windowed: bool,
) -> Result<Vec<bool>, ImportError> {
    let switch = format!("{}.rope.scaling.finetuned", gguf.architecture);
    if gguf.rope_switch && metadata.flag(&switch)? == Some(false) {
        return Ok(vec![false; has_window.len()]);
    }
    let interval = family.no_rope_interval.filter(|_| !gguf.full_attention);
    let has_rope = |(i, &has_window): (usize, &bool)| {
        let is_skipped = interval.is_some_and(|interval| (i + 1).is_multiple_of(interval as usize));
        !is_skipped && (has_window || !only_windowed)
    };
    Ok(has_window.iter().enumerate().map(has_rope).collect())
}
