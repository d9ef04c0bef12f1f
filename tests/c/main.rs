//! The C interface: its header, and C programs on this machine and on boards, which compute what
//! Rust programs do. A tool that is missing is a failure.
#![cfg(feature = "cli")]

#[path = "../firmware/board.rs"]
#[allow(dead_code)] // the boards that C programs do not run on
mod board;
mod build;
#[path = "../common/mod.rs"]
mod common;
mod header;
#[path = "../cli/model.rs"]
#[allow(dead_code)] // one of its models is enough here
mod model;
mod programs;
