//! [`Tokenizer::open`]: the check of a tokenizer section.

use super::Tokenizer;
use super::section::*;
use super::tables::{AddedToken, AddedTokens, NfcTables, Numbers, Patterns, piece};
use crate::Error;

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
        let header = Header::read(&mut reader);
        reader.so_far()?;
        let Header {
            words,
            id_width,
            offset_width,
            flags,
            vocab_size,
            id_limit,
            ..
        } = header;
        let vocabulary = vocab_size as usize;

        let mut ids = |count: usize, none: u32| {
            let ids = reader.numbers(count, id_width);
            reader.require_table(ids.are_below(vocab_size, none));
            ids
        };
        let after = words[40 / 4] as usize & 0xFFFF;
        let eos = after + (words[40 / 4] as usize >> 16);
        let template = ids(eos + (words[44 / 4] as usize & 0xFFFF), NONE);
        let has_byte_ids = flags & (BYTE_LEVEL | BYTE_FALLBACK) != 0;
        let byte_ids = ids(if has_byte_ids { 256 } else { 0 }, id_limit);

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
        reader.check_merges(vocab_size, &merge_starts, &merges);

        let added = [words[28 / 4], words[32 / 4]];
        let added = added.map(|count| reader.added_tokens(&header, count, text));
        let classes = reader.numbers(words[36 / 4] as usize, 4);
        reader.require_table(classes.ascend(0xFF_FFFF, 1));
        if cfg!(feature = "byte-level") {
            let kind = |at: usize| (classes.at(at) >> 24) as usize & usize::from(KIND);
            reader.require_table((0..classes.len()).all(|at| header.is_kind(kind(at))));
        }
        let nfc = NfcTables {
            decompositions: reader.take((words[56 / 4] as usize).saturating_mul(5)),
            pool: reader.numbers(words[60 / 4] as usize, 3),
            compositions: reader.numbers((words[64 / 4] as usize).saturating_mul(3), 3),
            combining: reader.take((words[68 / 4] as usize).saturating_mul(7)),
        };
        reader.require_table(!cfg!(feature = "nfc") || nfc.is_sound());
        let patterns = reader.patterns(&header);
        reader.require(reader.at == section.len(), reader.at);
        reader.so_far()?;

        Ok(Tokenizer {
            flags,
            prefix: header.prefix,
            unknown: header.unknown,
            bos: header.bos,
            vocab_size,
            template,
            after_start: after,
            eos_start: eos,
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
}

/// The header of the section.
struct Header {
    /// All of it, in words of 4 bytes.
    words: [u32; HEADER_LEN / 4],
    id_width: usize,
    offset_width: usize,
    flags: u8,
    prefix: Prefix,
    /// Kinds of characters, patterns, and rows of the pattern table.
    kinds: usize,
    patterns: u8,
    rows: u32,
    vocab_size: u32,
    /// Ids and ranks of all ones mean "none". This is that number.
    id_limit: u32,
    unknown: Option<u32>,
    bos: Option<u32>,
}

impl Header {
    /// Reads and checks the header.
    fn read(reader: &mut Reader<'_>) -> Header {
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
        let [.., id_width, offset_width, flags] = *header.first_chunk::<8>().unwrap_or(&[0; 8]);
        let [prefix, _, kinds, patterns] = words[8 / 4].to_le_bytes();
        let prefix_code = prefix;
        let prefix = match prefix_code {
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
        // The smaller of two is 0 unless both are set.
        let (must_be_zero, other_flags) = if flags & BYTE_LEVEL == 0 {
            (patterns, NFC | IGNORE_MERGES)
        } else if matches!(prefix, Prefix::Never | Prefix::AlwaysUnlessSpace) {
            let both = prefix_code.min(flags & IGNORE_MERGES);
            (both, BYTE_FALLBACK | FOLD | SPLIT)
        } else {
            (prefix_code, 0)
        };
        reader.require(must_be_zero == 0 && flags & other_flags == 0, 7);
        reader.require((patterns == 0) == (kinds == 0), 10);
        reader.require(
            (patterns == 0) == (rows == 0) && rows < u32::from(STATE),
            46,
        );

        let vocab_size = words[12 / 4];
        let id_limit = if id_width == 2 { 0xFFFF } else { 0xFF_FFFF };
        reader.require(vocab_size != 0 && vocab_size <= id_limit, 12);
        reader.require(words[24 / 4] <= id_limit, 24);
        let mut optional_id = |at: usize, id: u32| {
            reader.require(id == NONE || id < vocab_size, at);
            Some(id).filter(|id| *id != NONE)
        };
        let unknown = optional_id(48, words[48 / 4]);
        let bos = optional_id(52, words[52 / 4]);
        let nfc_tables = words[56 / 4] | words[60 / 4] | words[64 / 4] | words[68 / 4];
        reader.require(flags & NFC != 0 || nfc_tables == 0, 56);
        Header {
            words,
            id_width: usize::from(id_width),
            offset_width: usize::from(offset_width),
            flags,
            prefix,
            // A build without byte-level tokenizers has refused those that have kinds.
            kinds: if cfg!(feature = "byte-level") {
                usize::from(kinds)
            } else {
                0
            },
            patterns,
            rows,
            vocab_size,
            id_limit,
            unknown,
            bos,
        }
    }

    /// Whether there is such a kind of characters. Without patterns there is only kind 0.
    fn is_kind(&self, kind: usize) -> bool {
        kind < self.kinds.max(1)
    }
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

    /// The first thing that is wrong, if there is one.
    fn so_far(&self) -> Result<(), Error> {
        self.refused.map_or(Ok(()), Err)
    }

    /// Each left token's merges, whose right tokens ascend, are all merges one after the other.
    fn check_merges(&mut self, vocab_size: u32, starts: &Numbers<'_>, merges: &Numbers<'_>) {
        for left in 0..vocab_size as usize {
            let mut next = 0;
            for merge in starts.at(left) as usize..starts.at(left + 1) as usize {
                let right = merges.at(merge * 3);
                let result = merges.at(merge * 3 + 2);
                self.require_table(next <= right && right < vocab_size && result < vocab_size);
                next = right.saturating_add(1);
            }
        }
    }

    /// A table of `count` added tokens.
    fn added_tokens(&mut self, header: &Header, count: u32, text: &'m [u8]) -> AddedTokens<'m> {
        let record_len = header.offset_width + 2 + header.id_width;
        let mut tokens = AddedTokens {
            records: self.take((count as usize).saturating_mul(record_len)),
            id_width: header.id_width,
            offset_width: header.offset_width,
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
            self.require_table(token.id < header.vocab_size && previous < token.content);
            self.require_table(core::str::from_utf8(token.content).is_ok());
            previous = token.content;
            let first = previous.first().copied().unwrap_or_default();
            if let Some(bits) = tokens.first_bytes.get_mut(usize::from(first >> 5)) {
                *bits |= 1 << (first & 31);
            }
        }
        tokens
    }

    /// The tables of the patterns, if there are any.
    fn patterns(&mut self, header: &Header) -> Patterns<'m> {
        let mut patterns = Patterns {
            kinds: header.kinds,
            ascii: &[],
            starts: Numbers::EMPTY,
            entries: Numbers::EMPTY,
        };
        if patterns.kinds == 0 {
            return patterns;
        }
        patterns.ascii = self.take(128);
        self.require_table(
            patterns
                .ascii
                .iter()
                .all(|kind| header.is_kind(usize::from(*kind))),
        );
        patterns.starts = self.numbers(usize::from(header.patterns), 2);
        self.require_table(patterns.starts.are_below(header.rows, NONE));
        let entries = (header.rows as usize).saturating_mul(patterns.kinds + 1);
        patterns.entries = self.numbers(entries, 2);
        let states = &patterns.entries;
        let is_row = |at: usize| states.at(at) & u32::from(STATE) <= header.rows;
        self.require_table((0..states.len()).all(is_row));
        patterns
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
