//! GBNF files, the grammars of llama.cpp: rules `name ::= alternatives`, of which `root` is the
//! start.

use std::boxed::Box;
use std::collections::{HashMap, HashSet};
use std::format;
use std::prelude::rust_2024::*;
use std::vec;

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use super::automaton::MOST_DEPTH;
use super::expr::{Id, Source};
use super::regex::{Writing, characters, everything};
use crate::import::ImportError;

/// Reads a file.
pub(super) fn parse(source: &mut Source, text: &str) -> Result<Id, ImportError> {
    let rules = rules(text)?;
    if !rules.contains_key("root") {
        return Err(ImportError::new("there is no rule root"));
    }
    for body in rules.values() {
        for name in body.names() {
            if !rules.contains_key(name) {
                return Err(ImportError::new(format!("there is no rule {name}")));
            }
        }
    }
    let recursive = recursive(&rules);
    let mut lowering = Lowering {
        source,
        rules: &rules,
        recursive,
        called: HashMap::new(),
        known: HashMap::new(),
        waiting: Vec::new(),
        depth: 0,
    };
    let root = lowering.rule("root")?;
    while let Some((name, rule)) = lowering.waiting.pop() {
        let body = lowering.part(&rules[&name])?;
        lowering.source.rules[rule as usize].body = Some(body);
    }
    Ok(root)
}

/// The rules of a file by their names.
fn rules(text: &str) -> Result<HashMap<String, Part>, ImportError> {
    let mut parser = Parser {
        rest: text.chars().collect(),
        at: 0,
        line: 1,
    };
    let mut rules = HashMap::new();
    loop {
        parser.blank(true);
        if parser.peek().is_none() {
            return Ok(rules);
        }
        let name = parser.name();
        parser.blank(false);
        if name.is_empty() || !parser.take("::=") {
            return parser.refuse("a rule is NAME ::= ALTERNATIVES");
        }
        let body = parser.alternatives(0)?;
        parser.blank(false);
        if !matches!(parser.peek(), None | Some('\n' | '\r')) {
            return parser.refuse("what follows the rule is no part of it");
        }
        rules.insert(name, body);
    }
}

enum Part {
    Text(String),
    Class(ClassUnicode),
    Name(String),
    Special(String),
    Seq(Vec<Part>),
    Alt(Vec<Part>),
    Repeat(Box<Part>, u32, Option<u32>),
}

impl Part {
    fn names(&self) -> Vec<&str> {
        match self {
            Part::Name(name) => vec![name],
            Part::Seq(parts) | Part::Alt(parts) => parts.iter().flat_map(Part::names).collect(),
            Part::Repeat(part, ..) => part.names(),
            Part::Text(_) | Part::Class(_) | Part::Special(_) => Vec::new(),
        }
    }
}

/// The rules that lead to themselves.
fn recursive(rules: &HashMap<String, Part>) -> HashSet<String> {
    let names: HashMap<&str, Vec<&str>> = rules
        .iter()
        .map(|(name, body)| (&name[..], body.names()))
        .collect();
    let leads_back = |start: &str| {
        let mut open = names[start].clone();
        let mut seen = HashSet::new();
        while let Some(name) = open.pop() {
            if name == start {
                return true;
            }
            if seen.insert(name) {
                open.extend(&names[name]);
            }
        }
        false
    };
    rules
        .keys()
        .filter(|name| leads_back(name))
        .cloned()
        .collect()
}

struct Lowering<'l> {
    source: &'l mut Source,
    rules: &'l HashMap<String, Part>,
    recursive: HashSet<String>,
    called: HashMap<String, u32>,
    known: HashMap<String, Id>,
    waiting: Vec<(String, u32)>,
    /// How many parts the one is in that is lowered.
    depth: usize,
}

impl Lowering<'_> {
    /// A rule that leads to itself is called, others are put in their place.
    fn rule(&mut self, name: &str) -> Result<Id, ImportError> {
        if let Some(id) = self.known.get(name) {
            return Ok(*id);
        }
        let id = if self.recursive.contains(name) {
            let rule = self.source.rule(format!("the rule {name}"));
            self.called.insert(name.into(), rule);
            self.waiting.push((name.into(), rule));
            self.source.call(rule)
        } else {
            if self.depth >= MOST_DEPTH {
                return Err(ImportError::new(format!(
                    "the rule {name} is more than {MOST_DEPTH} parts deep in other rules: rules \
                     that lead to each other may not be that many"
                )));
            }
            self.part(&self.rules[name])?
        };
        self.known.insert(name.into(), id);
        Ok(id)
    }

    fn part(&mut self, part: &Part) -> Result<Id, ImportError> {
        self.depth += 1;
        let id = match part {
            Part::Text(text) => self.source.literal(text.as_bytes()),
            Part::Class(class) => characters(self.source, class, Writing::Plain),
            Part::Name(name) => self.rule(name)?,
            Part::Special(text) => self.source.special(text),
            Part::Seq(parts) => {
                let parts = self.parts(parts)?;
                self.source.seq(parts)
            }
            Part::Alt(parts) => {
                let parts = self.parts(parts)?;
                self.source.alt(parts)
            }
            Part::Repeat(part, min, max) => {
                let body = self.part(part)?;
                self.source.repeat(body, *min, *max)
            }
        };
        self.depth -= 1;
        Ok(id)
    }

    fn parts(&mut self, parts: &[Part]) -> Result<Vec<Id>, ImportError> {
        parts.iter().map(|part| self.part(part)).collect()
    }
}

struct Parser {
    rest: Vec<char>,
    at: usize,
    line: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        self.line += usize::from(next == '\n');
        Some(next)
    }

    fn take(&mut self, text: &str) -> bool {
        let fits = text
            .chars()
            .enumerate()
            .all(|(index, c)| self.rest.get(self.at + index) == Some(&c));
        if fits {
            self.at += text.chars().count();
        }
        fits
    }

    fn refuse<T>(&self, reason: &str) -> Result<T, ImportError> {
        Err(ImportError::new(format!("line {}: {reason}", self.line)))
    }

    /// Passes blanks and comments, and line breaks if `lines`.
    fn blank(&mut self, lines: bool) {
        while let Some(next) = self.peek() {
            match next {
                ' ' | '\t' => {}
                '\n' | '\r' if lines => {}
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                    continue;
                }
                _ => break,
            }
            self.next();
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self
            .peek()
            .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        {
            name.push(c);
            self.next();
        }
        name
    }

    /// Within parentheses (`depth` > 0) lines may break anywhere.
    fn alternatives(&mut self, depth: usize) -> Result<Part, ImportError> {
        if depth > 200 {
            return self.refuse("parentheses are nested too deep");
        }
        let mut alternatives = Vec::new();
        loop {
            // A line may break after ::= and |.
            self.blank(true);
            let mut parts = Vec::new();
            loop {
                self.blank(depth > 0);
                let Some(part) = self.part(depth)? else {
                    break;
                };
                parts.push(part);
            }
            alternatives.push(Part::Seq(parts));
            // A line may begin with |.
            let (at, line) = (self.at, self.line);
            self.blank(true);
            if self.take("|") {
                continue;
            }
            if depth == 0 {
                (self.at, self.line) = (at, line);
            }
            return Ok(Part::Alt(alternatives));
        }
    }

    fn part(&mut self, depth: usize) -> Result<Option<Part>, ImportError> {
        let part = match self.peek() {
            Some('"') => self.text()?,
            Some('[') => self.class()?,
            Some('.') => {
                self.next();
                Part::Class(everything())
            }
            Some('(') => {
                self.next();
                let inside = self.alternatives(depth + 1)?;
                self.blank(true);
                if !self.take(")") {
                    return self.refuse("a parenthesis has no end");
                }
                inside
            }
            Some('<') => self.special()?,
            Some(c) if c.is_ascii_alphanumeric() => Part::Name(self.name()),
            _ => return Ok(None),
        };
        self.repeated(part).map(Some)
    }

    /// A text in quotes.
    fn text(&mut self) -> Result<Part, ImportError> {
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return self.refuse("a text has no end"),
                Some('"') => break,
                Some(_) => text.push(self.character()?),
            }
        }
        self.next();
        Ok(Part::Text(text))
    }

    /// A class of characters in brackets.
    fn class(&mut self) -> Result<Part, ImportError> {
        self.next();
        let is_negated = self.take("^");
        let mut class = ClassUnicode::empty();
        loop {
            match self.peek() {
                None | Some('\n') => return self.refuse("a class has no end"),
                Some(']') => break,
                Some(_) => {}
            }
            let first = self.character()?;
            let mut last = first;
            if self.peek() == Some('-') && self.rest.get(self.at + 1) != Some(&']') {
                self.next();
                last = self.character()?;
            }
            class.push(ClassUnicodeRange::new(first, last));
        }
        self.next();
        if is_negated {
            class.negate();
        }
        Ok(Part::Class(class))
    }

    /// A special token in angle brackets.
    fn special(&mut self) -> Result<Part, ImportError> {
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return self.refuse("a special token has no end"),
                Some('>') => break,
                Some(c) => text.push(c),
            }
        }
        text.push('>');
        Ok(Part::Special(text))
    }

    fn repeated(&mut self, mut part: Part) -> Result<Part, ImportError> {
        loop {
            let (min, max) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.next();
                    let min = self.number();
                    let max = if self.take(",") { self.number() } else { min };
                    let is_open = self.rest.get(self.at.wrapping_sub(1)) == Some(&',');
                    if self.peek() != Some('}') || (min.is_none() && max.is_none()) {
                        return self.refuse("a count is {N}, {N,} or {N,M}");
                    }
                    let min = min.unwrap_or(0);
                    let max = if is_open { None } else { max };
                    if max.is_some_and(|max| max < min) {
                        return self.refuse("a count ends before it begins");
                    }
                    (min, max)
                }
                _ => return Ok(part),
            };
            self.next();
            part = Part::Repeat(Box::new(part), min, max);
        }
    }

    fn number(&mut self) -> Option<u32> {
        self.blank(false);
        let mut digits = String::new();
        while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
            digits.push(digit);
            self.next();
        }
        self.blank(false);
        digits.parse().ok()
    }

    /// A character of a text or a class.
    fn character(&mut self) -> Result<char, ImportError> {
        let Some(c) = self.next() else {
            return self.refuse("the file ends early");
        };
        if c != '\\' {
            return Ok(c);
        }
        let length = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '\'' | '/' | '.')) => return Ok(c),
            _ => return self.refuse("an unknown escape"),
        };
        let mut value = 0;
        for _ in 0..length {
            let Some(digit) = self.next().and_then(|c| c.to_digit(16)) else {
                return self.refuse("an escape has too few digits");
            };
            value = value * 16 + digit;
        }
        match char::from_u32(value) {
            Some(c) => Ok(c),
            None => self.refuse("an escape is no character"),
        }
    }
}
