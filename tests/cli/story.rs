//! What `cargo run` in a fresh clone does: the program without feature `cli`.

use std::process::Command;

#[test]
fn the_program_tells_the_same_story_on_every_machine() {
    let output = Command::new(env!("CARGO_BIN_EXE_pocketlm"))
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        include_str!("../data/story.txt")
    );
}

#[test]
fn arguments_are_answered_with_where_the_command_line_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_pocketlm"))
        .arg("run")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("--features cli")
    );
}
