//! The model, in a section of its own: a linker script can put it where there is room (`memory/`).

use pocketlm::model::Header;
use pocketlm::run::Plan;

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
pub const PLAN: Plan = match Header::read(&ALIGNED.0) {
    Ok(header) => Plan::new(&header),
    Err(_) => panic!("POCKETLM_IMAGE is not an image of this version of pocketlm"),
};
