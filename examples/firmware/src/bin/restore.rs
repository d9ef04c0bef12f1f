#![no_std]
#![no_main]
//! Goes on where the host left off: behind the image in the flash partition lies a snapshot of a
//! prompt, computed there with a longer context and a larger batch than this board has memory for.

use pocketlm::Error;
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Digest, Plan, Session, Solo};
use pocketlm_firmware::board::{self, eprintln, println};
use pocketlm_firmware::image::images;

const ARENA_BYTES: usize = 1 << 20;
/// Tokens that are added to the prompt.
const MORE: u32 = 8;

pocketlm_firmware::entry!(check, ARENA_BYTES);

fn check(arena: &'static mut [u8]) -> bool {
    let result = run(arena);
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    result.is_ok()
}

fn run(arena: &mut [u8]) -> Result<(), Error> {
    let image = images().next().ok_or(Error::NotAnImage)?;
    let snapshot = board::partition().get(image.len()..).unwrap_or_default();
    let model = Model::open(image)?;
    let plan = Plan::new(model.header()).context(80).kv(Kv::Q8);
    let mut session = Session::new(&model, &plan, arena, &Solo)?;
    session.restore_from(snapshot)?;
    println!("restored {} tokens", session.len());
    for id in 0..MORE {
        let mut digest = Digest::new();
        digest.update(session.feed(&[2 + 3 * id])?);
        println!("logits {:016x}", digest.value());
    }
    // What is saved here could go back to the host.
    let mut digest = 0u32;
    session.save(&mut |bytes| {
        bytes
            .iter()
            .for_each(|&byte| digest = digest.rotate_left(5) ^ u32::from(byte));
        Ok(())
    })?;
    println!("saved {digest:08x}");
    Ok(())
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
