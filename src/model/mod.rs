//! What an image holds: the config, the tensors, and the byte format.

mod config;

mod tensor;

pub use config::{Config, Layer, MlpVariant, Rope};
pub use pocketlm_kernels::{DType, Kv};
pub use tensor::{Role, TensorId};
