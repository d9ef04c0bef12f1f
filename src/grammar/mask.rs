//! Forbids tokens: the logits of those that may not come become −∞.
//!
//! The tokenizer's index has the tokens that text can become, sorted by their bytes. So tokens with
//! a common start are neighbours, and the walk over the start is done once. Where it fails, all
//! tokens with this start are forbidden without a walk. Few tokens are not in the index: those of
//! single bytes, special tokens, and other added ones. They are tested one by one.
//!
//! Mostly very few tokens may come, or nearly all. A first search gathers the tokens that may come
//! and stops when they are many; if they are few, all other logits are overwritten at once. Within a
//! string all text may come that has no quote, backslash or control character. That is tested once,
//! and such tokens are not walked.

use core::ops::Range;

use heapless::Vec;

use super::{Constraint, Place};
use crate::text::{Tokenizer, partition_point};

/// How long a start is remembered, in bytes. Longer tokens are walked from there.
const KEPT: usize = 24;

/// Whether large vocabularies are masked faster, with more code and more stack.
const SHORTCUTS: bool = cfg!(feature = "std");
/// The most tokens that are gathered: 8 bytes of stack each. White space alone may be some hundred
/// tokens of a large vocabulary.
const FEW: usize = 768;
/// The most tokens that are looked at to gather them.
const LOOKED_AT: usize = 2 * FEW;
/// Smaller vocabularies are walked without a test for free text.
const LARGE: usize = 4096;

/// The characters of free text, as ranges of bytes: all but quote, backslash and control
/// characters.
const FREE: [&[(u8, u8)]; 11] = [
    &[(0x20, 0x21)],
    &[(0x23, 0x5B)],
    &[(0x5D, 0x7E)],
    &[(0xC2, 0xDF), TAIL],
    &[(0xE0, 0xE0), (0xA0, 0xBF), TAIL],
    &[(0xE1, 0xEC), TAIL, TAIL],
    &[(0xED, 0xED), (0x80, 0x9F), TAIL],
    &[(0xEE, 0xEF), TAIL, TAIL],
    &[(0xF0, 0xF0), (0x90, 0xBF), TAIL, TAIL],
    &[(0xF1, 0xF3), TAIL, TAIL, TAIL],
    &[(0xF4, 0xF4), (0x80, 0x8F), TAIL, TAIL],
];
const TAIL: (u8, u8) = (0x80, 0xBF);
/// The most bytes of a token that counts as free text.
const FREE_BYTES: usize = 64;

/// How far a [mask](Constraint::mask_step) has come.
///
/// Example: [`Constraint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masking {
    pass: u8,
    at: u32,
}

/// The passes of a mask, in their order: the tokens of the index, those of single bytes, added ones,
/// and the ids of all tokens for the sake of those that are special or in none of these lists.
const NEW: u8 = 0;
const INDEX: u8 = 1;
const BYTES: u8 = 2;
const ADDED: u8 = 3;
const IDS: u8 = 4;
const DONE: u8 = 5;

impl Masking {
    /// A mask that has not begun.
    pub const fn new() -> Self {
        Masking { pass: NEW, at: 0 }
    }

    pub(crate) fn is_new(&self) -> bool {
        self.pass == NEW
    }

    pub(crate) fn begin(&mut self) {
        self.pass = self.pass.max(INDEX);
    }
}

/// Places that were met, and where bytes lead from them.
struct Known {
    places: Vec<Place, PLACES>,
    /// 0: not known yet, 1: nowhere, otherwise the place with two less.
    after: [[u8; 256]; PLACES],
}

/// The most places that are kept.
const PLACES: usize = 64;

/// There are more places than are kept.
struct Full;

impl Known {
    fn new(start: Place) -> Self {
        let mut places = Vec::new();
        // There is room.
        _ = places.push(start);
        Known {
            places,
            after: [[0; 256]; PLACES],
        }
    }

    fn step(&mut self, constraint: &Constraint, at: u8, byte: u8) -> Result<Option<u8>, Full> {
        let row = self.after.get_mut(usize::from(at)).ok_or(Full)?;
        let after = row.get_mut(usize::from(byte)).ok_or(Full)?;
        if *after == 0 {
            let mut place = *self.places.get(usize::from(at)).ok_or(Full)?;
            *after = 1;
            if constraint.walk_byte(&mut place, byte) {
                let known = self.places.iter().position(|known| *known == place);
                let index = known.unwrap_or(self.places.len());
                if known.is_none() && self.places.push(place).is_err() {
                    *after = 0;
                    return Err(Full);
                }
                *after = index as u8 + 2;
            }
        }
        Ok(after.checked_sub(2))
    }
}

impl Constraint<'_> {
    /// Sets the logits of all tokens that [may not come](Constraint::allows) to −∞. `logits`:
    /// `[vocab_size]`, or more if the model has more rows than the tokenizer has tokens.
    pub fn mask(&self, logits: &mut [f32]) {
        let mut masking = Masking::new();
        while !self.mask_step(&mut masking, logits, u32::MAX) {}
    }

    /// [`mask`](Constraint::mask) in calls of bounded length. Start with [`Masking::new`] and call
    /// this with the same logits until it returns `true`. A call works for about `budget` units; a
    /// unit is a look at 16 tokens.
    pub fn mask_step(&self, masking: &mut Masking, logits: &mut [f32], budget: u32) -> bool {
        let mut left = (budget.max(1) as usize).saturating_mul(16);
        masking.begin();
        let begins = (masking.pass, masking.at) == (INDEX, 0);
        if SHORTCUTS && begins && self.mask_all_but_few(logits) {
            masking.pass = DONE;
        }
        while masking.pass != DONE {
            if left == 0 {
                return false;
            }
            let length = self.tokenizer.masked_len(masking.pass, logits.len());
            let at = masking.at as usize;
            let end = length.min(at.saturating_add(left));
            left -= end.saturating_sub(at).min(left);
            match masking.pass {
                INDEX => self.mask_index(at, end, logits),
                IDS => self.mask_ids(at, end, logits),
                pass => (at..end).for_each(|at| {
                    if let Some(id) = self.tokenizer.listed(pass, at) {
                        self.mask_one(id, logits);
                    }
                }),
            }
            masking.at = end as u32;
            if end >= length {
                masking.pass += 1;
                masking.at = 0;
            }
        }
        true
    }

    /// Masks the logits if only few tokens may come. `false` if there are more.
    fn mask_all_but_few(&self, logits: &mut [f32]) -> bool {
        let mut few: Vec<(u32, f32), FEW> = Vec::new();
        let tokenizer = self.tokenizer;
        if self.has_loose || self.gather(logits, &mut few).is_none() {
            return false;
        }
        // What the index does not have. A token that is gathered twice does no harm.
        let bytes = (0..=u8::MAX).filter_map(|byte| tokenizer.byte_token(byte));
        let added =
            (0..tokenizer.masked_len(ADDED, 0)).filter_map(|at| tokenizer.listed(ADDED, at));
        let specials = self
            .specials()
            .filter_map(|text| tokenizer.token_to_id(text));
        for id in bytes
            .chain(added)
            .chain(specials)
            .chain(tokenizer.eos_ids())
        {
            let logit = logits.get(id as usize);
            if let Some(logit) = logit
                && self.allows(id)
                && few.push((id, *logit)).is_err()
            {
                return false;
            }
        }
        logits.fill(f32::NEG_INFINITY);
        for (id, logit) in few {
            if let Some(slot) = logits.get_mut(id as usize) {
                *slot = logit;
            }
        }
        true
    }

    /// Gathers the tokens of the index that may come. `None` if they are many.
    fn gather(&self, logits: &[f32], few: &mut Vec<(u32, f32), FEW>) -> Option<()> {
        let tokenizer = self.tokenizer;
        let length = tokenizer.index_len();
        let mut at = 0;
        for _ in 0..LOOKED_AT {
            if at >= length {
                return Some(());
            }
            let (id, piece) = tokenizer.indexed(at);
            let mut place = self.place;
            let Some(refused) = self.walk(&mut place, piece) else {
                if !tokenizer.is_special(id) && !tokenizer.is_eos(id) {
                    let logit = logits.get(id as usize).copied();
                    few.push((id, logit.unwrap_or(f32::NEG_INFINITY))).ok()?;
                }
                at += 1;
                continue;
            };
            // The place before the byte that was refused, and the next byte that may come there.
            let (before, rest) = piece.split_at_checked(refused)?;
            let mut place = self.place;
            self.walk(&mut place, before);
            let byte = rest.first().copied().unwrap_or_default();
            let next = (byte..=u8::MAX)
                .skip(1)
                .find(|byte| self.walk_byte(&mut { place }, *byte));
            at = match next {
                Some(next) => tokenizer.first_from(at, before, next),
                None => tokenizer.end_of_start(at, length, before),
            };
        }
        None
    }

    /// How many bytes of free text may come at least, if any may and it leads back to where it
    /// started: in strings. Where characters are counted, these are no more than are left.
    fn free_bytes(&self) -> usize {
        let Some(after) = self.after_free(self.place) else {
            return 0;
        };
        if after == self.place {
            return FREE_BYTES;
        }
        if self.place.one_more(1) != Some(after) {
            return 0;
        }
        // A character more may come as long as the count allows it.
        partition_point(FREE_BYTES, |more| {
            let place = self.place.one_more(more as u16);
            place.is_some_and(|mut place| self.walk_byte(&mut place, b' '))
        })
    }

    /// The place after a character of free text, if it is one place for all.
    fn after_free(&self, place: Place) -> Option<Place> {
        let mut after = None;
        for ranges in FREE {
            let mut at = place;
            for (first, last) in ranges {
                let mut next = None;
                for byte in *first..=*last {
                    let mut place = at;
                    if !self.walk_byte(&mut place, byte) || *next.get_or_insert(place) != place {
                        return None;
                    }
                }
                at = next?;
            }
            if *after.get_or_insert(at) != at {
                return None;
            }
        }
        after
    }

    /// The tokens of the index from `at` to `end`.
    fn mask_index(&self, mut at: usize, end: usize, logits: &mut [f32]) {
        let mut free = 0;
        if SHORTCUTS && self.tokenizer.index_len() > LARGE {
            free = self.free_bytes();
            let mut known = Known::new(self.place);
            at = self.mask_sorted(at..end, logits, free, 0, |at, byte| {
                known.step(self, at, byte)
            });
        }
        let step = |mut place: Place, byte| Ok(self.walk_byte(&mut place, byte).then_some(place));
        self.mask_sorted(at..end, logits, free, self.place, step);
    }

    /// The tokens of a part of the index, but for free text of up to `free` bytes. `step` gives the
    /// place after a byte, from `start` on. Returns where it is full, or the end.
    fn mask_sorted<P: Copy>(
        &self,
        part: Range<usize>,
        logits: &mut [f32],
        free: usize,
        start: P,
        mut step: impl FnMut(P, u8) -> Result<Option<P>, Full>,
    ) -> usize {
        let tokenizer = self.tokenizer;
        let mut places = [start; KEPT + 1];
        // The token before, and for how many of its bytes the places after them are known.
        let mut before: &[u8] = &[];
        let mut known = 0;
        let mut at = part.start;
        while at < part.end {
            let piece = tokenizer.indexed(at).1;
            if piece.len() <= free && is_free_text(piece) {
                at += 1;
                continue;
            }
            let common = before.iter().zip(piece).take_while(|(a, b)| a == b).count();
            known = known.min(common);
            let mut place = places.get(known).copied().unwrap_or(start);
            let mut refused = None;
            for (byte, read) in piece.iter().skip(known).zip(known + 1..) {
                match step(place, *byte) {
                    Ok(Some(next)) => place = next,
                    Ok(None) => {
                        refused = piece.get(..read);
                        break;
                    }
                    Err(Full) => return at,
                }
                if let Some(kept) = places.get_mut(read) {
                    *kept = place;
                    known = read;
                }
            }
            before = piece;
            let Some(start) = refused else {
                at += 1;
                continue;
            };
            // All tokens with this start; most often there are few.
            let after = tokenizer.end_of_start(at, part.end, start);
            for at in at..after {
                let id = tokenizer.indexed(at).0;
                if !tokenizer.is_special(id)
                    && let Some(logit) = logits.get_mut(id as usize)
                {
                    *logit = f32::NEG_INFINITY;
                }
            }
            at = after;
        }
        part.end
    }

    /// The ids from `at` to `end`, as far as no list has them.
    fn mask_ids(&self, mut at: usize, end: usize, logits: &mut [f32]) {
        let tokenizer = self.tokenizer;
        let vocab_size = tokenizer.vocab_size() as usize;
        while at < end {
            if at.is_multiple_of(8)
                && at + 8 <= vocab_size
                && !self.has_loose
                && !tokenizer.has_special(at)
            {
                at += 8;
                continue;
            }
            let id = at as u32;
            if at >= vocab_size
                || tokenizer.is_special(id)
                || (self.has_loose && !tokenizer.is_in_index(id))
            {
                self.mask_one(id, logits);
            }
            at += 1;
        }
    }

    fn mask_one(&self, id: u32, logits: &mut [f32]) {
        if let Some(logit) = logits.get_mut(id as usize)
            && !self.allows(id)
        {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Whether a token is [`FREE`] text of whole characters.
fn is_free_text(piece: &[u8]) -> bool {
    let is_plain = |byte: &u8| !matches!(byte, 0..=0x1F | b'"' | b'\\' | 0x7F);
    piece.iter().all(is_plain) && (piece.is_ascii() || core::str::from_utf8(piece).is_ok())
}

impl Tokenizer<'_> {
    /// How many entries a pass has.
    fn masked_len(&self, pass: u8, logits: usize) -> usize {
        match pass {
            INDEX => self.index_len(),
            BYTES => 256,
            ADDED => self.added.iter().map(|added| added.len()).sum(),
            _ => logits.max(self.vocab_size() as usize),
        }
    }

    /// The token of an entry of [`BYTES`] or [`ADDED`].
    fn listed(&self, pass: u8, at: usize) -> Option<u32> {
        if pass == BYTES {
            return self.byte_token(at as u8);
        }
        let [first, second] = &self.added;
        let token = first
            .get(at)
            .or_else(|| second.get(at.checked_sub(first.len())?));
        token.map(|token| token.id)
    }

    /// Whether some token is neither special nor in the lists of a mask: it has no bytes, or the
    /// same bytes as another.
    pub(super) fn has_loose_tokens(&self) -> bool {
        let is_byte = |id| match self.piece(id) {
            Some([byte]) => self.byte_token(*byte) == Some(id),
            _ => false,
        };
        let is_special_or_byte = |id| self.is_special(id) || is_byte(id);
        let listed = (0..self.vocab_size())
            .filter(|id| is_special_or_byte(*id) && !self.is_in_index(*id))
            .count();
        let added = || (0..self.masked_len(ADDED, 0)).filter_map(|at| self.listed(ADDED, at));
        let added_alone = added()
            .enumerate()
            .filter(|(_, id)| !is_special_or_byte(*id) && !self.is_in_index(*id))
            .filter(|(place, id)| !added().take(*place).any(|other| other == *id))
            .count();
        self.index_len() + listed + added_alone < self.vocab_size() as usize
    }

    fn is_in_index(&self, id: u32) -> bool {
        self.piece(id).and_then(|piece| self.model_token(piece)) == Some(id)
    }
}
