//! MODEL, whatever it is, to an opened image.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use pocketlm::host::AlignedBytes;
use pocketlm::host::file::{MappedFile, read_whole};
use pocketlm::import::{self, ImportError, PackOptions};
use pocketlm::model::{MAGIC, Model};
use pocketlm::text::Tokenizer;

use crate::cache;
use crate::output::{Failure, Outcome, byte_bar, refuse_file};
use crate::story;

/// The bytes of an image, and what to call them.
pub struct Image {
    bytes: Bytes,
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
            name: "the built-in story model".into(),
        }
    }

    /// An image is read into memory where there is plenty of it, and mapped where there is not; a
    /// checkpoint is packed in memory, keeping what it stores, unless an earlier run
    /// [kept](crate::cache) what came of that.
    pub fn open(path: &Path) -> Outcome<Image> {
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
                Some(kept) => kept,
                None => {
                    let packed = pack(path)?;
                    place.inspect(|place| place.put(&packed));
                    packed
                }
            })
        };
        Ok(Image {
            bytes,
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
        tokenizer.ok_or_else(|| {
            self.refuse("holds no tokenizer; pack it again with the tokenizer's files beside the checkpoint")
        })
    }

    /// A refusal that blames MODEL.
    pub fn refuse(&self, reason: impl std::fmt::Display) -> Failure {
        refuse_file(&self.name, reason)
    }
}

/// Packs a checkpoint in memory.
fn pack(path: &Path) -> Outcome<AlignedBytes> {
    let checkpoint = import::open(path).map_err(refuse_import)?;
    let bar = byte_bar(format!("packing {}", path.display()), 0);
    let packed =
        import::pack_to_memory(&*checkpoint, &PackOptions::default(), &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
    bar.finish_and_clear();
    packed.map_err(|error| refuse_import(error.in_file(path)))
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
        section.ok_or_else(|| ImportError::new("there is no tokenizer.bin beside it").in_file(path))
    } else {
        import::vocabulary::from_path(path)
    };
    section.map_err(refuse_import)
}

/// Whether a file starts as images do. One that cannot be read does not: the importers say why.
pub fn is_image(path: &Path) -> bool {
    // Asked before opening: opening a pipe waits for a writer.
    let mut start = [0; MAGIC.len()];
    path.is_file()
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok()
        && start == MAGIC
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
