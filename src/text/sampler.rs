//! [`Sampler`]: from the logits of a position to the next token, in place, without heap, the same
//! choice on every target.
//!
//! # Order of application
//!
//! That of llama.cpp's default chain, which `llama-cli` prints when it starts
//! (`logit-bias → penalties → … → top-k → … → top-p → min-p → … → temp → dist`), with the parts we
//! have:
//!
//! 1. **logit bias**: `logit += bias`.
//! 2. **penalties**, for each token that occurs `count > 0` times in the window: a logit `> 0` is
//!    divided by `repeat`, any other is multiplied by it; then
//!    `logit -= frequency * count + presence`.
//! 3. **top-k**: the `k` largest logits stay.
//! 4. **top-p**: of those, the fewest whose probabilities, largest first, add up to at least `p`.
//! 5. **min-p**: of those, the ones at least `min_p` times as probable as the most probable token.
//! 6. **temperature**, then one draw. Temperature 0 is greedy: the largest logit, no filters.
//!
//! So top-p and min-p see the model's own probabilities, before temperature (Hugging Face applies
//! temperature first).
//!
//! # Any logits
//!
//! NaN counts as −∞, and a token at −∞ is never chosen. Tokens at +∞ share the whole probability.
//! When no token is left, that is an error, [`Error::NoCandidate`]: a model whose logits are all
//! NaN should not go on talking in token 0.

use core::ops::Range;

use pocketlm_kernels::math::exp;

use super::sampling::{Distribution, Sampling};
use crate::Error;

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
/// A setting out of its range is taken as the nearest one that makes sense (as each method says)
/// and never makes sampling fail.
#[derive(Debug)]
pub struct Sampler<'a> {
    pub(super) generator: Pcg32,
    pub(super) temperature: f32,
    pub(super) top_k: Option<usize>,
    /// In units of 2⁻³².
    pub(super) top_p: Option<u32>,
    /// Its natural logarithm.
    pub(super) ln_min_p: Option<f32>,
    pub(super) bias: &'a [(u32, f32)],
    pub(super) penalties: Option<Penalties<'a>>,
}

impl<'a> Sampler<'a> {
    /// Draws from the model's own distribution (temperature 1, nothing cut off), with a generator
    /// seeded by `seed`.
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

    /// Keeps the fewest tokens, most probable first, whose probabilities add up to at least `p`
    /// (but for rounding `p` to a multiple of 2⁻³²). 1, more and NaN: all. 0 and less: one.
    pub const fn top_p(mut self, p: f32) -> Self {
        const TWO_TO_32: f32 = 4_294_967_296.0;
        self.top_p = if p < 1.0 {
            Some((p * TWO_TO_32) as u32)
        } else {
            None
        };
        self
    }

    /// Keeps tokens at least `p` times as probable as the most probable one. 0, less and NaN: all.
    /// 1 and more: those equal to the best. A `p` under the smallest normal number counts as that.
    pub fn min_p(mut self, p: f32) -> Self {
        self.ln_min_p = if p > 0.0 {
            Some(ln(if p < 1.0 { p } else { 1.0 }))
        } else {
            None
        };
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

    /// Bytes of RAM that a sampler with a window of this many tokens holds: itself and the window.
    /// While it samples, there are a [`Sampling`] (about 700 bytes) and as much again on the stack
    /// besides, whatever the vocabulary.
    pub const fn bytes(window: usize) -> usize {
        size_of::<Sampler<'static>>() + window * size_of::<Recent>()
    }

    /// Chooses a token and enters it in the penalty window. Each choice takes exactly one number
    /// from the generator, greedy ones as well, so the `n`-th token of a seed does not depend on
    /// earlier settings.
    ///
    /// `logits`: `[vocab_size]`; overwritten.
    ///
    /// # Errors
    ///
    /// [`Error::NoCandidate`] when no logit is above −∞ (or there are none);
    /// [`Error::TokenOutOfRange`] when the bias names an id that has no logit. The generator has
    /// not moved then.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, Error> {
        let mut sampling = self.start(logits);
        loop {
            if let Some(id) = sampling.step(u32::MAX)? {
                return Ok(id);
            }
        }
    }

    /// The same in slices of bounded size: nothing is chosen until [`Sampling::step`] has.
    pub fn start<'s, 'l>(&'s mut self, logits: &'l mut [f32]) -> Sampling<'s, 'a, 'l> {
        Sampling::new(self, logits)
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

    /// What [`sample`](Sampler::sample) would draw from, in place of the logits: for showing
    /// probabilities, or for drawing with a generator of the caller's.
    ///
    /// # Errors
    ///
    /// Those of [`sample`](Sampler::sample).
    pub fn distribution<'l>(&self, logits: &'l mut [f32]) -> Result<Distribution<'l>, Error> {
        Distribution::of(self, logits)
    }
}

/// The natural logarithm of a probability, to a few ulp; anything below the smallest normal number
/// counts as that. A microcontroller has the exponential anyway, and Newton's method makes a
/// logarithm of it in a fifth of the code that libm's takes.
fn ln(p: f32) -> f32 {
    use core::f32::consts::LN_2;

    // Below it the exponential of the negative logarithm is infinite.
    let p = if p > f32::MIN_POSITIVE {
        p
    } else {
        f32::MIN_POSITIVE
    };
    // The bits of a number, as an integer, are about proportional to its logarithm.
    let mut ln = (p.to_bits() as i32 - 1.0f32.to_bits() as i32) as f32 * (LN_2 / (1 << 23) as f32);
    for _ in 0..3 {
        ln += p * exp(-ln) - 1.0;
    }
    // Rounding must not take it above 0: the best token always stays.
    if ln < 0.0 { ln } else { 0.0 }
}

/// Penalties on tokens among the most recent ones, and the window that remembers them.
///
/// The window is lent by the caller, one [`Recent`] a token (8 bytes); llama.cpp's default is 64
/// tokens. Each token accepted and each choice takes time proportional to the window's length.
#[derive(Debug)]
pub struct Penalties<'a> {
    pub(super) window: &'a mut [Recent],
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
    /// How often `id` occurs in the window, kept at its newest occurrence; 0 at the older ones and
    /// at free places.
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
        Penalties {
            window,
            next: 0,
            full: false,
            repeat: 1.0,
            frequency: 0.0,
            presence: 0.0,
        }
    }

    /// Divides positive logits of recent tokens and multiplies the others (Keskar et al. 2019,
    /// arXiv:1909.05858; the sign rule is that of later implementations). 1: no penalty; 0, less
    /// and NaN as well.
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

    /// For the tokens in a part of the window.
    pub(super) fn apply(&self, part: Range<usize>, logits: &mut [f32]) {
        let part = self.window.get(part).unwrap_or_default();
        for recent in part.iter().filter(|recent| recent.count > 0) {
            if let Some(logit) = logits.get_mut(recent.id as usize) {
                *logit = if *logit > 0.0 {
                    *logit / self.repeat
                } else {
                    *logit * self.repeat
                };
                *logit -= self.frequency * recent.count as f32 + self.presence;
            }
        }
    }

    fn accept(&mut self, id: u32) {
        let Some(place) = self.window.get_mut(self.next) else {
            return;
        };
        let oldest = core::mem::replace(place, Recent::EMPTY);
        if self.full
            && oldest.count == 0
            && let Some(newest) = self.newest(oldest.id)
        {
            newest.count -= 1;
        }
        let earlier = self
            .newest(id)
            .map_or(0, |newest| core::mem::take(&mut newest.count));
        if let Some(place) = self.window.get_mut(self.next) {
            *place = Recent {
                id,
                count: earlier + 1,
            };
        }
        self.next += 1;
        if self.next == self.window.len() {
            self.next = 0;
            self.full = true;
        }
    }

    fn newest(&mut self, id: u32) -> Option<&mut Recent> {
        self.window
            .iter_mut()
            .find(|recent| recent.count > 0 && recent.id == id)
    }

    fn forget(&mut self) {
        self.window.fill(Recent::EMPTY);
        self.next = 0;
        self.full = false;
    }
}

/// PCG32 (XSH-RR 64/32, M. O'Neill 2014, <https://www.pcg-random.org>): 8 bytes of state, one
/// 64-bit multiplication a number, the same stream on every target. Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Pcg32 {
    state: u64,
}

impl Pcg32 {
    /// Stream 54 of the generator, the one of the reference implementation's demo.
    const INCREMENT: u64 = 54 << 1 | 1;

    /// `pcg32_srandom_r(seed, 54)`.
    const fn new(seed: u64) -> Self {
        Pcg32 {
            state: Self::step(Self::step(0).wrapping_add(seed)),
        }
    }

    const fn step(state: u64) -> u64 {
        state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(Self::INCREMENT)
    }

    pub(super) fn next(&mut self) -> u32 {
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
    fn a_logarithm_is_one_up_to_rounding() {
        assert_eq!(ln(1.0), 0.0);
        for below in 1..1000 {
            assert!(ln(f32::from_bits(1.0f32.to_bits() - below)) <= 0.0);
        }
        for subnormal in [1, 1000, f32::MIN_POSITIVE.to_bits() - 1] {
            assert_eq!(ln(f32::from_bits(subnormal)), ln(f32::MIN_POSITIVE));
        }
        for bits in (f32::MIN_POSITIVE.to_bits()..1.0f32.to_bits()).step_by(9973) {
            let p = f32::from_bits(bits);
            let exact = libm::log(p as f64);
            assert!(
                (ln(p) as f64 - exact).abs() <= 2e-7 * (1.0 - exact),
                "{p}: {} for {exact}",
                ln(p)
            );
        }
    }

    #[test]
    fn the_generator_is_the_reference_pcg32() {
        // Round 1 of `pcg32-demo` in https://github.com/imneme/pcg-c-basic, seeded (42, 54).
        let mut generator = Pcg32::new(42);
        let numbers = [(); 6].map(|()| generator.next());
        assert_eq!(
            numbers,
            [
                0xa15c_02b7,
                0x7b47_f409,
                0xba1d_3330,
                0x83d2_f293,
                0xbfa4_784b,
                0xcbed_606e
            ]
        );
    }
}
