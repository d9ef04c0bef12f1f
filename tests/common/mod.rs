//! What several test files share.
#![allow(dead_code)] // each test file uses its part

pub mod folder;
pub mod plain;
pub mod random;
pub mod reference;

use std::path::PathBuf;

use pocketlm::host::AlignedBytes;

/// The folder of shared test data, or `None`, said on stderr, if it is not there. In CI it has to
/// be.
pub fn shared(what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("POCKETLM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing, and CI is set",
        folder.display()
    );
    eprintln!("not checked, {} is missing: {what}", folder.display());
    None
}

/// The folders below `parent`, sorted; panics if there are none.
pub fn folders(parent: PathBuf) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(&parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
    let mut folders: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(!folders.is_empty(), "{} has no folders", parent.display());
    folders.sort();
    folders
}

/// The last part of a path, for messages.
pub fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// An arena full of what was in memory before.
pub fn dirty(pattern: u8, bytes: usize) -> AlignedBytes {
    let mut arena = AlignedBytes::zeroed(bytes);
    arena.fill(pattern);
    arena
}

/// Logits, to be compared bit for bit.
pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|z| z.to_bits()).collect()
}
