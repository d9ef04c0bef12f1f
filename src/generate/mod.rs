//! Generating text: [`PromptLookup`] drafts tokens that a session verifies in one pass.

mod lookup;

pub use lookup::PromptLookup;
