//! A firmware that acts on requests: the calls that the host's program writes, on every kind of core.

use pocketlm::import::{self, PackOptions};
use pocketlm::model::DType;

use crate::board::{AARCH64, Board, M0, M4F, RV32IMAFC};
use crate::common::shared;

/// What every board prints. The host writes the same calls.
const PRINTED: &str = "\
> please turn on pin 5 and make the led purple
<start_function_call>call:pin_on{pin:5}<end_function_call><start_function_call>call:led_color{color:<escape>purple<escape>}<end_function_call> (26 tokens, 12 passes)
GPIO 5 is high
led_color color purple
> what's the temperature?
<start_function_call>call:read_sensor{sensor:<escape>temperature<escape>}<end_function_call> (14 tokens, 7 passes)
read_sensor sensor temperature
> remind me about the tea in 4 minutes
<start_function_call>call:timer{label:<escape>tea<escape>,minutes:4}<end_function_call> (17 tokens, 11 passes)
timer label tea minutes 4
> switch pin 99 on
<start_function_call>call:cannot{reason:<escape>out of range<escape>}<end_function_call> (16 tokens, 7 passes)
cannot reason out of range
";

fn acts(board: &Board) {
    let Some(folder) = shared("models/pins") else {
        return;
    };
    if !board.is_here("calls of tools") {
        return;
    }
    let checkpoint = import::open(&folder).unwrap();
    let options = PackOptions {
        dtype: Some(DType::Q4),
        ..PackOptions::default()
    };
    let image = tempfile::Builder::new().suffix(".plm").tempfile().unwrap();
    let bytes = import::pack_to_memory(&*checkpoint, &options, &mut |_, _| ()).unwrap();
    std::fs::write(image.path(), &*bytes).unwrap();
    let elf = board.build_with(Some(image.path()), "pins", "s", "f32,q4,grammar");
    let elf = elf.unwrap_or_else(|error| panic!("{error}"));
    let printed = String::from_utf8(board.run_built(&elf, &[])).unwrap();
    assert_eq!(printed, PRINTED, "{}", board.name);
}

#[test]
fn a_request_becomes_an_action_on_a_cortex_m0() {
    acts(&M0);
}

#[test]
fn a_request_becomes_an_action_on_a_cortex_m4f() {
    acts(&M4F);
}

#[test]
fn a_request_becomes_an_action_on_rv32imafc() {
    acts(&RV32IMAFC);
}

#[test]
fn a_request_becomes_an_action_on_aarch64() {
    acts(&AARCH64);
}
