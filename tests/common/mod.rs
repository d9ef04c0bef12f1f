//! What several tests need.
#![allow(dead_code)] // each test uses its part

use std::path::{Path, PathBuf};

/// A path of the shared test data beside the repository (or in `POCKETLM_SHARED`). `None`, said aloud, where it is not
/// there; under `CI` it must be.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("POCKETLM_SHARED") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
    };
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", path.display());
    eprintln!("NOT CHECKED: {} is missing", path.display());
    None
}

/// The folders in a folder that hold a config, by name.
pub fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a readable folder");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    let mut folders: Vec<_> = paths.filter(|path| path.join("config.json").is_file()).collect();
    folders.sort();
    folders
}
