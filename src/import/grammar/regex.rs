//! Regular expressions as expressions over bytes: parsed by `regex-syntax`.

use std::format;
use std::prelude::rust_2024::*;
use std::string::ToString;
use std::vec;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look};
use regex_syntax::utf8::Utf8Sequences;

use super::expr::{Bytes, Id, Source};
use crate::import::ImportError;

/// How the characters of a text are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// As they are.
    Plain,
    /// As in a JSON string: quotes, backslashes and control characters with a backslash.
    Json,
}

/// Whether a match must be the whole text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// As `pattern` of JSON Schema: anywhere, unless it has anchors.
    Anywhere,
    Whole,
}

/// The texts that `pattern` matches.
pub(super) fn pattern(
    source: &mut Source,
    pattern: &str,
    matching: Match,
    writing: Writing,
) -> Result<Id, ImportError> {
    let hir = regex_syntax::ParserBuilder::new()
        .build()
        .parse(&ecma(pattern))
        .map_err(|error| {
            let reason = error.to_string();
            let last = reason.lines().last().unwrap_or_default();
            ImportError::new(format!("the pattern {pattern:?}: {last}"))
        })?;
    let mut context = Context {
        source,
        writing,
        pattern,
    };
    let any = match matching {
        Match::Whole => context.source.empty(),
        Match::Anywhere => {
            let any = characters(context.source, &everything(), writing);
            context.source.repeat(any, 0, None)
        }
    };
    context.anchored(vec![hir], any, any)
}

/// All characters.
pub(super) fn everything() -> ClassUnicode {
    ClassUnicode::new([ClassUnicodeRange::new('\0', char::MAX)])
}

/// ECMA's `\d` and `\w` are ASCII, as `pattern` of JSON Schema has it, and `/` may be escaped.
fn ecma(pattern: &str) -> String {
    let mut text = String::new();
    let mut characters = pattern.chars();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let (inside, outside) = match characters.next() {
                    Some('d') => ("0-9", "[0-9]"),
                    Some('w') => ("0-9A-Za-z_", "[0-9A-Za-z_]"),
                    Some('D') => ("[^0-9]", "[^0-9]"),
                    Some('W') => ("[^0-9A-Za-z_]", "[^0-9A-Za-z_]"),
                    Some('/') => ("/", "/"),
                    Some(other) => {
                        text.push('\\');
                        text.push(other);
                        continue;
                    }
                    None => ("\\", "\\"),
                };
                text.push_str(if in_class { inside } else { outside });
            }
            '[' if !in_class => {
                in_class = true;
                text.push('[');
            }
            // ECMA has no classes within classes.
            '[' => text.push_str("\\["),
            ']' => {
                in_class = false;
                text.push(']');
            }
            '&' | '~' if in_class => {
                text.push('\\');
                text.push(character);
            }
            _ => text.push(character),
        }
    }
    text
}

struct Context<'c> {
    source: &'c mut Source,
    writing: Writing,
    pattern: &'c str,
}

impl Context<'_> {
    /// The texts of `parts`, one after the other, with any text before and after them unless there
    /// are anchors.
    fn anchored(
        &mut self,
        mut parts: Vec<Hir>,
        mut before: Id,
        mut after: Id,
    ) -> Result<Id, ImportError> {
        let has_anchor = |part: &Hir| !part.properties().look_set().is_empty();
        for is_first in [true, false] {
            loop {
                let place = if is_first {
                    0
                } else {
                    parts.len().saturating_sub(1)
                };
                let Some(part) = parts.get(place) else {
                    break;
                };
                let inner = match part.kind() {
                    HirKind::Look(Look::Start) if is_first => {
                        before = self.source.empty();
                        Vec::new()
                    }
                    HirKind::Look(Look::End) if !is_first => {
                        after = self.source.empty();
                        Vec::new()
                    }
                    HirKind::Capture(capture) if has_anchor(part) => vec![(*capture.sub).clone()],
                    HirKind::Concat(inner) if has_anchor(part) => inner.clone(),
                    HirKind::Alternation(alternatives) if has_anchor(part) => {
                        let mut all = Vec::new();
                        for alternative in alternatives.clone() {
                            let mut parts = parts.clone();
                            parts[place] = alternative;
                            all.push(self.anchored(parts, before, after)?);
                        }
                        return Ok(self.source.alt(all));
                    }
                    _ => break,
                };
                parts.splice(place..=place, inner);
            }
        }
        let mut all = vec![before];
        for part in &parts {
            all.push(self.expr(part)?);
        }
        all.push(after);
        Ok(self.source.seq(all))
    }

    fn expr(&mut self, hir: &Hir) -> Result<Id, ImportError> {
        Ok(match hir.kind() {
            HirKind::Empty => self.source.empty(),
            HirKind::Literal(literal) => {
                let text = core::str::from_utf8(&literal.0).map_err(|_| {
                    ImportError::new(format!("the pattern {:?} is not UTF-8", self.pattern))
                })?;
                text_of(self.source, text, self.writing)
            }
            HirKind::Class(Class::Unicode(class)) => characters(self.source, class, self.writing),
            HirKind::Class(Class::Bytes(class)) => {
                let ranges = class.ranges().iter();
                let ranges = ranges.map(|range| {
                    ClassUnicodeRange::new(char::from(range.start()), char::from(range.end()))
                });
                let class = ClassUnicode::new(ranges);
                characters(self.source, &class, self.writing)
            }
            HirKind::Look(_) => {
                return Err(ImportError::new(format!(
                    "the pattern {:?}: anchors and word boundaries are supported at the ends of \
                     the pattern only",
                    self.pattern
                )));
            }
            HirKind::Repetition(repetition) => {
                let body = self.expr(&repetition.sub)?;
                self.source.repeat(body, repetition.min, repetition.max)
            }
            HirKind::Capture(capture) => self.expr(&capture.sub)?,
            HirKind::Concat(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.push(self.expr(part)?);
                }
                self.source.seq(all)
            }
            HirKind::Alternation(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.push(self.expr(part)?);
                }
                self.source.alt(all)
            }
        })
    }
}

/// `text` as it is written.
pub(super) fn text_of(source: &mut Source, text: &str, writing: Writing) -> Id {
    let needs_escape = |c: char| c.is_control() || c == '"' || c == '\\';
    if writing == Writing::Plain || !text.contains(needs_escape) {
        return source.literal(text.as_bytes());
    }
    let parts = text.chars().map(|character| {
        let class = ClassUnicode::new([ClassUnicodeRange::new(character, character)]);
        characters(source, &class, writing)
    });
    let parts: Vec<Id> = parts.collect();
    source.seq(parts)
}

/// One of the characters of `class`.
pub(super) fn characters(source: &mut Source, class: &ClassUnicode, writing: Writing) -> Id {
    let mut class = class.clone();
    let mut parts = Vec::new();
    if writing == Writing::Json {
        parts.extend(escapes(source, &class));
        let escaped = ['"', '\\', '\u{7f}'].map(|c| ClassUnicodeRange::new(c, c));
        let control = ClassUnicodeRange::new('\0', '\u{1f}');
        class.difference(&ClassUnicode::new(escaped.into_iter().chain([control])));
    }
    let mut ascii = Bytes::default();
    for range in class.ranges() {
        for sequence in Utf8Sequences::new(range.start(), range.end()) {
            let bytes = sequence.as_slice().iter();
            let sets: Vec<Bytes> = bytes
                .map(|range| Bytes::range(range.start, range.end))
                .collect();
            match sets[..] {
                [one] => ascii.join(&one),
                _ => {
                    let sets = sets.into_iter().map(|set| source.set(set));
                    let sets: Vec<Id> = sets.collect();
                    parts.push(source.seq(sets));
                }
            }
        }
    }
    parts.push(source.set(ascii));
    source.alt(parts)
}

/// The characters of `class` that JSON escapes: U+0000 to U+001F and U+007F, quote, and backslash.
fn escapes(source: &mut Source, class: &ClassUnicode) -> Vec<Id> {
    let has = |character: char| {
        let mut ranges = class.ranges().iter();
        ranges.any(|range| (range.start()..=range.end()).contains(&character))
    };
    let letters = [
        ('"', b'"'),
        ('\\', b'\\'),
        ('\n', b'n'),
        ('\r', b'r'),
        ('\t', b't'),
        ('\u{8}', b'b'),
        ('\u{c}', b'f'),
    ];
    let letters = letters.iter().filter(|(character, _)| has(*character));
    let letters: Vec<u8> = letters.map(|(_, letter)| *letter).collect();
    let mut parts = Vec::new();
    if !letters.is_empty() {
        let (backslash, letter) = (source.literal(b"\\"), source.set(Bytes::of(&letters)));
        parts.push(source.seq(vec![backslash, letter]));
    }
    for first in [0u32, 16, 0x70] {
        let mut digits = Bytes::default();
        for second in 0..16u32 {
            let character = char::from_u32(first + second).unwrap_or_default();
            if (first < 32 || character == '\u{7f}') && has(character) {
                let digit = char::from_digit(second, 16).unwrap_or_default();
                digits.insert(digit as u8);
                digits.insert(digit.to_ascii_uppercase() as u8);
            }
        }
        if !digits.is_empty() {
            let start = source.literal(format!("\\u00{}", first / 16).as_bytes());
            let digit = source.set(digits);
            parts.push(source.seq(vec![start, digit]));
        }
    }
    parts
}
