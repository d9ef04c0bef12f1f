//! The linker script of esp-hal, which puts constants, and so the image, into flash.

fn main() {
    println!("cargo::rustc-link-arg-bins=-Tlinkall.x");
}
