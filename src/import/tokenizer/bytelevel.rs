//! GPT-2's letters for bytes: printable Latin-1 characters stand for themselves, and U+0100 and up
//! for the others, in order.

use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::sync::LazyLock;

use super::section::TokenizerSection;

/// The byte of each letter.
static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let mut others = '\u{100}'..;
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    (0..=255)
        .filter_map(|byte| {
            Some((
                if printable(byte) {
                    char::from(byte)
                } else {
                    others.next()?
                },
                byte,
            ))
        })
        .collect()
});

/// The bytes that a token stands for; `None` if one of its characters is not such a letter.
pub(super) fn decode(token: &str) -> Option<Vec<u8>> {
    token
        .chars()
        .map(|letter| BYTES.get(&letter).copied())
        .collect()
}

/// Finds the token of each byte, given the token of each letter.
pub(super) fn set_byte_ids(tokenizer: &mut TokenizerSection, token: impl Fn(&str) -> Option<u32>) {
    let ids = BYTES
        .iter()
        .filter_map(|(letter, byte)| Some((*byte, token(letter.encode_utf8(&mut [0; 4]))?)));
    tokenizer.byte_ids = ids.collect();
}
