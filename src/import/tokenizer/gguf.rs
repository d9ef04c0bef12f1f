//! What a GGUF file's `tokenizer.ggml` keys mean for a tokenizer. `import/gguf/tokenizer_keys.rs`
//! reads them.

use std::collections::HashMap;
use std::prelude::rust_2024::*;

use super::section::{Added, Merge, TokenizerSection};
use super::sentencepiece::{byte_piece, kind};
use super::spaced;
use super::{bytelevel, pre};
use crate::import::ImportError;
use crate::text::section::{
    ADDED_RSTRIP, ADDED_SPECIAL, BYTE_FALLBACK, BYTE_LEVEL, FOLD, FUSE_UNKNOWN, Prefix, STRIP,
};

/// What a GGUF file says about its vocabulary: the values of the `tokenizer.ggml.*` keys, named as
/// these are.
#[derive(Clone, Debug, Default)]
pub struct GgufTokenizer<'g> {
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

pub(super) fn read(gguf: &GgufTokenizer) -> Result<TokenizerSection, ImportError> {
    let mut tokenizer = TokenizerSection::new();
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
    for id in 0..count {
        read_token(gguf, id, sentencepiece, &mut tokenizer)?;
    }
    let add_bos = if sentencepiece {
        settle_sentencepiece(gguf, &mut tokenizer)?;
        true
    } else {
        settle_byte_level(gguf, &mut tokenizer)?
    };

    let known = |id: Option<u32>| id.filter(|id| (*id as usize) < count);
    tokenizer.unknown = known(gguf.unknown_token_id).filter(|_| sentencepiece);
    tokenizer.bos = known(gguf.bos_token_id);
    let eos = known(gguf.eos_token_id);
    if gguf.add_bos_token.unwrap_or(add_bos) {
        tokenizer.before.extend(tokenizer.bos);
    }
    if gguf.add_eos_token.unwrap_or(false) {
        tokenizer.after.extend(eos);
    }
    tokenizer.eos.extend(eos);
    for id in ends_of_turn(gguf) {
        if !tokenizer.eos.contains(&id) {
            tokenizer.eos.push(id);
        }
    }
    Ok(tokenizer)
}

fn kind_of(gguf: &GgufTokenizer, id: usize) -> i32 {
    gguf.token_type.get(id).copied().unwrap_or(kind::NORMAL)
}

/// The tokens that end the model's turn. Converters are known to write the id of another model of
/// the family, so only control tokens count.
fn ends_of_turn(gguf: &GgufTokenizer) -> Vec<u32> {
    let named = (0..)
        .zip(&gguf.tokens)
        .filter(|(_, text)| END_OF_TURN.contains(text))
        .map(|(id, _)| id);
    let ids = gguf.end_of_turn_ids.iter().copied().chain(named);
    ids.filter(|&id| {
        (id as usize) < gguf.tokens.len() && kind_of(gguf, id as usize) == kind::CONTROL
    })
    .collect()
}

fn read_token(
    gguf: &GgufTokenizer,
    id: usize,
    sentencepiece: bool,
    tokenizer: &mut TokenizerSection,
) -> Result<(), ImportError> {
    let text = gguf.tokens[id];
    let number = id as u32;
    let mut piece = if sentencepiece {
        spaced(text)
    } else {
        bytelevel::decode(text).unwrap_or_else(|| text.into())
    };
    match kind_of(gguf, id) {
        kind::NORMAL if !text.is_empty() => {
            tokenizer.encodable.insert(number);
        }
        kind::BYTE if sentencepiece => {
            let byte = byte_piece(text).ok_or_else(|| {
                ImportError::new(format!("token {id}: `{text}` is not the name of a byte"))
            })?;
            tokenizer.byte_ids.entry(byte).or_insert(number);
            piece = vec![byte];
        }
        kind::CONTROL | kind::UNKNOWN | kind::USER_DEFINED if !text.is_empty() => {
            let flags = added_flags(gguf, id);
            // Gemma's runs of spaces: sentencepiece looks for them in text in which a space and ▁
            // are the same.
            let is_normalized = sentencepiece && text.contains([' ', '▁']);
            let content = if is_normalized {
                piece.clone()
            } else {
                text.into()
            };
            tokenizer.added[usize::from(is_normalized)].push(Added {
                content,
                flags,
                id: number,
            });
            if !sentencepiece {
                piece = text.into();
            }
        }
        _ => {}
    }
    tokenizer.set_piece(id as u64, piece, gguf.tokens.len())?;
    Ok(())
}

/// The flags of a token that is split off before the model sees the text.
fn added_flags(gguf: &GgufTokenizer, id: usize) -> u8 {
    let text = gguf.tokens[id];
    let special = kind_of(gguf, id) != kind::USER_DEFINED;
    let keeps_whitespace = !special || matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
    let is_phi3 = gguf.name.is_some_and(|name| {
        let name = name.to_lowercase();
        name.contains("phi-3") || name.contains("phi3")
    });
    let strips = is_phi3 && (text == "</s>" || !keeps_whitespace);
    let special = if special { ADDED_SPECIAL } else { 0 };
    let strip = if strips { ADDED_RSTRIP } else { 0 };
    special | strip
}

fn settle_sentencepiece(
    gguf: &GgufTokenizer,
    tokenizer: &mut TokenizerSection,
) -> Result<(), ImportError> {
    if gguf.scores.len() != gguf.tokens.len() {
        return Err(ImportError::new(format!(
            "tokenizer.ggml.scores: {} scores for {} tokens",
            gguf.scores.len(),
            gguf.tokens.len()
        )));
    }
    tokenizer.flags = FOLD | FUSE_UNKNOWN;
    if !tokenizer.byte_ids.is_empty() {
        tokenizer.flags |= BYTE_FALLBACK;
    }
    if gguf.add_space_prefix.unwrap_or(true) {
        tokenizer.flags |= STRIP;
        tokenizer.prefix = Prefix::Always;
    }
    tokenizer.merges_by_score(&gguf.scores)
}

/// Returns whether texts begin with BOS if the file does not say.
fn settle_byte_level(
    gguf: &GgufTokenizer,
    tokenizer: &mut TokenizerSection,
) -> Result<bool, ImportError> {
    let pre = pre::find(gguf.pre)?;
    for pattern in pre.patterns {
        tokenizer.patterns.push(pattern)?;
    }
    tokenizer.flags = BYTE_LEVEL | pre.flags;
    let ids: HashMap<&str, u32> = gguf.tokens.iter().copied().zip(0..).collect();
    for (rank, merge) in gguf.merges.iter().enumerate() {
        tokenizer.merges.push(merge_of(merge, rank, &ids)?);
    }
    bytelevel::set_byte_ids(tokenizer, |letter| ids.get(letter).copied());
    Ok(pre.add_bos)
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
