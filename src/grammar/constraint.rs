//! [`Constraint`]: which tokens may come next.

use super::{Grammar, Place, SLOTS, Symbol, Vocabulary};
use crate::Error;
use crate::text::Tokenizer;

/// The length of what [`Constraint::to_bytes`] returns.
pub const PLACE_BYTES: usize = 5 + 2 * SLOTS;

/// A place in a text that obeys a grammar: which tokens may come next. To go back to a place, keep
/// a copy.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use pocketlm::grammar::{Constraint, Grammar, Vocabulary};
/// use pocketlm::import::grammar::from_regex;
/// use pocketlm::model::Model;
///
/// const STORY: &[u8] = pocketlm::include_image!("../bin/pocketlm/story/story.plm");
/// let tokenizer = Model::open(STORY)?.tokenizer()?;
/// let bytes = from_regex("yes|no").expect("well-formed");
/// let grammar = Grammar::open(&bytes)?;
/// let vocabulary = Vocabulary::new(&tokenizer);
/// let mut constraint = Constraint::new(&grammar, &vocabulary);
///
/// let n = tokenizer.token_to_id(b"n").expect("a letter");
/// assert!(constraint.accept(n) && !constraint.is_complete());
/// let o = tokenizer.token_to_id(b"o").expect("a letter");
/// assert!(constraint.accept(o) && constraint.is_complete());
/// assert!(!constraint.allows(n));
/// # }
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Constraint<'g> {
    grammar: &'g Grammar<'g>,
    pub(super) vocabulary: &'g Vocabulary<'g>,
    pub(super) place: Place,
}

const _: () = assert!(size_of::<Constraint<'static>>() <= 64);

impl<'g> Constraint<'g> {
    /// The start of a text.
    pub fn new(grammar: &'g Grammar<'g>, vocabulary: &'g Vocabulary<'g>) -> Self {
        Constraint {
            grammar,
            vocabulary,
            place: grammar.start(),
        }
    }

    pub(super) fn tokenizer(&self) -> &'g Tokenizer<'g> {
        self.vocabulary.tokenizer
    }

    /// Whether token `id` may come next.
    pub fn allows(&self, id: u32) -> bool {
        self.after(id).is_some()
    }

    /// Moves on over token `id`. `false` if it is forbidden; then nothing changes.
    pub fn accept(&mut self, id: u32) -> bool {
        let after = self.after(id);
        self.place = after.unwrap_or(self.place);
        after.is_some()
    }

    /// Whether the text may end here.
    pub fn is_complete(&self) -> bool {
        self.grammar.is_complete(self.place)
    }

    /// Whether the text must end here: only tokens that end a text are allowed.
    pub fn is_at_end(&self) -> bool {
        self.grammar.is_at_end(&self.place)
    }

    /// Fills `ids` with tokens for the bytes that must come next, each as long as possible. Returns
    /// how many there are. The model may write the same bytes with other tokens.
    pub fn forced(&self, ids: &mut [u32]) -> usize {
        let mut place = self.place;
        let mut count = 0;
        for slot in ids {
            // Few tokens are longer than 64 bytes.
            let mut run = heapless::Vec::<u8, 64>::new();
            let mut end = place;
            while !run.is_full()
                && let Some(byte) = self.grammar.only_byte(&end)
                && self.grammar.walk(&mut end, Symbol::Byte(byte))
            {
                _ = run.push(byte);
            }
            let longest = (1..=run.len()).rev().find_map(|length| {
                let bytes = run.get(..length)?;
                let id = self.tokenizer().model_token(bytes);
                id.filter(|id| !self.tokenizer().is_special(*id))
                    .map(|id| (id, bytes))
            });
            let Some((id, bytes)) = longest else {
                break;
            };
            for byte in bytes {
                self.grammar.walk(&mut place, Symbol::Byte(*byte));
            }
            *slot = id;
            count += 1;
        }
        count
    }

    /// The place as bytes, to keep beside a snapshot of the session.
    pub fn to_bytes(&self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        let (head, slots) = bytes.split_at_mut(5);
        for (to, from) in head.iter_mut().zip(self.place.at.to_le_bytes()) {
            *to = from;
        }
        if let Some(depth) = head.last_mut() {
            *depth = self.place.depth;
        }
        for (to, from) in slots.as_chunks_mut().0.iter_mut().zip(self.place.slots) {
            *to = from.to_le_bytes();
        }
        bytes
    }

    /// Goes to a place that [`to_bytes`](Constraint::to_bytes) returned for the same grammar.
    ///
    /// The bytes of another grammar are not always refused. They then lead to a wrong place, which
    /// allows wrong tokens, and to nothing worse.
    ///
    /// # Errors
    /// [`Error::GrammarDamaged`] if the bytes are no place of this grammar: the place is beyond its
    /// code, or uses more slots of the stack than the grammar has. Then nothing changes.
    pub fn restore(&mut self, bytes: &[u8; PLACE_BYTES]) -> Result<(), Error> {
        let [a, b, c, d, depth, slots @ ..] = bytes;
        let mut place = Place {
            at: u32::from_le_bytes([*a, *b, *c, *d]),
            depth: *depth,
            slots: [0; SLOTS],
        };
        for (to, from) in place.slots.iter_mut().zip(slots.as_chunks().0) {
            *to = u16::from_le_bytes(*from);
        }
        if !self.grammar.has(&place) {
            return Err(Error::GrammarDamaged);
        }
        self.place = place;
        Ok(())
    }

    /// The place after token `id`, if it is allowed.
    fn after(&self, id: u32) -> Option<Place> {
        let piece = self.tokenizer().piece(id)?;
        let mut place = self.place;
        let ends = self.tokenizer().is_eos(id);
        if ends && self.is_complete() {
            return Some(place);
        }
        if ends || self.tokenizer().is_special(id) {
            let walked = self.grammar.walk(&mut place, Symbol::Special(piece));
            return walked.then_some(place);
        }
        let walked = !piece.is_empty() && self.walk(&mut place, piece).is_none();
        walked.then_some(place)
    }

    /// The special tokens that the grammar names.
    #[cfg(feature = "std")]
    pub(super) fn specials(&self) -> impl Iterator<Item = &'g [u8]> + use<'g> {
        self.grammar.specials()
    }

    /// Walks `bytes`. Returns the index of the first that is forbidden, if there is one.
    pub(super) fn walk(&self, place: &mut Place, bytes: &[u8]) -> Option<usize> {
        bytes.iter().position(|byte| !self.walk_byte(place, *byte))
    }

    #[cfg(feature = "std")]
    pub(super) fn walk_alike(&self, place: &mut Place, byte: u8) -> (bool, (u8, u8)) {
        self.grammar.walk_alike(place, byte)
    }

    #[cfg(feature = "std")]
    pub(super) fn settled(&self, place: Place) -> Place {
        self.grammar.settled(place)
    }

    #[cfg(feature = "std")]
    pub(super) fn rounds_left(&self, places: [&Place; 3]) -> Option<u16> {
        self.grammar.rounds_left(places)
    }

    pub(super) fn walk_byte(&self, place: &mut Place, byte: u8) -> bool {
        self.grammar.walk(place, Symbol::Byte(byte))
    }
}

impl Grammar<'_> {
    /// Whether `place` is within the code and the stack of this grammar.
    fn has(&self, place: &Place) -> bool {
        let used = usize::from(place.depth);
        self.is_code(place.at as usize)
            && used <= self.depth()
            && place.slots.iter().skip(used).all(|slot| *slot == 0)
    }
}

impl core::fmt::Debug for Constraint<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Constraint").field(&self.place).finish()
    }
}
