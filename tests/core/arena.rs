//! Sessions in memory that a program sets aside, in every type of weights and of keys and values:
//! the same bits in static memory, in memory of its own that others have used, and on threads.

use crate::common::bits;
use crate::common::random::{self, Memory, window};
use pocketlm::host::Threads;
use pocketlm::model::{DType, Kv, Model, Rope};
use pocketlm::run::{Arena, Plan, Session, Solo, StaticArena, Step, Workers};

/// More than any of the models here takes.
const BYTES: usize = 16 * 1024;

/// Everything that a session does with its arena; the logits of the last token.
fn exercise(
    model: &Model<'_>,
    plan: &Plan<'_>,
    arena: &mut [u8],
    workers: &dyn Workers,
) -> Vec<u32> {
    let mut session = Session::new(model, plan, arena, workers).unwrap();
    let mut rows = Vec::new();
    session
        .feed_each(&[1, 2, 3, 4], |_, logits| rows.push(bits(logits)))
        .unwrap();
    session.rewind(2).unwrap();
    session.start(&[3, 4]).unwrap();
    let sliced = loop {
        if let Step::Done(logits) = session.step(20).unwrap() {
            break bits(logits);
        }
    };
    assert_eq!(sliced, rows[3]);
    let mut saved = Vec::new();
    let mut sink = |bytes: &[u8]| {
        saved.extend_from_slice(bytes);
        Ok(())
    };
    session.save(&mut sink).unwrap();
    session.reset();
    session.restore_from(&saved).unwrap();
    bits(session.feed(&[5]).unwrap())
}

#[test]
fn a_session_in_any_memory_gives_the_same_bits() {
    static ONCE: StaticArena<BYTES> = StaticArena::new();
    let once = ONCE.take().unwrap();
    assert!(ONCE.take().is_none());
    let mut owned = Arena::<BYTES>::new();
    let threads = Threads::new(2).unwrap();
    // Every type of weights, and every type of keys and values.
    for (dtype, kv) in DType::ALL.into_iter().zip(Kv::ALL.into_iter().cycle()) {
        let mut description = random::plain(vec![window(0, Rope::Global), window(3, Rope::Local)]);
        let config = &mut description.config;
        (
            config.embedding_dim,
            config.mlp_hidden_dim,
            config.vocab_size,
        ) = (4, 5, 9);
        let image = Memory::new(description, 1).pack(dtype);
        let model = Model::open(&image).unwrap();
        let plan = Plan::new(model.header()).context(8).batch(3).kv(kv);
        assert!(plan.bytes() <= BYTES, "{} bytes", plan.bytes());
        let expected = exercise(&model, &plan, once, &Solo);
        assert_eq!(
            exercise(&model, &plan, &mut owned, &threads),
            expected,
            "{} {kv:?}",
            dtype.name()
        );
        once.fill(0xff);
    }
}
