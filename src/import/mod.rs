//! From checkpoint files to image bytes. What differs between formats ends here: an importer
//! settles tensor names, orientation, the order of rotary pairs, `1 + w` norms and frequency
//! scaling once, on the host, and the core sees one form.
//!
//! What differs between model families is one row of a table, whatever the format. The manual says
//! [how to add one](crate::manual::adding_a_family).

use std::fmt;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use crate::model::{Config, Layer, LayerKind, TensorId, tensor_ids};
use file::MappedFile;

mod adapter;
mod family;
pub(crate) mod file;
mod ggml;
pub mod gguf;
pub mod grammar;
pub mod hf;
mod json;
pub mod llama2c;
pub mod llamalike;
mod multipliers;
mod place;
mod refused;
mod rope;
mod round;
mod safetensors;
mod tensor;
pub mod tokenizer;
mod trim;
mod write;

pub use ggml::Element;
pub(crate) use round::check_range;
use round::nearest;
use tensor::Columns;
pub use tensor::Tensor;
pub use trim::Trimmed;
pub use write::{
    PackOptions, Packed, PackedMatrix, image_bytes, pack_into, pack_to_file, pack_to_memory,
};

/// Why a checkpoint or an image was rejected: which file, what is wrong, and what helps. One line.
///
/// Example: [`Checkpoint`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImportError {
    /// The file or folder with the fault, if it is known.
    pub path: Option<PathBuf>,
    /// What is wrong and where, in one clause, e.g. ``tensor `model.norm.weight`: shape [63],
    /// expected [64]``.
    pub reason: String,
    /// What helps, if that is known.
    pub help: Option<String>,
}

impl ImportError {
    /// An error without a file; see [`ImportError::in_file`].
    pub fn new(reason: impl Into<String>) -> Self {
        ImportError {
            path: None,
            reason: reason.into(),
            help: None,
        }
    }

    /// Names the file with the fault, unless one is named already.
    pub fn in_file(mut self, path: &Path) -> Self {
        self.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Adds what helps.
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

/// Opens a checkpoint, whatever kind it is: a Hugging Face folder, a penzai-style folder, a GGUF
/// file or a llama2.c file.
///
/// # Errors
/// There is no such path, it holds nothing that is known, or what it holds is damaged or not
/// supported.
pub fn open(path: &Path) -> Result<Box<dyn Checkpoint>, ImportError> {
    path.metadata()
        .map_err(|error| ImportError::new(error.to_string()).in_file(path))?;
    if path.is_dir() {
        adapter::refuse(path)?;
    }
    Ok(if llamalike::looks_like(path) {
        Box::new(llamalike::open(path)?)
    } else if hf::looks_like(path) {
        Box::new(hf::open(path)?)
    } else if gguf::looks_like(path) {
        Box::new(gguf::open(path)?)
    } else if llama2c::looks_like(path) {
        Box::new(llama2c::open(path)?)
    } else {
        return Err(unknown(path).in_file(path));
    })
}

/// Why a file or folder is not a checkpoint, and what the user may have meant.
fn unknown(path: &Path) -> ImportError {
    const WHOLE_FOLDER: &str = "give the folder that it is in";
    if path.is_dir() {
        let error = ImportError::new("no checkpoint: the folder has no config.json");
        return match lone_file(path, &["gguf", "plm"]) {
            Some(name) => error.help(format!("give the file in it, {name}")),
            None => error,
        };
    }
    // Opening it fails if it is not a regular file, or a Git LFS pointer.
    let start = match MappedFile::open(path) {
        Ok(file) => file.get(..8).unwrap_or(&file).to_vec(),
        Err(error) => return error,
    };
    if start.is_empty() {
        return ImportError::new("an empty file");
    }
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    if extension == "safetensors" {
        return ImportError::new("weights without their config").help(WHOLE_FOLDER);
    }
    if extension == "json" {
        return ImportError::new("one file of a checkpoint").help(WHOLE_FOLDER);
    }
    // A zip archive, or a pickle of protocol 2 or later.
    if start.starts_with(b"PK\x03\x04") || matches!(start[..], [0x80, 2..=5, ..]) {
        return ImportError::new("a file in PyTorch's own format").help(safetensors::CONVERT);
    }
    let known =
        "an image (.plm), a GGUF file, a llama2.c file (.bin), or a folder with a config.json";
    ImportError::new("neither an image nor a checkpoint that is known")
        .help(format!("expected {known}"))
}

/// The name of the only file in a folder that has one of these extensions.
fn lone_file(folder: &Path, extensions: &[&str]) -> Option<String> {
    let entries = folder.read_dir().ok()?.flatten();
    let mut found = entries.map(|entry| entry.path()).filter(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension))
    });
    let name = found.next()?.file_name()?.to_str()?.to_owned();
    found.next().is_none().then_some(name)
}

/// Whether the width of all query heads together fits 32 bits. If it does, every kind has a
/// [shape](crate::model::TensorKind::shape).
fn heads_fit(config: &Config) -> bool {
    let heads = config
        .num_kv_heads
        .checked_mul(config.query_head_multiplier);
    heads
        .and_then(|heads| heads.checked_mul(config.projection_dim))
        .is_some()
}

/// A table of rotary frequencies: pair `j` (channels `j` and `j + P/2`) turns by
/// `frequencies[j] * position` radians, and cos and sin are multiplied by `amplitude` (1, except
/// for yarn).
///
/// Example: [`Checkpoint`].
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Multiplies cos and sin.
    pub amplitude: f32,
    /// Radians a position, `P/2` of them; 0 leaves a pair alone (partial rotary).
    pub frequencies: Vec<f64>,
}

/// Everything that an image is made from.
///
/// Example: [`Checkpoint`].
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
    /// The tokenizer section, from [`tokenizer`]; or why the tokenizer that the checkpoint has
    /// cannot be used. The image then holds none: a model can be run on token ids.
    pub tokenizer: Option<Result<Vec<u8>, ImportError>>,
    /// The chat template, Jinja source; or why it cannot be read.
    pub chat_template: Option<Result<String, ImportError>>,
}

/// The kind of each layer.
fn kinds(layers: &[Layer]) -> impl Fn(u32) -> LayerKind + '_ {
    |layer| {
        layers
            .get(layer as usize)
            .map_or(LayerKind::Attention, |layer| layer.kind)
    }
}

impl Description {
    /// The tensors that an image has, in its order.
    pub fn tensor_ids(&self) -> impl Iterator<Item = TensorId> + '_ {
        tensor_ids(&self.config, kinds(&self.layers))
    }
}

/// An opened checkpoint: its description, and its tensors one at a time, so that packing needs
/// memory for only one.
///
/// [`open`] opens the formats that pocketlm knows. A program with weights of its own implements
/// this trait:
///
/// ```
/// use pocketlm::import::{Checkpoint, Description, Element, ImportError, Tensor};
/// use pocketlm::model::TensorId;
///
/// struct Ones(Description);
///
/// impl Checkpoint for Ones {
///     fn description(&self) -> &Description {
///         &self.0
///     }
///
///     fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
///         let (rows, columns) = id.kind.shape(&self.0.config).unwrap_or_default();
///         let bytes = 1f32.to_le_bytes().repeat(rows * columns);
///         Tensor::dense(Element::F32, bytes, rows, columns)
///     }
/// }
/// #
/// # use pocketlm::import::{PackOptions, RopeTable, pack_to_memory};
/// # use pocketlm::model::{Config, Layer, Model, Rope};
/// let config = Config {
///     num_kv_heads: 1,
///     query_head_multiplier: 1,
///     embedding_dim: 4,
///     projection_dim: 4,
///     mlp_hidden_dim: 8,
///     num_decoder_blocks: 1,
///     vocab_size: 10,
///     query_scaling_factor: 0.5,
///     ..Config::PLAIN
/// };
/// let ones = Ones(Description {
///     config,
///     layers: vec![Layer { rope: Rope::Global, ..Layer::default() }],
///     global_rope: RopeTable { amplitude: 1.0, frequencies: vec![1.0, 0.01] },
///     local_rope: None,
///     tokenizer: None,
///     chat_template: None,
/// });
/// let image = pack_to_memory(&ones, &PackOptions::default(), &mut |_, _| {})?;
/// assert_eq!(*Model::open(&image)?.config(), config);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Checkpoint {
    /// Config, layers, tokenizer and chat template.
    fn description(&self) -> &Description;

    /// A tensor the config calls for.
    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError>;

    /// The matrix as an image stores it, if it is packed already: see
    /// [`quantize`](crate::quantize). An image then has that, whatever the options say.
    fn packed(&self, _id: TensorId) -> Option<&PackedMatrix> {
        None
    }
}
