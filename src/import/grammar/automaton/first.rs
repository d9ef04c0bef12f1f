//! What rules and loops can begin with.

use std::collections::HashSet;
use std::prelude::rust_2024::*;
use std::vec;

use super::{Callee, END, First, MOST_DEPTH, Nfa, State};
use crate::import::ImportError;
use crate::import::grammar::expr::Bytes;

impl Nfa<'_> {
    /// Where a rule starts.
    pub(super) fn start_of(&mut self, rule: u32) -> Result<u32, ImportError> {
        if let Some(start) = self.starts.get(&rule) {
            return Ok(*start);
        }
        let definition = &self.source.rules[rule as usize];
        let Some(body) = definition.body else {
            return Err(ImportError::new(format!(
                "{} has no definition",
                definition.name
            )));
        };
        let start = self.build(body, END)?;
        self.starts.insert(rule, start);
        Ok(start)
    }

    pub(super) fn rule_of(&self, callee: Callee) -> u32 {
        match callee {
            Callee::Rule(rule) => rule,
            Callee::Loop(counted) => self.loops[counted as usize].rule,
        }
    }

    /// What a text of a rule can begin with. `calling` are the rules that begin with this one.
    pub(super) fn first_of_rule(
        &mut self,
        rule: u32,
        calling: &mut Vec<u32>,
    ) -> Result<First, ImportError> {
        if let Some(first) = self.firsts.get(&rule) {
            return Ok(*first);
        }
        if calling.len() >= MOST_DEPTH {
            return Err(ImportError::new(format!(
                "{} begins with a rule that begins with a rule, and so on, more than {MOST_DEPTH} \
                 deep",
                self.source.rules[calling[0] as usize].name
            )));
        }
        if calling.contains(&rule) {
            return Err(ImportError::new(format!(
                "{} begins with itself: write the repetition after what it begins with",
                self.source.rules[rule as usize].name
            )));
        }
        calling.push(rule);
        let start = self.start_of(rule)?;
        let first = self.first(&[start], calling)?;
        calling.pop();
        self.firsts.insert(rule, first);
        Ok(first)
    }

    pub(super) fn first(
        &mut self,
        states: &[u32],
        calling: &mut Vec<u32>,
    ) -> Result<First, ImportError> {
        let mut first = First::default();
        for state in self.closure(states) {
            let state = self.states[state as usize].clone();
            for (a, b, _) in &state.edges {
                first.bytes.join(&Bytes::range(*a, *b));
            }
            for (special, _) in &state.specials {
                first.specials |= 1 << special;
            }
            for (callee, _) in &state.calls {
                let rule = self.rule_of(*callee);
                first.join(&self.first_of_rule(rule, calling)?);
            }
        }
        Ok(first)
    }

    /// The states that are reached without reading anything, sorted; without those that only lead
    /// on.
    pub(super) fn closure(&self, states: &[u32]) -> Vec<u32> {
        if let [state] = states
            && self.states[*state as usize].skips.is_empty()
        {
            return vec![*state];
        }
        // Few states are searched one by one.
        let mut reached: HashSet<u32> = HashSet::new();
        let mut first: Vec<u32> = Vec::new();
        let mut open: Vec<u32> = states.to_vec();
        let mut closure = Vec::new();
        while let Some(state) = open.pop() {
            let is_known = if first.len() < 16 {
                let known = first.contains(&state);
                first.push(state);
                known
            } else {
                first.contains(&state) || !reached.insert(state)
            };
            if is_known {
                continue;
            }
            let State {
                skips,
                edges,
                specials,
                calls,
            } = &self.states[state as usize];
            open.extend(skips);
            if state == END || !edges.is_empty() || !specials.is_empty() || !calls.is_empty() {
                closure.push(state);
            }
        }
        closure.sort_unstable();
        closure
    }
}
