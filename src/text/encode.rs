//! Text to token ids.

use super::Tokenizer;
use super::added::{Span, View};
use super::bpe;
use super::section::{BYTE_FALLBACK, FOLD, FUSE_UNKNOWN, IGNORE_MERGES, Prefix, SPLIT};
use crate::Error;

/// What [`Tokenizer::encode`] does about special tokens.
///
/// Example: [`Tokenizer`](super::Tokenizer).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct EncodeOptions {
    /// Put BOS before the text, and whatever else the tokenizer's post-processor asks for.
    pub add_special_tokens: bool,
    /// Read special tokens written out in the text (`<|im_end|>`) as these tokens. Turn it off for
    /// text from people who are not to write control tokens; added tokens that are not special are
    /// read as such all the same.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    /// Both on: what Hugging Face's `encode` does.
    fn default() -> Self {
        EncodeOptions {
            add_special_tokens: true,
            parse_special: true,
        }
    }
}

/// The words of scratch that are enough to encode any text of `text_len` bytes, unless the
/// tokenizer normalises to NFC. Byte-level tokenizers mostly need less: three words and a bit for
/// each byte of the longest pre-token.
pub const fn scratch_len(text_len: usize) -> usize {
    // One more for a space in front.
    bpe::words(text_len.saturating_add(1))
}

/// As [`scratch_len`], for tokenizers that normalise to NFC (Qwen). The text can triple; text that
/// is in this form already, or nearly, needs no more than others do.
pub const fn nfc_scratch_len(text_len: usize) -> usize {
    let normalized = text_len.saturating_mul(3);
    // The decomposed code points are at most 1.5 a byte, twice; the symbols of the whole text take
    // more.
    (normalized / 4)
        .saturating_add(1)
        .saturating_add(bpe::words(normalized.saturating_add(1)))
}

/// Collects ids and counts those that there is no room for.
struct Ids<'o> {
    ids: &'o mut [u32],
    count: usize,
}

impl Ids<'_> {
    #[cfg_attr(target_os = "none", inline(never))]
    fn push(&mut self, id: u32) {
        if let Some(slot) = self.ids.get_mut(self.count) {
            *slot = id;
        }
        self.count += 1;
    }
}

impl Tokenizer<'_> {
    /// The words of scratch that are enough to encode any text of `text_len` bytes with this
    /// tokenizer: [`scratch_len`] or [`nfc_scratch_len`].
    pub const fn scratch_len(&self, text_len: usize) -> usize {
        if self.normalizes() {
            nfc_scratch_len(text_len)
        } else {
            scratch_len(text_len)
        }
    }

    /// Encodes `text` into `ids` and returns how many there are. Takes O(n log n) for a text of n
    /// bytes.
    ///
    /// # Errors
    /// [`Error::ScratchTooSmall`] with what is enough for any text of this length;
    /// [`Error::OutputTooSmall`] with the number of ids of this text (`ids` then holds the first of
    /// them).
    pub fn encode(
        &self,
        text: &str,
        options: EncodeOptions,
        scratch: &mut [u32],
        ids: &mut [u32],
    ) -> Result<usize, Error> {
        let found = scratch.len();
        let mut output = Ids { ids, count: 0 };
        if options.add_special_tokens {
            (0..self.after_start).for_each(|index| output.push(self.template.at(index)));
        }
        self.encode_text(text, options.parse_special, scratch, &mut output)
            .ok_or(Error::ScratchTooSmall {
                needed: self.scratch_len(text.len()),
                found,
            })?;
        if options.add_special_tokens {
            (self.after_start..self.eos_start)
                .for_each(|index| output.push(self.template.at(index)));
        }
        if output.count > output.ids.len() {
            return Err(Error::OutputTooSmall {
                needed: output.count,
                found: output.ids.len(),
            });
        }
        Ok(output.count)
    }

    /// `None` if the scratch is too small.
    #[cfg_attr(target_os = "none", inline(never))]
    fn encode_text(
        &self,
        text: &str,
        parse_special: bool,
        scratch: &mut [u32],
        output: &mut Ids,
    ) -> Option<()> {
        for span in self.spans(0, View { text, space: false }, false, parse_special) {
            let (view, start) = match span {
                Span::Token(id) => {
                    output.push(id);
                    continue;
                }
                Span::Text(view, start) => (view, start),
            };
            let (text, scratch) = self.normalize(view.text, scratch)?;
            let space = match self.prefix {
                Prefix::Always => true,
                Prefix::TextStart => start == 0,
                _ => false,
            };
            for span in self.spans(
                1,
                View { text, space },
                self.flags & FOLD != 0,
                parse_special,
            ) {
                match span {
                    Span::Token(id) => output.push(id),
                    Span::Text(view, place) => {
                        self.encode_stretch(view, start == 0 && place == 0, scratch, output)?
                    }
                }
            }
        }
        Some(())
    }

    /// Encodes text without added tokens. `None` if the scratch is too small.
    fn encode_stretch(
        &self,
        view: View,
        at_start: bool,
        scratch: &mut [u32],
        output: &mut Ids,
    ) -> Option<()> {
        let wants_space = match self.prefix {
            Prefix::AlwaysUnlessSpace => true,
            Prefix::TextStartUnlessSpace => at_start,
            _ => false,
        };
        let has_space =
            view.text.starts_with(' ') || (!self.is_byte_level() && view.text.starts_with('▁'));
        let view = View {
            text: view.text,
            space: view.space || (wants_space && !has_space),
        };
        if self.is_byte_level() {
            for token in self.pre_tokens(view) {
                if self.flags & IGNORE_MERGES != 0
                    && let Some(id) = self.model_token(token.text.as_bytes())
                {
                    output.push(id);
                    continue;
                }
                let mut symbols = Symbols {
                    tokenizer: self,
                    scratch: &mut *scratch,
                    count: 0,
                    unknown: false,
                };
                let space = token.space.then_some(b' ').into_iter();
                for byte in space.chain(token.text.bytes()) {
                    symbols.push_known_or_unknown(self.byte_token(byte))?;
                }
                symbols.merge(output)?;
            }
            return Some(());
        }

        let mut symbols = Symbols {
            tokenizer: self,
            scratch,
            count: 0,
            unknown: false,
        };
        for character in view.characters() {
            // Pieces are stored as they decode, so the vocabulary's ▁ is a space here.
            let character = if character == '▁' { ' ' } else { character };
            if character == ' ' && self.flags & SPLIT != 0 {
                symbols.merge(output)?;
            }
            symbols.push_character(character)?;
        }
        symbols.merge(output)
    }
}

/// The symbols of a pre-token, at the start of the scratch.
struct Symbols<'a, 'm> {
    tokenizer: &'a Tokenizer<'m>,
    scratch: &'a mut [u32],
    count: usize,
    /// Whether an unknown token is to come before the next known one.
    unknown: bool,
}

impl Symbols<'_, '_> {
    #[cfg_attr(target_os = "none", inline(never))]
    fn push(&mut self, id: u32) -> Option<()> {
        *self.scratch.get_mut(self.count)? = id;
        self.count += 1;
        Some(())
    }

    fn flush_unknown(&mut self) -> Option<()> {
        match self.tokenizer.unknown {
            Some(id) if core::mem::take(&mut self.unknown) => self.push(id),
            _ => Some(()),
        }
    }

    /// A symbol, or what has none: the unknown token, or nothing if the tokenizer has not got one.
    fn push_known_or_unknown(&mut self, id: Option<u32>) -> Option<()> {
        if id.is_some() || self.tokenizer.flags & FUSE_UNKNOWN == 0 {
            self.flush_unknown()?;
        }
        match id {
            Some(id) => self.push(id),
            None => {
                self.unknown = true;
                Some(())
            }
        }
    }

    fn push_character(&mut self, character: char) -> Option<()> {
        let tokenizer = self.tokenizer;
        let mut utf8 = [0; 4];
        let bytes = character.encode_utf8(&mut utf8).as_bytes();
        let id = tokenizer.model_token(bytes);
        let has_bytes = || {
            bytes
                .iter()
                .all(|byte| tokenizer.byte_token(*byte).is_some())
        };
        if id.is_none() && tokenizer.flags & BYTE_FALLBACK != 0 && has_bytes() {
            // As in Hugging Face's BPE, an unknown token stays pending across byte tokens.
            return bytes
                .iter()
                .try_for_each(|byte| self.push(tokenizer.byte_token(*byte)?));
        }
        self.push_known_or_unknown(id)
    }

    fn merge(&mut self, output: &mut Ids) -> Option<()> {
        self.flush_unknown()?;
        let count = core::mem::take(&mut self.count);
        self.tokenizer
            .merge_all(count, self.scratch, |id| output.push(id))
    }
}
