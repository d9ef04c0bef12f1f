//! Builds the states of expressions, from their ends to their beginnings.

use std::prelude::rust_2024::*;
use std::rc::Rc;
use std::vec;

use super::{COUNTED_FROM, Callee, Counted, MOST_COPIES, MOST_STATES, Nfa, State, TOO_MANY};
use crate::import::ImportError;
use crate::import::grammar::expr::{Expr, Id, Members};

impl Nfa<'_> {
    /// Which expressions match the empty text.
    pub(super) fn find_nullable(&mut self) {
        let source = &*self.source;
        self.nullable = self.least_fixed_point(|expr, is| match expr {
            Expr::Never | Expr::Set(_) | Expr::Special(_) => false,
            Expr::Literal(bytes) => bytes.is_empty(),
            Expr::Seq(parts) => parts.iter().all(is),
            Expr::Alt(parts) => parts.iter().any(is),
            Expr::Repeat { body, min, .. } => *min == 0 || is(body),
            Expr::Rule(rule) => source.rules[*rule as usize].body.is_some_and(|id| is(&id)),
            Expr::Members(members) => {
                let members = &source.members[*members as usize];
                members.items.iter().all(|item| !item.required)
            }
            Expr::Automaton(dfa) => source.automata[*dfa as usize].states[0].ends,
        });
    }

    /// Which expressions can begin with a special token.
    pub(super) fn find_special_first(&mut self) {
        let source = &*self.source;
        let reads = |id: &Id| !self.nullable[*id as usize];
        self.special_first = self.least_fixed_point(|expr, is| match expr {
            Expr::Special(_) => true,
            Expr::Never | Expr::Set(_) | Expr::Literal(_) | Expr::Automaton(_) => false,
            Expr::Seq(parts) => {
                let first = parts.iter().position(reads);
                let begin = first.map_or(parts.len(), |index| index + 1);
                parts[..begin].iter().any(is)
            }
            Expr::Alt(parts) => parts.iter().any(is),
            Expr::Repeat { body, .. } => is(body),
            Expr::Rule(rule) => source.rules[*rule as usize].body.is_some_and(|id| is(&id)),
            Expr::Members(members) => {
                let rest = source.members[*members as usize].rest;
                rest.is_some_and(|id| is(&id))
            }
        });
    }

    /// For each expression, whether `holds` says so; it is given whether that holds of the parts.
    /// Rules may lead back to themselves, so this begins with no for all, and goes on until nothing
    /// changes.
    fn least_fixed_point(&self, holds: impl Fn(&Expr, &dyn Fn(&Id) -> bool) -> bool) -> Vec<bool> {
        let mut known = vec![false; self.source.exprs.len()];
        loop {
            let mut changed = false;
            for (id, expr) in self.source.exprs.iter().enumerate() {
                let now = holds(expr, &|part| known[*part as usize]);
                changed |= now != known[id];
                known[id] = now;
            }
            if !changed {
                return known;
            }
        }
    }

    fn state(&mut self, state: State) -> Result<u32, ImportError> {
        if self.states.len() >= MOST_STATES {
            return Err(ImportError::new(TOO_MANY));
        }
        self.states.push(state);
        Ok(self.states.len() as u32 - 1)
    }

    /// A state that matches `id` and goes on at `next`.
    pub(super) fn build(&mut self, id: Id, next: u32) -> Result<u32, ImportError> {
        if let Some(state) = self.built.get(&(id, next)) {
            return Ok(*state);
        }
        let state = match self.source.exprs[id as usize].clone() {
            Expr::Never => self.state(State::default())?,
            Expr::Literal(bytes) => self.literal(&bytes, next)?,
            Expr::Set(bytes) => {
                let ranges = bytes.ranges().into_iter();
                self.state(State {
                    edges: ranges.map(|(first, last)| (first, last, next)).collect(),
                    ..State::default()
                })?
            }
            Expr::Seq(parts) => {
                let mut state = next;
                for part in parts.iter().rev() {
                    state = self.build(*part, state)?;
                }
                state
            }
            Expr::Alt(parts) => {
                let mut skips = Vec::new();
                for part in parts.iter() {
                    skips.push(self.build(*part, next)?);
                }
                self.state(State {
                    skips,
                    ..State::default()
                })?
            }
            Expr::Repeat { body, min, max } => self.repeat(body, min, max, next)?,
            Expr::Rule(rule) => self.rule(rule, next)?,
            Expr::Special(special) => self.state(State {
                specials: vec![(special, next)],
                ..State::default()
            })?,
            Expr::Members(index) => {
                let members = self.source.members[index as usize].clone();
                self.members(&members, next)?
            }
            Expr::Automaton(index) => self.automaton(index, next)?,
        };
        self.built.insert((id, next), state);
        Ok(state)
    }

    fn automaton(&mut self, index: u32, next: u32) -> Result<u32, ImportError> {
        let dfa = self.source.automata[index as usize].clone();
        let first = self.states.len() as u32;
        for state in &dfa.states {
            let edges = state.edges.iter();
            self.state(State {
                edges: edges.map(|(a, b, to)| (*a, *b, first + to)).collect(),
                skips: state.ends.then_some(next).into_iter().collect(),
                ..State::default()
            })?;
        }
        Ok(first)
    }

    fn rule(&mut self, rule: u32, next: u32) -> Result<u32, ImportError> {
        let body = self.source.rules[rule as usize].body;
        let is_nullable = body.is_some_and(|body| self.nullable[body as usize]);
        self.state(State {
            calls: vec![(Callee::Rule(rule), next)],
            skips: is_nullable.then_some(next).into_iter().collect(),
            ..State::default()
        })
    }

    fn literal(&mut self, bytes: &[u8], next: u32) -> Result<u32, ImportError> {
        let mut state = next;
        for byte in bytes.iter().rev() {
            state = self.state(State {
                edges: vec![(*byte, *byte, state)],
                ..State::default()
            })?;
        }
        Ok(state)
    }

    fn repeat(
        &mut self,
        body: Id,
        min: u32,
        max: Option<u32>,
        next: u32,
    ) -> Result<u32, ImportError> {
        let rounds = max.unwrap_or(min);
        let can_be_counted = rounds < u32::from(u16::MAX)
            && !self.nullable[body as usize]
            && !self.special_first[body as usize];
        let counts = u64::from(rounds).saturating_mul(self.sizes[body as usize]) > COUNTED_FROM
            && rounds > 2;
        if counts && can_be_counted {
            let counted = self.counted(body, min, max);
            return self.state(State {
                calls: vec![(Callee::Loop(counted), next)],
                skips: (min == 0).then_some(next).into_iter().collect(),
                ..State::default()
            });
        }
        self.copies(body, min, max, next)
    }

    /// The repetition as copies of its body.
    pub(super) fn copies(
        &mut self,
        body: Id,
        min: u32,
        max: Option<u32>,
        next: u32,
    ) -> Result<u32, ImportError> {
        let rounds = max.unwrap_or(min);
        if rounds > MOST_COPIES {
            return Err(ImportError::new(format!(
                "a repetition of up to {rounds} cannot be told apart from what follows it, or is \
                 more than 65,534"
            )));
        }
        let mut state = next;
        match max {
            None => {
                let around = self.state(State {
                    skips: vec![next],
                    ..State::default()
                })?;
                let again = self.build(body, around)?;
                self.states[around as usize].skips.push(again);
                state = around;
            }
            Some(max) => {
                for _ in min..max {
                    let once = self.build(body, state)?;
                    state = self.state(State {
                        skips: vec![next, once],
                        ..State::default()
                    })?;
                }
            }
        }
        for _ in 0..min {
            state = self.build(body, state)?;
        }
        Ok(state)
    }

    fn counted(&mut self, body: Id, min: u32, max: Option<u32>) -> u32 {
        let key = Counted {
            body,
            rule: 0,
            min,
            max,
        };
        if let Some(index) = self.known_loops.get(&key) {
            return *index;
        }
        // One rule for all loops of a body.
        let rule = self.loops.iter().find(|counted| counted.body == body);
        let rule = rule.map(|counted| counted.rule).unwrap_or_else(|| {
            let rule = self.source.rule("a repetition");
            self.source.rules[rule as usize].body = Some(body);
            rule
        });
        let index = self.loops.len() as u32;
        self.loops.push(Counted { rule, ..key });
        self.known_loops.insert(key, index);
        index
    }

    /// The sizes of all expressions. The parts of an expression stand before it.
    pub(super) fn find_sizes(&mut self) {
        for expr in &self.source.exprs {
            let of = |id: &Id| self.sizes[*id as usize];
            let size = match expr {
                Expr::Never | Expr::Set(_) | Expr::Special(_) | Expr::Rule(_) => 1,
                Expr::Literal(bytes) => bytes.len() as u64,
                Expr::Seq(parts) | Expr::Alt(parts) => parts
                    .iter()
                    .fold(0u64, |sum, part| sum.saturating_add(of(part))),
                Expr::Repeat { body, min, max } => {
                    let rounds = max.unwrap_or(*min).max(1);
                    of(body).saturating_mul(u64::from(rounds))
                }
                Expr::Members(_) => 100,
                Expr::Automaton(dfa) => self.source.automata[*dfa as usize].states.len() as u64,
            };
            self.sizes.push(size);
        }
    }

    /// Members in their order. A name that may come is found in a tree of the names that may; the
    /// tree without a name shares all branches with the tree before but one.
    fn members(&mut self, members: &Rc<Members>, next: u32) -> Result<u32, ImportError> {
        // After the last named member.
        let mut may_end = true;
        let mut names = None;
        let mut after = self.state(State {
            skips: vec![next],
            ..State::default()
        })?;
        if let Some(rest) = members.rest {
            let start = self.build(rest, after)?;
            let more = self.build(members.separator, start)?;
            self.states[after as usize].skips.push(more);
            names = Some(self.state(State {
                skips: vec![start],
                ..State::default()
            })?);
        }
        for item in members.items.iter().rev() {
            if item.required {
                (may_end, names) = (false, None);
            }
            if self.source.is_never(item.value) {
                continue;
            }
            let value = self.build(item.value, after)?;
            let tree = self.insert(names, &item.name, value)?;
            names = Some(tree);
            let more = self.build(members.separator, tree)?;
            let mut skips = vec![more];
            skips.extend(may_end.then_some(next));
            after = self.state(State {
                skips,
                ..State::default()
            })?;
        }
        let mut skips: Vec<u32> = names.into_iter().collect();
        skips.extend(may_end.then_some(next));
        self.state(State {
            skips,
            ..State::default()
        })
    }

    /// A copy of the tree of names with one more.
    fn insert(&mut self, tree: Option<u32>, name: &[u8], then: u32) -> Result<u32, ImportError> {
        let mut path = Vec::new();
        let mut at = tree;
        for byte in name {
            let copy = match at {
                Some(at) => self.states[at as usize].clone(),
                None => State::default(),
            };
            let mut edges = copy.edges.iter();
            at = edges.find(|edge| edge.0 == *byte).map(|edge| edge.2);
            path.push(copy);
        }
        let mut target = then;
        for (mut copy, byte) in path.into_iter().zip(name).rev() {
            copy.edges.retain(|edge| edge.0 != *byte);
            copy.edges.push((*byte, *byte, target));
            target = self.state(copy)?;
        }
        Ok(target)
    }
}
