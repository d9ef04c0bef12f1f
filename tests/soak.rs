//! Generations back to back, for as long as `POCKETLM_SOAK` says in seconds: random prompts,
//! settings, rewinds, snapshots, resets and threads. What a seed gave once it gives again, and
//! memory does not grow. `POCKETLM_SEED`: the first seed.
#![cfg(feature = "std")]

mod common;

use crate::common::session::STORY;
use std::time::{Duration, Instant};

use common::random::Numbers;
use pocketlm::host::{AlignedBytes, Threads};
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Digest, Plan, Session, Solo, Step, Workers};
use pocketlm::sample::{Penalties, Recent, Sampler};

/// Pages of memory this process holds, where the system says so.
fn resident() -> Option<usize> {
    std::fs::read_to_string("/proc/self/statm")
        .ok()?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()
}

/// Some generations in one session, all chosen by `seed`; the digest of all their logits and
/// tokens.
fn generations(
    model: &Model<'_>,
    arena: &mut AlignedBytes,
    workers: &dyn Workers,
    seed: u64,
) -> u64 {
    let numbers = &mut Numbers::new(seed);
    let kv = numbers.pick(&Kv::ALL);
    let plan = Plan::new(model.header())
        .context(numbers.within(20..=160))
        .batch(numbers.within(1..=16))
        .kv(kv);
    let mut session = Session::new(model, &plan, arena, workers).unwrap();
    let mut digest = Digest::new();
    let mut saved = Vec::new();
    for _ in 0..4 {
        let mut window = [Recent::EMPTY; 16];
        let mut sampler = Sampler::new(numbers.bits().into())
            .temperature(numbers.pick(&[0.0, 0.7, 1.5]))
            .top_k(numbers.pick(&[0, 1, 40]))
            .top_p(numbers.pick(&[1.0, 0.9]))
            .penalties(Penalties::over(&mut window).repeat(1.1));
        let room = session.capacity() - session.len();
        let count = numbers.within(1..=30).min(room as u32);
        let budget = numbers.within(1..=5000);
        let mut ids = numbers.tokens(count as usize, model.config().vocab_size);
        for _ in 0..numbers.within(0..=40) {
            if session.start(&ids).is_err() {
                break;
            }
            let next = loop {
                if let Step::Done(logits) = session.step(budget).unwrap() {
                    digest.update(logits);
                    break sampler.sample(logits).unwrap();
                }
            };
            digest.update(&[next as f32]);
            ids = vec![next];
        }
        match numbers.within(0..=4) {
            0 => session.reset(),
            1 => session
                .rewind(numbers.within(0..=session.rewindable()) as usize)
                .unwrap(),
            2 => {
                saved.clear();
                let mut sink = |bytes: &[u8]| {
                    saved.extend_from_slice(bytes);
                    Ok(())
                };
                session.save(&mut sink).unwrap();
            }
            3 if !saved.is_empty() => session.restore_from(&saved).unwrap(),
            _ => {}
        }
    }
    digest.value()
}

#[test]
fn generations_back_to_back_repeat_and_keep_to_their_memory() {
    let seconds = std::env::var("POCKETLM_SOAK").map_or(2, |seconds| seconds.parse().unwrap());
    let first = std::env::var("POCKETLM_SEED").map_or(0, |seed| seed.parse().unwrap());
    let model = Model::open(STORY).unwrap();
    let most = Plan::new(model.header()).context(160).batch(16).bytes();
    let mut arena = AlignedBytes::zeroed(most);
    let threads = Threads::new(2).unwrap();
    let mut digests = Vec::new();
    let mut start = None;
    let mut runs = 0u64;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end || runs < 24 {
        // Each seed comes again, after others, in an arena that others have used, with other
        // workers.
        let seed = runs / 16 * 8 + runs % 8;
        let workers: &dyn Workers = if runs % 16 < 8 { &threads } else { &Solo };
        let digest = generations(&model, &mut arena, workers, first + seed);
        match digests.get(seed as usize % 8) {
            Some(&before) if runs % 16 >= 8 => assert_eq!(digest, before, "seed {}", first + seed),
            _ => {
                digests.truncate(seed as usize % 8);
                digests.push(digest);
            }
        }
        runs += 1;
        if runs == 24 {
            start = resident();
        }
    }
    println!(
        "{runs} runs of up to four generations, pages {start:?} at first, {:?} in the end",
        resident()
    );
    if let (Some(start), Some(end)) = (start, resident()) {
        assert!(end <= start + 256, "{start} pages grew to {end}");
    }
}
