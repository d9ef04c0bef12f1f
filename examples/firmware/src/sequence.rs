//! The tokens that `check` feeds. The host test that compares digests includes this file.

/// How many tokens there are: more than the story model's window of 64.
pub const TOKENS: usize = 72;
/// The plan's context.
pub const CONTEXT: u32 = 80;
/// The plan's batch.
pub const BATCH: u32 = 8;
/// What a slice of the step run may cost: it divides no row count of the models here.
pub const BUDGET: u32 = 1000;

/// Tokens all over a vocabulary.
pub fn tokens(vocab_size: u32) -> [u32; TOKENS] {
    core::array::from_fn(|index| {
        let index = index as u32;
        (2 + index * (31 + 7 * index)) % vocab_size.max(1)
    })
}
