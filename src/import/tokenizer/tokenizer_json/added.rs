//! Added tokens.

use std::collections::HashMap;
use std::prelude::rust_2024::*;

use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use super::model::piece_of;
use super::pipeline::Pipeline;
use super::{given, is_true};
use crate::import::ImportError;
use crate::import::tokenizer::section::{Added, TokenizerSection};
use crate::import::tokenizer::spaced;
use crate::text::section::{ADDED_LSTRIP, ADDED_RSTRIP, ADDED_SINGLE_WORD, ADDED_SPECIAL};

/// The flags of an added token.
pub(in crate::import::tokenizer) fn added_flags(token: &Value) -> u8 {
    let flags = [
        ("special", ADDED_SPECIAL),
        ("lstrip", ADDED_LSTRIP),
        ("rstrip", ADDED_RSTRIP),
        ("single_word", ADDED_SINGLE_WORD),
    ];
    let given = flags.into_iter().filter(|(key, _)| is_true(token, key));
    given.fold(0, |all, (_, bit)| all | bit)
}

/// Reads `added_tokens` into a tokenizer whose model is read; `ids` are the model's.
///
/// # Errors
/// A token without content or id.
pub(super) fn read_added(
    json: &Value,
    tokenizer: &mut TokenizerSection,
    pipeline: &Pipeline,
    ids: &HashMap<&str, u32>,
) -> Result<(), ImportError> {
    let Some(list) = given(json, "added_tokens") else {
        return Ok(());
    };
    let list = list
        .as_array()
        .ok_or_else(|| ImportError::new("`added_tokens` is not a list"))?;
    for (index, token) in list.iter().enumerate() {
        let content = token.get("content").and_then(Value::as_str);
        let content = content
            .ok_or_else(|| ImportError::new(format!("added_tokens[{index}] has no `content`")))?;
        if content.is_empty() {
            continue;
        }
        // A token of the model's vocabulary keeps its id.
        let in_vocabulary = ids.get(content).copied().map(u64::from);
        let id = in_vocabulary.or_else(|| token.get("id").and_then(Value::as_u64));
        let id = id.ok_or_else(|| {
            ImportError::new(format!("added_tokens[{index}], `{content}`, has no `id`"))
        })?;
        let flags = added_flags(token);
        let normalized = is_normalized(token, flags).then(|| normalized(content, pipeline));
        let piece = piece_of(content, pipeline);
        let known = ids.len() + list.len();
        let id = if in_vocabulary.is_some() && tokenizer.pieces.get(id as usize) == Some(&piece) {
            id as u32
        } else {
            tokenizer
                .encodable
                .remove(&u32::try_from(id).unwrap_or(u32::MAX));
            tokenizer.set_piece(id, piece, known)?
        };
        let (table, content) = match normalized {
            None => (0, content.into()),
            Some(normalized) if pipeline.replace => (1, spaced(&normalized)),
            Some(normalized) => (1, normalized.into()),
        };
        tokenizer.added[table].push(Added { content, flags, id });
    }
    Ok(())
}

/// Whether an added token is looked for in normalised text.
fn is_normalized(token: &Value, flags: u8) -> bool {
    let given = token.get("normalized").and_then(Value::as_bool);
    given.unwrap_or(flags & ADDED_SPECIAL == 0)
}

/// How an added token looks in normalised text. It still decodes to its content: tokenizers 0.23
/// decodes the normalised form, and then does not recognise a special token that is to be skipped.
fn normalized(content: &str, pipeline: &Pipeline) -> String {
    if pipeline.nfc {
        return content.nfc().collect();
    }
    if !pipeline.replace {
        return content.to_owned();
    }
    let prefix = if pipeline.prepend { "▁" } else { "" };
    prefix.to_owned() + &content.replace(' ', "▁")
}
