#![no_std]
#![no_main]
//! Reports on images that are not in the program: they were written to a flash partition of their
//! own, one after the other, each with the next type of keys and values. The plan is made when the
//! program runs, in an arena chosen beforehand; what does not fit is an error.

use pocketlm::model::Kv;
use pocketlm_firmware::board::{self, eprintln};
use pocketlm_firmware::image::images;
use pocketlm_firmware::report::report;

const ARENA_BYTES: usize = 1 << 20;

pocketlm_firmware::entry!(check, ARENA_BYTES);

fn check(arena: &'static mut [u8]) -> bool {
    images().zip(Kv::ALL.iter().cycle()).all(|(image, &kv)| {
        let result = report(image, &[kv], arena);
        if let Err(error) = result {
            eprintln!("error: {error}");
        }
        result.is_ok()
    })
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
