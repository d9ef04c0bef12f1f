//! Compiles the regular expressions of pre-tokenizers to tables for the core.
//!
//! An expression becomes a deterministic automaton over *kinds* of characters: sets of characters
//! that no expression of the tokenizer tells apart. The automaton finds what a backtracking matcher
//! finds, the first alternative that matches, because a state is a list of places in the expression
//! in order of preference (as in Russ Cox's RE2 and in `regex-automata`).
//!
//! Whether a match ends is decided when the next character is known, so look-ahead of one character
//! (`\s+(?!\S)`, `$`, `\p{L}++`) costs nothing. Constructs that need more are rejected by name:
//! back-references, look-behind, look-ahead of several characters. A pattern that would take
//! quadratic time is rejected too.

mod quadratic;

use std::collections::{BTreeMap, HashMap};
use std::prelude::rust_2024::*;

use quadratic::takes_quadratic_time;
use regex_syntax::hir::ClassUnicode;

use super::expression::{self, Greed, Node, negated};
use crate::import::ImportError;
use crate::text::section::{GAP, MATCH, MAX_KINDS, MAX_PATTERNS, STATE};

/// GPT-2's expression, which is part of `ByteLevel`.
pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Qwen 2's.
pub(super) const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// What the pre-tokenizer `Punctuation` cuts out: the punctuation of Unicode 8, which differs from
/// today's in two characters.
pub(super) const PUNCTUATION: &str = r"[[\p{P}&&\p{Age_8_0}]\x{166D}\x{111C9}!-/:-@\[-`{-~]";

/// Most instructions of one expression. Real ones have some dozens; a bound on what nested repeats
/// can take.
const MAX_INSTRUCTIONS: usize = 2_000;
/// Most states of one automaton. Real ones have some dozens.
const MAX_STATES: usize = 500;
/// Most places that are looked at to find the states of an automaton.
const MAX_STEPS: usize = 10_000_000;
/// Most kinds of characters before those that make no difference are put together.
const MAX_SETS: usize = 250;

/// The patterns of a tokenizer, each applied to the pieces that the one before it makes.
#[derive(Clone, Default)]
pub(super) struct Patterns {
    automata: Vec<Automaton>,
}

/// One pattern.
#[derive(Clone)]
struct Automaton {
    /// The sets of characters it tells apart.
    sets: Vec<ClassUnicode>,
    /// Its instructions, in which sets are named by number.
    program: Vec<Instruction>,
}

/// The tables of a tokenizer section.
#[derive(Default)]
pub(super) struct Tables {
    /// The kind of each ASCII character; empty without patterns.
    pub(super) ascii: Vec<u8>,
    /// Other characters: the first of a range and the kind of that range. Kind 0 up to the first.
    pub(super) kinds: Vec<(u32, u8)>,
    /// How many kinds there are.
    pub(super) kind_count: usize,
    /// The entries of each pattern, rows of `kind_count + 1`.
    pub(super) patterns: Vec<Vec<u16>>,
}

impl Patterns {
    /// Adds a pattern. Returns whether its matches are all of any text.
    pub(super) fn push(&mut self, expression: &str) -> Result<bool, ImportError> {
        if self.automata.len() == MAX_PATTERNS {
            return Err(ImportError::new(format!(
                "more than {MAX_PATTERNS} pre-tokenizer patterns in a row are not supported"
            )));
        }
        let refused = |reason: String| {
            ImportError::new(format!("pre-tokenizer pattern `{expression}`: {reason}"))
        };
        let automaton = compile(expression).map_err(refused)?;
        let alone = tables(std::slice::from_ref(&automaton)).map_err(refused)?;
        let columns = alone.kind_count + 1;
        let table = &alone.patterns[0];
        if takes_quadratic_time(table, columns) {
            return Err(refused(
                "it can read far ahead for every match, which takes quadratic time".into(),
            ));
        }
        self.automata.push(automaton);
        // Sufficient: whatever the first character is, a match can end after it whatever comes.
        Ok(table[..columns - 1].iter().all(|first| {
            let row = usize::from(first & STATE);
            let mut entries = table
                .chunks(columns)
                .skip(row.wrapping_sub(1))
                .take(1)
                .flatten();
            row > 0 && entries.all(|entry| entry & MATCH != 0)
        }))
    }

    /// The tables of all patterns.
    pub(super) fn tables(&self) -> Result<Tables, ImportError> {
        tables(&self.automata)
            .map_err(|reason| ImportError::new(format!("pre-tokenizer patterns: {reason}")))
    }
}

/// What an automaton does: an NFA in which the first of two ways is preferred.
#[derive(Clone, Copy)]
enum Instruction {
    /// Continues after a character of a set.
    Character(usize),
    /// Continues if the next character is in a set, or optionally at the end of the text.
    Ahead(usize, bool),
    /// Continues at two places and prefers the first.
    Either(usize, usize),
    /// Continues at another place.
    Jump(usize),
    /// A match, or the end of characters that no match can start in.
    Found(u16),
}

fn compile(text: &str) -> Result<Automaton, String> {
    let node = expression::parse(text)?;
    let mut builder = Builder::default();
    // If the look-ahead fails at the end of a run, no match starts later in the run, so the whole
    // run can be skipped.
    let gap = match &node {
        Node::Sequence(parts) => match parts.as_slice() {
            [run @ Node::Repeat(set, 1, None, _), Node::Ahead(..)]
                if matches!(**set, Node::Set(_)) =>
            {
                Some(run.clone())
            }
            _ => None,
        },
        _ => None,
    };
    if let Some(gap) = gap {
        let start = builder.push(Instruction::Jump(0))?;
        builder.emit(&node)?;
        builder.push(Instruction::Found(MATCH))?;
        let second = builder.program.len();
        builder.program[start] = Instruction::Either(start + 1, second);
        builder.emit(&gap)?;
        builder.push(Instruction::Found(GAP))?;
    } else {
        builder.emit(&node)?;
        builder.push(Instruction::Found(MATCH))?;
    }
    Ok(Automaton {
        sets: builder.sets,
        program: builder.program,
    })
}

#[derive(Default)]
struct Builder {
    sets: Vec<ClassUnicode>,
    program: Vec<Instruction>,
}

impl Builder {
    fn push(&mut self, instruction: Instruction) -> Result<usize, String> {
        if self.program.len() == MAX_INSTRUCTIONS {
            return Err("it is too large".into());
        }
        self.program.push(instruction);
        Ok(self.program.len() - 1)
    }

    fn set(&mut self, set: &ClassUnicode) -> usize {
        let known = self.sets.iter().position(|other| other == set);
        known.unwrap_or_else(|| {
            self.sets.push(set.clone());
            self.sets.len() - 1
        })
    }

    fn emit(&mut self, node: &Node) -> Result<(), String> {
        match node {
            Node::Set(set) => {
                let set = self.set(set);
                self.push(Instruction::Character(set))?;
            }
            Node::Ahead(set, end) => {
                let set = self.set(set);
                self.push(Instruction::Ahead(set, *end))?;
            }
            Node::Sequence(nodes) => {
                for node in nodes {
                    self.emit(node)?;
                }
            }
            Node::Alternatives(nodes) => {
                let mut jumps = vec![];
                for (index, node) in nodes.iter().enumerate() {
                    if index + 1 == nodes.len() {
                        self.emit(node)?;
                        break;
                    }
                    let either = self.push(Instruction::Jump(0))?;
                    self.emit(node)?;
                    jumps.push(self.push(Instruction::Jump(0))?);
                    let next = self.program.len();
                    self.program[either] = Instruction::Either(either + 1, next);
                }
                let end = self.program.len();
                jumps
                    .into_iter()
                    .for_each(|jump| self.program[jump] = Instruction::Jump(end));
            }
            Node::Repeat(node, least, most, greed) => self.repeat(node, *least, *most, *greed)?,
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        node: &Node,
        least: u32,
        most: Option<u32>,
        greed: Greed,
    ) -> Result<(), String> {
        for _ in 0..least {
            self.emit(node)?;
        }
        // Where to continue after enough repeats.
        let mut exits = vec![];
        let mut either = |builder: &mut Builder| {
            let at = builder.push(Instruction::Jump(0))?;
            exits.push(at);
            Ok::<usize, String>(at)
        };
        match most {
            None => {
                let start = either(self)?;
                self.emit(node)?;
                self.push(Instruction::Jump(start))?;
            }
            Some(most) => {
                for _ in least..most {
                    either(self)?;
                    self.emit(node)?;
                }
            }
        }
        let whole = self.program.len();
        let mut end = whole;
        if greed == Greed::Possessive
            && let Node::Set(set) = node
        {
            // A possessive repeat ends only where the next character is another one.
            let jump = self.push(Instruction::Jump(0))?;
            let other = self.set(&negated(set.clone()));
            end = self.push(Instruction::Ahead(other, true))?;
            self.program[jump] = Instruction::Jump(self.program.len());
        }
        for exit in exits {
            self.program[exit] = match greed {
                Greed::Lazy => Instruction::Either(end, exit + 1),
                _ => Instruction::Either(exit + 1, end),
            };
        }
        Ok(())
    }
}

/// Kinds and tables of some automata together.
fn tables(automata: &[Automaton]) -> Result<Tables, String> {
    if automata.is_empty() {
        return Ok(Tables::default());
    }
    let mut ranges = Ranges::of(automata);
    if ranges.count() > MAX_SETS {
        return Err(format!(
            "more than {MAX_SETS} combinations of sets are not supported"
        ));
    }
    let mut dense: Vec<Vec<Vec<u16>>> = vec![];
    for (index, automaton) in automata.iter().enumerate() {
        dense.push(minimal(determinize(automaton, &ranges.members[index])?));
    }
    ranges.merge_alike(&mut dense);
    let kind_count = ranges.count();
    if kind_count > MAX_KINDS {
        return Err(format!(
            "they tell {kind_count} kinds of characters apart, at most {MAX_KINDS} are supported"
        ));
    }
    let kind_of = |code: u32| {
        let next = ranges.starts.partition_point(|(start, _)| *start <= code);
        ranges.starts[next - 1].1 as u8
    };
    let mut kinds: Vec<(u32, u8)> = vec![(0x80, kind_of(0x80))];
    kinds.extend(
        ranges
            .starts
            .iter()
            .filter(|(start, _)| *start > 0x80)
            .map(|(start, kind)| (*start, *kind as u8)),
    );
    kinds.dedup_by_key(|(_, kind)| *kind);
    Ok(Tables {
        ascii: (0..0x80).map(kind_of).collect(),
        kinds,
        kind_count,
        patterns: dense.into_iter().map(|rows| rows.concat()).collect(),
    })
}

/// Where kinds of characters change.
struct Ranges {
    /// The first character of a range, and its kind; sorted, the first is 0.
    starts: Vec<(u32, usize)>,
    /// For each automaton and each kind: whether each of its sets has that kind.
    members: Vec<Vec<Vec<bool>>>,
}

impl Ranges {
    fn of(automata: &[Automaton]) -> Ranges {
        let sets: Vec<&ClassUnicode> = automata
            .iter()
            .flat_map(|automaton| &automaton.sets)
            .collect();
        // Where each set starts or stops.
        let mut changes: BTreeMap<u32, Vec<usize>> = BTreeMap::from([(0, vec![])]);
        for (index, set) in sets.iter().enumerate() {
            for range in set.ranges() {
                // Behind U+D7FF comes U+E000.
                let end = match u32::from(range.end()) + 1 {
                    0xD800 => 0xE000,
                    end => end,
                };
                for change in [range.start().into(), end] {
                    changes.entry(change).or_default().push(index);
                }
            }
        }
        let mut inside = vec![false; sets.len()];
        let mut known: HashMap<Vec<bool>, usize> = HashMap::new();
        let mut members: Vec<Vec<bool>> = vec![];
        let mut starts: Vec<(u32, usize)> = vec![];
        for (start, changed) in changes {
            changed.iter().for_each(|set| inside[*set] = !inside[*set]);
            if start > u32::from(char::MAX) {
                break;
            }
            let kind = *known.entry(inside.clone()).or_insert_with(|| {
                members.push(inside.clone());
                members.len() - 1
            });
            starts.push((start, kind));
        }
        let mut first = 0;
        let members = automata
            .iter()
            .map(|automaton| {
                let sets = first..first + automaton.sets.len();
                first = sets.end;
                members
                    .iter()
                    .map(|all| all[sets.clone()].to_vec())
                    .collect()
            })
            .collect();
        Ranges { starts, members }
    }

    fn count(&self) -> usize {
        self.starts
            .iter()
            .map(|(_, kind)| kind + 1)
            .max()
            .unwrap_or(0)
    }

    /// Merges kinds that no table tells apart.
    fn merge_alike(&mut self, dense: &mut [Vec<Vec<u16>>]) {
        let column =
            |kind: usize| -> Vec<u16> { dense.iter().flatten().map(|row| row[kind]).collect() };
        let mut known: HashMap<Vec<u16>, usize> = HashMap::new();
        let mut kept = vec![];
        let merged: Vec<usize> = (0..self.count())
            .map(|kind| {
                *known.entry(column(kind)).or_insert_with(|| {
                    kept.push(kind);
                    kept.len() - 1
                })
            })
            .collect();
        for row in dense.iter_mut().flatten() {
            let end = row.last().copied();
            *row = kept.iter().map(|kind| row[*kind]).chain(end).collect();
        }
        self.starts
            .iter_mut()
            .for_each(|(_, kind)| *kind = merged[*kind]);
        self.starts.dedup_by_key(|(_, kind)| *kind);
    }
}

/// The rows of an automaton: for each kind, and for the end of the text, an entry as in the
/// section.
fn determinize(automaton: &Automaton, members: &[Vec<bool>]) -> Result<Vec<Vec<u16>>, String> {
    let mut states: Vec<Vec<usize>> = vec![vec![0]];
    let mut numbers: HashMap<Vec<usize>, usize> = HashMap::from([(vec![0], 0)]);
    let mut rows = vec![];
    let mut steps = 0;
    while rows.len() < states.len() {
        let state = states[rows.len()].clone();
        let mut row = vec![];
        for kind in members.iter().map(Some).chain([None]) {
            let (next, found) = step(&automaton.program, &state, kind.map(Vec::as_slice));
            if next.is_empty() {
                row.push(found);
                continue;
            }
            let number = *numbers.entry(next.clone()).or_insert_with(|| {
                states.push(next);
                states.len() - 1
            });
            row.push((number as u16 + 1) | found);
        }
        rows.push(row);
        steps += (members.len() + 1) * automaton.program.len();
        if states.len() > MAX_STATES || steps > MAX_STEPS {
            return Err(format!("it is too large: {} states and more", states.len()));
        }
    }
    Ok(rows)
}

/// Where the places of a state lead past a character of `kind`, the end of the text for none, and
/// what has been found before it.
fn step(program: &[Instruction], state: &[usize], kind: Option<&[bool]>) -> (Vec<usize>, u16) {
    let has = |set: usize| kind.is_some_and(|kind| kind[set]);
    let mut next = vec![];
    let mut seen = vec![false; program.len()];
    let mut waiting: Vec<usize> = state.iter().rev().copied().collect();
    while let Some(place) = waiting.pop() {
        if std::mem::replace(&mut seen[place], true) {
            continue;
        }
        match program[place] {
            Instruction::Character(set) if has(set) => next.push(place + 1),
            Instruction::Character(_) => {}
            Instruction::Ahead(set, end) => {
                if has(set) || (end && kind.is_none()) {
                    waiting.push(place + 1);
                }
            }
            Instruction::Either(first, second) => waiting.extend([second, first]),
            Instruction::Jump(to) => waiting.push(to),
            // The remaining places have lower preference.
            Instruction::Found(what) => return (next, what),
        }
    }
    (next, 0)
}

/// The same automaton with as few states as possible; the first one starts.
fn minimal(rows: Vec<Vec<u16>>) -> Vec<Vec<u16>> {
    // States are in one group as long as no difference between them has been found.
    let mut groups = vec![0_u16; rows.len()];
    let mut count = 1;
    loop {
        let mut known: HashMap<Vec<u16>, u16> = HashMap::new();
        let finer: Vec<u16> = rows
            .iter()
            .zip(&groups)
            .map(|(row, group)| {
                let key = [*group]
                    .into_iter()
                    .chain(row.iter().map(|entry| renumbered(*entry, &groups)))
                    .collect();
                let number = known.len() as u16;
                *known.entry(key).or_insert(number)
            })
            .collect();
        groups = finer;
        if known.len() == count {
            break;
        }
        count = known.len();
    }
    let mut kept: Vec<Vec<u16>> = vec![];
    for (row, group) in rows.iter().zip(&groups) {
        // Groups are numbered as they first appear.
        if usize::from(*group) == kept.len() {
            kept.push(
                row.iter()
                    .map(|entry| renumbered(*entry, &groups))
                    .collect(),
            );
        }
    }
    kept
}

fn renumbered(entry: u16, groups: &[u16]) -> u16 {
    match entry & STATE {
        0 => entry,
        state => (groups[usize::from(state) - 1] + 1) | entry & !STATE,
    }
}
