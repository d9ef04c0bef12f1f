//! WebAssembly: `boards/wasm32.mjs` is the machine.

use core::fmt::{self, Write};

/// Defines the entry point, with static memory that can be taken once.
#[macro_export]
macro_rules! entry {
    ($program:path, $bytes:expr) => {
        static ARENA: pocketlm::run::StaticArena<{ $bytes }> = pocketlm::run::StaticArena::new();

        #[unsafe(no_mangle)]
        extern "C" fn start() {
            $crate::board::exit(ARENA.take().is_some_and($program))
        }
    };
}

#[link(wasm_import_module = "host")]
unsafe extern "C" {
    safe fn images_start() -> *const u8;
    safe fn images_length() -> usize;
    fn write(stream: u32, text: *const u8, length: usize);
    #[link_name = "exit"]
    safe fn end(code: i32) -> !;
}

/// Images that are not in the program: the host has put them behind it.
pub fn partition() -> &'static [u8] {
    // SAFETY: the host says so, and nobody writes there.
    unsafe { core::slice::from_raw_parts(images_start(), images_length()) }
}

/// Ends the program.
pub fn exit(success: bool) -> ! {
    end(if success { 0 } else { 1 })
}

/// Prints to stdout (1) or stderr (2).
pub fn print_to(stream: u32, text: fmt::Arguments<'_>) {
    struct Stream(u32);
    impl Write for Stream {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            // SAFETY: the host reads the text and nothing else.
            unsafe { write(self.0, text.as_ptr(), text.len()) };
            Ok(())
        }
    }
    // Only a number that refuses to be written could fail here.
    let _ = Stream(stream).write_fmt(text);
}

#[macro_export]
#[doc(hidden)]
macro_rules! print {
    ($($text:tt)*) => { $crate::board::print_to(1, format_args!($($text)*)) };
}

#[macro_export]
#[doc(hidden)]
macro_rules! println {
    ($($text:tt)*) => { $crate::board::print_to(1, format_args!("{}\n", format_args!($($text)*))) };
}

#[macro_export]
#[doc(hidden)]
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::board::print_to(2, format_args!("{}\n", format_args!($($text)*))) };
}

pub use crate::{eprintln, print, println};

/// Counts nothing: a program cannot see WebAssembly's instructions.
pub struct Clock;

impl Clock {
    /// Nothing to start.
    pub fn start() -> Clock {
        Clock
    }

    /// None.
    pub fn instructions(&self) -> u64 {
        0
    }
}

/// No stack that could be painted: most of it is not in memory.
pub fn stack_end() -> usize {
    0
}

/// As [`stack_end`].
pub fn stack_pointer() -> usize {
    0
}
