//! Running a model: [`Plan`] says how much memory it needs, [`Session`] computes in memory that it
//! is lent.
//!
//! ```text
//! Session::feed ──► Schedule: what is next? ──► Forward: compute it
//!      ▲                      │ reads                  │ reads
//!      └── logits       stage: the table ◄─────────────┘
//! ```
//!
//! `session` has the public calls, `schedule` says which stage, layer and batch comes next,
//! `forward` computes, and both go by the table in `stage`, which is the transformer. `plan`,
//! `buffer`, `cache` and `weights` say what lies where.

mod arena;
mod buffer;
mod cache;
mod constant;
mod digest;
#[cfg(feature = "embedded-storage")]
mod flash;
mod forward;
mod plan;
mod schedule;
mod session;
mod snapshot;
mod stage;
mod weights;

pub use arena::{Arena, StaticArena};
pub use digest::Digest;
#[cfg(all(feature = "embedded-storage", feature = "source"))]
pub use flash::FlashImage;
#[cfg(feature = "embedded-storage")]
pub use flash::Snapshots;
pub use plan::{Part, Plan};
pub use pocketlm_kernels::{Engine, Isa, Solo, Workers, floats_are_ieee};
#[cfg(feature = "std")]
pub(crate) use session::Observed;
pub use session::{Session, Step};
pub use snapshot::SnapshotHeader;

/// Whether this is built for a board without an operating system, which means a microcontroller:
/// flash is scarce, there are one or two cores and no matrix units, and batches are short. There,
/// code that only shares work between cores, or that is only faster for long batches, is left out;
/// and small functions are not inlined (`cfg_attr(target_os = "none", inline(never))`), so that
/// there is one copy of each.
const BARE_METAL: bool = cfg!(target_os = "none");

// A session and all that it is made of can move to another thread.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Session<'_, '_>>();
    is_send::<Plan<'_>>();
    is_send::<Arena<1>>();
    is_send::<crate::model::Model<'_>>();
    is_send::<crate::model::Header<'_>>();
    is_send::<crate::text::Tokenizer<'_>>();
    is_send::<crate::text::Decoder<'_>>();
    is_send::<crate::sample::Sampler<'_>>();
    is_send::<crate::sample::Choice>();
    is_send::<crate::generate::PromptLookup>();
};
