//! The tables of a tokenizer section, read in place.

use super::section::NONE;

/// A table of numbers of `width` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'m> {
    pub(super) bytes: &'m [u8],
    pub(super) width: usize,
}

impl<'m> Numbers<'m> {
    pub(super) const EMPTY: Numbers<'static> = Numbers {
        bytes: &[],
        width: 2,
    };

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
    pub(super) fn are_below(&self, limit: u32, none: u32) -> bool {
        (0..self.len()).all(|index| self.at(index) < limit || self.at(index) == none)
    }

    /// Whether each number, as far as it is in `mask`, is at least `step` above the one before.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(super) fn ascend(&self, mask: u32, step: u32) -> bool {
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
    let mut low = 0;
    let mut high = len;
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
    pub(super) records: &'m [u8],
    pub(super) id_width: usize,
    pub(super) offset_width: usize,
    pub(super) text: &'m [u8],
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

/// What lies between the offset of token `id` and the next.
pub(super) fn piece<'m>(offsets: &Numbers<'m>, text: &'m [u8], id: u32) -> Option<&'m [u8]> {
    let start = offsets.at(id as usize);
    let end = offsets.at((id as usize).checked_add(1)?);
    text.get(start as usize..end as usize)
}
