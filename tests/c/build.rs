//! The tools: cargo for the library, C compilers, and what runs the programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");
pub const STORY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/bin/pocketlm/story/story.plm"
);
const WARNINGS: [&str; 6] = [
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wsign-conversion",
    "-Werror",
];

/// Runs a program that must be there and succeed.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; install it"));
    assert!(
        output.status.success(),
        "{program} {:?}: {}\n{}{}",
        arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A folder for what a test builds.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// What `path` is called, as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

/// The library for a target, or for this machine, with all of its memory accesses watched.
pub fn library(target: Option<&str>, features: &str) -> PathBuf {
    // One build at a time for boards, and one for this machine: the next one puts another library
    // at the same place.
    static BUILDS: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
    let builds = &BUILDS[usize::from(target.is_some())];
    let _build = builds.lock().unwrap_or_else(PoisonError::into_inner);
    let host = host();
    let folder = folder(if target.is_some() {
        "target-boards"
    } else {
        "target-host"
    });
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["build", "--release", "--locked", "--quiet"])
        .arg("--no-default-features")
        .args(["--features", features])
        .args(["--target", target.unwrap_or(&host)])
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(format!("{ROOT}/src/c"));
    if target.is_none() {
        // The flag is not stable.
        command.env("RUSTC_BOOTSTRAP", "1");
        command.env("RUSTFLAGS", "-Zsanitizer=address");
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let name = format!("{}-{features}.a", target.unwrap_or("host"));
    let copy = folder.join(name.replace(',', "-"));
    let built = folder.join(target.unwrap_or(&host)).join("release");
    // Another test may be linking the older copy: it keeps that.
    let fresh = copy.with_extension("new");
    std::fs::copy(built.join("libpocketlm_c.a"), &fresh).unwrap();
    std::fs::rename(&fresh, &copy).unwrap();
    copy
}

/// The target of this machine.
fn host() -> String {
    let version = run("rustc", &["-vV"]);
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.unwrap().into()
}

/// The header that `pocketlm plan` writes for the story model, in a folder to include it from.
pub fn plan(folder: &Path, options: &[&str]) {
    plan_for(STORY, folder, options);
}

/// The same for another image.
pub fn plan_for(image: &str, folder: &Path, options: &[&str]) {
    let header = text(&folder.join("plan.h"));
    let arguments = [&["plan", image], options, &["--c-header", &header]].concat();
    run(env!("CARGO_BIN_EXE_pocketlm"), &arguments);
}

/// What every compiler is told: the warnings, and where the header is.
pub fn flags(standard: &str) -> Vec<String> {
    let mut flags = vec![format!("-std={standard}")];
    flags.extend(WARNINGS.map(String::from));
    flags.push(format!("-I{ROOT}/src/c/include"));
    flags
}

/// Compiles C files of `examples/c` and links them.
pub fn link(compiler: &str, flags: &[String], files: &[&str], output: &Path) {
    let mut arguments = flags.to_vec();
    // Files before libraries, which `flags` names last.
    let libraries = arguments
        .iter()
        .position(|flag| flag.ends_with(".a"))
        .unwrap_or(arguments.len());
    let files = files.iter().map(|file| format!("{ROOT}/examples/c/{file}"));
    arguments.splice(libraries..libraries, files);
    arguments.extend(["-o".into(), text(output)]);
    run(compiler, &arguments);
}
