//! Images of checkpoints that were packed before, in the folder `POCKETLM_CACHE`; without it none
//! are kept.
//!
//! An image is found by what would make another one of it: the checkpoint's files (place, length,
//! times) and this program. It is used only if it is whole, and written under another name first;
//! so any number of programs can share a folder, and whatever lies in it can be deleted at any
//! time.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pocketlm::host::AlignedBytes;
use pocketlm::host::file::read_whole;
use pocketlm::import;
use pocketlm::model::Model;

use crate::output::{Failure, Outcome, note, refuse_file};
use crate::output_file::{Kind, OutputFile};

/// Where the image of a checkpoint is kept.
pub struct Place(PathBuf);

impl Place {
    /// `None` if images are not kept, or if it cannot be told whether one is of this checkpoint as
    /// it is now.
    pub fn of(checkpoint: &Path) -> Option<Place> {
        let folder =
            PathBuf::from(std::env::var_os("POCKETLM_CACHE").filter(|folder| !folder.is_empty())?);
        let key = key(checkpoint).ok()?;
        Some(Place(folder.join(format!("{key:016x}.plm"))))
    }

    /// The image, if it is there and whole.
    pub fn get(&self) -> Option<AlignedBytes> {
        let image = self.0.is_file().then(|| read_whole(&self.0).ok())??;
        Model::open(&image).is_ok().then_some(image)
    }

    /// Keeps an image. Where that fails, the next run packs again.
    pub fn put(&self, image: &[u8]) {
        let write = || -> Outcome {
            let folder = self.0.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder).map_err(|error| refuse_file(folder, error))?;
            let output = OutputFile::new(&self.0, Kind::CachedImage, &[])?;
            output.write(|file| {
                let written = file.write_all(image);
                written.map_err(|error| output.cannot_write(error))
            })
        };
        if let Err(Failure::Refused(reason)) = write() {
            note(format_args!("the packed image is not kept: {reason}"));
        }
    }
}

/// Changes whenever packing may give other bytes.
fn key(checkpoint: &Path) -> io::Result<u64> {
    let checkpoint = checkpoint.canonicalize()?;
    let mut files = vec![std::env::current_exe()?, checkpoint.clone()];
    // But for GGUF a checkpoint is all of its folder: the tokenizer lies beside the weights.
    let folder = if checkpoint.is_dir() {
        Some(checkpoint.as_path())
    } else {
        checkpoint.parent()
    };
    if let Some(folder) = folder.filter(|_| !import::gguf::looks_like(&checkpoint)) {
        let entries = folder.read_dir()?.collect::<io::Result<Vec<_>>>()?;
        files.extend(
            entries
                .into_iter()
                .map(|entry| entry.path())
                .filter(|path| path.is_file()),
        );
    }
    files[1..].sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        let metadata = file.metadata()?;
        (
            file,
            metadata.len(),
            metadata.modified()?,
            identity(&metadata),
        )
            .hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// What tells a file from another of the same length and time of modification, which copying can
/// set: the time of its last change, which nothing can, and its number.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> (i64, i64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.ctime(), metadata.ctime_nsec(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) {}
