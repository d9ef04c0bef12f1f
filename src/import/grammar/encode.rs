//! The machine as bytes: see the format in [`crate::grammar`].

use core::hash::{BuildHasher, BuildHasherDefault};
use std::format;
use std::prelude::rust_2024::*;
use std::vec;

use super::automaton::{Branch, Machine, Node};
use super::expr::{FastMap, Mix, Source};
use crate::grammar::{Grammar, HEADER_LEN, LOOK, MAX_SPECIALS, SLOTS, VERSION, op};
use crate::import::ImportError;
use crate::model::extend_crc32;

/// The grammar of a machine.
pub(super) fn encode(source: &Source, machine: Machine) -> Result<Vec<u8>, ImportError> {
    if source.specials.len() > MAX_SPECIALS {
        return Err(ImportError::new(format!(
            "the grammar names {} special tokens; {MAX_SPECIALS} are the most",
            source.specials.len()
        )));
    }
    let machine = merge(machine);
    let needs = needs(&machine)?;
    let depth = depth(&machine);
    for width in [2, 3] {
        let layout = Layout::of(&machine, &needs, depth, width)?;
        if layout.code.len() < 1 << (8 * width) {
            return layout.finish(source, &machine, depth);
        }
    }
    Err(ImportError::new("the grammar takes more than 16 MiB"))
}

/// Makes equal nodes one, from the ends of rules on.
fn merge(mut machine: Machine) -> Machine {
    let mut same: Vec<Option<u32>> = vec![None; machine.nodes.len()];
    // By their hashes: of two different nodes with the same hash, the second is not looked for.
    let mut known: FastMap<u64, u32> = FastMap::default();
    for node in postorder(&machine) {
        let own = |to: u32| same[to as usize].unwrap_or(to);
        let renamed = &mut machine.nodes[node as usize];
        rename(renamed, &own);
        join_edges(renamed);
        let hash = BuildHasherDefault::<Mix>::default().hash_one(&*renamed);
        let first = *known.entry(hash).or_insert(node);
        let is_same = machine.nodes[first as usize] == machine.nodes[node as usize];
        same[node as usize] = Some(if is_same { first } else { node });
    }
    let own = |to: u32| same[to as usize].unwrap_or(to);
    let mut nodes = machine.nodes;
    for node in &mut nodes {
        rename(node, &own);
        join_edges(node);
    }
    Machine {
        nodes,
        rules: machine.rules.iter().map(|start| start.map(own)).collect(),
        start: own(machine.start),
    }
}

/// Neighbouring edges to the same node become one.
fn join_edges(node: &mut Node) {
    let Node::Branch(branch) = node else {
        return;
    };
    for edges in [&mut branch.edges, &mut branch.looks] {
        edges.dedup_by(|next, edge| {
            let joins = edge.2 == next.2 && u16::from(edge.1) + 1 == u16::from(next.0);
            if joins {
                edge.1 = next.1;
            }
            joins
        });
    }
}

/// Gives the nodes that a node leads to their own names.
fn rename(node: &mut Node, own: &dyn Fn(u32) -> u32) {
    match node {
        Node::Branch(branch) => {
            for edges in [&mut branch.edges, &mut branch.looks] {
                edges.iter_mut().for_each(|edge| edge.2 = own(edge.2));
            }
            let specials = branch.specials.iter_mut();
            specials.for_each(|special| special.2 = own(special.2));
        }
        Node::Call { then, .. } | Node::Loop { then, .. } => *then = own(*then),
        Node::Enter { head } => *head = own(*head),
    }
}

/// All nodes that can be reached, each after those that it leads to, as far as there is no cycle.
fn postorder(machine: &Machine) -> Vec<u32> {
    let mut order = Vec::new();
    let mut seen = vec![false; machine.nodes.len()];
    for start in machine.rules.iter().flatten().chain([&machine.start]) {
        let mut open = vec![(*start, false)];
        while let Some((node, is_done)) = open.pop() {
            if is_done {
                order.push(node);
                continue;
            }
            if core::mem::replace(&mut seen[node as usize], true) {
                continue;
            }
            open.push((node, true));
            let targets = machine.targets(node).rev();
            open.extend(
                targets
                    .filter(|to| !seen[*to as usize])
                    .map(|to| (to, false)),
            );
        }
    }
    order
}

/// How many free slots the rest of a rule needs at least, from each node on.
fn needs(machine: &Machine) -> Result<Vec<u32>, ImportError> {
    const NEVER: u32 = 1 << 20;
    let mut needs = vec![NEVER; machine.nodes.len()];
    let order = postorder(machine);
    loop {
        let mut changed = false;
        for node in &order {
            let rule_need = |rule: u32| {
                let start = machine.rules.get(rule as usize).copied().flatten();
                start.map_or(NEVER, |start| needs[start as usize])
            };
            let need = match &machine.nodes[*node as usize] {
                Node::Branch(branch) if branch.ends => 0,
                Node::Branch(_) => {
                    let targets = machine.targets(*node);
                    targets.map(|to| needs[to as usize]).min().unwrap_or(NEVER)
                }
                Node::Call { rule, then } => (1 + rule_need(*rule)).max(needs[*then as usize]),
                Node::Enter { head } => match &machine.nodes[*head as usize] {
                    Node::Loop { rule, then, .. } => {
                        (2 + rule_need(*rule)).max(needs[*then as usize])
                    }
                    _ => NEVER,
                },
                Node::Loop {
                    min, rule, then, ..
                } => {
                    let round = if *min > 0 { 1 + rule_need(*rule) } else { 0 };
                    round.max(needs[*then as usize].saturating_sub(1))
                }
            }
            .min(NEVER);
            changed |= need != needs[*node as usize];
            needs[*node as usize] = need;
        }
        if !changed {
            break;
        }
    }
    match needs[machine.start as usize] {
        NEVER => Err(ImportError::new("the grammar allows no text")),
        need if need > SLOTS as u32 => Err(ImportError::new(format!(
            "the grammar nests rules {need} deep; {SLOTS} are the most"
        ))),
        _ => Ok(needs),
    }
}

/// How many slots a text can use; all that there are if rules call themselves.
fn depth(machine: &Machine) -> u8 {
    // How deep each rule goes. As many rounds as there are slots find every depth that is no more.
    let rules = machine.rules.len();
    let mut calls: Vec<Vec<(usize, u32)>> = vec![Vec::new(); rules + 1];
    let mut seen = vec![false; machine.nodes.len()];
    for (caller, start) in machine
        .rules
        .iter()
        .chain([&Some(machine.start)])
        .enumerate()
    {
        let nodes = start.map(|start| machine.rule_nodes(start, &mut seen));
        for node in nodes.unwrap_or_default() {
            match &machine.nodes[node as usize] {
                Node::Call { rule, .. } => calls[caller].push((*rule as usize, 1)),
                Node::Loop { rule, .. } => calls[caller].push((*rule as usize, 2)),
                Node::Branch(_) | Node::Enter { .. } => {}
            }
        }
        calls[caller].sort_unstable();
        calls[caller].dedup();
    }
    let mut depths = vec![0u32; rules + 1];
    for _ in 0..=SLOTS {
        for caller in 0..=rules {
            let deepest = calls[caller]
                .iter()
                .map(|(rule, slots)| depths[*rule] + slots)
                .max();
            depths[caller] = deepest.unwrap_or(0).min(SLOTS as u32);
        }
    }
    depths[rules] as u8
}

/// The node of the call, if a branch only calls one thing, whatever comes.
fn only_call(branch: &Branch) -> Option<u32> {
    let reads = branch.specials.iter().any(|special| special.1);
    if branch.ends || !branch.edges.is_empty() || reads {
        return None;
    }
    let looks = branch.looks.iter().map(|look| look.2);
    let specials = branch.specials.iter().map(|special| special.2);
    let mut targets = looks.chain(specials);
    let first = targets.next()?;
    targets.all(|target| target == first).then_some(first)
}

/// The code in the making.
struct Layout<'m> {
    machine: &'m Machine,
    width: usize,
    code: Vec<u8>,
    /// Where each node is.
    places: Vec<Option<u32>>,
    /// Offsets to fill in, and the node that each is of.
    open: Vec<(usize, u32)>,
    calls: Vec<(u32, u32)>,
    known_calls: FastMap<(u32, u32), u16>,
    /// Nodes with a record of their needs before them.
    marked: Vec<u8>,
}

impl<'m> Layout<'m> {
    fn of(
        machine: &'m Machine,
        needs: &[u32],
        depth: u8,
        width: usize,
    ) -> Result<Self, ImportError> {
        let mut layout = Layout {
            machine,
            width,
            code: Vec::new(),
            places: vec![None; machine.nodes.len()],
            open: Vec::new(),
            calls: Vec::new(),
            known_calls: FastMap::default(),
            marked: vec![0; machine.nodes.len()],
        };
        // No text comes to the end of the stack unless rules call themselves.
        if usize::from(depth) == SLOTS {
            layout.mark(needs);
        }
        let mut waiting = vec![machine.start];
        while let Some(node) = waiting.pop() {
            if layout.places[node as usize].is_none() {
                layout.place(node, &mut waiting)?;
            }
        }
        Ok(layout)
    }

    /// Finds the nodes that need more slots than where one comes from.
    fn mark(&mut self, needs: &[u32]) {
        let need = |node: u32| needs[node as usize].min(255) as u8;
        let machine = self.machine;
        for node in postorder(machine) {
            match &machine.nodes[node as usize] {
                Node::Branch(_) => {}
                // The record before has checked them.
                Node::Enter { .. } => continue,
                Node::Call { then, .. } | Node::Loop { then, .. } => {
                    self.marked[*then as usize] = need(*then);
                    continue;
                }
            }
            for to in machine.targets(node) {
                if need(to) > need(node) {
                    self.marked[to as usize] = need(to);
                }
            }
        }
        for start in machine.rules.iter().flatten() {
            self.marked[*start as usize] = need(*start);
        }
    }

    /// Writes a node, and those that follow it.
    fn place(&mut self, node: u32, waiting: &mut Vec<u32>) -> Result<(), ImportError> {
        let mut next = Some(node);
        while let Some(node) = next {
            if let Some(place) = self.places[node as usize] {
                self.code.push(op::GO_TO);
                self.offset_at(place);
                return Ok(());
            }
            self.places[node as usize] = Some(self.code.len() as u32);
            if self.marked[node as usize] > 0 {
                self.code.extend([op::NEED, self.marked[node as usize]]);
            }
            next = self.record(node, waiting)?;
        }
        Ok(())
    }

    /// Writes the record of a node. The node to come right after it, if the record has no offset.
    fn record(&mut self, node: u32, waiting: &mut Vec<u32>) -> Result<Option<u32>, ImportError> {
        let machine = self.machine;
        match &machine.nodes[node as usize] {
            Node::Branch(branch) => return self.branch(branch, waiting),
            Node::Call { rule, then } => {
                let start = self.start(*rule, waiting);
                let call = self.call(start, *then)?;
                waiting.push(*then);
                self.code.push(op::CALL);
                self.code.extend(call.to_le_bytes());
            }
            Node::Enter { head } => {
                self.code.push(op::ENTER);
                self.refer(*head, waiting);
            }
            Node::Loop {
                min,
                max,
                first,
                rule,
                then,
            } => {
                let start = self.start(*rule, waiting);
                let call = self.call(start, node)?;
                self.code.push(op::LOOP);
                for number in [*min, *max, call] {
                    self.code.extend(number.to_le_bytes());
                }
                self.refer(*then, waiting);
                let ranges = first.ranges();
                self.code.push(ranges.len() as u8);
                self.code.extend(ranges.iter().flat_map(|(a, b)| [*a, *b]));
            }
        }
        Ok(None)
    }

    /// Writes a branch. The node to come right after it, if its record has no offset.
    fn branch(
        &mut self,
        branch: &Branch,
        waiting: &mut Vec<u32>,
    ) -> Result<Option<u32>, ImportError> {
        if let Some(target) = only_call(branch) {
            // What is called refuses all other symbols.
            return Ok(Some(target));
        }
        let Branch {
            ends,
            edges,
            looks,
            specials,
        } = branch;
        match (*ends, &edges[..], looks.is_empty() && specials.is_empty()) {
            (true, [], true) => {
                self.code.push(op::END);
                return Ok(None);
            }
            (false, [(first, last, to)], true) => {
                match (first == last, *first) {
                    (true, 0..=127) => self.code.push(*first),
                    (true, _) => self.code.extend([op::BYTE, *first]),
                    (false, _) => self.code.extend([op::RANGE, *first, *last]),
                }
                return Ok(Some(*to));
            }
            _ => {}
        }
        let most = 255;
        if edges.len() > most || looks.len() > most || specials.len() > most {
            return Err(ImportError::new(
                "a place of the grammar has too many continuations",
            ));
        }
        let counts = [edges.len(), looks.len(), specials.len()].map(|count| count as u8);
        self.code.extend([op::BRANCH, u8::from(*ends)]);
        self.code.extend(counts);
        for (first, last, to) in edges.iter().chain(looks) {
            self.code.extend([*first, *last]);
            self.refer(*to, waiting);
        }
        for (special, reads, to) in specials {
            self.code.push(special | if *reads { 0 } else { LOOK });
            self.refer(*to, waiting);
        }
        Ok(None)
    }

    /// An offset that is filled in when the node has a place.
    fn refer(&mut self, node: u32, waiting: &mut Vec<u32>) {
        self.open.push((self.code.len(), node));
        self.offset_at(0);
        if self.places[node as usize].is_none() {
            waiting.push(node);
        }
    }

    fn offset_at(&mut self, offset: u32) {
        self.code.extend(&offset.to_le_bytes()[..self.width]);
    }

    fn start(&mut self, rule: u32, waiting: &mut Vec<u32>) -> u32 {
        let start = self.machine.rules[rule as usize].unwrap_or_default();
        waiting.push(start);
        start
    }

    fn call(&mut self, start: u32, then: u32) -> Result<u16, ImportError> {
        if let Some(call) = self.known_calls.get(&(start, then)) {
            return Ok(*call);
        }
        let call = self.calls.len();
        if call >= usize::from(u16::MAX) {
            return Err(ImportError::new(
                "the grammar has more than 65,534 different calls",
            ));
        }
        self.calls.push((start, then));
        self.known_calls.insert((start, then), call as u16);
        Ok(call as u16)
    }

    fn finish(
        mut self,
        source: &Source,
        machine: &Machine,
        depth: u8,
    ) -> Result<Vec<u8>, ImportError> {
        let place = |places: &[Option<u32>], node: u32| places[node as usize].unwrap_or_default();
        for (at, node) in core::mem::take(&mut self.open) {
            let offset = place(&self.places, node).to_le_bytes();
            self.code[at..at + self.width].copy_from_slice(&offset[..self.width]);
        }
        let mut bytes = Vec::from(Grammar::MAGIC);
        bytes.extend([
            VERSION,
            self.width as u8,
            depth,
            source.specials.len() as u8,
        ]);
        bytes.extend([0; 4]);
        for word in [
            self.calls.len() as u32,
            self.code.len() as u32,
            place(&self.places, machine.start),
        ] {
            bytes.extend(word.to_le_bytes());
        }
        debug_assert_eq!(bytes.len(), HEADER_LEN);
        for (start, then) in &self.calls {
            for node in [*start, *then] {
                bytes.extend(&place(&self.places, node).to_le_bytes()[..self.width]);
            }
        }
        for special in &source.specials {
            let length = u8::try_from(special.len()).map_err(|_| {
                ImportError::new(format!(
                    "the special token {special:?} is longer than 255 bytes"
                ))
            })?;
            bytes.push(length);
            bytes.extend(special.as_bytes());
        }
        bytes.extend(&self.code);
        let crc = extend_crc32(extend_crc32(0, &bytes[..8]), &bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }
}
