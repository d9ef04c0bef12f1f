//! Text in and out: tokenizer, sampler, and guesses at what comes next.
//!
//! [`Tokenizer`] turns text into token ids, [`Decoder`] turns ids back into text, one at a time.
//! Both read the tokenizer section of an image in place; neither has a heap. Everything a tokenizer
//! file can say was settled when the section was written (see `import::vocabulary`), so there is
//! one mechanism here: split off the added tokens, normalise, split into pre-tokens, merge pairs.

mod added;
mod bpe;
mod characters;
mod decode;
mod encode;
mod lookup;
mod normalize;
mod pretokenize;
pub mod sampler;
pub mod sampling;
pub(crate) mod tokenizer;

pub use decode::{Decoder, Text};
pub use encode::{EncodeOptions, nfc_scratch_len, scratch_len};
pub use lookup::Lookup;
pub use sampler::{Penalties, Recent, Sampler};
pub use sampling::{Distribution, Sampling};
pub use tokenizer::Tokenizer;
