//! [`Sampler`]: the settings and how they are applied. The [module](super) says in which order.

use pocketlm_kernels::math::exp;

use super::choice::{Choice, Distribution};
use super::pcg32::Pcg32;
use super::penalties::Penalties;
use crate::Error;
#[cfg(feature = "grammar")]
use crate::grammar::Constraint;

/// Chooses the next token from logits. The [module](super) says what happens in which order.
///
/// ```
/// use pocketlm::sample::{Penalties, Recent, Sampler};
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
/// Each setting has a method that builds (`temperature`) and one that changes a sampler in use
/// (`set_temperature`). A value out of range is replaced by the nearest valid one, as each method
/// says. It never makes sampling fail.
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
    /// Draws from the distribution of the model (temperature 1, no filter), with a random number
    /// generator seeded by `seed`.
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

    /// Always chooses the largest logit after bias and penalties; of equal ones, the lowest id.
    pub const fn greedy() -> Self {
        Sampler::new(0).temperature(0.0)
    }

    /// Divides the logits by `temperature`. 0, less and NaN are greedy.
    pub const fn temperature(mut self, temperature: f32) -> Self {
        self.set_temperature(temperature);
        self
    }

    /// Keeps the `k` largest logits; of equal ones at the border, those with lower ids. 0 keeps
    /// all.
    pub const fn top_k(mut self, k: usize) -> Self {
        self.set_top_k(k);
        self
    }

    /// Keeps the fewest tokens, most probable first, whose probabilities add up to at least `p`
    /// (`p` is rounded to a multiple of 2⁻³²). 1, more and NaN keep all. 0 and less keep one.
    pub const fn top_p(mut self, p: f32) -> Self {
        self.set_top_p(p);
        self
    }

    /// Keeps tokens at least `p` times as probable as the most probable one. 0, less and NaN keep
    /// all. 1 and more keep those equal to the best. A `p` below the smallest normal number counts
    /// as that number.
    pub fn min_p(mut self, p: f32) -> Self {
        self.set_min_p(p);
        self
    }

    /// Adds `bias` to the logit of `id`, for each `(id, bias)`; −∞ forbids a token.
    pub const fn logit_bias(mut self, bias: &'a [(u32, f32)]) -> Self {
        self.bias = bias;
        self
    }

    /// Penalises tokens that occurred recently.
    pub fn penalties(mut self, penalties: Penalties<'a>) -> Self {
        self.penalties = Some(penalties);
        self
    }

    /// Starts the random number generator again from `seed`.
    pub const fn set_seed(&mut self, seed: u64) {
        self.generator = Pcg32::new(seed);
    }

    /// See [`temperature`](Sampler::temperature).
    pub const fn set_temperature(&mut self, temperature: f32) {
        self.temperature = if temperature > 0.0 { temperature } else { 0.0 };
    }

    /// See [`top_k`](Sampler::top_k).
    pub const fn set_top_k(&mut self, k: usize) {
        self.top_k = if k == 0 { None } else { Some(k) };
    }

    /// See [`top_p`](Sampler::top_p).
    pub const fn set_top_p(&mut self, p: f32) {
        const TWO_TO_32: f32 = 4_294_967_296.0;
        self.top_p = if p < 1.0 {
            Some((p * TWO_TO_32) as u32)
        } else {
            None
        };
    }

    /// See [`min_p`](Sampler::min_p).
    pub fn set_min_p(&mut self, p: f32) {
        self.ln_min_p = if p > 0.0 {
            Some(ln(if p < 1.0 { p } else { 1.0 }))
        } else {
            None
        };
    }

    /// See [`logit_bias`](Sampler::logit_bias).
    pub const fn set_logit_bias(&mut self, bias: &'a [(u32, f32)]) {
        self.bias = bias;
    }

    /// See [`penalties`](Sampler::penalties); `None` turns them off.
    pub fn set_penalties(&mut self, penalties: Option<Penalties<'a>>) {
        self.penalties = penalties;
    }

    /// Bytes of RAM that a sampler with a window of `window` tokens holds: itself and the window.
    /// During a choice there is also a [`Choice`] (about 700 bytes), and about as much again on the
    /// stack, whatever the vocabulary.
    pub const fn bytes(window: usize) -> usize {
        size_of::<Sampler<'static>>() + window * size_of::<super::Recent>()
    }

    /// Chooses a token and enters it in the penalty window. Each choice takes exactly one number
    /// from the generator, a greedy choice as well, so the `n`-th token of a seed does not depend
    /// on earlier settings.
    ///
    /// `logits`: `[vocab_size]`; overwritten.
    ///
    /// # Errors
    ///
    /// [`Error::NoCandidate`] if no logit is above −∞ (or there are none);
    /// [`Error::TokenOutOfRange`] if the bias names an id that has no logit. The generator has not
    /// moved then.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, Error> {
        let mut choice = Choice::new();
        loop {
            if let Some(id) = self.step(&mut choice, logits, u32::MAX)? {
                return Ok(id);
            }
        }
    }

    /// [`sample`](Sampler::sample) in calls of bounded length, for a loop that has other things to
    /// do. Start with [`Choice::new`] and call this with the same logits until it returns a token.
    ///
    /// The work of a call costs about `budget`. A cost of 1 is a look at 16 logits, or at 16 tokens
    /// of the bias or the penalty window; the smallest piece of work costs 4. For small models a
    /// cost of 1 takes about as long as in [`Session::step`](crate::run::Session::step), so one
    /// budget serves both.
    /// Entering the token in the penalty window is not divided; it takes time proportional to the
    /// window.
    ///
    /// Once there is a token, further calls return it and do nothing else. A choice that is dropped
    /// before that has moved neither the generator nor the penalty window, but has changed the
    /// logits. If the logits or settings change between calls, the result is some token or an
    /// error, and nothing worse.
    ///
    /// ```
    /// use pocketlm::sample::{Choice, Sampler};
    ///
    /// let mut sampler = Sampler::new(42).top_k(40).top_p(0.95);
    /// let mut logits = [0.0; 1000];
    /// let mut choice = Choice::new();
    /// let id = loop {
    ///     match sampler.step(&mut choice, &mut logits, 10)? {
    ///         None => { /* feed the watchdog */ }
    ///         Some(id) => break id,
    ///     }
    /// };
    /// assert_eq!(id, Sampler::new(42).top_k(40).top_p(0.95).sample(&mut [0.0; 1000])?);
    /// # Ok::<(), pocketlm::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`sample`](Sampler::sample).
    pub fn step(
        &mut self,
        choice: &mut Choice,
        logits: &mut [f32],
        budget: u32,
    ) -> Result<Option<u32>, Error> {
        let id = choice.chosen();
        if id.is_some() {
            return Ok(id);
        }
        let id = choice.advance_to_token(self, logits, budget)?;
        if let Some(id) = id {
            self.generator.next();
            self.accept(id);
        }
        Ok(id)
    }

    /// [`step`](Sampler::step) among the tokens that `constraint` allows: the choice is the same as
    /// if the logits of all others were −∞. A greedy choice tests the best token first, and
    /// computes the mask only if that token is forbidden. The constraint does not move on: pass the
    /// token to [`accept`](Constraint::accept).
    ///
    /// A choice has up to three parts: the best token, the mask, and the rest. A part may use all
    /// of `budget`, so a call takes up to three times as long as one of [`step`](Sampler::step).
    ///
    /// # Errors
    ///
    /// Those of [`sample`](Sampler::sample).
    #[cfg(feature = "grammar")]
    pub fn step_constrained(
        &mut self,
        choice: &mut Choice,
        constraint: &Constraint<'_>,
        logits: &mut [f32],
        budget: u32,
    ) -> Result<Option<u32>, Error> {
        let chosen = choice.chosen();
        if chosen.is_some() {
            return Ok(chosen);
        }
        if self.temperature == 0.0 && choice.masking.is_new() {
            let Some(best) = choice.find_best(self, logits, budget)? else {
                return Ok(None);
            };
            if constraint.allows(best) {
                choice.masking.finish();
            } else {
                choice.again();
                choice.masking.begin();
            }
        }
        if !constraint.mask_step(&mut choice.masking, logits, budget) {
            return Ok(None);
        }
        self.step(choice, logits, budget)
    }

    /// Enters a token that was not sampled here (of the prompt, or a forced one) in the penalty
    /// window.
    pub fn accept(&mut self, id: u32) {
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(id);
        }
    }

    /// Empties the penalty window, for a new text. The generator is not changed.
    pub fn forget(&mut self) {
        if let Some(penalties) = &mut self.penalties {
            penalties.forget();
        }
    }

    /// What [`sample`](Sampler::sample) would draw from, in place of the logits: to show
    /// probabilities, or to draw with another generator.
    ///
    /// # Errors
    ///
    /// Those of [`sample`](Sampler::sample).
    pub fn distribution<'l>(&self, logits: &'l mut [f32]) -> Result<Distribution<'l>, Error> {
        Distribution::of(self, logits)
    }
}

/// The natural logarithm of a probability, to a few ulp. Anything below the smallest normal number
/// counts as that number. A firmware has the exponential anyway; Newton's method with it takes a
/// fifth of the code of libm's logarithm.
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
}
