//! What follows in a machine, and which rules may not be called because of it.

use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::vec;

use super::{Branch, First, Machine, Node};
use crate::import::grammar::expr::Bytes;

impl Machine {
    /// The nodes that a node leads to in its own rule.
    pub(in crate::import::grammar) fn targets(
        &self,
        node: u32,
    ) -> impl DoubleEndedIterator<Item = u32> {
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
    pub(in crate::import::grammar) fn rule_nodes(&self, start: u32, seen: &mut [bool]) -> Vec<u32> {
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
    pub(super) fn wrong_calls(&self) -> HashMap<u32, First> {
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
