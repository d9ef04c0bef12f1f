//! The linker scripts of cortex-m-rt and defmt. embassy-stm32 says where memory is.

fn main() {
    for script in ["link.x", "defmt.x"] {
        println!("cargo::rustc-link-arg-bins=-T{script}");
    }
}
