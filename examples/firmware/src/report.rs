//! Runs a fixed sequence of tokens and prints digests of all logits, fed at once and in slices. The host prints the same lines (`tests/firmware/` compares them), but for those that start with `cost`.

use pocketlm::Error;
use pocketlm::model::Model;
use pocketlm::run::{Digest, Kv, Plan, Session, Step};

use crate::board::{self, println};
use crate::cost::{self, Cost};
use crate::sequence::{BATCH, BUDGET, CONTEXT, TOKENS, tokens};

/// All about one image, with these types of keys and values, in an arena that holds what [`largest`] takes.
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

/// The plan of these runs with keys and values in f32, which take the most memory.
pub const fn largest(plan: Plan<'_>) -> Plan<'_> {
    plan.context(CONTEXT).batch(BATCH).kv(Kv::F32)
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

    // Another session in memory that is overwritten: a slice that read a key before it was written would find none of the first run's.
    arena.fill(0xFF);
    let mut session = Session::new(model, plan, arena, board::workers())?;
    session.start(&tokens)?;
    let (mut digest, mut most) = (Digest::new(), Cost::default());
    loop {
        let mut done = Ok(false);
        let cost = cost::of(|| {
            done = session.step(BUDGET).map(|step| match step {
                Step::Pending => false,
                Step::Done(logits) => {
                    digest.update(logits);
                    true
                }
            });
        });
        most = most.max(cost);
        if done? {
            break;
        }
    }
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
        println!("cost {what} {kv} instructions {} stack {}", cost.instructions, cost.stack);
    }
}
