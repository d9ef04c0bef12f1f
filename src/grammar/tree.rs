//! [`Tree`]: the tokens of a large vocabulary, for masks that take well under a millisecond.
//!
//! A node of the tree is a prefix that tokens share. A mask walks the tree from the root and reads
//! a byte at each node. Where the grammar forbids the byte, it skips the subtree: all its tokens
//! are forbidden.
//!
//! It also skips subtrees whose tokens are all allowed. Within a JSON string these are most of the
//! vocabulary. Each node stores which [kinds] of characters its subtree has, and the length of its
//! longest token. For each place, the mask computes once how many characters of these kinds are
//! allowed in any order. If the longest token is no longer than that, the subtree is allowed.

use core::ops::Range;
use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::vec;

use super::{Constraint, Place};
use crate::text::Tokenizer;

/// The longest token in the tree, in bytes.
const LONGEST: usize = 255;
/// A walk stores this many places, of about 700 bytes each. Then it drops all but those that lead
/// to its node.
const MOST_PLACES: usize = 2048;
/// In a smaller subtree, reading the bytes is faster than the test that skips it.
const WORTH: u32 = 4;

/// The kinds of characters, a bit each: see [`kind_of`].
mod kinds {
    pub(super) const LOWER: u8 = 1;
    pub(super) const UPPER: u8 = 2;
    pub(super) const DIGIT: u8 = 4;
    pub(super) const SPACE: u8 = 8;
    /// Other printable ASCII that JSON does not escape.
    pub(super) const PRINTED: u8 = 16;
    /// Quote, backslash and control characters.
    pub(super) const ESCAPED: u8 = 32;
    /// Characters that are not ASCII.
    pub(super) const WIDE: u8 = 64;
    /// Bytes that are not whole characters. A subtree with such bytes is never skipped as allowed.
    pub(super) const BROKEN: u8 = 128;
}

/// UTF-8 beyond ASCII: for each form of a character, the first and the last value of its bytes.
const WIDE: [&[(u8, u8)]; 8] = [
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

/// The tokens of a tokenizer as a tree of their bytes.
///
/// ```
/// use pocketlm::grammar::{Tree, Vocabulary};
/// use pocketlm::host::Image;
///
/// let image = Image::open("src/bin/pocketlm/story/story.plm")?;
/// let model = image.model()?;
/// let tokenizer = model.tokenizer()?;
/// let tree = Tree::new(&tokenizer);
/// let vocabulary = Vocabulary::with_tree(&tokenizer, &tree);
/// # _ = vocabulary;
/// # Ok::<(), pocketlm::host::Error>(())
/// ```
#[derive(Debug)]
pub struct Tree {
    /// In preorder: a subtree is a range. The last one marks the end.
    nodes: Vec<Node>,
    /// The tokens in the order of the nodes.
    ids: Vec<u32>,
    /// Special tokens, sorted by their texts.
    specials: Vec<u32>,
    /// Tokens that are longer than [`LONGEST`], or have no bytes.
    others: Vec<u32>,
    vocab_size: u32,
}

/// A prefix that tokens share.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// Its last byte.
    byte: u8,
    /// How many bytes it has.
    depth: u8,
    /// The bytes of the longest token of the subtree, from this node's byte on.
    height: u8,
    /// The kinds of these bytes in all tokens of the subtree.
    kinds: u8,
    /// The first node after the subtree.
    end: u32,
    /// The first token of the subtree, in [`Tree::ids`].
    first: u32,
}

impl Tree {
    /// The tree of a tokenizer's tokens.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let mut tree = Tree {
            nodes: Vec::new(),
            ids: Vec::new(),
            specials: Vec::new(),
            others: Vec::new(),
            vocab_size: tokenizer.vocab_size(),
        };
        let piece = |id: &u32| tokenizer.piece(*id).unwrap_or_default();
        for id in 0..tokenizer.vocab_size() {
            if tokenizer.is_special(id) || tokenizer.is_eos(id) {
                tree.specials.push(id);
            } else if (1..=LONGEST).contains(&piece(&id).len()) {
                tree.ids.push(id);
            } else {
                tree.others.push(id);
            }
        }
        tree.specials.sort_by_key(piece);
        // Tokens of the same kinds are in one subtree, which a mask can skip as a whole.
        tree.ids
            .sort_by_cached_key(|id| (kinds_of(piece(id)), piece(id)));
        tree.grow(tokenizer);
        tree
    }

    /// Bytes of RAM that the tree takes.
    pub fn bytes(&self) -> usize {
        let ids = self.ids.len() + self.specials.len() + self.others.len();
        size_of_val(&self.nodes[..]) + ids * size_of::<u32>()
    }

    /// Makes the nodes, from the sorted tokens.
    fn grow(&mut self, tokenizer: &Tokenizer) {
        // The nodes from the root to the token before.
        let mut path: Vec<usize> = Vec::new();
        let (mut before, mut kinds_before): (&[u8], u8) = (&[], 0);
        for (first, id) in (0..).zip(&self.ids) {
            let piece = tokenizer.piece(*id).unwrap_or_default();
            let kinds = kinds_of(piece);
            if kinds != kinds_before {
                before = &[];
            }
            let common = before.iter().zip(piece).take_while(|(a, b)| a == b).count();
            close(&mut self.nodes, &mut path, common);
            for depth in common + 1..=piece.len() {
                path.push(self.nodes.len());
                self.nodes.push(Node {
                    byte: piece[depth - 1],
                    depth: depth as u8,
                    height: 1,
                    kinds: kind_at_end(&piece[..depth]),
                    end: 0,
                    first,
                });
            }
            if whole(piece) < piece.len()
                && let Some(last) = path.last()
            {
                self.nodes[*last].kinds |= kinds::BROKEN;
            }
            (before, kinds_before) = (piece, kinds);
        }
        close(&mut self.nodes, &mut path, 0);
        self.nodes.push(Node {
            first: self.ids.len() as u32,
            ..Node::default()
        });
        self.mark_middles();
    }

    /// Marks the nodes whose byte is within a character: no subtree of them is skipped as allowed.
    fn mark_middles(&mut self) {
        let mut start = [0; LONGEST];
        for node in &mut self.nodes {
            let Some(last) = usize::from(node.depth).checked_sub(1) else {
                continue;
            };
            start[last] = node.byte;
            if whole(&start[..last]) < last {
                node.kinds |= kinds::BROKEN;
            }
        }
    }

    /// Sets the logits of all forbidden tokens to −∞.
    pub(super) fn mask(&self, constraint: &Constraint, logits: &mut [f32]) {
        let allowed = self.allowed(constraint);
        let specials = self.specials(constraint);
        let others = self.others.iter().filter(|id| constraint.allows(**id));
        let rest: Vec<u32> = others.chain(&specials).copied().collect();
        let mut bits = vec![0; logits.len().div_ceil(64)];
        let ids = |range: Range<u32>| &self.ids[range.start as usize..range.end as usize];
        let count: usize = allowed.iter().map(|range| range.len()).sum();
        if count <= self.ids.len() / 2 {
            let allowed = allowed.into_iter().flat_map(ids);
            allowed.chain(&rest).for_each(|id| flip(&mut bits, *id));
        } else {
            // Most tokens are allowed: begin with all bits and clear those of the others.
            bits.fill(u64::MAX);
            let end = self.ids.len() as u32;
            let mut at = 0;
            for range in allowed.into_iter().chain(core::iter::once(end..end)) {
                let forbidden = ids(at..range.start).iter();
                forbidden.for_each(|id| flip(&mut bits, *id));
                at = range.end;
            }
            let others = self.others.iter().chain(&self.specials);
            let forbidden = others.filter(|id| !rest.contains(id));
            forbidden.for_each(|id| flip(&mut bits, *id));
            (self.vocab_size..logits.len() as u32).for_each(|id| flip(&mut bits, id));
        }
        forbid(&bits, logits);
    }

    /// The special tokens that are allowed. A tokenizer may have thousands; a grammar names few.
    fn specials(&self, constraint: &Constraint) -> Vec<u32> {
        let tokenizer = constraint.tokenizer();
        let mut allowed: Vec<u32> = tokenizer.eos_ids().collect();
        for text in constraint.specials() {
            let piece = |id: &u32| tokenizer.piece(*id).unwrap_or_default();
            let first = self.specials.partition_point(|id| piece(id) < text);
            let rest = self.specials.iter().skip(first);
            allowed.extend(rest.take_while(|id| piece(id) == text));
        }
        allowed.retain(|id| constraint.allows(*id));
        // The grammar may name a token that ends a text.
        allowed.sort_unstable();
        allowed.dedup();
        allowed
    }

    /// The tokens of the tree that are allowed, as ranges of [`Tree::ids`].
    fn allowed(&self, constraint: &Constraint) -> Vec<Range<u32>> {
        let mut allowed: Vec<Range<u32>> = Vec::new();
        let mut last = 0..0;
        let mut places = Places::new(constraint);
        // The place after each depth. A depth is at most LONGEST, so the index is in bounds.
        let mut path = [0u16; LONGEST + 1];
        let mut at = 0;
        while let Some([node, next, ..]) = self.nodes.get(at..) {
            let from = path[usize::from(node.depth.wrapping_sub(1))];
            let is_worth = node.end - at as u32 >= WORTH;
            let tokens = if is_worth && places.are_safe(from, node) {
                at = node.end as usize;
                node.first..self.nodes[at].first
            } else if let Some(after) = places.after(&mut path, node) {
                at += 1;
                path[usize::from(node.depth)] = after;
                node.first..next.first
            } else {
                at = node.end as usize;
                continue;
            };
            if tokens.start == last.end {
                last.end = tokens.end;
            } else if !tokens.is_empty() {
                allowed.push(core::mem::replace(&mut last, tokens));
            }
        }
        allowed.push(last);
        allowed
    }
}

/// Takes the nodes that are deeper than `depth` off the path, and ends their subtrees.
fn close(nodes: &mut [Node], path: &mut Vec<usize>, depth: usize) {
    let end = nodes.len() as u32;
    while path.len() > depth
        && let Some(index) = path.pop()
    {
        nodes[index].end = end;
        let Node { height, kinds, .. } = nodes[index];
        if let Some(above) = path.last() {
            let above = &mut nodes[*above];
            above.height = above.height.max(height.saturating_add(1));
            above.kinds |= kinds;
        }
    }
}

/// Inverts the bit of a token. There may be fewer logits than tokens.
fn flip(bits: &mut [u64], id: u32) {
    if let Some(word) = bits.get_mut(id as usize / 64) {
        *word ^= 1 << (id % 64);
    }
}

/// Sets the logits whose bits are 0 to −∞.
fn forbid(bits: &[u64], logits: &mut [f32]) {
    for (word, part) in bits.iter().zip(logits.chunks_mut(64)) {
        if *word == 0 {
            part.fill(f32::NEG_INFINITY);
        } else if *word != u64::MAX {
            let bytes = word.to_le_bytes();
            let (eights, rest) = part.as_chunks_mut::<8>();
            for (eight, byte) in eights.iter_mut().zip(bytes) {
                forbid_part(byte, eight);
            }
            forbid_part(bytes[eights.len() % 8], rest);
        }
    }
}

/// With a constant length, this becomes a few vector instructions.
#[inline(always)]
fn forbid_part(byte: u8, part: &mut [f32]) {
    for (bit, logit) in part.iter_mut().enumerate() {
        if byte & 1 << bit == 0 {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// How many bytes are whole characters.
fn whole(bytes: &[u8]) -> usize {
    core::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len)
}

/// The kinds of all characters of a token.
fn kinds_of(piece: &[u8]) -> u8 {
    let text = core::str::from_utf8(piece);
    let characters = text.unwrap_or_default().chars();
    let kinds = characters.map(|character| match u8::try_from(character) {
        Ok(byte) if byte.is_ascii() => kind_of(byte),
        _ => kinds::WIDE,
    });
    let broken = if text.is_err() { kinds::BROKEN } else { 0 };
    kinds.fold(broken, |all, kind| all | kind)
}

/// The kind of the character that the last byte belongs to.
fn kind_at_end(bytes: &[u8]) -> u8 {
    let is_possible = |error: core::str::Utf8Error| error.error_len().is_none();
    match (core::str::from_utf8(bytes), bytes.last()) {
        (Ok(_), Some(byte)) if byte.is_ascii() => kind_of(*byte),
        (Ok(_), _) => kinds::WIDE,
        (Err(error), _) if is_possible(error) => kinds::WIDE,
        (Err(_), _) => kinds::BROKEN,
    }
}

fn kind_of(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => kinds::LOWER,
        b'A'..=b'Z' => kinds::UPPER,
        b'0'..=b'9' => kinds::DIGIT,
        b' ' => kinds::SPACE,
        0..=0x1F | b'"' | b'\\' | 0x7F => kinds::ESCAPED,
        0x80.. => kinds::BROKEN,
        _ => kinds::PRINTED,
    }
}

/// The places from the root to a node, by depth.
type Path = [u16; LONGEST + 1];

/// The places that a walk has reached, and where bytes lead from them. A place has an index.
struct Places<'c> {
    constraint: &'c Constraint<'c>,
    places: Vec<Place>,
    known: HashMap<Place, u16>,
    /// For each place and byte: [`UNKNOWN`], [`NOWHERE`], or the next place with [`FIRST`] added.
    after: Vec<[u16; 256]>,
    /// The same for each kind of characters. [`NOWHERE`] if they do not all lead to one place.
    after_kind: Vec<[u16; 7]>,
    /// For each place and set of kinds: how many characters of these kinds are allowed, in any
    /// order.
    safe: Vec<[u8; 128]>,
}

const UNKNOWN: u16 = 0;
const NOWHERE: u16 = 1;
const FIRST: u16 = 2;
/// In [`Places::safe`].
const NOT_KNOWN: u8 = u8::MAX;
/// Any number of characters.
const UNLIMITED: u8 = u8::MAX - 1;
/// The count stops here, unless it is found to be unlimited before.
const MOST_SAFE: u8 = 32;

impl<'c> Places<'c> {
    fn new(constraint: &'c Constraint<'c>) -> Self {
        let mut places = Places {
            constraint,
            places: Vec::new(),
            known: HashMap::new(),
            after: Vec::new(),
            after_kind: Vec::new(),
            safe: Vec::new(),
        };
        places.index(constraint.place);
        places
    }

    fn index(&mut self, place: Place) -> u16 {
        if let Some(index) = self.known.get(&place) {
            return *index;
        }
        let index = self.places.len() as u16;
        self.places.push(place);
        self.known.insert(place, index);
        self.after.push([UNKNOWN; 256]);
        self.after_kind.push([UNKNOWN; 7]);
        self.safe.push([NOT_KNOWN; 128]);
        index
    }

    /// The place after the byte of `node`; `path` has the place before it.
    #[inline]
    fn after(&mut self, path: &mut Path, node: &Node) -> Option<u16> {
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

    /// The place after `byte`. Drops no place, so the indices of the caller stay valid.
    fn look_after(&mut self, from: u16, byte: u8) -> Option<u16> {
        let known = self.after[usize::from(from)][usize::from(byte)];
        match known.checked_sub(FIRST) {
            None if known == UNKNOWN => self.fill(usize::from(from), byte),
            after => after,
        }
    }

    /// Drops all places but those of `path`, which get new indices.
    fn forget_all_but(&mut self, path: &mut [u16]) {
        let places = core::mem::take(&mut self.places);
        self.known.clear();
        self.after.clear();
        self.after_kind.clear();
        self.safe.clear();
        for index in path {
            *index = self.index(places[usize::from(*index)]);
        }
    }

    /// Whether all tokens of the subtree of `node` are allowed after `place`, by their kinds and
    /// lengths alone.
    #[inline]
    fn are_safe(&mut self, place: u16, node: &Node) -> bool {
        let known = self.safe[usize::from(place)].get(usize::from(node.kinds));
        let safe = match known {
            Some(&NOT_KNOWN) => self.find_safe(place, node.kinds),
            Some(safe) => *safe,
            None => return false,
        };
        node.height <= safe || safe == UNLIMITED
    }

    #[cold]
    fn find_safe(&mut self, place: u16, kinds: u8) -> u8 {
        // All places that characters of these kinds lead to, after none, one, two and so on.
        let mut places = vec![place];
        let (mut done, mut safe) = (0, 0);
        'more: while safe < MOST_SAFE {
            let count = places.len();
            if done == count {
                safe = UNLIMITED;
                break;
            }
            for at in done..count {
                for bit in (0..7).filter(|bit| kinds >> bit & 1 != 0) {
                    // A kind adds at most a few hundred places, so an index has 16 bits.
                    if self.places.len() >= 2 * MOST_PLACES {
                        break 'more;
                    }
                    let Some(after) = self.after_kind(places[at], bit) else {
                        break 'more;
                    };
                    if !places.contains(&after) {
                        places.push(after);
                    }
                }
            }
            done = count;
            safe += 1;
        }
        self.safe[usize::from(place)][usize::from(kinds)] = safe;
        safe
    }

    /// The place after any character of a kind, if it is the same for all; stored.
    fn after_kind(&mut self, place: u16, bit: usize) -> Option<u16> {
        let known = self.after_kind[usize::from(place)][bit];
        if known != UNKNOWN {
            return known.checked_sub(FIRST);
        }
        let after = self.after_all(place, 1 << bit);
        self.after_kind[usize::from(place)][bit] = after.map_or(NOWHERE, |after| after + FIRST);
        after
    }

    /// The place after any character of a kind, if it is the same for all; computed.
    fn after_all(&mut self, place: u16, kind: u8) -> Option<u16> {
        if kind != kinds::WIDE {
            let bytes = (0..0x80).filter(|byte| kind_of(*byte) == kind);
            return self.after_bytes(place, bytes);
        }
        let mut all = None;
        for ranges in WIDE {
            let mut after = place;
            for (first, last) in ranges {
                after = self.after_bytes(after, *first..=*last)?;
            }
            if *all.get_or_insert(after) != after {
                return None;
            }
        }
        all
    }

    /// The place after any of `bytes`, if it is the same for all.
    fn after_bytes(&mut self, place: u16, bytes: impl IntoIterator<Item = u8>) -> Option<u16> {
        let mut all = None;
        for byte in bytes {
            let after = self.look_after(place, byte)?;
            if *all.get_or_insert(after) != after {
                return None;
            }
        }
        all
    }
}
