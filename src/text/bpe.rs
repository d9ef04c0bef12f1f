//! Byte-pair merging of one pre-token in O(n log n), in lent memory.
//!
//! Each symbol has at most one candidate, the merge with its right neighbour, so there is no heap
//! with stale entries but a table of ranks with the minima of 16, 256, … ranks above it. The least
//! rank, the leftmost of equals, is found by descending; a change climbs only as far as a minimum
//! changes.

use super::Tokenizer;
use super::section::NONE;

/// Ranks that share a minimum. A power of two; at 16, a minimum is a few vector instructions.
const FAN: usize = 16;

/// Words that [`Tokenizer::merge_all`] needs for `symbols` symbols: id, link and rank of each, and
/// the minima.
pub(crate) const fn words(symbols: usize) -> usize {
    let mut total = symbols.saturating_mul(3);
    let mut level = symbols;
    while level > FAN {
        level = level.div_ceil(FAN);
        total = total.saturating_add(level);
    }
    total
}

impl Tokenizer<'_> {
    /// Merges the symbols in the first `count` words of `scratch` until no two neighbours merge,
    /// and hands each id that is left to `emit`. `None` if `scratch` has not got
    /// [`words(count)`](words).
    pub(crate) fn merge_all(
        &self,
        count: usize,
        scratch: &mut [u32],
        mut emit: impl FnMut(u32),
    ) -> Option<()> {
        // Lengths are kept in words.
        u32::try_from(count).ok()?;
        let scratch = scratch.get_mut(..words(count))?;
        let (ids, scratch) = scratch.split_at_mut_checked(count)?;
        // The length of a symbol, at its first place and at its last: both neighbours are one step
        // away.
        let (links, ranks) = scratch.split_at_mut_checked(count)?;
        links.fill(1);
        let rank = |left: u32, right: u32| self.merge(left, right).map_or(NONE, |merge| merge.rank);
        for (place, slot) in ranks.iter_mut().enumerate().take(count) {
            *slot = if place + 1 < count {
                rank(at(ids, place), at(ids, place + 1))
            } else {
                NONE
            };
        }
        let mut queue = Queue::new(ranks, count);

        while let Some(place) = queue.first() {
            let next = place + at(links, place) as usize;
            let Some(merge) = self.merge(at(ids, place), at(ids, next)) else {
                break;
            };
            let end = next + at(links, next) as usize;
            put(ids, place, merge.result);
            put(links, place, (end - place) as u32);
            put(links, end - 1, (end - place) as u32);
            queue.set(next, NONE);
            queue.set(
                place,
                if end < count {
                    rank(merge.result, at(ids, end))
                } else {
                    NONE
                },
            );
            if let Some(last) = place.checked_sub(1) {
                let previous = place - at(links, last) as usize;
                queue.set(previous, rank(at(ids, previous), merge.result));
            }
        }

        let mut place = 0;
        while place < count {
            emit(at(ids, place));
            place += at(links, place) as usize;
        }
        Some(())
    }
}

fn at(words: &[u32], index: usize) -> u32 {
    words.get(index).copied().unwrap_or(NONE)
}

fn put(words: &mut [u32], index: usize, value: u32) {
    if let Some(word) = words.get_mut(index) {
        *word = value;
    }
}

/// Ranks and their minima, level by level, the last one of at most [`FAN`].
struct Queue<'s> {
    words: &'s mut [u32],
    count: usize,
}

impl<'s> Queue<'s> {
    /// From `count` ranks at the start of `words`, with room for the minima behind them.
    fn new(words: &'s mut [u32], count: usize) -> Self {
        words.get_mut(count..).unwrap_or_default().fill(NONE);
        let mut queue = Queue { words, count };
        // One rank of each block is enough to make its minimum known above.
        for place in (0..count).step_by(FAN) {
            queue.set(place, at(queue.words, place));
        }
        queue
    }

    /// The place of the least rank, the leftmost of equals; `None` if no rank is left.
    fn first(&self) -> Option<usize> {
        // Where each level starts; a usize has room for no more than 16 of them.
        let (mut starts, mut levels) = ([0; 16], 0);
        let mut start = 0;
        let mut len = self.count;
        while len > FAN {
            if let Some(slot) = starts.get_mut(levels) {
                *slot = start;
            }
            levels += 1;
            start += len;
            len = len.div_ceil(FAN);
        }
        let top = self.words.get(start..start + len)?;
        let least = top.iter().copied().min().filter(|least| *least != NONE)?;
        let mut place = top.iter().position(|rank| *rank == least)?;
        for start in starts.get(..levels)?.iter().rev() {
            let block = self.words.get(start + place * FAN..)?;
            place = place * FAN + block.iter().take(FAN).position(|rank| *rank == least)?;
        }
        Some(place)
    }

    /// Gives `place` a new rank.
    fn set(&mut self, place: usize, rank: u32) {
        let (mut start, mut len, mut place, mut value) = (0, self.count, place, rank);
        loop {
            let Some(level) = self.words.get_mut(start..start + len) else {
                return;
            };
            put(level, place, value);
            if len <= FAN {
                return;
            }
            let block = place / FAN;
            let least = level
                .chunks(FAN)
                .nth(block)
                .and_then(|block| block.iter().copied().min())
                .unwrap_or(NONE);
            start += len;
            if self.words.get(start + block) == Some(&least) {
                return;
            }
            (len, place, value) = (len.div_ceil(FAN), block, least);
        }
    }
}
