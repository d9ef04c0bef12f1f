//! Token ids to text, one at a time.

use core::fmt;

use heapless::Vec;

use super::Tokenizer;
use super::section::STRIP;
use crate::Error;

/// Turns token ids into text as they come. Never gives out half a character: bytes that are not yet
/// a whole one wait for the next token. Valid characters stay whatever is around them, and what
/// cannot become one is replaced as the tokenizer's own library does it: a byte-level tokenizer has
/// one U+FFFD for each maximal part of a valid sequence
/// (as `String::from_utf8_lossy`),
/// one with byte fallback has one for each byte (sentencepiece).
///
/// ```
/// use pocketlm::{include_image, model::Model, text::Decoder};
///
/// let model = Model::open(include_image!("../bin/pocketlm/story/story.plm"))?;
/// let tokenizer = model.tokenizer()?;
/// let mut decoder = Decoder::new(&tokenizer).skip_special(true);
/// // Anything that takes text: a display, a serial port, a String.
/// let mut out = String::new();
/// for id in [427, 434, 265] {
///     decoder.push(id)?.write_to(&mut out).expect("a String takes any text");
/// }
/// decoder.finish().write_to(&mut out).expect("a String takes any text");
/// assert_eq!(out, "Once upon a");
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder<'m> {
    tokenizer: Tokenizer<'m>,
    skip_special: bool,
    /// Nothing has been decoded yet.
    at_start: bool,
    /// The start of a character, up to three bytes between calls.
    pending: Vec<u8, 4, u8>,
}

impl<'m> Decoder<'m> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: &Tokenizer<'m>) -> Self {
        Decoder {
            tokenizer: *tokenizer,
            skip_special: false,
            at_start: true,
            pending: Vec::new(),
        }
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
        let out_of_range = Error::TokenOutOfRange {
            token: id,
            vocab_size: self.tokenizer.vocab_size(),
        };
        let mut piece = self.tokenizer.piece(id).ok_or(out_of_range)?;
        if piece.is_empty() || (self.skip_special && self.tokenizer.is_special(id)) {
            return Ok(self.text((char::REPLACEMENT_CHARACTER, 0), &[]));
        }
        if core::mem::take(&mut self.at_start) && self.tokenizer.flags & STRIP != 0 {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        let head = self.complete(&mut piece);
        // What is incomplete at the end starts within the last three bytes.
        let (mut body, mut tail): (_, &[u8]) = (piece, &[]);
        for len in 1..=piece.len().min(3) {
            let Some((before, last)) = piece.split_at_checked(piece.len() - len) else {
                break;
            };
            if is_incomplete(last) {
                (body, tail) = (before, last);
            }
        }
        // Three bytes fit: `complete` took what was pending, or all of the piece and left no tail.
        _ = self.pending.extend_from_slice(tail);
        Ok(self.text(head, body))
    }

    /// What is left at the end of a text: U+FFFD if it ends within a character. The decoder then is
    /// at a start again.
    pub fn finish(&mut self) -> Text<'m> {
        self.at_start = true;
        let head = self.give_up();
        self.text(head, &[])
    }

    fn text(&self, head: (char, u8), body: &'m [u8]) -> Text<'m> {
        Text {
            head,
            body,
            by_byte: !self.tokenizer.is_byte_level(),
        }
    }

    /// What stands for pending bytes that will not become a character.
    fn give_up(&mut self) -> (char, u8) {
        let bytes = self.pending.len() as u8;
        self.pending.clear();
        (
            char::REPLACEMENT_CHARACTER,
            if self.tokenizer.is_byte_level() {
                bytes.min(1)
            } else {
                bytes
            },
        )
    }

    /// Takes bytes off `piece` until what was pending is a character or cannot become one: which,
    /// and how often to print it.
    #[cfg_attr(target_os = "none", inline(never))]
    fn complete(&mut self, piece: &mut &[u8]) -> (char, u8) {
        while !self.pending.is_empty()
            && let Some((byte, rest)) = piece.split_first()
        {
            // There is room: by its fourth byte a sequence is a character or none.
            _ = self.pending.push(*byte);
            if let Some(character) = core::str::from_utf8(&self.pending)
                .ok()
                .and_then(|text| text.chars().next())
            {
                self.pending.clear();
                *piece = rest;
                return (character, 1);
            }
            if !is_incomplete(&self.pending) {
                // The byte starts anew.
                self.pending.pop();
                return self.give_up();
            }
            *piece = rest;
        }
        (char::REPLACEMENT_CHARACTER, 0)
    }
}

/// Whether more bytes can make a character of these, all of them.
#[cfg_attr(target_os = "none", inline(never))]
fn is_incomplete(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes)
        .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Text that a token added: whole characters. Print it, [write](Text::write_to) it to a display or
/// a serial port, or take its [`chunks`](Text::chunks).
///
/// Example: [`Decoder`].
#[derive(Clone, Copy, Debug)]
pub struct Text<'m> {
    /// A character that the token completed, or what stands for one that it did not, and how often.
    head: (char, u8),
    /// What follows it. Not incomplete at its end, but perhaps invalid.
    body: &'m [u8],
    /// Each invalid byte is replaced, not each invalid sequence.
    by_byte: bool,
}

impl Text<'_> {
    /// Whether there is nothing to print.
    pub fn is_empty(&self) -> bool {
        self.head.1 == 0 && self.body.is_empty()
    }

    /// Writes the text to anything that takes text. Unlike `write!`, it links no code that formats.
    /// After an error of `out`, nothing more is written.
    pub fn write_to(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let mut result = Ok(());
        self.chunks(|chunk| result = result.and_then(|()| out.write_str(chunk)));
        result
    }

    /// Hands the text to `write`, piece by piece.
    pub fn chunks(&self, mut write: impl FnMut(&str)) {
        for _ in 0..self.head.1 {
            write(self.head.0.encode_utf8(&mut [0; 4]));
        }
        let mut rest = self.body;
        while !rest.is_empty() {
            // `utf8_chunks`, with the one check of UTF-8 that is in the program anyway.
            let (valid, invalid) = match core::str::from_utf8(rest) {
                Ok(_) => (rest.len(), 0),
                Err(error) => (error.valid_up_to(), error.error_len().unwrap_or(rest.len())),
            };
            let (text, after) = rest.split_at_checked(valid).unwrap_or_default();
            if let Ok(text) = core::str::from_utf8(text)
                && !text.is_empty()
            {
                write(text);
            }
            rest = after.get(invalid..).unwrap_or_default();
            let invalid = after.len() - rest.len();
            for _ in 0..if self.by_byte {
                invalid
            } else {
                invalid.min(1)
            } {
                write("\u{FFFD}");
            }
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}
