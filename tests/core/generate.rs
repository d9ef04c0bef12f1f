//! Text as `Generation` writes it: the same with any settings of speed, cut at stop strings, ready
//! to go on.

use pocketlm::Error;
use pocketlm::generate::{End, Generation, Progress, PromptLookup, STOP_STRING_BYTES};
use pocketlm::model::Model;
use pocketlm::run::{Arena, Plan, Session};
use pocketlm::sample::{Penalties, Recent, Sampler};
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};

use crate::common::random::Numbers;
use crate::common::session::{STORY, session_in};

const PLAN: Plan = Plan::of(STORY).context(128).batch(8).logits(8);

type StoryArena = Arena<{ PLAN.bytes() }>;

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = vec![0; text.len() + 8];
    let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
    let options = EncodeOptions::default();
    let count = tokenizer.encode(text, options, &mut scratch, &mut ids);
    ids.truncate(count.unwrap());
    ids
}

/// Runs `job` with a session, a tokenizer and the ids of the prompt.
fn with_session<T>(prompt: &str, job: impl FnOnce(&mut Session, &Tokenizer, &[u32]) -> T) -> T {
    let model = Model::open(STORY).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let mut arena = StoryArena::new();
    let mut session = session_in(&model, &PLAN, &mut arena);
    let ids = ids(&tokenizer, prompt);
    job(&mut session, &tokenizer, &ids)
}

fn sampler(seed: u64, window: &mut [Recent]) -> Sampler<'_> {
    Sampler::new(seed)
        .temperature(if seed == 0 { 0.0 } else { 0.8 })
        .top_p(0.9)
        .penalties(Penalties::over(window).repeat(1.05))
}

/// The loop written by hand: the text, and the tokens in the session at its end.
fn by_hand(prompt: &str, seed: u64, limit: usize) -> (String, Vec<u32>) {
    with_session(prompt, |session, tokenizer, ids| {
        let mut window = [Recent::EMPTY; 16];
        let mut sampler = sampler(seed, &mut window);
        let mut decoder = Decoder::new(tokenizer).skip_special(true);
        for &id in ids {
            decoder.push(id).unwrap();
            sampler.accept(id);
        }
        let mut text = String::new();
        let mut next = sampler.sample(session.feed(ids).unwrap()).unwrap();
        let mut count = 0;
        while !tokenizer.is_eos(next) {
            text += &decoder.push(next).unwrap().to_string();
            count += 1;
            if count == limit || session.len() == session.capacity() {
                break;
            }
            next = sampler.sample(session.feed(&[next]).unwrap()).unwrap();
        }
        text += &decoder.finish().to_string();
        (text, session.tokens().to_vec())
    })
}

#[derive(Clone, Copy, Debug)]
enum How {
    Next,
    Step(u32),
    Drafted(usize),
}

/// Text, why it ended, and the tokens in the session.
fn generated(
    prompt: &str,
    seed: u64,
    limit: usize,
    stops: &[&str],
    how: How,
) -> (String, End, Vec<u32>) {
    with_session(prompt, |session, tokenizer, ids| {
        let mut window = [Recent::EMPTY; 16];
        let mut sampler = sampler(seed, &mut window);
        let mut text = String::new();
        let mut generation = Generation::new(session, &mut sampler, tokenizer, ids)
            .limit(limit)
            .stop_strings(stops);
        let mut lookup = PromptLookup::new();
        let mut drafts = [0; 16];
        let mut write = |chunk: &str| text.push_str(chunk);
        let end = loop {
            let end = match how {
                How::Next => generation.next(&mut write).unwrap(),
                How::Step(budget) => match generation.step(budget, &mut write).unwrap() {
                    Progress::Ended(end) => Some(end),
                    Progress::Pending | Progress::Token => None,
                },
                How::Drafted(most) => generation
                    .next_drafted(&mut lookup, &mut drafts[..most], &mut write)
                    .unwrap(),
            };
            if let Some(end) = end {
                break end;
            }
        };
        assert_eq!(generation.end(), Some(end));
        // An ended text stays as it is.
        assert_eq!(generation.next(&mut write), Ok(Some(end)));
        (text, end, session.tokens().to_vec())
    })
}

const WAYS: [How; 7] = [
    How::Next,
    How::Step(1),
    How::Step(500),
    How::Drafted(0),
    How::Drafted(1),
    How::Drafted(4),
    How::Drafted(16),
];

#[test]
fn every_way_gives_the_text_of_the_loop_by_hand() {
    for prompt in [
        "Once upon a time",
        "Lily had a ball. Lily had a ball. Lily had",
    ] {
        for (seed, limit) in [(0, 1000), (1, 1000), (2, 7), (3, 1), (4, 60)] {
            let (text, tokens) = by_hand(prompt, seed, limit);
            for how in WAYS {
                let (other, end, others) = generated(prompt, seed, limit, &[], how);
                assert_eq!(other, text, "{how:?}, seed {seed}, limit {limit}");
                assert_eq!(others, tokens, "{how:?}, seed {seed}, limit {limit}");
                let expected = match end {
                    End::Limit => limit < 1000,
                    End::ContextFull => others.len() == PLAN.context_tokens() as usize,
                    End::Token(_) => true,
                    End::StopString(_) | End::Complete => false,
                };
                assert!(expected, "{end:?}");
            }
        }
    }
}

/// Cuts `text` where the first stop string is complete.
fn cut<'t>(text: &'t str, stops: &[&str]) -> (&'t str, Option<usize>) {
    for (place, character) in text.char_indices() {
        let so_far = &text[..place + character.len_utf8()];
        for (index, stop) in stops.iter().enumerate() {
            if !stop.is_empty() && so_far.ends_with(stop) {
                return (&so_far[..so_far.len() - stop.len()], Some(index));
            }
        }
    }
    (text, None)
}

#[test]
fn a_text_ends_where_a_stop_string_would_be() {
    let numbers = &mut Numbers::new(1);
    let (whole, _) = by_hand("Once upon a time", 0, 80);
    let characters: Vec<char> = whole.chars().collect();
    let mut stopped = 0;
    for case in 0..60 {
        // Parts of the text, some with a wrong last character: they begin and do not end.
        let stops: Vec<String> = (0..1 + case % 4)
            .map(|_| {
                let start = numbers.within(0..=characters.len() as u32 - 1) as usize;
                let end = characters
                    .len()
                    .min(start + 1 + numbers.within(0..=11) as usize);
                let mut stop: String = characters[start..end].iter().collect();
                if numbers.within(0..=2) == 0 {
                    stop.push('~');
                }
                stop
            })
            .collect();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let (expected, index) = cut(&whole, &stops);
        for how in WAYS {
            let (text, end, _) = generated("Once upon a time", 0, 80, &stops, how);
            assert_eq!(text, expected, "{how:?}, {stops:?}");
            if let Some(index) = index {
                assert_eq!(end, End::StopString(index), "{how:?}, {stops:?}");
                stopped += 1;
            }
        }
    }
    assert!(stopped > 100);
}

#[test]
fn stop_strings_that_cannot_occur_are_ignored() {
    let long = "n".repeat(STOP_STRING_BYTES + 1);
    let (whole, _) = by_hand("Once upon a time", 0, 30);
    let (text, end, _) = generated("Once upon a time", 0, 30, &["", &long], How::Next);
    assert_eq!((text, end), (whole, End::Limit));
}

/// Writes at most `limit` tokens after `prompt`, greedily. Returns the last.
fn write(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    limit: usize,
    text: &mut String,
) -> u32 {
    let mut sampler = Sampler::greedy();
    let mut generation = Generation::new(session, &mut sampler, tokenizer, prompt).limit(limit);
    while generation.end().is_none() {
        generation.next(|chunk| text.push_str(chunk)).unwrap();
    }
    generation.last().unwrap()
}

#[test]
fn a_cancelled_text_can_be_continued() {
    with_session("Once upon a time", |session, tokenizer, ids| {
        let mut whole = String::new();
        write(session, tokenizer, ids, 40, &mut whole);
        let tokens = session.tokens().to_vec();
        session.reset();
        let mut text = String::new();
        let last = write(session, tokenizer, ids, 25, &mut text);
        write(session, tokenizer, &[last], 15, &mut text);
        assert_eq!((text, session.tokens()), (whole, &tokens[..]));
    });
}

#[test]
fn a_text_that_is_stopped_after_any_step_is_in_the_session_but_for_its_last_token() {
    with_session("Once upon a time", |session, tokenizer, ids| {
        let mut whole = String::new();
        write(session, tokenizer, ids, 9, &mut whole);
        let expected = session.tokens().to_vec();
        let mut seen_already = 0;
        for calls in 1..60 {
            session.reset();
            let mut sampler = Sampler::greedy();
            let mut generation = Generation::new(session, &mut sampler, tokenizer, ids).limit(8);
            for _ in 0..calls {
                generation.step(4000, |_| ()).unwrap();
            }
            if generation.end().is_some() {
                break;
            }
            let written = generation.token_count();
            let last = generation.last();
            session.abort().unwrap();
            let mut tokens = session.tokens().to_vec();
            if tokens.len() < ids.len() {
                continue;
            }
            seen_already += usize::from(written > 0 && last.is_none());
            tokens.extend(last);
            assert_eq!(tokens, expected[..ids.len() + written], "{calls} calls");
        }
        assert!(seen_already > 2);
    });
}

#[test]
fn what_the_session_refuses_is_an_error() {
    with_session("Once upon a time", |session, tokenizer, ids| {
        let mut sampler = Sampler::greedy();
        let too_long = vec![5; PLAN.context_tokens() as usize + 1];
        for (prompt, error) in [
            (&[][..], Error::NoTokens),
            (&too_long, Error::ContextFull { room: 128 }),
            (
                &[70_000],
                Error::TokenOutOfRange {
                    token: 70_000,
                    vocab_size: 1024,
                },
            ),
        ] {
            let mut generation = Generation::new(session, &mut sampler, tokenizer, prompt);
            assert_eq!(generation.next(|_| ()), Err(error));
            assert_eq!(generation.next(|_| ()), Err(error), "again");
        }
        // A bias that names no token is refused by the sampler, and can be corrected.
        sampler.set_logit_bias(&[(70_000, 1.0)]);
        let mut generation = Generation::new(session, &mut sampler, tokenizer, ids);
        assert!(matches!(
            generation.next(|_| ()),
            Err(Error::TokenOutOfRange { .. })
        ));
        assert!(generation.next(|_| ()).is_err());
    });
}

#[test]
fn a_limit_of_zero_computes_only_the_prompt() {
    let (text, end, tokens) = generated("Once upon a time", 0, 0, &[], How::Next);
    assert_eq!((text.as_str(), end), ("", End::Limit));
    assert_eq!(tokens, by_hand("Once upon a time", 0, 1).1);
}

#[test]
fn a_filter_sees_the_logits_of_each_token() {
    for how in WAYS {
        let (text, _) = by_hand("Once upon a time", 0, 20);
        assert!(text.contains("Lily"));
        with_session("Once upon a time", |session, tokenizer, ids| {
            let lily = tokenizer.token_to_id(b" Lily").unwrap();
            let mut calls = 0;
            let mut forbid = |logits: &mut [f32]| {
                calls += 1;
                logits[lily as usize] = f32::NEG_INFINITY;
                Ok(())
            };
            let mut sampler = Sampler::greedy();
            let mut text = String::new();
            let mut generation = Generation::new(session, &mut sampler, tokenizer, ids)
                .limit(20)
                .filter(&mut forbid);
            let mut lookup = PromptLookup::new();
            while generation.end().is_none() {
                let write = |chunk: &str| text.push_str(chunk);
                match how {
                    How::Next => _ = generation.next(write).unwrap(),
                    How::Step(budget) => _ = generation.step(budget, write).unwrap(),
                    How::Drafted(most) => {
                        let drafts = &mut [0; 16][..most];
                        generation.next_drafted(&mut lookup, drafts, write).unwrap();
                    }
                }
            }
            assert!(!text.contains("Lily"), "{text}");
            assert_eq!(calls, 20);
        });
    }
    with_session("Once upon a time", |session, tokenizer, ids| {
        let mut sampler = Sampler::greedy();
        let mut refuse = |_: &mut [f32]| Err(Error::NoCandidate);
        let mut generation =
            Generation::new(session, &mut sampler, tokenizer, ids).filter(&mut refuse);
        assert_eq!(generation.next(|_| ()), Err(Error::NoCandidate));
        assert_eq!(generation.next(|_| ()), Ok(None));
    });
}
