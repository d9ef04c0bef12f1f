//! The text that is run through a checkpoint, as tokens.

use std::prelude::rust_2024::*;

use crate::import::{Description, ImportError};
use crate::text::{EncodeOptions, Tokenizer};

/// Prose, stories, code, chat and several languages, all our own or written by models of ours or
/// under Apache-2.0: `calibration.md` says how it was made.
const TEXT: &str = include_str!("calibration.txt");
/// Tokens of a sequence, if the model was trained for as many.
const LENGTH: usize = 512;
/// Tokens of a text of the user's that are used at most.
const MOST: usize = 32 * 1024;
/// One of so many sequences is kept for [`measure`](super::measure).
const HELD_OUT_EVERY: usize = 16;

/// Token sequences for calibration.
///
/// Example: [`Sensitivity`](super::Sensitivity).
pub struct Calibration {
    /// What the inputs of matrices are collected from.
    pub(super) sequences: Vec<Vec<u32>>,
    /// What nothing is chosen by.
    pub(super) held_out: Vec<Vec<u32>>,
}

impl Calibration {
    /// Tokens of `text`, if given, and of a mixed text that comes with this crate. Of a longer text
    /// than is needed, parts from all over it are taken. `None` if the checkpoint has no tokenizer.
    ///
    /// # Errors
    /// The tokenizer cannot be used, or `text` is empty.
    pub fn new(description: &Description, text: Option<&str>) -> Result<Option<Self>, ImportError> {
        let Some(Ok(section)) = &description.tokenizer else {
            return Ok(None);
        };
        let refuse = |error: crate::Error| ImportError::new(error.to_string());
        let tokenizer = Tokenizer::open(section).map_err(refuse)?;
        let trained = description.config.max_position_embeddings;
        let length = trained.map_or(LENGTH, |tokens| LENGTH.min(tokens.get() as usize));
        let own = match text {
            Some(text) if text.trim().is_empty() => {
                return Err(ImportError::new("the calibration text is empty"));
            }
            Some(text) => cut(&tokenizer, text, length, MOST).map_err(refuse)?,
            None => Vec::new(),
        };
        // A text of the user's may be short, or in a language that the model does not know.
        let mixed = cut(&tokenizer, TEXT, length, usize::MAX).map_err(refuse)?;
        let mut calibration = Calibration {
            sequences: Vec::new(),
            held_out: Vec::new(),
        };
        for (index, sequence) in own.into_iter().chain(mixed).enumerate() {
            match index % HELD_OUT_EVERY {
                0 => calibration.held_out.push(sequence),
                _ => calibration.sequences.push(sequence),
            }
        }
        Ok(Some(calibration))
    }
}

/// The text in sequences of `length` tokens, evenly spread if there are more than `most` tokens.
fn cut(
    tokenizer: &Tokenizer<'_>,
    text: &str,
    length: usize,
    most: usize,
) -> Result<Vec<Vec<u32>>, crate::Error> {
    let options = EncodeOptions {
        add_special_tokens: false,
        parse_special: false,
    };
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let ids = tokenizer.encode_to_vec(text, options)?;
    let pieces: Vec<&[u32]> = ids
        .chunks((length - usize::from(bos.is_some())).max(1))
        .collect();
    let count = pieces.len().min(most.div_ceil(length));
    let sequence = |index: usize| {
        let piece = pieces[index * pieces.len() / count];
        bos.into_iter().chain(piece.iter().copied()).collect()
    };
    Ok((0..count).map(sequence).collect())
}
