//! What only a host has: files as memory.

pub mod file;
