//! Tokenizers against the golden cases, against the `tokenizers` crate on random text, and against
//! hostile input.
#![cfg(feature = "std")]

#[path = "../common/mod.rs"]
mod common;
mod forms;
mod golden;
mod hostile;
mod limits;
mod patterns;
mod random;
mod trimmed;

use std::path::{Path, PathBuf};

use common::{SOON, scratch, shared};
use pocketlm::import::tokenizer;
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};

const FAMILIES: [&str; 5] = [
    "tok-gpt2",
    "tok-llama3",
    "tok-qwen2",
    "tok-spm-gemma",
    "tok-spm-llama",
];

const WITH_SPECIAL: EncodeOptions = EncodeOptions {
    add_special_tokens: true,
    parse_special: true,
};
const PARSED: EncodeOptions = EncodeOptions {
    add_special_tokens: false,
    parse_special: true,
};
const AS_TEXT: EncodeOptions = EncodeOptions {
    add_special_tokens: false,
    parse_special: false,
};

/// A tokenizer section, which lives as long as the tests do.
fn section(path: impl AsRef<Path>) -> &'static [u8] {
    tokenizer::from_path(path)
        .unwrap_or_else(|error| panic!("{error}"))
        .leak()
}

fn open(path: impl AsRef<Path>) -> Tokenizer<'static> {
    Tokenizer::open(section(path)).unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &str, options: EncodeOptions) -> Vec<u32> {
    let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
    let mut ids = vec![0; text.len() * 3 + 8];
    let count = tokenizer
        .encode(text, options, &mut scratch, &mut ids)
        .unwrap();
    ids.truncate(count);
    ids
}

fn decode(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = Decoder::new(tokenizer).skip_special(skip_special);
    let mut text: String = ids
        .iter()
        .map(|id| decoder.push(*id).unwrap().to_string())
        .collect();
    text += &decoder.finish().to_string();
    text
}

/// What to do with a run of byte tokens that is not valid UTF-8.
#[derive(Clone, Copy, PartialEq)]
enum InvalidRun {
    /// The `tokenizers` library: U+FFFD for each of its bytes, also those of valid characters.
    ReplaceAll,
    /// sentencepiece, and pocketlm: U+FFFD for each byte that is not part of a valid character.
    KeepValid,
}

/// What a tokenizer with byte fallback decodes to, by either rule. The rest is what both libraries
/// do: `▁` is a space, and one space at the start goes if `strip`.
fn decode_by_rule(tokens: &[String], strip: bool, rule: InvalidRun) -> String {
    let byte = |token: &str| match token.as_bytes() {
        [b'<', b'0', b'x', _, _, b'>'] => u8::from_str_radix(&token[3..5], 16).ok(),
        _ => None,
    };
    let mut text = String::new();
    let mut run = vec![];
    for token in tokens.iter().map(Some).chain([None]) {
        if let Some(byte) = token.and_then(|token| byte(token)) {
            run.push(byte);
            continue;
        }
        match std::str::from_utf8(&run) {
            Ok(valid) => text += valid,
            Err(_) if rule == InvalidRun::ReplaceAll => text += &"\u{FFFD}".repeat(run.len()),
            Err(_) => {
                for chunk in run.utf8_chunks() {
                    text += chunk.valid();
                    text += &"\u{FFFD}".repeat(chunk.invalid().len());
                }
            }
        }
        run.clear();
        text += &token.map_or(String::new(), |token| token.replace('▁', " "));
    }
    text.strip_prefix(' ')
        .filter(|_| strip)
        .map(str::to_owned)
        .unwrap_or(text)
}
