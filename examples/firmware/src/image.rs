//! The model, in a section of its own: a linker script can put it where there is room (`memory/`).

use pocketlm::run::Plan;

use crate::board;

/// An image has to start at a multiple of 64.
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

// SAFETY: `.image` is a section that is only ever read, like `.rodata`.
#[unsafe(link_section = ".image")]
static ALIGNED: Aligned<{ include_bytes!(env!("POCKETLM_IMAGE")).len() }> =
    Aligned(*include_bytes!(env!("POCKETLM_IMAGE")));

/// The image that `build.rs` chose: the built-in story, or the file that `POCKETLM_IMAGE` names.
pub static IMAGE: &[u8] = &ALIGNED.0;

/// A plan for the image; a file that is no image does not compile.
pub const PLAN: Plan = Plan::of(&ALIGNED.0);

/// The images that lie in the region `IMAGE`, one after the other, where the program itself has put
/// none there.
pub fn images() -> impl Iterator<Item = &'static [u8]> {
    let mut rest = board::partition();
    core::iter::from_fn(move || {
        if !rest.starts_with(b"pocketlm") {
            return None;
        }
        // An image says how long it is; the rest of the check is `Model::open`'s.
        let length = rest.get(16..24)?.try_into().map(u64::from_le_bytes).ok()?;
        let (image, after) =
            rest.split_at_checked(usize::try_from(length).ok().filter(|&length| length > 0)?)?;
        rest = after;
        Some(image)
    })
}
