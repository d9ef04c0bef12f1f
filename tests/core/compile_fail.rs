//! What is wrong with a plan made in a `const` fails the build, and the compiler says it in a
//! sentence. Each file of `compile_fail/` is a program; its first line gives the error, or none if

//! it compiles.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn a_wrong_plan_does_not_compile_and_the_compiler_says_why() {
    let cases = Path::new(ROOT).join("tests/compile_fail");
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    fs::create_dir_all(&package).unwrap();
    let mut names: Vec<_> = fs::read_dir(&cases)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();

    let mut manifest = format!(
        "[workspace]\n[package]\nname = \"cases\"\nedition = \
         \"2024\"\n[dependencies]\npocketlm.path = {ROOT:?}\n"
    );
    for path in &names {
        let name = path.file_stem().unwrap().to_str().unwrap();
        manifest += &format!("[[bin]]\nname = {name:?}\npath = {path:?}\n");
    }
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The versions this repository is built with: they are here already.
    fs::copy(
        Path::new(ROOT).join("Cargo.lock"),
        package.join("Cargo.lock"),
    )
    .unwrap();

    let output = Command::new(env!("CARGO"))
        .args(["check", "--quiet", "--offline", "--keep-going"])
        .args(["--message-format", "json", "--target-dir"])
        .arg(package.join("target"))
        .env(
            "STORY",
            Path::new(ROOT).join("src/bin/pocketlm/story/story.plm"),
        )
        .env("SOURCE", package.join("Cargo.toml"))
        .env_remove("RUSTFLAGS")
        .current_dir(&package)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let messages: Vec<Value> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();

    for path in &names {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let of_program = messages.iter().filter(|it| it["target"]["name"] == name);
        let (compiled, errors): (Vec<_>, Vec<_>) =
            of_program.partition(|message| message["reason"] == "compiler-artifact");
        let said: String = errors
            .iter()
            .filter_map(|message| message["message"]["rendered"].as_str())
            .collect();
        let source = fs::read_to_string(path).unwrap();
        match source.lines().next().unwrap().strip_prefix("//! error: ") {
            Some(expected) => {
                assert!(compiled.is_empty(), "{name} compiles");
                assert!(said.contains(expected), "{name}:\n{said}\n{stderr}");
                // The error points at the line of the program, not into the library.
                assert!(said.contains(&format!("{name}.rs:")), "{name}:\n{said}");
            }
            None => assert!(!compiled.is_empty(), "{name}:\n{said}\n{stderr}"),
        }
    }
}
