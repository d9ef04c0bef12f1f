#![no_std]
#![no_main]
//! Requests on the serial line switch pins of an nRF52840 DK. Its debugger passes UARTE0 (P0.06
//! out, P0.08 in, 115200 baud) on to USB.

use defmt_rtt as _; // the logger
use embassy_executor::Spawner;
use embassy_futures::join::join;
use embassy_nrf::bind_interrupts;
use embassy_nrf::buffered_uarte::{BufferedUarte, InterruptHandler};
use embassy_nrf::gpio::{Level, Output, OutputDrive};
use embassy_nrf::peripherals::UARTE0;
use embassy_nrf::uarte::Config;
use panic_probe as _; // the panic handler
use pocketlm_chips_app::{blink, serve};

bind_interrupts!(struct Interrupts {
    UARTE0 => InterruptHandler<UARTE0>;
});

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let chip = embassy_nrf::init(Default::default());
    let (mut sent, mut received) = ([0; 64], [0; 64]);
    let serial = BufferedUarte::new(
        chip.UARTE0,
        chip.TIMER0,
        chip.PPI_CH0,
        chip.PPI_CH1,
        chip.PPI_GROUP0,
        chip.P0_08,
        chip.P0_06,
        Interrupts,
        Config::default(),
        &mut received,
        &mut sent,
    );
    let mut pins = [
        (
            3,
            Output::new(chip.P0_03, Level::Low, OutputDrive::Standard),
        ),
        (
            4,
            Output::new(chip.P0_04, Level::Low, OutputDrive::Standard),
        ),
        (
            28,
            Output::new(chip.P0_28, Level::Low, OutputDrive::Standard),
        ),
        (
            29,
            Output::new(chip.P0_29, Level::Low, OutputDrive::Standard),
        ),
    ];
    let led = Output::new(chip.P0_13, Level::High, OutputDrive::Standard);
    join(serve(serial, &mut pins), blink(led)).await;
}
