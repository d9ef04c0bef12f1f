//! Running a model: [`Plan`] says what memory it takes, [`Session`] computes in memory it is lent.

mod arena;
mod attention;
mod block;
mod constant;
mod digest;
#[cfg(feature = "embedded-storage")]
mod flash;
mod plan;
mod session;
pub mod snapshot;
mod weights;

pub use arena::Arena;
#[cfg(target_has_atomic = "8")]
pub use arena::StaticArena;
pub use digest::Digest;
#[cfg(all(feature = "embedded-storage", feature = "source"))]
pub use flash::FlashImage;
#[cfg(feature = "embedded-storage")]
pub use flash::Snapshots;
pub use plan::{Part, Plan};
pub use pocketlm_kernels::{Engine, Isa, Kv, Solo, Workers};
pub use session::{Session, Step};
