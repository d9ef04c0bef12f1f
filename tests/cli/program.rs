//! Runs the built program.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub const STORY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/bin/pocketlm/story/story.plm"
);

pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pocketlm"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

pub fn run_with_input(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = program(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses does not read its input.
    _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap()
}

/// stdout of a run that must succeed.
pub fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line on stderr of a run that must be refused with nothing on stdout.
pub fn refusal(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let line = stderr
        .strip_prefix("error: ")
        .and_then(|line| line.strip_suffix('\n'))
        .expect(&stderr);
    assert!(!line.contains('\n') && !line.contains('\x1b'), "{stderr}");
    line.to_owned()
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).expect(text)
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A logits file, read back: shape and numbers.
pub fn logits(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["logits"]);
    let tensor = file.tensor("logits").unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    let numbers = tensor
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (tensor.shape().to_vec(), numbers.collect())
}

/// How many tokens each turn computed before it answered.
pub fn prompt_lengths(notes: &str) -> Vec<usize> {
    let length = |line: &str| {
        line.split("prompt ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    notes
        .lines()
        .filter(|line| line.contains("prompt "))
        .map(length)
        .collect()
}
