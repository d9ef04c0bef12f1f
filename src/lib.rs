#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
//! pocketlm

#[cfg(feature = "std")]
#[macro_use]
extern crate std;

pub mod error;
#[cfg(feature = "std")]
pub mod host;
#[cfg(feature = "std")]
pub mod import;
pub mod model;
pub mod run;
pub mod text;

pub use error::Error;
