//! What an image holds: the config, the tensors, and the byte format.

mod config;
mod dtype;
mod tensor;

pub use config::{Config, Layer, MlpVariant, Rope};
pub use dtype::DType;
pub use tensor::{Role, TensorId};
