//! Tokenizing with a heap.

use std::prelude::rust_2024::*;

use crate::Error;
use crate::text::{EncodeOptions, Tokenizer, scratch_len};

impl Tokenizer<'_> {
    /// [`encode`](Tokenizer::encode) for a text of any length, into a vector. Needs the feature
    /// `std`.
    ///
    /// ```
    /// use pocketlm::host::Llm;
    /// use pocketlm::text::EncodeOptions;
    ///
    /// let llm = Llm::open("src/bin/pocketlm/story/story.plm")?;
    /// let ids = llm.tokenizer().encode_to_vec("Once upon a time", EncodeOptions::default())?;
    /// assert_eq!(ids.len(), 5);
    /// # Ok::<(), pocketlm::host::Error>(())
    /// ```
    ///
    /// # Errors
    /// None that a valid tokenizer can give.
    pub fn encode_to_vec(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        // Enough for most texts. NFC tokenizers may need several times as much.
        let mut scratch = vec![0; scratch_len(text.len())];
        let mut ids = vec![0; text.len() + 16];
        loop {
            match self.encode(text, options, &mut scratch, &mut ids) {
                Ok(count) => {
                    ids.truncate(count);
                    return Ok(ids);
                }
                Err(Error::ScratchTooSmall { needed, found }) if needed > found => {
                    scratch.resize(needed, 0);
                }
                Err(Error::OutputTooSmall { needed, found }) if needed > found => {
                    ids.resize(needed, 0);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The ids of a text that follows another one, without special tokens around it.
    ///
    /// A tokenizer may put a space before a text, but not after a line break. So the text is
    /// encoded after a line break, whose token is then removed.
    pub(crate) fn encode_after(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, Error> {
        let options = |parse_special| EncodeOptions {
            add_special_tokens: false,
            parse_special,
        };
        let line_break = self.encode_to_vec("\n", options(false))?;
        let after = self.encode_to_vec(&format!("\n{text}"), options(parse_special))?;
        match after.strip_prefix(line_break.as_slice()) {
            Some(ids) => Ok(ids.to_vec()),
            None => self.encode_to_vec(text, options(parse_special)),
        }
    }
}
