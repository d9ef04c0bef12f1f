//! Runs a fixed sequence of tokens and prints digests of all logits, fed at once and in slices. The
//! host prints the same lines (`tests/firmware/` compares them), but for those that start with
//! `cost`.

use core::hint::black_box;

use pocketlm::Error;
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Digest, Plan, Session, Step};
use pocketlm::sample::{Choice, Penalties, Recent, Sampler};
use pocketlm::text::{Decoder, EncodeOptions, scratch_len};

use crate::board::{self, println};
use crate::cost::{self, Cost};
use crate::sequence::{BATCH, BUDGET, CONTEXT, TOKENS, tokens};

/// What is encoded.
const TEXT: &str = "Once upon a time, there was a little girl named Lily who loved to play";

/// All about one image, with these types of keys and values, in an arena that holds what
/// [`largest`] takes.
pub fn report(image: &[u8], kvs: &[Kv], arena: &mut [u8]) -> Result<(), Error> {
    let mut opened = Err(Error::NoTokens);
    let cost = cost::of(|| opened = Model::open(image));
    let model = opened?;
    println!("image {:08x}", model.checksum());
    say("open", "-", cost);
    for &kv in kvs {
        run(&model, &largest(Plan::new(model.header())).kv(kv), arena)?;
    }
    Ok(())
}

/// The longest calls: of `step` with several budgets, a batch at the end of the context, and of
/// what turns text into tokens and back.
pub fn bounds(image: &[u8], arena: &mut [u8]) -> Result<(), Error> {
    let model = &Model::open(image)?;
    let plan = largest(Plan::new(model.header()));
    let tokens = tokens(model.config().vocab_size);
    let mut session = Session::new(model, &plan, arena, board::workers())?;
    let (before, batch) = tokens.split_at(TOKENS - BATCH as usize);
    session.feed(before)?;
    for (budget, what) in [
        (100, "step-100"),
        (1000, "step-1000"),
        (10_000, "step-10000"),
        (100_000, "step-100000"),
    ] {
        session.start(batch)?;
        let most = loop_through(&mut session, budget, |_| ())?;
        say(what, plan.kv_type().dtype().name(), most);
        session.rewind(batch.len())?;
    }

    let logits = session.feed(batch)?;
    let mut id = sample(logits, u32::MAX, "sample")?;
    for (budget, what) in [
        (1, "sample-1"),
        (10, "sample-10"),
        (100, "sample-100"),
        (1000, "sample-1000"),
    ] {
        id = sample(
            session
                .rewind(1)
                .and_then(|()| session.feed(&batch[batch.len() - 1..]))?,
            budget,
            what,
        )?;
    }

    let mut opened = Err(Error::NoTokenizer);
    let cost = cost::of(|| opened = model.tokenizer());
    if opened.is_err_and(|error| error == Error::NoTokenizer) {
        return Ok(());
    }
    let tokenizer = opened?;
    say("tokenizer", "-", cost);
    let mut scratch = [0; scratch_len(TEXT.len())];
    let mut ids = [0; TEXT.len()];
    let mut count = Ok(0);
    let cost = cost::of(|| {
        count = tokenizer.encode(TEXT, EncodeOptions::default(), &mut scratch, &mut ids)
    });
    count?;
    say("encode", "-", cost);
    let mut decoder = Decoder::new(&tokenizer);
    let mut done = Ok(());
    let cost = cost::of(|| {
        done = decoder.push(id).map(|text| {
            text.chunks(|text| {
                black_box(text);
            })
        })
    });
    done?;
    say("decode", "-", cost);
    Ok(())
}

/// The longest slice of a choice with all filters.
fn sample(logits: &mut [f32], budget: u32, what: &str) -> Result<u32, Error> {
    let mut window = [Recent::EMPTY; 16];
    let penalties = Penalties::over(&mut window).repeat(1.1);
    let mut sampler = Sampler::new(1)
        .temperature(0.8)
        .top_k(40)
        .top_p(0.9)
        .min_p(0.05)
        .penalties(penalties);
    let mut choice = Choice::new();
    let mut most = Cost::default();
    let mut sampled = Ok(None);
    while sampled?.is_none() {
        most = most.max(cost::of(|| {
            sampled = sampler.step(&mut choice, logits, budget)
        }));
    }
    say(what, "-", most);
    Ok(sampled?.unwrap_or_default())
}

/// Steps until all is done; the largest cost of a call.
fn loop_through(
    session: &mut Session<'_, '_>,
    budget: u32,
    mut visit: impl FnMut(&[f32]),
) -> Result<Cost, Error> {
    let mut most = Cost::default();
    loop {
        let mut done = Ok(false);
        let cost = cost::of(|| {
            done = session.step(budget).map(|step| match step {
                Step::Pending => false,
                Step::Done(logits) => {
                    visit(logits);
                    true
                }
            });
        });
        most = most.max(cost);
        if done? {
            return Ok(most);
        }
    }
}

/// The plan of these runs that takes the most memory: with keys and values in f32, or in q8 where a
/// head has so few channels that they do not fill a group.
pub const fn largest(plan: Plan<'_>) -> Plan<'_> {
    let plan = plan.context(CONTEXT).batch(BATCH);
    if plan.kv(Kv::Q8).bytes() > plan.kv(Kv::F32).bytes() {
        plan.kv(Kv::Q8)
    } else {
        plan.kv(Kv::F32)
    }
}

/// One plan: at once, in slices, and one token more.
fn run(model: &Model<'_>, plan: &Plan<'_>, arena: &mut [u8]) -> Result<(), Error> {
    let kv = plan.kv_type().dtype().name();
    println!("arena {kv} {}", plan.bytes());
    let tokens = tokens(model.config().vocab_size);
    let mut session = Session::new(model, plan, arena, board::workers())?;

    let mut digests = [Digest::new(); TOKENS];
    let mut result = Ok(());
    let cost = cost::of(|| {
        result = session.feed_each(&tokens, |index, logits| {
            if let Some(digest) = digests.get_mut(index) {
                digest.update(logits);
            }
        });
    });
    result?;
    for (index, digest) in digests.iter().enumerate() {
        println!("logits {kv} {index} {:016x}", digest.value());
    }
    say("feed", kv, cost);

    // Another session in memory that is overwritten: a slice that read a key before it was written
    // would find none of the first run's.
    arena.fill(0xFF);
    let mut session = Session::new(model, plan, arena, board::workers())?;
    session.start(&tokens)?;
    let mut digest = Digest::new();
    let most = loop_through(&mut session, BUDGET, |logits| digest.update(logits))?;
    println!("sliced {kv} {:016x}", digest.value());
    say("step", kv, most);

    let mut last = Ok(());
    let cost = cost::of(|| last = session.feed(&tokens[..1]).map(|_| ()));
    last?;
    say("token", kv, cost);
    Ok(())
}

/// One line of costs: of the longest call and of the deepest, where there are many.
fn say(what: &str, kv: &str, cost: Cost) {
    // WebAssembly measures nothing.
    if cost.instructions > 0 {
        println!(
            "cost {what} {kv} instructions {} stack {}",
            cost.instructions, cost.stack
        );
    }
}
