//! Deterministic automata over bytes: made step by step, of expressions, and of each other.

use std::collections::HashMap;
use std::format;
use std::hash::Hash;
use std::prelude::rust_2024::*;
use std::vec;

use super::automaton::{Machine, Node, machine};
use super::expr::{Dfa, DfaState, Id, Source};
use crate::import::ImportError;

/// The most states of a product.
const MOST_STATES: usize = 200_000;

/// The automaton with the state after each byte, and the states that a text may end in. States that
/// lead to no end are left out.
pub(super) fn from_step<S: Clone + Eq + Hash>(
    start: S,
    step: impl Fn(&S, u8) -> Option<S>,
    ends: impl Fn(&S) -> bool,
) -> Dfa {
    let mut known = HashMap::from([(start.clone(), 0u32)]);
    let mut order = vec![start];
    let mut dfa = Dfa::default();
    while dfa.states.len() < order.len() {
        let state = order[dfa.states.len()].clone();
        let mut edges: Vec<(u8, u8, u32)> = Vec::new();
        for byte in 0..=u8::MAX {
            let Some(next) = step(&state, byte) else {
                continue;
            };
            let target = *known.entry(next.clone()).or_insert_with(|| {
                order.push(next);
                order.len() as u32 - 1
            });
            match edges.last_mut() {
                Some(edge) if edge.1 + 1 == byte && edge.2 == target => edge.1 = byte,
                _ => edges.push((byte, byte, target)),
            }
        }
        dfa.states.push(DfaState {
            ends: ends(&state),
            edges,
        });
    }
    trim(dfa)
}

/// The automaton of an expression without rules that are called, loops that are counted, and
/// special tokens.
pub(super) fn of_expr(source: &mut Source, id: Id) -> Result<Dfa, ImportError> {
    if source.is_never(id) {
        return Ok(Dfa::default());
    }
    let machine = machine(source, id)?;
    from_machine(&machine)
}

/// A place in a machine: a node, and what is on the stack. A slot is the node to go on at, or a
/// count.
type Place = (u32, Vec<u32>);

/// Opens up the calls of a machine.
fn from_machine(machine: &Machine) -> Result<Dfa, ImportError> {
    let too_large = || {
        ImportError::new(format!(
            "a pattern with a length or another pattern takes more than {MOST_STATES} states"
        ))
    };
    let mut known: HashMap<Place, u32> = HashMap::new();
    let start: Place = (machine.start, Vec::new());
    known.insert(start.clone(), 0);
    let mut order = vec![start];
    let mut dfa = Dfa::default();
    while dfa.states.len() < order.len() {
        if order.len() > MOST_STATES {
            return Err(too_large());
        }
        let place = order[dfa.states.len()].clone();
        let mut edges: Vec<(u8, u8, u32)> = Vec::new();
        for byte in 0..=u8::MAX {
            let Some(next) = after(machine, place.clone(), byte) else {
                continue;
            };
            if next.1.len() > 64 {
                return Err(too_large());
            }
            let target = *known.entry(next.clone()).or_insert_with(|| {
                order.push(next);
                order.len() as u32 - 1
            });
            match edges.last_mut() {
                Some(edge) if edge.1 + 1 == byte && edge.2 == target => edge.1 = byte,
                _ => edges.push((byte, byte, target)),
            }
        }
        let ends = ends(machine, place);
        dfa.states.push(DfaState { ends, edges });
    }
    Ok(trim(dfa))
}

/// The place after `byte`.
fn after(machine: &Machine, (mut node, mut stack): Place, byte: u8) -> Option<Place> {
    let find = |edges: &[(u8, u8, u32)]| {
        let edge = edges.iter().find(|(a, b, _)| (*a..=*b).contains(&byte));
        edge.map(|edge| edge.2)
    };
    loop {
        node = match &machine.nodes[node as usize] {
            Node::Branch(branch) => match (find(&branch.edges), find(&branch.looks)) {
                (Some(to), _) => return Some((to, stack)),
                (None, Some(to)) => to,
                (None, None) if branch.ends => stack.pop()?,
                (None, None) => return None,
            },
            Node::Call { rule, then } => {
                stack.push(*then);
                machine.rules[*rule as usize]?
            }
            Node::Enter { head } => {
                stack.push(0);
                *head
            }
            Node::Loop {
                min,
                max,
                first,
                rule,
                then,
            } => {
                let count = stack.pop()?;
                if first.has(byte) {
                    if count >= u32::from(*max) && *max != u16::MAX {
                        return None;
                    }
                    stack.extend([(count + 1).min(u32::from(u16::MAX)), node]);
                    machine.rules[*rule as usize]?
                } else if count >= u32::from(*min) {
                    *then
                } else {
                    return None;
                }
            }
        };
    }
}

/// Whether a text may end at a place.
fn ends(machine: &Machine, (mut node, mut stack): Place) -> bool {
    loop {
        match &machine.nodes[node as usize] {
            Node::Branch(branch) if branch.ends => match stack.pop() {
                Some(then) => node = then,
                None => return true,
            },
            Node::Loop { min, then, .. } => match stack.pop() {
                Some(count) if count >= u32::from(*min) => node = *then,
                _ => return false,
            },
            _ => return false,
        }
    }
}

/// The texts that both `a` and `b` match, or, without `both`, those that `a` matches and `b` not.
pub(super) fn product(a: &Dfa, b: &Dfa, both: bool) -> Result<Dfa, ImportError> {
    pairs(a, b, both).map(|(dfa, _)| trim(dfa))
}

/// The texts that `dfa` matches and that have `min` to `max` characters; `text` matches all texts,
/// and ends after each character.
pub(super) fn of_length(
    dfa: &Dfa,
    text: &Dfa,
    min: u32,
    max: Option<u32>,
) -> Result<Dfa, ImportError> {
    let (both, in_text) = pairs(dfa, text, true)?;
    let ends: Vec<bool> = in_text
        .iter()
        .map(|state| state.is_some_and(|state| text.states[state as usize].ends))
        .collect();
    // A copy for each number of characters. Beyond what is needed, there is nothing to count.
    let most = max.unwrap_or(min);
    let size = both.states.len() as u32;
    if u64::from(most) * u64::from(size) > MOST_STATES as u64 {
        return Err(ImportError::new(format!(
            "a pattern with a length of {most} takes more than {MOST_STATES} states"
        )));
    }
    let mut counted = Dfa::default();
    for count in 0..=most {
        for state in &both.states {
            let mut state = state.clone();
            state.ends &= count >= min;
            state.edges.retain_mut(|edge| {
                let next = count + u32::from(ends[edge.2 as usize]);
                edge.2 += size * next.min(most);
                next <= most || max.is_none()
            });
            counted.states.push(state);
        }
    }
    Ok(trim(counted))
}

/// [`product`], with the state of `b` in each state.
fn pairs(a: &Dfa, b: &Dfa, both: bool) -> Result<(Dfa, Vec<Option<u32>>), ImportError> {
    if a.states.is_empty() || (b.states.is_empty() && both) {
        return Ok((Dfa::default(), Vec::new()));
    }
    let start = (0u32, (!b.states.is_empty()).then_some(0u32));
    let mut known = HashMap::from([(start, 0u32)]);
    let mut order = vec![start];
    let mut dfa = Dfa::default();
    while dfa.states.len() < order.len() {
        if order.len() > MOST_STATES {
            return Err(ImportError::new(
                "a pattern with a length or another pattern takes too many states",
            ));
        }
        let (in_a, in_b) = order[dfa.states.len()];
        let mut edges: Vec<(u8, u8, u32)> = Vec::new();
        for (first, last, to_a) in &a.states[in_a as usize].edges {
            for byte in *first..=*last {
                let to_b = step(b, in_b, byte);
                if both && to_b.is_none() {
                    continue;
                }
                let next = (*to_a, to_b);
                let target = *known.entry(next).or_insert_with(|| {
                    order.push(next);
                    order.len() as u32 - 1
                });
                push_edge(&mut edges, byte, target);
            }
        }
        dfa.states.push(DfaState {
            ends: is_end(a, Some(in_a)) && is_end(b, in_b) == both,
            edges,
        });
    }
    Ok((dfa, order.into_iter().map(|(_, in_b)| in_b).collect()))
}

/// Where a byte leads from a state.
fn step(dfa: &Dfa, state: Option<u32>, byte: u8) -> Option<u32> {
    let edges = &dfa.states.get(state? as usize)?.edges;
    let edge = edges.get(edges.partition_point(|edge| edge.1 < byte))?;
    (edge.0 <= byte).then_some(edge.2)
}

/// Whether a text may end at a state.
fn is_end(dfa: &Dfa, state: Option<u32>) -> bool {
    let state = state.and_then(|state| dfa.states.get(state as usize));
    state.is_some_and(|state| state.ends)
}

/// Adds the edge of a byte behind the others, to the last one if it goes on.
fn push_edge(edges: &mut Vec<(u8, u8, u32)>, byte: u8, target: u32) {
    match edges.last_mut() {
        Some(edge) if u16::from(edge.1) + 1 == u16::from(byte) && edge.2 == target => {
            edge.1 = byte;
        }
        _ => edges.push((byte, byte, target)),
    }
}

/// Leaves out states that lead to no end.
fn trim(mut dfa: Dfa) -> Dfa {
    let count = dfa.states.len();
    let mut sources: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (index, state) in dfa.states.iter().enumerate() {
        for edge in &state.edges {
            sources[edge.2 as usize].push(index as u32);
        }
    }
    let mut useful = vec![false; count];
    let ends = dfa
        .states
        .iter()
        .enumerate()
        .filter(|(_, state)| state.ends);
    let mut open: Vec<u32> = ends.map(|(index, _)| index as u32).collect();
    while let Some(state) = open.pop() {
        if !core::mem::replace(&mut useful[state as usize], true) {
            open.extend(&sources[state as usize]);
        }
    }
    if useful.first() != Some(&true) {
        return Dfa::default();
    }
    let mut places = vec![0u32; count];
    let mut next = 0;
    for (place, useful) in places.iter_mut().zip(&useful) {
        *place = next;
        next += u32::from(*useful);
    }
    let mut index = 0;
    dfa.states.retain(|_| {
        index += 1;
        useful[index - 1]
    });
    for state in &mut dfa.states {
        state.edges.retain(|edge| useful[edge.2 as usize]);
        state
            .edges
            .iter_mut()
            .for_each(|edge| edge.2 = places[edge.2 as usize]);
    }
    dfa
}
