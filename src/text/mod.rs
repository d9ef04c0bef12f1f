//! Text in and out: tokenizer and sampler.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Tokenizer<'m>(&'m [u8]);
#[allow(missing_docs)]
impl<'m> Tokenizer<'m> {
    pub fn open(b: &'m [u8]) -> Result<Self, crate::Error> {
        Ok(Tokenizer(b))
    }
}

pub mod sampler;

pub use sampler::{Distribution, Penalties, Recent, Sampler};
