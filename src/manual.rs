//! The manual: how pocketlm is built and how to use and extend it. Each module is one page.

#[doc = include_str!("manual/numeric_contract.md")]
pub mod numeric_contract {}

#[cfg(feature = "std")]
#[doc = include_str!("manual/host.md")]
pub mod host {}

#[doc = include_str!("manual/board.md")]
pub mod board {}

#[doc = include_str!("manual/c.md")]
pub mod c {}

#[doc = include_str!("manual/memory.md")]
pub mod memory {}

#[doc = include_str!("manual/style.md")]
pub mod style {}
