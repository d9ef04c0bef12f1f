//! What the core logs, decoded from what the board printed.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use pocketlm::model::Model;
use pocketlm::run::Plan;

use crate::board::{ALL_TYPES, M4F};
use crate::common::session::STORY;

#[test]
fn the_log_says_what_was_opened_planned_begun_and_refused() {
    if !M4F.is_here("what the core logs") {
        return;
    }
    let elf = M4F
        .build("log", "s", &format!("{ALL_TYPES},defmt"))
        .unwrap_or_else(|error| panic!("{error}"));
    let frames = M4F.run_built(&elf, &[]);
    let printed = elf.with_extension("frames");
    std::fs::write(&printed, frames).unwrap();
    let decoded = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/defmt/Cargo.toml"))
        .arg("--target-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("defmt"))
        .arg("--")
        .arg(&elf)
        .stdin(File::open(printed).unwrap())
        .output()
        .unwrap();
    assert!(
        decoded.status.success(),
        "{}",
        String::from_utf8_lossy(&decoded.stderr)
    );
    let decoded = String::from_utf8(decoded.stdout).unwrap();
    let mut lines: Vec<_> = decoded.lines().map(String::from).collect();

    let model = Model::open(STORY).unwrap();
    let plan = Plan::new(model.header()).context(8).batch(4);
    let vocab_size = model.config().vocab_size;
    let opened = lines.remove(0);
    assert!(opened.starts_with(&format!(
        "info open: Model {{ checksum: {:08x}, config: Config {{",
        model.checksum()
    )));
    assert!(
        opened.contains(&format!("vocab_size: {vocab_size}")),
        "{opened}"
    );
    let expected = [
        format!(
            "debug session: Plan {{ context: 8, batch: 4, kv: {:?}, bytes: {} }}",
            plan.kv_type(),
            plan.bytes()
        ),
        String::from("debug start: 3 tokens at position 0"),
        String::from("debug start: 1 tokens at position 3"),
        format!("error start: TokenOutOfRange {{ token: {vocab_size}, vocab_size: {vocab_size} }}"),
        String::from("debug start: 1 tokens at position 3"),
        String::from("info Session { len: 4, capacity: 8 }"),
    ];
    assert_eq!(lines, expected);
}
