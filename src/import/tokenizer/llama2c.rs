//! llama2.c's `tokenizer.bin`: `max_token_length` (u32), then for each token score (f32), length
//! (u32) and bytes, in which spaces are spaces. The ids have fixed meanings, as in `run.c`: 0 is
//! unknown, 1 BOS, 2 EOS, and the bytes start at 3.

use std::prelude::rust_2024::*;

use super::section::TokenizerSection;
use super::sentencepiece::byte_piece;
use crate::import::ImportError;
use crate::text::section::{BYTE_FALLBACK, FUSE_UNKNOWN, Prefix, STRIP};

/// Reads a file of `vocab_size` tokens.
///
/// # Errors
/// The file is shorter or longer; or there are too few tokens.
pub(super) fn read(bytes: &[u8], vocab_size: usize) -> Result<TokenizerSection, ImportError> {
    let mut file = File { bytes, at: 0 };
    file.take(4, "max_token_length")?;
    let mut tokenizer = TokenizerSection::new();
    tokenizer.flags = BYTE_FALLBACK | FUSE_UNKNOWN | STRIP;
    tokenizer.prefix = Prefix::TextStart;
    let mut scores = vec![];
    for id in 0..vocab_size {
        let (score, piece) = file.token(id, vocab_size)?;
        scores.push(score);
        let byte = core::str::from_utf8(piece).ok().and_then(byte_piece);
        if let Some(byte) = byte.filter(|byte| id == 3 + usize::from(*byte)) {
            let id = tokenizer.set_piece(id as u64, vec![byte], vocab_size)?;
            tokenizer.byte_ids.insert(byte, id);
        } else {
            let id = tokenizer.set_piece(id as u64, piece.into(), vocab_size)?;
            if id > 2 && !piece.is_empty() {
                tokenizer.encodable.insert(id);
            }
        }
    }
    let rest = &bytes[file.at..];
    if !rest.is_empty() {
        return Err(ImportError::new(format!(
            "{} bytes after token {vocab_size}, the last of the model",
            rest.len()
        ))
        .help("is this the tokenizer of this model?"));
    }
    if vocab_size < 3 {
        return Err(ImportError::new(format!(
            "{vocab_size} tokens, at least 3 needed"
        )));
    }
    tokenizer.merges_by_score(&scores)?;
    tokenizer.unknown = Some(0);
    tokenizer.bos = Some(1);
    tokenizer.before = vec![1];
    tokenizer.special.extend([1, 2]);
    // As in run.c, BOS ends a text as well: in the training data a story ends where the next one
    // begins.
    tokenizer.eos = vec![2, 1];
    Ok(tokenizer)
}

/// The file, and how far it is read.
struct File<'f> {
    bytes: &'f [u8],
    at: usize,
}

impl<'f> File<'f> {
    fn take(&mut self, len: usize, what: &str) -> Result<&'f [u8], ImportError> {
        let at = self.at;
        let rest = &self.bytes[at..];
        let taken = rest.get(..len).ok_or_else(|| {
            let left = rest.len();
            ImportError::new(format!(
                "{what} at byte {at}: {len} bytes wanted, {left} left"
            ))
        })?;
        self.at += len;
        Ok(taken)
    }

    /// The score and the text of the next token.
    fn token(&mut self, id: usize, vocab_size: usize) -> Result<(f32, &'f [u8]), ImportError> {
        let header: [u8; 8] = self
            .take(8, &format!("token {id} of {vocab_size}"))?
            .try_into()
            .expect("8 bytes were taken");
        let [a, b, c, d, e, f, g, h] = header;
        let len = u32::from_le_bytes([e, f, g, h]) as usize;
        let piece = self.take(len, &format!("text of token {id} of {vocab_size}"))?;
        Ok((f32::from_le_bytes([a, b, c, d]), piece))
    }
}
