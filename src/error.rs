//! [`Error`]: every refusal the core can make.

/// Every refusal the core can make. Small, `Copy`, numbers and no strings; [`Display`](core::fmt::Display)
/// turns it into a sentence where there is room for one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {}
