//! The places that a walk reaches, and where bytes and characters lead from them.

use core::num::NonZeroU8;
use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::vec;

use super::{LONGEST, Node, kinds};
use crate::grammar::{Constraint, Place};

/// A walk stores this many places, of about a kilobyte each. Then it drops all but those that lead
/// to its node.
const MOST_PLACES: usize = 2048;
/// Most walks need no more than this.
const FEW: usize = 32;
/// A [`Reach`] follows this many characters, and this many places for each.
const MOST_CHARACTERS: usize = 32;
const MOST_ENDS: usize = 64;

/// The places from the root to a node, by depth.
pub(super) type Path = [u16; LONGEST + 1];

/// What is known of texts without reading their bytes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    Allowed,
    Forbidden,
    /// Some of them may be allowed.
    Open,
}

/// What is known of all texts of some kinds of characters.
#[derive(Clone, Copy)]
struct Reach {
    /// They are allowed if they have at most this many characters.
    allowed: u8,
    /// They are forbidden if they have at least this many characters.
    forbidden: NonZeroU8,
}

/// Where the characters of a kind lead from a place.
#[derive(Clone, Copy)]
struct Step {
    /// Whether all of them are allowed.
    all: bool,
    /// The places after them, in [`Places::ends`].
    first: u32,
    count: u32,
}

/// The places that a walk has reached. A place has an index.
pub(super) struct Places<'c> {
    constraint: &'c Constraint<'c>,
    places: Vec<Place>,
    known: HashMap<Place, u16>,
    /// For each place and byte: [`UNKNOWN`], [`NOWHERE`], or the next place with [`FIRST`] added.
    after: Vec<[u16; 256]>,
    /// For each place and kind of characters.
    steps: Vec<[Option<Step>; kinds::COUNT]>,
    ends: Vec<u16>,
    /// For each place and set of kinds.
    reach: Vec<[Option<Reach>; 1 << kinds::COUNT]>,
}

const UNKNOWN: u16 = 0;
const NOWHERE: u16 = 1;
const FIRST: u16 = 2;

impl<'c> Places<'c> {
    /// Where a walk begins has the index 0.
    pub(super) fn new(constraint: &'c Constraint<'c>) -> Self {
        let mut places = Places {
            constraint,
            places: Vec::with_capacity(FEW),
            known: HashMap::with_capacity(FEW),
            after: Vec::with_capacity(FEW),
            steps: Vec::with_capacity(FEW),
            ends: Vec::with_capacity(FEW),
            reach: Vec::with_capacity(FEW),
        };
        places.index(constraint.place);
        places
    }

    fn index(&mut self, place: Place) -> u16 {
        let place = self.constraint.settled(place);
        if let Some(index) = self.known.get(&place) {
            return *index;
        }
        let index = self.places.len() as u16;
        self.places.push(place);
        self.known.insert(place, index);
        self.after.push([UNKNOWN; 256]);
        self.steps.push([None; _]);
        self.reach.push([None; _]);
        index
    }

    /// Whether a token may begin with `byte`.
    #[inline]
    pub(super) fn can_begin(&mut self, byte: u8) -> bool {
        match self.after[0][usize::from(byte)] {
            UNKNOWN => self.fill(0, byte).is_some(),
            known => known != NOWHERE,
        }
    }

    /// The place after the byte of `node`; `path` has the place before it.
    #[inline]
    pub(super) fn after(&mut self, path: &mut Path, node: &Node) -> Option<u16> {
        let from = path[usize::from(node.depth.wrapping_sub(1))];
        let known = self.after[usize::from(from)][usize::from(node.byte)];
        match known.checked_sub(FIRST) {
            None if known == UNKNOWN => self.find_after(path, node),
            after => after,
        }
    }

    #[cold]
    fn find_after(&mut self, path: &mut Path, node: &Node) -> Option<u16> {
        let before = &mut path[..usize::from(node.depth)];
        if self.places.len() >= MOST_PLACES {
            self.forget_all_but(before);
        }
        let from = before.last().copied().unwrap_or_default();
        self.fill(usize::from(from), node.byte)
    }

    /// Computes the place after `byte`, and stores it for all bytes around it that lead there.
    fn fill(&mut self, from: usize, byte: u8) -> Option<u16> {
        let mut place = self.places[from];
        let (is_allowed, (first, last)) = self.constraint.walk_alike(&mut place, byte);
        let after = is_allowed.then(|| self.index(place));
        let known = after.map_or(NOWHERE, |after| after + FIRST);
        self.after[from][usize::from(first)..=usize::from(last)].fill(known);
        after
    }

    /// Drops all places but those of `path`, which get new indices.
    fn forget_all_but(&mut self, path: &mut [u16]) {
        let places = core::mem::take(&mut self.places);
        self.known.clear();
        self.after.clear();
        self.steps.clear();
        self.ends.clear();
        self.reach.clear();
        for index in path {
            *index = self.index(places[usize::from(*index)]);
        }
    }

    /// What is known of texts after `place` by their kinds and their number of characters.
    #[inline]
    pub(super) fn outcome(&mut self, place: u16, kinds: u8, characters: u8) -> Outcome {
        let reach = match self.reach[usize::from(place)].get(usize::from(kinds)) {
            Some(Some(reach)) => *reach,
            Some(None) => self.find_reach(place, kinds),
            None => return Outcome::Open,
        };
        if characters <= reach.allowed {
            Outcome::Allowed
        } else if characters >= reach.forbidden.get() {
            Outcome::Forbidden
        } else {
            Outcome::Open
        }
    }

    #[cold]
    fn find_reach(&mut self, place: u16, kinds: u8) -> Reach {
        // A step adds two thousand places at most, so that an index has 16 bits.
        if self.places.len() >= 2 * MOST_PLACES {
            return Reach {
                allowed: 0,
                forbidden: NonZeroU8::MAX,
            };
        }
        let (allowed, forbidden) = self.follow(place, kinds);
        let reach = Reach {
            allowed: u8::try_from(allowed).unwrap_or(u8::MAX),
            forbidden: NonZeroU8::try_from(u8::try_from(forbidden).unwrap_or(u8::MAX))
                .unwrap_or(NonZeroU8::MAX),
        };
        self.reach[usize::from(place)][usize::from(kinds)] = Some(reach);
        reach
    }

    /// Follows all texts of these kinds at once, character by character. Returns up to how many
    /// characters all are allowed, and from how many on all are forbidden.
    fn follow(&mut self, place: u16, kinds: u8) -> (usize, usize) {
        const NEVER: usize = usize::MAX;
        // Mostly, the first character decides.
        let (mut all, mut some) = (true, false);
        for bit in bits(kinds) {
            let step = self.step(place, bit);
            all &= step.all;
            some |= step.count > 0;
        }
        if !some {
            return (0, 1);
        }
        if !all {
            return (0, NEVER);
        }
        let (mut before, mut now, mut seen) = (Vec::new(), vec![place], vec![place]);
        for count in 0..MOST_CHARACTERS {
            let Some((all, next)) = self.ends_of(&now, kinds) else {
                return (count, NEVER);
            };
            if next.is_empty() {
                return (count, count + 1);
            }
            if !all {
                return (count, NEVER);
            }
            if next.iter().all(|place| seen.contains(place)) {
                return (NEVER, NEVER);
            }
            if let ([first], [second], [third]) = (&before[..], &now[..], &next[..])
                && let places = [first, second, third].map(|at| &self.places[usize::from(*at)])
                && let Some(left) = self.constraint.rounds_left(places)
            {
                let allowed = count - 1 + usize::from(left);
                return (allowed, allowed + 1);
            }
            seen.extend(&next);
            before = core::mem::replace(&mut now, next);
        }
        (MOST_CHARACTERS, NEVER)
    }

    /// The places after any character of these kinds from any of `places`, and whether all of them
    /// are allowed. `None` if there are too many.
    fn ends_of(&mut self, places: &[u16], kinds: u8) -> Option<(bool, Vec<u16>)> {
        let (mut all, mut ends) = (true, Vec::new());
        for place in places {
            for bit in bits(kinds) {
                if self.places.len() >= 2 * MOST_PLACES || ends.len() > MOST_ENDS {
                    return None;
                }
                let step = self.step(*place, bit);
                all &= step.all;
                let to = step.first as usize..(step.first + step.count) as usize;
                self.ends[to].iter().for_each(|end| insert(&mut ends, *end));
            }
        }
        Some((all, ends))
    }

    /// Where the characters of a kind lead, stored.
    fn step(&mut self, place: u16, bit: usize) -> Step {
        if let Some(step) = self.steps[usize::from(place)][bit] {
            return step;
        }
        let (mut all, mut ends) = (true, Vec::new());
        for form in kinds::forms(bit) {
            let Some((last, start)) = form.split_last() else {
                continue;
            };
            let mut now = Vec::new();
            for (index, bytes) in start.iter().enumerate() {
                let before = core::mem::take(&mut now);
                let before = if index == 0 { &[place] } else { &before[..] };
                for place in before {
                    all &= self.look_after(*place, *bytes, &mut now);
                }
            }
            let before = if start.is_empty() { &[place] } else { &now[..] };
            for place in before {
                all &= self.look_after(*place, *last, &mut ends);
            }
        }
        let step = Step {
            all,
            first: self.ends.len() as u32,
            count: ends.len() as u32,
        };
        self.ends.extend(ends);
        self.steps[usize::from(place)][bit] = Some(step);
        step
    }

    /// Inserts the places after `bytes`. Whether all bytes are allowed; `false` as well if there
    /// are too many places. Drops no place, so the indices of the caller stay valid.
    fn look_after(&mut self, from: u16, (first, last): (u8, u8), ends: &mut Vec<u16>) -> bool {
        let mut all = true;
        for byte in first..=last {
            if ends.len() > MOST_ENDS {
                return false;
            }
            let known = self.after[usize::from(from)][usize::from(byte)];
            let after = match known.checked_sub(FIRST) {
                None if known == UNKNOWN => self.fill(usize::from(from), byte),
                after => after,
            };
            match after {
                Some(after) => insert(ends, after),
                None => all = false,
            }
        }
        all
    }
}

/// The bits of some kinds.
fn bits(kinds: u8) -> impl Iterator<Item = usize> {
    (0..kinds::COUNT).filter(move |bit| kinds >> bit & 1 != 0)
}

fn insert(set: &mut Vec<u16>, place: u16) {
    if set.last() != Some(&place) && !set.contains(&place) {
        set.push(place);
    }
}
