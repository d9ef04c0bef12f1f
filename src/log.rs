//! What the core tells a [`defmt`](https://docs.rs/defmt) logger, with the feature `defmt`: an
//! image opened, a session made, tokens begun, and every refusal of those. Without the feature all
//! of this is nothing.

use crate::Error;

/// A result on its way out; a refusal is logged.
#[inline(always)]
#[cfg_attr(not(feature = "defmt"), allow(unused_variables))]
pub(crate) fn refused<T>(what: &str, result: Result<T, Error>) -> Result<T, Error> {
    #[cfg(feature = "defmt")]
    if let Err(error) = &result {
        defmt::error!("{=str}: {}", what, error);
    }
    result
}

// Of what borrows an image or memory, what tells one from another; never all of the bytes.
#[cfg(feature = "defmt")]
mod format {
    use defmt::{Format, Formatter, write};

    use crate::model::{Header, Layers, Model, Open};
    use crate::run::{Arena, Plan, Session, StaticArena, Step};
    use crate::sample::{Choice, Distribution, Penalties, Recent, Sampler};
    use crate::text::{Decoder, Text, Tokenizer};

    impl Format for Header<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(
                f,
                "Header {{ checksum: {=u32:08x}, config: {} }}",
                self.checksum(),
                self.config
            );
        }
    }

    impl Format for Layers<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Layers({=usize})", self.iter().count());
        }
    }

    impl Format for Model<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(
                f,
                "Model {{ checksum: {=u32:08x}, config: {} }}",
                self.checksum(),
                self.config()
            );
        }
    }

    impl Format for Open<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Open");
        }
    }

    impl Format for Plan<'_> {
        fn format(&self, f: Formatter<'_>) {
            let (context, batch) = (self.context_tokens(), self.batch_tokens());
            let (kv, bytes) = (self.kv_type(), self.bytes());
            write!(
                f,
                "Plan {{ context: {=u32}, batch: {=u32}, kv: {}, bytes: {=usize} }}",
                context, batch, kv, bytes
            );
        }
    }

    impl<const N: usize> Format for Arena<N> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Arena({=usize})", N);
        }
    }

    impl<const N: usize> Format for StaticArena<N> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "StaticArena({=usize})", N);
        }
    }

    impl Format for Session<'_, '_> {
        fn format(&self, f: Formatter<'_>) {
            write!(
                f,
                "Session {{ len: {=usize}, capacity: {=usize} }}",
                self.len(),
                self.capacity()
            );
        }
    }

    impl Format for Step<'_> {
        fn format(&self, f: Formatter<'_>) {
            match self {
                Step::Pending => write!(f, "Pending"),
                Step::Done(logits) => write!(f, "Done({=usize} logits)", logits.len()),
            }
        }
    }

    impl Format for Tokenizer<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Tokenizer {{ vocab_size: {=u32} }}", self.vocab_size());
        }
    }

    impl Format for Decoder<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Decoder");
        }
    }

    impl Format for Text<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Text");
        }
    }

    impl Format for Sampler<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Sampler");
        }
    }

    impl Format for Choice {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Choice");
        }
    }

    impl Format for Distribution<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(
                f,
                "Distribution({=usize} of {=u64})",
                self.weights().len(),
                self.total()
            );
        }
    }

    impl Format for Penalties<'_> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Penalties");
        }
    }

    impl Format for Recent {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Recent");
        }
    }

    #[cfg(all(feature = "embedded-storage", feature = "source"))]
    impl<F> Format for crate::run::FlashImage<F> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "FlashImage");
        }
    }

    #[cfg(feature = "embedded-storage")]
    impl<F> Format for crate::run::Snapshots<F> {
        fn format(&self, f: Formatter<'_>) {
            write!(f, "Snapshots");
        }
    }
}
