//! A checkpoint's safetensors files: one, or several shards with an index, each mapped.
//!
//! The `safetensors` crate checks a file's header: every tensor within the file, none overlapping,
//! no holes, sizes that fit shapes. This module adds what concerns several files, and says which of
//! them is to blame.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::prelude::rust_2024::*;

use ::safetensors::tensor::{Metadata, SafeTensors};
use ::safetensors::{Dtype, SafeTensorError};
use serde_json::Value;

use super::{Element, ImportError, json};
use crate::host::file::MappedFile;

/// The crate's own limit on a header; an index says less.
const INDEX_LIMIT: u64 = 100_000_000;

/// Opened safetensors files, and which of them holds which tensor.
pub(super) struct Weights {
    shards: Vec<Shard>,
    /// Tensor name to shard.
    holder: HashMap<String, usize>,
}

struct Shard {
    path: PathBuf,
    file: MappedFile,
    header: Metadata,
    /// Where the header ends.
    start: usize,
}

/// A tensor as it is stored.
pub(super) struct Stored<'w> {
    /// The file that holds it.
    pub(super) path: &'w Path,
    dtype: Dtype,
    /// Row-major.
    pub(super) shape: &'w [usize],
    /// Little-endian, exactly as long as the shape says.
    pub(super) data: &'w [u8],
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// There is neither; or one of the files is damaged; or the index names a file outside of the
    /// folder or a tensor that its file lacks; or two shards hold tensors of one name and the index
    /// does not say which counts.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, ImportError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() {
            return Self::file(single);
        }
        if index.exists() {
            return Self::sharded(folder, &index).map_err(|error| error.in_file(&index));
        }
        let error = ImportError::new("no model.safetensors and no model.safetensors.index.json")
            .in_file(folder);
        Err(
            if folder.join("pytorch_model.bin").exists()
                || folder.join("pytorch_model.bin.index.json").exists()
            {
                error.help("pytorch_model.bin must be converted first: load it with transformers and `save_pretrained`")
            } else {
                error
            },
        )
    }

    /// Opens one file.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(super) fn file(path: PathBuf) -> Result<Self, ImportError> {
        let shard = Shard::open(path)?;
        let holder = shard
            .header
            .tensors()
            .into_keys()
            .map(|name| (name, 0))
            .collect();
        Ok(Weights {
            shards: vec![shard],
            holder,
        })
    }

    fn sharded(folder: &Path, index: &Path) -> Result<Self, ImportError> {
        let map = json::read(index, INDEX_LIMIT)?;
        let Some(Value::Object(weight_map)) = map.get("weight_map") else {
            return Err(ImportError::new("`weight_map` is not an object"));
        };
        let mut files: BTreeMap<&str, usize> = BTreeMap::new();
        for (tensor, file) in weight_map {
            let Some(file) = file.as_str() else {
                return Err(ImportError::new(format!(
                    "`weight_map.{tensor}` is not a string"
                )));
            };
            // A file name and nothing else: an index must not lead out of its folder.
            let mut parts = Path::new(file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == file)
            {
                let reason = format!(
                    "`weight_map.{tensor}` is {file:?}, expected the name of a file in this folder"
                );
                return Err(ImportError::new(reason));
            }
            files.insert(file, 0);
        }
        let mut weights = Weights {
            shards: Vec::new(),
            holder: HashMap::new(),
        };
        for (number, (file, shard)) in files.iter_mut().enumerate() {
            *shard = number;
            weights.shards.push(Shard::open(folder.join(file))?);
        }
        for (number, shard) in weights.shards.iter().enumerate() {
            for name in shard.header.tensors().into_keys() {
                let listed = weight_map
                    .get(&name)
                    .and_then(Value::as_str)
                    .and_then(|file| files.get(file))
                    .copied();
                if listed.is_some_and(|listed| listed != number) {
                    continue;
                }
                if weights.holder.insert(name.clone(), number).is_some() {
                    let reason = format!(
                        "tensor `{name}` is in more than one file, and the index lists none of them"
                    );
                    return Err(ImportError::new(reason));
                }
            }
        }
        for (tensor, file) in weight_map {
            if !weights.holder.contains_key(tensor) {
                return Err(ImportError::new(format!(
                    "`weight_map.{tensor}` is {file}, which holds no such tensor"
                )));
            }
        }
        Ok(weights)
    }

    /// How many tensors there are.
    pub(super) fn len(&self) -> usize {
        self.holder.len()
    }

    /// The names of all tensors, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.holder.keys().map(String::as_str)
    }

    /// A value from the `__metadata__` of any of the files.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.shards
            .iter()
            .find_map(|shard| shard.header.metadata().as_ref()?.get(key))
            .map(String::as_str)
    }

    /// A tensor by name.
    pub(super) fn get(&self, name: &str) -> Option<Stored<'_>> {
        let shard = self.shards.get(*self.holder.get(name)?)?;
        let info = shard.header.info(name)?;
        let (from, to) = info.data_offsets;
        let data = shard
            .file
            .get(shard.start.checked_add(from)?..shard.start.checked_add(to)?)?;
        Some(Stored {
            path: &shard.path,
            dtype: info.dtype,
            shape: &info.shape,
            data,
        })
    }

    /// A tensor that the model needs, with the shape the config calls for.
    ///
    /// # Errors
    /// It is missing, or has another shape, or elements other than F32, F16 and BF16.
    pub(super) fn expect(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, ImportError> {
        let Some(stored) = self.get(name) else {
            return Err(ImportError::new(format!(
                "tensor `{name}` is missing, expected shape {shape:?}"
            )));
        };
        let refuse = |what: String| {
            Err(ImportError::new(format!("tensor `{name}`: {what}")).in_file(stored.path))
        };
        if stored.shape != shape {
            return refuse(format!(
                "shape {:?}, expected {shape:?} by config.json",
                stored.shape
            ));
        }
        if stored.element().is_none() {
            return refuse(format!(
                "stored as {}, expected F32, F16 or BF16",
                stored.dtype
            ));
        }
        Ok(stored)
    }
}

impl Stored<'_> {
    /// The type of the elements, if it is one that weights may have.
    pub(super) fn element(&self) -> Option<Element> {
        match self.dtype {
            Dtype::F32 => Some(Element::F32),
            Dtype::F16 => Some(Element::F16),
            Dtype::BF16 => Some(Element::BF16),
            _ => None,
        }
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, ImportError> {
        let file = MappedFile::open(&path)?;
        match SafeTensors::read_metadata(&file) {
            // The length of the header's text; eight bytes before it say so.
            Ok((text, header)) => Ok(Shard {
                start: text.saturating_add(8),
                path,
                file,
                header,
            }),
            Err(error) => Err(damaged(&error, file.len()).in_file(&path)),
        }
    }
}

fn damaged(error: &SafeTensorError, len: usize) -> ImportError {
    let refusal = ImportError::new(format!(
        "not a whole safetensors file ({len} bytes): {error}"
    ));
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => {
            refusal.help("if its download broke off, or it is a Git LFS pointer, fetch it again")
        }
        _ => refusal,
    }
}
