#![no_std]
// The names are those of the C interface, and each function's promise to Rust is the same one: the
// pointers are what the header says.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]
//! The C interface of pocketlm. `include/pocketlm.h` is made from these files: their comments are
//! the header's. `manual::c` in the crate pocketlm says how to begin.
//!
//! | file | question it answers |
//! |---|---|
//! | `status.rs` | What does a function return? |
//! | `model.rs` | What is an image, and what memory does it need? |
//! | `source.rs` | How are weights read, and work shared, by functions of the caller? |
//! | `session.rs` | How are tokens computed? |
//! | `sampler.rs` | Which token comes next? |
//! | `text.rs` | How does text become tokens, and tokens text? |
//! | `constraint.rs` | What is a place in a text that obeys a grammar, and how does a generation use it? |
//! | `grammar.rs` | Which tokens may come next, given a grammar? |
//! | `generation.rs` | How is a whole text generated? |
//! | `handle.rs` | How does Rust know that memory of the caller is what it should be? |
//! | `memory.rs` | Which pointers and lengths are refused? |
//!
//! Nothing here can panic. On a device the panic handler calls a function that exists nowhere, so a
//! panic that can be reached does not link. In WebAssembly it would be an import.

// On a host the program has the panic handler and the unwinder of the standard library.
#[cfg(not(any(target_os = "none", all(target_family = "wasm", target_os = "unknown"))))]
extern crate std;

mod constraint;
mod generation;
#[cfg(feature = "grammar")]
mod grammar;
mod handle;
mod memory;
mod model;
mod sampler;
mod session;
mod source;
mod status;
mod text;

#[cfg(any(target_os = "none", all(target_family = "wasm", target_os = "unknown")))]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        /// Defined nowhere.
        safe fn plm_a_panic_can_be_reached() -> !;
    }
    plm_a_panic_can_be_reached()
}
