//! Masks: the logits of forbidden tokens become −∞.
//!
//! On a host, a mask walks a [tree](super::Tree) of the tokens. A device has no tree, but the
//! tokenizer's index: tokens sorted by their bytes. Tokens with a common prefix are neighbours
//! there, so the mask walks over the prefix once. If the prefix is forbidden, all these tokens are.
//!
//! Few tokens are not in the index: those of single bytes, special tokens, and other added ones.
//! They are tested one by one.

use super::Constraint;
use crate::text::Tokenizer;

/// The places after the first bytes of a token are kept, up to this many. The rest of a longer
/// token is walked again for its neighbours.
const KEPT: usize = 24;

/// The progress of a [mask](Constraint::mask_step).
///
/// Example: [`Constraint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masking {
    pass: u8,
    at: u32,
}

/// The passes, in order: the index, single bytes, added tokens, all ids. The last pass tests
/// special tokens, and tokens that are in none of the lists.
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

    /// Ends the mask: nothing more is forbidden.
    pub(crate) fn finish(&mut self) {
        self.pass = DONE;
    }
}

impl Constraint<'_> {
    /// Sets the logits of all tokens that are not [allowed](Constraint::allows) to −∞. `logits`:
    /// `[vocab_size]`, or more if the model has more rows than the tokenizer has tokens.
    pub fn mask(&self, logits: &mut [f32]) {
        let mut masking = Masking::new();
        while !self.mask_step(&mut masking, logits, u32::MAX) {}
    }

    /// [`mask`](Constraint::mask) in calls of bounded length. Start with [`Masking::new`] and call
    /// this with the same logits until it returns `true`. The work of a call costs about
    /// `budget`; a cost of 1 is a look at 16 tokens.
    pub fn mask_step(&self, masking: &mut Masking, logits: &mut [f32], budget: u32) -> bool {
        let mut left = (budget.max(1) as usize).saturating_mul(16);
        masking.begin();
        if masking.pass != DONE && self.vocabulary.mask(self, logits) {
            masking.pass = DONE;
        }
        while masking.pass != DONE {
            if left == 0 {
                return false;
            }
            let length = self.tokenizer().masked_len(masking.pass, logits.len());
            let at = masking.at as usize;
            let end = length.min(at.saturating_add(left));
            left -= end.saturating_sub(at).min(left);
            match masking.pass {
                INDEX => self.mask_index(at, end, logits),
                IDS => self.mask_ids(at, end, logits),
                pass => (at..end).for_each(|at| {
                    if let Some(id) = self.tokenizer().listed(pass, at) {
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

    /// The tokens of the index from `at` to `end`.
    fn mask_index(&self, mut at: usize, end: usize, logits: &mut [f32]) {
        let tokenizer = self.tokenizer();
        let mut places = [self.place; KEPT + 1];
        // The token before, and how many places of it are kept.
        let mut before: &[u8] = &[];
        let mut known = 0;
        while at < end {
            let piece = tokenizer.indexed(at).1;
            let common = before.iter().zip(piece).take_while(|(a, b)| a == b).count();
            known = known.min(common);
            let mut place = places.get(known).copied().unwrap_or(self.place);
            let mut refused = None;
            for (byte, read) in piece.iter().skip(known).zip(known + 1..) {
                if !self.walk_byte(&mut place, *byte) {
                    refused = piece.get(..read);
                    break;
                }
                if let Some(kept) = places.get_mut(read) {
                    *kept = place;
                    known = read;
                }
            }
            before = piece;
            at = match refused {
                Some(start) => self.forbid_start(at, end, start, logits),
                None => at + 1,
            };
        }
    }

    /// Forbids the tokens of the index from `at` on that begin with `start`. Returns the index
    /// after them.
    fn forbid_start(&self, at: usize, end: usize, start: &[u8], logits: &mut [f32]) -> usize {
        let tokenizer = self.tokenizer();
        let after = tokenizer.end_of_start(at, end, start);
        for id in (at..after).map(|at| tokenizer.indexed(at).0) {
            if !tokenizer.is_special(id)
                && let Some(logit) = logits.get_mut(id as usize)
            {
                *logit = f32::NEG_INFINITY;
            }
        }
        after
    }

    /// The ids from `at` to `end` that are in none of the lists.
    fn mask_ids(&self, mut at: usize, end: usize, logits: &mut [f32]) {
        let tokenizer = self.tokenizer();
        let vocab_size = tokenizer.vocab_size() as usize;
        while at < end {
            if at.is_multiple_of(8)
                && at + 8 <= vocab_size
                && !self.vocabulary.has_loose
                && !tokenizer.has_special(at)
            {
                at += 8;
                continue;
            }
            let id = at as u32;
            if at >= vocab_size
                || tokenizer.is_special(id)
                || (self.vocabulary.has_loose && !tokenizer.is_in_index(id))
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

    fn is_in_index(&self, id: u32) -> bool {
        self.piece(id).and_then(|piece| self.model_token(piece)) == Some(id)
    }
}

/// Whether some token is neither special nor in one of the lists of a mask, because it has no bytes
/// or the same bytes as another.
pub(super) fn has_loose_tokens(tokenizer: &Tokenizer) -> bool {
    let is_byte = |id| match tokenizer.piece(id) {
        Some([byte]) => tokenizer.byte_token(*byte) == Some(id),
        _ => false,
    };
    let is_special_or_byte = |id| tokenizer.is_special(id) || is_byte(id);
    let listed = (0..tokenizer.vocab_size())
        .filter(|id| is_special_or_byte(*id) && !tokenizer.is_in_index(*id))
        .count();
    let length = tokenizer.masked_len(ADDED, 0);
    let added = || (0..length).filter_map(|at| tokenizer.listed(ADDED, at));
    let added_alone = added()
        .enumerate()
        .filter(|(_, id)| !is_special_or_byte(*id) && !tokenizer.is_in_index(*id))
        .filter(|(place, id)| !added().take(*place).any(|other| other == *id))
        .count();
    tokenizer.index_len() + listed + added_alone < tokenizer.vocab_size() as usize
}
