//! [`Tokenizer`]: a tokenizer section, opened.

use core::fmt;

#[cfg(feature = "chat")]
use super::section::ADDED_SPECIAL;
use super::section::{BYTE_LEVEL, NFC, NONE, Prefix};
use super::tables::{AddedTokens, NfcTables, Numbers, Patterns, partition_point, piece};

/// A tokenizer: text to token ids ([`encode`](Tokenizer::encode)), and what each id stands for
/// ([`piece`](Tokenizer::piece), [`Decoder`](crate::text::Decoder)). Borrows the tokenizer section
/// of an image; a few pointers large.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use pocketlm::import::tokenizer;
/// use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};
///
/// let section = tokenizer::from_path("tests/data/tokenizers/abc.json").unwrap();
/// let tokenizer = Tokenizer::open(&section).unwrap();
/// let mut scratch = [0; pocketlm::text::scratch_len(16)];
/// let mut ids = [0; 16];
/// let options = EncodeOptions::default();
/// let count = tokenizer.encode("abcab", options, &mut scratch, &mut ids).unwrap();
///
/// let mut decoder = Decoder::new(&tokenizer);
/// let mut text = String::new();
/// for id in &ids[..count] {
///     decoder.push(*id).unwrap().write_to(&mut text).unwrap();
/// }
/// decoder.finish().write_to(&mut text).unwrap();
/// assert_eq!(text, "abcab");
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Tokenizer<'m> {
    pub(crate) flags: u8,
    pub(crate) prefix: Prefix,
    pub(crate) unknown: Option<u32>,
    pub(crate) bos: Option<u32>,
    pub(crate) vocab_size: u32,
    /// Three lists, one after the other: ids before a text, ids after it from `after_start` on, and
    /// end-of-generation ids from `eos_start` on.
    pub(crate) template: Numbers<'m>,
    pub(crate) after_start: usize,
    pub(crate) eos_start: usize,
    pub(crate) byte_ids: Numbers<'m>,
    pub(crate) offsets: Numbers<'m>,
    pub(crate) text: &'m [u8],
    pub(crate) special: &'m [u8],
    pub(crate) index: Numbers<'m>,
    pub(crate) merge_starts: Numbers<'m>,
    pub(crate) merges: Numbers<'m>,
    pub(crate) added: [AddedTokens<'m>; 2],
    pub(crate) classes: Numbers<'m>,
    pub(crate) nfc: NfcTables<'m>,
    pub(crate) patterns: Patterns<'m>,
}

/// A merge that two neighbouring tokens allow.
pub(crate) struct Merge {
    pub(crate) rank: u32,
    pub(crate) result: u32,
}

impl<'m> Tokenizer<'m> {
    /// One more than the greatest token id. A model's embedding table may have more rows than that.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The id of the token that starts a text, if the vocabulary has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether encoding with special tokens puts [`bos`](Tokenizer::bos) before a text.
    pub fn add_bos(&self) -> bool {
        self.bos.is_some() && self.after_start > 0 && self.bos == Some(self.template.at(0))
    }

    /// The ids that end a generation: end of text, and end of turn for models that chat.
    pub fn eos_ids(&self) -> impl Iterator<Item = u32> + use<'m> {
        let template = self.template;
        (self.eos_start..template.len()).map(move |index| template.at(index))
    }

    /// Whether symbols start as bytes: known to be false in a build that runs no such tokenizer.
    pub(crate) const fn is_byte_level(&self) -> bool {
        cfg!(feature = "byte-level") && self.flags & BYTE_LEVEL != 0
    }

    /// Whether text is brought to NFC, in the same way.
    pub(crate) const fn normalizes(&self) -> bool {
        cfg!(feature = "nfc") && self.flags & NFC != 0
    }

    /// Whether `id` ends a generation.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids().any(|eos| eos == id)
    }

    /// Whether decoding can skip `id`: it stands for structure, not for text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special
            .get(id as usize / 8)
            .is_some_and(|bits| bits >> (id % 8) & 1 != 0)
    }

    /// The texts that encoding takes for special tokens where it may. A space may be written as `▁`
    /// in them, and the other way round.
    #[cfg(feature = "chat")]
    pub(crate) fn special_texts(&self) -> impl Iterator<Item = &'m str> + use<'m> {
        self.added.into_iter().flat_map(|added| {
            (0..added.len())
                .filter_map(move |index| added.get(index))
                .filter(|token| token.flags & ADDED_SPECIAL != 0)
                .filter_map(|token| core::str::from_utf8(token.content).ok())
        })
    }

    /// The bytes that `id` decodes to, before a leading space is dropped: UTF-8 or a part of it.
    /// `None` if there is no such id.
    pub fn piece(&self, id: u32) -> Option<&'m [u8]> {
        piece(&self.offsets, self.text, id)
    }

    /// The token whose text is `piece`: an added token by its content, any other by what it decodes
    /// to (so with spaces, not `▁`).
    pub fn token_to_id(&self, piece: &[u8]) -> Option<u32> {
        self.model_token(piece).or_else(|| {
            self.added.iter().find_map(|added| {
                let at = partition_point(added.len(), |at| {
                    added.get(at).is_some_and(|token| token.content < piece)
                });
                added
                    .get(at)
                    .filter(|token| token.content == piece)
                    .map(|token| token.id)
            })
        })
    }

    /// The token that the text `piece` becomes as a whole.
    pub(crate) fn model_token(&self, piece: &[u8]) -> Option<u32> {
        let at = partition_point(self.index.len(), |at| {
            self.piece(self.index.at(at))
                .is_some_and(|other| other < piece)
        });
        let id = self.index.at(at);
        (self.piece(id) == Some(piece)).then_some(id)
    }

    /// The token that stands for one byte.
    pub(crate) fn byte_token(&self, byte: u8) -> Option<u32> {
        Some(self.byte_ids.at(usize::from(byte))).filter(|id| *id < self.vocab_size)
    }

    /// What `left` and `right` merge into, if they do.
    pub(crate) fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        let start = self.merge_starts.at(left as usize);
        let end = self.merge_starts.at((left as usize).checked_add(1)?);
        if start >= end || end == NONE {
            return None;
        }
        let start = start as usize;
        let place = start
            + partition_point(end as usize - start, |at| {
                self.merges.at((start + at) * 3) < right
            });
        if place >= end as usize || self.merges.at(place * 3) != right {
            return None;
        }
        Some(Merge {
            rank: self.merges.at(place * 3 + 1),
            result: self.merges.at(place * 3 + 2),
        })
    }

    /// The class of a character that is not ASCII.
    pub(crate) fn class(&self, character: char) -> u8 {
        let next = partition_point(self.classes.len(), |at| {
            self.classes.at(at) & 0xFF_FFFF <= u32::from(character)
        });
        next.checked_sub(1)
            .map_or(0, |at| (self.classes.at(at) >> 24) as u8)
    }
}

/// What masks ask.
#[cfg(feature = "grammar")]
impl<'m> Tokenizer<'m> {
    /// Whether one of the eight tokens from `id` on, a multiple of 8, is special.
    pub(crate) fn has_special(&self, id: usize) -> bool {
        self.special.get(id / 8).is_some_and(|bits| *bits != 0)
    }

    /// How many tokens text can become: those of the index.
    pub(crate) fn index_len(&self) -> usize {
        self.index.len()
    }

    /// A token of the index, which is sorted by their bytes.
    pub(crate) fn indexed(&self, at: usize) -> (u32, &'m [u8]) {
        let id = self.index.at(at);
        (id, self.piece(id).unwrap_or_default())
    }

    /// Where in the index the tokens end that begin with `start`, as that at `at` does; at most
    /// `end`.
    pub(crate) fn end_of_start(&self, at: usize, end: usize, start: &[u8]) -> usize {
        // Most often there are few.
        let mut step = 1;
        let begins = |at: usize| self.indexed(at).1.starts_with(start);
        let mut known = at;
        while known + step < end && begins(known + step) {
            known += step;
            step *= 2;
        }
        let limit = end.min(known + step);
        let more = limit.saturating_sub(known + 1);
        known + 1 + partition_point(more, |more| begins(known + 1 + more))
    }
}

impl fmt::Debug for Tokenizer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}
