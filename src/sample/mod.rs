//! From logits to the next token: in place, without a heap, the same choice on every target.
//!
//! [`Sampler`] holds the settings, the random number generator and, if wanted, [`Penalties`].
//! [`Sampler::sample`] chooses a token in one call. [`Sampler::step`] does the same in calls of
//! bounded length, with a [`Choice`] as its state.
//!
//! # Order of application
//!
//! The order is that of llama.cpp's default chain, which `llama-cli` prints when it starts
//! (`logit-bias → penalties → … → top-k → … → top-p → min-p → … → temp → dist`), with the parts
//! that exist here:
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
//! So top-p and min-p see the probabilities before temperature. (Hugging Face applies temperature
//! first.)
//!
//! # Special values
//!
//! NaN counts as −∞, and a token at −∞ is never chosen. Tokens at +∞ share the whole probability.
//! If no token is left, the result is [`Error::NoCandidate`](crate::Error::NoCandidate). So a model
//! whose logits are all NaN does not silently write token 0.

mod choice;
mod pcg32;
mod penalties;
mod sampler;

pub use choice::{Choice, Distribution};
pub use penalties::{Penalties, Recent};
pub use sampler::Sampler;
