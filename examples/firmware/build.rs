//! Chooses the linker scripts of the board, and the image.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());

    // One board an architecture; `src/board/mod.rs` makes the same choice.
    let scripts: &[&str] = match env::var("CARGO_CFG_TARGET_ARCH").unwrap().as_str() {
        "arm" => {
            copy(&here.join("memory/mps2.x"), &out.join("memory.x"));
            &["link.x"]
        }
        "riscv32" => {
            copy(&here.join("memory/virt_riscv32.x"), &out.join("memory.x"));
            &["memory.x", "link.x"]
        }
        // A host: there is nothing to link, but editors and `cargo check` look at the sources.
        _ => &[],
    };
    println!("cargo::rustc-link-search={}", out.display());
    for script in scripts {
        println!("cargo::rustc-link-arg-bins=-T{script}");
    }

    println!("cargo::rerun-if-env-changed=POCKETLM_IMAGE");
    let image = env::var_os("POCKETLM_IMAGE")
        .map_or_else(|| here.join("../../src/bin/pocketlm/story/story.plm"), |path| here.join(path));
    let image = image.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", image.display()));
    println!("cargo::rerun-if-changed={}", image.display());
    println!("cargo::rustc-env=POCKETLM_IMAGE={}", image.display());
}

fn copy(from: &Path, to: &Path) {
    println!("cargo::rerun-if-changed={}", from.display());
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}
