//! What is linked: no panic, no allocator, nothing that calls itself, and no more code and data
//! than the limits.

use std::fs;

use object::{Object, ObjectSection, ObjectSymbol};

use crate::board::{Board, EVERYTHING, M0, M4F, M33, M55, RV32IMAC};
use crate::calls;

/// The most bytes of `.text`, at opt-level `s` and at `3`, with everything.
type Limits = [u64; 2];
/// The most bytes of constants, the image left out.
const RODATA: u64 = 3584;
/// The most bytes of variables beside the arena.
const BSS: u64 = 64;

/// Links the program that links only without a panic, and looks at what it became: core, tokenizer,
/// sampler, startup.
fn proven(board: &Board, opt_level: &str, features: &str, limit: u64) {
    if !board.is_here("what linked firmware can reach, and how large it is") {
        return;
    }
    let elf = board
        .build("proof", opt_level, features)
        .unwrap_or_else(|error| {
            panic!(
                "a panic can be reached on {} at opt-level {opt_level}, or it does not \
         build:\n{error}",
                board.target
            )
        });
    let bytes = fs::read(elf).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let what = format!(
        "{} ({}) at opt-level {opt_level} with {features}",
        board.title(),
        board.target
    );

    let names: Vec<&str> = elf
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .collect();
    assert!(
        names.iter().any(|name| name.contains("pocketlm")),
        "the program has no symbols"
    );
    for word in ["panic", "rust_alloc", "rust_realloc", "malloc", "unwind"] {
        let found: Vec<_> = names.iter().filter(|name| name.contains(word)).collect();
        assert!(found.is_empty(), "{what}: {found:?}");
    }

    let (recursion, functions, calls) = calls::recursion(&bytes);
    assert!(
        functions > 50 && calls > 200,
        "{what}: {functions} functions and {calls} calls are not the program's"
    );
    assert!(recursion.is_empty(), "{what}: {recursion:#?}");

    let size = |name: &str| {
        elf.section_by_name(name)
            .map_or(0, |section| section.size())
    };
    let text = size(".text");
    let rodata = size(".rodata");
    let bss = size(".data") + size(".bss") + size(".uninit");
    println!(
        "{what}: .text {text} .rodata {rodata} .bss {bss}, {functions} functions, {calls} calls"
    );
    assert!(
        text <= limit,
        "{what}: .text has {text} bytes, the limit is {limit}"
    );
    assert!(
        rodata <= RODATA,
        "{what}: .rodata has {rodata} bytes, the limit is {RODATA}"
    );
    let arena = size_of_arena();
    assert!(
        bss <= arena + BSS,
        "{what}: variables of {bss} bytes, {arena} of them the arena"
    );
}

/// The arena of `proof`.
fn size_of_arena() -> u64 {
    let story = pocketlm::include_image!("../../src/bin/pocketlm/story/story.plm");
    let header = pocketlm::model::Header::read(story).unwrap();
    pocketlm::run::Plan::new(&header)
        .context(256)
        .batch(8)
        .bytes() as u64
}

fn proven_with_everything(board: &Board, limits: Limits) {
    proven(board, "s", EVERYTHING, limits[0]);
    proven(board, "3", EVERYTHING, limits[1]);
}

#[test]
fn armv6m_firmware_cannot_panic_allocate_recurse_or_grow() {
    proven_with_everything(&M0, [57 * 1024, 94 * 1024]);
}

#[test]
fn cortex_m4f_firmware_cannot_panic_allocate_recurse_or_grow() {
    proven_with_everything(&M4F, [51 * 1024, 96 * 1024]);
}

#[test]
fn cortex_m33_firmware_cannot_panic_allocate_recurse_or_grow() {
    proven_with_everything(&M33, [51 * 1024, 95 * 1024]);
}

#[test]
fn rv32imac_firmware_cannot_panic_allocate_recurse_or_grow() {
    proven_with_everything(&RV32IMAC, [65 * 1024, 97 * 1024]);
}

#[test]
fn the_runtime_with_one_type_of_weights_fits_its_flash() {
    proven(&M4F, "s", "q8", 33 * 1024);
    // The tokenizers that are not SentencePiece as well.
    proven(&M4F, "s", "q8,nfc", 37 * 1024);
    // With drafts, which need more code.
    proven(&M4F, "s", "q8,generate", 37 * 1024);
    proven(&M4F, "3", "q8,generate", 68 * 1024);
    // With grammars and calls of tools.
    proven(&M4F, "s", "q8,grammar", 47 * 1024);
    // Smaller than small, which the README offers.
    proven(&M4F, "z", EVERYTHING, 47 * 1024);
}

#[test]
fn the_kernels_of_dsp_and_helium_cannot_panic_allocate_recurse_or_grow() {
    for (board, kernels) in [(M4F, "dsp"), (M33, "dsp"), (M55, "mve")] {
        proven(&board.with(kernels), "s", EVERYTHING, 57 * 1024);
    }
}

#[test]
fn firmware_with_a_weight_source_snapshots_and_scrub_cannot_panic_allocate_or_recurse() {
    proven(&M0, "s", "q8,blocks", 49 * 1024);
    proven(&M4F, "s", "q8,blocks", 45 * 1024);
    proven(&RV32IMAC, "s", "q8,blocks", 58 * 1024);
}

#[test]
fn firmware_with_convolutions_cannot_panic_allocate_recurse_or_grow() {
    proven(&M0, "s", "q8,convolution,blocks", 52 * 1024);
    proven(&M4F, "s", "q8,convolution", 35 * 1024);
    proven(&M4F, "3", "q8,convolution", 66 * 1024);
    proven(&RV32IMAC, "s", "q8,convolution", 47 * 1024);
}
