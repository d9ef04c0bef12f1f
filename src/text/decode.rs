//! Token ids to text, one at a time.

use core::fmt;

use super::tokenizer::{STRIP, Tokenizer};
use crate::Error;

/// Turns token ids into text as they come. Never gives out half a character: bytes that are not yet a whole one wait
/// for the next token. Bytes that cannot become one are replaced by U+FFFD as
/// [`String::from_utf8_lossy`](https://doc.rust-lang.org/std/string/struct.String.html#method.from_utf8_lossy) does:
/// one for each maximal part of a valid sequence.
#[derive(Clone, Debug)]
pub struct Decoder<'m> {
    tokenizer: Tokenizer<'m>,
    skip_special: bool,
    /// Nothing has been decoded yet.
    at_start: bool,
    /// The start of a character.
    pending: [u8; 3],
    pending_len: u8,
}

impl<'m> Decoder<'m> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: &Tokenizer<'m>) -> Self {
        Decoder { tokenizer: *tokenizer, skip_special: false, at_start: true, pending: [0; 3], pending_len: 0 }
    }

    /// Whether to leave out special tokens (BOS, `<|im_end|>`): off at first.
    pub fn skip_special(mut self, skip: bool) -> Self {
        self.skip_special = skip;
        self
    }

    /// The text that `id` adds; may be empty.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`]; the decoder is as before.
    pub fn push(&mut self, id: u32) -> Result<Text<'m>, Error> {
        let out_of_range = Error::TokenOutOfRange { id, vocab_size: self.tokenizer.vocab_size() };
        let mut piece = self.tokenizer.piece(id).ok_or(out_of_range)?;
        if piece.is_empty() || (self.skip_special && self.tokenizer.is_special(id)) {
            return Ok(Text { head: None, body: &[] });
        }
        if core::mem::take(&mut self.at_start) && self.tokenizer.flags & STRIP != 0 {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        let head = self.complete(&mut piece);
        // What is incomplete at the end starts within the last three bytes.
        let (mut body, mut tail): (_, &[u8]) = (piece, &[]);
        for len in 1..=piece.len().min(3) {
            let Some((before, last)) = piece.split_at_checked(piece.len() - len) else { break };
            if is_incomplete(last) {
                (body, tail) = (before, last);
            }
        }
        for byte in tail {
            self.keep(*byte);
        }
        Ok(Text { head, body })
    }

    /// What is left at the end of a text: U+FFFD if it ends within a character. The decoder then is at a start again.
    pub fn finish(&mut self) -> Text<'m> {
        let head = (self.pending_len != 0).then_some(char::REPLACEMENT_CHARACTER);
        (self.pending_len, self.at_start) = (0, true);
        Text { head, body: &[] }
    }

    fn keep(&mut self, byte: u8) {
        if let Some(slot) = self.pending.get_mut(usize::from(self.pending_len)) {
            *slot = byte;
            self.pending_len += 1;
        }
    }

    /// Takes bytes off `piece` until what was pending is a character or cannot become one.
    fn complete(&mut self, piece: &mut &[u8]) -> Option<char> {
        while self.pending_len != 0 {
            let (byte, rest) = piece.split_first()?;
            let mut bytes = [0; 4];
            let pending = self.pending.get(..usize::from(self.pending_len))?;
            bytes.get_mut(..pending.len())?.copy_from_slice(pending);
            *bytes.get_mut(pending.len())? = *byte;
            let sequence = bytes.get(..=pending.len())?;
            if let Ok(character) = core::str::from_utf8(sequence) {
                (self.pending_len, *piece) = (0, rest);
                return character.chars().next();
            }
            if !is_incomplete(sequence) {
                // The byte starts anew.
                self.pending_len = 0;
                return Some(char::REPLACEMENT_CHARACTER);
            }
            self.keep(*byte);
            *piece = rest;
        }
        None
    }
}

/// Whether more bytes can make a character of these, all of them.
fn is_incomplete(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Text that a token added: whole characters. Print it, or take its [`chunks`](Text::chunks).
#[derive(Clone, Copy, Debug)]
pub struct Text<'m> {
    /// A character that the token completed.
    head: Option<char>,
    /// What follows it. Not incomplete at its end, but perhaps invalid.
    body: &'m [u8],
}

impl Text<'_> {
    /// Whether there is nothing to print.
    pub fn is_empty(&self) -> bool {
        self.head.is_none() && self.body.is_empty()
    }

    /// Hands the text to `write`, piece by piece.
    pub fn chunks(&self, mut write: impl FnMut(&str)) {
        if let Some(head) = self.head {
            write(head.encode_utf8(&mut [0; 4]));
        }
        for chunk in self.body.utf8_chunks() {
            if !chunk.valid().is_empty() {
                write(chunk.valid());
            }
            if !chunk.invalid().is_empty() {
                write("\u{FFFD}");
            }
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        self.chunks(|chunk| result = result.and_then(|()| f.write_str(chunk)));
        result
    }
}
