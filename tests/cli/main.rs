//! The built program as scripts meet it: what goes to stdout, what to stderr, and which exit code.

#[cfg(feature = "cli")]
#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "cli")]
mod chat;
#[cfg(feature = "cli")]
mod chat_templates;
#[cfg(feature = "cli")]
mod commands;
#[cfg(feature = "cli")]
mod grammar;
#[cfg(feature = "cli")]
mod model;
#[cfg(feature = "cli")]
mod outputs;
#[cfg(feature = "cli")]
mod pack;
#[cfg(feature = "cli")]
mod plan;
#[cfg(feature = "cli")]
mod program;
#[cfg(feature = "cli")]
mod quantize;
#[cfg(not(feature = "cli"))]
mod story;
#[cfg(feature = "cli")]
mod trim;
#[cfg(feature = "cli")]
mod usage;
