//! The kind, the window and the rotary frequencies of each layer of a `config.json`.

use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use serde_json::Value;

use super::config::dimension;
use crate::import::ImportError;
use crate::import::family::{Family, Windows};
use crate::import::json::{Object, excerpt};
use crate::model::{Layer, LayerKind, Rope};

/// Window and rotary frequencies of each layer.
pub(super) fn layers(
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

/// Makes convolutions of those layers that are, and returns how many taps they have.
pub(super) fn convolutions(
    family: &Family,
    keys: &Object,
    layers: &mut [Layer],
) -> Result<Option<NonZeroU32>, ImportError> {
    if !family.convolutions {
        return Ok(None);
    }
    let is_convolution = convolution_layers(keys, layers.len())?;
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

/// Which layers are convolutions: `layer_types` lists them, or `full_attn_idxs` the others; without
/// either there are none.
fn convolution_layers(keys: &Object, count: usize) -> Result<Vec<bool>, ImportError> {
    if let Some(list) = keys.list("layer_types")? {
        if list.len() != count {
            return Err(wrong_length(keys, "layer_types", list, count));
        }
        let is_convolution = |kind: &Value| match kind.as_str() {
            Some("conv") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => {
                let clause = format!("says {}, expected full_attention or conv", excerpt(kind));
                Err(keys.object_to("layer_types", &clause))
            }
        };
        return list.iter().map(is_convolution).collect();
    }
    let Some(list) = keys.list("full_attn_idxs")? else {
        return Ok(vec![false; count]);
    };
    let mut is_convolution = vec![true; count];
    for index in list {
        let place = index.as_u64().and_then(|i| usize::try_from(i).ok());
        let Some(layer) = place.and_then(|i| is_convolution.get_mut(i)) else {
            let clause = format!("says {}, expected a layer", excerpt(index));
            return Err(keys.object_to("full_attn_idxs", &clause));
        };
        *layer = false;
    }
    Ok(is_convolution)
}

/// Which layers have a window: as `layer_types` lists, or else as is the rule of the family.
fn sliding_layers(family: &Family, keys: &Object, count: u32) -> Result<Vec<bool>, ImportError> {
    // The list does not turn windows on by itself.
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
        return listed_windows(keys, list, count, enabled);
    }
    let mut has_window = unlisted_windows(family, keys, count)?;
    if !enabled {
        has_window.fill(false);
    }
    Ok(has_window)
}

/// Which layers have a window according to `layer_types`; `enabled` is whether they may have.
fn listed_windows(
    keys: &Object,
    list: &[Value],
    count: u32,
    enabled: bool,
) -> Result<Vec<bool>, ImportError> {
    let key = "layer_types";
    if list.len() != count as usize {
        return Err(wrong_length(keys, key, list, count as usize));
    }
    let has_window = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") if enabled => Ok(true),
        Some("sliding_attention") => {
            let clause = "says sliding_attention, but use_sliding_window is not true";
            Err(keys.object_to(key, clause))
        }
        _ => {
            let found = excerpt(value);
            let clause = format!("says {found}, expected full_attention or sliding_attention");
            Err(keys.object_to(key, &clause))
        }
    };
    list.iter().map(has_window).collect()
}

/// Which layers have a window according to the family.
fn unlisted_windows(family: &Family, keys: &Object, count: u32) -> Result<Vec<bool>, ImportError> {
    match family.windows {
        Windows::None => Ok(vec![false; count as usize]),
        Windows::All | Windows::AllUnlessListed => Ok(vec![true; count as usize]),
        Windows::Pattern { period, has_key } => {
            let given = if has_key {
                keys.count("sliding_window_pattern")?
                    .or(keys.count("_sliding_window_pattern")?)
            } else {
                None
            };
            let period = given.unwrap_or(period);
            Ok((0..count).map(|i| (i + 1) % period != 0).collect())
        }
        Windows::From(default) => {
            let from = keys.natural("max_window_layers")?.unwrap_or(default);
            Ok((0..count).map(|i| i >= from).collect())
        }
        Windows::WithoutRope => {
            let rotary = rotary_layers(family, keys, count)?;
            Ok(rotary.iter().map(|rotary| !rotary).collect())
        }
    }
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

/// The error of a list that has not an entry for each of `count` layers.
fn wrong_length(keys: &Object, key: &str, list: &[Value], count: usize) -> ImportError {
    let entries = list.len();
    let clause = format!("has {entries} entries, expected num_hidden_layers, {count}");
    keys.object_to(key, &clause)
}
