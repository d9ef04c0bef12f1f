//! Splitting text at added tokens, as Hugging Face's `AddedVocabulary` does: leftmost, then
//! longest; a match that its flags rule out still uses its text up.

use super::Tokenizer;
use super::characters::{characters, last, run_length};
use super::section::{ADDED_LSTRIP, ADDED_RSTRIP, ADDED_SINGLE_WORD, ADDED_SPECIAL, WORD};
use super::tables::{AddedToken, AddedTokens, partition_point};

/// Text, perhaps with a space in front that is not in memory. Places are counted with that space.
#[derive(Clone, Copy)]
pub(crate) struct View<'t> {
    pub(crate) text: &'t str,
    pub(crate) space: bool,
}

impl<'t> View<'t> {
    pub(crate) fn len(&self) -> usize {
        self.text.len() + usize::from(self.space)
    }

    pub(crate) fn characters(&self) -> impl Iterator<Item = char> + use<'t> {
        let space = self.space.then_some(' ').into_iter();
        space.chain(characters(self.text))
    }

    /// The part from `start` to `end`.
    pub(crate) fn part(&self, start: usize, end: usize) -> View<'t> {
        let space = self.space && start == 0;
        let skipped = usize::from(self.space);
        let text = self
            .text
            .get(start.saturating_sub(skipped)..end.saturating_sub(skipped))
            .unwrap_or_default();
        View { text, space }
    }

    /// The byte at `place` and how far it is to the next, `▁` read as a space if `fold`.
    fn byte(&self, place: usize, fold: bool) -> Option<(u8, usize)> {
        let Some(at) = place.checked_sub(usize::from(self.space)) else {
            return Some((b' ', 1));
        };
        match self.text.as_bytes().get(at..)? {
            [0xE2, 0x96, 0x81, ..] if fold => Some((b' ', 3)),
            [byte, ..] => Some((*byte, 1)),
            [] => None,
        }
    }
}

/// A stretch of a text.
pub(crate) enum Span<'t> {
    /// An added token.
    Token(u32),
    /// Text between added tokens, not empty, and where it starts.
    Text(View<'t>, usize),
}

/// The spans of a text.
pub(crate) struct Spans<'a, 'm, 't> {
    tokenizer: &'a Tokenizer<'m>,
    tokens: &'a AddedTokens<'m>,
    view: View<'t>,
    fold: bool,
    parse_special: bool,
    /// Where the search goes on.
    search: usize,
    /// Everything before this has been handed out.
    done: usize,
    /// A token found behind text that had to go first.
    waiting: Option<u32>,
    /// A stretch of whitespace behind a token: as far as is known, text is whitespace between these
    /// places.
    whitespace: (usize, usize),
}

impl<'m> Tokenizer<'m> {
    /// Splits `view` at the added tokens of table `set`: 0 for those in the text as it is, 1 for
    /// the normalised text.
    pub(crate) fn spans<'a, 't>(
        &'a self,
        set: usize,
        view: View<'t>,
        fold: bool,
        parse_special: bool,
    ) -> Spans<'a, 'm, 't> {
        let [raw, normalized] = &self.added;
        let tokens = if set == 0 { raw } else { normalized };
        Spans {
            tokenizer: self,
            tokens,
            view,
            fold,
            parse_special,
            search: 0,
            done: 0,
            waiting: None,
            whitespace: (0, 0),
        }
    }

    fn is_word(&self, character: char) -> bool {
        match character {
            '\0'..='\x7F' => character.is_ascii_alphanumeric() || character == '_',
            _ => self.class(character) & WORD != 0,
        }
    }
}

impl<'t> Iterator for Spans<'_, '_, 't> {
    type Item = Span<'t>;

    fn next(&mut self) -> Option<Span<'t>> {
        if let Some(id) = self.waiting.take() {
            return Some(Span::Token(id));
        }
        while let Some((start, end, token)) = self.find() {
            self.search = end;
            if token.flags & ADDED_SPECIAL != 0 && !self.parse_special {
                continue;
            }
            if token.flags & ADDED_SINGLE_WORD != 0 && self.is_within_word(start, end) {
                continue;
            }
            let start = if token.flags & ADDED_LSTRIP != 0 {
                self.strip_left(start)
            } else {
                start
            };
            let end = if token.flags & ADDED_RSTRIP != 0 {
                self.strip_right(end)
            } else {
                end
            };
            let done = core::mem::replace(&mut self.done, end);
            if done < start {
                self.waiting = Some(token.id);
                return Some(Span::Text(self.view.part(done, start), done));
            }
            return Some(Span::Token(token.id));
        }
        let done = core::mem::replace(&mut self.done, self.view.len());
        (done < self.view.len()).then(|| Span::Text(self.view.part(done, self.view.len()), done))
    }
}

impl<'m> Spans<'_, 'm, '_> {
    /// The next place where an added token matches, and the longest one that does.
    fn find(&mut self) -> Option<(usize, usize, AddedToken<'m>)> {
        if self.tokens.len() == 0 {
            return None;
        }
        let mut place = self.search;
        while let Some((byte, step)) = self.view.byte(place, self.fold) {
            let bits = self
                .tokens
                .first_bytes
                .get(usize::from(byte >> 5))
                .copied()
                .unwrap_or_default();
            if bits >> (byte & 31) & 1 != 0
                && let Some((end, token)) = self.longest(place)
            {
                return Some((place, end, token));
            }
            place += step;
        }
        self.search = place;
        None
    }

    /// The longest added token at `place`: the table is sorted, so the tokens that start with what
    /// has been read so far are neighbours, the shortest first.
    fn longest(&self, place: usize) -> Option<(usize, AddedToken<'m>)> {
        let tokens = self.tokens;
        let mut low = 0;
        let mut high = tokens.len();
        let mut place = place;
        let mut read = 0;
        let mut found = None;
        while let Some((byte, step)) = self.view.byte(place, self.fold) {
            let narrow = |last: bool| {
                low + partition_point(high - low, |at| {
                    let other = tokens
                        .get(low + at)
                        .and_then(|token| token.content.get(read).copied());
                    // A token that ends here sorts before all that go on.
                    other.is_none_or(|other| other < byte || (last && other == byte))
                })
            };
            (low, high) = (narrow(false), narrow(true));
            if low >= high {
                break;
            }
            place += step;
            read += 1;
            if let Some(token) = tokens.get(low).filter(|token| token.content.len() == read) {
                found = Some((place, token));
            }
        }
        found
    }

    fn is_within_word(&self, start: usize, end: usize) -> bool {
        let before = last(self.view.part(0, start).text);
        let after = characters(self.view.part(end, self.view.len()).text).next();
        [before, after]
            .into_iter()
            .flatten()
            .any(|character| self.tokenizer.is_word(character))
    }

    /// A folded space stands for `▁`, which is not whitespace.
    fn is_whitespace(&self, character: char) -> bool {
        character.is_whitespace() && !(self.fold && character == ' ')
    }

    fn strip_left(&self, start: usize) -> usize {
        if self.done > start {
            return start;
        }
        let mut text = self.view.part(self.done, start).text;
        let mut stripped = start;
        while let Some(character) = last(text).filter(|character| self.is_whitespace(*character)) {
            text = text
                .get(..text.len() - character.len_utf8())
                .unwrap_or_default();
            stripped -= character.len_utf8();
        }
        stripped
    }

    fn strip_right(&mut self, end: usize) -> usize {
        // Tokens of whitespace may follow each other within one stretch, which is walked once.
        if end < self.whitespace.0 || end > self.whitespace.1 {
            let text = self.view.part(end, self.view.len()).text;
            self.whitespace = (
                end,
                end + run_length(text, |character| self.is_whitespace(character)),
            );
        }
        self.whitespace.1
    }
}
