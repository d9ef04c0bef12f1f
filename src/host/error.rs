//! [`Error`]: what can go wrong on a host.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::prelude::rust_2024::*;

use crate::import::ImportError;

/// What can go wrong on a host. Prints as one sentence: what is wrong, where, and what helps.
///
/// ```
/// use pocketlm::host::Llm;
///
/// fn ask() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     let llm = Llm::open("no such file.gguf")?;
///     // …
/// #   _ = llm;
///     Ok(())
/// }
/// let error = ask().unwrap_err().to_string();
/// assert!(error.starts_with("no such file.gguf: "), "{error}");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint, or a file of one, was rejected.
    Import(ImportError),
    /// Another file was rejected, or an image lacks a part: the path, and the reason.
    File(PathBuf, String),
    /// An error of the core.
    Core(crate::Error),
    /// The operating system did not start this many threads.
    Threads(usize, io::Error),
    /// There is not enough memory for a session: it needs this many bytes.
    Memory(usize),
    /// The prompt, with what comes before it, does not fit the context. Nothing has changed.
    TooLong {
        /// Tokens of the prompt and of what comes before it.
        tokens: usize,
        /// Tokens that the session has room for.
        context: usize,
    },
    /// A logit is infinite or NaN, so no token can be chosen.
    NotANumber {
        /// Which token of the text has these logits, counted from 0.
        token: usize,
        /// Which of its logits it is.
        logit: usize,
    },
    /// A stop string that is empty or longer than
    /// [`STOP_STRING_BYTES`](crate::generate::STOP_STRING_BYTES).
    StopString(String),
    /// The model's chat template is invalid, or refuses the conversation.
    #[cfg(feature = "chat")]
    Template(crate::template::TemplateError),
    /// These bytes are not a conversation that was saved; the sentence says why.
    #[cfg(feature = "chat")]
    Conversation(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Import(error) => error.fmt(f),
            Error::File(path, reason) => write!(f, "{}: {reason}", path.display()),
            Error::Core(error) => error.fmt(f),
            Error::Threads(count, error) => write!(f, "{count} threads cannot be started: {error}"),
            Error::Memory(bytes) => write!(
                f,
                "a session needs {bytes} bytes of memory, which the system does not give; a \
                 shorter context or smaller keys and values need less"
            ),
            Error::TooLong { tokens, context } => write!(
                f,
                "the text has {tokens} tokens, which leaves no room in a context of {context}; use \
                 a shorter text or a longer context"
            ),
            Error::NotANumber { token, logit } => write!(
                f,
                "logit {logit} of token {token} is not a number; the weights are damaged, or too \
                 large to compute with"
            ),
            Error::StopString(string) => write!(
                f,
                "stop string {string:?} is refused: a stop string has 1 to {} bytes",
                crate::generate::STOP_STRING_BYTES
            ),
            #[cfg(feature = "chat")]
            Error::Template(error) => error.fmt(f),
            #[cfg(feature = "chat")]
            Error::Conversation(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Threads(_, error) => Some(error),
            _ => None,
        }
    }
}

impl From<ImportError> for Error {
    fn from(error: ImportError) -> Self {
        Error::Import(error)
    }
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        Error::Core(error)
    }
}

#[cfg(feature = "chat")]
impl From<crate::template::TemplateError> for Error {
    fn from(error: crate::template::TemplateError) -> Self {
        Error::Template(error)
    }
}
