//! The vocabulary in a GGUF file's metadata.

use std::collections::HashMap;
use std::prelude::rust_2024::*;

use super::section::{Added, Merge, Vocabulary};
use super::sentencepiece::{byte_piece, kind};
use super::spaced;
use super::{bytelevel, pre};
use crate::import::ImportError;
use crate::text::tokenizer::{
    ADDED_RSTRIP, ADDED_SPECIAL, BYTE_FALLBACK, BYTE_LEVEL, FOLD, FUSE_UNKNOWN, Prefix, STRIP,
};

/// What a GGUF file says about its vocabulary: the values of the `tokenizer.ggml.*` keys, named as
/// these are.
#[derive(Clone, Debug, Default)]
pub struct GgufVocabulary<'g> {
    /// `general.name`. It decides for Phi-3, whose special tokens take the whitespace behind them.
    pub name: Option<&'g str>,
    /// `llama` (sentencepiece) or `gpt2` (byte-level).
    pub model: &'g str,
    /// Which pre-tokenizer a `gpt2` vocabulary has.
    pub pre: Option<&'g str>,
    /// The text of each token.
    pub tokens: Vec<&'g str>,
    /// The score of each token; `llama` needs them.
    pub scores: Vec<f32>,
    /// The type of each token, in sentencepiece's numbers; if empty, all are normal.
    pub token_type: Vec<i32>,
    /// Merges, best first, `left right`; `gpt2` needs them.
    pub merges: Vec<&'g str>,
    /// The token that starts a text.
    pub bos_token_id: Option<u32>,
    /// The token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Tokens that end a turn or a message: `eot_token_id`, `eom_token_id`.
    pub end_of_turn_ids: Vec<u32>,
    /// What stands for text without a token.
    pub unknown_token_id: Option<u32>,
    /// Whether encoding starts with BOS. If the file does not say, `llama` and Llama 3 do.
    pub add_bos_token: Option<bool>,
    /// Whether encoding ends with EOS. If the file does not say, it does not.
    pub add_eos_token: Option<bool>,
    /// Whether text gets a space in front. If the file does not say, `llama` does.
    pub add_space_prefix: Option<bool>,
}

/// Special tokens that end a turn, if the file does not say so itself (llama.cpp goes by the same
/// names).
const END_OF_TURN: [&str; 7] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
];

pub(super) fn read(gguf: &GgufVocabulary) -> Result<Vocabulary, ImportError> {
    let mut vocabulary = Vocabulary::new();
    let count = gguf.tokens.len();
    if !gguf.token_type.is_empty() && gguf.token_type.len() != count {
        let types = gguf.token_type.len();
        return Err(ImportError::new(format!(
            "tokenizer.ggml.token_type: {types} types for {count} tokens"
        )));
    }
    let sentencepiece = match gguf.model {
        "llama" => true,
        "gpt2" => false,
        other => {
            return Err(ImportError::new(format!(
                "tokenizer.ggml.model `{other}` is not supported"
            )));
        }
    };
    let kind_of = |id: usize| gguf.token_type.get(id).copied().unwrap_or(kind::NORMAL);
    let is_phi3 = gguf.name.is_some_and(|name| {
        let name = name.to_lowercase();
        name.contains("phi-3") || name.contains("phi3")
    });
    for (id, text) in gguf.tokens.iter().copied().enumerate() {
        let content = text.as_bytes().to_vec();
        let number = id as u32;
        let mut piece = if sentencepiece {
            spaced(text)
        } else {
            bytelevel::decode(text).unwrap_or_else(|| content.clone())
        };
        match kind_of(id) {
            kind::NORMAL if !text.is_empty() => {
                vocabulary.encodable.insert(number);
            }
            kind::BYTE if sentencepiece => {
                let byte = byte_piece(text).ok_or_else(|| {
                    ImportError::new(format!("token {id}: `{text}` is not the name of a byte"))
                })?;
                vocabulary.byte_ids.entry(byte).or_insert(number);
                piece = vec![byte];
            }
            kind::CONTROL | kind::UNKNOWN | kind::USER_DEFINED if !text.is_empty() => {
                let special = kind_of(id) != kind::USER_DEFINED;
                let mut flags = if special { ADDED_SPECIAL } else { 0 };
                let keeps_whitespace =
                    !special || matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
                if is_phi3 && (text == "</s>" || !keeps_whitespace) {
                    flags |= ADDED_RSTRIP;
                }
                // Gemma's runs of spaces: sentencepiece looks for them in text in which a space is
                // as good as ▁.
                if sentencepiece && text.contains([' ', '▁']) {
                    vocabulary.added[1].push(Added {
                        content: piece.clone(),
                        flags,
                        id: number,
                    });
                } else {
                    vocabulary.added[0].push(Added {
                        content: content.clone(),
                        flags,
                        id: number,
                    });
                }
                if !sentencepiece {
                    piece = content;
                }
            }
            _ => {}
        }
        vocabulary.set_piece(id as u64, piece, count)?;
    }

    let mut add_bos = sentencepiece;
    if sentencepiece {
        if gguf.scores.len() != count {
            return Err(ImportError::new(format!(
                "tokenizer.ggml.scores: {} scores for {count} tokens",
                gguf.scores.len()
            )));
        }
        vocabulary.flags = FOLD
            | FUSE_UNKNOWN
            | if vocabulary.byte_ids.is_empty() {
                0
            } else {
                BYTE_FALLBACK
            };
        if gguf.add_space_prefix.unwrap_or(true) {
            vocabulary.flags |= STRIP;
            vocabulary.prefix = Prefix::Always;
        }
        vocabulary.merges_by_score(&gguf.scores)?;
    } else {
        vocabulary.flags = BYTE_LEVEL;
        let pre = pre::find(gguf.pre)?;
        for pattern in pre.patterns {
            vocabulary.patterns.push(pattern)?;
        }
        vocabulary.flags |= pre.flags;
        add_bos = pre.add_bos;
        let ids: HashMap<&str, u32> = gguf.tokens.iter().copied().zip(0..).collect();
        for (rank, merge) in gguf.merges.iter().enumerate() {
            vocabulary.merges.push(merge_of(merge, rank, &ids)?);
        }
        bytelevel::set_byte_ids(&mut vocabulary, |letter| ids.get(letter).copied());
    }

    let known = |id: Option<u32>| id.filter(|id| (*id as usize) < count);
    vocabulary.unknown = known(gguf.unknown_token_id).filter(|_| sentencepiece);
    vocabulary.bos = known(gguf.bos_token_id);
    let eos = known(gguf.eos_token_id);
    if gguf.add_bos_token.unwrap_or(add_bos) {
        vocabulary.before.extend(vocabulary.bos);
    }
    if gguf.add_eos_token.unwrap_or(false) {
        vocabulary.after.extend(eos);
    }
    vocabulary.eos.extend(eos);
    // Converters are known to write the end-of-turn id of the family, not of the file: an ordinary
    // token is not one.
    let is_control = |id: &u32| kind_of(*id as usize) == kind::CONTROL;
    let said = gguf
        .end_of_turn_ids
        .iter()
        .copied()
        .filter(|id| known(Some(*id)).is_some());
    let named = (0..)
        .zip(&gguf.tokens)
        .filter(|(_, text)| END_OF_TURN.contains(text))
        .map(|(id, _)| id);
    for id in said.chain(named).filter(is_control) {
        if !vocabulary.eos.contains(&id) {
            vocabulary.eos.push(id);
        }
    }
    Ok(vocabulary)
}

/// A merge `left right` of known tokens.
fn merge_of(merge: &str, rank: usize, ids: &HashMap<&str, u32>) -> Result<Merge, ImportError> {
    let wrong = |what: &str| ImportError::new(format!("merge {rank}, `{merge}`: {what}"));
    let (left, right) = merge
        .split_once(' ')
        .ok_or_else(|| wrong("not two tokens"))?;
    let id = |token: &str| {
        ids.get(token)
            .copied()
            .ok_or_else(|| wrong(&format!("`{token}` is not in the vocabulary")))
    };
    Ok(Merge {
        left: id(left)?,
        right: id(right)?,
        rank: rank as u32,
        result: id(&(String::from(left) + right))?,
    })
}
