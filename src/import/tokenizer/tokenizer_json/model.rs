//! Tokens and merges.

use std::collections::{BTreeMap, HashMap};
use std::prelude::rust_2024::*;

use serde_json::Value;

use super::pipeline::Pipeline;
use super::{given, is_true, not_supported};
use crate::import::ImportError;
use crate::import::tokenizer::bytelevel;
use crate::import::tokenizer::section::{Merge, TokenizerSection};
use crate::import::tokenizer::sentencepiece::byte_piece;
use crate::import::tokenizer::spaced;
use crate::text::section::{BYTE_FALLBACK, FUSE_UNKNOWN, IGNORE_MERGES};

/// Reads vocabulary and merges; returns the ids of the vocabulary.
pub(super) fn read_model<'j>(
    model: &'j Value,
    tokenizer: &mut TokenizerSection,
    pipeline: &Pipeline,
) -> Result<HashMap<&'j str, u32>, ImportError> {
    read_flags(model, tokenizer, pipeline)?;
    let ids = read_ids(model, tokenizer, pipeline)?;
    if let Some(unknown) = given(model, "unk_token") {
        let id = unknown.as_str().and_then(|token| ids.get(token));
        // As in `tokenizers`, it may be missing as long as it is not needed.
        tokenizer.unknown = id.copied();
    }
    if pipeline.byte_level {
        bytelevel::set_byte_ids(tokenizer, |letter| ids.get(letter).copied());
    } else if tokenizer.flags & BYTE_FALLBACK != 0 {
        tokenizer.byte_ids = (0..=255)
            .filter_map(|byte| Some((byte, *ids.get(format!("<0x{byte:02X}>").as_str())?)))
            .collect();
    }
    read_merges(model, tokenizer, &ids)?;
    Ok(ids)
}

/// Checks the kind of the model, and reads its flags.
fn read_flags(
    model: &Value,
    tokenizer: &mut TokenizerSection,
    pipeline: &Pipeline,
) -> Result<(), ImportError> {
    // The type is missing in the oldest files, in which only BPE has merges.
    match given(model, "type").and_then(Value::as_str) {
        Some("BPE") => {}
        None if model.get("merges").is_some() => {}
        other => return Err(not_supported("model", other.unwrap_or("(none)"))),
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(value) = given(model, key).filter(|value| *value != "") {
            return Err(not_supported(&format!("model: {key}"), &value.to_string()));
        }
    }
    if let Some(dropout) = given(model, "dropout").filter(|dropout| dropout.as_f64() != Some(0.0)) {
        return Err(not_supported("model: dropout", &dropout.to_string()));
    }
    if is_true(model, "ignore_merges") {
        if !pipeline.byte_level {
            return Err(not_supported(
                "model: ignore_merges without `ByteLevel`,",
                "true",
            ));
        }
        if pipeline.prefix_space {
            return Err(not_supported(
                "model: ignore_merges together with add_prefix_space",
                "true",
            ));
        }
        tokenizer.flags |= IGNORE_MERGES;
    }
    if is_true(model, "fuse_unk") {
        tokenizer.flags |= FUSE_UNKNOWN;
    }
    if is_true(model, "byte_fallback") {
        if pipeline.byte_level || !pipeline.reads_bytes {
            return Err(ImportError::new(
                "model: byte_fallback without the decoder `ByteFallback` is not supported",
            ));
        }
        tokenizer.flags |= BYTE_FALLBACK;
    }
    Ok(())
}

/// Reads the tokens.
fn read_ids<'j>(
    model: &'j Value,
    tokenizer: &mut TokenizerSection,
    pipeline: &Pipeline,
) -> Result<HashMap<&'j str, u32>, ImportError> {
    let vocab = model
        .get("vocab")
        .and_then(Value::as_object)
        .ok_or_else(|| ImportError::new("model: `vocab` is missing"))?;
    let mut ids = HashMap::new();
    let mut owners: BTreeMap<u64, &str> = BTreeMap::new();
    for (token, id) in vocab {
        let id = id
            .as_u64()
            .ok_or_else(|| ImportError::new(format!("model: the id of token `{token}` is {id}")))?;
        if let Some(other) = owners.insert(id, token) {
            return Err(ImportError::new(format!(
                "model: tokens `{other}` and `{token}` both have id {id}"
            )));
        }
        let piece = piece_of(token, pipeline);
        let id = tokenizer.set_piece(id, piece, vocab.len())?;
        ids.insert(token.as_str(), id);
        let reachable = if pipeline.byte_level {
            bytelevel::decode(token).is_some()
        } else {
            // The model's text has no spaces any more.
            !token.contains(' ') && (byte_piece(token).is_none() || !pipeline.reads_bytes)
        };
        if reachable && !token.is_empty() {
            tokenizer.encodable.insert(id);
        }
    }
    Ok(ids)
}

fn read_merges(
    model: &Value,
    tokenizer: &mut TokenizerSection,
    ids: &HashMap<&str, u32>,
) -> Result<(), ImportError> {
    let merges = model
        .get("merges")
        .and_then(Value::as_array)
        .ok_or_else(|| ImportError::new("model: `merges` is missing"))?;
    for (rank, merge) in merges.iter().enumerate() {
        let wrong = |what: &str| ImportError::new(format!("model: merge {rank}, {merge}: {what}"));
        let (left, right) = match merge {
            Value::String(pair) => pair
                .split_once(' ')
                .filter(|(_, right)| !right.contains(' ')),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => {
                    Some((left.as_str(), right.as_str()))
                }
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| wrong("not two tokens"))?;
        let id = |token: &str| {
            ids.get(token)
                .copied()
                .ok_or_else(|| wrong(&format!("`{token}` is not in the vocabulary")))
        };
        let result = id(&(String::from(left) + right))?;
        tokenizer.merges.push(Merge {
            left: id(left)?,
            right: id(right)?,
            rank: rank as u32,
            result,
        });
    }
    Ok(())
}

/// The bytes that the decoder makes of a token.
pub(super) fn piece_of(token: &str, pipeline: &Pipeline) -> Vec<u8> {
    if pipeline.byte_level {
        return bytelevel::decode(token).unwrap_or_else(|| token.into());
    }
    match byte_piece(token) {
        Some(byte) if pipeline.reads_bytes => vec![byte],
        _ => spaced(token),
    }
}
