//! Penzai-style folders: a `config.json` with the fields of penzai's `LlamalikeTransformerConfig`,
//! and a `weights.safetensors` with penzai's labels.
//!
//! penzai addresses axes by name, so a file may have the axes of a tensor in any order. The
//! header's `__metadata__` says which, as `axes:<label>`, comma-separated. Nothing is transposed:
//! the importer reads any order.
//!
//! Some fields say what penzai's model cannot: `use_pre_attn_norm` and `use_pre_ffw_norm` (`true`
//! unless given), `qk_norm_after_rope`, `qk_norm_across_heads`, `qk_norm_only_with_rope`, and
//! `attn_temperature` with its `scale`, `length` and `only_without_rope`. See
//! [`Config`](crate::model::Config). `layers_without_rope` lists the indices of layers without
//! rotary embedding. Layers of the `attention_type` `ShortConvolution`, with a `window_size`, are
//! [convolutions](crate::model::LayerKind::Convolution), which have biases if `conv_bias` is set.
//! The rows of `convolution/in` have the axes `branches` (b, c, x) and `channels`, and
//! `convolution/taps` has `taps` and `channels`.
//!
//! The config means what it means in penzai (git aac7808). What penzai refuses is refused. So are
//! values that penzai accepts but that make no sense: windows, caps, wavelengths and sizes of 0 or
//! less. Two points about types:
//! * `parameter_dtype` decides what `rms_norm_eps` is rounded to, as in penzai.
//! * `activation_dtype` decides what the embedding scale, the query scale and the soft caps are
//!   rounded to, as in penzai. Activations are always computed in f32.

mod axes;
mod config;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use super::safetensors::Weights;
use super::{Checkpoint, Columns, Description, Element, ImportError, Tensor, json};
use crate::model::TensorId;

/// Whether a folder is for [`open`]: its `config.json` has penzai's `num_decoder_blocks`.
pub fn looks_like(folder: &Path) -> bool {
    json::read_config(&folder.join("config.json"))
        .is_ok_and(|map| map.contains_key("num_decoder_blocks"))
}

/// Opens a folder with `config.json` and `weights.safetensors`.
///
/// # Errors
/// A file is missing or damaged; the config has a field or a value that penzai rejects or that
/// makes no sense; or the parameters are not exactly those that the config calls for.
pub fn open(folder: &Path) -> Result<impl Checkpoint + use<>, ImportError> {
    let config_path = folder.join("config.json");
    let weights_path = folder.join("weights.safetensors");
    let map = json::read_config(&config_path)?;
    let weights = Weights::file(weights_path.clone())?;
    let description =
        config::describe(&map, &weights).map_err(|error| error.in_file(&config_path))?;
    let folder = Folder {
        path: weights_path,
        description,
        weights,
    };
    folder
        .check()
        .map_err(|error| error.in_file(&folder.path))?;
    Ok(folder)
}

struct Folder {
    /// The weights' file.
    path: PathBuf,
    description: Description,
    weights: Weights,
}

impl Folder {
    /// Checks that the parameters are all there, with the axes the config calls for, and no others.
    fn check(&self) -> Result<(), ImportError> {
        let mut used = HashSet::new();
        for id in self.description.tensor_ids() {
            let (label, axes) = axes::of(id, &self.description.config);
            axes.locate(&label, &self.weights)?;
            used.insert(label);
        }
        let mut strangers: Vec<&str> = self
            .weights
            .names()
            .filter(|name| !used.contains(*name))
            .collect();
        strangers.sort_unstable();
        match strangers.first() {
            None => Ok(()),
            Some(name) => {
                let count = strangers.len();
                Err(ImportError::new(format!(
                    "parameter `{name}` has no place in this config ({count} such parameters)"
                )))
            }
        }
    }
}

impl Checkpoint for Folder {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let (label, axes) = axes::of(id, &self.description.config);
        let located = axes
            .locate(&label, &self.weights)
            .map_err(|error| error.in_file(&self.path))?;
        // `locate` refuses what is no element.
        let element = located.stored.element().unwrap_or(Element::F32);
        let columns = located.columns();
        let columns = if columns.iter().copied().eq(0..columns.len()) {
            Columns::Contiguous(columns.len())
        } else {
            Columns::Offsets(columns)
        };
        Tensor::new(element, located.stored.data, located.rows(), columns, 0.0)
            .map_err(|error| error.in_file(&self.path))
    }
}
