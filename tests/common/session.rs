//! Sessions to test with.

use pocketlm::host::AlignedBytes;
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session, Solo};

/// The story model.
pub static STORY: &[u8] = pocketlm::include_image!("../../src/bin/pocketlm/story/story.plm");

/// An arena for a plan, full of what was in memory before.
pub fn arena_for(plan: &Plan<'_>) -> AlignedBytes {
    dirty(0xff, plan.bytes())
}

/// Memory in which each byte is `pattern`.
pub fn dirty(pattern: u8, bytes: usize) -> AlignedBytes {
    let mut arena = AlignedBytes::zeroed(bytes);
    arena.fill(pattern);
    arena
}

/// A session of the calling thread alone.
pub fn session_in<'m, 'a>(
    model: &Model<'m>,
    plan: &Plan<'m>,
    arena: &'a mut [u8],
) -> Session<'m, 'a> {
    Session::new(model, plan, arena, &Solo).unwrap()
}
