#![no_std]
#![no_main]
//! Reports on the image in the program: digests of the logits with every type of keys and values,
//! then what it all took.

use pocketlm::model::Kv;
use pocketlm::run::Plan;
use pocketlm_firmware::board::{self, eprintln};
use pocketlm_firmware::image::{IMAGE, PLAN};
use pocketlm_firmware::report::{bounds, largest, report};

/// Made by the compiler: a wrong image or too little RAM and there is no program.
const LARGEST: Plan = largest(PLAN);

pocketlm_firmware::entry!(check, LARGEST.bytes());

fn check(arena: &'static mut [u8]) -> bool {
    let result = report(IMAGE, &Kv::ALL, arena).and_then(|()| bounds(IMAGE, arena));
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    #[cfg(not(board = "wasm32"))]
    print_memory();
    result.is_ok()
}

#[cfg(not(board = "wasm32"))]
fn print_memory() {
    let memory = board::memory();
    board::println!(
        "cost memory text {} rodata {} image {} data {} bss {}",
        memory.text,
        memory.rodata,
        memory.image,
        memory.data,
        memory.bss
    );
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
