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
/// use pocketlm::import::vocabulary;
/// use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};
///
/// let section = vocabulary::from_path("tests/data/tokenizers/abc.json").unwrap();
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
    /// Ids before a text, ids after it, and end-of-generation ids: where the second and the third
    /// start.
    pub(crate) template: Numbers<'m>,
    pub(crate) after: usize,
    pub(crate) eos: usize,
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
    /// Opens the tokenizer section of an image and checks all of it: afterwards nothing in it can
    /// make encoding or decoding fail.
    ///
    /// # Errors
    /// [`Error::TokenizerTruncated`] or [`Error::TokenizerInvalid`]; [`Error::ByteLevelDisabled`]
    /// or [`Error::NfcDisabled`] for a tokenizer that this build does not run.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn open(section: &'m [u8]) -> Result<Self, Error> {
        let mut reader = Reader {
            section,
            at: 0,
            table: 0,
            refused: None,
        };
        let header = reader
            .take(HEADER_LEN)
            .first_chunk()
            .unwrap_or(&[0; HEADER_LEN]);
        let mut words = [0; HEADER_LEN / 4];
        for (word, bytes) in words.iter_mut().zip(header.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }

        reader.require(header.starts_with(&MAGIC), 0);
        // The first byte of a field, and the least and the greatest it may be.
        const FIELDS: [(u8, u8, u8); 7] = [
            (4, VERSION, VERSION),
            (5, 2, 3),
            (6, 2, 3),
            (8, 0, Prefix::TextStartUnlessSpace as u8),
            (9, 0, 0),
            (10, 0, KIND + 1),
            (11, 0, MAX_PATTERNS as u8),
        ];
        for (at, least, greatest) in FIELDS {
            let field = header.get(usize::from(at)).copied().unwrap_or_default();
            reader.require((least..=greatest).contains(&field), usize::from(at));
        }
        let (id_width, offset_width, flags) =
            (usize::from(header[5]), usize::from(header[6]), header[7]);
        let prefix = match header[8] {
            1 => Prefix::Always,
            2 => Prefix::TextStart,
            3 => Prefix::AlwaysUnlessSpace,
            4 => Prefix::TextStartUnlessSpace,
            _ => Prefix::Never,
        };
        let rows = words[44 / 4] >> 16;
        if flags & BYTE_LEVEL != 0 && !cfg!(feature = "byte-level") {
            reader.refuse(Error::ByteLevelDisabled);
        }
        if flags & NFC != 0 && !cfg!(feature = "nfc") {
            reader.refuse(Error::NfcDisabled);
        }
        // Code elsewhere relies on this: byte-level text is never folded, and gets a space in front
        // only if it has none and if merges are not ignored; no other text is normalised or split
        // by patterns.
        let (other, others) = match flags & BYTE_LEVEL != 0 {
            true if matches!(prefix, Prefix::Never | Prefix::AlwaysUnlessSpace) => (
                header[8].min(flags & IGNORE_MERGES),
                BYTE_FALLBACK | FOLD | SPLIT,
            ),
            true => (header[8], 0),
            false => (header[11], NFC | IGNORE_MERGES),
        };
        reader.require(other == 0 && flags & others == 0, 7);
        reader.require((header[11] == 0) == (header[10] == 0), 10);
        reader.require(
            (header[11] == 0) == (rows == 0) && rows < u32::from(STATE),
            46,
        );
        let vocab_size = words[12 / 4];
        // Ids and ranks of all ones mean "none".
        let id_limit = if id_width == 2 { 0xFFFF } else { 0xFF_FFFF };
        reader.require(vocab_size != 0 && vocab_size <= id_limit, 12);
        reader.require(words[24 / 4] <= id_limit, 24);
        let vocabulary = vocab_size as usize;
        let mut optional_id = |at: usize, id: u32| {
            reader.require(id == NONE || id < vocab_size, at);
            Some(id).filter(|id| *id != NONE)
        };
        let (unknown, bos) = (
            optional_id(48, words[48 / 4]),
            optional_id(52, words[52 / 4]),
        );
        reader.require(
            flags & NFC != 0
                || (words[56 / 4] | words[60 / 4] | words[64 / 4] | words[68 / 4]) == 0,
            56,
        );
        reader.so_far()?;

        let mut ids = |count: usize, none: u32| {
            let ids = reader.numbers(count, id_width);
            reader.require_table(ids.are_below(vocab_size, none));
            ids
        };
        let after = words[40 / 4] as usize & 0xFFFF;
        let eos = after + (words[40 / 4] as usize >> 16);
        let template = ids(eos + (words[44 / 4] as usize & 0xFFFF), NONE);
        let byte_ids = ids(
            if flags & (BYTE_LEVEL | BYTE_FALLBACK) != 0 {
                256
            } else {
                0
            },
            id_limit,
        );

        let offsets = reader.numbers(vocabulary + 1, offset_width);
        reader.require_table(offsets.ascend(u32::MAX, 0));
        let text = reader.take(words[16 / 4] as usize);
        reader.require_table(offsets.at(vocabulary) as usize <= text.len());
        let special = reader.take(vocabulary.div_ceil(8));

        let index = reader.numbers(words[20 / 4] as usize, id_width);
        reader.require_table(index.are_below(vocab_size, NONE));
        let piece = |at: usize| piece(&offsets, text, index.at(at));
        reader.require_table((1..index.len()).all(|at| piece(at - 1) < piece(at)));

        let merge_starts = reader.numbers(vocabulary + 1, id_width);
        reader
            .require_table(merge_starts.at(0) == 0 && merge_starts.at(vocabulary) == words[24 / 4]);
        reader.require_table(merge_starts.ascend(u32::MAX, 0));
        let merges = reader.numbers((words[24 / 4] as usize).saturating_mul(3), id_width);
        reader.so_far()?;
        // Each left token's merges, whose right tokens ascend: all merges, one after the other.
        for left in 0..vocabulary {
            let mut next = 0;
            for merge in merge_starts.at(left) as usize..merge_starts.at(left + 1) as usize {
                let right = merges.at(merge * 3);
                reader.require_table(
                    next <= right && right < vocab_size && merges.at(merge * 3 + 2) < vocab_size,
                );
                next = right.saturating_add(1);
            }
        }

        let mut added = |count: u32| {
            let records = reader.take((count as usize).saturating_mul(offset_width + 2 + id_width));
            let mut tokens = AddedTokens {
                records,
                id_width,
                offset_width,
                text,
                first_bytes: [0; 8],
            };
            let mut previous: &[u8] = &[];
            for index in 0..tokens.len() {
                let token = tokens.get(index).unwrap_or(AddedToken {
                    content: &[],
                    flags: 0,
                    id: NONE,
                });
                // An empty content is after nothing.
                reader.require_table(token.id < vocab_size && previous < token.content);
                reader.require_table(core::str::from_utf8(token.content).is_ok());
                previous = token.content;
                let first = previous.first().copied().unwrap_or_default();
                if let Some(bits) = tokens.first_bytes.get_mut(usize::from(first >> 5)) {
                    *bits |= 1 << (first & 31);
                }
            }
            tokens
        };
        let added = [added(words[28 / 4]), added(words[32 / 4])];

        let classes = reader.numbers(words[36 / 4] as usize, 4);
        reader.require_table(classes.ascend(0xFF_FFFF, 1));
        // What builds without byte-level tokenizers have refused needs no checks there.
        let kinds = if cfg!(feature = "byte-level") {
            usize::from(header[10])
        } else {
            0
        };
        let is_kind = |kind: usize| kind < kinds.max(1);
        if cfg!(feature = "byte-level") {
            let kind = |at: usize| (classes.at(at) >> 24) as usize & usize::from(KIND);
            reader.require_table((0..classes.len()).all(|at| is_kind(kind(at))));
        }

        let nfc = NfcTables {
            decompositions: reader.take((words[56 / 4] as usize).saturating_mul(5)),
            pool: reader.numbers(words[60 / 4] as usize, 3),
            compositions: reader.numbers((words[64 / 4] as usize).saturating_mul(3), 3),
            combining: reader.take((words[68 / 4] as usize).saturating_mul(7)),
        };
        reader.require_table(!cfg!(feature = "nfc") || nfc.is_sound());
        let mut patterns = Patterns {
            kinds,
            ascii: &[],
            starts: NO_NUMBERS,
            entries: NO_NUMBERS,
        };
        if kinds > 0 {
            patterns.ascii = reader.take(128);
            reader.require_table(
                patterns
                    .ascii
                    .iter()
                    .all(|kind| is_kind(usize::from(*kind))),
            );
            patterns.starts = reader.numbers(usize::from(header[11]), 2);
            reader.require_table(patterns.starts.are_below(rows, NONE));
            patterns.entries = reader.numbers((rows as usize).saturating_mul(kinds + 1), 2);
            let states = &patterns.entries;
            reader.require_table(
                (0..states.len()).all(|at| states.at(at) & u32::from(STATE) <= rows),
            );
        }
        reader.require(reader.at == section.len(), reader.at);
        reader.so_far()?;

        Ok(Tokenizer {
            flags,
            prefix,
            unknown,
            bos,
            vocab_size,
            template,
            after,
            eos,
            byte_ids,
            offsets,
            text,
            special,
            index,
            merge_starts,
            merges,
            added,
            classes,
            nfc,
            patterns,
        })
    }

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
        self.bos.is_some() && self.after > 0 && self.bos == Some(self.template.at(0))
    }

    /// The ids that end a generation: end of text, and end of turn for models that chat.
    pub fn eos_ids(&self) -> impl Iterator<Item = u32> + use<'m> {
        let template = self.template;
        (self.eos..template.len()).map(move |index| template.at(index))
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

impl fmt::Debug for Tokenizer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}
