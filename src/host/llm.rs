//! [`Llm`]: a model that a program owns and shares between threads.

use std::fmt;
use std::path::Path;
use std::prelude::rust_2024::*;
use std::sync::{Arc, OnceLock};

use self_cell::self_cell;

use super::{Error, Image, LlmSession, SessionOptions};
use crate::grammar::Tree;
use crate::model::Model;
use crate::text::Tokenizer;

/// A language model with its tokenizer. A clone is cheap and shares the weights. An `Llm` and its
/// clones can be used from several threads at once, each with a [session](Llm::session) of its own.
///
/// ```
/// use std::ops::ControlFlow;
/// use pocketlm::host::{GenerateOptions, Llm, SessionOptions};
///
/// // An image (.plm), a GGUF file, a Hugging Face folder or a llama2.c file.
/// let llm = Llm::open("src/bin/pocketlm/story/story.plm")?;
/// let mut session = llm.session(&SessionOptions::default())?;
/// let options = GenerateOptions { limit: 20, ..Default::default() };
/// session.generate("Once upon a time", &options, |text| {
///     print!("{text}");
///     ControlFlow::Continue(())
/// })?;
/// # Ok::<(), pocketlm::host::Error>(())
/// ```
#[derive(Clone)]
pub struct Llm(Arc<Loaded>);

self_cell!(
    struct Loaded {
        owner: Image,

        #[covariant]
        dependent: Parts,
    }
);

/// What was read from the image.
struct Parts<'m> {
    model: Model<'m>,
    tokenizer: Tokenizer<'m>,
    /// For texts that obey a grammar, made for the first of them.
    tree: OnceLock<Tree>,
}

impl Llm {
    /// Opens an image, a Hugging Face folder, a GGUF file or a llama2.c file. A checkpoint is
    /// packed in memory first; [`Image::open_with`] can show the progress and keep the result for
    /// the next time.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, is not supported, or has no tokenizer.
    pub fn open(path: impl AsRef<Path>) -> Result<Llm, Error> {
        Llm::new(Image::open(path)?)
    }

    /// The model of an image.
    ///
    /// # Errors
    /// The image is damaged or not supported, or has no tokenizer.
    pub fn new(image: Image) -> Result<Llm, Error> {
        let loaded = Loaded::try_new(image, |image| {
            let model = image.model()?;
            let tokenizer = image.tokenizer(&model)?;
            let tree = OnceLock::new();
            Ok::<_, Error>(Parts {
                model,
                tokenizer,
                tree,
            })
        });
        Ok(Llm(Arc::new(loaded?)))
    }

    /// The model.
    pub fn model(&self) -> &Model<'_> {
        &self.0.borrow_dependent().model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer<'_> {
        &self.0.borrow_dependent().tokenizer
    }

    /// The tokens as a tree.
    pub(super) fn tree(&self) -> &Tree {
        let parts = self.0.borrow_dependent();
        parts.tree.get_or_init(|| Tree::new(&parts.tokenizer))
    }

    /// The image.
    pub fn image(&self) -> &Image {
        self.0.borrow_owner()
    }

    /// An empty session: one text that the model reads and continues. It has its own memory and
    /// threads, and keeps the model alive.
    ///
    /// # Errors
    /// There is not enough memory, or the system does not start the threads.
    pub fn session(&self, options: &SessionOptions) -> Result<LlmSession, Error> {
        LlmSession::new(self, options)
    }
}

impl fmt::Debug for Llm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.image().path();
        f.debug_struct("Llm").field("path", &path).finish()
    }
}
