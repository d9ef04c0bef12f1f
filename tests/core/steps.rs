//! Logits have the same bits with any batch, budget and number of workers; and what was taken
//! back, reset or refused leaves no trace.

use crate::common::bits;
use crate::common::random::{self, Memory, Numbers, convolution, window};
use crate::common::session::{STORY, arena_for, dirty, session_in};
use pocketlm::Error;
use pocketlm::host::Threads;
use pocketlm::import::Description;
use pocketlm::model::{DType, Kv, MlpVariant, Model, Rope};
use pocketlm::run::{Digest, Engine, Isa, Plan, Session, Solo, Step, Workers};

const BUDGETS: [u32; 8] = [1, 2, 7, 8, 9, 64, 1000, u32::MAX];
const BATCHES: [u32; 4] = [1, 3, 7, 32];

/// `start`, then `step` until it is done.
fn step_through(session: &mut Session<'_, '_>, ids: &[u32], budget: u32) -> Vec<u32> {
    session.start(ids).unwrap();
    loop {
        if let Step::Done(logits) = session.step(budget).unwrap() {
            return bits(logits);
        }
    }
}

/// Models whose layers are of one kind each or mixed, with everything else on somewhere.
fn models() -> Vec<(&'static str, Description)> {
    let global = Rope::Global;
    let local = Rope::Local;
    let mut models = vec![
        (
            "global",
            random::plain(vec![window(0, global), window(0, Rope::None)]),
        ),
        (
            "window 1",
            random::plain(vec![window(1, global), window(1, local), window(0, global)]),
        ),
        (
            "window 5",
            random::plain(vec![window(5, local), window(5, local)]),
        ),
        (
            "windows of every kind",
            random::plain([3, 0, 8, 17, 13, 1000].map(|w| window(w, local)).into()),
        ),
        ("no layers", random::plain(vec![])),
        // No ring is longer than its window, and none starts at a tile: what is visible wraps
        // inside a tile.
        (
            "whole tiles",
            random::plain(vec![window(8, global), window(16, local)]),
        ),
        (
            "convolutions",
            random::plain(vec![convolution(4), convolution(4)]),
        ),
        (
            "convolutions among attention",
            random::plain(vec![
                convolution(3),
                window(5, local),
                convolution(3),
                window(0, global),
                convolution(3),
            ]),
        ),
    ];
    let biased = &mut models[7].1.config;
    biased.conv_bias = true;
    biased.output_bias = true;
    biased.use_post_attn_norm = true;
    biased.use_qk_norm = true;
    let everything = &mut models[3].1.config;
    everything.use_qk_norm = true;
    everything.qkv_bias = true;
    everything.output_bias = true;
    everything.mlp_bias = true;
    everything.use_post_attn_norm = true;
    everything.use_post_ffw_norm = true;
    everything.attn_logits_soft_cap = Some(3.0);
    everything.final_logit_softcap = Some(5.0);
    everything.mlp_variant = MlpVariant::GegluApprox;
    let tied = &mut models[2].1.config;
    tied.tie_embedder_and_logits = true;
    tied.embedding_scale = 4.5;
    tied.num_kv_heads = 1;
    tied.mlp_variant = MlpVariant::GegluExact;
    models
}

/// Feeds `ids` in every way there is and compares with the logits found token by token.
fn every_way_agrees(what: &str, image: &[u8], ids: &[u32], kv: Kv, pools: &[Threads], seed: u64) {
    let numbers = &mut Numbers::new(seed);
    let model = Model::open(image).unwrap();
    let plan = |batch| {
        Plan::new(model.header())
            .context(ids.len() as u32)
            .batch(batch)
            .kv(kv)
    };
    let mut arena = dirty(0xff, plan(32).bytes());
    let mut single = Session::new(&model, &plan(1), &mut arena, &Solo).unwrap();
    let expected: Vec<_> = ids
        .iter()
        .map(|&id| bits(single.feed(&[id]).unwrap()))
        .collect();
    let digest = |rows: &[Vec<u32>]| {
        let mut digest = Digest::new();
        rows.iter().for_each(|row| {
            digest.update(&row.iter().map(|&z| f32::from_bits(z)).collect::<Vec<_>>())
        });
        digest
    };

    for (index, batch) in BATCHES.into_iter().enumerate() {
        let together = numbers.pick(&[1, 2, 5, 16, 40]);
        let plan = plan(batch).logits(together);
        let what = format!(
            "{what}, keys and values in {kv:?}, batch {batch}, logits of {together}, seed {seed}"
        );
        let mut arena = dirty(numbers.pick(&[0, 0x7f, 0xff]), plan.bytes());
        // One of the pools with each batch.
        let pool = pools
            .iter()
            .cycle()
            .nth(index)
            .map(|pool| pool as &dyn Workers);
        for workers in std::iter::once(&Solo as &dyn Workers).chain(pool) {
            let mut session = Session::new(&model, &plan, &mut arena, workers).unwrap();
            let mut rows = Vec::new();
            let visit = |index, logits: &mut [f32]| {
                assert_eq!(index, rows.len());
                rows.push(bits(logits));
                logits.fill(f32::NAN); // a visitor may change them
            };
            session.feed_each(ids, visit).unwrap();
            assert_eq!(digest(&rows), digest(&expected), "{what}: feed_each");
            assert!(rows == expected, "{what}: feed_each");
            session.reset();
            assert!(session.logits().is_none(), "{what}");
            assert!(
                &bits(session.feed(ids).unwrap()) == expected.last().unwrap(),
                "{what}: feed at once"
            );
            assert!(
                &bits(session.logits().unwrap()) == expected.last().unwrap(),
                "{what}: the last logits"
            );
            session.reset();
            // Pieces of all sizes, fed or stepped.
            let mut rest = ids;
            while !rest.is_empty() {
                let (piece, after) =
                    rest.split_at(numbers.within(1..=40).min(rest.len() as u32) as usize);
                let logits = if numbers.one_in(2) {
                    bits(session.feed(piece).unwrap())
                } else {
                    step_through(&mut session, piece, numbers.pick(&BUDGETS))
                };
                rest = after;
                let last = ids.len() - rest.len() - 1;
                assert!(
                    logits == expected[last],
                    "{what}: {} tokens up to {last}",
                    piece.len()
                );
            }
            assert_eq!(session.tokens(), ids);
        }
        let mut session = session_in(&model, &plan, &mut arena);
        // Two of the budgets with each batch, so all of them in the end.
        for &budget in BUDGETS.iter().skip(index).step_by(BATCHES.len()) {
            session.reset();
            let logits = step_through(&mut session, ids, budget);
            assert!(
                &logits == expected.last().unwrap(),
                "{what}: budget {budget}"
            );
        }
    }
}

#[test]
fn every_way_to_feed_gives_the_same_bits() {
    let pools = [2, 3].map(|count| Threads::new(count).unwrap());
    for (name, description) in models() {
        let vocab_size = description.config.vocab_size;
        let checkpoint = Memory::new(description, 5);
        for dtype in DType::ALL {
            let image = checkpoint.pack(dtype);
            for (seed, kv) in Kv::ALL.into_iter().enumerate() {
                let ids = Numbers::new(7).tokens(60, vocab_size);
                // Threads take their time to meet; one type of weights with each type of keys is
                // theirs.
                let pools = if dtype as usize % 4 == seed {
                    &pools[..]
                } else {
                    &[]
                };
                every_way_agrees(
                    &format!("{name}, {}", dtype.name()),
                    &image,
                    &ids,
                    kv,
                    pools,
                    seed as u64,
                );
            }
        }
    }
}

#[test]
fn the_story_model_gives_the_same_bits_with_its_windows_crossed() {
    let model = Model::open(STORY).unwrap();
    assert!(
        model
            .layers()
            .iter()
            .any(|layer| layer.window.is_some_and(|w| w.get() < 100))
    );
    let ids = Numbers::new(11).tokens(200, model.config().vocab_size);
    every_way_agrees(
        "story",
        STORY,
        &ids,
        Kv::F16,
        &[Threads::new(2).unwrap()],
        3,
    );
}

#[test]
fn the_bits_are_the_same_on_every_machine_with_every_instruction_set() {
    // Found on x86-64, a column for each type of keys and values. Another number means that images
    // give other logits than they did (or, in the first six rows, that packing rounds differently).
    let expected = [
        (
            "f32",
            [
                0xdab5_a767_49a5_b679,
                0x4887_a645_e344_9987,
                0x0ef7_c273_cbc9_469f,
                0xe6ec_f621_41af_0213,
            ],
        ),
        (
            "f16",
            [
                0xd27d_b33e_d90a_742f,
                0x5c95_6bd5_153f_9e57,
                0xe666_74e2_5f4f_4224,
                0x064a_e48c_b304_0270,
            ],
        ),
        (
            "bf16",
            [
                0xa290_e943_a02c_d430,
                0x36eb_f416_6550_ab51,
                0x77bc_2e14_e090_8eac,
                0x88c5_caf0_70e6_9ddb,
            ],
        ),
        (
            "q8",
            [
                0x5aca_0bcf_b9e2_ed88,
                0x1dd1_6d82_ac3c_d3d0,
                0xb56c_6c45_e1c2_5fa5,
                0x23e7_5f71_680c_d2b0,
            ],
        ),
        (
            "q4",
            [
                0xd4a2_e76c_56b7_deef,
                0xfda9_b58d_88e1_22aa,
                0x1158_4e98_5b20_ec6f,
                0xfa76_e5c9_4faa_8640,
            ],
        ),
        (
            "q4min",
            [
                0x58ee_5be9_fe1e_41ad,
                0x28e8_fb16_7fbd_7300,
                0x73b4_748a_b8d3_ec1c,
                0x9585_d673_9fa9_2cb1,
            ],
        ),
        (
            "q5",
            [
                0x44ed_d421_f2a6_36b3,
                0x4b58_0af2_a93f_37c3,
                0xcd35_382b_55ef_0fcf,
                0x44f1_68bc_1abe_6938,
            ],
        ),
        (
            "q6",
            [
                0x3afb_41ae_aa90_aa1a,
                0x0dde_d5c3_b65b_30f6,
                0xe7f9_b898_d5a4_32f0,
                0x7e2b_abba_c306_640c,
            ],
        ),
        (
            "nl3",
            [
                0x8ebe_0ba9_e630_b8b6,
                0x00e4_42ff_5a21_6365,
                0x6ece_bb7a_0c58_76f1,
                0x8b9e_134f_1c00_fcb5,
            ],
        ),
        (
            "nl4",
            [
                0xf0e9_790f_8536_1c13,
                0xdb8a_ea46_7ed8_6287,
                0xcc63_f09c_e840_70a5,
                0xed97_4c2f_2f55_ed78,
            ],
        ),
        (
            "story",
            [
                0x79e5_0f35_4cb5_ead3,
                0x5dd7_d46f_8dcc_0ffe,
                0x1725_d808_b66d_2564,
                0x390b_1e93_4cfb_470b,
            ],
        ),
    ];
    let digests = |isa: &'static Isa, image: &[u8]| {
        let model = Model::open(image).unwrap();
        let ids = Numbers::new(7).tokens(60, model.config().vocab_size);
        Kv::ALL.map(|kv| {
            let plan = Plan::new(model.header())
                .context(60)
                .batch(7)
                .logits(3)
                .kv(kv);
            let mut arena = arena_for(&plan);
            let mut digest = Digest::new();
            let engine = Engine {
                isa,
                workers: &Solo,
            };
            let mut session = Session::new(&model, &plan, &mut arena, engine).unwrap();
            session
                .feed_each(&ids, |_, logits| digest.update(logits))
                .unwrap();
            digest.value()
        })
    };
    let checkpoint = Memory::new(models().swap_remove(3).1, 5);
    for isa in Isa::available() {
        let mut found: Vec<_> = DType::ALL
            .map(|dtype| (dtype.name(), digests(isa, &checkpoint.pack(dtype))))
            .into();
        found.push(("story", digests(isa, STORY)));
        assert_eq!(found, expected, "{isa:?}: {found:#018x?}");
    }
}

/// A context in the test's own words: tokens with their positions.
struct Walk<'m> {
    model: Model<'m>,
    plan: Plan<'m>,
    context: Vec<(u32, u32)>,
    /// Where the next token goes, if not right after the last.
    gap: Option<u32>,
    /// For each layer, which index of the context each slot of its cache holds.
    slots: Vec<Vec<Option<usize>>>,
}

impl Walk<'_> {
    fn position(&self) -> u32 {
        self.gap
            .unwrap_or_else(|| self.context.last().map_or(0, |last| last.1 + 1))
    }

    fn feed(&mut self, ids: &[u32]) {
        for &id in ids {
            let position = self.position();
            for slots in &mut self.slots {
                let rows = slots.len();
                slots[self.context.len() % rows] = Some(self.context.len());
            }
            self.context.push((id, position));
            self.gap = None;
        }
    }

    /// Whether the token after the first `length` would find all keys that it sees.
    fn can_return_to(&self, length: usize) -> bool {
        let next = self.context[..length].last().map_or(0, |last| last.1 + 1);
        self.has_keys(length, next)
    }

    /// Whether a token at position `next` after the first `length` would find all keys that it
    /// sees.
    fn has_keys(&self, length: usize, next: u32) -> bool {
        self.model
            .layers()
            .iter()
            .zip(&self.slots)
            .all(|(layer, slots)| {
                let sees = |p: u32| layer.window.is_none_or(|window| next - p < window.get());
                (0..length).all(|i| !sees(self.context[i].1) || slots[i % slots.len()] == Some(i))
            })
    }

    /// Whether no layer has lost more keys than those of the first `length` tokens.
    fn overwrote_at_most(&self, length: usize) -> bool {
        let layers = self.model.layers().iter().zip(&self.slots);
        layers
            .filter(|(layer, _)| layer.window.is_some_and(|window| window.get() > 1))
            .all(|(_, slots)| {
                let longest = slots.iter().flatten().max().map_or(0, |last| last + 1);
                longest <= length + slots.len()
            })
    }

    /// The logits after one more token, in a session that was fed this and nothing else.
    fn fresh(&self, id: u32) -> Vec<u32> {
        let plan = self.plan.batch(1).context(self.context.len() as u32 + 1);
        let mut arena = dirty(0, plan.bytes());
        let mut session = session_in(&self.model, &plan, &mut arena);
        for run in self.context.chunk_by(|a, b| a.1 + 1 == b.1) {
            session.skip_to(run[0].1).unwrap();
            session
                .feed(&run.iter().map(|token| token.0).collect::<Vec<_>>())
                .unwrap();
        }
        session.skip_to(self.position()).unwrap();
        bits(session.feed(&[id]).unwrap())
    }
}

#[test]
fn rewound_tokens_leave_no_trace() {
    let mut rewinds = 0;
    let mut refusals = 0;
    let mut aborts = 0;
    let mut lost = 0;
    for (name, description) in models() {
        let vocab_size = description.config.vocab_size;
        let image = Memory::new(description, 6).pack(DType::Q8);
        let model = Model::open(&image).unwrap();
        for seed in 0..40 {
            let numbers = &mut Numbers::new(seed);
            let context = numbers.within(20..=90);
            let plan = Plan::new(model.header())
                .context(context)
                .batch(numbers.within(1..=9))
                .kv(numbers.pick(&Kv::ALL));
            let mut arena = arena_for(&plan);
            let mut session = session_in(&model, &plan, &mut arena);
            let slots = model
                .layers()
                .iter()
                .map(|layer| vec![None; plan.cache_rows(layer)])
                .collect();
            let mut walk = Walk {
                model,
                plan,
                context: Vec::new(),
                gap: None,
                slots,
            };
            for step in 0..30 {
                let place = format!("{name}, seed {seed}, step {step}");
                assert_eq!(
                    (session.len(), session.position()),
                    (walk.context.len(), walk.position()),
                    "{place}"
                );
                match numbers.within(0..=9) {
                    0 => {
                        session.reset();
                        (walk.context, walk.gap) = (Vec::new(), None);
                        walk.slots.iter_mut().for_each(|slots| slots.fill(None));
                    }
                    1 => {
                        let position = walk.position() + numbers.within(0..=12);
                        session.skip_to(position).unwrap();
                        walk.gap = Some(position);
                    }
                    2..=4 => {
                        // As far back as every shorter way is open too.
                        let length = walk.context.len();
                        let possible = (1..=length)
                            .take_while(|back| walk.can_return_to(length - back))
                            .count();
                        assert_eq!(session.rewindable() as usize, possible, "{place}");
                        if possible < length {
                            let error = Error::RewindTooFar {
                                possible: possible as u32,
                            };
                            assert_eq!(session.rewind(possible + 1), Err(error), "{place}");
                            refusals += 1;
                        }
                        let back = numbers.within(0..=possible as u32) as usize;
                        session.rewind(back).unwrap();
                        if back > 0 {
                            walk.context.truncate(length - back);
                            walk.gap = None;
                            rewinds += 1;
                        }
                    }
                    5 | 6 => {
                        let length = walk.context.len();
                        let gap = walk.gap;
                        let position = walk.position();
                        let room = context as usize - length;
                        let count = (numbers.within(1..=25) as usize).min(room);
                        if count == 0 {
                            continue;
                        }
                        let ids = numbers.tokens(count, vocab_size);
                        session.start(&ids).unwrap();
                        // Steps of a few rows, as many as the first batches take or a part of them.
                        let steps = numbers.within(0..=3) * numbers.within(0..=200);
                        let ended =
                            (0..steps).any(|_| matches!(session.step(8).unwrap(), Step::Done(_)));
                        // The batch that was begun may have overwritten keys as well.
                        let begun = match (ended, steps) {
                            (true, _) => count,
                            (false, 0) => 0,
                            (false, _) => {
                                let done = session.len() - length;
                                (done + plan.batch_tokens() as usize).min(count)
                            }
                        };
                        walk.feed(&ids[..begun]);
                        if ended {
                            assert_eq!(session.abort(), Ok(()), "{place}: nothing to abort");
                            continue;
                        }
                        let outcome = session.abort();
                        if walk.has_keys(length, position) && walk.overwrote_at_most(length) {
                            assert_eq!(outcome, Ok(()), "{place}");
                            assert!(session.logits().is_none(), "{place}");
                            walk.context.truncate(length);
                            walk.gap = gap;
                            aborts += 1;
                        } else {
                            let error = Error::RewindTooFar { possible: 0 };
                            assert_eq!(outcome, Err(error), "{place}");
                            assert_eq!(session.start(&[0]), Err(Error::Busy), "{place}");
                            while let Step::Pending = session.step(1000).unwrap() {}
                            walk.feed(&ids[begun..]);
                            lost += 1;
                        }
                    }
                    _ => {
                        let room = context as usize - walk.context.len();
                        let count = (numbers.within(1..=25) as usize).min(room);
                        if count > 1 {
                            let ids = numbers.tokens(count - 1, vocab_size);
                            session.feed(&ids).unwrap();
                            walk.feed(&ids);
                        }
                        if count > 0 {
                            let id = numbers.within(0..=vocab_size - 1);
                            let expected = walk.fresh(id);
                            assert!(bits(session.feed(&[id]).unwrap()) == expected, "{place}");
                            walk.feed(&[id]);
                        }
                    }
                }
            }
        }
    }
    assert!(
        rewinds > 500 && refusals > 100,
        "{rewinds} rewinds and {refusals} refusals are too few to tell"
    );
    assert!(
        aborts > 500 && lost > 50,
        "{aborts} aborts and {lost} that were too late are too few to tell"
    );
}

#[test]
fn a_refused_call_changes_nothing() {
    let (_, description) = models().swap_remove(3);
    let vocab_size = description.config.vocab_size;
    let image = Memory::new(description, 6).pack(DType::F32);
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(20).batch(4);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let ids = Numbers::new(1).tokens(20, vocab_size);
    let expected: Vec<_> = ids
        .iter()
        .map(|&id| bits(session.feed(&[id]).unwrap()))
        .collect();
    session.reset();

    assert_eq!(session.step(1).unwrap_err(), Error::NoTokens);
    assert!(bits(session.feed(&ids[..9]).unwrap()) == expected[8]);
    let refuse_all = |session: &mut Session<'_, '_>| {
        let out_of_range = Error::TokenOutOfRange {
            token: vocab_size,
            vocab_size,
        };
        assert_eq!(session.feed(&[]).unwrap_err(), Error::NoTokens);
        assert_eq!(session.feed(&[0, vocab_size, 1]).unwrap_err(), out_of_range);
        assert_eq!(
            session.feed(&[u32::MAX]).unwrap_err(),
            Error::TokenOutOfRange {
                token: u32::MAX,
                vocab_size
            }
        );
        assert_eq!(
            session.feed(&ids[..12]).unwrap_err(),
            Error::ContextFull { room: 11 }
        );
        assert_eq!(
            session.start(&ids[..12]).unwrap_err(),
            Error::ContextFull { room: 11 }
        );
        assert_eq!(
            session
                .feed_each(&ids[..12], |_, _| panic!("fed"))
                .unwrap_err(),
            Error::ContextFull { room: 11 }
        );
        assert_eq!(session.skip_to(8).unwrap_err(), Error::Position(8));
        // The ring of the layer with a window of 3 holds 8 keys of the 9.
        assert_eq!(
            session.rewind(7).unwrap_err(),
            Error::RewindTooFar { possible: 6 }
        );
        assert_eq!(
            session.rewind(usize::MAX).unwrap_err(),
            Error::RewindTooFar { possible: 6 }
        );
        session.rewind(0).unwrap();
        assert_eq!(session.step(1).unwrap_err(), Error::NoTokens);
        assert_eq!(
            (session.len(), session.position(), session.tokens()),
            (9, 9, &ids[..9])
        );
    };
    refuse_all(&mut session);
    // In the middle of a step nothing can begin, and refusing it does not disturb the step.
    session.start(&ids[9..15]).unwrap();
    let logits = loop {
        assert_eq!(session.feed(&ids[..1]).unwrap_err(), Error::Busy);
        assert_eq!(
            session.feed_each(&ids[..1], |_, _| ()).unwrap_err(),
            Error::Busy
        );
        assert_eq!(session.start(&ids[..1]).unwrap_err(), Error::Busy);
        assert_eq!(session.skip_to(100).unwrap_err(), Error::Busy);
        assert_eq!(session.rewind(1).unwrap_err(), Error::Busy);
        if let Step::Done(logits) = session.step(100).unwrap() {
            break bits(logits);
        }
    };
    assert!(logits == expected[14]);
    assert!(bits(session.feed(&ids[15..]).unwrap()) == expected[19]);
    assert_eq!(
        session.feed(&[0]).unwrap_err(),
        Error::ContextFull { room: 0 }
    );

    // Positions end where u32 does.
    session.reset();
    session.skip_to(u32::MAX - 1).unwrap();
    session.feed(&[0]).unwrap();
    assert_eq!(session.feed(&[0]).unwrap_err(), Error::Position(u32::MAX));
    assert_eq!((session.len(), session.position()), (1, u32::MAX));
}

#[test]
fn a_reset_in_the_middle_of_a_step_forgets_it() {
    for (name, description) in models() {
        let vocab_size = description.config.vocab_size;
        let image = Memory::new(description, 8).pack(DType::Q4);
        let model = Model::open(&image).unwrap();
        let plan = Plan::new(model.header()).context(60).batch(5).kv(Kv::F16);
        let ids = Numbers::new(2).tokens(60, vocab_size);
        let mut arena = dirty(0x7f, plan.bytes());
        let mut session = session_in(&model, &plan, &mut arena);
        let expected = bits(session.feed(&ids[..23]).unwrap());
        for steps in 0..40 {
            session.reset();
            session.start(&ids[20..]).unwrap();
            for _ in 0..steps * 7 {
                if let Step::Done(_) = session.step(30).unwrap() {
                    break;
                }
            }
            session.reset();
            assert!(session.is_empty() && session.position() == 0);
            assert!(
                bits(session.feed(&ids[..23]).unwrap()) == expected,
                "{name}, {steps} steps"
            );
        }
    }
}

#[test]
fn a_step_does_one_piece_at_least_and_its_budget_at_most() {
    // The smallest budget must make progress, and a larger one never takes more calls.
    let image = Memory::new(models().swap_remove(3).1, 8).pack(DType::F32);
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(30).batch(5);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let mut last = usize::MAX;
    for budget in [0, 1, 7, 8, 9, 64, 1000, u32::MAX] {
        session.reset();
        session.start(&Numbers::new(2).tokens(30, 43)).unwrap();
        let mut calls = 1;
        while let Step::Pending = session.step(budget).unwrap() {
            calls += 1;
        }
        assert!(
            calls <= last,
            "{calls} calls with a budget of {budget}, {last} with a smaller one"
        );
        last = calls;
    }
    assert_eq!(last, 1);
}

/// Cores as somebody counts them who is wrong about it.
struct Claimed(usize);

impl Workers for Claimed {
    fn run(&self, job: &(dyn Fn() + Sync)) {
        job();
        job();
    }

    fn count(&self) -> usize {
        self.0
    }
}

#[test]
fn the_logits_do_not_depend_on_the_number_of_workers() {
    let (_, description) = models().swap_remove(3);
    do_not_depend_on_workers(description, 68);
    let layers = vec![convolution(7), window(5, Rope::Local), convolution(7)];
    do_not_depend_on_workers(random::plain(layers), 170);
}

/// Checks this, with an embedding of this width.
fn do_not_depend_on_workers(mut description: Description, width: u32) {
    // Products that are worth sharing.
    let config = &mut description.config;
    (
        config.embedding_dim,
        config.projection_dim,
        config.mlp_hidden_dim,
    ) = (width, 64, 70);
    description.global_rope = random::rope_table(64, 1e4, 1.0, u32::MAX);
    description.local_rope = Some(random::rope_table(64, 100.0, 1.0, u32::MAX));
    // The first batch is enough for two workers to take inputs of their own, some more than others,
    // and the second is not.
    let ids = Numbers::new(1).tokens(190, description.config.vocab_size);
    let memory = Memory::new(description, 6);
    for dtype in [DType::F32, DType::Q8] {
        let image = memory.pack(dtype);
        let model = Model::open(&image).unwrap();
        let feed = |kv: Kv, batch: u32, isa: &'static Isa, workers: &dyn Workers| {
            let plan = Plan::new(model.header()).context(190).batch(batch).kv(kv);
            let mut arena = arena_for(&plan);
            let mut session =
                Session::new(&model, &plan, &mut arena, Engine { isa, workers }).unwrap();
            bits(session.feed(&ids).unwrap())
        };
        // With batches of 100 keys and values of the second one go round the rings of local layers,
        // by all workers.
        for kv in Kv::ALL {
            let expected = feed(kv, 1, Isa::SCALAR, &Solo);
            assert!(
                feed(kv, 100, Isa::best(), &Threads::new(2).unwrap()) == expected,
                "{dtype:?}, {kv:?}"
            );
        }
        let feed = |batch, isa, workers: &dyn Workers| feed(Kv::F16, batch, isa, workers);
        let expected = feed(1, Isa::SCALAR, &Solo);
        for isa in Isa::available() {
            assert!(
                feed(150, isa, &Threads::new(2).unwrap()) == expected,
                "{dtype:?}, {isa:?}"
            );
            for count in [
                0,
                1,
                2,
                3,
                1000,
                1 << 31,
                1 << (usize::BITS - 1),
                usize::MAX,
            ] {
                assert!(
                    feed(150, isa, &Claimed(count)) == expected,
                    "{dtype:?}, {isa:?}, {count} cores"
                );
            }
        }
    }
}
