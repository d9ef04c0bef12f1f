#![no_std]
#![no_main]
//! Requests on the serial line switch pins of an ESP32-C3 board. The line is the chip's own USB
//! serial port.

use embassy_executor::Spawner;
use embassy_futures::join::join;
use esp_backtrace as _; // the panic handler
use esp_hal::gpio::{Level, Output, OutputConfig};
use esp_hal::timer::timg::TimerGroup;
use esp_hal::usb::usb_serial_jtag::UsbSerialJtag;
use pocketlm_chips_app::{blink, serve};

esp_bootloader_esp_idf::esp_app_desc!();

#[esp_rtos::main]
async fn main(_spawner: Spawner) {
    let config = esp_hal::Config::default().with_cpu_clock(esp_hal::clock::CpuClock::max());
    let chip = esp_hal::init(config);
    esp_rtos::start(TimerGroup::new(chip.TIMG0).timer0, chip.FROM_CPU_INTR0);
    let serial = UsbSerialJtag::new(chip.USB_DEVICE).into_async();
    let output = OutputConfig::default();
    let mut pins = [
        (4, Output::new(chip.GPIO4, Level::Low, output)),
        (5, Output::new(chip.GPIO5, Level::Low, output)),
        (6, Output::new(chip.GPIO6, Level::Low, output)),
        (7, Output::new(chip.GPIO7, Level::Low, output)),
    ];
    let led = Output::new(chip.GPIO10, Level::Low, output);
    join(serve(serial, &mut pins), blink(led)).await;
}
