//! A rendered conversation as token ids.

use std::prelude::rust_2024::*;

use super::Rendered;
use crate::Error;
use crate::text::{EncodeOptions, Tokenizer};

impl Rendered {
    /// The token ids. Special tokens that the template wrote are recognised. Those that the user
    /// wrote are plain text. BOS is added only if the template writes it.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode_to_vec`].
    pub fn encode(&self, tokenizer: &Tokenizer<'_>) -> Result<Vec<u32>, Error> {
        let special = special_texts(tokenizer);
        let mut ids = Vec::new();
        for (index, (piece, parse_special)) in self.pieces(&special).into_iter().enumerate() {
            if index > 0 {
                ids.extend(tokenizer.encode_after(piece, parse_special)?);
                continue;
            }
            let options = EncodeOptions {
                add_special_tokens: false,
                parse_special,
            };
            ids.extend(tokenizer.encode_to_vec(piece, options)?);
        }
        Ok(ids)
    }
}

/// The spellings of all special tokens.
fn special_texts(tokenizer: &Tokenizer<'_>) -> Vec<String> {
    let spellings = |text: &str| {
        [
            text.replace('▁', " "),
            text.replace(' ', "▁"),
            text.to_owned(),
        ]
    };
    tokenizer.special_texts().flat_map(spellings).collect()
}
