//! MODEL, whatever it is, to an opened image.

use std::path::{Path, PathBuf};

use pocketlm::host::AlignedBytes;
use pocketlm::host::file::{self, MappedFile, read_whole};
use pocketlm::import::{self, Description, ImportError, PackOptions};
use pocketlm::model::{MAGIC, Model};
use pocketlm::text::Tokenizer;

use crate::cache;
use crate::output::{Failure, Outcome, byte_bar, refuse_file};
use crate::story;

/// The bytes of an image, and what to call them.
pub struct Image {
    bytes: Bytes,
    /// What its checkpoint has and the image lacks.
    refused: Refused,
    /// MODEL as the user gave it.
    pub name: String,
}

enum Bytes {
    BuiltIn,
    Mapped(MappedFile),
    InMemory(AlignedBytes),
}

impl Image {
    /// The story model that is part of the program.
    pub fn built_in() -> Image {
        Image {
            bytes: Bytes::BuiltIn,
            refused: Refused::Known(RefusedParts::default()),
            name: "the built-in story model".into(),
        }
    }

    /// An image is read into memory where there is plenty of it, and mapped where there is not; a
    /// checkpoint is packed in memory, keeping what it stores, unless an earlier run
    /// [kept](crate::cache) what came of that.
    pub fn open(path: &Path) -> Outcome<Image> {
        let mut refused = Refused::Known(RefusedParts::default());
        let bytes = if is_image(path) {
            match has_room_for(path) {
                true => Bytes::InMemory(read_whole(path).map_err(refuse_import)?),
                false => Bytes::Mapped(MappedFile::open(path).map_err(refuse_import)?),
            }
        } else {
            // Its place is found first: if the checkpoint changes while it is packed, nobody finds
            // what came of it.
            let place = cache::Place::of(path);
            Bytes::InMemory(match place.as_ref().and_then(cache::Place::get) {
                Some(kept) => {
                    refused = Refused::KnownTo(path.to_owned());
                    kept
                }
                None => {
                    let (packed, parts) = pack(path)?;
                    refused = Refused::Known(parts);
                    place.inspect(|place| place.put(&packed));
                    packed
                }
            })
        };
        Ok(Image {
            bytes,
            refused,
            name: path.display().to_string(),
        })
    }

    /// The whole image.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::BuiltIn => story::STORY,
            Bytes::Mapped(file) => file,
            Bytes::InMemory(arena) => arena,
        }
    }

    /// The image, checked.
    pub fn model(&self) -> Outcome<Model<'_>> {
        Model::open(self.bytes()).map_err(|error| self.refuse(error))
    }

    /// The model's tokenizer, or a refusal.
    pub fn tokenizer<'m>(&self, model: &Model<'m>) -> Outcome<Tokenizer<'m>> {
        let tokenizer = model.tokenizer().map_err(|error| self.refuse(error))?;
        tokenizer.ok_or_else(|| match self.refused_parts().tokenizer {
            Some(error) => refuse_import(error),
            None => self.refuse("holds no tokenizer; pack it again with the tokenizer's files beside the checkpoint"),
        })
    }

    /// The model's chat template, or a refusal.
    pub fn chat_template<'m>(&self, model: &Model<'m>) -> Outcome<&'m str> {
        model.chat_template().ok_or_else(|| match self.refused_parts().chat_template {
            Some(error) => refuse_import(error),
            None => self.refuse("holds no chat template, so it was not trained to chat; `pocketlm run` continues a text"),
        })
    }

    /// Why the image lacks what its checkpoint has.
    pub fn refused_parts(&self) -> RefusedParts {
        match &self.refused {
            Refused::Known(parts) => parts.clone(),
            Refused::KnownTo(checkpoint) => import::open(checkpoint)
                .map(|checkpoint| RefusedParts::of(checkpoint.description()))
                .unwrap_or_default(),
        }
    }

    /// A refusal that blames MODEL.
    pub fn refuse(&self, reason: impl std::fmt::Display) -> Failure {
        refuse_file(&self.name, reason)
    }
}

enum Refused {
    Known(RefusedParts),
    /// The image is from the cache; its checkpoint is opened if somebody asks.
    KnownTo(PathBuf),
}

/// Why parts of a checkpoint that not every command needs cannot be used.
#[derive(Clone, Default)]
pub struct RefusedParts {
    pub tokenizer: Option<ImportError>,
    pub chat_template: Option<ImportError>,
}

impl RefusedParts {
    pub fn of(description: &Description) -> Self {
        let Description {
            tokenizer,
            chat_template,
            ..
        } = description;
        RefusedParts {
            tokenizer: tokenizer.clone().and_then(Result::err),
            chat_template: chat_template.clone().and_then(Result::err),
        }
    }
}

/// Packs a checkpoint in memory.
fn pack(path: &Path) -> Outcome<(AlignedBytes, RefusedParts)> {
    let checkpoint = import::open(path).map_err(refuse_import)?;
    let bar = byte_bar(format!("packing {}", path.display()), 0);
    let packed =
        import::pack_to_memory(&*checkpoint, &PackOptions::default(), &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
    bar.finish_and_clear();
    match packed {
        Ok(packed) => Ok((packed, RefusedParts::of(checkpoint.description()))),
        Err(error) => Err(refuse_import(error.in_file(path))),
    }
}

/// The tokenizer section of an image, a checkpoint or a lone tokenizer file.
pub fn vocabulary(path: &Path) -> Outcome<Vec<u8>> {
    if is_image(path) {
        let image = Image::open(path)?;
        let model = image.model()?;
        image.tokenizer(&model)?;
        return Ok(model
            .header()
            .section(pocketlm::model::Section::Tokenizer)
            .to_vec());
    }
    let section = if import::gguf::looks_like(path) {
        import::gguf::tokenizer(path)
    } else if import::llama2c::looks_like(path) {
        let checkpoint = import::open(path).map_err(refuse_import)?;
        let section = checkpoint.description().tokenizer.clone();
        section.unwrap_or_else(|| {
            Err(ImportError::new("there is no tokenizer.bin beside it").in_file(path))
        })
    } else {
        import::vocabulary::from_path(path)
    };
    section.map_err(refuse_import)
}

/// Whether a file starts as images do. One that cannot be read does not: the importers say why.
pub fn is_image(path: &Path) -> bool {
    file::start(path, &mut [0; MAGIC.len()]) == MAGIC
}

/// Whether a file takes at most half of the memory that is free for use. Only where huge pages make
/// a copy of it faster to read than the mapped file is (Linux).
fn has_room_for(path: &Path) -> bool {
    let free = || {
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
        let kilobytes = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        kilobytes.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    path.metadata()
        .is_ok_and(|file| free().is_some_and(|free| file.len() / 512 < free))
}

/// The importers' refusals are sentences that name their file.
pub fn refuse_import(error: ImportError) -> Failure {
    Failure::Refused(error.to_string())
}
