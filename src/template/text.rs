//! Strings that record which bytes the user wrote.

use std::ops::{Deref, Range};
use std::prelude::rust_2024::*;
use std::sync::Arc;

/// A string, and which of its bytes come from the caller's variables (the *user's* text). All
/// other bytes come from the template. Every operation of the interpreter keeps the two apart.
#[derive(Clone, Debug)]
pub(super) struct Text {
    text: Arc<str>,
    /// The user's bytes: sorted ranges that neither touch nor overlap; none for plain template
    /// text.
    user: Option<Arc<[Range<usize>]>>,
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Text {
    /// Text of one origin.
    pub(super) fn new(text: &str, user: bool) -> Self {
        let whole = 0..text.len();
        Text {
            text: text.into(),
            user: (user && !text.is_empty()).then(|| Arc::from([whole])),
        }
    }

    /// Template text.
    pub(super) fn template(text: &str) -> Self {
        Text::new(text, false)
    }

    /// The ranges of the user's bytes.
    pub(super) fn user(&self) -> &[Range<usize>] {
        self.user.as_deref().unwrap_or_default()
    }

    /// Whether any byte is the user's.
    pub(super) fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// Whether the byte at `at` is the user's.
    pub(super) fn is_user(&self, at: usize) -> bool {
        let next = self.user().partition_point(|range| range.end <= at);
        self.user().get(next).is_some_and(|range| range.start <= at)
    }

    /// The part in `range`, which must lie on character boundaries.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        if range == (0..self.text.len()) {
            return self.clone();
        }
        let mut builder = Builder::default();
        builder.push_part(self, range);
        builder.finish()
    }

    /// The part that `part` borrows from this text.
    pub(super) fn borrowed(&self, part: &str) -> Self {
        let start = part.as_ptr() as usize - self.text.as_ptr() as usize;
        self.part(start..start + part.len())
    }

    /// Each character, and whether it is the user's.
    pub(super) fn characters(&self) -> impl Iterator<Item = (char, bool)> + '_ {
        let mut ranges = self.user().iter().peekable();
        self.text.char_indices().map(move |(at, character)| {
            while ranges.next_if(|range| range.end <= at).is_some() {}
            let user = ranges.peek().is_some_and(|range| range.start <= at);
            (character, user)
        })
    }

    /// The stretches of one origin.
    pub(super) fn stretches(&self) -> impl Iterator<Item = (&str, bool)> {
        let mut at = 0;
        let mut stretches = Vec::new();
        for range in self.user() {
            stretches.push((&self.text[at..range.start], false));
            stretches.push((&self.text[range.clone()], true));
            at = range.end;
        }
        stretches.push((&self.text[at..], false));
        stretches.into_iter().filter(|(text, _)| !text.is_empty())
    }

    /// Each stretch of one origin put through `change`.
    pub(super) fn map(&self, change: impl Fn(&str) -> String) -> Self {
        let mut builder = Builder::default();
        for (text, user) in self.stretches() {
            builder.push_str(&change(text), user);
        }
        builder.finish()
    }
}

/// Puts a [`Text`] together.
#[derive(Default)]
pub(super) struct Builder {
    text: String,
    user: Vec<Range<usize>>,
}

impl Builder {
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn push_str(&mut self, text: &str, user: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        if user {
            self.mark(start..self.text.len());
        }
    }

    pub(super) fn push_char(&mut self, character: char, user: bool) {
        self.push_str(character.encode_utf8(&mut [0; 4]), user);
    }

    pub(super) fn push(&mut self, text: &Text) {
        let start = self.text.len();
        self.text.push_str(text);
        for range in text.user() {
            self.mark(start + range.start..start + range.end);
        }
    }

    /// The part of `text` in `part`.
    pub(super) fn push_part(&mut self, text: &Text, part: Range<usize>) {
        let start = self.text.len();
        self.text.push_str(&text[part.clone()]);
        let first = text.user().partition_point(|range| range.end <= part.start);
        for range in &text.user()[first..] {
            if range.start >= part.end {
                break;
            }
            let from = range.start.max(part.start) - part.start;
            let to = range.end.min(part.end) - part.start;
            self.mark(start + from..start + to);
        }
    }

    fn mark(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        match self.user.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.user.push(range),
        }
    }

    pub(super) fn finish(self) -> Text {
        Text {
            text: self.text.into(),
            user: (!self.user.is_empty()).then(|| self.user.into()),
        }
    }

    /// The text and the ranges of the user's bytes.
    pub(super) fn into_parts(self) -> (String, Vec<Range<usize>>) {
        (self.text, self.user)
    }
}
