//! Generating text: [`Generation`] is the loop of feeding, sampling and decoding, and
//! [`PromptLookup`] drafts tokens that a session verifies in one pass.

mod generation;
mod lookup;

pub use generation::{End, Generation, Progress, STOP_STRING_BYTES};
pub use lookup::PromptLookup;
