//! What a grammar is made of before it is an automaton: expressions over bytes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::prelude::rust_2024::*;
use std::rc::Rc;

/// A map whose keys are numbers: nobody chooses them to collide.
pub(super) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// A quick hash of numbers, as in the compiler of Rust.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// An expression, by its place in [`Source::exprs`].
pub(super) type Id = u32;

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) fn range(first: u8, last: u8) -> Self {
        let mut bytes = Bytes::default();
        (first..=last).for_each(|byte| bytes.insert(byte));
        bytes
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut set = Bytes::default();
        bytes.iter().for_each(|byte| set.insert(*byte));
        set
    }

    pub(super) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub(super) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub(super) fn meets(&self, other: &Bytes) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    pub(super) fn join(&mut self, other: &Bytes) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a |= b);
    }

    /// The ranges of neighbouring bytes.
    pub(super) fn ranges(&self) -> Vec<(u8, u8)> {
        let mut ranges: Vec<(u8, u8)> = Vec::new();
        for byte in (0..=u8::MAX).filter(|byte| self.has(*byte)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == byte => *last = byte,
                _ => ranges.push((byte, byte)),
            }
        }
        ranges
    }
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Expr {
    /// No text.
    Never,
    Literal(Box<[u8]>),
    /// One of these bytes.
    Set(Bytes),
    Seq(Box<[Id]>),
    Alt(Box<[Id]>),
    Repeat {
        body: Id,
        min: u32,
        max: Option<u32>,
    },
    Rule(u32),
    /// A special token, by its place in [`Source::specials`].
    Special(u8),
    /// The members of an object.
    Members(u32),
    /// A deterministic automaton over bytes.
    Automaton(u32),
}

/// The members of an object, in order, without the braces.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) items: Vec<Member>,
    /// A member with another name, as often as one likes after the others.
    pub(super) rest: Option<Id>,
    pub(super) separator: Id,
}

#[derive(Debug)]
pub(super) struct Member {
    /// The name, which no other name begins with.
    pub(super) name: Vec<u8>,
    /// What follows the name.
    pub(super) value: Id,
    pub(super) required: bool,
}

/// A deterministic automaton over bytes. It starts in state 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Dfa {
    pub(super) states: Vec<DfaState>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct DfaState {
    pub(super) ends: bool,
    /// Sorted.
    pub(super) edges: Vec<(u8, u8, u32)>,
}

/// A rule has a name to blame, and a body once it is known.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) body: Option<Id>,
}

/// A grammar in the making.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) exprs: Vec<Expr>,
    known: HashMap<Expr, Id>,
    pub(super) rules: Vec<Rule>,
    pub(super) members: Vec<Rc<Members>>,
    pub(super) automata: Vec<Rc<Dfa>>,
    pub(super) specials: Vec<String>,
}

impl Source {
    pub(super) fn add(&mut self, expr: Expr) -> Id {
        if let Some(id) = self.known.get(&expr) {
            return *id;
        }
        let id = self.exprs.len() as Id;
        self.exprs.push(expr.clone());
        self.known.insert(expr, id);
        id
    }

    pub(super) fn never(&mut self) -> Id {
        self.add(Expr::Never)
    }

    pub(super) fn empty(&mut self) -> Id {
        self.literal(b"")
    }

    pub(super) fn literal(&mut self, bytes: &[u8]) -> Id {
        self.add(Expr::Literal(bytes.into()))
    }

    pub(super) fn set(&mut self, bytes: Bytes) -> Id {
        if bytes.is_empty() {
            return self.never();
        }
        self.add(Expr::Set(bytes))
    }

    pub(super) fn seq(&mut self, parts: Vec<Id>) -> Id {
        if parts.iter().any(|part| self.is_never(*part)) {
            return self.never();
        }
        match parts[..] {
            [part] => part,
            _ => self.add(Expr::Seq(parts.into())),
        }
    }

    pub(super) fn alt(&mut self, mut parts: Vec<Id>) -> Id {
        parts.retain(|part| !self.is_never(*part));
        match parts[..] {
            [] => self.never(),
            [part] => part,
            _ => self.add(Expr::Alt(parts.into())),
        }
    }

    pub(super) fn optional(&mut self, body: Id) -> Id {
        let empty = self.empty();
        self.alt(vec![empty, body])
    }

    pub(super) fn repeat(&mut self, body: Id, min: u32, max: Option<u32>) -> Id {
        if max == Some(0) || (min == 0 && self.is_never(body)) {
            return self.empty();
        }
        if self.is_never(body) {
            return body;
        }
        match (min, max) {
            (1, Some(1)) => body,
            (0, Some(1)) => self.optional(body),
            _ => self.add(Expr::Repeat { body, min, max }),
        }
    }

    pub(super) fn members(&mut self, members: Members) -> Id {
        self.members.push(Rc::new(members));
        self.add(Expr::Members(self.members.len() as u32 - 1))
    }

    pub(super) fn automaton(&mut self, dfa: Dfa) -> Id {
        if dfa.states.is_empty() {
            return self.never();
        }
        self.automata.push(Rc::new(dfa));
        self.add(Expr::Automaton(self.automata.len() as u32 - 1))
    }

    pub(super) fn special(&mut self, text: &str) -> Id {
        let known = self.specials.iter().position(|special| special == text);
        let index = known.unwrap_or_else(|| {
            self.specials.push(text.into());
            self.specials.len() - 1
        });
        self.add(Expr::Special(index as u8))
    }

    /// A rule whose body is not known yet.
    pub(super) fn rule(&mut self, name: impl Into<String>) -> u32 {
        self.rules.push(Rule {
            name: name.into(),
            body: None,
        });
        self.rules.len() as u32 - 1
    }

    pub(super) fn call(&mut self, rule: u32) -> Id {
        self.add(Expr::Rule(rule))
    }

    pub(super) fn is_never(&self, id: Id) -> bool {
        self.exprs[id as usize] == Expr::Never
    }
}
