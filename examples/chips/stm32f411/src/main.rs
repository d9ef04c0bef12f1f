#![no_std]
#![no_main]
//! Requests on the serial line switch pins of a Nucleo-F411RE. Its debugger passes USART2 (PA2 out,
//! PA3 in, 115200 baud) on to USB.

use embassy_executor::Spawner;
use embassy_futures::join::join;
use embassy_stm32::bind_interrupts;
use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::peripherals::USART2;
use embassy_stm32::rcc::{APBPrescaler, Pll, PllMul, PllPDiv, PllPreDiv, PllSource, Sysclk};
use embassy_stm32::usart::{BufferedInterruptHandler, BufferedUart, Config};
use panic_halt as _; // the panic handler
use pocketlm_chips_app::{blink, serve};

bind_interrupts!(struct Interrupts {
    USART2 => BufferedInterruptHandler<USART2>;
});

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let chip = embassy_stm32::init(clocks());
    let (mut sent, mut received) = ([0; 64], [0; 64]);
    let serial = BufferedUart::new(
        chip.USART2,
        chip.PA3,
        chip.PA2,
        &mut sent,
        &mut received,
        Interrupts,
        Config::default(),
    )
    .unwrap();
    // The numbers are those of the board's Arduino header.
    let mut pins = [
        (3, Output::new(chip.PB3, Level::Low, Speed::Low)),
        (4, Output::new(chip.PB5, Level::Low, Speed::Low)),
        (5, Output::new(chip.PB4, Level::Low, Speed::Low)),
        (6, Output::new(chip.PB10, Level::Low, Speed::Low)),
    ];
    let led = Output::new(chip.PA5, Level::Low, Speed::Low);
    join(serve(serial, &mut pins), blink(led)).await;
}

/// 100 MHz, of the internal oscillator of 16 MHz.
fn clocks() -> embassy_stm32::Config {
    let mut config = embassy_stm32::Config::default();
    config.rcc.pll_src = PllSource::HSI;
    config.rcc.pll = Some(Pll {
        prediv: PllPreDiv::DIV8,
        mul: PllMul::MUL100,
        divp: Some(PllPDiv::DIV2),
        divq: None,
        divr: None,
    });
    config.rcc.apb1_pre = APBPrescaler::DIV2;
    config.rcc.sys = Sysclk::PLL1_P;
    config
}
