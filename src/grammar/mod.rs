//! Text that obeys a grammar: JSON of a schema, a regular expression, calls of tools.
//!
//! A host compiles a grammar to bytes (`import::grammar`, `pocketlm grammar`). On the device,
//! [`Grammar::open`] checks the bytes once. A [`Constraint`] is a place in a grammar: it says which
//! tokens may come next, and moves on with the token that is chosen. It is small, `Copy`, and never
//! fails. [`Generation::grammar`](crate::generate::Generation::grammar) uses one for a whole text.
//!
//! A token is allowed if the grammar allows all its bytes, one after the other. A special token is
//! allowed where the grammar names it. A token that ends a text is allowed where the text is
//! complete.
//!
//! # The format
//! All numbers are little-endian and unsigned. An *offset* is `width` bytes (2 or 3), and counts
//! from the start of the code.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | `"PGRM"` |
//! | 4 | 1 | version: 1 |
//! | 5 | 1 | `width` of an offset |
//! | 6 | 1 | `depth`: the most slots of the stack that are used, at most 16 |
//! | 7 | 1 | `specials` |
//! | 8 | 4 | CRC-32 of all other bytes |
//! | 12 | 4 | `calls`, at most 65,535 |
//! | 16 | 4 | `code`: bytes of the code |
//! | 20 | 4 | the offset that a text starts at |
//!
//! 1. **Calls**: two offsets each: the start of the called rule, and where the text continues after
//!    it.
//! 2. **Specials**: for each special token its length, a byte, and its text.
//! 3. **Code**: records. A place in a text is a record and a stack of slots of 16 bits. The first
//!    byte of a record says what it is:
//!
//! | first byte | rest | meaning |
//! |---|---|---|
//! | 0–127 | | this byte may come, and then the next record |
//! | 128 go to | offset | the record there |
//! | 129 byte | a byte | this byte may come, and then the next record |
//! | 130 range | first, last | one of these bytes may come, and then the next record |
//! | 131 end | | the rule ends |
//! | 132 branch | see below | |
//! | 133 call | call, 2 bytes | the rule of this call, then its return: a slot has the call |
//! | 134 enter | offset of a loop | a slot with the count 0, then the loop |
//! | 135 loop | see below | |
//! | 136 need | slots, 1 byte | the next record, if so many slots are free |
//!
//! **Branch**: a byte of flags (1: the rule may end here) and three bytes, the numbers of edges,
//! looks and specials, which follow in this order:
//!
//! * An *edge* is a first byte, a last byte and an offset: one of these bytes may come, and then
//!   the record there.
//! * A *look* is the same, but the record there reads the byte.
//! * A *special* is the index of a special token, a byte, and an offset: this token may come, and
//!   then the record there. With 128 added to the index, the record there reads the token.
//!
//! Edges are sorted and looks are sorted. No two of them share a byte.
//!
//! **Loop**: the minimum and the maximum number of rounds (2 bytes each; a maximum of 65,535 means
//! unlimited), the call of the body, which returns to the loop (2 bytes), the offset of the record
//! after the loop, the number of ranges (a byte), and for each range its first and last byte. A
//! body begins with a byte of these ranges. The number of rounds so far is in the uppermost slot.
//! If the next byte is in a range, a round begins. Otherwise the loop ends.
//!
//! At the end of a rule, and where a rule may end and no edge has the next symbol, the uppermost
//! slot is removed: its call says where the text continues. A text is complete if all rules on the
//! stack may end.

mod constraint;
mod mask;
#[cfg(feature = "std")]
mod tree;
mod vocabulary;

pub use constraint::{Constraint, PLACE_BYTES};
pub use mask::Masking;
#[cfg(feature = "std")]
pub use tree::Tree;
pub use vocabulary::Vocabulary;

use crate::Error;
use crate::model::extend_crc32;

pub(crate) const VERSION: u8 = 1;
pub(crate) const HEADER_LEN: usize = 24;
/// The most slots of a stack.
pub(crate) const SLOTS: usize = 16;
/// The maximum number of rounds of an unlimited loop.
pub(crate) const UNBOUNDED: u16 = u16::MAX;
/// The most specials.
#[cfg(feature = "std")]
pub(crate) const MAX_SPECIALS: usize = 127;
/// In a branch: the record there reads the special.
pub(crate) const LOOK: u8 = 128;

/// The first bytes of records.
pub(crate) mod op {
    pub(crate) const GO_TO: u8 = 128;
    pub(crate) const BYTE: u8 = 129;
    pub(crate) const RANGE: u8 = 130;
    pub(crate) const END: u8 = 131;
    pub(crate) const BRANCH: u8 = 132;
    pub(crate) const CALL: u8 = 133;
    pub(crate) const ENTER: u8 = 134;
    pub(crate) const LOOP: u8 = 135;
    pub(crate) const NEED: u8 = 136;
}

/// The most records that one symbol passes, so that the time of a walk has a bound. A symbol
/// removes or fills each slot once, with a branch before it. Only a forged grammar has more.
const PASSED: usize = 8 * SLOTS;

/// A compiled grammar, borrowed and checked.
///
/// Example: [`Constraint`].
#[derive(Clone, Copy)]
pub struct Grammar<'g> {
    calls: &'g [u8],
    specials: &'g [u8],
    code: &'g [u8],
    start: u32,
    width: u8,
    depth: u8,
}

/// What a token is to a grammar.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Symbol<'s> {
    Byte(u8),
    Special(&'s [u8]),
}

/// A record and the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(Hash))]
pub(crate) struct Place {
    at: u32,
    depth: u8,
    /// Those from `depth` on are 0.
    slots: [u16; SLOTS],
}

impl<'g> Grammar<'g> {
    /// The first bytes of every grammar.
    pub const MAGIC: [u8; 4] = *b"PGRM";

    /// Opens a grammar and checks all of it. After that, nothing in it can fail.
    ///
    /// # Errors
    /// [`Error::NotAGrammar`], [`Error::GrammarVersion`] or [`Error::GrammarDamaged`].
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn open(bytes: &'g [u8]) -> Result<Self, Error> {
        if !bytes.starts_with(&Self::MAGIC) {
            return Err(Error::NotAGrammar);
        }
        if let Some(version) = bytes.get(4)
            && *version != VERSION
        {
            return Err(Error::GrammarVersion(*version));
        }
        Self::parse(bytes).ok_or(Error::GrammarDamaged)
    }

    fn parse(bytes: &'g [u8]) -> Option<Self> {
        let (header, tables) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let word = |at: usize| {
            let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
            u32::from_le_bytes(*bytes.unwrap_or(&[0; 4]))
        };
        let [_, _, _, _, _, width, depth, specials, ..] = *header;
        let crc = extend_crc32(extend_crc32(0, header.get(..8)?), bytes.get(12..)?);
        let calls = word(12) as usize;
        if crc != word(8)
            || !(2..=3).contains(&width)
            || usize::from(depth) > SLOTS
            || calls > usize::from(u16::MAX)
        {
            return None;
        }
        let (calls, rest) = tables.split_at_checked(calls * 2 * usize::from(width))?;
        let mut code = rest;
        for _ in 0..specials {
            let (length, text) = code.split_first()?;
            code = text.get(usize::from(*length)..)?;
        }
        let specials = rest.get(..rest.len() - code.len())?;
        let grammar = Grammar {
            calls,
            specials,
            code,
            start: word(20),
            width,
            depth,
        };
        let sound = code.len() == word(16) as usize
            && grammar.is_code(grammar.start as usize)
            && (0..calls.len().checked_div(width.into()).unwrap_or(0))
                .all(|index| grammar.is_code(number(calls, index * usize::from(width), width)))
            && grammar.records_are_whole();
        sound.then_some(grammar)
    }

    /// Bytes of RAM of a [`Constraint`].
    pub const CONSTRAINT_BYTES: usize = size_of::<Constraint<'static>>();

    /// How many slots of the stack of a [`Constraint`] a text can use.
    pub fn depth(&self) -> usize {
        usize::from(self.depth)
    }

    /// The texts of the special tokens that the grammar names. A tokenizer that has no such token
    /// cannot write them.
    pub fn specials(&self) -> impl Iterator<Item = &'g [u8]> + use<'g> {
        let mut rest = self.specials;
        core::iter::from_fn(move || {
            let (length, text) = rest.split_first()?;
            let (text, after) = text.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(text)
        })
    }

    /// Whether the grammar matches all of `text`. No part of `text` counts as a special token.
    pub fn matches(&self, text: &[u8]) -> bool {
        let mut place = self.start();
        text.iter()
            .all(|byte| self.walk(&mut place, Symbol::Byte(*byte)))
            && self.is_complete(place)
    }

    /// The start of a text.
    pub(crate) fn start(&self) -> Place {
        let mut place = Place {
            at: 0,
            depth: 0,
            slots: [0; SLOTS],
        };
        self.arrive(&mut place, self.start as usize);
        place
    }

    /// Moves `place` over a symbol. `false` if the symbol is forbidden there; `place` is undefined
    /// then.
    pub(crate) fn walk(&self, place: &mut Place, symbol: Symbol) -> bool {
        self.walk_past(place, symbol, |_| ())
    }

    /// [`walk`](Grammar::walk) that calls `look` with the offset of each record it passes.
    fn walk_past(&self, place: &mut Place, symbol: Symbol, mut look: impl FnMut(usize)) -> bool {
        for _ in 0..PASSED {
            let at = place.at as usize;
            look(at);
            let goes_on = match *self.code.get(at..).unwrap_or_default() {
                [byte @ 0..=127, ..] => {
                    return symbol == Symbol::Byte(byte) && self.arrive(place, at + 1);
                }
                [op::BYTE, byte, ..] => {
                    return symbol == Symbol::Byte(byte) && self.arrive(place, at + 2);
                }
                [op::RANGE, first, last, ..] => {
                    let fits = |byte| (first..=last).contains(&byte);
                    return matches!(symbol, Symbol::Byte(byte) if fits(byte))
                        && self.arrive(place, at + 3);
                }
                [op::END, ..] => self.pop(place),
                [op::CALL, a, b, ..] => self.call(place, u16::from_le_bytes([a, b])),
                [op::ENTER, ..] => {
                    let target = self.offset(at + 1);
                    self.push(place, 0) && self.arrive(place, target)
                }
                [op::LOOP, ..] => self.go_round(place, at, symbol),
                [op::BRANCH, flags, ..] => match self.edge(at, symbol) {
                    Some((target, true)) => return self.arrive(place, target),
                    Some((target, false)) => self.arrive(place, target),
                    None => flags & 1 != 0 && self.pop(place),
                },
                _ => false,
            };
            if !goes_on {
                return false;
            }
        }
        false
    }

    /// [`walk`](Grammar::walk) over a byte, and the range of bytes around it with the same result.
    #[cfg(feature = "std")]
    pub(crate) fn walk_alike(&self, place: &mut Place, byte: u8) -> (bool, (u8, u8)) {
        let mut alike = (0, u8::MAX);
        let walked = self.walk_past(place, Symbol::Byte(byte), |at| {
            self.each_range(at, |first, last| {
                if byte < first {
                    alike.1 = alike.1.min(first - 1);
                } else if byte > last {
                    alike.0 = alike.0.max(last + 1);
                } else {
                    alike = (alike.0.max(first), alike.1.min(last));
                }
            });
        });
        (walked, alike)
    }

    /// The ranges of bytes that the record at `at` distinguishes.
    #[cfg(feature = "std")]
    fn each_range(&self, at: usize, mut range: impl FnMut(u8, u8)) {
        let code = self.code.get(at..).unwrap_or_default();
        let width = usize::from(self.width);
        let (first, count, size) = match *code {
            [byte @ 0..=127, ..] | [op::BYTE, byte, ..] => return range(byte, byte),
            [op::RANGE, first, last, ..] => return range(first, last),
            [op::BRANCH, _, edges, looks, ..] => {
                (5, usize::from(edges) + usize::from(looks), 2 + width)
            }
            [op::LOOP, ..] => {
                let ranges = 7 + width;
                let count = code.get(ranges).copied().unwrap_or_default();
                (ranges + 1, usize::from(count), 2)
            }
            _ => return,
        };
        let entries = code.get(first..).unwrap_or_default().chunks(size);
        for entry in entries.take(count) {
            if let [first, last, ..] = *entry {
                range(first, last);
            }
        }
    }

    /// The same place, after the ends of rules at which nothing else is possible.
    #[cfg(feature = "std")]
    pub(crate) fn settled(&self, mut place: Place) -> Place {
        while let Some(&op::END) = self.code.get(place.at as usize) {
            let mut after = place;
            if !self.pop(&mut after) {
                break;
            }
            place = after;
        }
        place
    }

    /// How many rounds the loop at the first place can still begin. `None` if the first place is at
    /// no loop, or if the others are not the same loop one round and two rounds later.
    #[cfg(feature = "std")]
    pub(crate) fn rounds_left(&self, [first, second, third]: [&Place; 3]) -> Option<u16> {
        let at = first.at as usize;
        let mut later = *first;
        let mut go_round = || {
            let slot = later
                .slots
                .get_mut(usize::from(first.depth).checked_sub(1)?)?;
            *slot = slot.checked_add(1)?;
            Some(later)
        };
        let is_loop = self.code.get(at) == Some(&op::LOOP)
            && go_round() == Some(*second)
            && go_round() == Some(*third);
        is_loop.then(|| match self.u16(at + 3) {
            UNBOUNDED => UNBOUNDED,
            most => most.saturating_sub(self.rounds(first)),
        })
    }

    /// Whether the text may end at `place`.
    pub(crate) fn is_complete(&self, mut place: Place) -> bool {
        for _ in 0..PASSED {
            let at = place.at as usize;
            let ends = match *self.code.get(at..).unwrap_or_default() {
                [op::END, ..] => true,
                [op::BRANCH, flags, ..] => flags & 1 != 0,
                [op::LOOP, ..] if self.rounds(&place) >= self.u16(at + 1) => {
                    self.take_slot(&mut place);
                    if !self.arrive(&mut place, self.offset(at + 7)) {
                        return false;
                    }
                    continue;
                }
                _ => false,
            };
            if !ends {
                return false;
            }
            if place.depth == 0 {
                return true;
            }
            if !self.pop(&mut place) {
                return false;
            }
        }
        false
    }

    /// The byte that must come at `place`: no other symbol is allowed, and the text may not end.
    pub(crate) fn only_byte(&self, place: &Place) -> Option<u8> {
        if let Some(byte @ 0..=127) = self.code.get(place.at as usize) {
            return Some(*byte);
        }
        let fits = |symbol| self.walk(&mut { *place }, symbol);
        let mut bytes = (0..=u8::MAX).filter(|byte| fits(Symbol::Byte(*byte)));
        let only = bytes.next()?;
        let alone = bytes.next().is_none()
            && !self.is_complete(*place)
            && !self.specials().any(|text| fits(Symbol::Special(text)));
        alone.then_some(only)
    }

    /// Whether the text must end at `place`.
    pub(crate) fn is_at_end(&self, place: &Place) -> bool {
        let fits = |symbol| self.walk(&mut { *place }, symbol);
        self.is_complete(*place)
            && !(0..=u8::MAX).any(|byte| fits(Symbol::Byte(byte)))
            && !self.specials().any(|text| fits(Symbol::Special(text)))
    }

    /// A round of the loop at `at`, or its end.
    fn go_round(&self, place: &mut Place, at: usize, symbol: Symbol) -> bool {
        let rounds = self.rounds(place);
        let ranges = at + 7 + usize::from(self.width);
        let count = usize::from(self.code.get(ranges).copied().unwrap_or_default());
        let begins = match symbol {
            Symbol::Byte(byte) => self.find(ranges + 1, count, 2, byte).is_some(),
            Symbol::Special(_) => false,
        };
        if !begins {
            self.take_slot(place);
            return rounds >= self.u16(at + 1) && self.arrive(place, self.offset(at + 7));
        }
        let most = self.u16(at + 3);
        if rounds >= most && most != UNBOUNDED {
            return false;
        }
        // An unlimited loop does not need the exact count beyond the greatest u16.
        let slot = place
            .slots
            .get_mut(usize::from(place.depth).wrapping_sub(1));
        if let Some(slot) = slot {
            *slot = rounds.saturating_add(1);
        }
        self.call(place, self.u16(at + 5))
    }

    /// Where the branch at `at` leads with `symbol`, and whether this reads the symbol.
    fn edge(&self, at: usize, symbol: Symbol) -> Option<(usize, bool)> {
        let [_, _, edges, looks, specials, ..] = *self.code.get(at..)? else {
            return None;
        };
        let width = usize::from(self.width);
        let size = 2 + width;
        let first_look = at + 5 + usize::from(edges) * size;
        match symbol {
            Symbol::Byte(byte) => {
                let edge = self.find(at + 5, edges.into(), size, byte);
                let look = || self.find(first_look, looks.into(), size, byte);
                edge.map(|at| (at, true))
                    .or_else(|| look().map(|at| (at, false)))
                    .map(|(at, read)| (self.offset(at + 2), read))
            }
            Symbol::Special(text) => {
                let first = first_look + usize::from(looks) * size;
                (0..usize::from(specials)).find_map(|index| {
                    let at = first + index * (1 + width);
                    let special = *self.code.get(at)?;
                    let name = self.specials().nth(usize::from(special & !LOOK))?;
                    (name == text).then(|| (self.offset(at + 1), special & LOOK == 0))
                })
            }
        }
    }

    /// Searches `count` sorted entries of `size` bytes from `at` on for the one that has `byte`. An
    /// entry begins with the first and the last byte of a range.
    fn find(&self, at: usize, count: usize, size: usize, byte: u8) -> Option<usize> {
        let entries = self.code.get(at..)?.get(..count * size)?;
        let mut found = entries.chunks_exact(size.max(1)).enumerate();
        let (index, entry) =
            found.find(|(_, entry)| entry.get(1).is_some_and(|last| byte <= *last))?;
        (*entry.first()? <= byte).then_some(at + index * size)
    }

    /// Moves `place` to `target`, and on over go-to and need records. `false` if too few slots are
    /// free, or if a forged grammar leads out of its code.
    fn arrive(&self, place: &mut Place, target: usize) -> bool {
        let mut at = target;
        // The compiler writes at most one go-to and one need in a row.
        for _ in 0..4 {
            match *self.code.get(at..).unwrap_or_default() {
                [op::GO_TO, ..] => at = self.offset(at + 1),
                [op::NEED, slots, ..] if slots.saturating_add(place.depth) > self.depth => {
                    return false;
                }
                [op::NEED, ..] => at += 2,
                _ => break,
            }
        }
        let is_code = self.is_code(at);
        if is_code {
            place.at = at as u32;
        }
        is_code
    }

    fn call(&self, place: &mut Place, call: u16) -> bool {
        // What follows the call must have enough slots as well.
        self.arrive(&mut { *place }, self.call_offset(call, 1))
            && self.push(place, call)
            && self.arrive(place, self.call_offset(call, 0))
    }

    fn push(&self, place: &mut Place, value: u16) -> bool {
        match place.slots.get_mut(usize::from(place.depth)) {
            Some(slot) if place.depth < self.depth => {
                *slot = value;
                place.depth += 1;
                true
            }
            _ => false,
        }
    }

    /// The end of a rule.
    fn pop(&self, place: &mut Place) -> bool {
        if place.depth == 0 {
            return false;
        }
        let call = self.take_slot(place);
        self.arrive(place, self.call_offset(call, 1))
    }

    fn take_slot(&self, place: &mut Place) -> u16 {
        place.depth = place.depth.saturating_sub(1);
        let slot = place.slots.get_mut(usize::from(place.depth));
        slot.map_or(0, core::mem::take)
    }

    /// The count of the loop that `place` is at.
    fn rounds(&self, place: &Place) -> u16 {
        let slot = usize::from(place.depth).wrapping_sub(1);
        place.slots.get(slot).copied().unwrap_or_default()
    }

    fn call_offset(&self, call: u16, which: usize) -> usize {
        let index = usize::from(call) * 2 + which;
        number(self.calls, index * usize::from(self.width), self.width)
    }

    fn offset(&self, at: usize) -> usize {
        number(self.code, at, self.width)
    }

    fn u16(&self, at: usize) -> u16 {
        number(self.code, at, 2) as u16
    }

    fn is_code(&self, offset: usize) -> bool {
        offset < self.code.len()
    }

    /// Whether the code is records one after the other, with offsets in it and calls that there
    /// are, and the last of them leads nowhere.
    fn records_are_whole(&self) -> bool {
        let width = usize::from(self.width);
        let calls = self.calls.len().checked_div(2 * width).unwrap_or(0);
        let is_call = |at: usize| usize::from(self.u16(at)) < calls;
        let names = self.specials().count();
        let mut at = 0;
        let mut falls_through = true;
        while let Some(first) = self.code.get(at) {
            let count = |place: usize| usize::from(self.code.get(at + place).copied().unwrap_or(0));
            falls_through = matches!(first, 0..=127 | &op::BYTE | &op::RANGE | &op::NEED);
            let (length, sound) = match *first {
                0..=127 | op::END => (1, true),
                op::BYTE | op::NEED => (2, true),
                op::RANGE => (3, true),
                op::GO_TO | op::ENTER => (1 + width, self.is_code(self.offset(at + 1))),
                op::CALL => (3, is_call(at + 1)),
                op::LOOP => {
                    let ranges = count(7 + width);
                    let sound = is_call(at + 5)
                        && self.is_code(self.offset(at + 7))
                        && self.are_sorted(at + 8 + width, ranges, 2);
                    (8 + width + 2 * ranges, sound)
                }
                op::BRANCH => {
                    let (edges, specials) = (count(2) + count(3), count(4));
                    let first_look = at + 5 + count(2) * (2 + width);
                    let sorted = self.are_sorted(at + 5, count(2), 2 + width)
                        && self.are_sorted(first_look, count(3), 2 + width);
                    let first_special = at + 5 + edges * (2 + width);
                    let edges_lead = (0..edges)
                        .all(|index| self.is_code(self.offset(at + 7 + index * (2 + width))));
                    let specials_lead = (0..specials).all(|index| {
                        let at = first_special + index * (1 + width);
                        let name = self.code.get(at).copied().unwrap_or_default() & !LOOK;
                        usize::from(name) < names && self.is_code(self.offset(at + 1))
                    });
                    let length = 5 + edges * (2 + width) + specials * (1 + width);
                    (length, sorted && edges_lead && specials_lead)
                }
                _ => return false,
            };
            at += length;
            if !sound || at > self.code.len() {
                return false;
            }
        }
        !falls_through
    }

    /// Whether the ranges of bytes that `count` entries of `size` bytes begin with are in order,
    /// and share no byte.
    fn are_sorted(&self, at: usize, count: usize, size: usize) -> bool {
        let entries = self.code.get(at..).unwrap_or_default();
        let mut least = 0;
        for entry in entries.chunks(size.max(1)).take(count) {
            let [first, last, ..] = *entry else {
                return false;
            };
            if u16::from(first) < least || first > last {
                return false;
            }
            least = u16::from(last) + 1;
        }
        true
    }
}

/// The number of `width` bytes at `at`; one that is out of every range if there is none.
fn number(bytes: &[u8], at: usize, width: u8) -> usize {
    match *bytes.get(at..).unwrap_or_default() {
        [a, b, ..] if width == 2 => usize::from(u16::from_le_bytes([a, b])),
        [a, b, c, ..] if width == 3 => u32::from_le_bytes([a, b, c, 0]) as usize,
        _ => usize::MAX,
    }
}

impl core::fmt::Debug for Grammar<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Grammar")
            .field("depth", &self.depth)
            .field("code", &self.code.len())
            .finish_non_exhaustive()
    }
}
