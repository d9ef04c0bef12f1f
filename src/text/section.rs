//! The format of the tokenizer section of an image. `open` reads it, the importer writes it.
//!
//! # The format
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
//! The first pattern cuts a text into parts: its matches, and what lies between them. Each further
//! pattern cuts the parts of the one before. A pattern is a deterministic automaton. A walk starts
//! at a character, in the pattern's first row. Each step looks at the entry of the next character's
//! kind; at the end of the part that is cut, it looks at the last entry. An entry holds three
//! things. 32,768: a match that began where the walk started ends before this character. 16,384: no
//! match begins between the start of the walk and this character. The rest: the row to go on in
//! plus one, or 0 to stop. The last of these marks says where the part ends. Without any mark, the
//! first character is no part of a match.

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
