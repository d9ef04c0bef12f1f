#![no_std]
#![no_main]
//! Requests on the serial line switch pins of a Nucleo-H743ZI2. Its debugger passes USART3 (PD8
//! out, PD9 in, 115200 baud) on to USB.

use defmt_rtt as _; // the logger
use embassy_executor::Spawner;
use embassy_futures::join::join;
use embassy_stm32::bind_interrupts;
use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::peripherals::USART3;
use embassy_stm32::rcc::{
    AHBPrescaler, APBPrescaler, HSIPrescaler, Pll, PllDiv, PllMul, PllPreDiv, PllSource, Sysclk,
    VoltageScale,
};
use embassy_stm32::usart::{BufferedInterruptHandler, BufferedUart, Config};
use panic_probe as _; // the panic handler
use pocketlm_chips_app::{blink, serve};

bind_interrupts!(struct Interrupts {
    USART3 => BufferedInterruptHandler<USART3>;
});

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let chip = embassy_stm32::init(clocks());
    if let Some(mut core) = cortex_m::Peripherals::take() {
        // Nothing here uses DMA, so the data cache needs no care.
        core.SCB.enable_icache();
        core.SCB.enable_dcache(&mut core.CPUID);
    }
    let (mut sent, mut received) = ([0; 64], [0; 64]);
    let serial = BufferedUart::new(
        chip.USART3,
        chip.PD9,
        chip.PD8,
        &mut sent,
        &mut received,
        Interrupts,
        Config::default(),
    )
    .unwrap();
    // The numbers are those of the board's Arduino header.
    let mut pins = [
        (3, Output::new(chip.PE13, Level::Low, Speed::Low)),
        (5, Output::new(chip.PE11, Level::Low, Speed::Low)),
        (6, Output::new(chip.PE9, Level::Low, Speed::Low)),
    ];
    let led = Output::new(chip.PB0, Level::Low, Speed::Low);
    join(serve(serial, &mut pins), blink(led)).await;
}

/// 400 MHz, of the internal oscillator of 64 MHz.
fn clocks() -> embassy_stm32::Config {
    let mut config = embassy_stm32::Config::default();
    config.rcc.hsi = Some(HSIPrescaler::DIV1);
    config.rcc.pll1 = Some(Pll {
        source: PllSource::HSI,
        prediv: PllPreDiv::DIV4,
        mul: PllMul::MUL50,
        divp: Some(PllDiv::DIV2),
        divq: Some(PllDiv::DIV8),
        divr: None,
        fracn: None,
    });
    config.rcc.sys = Sysclk::PLL1_P;
    config.rcc.ahb_pre = AHBPrescaler::DIV2;
    config.rcc.apb1_pre = APBPrescaler::DIV2;
    config.rcc.apb2_pre = APBPrescaler::DIV2;
    config.rcc.apb3_pre = APBPrescaler::DIV2;
    config.rcc.apb4_pre = APBPrescaler::DIV2;
    config.rcc.voltage_scale = VoltageScale::Scale1;
    config
}
