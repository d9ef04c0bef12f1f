//! The linker script of cortex-m-rt. embassy-stm32 says where memory is.

fn main() {
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}
