//! The Unicode tables that a tokenizer needs, and no others: character classes for its
//! pre-tokenizer, NFC.
//!
//! NFC is that of Unicode 9, the version that the `tokenizers` library normalises by and models
//! were trained with. For the characters of that version it never changes (the Unicode stability
//! policy), so it is enough to leave out later characters.

use std::collections::{BTreeMap, BTreeSet};
use std::prelude::rust_2024::*;
use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};
use unicode_normalization::char::{canonical_combining_class, compose, decompose_canonical};

use crate::text::section::{NOT_INERT, WORD};

/// Where the class of characters changes: code point, and the class from there on. ASCII is left
/// out. `kinds` says where the kinds of the patterns change, and is empty without patterns.
pub(super) fn classes(kinds: &[(u32, u8)], words: bool, nfc: bool) -> Vec<(u32, u8)> {
    let bits = bits(words, nfc);
    let starts: BTreeSet<u32> = kinds.iter().chain(bits).map(|(start, _)| *start).collect();
    let last = |changes: &[(u32, u8)], code: u32| {
        let next = changes.partition_point(|(start, _)| *start <= code);
        next.checked_sub(1).map_or(0, |at| changes[at].1)
    };
    let mut classes: Vec<(u32, u8)> = starts
        .into_iter()
        .map(|start| (start, last(kinds, start) | last(bits, start)))
        .collect();
    classes.dedup_by_key(|(_, class)| *class);
    classes
}

/// Where the bits of a class change that are not about patterns.
///
/// Going through all of Unicode takes milliseconds, so each combination that is asked for is made
/// once.
fn bits(words: bool, nfc: bool) -> &'static [(u32, u8)] {
    static BITS: [OnceLock<Vec<(u32, u8)>>; 4] = [const { OnceLock::new() }; 4];
    BITS[usize::from(words) | usize::from(nfc) << 1].get_or_init(|| make_bits(words, nfc))
}

fn make_bits(words: bool, nfc: bool) -> Vec<(u32, u8)> {
    let mut bits: BTreeMap<u32, u8> = BTreeMap::new();
    if words {
        for (first, last) in ranges(r"\w") {
            (first.max(0x80)..=last).for_each(|code| *bits.entry(code).or_default() |= WORD);
        }
    }
    if nfc {
        for character in normalizable().filter(|character| !is_inert(*character)) {
            *bits.entry(character.into()).or_default() |= NOT_INERT;
        }
        // Hangul vowels and trailing consonants join what is before them.
        (0x1161..=0x1175)
            .chain(0x11A8..=0x11C2)
            .for_each(|code| *bits.entry(code).or_default() |= NOT_INERT);
    }
    let mut changes: Vec<(u32, u8)> = vec![];
    let mut next = 0x80;
    for (code, bits) in bits {
        if code != next && changes.last().is_some_and(|(_, last)| *last != 0) {
            changes.push((next, 0));
        }
        if changes.last().map_or(0, |(_, last)| *last) != bits {
            changes.push((code, bits));
        }
        next = code + 1;
    }
    if !changes.is_empty() {
        changes.push((next, 0));
    }
    changes
}

fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    let class = regex_syntax::parse(pattern).expect("the patterns above are valid");
    match class.kind() {
        HirKind::Class(Class::Unicode(class)) => class
            .iter()
            .map(|range| (range.start().into(), range.end().into()))
            .collect(),
        _ => vec![],
    }
}

/// The characters of Unicode 9, without ASCII.
fn normalizable() -> impl Iterator<Item = char> {
    let ranges = ranges(r"\p{age:9.0}").into_iter();
    ranges
        .flat_map(|(first, last)| first..=last)
        .filter(|code| *code >= 0x80)
        .filter_map(char::from_u32)
}

/// Whether NFC leaves a character alone whatever is around it, jamo aside.
fn is_inert(character: char) -> bool {
    let mut decomposed = vec![];
    decompose_canonical(character, |part| decomposed.push(part));
    let recomposed = decomposed
        .iter()
        .copied()
        .map(Some)
        .reduce(|first, second| compose(first?, second?));
    canonical_combining_class(character) == 0
        && recomposed == Some(Some(character))
        && !composes_backwards(character)
}

/// Whether some character before this one composes with it.
fn composes_backwards(character: char) -> bool {
    static SECONDS: OnceLock<BTreeSet<u32>> = OnceLock::new();
    let seconds = SECONDS.get_or_init(|| {
        nfc_tables()
            .compositions
            .iter()
            .map(|[_, second, _]| *second)
            .collect()
    });
    seconds.contains(&character.into())
}

/// Canonical decomposition and composition, without Hangul.
#[derive(Default)]
pub(super) struct NfcTables {
    /// Code point, and where its full decomposition starts in the pool.
    pub(super) decompositions: Vec<(u32, usize)>,
    /// The decompositions, one after the other.
    pub(super) pool: Vec<u32>,
    /// First, second, composite.
    pub(super) compositions: Vec<[u32; 3]>,
    /// First and last code point of one combining class that is not 0.
    pub(super) combining: Vec<(u32, u32, u8)>,
}

/// The tables of Unicode 9, made once.
pub(super) fn nfc_tables() -> &'static NfcTables {
    static TABLES: OnceLock<NfcTables> = OnceLock::new();
    TABLES.get_or_init(make_nfc_tables)
}

fn make_nfc_tables() -> NfcTables {
    let mut tables = NfcTables::default();
    for character in normalizable() {
        let code = u32::from(character);
        let class = canonical_combining_class(character);
        match tables.combining.last_mut() {
            Some((_, last, other)) if *other == class && *last + 1 == code => *last = code,
            _ if class != 0 => tables.combining.push((code, code, class)),
            _ => {}
        }
        let mut decomposed = vec![];
        decompose_canonical(character, |part| decomposed.push(part));
        if decomposed == [character] || matches!(character, '가'..='힣') {
            continue;
        }
        tables.decompositions.push((code, tables.pool.len()));
        tables
            .pool
            .extend(decomposed.iter().copied().map(u32::from));
        if let Some((second, rest)) = decomposed.split_last()
            && let Some(first) = rest
                .iter()
                .copied()
                .map(Some)
                .reduce(|first, second| compose(first?, second?))
                .flatten()
            && compose(first, *second) == Some(character)
        {
            tables
                .compositions
                .push([first.into(), u32::from(*second), code]);
        }
    }
    tables.compositions.sort();
    tables
}
