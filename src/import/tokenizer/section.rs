//! [`TokenizerSection`]: the form that all tokenizer files are read into, and how it is written.
//! The format is specified in `src/text/section.rs`.

use std::collections::{BTreeSet, HashMap};
use std::prelude::rust_2024::*;

use rayon::prelude::*;

use super::pattern::{Patterns, Tables};
use super::unicode::{self, NfcTables};
use crate::import::ImportError;
use crate::text::section::{
    ADDED_SINGLE_WORD, ADDED_SPECIAL, BYTE_FALLBACK, BYTE_LEVEL, HEADER_LEN, MAGIC, NFC, NONE,
    Prefix, STATE, VERSION,
};

/// Ids that a file may leave without a token, in all. Real files have a few; memory for more would
/// not be justified by the file's size.
const MAX_HOLES: usize = 65_536;

/// The longest token that [`TokenizerSection::merges_by_score`] takes apart, in bytes.
const MAX_SCORED_PIECE: usize = 256;

/// A tokenizer, before it is written.
pub(super) struct TokenizerSection {
    pub(super) flags: u8,
    pub(super) prefix: Prefix,
    /// How byte-level text is cut.
    pub(super) patterns: Patterns,
    /// What each token decodes to.
    pub(super) pieces: Vec<Vec<u8>>,
    /// Tokens that text can become, byte tokens excepted.
    pub(super) encodable: BTreeSet<u32>,
    /// The tokens of single bytes.
    pub(super) byte_ids: HashMap<u8, u32>,
    pub(super) merges: Vec<Merge>,
    /// Added tokens: those searched for in the text as it is, and in the normalised text.
    pub(super) added: [Vec<Added>; 2],
    /// Further tokens that decoding can skip.
    pub(super) special: BTreeSet<u32>,
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Vec<u32>,
    pub(super) unknown: Option<u32>,
}

/// `left` and `right` become `result`; the lowest rank goes first.
#[derive(Clone, Copy)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) rank: u32,
    pub(super) result: u32,
}

/// A token that is split off before the model sees the text.
pub(super) struct Added {
    pub(super) content: Vec<u8>,
    pub(super) flags: u8,
    pub(super) id: u32,
}

impl TokenizerSection {
    pub(super) fn new() -> Self {
        TokenizerSection {
            flags: 0,
            prefix: Prefix::Never,
            patterns: Patterns::default(),
            pieces: vec![],
            encodable: BTreeSet::new(),
            byte_ids: HashMap::new(),
            merges: vec![],
            added: [vec![], vec![]],
            special: BTreeSet::new(),
            before: vec![],
            after: vec![],
            bos: None,
            eos: vec![],
            unknown: None,
        }
    }

    /// Sets what token `id` decodes to, making room for it. `known` is how many tokens the file
    /// has.
    pub(super) fn set_piece(
        &mut self,
        id: u64,
        piece: Vec<u8>,
        known: usize,
    ) -> Result<u32, ImportError> {
        let place = usize::try_from(id).unwrap_or(usize::MAX);
        if place > known.saturating_add(MAX_HOLES) {
            return Err(ImportError::new(format!(
                "token id {id} in a vocabulary of {known} tokens"
            )));
        }
        if place >= self.pieces.len() {
            self.pieces.resize(place + 1, vec![]);
        }
        self.pieces[place] = piece;
        Ok(id as u32)
    }

    /// The merges that a vocabulary with scores implies: every way to put a token together from two
    /// others, the best score first. This is what sentencepiece, llama.cpp and llama2.c look up
    /// while they merge.
    pub(super) fn merges_by_score(&mut self, scores: &[f32]) -> Result<(), ImportError> {
        let by_score = self.by_score(scores)?;
        self.check_scored_pieces()?;
        let pieces = &self.pieces;
        let ids: HashMap<&[u8], u32> = self
            .encodable
            .iter()
            .rev()
            .map(|id| (pieces[*id as usize].as_slice(), *id))
            .collect();
        let merges_to = |&result: &u32| {
            let score = scores.get(result as usize).copied().unwrap_or(0.0);
            let rank = by_score.partition_point(|other| *other > score) as u32;
            merges_to(result, &pieces[result as usize], rank, &ids)
        };
        // Gemma's vocabulary has half a million.
        let merges = self.encodable.par_iter().flat_map_iter(merges_to).collect();
        self.merges = merges;
        Ok(())
    }

    /// The scores of the tokens that text can become, the best first, each once.
    fn by_score(&self, scores: &[f32]) -> Result<Vec<f32>, ImportError> {
        let mut by_score: Vec<f32> = self
            .encodable
            .iter()
            .filter_map(|id| scores.get(*id as usize))
            .copied()
            .collect();
        if by_score.iter().any(|score| score.is_nan()) {
            return Err(ImportError::new("a token's score is not a number"));
        }
        by_score.sort_by(|a, b| b.total_cmp(a));
        // -0 and 0 are one score.
        by_score.dedup();
        Ok(by_score)
    }

    /// Refuses very long tokens. Real ones have at most some dozens of bytes; the search for merges
    /// is quadratic in this length.
    fn check_scored_pieces(&self) -> Result<(), ImportError> {
        let len = |id: u32| self.pieces[id as usize].len();
        let too_long = |id: &&u32| len(**id) > MAX_SCORED_PIECE;
        let Some(&id) = self.encodable.iter().find(too_long) else {
            return Ok(());
        };
        let len = len(id);
        let most = MAX_SCORED_PIECE;
        Err(ImportError::new(format!(
            "token {id} has {len} bytes, at most {most} are supported"
        )))
    }

    /// The bytes of the section.
    pub(super) fn write(self) -> Result<Vec<u8>, ImportError> {
        let mut added = self.added.iter().flatten();
        let with_words = added.any(|token| token.flags & ADDED_SINGLE_WORD != 0);
        let character_tables =
            CharacterTables::new(&self.patterns, with_words, self.flags & NFC != 0)?;
        self.write_with(&character_tables)
    }

    /// The bytes of the section, with character tables that exist already.
    pub(super) fn write_with(
        mut self,
        character_tables: &CharacterTables,
    ) -> Result<Vec<u8>, ImportError> {
        let vocab_size = self.pieces.len();
        if vocab_size == 0 {
            return Err(ImportError::new("the vocabulary is empty"));
        }
        self.sort_added()?;
        let merges = Merges::of(std::mem::take(&mut self.merges));
        let strings = Strings::of(&self);
        let len = strings.text.len();
        check_counts(vocab_size, len, merges.list.len())?;
        let index = self.index();

        let width = |count: usize| if count < 0xFFFF { 2 } else { 3 };
        let mut out = Writer {
            bytes: vec![],
            id_width: width(vocab_size.max(merges.list.len())),
            offset_width: width(len),
        };
        let counts = [
            vocab_size,
            len,
            index.len(),
            merges.list.len(),
            self.added[0].len(),
            self.added[1].len(),
            character_tables.classes as usize,
        ];
        out.header(&self, counts, character_tables)?;
        out.special_ids(&self);
        strings
            .offsets
            .iter()
            .for_each(|offset| out.offset(*offset));
        out.bytes.extend(&strings.text);
        out.bytes.extend(self.special_bits());
        index.iter().for_each(|id| out.id(*id));
        out.merges(&merges, vocab_size);
        for (token, content) in self.added.iter().flatten().zip(strings.contents) {
            out.offset(content);
            out.bytes.extend([token.content.len() as u8, token.flags]);
            out.id(token.id);
        }
        out.bytes.extend(&character_tables.bytes);
        Ok(out.bytes)
    }

    /// Sorts the added tokens, and drops those that are there twice.
    fn sort_added(&mut self) -> Result<(), ImportError> {
        for added in &mut self.added {
            added.sort_by(|a, b| a.content.cmp(&b.content));
            added.dedup_by(|a, b| a.content == b.content);
            if let Some(long) = added.iter().find(|token| token.content.len() > 255) {
                let name = String::from_utf8_lossy(&long.content[..40]).into_owned();
                return Err(ImportError::new(format!(
                    "added token `{name}…`: {} bytes, at most 255 are supported",
                    long.content.len()
                )));
            }
        }
        Ok(())
    }

    /// The tokens that text can become, sorted by their pieces.
    fn index(&self) -> Vec<u32> {
        let piece = |id: &u32| &self.pieces[*id as usize];
        let mut index: Vec<u32> = self.encodable.iter().copied().collect();
        index.sort_by(|a, b| piece(a).cmp(piece(b)));
        index.dedup_by(|a, b| piece(a) == piece(b));
        index
    }

    /// A bit for each token, set for those that decoding can skip.
    fn special_bits(&self) -> Vec<u8> {
        let added = self.added.iter().flatten();
        let marked = added.filter(|token| token.flags & ADDED_SPECIAL != 0);
        let mut bits = vec![0; self.pieces.len().div_ceil(8)];
        for id in marked
            .map(|token| token.id)
            .chain(self.special.iter().copied())
        {
            bits[id as usize / 8] |= 1 << (id % 8);
        }
        bits
    }
}

/// Every way to put token `result` together from two others of `ids`.
fn merges_to(
    result: u32,
    piece: &[u8],
    rank: u32,
    ids: &HashMap<&[u8], u32>,
) -> impl Iterator<Item = Merge> {
    // A text of one piece cannot become another token of the same piece.
    let cuts = if ids.get(piece) == Some(&result) {
        1..piece.len()
    } else {
        0..0
    };
    cuts.filter_map(move |at| {
        Some(Merge {
            left: *ids.get(&piece[..at])?,
            right: *ids.get(&piece[at..])?,
            rank,
            result,
        })
    })
}

/// Refuses counts that the section's numbers cannot hold.
fn check_counts(vocab_size: usize, len: usize, merges: usize) -> Result<(), ImportError> {
    if [vocab_size, merges, len]
        .iter()
        .any(|&count| count >= 0xFF_FFFF)
    {
        return Err(ImportError::new(format!(
            "{vocab_size} tokens of {len} bytes in all, {merges} merges: more than 16,777,214 of \
             each are not supported"
        )));
    }
    Ok(())
}

/// Merges in the order of the section.
struct Merges {
    list: Vec<Merge>,
    /// New ranks without gaps, if there are gaps that matter.
    ranks: HashMap<u32, u32>,
}

impl Merges {
    fn of(mut list: Vec<Merge>) -> Self {
        // Of two merges of one pair, the last counts, as in a hash map.
        list.reverse();
        let pair = |merge: &Merge| (merge.left, merge.right);
        list.sort_by_key(pair);
        list.dedup_by_key(|merge| pair(merge));
        // Ranks have gaps if a merge was given twice. Scores may have more values than there are
        // merges.
        let greatest = list.iter().map(|merge| merge.rank).max().unwrap_or(0);
        let ranks = if greatest as usize >= list.len() {
            let used: BTreeSet<u32> = list.iter().map(|merge| merge.rank).collect();
            used.into_iter().zip(0..).collect()
        } else {
            HashMap::new()
        };
        Merges { list, ranks }
    }
}

/// All pieces in one text, and after them the contents of added tokens that differ from their
/// pieces.
struct Strings {
    text: Vec<u8>,
    /// Where each piece starts, and the end of the last.
    offsets: Vec<usize>,
    /// Where the content of each added token starts.
    contents: Vec<usize>,
}

impl Strings {
    fn of(tokenizer: &TokenizerSection) -> Self {
        let mut text = vec![];
        let mut offsets = vec![];
        for piece in &tokenizer.pieces {
            offsets.push(text.len());
            text.extend(piece);
        }
        offsets.push(text.len());
        let mut contents = vec![];
        for token in tokenizer.added.iter().flatten() {
            // Most added tokens decode to what they are matched by.
            if tokenizer.pieces[token.id as usize] == token.content {
                contents.push(offsets[token.id as usize]);
            } else {
                contents.push(text.len());
                text.extend(&token.content);
            }
        }
        Strings {
            text,
            offsets,
            contents,
        }
    }
}

/// The tables at the end of a section, which do not name tokens: the classes of characters, NFC and
/// the patterns; and their lengths for the header.
pub(super) struct CharacterTables {
    kinds: u8,
    patterns: u8,
    classes: u32,
    /// Rows of the pattern table.
    rows: u16,
    /// Decompositions, decomposed code points, compositions, combining classes.
    nfc: [u32; 4],
    bytes: Vec<u8>,
}

impl CharacterTables {
    /// Makes the tables of a tokenizer. `with_words`: it has added tokens that are whole words.
    fn new(patterns: &Patterns, with_words: bool, with_nfc: bool) -> Result<Self, ImportError> {
        let patterns = patterns.tables()?;
        let classes = unicode::classes(&patterns.kinds, with_words, with_nfc);
        let none = NfcTables::default();
        let nfc = if with_nfc {
            unicode::nfc_tables()
        } else {
            &none
        };
        let mut out = Writer {
            bytes: vec![],
            id_width: 3,
            offset_width: 3,
        };
        for (first, bits) in &classes {
            out.number(*first as usize | usize::from(*bits) << 24, 4);
        }
        out.nfc(nfc);
        let rows = out.patterns(&patterns);
        Ok(CharacterTables {
            kinds: patterns.kind_count as u8,
            patterns: patterns.patterns.len() as u8,
            classes: classes.len() as u32,
            rows: rows as u16,
            nfc: [
                nfc.decompositions.len() as u32,
                nfc.pool.len() as u32,
                nfc.compositions.len() as u32,
                nfc.combining.len() as u32,
            ],
            bytes: out.bytes,
        })
    }

    /// Takes the tables of a section that [`Tokenizer::open`](crate::text::Tokenizer::open) has
    /// accepted.
    pub(super) fn of(section: &[u8]) -> Self {
        let word = |at: usize| {
            let bytes = [
                section[at],
                section[at + 1],
                section[at + 2],
                section[at + 3],
            ];
            u32::from_le_bytes(bytes)
        };
        let [kinds, patterns] = [section[10], section[11]];
        let rows = u16::from_le_bytes([section[46], section[47]]);
        let classes = word(36);
        let nfc = [word(56), word(60), word(64), word(68)];
        let [decompositions, pool, compositions, combining] = nfc.map(|count| count as usize);
        let nfc_bytes = 5 * decompositions + 3 * pool + 9 * compositions + 7 * combining;
        let pattern_bytes = if patterns == 0 {
            0
        } else {
            128 + 2 * usize::from(patterns) + 2 * usize::from(rows) * (usize::from(kinds) + 1)
        };
        let start = section.len() - 4 * classes as usize - nfc_bytes - pattern_bytes;
        CharacterTables {
            kinds,
            patterns,
            classes,
            rows,
            nfc,
            bytes: section[start..].to_vec(),
        }
    }
}

struct Writer {
    bytes: Vec<u8>,
    id_width: usize,
    offset_width: usize,
}

impl Writer {
    /// `counts` are in the order of the section's parts.
    fn header(
        &mut self,
        tokenizer: &TokenizerSection,
        counts: [usize; 7],
        character_tables: &CharacterTables,
    ) -> Result<(), ImportError> {
        let widths = [self.id_width as u8, self.offset_width as u8];
        self.bytes.extend(MAGIC);
        self.bytes
            .extend([VERSION, widths[0], widths[1], tokenizer.flags]);
        self.bytes.extend([
            tokenizer.prefix as u8,
            0,
            character_tables.kinds,
            character_tables.patterns,
        ]);
        counts.iter().for_each(|count| self.number(*count, 4));
        for ids in [&tokenizer.before, &tokenizer.after, &tokenizer.eos] {
            if ids.len() > 255 {
                return Err(ImportError::new(format!(
                    "{} special tokens around a text or at its end, at most 255 are supported",
                    ids.len()
                )));
            }
            self.number(ids.len(), 2);
        }
        self.number(usize::from(character_tables.rows), 2);
        self.number(tokenizer.unknown.unwrap_or(NONE) as usize, 4);
        self.number(tokenizer.bos.unwrap_or(NONE) as usize, 4);
        for count in character_tables.nfc {
            self.number(count as usize, 4);
        }
        assert_eq!(self.bytes.len(), HEADER_LEN);
        Ok(())
    }

    /// The ids before and after a text, those that end it, and those of bytes.
    fn special_ids(&mut self, tokenizer: &TokenizerSection) {
        let TokenizerSection {
            before, after, eos, ..
        } = tokenizer;
        let ids = before.iter().chain(after).chain(eos);
        ids.for_each(|id| self.id(*id));
        if tokenizer.flags & (BYTE_LEVEL | BYTE_FALLBACK) != 0 {
            for byte in 0..=255 {
                self.id(tokenizer.byte_ids.get(&byte).copied().unwrap_or(NONE));
            }
        }
    }

    /// Where the merges of each left token start, and the merges.
    fn merges(&mut self, merges: &Merges, vocab_size: usize) {
        let mut starts = vec![0; vocab_size + 1];
        for merge in &merges.list {
            starts[merge.left as usize + 1] += 1;
        }
        let mut start = 0;
        for count in starts {
            start += count;
            self.id(start);
        }
        for merge in &merges.list {
            self.id(merge.right);
            self.id(merges.ranks.get(&merge.rank).copied().unwrap_or(merge.rank));
            self.id(merge.result);
        }
    }

    fn nfc(&mut self, nfc: &NfcTables) {
        for (code, start) in &nfc.decompositions {
            self.number(*code as usize, 3);
            self.number(*start, 2);
        }
        for code in nfc.pool.iter().chain(nfc.compositions.iter().flatten()) {
            self.number(*code as usize, 3);
        }
        for (first, last, class) in &nfc.combining {
            self.number(*first as usize, 3);
            self.number(*last as usize, 3);
            self.bytes.push(*class);
        }
    }

    /// The kinds of ASCII characters, the first row of each pattern, and all rows. Returns how many
    /// rows there are.
    fn patterns(&mut self, patterns: &Tables) -> usize {
        let columns = patterns.kind_count + 1;
        self.bytes.extend(&patterns.ascii);
        let mut row = 0;
        for entries in &patterns.patterns {
            self.number(row, 2);
            row += entries.len() / columns;
        }
        let mut row = 0;
        for entries in &patterns.patterns {
            for entry in entries {
                // Rows are counted over all patterns.
                let state = match entry & STATE {
                    0 => 0,
                    state => row + usize::from(state),
                };
                self.number(state | usize::from(entry & !STATE), 2);
            }
            row += entries.len() / columns;
        }
        row
    }

    fn number(&mut self, number: usize, width: usize) {
        self.bytes.extend(&(number as u64).to_le_bytes()[..width]);
    }

    fn id(&mut self, id: u32) {
        self.number(id as usize, self.id_width);
    }

    fn offset(&mut self, offset: usize) {
        self.number(offset, self.offset_width);
    }
}
