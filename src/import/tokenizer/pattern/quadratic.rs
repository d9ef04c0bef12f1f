//! Whether cutting a text with an automaton can take quadratic time.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::prelude::rust_2024::*;

use super::STATE;

/// Most pairs of matches that [`takes_quadratic_time`] looks at.
const MAX_PAIRS: usize = 100_000;

/// Whether there are texts in which many matches each read a large part of the text again.
///
/// A match is *over* once its end has been passed and reading goes on. If two matches can be over
/// while both go round in circles over the same text, there is no bound to how many can, and
/// reading takes quadratic time. Else a character is read a bounded number of times.
pub(super) fn takes_quadratic_time(entries: &[u16], columns: usize) -> bool {
    let table = Table { entries, columns };
    // Only a match in a row from which nothing may be found can be over.
    let can_fail = table.can_fail();
    let is_possible =
        |&(first, second, over): &Pair| can_fail[first] && (!over || can_fail[second]);
    let mut pairs = table.first_pairs();
    pairs.retain(is_possible);
    let mut waiting: Vec<Pair> = pairs.iter().copied().collect();
    // Where two matches that are over lead.
    let mut circles: HashMap<(usize, usize), Vec<(usize, usize)>> = HashMap::new();
    while let Some(pair) = waiting.pop() {
        for kind in table.kinds() {
            let mut reached = table.pairs_after(pair, kind);
            if let (first, second, true) = pair {
                let to = reached.iter().map(|(first, second, _)| (*first, *second));
                circles.entry((first, second)).or_default().extend(to);
            }
            reached.retain(|pair| is_possible(pair) && pairs.insert(*pair));
            waiting.extend(reached);
        }
        if pairs.len() > MAX_PAIRS {
            return true;
        }
    }
    has_circle(&circles)
}

/// The rows of a match that is over and of another one, and whether that is over, too.
type Pair = (usize, usize, bool);

/// The rows of an automaton, of which the first one starts.
struct Table<'t> {
    entries: &'t [u16],
    columns: usize,
}

impl Table<'_> {
    fn rows(&self) -> usize {
        self.entries.len() / self.columns
    }

    /// The kinds of characters: all columns but the last, which is the end of the text.
    fn kinds(&self) -> Range<usize> {
        0..self.columns - 1
    }

    /// Where a row leads, and whether something ends before this character.
    fn next(&self, row: usize, kind: usize) -> (Option<usize>, bool) {
        let entry = self.entries[row * self.columns + kind];
        let row = usize::from(entry & STATE).checked_sub(1);
        (row, entry & !STATE != 0)
    }

    /// A match that starts with this character; if it fails at once, one that starts behind it.
    fn start(&self, kind: usize) -> usize {
        self.next(0, kind).0.unwrap_or(0)
    }

    /// The rows from which nothing may be found any more.
    fn can_fail(&self) -> Vec<bool> {
        let mut can_fail = vec![false; self.rows()];
        loop {
            let fails = |row: usize| {
                (0..self.columns).any(|kind| match self.next(row, kind) {
                    (Some(next), false) => kind < self.columns - 1 && can_fail[next],
                    (None, false) => true,
                    _ => false,
                })
            };
            let more: Vec<bool> = (0..self.rows()).map(fails).collect();
            if more == can_fail {
                return can_fail;
            }
            can_fail = more;
        }
    }

    /// The pairs of a match that may be over next, and the match after it.
    fn first_pairs(&self) -> HashSet<Pair> {
        let mut pairs = HashSet::new();
        for kind in self.kinds() {
            // A match that fails counts as one of a character.
            if let (Some(first), false) = self.next(0, kind) {
                pairs.insert((first, 0, false));
            }
            for row in 1..self.rows() {
                if let (Some(first), true) = self.next(row, kind) {
                    pairs.insert((first, self.start(kind), false));
                }
            }
        }
        pairs
    }

    /// The pairs that a pair leads to with a character.
    fn pairs_after(&self, (first, second, over): Pair, kind: usize) -> Vec<Pair> {
        let (Some(first_next), false) = self.next(first, kind) else {
            return vec![];
        };
        let (second_next, found) = self.next(second, kind);
        let mut reached = vec![];
        if let Some(second_next) = second_next {
            let both_over = (first_next, second_next, true);
            if !over {
                reached.push((first_next, second_next, false));
                reached.extend((found || second == 0).then_some(both_over));
            } else if !found {
                reached.push(both_over);
            }
        }
        // Or the second match ends here, and does not matter any more.
        if !over && found {
            reached.push((first_next, self.start(kind), false));
        }
        if !over && second == 0 {
            reached.push((first_next, 0, false));
        }
        reached
    }
}

/// Whether a graph has a circle: whether something is left when all that leads nowhere is taken
/// away again and again.
fn has_circle(edges: &HashMap<(usize, usize), Vec<(usize, usize)>>) -> bool {
    let mut left: HashSet<(usize, usize)> = edges.keys().copied().collect();
    loop {
        let before = left.len();
        let stay: HashSet<_> = left
            .iter()
            .copied()
            .filter(|from| edges[from].iter().any(|to| left.contains(to)))
            .collect();
        left = stay;
        if left.len() == before {
            return before > 0;
        }
    }
}
