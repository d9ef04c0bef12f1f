//! [`Trimmed`]: a checkpoint with fewer tokens.

use std::prelude::rust_2024::*;

use super::tokenizer::{self, KeepTokens};
use super::{Checkpoint, Description, ImportError, Tensor};
use crate::model::{TensorId, TensorKind};

/// A checkpoint whose vocabulary holds only some of its tokens: the embedding table and the output
/// matrix have a row for each of them, and the tokenizer has new ids.
///
/// The weights of a token that is kept are those of the whole model. Its logit is therefore the
/// same bits, for any text that needs no other tokens. This does not hold where
/// [`quantize`](crate::quantize) rounds with calibration text: the trimmed tokenizer can cut that
/// text into other tokens.
///
/// ```no_run
/// use pocketlm::import::{self, Trimmed, tokenizer::KeepTokens};
///
/// let checkpoint = import::open("gemma-3-270m-q4_k_m.gguf".as_ref())?;
/// let keep = KeepTokens {
///     corpora: vec![std::fs::read_to_string("corpus.txt").expect("a text file")],
///     ..KeepTokens::default()
/// };
/// let trimmed = Trimmed::new(&*checkpoint, &keep)?;
/// let image = import::pack_to_memory(&trimmed, &Default::default(), &mut |_, _| ())?;
/// # Ok::<(), import::ImportError>(())
/// ```
pub struct Trimmed<'c> {
    whole: &'c dyn Checkpoint,
    kept: Vec<u32>,
    description: Description,
}

impl<'c> Trimmed<'c> {
    /// The checkpoint with the tokens that `keep` asks for.
    ///
    /// # Errors
    /// The checkpoint has no tokenizer, or none that can be used; a corpus is empty; the size is
    /// too small.
    pub fn new(whole: &'c dyn Checkpoint, keep: &KeepTokens) -> Result<Self, ImportError> {
        let mut description = whole.description().clone();
        let section = match description.tokenizer.take() {
            Some(Ok(section)) => section,
            Some(Err(error)) => return Err(error),
            None => {
                let reason = "without a tokenizer nothing says which tokens a text needs";
                return Err(ImportError::new(reason));
            }
        };
        let template = match &description.chat_template {
            Some(Ok(template)) => template.as_str(),
            Some(Err(_)) | None => "",
        };
        let trimmed = tokenizer::trim(&section, template, keep)?;
        description.tokenizer = Some(Ok(trimmed.section));
        description.config.vocab_size = trimmed.kept.len() as u32;
        Ok(Trimmed {
            whole,
            kept: trimmed.kept,
            description,
        })
    }

    /// The ids that the kept tokens have in the whole model, ascending: token `i` of the trimmed
    /// model is token `kept()[i]` of the whole model.
    pub fn kept(&self) -> &[u32] {
        &self.kept
    }
}

impl Checkpoint for Trimmed<'_> {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let tensor = self.whole.tensor(id)?;
        match id.kind {
            TensorKind::Embedder | TensorKind::LmHead => tensor.with_rows(&self.kept),
            _ => Ok(tensor),
        }
    }
}
