//! [`Tree`]: the tokens of a large vocabulary, for masks that take well under a millisecond.
//!
//! A node of the tree is a prefix that tokens share. A mask walks the tree from the root and reads
//! a byte at each node. Where the grammar forbids the byte, it skips the subtree: all its tokens
//! are forbidden.
//!
//! Most tokens are not even looked at. They are in groups by the [kinds] of their characters and by
//! how many characters they have. For a place and kinds, the mask computes once how many characters
//! of these kinds are allowed whatever they are, and how many are forbidden whatever they are
//! (`places::Reach`). Within a JSON string with a maximum length, this decides nearly all groups.
//! The walk goes through the other groups, and decides subtrees in the same way.

mod kinds;
mod places;

use core::ops::Range;
use std::prelude::rust_2024::*;
use std::vec;

use self::places::{Outcome, Path, Places};
use super::Constraint;
use crate::text::Tokenizer;

/// The longest token in the tree, in bytes.
const LONGEST: usize = 254;
/// In a smaller subtree, reading the bytes is faster than the test that decides it.
const WORTH: u32 = 4;

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
    groups: Vec<Group>,
    /// The first bytes of the tokens of each group, close together in memory. The last one marks
    /// the end.
    roots: Vec<Root>,
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

/// Tokens with characters of the same kinds, and with the same number of characters.
#[derive(Clone, Copy, Debug)]
struct Group {
    kinds: u8,
    characters: u8,
    /// In [`Tree::roots`].
    root: u32,
    /// The first token, in [`Tree::ids`].
    first: u32,
}

#[derive(Clone, Copy, Debug)]
struct Root {
    node: u32,
    byte: u8,
}

/// A prefix that tokens of a group share.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// Its last byte.
    byte: u8,
    /// How many bytes it has.
    depth: u8,
    /// The characters of the tokens of the subtree, from this node's byte on.
    characters: u8,
    /// The kinds of these characters.
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
            groups: Vec::new(),
            roots: Vec::new(),
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
        tree.ids
            .sort_by_cached_key(|id| (kinds::of_token(piece(id)), piece(id)));
        tree.grow(tokenizer);
        tree
    }

    /// Bytes of RAM that the tree takes.
    pub fn bytes(&self) -> usize {
        let ids = self.ids.len() + self.specials.len() + self.others.len();
        size_of_val(&self.groups[..])
            + size_of_val(&self.roots[..])
            + size_of_val(&self.nodes[..])
            + ids * size_of::<u32>()
    }

    /// Makes the groups and their nodes, from the sorted tokens.
    fn grow(&mut self, tokenizer: &Tokenizer) {
        // The nodes from the root to the token before.
        let mut path: Vec<usize> = Vec::new();
        let mut before: &[u8] = &[];
        for first in 0..self.ids.len() {
            let piece = tokenizer.piece(self.ids[first]).unwrap_or_default();
            let (kinds, characters) = kinds::of_token(piece);
            let group = self.groups.last();
            if group.is_none_or(|group| (group.kinds, group.characters) != (kinds, characters)) {
                before = &[];
                self.groups.push(Group {
                    kinds,
                    characters,
                    root: self.roots.len() as u32,
                    first: first as u32,
                });
            }
            let common = before.iter().zip(piece).take_while(|(a, b)| a == b).count();
            close(&mut self.nodes, &mut path, common);
            if common == 0 {
                self.mark_root(piece[0]);
            }
            path.extend(self.nodes.len()..self.nodes.len() + piece.len() - common);
            self.add(piece, common, first as u32);
            before = piece;
        }
        close(&mut self.nodes, &mut path, 0);
        self.mark_root(0);
        self.nodes.push(Node {
            first: self.ids.len() as u32,
            ..Node::default()
        });
    }

    /// The next node is a root.
    fn mark_root(&mut self, byte: u8) {
        let node = self.nodes.len() as u32;
        self.roots.push(Root { node, byte });
    }

    /// Adds the nodes of a token that it does not share with the token before.
    fn add(&mut self, piece: &[u8], shared: usize, first: u32) {
        let (kinds, mut left) = kinds::of_token(piece);
        for (depth, byte) in (1..).zip(piece) {
            let is_known = kinds != kinds::BROKEN && kinds::begins_character(*byte);
            let broken = if is_known { 0 } else { kinds::BROKEN };
            if usize::from(depth) > shared {
                self.nodes.push(Node {
                    byte: *byte,
                    depth,
                    characters: left,
                    kinds: kinds::of_byte(*byte) | broken,
                    end: 0,
                    first,
                });
            }
            left -= u8::from(is_known);
        }
    }

    /// Sets the logits of all forbidden tokens to −∞.
    pub(super) fn mask(&self, constraint: &Constraint, logits: &mut [f32]) {
        let allowed = self.allowed(constraint).into_vec();
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
    fn allowed(&self, constraint: &Constraint) -> Ranges {
        let mut allowed = Ranges::default();
        let mut places = Places::new(constraint);
        // The place after each depth. A depth is at most LONGEST, so the index is in bounds.
        let mut path = [0; LONGEST + 1];
        let groups = &self.groups[..];
        for (index, group) in groups.iter().enumerate() {
            let next = groups.get(index + 1);
            match places.outcome(0, group.kinds, group.characters) {
                Outcome::Allowed => {
                    let end = next.map_or(self.ids.len() as u32, |next| next.first);
                    allowed.push(group.first..end);
                }
                Outcome::Forbidden => {}
                Outcome::Open => {
                    let end = next.map_or(self.roots.len() - 1, |next| next.root as usize);
                    for roots in self.roots[group.root as usize..=end].windows(2) {
                        if places.can_begin(roots[0].byte) {
                            let nodes = roots[0].node as usize..roots[1].node as usize;
                            self.walk(nodes, &mut path, &mut places, &mut allowed);
                        }
                    }
                }
            }
        }
        allowed
    }

    /// Walks the nodes of tokens with the same first byte.
    fn walk(
        &self,
        nodes: Range<usize>,
        path: &mut Path,
        places: &mut Places,
        allowed: &mut Ranges,
    ) {
        let mut at = nodes.start;
        while at < nodes.end
            && let Some([node, next, ..]) = self.nodes.get(at..)
        {
            let from = path[usize::from(node.depth.wrapping_sub(1))];
            let is_worth = node.end - at as u32 >= WORTH;
            let outcome = if is_worth {
                places.outcome(from, node.kinds, node.characters)
            } else {
                Outcome::Open
            };
            if outcome == Outcome::Allowed {
                at = node.end as usize;
                allowed.push(node.first..self.nodes[at].first);
            } else if outcome == Outcome::Open
                && let Some(after) = places.after(path, node)
            {
                at += 1;
                path[usize::from(node.depth)] = after;
                allowed.push(node.first..next.first);
            } else {
                at = node.end as usize;
            }
        }
    }
}

/// Ranges in order, those that touch joined. The last one is waiting for the next.
#[derive(Default)]
struct Ranges {
    done: Vec<Range<u32>>,
    last: Range<u32>,
}

impl Ranges {
    #[inline]
    fn push(&mut self, range: Range<u32>) {
        if range.start == self.last.end {
            self.last.end = range.end;
        } else if !range.is_empty() {
            self.done.push(core::mem::replace(&mut self.last, range));
        }
    }

    fn into_vec(mut self) -> Vec<Range<u32>> {
        self.done.push(self.last);
        self.done
    }
}

/// Takes the nodes that are deeper than `depth` off the path, and ends their subtrees.
fn close(nodes: &mut [Node], path: &mut Vec<usize>, depth: usize) {
    let end = nodes.len() as u32;
    while path.len() > depth
        && let Some(index) = path.pop()
    {
        nodes[index].end = end;
        let kinds = nodes[index].kinds & !kinds::BROKEN;
        if let Some(above) = path.last() {
            nodes[*above].kinds |= kinds;
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
