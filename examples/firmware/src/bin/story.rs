#![no_std]
#![no_main]
//! Tells the built-in story on the board: the same text, letter for letter, as `cargo run` on the
//! host.

use pocketlm::Error;
use pocketlm::generate::Generation;
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session};
use pocketlm::sample::Sampler;
use pocketlm::text::{EncodeOptions, scratch_len};
use pocketlm_firmware::board::{self, eprintln, print, println};
use pocketlm_firmware::image::{IMAGE, PLAN};

const PROMPT: &str = "Once upon a time";
const STORY: Plan = PLAN.context(256).batch(8);

pocketlm_firmware::entry!(story, STORY.bytes());

fn story(arena: &'static mut [u8]) -> bool {
    let result = tell(arena);
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    result.is_ok()
}

fn tell(arena: &mut [u8]) -> Result<(), Error> {
    let model = Model::open(IMAGE)?;
    let tokenizer = model.tokenizer()?;
    let mut session = Session::new(&model, &STORY, arena, board::workers())?;
    let mut sampler = Sampler::new(33).temperature(0.5).top_p(0.9);

    let mut ids = [0; 32];
    let mut scratch = [0; scratch_len(PROMPT.len())];
    let count = tokenizer.encode(PROMPT, EncodeOptions::default(), &mut scratch, &mut ids)?;
    let prompt = ids.get(..count).unwrap_or_default();
    print!("{PROMPT}");
    let mut generation = Generation::new(&mut session, &mut sampler, &tokenizer, prompt);
    while generation.next(|text| print!("{text}"))?.is_none() {}
    println!("");
    Ok(())
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
