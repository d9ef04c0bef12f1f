//! From expressions to a deterministic machine with a stack.
//!
//! Expressions become a non-deterministic automaton ([`Nfa`]), and its subsets of states the states
//! of the machine. Where the next byte alone says that a rule begins, or a round of a counted loop,
//! the machine calls the rule or counts the round. Where it does not, the body of the rule or loop
//! is copied in. So alternatives that begin alike become one path, as long as the copies come to an
//! end.

mod build;
mod first;
mod follow;
mod subsets;

use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::vec;

use super::expr::{Bytes, FastMap, Id, Source};
use crate::import::ImportError;

/// The end of every rule.
const END: u32 = 0;
/// A grammar that takes more is refused: alternatives that cannot be told apart grow without end.
const MOST_STATES: usize = 4_000_000;
/// So does one that takes more looks at states to find out what can be called: some seconds.
const MOST_WORK: usize = 10_000_000;
const TOO_MANY: &str = "the grammar takes too many states: alternatives that begin alike cannot be \
                        told apart, or counts are too large";
/// The most rounds of a loop that are copied.
const MOST_COPIES: u32 = 4096;
/// How deep rules may begin with rules: each takes room on the stack.
pub(super) const MOST_DEPTH: usize = 500;
/// A repetition that takes more states is counted.
const COUNTED_FROM: u64 = 12;

/// A state of the non-deterministic automaton.
#[derive(Clone, Debug, Default)]
struct State {
    skips: Vec<u32>,
    edges: Vec<(u8, u8, u32)>,
    specials: Vec<(u8, u32)>,
    /// Rules and loops, and the state after them.
    calls: Vec<(Callee, u32)>,
}

/// What is entered by a slot on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Callee {
    Rule(u32),
    Loop(u32),
}

/// A counted loop. Its body is a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Counted {
    body: Id,
    rule: u32,
    min: u32,
    max: Option<u32>,
}

/// A state of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Branch(Branch),
    Call {
        rule: u32,
        then: u32,
    },
    Enter {
        head: u32,
    },
    Loop {
        min: u16,
        max: u16,
        first: Bytes,
        rule: u32,
        then: u32,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Branch {
    pub(super) ends: bool,
    pub(super) edges: Vec<(u8, u8, u32)>,
    pub(super) looks: Vec<(u8, u8, u32)>,
    /// With whether the state there reads the token.
    pub(super) specials: Vec<(u8, bool, u32)>,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) nodes: Vec<Node>,
    /// Where each rule starts, for those that are called.
    pub(super) rules: Vec<Option<u32>>,
    pub(super) start: u32,
}

/// What a text can begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct First {
    bytes: Bytes,
    /// A bit for each special.
    specials: u128,
}

impl First {
    fn join(&mut self, other: &First) {
        self.bytes.join(&other.bytes);
        self.specials |= other.specials;
    }

    fn meets(&self, other: &First) -> bool {
        self.bytes.meets(&other.bytes) || self.specials & other.specials != 0
    }

    fn is_empty(&self) -> bool {
        *self == First::default()
    }
}

/// Makes the machine of `root`.
pub(super) fn machine(source: &mut Source, root: Id) -> Result<Machine, ImportError> {
    // What can follow a whole text of a rule within the rule is only known of a machine, and it
    // decides what may be called in it.
    let mut follows: HashMap<u32, First> = HashMap::new();
    let rules = source.rules.len();
    for _ in 0..8 {
        source.rules.truncate(rules);
        let mut nfa = Nfa::new(source, &follows);
        let start = nfa.build(root, END)?;
        let machine = nfa.determinize(start)?;
        let found = machine.wrong_calls();
        if found.is_empty() {
            return Ok(machine);
        }
        for (rule, follow) in found {
            follows.entry(rule).or_default().join(&follow);
        }
    }
    Err(ImportError::new(
        "the grammar has alternatives that cannot be told apart",
    ))
}

struct Nfa<'s> {
    source: &'s mut Source,
    states: Vec<State>,
    /// The state that matches an expression and goes on at a state.
    built: FastMap<(Id, u32), u32>,
    loops: Vec<Counted>,
    known_loops: HashMap<Counted, u32>,
    /// The copy of a loop that goes on at a state.
    copied: HashMap<(u32, u32), u32>,
    starts: HashMap<u32, u32>,
    firsts: HashMap<u32, First>,
    /// What can follow whole texts of rules, as far as it matters.
    follows: &'s HashMap<u32, First>,
    nullable: Vec<bool>,
    special_first: Vec<bool>,
    /// About how many states each expression has.
    sizes: Vec<u64>,
    /// How many states were looked at.
    work: usize,
}

impl<'s> Nfa<'s> {
    fn new(source: &'s mut Source, follows: &'s HashMap<u32, First>) -> Self {
        let mut nfa = Nfa {
            source,
            states: vec![State::default()],
            built: FastMap::default(),
            loops: Vec::new(),
            known_loops: HashMap::new(),
            copied: HashMap::new(),
            starts: HashMap::new(),
            firsts: HashMap::new(),
            follows,
            nullable: Vec::new(),
            special_first: Vec::new(),
            sizes: Vec::new(),
            work: 0,
        };
        nfa.find_nullable();
        nfa.find_special_first();
        nfa.find_sizes();
        nfa
    }
}
