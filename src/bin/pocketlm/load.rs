//! Opens MODEL, which is an image or a checkpoint.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use pocketlm::host::{self, is_image};
use pocketlm::import::{self, ImportError};

use crate::output::{Failure, Outcome, byte_bar, file_failure, note};
use crate::output_file::keep_from_stdout;
use crate::story;

/// An image, and its name for messages.
pub struct Image {
    image: host::Image,
    /// MODEL as the user gave it.
    pub name: String,
}

impl Image {
    /// The story model that is part of the program.
    pub fn built_in() -> Image {
        Image {
            image: host::Image::of_program(story::STORY),
            name: "the built-in story model".into(),
        }
    }

    /// Opens MODEL. Images of checkpoints are kept in the folder `POCKETLM_CACHE`, if it is set.
    pub fn open(path: &Path) -> Outcome<Image> {
        keep_from_stdout(path)?;
        let cache = std::env::var_os("POCKETLM_CACHE").filter(|folder| !folder.is_empty());
        let cache = cache.map(PathBuf::from);
        let mut bar = None;
        let image = host::Image::open_with(path, cache.as_deref(), &mut |done, total| {
            let packing = || byte_bar(format!("packing {}", path.display()), total);
            bar.get_or_insert_with(packing).set_position(done);
        });
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let image = image?;
        if let Some(reason) = image.not_kept() {
            note(format_args!("the packed image is not kept: {reason}"));
        }
        Ok(Image {
            image,
            name: path.display().to_string(),
        })
    }

    /// The image alone.
    pub fn into_inner(self) -> host::Image {
        self.image
    }

    /// An error about MODEL.
    pub fn failure(&self, reason: impl std::fmt::Display) -> Failure {
        file_failure(&self.name, reason)
    }
}

impl Deref for Image {
    type Target = host::Image;

    fn deref(&self) -> &host::Image {
        &self.image
    }
}

/// The tokenizer section of an image, a checkpoint or a lone tokenizer file.
pub fn tokenizer_section(path: &Path) -> Outcome<Vec<u8>> {
    keep_from_stdout(path)?;
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
        let checkpoint = import::open(path)?;
        let section = checkpoint.description().tokenizer.clone();
        section.unwrap_or_else(|| {
            Err(ImportError::new("there is no tokenizer.bin beside it").in_file(path))
        })
    } else {
        import::tokenizer::from_path(path)
    };
    Ok(section?)
}
