//! The properties of characters in Python.

use std::prelude::rust_2024::*;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

type Ranges = Vec<(char, char)>;

/// The characters of a class in the syntax of regular expressions.
fn ranges(pattern: &str) -> Ranges {
    match regex_syntax::parse(pattern).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(Class::Unicode(class))) => class
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect(),
        _ => Vec::new(),
    }
}

fn is_in(ranges: &Ranges, character: char) -> bool {
    let next = ranges.partition_point(|(_, last)| *last < character);
    ranges
        .get(next)
        .is_some_and(|(first, _)| *first <= character)
}

/// `str.isprintable`: what `repr` leaves as it is.
pub(super) fn is_printable(character: char) -> bool {
    static SET: LazyLock<Ranges> = LazyLock::new(|| ranges(r"[\p{C}\p{Z}]"));
    match character {
        ' '..='~' => true,
        _ => !is_in(&SET, character),
    }
}

/// `str.isdecimal`.
pub(super) fn is_decimal(character: char) -> bool {
    static SET: LazyLock<Ranges> = LazyLock::new(|| ranges(r"[\p{Nd}]"));
    is_in(&SET, character)
}

/// `str.isdigit`: digits in circles and the like too.
pub(super) fn is_digit(character: char) -> bool {
    is_decimal(character)
        || matches!(character,
            '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '\u{2070}'
            | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}'
            | '\u{2474}'..='\u{247c}' | '\u{2488}'..='\u{2490}' | '\u{24ea}'
            | '\u{24f5}'..='\u{24fd}' | '\u{24ff}' | '\u{2776}'..='\u{277e}'
            | '\u{2780}'..='\u{2788}' | '\u{278a}'..='\u{2792}' | '\u{10a40}'..='\u{10a43}'
            | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}' | '\u{1f100}'..='\u{1f10a}')
}

/// `str.isalpha`: letters, not the other alphabetic characters.
pub(super) fn is_letter(character: char) -> bool {
    static SET: LazyLock<Ranges> = LazyLock::new(|| ranges(r"[\p{L}]"));
    is_in(&SET, character)
}

/// `\w` of regular expressions.
pub(super) fn is_word(character: char) -> bool {
    character == '_' || is_letter(character) || character.is_numeric()
}

/// `str.isspace`, `\s`, and the white space of `split` and `strip`.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// The title-case form: differs from upper case for letters such as `ǆ`.
pub(super) fn title(character: char) -> String {
    match character {
        '\u{1c4}'..='\u{1c6}' => "\u{1c5}".into(),
        '\u{1c7}'..='\u{1c9}' => "\u{1c8}".into(),
        '\u{1ca}'..='\u{1cc}' => "\u{1cb}".into(),
        '\u{1f1}'..='\u{1f3}' => "\u{1f2}".into(),
        '\u{df}' => "Ss".into(),
        '\u{fb00}'..='\u{fb06}' => {
            let mut upper = character.to_uppercase();
            let first = upper.next().into_iter();
            first.chain(upper.flat_map(char::to_lowercase)).collect()
        }
        _ => character.to_uppercase().collect(),
    }
}

/// Whether the character has a case.
pub(super) fn is_cased(character: char) -> bool {
    character.is_lowercase()
        || character.is_uppercase()
        || matches!(character, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}')
}
