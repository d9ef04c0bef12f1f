//! The fuzz targets over their corpus, and over a fixed series of damaged seeds: what the fuzzer (`tests/fuzz/run`) has
//! learned and found is tried again with every change, without it.
#![cfg(feature = "std")]

#[path = "fuzz/src/lib.rs"]
mod fuzz;

use fuzz::{TARGETS, seeds, unpack};

/// Damaged seeds of each target.
const DAMAGED: u32 = 1500;

/// xorshift32.
fn next(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}

#[test]
fn no_input_of_the_corpus_breaks_a_target() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in TARGETS {
        let corpus = unpack(&std::fs::read(folder.join(name)).unwrap());
        assert!(corpus.len() > 20, "{name}: hardly a corpus");
        for input in corpus {
            eprintln!("{name}: {}", input.escape_ascii());
            target(&input);
        }
    }
}

#[test]
fn no_damaged_seed_breaks_a_target() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        let mut state = 0x9e37_79b9;
        for index in 0..DAMAGED {
            let mut input = seeds[index as usize % seeds.len()].clone();
            for _ in 0..next(&mut state) % 4 {
                let at = next(&mut state) as usize % input.len();
                match next(&mut state) % 4 {
                    0 => input[at] ^= 1 << (next(&mut state) % 8),
                    1 => input[at] = next(&mut state) as u8,
                    2 => input.truncate(at.max(1)),
                    _ => drop(input.splice(at..at, input[at..input.len().min(at + 8)].to_vec())),
                }
            }
            eprintln!("{name} {index}");
            target(&input);
        }
    }
}
