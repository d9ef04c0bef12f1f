//! Cutting text into pre-tokens: the regular expressions of the byte-level tokenizers, by hand.
//! Each is walked once from left to right; nothing is matched twice, except that whitespace up to a
//! line end is looked through to find it.
//!
//! ```text
//! GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//! Qwen 2 is Llama 3 with `\p{N}`.

use super::characters::{characters, last, run_length};
use super::tokenizer::{LETTER, NUMBER, PreTokenizer, Tokenizer};

// What a character is to the expressions; a set of these is their sum.
const LETTERS: u8 = 1;
const NUMBERS: u8 = 2;
const SPACES: u8 = 4;
const OTHERS: u8 = 8;

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
        PreTokens {
            tokenizer: self,
            run: "",
            rest: text,
        }
    }

    /// One of [`LETTERS`], [`NUMBERS`], [`SPACES`], [`OTHERS`].
    fn kind(&self, character: char) -> u8 {
        if character.is_ascii_alphabetic() {
            LETTERS
        } else if character.is_ascii_digit() {
            NUMBERS
        } else if character.is_whitespace() {
            SPACES
        } else if character.is_ascii() {
            OTHERS
        } else {
            match self.class(character) {
                bits if bits & LETTER != 0 => LETTERS,
                bits if bits & NUMBER != 0 => NUMBERS,
                _ => OTHERS,
            }
        }
    }
}

impl<'t> Iterator for PreTokens<'_, '_, 't> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        if self.run.is_empty() {
            let len = match self.tokenizer.pre_tokenizer {
                // The runs between numbers are split on their own: a run's end is an end of text to
                // `(?!\S)`.
                PreTokenizer::DigitsGpt2 => match self.len_of(self.rest, !NUMBERS) {
                    0 => self.len_of_first(1, self.rest, NUMBERS),
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
        match characters(word)
            .next()
            .map(|first| self.tokenizer.kind(first))
        {
            Some(class) if class != SPACES => space + self.len_of(word, class),
            _ => self.whitespace(text),
        }
    }

    /// As [`gpt2`](Self::gpt2).
    fn llama3(&self, text: &str) -> usize {
        if let Some(len) = contraction(text, true) {
            return len;
        }
        let Some(first) = characters(text).next() else {
            return 0;
        };
        let rest = text.get(first.len_utf8()..).unwrap_or_default();
        match self.tokenizer.kind(first) {
            LETTERS => return self.len_of(text, LETTERS),
            NUMBERS => {
                let most = match self.tokenizer.max_digits {
                    0 => usize::MAX,
                    most => most,
                };
                return self.len_of_first(most, text, NUMBERS);
            }
            _ => {}
        }
        if !is_line_end(first) {
            let len = self.len_of(rest, LETTERS);
            if len != 0 {
                return first.len_utf8() + len;
            }
        }
        let space = usize::from(first == ' ');
        let others = text
            .get(space..)
            .map_or(0, |word| self.len_of(word, OTHERS));
        if others != 0 {
            let after = text.get(space + others..).unwrap_or_default();
            return space + others + run_length(after, is_line_end);
        }
        let run = text
            .as_bytes()
            .get(..self.len_of(text, SPACES))
            .unwrap_or_default();
        match run.iter().rposition(|byte| is_line_end(char::from(*byte))) {
            Some(last) => last + 1,
            None => self.whitespace(text),
        }
    }

    /// `\s+(?!\S)|\s+`: a run of whitespace, less its last character if something follows and
    /// something is left.
    fn whitespace(&self, text: &str) -> usize {
        let len = self.len_of(text, SPACES);
        let last = text.get(..len).and_then(last).map_or(0, char::len_utf8);
        if len < text.len() && len > last {
            len - last
        } else {
            len
        }
    }

    /// The length of the run of `classes` that `text` starts with.
    fn len_of(&self, text: &str, classes: u8) -> usize {
        self.len_of_first(usize::MAX, text, classes)
    }

    /// As [`len_of`](Self::len_of), of a run of at most `most` characters.
    #[cfg_attr(target_os = "none", inline(never))]
    fn len_of_first(&self, most: usize, text: &str, classes: u8) -> usize {
        let mut left = most;
        run_length(text, |character| {
            let more = left > 0 && self.tokenizer.kind(character) & classes != 0;
            left = left.saturating_sub(1);
            more
        })
    }
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// `'s|'t|'re|'ve|'m|'ll|'d`. Without regard to case, `ſ` is an s; no other letter outside ASCII
/// folds to one of these.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let lower = |byte: u8| {
        if any_case {
            byte.to_ascii_lowercase()
        } else {
            byte
        }
    };
    match text.as_bytes() {
        // ſ
        [b'\'', 0xC5, 0xBF, ..] if any_case => Some(3),
        [b'\'', first, rest @ ..] => match (lower(*first), rest.first().copied().map(lower)) {
            (b's' | b't' | b'm' | b'd', _) => Some(2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
            _ => None,
        },
        _ => None,
    }
}
