//! The board, as `boards/` names it, its linker scripts, and the image.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());

    println!("cargo::rerun-if-env-changed=POCKETLM_BOARD");
    let board = env::var("POCKETLM_BOARD")
        .expect("choose a board: cargo --config boards/mps2_an386.toml ...");
    println!("cargo::rustc-check-cfg=cfg(board, values(any()))");
    println!("cargo::rustc-cfg=board=\"{board}\"");
    // The board's memory, and what the linker is told.
    let (memory, arguments): (&str, &[&str]) = match board.as_str() {
        "mps2_an385" | "mps2_an386" => ("mps2.x", &["-Tlink.x"]),
        "mps2_an500" | "mps2_an521" | "mps3_an547" => (&format!("{board}.x"), &["-Tlink.x"]),
        "virt_riscv" => ("virt_riscv.x", &["-Tmemory.x", "-Tlink.x"]),
        "virt_aarch64" => ("virt_aarch64.x", &["-Timage.ld", "-Tmemory.x"]),
        "wasm32" => ("", &["--no-entry", "--export=start"]),
        _ => panic!("there is no board {board}"),
    };
    if !memory.is_empty() {
        copy(&here.join("memory").join(memory), &out.join("memory.x"));
    }
    println!("cargo::rustc-link-search={}", out.display());
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }

    if env::var_os("CARGO_FEATURE_DEFMT").is_some() {
        println!("cargo::rustc-link-arg-bins=-Tdefmt.x");
    }

    println!("cargo::rerun-if-env-changed=POCKETLM_IMAGE");
    let image = env::var_os("POCKETLM_IMAGE").map_or_else(
        || here.join("../../src/bin/pocketlm/story/story.plm"),
        |path| here.join(path),
    );
    let image = image
        .canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}", image.display()));
    println!("cargo::rerun-if-changed={}", image.display());
    println!("cargo::rustc-env=POCKETLM_IMAGE={}", image.display());
}

fn copy(from: &Path, to: &Path) {
    println!("cargo::rerun-if-changed={}", from.display());
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}
