//! Where keys and values lie in the cache, and which of them a token sees. Attention, convolutions
//! and snapshots go by this.

use core::num::NonZeroU32;
use core::ops::Range;

use super::Plan;
use crate::model::Layer;

/// The part of the cache that belongs to a layer: kv head by kv head, keys, then values. A
/// convolution has one head without keys.
#[derive(Clone, Copy)]
pub(super) struct LayerCache {
    /// How many positions it has room for; a multiple of 8 in attention.
    pub rows: usize,
    /// Where its first head starts in the cache.
    start: usize,
    /// Bytes of a head.
    head_bytes: usize,
    /// How many of them are keys.
    key_bytes: usize,
}

impl LayerCache {
    /// That of a layer whose part starts at byte `start`.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn new(plan: &Plan<'_>, layer: Layer, start: usize) -> Self {
        let (head_bytes, key_bytes) = plan.head_cache_bytes(layer);
        LayerCache {
            rows: plan.cache_rows(layer),
            start,
            head_bytes,
            key_bytes,
        }
    }

    /// The keys of a kv head.
    pub fn keys(&self, head: usize) -> Range<usize> {
        let start = self.start + head * self.head_bytes;
        start..start + self.key_bytes
    }

    /// The values of a kv head.
    pub fn values(&self, head: usize) -> Range<usize> {
        let start = self.start + head * self.head_bytes;
        start + self.key_bytes..start + self.head_bytes
    }

    /// The slot of a token's key and value: a layer that does not keep the whole context is a ring.
    pub fn slot(&self, index: usize) -> usize {
        index % self.rows.max(1)
    }

    /// The slots of several tokens that lie one after the other in the context: at most two
    /// stretches, of which the second starts at slot 0.
    pub fn slots(&self, indices: Range<usize>) -> [Range<usize>; 2] {
        let slot = self.slot(indices.start);
        let older = indices.len().min(self.rows - slot);
        [slot..slot + older, 0..indices.len() - older]
    }
}

/// The tokens of the context, as indices, that the token at `index` sees. Positions grow along the
/// context, so they are a stretch that ends with the token itself.
pub(super) fn visible(positions: &[u32], window: Option<NonZeroU32>, index: usize) -> Range<usize> {
    let known = positions.get(..=index).unwrap_or_default();
    let position = known.last().copied().unwrap_or(0);
    unseen(known, window, position)..index + 1
}

/// How many of the tokens at `positions`, the oldest ones, a token at position `next` does not see.
pub(super) fn unseen(positions: &[u32], window: Option<NonZeroU32>, next: u32) -> usize {
    match window.and_then(|window| next.checked_sub(window.get())) {
        Some(last) => positions.partition_point(|&position| position <= last),
        None => 0,
    }
}
