//! What several test files share.
#![allow(dead_code, unused_imports)] // each binary uses its part

pub mod bit_exact;
pub mod folder;
pub mod in_f64;
pub mod random;
pub mod session;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use folder::scratch;
use pocketlm::text::{EncodeOptions, Tokenizer};

/// A file or folder of the shared test data. If it is missing, this says so on stderr; in CI it
/// panics.
pub fn shared(below: &str) -> Option<PathBuf> {
    let root = std::env::var_os("POCKETLM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
        PathBuf::from,
    );
    let path = root.join(below);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}, and CI is set");
    eprintln!("not checked: {missing}");
    None
}

/// Cases in `goldens/hf` and `goldens/families/hf` of families that need a structure which the
/// config does not have.
pub const UNSUPPORTED_CASES: [&str; 2] = ["arcee", "x-cohere"];

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

/// Logits, to be compared bit for bit.
pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|z| z.to_bits()).collect()
}

/// Work that takes linear time is over by then, even on a machine that does other things. Work that
/// takes quadratic time, or reads a terabyte, takes minutes.
pub const SOON: Duration = Duration::from_secs(10);

/// The prompt of a request to the tool caller `pins`, as the programs for boards and chips make it.
/// Tags are special tokens; the request cannot contain any, because it is encoded as plain text.
pub fn pins_prompt(tokenizer: &Tokenizer<'_>, request: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    for (text, parse_special) in [
        ("<start_of_turn>user\n", true),
        (request, false),
        ("<end_of_turn>\n<start_of_turn>model\n", true),
    ] {
        let options = EncodeOptions {
            add_special_tokens: false,
            parse_special,
        };
        ids.extend(tokenizer.encode_to_vec(text, options).unwrap());
    }
    ids
}
