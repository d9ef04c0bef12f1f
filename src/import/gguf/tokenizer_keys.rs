//! Reads the `tokenizer.ggml` keys into a [`GgufTokenizer`]. What they mean for a tokenizer is in
//! `import/tokenizer/gguf.rs`.

use std::prelude::rust_2024::*;

use super::metadata::Metadata;
use crate::import::ImportError;
use crate::import::tokenizer::GgufTokenizer;

/// Collects what the metadata say about the vocabulary; `None` if the file has none.
///
/// # Errors
/// The value of a key does not fit.
pub(super) fn read<'f>(metadata: &Metadata<'f>) -> Result<Option<GgufTokenizer<'f>>, ImportError> {
    let model = match metadata.text("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(model) => model,
    };
    let id = |name: &str| metadata.natural(&format!("tokenizer.ggml.{name}_token_id"));
    let end_of_turn_ids = [id("eot")?, id("eom")?].into_iter().flatten().collect();
    Ok(Some(GgufTokenizer {
        name: metadata.text("general.name")?,
        model,
        pre: metadata.text("tokenizer.ggml.pre")?,
        tokens: metadata.texts("tokenizer.ggml.tokens")?,
        scores: metadata.numbers("tokenizer.ggml.scores")?,
        token_type: metadata.integers("tokenizer.ggml.token_type")?,
        merges: metadata.texts("tokenizer.ggml.merges")?,
        bos_token_id: id("bos")?,
        eos_token_id: id("eos")?,
        end_of_turn_ids,
        unknown_token_id: id("unknown")?,
        add_bos_token: metadata.flag("tokenizer.ggml.add_bos_token")?,
        add_eos_token: metadata.flag("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.flag("tokenizer.ggml.add_space_prefix")?,
    }))
}
