//! [`Error`]: everything that the core can refuse.

use core::fmt;

use crate::model::{ConfigField, DType, Section, TensorId};

/// Everything that the core can refuse. It is small and `Copy`, with numbers and without strings.
/// [`Display`](fmt::Display) makes a sentence of it; a firmware that never prints one links none of
/// the text. [`code`](Error::code) is a number that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    // ---- opening an image ----
    /// The first bytes are not those of an image.
    NotAnImage,
    /// An image of a format version this build does not read.
    Version(u32),
    /// Fewer bytes than the image says it has.
    Truncated {
        /// How many bytes the image should have; `usize::MAX` for more than that.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The image or the arena does not start at a multiple of this many bytes.
    Unaligned(u32),
    /// A section does not lie where the format puts it, has the wrong length, or bytes that must be
    /// zero are not.
    Layout(Section),
    /// The bytes of a section do not have the checksum the header gives.
    Checksum(Section),
    /// A field of the config holds a value that makes no model.
    Config(ConfigField),
    /// A tensor is missing, out of order, misplaced or of a type it cannot have.
    Tensor(TensorId),
    /// A tensor holds a number (or a scale) that is infinite or NaN.
    NotFinite(TensorId),
    /// The kernels of this element type are not compiled in: enable its cargo feature
    /// ([`DType::feature`]).
    Disabled(DType),
    /// The chat template is not UTF-8.
    ChatTemplate,
    /// [`Verify`](crate::model::Verify) said that the image may not be used.
    Unverified,
    /// Some layers are convolutions, and they are not compiled in: enable the cargo feature
    /// `convolution`.
    ConvolutionDisabled,

    // ---- planning and running ----
    /// The context or the batch is 0, or so large that sizes overflow.
    Limits,
    /// The plan was made for another model.
    ForeignPlan,
    /// The arena is smaller than the plan, or the memory for what is resident too small for it.
    ArenaTooSmall {
        /// Bytes that are needed.
        needed: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The buffer that weights are read into is too small. A session needs two tile rows of the
    /// widest matrix ([`Plan::weight_buffer`](crate::run::Plan::weight_buffer)), opening needs one.
    WeightBufferTooSmall {
        /// Bytes it must have at least.
        needed: usize,
        /// Bytes it has.
        found: usize,
    },
    /// The weights of this model are not in memory: the session must be lent where they are.
    NotMapped,
    /// There was nothing to do: no token was given.
    NoTokens,
    /// More tokens than the context has room for; nothing was fed.
    ContextFull {
        /// Tokens that still fit.
        room: u32,
    },
    /// The position is not after that of the last token.
    Position(u32),
    /// Rewinding so far would need keys that a sliding-window layer has let go.
    RewindTooFar {
        /// How many tokens can be taken back now.
        possible: u32,
    },
    /// Tokens given earlier are still being worked on: call `step` until it is done, or
    /// `abort`, or `reset`.
    Busy,

    // ---- snapshots and storage ----
    /// What was lent for reading or writing reports a failure.
    Storage,
    /// The storage lent has too little room.
    StorageTooSmall {
        /// Bytes that must fit.
        needed: usize,
        /// Bytes that do.
        found: usize,
    },
    /// There is no snapshot.
    NotASnapshot,
    /// A snapshot of a format version this build does not read.
    SnapshotVersion(u32),
    /// The snapshot was made with another image.
    ForeignSnapshot,
    /// The snapshot keeps keys and values in this type, and the plan in another.
    SnapshotKv(DType),
    /// The snapshot was not written to its end, or its bytes have changed since.
    SnapshotDamaged,

    // ---- text ----
    /// The image holds no tokenizer: its checkpoint had none.
    NoTokenizer,
    /// The tokenizer section ends before its tables do.
    TokenizerTruncated {
        /// Bytes that the tables read so far need.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The tokenizer section breaks a rule of its format, or comes from a newer version.
    TokenizerInvalid {
        /// Where in the section the offending table or field starts, in bytes.
        offset: usize,
    },
    /// The tokenizer is a byte-level one, and they are not compiled in: enable the cargo feature
    /// `byte-level`.
    ByteLevelDisabled,
    /// The tokenizer brings text to Unicode's NFC, and that is not compiled in: enable the cargo
    /// feature `nfc`.
    NfcDisabled,
    /// The scratch lent to [`Tokenizer::encode`](crate::text::Tokenizer::encode) is too short for
    /// this text.
    ScratchTooSmall {
        /// Words that are enough for any text of this length.
        needed: usize,
        /// Words lent.
        found: usize,
    },
    /// The token ids do not fit into the output lent to
    /// [`Tokenizer::encode`](crate::text::Tokenizer::encode).
    OutputTooSmall {
        /// Ids the text has.
        needed: usize,
        /// Ids there is room for.
        found: usize,
    },
    /// No logit is above −∞ (or there are none), so there is no token to choose.
    NoCandidate,
    /// A token id that the vocabulary does not have.
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// How many tokens there are.
        vocab_size: u32,
    },
    /// The first bytes are not those of a grammar.
    NotAGrammar,
    /// A grammar of a format version this build does not read.
    GrammarVersion(u8),
    /// The grammar is cut short or damaged, or a place is not one of this grammar.
    GrammarDamaged,
}

/// A number of things: `1 token`, `2 tokens`.
struct Count<N>(N, &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(number, thing) = self;
        let plural = if *number == N::from(1) { "" } else { "s" };
        write!(f, "{number} {thing}{plural}")
    }
}

impl Error {
    /// The number of this kind of error: for logs, for a blinking LED, for callers in other
    /// languages. A number never changes its meaning. The hundreds say what failed: 1 opening an
    /// image, 2 planning or running, 3 snapshots or storage, 4 text; 5 is the C interface's own.
    ///
    /// ```
    /// assert_eq!(pocketlm::Error::Busy.code(), 209);
    /// ```
    pub const fn code(&self) -> u16 {
        match self {
            Error::NotAnImage => 100,
            Error::Version(_) => 101,
            Error::Truncated { .. } => 102,
            Error::Unaligned(_) => 103,
            Error::Layout(_) => 104,
            Error::Checksum(_) => 105,
            Error::Config(_) => 106,
            Error::Tensor(_) => 107,
            Error::NotFinite(_) => 108,
            Error::Disabled(_) => 109,
            Error::ChatTemplate => 110,
            Error::Unverified => 111,
            Error::ConvolutionDisabled => 112,
            Error::Limits => 200,
            Error::ForeignPlan => 201,
            Error::ArenaTooSmall { .. } => 202,
            Error::WeightBufferTooSmall { .. } => 203,
            Error::NotMapped => 204,
            Error::NoTokens => 205,
            Error::ContextFull { .. } => 206,
            Error::Position(_) => 207,
            Error::RewindTooFar { .. } => 208,
            Error::Busy => 209,
            Error::Storage => 300,
            Error::StorageTooSmall { .. } => 301,
            Error::NotASnapshot => 302,
            Error::SnapshotVersion(_) => 303,
            Error::ForeignSnapshot => 304,
            Error::SnapshotKv(_) => 305,
            Error::SnapshotDamaged => 306,
            Error::TokenizerTruncated { .. } => 400,
            Error::TokenizerInvalid { .. } => 401,
            Error::ByteLevelDisabled => 402,
            Error::NfcDisabled => 403,
            Error::ScratchTooSmall { .. } => 404,
            Error::OutputTooSmall { .. } => 405,
            Error::NoCandidate => 406,
            Error::TokenOutOfRange { .. } => 407,
            Error::NoTokenizer => 408,
            Error::NotAGrammar => 409,
            Error::GrammarVersion(_) => 410,
            Error::GrammarDamaged => 411,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::NotAnImage => {
                f.write_str("not a pocketlm image (the first 8 bytes are not \"pocketlm\")")
            }
            Error::Version(version) => write!(
                f,
                "image format version {version}; this build reads version {}: \
                 pack the checkpoint again",
                crate::model::VERSION
            ),
            Error::Truncated { expected, found } => write!(
                f,
                "the image should have {} and has {found}: copy or pack it again",
                Count(expected, "byte")
            ),
            Error::Unaligned(bytes) => {
                write!(f, "memory must start at a multiple of {bytes} bytes")
            }
            Error::Layout(section) => write!(
                f,
                "the {section} section has a wrong place or length, or data where zeros must be"
            ),
            Error::Checksum(section) => {
                write!(f, "the {section} section is damaged: its checksum differs")
            }
            Error::Config(field) => write!(f, "config: {field}"),
            Error::Tensor(id) => write!(
                f,
                "tensor {id} is missing, misplaced or of a type it cannot have"
            ),
            Error::NotFinite(id) => write!(f, "tensor {id} holds an infinity or NaN"),
            Error::Disabled(dtype) => write!(
                f,
                "this build has no {} kernels: enable the cargo feature {}",
                dtype.name(),
                dtype.feature()
            ),
            Error::ChatTemplate => f.write_str("the chat template is not UTF-8"),
            Error::Unverified => f.write_str("the image's signature was rejected"),
            Error::ConvolutionDisabled => {
                f.write_str("this build has no convolutions: enable the cargo feature convolution")
            }
            Error::Limits => f.write_str(
                "context, batch and logits must be at least 1, \
                 and small enough that sizes do not overflow",
            ),
            Error::ForeignPlan => f.write_str("the plan was made for another model"),
            Error::ArenaTooSmall { needed, found } => write!(
                f,
                "the arena has {found} bytes, the plan needs {needed}: \
                 a shorter context or batch needs less"
            ),
            Error::WeightBufferTooSmall { needed, found } => write!(
                f,
                "the weight buffer has {found} bytes and needs {needed}: plan a larger one"
            ),
            Error::NotMapped => {
                f.write_str("the weights are not in memory: use Session::with_source")
            }
            Error::NoTokens => f.write_str("no token was given"),
            Error::ContextFull { room } => write!(
                f,
                "the context has room for {}: plan a longer one, rewind or reset",
                Count(room, "more token")
            ),
            Error::Position(position) => {
                write!(f, "position {position} is not after that of the last token")
            }
            Error::RewindTooFar { possible } => write!(
                f,
                "only {} can be taken back: older keys have left the attention windows; \
                 reset and feed again",
                Count(possible, "token")
            ),
            Error::Busy => f.write_str(
                "earlier tokens are still being computed: \
                 step until they are done, or abort or reset",
            ),
            Error::Storage => f.write_str("the storage could not be read or written"),
            Error::StorageTooSmall { needed, found } => write!(
                f,
                "storage too small: {needed} bytes needed, {found} available"
            ),
            Error::NotASnapshot => f.write_str("there is no snapshot here"),
            Error::SnapshotVersion(version) => write!(
                f,
                "snapshot format version {version} is not supported by this build"
            ),
            Error::ForeignSnapshot => {
                f.write_str("the snapshot was made with another image: feed its tokens again")
            }
            Error::SnapshotKv(kv) => write!(
                f,
                "the snapshot keeps keys and values in {}: \
                 plan for that, or feed its tokens again",
                kv.name()
            ),
            Error::SnapshotDamaged => {
                f.write_str("the snapshot is cut short or damaged: feed its tokens again")
            }
            Error::NoTokenizer => f.write_str(
                "the image holds no tokenizer: \
                 pack it again with the tokenizer's files beside the checkpoint",
            ),
            Error::TokenizerTruncated { needed, found } => write!(
                f,
                "tokenizer section is cut short: {}, at least {needed} needed",
                Count(found, "byte")
            ),
            Error::TokenizerInvalid { offset } => write!(
                f,
                "tokenizer section is damaged or of a newer version, at byte {offset}"
            ),
            Error::ByteLevelDisabled => f.write_str(
                "this build has no byte-level tokenizers: enable the cargo feature byte-level",
            ),
            Error::NfcDisabled => {
                f.write_str("this build has no NFC: enable the cargo feature nfc")
            }
            Error::ScratchTooSmall { needed, found } => write!(
                f,
                "scratch too small: {needed} words needed for this text, {found} given"
            ),
            Error::OutputTooSmall { needed, found } => write!(
                f,
                "output too small: the text has {}, the output holds {found}",
                Count(needed, "token")
            ),
            Error::NoCandidate => {
                f.write_str("no logit is above minus infinity: there is no token to choose")
            }
            Error::TokenOutOfRange { token, vocab_size } => {
                write!(f, "token id {token} is not in a vocabulary of {vocab_size}")
            }
            Error::NotAGrammar => {
                f.write_str("not a compiled grammar (the first 4 bytes are not \"PGRM\")")
            }
            Error::GrammarVersion(version) => {
                write!(
                    f,
                    "grammar format version {version} is not supported by this build: compile the grammar again"
                )
            }
            Error::GrammarDamaged => {
                f.write_str("the grammar is cut short or damaged: compile it again")
            }
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_several() {
        extern crate std;
        use std::string::ToString;
        let room = |room| Error::ContextFull { room }.to_string();
        assert!(room(0).starts_with("the context has room for 0 more tokens:"));
        assert!(room(1).starts_with("the context has room for 1 more token:"));
        let possible = |possible| Error::RewindTooFar { possible }.to_string();
        assert!(possible(1).starts_with("only 1 token can be taken back"));
        assert!(possible(2).starts_with("only 2 tokens can be taken back"));
    }
}
