//! GGUF, llama.cpp's format: Llama, Mistral and SmolLM2 (architecture `llama`), Gemma 1 to 3, Qwen
//! 2 and 3, SmolLM3, Phi-3, OLMo 2, EXAONE 4, Hunyuan (dense), Ministral 3 (`mistral3`), Granite 3
//! and 4 (`granite`: dense), MobileLLM-R1 (`llama4` without experts), ERNIE 4.5 (dense) and LFM2,
//! in any of the types of [`Element`](super::Element).
//!
//! If a tokenizer or chat template cannot be used, the model can: the [`Description`] has the
//! reason.
//!
//! llama.cpp's converter changes checkpoints. In query and key rows of `llama`, `smollm3` and
//! `granite` the two channels of a rotary pair are adjacent; we read them in split-halves order.
//! Gemma's norms have their 1 added already. Some facts are not in the file: windows of Mistral and
//! Qwen 2, the query scale of Gemma 2 and 3 (but the 27B models are recognised), and a SmolLM3's
//! choice of layers without rotary embedding.

mod config;
mod layers;
mod metadata;
mod names;
mod reader;
mod rope;
mod tokenizer_keys;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use self::config::Described;
use self::metadata::Metadata;
use super::file::{self, MappedFile};
use super::place::unit_norm;
use super::tokenizer::from_gguf;
use super::{Checkpoint, Description, ImportError, Tensor};
use crate::model::{TensorId, TensorKind};

/// Whether the file begins as a GGUF file does.
pub fn looks_like(path: &Path) -> bool {
    file::start(path, &mut [0; 4]) == b"GGUF"
}

/// Opens a model.
///
/// # Errors
/// The file cannot be read, is damaged, or holds a model that is not supported; the error names the
/// key or tensor.
pub fn open(path: &Path) -> Result<impl Checkpoint + use<>, ImportError> {
    let open = || {
        let mut model = Model::open(MappedFile::open(path)?)?;
        let description = &mut model.described.description;
        blame(&mut description.tokenizer, path);
        blame(&mut description.chat_template, path);
        model.path = Some(path.into());
        Ok(model)
    };
    open().map_err(|error: ImportError| error.in_file(path))
}

/// Opens a model whose file is in memory, for a program that has no files.
///
/// # Errors
/// Those of [`open`], without the name of a file.
pub fn open_bytes(file: &[u8]) -> Result<impl Checkpoint + '_, ImportError> {
    Model::open(file)
}

/// The tokenizer section for the vocabulary of a file, which may hold nothing else.
///
/// # Errors
/// The file cannot be read, is damaged, has no vocabulary or one that is not supported.
pub fn tokenizer(path: &Path) -> Result<Vec<u8>, ImportError> {
    let read = || {
        let file = MappedFile::open(path)?;
        let header = reader::read(&file)?;
        let found = tokenizer_keys::read(&Metadata {
            file: &file,
            values: &header.metadata,
        })?;
        from_gguf(&found.ok_or_else(|| ImportError::new("the file has no vocabulary"))?)
    };
    read().map_err(|error| error.in_file(path))
}

/// Adds the path to the error of a part.
fn blame<T>(part: &mut Option<Result<T, ImportError>>, path: &Path) {
    if let Some(Err(error)) = part {
        error.path.get_or_insert_with(|| path.to_owned());
    }
}

/// A model in the bytes `F` of a file.
struct Model<F> {
    path: Option<PathBuf>,
    file: F,
    header: reader::GgufHeader,
    described: Described,
}

impl<F: Deref<Target = [u8]>> Model<F> {
    fn open(file: F) -> Result<Self, ImportError> {
        let header = reader::read(&file)?;
        let metadata = Metadata {
            file: &file,
            values: &header.metadata,
        };
        let described = config::describe(&metadata, &header.tensors)?;
        Ok(Model {
            path: None,
            file,
            header,
            described,
        })
    }

    fn locate(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let config = &self.described.description.config;
        if !self.described.layout.stores(id.kind) {
            return unit_norm(config);
        }
        let place = names::place(self.described.layout, id, config);
        let name = &place.name;
        let shape = &place.shape;
        let stored = self
            .header
            .tensors
            .get(name)
            .filter(|stored| stored.shape == *shape);
        let Some(stored) = stored else {
            return Err(ImportError::new(format!(
                "no tensor `{name}` of shape {shape:?}"
            )));
        };
        let rows = place.rows(
            self.described.pairing,
            config.projection_dim as usize,
            self.described.rotary_pairs,
        );
        let data = &self.file[stored.bytes.clone()];
        let mut tensor = place.tensor(stored.element, data, rows, 0.0);
        if id.kind == TensorKind::FinalNorm {
            tensor = tensor.and_then(|norm| self.described.multipliers.final_norm(norm));
        }
        tensor.map_err(|error| ImportError::new(format!("tensor `{name}`: {}", error.reason)))
    }
}

impl<F: Deref<Target = [u8]>> Checkpoint for Model<F> {
    fn description(&self) -> &Description {
        &self.described.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        self.locate(id).map_err(|error| match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        })
    }
}
