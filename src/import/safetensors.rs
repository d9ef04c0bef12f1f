//! A checkpoint's safetensors files: one file, or several shards. Each is mapped into memory.
//!
//! The `safetensors` crate checks a file's header: all tensors are within the file, none overlap,
//! there are no holes, sizes agree with shapes. This module adds checks across files, and its
//! errors name the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::prelude::rust_2024::*;

use ::safetensors::tensor::{Metadata, SafeTensors};
use ::safetensors::{Dtype, SafeTensorError};
use serde_json::Value;

use super::file::{MappedFile, is_there};
use super::{Element, ImportError, json};

/// The crate's limit on a header. An index is shorter than the headers.
const INDEX_LIMIT: u64 = 100_000_000;

/// Opened safetensors files, and which of them holds which tensor.
pub(super) struct Weights {
    shards: Vec<Shard>,
    /// Which shard holds the tensor of a name.
    holder: HashMap<String, InShard>,
}

/// A tensor in one of the shards.
struct InShard {
    shard: usize,
    /// What the file calls the tensor.
    name: String,
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
    pub(super) dtype: Dtype,
    /// Row-major.
    pub(super) shape: &'w [usize],
    /// Little-endian, exactly as long as the shape says.
    pub(super) data: &'w [u8],
}

impl Weights {
    /// Opens `model.safetensors`; or the shards that `model.safetensors.index.json` lists; or,
    /// without an index, the shards with numbered names, if all of them are there.
    ///
    /// # Errors
    /// None of these exist; a file is damaged; the index names a file outside the folder, or a
    /// tensor that is not in its file; two shards have a tensor of the same name and no index says
    /// which one to use; or a numbered shard is missing.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, ImportError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if is_there(&single) {
            return Self::file(single);
        }
        if is_there(&index) {
            return Self::indexed(folder, &index).map_err(|error| error.in_file(&index));
        }
        let names = file_names(folder);
        let numbered = numbered_shards(&names);
        if !numbered.is_empty() {
            return Self::numbered(folder, numbered).map_err(|error| error.in_file(folder));
        }
        let error = ImportError::new("no model.safetensors and no model.safetensors.index.json")
            .in_file(folder);
        let mut weights = names.iter().filter(|name| name.ends_with(".safetensors"));
        Err(match (weights.next(), weights.next()) {
            (Some(name), None) => error.help(format!(
                "if {name} holds the model, rename it to model.safetensors"
            )),
            _ if names.iter().any(|name| is_pytorch(name)) => error.help(CONVERT),
            _ => error,
        })
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
            .map(|name| (name.clone(), InShard { shard: 0, name }))
            .collect();
        Ok(Weights {
            shards: vec![shard],
            holder,
        })
    }

    fn indexed(folder: &Path, index: &Path) -> Result<Self, ImportError> {
        let map = json::read(index, INDEX_LIMIT)?;
        let Some(Value::Object(weight_map)) = map.get("weight_map") else {
            return Err(ImportError::new("`weight_map` is not an object"));
        };
        let mut files: BTreeSet<&str> = BTreeSet::new();
        for (tensor, file) in weight_map {
            let Some(file) = file.as_str() else {
                return Err(ImportError::new(format!(
                    "`weight_map.{tensor}` is not a string"
                )));
            };
            // Only a file name: an index must not refer to files outside its folder.
            let mut parts = Path::new(file).components();
            let is_name = parts.next() == Some(Component::Normal(OsStr::new(file)));
            if !is_name || parts.next().is_some() {
                let reason = format!(
                    "`weight_map.{tensor}` is {file:?}, expected the name of a file in this folder"
                );
                return Err(ImportError::new(reason));
            }
            files.insert(file);
        }
        let listed = |name: &str| {
            let file = weight_map.get(name).and_then(Value::as_str)?;
            files.iter().position(|&listed| listed == file)
        };
        let weights = Self::shards(
            folder,
            files.iter().copied(),
            listed,
            "the index lists none of them",
        )?;
        for (tensor, file) in weight_map {
            if !weights.holder.contains_key(tensor) {
                return Err(ImportError::new(format!(
                    "`weight_map.{tensor}` is {file}, which holds no such tensor"
                )));
            }
        }
        Ok(weights)
    }

    /// The shards with numbered names, if one set of them is complete.
    fn numbered(
        folder: &Path,
        shards: BTreeMap<(usize, usize), &str>,
    ) -> Result<Self, ImportError> {
        let counts: BTreeSet<usize> = shards.keys().map(|&(count, _)| count).collect();
        let (Some(&count), 1) = (counts.first(), counts.len()) else {
            return Err(ImportError::new(
                "there are several sets of shards, and no model.safetensors.index.json",
            ));
        };
        if let Some(missing) = (1..=count).find(|&number| !shards.contains_key(&(count, number))) {
            let reason = format!(
                "shard {missing} of {count} is missing: of model-*-of-*.safetensors there are {}",
                shards.len()
            );
            return Err(ImportError::new(reason).help("download the folder again"));
        }
        Self::shards(
            folder,
            shards.into_values(),
            |_| None,
            "there is no index to say which counts",
        )
    }

    /// Opens files. `listed` gives the number of the file that holds a tensor, if an index says so.
    /// `unlisted` is the reason in the error if nothing says so.
    fn shards<'n>(
        folder: &Path,
        files: impl Iterator<Item = &'n str>,
        listed: impl Fn(&str) -> Option<usize>,
        unlisted: &str,
    ) -> Result<Self, ImportError> {
        let shards: Vec<Shard> = files
            .map(|file| {
                let path = folder.join(file);
                // A file can only be missing if an index lists it.
                let is_missing = !is_there(&path);
                Shard::open(path).map_err(|error| {
                    if is_missing {
                        error.help("the index lists it: download it again")
                    } else {
                        error
                    }
                })
            })
            .collect::<Result<_, _>>()?;
        let mut holder: HashMap<String, InShard> = HashMap::new();
        for (number, shard) in shards.iter().enumerate() {
            for name in shard.header.tensors().into_keys() {
                if listed(&name).is_some_and(|listed| listed != number) {
                    continue;
                }
                let place = InShard {
                    shard: number,
                    name: name.clone(),
                };
                if holder.insert(name.clone(), place).is_some() {
                    return Err(ImportError::new(format!(
                        "tensor `{name}` is in more than one file, and {unlisted}"
                    )));
                }
            }
        }
        Ok(Weights { shards, holder })
    }

    /// Removes what training wrappers add to the names of tensors: `module.`, `base_model.model.`
    /// and the like at the start of all names, `_orig_mod.` anywhere.
    ///
    /// # Errors
    /// Two tensors would have one name.
    pub(super) fn without_wrappers(mut self) -> Result<Self, ImportError> {
        const BEFORE_ALL: [&str; 3] = ["module.", "base_model.model.", "_forward_module."];
        const ANYWHERE: [&str; 3] = [
            "_orig_mod.",
            "_fsdp_wrapped_module.",
            "_checkpoint_wrapped_module.",
        ];
        let mut holder: HashMap<String, InShard> = HashMap::new();
        for (mut name, place) in self.holder {
            for wrapper in ANYWHERE {
                // A whole part of the name, not the end of one.
                name = format!(".{name}").replace(&format!(".{wrapper}"), ".")[1..].to_owned();
            }
            if let Some(other) = holder.get(&name) {
                let mut both = [&place.name, &other.name];
                both.sort();
                return Err(ImportError::new(format!(
                    "tensors `{}` and `{}` are the same part of the model",
                    both[0], both[1]
                )));
            }
            holder.insert(name, place);
        }
        while let Some(wrapper) = BEFORE_ALL.iter().find(|wrapper| {
            !holder.is_empty() && holder.keys().all(|name| name.starts_with(**wrapper))
        }) {
            holder = holder
                .into_iter()
                .map(|(name, place)| (name[wrapper.len()..].to_owned(), place))
                .collect();
        }
        self.holder = holder;
        Ok(self)
    }

    /// How many tensors there are.
    pub(super) fn len(&self) -> usize {
        self.holder.len()
    }

    /// The names of all tensors, in any order.
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
        let place = self.holder.get(name)?;
        let shard = self.shards.get(place.shard)?;
        let info = shard.header.info(&place.name)?;
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
        let stored = self.shaped(name, shape)?;
        match stored.element() {
            Some(_) => Ok(stored),
            None => Err(stored.refuse_type(name, "F32, F16 or BF16")),
        }
    }

    /// The same for a tensor of integers.
    ///
    /// # Errors
    /// It is missing, or has another shape or other elements.
    pub(super) fn integers(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Stored<'_>, ImportError> {
        let stored = self.shaped(name, shape)?;
        if stored.dtype == dtype {
            Ok(stored)
        } else {
            Err(stored.refuse_type(name, &dtype.to_string()))
        }
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, ImportError> {
        let Some(stored) = self.get(name) else {
            return Err(ImportError::new(format!(
                "tensor `{name}` is missing, expected shape {shape:?}"
            )));
        };
        if stored.shape != shape {
            let reason = format!(
                "tensor `{name}`: shape {:?}, expected {shape:?} by config.json",
                stored.shape
            );
            return Err(ImportError::new(reason).in_file(stored.path));
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

    /// All elements, if they are of such a type.
    pub(super) fn numbers(&self) -> Option<Vec<f32>> {
        let element = self.element()?;
        let mut numbers = vec![0.0; self.data.len() / element.block_bytes()];
        element.dequantize(self.data, &mut numbers);
        Some(numbers)
    }

    /// Whether two tensors have the same shape and the same numbers.
    pub(super) fn equals(&self, other: &Stored<'_>) -> bool {
        self.shape == other.shape
            && if self.dtype == other.dtype {
                self.data == other.data
            } else {
                let numbers = self.numbers();
                numbers.is_some() && numbers == other.numbers()
            }
    }

    fn refuse_type(&self, name: &str, expected: &str) -> ImportError {
        let reason = format!(
            "tensor `{name}`: stored as {}, expected {expected}",
            self.dtype
        );
        ImportError::new(reason).in_file(self.path)
    }
}

/// How to convert PyTorch's own format.
pub(super) const CONVERT: &str = "pytorch_model.bin must be converted first, with transformers: \
    `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`";

fn is_pytorch(name: &str) -> bool {
    name.starts_with("pytorch_model")
        && (name.ends_with(".bin") || name.ends_with(".bin.index.json"))
        || name.ends_with(".pth")
        || name.ends_with(".pt")
}

/// The names of everything in a folder, sorted.
fn file_names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The files `model-00001-of-00003.safetensors` and so on, by how many they say there are and which
/// of these they are.
fn numbered_shards(names: &[String]) -> BTreeMap<(usize, usize), &str> {
    let numbered = |name| {
        let rest = str::strip_prefix(name, "model-")?.strip_suffix(".safetensors")?;
        let (number, count) = rest.split_once("-of-")?;
        Some(((count.parse().ok()?, number.parse().ok()?), name))
    };
    names.iter().filter_map(|name| numbered(name)).collect()
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
            refusal.help("if its download broke off, fetch it again")
        }
        _ => refusal,
    }
}
