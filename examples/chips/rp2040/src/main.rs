#![no_std]
#![no_main]
//! Requests on the serial line switch pins of a Raspberry Pi Pico. UART0 is on GPIO 0 (out) and 1
//! (in), 115200 baud; a debug probe has both.

use defmt_rtt as _; // the logger
use embassy_executor::Spawner;
use embassy_futures::join::join;
use embassy_rp::bind_interrupts;
use embassy_rp::gpio::{Level, Output};
use embassy_rp::peripherals::UART0;
use embassy_rp::uart::{BufferedInterruptHandler, BufferedUart, Config};
use panic_probe as _; // the panic handler
use pocketlm_chips_app::{blink, serve};

bind_interrupts!(struct Interrupts {
    UART0_IRQ => BufferedInterruptHandler<UART0>;
});

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let chip = embassy_rp::init(Default::default());
    let (mut sent, mut received) = ([0; 64], [0; 64]);
    let serial = BufferedUart::new(
        chip.UART0,
        chip.PIN_0,
        chip.PIN_1,
        Interrupts,
        &mut sent,
        &mut received,
        Config::default(),
    );
    let mut pins = [
        (2, Output::new(chip.PIN_2, Level::Low)),
        (3, Output::new(chip.PIN_3, Level::Low)),
        (4, Output::new(chip.PIN_4, Level::Low)),
        (5, Output::new(chip.PIN_5, Level::Low)),
    ];
    let led = Output::new(chip.PIN_25, Level::Low);
    join(serve(serial, &mut pins), blink(led)).await;
}
