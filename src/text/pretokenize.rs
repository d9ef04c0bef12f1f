//! Cutting text into pre-tokens: the regular expressions of the byte-level tokenizers, by hand. Each is walked once
//! from left to right; nothing is matched twice, except that whitespace up to a line end is looked through to find it.
//!
//! ```text
//! GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//! Qwen 2 is Llama 3 with `\p{N}`.

use super::tokenizer::{LETTER, NUMBER, PreTokenizer, Tokenizer};

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

/// The pre-tokens of `text`.
pub(crate) struct PreTokens<'a, 'm, 't> {
    tokenizer: &'a Tokenizer<'m>,
    /// What is left of the run that no pre-token crosses.
    run: &'t str,
    /// What comes after the run.
    rest: &'t str,
}

impl<'m> Tokenizer<'m> {
    pub(crate) fn pre_tokens<'a, 't>(&'a self, text: &'t str) -> PreTokens<'a, 'm, 't> {
        PreTokens { tokenizer: self, run: "", rest: text }
    }

    fn kind(&self, character: char) -> Class {
        if character.is_ascii_alphabetic() {
            Class::Letter
        } else if character.is_ascii_digit() {
            Class::Number
        } else if character.is_whitespace() {
            Class::Space
        } else if character.is_ascii() {
            Class::Other
        } else {
            match self.class(character) {
                bits if bits & LETTER != 0 => Class::Letter,
                bits if bits & NUMBER != 0 => Class::Number,
                _ => Class::Other,
            }
        }
    }
}

impl<'t> Iterator for PreTokens<'_, '_, 't> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        if self.run.is_empty() {
            let len = match self.tokenizer.pre_tokenizer {
                // The runs between numbers are split on their own: a run's end is an end of text to `(?!\S)`.
                PreTokenizer::DigitsGpt2 => match self.len_while(self.rest, usize::MAX, |class| class != Class::Number)
                {
                    0 => self.len_while(self.rest, 1, |_| true),
                    len => len,
                },
                _ => self.rest.len(),
            };
            (self.run, self.rest) = self.rest.split_at_checked(len)?;
        }
        let len = match self.tokenizer.pre_tokenizer {
            PreTokenizer::None => self.run.len(),
            PreTokenizer::Gpt2 | PreTokenizer::DigitsGpt2 => self.gpt2(self.run),
            PreTokenizer::Llama3 => self.llama3(self.run),
        };
        let (token, run) = self.run.split_at_checked(len)?;
        self.run = run;
        (!token.is_empty()).then_some(token)
    }
}

impl PreTokens<'_, '_, '_> {
    /// The length of the next pre-token of `text`, 0 only if there is no text.
    fn gpt2(&self, text: &str) -> usize {
        if let Some(len) = contraction(text, false) {
            return len;
        }
        let space = usize::from(text.starts_with(' '));
        let word = text.get(space..).unwrap_or_default();
        match word.chars().next().map(|first| self.tokenizer.kind(first)) {
            Some(class) if class != Class::Space => space + self.len_while(word, usize::MAX, |other| other == class),
            _ => self.whitespace(text),
        }
    }

    /// As [`gpt2`](Self::gpt2).
    fn llama3(&self, text: &str) -> usize {
        if let Some(len) = contraction(text, true) {
            return len;
        }
        let Some(first) = text.chars().next() else { return 0 };
        let rest = text.get(first.len_utf8()..).unwrap_or_default();
        let letters = |text| self.len_while(text, usize::MAX, |class| class == Class::Letter);
        let class = self.tokenizer.kind(first);
        match class {
            Class::Letter => return letters(text),
            Class::Number => {
                let most = match self.tokenizer.max_digits {
                    0 => usize::MAX,
                    most => most,
                };
                return self.len_while(text, most, |class| class == Class::Number);
            }
            _ => {}
        }
        if !matches!(first, '\r' | '\n') {
            let len = letters(rest);
            if len != 0 {
                return first.len_utf8() + len;
            }
        }
        let space = usize::from(first == ' ');
        let others =
            text.get(space..).map_or(0, |word| self.len_while(word, usize::MAX, |class| class == Class::Other));
        if others != 0 {
            let after = text.get(space + others..).unwrap_or_default();
            return space + others + (after.len() - after.trim_start_matches(['\r', '\n']).len());
        }
        let run = text.get(..self.len_while(text, usize::MAX, |class| class == Class::Space)).unwrap_or_default();
        match run.rfind(['\r', '\n']) {
            Some(last) => last + 1,
            None => self.whitespace(text),
        }
    }

    /// `\s+(?!\S)|\s+`: a run of whitespace, less its last character if something follows and something is left.
    fn whitespace(&self, text: &str) -> usize {
        let len = self.len_while(text, usize::MAX, |class| class == Class::Space);
        let last = text.get(..len).and_then(|run| run.chars().next_back()).map_or(0, char::len_utf8);
        if len < text.len() && len > last { len - last } else { len }
    }

    /// The length of the first `most` characters, or fewer, whose class is wanted.
    fn len_while(&self, text: &str, most: usize, wanted: impl Fn(Class) -> bool) -> usize {
        let run = text.chars().take(most).take_while(|character| wanted(self.tokenizer.kind(*character)));
        run.map(char::len_utf8).sum()
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`. Without regard to case, `ſ` is an s; no other letter outside ASCII folds to one of these.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let mut letters = text.strip_prefix('\'')?.chars();
    let mut next = || {
        let letter = letters.next()?;
        match letter {
            'ſ' if any_case => Some(('s', 2)),
            _ if any_case => Some((letter.to_ascii_lowercase(), 1)),
            _ => Some((letter, 1)),
        }
    };
    let (first, len) = next()?;
    match first {
        's' | 't' | 'm' | 'd' => Some(1 + len),
        _ => match (first, next()?.0) {
            ('r' | 'v', 'e') | ('l', 'l') => Some(3),
            _ => None,
        },
    }
}
