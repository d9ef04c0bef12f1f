#![no_std]
#![no_main]
//! Reports on the image in the program: digests of the logits, then what it all took.

use pocketlm::run::Plan;
use pocketlm_firmware::board;
use pocketlm_firmware::image::{IMAGE, PLAN};
use pocketlm_firmware::report::{largest, report};
use semihosting::{eprintln, println};

/// Made by the compiler: a wrong image or too little RAM and there is no program.
const LARGEST: Plan = largest(PLAN);

pocketlm_firmware::entry!(check, LARGEST.bytes());

fn check(arena: &'static mut [u8]) -> bool {
    let result = report(IMAGE, arena);
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    let memory = board::memory();
    println!(
        "cost memory text {} rodata {} image {} data {} bss {}",
        memory.text, memory.rodata, memory.image, memory.data, memory.bss
    );
    result.is_ok()
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
