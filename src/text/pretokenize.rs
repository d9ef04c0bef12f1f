//! Cutting text into pre-tokens: the regular expressions of the byte-level tokenizers, compiled to
//! automata by the importer (see [`section`](super::section) for the tables).
//!
//! A pattern reads each character once for a match, with one look-up, and remembers where the last
//! match ended. The importer takes no pattern that reads far ahead again and again, so all of a
//! text takes linear time.

use super::Tokenizer;
use super::added::View;
use super::section::{GAP, KIND, MATCH, MAX_PATTERNS, STATE};

/// The pre-tokens of a stretch of text.
pub(crate) struct PreTokens<'a, 'm, 't> {
    tokenizer: &'a Tokenizer<'m>,
    view: View<'t>,
    /// Where the next pre-token starts.
    at: usize,
    /// Where the current piece of each pattern ends.
    ends: [usize; MAX_PATTERNS],
}

impl<'m> Tokenizer<'m> {
    pub(crate) fn pre_tokens<'a, 't>(&'a self, view: View<'t>) -> PreTokens<'a, 'm, 't> {
        PreTokens {
            tokenizer: self,
            view,
            at: 0,
            ends: [0; MAX_PATTERNS],
        }
    }

    /// The kind that the patterns know a character by.
    fn kind(&self, character: char) -> usize {
        let ascii = self.patterns.ascii.get(character as usize).copied();
        usize::from(ascii.unwrap_or_else(|| self.class(character) & KIND))
    }

    /// The length of the piece that `view` starts with under the pattern that starts at `row`: a
    /// match, or what lies before the next match. It is 0 only if there is no text.
    fn part_len(&self, row: usize, view: View) -> usize {
        let mut len = 0;
        loop {
            let rest = view.part(len, view.len());
            let (step, matches) = self.walk(row, rest);
            if matches && len > 0 {
                return len;
            }
            len += step;
            if matches || step == 0 {
                return len;
            }
        }
    }

    /// Walks through an automaton. Returns how long the match is that `view` starts with; if there
    /// is none, how far it is to the next place where one can start.
    #[cfg_attr(target_os = "none", inline(never))]
    fn walk(&self, row: usize, view: View) -> (usize, bool) {
        let columns = self.patterns.kinds + 1;
        let mut row = row;
        let mut place = 0;
        let (mut found, mut matches, mut first) = (0, false, 0);
        let kinds = view
            .characters()
            .map(|character| (self.kind(character), character.len_utf8()));
        // The end of the text has a column of its own.
        for (kind, len) in kinds.chain([(self.patterns.kinds, 0)]) {
            let entry = self.patterns.entries.at(row * columns + kind) as u16;
            if entry & (MATCH | GAP) != 0 {
                (found, matches) = (place, entry & MATCH != 0);
            }
            if place == 0 {
                first = len;
            }
            place += len;
            match usize::from(entry & STATE).checked_sub(1) {
                Some(next) => row = next,
                None => break,
            }
        }
        match found {
            0 => (first, false),
            found => (found, matches),
        }
    }
}

impl<'t> Iterator for PreTokens<'_, '_, 't> {
    type Item = View<'t>;

    fn next(&mut self) -> Option<View<'t>> {
        let start = self.at;
        let mut piece = self.view.part(start, self.view.len());
        let patterns = &self.tokenizer.patterns;
        for (index, end) in (0..patterns.starts.len()).zip(&mut self.ends) {
            if *end <= start {
                let row = patterns.starts.at(index) as usize;
                *end = start + self.tokenizer.part_len(row, piece);
            }
            piece = piece.part(0, *end - start);
        }
        self.at += piece.len();
        (piece.len() > 0).then_some(piece)
    }
}
