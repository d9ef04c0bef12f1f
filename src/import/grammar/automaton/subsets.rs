//! Makes the machine: its states are subsets of the states of the non-deterministic automaton.

use std::collections::{BTreeMap, HashSet};
use std::prelude::rust_2024::*;
use std::vec;

use super::{Branch, Callee, END, First, MOST_STATES, MOST_WORK, Machine, Nfa, Node, TOO_MANY};
use crate::import::ImportError;
use crate::import::grammar::expr::{Bytes, FastMap};

impl Nfa<'_> {
    pub(super) fn determinize(mut self, start: u32) -> Result<Machine, ImportError> {
        let mut subsets = Subsets::default();
        let start = subsets.branch(self.closure(&[start]));
        let mut rules: Vec<Option<u32>> = Vec::new();
        while let Some((subset, node)) = subsets.open.pop() {
            let branch = self.branch(subset, &mut subsets)?;
            subsets.nodes[node as usize] = Node::Branch(branch);
            // Rules that are called now need a start.
            while let Some(rule) = subsets.called.pop() {
                if rules.len() <= rule as usize {
                    rules.resize(rule as usize + 1, None);
                }
                if rules[rule as usize].is_none() {
                    let start = self.start_of(rule)?;
                    rules[rule as usize] = Some(subsets.branch(self.closure(&[start])));
                }
            }
            if subsets.nodes.len() > MOST_STATES {
                return Err(ImportError::new(TOO_MANY));
            }
        }
        Ok(Machine {
            nodes: subsets.nodes,
            rules,
            start,
        })
    }

    /// The branch of a subset of states.
    fn branch(
        &mut self,
        mut subset: Vec<u32>,
        subsets: &mut Subsets,
    ) -> Result<Branch, ImportError> {
        if let [state] = subset[..]
            && let Some(edges) = self.plain_edges(state, subsets)
        {
            return Ok(Branch {
                ends: state == END,
                edges,
                ..Branch::default()
            });
        }
        let calls = self.calls(&mut subset)?;
        let mut branch = Branch {
            ends: subset.contains(&END),
            ..Branch::default()
        };
        let mut targets: Vec<(u8, u8, u32)> = Vec::new();
        let mut specials: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        for state in &subset {
            let state = &self.states[*state as usize];
            targets.extend(&state.edges);
            for (special, then) in &state.specials {
                specials.entry(*special).or_default().push(*then);
            }
        }
        branch.edges = self.edges(targets, subsets);
        for (special, then) in specials {
            let target = subsets.branch(self.closure(&then));
            branch.specials.push((special, true, target));
        }
        for (callee, then) in calls {
            let (first, target) = self.call(callee, &then, subsets)?;
            let ranges = first.bytes.ranges().into_iter();
            branch.looks.extend(ranges.map(|(a, b)| (a, b, target)));
            for special in (0..128).filter(|special| first.specials >> special & 1 != 0) {
                branch.specials.push((special, false, target));
            }
        }
        branch.looks.sort_unstable();
        Ok(branch)
    }

    /// What is called from a subset of states, and where each call continues; equal ones are one
    /// call. What cannot be called is copied into the subset.
    fn calls(&mut self, subset: &mut Vec<u32>) -> Result<BTreeMap<Callee, Vec<u32>>, ImportError> {
        let mut inlined = HashSet::new();
        loop {
            self.work += subset.len();
            if self.work > MOST_WORK {
                return Err(ImportError::new(TOO_MANY));
            }
            let mut calls: BTreeMap<Callee, Vec<u32>> = BTreeMap::new();
            let mut read = First::default();
            for state in &*subset {
                let state = &self.states[*state as usize];
                for (a, b, _) in &state.edges {
                    read.bytes.join(&Bytes::range(*a, *b));
                }
                for (special, _) in &state.specials {
                    read.specials |= 1 << special;
                }
                for (callee, then) in &state.calls {
                    calls.entry(*callee).or_default().push(*then);
                }
            }
            let Some(callee) = self.not_callable(&calls, &read)? else {
                return Ok(calls);
            };
            let calls_it = |state: &u32| {
                let mut calls = self.states[*state as usize].calls.iter();
                calls.any(|call| call.0 == callee)
            };
            // The states of a callee have nothing but the call.
            subset.retain(|state| !calls_it(state));
            for then in calls.remove(&callee).unwrap_or_default() {
                if inlined.insert((callee, then)) {
                    subset.push(self.inline(callee, then)?);
                }
            }
            *subset = self.closure(subset);
        }
    }

    /// The first of the calls that cannot be told from the others or from what is `read`, or that
    /// does not come back where it should.
    fn not_callable(
        &mut self,
        calls: &BTreeMap<Callee, Vec<u32>>,
        read: &First,
    ) -> Result<Option<Callee>, ImportError> {
        let mut firsts = Vec::new();
        for callee in calls.keys() {
            let rule = self.rule_of(*callee);
            firsts.push(self.first_of_rule(rule, &mut Vec::new())?);
        }
        for (index, (callee, then)) in calls.iter().enumerate() {
            let first = firsts[index];
            let mut others = firsts.iter().enumerate();
            let is_alone = !first.meets(read)
                && !others.any(|(other, them)| other != index && first.meets(them));
            if !is_alone || !self.returns(*callee, first, then)? {
                return Ok(Some(*callee));
            }
        }
        Ok(None)
    }

    /// The node that calls `callee` and goes on at `then`, and what it begins with.
    fn call(
        &mut self,
        callee: Callee,
        then: &[u32],
        subsets: &mut Subsets,
    ) -> Result<(First, u32), ImportError> {
        let rule = self.rule_of(callee);
        let first = self.first_of_rule(rule, &mut Vec::new())?;
        subsets.called.push(rule);
        let then = subsets.branch(self.closure(then));
        let target = match callee {
            Callee::Rule(rule) => subsets.node(Node::Call { rule, then }),
            Callee::Loop(index) => {
                let counted = self.loops[index as usize];
                let head = subsets.node(Node::Loop {
                    min: counted.min as u16,
                    max: counted.max.map_or(u16::MAX, |max| max as u16),
                    first: first.bytes,
                    rule,
                    then,
                });
                subsets.node(Node::Enter { head })
            }
        };
        Ok((first, target))
    }

    /// The edges of a state that has nothing else, and no two of them for a byte.
    fn plain_edges(&self, state: u32, subsets: &mut Subsets) -> Option<Vec<(u8, u8, u32)>> {
        let state = &self.states[state as usize];
        if !state.specials.is_empty() || !state.calls.is_empty() {
            return None;
        }
        let mut edges = state.edges.clone();
        edges.sort_unstable();
        if edges.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
            return None;
        }
        for edge in &mut edges {
            edge.2 = self.target(edge.2, subsets);
        }
        Some(edges)
    }

    /// The branch that a state leads to.
    fn target(&self, state: u32, subsets: &mut Subsets) -> u32 {
        if self.states[state as usize].skips.is_empty() {
            return subsets.single(state);
        }
        subsets.branch(self.closure(&[state]))
    }

    /// Whether a call of `callee` comes back where it should: what follows it is nothing that the
    /// callee could go on with.
    fn returns(&mut self, callee: Callee, first: First, then: &[u32]) -> Result<bool, ImportError> {
        let follow = self.follows.get(&self.rule_of(callee)).copied();
        let follow = follow.unwrap_or_default();
        let mut next = self.first(then, &mut Vec::new())?;
        let ends = self.closure(then).contains(&END);
        match callee {
            Callee::Rule(_) => Ok(follow.is_empty() || (!ends && !follow.meets(&next))),
            Callee::Loop(_) => {
                // A round must be told from the end of the loop.
                let told = !first.meets(&next);
                next.join(&first);
                Ok(told && (follow.is_empty() || (!ends && !follow.meets(&next))))
            }
        }
    }

    /// The body of `callee` in its place.
    fn inline(&mut self, callee: Callee, then: u32) -> Result<u32, ImportError> {
        match callee {
            Callee::Rule(rule) => {
                let body = self.source.rules[rule as usize].body;
                self.build(body.unwrap_or_default(), then)
            }
            // One copy for each place that it goes on at: new ones would make new subsets for ever.
            Callee::Loop(index) => {
                if let Some(copy) = self.copied.get(&(index, then)) {
                    return Ok(*copy);
                }
                let counted = self.loops[index as usize];
                let copy = self.copies(counted.body, counted.min, counted.max, then)?;
                self.copied.insert((index, then), copy);
                Ok(copy)
            }
        }
    }

    /// Edges that share no byte, of some that do.
    fn edges(&self, mut edges: Vec<(u8, u8, u32)>, subsets: &mut Subsets) -> Vec<(u8, u8, u32)> {
        edges.sort_unstable();
        let mut bounds: Vec<u16> = Vec::new();
        for (first, last, _) in &edges {
            bounds.extend([u16::from(*first), u16::from(*last) + 1]);
        }
        bounds.sort_unstable();
        bounds.dedup();
        let mut parts: Vec<(u8, u8, u32)> = Vec::new();
        let mut active: Vec<(u8, u32)> = Vec::new();
        let mut waiting = edges.into_iter().peekable();
        let mut known: FastMap<Vec<u32>, u32> = FastMap::default();
        for bound in bounds.windows(2) {
            let (first, last) = (bound[0] as u8, (bound[1] - 1) as u8);
            active.retain(|(end, _)| *end >= first);
            while let Some((_, end, to)) = waiting.next_if(|edge| edge.0 == first) {
                active.push((end, to));
            }
            if active.is_empty() {
                continue;
            }
            let mut states: Vec<u32> = active.iter().map(|active| active.1).collect();
            states.sort_unstable();
            states.dedup();
            let target = match known.get(&states) {
                Some(target) => *target,
                None => {
                    let target = subsets.branch(self.closure(&states));
                    known.insert(states, target);
                    target
                }
            };
            match parts.last_mut() {
                Some(part) if part.2 == target && part.1 + 1 == first => part.1 = last,
                _ => parts.push((first, last, target)),
            }
        }
        parts
    }
}

impl Subsets {
    /// The branch of a subset, which is filled in later.
    fn branch(&mut self, subset: Vec<u32>) -> u32 {
        if let [state] = subset[..] {
            return self.single(state);
        }
        if let Some(node) = self.known.get(&subset) {
            return *node;
        }
        let node = self.nodes.len() as u32;
        self.nodes.push(Node::Branch(Branch::default()));
        self.known.insert(subset.clone(), node);
        self.open.push((subset, node));
        node
    }

    fn single(&mut self, state: u32) -> u32 {
        let place = state as usize;
        if self.singles.len() <= place {
            self.singles.resize(place + 1, None);
        }
        if let Some(node) = self.singles[place] {
            return node;
        }
        let node = self.nodes.len() as u32;
        self.nodes.push(Node::Branch(Branch::default()));
        self.singles[place] = Some(node);
        self.open.push((vec![state], node));
        node
    }

    fn node(&mut self, node: Node) -> u32 {
        if let Some(index) = self.known_nodes.get(&node) {
            return *index;
        }
        self.nodes.push(node.clone());
        let index = self.nodes.len() as u32 - 1;
        self.known_nodes.insert(node, index);
        index
    }
}

/// The machine in the making.
#[derive(Default)]
struct Subsets {
    nodes: Vec<Node>,
    known: FastMap<Vec<u32>, u32>,
    /// The branches of single states.
    singles: Vec<Option<u32>>,
    known_nodes: FastMap<Node, u32>,
    open: Vec<(Vec<u32>, u32)>,
    called: Vec<u32>,
}
