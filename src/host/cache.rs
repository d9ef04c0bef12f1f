//! A folder with images of checkpoints that were packed before.
//!
//! The name of an image is a hash of everything that its content depends on: the checkpoint's files
//! (path, length, times) and this program. An image is used only if it is complete, and it is
//! written under another name first. So any number of programs can share a folder, and any file in
//! it can be deleted at any time.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use super::file::{read_whole, whole_file};
use super::{AlignedBytes, Error};
use crate::import;
use crate::model::Model;

/// Where the image of a checkpoint is kept.
pub(super) struct Place(PathBuf);

impl Place {
    /// `None` if the checkpoint's files cannot be read.
    pub(super) fn of(checkpoint: &Path, folder: &Path) -> Option<Place> {
        let key = key(checkpoint).ok()?;
        Some(Place(folder.join(format!("{key:016x}.plm"))))
    }

    /// The image, if it is there and whole.
    pub(super) fn get(&self) -> Option<AlignedBytes> {
        let image = self.0.is_file().then(|| read_whole(&self.0).ok())??;
        Model::open(&image).is_ok().then_some(image)
    }

    /// Keeps an image. It replaces one that is not complete, if there is one.
    pub(super) fn put(&self, image: &[u8]) -> Result<(), Error> {
        let refuse =
            |error: io::Error| Error::File(self.0.clone(), format!("cannot be written: {error}"));
        let folder = self.0.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::File(folder.to_owned(), error.to_string()))?;
        // Not synced: an image that a power cut damages is not used.
        let mut file = whole_file(&self.0)?;
        file.write_all(image).map_err(refuse)?;
        file.persist(&self.0).map_err(|error| refuse(error.error))?;
        Ok(())
    }
}

/// Changes whenever packing may give other bytes.
fn key(checkpoint: &Path) -> io::Result<u64> {
    let checkpoint = checkpoint.canonicalize()?;
    let mut files = vec![std::env::current_exe()?, checkpoint.clone()];
    // A checkpoint that is not a GGUF file is all of its folder: the tokenizer lies beside the
    // weights.
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

/// Differs between files of the same length and modification time, which copying can set: the time
/// of the last change, which programs cannot set, and the inode number.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> (i64, i64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.ctime(), metadata.ctime_nsec(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) {}
