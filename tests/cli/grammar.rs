//! Grammars on the command line.

use std::fs;

use serde_json::{Value, json};

use crate::common::shared;
use crate::program::*;

const SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "age": {"type": "integer", "minimum": 0, "maximum": 99},
    "likes": {"enum": ["apples", "dogs"]}
  },
  "required": ["age", "likes"],
  "additionalProperties": false
}"#;

#[test]
fn a_text_obeys_a_schema_an_expression_and_a_grammar() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let schema = path("s.json", SCHEMA);
    let gbnf = path("g.gbnf", "root ::= \" \" (\"yes\" | \"no\") \"!\"\n");
    let compiled = folder.path().join("g.plg").display().to_string();
    let made = run(&["grammar", &gbnf, "-o", &compiled]);
    assert!(made.status.success(), "{made:?}");

    let text = |option: &str, value: &str| {
        let arguments = [
            "run",
            STORY,
            "-p",
            "Once",
            "--no-echo",
            "--temperature",
            "1.5",
            option,
            value,
        ];
        stdout(run(&arguments)).trim_end_matches('\n').to_owned()
    };
    let value: Value = json(&text("--json-schema", &schema));
    assert!(
        value["age"].as_u64().unwrap() < 100 && value["likes"].is_string(),
        "{value}"
    );
    for grammar in [&gbnf, &compiled] {
        let text = text("--grammar", grammar);
        assert!([" yes!", " no!"].contains(&&text[..]), "{text:?}");
    }
    let text = text("--regex", "[a-c]{3}-[0-9]{2}");
    assert!(text.len() == 6 && text.as_bytes()[3] == b'-', "{text:?}");

    let plan = stdout(run(&[
        "plan",
        STORY,
        "--context",
        "64",
        "--json",
        "--grammar",
        &compiled,
    ]));
    let length = fs::metadata(&compiled).unwrap().len();
    assert_eq!(json(&plan)["flash"]["parts"]["grammar"], json!(length));
    assert!(json(&plan)["ram"]["parts"]["grammar"].as_u64().unwrap() <= 64);
}

#[test]
fn what_is_no_grammar_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.plg");
    let output = output.display().to_string();
    for (text, expected) in [
        (
            r#"{"properties": {"a": {"not": {}}}}"#,
            "/properties/a: the keyword \"not\" is not supported",
        ),
        ("{", "is not JSON"),
        ("root ::= other", "there is no rule other"),
        ("PGRM\u{1}", "compiled grammar already"),
    ] {
        let input = folder.path().join("in");
        fs::write(&input, text).unwrap();
        let line = refusal(run(&[
            "grammar",
            &input.display().to_string(),
            "-o",
            &output,
        ]));
        assert!(line.contains(expected) && line.contains("in: "), "{line}");
        assert!(fs::metadata(&output).is_err());
    }
    // A file that is no grammar is not replaced.
    fs::write(&output, "my notes").unwrap();
    let line = refusal(run(&["grammar", "--regex", "a", "-o", &output]));
    assert!(line.contains("compiled grammar"), "{line}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "my notes");
    fs::write(&output, "PGRM is how a grammar begins").unwrap();
    refusal(run(&["grammar", "--regex", "a", "-o", &output]));
    let input = folder.path().join("tools.json");
    fs::write(&input, r#"[{"name": "f"}]"#).unwrap();
    let input = input.display().to_string();
    let line = refusal(run(&["run", STORY, "-p", "x", "--tools", &input]));
    assert!(
        line.contains("how this model writes calls is not known"),
        "{line}"
    );
}

#[test]
fn an_option_that_would_be_ignored_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let schema = path("schema.json", SCHEMA);
    let tools = path("tools.json", r#"[{"name": "f"}]"#);
    let gbnf = path("g.gbnf", "root ::= \"a\"");
    let output = folder.path().join("out.plg").display().to_string();
    let form = ["--form", "hermes"];
    for (source, options, ignored) in [
        (&[&schema[..]][..], &form[..], "--form"),
        (&[&schema], &["--form", "hermes", "--or-text"], "--form"),
        (&[&gbnf], &form, "--form"),
        (&[&gbnf], &["--compact"], "--compact"),
        (&[&tools], &["--form", "hermes", "--compact"], "--compact"),
        (&["--regex", "a"], &form, "--form"),
        (
            &["--regex", "a"],
            &["--form", "hermes", "--or-text"],
            "--or-text",
        ),
        (&["--regex", "a"], &["--compact"], "--compact"),
    ] {
        let arguments = [&["grammar"], source, options, &["-o", &output]].concat();
        let refused = run(&arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {refused:?}");
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(message.contains(ignored), "{arguments:?}: {message}");
        assert!(fs::metadata(&output).is_err(), "{arguments:?}");
    }
    for arguments in [
        ["grammar", &schema, "--compact", "-o", &output].to_vec(),
        [
            "grammar",
            &tools,
            "--form",
            "hermes",
            "--or-text",
            "-o",
            &output,
        ]
        .to_vec(),
    ] {
        let made = run(&arguments);
        assert!(made.status.success(), "{arguments:?}: {made:?}");
    }
}

#[test]
fn pins_calls_tools_in_a_conversation() {
    let Some(folder) = shared("models/pins") else {
        return;
    };
    let (model, tools) = (folder.display().to_string(), folder.join("tools.json"));
    let tools = tools.display().to_string();
    let arguments = ["chat", &model, "--temperature", "0", "--tools", &tools];
    let printed = stdout(run_with_input(
        &arguments,
        "please turn on pin 5 and make the led purple\n",
    ));
    let calls: Vec<Value> = printed
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(json)
        .collect();
    assert_eq!(
        calls,
        [
            json!({"name": "pin_on", "arguments": {"pin": 5}}),
            json!({"name": "led_color", "arguments": {"color": "purple"}}),
        ]
    );
    // A call that is cut off is none, and is printed as text.
    let arguments = [&arguments[..], &["--tokens", "3"]].concat();
    let printed = stdout(run_with_input(&arguments, "please turn on pin 5\n"));
    assert!(printed.contains("<start_function_call>call:"), "{printed}");
    assert!(!printed.contains("\"name\""), "{printed}");
}
