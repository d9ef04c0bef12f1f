//! Text to token ids, and token ids to text.
//!
//! [`Tokenizer`] turns text into token ids, [`Decoder`] turns ids back into text, one at a time.
//! Both read the tokenizer section of an image in place; neither has a heap. Everything a tokenizer
//! file can say was settled when the section was written (see `import::tokenizer`), so there is
//! one mechanism here: split off the added tokens, normalise, split into pre-tokens, merge pairs.

mod added;
mod bpe;
mod call;
mod characters;
mod decode;
mod encode;
mod normalize;
mod open;
mod pretokenize;
pub(crate) mod section;
pub(crate) mod tables;
mod tokenizer;

pub use call::{Call, ToolForm, Value};
pub use decode::{Decoder, Text};
pub use encode::{EncodeOptions, nfc_scratch_len, scratch_len};
pub use tokenizer::Tokenizer;
