#![no_std]
#![no_main]
//! Runs a fixed sequence of tokens and prints digests of all logits, for every type of keys and values, fed at once and
//! in slices; then what it took. `tests/firmware.rs` compares every line with the host's.

use pocketlm::Error;
use pocketlm::model::Model;
use pocketlm::run::{Digest, Kv, Plan, Session, Solo, Step};
use pocketlm_firmware::board;
use pocketlm_firmware::cost::{self, Cost};
use pocketlm_firmware::image::{IMAGE, PLAN};
use pocketlm_firmware::sequence::{BATCH, BUDGET, CONTEXT, TOKENS, tokens};
use semihosting::{eprintln, println};

/// Keys and values in f32 take the most memory.
const LARGEST: Plan = PLAN.context(CONTEXT).batch(BATCH).kv(Kv::F32);

pocketlm_firmware::entry!(check, LARGEST.bytes());

fn check(arena: &'static mut [u8]) -> bool {
    let result = run(arena);
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    result.is_ok()
}

fn run(arena: &mut [u8]) -> Result<(), Error> {
    let mut opened = Err(Error::NoTokens);
    let cost = cost::of(|| opened = Model::open(IMAGE));
    let model = opened?;
    println!("open instructions {} stack {}", cost.instructions, cost.stack);
    for kv in Kv::ALL {
        measure(&model, &LARGEST.kv(kv), arena)?;
    }
    let memory = board::memory();
    println!(
        "memory text {} rodata {} image {} data {} bss {}",
        memory.text, memory.rodata, memory.image, memory.data, memory.bss
    );
    Ok(())
}

/// One plan: at once, in slices, and one token more.
fn measure(model: &Model<'_>, plan: &Plan<'_>, arena: &mut [u8]) -> Result<(), Error> {
    let kv = plan.kv_type().dtype().name();
    println!("arena {kv} bytes {}", plan.bytes());
    let tokens = tokens(model.config().vocab_size);
    let mut session = Session::new(model, plan, arena, &Solo)?;

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
    println!("feed {kv} instructions {} stack {}", cost.instructions, cost.stack);

    // The caches still hold the first run: a slice that reads what it has not written would show.
    session.reset();
    session.start(&tokens)?;
    let (mut digest, mut calls, mut most) = (Digest::new(), 0, Cost::default());
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
        calls += 1;
        most = most.max(cost);
        if done? {
            break;
        }
    }
    println!("step {kv} {:016x} calls {calls} instructions {} stack {}", digest.value(), most.instructions, most.stack);

    let mut last = Ok(());
    let cost = cost::of(|| last = session.feed(&tokens[..1]).map(|_| ()));
    last?;
    println!("token {kv} instructions {} stack {}", cost.instructions, cost.stack);
    Ok(())
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
