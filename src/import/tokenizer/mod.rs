//! From tokenizer files to the tokenizer section of an image.
//!
//! The differences between the files end here. The section holds pieces as they decode, one table
//! of merges with ranks (computed from the scores where a file has those instead), added tokens in
//! the form they are searched in, and the Unicode tables that this tokenizer needs. The format is
//! specified in `src/text/section.rs`.

use std::path::Path;
use std::prelude::rust_2024::*;

use crate::import::file;
use crate::import::{ImportError, json};
use crate::text::Tokenizer;

mod bytelevel;
mod expression;
mod folder;
mod gguf;
mod llama2c;
mod pattern;
mod pre;
mod section;
mod sentencepiece;
mod template;
mod tokenizer_json;
mod trim;
mod unicode;

#[doc(hidden)] // for tests of tokenizers without a GGUF file around them
pub use gguf::GgufTokenizer;
pub use template::chat_template;
pub(crate) use template::with_variables;
pub use trim::{KeepTokens, Script, TrimmedTokenizer, trim};

/// The tokenizer section for a Hugging Face folder, a lone `tokenizer.json` or a lone
/// `tokenizer.model`.
///
/// In a folder, `tokenizer.json` goes before `tokenizer.model`, and that before `vocab.json` with
/// `merges.txt`; BOS and the end-of-generation ids are taken from `generation_config.json`,
/// `config.json`, `tokenizer_config.json` and `special_tokens_map.json`, added tokens from the
/// latter two and `added_tokens.json`. A lone file is read by itself, as the library it belongs to
/// reads it: sentencepiece does not take control tokens out of text, and a `tokenizer.json` does
/// not say what ends a generation.
///
/// # Errors
/// If a file cannot be read, is damaged, or asks for something that is not supported; the error
/// names it.
pub fn from_path(path: impl AsRef<Path>) -> Result<Vec<u8>, ImportError> {
    let path = path.as_ref();
    if path.is_dir() {
        return folder::read(path)?
            .write()
            .map_err(|error| error.in_file(path));
    }
    let bytes = read_file(path)?;
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    let tokenizer = if is_json || bytes.trim_ascii_start().starts_with(b"{") {
        tokenizer_json::read(&read_json(path)?, None)
    } else {
        let expected = "expected a tokenizer.json or a tokenizer.model";
        sentencepiece::read(&bytes, sentencepiece::Reading::Plain)
            .map_err(|error| error.help(expected))
    };
    tokenizer
        .and_then(section::TokenizerSection::write)
        .map_err(|error| error.in_file(path))
}

/// The tokenizer section for a Hugging Face folder, as [`from_path`]; `None` if the folder holds no
/// tokenizer, which is allowed: a model can be run on token ids.
///
/// # Errors
/// As [`from_path`].
pub(super) fn from_folder(folder: &Path) -> Result<Option<Vec<u8>>, ImportError> {
    let files = ["tokenizer.json", "tokenizer.model", "vocab.json"];
    if files.iter().any(|name| file::is_there(&folder.join(name))) {
        from_path(folder).map(Some)
    } else {
        Ok(None)
    }
}

/// Checks a tokenizer against the number of rows of the model's embedding table. Rows without a
/// token are padding. A token without a row is an error, because the model does not know it.
pub(super) fn for_rows(
    section: Result<Option<Vec<u8>>, ImportError>,
    rows: u32,
) -> Option<Result<Vec<u8>, ImportError>> {
    let check = |section: Vec<u8>| {
        let tokens = Tokenizer::open(&section)
            .map_err(|error| ImportError::new(error.to_string()))?
            .vocab_size();
        if tokens > rows {
            let reason =
                format!("the tokenizer has {tokens} tokens, and the embedding table {rows} rows");
            return Err(
                ImportError::new(reason).help("take the tokenizer that the model was trained with")
            );
        }
        Ok(section)
    };
    Some(section.transpose()?.and_then(check))
}

/// The tokenizer section for the vocabulary of a GGUF file.
///
/// # Errors
/// If the metadata contradict each other or ask for something that is not supported. The caller
/// adds the file's name.
#[doc(hidden)] // for tests, as `GgufTokenizer`
pub fn from_gguf(tokenizer: &GgufTokenizer) -> Result<Vec<u8>, ImportError> {
    gguf::read(tokenizer)?.write()
}

/// The tokenizer section for a llama2.c `tokenizer.bin`, which does not say itself how many tokens
/// it has.
///
/// # Errors
/// If the file cannot be read or does not hold exactly `vocab_size` tokens.
pub fn from_llama2c(path: impl AsRef<Path>, vocab_size: usize) -> Result<Vec<u8>, ImportError> {
    let path = path.as_ref();
    let bytes = read_file(path)?;
    llama2c::read(&bytes, vocab_size)
        .and_then(section::TokenizerSection::write)
        .map_err(|error| error.in_file(path))
}

/// A vocabulary is read whole, and its pieces are copied. The largest on the hub, Gemma 3's
/// `tokenizer.json`, has 33 MB.
const VOCABULARY_LIMIT: u64 = 256 << 20;

fn read_file(path: &Path) -> Result<Vec<u8>, ImportError> {
    file::read(path, VOCABULARY_LIMIT)
}

fn read_json(path: &Path) -> Result<serde_json::Value, ImportError> {
    json::read_value(path, VOCABULARY_LIMIT)
}

fn read_text(path: &Path) -> Result<String, ImportError> {
    file::read_text(path, VOCABULARY_LIMIT)
}

/// A piece with spaces for `▁`.
fn spaced(piece: &str) -> Vec<u8> {
    piece.replace('▁', " ").into()
}
