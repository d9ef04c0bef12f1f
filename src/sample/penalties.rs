//! [`Penalties`]: lower logits for tokens that occurred recently.

use core::ops::Range;

/// Penalties on tokens among the most recent ones, and the window that remembers them.
///
/// The window is lent by the caller, one [`Recent`] a token (8 bytes); llama.cpp's default is 64
/// tokens. Each token accepted and each choice takes time proportional to the window's length.
///
/// ```
/// use pocketlm::sample::{Penalties, Recent, Sampler};
///
/// // The last 64 tokens count.
/// let mut window = [Recent::EMPTY; 64];
/// let penalties = Penalties::over(&mut window).repeat(1.1);
/// let mut sampler = Sampler::greedy().penalties(penalties);
/// let mut logits = || [1.0, 0.95, 0.0];
/// assert_eq!(sampler.sample(&mut logits())?, 0);
/// // Token 0 was just said: 1 / 1.1 is less than 0.95.
/// assert_eq!(sampler.sample(&mut logits())?, 1);
/// # Ok::<(), pocketlm::Error>(())
/// ```
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
///
/// Example: [`Penalties`].
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

    pub(super) fn accept(&mut self, id: u32) {
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

    pub(super) fn forget(&mut self) {
        self.window.fill(Recent::EMPTY);
        self.next = 0;
        self.full = false;
    }
}
