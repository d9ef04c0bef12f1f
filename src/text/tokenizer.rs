//! [`Tokenizer`]: the tokenizer section of an image, checked once and read in place.
//!
//! # The section
//! All numbers are little-endian and unsigned. The section is a header of 72 bytes and the tables
//! below, one after the other without gaps or padding; it ends with the last of them. An *id* is
//! `id_width` bytes (2 or 3), an *offset* `offset_width` bytes (2 or 3), a *code point* 3 bytes.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | `"PTOK"` |
//! | 4 | 1 | version: 1 |
//! | 5 | 1 | `id_width`: 2 if `vocab_size` and `merges` are below 65,536, else 3 |
//! | 6 | 1 | `offset_width`: 2 if `text` is below 65,536, else 3 |
//! | 7 | 1 | flags, below |
//! | 8 | 1 | where a space is put in front of text: see [`Prefix`] |
//! | 9 | 1 | 0 |
//! | 10 | 1 | `kinds` of characters that patterns tell apart, at most 64 |
//! | 11 | 1 | `patterns` that cut text into pre-tokens, at most 8 |
//! | 12 | 4 | `vocab_size` |
//! | 16 | 4 | `text`: bytes of all pieces |
//! | 20 | 4 | `index` |
//! | 24 | 4 | `merges` |
//! | 28 | 4, 4 | added tokens searched for in the text as it is, and in the normalised text |
//! | 36 | 4 | `classes` |
//! | 40 | 2, 2, 2 | ids to put before a text, ids to put after it, end-of-generation ids |
//! | 46 | 2 | `rows` of the pattern table, below 16,384 |
//! | 48 | 4, 4 | the unknown token's id, the id of BOS; `0xFFFF_FFFF` for none |
//! | 56 | 4, 4, 4, 4 | `decompositions`, `decomposed`, `compositions`, `combining` |
//!
//! Flags: 1 byte-level, 2 byte fallback, 4 fuse unknown, 8 ignore merges, 16 NFC, 32 fold `▁` for
//! the second search for added tokens, 64 decoding drops one leading space, 128 a pre-token starts
//! at every space.
//!
//! 1. **Template**: ids before, ids after, end-of-generation ids.
//! 2. **Bytes**, only if byte-level or byte fallback: 256 ids, the token of each byte; all ones for
//!    none.
//! 3. **Pieces**: `vocab_size + 1` offsets into the text, then the text. Piece `i` is what token
//!    `i` decodes to: `▁` and byte-level letters are already translated, a byte token is its byte.
//!    The text may go on after the last piece.
//! 4. **Special**: a bit for each id, rounded up to bytes; set for tokens that decoding can skip.
//! 5. **Index**: `index` ids, sorted by their pieces' bytes, no two pieces equal: the tokens that
//!    text can become (so no byte tokens and no added tokens that the model's vocabulary does not
//!    have).
//! 6. **Merges**: `vocab_size + 1` ids, where the merges of each left token start; then for each
//!    merge, three ids: right token, rank, result. Sorted by left and right token. The merge with
//!    the lowest rank goes first, the leftmost of equals.
//! 7. **Added tokens**: for each an offset into the text, a byte of length (not 0), a byte of flags
//!    (1 special · 2 lstrip · 4 rstrip · 8 single word) and an id. First those for the text as it
//!    is, then those for the normalised text; each part sorted by its UTF-8 contents, no two equal.
//! 8. **Classes**: for each 4 bytes: a code point, sorted, and the class of all code points from
//!    there on. The low six bits are the kind that patterns know a character by; 64 is a word
//!    character; 128 is not inert under NFC. ASCII is not looked up.
//! 9. **NFC**: `decompositions` times a code point and 2 bytes, sorted by code point: where in the
//!    pool its full canonical decomposition starts (it ends where the next one starts); the pool,
//!    `decomposed` code points; `compositions` times three code points, sorted: first, second,
//!    composite; `combining` times first and last code point and a byte of combining class. Hangul
//!    is computed.
//! 10. **Patterns**, only if there are any: the kinds of the 128 ASCII characters, a byte each; for
//!     each pattern the row it starts at, 2 bytes; `rows` rows of `kinds + 1` entries of 2 bytes.
//!
//! # Patterns
//! The first pattern cuts a text into pieces. Each further one cuts the pieces of the one before.
//! A pattern is a deterministic automaton: in a row, the entry of the next character's kind, or the
//! last entry at the end of the piece, says whether a match ends *before* that character (32,768),
//! and whether characters end there that no match starts in (16,384); the rest is the number of the
//! row to go on in plus one, or 0 to stop. The last end that was seen counts. If there is none, no
//! match starts at the first character. What lies between matches is a piece, too.

use core::fmt;

use crate::Error;

/// `"PTOK"`.
pub(crate) const MAGIC: [u8; 4] = *b"PTOK";
/// The version of the section format.
pub(crate) const VERSION: u8 = 1;
/// Bytes before the first table.
pub(crate) const HEADER_LEN: usize = 72;
/// In 4-byte fields: none.
pub(crate) const NONE: u32 = u32::MAX;

/// Symbols start as bytes, not as characters.
pub(crate) const BYTE_LEVEL: u8 = 1;
/// A character without a token becomes the tokens of its bytes.
pub(crate) const BYTE_FALLBACK: u8 = 2;
/// Neighbouring unknown characters are one unknown token.
pub(crate) const FUSE_UNKNOWN: u8 = 4;
/// A pre-token that is itself in the vocabulary is taken whole.
pub(crate) const IGNORE_MERGES: u8 = 8;
/// Text is brought to Unicode Normalization Form C.
pub(crate) const NFC: u8 = 16;
/// The second search for added tokens sees `▁` and space as one.
pub(crate) const FOLD: u8 = 32;
/// Decoding drops a space at the start of the text.
pub(crate) const STRIP: u8 = 64;
/// A pre-token starts at every space.
pub(crate) const SPLIT: u8 = 128;

/// Added token: skipped in decoding, and matched only where special tokens may be parsed.
pub(crate) const ADDED_SPECIAL: u8 = 1;
/// Added token: takes the whitespace before it.
pub(crate) const ADDED_LSTRIP: u8 = 2;
/// Added token: takes the whitespace after it.
pub(crate) const ADDED_RSTRIP: u8 = 4;
/// Added token: not within a word.
pub(crate) const ADDED_SINGLE_WORD: u8 = 8;

/// The part of a class that is the kind of a character.
pub(crate) const KIND: u8 = 63;
/// Class bit: `\w`.
pub(crate) const WORD: u8 = 64;
/// Class bit: combining class not 0, or NFC_Quick_Check not Yes.
pub(crate) const NOT_INERT: u8 = 128;

/// The most patterns a tokenizer can have.
pub(crate) const MAX_PATTERNS: usize = 8;
/// The most kinds of characters that its patterns can tell apart.
#[cfg(feature = "std")]
pub(crate) const MAX_KINDS: usize = KIND as usize + 1;
/// Pattern entry: a match ends before this character.
pub(crate) const MATCH: u16 = 1 << 15;
/// Pattern entry: characters that no match starts in end before this character.
pub(crate) const GAP: u16 = 1 << 14;
/// The part of a pattern entry that is the row to go on in, plus one.
pub(crate) const STATE: u16 = GAP - 1;

/// Where encoding puts a space in front of text that has not got one of its own accord.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Prefix {
    /// Nowhere (Gemma, all byte-level tokenizers).
    Never = 0,
    /// Before every stretch of text between added tokens (Hugging Face's legacy Llama form;
    /// llama.cpp).
    Always = 1,
    /// Before the whole text (sentencepiece, llama2.c).
    TextStart = 2,
    /// As `Always`, unless the stretch starts with a space (Metaspace `always`).
    AlwaysUnlessSpace = 3,
    /// As `TextStart`, unless the text starts with a space (Metaspace `first`).
    TextStartUnlessSpace = 4,
}

/// A table of numbers of `width` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'m> {
    bytes: &'m [u8],
    width: usize,
}

const NO_NUMBERS: Numbers<'static> = Numbers {
    bytes: &[],
    width: 2,
};

impl<'m> Numbers<'m> {
    /// Number `index`; [`NONE`] if the table has no such number.
    pub(crate) fn at(&self, index: usize) -> u32 {
        let start = index.saturating_mul(self.width);
        match self.bytes.get(start..).unwrap_or_default() {
            [a, b, ..] if self.width == 2 => u32::from(u16::from_le_bytes([*a, *b])),
            [a, b, c, ..] if self.width == 3 => u32::from_le_bytes([*a, *b, *c, 0]),
            [a, b, c, d, ..] if self.width == 4 => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => NONE,
        }
    }

    /// Whether each number is below `limit`, or is `none`.
    #[cfg_attr(target_os = "none", inline(never))]
    fn are_below(&self, limit: u32, none: u32) -> bool {
        (0..self.len()).all(|index| self.at(index) < limit || self.at(index) == none)
    }

    /// Whether each number, as far as it is in `mask`, is at least `step` above the one before.
    #[cfg_attr(target_os = "none", inline(never))]
    fn ascend(&self, mask: u32, step: u32) -> bool {
        (1..self.len())
            .all(|index| (self.at(index - 1) & mask).saturating_add(step) <= self.at(index) & mask)
    }

    /// How many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().checked_div(self.width).unwrap_or(0)
    }
}

/// The first of `0..len` for which `before` is false, given that it is true up to some point and
/// false from there on.
pub(crate) fn partition_point(len: usize, mut before: impl FnMut(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1
        } else {
            high = middle
        }
    }
    low
}

/// An entry of an added-token table.
#[derive(Clone, Copy)]
pub(crate) struct AddedToken<'m> {
    pub(crate) content: &'m [u8],
    pub(crate) flags: u8,
    pub(crate) id: u32,
}

/// One of the two tables of added tokens, sorted by content.
#[derive(Clone, Copy)]
pub(crate) struct AddedTokens<'m> {
    records: &'m [u8],
    id_width: usize,
    offset_width: usize,
    text: &'m [u8],
    /// A bit for each byte that a content starts with: most text is passed over by this alone.
    pub(crate) first_bytes: [u32; 8],
}

impl<'m> AddedTokens<'m> {
    fn record_len(&self) -> usize {
        self.offset_width + 2 + self.id_width
    }

    /// How many added tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.records
            .len()
            .checked_div(self.record_len())
            .unwrap_or(0)
    }

    /// Added token `index`, if there is one.
    pub(crate) fn get(&self, index: usize) -> Option<AddedToken<'m>> {
        let record = self.records.get(index.checked_mul(self.record_len())?..)?;
        let (offset, rest) = record.split_at_checked(self.offset_width)?;
        let [len, flags, id @ ..] = rest else {
            return None;
        };
        let offset = Numbers {
            bytes: offset,
            width: self.offset_width,
        }
        .at(0) as usize;
        let content = self.text.get(offset..)?.get(..usize::from(*len))?;
        Some(AddedToken {
            content,
            flags: *flags,
            id: Numbers {
                bytes: id,
                width: self.id_width,
            }
            .at(0),
        })
    }
}

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
    bos: Option<u32>,
    vocab_size: u32,
    /// Ids before a text, ids after it, and end-of-generation ids: where the second and the third
    /// start.
    pub(crate) template: Numbers<'m>,
    pub(crate) after: usize,
    pub(crate) eos: usize,
    byte_ids: Numbers<'m>,
    offsets: Numbers<'m>,
    text: &'m [u8],
    special: &'m [u8],
    pub(crate) index: Numbers<'m>,
    pub(crate) merge_starts: Numbers<'m>,
    pub(crate) merges: Numbers<'m>,
    pub(crate) added: [AddedTokens<'m>; 2],
    classes: Numbers<'m>,
    pub(crate) nfc: NfcTables<'m>,
    pub(crate) patterns: Patterns<'m>,
}

/// The automata that cut text into pre-tokens; empty for tokenizers that do not cut it.
#[derive(Clone, Copy)]
pub(crate) struct Patterns<'m> {
    /// How many kinds of characters there are: a row has one entry more.
    pub(crate) kinds: usize,
    /// The kinds of the ASCII characters.
    pub(crate) ascii: &'m [u8],
    /// The row that each pattern starts at.
    pub(crate) starts: Numbers<'m>,
    /// The entries, row after row.
    pub(crate) entries: Numbers<'m>,
}

/// The tables that normalising needs; empty for tokenizers that do not normalise.
#[derive(Clone, Copy)]
pub(crate) struct NfcTables<'m> {
    /// Records of 5 bytes: code point, start in the pool.
    pub(crate) decompositions: &'m [u8],
    /// Code points.
    pub(crate) pool: Numbers<'m>,
    /// Three code points each: first, second, composite.
    pub(crate) compositions: Numbers<'m>,
    /// Records of 7 bytes: first and last code point, combining class.
    pub(crate) combining: &'m [u8],
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

/// What lies between the offset of token `id` and the next.
fn piece<'m>(offsets: &Numbers<'m>, text: &'m [u8], id: u32) -> Option<&'m [u8]> {
    let start = offsets.at(id as usize);
    let end = offsets.at((id as usize).checked_add(1)?);
    text.get(start as usize..end as usize)
}

/// Takes tables off the section, front to back, and keeps the first thing that is wrong with it: so
/// nothing is left early, and one place alone makes an error of it. After a table that is cut short
/// all others are empty.
struct Reader<'m> {
    section: &'m [u8],
    at: usize,
    /// Where the table taken last starts.
    table: usize,
    refused: Option<Error>,
}

impl<'m> Reader<'m> {
    /// Refuses the section unless it is `fine` at `offset`.
    #[inline(never)]
    fn require(&mut self, fine: bool, offset: usize) {
        if !fine {
            self.refuse(Error::TokenizerInvalid { offset });
        }
    }

    /// The same of the table taken last.
    #[inline(never)]
    fn require_table(&mut self, fine: bool) {
        self.require(fine, self.table);
    }

    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }

    #[inline(never)]
    fn take(&mut self, len: usize) -> &'m [u8] {
        let end = self.at.saturating_add(len);
        let Some(bytes) = self.section.get(self.at..end) else {
            self.refuse(Error::TokenizerTruncated {
                needed: end,
                found: self.section.len(),
            });
            self.section = &[];
            return &[];
        };
        (self.table, self.at) = (self.at, end);
        bytes
    }

    #[inline(never)]
    fn numbers(&mut self, count: usize, width: usize) -> Numbers<'m> {
        Numbers {
            bytes: self.take(count.saturating_mul(width)),
            width,
        }
    }
    fn so_far(&self) -> Result<(), Error> {
        self.refused.map_or(Ok(()), Err)
    }
}

#[cfg(all(test, not(feature = "byte-level")))]
mod tests {
    use super::*;

    #[test]
    fn tokenizers_that_are_not_compiled_in_are_refused_by_name() {
        let refusal = |flags: u8| {
            let mut header = [0; HEADER_LEN];
            header[..4].copy_from_slice(&MAGIC);
            (header[4], header[5], header[6], header[7]) = (VERSION, 2, 2, flags);
            Tokenizer::open(&header).unwrap_err()
        };
        assert_eq!(refusal(BYTE_LEVEL), Error::ByteLevelDisabled);
        assert_eq!(refusal(BYTE_LEVEL | NFC), Error::ByteLevelDisabled);
        assert_eq!(refusal(NFC), Error::NfcDisabled);
        assert_eq!(
            refusal(BYTE_FALLBACK),
            Error::TokenizerInvalid { offset: 12 }
        );
    }
}
