//! The manual: how pocketlm is built, and how to use and extend it. Each module is one page.

#[doc = include_str!("manual/architecture.md")]
pub mod architecture {}

#[doc = include_str!("manual/numeric_contract.md")]
pub mod numeric_contract {}

#[cfg(feature = "std")]
#[doc = include_str!("manual/host.md")]
pub mod host {}

#[doc = include_str!("manual/quantizing.md")]
pub mod quantizing {}

#[doc = include_str!("manual/board.md")]
pub mod board {}

#[doc = include_str!("manual/grammar.md")]
pub mod grammar {}

#[doc = include_str!("manual/c.md")]
pub mod c {}

#[doc = include_str!("manual/memory.md")]
pub mod memory {}

#[doc = include_str!("manual/adding_a_weight_type.md")]
pub mod adding_a_weight_type {}

#[doc = include_str!("manual/adding_a_layer_kind.md")]
pub mod adding_a_layer_kind {}

#[doc = include_str!("manual/adding_an_instruction_set.md")]
pub mod adding_an_instruction_set {}

#[cfg(feature = "std")]
#[doc = include_str!("manual/adding_a_family.md")]
pub mod adding_a_family {}

#[doc = include_str!("manual/style.md")]
pub mod style {}
