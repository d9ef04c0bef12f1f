//! The fuzz targets over their corpus, and over a fixed series of damaged seeds: what the fuzzer
//! (`tests/fuzz/run`) has learned and found is tried again with every change, without it.
#![cfg(feature = "chat")]

#[path = "fuzz/src/lib.rs"]
mod fuzz;

use std::panic::catch_unwind;

use fuzz::{TARGETS, Target, seeds, unpack};

/// Damaged seeds of each target; a night may try more.
fn damaged() -> usize {
    std::env::var("POCKETLM_DAMAGED").map_or(1000, |count| count.parse().unwrap())
}

/// All targets, or the one that is named.
fn targets() -> impl Iterator<Item = (&'static str, Target)> {
    let only = std::env::var("POCKETLM_FUZZ").ok();
    TARGETS
        .into_iter()
        .filter(move |(name, _)| only.as_ref().is_none_or(|only| only == name))
}

fn check(name: &str, target: Target, input: &[u8]) {
    if catch_unwind(|| target(input)).is_err() {
        panic!("{name}: {}", input.escape_ascii());
    }
}

/// xorshift64.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) as usize
}

#[test]
fn no_seed_and_no_input_of_the_corpus_breaks_a_target() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let folder = std::env::var_os("POCKETLM_CORPUS").map_or(folder, Into::into);
    for (name, target) in targets() {
        let corpus = unpack(&std::fs::read(folder.join(name)).unwrap());
        assert!(
            corpus.len() > 20,
            "{name}: the corpus has only {} inputs",
            corpus.len()
        );
        seeds(name)
            .iter()
            .chain(&corpus)
            .for_each(|input| check(name, target, input));
    }
}

#[test]
fn no_damaged_seed_breaks_a_target() {
    for (name, target) in targets() {
        let seeds = seeds(name);
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for index in 0..damaged() {
            let mut input = seeds[index % seeds.len()].clone();
            let edits = if input.is_empty() {
                0
            } else {
                next(&mut state) % 8
            };
            for _ in 0..edits {
                let at = next(&mut state) % input.len();
                match next(&mut state) % 8 {
                    0 => input[at] ^= 1 << (next(&mut state) % 8),
                    1 => input.truncate(at.max(1)),
                    2 => drop(input.splice(at..at, input[at..input.len().min(at + 8)].to_vec())),
                    _ => input[at] = next(&mut state) as u8,
                }
            }
            check(name, target, &input);
        }
    }
}
