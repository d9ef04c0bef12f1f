//! [`Error`]: every refusal the core can make.

/// Every refusal the core can make. Small, `Copy`, numbers and no strings; [`Display`](core::fmt::Display)
/// turns it into a sentence where there is room for one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// No logit is above −∞ (or there are none), so there is no token to choose.
    NoCandidate,
    /// A token id that the vocabulary does not have.
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// How many tokens there are.
        vocab_size: u32,
    },
}
