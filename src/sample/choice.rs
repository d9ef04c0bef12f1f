//! [`Choice`]: how a [`Sampler`] chooses, in passes over the logits that can stop anywhere.
//!
//! # One order, three cuts
//!
//! Tokens are ordered: larger logit first, of equal logits the lower id first. Each of the three
//! filters keeps a *prefix* of this order. So a filter does not sort, mark or move anything. It
//! finds one place in the order, a logit and an id (`Cut`). Top-k and top-p find it like a radix
//! sort: six bits of the logit at a time, and only in the bucket that holds the cut. That takes at
//! most seven passes over the logits, six for the logit and one for the id. With a vocabulary of
//! 262,144 a choice takes about 3 ms with top-k 40, and 9 ms with top-p 0.9 alone (one x86-64
//! core).
//!
//! # In slices
//!
//! A choice is up to twenty passes over the logits. Between any two chunks of a pass its state is
//! the pass, the place and half a kilobyte of sums: a [`Choice`].
//!
//! # Same choice everywhere
//!
//! Probabilities are integers: a token's *weight* is `exp((logit − max) / temperature)` in units of
//! 2⁻³¹, rounded down. Sums of integers have no rounding, so neither the order of summation nor the
//! target matters. Tokens less probable than 2⁻³¹ times the best have weight 0 and are never drawn.

use core::ops::Range;

use pocketlm_kernels::math::exp;

use super::Sampler;
use crate::Error;
#[cfg(feature = "grammar")]
use crate::grammar::Masking;

/// The weight of the most probable token, 2³¹. See [`Distribution::weights`].
const FULL: f32 = 2_147_483_648.0;

/// How many logits are passed over at once.
const CHUNK: usize = 64;

/// A pass over the logits, or over another list.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pass {
    /// Over the bias.
    Bias,
    /// Over the window.
    Penalties,
    /// Makes the logits comparable (no NaN, no −0) and finds the largest.
    Largest,
    /// For greedy: the lowest id that has the largest logit.
    Best,
    /// If the largest is +∞: 0 in its place, and −∞ in place of all others.
    Infinite,
    /// A filter looks for the next bits of its cut's key, or, when it knows them all, for the last
    /// id.
    Find(Filter),
    /// Logits become weights.
    Weigh,
    /// Looks for the token where the draw falls.
    Draw,
    Done,
}

/// The filters that look for their cut; min-p knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filter {
    TopK,
    TopP,
}

impl Filter {
    /// How many tokens of those that are left, largest logit first, the filter keeps, or what
    /// weight they reach; `all` is the weight of all. `None` if it is not set.
    fn wanted(self, sampler: &Sampler<'_>, all: u64) -> Option<u64> {
        match self {
            Filter::TopK => sampler.top_k.map(|k| k as u64),
            Filter::TopP => sampler.top_p.map(|p| scaled(all, p).max(1)),
        }
    }
}

/// How many bits of a cut's key a pass finds.
const DIGIT: u32 = 6;

/// The state of a choice that is made in slices: see [`Sampler::step`].
///
/// It borrows nothing, so it can be kept where the caller likes, across calls of other code. It has
/// about 700 bytes.
///
/// Example: [`Sampler`](super::Sampler).
#[derive(Clone, Debug)]
pub struct Choice {
    pass: Pass,
    /// How much of the pass's list is done.
    at: usize,
    /// The largest logit.
    max: f32,
    /// What the filters so far keep.
    cut: Cut,
    /// The cut that a filter looks for, as far as it is known, and how many of its key's low bits
    /// are not.
    found: Cut,
    unknown: u32,
    /// `buckets[v]`: the sum of the weights (for top-k: the count) of the tokens whose key begins
    /// with the bits that are known, followed by `v`.
    buckets: [u64; 1 << DIGIT],
    /// What is left to find: of the sum that a filter keeps, or of the number that was drawn.
    missing: u64,
    /// The sum of the weights.
    total: u64,
    /// The token, as far as it is known.
    id: u32,
    /// The progress of the mask of a grammar.
    #[cfg(feature = "grammar")]
    pub(super) masking: Masking,
}

impl Default for Choice {
    fn default() -> Self {
        Choice::new()
    }
}

impl Choice {
    /// A choice that has not begun.
    pub const fn new() -> Self {
        Choice {
            pass: Pass::Bias,
            at: 0,
            max: f32::NEG_INFINITY,
            cut: Cut::EVERYTHING,
            found: Cut { key: 0, last_id: 0 },
            unknown: 0,
            buckets: [0; 1 << DIGIT],
            missing: 0,
            total: 0,
            id: 0,
            #[cfg(feature = "grammar")]
            masking: Masking::new(),
        }
    }

    /// The token, once it is chosen.
    pub(super) fn chosen(&self) -> Option<u32> {
        (self.pass == Pass::Done).then_some(self.id)
    }

    /// Goes on until the budget is used up or there is a token.
    pub(super) fn advance_to_token(
        &mut self,
        sampler: &Sampler,
        logits: &mut [f32],
        budget: u32,
    ) -> Result<Option<u32>, Error> {
        // Greedy has chosen when it knows the best.
        let last = if sampler.temperature == 0.0 {
            Pass::Weigh
        } else {
            Pass::Done
        };
        if !self.advance(sampler, logits, last, budget)? {
            return Ok(None);
        }
        self.pass = Pass::Done;
        Ok(Some(self.id))
    }

    /// For greedy: the best token. It stops before a pass that would change the logits again, so
    /// that [`again`](Choice::again) can start over with a mask. `None` if the budget is used up
    /// before.
    #[cfg(feature = "grammar")]
    pub(super) fn find_best(
        &mut self,
        sampler: &Sampler,
        logits: &mut [f32],
        budget: u32,
    ) -> Result<Option<u32>, Error> {
        if !self.advance(sampler, logits, Pass::Best, budget)? {
            return Ok(None);
        }
        let next = if self.max == f32::INFINITY {
            Pass::Infinite
        } else {
            Pass::Weigh
        };
        let is_known = self.advance(sampler, logits, next, budget)?;
        Ok(is_known.then_some(self.id))
    }

    /// Starts over after bias and penalties, which the logits have already.
    #[cfg(feature = "grammar")]
    pub(super) fn again(&mut self) {
        self.pass = Pass::Largest;
        self.at = 0;
        self.max = f32::NEG_INFINITY;
        self.cut = Cut::EVERYTHING;
    }

    /// Goes on until the budget is used up, or until pass `until` is next. `true` if it is.
    #[inline(never)]
    fn advance(
        &mut self,
        sampler: &Sampler,
        logits: &mut [f32],
        until: Pass,
        budget: u32,
    ) -> Result<bool, Error> {
        // In chunks, of four units each.
        let mut left = budget.div_ceil(4).max(1) as usize;
        // A setting that changed between two calls may have let it pass `until`.
        while self.pass != until && self.pass != Pass::Done {
            let length = match self.pass {
                Pass::Bias => sampler.bias.len(),
                Pass::Penalties => sampler
                    .penalties
                    .as_ref()
                    .map_or(0, |penalties| penalties.window.len()),
                Pass::Find(filter) => filter.wanted(sampler, 0).map_or(0, |_| logits.len()),
                Pass::Largest
                | Pass::Infinite
                | Pass::Best
                | Pass::Weigh
                | Pass::Draw
                | Pass::Done => logits.len(),
            };
            let undone = length.saturating_sub(self.at);
            if undone > 0 {
                if left == 0 {
                    return Ok(false);
                }
                let now = undone.min(left.saturating_mul(CHUNK));
                let end = self.at + now;
                self.scan(sampler, logits, self.at..end)?;
                // A search may have ended before.
                self.at = self.at.max(end);
                left -= now.div_ceil(CHUNK);
            } else {
                self.pass = self.next_pass(sampler)?;
                self.at = 0;
            }
        }
        Ok(true)
    }

    /// Does a part of the pass.
    fn scan(
        &mut self,
        sampler: &Sampler,
        logits: &mut [f32],
        range: Range<usize>,
    ) -> Result<(), Error> {
        let (vocab_size, first, mut max) = (logits.len(), range.start, self.max);
        let part = logits.get_mut(range.clone()).unwrap_or_default();
        match self.pass {
            Pass::Bias => {
                for &(id, bias) in sampler.bias.get(range).unwrap_or_default() {
                    match logits.get_mut(id as usize) {
                        Some(logit) => *logit += bias,
                        None => {
                            return Err(Error::TokenOutOfRange {
                                token: id,
                                vocab_size: vocab_size as u32,
                            });
                        }
                    }
                }
            }
            Pass::Penalties => {
                if let Some(penalties) = &sampler.penalties {
                    penalties.apply(range, logits);
                }
            }
            Pass::Largest => {
                for logit in part {
                    // Adding 0 turns −0 into +0, so that equal logits have equal keys.
                    *logit = if logit.is_nan() {
                        f32::NEG_INFINITY
                    } else {
                        *logit + 0.0
                    };
                    max = if *logit > max { *logit } else { max };
                }
                self.max = max;
            }
            Pass::Infinite => {
                for logit in part {
                    *logit = if *logit == f32::INFINITY {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    };
                }
            }
            Pass::Best => {
                if let Some(index) = part.iter().position(|&logit| logit == max) {
                    self.id = (first + index) as u32;
                    self.at = vocab_size;
                }
            }
            Pass::Find(filter) => {
                let Choice {
                    cut,
                    found,
                    unknown,
                    buckets,
                    missing,
                    ..
                } = self;
                let shift = unknown.saturating_sub(DIGIT);
                let known = u32::MAX.checked_shl(*unknown).unwrap_or(0);
                for_each(
                    part,
                    first,
                    logit(found.key.max(cut.key)),
                    filter,
                    max,
                    |id, logit, weight| {
                        let key = key(logit);
                        if key & known != found.key || !cut.keeps(id, key) {
                            return;
                        }
                        if *unknown == 0 {
                            if *missing > 0 {
                                found.last_id = id;
                                *missing = missing.saturating_sub(weight);
                            }
                        } else if let Some(sum) =
                            buckets.get_mut(((key & !known) >> shift) as usize)
                        {
                            *sum += weight;
                        }
                    },
                );
            }
            Pass::Weigh => {
                // Any temperature will do for the single token that greedy keeps.
                let temperature = if sampler.temperature == 0.0 {
                    1.0
                } else {
                    sampler.temperature
                };
                let cut = self.cut;
                let mut total = self.total;
                let floor = logit(cut.key);
                for (chunk, first) in part.chunks_mut(CHUNK).zip((first..).step_by(CHUNK)) {
                    if !reaches(chunk, floor) {
                        chunk.fill(0.0);
                        continue;
                    }
                    for (logit, id) in chunk.iter_mut().zip(first..) {
                        let kept = cut.keeps(id, key(*logit));
                        *logit = if kept {
                            weight((*logit - max) / temperature)
                        } else {
                            0.0
                        };
                    }
                    for weight in chunk {
                        let whole = *weight as u32;
                        total += u64::from(whole);
                        // Exact: rounded down, a weight has no more significant bits than before.
                        *weight = whole as f32;
                    }
                }
                self.total = total;
            }
            Pass::Draw => {
                if draw(part, first, &mut self.missing, &mut self.id) {
                    self.at = vocab_size;
                }
            }
            Pass::Done => {}
        }
        Ok(())
    }

    /// The pass after one that is complete.
    fn next_pass(&mut self, sampler: &Sampler) -> Result<Pass, Error> {
        Ok(match self.pass {
            Pass::Bias => Pass::Penalties,
            Pass::Penalties => Pass::Largest,
            Pass::Largest if self.max == f32::NEG_INFINITY => return Err(Error::NoCandidate),
            Pass::Largest if sampler.temperature == 0.0 => Pass::Best,
            Pass::Largest | Pass::Best if self.max == f32::INFINITY => {
                self.max = 0.0;
                Pass::Infinite
            }
            Pass::Best | Pass::Infinite if sampler.temperature == 0.0 => {
                self.cut = Cut {
                    key: key(self.max),
                    last_id: self.id as usize,
                };
                Pass::Weigh
            }
            Pass::Largest | Pass::Best | Pass::Infinite => self.look_for(Filter::TopK),
            Pass::Find(filter) => {
                if self.unknown == 0 {
                    self.cut = self.found;
                } else if self.narrow(sampler, filter).is_some() {
                    return Ok(self.pass);
                }
                match filter {
                    Filter::TopK => self.look_for(Filter::TopP),
                    Filter::TopP => {
                        if let Some(ln_min_p) = sampler.ln_min_p {
                            self.cut = self.cut.and(Cut {
                                key: key(self.max + ln_min_p),
                                last_id: usize::MAX,
                            });
                        }
                        Pass::Weigh
                    }
                }
            }
            Pass::Weigh => {
                self.missing = scaled(self.total, sampler.generator.clone().next());
                Pass::Draw
            }
            Pass::Draw | Pass::Done => Pass::Done,
        })
    }

    /// Begins to look for the fewest tokens of those left, in order, that are as many or weigh as
    /// much as the filter wants.
    fn look_for(&mut self, filter: Filter) -> Pass {
        self.found = Cut {
            key: 0,
            last_id: usize::MAX,
        };
        self.unknown = u32::BITS;
        self.buckets = [0; 1 << DIGIT];
        Pass::Find(filter)
    }

    /// Finds the bucket that the cut is in, after a pass. `None` if the filter keeps all.
    fn narrow(&mut self, sampler: &Sampler, filter: Filter) -> Option<()> {
        if self.unknown == u32::BITS {
            self.missing = filter.wanted(sampler, self.buckets.iter().sum())?;
        }
        let mut last = None;
        for (bucket, &sum) in (0u32..1 << DIGIT).zip(&self.buckets).rev() {
            if sum >= self.missing {
                last = Some(bucket);
                break;
            }
            self.missing -= sum;
        }
        let shift = self.unknown.saturating_sub(DIGIT);
        self.found.key |= last? << shift;
        self.unknown = shift;
        self.buckets = [0; 1 << DIGIT];
        Some(())
    }
}

/// The probabilities a token is drawn from; see [`Sampler::distribution`].
///
/// Example: [`Sampler`](super::Sampler).
#[derive(Debug)]
pub struct Distribution<'l> {
    weights: &'l [f32],
    total: u64,
}

impl<'l> Distribution<'l> {
    pub(super) fn of(sampler: &Sampler<'_>, logits: &'l mut [f32]) -> Result<Self, Error> {
        let mut choice = Choice::new();
        while !choice.advance(sampler, logits, Pass::Draw, u32::MAX)? {}
        Ok(Distribution {
            weights: logits,
            total: choice.total,
        })
    }

    /// A token's weight is its probability times [`total`](Distribution::total): a whole number up
    /// to 2³¹, which the most probable token has. `[vocab_size]`.
    pub fn weights(&self) -> &[f32] {
        self.weights
    }

    /// The sum of the weights; at least 2³¹.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The token that a number drawn uniformly from all of `u32` stands for: the first whose
    /// weight, added to those of the lower ids, exceeds `draw / 2³² * total`, rounded down.
    pub fn choose(&self, draw: u32) -> u32 {
        let mut before = scaled(self.total, draw);
        let mut chosen = 0;
        self::draw(self.weights, 0, &mut before, &mut chosen);
        chosen
    }
}

/// Looks among weights, the first of which is token `first`'s, for the token that the draw falls
/// on: `before` is what the weights before it add up to. `chosen` is the last with a weight so far.
/// `true` if it is the one.
fn draw(weights: &[f32], first: usize, before: &mut u64, chosen: &mut u32) -> bool {
    for (&weight, id) in weights.iter().zip(first..) {
        if weight == 0.0 {
            continue;
        }
        let weight = u64::from(weight as u32);
        *chosen = id as u32;
        if *before < weight {
            return true;
        }
        *before -= weight;
    }
    false
}

/// `total * fraction / 2³²`, rounded down; exact, since neither half overflows.
const fn scaled(total: u64, fraction: u32) -> u64 {
    let fraction = fraction as u64;
    (total >> 32) * fraction + (((total & 0xffff_ffff) * fraction) >> 32)
}

/// `exp(distance)` in units of 2⁻³¹, not yet rounded down, for a distance from the best logit
/// (which is not above 0).
#[inline(always)]
fn weight(distance: f32) -> f32 {
    exp(distance) * FULL
}

/// A number that orders as the logit does: IEEE bits with the sign turned round.
fn key(logit: f32) -> u32 {
    let bits = logit.to_bits();
    bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
}

/// The logit with this key.
fn logit(key: u32) -> f32 {
    f32::from_bits(key ^ if key >> 31 == 1 { 1 << 31 } else { u32::MAX })
}

/// A place in the order of tokens (larger logit first, of equal logits the lower id first): what is
/// before it stays, itself included.
#[derive(Clone, Copy, Debug)]
struct Cut {
    key: u32,
    /// The last id that stays, of those whose key is the cut's.
    last_id: usize,
}

impl Cut {
    /// Keeps every token above −∞: `0x007f_ffff` is the key of −∞.
    const EVERYTHING: Cut = Cut {
        key: 0x0080_0000,
        last_id: usize::MAX,
    };

    fn keeps(self, id: usize, key: u32) -> bool {
        key > self.key || (key == self.key && id <= self.last_id)
    }

    /// The one that keeps less.
    fn and(self, other: Cut) -> Cut {
        if self.keeps(other.last_id, other.key) {
            other
        } else {
            self
        }
    }
}

/// Calls `visit` with id, logit and weight of the tokens with a logit of at least `floor`, among
/// others; the first is token `first`. The weight is the token's mass for top-p, given the best
/// logit, and 1 for top-k.
///
/// Whole chunks below the floor are passed over: the filters leave few tokens of many, and then
/// looking for them is nearly all the work.
fn for_each(
    logits: &[f32],
    first: usize,
    floor: f32,
    filter: Filter,
    max: f32,
    mut visit: impl FnMut(usize, f32, u64),
) {
    let mut weights = [1.0; CHUNK];
    for (chunk, first) in logits.chunks(CHUNK).zip((first..).step_by(CHUNK)) {
        if reaches(chunk, floor) {
            if filter == Filter::TopP {
                weigh(chunk, max, &mut weights);
            }
            for ((&logit, &weight), id) in chunk.iter().zip(&weights).zip(first..) {
                visit(id, logit, u64::from(weight as u32));
            }
        }
    }
}

/// Whether any of a chunk is at the floor or above. This loop and the next are plain enough to
/// become vector code.
fn reaches(chunk: &[f32], floor: f32) -> bool {
    chunk
        .iter()
        .fold(false, |hit, &logit| hit | (logit >= floor))
}

/// The weights of a chunk.
fn weigh(chunk: &[f32], max: f32, weights: &mut [f32; CHUNK]) {
    for (place, &logit) in weights.iter_mut().zip(chunk) {
        *place = weight(logit - max);
    }
}
