//! What is linked: no panic, no allocator, and no more code than the limit.

use std::fs;

use object::{Object, ObjectSection, ObjectSymbol};

use crate::board::{ALL_TYPES, Board, M0, M4F, RV32IMAC};

/// Links the program that links only without a panic, and returns its bytes of code: core, tokenizer, sampler, startup.
fn linked_without_a_panic(board: &Board, opt_level: &str, features: &str) -> Option<u64> {
    if !board.is_here("that no panic can be reached in linked firmware") {
        return None;
    }
    let elf = board.build("proof", opt_level, features).unwrap_or_else(|error| {
        panic!("a panic can be reached on {} at opt-level {opt_level}, or it does not build:\n{error}", board.target)
    });
    let bytes = fs::read(elf).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let names: Vec<&str> = elf.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    assert!(names.iter().any(|name| name.contains("pocketlm")), "the program has no symbols");
    for word in ["panic", "rust_alloc", "rust_realloc", "malloc", "unwind"] {
        let found: Vec<_> = names.iter().filter(|name| name.contains(word)).collect();
        assert!(found.is_empty(), "{} at opt-level {opt_level}: {found:?}", board.target);
    }
    let text = elf.section_by_name(".text").unwrap().size();
    println!("{}: {features} at opt-level {opt_level}: .text {text}", board.target);
    Some(text)
}

#[test]
fn no_panic_and_no_allocator_is_linked_for_armv6m() {
    for opt_level in ["s", "3"] {
        linked_without_a_panic(&M0, opt_level, ALL_TYPES);
    }
}

#[test]
fn no_panic_and_no_allocator_is_linked_for_a_cortex_m4f_and_the_code_stays_below_its_limit() {
    for opt_level in ["s", "3"] {
        linked_without_a_panic(&M4F, opt_level, ALL_TYPES);
    }
    // Weights in q8, keys and values in f32.
    if let Some(text) = linked_without_a_panic(&M4F, "s", "f32,q8") {
        assert!(text <= 60 * 1024, ".text is {text} bytes");
    }
}

#[test]
fn no_panic_and_no_allocator_is_linked_for_rv32imac() {
    for opt_level in ["s", "3"] {
        linked_without_a_panic(&RV32IMAC, opt_level, ALL_TYPES);
    }
}
