#![no_std]
#![no_main]
//! What the core logs through defmt: an image opened, a session made, tokens begun, a refusal. The
//! frames go to stdout; `defmt-print -e PROGRAM` makes text of them.

use cortex_m as _; // its critical section
use defmt_semihosting as _; // the logger
use pocketlm::Error;
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session};
use pocketlm_firmware::board;
use pocketlm_firmware::image::{IMAGE, PLAN};

const SHORT: Plan = PLAN.context(8).batch(4);

pocketlm_firmware::entry!(log, SHORT.bytes());

fn log(arena: &'static mut [u8]) -> bool {
    run(arena).is_ok()
}

fn run(arena: &mut [u8]) -> Result<(), Error> {
    let model = Model::open(IMAGE)?;
    let mut session = Session::new(&model, &SHORT, arena, board::workers())?;
    session.feed(&[1, 2, 3])?;
    // A token that the model does not have: refused, logged, and nothing has changed.
    let refused = session.feed(&[model.config().vocab_size]).map(|_| ());
    session.feed(&[4])?;
    defmt::info!("{}", session);
    if refused.is_err() {
        Ok(())
    } else {
        Err(Error::NoTokens)
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    board::exit(false)
}
