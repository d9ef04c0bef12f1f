//! [`Sampler`]: from the logits of a position to the next token, in place, without heap, the same choice on
//! every target.
//!
//! # Order of application
//!
//! That of llama.cpp's default chain, which `llama-cli` prints when it starts (`logit-bias → penalties → …
//! → top-k → … → top-p → min-p → … → temp → dist`), with the parts we have:
//!
//! 1. **logit bias**: `logit += bias`.
//! 2. **penalties**, for each token that occurs `count > 0` times in the window: a logit `> 0` is divided by
//!    `repeat`, any other is multiplied by it; then `logit -= frequency * count + presence`.
//! 3. **top-k**: the `k` largest logits stay.
//! 4. **top-p**: of those, the fewest whose probabilities, largest first, add up to at least `p`.
//! 5. **min-p**: of those, the ones at least `min_p` times as probable as the most probable token.
//! 6. **temperature**, then one draw. Temperature 0 is greedy: the largest logit, no filters.
//!
//! So top-p and min-p see the model's own probabilities, before temperature (Hugging Face applies temperature first).
//!
//! # One order, three cuts
//!
//! Put the tokens in order: larger logit first, of equal logits the lower id first. Each of the three filters
//! keeps a *prefix* of this order, so a filter need not sort, mark or move anything: it finds a place in the
//! order, a logit and an id (`Cut`). Top-k and top-p find theirs as a radix sort would, six bits of the logit at a
//! time and only in the bucket where the cut is: six passes over the logits, whatever they are. On a vocabulary of
//! 262,144 that takes about 1 ms for top-k, and 6 ms for top-p alone over a flat distribution (one x86-64 core).
//!
//! # Same choice everywhere
//!
//! Probabilities are integers: a token's *weight* is `exp((logit − max) / temperature)` in units of 2⁻³¹, rounded
//! down. Sums of integers have no rounding, so neither the order of summation nor the target matters. Tokens less
//! probable than 2⁻³¹ times the best have weight 0 and are never drawn.
//!
//! # Any logits
//!
//! NaN counts as −∞, and a token at −∞ is never chosen. Tokens at +∞ share the whole probability. When no token is
//! left, that is an error, [`Error::NoCandidate`]: a model whose logits are all NaN should not go on
//! talking in token 0.

use pocketlm_kernels::math::exp;

use crate::Error;

/// The weight of the most probable token, 2³¹. See [`Distribution::weights`].
const FULL: f32 = 2_147_483_648.0;

/// How many logits are passed over at once.
const CHUNK: usize = 64;

/// Chooses the next token from logits. See the [module](self) for what happens in which order.
///
/// ```
/// use pocketlm::text::{Penalties, Recent, Sampler};
///
/// let mut window = [Recent::EMPTY; 64];
/// let mut sampler = Sampler::new(42)
///     .temperature(0.8)
///     .top_k(40)
///     .top_p(0.95)
///     .min_p(0.05)
///     .penalties(Penalties::over(&mut window).repeat(1.1));
///
/// let mut logits = [0.5, 3.0, -1.0, f32::NAN];
/// let id = sampler.sample(&mut logits)?;
/// assert_eq!(id, 1);
/// # Ok::<(), pocketlm::Error>(())
/// ```
///
/// A setting out of its range is taken as the nearest one that makes sense (as each method says) and never
/// makes sampling fail.
#[derive(Debug)]
pub struct Sampler<'a> {
    generator: Pcg32,
    temperature: f32,
    top_k: Option<usize>,
    /// In units of 2⁻³².
    top_p: Option<u32>,
    /// Its natural logarithm.
    ln_min_p: Option<f32>,
    bias: &'a [(u32, f32)],
    penalties: Option<Penalties<'a>>,
}

impl<'a> Sampler<'a> {
    /// Draws from the model's own distribution (temperature 1, nothing cut off), with a generator seeded by `seed`.
    pub const fn new(seed: u64) -> Self {
        Sampler {
            generator: Pcg32::new(seed),
            temperature: 1.0,
            top_k: None,
            top_p: None,
            ln_min_p: None,
            bias: &[],
            penalties: None,
        }
    }

    /// Always the largest logit after bias and penalties; of equal ones, the lowest id.
    pub const fn greedy() -> Self {
        Sampler::new(0).temperature(0.0)
    }

    /// Divides the logits. 0, less and NaN are greedy.
    pub const fn temperature(mut self, temperature: f32) -> Self {
        self.temperature = if temperature > 0.0 { temperature } else { 0.0 };
        self
    }

    /// Keeps the `k` largest logits, of equal ones at the border the lower ids. 0: all.
    pub const fn top_k(mut self, k: usize) -> Self {
        self.top_k = if k == 0 { None } else { Some(k) };
        self
    }

    /// Keeps the fewest tokens, most probable first, whose probabilities add up to at least `p` (but for rounding
    /// `p` to a multiple of 2⁻³²). 1, more and NaN: all. 0 and less: one.
    pub const fn top_p(mut self, p: f32) -> Self {
        const TWO_TO_32: f32 = 4_294_967_296.0;
        self.top_p = if p < 1.0 { Some((p * TWO_TO_32) as u32) } else { None };
        self
    }

    /// Keeps tokens at least `p` times as probable as the most probable one. 0, less and NaN: all. 1 and more:
    /// those equal to the best.
    pub fn min_p(mut self, p: f32) -> Self {
        self.ln_min_p = if p > 0.0 { Some(libm::logf(p.min(1.0))) } else { None };
        self
    }

    /// Adds `bias` to the logit of `id`, for each `(id, bias)`; −∞ forbids a token.
    pub const fn logit_bias(mut self, bias: &'a [(u32, f32)]) -> Self {
        self.bias = bias;
        self
    }

    /// Penalises tokens seen recently.
    pub fn penalties(mut self, penalties: Penalties<'a>) -> Self {
        self.penalties = Some(penalties);
        self
    }

    /// Bytes of RAM that a sampler with a window of this many tokens holds: itself and the window. While it samples,
    /// there is about 1 KiB on the stack besides, whatever the vocabulary.
    pub const fn bytes(window: usize) -> usize {
        size_of::<Sampler<'static>>() + window * size_of::<Recent>()
    }

    /// Chooses a token and enters it in the penalty window. Each choice takes exactly one number from the
    /// generator, greedy ones as well, so the `n`-th token of a seed does not depend on earlier settings.
    ///
    /// `logits`: `[vocab_size]`; overwritten.
    ///
    /// # Errors
    ///
    /// [`Error::NoCandidate`] when no logit is above −∞ (or there are none); [`Error::TokenOutOfRange`] when the
    /// bias names an id that has no logit. The generator has not moved then.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, Error> {
        let id = if self.temperature == 0.0 {
            let id = self.best(logits)?.id;
            self.generator.next();
            id
        } else {
            let distribution = self.distribution(logits)?;
            distribution.choose(self.generator.next())
        };
        self.accept(id);
        Ok(id)
    }

    /// Enters a token that was not sampled here (the prompt's, a forced one) in the penalty window.
    pub fn accept(&mut self, id: u32) {
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(id);
        }
    }

    /// Empties the penalty window, for a new text. The generator goes on where it is.
    pub fn forget(&mut self) {
        if let Some(penalties) = &mut self.penalties {
            penalties.forget();
        }
    }

    /// What [`sample`](Sampler::sample) would draw from, in place of the logits: for showing probabilities, or for
    /// drawing with a generator of the caller's.
    ///
    /// # Errors
    ///
    /// Those of [`sample`](Sampler::sample).
    pub fn distribution<'l>(&self, logits: &'l mut [f32]) -> Result<Distribution<'l>, Error> {
        let Best { logit: max, id } = self.best(logits)?;
        let mut cut = Cut::EVERYTHING;
        if self.temperature == 0.0 {
            cut = Cut { key: key(max), last_id: id as usize };
        } else {
            if let Some(k) = self.top_k {
                cut = cut_where(logits, cut, k as u64, None);
            }
            if let Some(p) = self.top_p {
                let mut total = 0;
                for_each(logits, logit(cut.key), Some(max), |id, logit, weight| {
                    total += if cut.keeps(id, key(logit)) { weight } else { 0 };
                });
                cut = cut_where(logits, cut, scaled(total, p).max(1), Some(max));
            }
            if let Some(ln_min_p) = self.ln_min_p {
                cut = cut.and(Cut { key: key(max + ln_min_p), last_id: usize::MAX });
            }
        }

        // Any temperature will do for the single token that greedy keeps.
        let temperature = if self.temperature == 0.0 { 1.0 } else { self.temperature };
        let floor = logit(cut.key);
        let mut total = 0;
        for (chunk, first) in logits.chunks_mut(CHUNK).zip((0..).step_by(CHUNK)) {
            if !reaches(chunk, floor) {
                chunk.fill(0.0);
                continue;
            }
            for (logit, id) in chunk.iter_mut().zip(first..) {
                let kept = cut.keeps(id, key(*logit));
                *logit = if kept { weight((*logit - max) / temperature) } else { 0.0 };
            }
            for weight in chunk {
                let whole = *weight as u32;
                total += u64::from(whole);
                // Exact: rounded down, a weight has no more significant bits than before.
                *weight = whole as f32;
            }
        }
        Ok(Distribution { weights: logits, total })
    }

    /// Applies bias and penalties, makes the logits comparable (no NaN, no +∞, no −0), and finds the best.
    fn best(&self, logits: &mut [f32]) -> Result<Best, Error> {
        for &(id, bias) in self.bias {
            match logits.get_mut(id as usize) {
                Some(logit) => *logit += bias,
                None => return Err(Error::TokenOutOfRange { token: id, vocab_size: logits.len() as u32 }),
            }
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(logits);
        }

        let mut max = f32::NEG_INFINITY;
        for logit in logits.iter_mut() {
            // Adding 0 turns −0 into +0, so that equal logits have equal keys.
            *logit = if logit.is_nan() { f32::NEG_INFINITY } else { *logit + 0.0 };
            max = if *logit > max { *logit } else { max };
        }
        if max == f32::INFINITY {
            for logit in logits.iter_mut() {
                *logit = if *logit == f32::INFINITY { 0.0 } else { f32::NEG_INFINITY };
            }
            max = 0.0;
        }
        if max == f32::NEG_INFINITY {
            return Err(Error::NoCandidate);
        }
        let id = logits.iter().position(|&logit| logit == max).ok_or(Error::NoCandidate)?;
        Ok(Best { logit: max, id: id as u32 })
    }
}

/// The largest logit, and the lowest id that has it.
struct Best {
    logit: f32,
    id: u32,
}

/// The probabilities a token is drawn from; see [`Sampler::distribution`].
#[derive(Debug)]
pub struct Distribution<'l> {
    weights: &'l [f32],
    total: u64,
}

impl Distribution<'_> {
    /// A token's weight is its probability times [`total`](Distribution::total): a whole number up to 2³¹,
    /// which the most probable token has. `[vocab_size]`.
    pub fn weights(&self) -> &[f32] {
        self.weights
    }

    /// The sum of the weights; at least 2³¹.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The token that a number drawn uniformly from all of `u32` stands for: the first whose weight, added to those
    /// of the lower ids, exceeds `draw / 2³² * total`, rounded down.
    pub fn choose(&self, draw: u32) -> u32 {
        let mut left = scaled(self.total, draw);
        let mut chosen = 0;
        for (id, &weight) in self.weights.iter().enumerate() {
            if weight == 0.0 {
                continue;
            }
            let weight = u64::from(weight as u32);
            chosen = id as u32;
            if left < weight {
                break;
            }
            left -= weight;
        }
        chosen
    }
}

/// `total * fraction / 2³²`, rounded down; exact, since neither half overflows.
const fn scaled(total: u64, fraction: u32) -> u64 {
    let fraction = fraction as u64;
    (total >> 32) * fraction + (((total & 0xffff_ffff) * fraction) >> 32)
}

/// `exp(distance)` in units of 2⁻³¹, not yet rounded down, for a distance from the best logit (which is not above 0).
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

/// A place in the order of tokens (larger logit first, of equal logits the lower id first): what is before it
/// stays, itself included.
#[derive(Clone, Copy, Debug)]
struct Cut {
    key: u32,
    /// The last id that stays, of those whose key is the cut's.
    last_id: usize,
}

impl Cut {
    /// Keeps every token above −∞: `0x007f_ffff` is the key of −∞.
    const EVERYTHING: Cut = Cut { key: 0x0080_0000, last_id: usize::MAX };

    fn keeps(self, id: usize, key: u32) -> bool {
        key > self.key || (key == self.key && id <= self.last_id)
    }

    /// The one that keeps less.
    fn and(self, other: Cut) -> Cut {
        if self.keeps(other.last_id, other.key) { other } else { self }
    }
}

/// Calls `visit` with id, logit and weight of the tokens with a logit of at least `floor`, among others. The weight is
/// the token's mass, given the best logit, or 1.
///
/// Whole chunks below the floor are passed over: the filters leave few tokens of many, and then looking for them is
/// nearly all the work.
fn for_each(logits: &[f32], floor: f32, max: Option<f32>, mut visit: impl FnMut(usize, f32, u64)) {
    let mut weights = [1.0; CHUNK];
    for (chunk, first) in logits.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        if reaches(chunk, floor) {
            if let Some(max) = max {
                weigh(chunk, max, &mut weights);
            }
            for ((&logit, &weight), id) in chunk.iter().zip(&weights).zip(first..) {
                visit(id, logit, u64::from(weight as u32));
            }
        }
    }
}

/// Whether any of a chunk is at the floor or above. This loop and the next are plain enough to become vector code.
fn reaches(chunk: &[f32], floor: f32) -> bool {
    chunk.iter().fold(false, |hit, &logit| hit | (logit >= floor))
}

/// The weights of a chunk.
fn weigh(chunk: &[f32], max: f32, weights: &mut [f32; CHUNK]) {
    for (place, &logit) in weights.iter_mut().zip(chunk) {
        *place = weight(logit - max);
    }
}

/// The fewest tokens of those `within` keeps, in order, whose weights ([`for_each`]) add up to at least
/// `target` (which is not 0); all of them if they don't.
fn cut_where(logits: &[f32], within: Cut, target: u64, max: Option<f32>) -> Cut {
    const DIGIT: u32 = 6;
    let mut missing = target;
    let mut found = 0; // the key of the last token that stays, as far as it is known:
    let mut unknown = u32::BITS; // how many of its low bits are not
    while unknown > 0 {
        let shift = unknown.saturating_sub(DIGIT);
        let known = u32::MAX.checked_shl(unknown).unwrap_or(0);
        let mut buckets = [0u64; 1 << DIGIT];
        for_each(logits, logit(found.max(within.key)), max, |id, logit, weight| {
            let key = key(logit);
            let bucket = ((key & !known) >> shift) as usize;
            if key & known == found
                && within.keeps(id, key)
                && let Some(sum) = buckets.get_mut(bucket)
            {
                *sum += weight;
            }
        });
        let mut last = None;
        for (bucket, &sum) in (0u32..1 << DIGIT).zip(&buckets).rev() {
            if sum >= missing {
                last = Some(bucket);
                break;
            }
            missing -= sum;
        }
        let Some(bucket) = last else { return within };
        found |= bucket << shift;
        unknown = shift;
    }

    let mut last_id = usize::MAX;
    for_each(logits, logit(found), max, |id, logit, weight| {
        if key(logit) == found && missing > 0 {
            last_id = id;
            missing = missing.saturating_sub(weight);
        }
    });
    Cut { key: found, last_id }
}

/// Penalties on tokens among the most recent ones, and the window that remembers them.
///
/// The window is lent by the caller, one [`Recent`] a token (8 bytes); llama.cpp's default is 64 tokens. Each token
/// accepted and each choice takes time proportional to the window's length.
#[derive(Debug)]
pub struct Penalties<'a> {
    window: &'a mut [Recent],
    /// Where the next token goes: the first free place, then the oldest token's.
    next: usize,
    full: bool,
    repeat: f32,
    frequency: f32,
    presence: f32,
}

/// A place in the window of [`Penalties`].
#[derive(Clone, Copy, Debug)]
pub struct Recent {
    id: u32,
    /// How often `id` occurs in the window, kept at its newest occurrence; 0 at the older ones and at free places.
    count: u32,
}

impl Recent {
    /// A free place, to fill the array that is lent to [`Penalties::over`].
    pub const EMPTY: Recent = Recent { id: 0, count: 0 };
}

impl<'a> Penalties<'a> {
    /// No penalty yet, over as many recent tokens as `window` has room for.
    pub fn over(window: &'a mut [Recent]) -> Self {
        window.fill(Recent::EMPTY);
        Penalties { window, next: 0, full: false, repeat: 1.0, frequency: 0.0, presence: 0.0 }
    }

    /// Divides positive logits of recent tokens and multiplies the others (Keskar et al. 2019, arXiv:1909.05858;
    /// the sign rule is that of later implementations). 1: no penalty; 0, less and NaN as well.
    pub const fn repeat(mut self, penalty: f32) -> Self {
        self.repeat = if penalty > 0.0 { penalty } else { 1.0 };
        self
    }

    /// Subtracted once for each time the token occurs. 0: no penalty; NaN as well.
    pub const fn frequency(mut self, penalty: f32) -> Self {
        self.frequency = if penalty.is_nan() { 0.0 } else { penalty };
        self
    }

    /// Subtracted if the token occurs at all. 0: no penalty; NaN as well.
    pub const fn presence(mut self, penalty: f32) -> Self {
        self.presence = if penalty.is_nan() { 0.0 } else { penalty };
        self
    }

    fn apply(&self, logits: &mut [f32]) {
        for recent in self.window.iter().filter(|recent| recent.count > 0) {
            if let Some(logit) = logits.get_mut(recent.id as usize) {
                *logit = if *logit > 0.0 { *logit / self.repeat } else { *logit * self.repeat };
                *logit -= self.frequency * recent.count as f32 + self.presence;
            }
        }
    }

    fn accept(&mut self, id: u32) {
        let Some(place) = self.window.get_mut(self.next) else { return };
        let oldest = core::mem::replace(place, Recent::EMPTY);
        if self.full
            && oldest.count == 0
            && let Some(newest) = self.newest(oldest.id)
        {
            newest.count -= 1;
        }
        let earlier = self.newest(id).map_or(0, |newest| core::mem::take(&mut newest.count));
        if let Some(place) = self.window.get_mut(self.next) {
            *place = Recent { id, count: earlier + 1 };
        }
        self.next += 1;
        if self.next == self.window.len() {
            self.next = 0;
            self.full = true;
        }
    }

    fn newest(&mut self, id: u32) -> Option<&mut Recent> {
        self.window.iter_mut().find(|recent| recent.count > 0 && recent.id == id)
    }

    fn forget(&mut self) {
        self.window.fill(Recent::EMPTY);
        self.next = 0;
        self.full = false;
    }
}

/// PCG32 (XSH-RR 64/32, M. O'Neill 2014, <https://www.pcg-random.org>): 8 bytes of state, one 64-bit
/// multiplication a number, the same stream on every target. Not for secrets.
#[derive(Clone, Debug)]
struct Pcg32 {
    state: u64,
}

impl Pcg32 {
    /// Stream 54 of the generator, the one of the reference implementation's demo.
    const INCREMENT: u64 = 54 << 1 | 1;

    /// `pcg32_srandom_r(seed, 54)`.
    const fn new(seed: u64) -> Self {
        Pcg32 { state: Self::step(Self::step(0).wrapping_add(seed)) }
    }

    const fn step(state: u64) -> u64 {
        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(Self::INCREMENT)
    }

    fn next(&mut self) -> u32 {
        let state = self.state;
        self.state = Self::step(state);
        let mixed = (((state >> 18) ^ state) >> 27) as u32;
        mixed.rotate_right((state >> 59) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_reference_pcg32() {
        // Round 1 of `pcg32-demo` in https://github.com/imneme/pcg-c-basic, seeded (42, 54).
        let mut generator = Pcg32::new(42);
        let numbers = [(); 6].map(|()| generator.next());
        assert_eq!(numbers, [0xa15c_02b7, 0x7b47_f409, 0xba1d_3330, 0x83d2_f293, 0xbfa4_784b, 0xcbed_606e]);
    }
}
