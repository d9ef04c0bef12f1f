//! Drafts from earlier text: what is drafted, when, and that the text is the same with drafts and
//! without.

use crate::common::random::{self, Memory, Numbers, window};
use crate::common::session::{arena_for, session_in};
use pocketlm::Error;
use pocketlm::generate::PromptLookup;
use pocketlm::model::{DType, Kv, Model, Rope};
use pocketlm::run::{Plan, Session};
use pocketlm::sample::{Penalties, Recent, Sampler};

/// The draft after a text, of at most `most` tokens, if all drafts so far were right.
fn draft(text: &[u32], most: usize) -> Vec<u32> {
    let mut lookup = PromptLookup::new();
    let mut ids = [0; 64];
    for _ in 0..8 {
        let count = lookup.draft(&[1; 9], 1, &mut ids);
        lookup.learn(count - 1, 1);
    }
    let (next, tokens) = text.split_last().unwrap();
    let count = lookup.draft(tokens, *next, &mut ids[..1 + most]);
    assert_eq!(ids[0], *next);
    ids[1..count].to_vec()
}

#[test]
fn what_followed_the_same_tokens_is_drafted() {
    assert_eq!(draft(&[1, 2, 3, 4, 5, 1, 2], 2), [3, 4]);
    assert_eq!(draft(&[1, 2, 3, 4, 5, 1, 2], 0), [0; 0]);
    // One token in common is too few, and so are none.
    assert_eq!(draft(&[1, 2, 3, 4, 5, 2], 3), [0; 0]);
    assert_eq!(draft(&[1, 2, 3], 3), [0; 0]);
    assert_eq!(draft(&[1], 3), [0; 0]);
    // The longest stretch, and of equal ones the last.
    assert_eq!(draft(&[7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1), [3]);
    assert_eq!(draft(&[7, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 1), [4]);
    // Nothing is fed where there is no room.
    assert_eq!(PromptLookup::new().draft(&[1, 2, 1], 2, &mut []), 0);
}

#[test]
fn a_repetition_is_drafted_to_continue() {
    assert_eq!(draft(&[5, 5, 5], 4), [5, 5, 5, 5]);
    assert_eq!(draft(&[1, 2, 3, 1, 2], 7), [3, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn the_number_of_drafts_follows_how_many_were_right() {
    let mut lookup = PromptLookup::new();
    let tokens: Vec<u32> = (0..100).chain(0..10).collect();
    // How many tokens are drafted, if this many of them are right.
    let mut drafted = |right: usize| {
        let mut ids = [0; 33];
        let count = lookup.draft(&tokens, 10, &mut ids) - 1;
        // After an empty draft, the next token is compared.
        lookup.learn(right.min(count), if right > count { 11 } else { 0 });
        count
    };
    assert_eq!([9, 9, 9, 3, 9].map(&mut drafted), [1, 3, 7, 15, 4]);
    // None, once more than half of the last eight began wrongly, until half of them would have been
    // right again.
    assert_eq!([0; 7].map(&mut drafted), [9, 1, 1, 1, 1, 0, 0]);
    assert_eq!([1; 6].map(&mut drafted), [0, 0, 0, 0, 1, 3]);
    // An empty draft teaches nothing.
    assert_eq!(lookup.draft(&[], 3, &mut [0; 9]), 1);
    let before = lookup.clone();
    lookup.learn(0, 3);
    assert_eq!(lookup, before);
}

/// The text after `prompt`, `together` tokens at most at a time, and how many drafted tokens were
/// right and wrong.
fn tell(
    session: &mut Session<'_, '_>,
    prompt: &[u32],
    mut sampler: Sampler<'_>,
    together: usize,
) -> (Vec<u32>, usize, usize) {
    let mut lookup = PromptLookup::new();
    let mut text = vec![
        sampler
            .sample(session.feed(&prompt[session.len()..]).unwrap())
            .unwrap(),
    ];
    let mut all_right = 0;
    let mut wrong = 0;
    while session.len() < session.capacity() {
        let mut ids = vec![0; together.min(session.capacity() - session.len())];
        let count = lookup.draft(session.tokens(), *text.last().unwrap(), &mut ids);
        let sample = |logits: &mut [f32]| {
            text.push(sampler.sample(logits)?);
            Ok(text[text.len() - 1])
        };
        let right = session.feed_drafts(&ids[..count], sample).unwrap();
        lookup.learn(right, text[text.len() - 1]);
        all_right += right;
        wrong += count - 1 - right;
        assert_eq!(session.tokens(), [prompt, &text[..text.len() - 1]].concat());
    }
    (text, all_right, wrong)
}

#[test]
fn a_text_is_the_same_with_and_without_drafts() {
    let mut right = 0;
    let mut wrong = 0;
    let layers = vec![
        window(5, Rope::Local),
        window(0, Rope::Global),
        window(9, Rope::Local),
    ];
    for seed in 0..60 {
        let numbers = &mut Numbers::new(seed);
        let image =
            Memory::new(random::plain(layers.clone()), seed).pack(numbers.pick(&DType::ALL));
        let model = Model::open(&image).unwrap();
        let prompt = numbers.tokens(20, model.config().vocab_size);
        let together = numbers.within(2..=8);
        let plan = Plan::new(model.header())
            .context(120)
            .kv(numbers.pick(&Kv::ALL));
        let plans = [
            plan,
            plan.batch(together).logits(numbers.within(1..=together)),
        ];
        let temperature = numbers.pick(&[0.0, 0.02, 0.3]);
        let [plain, drafted] =
            [(plans[0], 1), (plans[1], together as usize)].map(|(plan, together)| {
                let mut arena = arena_for(&plan);
                let mut session = session_in(&model, &plan, &mut arena);
                if together > 1 && seed % 2 == 0 {
                    // A restored context has no keys but those that are still seen.
                    session.feed(&prompt[..15]).unwrap();
                    let mut snapshot = Vec::new();
                    let mut keep = |bytes: &[u8]| {
                        snapshot.extend_from_slice(bytes);
                        Ok(())
                    };
                    session.save(&mut keep).unwrap();
                    session.reset();
                    session.restore_from(&snapshot).unwrap();
                }
                let mut recent = vec![Recent::EMPTY; if seed % 3 == 0 { 10 } else { 0 }];
                let penalties = Penalties::over(&mut recent).repeat(1.1).presence(0.02);
                let sampler = Sampler::new(seed)
                    .temperature(temperature)
                    .top_k(20)
                    .penalties(penalties);
                tell(&mut session, &prompt, sampler, together)
            });
        assert_eq!((plain.1, plain.2), (0, 0));
        assert_eq!(plain.0, drafted.0, "seed {seed}, temperature {temperature}");
        right += drafted.1;
        wrong += drafted.2;
    }
    assert!(
        right > 1000 && wrong > 200,
        "{right} right drafts and {wrong} wrong ones are too few to tell"
    );
}

#[test]
fn drafts_are_taken_back_when_the_sampler_fails() {
    let image = Memory::new(random::plain(vec![window(0, Rope::Global)]), 1).pack(DType::F32);
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(20).batch(5).logits(2);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    // The first drafted token is right; for the second the sampler fails.
    let mut calls = 0;
    let outcome = session.feed_drafts(&[1, 2, 3, 4], |_| {
        calls += 1;
        if calls == 1 {
            Ok(2)
        } else {
            Err(Error::NoCandidate)
        }
    });
    assert_eq!(
        (outcome, calls, session.tokens()),
        (Err(Error::NoCandidate), 2, &[1, 2][..])
    );
    assert_eq!(
        session.feed_drafts(&[], |_| unreachable!()),
        Err(Error::NoTokens)
    );
    // A single token is not a draft, whatever is sampled.
    assert_eq!(session.feed_drafts(&[3], |_| Ok(3)), Ok(0));
    assert_eq!(session.tokens(), [1, 2, 3]);
}
