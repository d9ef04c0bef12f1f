//! [`Error`]: every refusal the core can make.

use core::fmt;

/// Every refusal the core can make. Small, `Copy`, numbers and no strings; [`Display`](core::fmt::Display)
/// turns it into a sentence where there is room for one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    // --- text ---
    /// The tokenizer section ends before its tables do.
    TokenizerTruncated {
        /// Bytes that the tables read so far need.
        needed: usize,
        /// Bytes there are.
        given: usize,
    },
    /// The tokenizer section breaks a rule of its format, or comes from a newer version.
    TokenizerInvalid {
        /// Where in the section the offending table or field starts, in bytes.
        offset: usize,
    },
    /// The scratch lent to [`Tokenizer::encode`](crate::text::Tokenizer::encode) is too short for this text.
    ScratchTooSmall {
        /// Words that are enough for any text of this length.
        needed: usize,
        /// Words lent.
        given: usize,
    },
    /// The token ids do not fit into the output lent to [`Tokenizer::encode`](crate::text::Tokenizer::encode).
    OutputTooSmall {
        /// Ids the text has.
        needed: usize,
        /// Ids there is room for.
        given: usize,
    },
    /// A token id that the vocabulary does not have.
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// One more than the greatest id there is.
        vocab_size: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::TokenizerTruncated { needed, given } => {
                write!(f, "tokenizer section is cut short: {given} bytes, at least {needed} needed")
            }
            Error::TokenizerInvalid { offset } => {
                write!(f, "tokenizer section is damaged or of a newer version, at byte {offset}")
            }
            Error::ScratchTooSmall { needed, given } => {
                write!(f, "encoding this text may need {needed} words of scratch, {given} were lent")
            }
            Error::OutputTooSmall { needed, given } => {
                write!(f, "the text has {needed} tokens, the output holds {given}")
            }
            Error::TokenOutOfRange { id, vocab_size } => {
                write!(f, "token id {id} is outside the vocabulary of {vocab_size}")
            }
        }
    }
}

impl core::error::Error for Error {}
