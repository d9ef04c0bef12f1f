//! From expressions to a deterministic machine with a stack.
//!
//! Expressions become a non-deterministic automaton ([`Nfa`]), and its subsets of states the states
//! of the machine. Where the next byte alone says that a rule begins, or a round of a counted loop,
//! the machine calls the rule or counts the round. Where it does not, the body of the rule or loop
//! is copied in. So alternatives that begin alike become one path, as long as the copies come to an
//! end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::format;
use std::prelude::rust_2024::*;
use std::rc::Rc;
use std::vec;

use super::expr::{Bytes, Expr, FastMap, Id, Members, Source};
use crate::import::ImportError;

/// The end of every rule.
const END: u32 = 0;
/// A grammar that takes more is refused: alternatives that cannot be told apart grow without end.
const MOST_STATES: usize = 4_000_000;
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
    /// About how many states each expression has.
    sizes: Vec<u64>,
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
            sizes: Vec::new(),
        };
        nfa.find_nullable();
        nfa.find_sizes();
        nfa
    }

    /// Which expressions match the empty text: a least fixed point, for the sake of rules.
    fn find_nullable(&mut self) {
        let mut nullable = vec![false; self.source.exprs.len()];
        loop {
            let mut changed = false;
            for (id, expr) in self.source.exprs.iter().enumerate() {
                let is = |id: &Id| nullable[*id as usize];
                let now = match expr {
                    Expr::Never | Expr::Set(_) | Expr::Special(_) => false,
                    Expr::Literal(bytes) => bytes.is_empty(),
                    Expr::Seq(parts) => parts.iter().all(is),
                    Expr::Alt(parts) => parts.iter().any(is),
                    Expr::Repeat { body, min, .. } => *min == 0 || is(body),
                    Expr::Rule(rule) => self.source.rules[*rule as usize]
                        .body
                        .is_some_and(|id| is(&id)),
                    Expr::Members(members) => {
                        let members = &self.source.members[*members as usize];
                        members.items.iter().all(|item| !item.required)
                    }
                    Expr::Automaton(dfa) => self.source.automata[*dfa as usize].states[0].ends,
                };
                changed |= now != nullable[id];
                nullable[id] = now;
            }
            if !changed {
                break;
            }
        }
        self.nullable = nullable;
    }

    fn state(&mut self, state: State) -> Result<u32, ImportError> {
        if self.states.len() >= MOST_STATES {
            return Err(ImportError::new(format!(
                "the grammar takes more than {MOST_STATES} states: alternatives that begin alike \
                 cannot be told apart, or counts are too large"
            )));
        }
        self.states.push(state);
        Ok(self.states.len() as u32 - 1)
    }

    /// A state that matches `id` and goes on at `next`.
    fn build(&mut self, id: Id, next: u32) -> Result<u32, ImportError> {
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
            && self.first_of(body)?.specials == 0;
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
    fn copies(
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
    fn find_sizes(&mut self) {
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

    /// Where a rule starts.
    fn start_of(&mut self, rule: u32) -> Result<u32, ImportError> {
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

    fn rule_of(&self, callee: Callee) -> u32 {
        match callee {
            Callee::Rule(rule) => rule,
            Callee::Loop(counted) => self.loops[counted as usize].rule,
        }
    }

    fn first_of(&mut self, id: Id) -> Result<First, ImportError> {
        let start = self.build(id, END)?;
        self.first(&[start], &mut Vec::new())
    }

    /// What a text of a rule can begin with. `calling` are the rules that begin with this one.
    fn first_of_rule(&mut self, rule: u32, calling: &mut Vec<u32>) -> Result<First, ImportError> {
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

    fn first(&mut self, states: &[u32], calling: &mut Vec<u32>) -> Result<First, ImportError> {
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
    fn closure(&self, states: &[u32]) -> Vec<u32> {
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

    fn determinize(mut self, start: u32) -> Result<Machine, ImportError> {
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
                return Err(ImportError::new(
                    "the grammar takes too many states: alternatives that begin alike cannot be \
                     told apart",
                ));
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

impl Machine {
    /// The nodes that a node leads to in its own rule.
    pub(super) fn targets(&self, node: u32) -> impl DoubleEndedIterator<Item = u32> {
        let (edges, looks, specials, other) = match &self.nodes[node as usize] {
            Node::Branch(Branch {
                edges,
                looks,
                specials,
                ..
            }) => (&edges[..], &looks[..], &specials[..], None),
            Node::Call { then, .. } | Node::Loop { then, .. } => {
                (&[][..], &[][..], &[][..], Some(*then))
            }
            Node::Enter { head } => (&[][..], &[][..], &[][..], Some(*head)),
        };
        let bytes = edges.iter().chain(looks).map(|edge| edge.2);
        let specials = specials.iter().map(|edge| edge.2);
        bytes.chain(specials).chain(other)
    }

    /// The nodes of a rule that starts at `start`.
    pub(super) fn rule_nodes(&self, start: u32, seen: &mut [bool]) -> Vec<u32> {
        let mut nodes = vec![start];
        let mut at = 0;
        seen[start as usize] = true;
        while let Some(node) = nodes.get(at) {
            let targets = self.targets(*node);
            let new = targets.filter(|to| !core::mem::replace(&mut seen[*to as usize], true));
            let new: Vec<u32> = new.collect();
            nodes.extend(new);
            at += 1;
        }
        for node in &nodes {
            seen[*node as usize] = false;
        }
        nodes
    }

    /// What can come at a node, and whether its rule may end there.
    fn first(&self, node: u32) -> (First, bool) {
        let mut first = First::default();
        match &self.nodes[node as usize] {
            Node::Branch(branch) => {
                for (a, b, _) in branch.edges.iter().chain(&branch.looks) {
                    first.bytes.join(&Bytes::range(*a, *b));
                }
                for (special, ..) in &branch.specials {
                    first.specials |= 1 << special;
                }
                (first, branch.ends)
            }
            Node::Loop {
                first: bytes, then, ..
            } => {
                let (mut all, ends) = self.first(*then);
                all.bytes.join(bytes);
                (all, ends)
            }
            // They are only reached by a look, which knows what they begin with.
            Node::Call { .. } | Node::Enter { .. } => (first, false),
        }
    }

    /// The rules that are called where it cannot be told whether they go on, and what they can go
    /// on with.
    fn wrong_calls(&self) -> HashMap<u32, First> {
        let mut follows: HashMap<u32, First> = HashMap::new();
        let mut seen = vec![false; self.nodes.len()];
        for (rule, start) in self.rules.iter().enumerate() {
            let mut follow = First::default();
            if let Some(start) = start {
                for node in self.rule_nodes(*start, &mut seen) {
                    if matches!(&self.nodes[node as usize], Node::Branch(branch) if !branch.ends) {
                        continue;
                    }
                    let (first, ends) = self.first(node);
                    if ends {
                        follow.join(&first);
                    }
                }
            }
            follows.insert(rule as u32, follow);
        }
        let mut wrong = HashMap::new();
        for node in &self.nodes {
            let (rule, then, rounds) = match node {
                Node::Call { rule, then } => (*rule, *then, Bytes::default()),
                Node::Loop {
                    rule, then, first, ..
                } => (*rule, *then, *first),
                Node::Branch(_) | Node::Enter { .. } => continue,
            };
            let follow = follows[&rule];
            let (mut next, ends) = self.first(then);
            next.bytes.join(&rounds);
            if !follow.is_empty() && (ends || follow.meets(&next)) {
                wrong.insert(rule, follow);
            }
        }
        wrong
    }
}
