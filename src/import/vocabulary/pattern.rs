//! From the regular expressions of pre-tokenizers to the tables that the core walks.
//!
//! An expression is read as Oniguruma reads it, which is what the `tokenizers` library uses, and
//! becomes a deterministic automaton over *kinds* of characters: sets of characters that no
//! expression of the tokenizer tells apart. The automaton finds what a backtracking matcher finds,
//! the first alternative that matches, because a state is a list of places in the expression in
//! order of preference (as in Russ Cox's RE2 and in `regex-automata`).
//!
//! Whether a match ends is decided when the next character is known, so look-ahead of one character
//! (`\s+(?!\S)`, `$`, `\p{L}++`) costs nothing. What needs more is refused by name:
//! back-references, look-behind, look-ahead of several characters. So is a pattern that would take
//! quadratic time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::prelude::rust_2024::*;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use crate::import::ImportError;
use crate::text::tokenizer::{GAP, MATCH, MAX_KINDS, MAX_PATTERNS, STATE};

/// GPT-2's expression, which `ByteLevel` has built in.
pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Qwen 2's.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What the pre-tokenizer `Punctuation` cuts out: that of Unicode 8, to be precise, with two
/// characters that have changed since.
pub(super) const PUNCTUATION: &str = r"[[\p{P}&&\p{Age_8_0}]\x{166D}\x{111C9}!-/:-@\[-`{-~]";

/// Most instructions of one expression. Real ones have some dozens; a bound on what nested repeats
/// can take.
const MAX_INSTRUCTIONS: usize = 2_000;
/// Most states of one automaton. Real ones have some dozens.
const MAX_STATES: usize = 500;
/// Most places that are looked at to find the states of an automaton.
const MAX_STEPS: usize = 10_000_000;
/// Most pairs of states that [`takes_quadratic_time`] looks at.
const MAX_PAIRS: usize = 100_000;
/// Most kinds of characters before those that make no difference are put together.
const MAX_SETS: usize = 250;
/// Most levels of groups and sets within each other.
const MAX_DEPTH: usize = 50;

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

/// A part of an expression.
#[derive(Clone)]
enum Node {
    /// One character of a set.
    Set(ClassUnicode),
    /// Nothing, if the next character is in a set, or the text ends and that is wanted.
    Ahead(ClassUnicode, bool),
    Sequence(Vec<Node>),
    Alternatives(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>, Greed),
}

#[derive(Clone, Copy, PartialEq)]
enum Greed {
    Greedy,
    Lazy,
    Possessive,
}

/// What an automaton does: an NFA in which the first of two ways is preferred.
#[derive(Clone, Copy)]
enum Instruction {
    /// Goes on past a character of a set.
    Character(usize),
    /// Goes on if the next character is in a set, or at the end of the text if that is wanted.
    Ahead(usize, bool),
    /// Goes on at two places, the first one preferred.
    Either(usize, usize),
    /// Goes on elsewhere.
    Jump(usize),
    /// A match, or the end of characters that no match can start in.
    Found(u16),
}

fn compile(expression: &str) -> Result<Automaton, String> {
    let mut parser = Parser {
        rest: expression,
        any_case: false,
        depth: 0,
    };
    let node = parser.alternatives()?;
    if !parser.rest.is_empty() {
        return Err("a `)` without a `(`".into());
    }
    if can_be_empty(&node) {
        return Err("it matches the empty text, which is not supported".into());
    }
    let mut builder = Builder::default();
    // A run that ends where the look-ahead fails has no match that starts further on in it: so it
    // can be passed over as a whole.
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

fn can_be_empty(node: &Node) -> bool {
    match node {
        Node::Set(_) => false,
        Node::Ahead(..) => true,
        Node::Sequence(nodes) => nodes.iter().all(can_be_empty),
        Node::Alternatives(nodes) => nodes.iter().any(can_be_empty),
        Node::Repeat(node, least, ..) => *least == 0 || can_be_empty(node),
    }
}

/// Reads an expression, front to back.
struct Parser<'e> {
    rest: &'e str,
    any_case: bool,
    depth: usize,
}

impl<'e> Parser<'e> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    /// Takes `text` if it comes next.
    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn descend(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} groups within each other"));
        }
        Ok(())
    }

    fn alternatives(&mut self) -> Result<Node, String> {
        self.descend()?;
        let mut alternatives = vec![self.sequence()?];
        while self.eat("|") {
            alternatives.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(match alternatives.pop() {
            Some(only) if alternatives.is_empty() => only,
            last => {
                alternatives.extend(last);
                Node::Alternatives(alternatives)
            }
        })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = vec![];
        let mut before = None;
        while !matches!(self.peek(), None | Some('|' | ')')) {
            let letter = self.peek().filter(|letter| letter.is_ascii_alphabetic());
            let node = self.atom()?;
            self.refuse_folding_of_several(before, letter)?;
            before = letter;
            let (node, repeated) = self.repeats(node)?;
            before = before.filter(|_| !repeated);
            match node {
                Node::Sequence(parts) => nodes.extend(parts),
                node => nodes.push(node),
            }
        }
        Ok(match nodes.pop() {
            Some(only) if nodes.is_empty() => only,
            last => {
                nodes.extend(last);
                Node::Sequence(nodes)
            }
        })
    }

    /// Without regard to case, Oniguruma takes `ß` for `ss` and `ﬁ` for `fi`.
    fn refuse_folding_of_several(
        &self,
        before: Option<char>,
        letter: Option<char>,
    ) -> Result<(), String> {
        let pair: String = [before, letter]
            .into_iter()
            .flatten()
            .map(|letter| letter.to_ascii_lowercase())
            .collect();
        if self.any_case && matches!(pair.as_str(), "ss" | "ff" | "fi" | "fl" | "st") {
            return Err(format!(
                "`(?i:…)` with the letters `{pair}` is not supported"
            ));
        }
        Ok(())
    }

    /// An atom with what comes behind it: `?`, `*`, `+`, `{n,m}`.
    fn repeats(&mut self, node: Node) -> Result<(Node, bool), String> {
        let (mut node, mut repeated) = (node, false);
        loop {
            let (least, most, counted) = match self.peek() {
                Some('?') => (0, Some(1), false),
                Some('*') => (0, None, false),
                Some('+') => (1, None, false),
                Some('{') => match self.count()? {
                    Some((least, most)) => (least, most, true),
                    None => return Ok((node, repeated)),
                },
                _ => return Ok((node, repeated)),
            };
            if !counted {
                self.next();
            }
            if matches!(node, Node::Ahead(..)) {
                return Err("a repeated look-ahead is not supported".into());
            }
            // Behind a count, `+` repeats the whole once more.
            let greed = if self.eat("?") {
                Greed::Lazy
            } else if !counted && self.eat("+") {
                Greed::Possessive
            } else {
                Greed::Greedy
            };
            if counted && greed == Greed::Lazy && Some(least) == most {
                return Err("a `?` behind a count `{n}` is not supported".into());
            }
            if greed == Greed::Possessive && !matches!(node, Node::Set(_)) {
                return Err(
                    "a possessive repeat of more than one set of characters is not supported"
                        .into(),
                );
            }
            node = Node::Repeat(Box::new(node), least, most, greed);
            repeated = true;
        }
    }

    /// `{n}`, `{n,}`, `{,m}`, `{n,m}`; anything else is an ordinary brace.
    fn count(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let Some((inside, rest)) = self.rest[1..].split_once('}') else {
            return Ok(None);
        };
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (least.is_empty() && most.is_empty()) || !is_number(least) || !is_number(most) {
            return Ok(None);
        }
        let number = |text: &str| {
            let number = text
                .parse()
                .ok()
                .filter(|number| *number <= MAX_INSTRUCTIONS as u32);
            number.ok_or_else(|| format!("the count `{{{inside}}}` is too large"))
        };
        let least = if least.is_empty() { 0 } else { number(least)? };
        let most = match most {
            "" => None,
            most => Some(number(most)?),
        };
        if most.is_some_and(|most| most < least) {
            return Err(format!(
                "the count `{{{inside}}}` has its larger number first"
            ));
        }
        self.rest = rest;
        Ok(Some((least, most)))
    }

    fn atom(&mut self) -> Result<Node, String> {
        let start = self.rest;
        let node = match self.next().unwrap_or_default() {
            '(' => return self.group(),
            '[' => Node::Set(self.set(true)?),
            '.' => Node::Set(negated(set_of('\n', '\n'))),
            '$' => Node::Ahead(set_of('\n', '\n'), true),
            '^' => return Err("`^` is not supported".into()),
            '\\' => match self.peek() {
                Some('z') => {
                    self.next();
                    Node::Ahead(ClassUnicode::empty(), true)
                }
                // Outside of brackets, six numbers of Latin-1 are word characters.
                Some(word @ ('w' | 'W')) => {
                    self.next();
                    let mut set = named(WORD)?;
                    set.union(&named("[²³¹¼½¾]")?);
                    Node::Set(if word == 'W' { negated(set) } else { set })
                }
                _ => Node::Set(self.escape(start)?),
            },
            '*' | '+' | '?' => return Err("a repeat of nothing".into()),
            character => Node::Set(set_of(character, character)),
        };
        Ok(match node {
            // Properties are not folded outside of brackets.
            Node::Set(set) if single(&set).is_some() => Node::Set(self.folded(set)?),
            node => node,
        })
    }

    /// What is in parentheses; the first is taken.
    fn group(&mut self) -> Result<Node, String> {
        let outside = self.any_case;
        let mut ahead = None;
        if self.eat("?i:") {
            self.any_case = true;
        } else if self.eat("?-i:") {
            self.any_case = false;
        } else if self.eat("?=") {
            ahead = Some(true);
        } else if self.eat("?!") {
            ahead = Some(false);
        } else if self.rest.starts_with('?') && !self.eat("?:") {
            let known = [
                ("?<=", "look-behind `(?<=`"),
                ("?<!", "look-behind `(?<!`"),
                ("?>", "the atomic group `(?>`"),
                ("?~", "the absent operator `(?~`"),
                ("?#", "the comment `(?#`"),
                ("?(", "the condition `(?(`"),
            ];
            let name = known
                .iter()
                .find(|(start, _)| self.rest.starts_with(start))
                .map_or_else(
                    || {
                        let end = self.rest.find([':', ')', '>']).unwrap_or(self.rest.len());
                        format!("the group `({}`", &self.rest[..end])
                    },
                    |(_, name)| (*name).into(),
                );
            return Err(format!("{name} is not supported"));
        }
        let node = self.alternatives()?;
        if !self.eat(")") {
            return Err("a `(` without a `)`".into());
        }
        self.any_case = outside;
        match (ahead, node) {
            (None, node) => Ok(node),
            (Some(wanted), node) => {
                let (set, end) = one_ahead(&node)
                    .ok_or("look-ahead of more than one character is not supported")?;
                Ok(match wanted {
                    true => Node::Ahead(set, end),
                    false => Node::Ahead(negated(set), !end),
                })
            }
        }
    }

    /// A set in brackets, of which the first is taken; whether it is in no other.
    fn set(&mut self, outermost: bool) -> Result<ClassUnicode, String> {
        self.descend()?;
        let negative = self.eat("^");
        // What is before `&&`, if there is one.
        let mut both: Option<ClassUnicode> = None;
        let mut set = ClassUnicode::empty();
        let mut first = true;
        loop {
            let start = self.rest;
            let character = self.next().ok_or("a `[` without a `]`")?;
            match character {
                ']' if !first => break,
                '[' if self.rest.starts_with(':') => set.union(&self.posix()?),
                '[' => set.union(&self.set(false)?),
                '&' if self.eat("&") => {
                    if let Some(before) = both.take() {
                        set.intersect(&before);
                    }
                    both = Some(std::mem::replace(&mut set, ClassUnicode::empty()));
                }
                _ => {
                    let low = self.set_item(start, character)?;
                    let is_range = self.rest.starts_with('-')
                        && !self.rest.starts_with("-]")
                        && single(&low).is_some();
                    match single(&low).filter(|_| is_range) {
                        Some(low) => {
                            self.next();
                            let start = self.rest;
                            let character = self.next().ok_or("a `[` without a `]`")?;
                            if character == '[' {
                                return Err("a range that ends with a set is not supported".into());
                            }
                            let high = single(&self.set_item(start, character)?)
                                .ok_or("a range that ends with a set is not supported")?;
                            if low > high {
                                return Err(format!(
                                    "the range `{low}-{high}` ends before it starts"
                                ));
                            }
                            set.union(&set_of(low, high));
                        }
                        None => set.union(&low),
                    }
                }
            }
            first = false;
        }
        if let Some(before) = both {
            set.intersect(&before);
        }
        self.depth -= 1;
        let set = if outermost { self.folded(set)? } else { set };
        Ok(if negative { negated(set) } else { set })
    }

    fn set_item(&mut self, start: &'e str, character: char) -> Result<ClassUnicode, String> {
        match character {
            '\\' => self.escape(start),
            _ => Ok(set_of(character, character)),
        }
    }

    /// `[:name:]`, of which the bracket is taken.
    fn posix(&mut self) -> Result<ClassUnicode, String> {
        let (name, rest) = self.rest[1..]
            .split_once(":]")
            .ok_or("a `[:` without a `:]`")?;
        let (name, negative) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let expression = match name {
            "alpha" => r"\p{Alphabetic}",
            "digit" => r"\p{Nd}",
            "alnum" => r"[\p{Alphabetic}\p{Nd}]",
            "upper" => r"\p{Uppercase}",
            "lower" => r"\p{Lowercase}",
            "space" => r"\s",
            "punct" => r"[\p{P}\p{S}]",
            "word" => WORD,
            "cntrl" => r"\p{Cc}",
            _ => return Err(format!("the set `[:{name}:]` is not supported")),
        };
        self.rest = rest;
        let set = named(expression)?;
        Ok(if negative { negated(set) } else { set })
    }

    /// What an escape stands for; the backslash is taken, `start` is where it was.
    fn escape(&mut self, start: &'e str) -> Result<ClassUnicode, String> {
        let character = self.next().ok_or("a `\\` at the end")?;
        let one = |character: char| Ok(set_of(character, character));
        match character {
            'n' => one('\n'),
            'r' => one('\r'),
            't' => one('\t'),
            'f' => one('\x0C'),
            'v' => one('\x0B'),
            'a' => one('\x07'),
            'e' => one('\x1B'),
            's' => named(r"\s"),
            'S' => named(r"\S"),
            'd' => named(r"\p{Nd}"),
            'D' => named(r"\P{Nd}"),
            'w' => named(WORD),
            'W' => named(WORD).map(negated),
            'h' => named("[0-9A-Fa-f]"),
            'H' => named("[^0-9A-Fa-f]"),
            'p' | 'P' => {
                let inside = self
                    .rest
                    .strip_prefix('{')
                    .and_then(|rest| rest.split_once('}'));
                let (name, rest) =
                    inside.ok_or(r"a `\p` without a name in braces is not supported")?;
                self.rest = rest;
                let (name, inverted) = match name.strip_prefix('^') {
                    Some(name) => (name, true),
                    None => (name, false),
                };
                let is_name = |character: char| {
                    character.is_ascii_alphanumeric() || matches!(character, '_' | ' ' | '-')
                };
                let set = match name.strip_prefix("Age_") {
                    Some(version) if version.chars().all(is_name) => {
                        named(&format!(r"\p{{age:{}}}", version.replace('_', "."))).ok()
                    }
                    // This one is another set there.
                    None if name.chars().all(is_name) && !name.eq_ignore_ascii_case("punct") => {
                        named(&format!(r"\p{{{name}}}")).ok()
                    }
                    _ => None,
                };
                let set =
                    set.ok_or_else(|| format!(r"the property `\p{{{name}}}` is not known"))?;
                Ok(if (character == 'P') != inverted {
                    negated(set)
                } else {
                    set
                })
            }
            'x' | 'u' => {
                let braced = character == 'x' && self.eat("{");
                let digits = |text: &str, most: usize| {
                    let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
                    text.bytes().take(most).take_while(is_hex).count()
                };
                let len = match (character, braced) {
                    (_, true) => digits(self.rest, 8),
                    ('x', _) => digits(self.rest, 2),
                    _ => digits(self.rest, 4),
                };
                let (code, rest) = self.rest.split_at(len);
                self.rest = rest;
                let code = u32::from_str_radix(code, 16)
                    .ok()
                    .and_then(char::from_u32)
                    .filter(|code| braced || character == 'u' || code.is_ascii())
                    .filter(|_| character != 'u' || len == 4)
                    .filter(|_| !braced || self.eat("}"));
                code.ok_or_else(|| {
                    let taken = &start[..start.len() - self.rest.len()];
                    format!("`{taken}` is not a character")
                })
                .and_then(one)
            }
            _ if character.is_ascii_alphanumeric() => {
                let what = match character {
                    '1'..='9' | 'k' | 'g' => "back-reference",
                    'b' | 'B' => "word boundary",
                    'A' | 'G' | 'Z' => "anchor",
                    _ => "escape",
                };
                Err(format!("the {what} `\\{character}` is not supported"))
            }
            _ => one(character),
        }
    }

    fn folded(&self, set: ClassUnicode) -> Result<ClassUnicode, String> {
        let mut set = set;
        if self.any_case {
            set.try_case_fold_simple()
                .map_err(|error| error.to_string())?;
        }
        Ok(set)
    }
}

/// Oniguruma's `\w`.
const WORD: &str = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]";

fn set_of(first: char, last: char) -> ClassUnicode {
    ClassUnicode::new([ClassUnicodeRange::new(first, last)])
}

fn negated(set: ClassUnicode) -> ClassUnicode {
    let mut set = set;
    set.negate();
    set
}

/// A set that `regex-syntax` has a name for.
fn named(expression: &str) -> Result<ClassUnicode, String> {
    let parsed = regex_syntax::parse(expression).map_err(|error| error.to_string())?;
    match parsed.into_kind() {
        HirKind::Class(Class::Unicode(set)) => Ok(set),
        // A set of one character is a literal to it.
        HirKind::Literal(literal) => {
            let text = String::from_utf8_lossy(&literal.0).into_owned();
            let character = text.chars().next().ok_or("an empty set")?;
            Ok(set_of(character, character))
        }
        _ => Err("an empty set".into()),
    }
}

/// The only character of a set.
fn single(set: &ClassUnicode) -> Option<char> {
    match set.ranges() {
        [range] if range.start() == range.end() => Some(range.start()),
        _ => None,
    }
}

/// What a look-ahead of one character allows: a set, and whether the end of the text.
fn one_ahead(node: &Node) -> Option<(ClassUnicode, bool)> {
    match node {
        Node::Set(set) => Some((set.clone(), false)),
        Node::Ahead(set, end) => Some((set.clone(), *end)),
        Node::Alternatives(nodes) => {
            let mut all = (ClassUnicode::empty(), false);
            for node in nodes {
                let (set, end) = one_ahead(node)?;
                all.0.union(&set);
                all.1 |= end;
            }
            Some(all)
        }
        // As far as one character goes, one is as good as many.
        Node::Repeat(node, 1, _, _) => one_ahead(node),
        _ => None,
    }
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
        let start = self.program.len();
        for _ in 0..least {
            self.emit(node)?;
            // Nothing, however often.
            if self.program.len() == start {
                break;
            }
        }
        // Where to go on once it has been repeated enough.
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
            // Nothing is given back: it ends where the next character is another one.
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

    /// Makes one kind of those that no table tells apart.
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

/// The rows of an automaton: for each kind, and for the end of the text, an entry as in the section.
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
            row.push(number as u16 + 1 | found);
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
            // Whatever is left is liked less.
            Instruction::Found(what) => return (next, what),
        }
    }
    (next, 0)
}

/// The same automaton with as few states as possible; the first one starts.
fn minimal(rows: Vec<Vec<u16>>) -> Vec<Vec<u16>> {
    // States that differ in nothing that has been looked at so far are in one group.
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
        state => groups[usize::from(state) - 1] + 1 | entry & !STATE,
    }
}

/// Whether there are texts of which a large part is read again for each of many matches.
///
/// A match is *over* once its end has been passed and reading goes on. If two matches can be over
/// while both go round in circles over the same text, there is no bound to how many can, and reading
/// takes quadratic time. Else a character is read a bounded number of times.
fn takes_quadratic_time(table: &[u16], columns: usize) -> bool {
    let rows = table.len() / columns;
    // Where a row leads, and whether something ends before this character.
    let next = |row: usize, kind: usize| {
        let entry = table[row * columns + kind];
        let row = usize::from(entry & STATE).checked_sub(1);
        (row, entry & !STATE != 0)
    };
    // The rows from which nothing may be found any more: only a match in one of these can be over.
    let mut can_fail = vec![false; rows];
    loop {
        let fails = |row: usize| {
            (0..columns).any(|kind| match next(row, kind) {
                (Some(next), false) => kind < columns - 1 && can_fail[next],
                (None, false) => true,
                _ => false,
            })
        };
        let more: Vec<bool> = (0..rows).map(fails).collect();
        if more == can_fail {
            break;
        }
        can_fail = more;
    }
    // A match that starts with this character; if it fails at once, one that starts behind it.
    let start = |kind: usize| next(0, kind).0.unwrap_or(0);
    // A match that is over, another one, and whether that is over, too.
    let mut pairs: HashSet<(usize, usize, bool)> = HashSet::new();
    let is_possible = |&(first, second, over): &(usize, usize, bool)| {
        can_fail[first] && (!over || can_fail[second])
    };
    for kind in 0..columns - 1 {
        // A match that fails counts as one of a character.
        if let (Some(first), false) = next(0, kind) {
            pairs.insert((first, 0, false));
        }
        for row in 1..rows {
            if let (Some(first), true) = next(row, kind) {
                pairs.insert((first, start(kind), false));
            }
        }
    }
    pairs.retain(is_possible);
    let mut waiting: Vec<_> = pairs.iter().copied().collect();
    let mut circles: HashMap<(usize, usize), Vec<(usize, usize)>> = HashMap::new();
    while let Some((first, second, over)) = waiting.pop() {
        for kind in 0..columns - 1 {
            let (Some(first_next), false) = next(first, kind) else {
                continue;
            };
            let (second_next, found) = next(second, kind);
            let mut reached = vec![];
            match second_next {
                Some(second_next) if over => {
                    if !found {
                        let from = circles.entry((first, second)).or_default();
                        from.push((first_next, second_next));
                        reached.push((first_next, second_next, true));
                    }
                }
                Some(second_next) => {
                    reached.push((first_next, second_next, false));
                    if found || second == 0 {
                        reached.push((first_next, second_next, true));
                    }
                }
                None => {}
            }
            // Or the second one ends here and matters no more.
            if !over && found {
                reached.push((first_next, start(kind), false));
            }
            if !over && second == 0 {
                reached.push((first_next, 0, false));
            }
            reached.retain(|pair| is_possible(pair) && pairs.insert(*pair));
            waiting.extend(reached);
        }
        if pairs.len() > MAX_PAIRS {
            return true;
        }
    }
    has_circle(&circles)
}

/// Whether a graph has a circle: whether something is left when all that leads nowhere is taken
/// away again and again.
fn has_circle(edges: &HashMap<(usize, usize), Vec<(usize, usize)>>) -> bool {
    let mut left: HashSet<(usize, usize)> = edges.keys().copied().collect();
    loop {
        let before = left.len();
        let stay: HashSet<_> = left
            .iter()
            .copied()
            .filter(|from| edges[from].iter().any(|to| left.contains(to)))
            .collect();
        left = stay;
        if left.len() == before {
            return before > 0;
        }
    }
}
