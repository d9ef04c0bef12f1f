//! From checkpoint files to image bytes. Variety ends here (contract C4): whatever a format does
//! about tensor names, orientation, rotary pair order, `1 + w` norms or frequency scaling is
//! settled by its importer, once, on the host, and the core sees one shape.

use std::fmt;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use crate::model::{Config, Layer, TensorId};

mod ggml;
pub mod gguf;
pub mod hf;
mod json;
pub mod llama2c;
pub mod llamalike;
mod quantize;
mod roles;
mod rope;
mod safetensors;
mod tensor;
pub mod vocabulary;
mod write;

pub use ggml::Element;
pub use quantize::nearest;
pub use tensor::{Columns, Tensor};
pub use write::{PackOptions, pack_into, pack_to_file, pack_to_memory};

/// Why a checkpoint or an image was refused: which file, what is wrong, what would help. One line.
#[derive(Clone, Debug)]
pub struct ImportError {
    /// The file or folder, if one is to blame.
    pub path: Option<PathBuf>,
    /// What is wrong and where, in one clause, e.g. ``tensor `model.norm.weight`: shape [63],
    /// expected [64]``.
    pub reason: String,
    /// What would help, if we know.
    pub help: Option<String>,
}

impl ImportError {
    /// A refusal without a file (yet: see [`ImportError::in_file`]).
    pub fn new(reason: impl Into<String>) -> Self {
        ImportError {
            path: None,
            reason: reason.into(),
            help: None,
        }
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

/// Opens a checkpoint, whatever kind it is: a Hugging Face folder, a folder in the seed's own form,
/// a GGUF file or a llama2.c file.
///
/// # Errors
/// There is no such path, it holds nothing that is known, or what it holds is damaged or not
/// supported.
pub fn open(path: &Path) -> Result<Box<dyn Checkpoint>, ImportError> {
    let refuse = |reason: &str| ImportError::new(reason).in_file(path);
    path.metadata()
        .map_err(|error| refuse(&error.to_string()))?;
    Ok(if llamalike::looks_like(path) {
        Box::new(llamalike::open(path)?)
    } else if hf::looks_like(path) {
        Box::new(hf::open(path)?)
    } else if gguf::looks_like(path) {
        Box::new(gguf::open(path)?)
    } else if llama2c::looks_like(path) {
        Box::new(llama2c::open(path)?)
    } else if path.is_dir() {
        return Err(refuse("no checkpoint: the folder has no config.json"));
    } else if path
        .extension()
        .is_some_and(|extension| extension == "safetensors")
    {
        return Err(refuse("weights without their config").help("give the folder they are in"));
    } else {
        let known =
            "an image (.plm), a GGUF file, a llama2.c file (.bin), or a folder with a config.json";
        return Err(refuse("neither an image nor a checkpoint that is known")
            .help(format!("expected {known}")));
    })
}

/// A table of rotary frequencies: pair `j` (channels `j` and `j + P/2`) turns by
/// `frequencies[j] * position` radians, and cos and sin are multiplied by `amplitude` (1, except
/// for yarn).
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

/// An opened checkpoint: its description, and its tensors on demand, so that packing needs the
/// memory of one tensor.
pub trait Checkpoint {
    /// Config, layers, tokenizer and chat template.
    fn description(&self) -> &Description;

    /// A tensor the config calls for.
    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError>;
}
