//! Unicode Normalization Form C (UAX #15), from tables in the tokenizer section.
//!
//! Text of inert characters, which is nearly all there is, is in this form already and not copied.
//! Other text is cut before every inert character. A chunk that is one inert character is copied.
//! Any other chunk is decomposed, put in order and composed.

use super::Tokenizer;
use super::characters::characters;
use super::section::NOT_INERT;
use super::tables::{NfcTables, Numbers, partition_point};

/// Hangul syllables are 19 · 21 · 28 sequences of leading consonant, vowel and (from 1) trailing
/// consonant.
const SYLLABLES: u32 = 0xAC00;
const LEADING: u32 = 0x1100;
const VOWELS: u32 = 0x1161;
const TRAILING: u32 = 0x11A7;

/// A normalised text and the scratch that is left.
pub(crate) type Normalized<'s> = (&'s str, &'s mut [u32]);

impl Tokenizer<'_> {
    /// `text` in the tokenizer's normal form. `None` if the scratch is too small.
    pub(crate) fn normalize<'s>(
        &self,
        text: &'s str,
        scratch: &'s mut [u32],
    ) -> Option<Normalized<'s>> {
        let inert =
            |character: char| character.is_ascii() || self.class(character) & NOT_INERT == 0;
        if !self.normalizes() || characters(text).all(inert) {
            return Some((text, scratch));
        }
        let mut written = 0;
        // Everything before `start` is written. There the current chunk begins: an inert character,
        // or the start of the text, and characters after it that are not inert.
        let mut start = 0;
        let mut plain = true;
        let mut place = 0;
        for character in characters(text) {
            if inert(character) {
                written = self.write_chunk(text.get(start..place)?, plain, scratch, written)?;
                start = place;
                plain = true;
            } else {
                plain = false;
            }
            place += character.len_utf8();
        }
        written = self.write_chunk(text.get(start..)?, plain, scratch, written)?;

        let (head, rest) = scratch.split_at_mut_checked(written.div_ceil(4))?;
        let normalized = bytemuck::cast_slice::<u32, u8>(head).get(..written)?;
        Some((core::str::from_utf8(normalized).ok()?, rest))
    }

    /// Writes a chunk behind the `written` bytes at the start of `scratch`; returns how many there
    /// are now.
    fn write_chunk(
        &self,
        chunk: &str,
        plain: bool,
        scratch: &mut [u32],
        written: usize,
    ) -> Option<usize> {
        if plain {
            return write_bytes(bytemuck::cast_slice_mut(scratch), written, chunk);
        }
        // In this form, no character has more than three times its bytes.
        let room = written
            .checked_add(chunk.len().checked_mul(3)?)?
            .div_ceil(4);
        let (head, marks) = scratch.split_at_mut_checked(room)?;
        let count = self.nfc.decompose(chunk, marks)?;
        let (marks, spare) = marks.split_at_mut_checked(count)?;
        sort_marks(marks, spare)?;
        let count = self.nfc.compose_all(marks);

        let head = bytemuck::cast_slice_mut::<u32, u8>(head);
        let mut written = written;
        for mark in marks.get(..count)? {
            let character =
                char::from_u32(mark & CODE_POINT).unwrap_or(char::REPLACEMENT_CHARACTER);
            written = write_bytes(head, written, character.encode_utf8(&mut [0; 4]))?;
        }
        Some(written)
    }
}

/// Writes `text` behind the `written` bytes of `bytes`; returns how many there are now.
fn write_bytes(bytes: &mut [u8], written: usize, text: &str) -> Option<usize> {
    let end = written.checked_add(text.len())?;
    let room = bytes.get_mut(written..end)?;
    room.iter_mut()
        .zip(text.bytes())
        .for_each(|(slot, byte)| *slot = byte);
    Some(end)
}

/// The code point in a number that has its combining class in the 8 bits above.
const CODE_POINT: u32 = 0xFF_FFFF;

fn combining_class(mark: u32) -> u32 {
    mark >> 24
}

/// Puts each run of combining marks in order of class; marks of one class keep their order. `spare`
/// has to be as long as the longest run that is out of order.
fn sort_marks(marks: &mut [u32], spare: &mut [u32]) -> Option<()> {
    for run in marks.split_mut(|mark| combining_class(*mark) == 0) {
        if run.is_sorted_by_key(|mark| combining_class(*mark)) {
            continue;
        }
        // There are few classes, so a pass for each keeps a run of any length in linear time.
        let sorted = spare.get_mut(..run.len())?;
        let mut class = 0;
        let mut len = 0;
        while let Some(next) = run
            .iter()
            .map(|mark| combining_class(*mark))
            .filter(|other| *other > class)
            .min()
        {
            class = next;
            for (mark, slot) in run
                .iter()
                .filter(|mark| combining_class(**mark) == class)
                .zip(sorted.get_mut(len..)?)
            {
                *slot = *mark;
                len += 1;
            }
        }
        run.copy_from_slice(sorted);
    }
    Some(())
}

impl NfcTables<'_> {
    /// Whether the tables are sorted, and hold characters and references within bounds.
    pub(crate) fn is_sound(&self) -> bool {
        let records = self.decompositions.len() / 5;
        let is_character = |code: u32| char::from_u32(code).is_some();
        let all_characters =
            |numbers: &Numbers| (0..numbers.len()).all(|at| is_character(numbers.at(at)));
        let mut previous = (0, 0);
        for index in 0..records {
            let (code, start) = self.decomposition(index);
            // No code point has more than four in its decomposition: a bound on what a text can
            // grow to.
            let long = start - previous.1.min(start) > 4;
            if code <= previous.0
                || start < previous.1
                || start as usize >= self.pool.len()
                || (index > 0 && long)
            {
                return false;
            }
            previous = (code, start);
        }
        let last = self.pool.len().saturating_sub(previous.1 as usize);
        let pair = |index: usize| {
            (
                self.compositions.at(index * 3),
                self.compositions.at(index * 3 + 1),
            )
        };
        let range = |index: usize| {
            self.range(index)
                .map_or((1, 0), |(first, last, _)| (first, last))
        };
        last <= 4
            && all_characters(&self.pool)
            && all_characters(&self.compositions)
            && (1..self.compositions.len() / 3).all(|index| pair(index - 1) < pair(index))
            && (0..self.combining.len() / 7).all(|index| range(index).0 <= range(index).1)
            && (1..self.combining.len() / 7).all(|index| range(index - 1).1 < range(index).0)
    }

    /// The code point of a decomposition and where it starts in the pool; past the last one, the
    /// pool's end.
    fn decomposition(&self, index: usize) -> (u32, u32) {
        match self.decompositions.get(index * 5..) {
            Some([a, b, c, start @ ..]) => match start {
                [low, high, ..] => (
                    u32::from_le_bytes([*a, *b, *c, 0]),
                    u32::from(u16::from_le_bytes([*low, *high])),
                ),
                _ => (0, 0),
            },
            _ => (0, self.pool.len() as u32),
        }
    }

    fn range(&self, index: usize) -> Option<(u32, u32, u8)> {
        match self.combining.get(index * 7..)? {
            [a, b, c, d, e, f, class, ..] => Some((
                u32::from_le_bytes([*a, *b, *c, 0]),
                u32::from_le_bytes([*d, *e, *f, 0]),
                *class,
            )),
            _ => None,
        }
    }

    fn with_class(&self, code: u32) -> u32 {
        let at = partition_point(self.combining.len() / 7, |index| {
            self.range(index).is_some_and(|(_, last, _)| last < code)
        });
        match self.range(at) {
            Some((first, _, class)) if first <= code => u32::from(class) << 24 | code,
            _ => code,
        }
    }

    /// Writes the full canonical decomposition of `text` into `marks`, returns its length.
    fn decompose(&self, text: &str, marks: &mut [u32]) -> Option<usize> {
        let mut slots = marks.iter_mut();
        let mut count = 0;
        let mut put = |mark: u32| {
            *slots.next()? = mark;
            count += 1;
            Some(())
        };
        for code in characters(text).map(u32::from) {
            if let Some(syllable) = code
                .checked_sub(SYLLABLES)
                .filter(|syllable| *syllable < 19 * 21 * 28)
            {
                put(LEADING + syllable / 28 / 21)?;
                put(VOWELS + syllable / 28 % 21)?;
                if syllable % 28 != 0 {
                    put(TRAILING + syllable % 28)?;
                }
                continue;
            }
            let records = self.decompositions.len() / 5;
            let at = partition_point(records, |index| self.decomposition(index).0 < code);
            if at < records && self.decomposition(at).0 == code {
                for index in self.decomposition(at).1..self.decomposition(at + 1).1 {
                    put(self.with_class(self.pool.at(index as usize)))?;
                }
            } else {
                put(self.with_class(code))?;
            }
        }
        Some(count)
    }

    /// Composes marks in order, in place; returns how many are left.
    fn compose_all(&self, marks: &mut [u32]) -> usize {
        let mut kept = 0;
        let mut starter = None;
        // The class of the last mark kept since the starter; 0 if there is none.
        let mut last = 0;
        for index in 0..marks.len() {
            let Some(mark) = marks.get(index).copied() else {
                break;
            };
            let class = combining_class(mark);
            // A mark reaches the starter unless one of its class or above, or another starter, is
            // in between.
            if let Some(slot) = starter.and_then(|starter: usize| marks.get_mut(starter))
                && (last == 0 || last < class)
                && let Some(composite) = self.compose(*slot & CODE_POINT, mark & CODE_POINT)
            {
                *slot = composite;
                continue;
            }
            if class == 0 {
                starter = Some(kept);
            }
            last = class;
            if let Some(slot) = marks.get_mut(kept) {
                *slot = mark;
            }
            kept += 1;
        }
        kept
    }

    #[cfg_attr(target_os = "none", inline(never))]
    fn compose(&self, first: u32, second: u32) -> Option<u32> {
        let vowel = second.wrapping_sub(VOWELS);
        let trailing = second.wrapping_sub(TRAILING);
        let syllable = first.wrapping_sub(SYLLABLES);
        if first.wrapping_sub(LEADING) < 19 && vowel < 21 {
            return Some(SYLLABLES + (first.wrapping_sub(LEADING) * 21 + vowel) * 28);
        }
        if syllable < 19 * 21 * 28 && syllable.is_multiple_of(28) && (1..28).contains(&trailing) {
            return Some(first + trailing);
        }
        let pair = |index: usize| {
            (
                self.compositions.at(index * 3),
                self.compositions.at(index * 3 + 1),
            )
        };
        let count = self.compositions.len() / 3;
        let at = partition_point(count, |index| pair(index) < (first, second));
        (at < count && pair(at) == (first, second)).then(|| self.compositions.at(at * 3 + 2))
    }
}
