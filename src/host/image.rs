//! [`Image`]: the bytes of an image, from any kind of model file.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use super::cache::Place;
use super::file::{self, MappedFile, read_whole};
use super::{AlignedBytes, Error};
use crate::import::{self, Checkpoint, Description, ImportError, PackOptions};
use crate::model::{MAGIC, Model};
use crate::text::Tokenizer;

/// The bytes of an image, from an image file or from any checkpoint.
///
/// ```
/// use pocketlm::host::Image;
///
/// let image = Image::open("src/bin/pocketlm/story/story.plm")?;
/// assert_eq!(image.model()?.config().vocab_size, 1024);
/// # Ok::<(), pocketlm::host::Error>(())
/// ```
pub struct Image {
    bytes: Bytes,
    /// The file or folder that was opened.
    path: Option<PathBuf>,
    refused: Refused,
    not_kept: Option<String>,
}

enum Bytes {
    Static(&'static [u8]),
    Mapped(MappedFile),
    InMemory(AlignedBytes),
}

/// What the checkpoint has and the image lacks.
enum Refused {
    Known(RefusedParts),
    /// The image is from the cache. The checkpoint is opened only when this is needed.
    KnownTo(PathBuf),
}

impl Image {
    /// Opens an image, a Hugging Face folder, a GGUF file or a llama2.c file. A checkpoint is
    /// packed in memory, with the weight types that it has.
    ///
    /// # Errors
    /// The file cannot be read, or its format is not supported. [`model`](Image::model) checks that
    /// the image is valid.
    pub fn open(path: impl AsRef<Path>) -> Result<Image, Error> {
        Image::open_with(path, None, &mut |_, _| {})
    }

    /// As [`open`](Image::open). Packing a large checkpoint takes seconds: `progress` is told how
    /// many bytes of how many are packed, and `cache` is a folder in which packed images are kept
    /// for the next time. Any number of programs can share such a folder, and any file in it can be
    /// deleted at any time. An image is used again only if it is whole, and if neither the
    /// checkpoint nor this program has changed since.
    ///
    /// ```
    /// use pocketlm::host::Image;
    ///
    /// let model = "src/bin/pocketlm/story/story.plm";
    /// let cache = std::env::temp_dir().join("my-app");
    /// let image = Image::open_with(model, Some(&cache), &mut |done, total| {
    ///     eprint!("\r{done} of {total} bytes");
    /// })?;
    /// # _ = image;
    /// # Ok::<(), pocketlm::host::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`open`](Image::open). A cache that cannot be used is not an error: see
    /// [`not_kept`](Image::not_kept).
    pub fn open_with(
        path: impl AsRef<Path>,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Image, Error> {
        let path = path.as_ref();
        let image = |bytes, refused| Image {
            bytes,
            path: Some(path.to_owned()),
            refused,
            not_kept: None,
        };
        if is_image(path) {
            let bytes = if has_room_for(path) {
                Bytes::InMemory(read_whole(path)?)
            } else {
                Bytes::Mapped(MappedFile::open(path)?)
            };
            return Ok(image(bytes, Refused::Known(RefusedParts::default())));
        }
        // The place is found before packing. If the checkpoint changes while it is packed, its
        // place changes too, so the mixed image is never used.
        let place = cache.and_then(|folder| Place::of(path, folder));
        if let Some(kept) = place.as_ref().and_then(Place::get) {
            return Ok(image(
                Bytes::InMemory(kept),
                Refused::KnownTo(path.to_owned()),
            ));
        }
        let checkpoint = import::open(path)?;
        let packed = import::pack_to_memory(&*checkpoint, &PackOptions::default(), progress)
            .map_err(|error| error.in_file(path))?;
        let not_kept = place.and_then(|place| place.put(&packed).err());
        let refused = Refused::Known(RefusedParts::of(checkpoint.description()));
        Ok(Image {
            not_kept: not_kept.map(|error| error.to_string()),
            ..image(Bytes::InMemory(packed), refused)
        })
    }

    /// An image that is part of the program, see [`include_image!`](crate::include_image).
    pub fn of_program(bytes: &'static [u8]) -> Image {
        Image::of(Bytes::Static(bytes))
    }

    /// An image or a GGUF file in memory, for a program that has no files. The bytes are copied or
    /// packed.
    ///
    /// # Errors
    /// The bytes are neither, or are a GGUF file that is damaged or not supported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Image, Error> {
        if bytes.starts_with(&MAGIC) {
            return Ok(Image::of(Bytes::InMemory(AlignedBytes::copy_of(bytes))));
        }
        let checkpoint = import::gguf::open_bytes(bytes)?;
        let options = PackOptions::default();
        let packed = import::pack_to_memory(&checkpoint, &options, &mut |_, _| {})?;
        Ok(Image {
            refused: Refused::Known(RefusedParts::of(checkpoint.description())),
            ..Image::of(Bytes::InMemory(packed))
        })
    }

    fn of(bytes: Bytes) -> Image {
        Image {
            bytes,
            path: None,
            refused: Refused::Known(RefusedParts::default()),
            not_kept: None,
        }
    }

    /// The image, checked: this reads all of it.
    ///
    /// # Errors
    /// Those of [`Model::open`].
    pub fn model(&self) -> Result<Model<'_>, Error> {
        Model::open(self).map_err(|error| self.blame(error))
    }

    /// The tokenizer of the image's model.
    ///
    /// # Errors
    /// There is none, or it cannot be used. The message says which.
    pub fn tokenizer<'m>(&self, model: &Model<'m>) -> Result<Tokenizer<'m>, Error> {
        model
            .tokenizer()
            .map_err(|error| match self.refused_parts().tokenizer {
                Some(refused) if error == crate::Error::NoTokenizer => refused.into(),
                _ => self.blame(error),
            })
    }

    /// The chat template of the image's model, Jinja source.
    ///
    /// # Errors
    /// There is none, or it cannot be read. The message says which.
    pub fn chat_template<'m>(&self, model: &Model<'m>) -> Result<&'m str, Error> {
        model
            .chat_template()
            .ok_or_else(|| {
                match self.refused_parts().chat_template {
            Some(error) => error.into(),
            None => self.blame(
                "holds no chat template, so it was not trained to chat; `pocketlm run` continues a \
                 text",
            ),
        }
            })
    }

    /// Why the image lacks parts that its checkpoint has.
    pub fn refused_parts(&self) -> RefusedParts {
        match &self.refused {
            Refused::Known(parts) => parts.clone(),
            Refused::KnownTo(checkpoint) => import::open(checkpoint)
                .map(|checkpoint| RefusedParts::of(checkpoint.description()))
                .unwrap_or_default(),
        }
    }

    /// Why the image could not be kept in the cache, if so: the next start packs it again.
    pub fn not_kept(&self) -> Option<&str> {
        self.not_kept.as_deref()
    }

    /// The file or folder that was opened, if it was one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// An error that names the file.
    pub(crate) fn blame(&self, reason: impl fmt::Display) -> Error {
        let path = self.path.clone().unwrap_or_else(|| "the image".into());
        Error::File(path, reason.to_string())
    }
}

impl Deref for Image {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Static(bytes) => bytes,
            Bytes::Mapped(file) => file,
            Bytes::InMemory(bytes) => bytes,
        }
    }
}

/// Why parts of a checkpoint cannot be used that a model can do without.
///
/// Example: [`Image`].
#[derive(Clone, Debug, Default)]
pub struct RefusedParts {
    /// The tokenizer. The model still takes and gives token ids.
    pub tokenizer: Option<ImportError>,
    /// The chat template.
    pub chat_template: Option<ImportError>,
}

impl RefusedParts {
    /// The parts that an importer refused.
    pub fn of(description: &Description) -> Self {
        RefusedParts {
            tokenizer: description.tokenizer.clone().and_then(Result::err),
            chat_template: description.chat_template.clone().and_then(Result::err),
        }
    }
}

/// Whether a file starts as images do. `false` if it cannot be read; opening it then says why.
pub fn is_image(path: &Path) -> bool {
    file::start(path, &mut [0; MAGIC.len()]) == MAGIC
}

/// Whether a file takes at most half of the memory that is free. Only where huge pages make a copy
/// of a file faster to read than the mapped file is (Linux).
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
