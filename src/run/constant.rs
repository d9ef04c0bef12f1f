//! Plans in a `const`: what is wrong with them fails the build, with a sentence.

use super::Plan;
use crate::Error;
use crate::model::Header;

impl<'m> Plan<'m> {
    /// [`Plan::new`] for an image that is part of the program, in a `const`:
    ///
    /// ```
    /// # use pocketlm::{include_image, model::Kv, run::{Plan, StaticArena}};
    /// const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
    /// const PLAN: Plan = Plan::of(STORY).context(256).kv(Kv::Q8).within(128 * 1024);
    /// static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
    /// ```
    ///
    /// # Panics
    /// If [`Header::read`] refuses the image; in a `const` that is an error of the compiler. At run
    /// time use [`Header::read`] and [`Plan::new`], which do not panic.
    #[track_caller]
    pub const fn of(image: &'m [u8]) -> Plan<'m> {
        let message = Message::EMPTY;
        let message = match Header::read(image) {
            Ok(header) => return Plan::new(&header),
            Err(Error::NotAnImage) => {
                message.text("this is not an image; `pocketlm pack` makes one from a checkpoint")
            }
            Err(Error::Version(found)) => message
                .text("the image has version ")
                .number(found as u64)
                .text(" of the format, this pocketlm reads version ")
                .number(crate::model::VERSION as u64)
                .text("; pack it again"),
            Err(Error::Truncated { expected, found }) => message
                .text("the image has ")
                .number(found as u64)
                .text(" bytes and should have ")
                .number(expected as u64)
                .text("; copy it again"),
            Err(_) => {
                message.text("the image is damaged; `pocketlm info` says what is wrong with it")
            }
        };
        panic!("{}", message.as_str())
    }

    /// The same plan, if its arena takes at most `bytes`.
    ///
    /// # Panics
    /// If it takes more; in a `const` that is an error of the compiler, which says how much it
    /// takes.
    #[track_caller]
    pub const fn within(self, bytes: usize) -> Plan<'m> {
        if self.bytes() <= bytes {
            return self;
        }
        let message = Message::EMPTY
            .text("a context of ")
            .number(self.context_tokens() as u64)
            .text(" tokens takes ");
        let message = match self.bytes() {
            usize::MAX => message.text("more than any memory holds"),
            needed => message
                .number(needed as u64)
                .text(" bytes of RAM, and there are ")
                .number(bytes as u64),
        };
        panic!(
            "{}",
            message
                .text("; a shorter context, a smaller batch or `Kv::Q8` needs less")
                .as_str()
        )
    }
}

/// A sentence put together by the compiler, where `format_args!` does not run. What is too long is
/// cut.
#[derive(Clone, Copy)]
struct Message {
    bytes: [u8; 192],
    length: usize,
}

impl Message {
    const EMPTY: Message = Message {
        bytes: [0; 192],
        length: 0,
    };

    const fn push(mut self, byte: u8) -> Message {
        if self.length < self.bytes.len() {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        self
    }

    const fn text(mut self, text: &str) -> Message {
        let mut i = 0;
        while i < text.len() {
            self = self.push(text.as_bytes()[i]);
            i += 1;
        }
        self
    }

    const fn number(mut self, number: u64) -> Message {
        let mut power = 1;
        while number / power >= 10 {
            power *= 10;
        }
        while power > 0 {
            self = self.push(b'0' + (number / power % 10) as u8);
            power /= 10;
        }
        self
    }

    const fn as_str(&self) -> &str {
        match core::str::from_utf8(self.bytes.split_at(self.length).0) {
            Ok(text) => text,
            Err(_) => "",
        }
    }
}
