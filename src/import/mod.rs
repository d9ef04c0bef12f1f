//! From checkpoint files to image bytes. Variety ends here (contract C4): whatever a format does about
//! tensor names, orientation, rotary pair order, `1 + w` norms or frequency scaling is settled by its
//! importer, once, on the host, and the core sees one shape.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use crate::model::{Config, Layer, TensorId};

pub mod hf;
mod json;
pub mod llamalike;
mod roles;
mod rope;
mod safetensors;
pub mod vocabulary;

/// Why a checkpoint or an image was refused: which file, what is wrong, what would help. One line.
#[derive(Clone, Debug)]
pub struct ImportError {
    /// The file or folder, if one is to blame.
    pub path: Option<PathBuf>,
    /// What is wrong and where, in one clause, e.g. ``tensor `model.norm.weight`: shape [63], expected [64]``.
    pub reason: String,
    /// What would help, if we know.
    pub help: Option<String>,
}

impl ImportError {
    /// A refusal without a file (yet: see [`ImportError::in_file`]).
    pub fn new(reason: impl Into<String>) -> Self {
        ImportError { path: None, reason: reason.into(), help: None }
    }

    /// Names the file to blame, unless one is named already.
    pub fn in_file(mut self, path: &Path) -> Self {
        self.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Adds what would help.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&self.reason)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ImportError {}

/// How a checkpoint stores the elements of a tensor: plain numbers, or one of ggml's block types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)] // ggml's own names
pub enum Element {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
}

/// A matrix (or a vector, as one row) of a checkpoint, where it lies in the file: `[rows][columns]`, outputs by inputs.
///
/// Element `(r, c)` is number `rows[r] + columns[c]` of `data`, counted in elements; so transposed, stacked,
/// fused and permuted tensors are all described, not copied.
pub struct Tensor<'c> {
    /// How the elements are stored.
    pub element: Element,
    /// The bytes of the whole stored tensor, little-endian.
    pub data: Cow<'c, [u8]>,
    /// Where each row starts, in elements. For block types a multiple of the block length.
    pub rows: Vec<usize>,
    /// How a row goes on.
    pub columns: Columns,
    /// Added to every element in f32: 1 for Gemma's norms, else 0.
    pub add: f32,
}

/// How the columns of a [`Tensor`] follow each other.
pub enum Columns {
    /// Side by side: column `c` is `c` elements after the row's start. The only choice for block types.
    Contiguous(usize),
    /// Column `c` is this many elements after the row's start.
    Offsets(Vec<usize>),
}

/// A table of rotary frequencies: pair `j` (channels `j` and `j + P/2`) turns by
/// `frequencies[j] * position` radians, and cos and sin are multiplied by `amplitude` (1, except for yarn).
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Multiplies cos and sin.
    pub amplitude: f32,
    /// Radians a position, `P/2` of them; 0 leaves a pair alone (partial rotary).
    pub frequencies: Vec<f64>,
}

/// Everything that an image is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The config.
    pub config: Config,
    /// `num_decoder_blocks` layers.
    pub layers: Vec<Layer>,
    /// The table of layers with [`Rope::Global`](crate::model::Rope::Global).
    pub global_rope: RopeTable,
    /// The table of layers with [`Rope::Local`](crate::model::Rope::Local), if there are any.
    pub local_rope: Option<RopeTable>,
    /// The tokenizer section, from [`vocabulary`].
    pub tokenizer: Option<Vec<u8>>,
    /// The chat template, Jinja source.
    pub chat_template: Option<String>,
}

/// An opened checkpoint: its description, and its tensors on demand, so that packing needs the memory of one tensor.
pub trait Checkpoint {
    /// Config, layers, tokenizer and chat template.
    fn description(&self) -> &Description;

    /// A tensor the config calls for.
    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError>;
}
