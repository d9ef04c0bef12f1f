//! penzai's labels, and the named axes of its parameters.

use std::prelude::rust_2024::*;

use crate::import::ImportError;
use crate::import::safetensors::{Stored, Weights};
use crate::model::{Config, TensorId, TensorKind};

/// An axis, and its size.
type Axis = (&'static str, usize);

/// The axes of a parameter: those of the rows of a matrix, and those of its columns, each from the
/// outermost to the innermost.
pub(super) struct Axes {
    rows: Vec<Axis>,
    columns: Vec<Axis>,
    /// The layer and the number of layers, if layers are stacked.
    block: Option<(usize, usize)>,
}

/// A parameter found in the file.
pub(super) struct Located<'w> {
    pub(super) stored: Stored<'w>,
    /// `(size, stride)` of the axes, and where the block starts, in elements.
    rows: Vec<(usize, usize)>,
    columns: Vec<(usize, usize)>,
    start: usize,
}

/// The label of a tensor and its axes.
pub(super) fn of(id: TensorId, config: &Config) -> (String, Axes) {
    use TensorKind::*;
    let embedding = ("embedding", config.embedding_dim as usize);
    let neurons = ("neurons", config.mlp_hidden_dim as usize);
    let vocabulary = ("vocabulary", config.vocab_size as usize);
    let projection = ("projection", config.projection_dim as usize);
    let channels = ("channels", config.embedding_dim as usize);
    let taps = config.conv_taps.map_or(0, |taps| taps.get() as usize);
    let (heads, kv_heads) = heads(config);
    let with = |mut heads: Vec<Axis>| {
        heads.push(projection);
        heads
    };
    let (rows, columns) = match id.kind {
        Embedder | LmHead => (vec![vocabulary], vec![embedding]),
        Query => (with(heads), vec![embedding]),
        Key | Value => (with(kv_heads), vec![embedding]),
        Output => (vec![embedding], with(heads)),
        GatingLinear | ValueLinear => (vec![neurons], vec![embedding]),
        OutLinear => (vec![embedding], vec![neurons]),
        QueryNorm if config.qk_norm_across_heads => (vec![], with(heads)),
        KeyNorm if config.qk_norm_across_heads => (vec![], with(kv_heads)),
        QueryNorm | KeyNorm => (vec![], vec![projection]),
        FinalNorm | PreAttentionNorm | PostAttentionNorm | PreFfwNorm | PostFfwNorm => {
            (vec![], vec![embedding])
        }
        ConvIn => (vec![("branches", 3), channels], vec![embedding]),
        ConvTaps => (vec![], vec![("taps", taps), channels]),
        ConvOut => (vec![embedding], vec![channels]),
        ConvInBias => (vec![], vec![("branches", 3), channels]),
        ConvTapsBias => (vec![], vec![channels]),
        ConvOutBias => (vec![], vec![embedding]),
        // penzai has no biases, so the config never calls for these.
        QueryBias => (vec![], with(heads)),
        KeyBias | ValueBias => (vec![], with(kv_heads)),
        OutputBias | OutLinearBias => (vec![], vec![embedding]),
        GatingLinearBias | ValueLinearBias => (vec![], vec![neurons]),
    };
    let stacked = id.kind.is_per_layer() && config.use_layer_stack;
    let block = stacked.then_some((id.layer as usize, config.num_decoder_blocks as usize));
    let axes = Axes {
        rows,
        columns,
        block,
    };
    (label(id, config), axes)
}

/// The label of a tensor. Layers that are stacked share one.
fn label(id: TensorId, config: &Config) -> String {
    let name = id.kind.label();
    match (id.kind.is_per_layer(), config.use_layer_stack) {
        (false, _) => format!("transformer/{name}"),
        (true, false) => format!("transformer/block_{}/{name}", id.layer),
        (true, true) => format!("transformer/blocks/{name}"),
    }
}

/// The head axes of queries and of keys. penzai leaves out axes of size 1, and the names of the
/// others depend on that.
fn heads(config: &Config) -> (Vec<Axis>, Vec<Axis>) {
    let k = config.num_kv_heads as usize;
    let m = config.query_head_multiplier as usize;
    match (k, m) {
        (_, 1) => (vec![("heads", k)], vec![("heads", k)]),
        (1, _) => (vec![("query_heads", m)], vec![]),
        _ => (
            vec![("head_groups", k), ("query_heads", m)],
            vec![("head_groups", k)],
        ),
    }
}

impl Axes {
    /// Finds the parameter in the file; its axes may have any order.
    ///
    /// # Errors
    /// It is missing; the file does not say the order of its axes; an axis is wrong or has another
    /// size; or its elements are not F32, F16 or BF16.
    pub(super) fn locate<'w>(
        &self,
        label: &str,
        weights: &'w Weights,
    ) -> Result<Located<'w>, ImportError> {
        let axes = self.order(label, weights)?;
        let shape: Vec<usize> = axes.iter().map(|axis| axis.1).collect();
        let stored = weights.expect(label, &shape)?;
        // Row-major, and the file holds all the elements: no stride and no offset can overflow.
        let stride = |name: &str| {
            shape
                .iter()
                .rev()
                .zip(axes.iter().rev())
                .take_while(|(_, a)| a.0 != name)
                .map(|(n, _)| n)
                .product()
        };
        let strides = |axes: &[Axis]| {
            axes.iter()
                .map(|&(name, size)| (size, stride(name)))
                .collect()
        };
        let start = self.block.map_or(0, |(layer, _)| layer * stride("blocks"));
        Ok(Located {
            stored,
            rows: strides(&self.rows),
            columns: strides(&self.columns),
            start,
        })
    }

    /// The axes of the parameter in the order in which the file stores them.
    fn order(&self, label: &str, weights: &Weights) -> Result<Vec<Axis>, ImportError> {
        let refuse = |what: String| Err(ImportError::new(format!("parameter `{label}`: {what}")));
        let block = self.block.map(|(_, count)| ("blocks", count));
        let wanted: Vec<Axis> = block
            .into_iter()
            .chain(self.rows.iter().chain(&self.columns).copied())
            .collect();
        let names: Vec<&str> = wanted.iter().map(|axis| axis.0).collect();
        let names = names.join(",");
        let Some(order) = weights.metadata(&format!("axes:{label}")) else {
            return match weights.get(label) {
                Some(_) => refuse(format!("the header's __metadata__ has no `axes:{label}`")),
                None => refuse(format!("missing, expected axes {names}")),
            };
        };
        let other_axes = || refuse(format!("axes {order:?}, expected {names} in any order"));
        let mut axes: Vec<Axis> = Vec::new();
        for name in order.split(',') {
            match wanted.iter().find(|axis| axis.0 == name) {
                Some(axis) if !axes.contains(axis) => axes.push(*axis),
                _ => return other_axes(),
            }
        }
        if axes.len() != wanted.len() {
            return other_axes();
        }
        Ok(axes)
    }
}

impl Located<'_> {
    /// Where each row starts.
    pub(super) fn rows(&self) -> Vec<usize> {
        offsets(&self.rows)
            .into_iter()
            .map(|offset| self.start + offset)
            .collect()
    }

    /// Where each column is, from a row's start.
    pub(super) fn columns(&self) -> Vec<usize> {
        offsets(&self.columns)
    }
}

/// The offsets of all elements along some axes, the last axis running fastest.
fn offsets(axes: &[(usize, usize)]) -> Vec<usize> {
    axes.iter().fold(vec![0], |outer, &(size, stride)| {
        outer
            .iter()
            .flat_map(|start| (0..size).map(move |i| start + i * stride))
            .collect()
    })
}
