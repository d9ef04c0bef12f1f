//! Every knob of the config, at random: the logits are those of plain float64 arithmetic, and to
//! the bit those of a second forward pass that is written from the docs.

use crate::common::bit_exact::BitExact;
use crate::common::in_f64::Reference;
use crate::common::random::{self, Memory, Numbers};
use crate::common::session::{arena_for, session_in};
use pocketlm::import::{Checkpoint, PackOptions};
use pocketlm::model::{DType, Kv, Model};
use pocketlm::run::Plan;

/// Tokens with rising positions, now and then with a gap.
fn tokens(numbers: &mut Numbers, count: usize, vocab_size: u32) -> Vec<(u32, u32)> {
    let mut position = if numbers.one_in(4) {
        numbers.within(0..=5000)
    } else {
        0
    };
    let gaps = numbers.one_in(3);
    let ids = numbers.tokens(count, vocab_size);
    let token = |id| {
        position += if gaps && numbers.one_in(5) {
            numbers.within(1..=9)
        } else {
            0
        };
        position += 1;
        (id, position - 1)
    };
    ids.into_iter().map(token).collect()
}

/// The logits after each token, and the plan's choices in words.
fn run(image: &[u8], kv: Kv, batch: u32, tokens: &[(u32, u32)]) -> Vec<Vec<f32>> {
    let model = Model::open(image).unwrap();
    let plan = Plan::new(model.header())
        .context(tokens.len() as u32)
        .batch(batch)
        .kv(kv);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let mut rows = Vec::new();
    for run in tokens.chunk_by(|a, b| a.1 + 1 == b.1) {
        session.skip_to(run[0].1).unwrap();
        let ids: Vec<u32> = run.iter().map(|token| token.0).collect();
        session
            .feed_each(&ids, |_, logits| rows.push(logits.to_vec()))
            .unwrap();
    }
    rows
}

/// How far f32 may be from float64 depends on the model: some amplify a rounding a thousandfold. So
/// the yardstick is the model's own: how far float64 moves when every weight moves to a
/// neighbouring f32. The logits stay within 7 times that on all these models (half of them within
/// once), except where it falls below the spacing of f32 itself.
const YARDSTICKS: f64 = 10.0;

#[test]
fn any_config_in_f32_is_as_near_to_float64_as_its_weights_are_exact() {
    for seed in 0..400 {
        let numbers = &mut Numbers::new(seed);
        let checkpoint = Memory::new(random::any(numbers), seed);
        let tokens = tokens(numbers, 21, checkpoint.description().config.vocab_size);
        let expected: Vec<f64> = Reference::new(&checkpoint).logits_at(&tokens).concat();
        let found = run(
            &checkpoint.pack(DType::F32),
            Kv::F32,
            numbers.within(1..=9),
            &tokens,
        )
        .concat();
        let distance = |logits: &[f64]| {
            expected
                .iter()
                .zip(logits)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max)
        };
        let yardstick = (0..3)
            .map(|nudge| {
                distance(
                    &Reference::new(&checkpoint.nudged(seed * 3 + nudge))
                        .logits_at(&tokens)
                        .concat(),
                )
            })
            .fold(0.0, f64::max);
        let spacing =
            expected.iter().fold(1.0f64, |a, b| a.max(b.abs())) * 4.0 * f64::from(f32::EPSILON);
        let bound = YARDSTICKS * yardstick + spacing;
        assert_eq!(found.len(), expected.len());
        for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                (f64::from(found) - expected).abs() <= bound,
                "seed {seed}, logit {i}: {found} for {expected}, further than {bound:.1e}; {:?}",
                checkpoint.description()
            );
        }
    }
}

#[test]
fn any_config_in_any_types_gives_the_bits_of_the_documented_sums() {
    for seed in 0..600 {
        let numbers = &mut Numbers::new(1000 + seed);
        let checkpoint = Memory::new(random::any(numbers), seed);
        let config = &checkpoint.description().config;
        let tokens = tokens(numbers, 26, config.vocab_size);
        let options = PackOptions {
            dtype: Some(DType::ALL[seed as usize % DType::ALL.len()]),
            embedder_dtype: numbers.one_in(3).then(|| numbers.pick(&DType::ALL)),
            ..PackOptions::default()
        };
        let kv = Kv::ALL[seed as usize / 6 % 4];
        let batch = numbers.within(1..=9);
        let image = checkpoint.pack_with(options.clone());
        let found = run(&image, kv, batch, &tokens);
        let mut plain = BitExact::new(&image, kv);
        for (t, (found, &(id, position))) in found.iter().zip(&tokens).enumerate() {
            let expected = plain.feed(id, position);
            let parts = found
                .iter()
                .zip(&expected)
                .position(|(a, b)| a.to_bits() != b.to_bits());
            assert!(
                found.len() == expected.len() && parts.is_none(),
                "seed {seed}, {options:?}, keys and values in {kv:?}, batch {batch}, token {t}, \
                 logit {parts:?}: \
                 {found:?} for {expected:?}; {:?}",
                checkpoint.description()
            );
        }
        assert_eq!(found.len(), tokens.len());
    }
}
