//! Odd options and odd figures.

use serde_json::Value;

use crate::model;
use crate::program::{STORY, json, path, refusal, run, stdout};

#[test]
fn a_negative_number_is_the_value_of_its_option_and_refused_by_it() {
    let plan = &["plan", STORY, "--context", "8"][..];
    let perplexity = &["perplexity", STORY, "-f", "text"][..];
    let logits = &["logits", STORY, "-o", "out.safetensors"][..];
    for (command, options) in [
        (
            &["run"][..],
            &[
                "-n",
                "--tokens",
                "-c",
                "-t",
                "--threads",
                "--batch",
                "--lookup",
            ][..],
        ),
        (
            &["run"],
            &[
                "--top-k",
                "--repeat-last",
                "--seed",
                "--temperature",
                "--top-p",
                "--min-p",
            ],
        ),
        (&["run"], &["--kv", "--isa", "--repeat-penalty"]),
        (
            &["chat", STORY],
            &["-n", "-c", "-t", "--batch", "--lookup", "--seed"],
        ),
        (&["plan", STORY], &["-c", "--context"]),
        (
            plan,
            &["--batch", "--logits", "--flash", "--ram", "--board", "--kv"],
        ),
        (&["bench", STORY], &["-p", "-n", "-r", "--number", "-t"]),
        (perplexity, &["-c", "--context", "-t", "--batch"]),
        (logits, &["--tokens", "-t", "--batch"]),
        (
            &["snapshot", STORY, "-p", "x", "-o", "x.kv"],
            &["-t", "--batch"],
        ),
        (&["verify", STORY, "case"], &["--tolerance", "-t"]),
        (
            &["pack", STORY, "-o", "x.plm"],
            &["--dtype", "--embedder-dtype"],
        ),
    ] {
        for option in options {
            for value in ["-1", "-1.5", "-64K", "-inf"] {
                let output = run(&[command, &[option, value]].concat());
                let message = String::from_utf8(output.stderr).unwrap();
                assert_eq!(
                    output.status.code(),
                    Some(2),
                    "{command:?} {option}: {message}"
                );
                assert!(
                    message.starts_with(&format!("error: invalid value '{value}' for '-"))
                        && !message.contains("-- -"),
                    "{message}"
                );
            }
        }
    }
}

#[test]
fn a_malformed_number_is_refused_with_the_expected_form() {
    for (arguments, reason) in [
        (
            &["run", "-t", "0"][..],
            "give a whole number from 1 to 1024",
        ),
        (&["run", "-t", "many"], "give a whole number from 1 to 1024"),
        (
            &["run", "-c", "0"],
            "give a whole number from 1 to 4294967295",
        ),
        (&["run", "-n", "1.5"], "give a whole number, 0 or more"),
        (
            &["run", "-n", "99999999999999999999"],
            "give a whole number, 0 or more",
        ),
        (&["run", "--kv", "q4"], "choose one of f32, f16, bf16, q8"),
        (&["run", "--isa", "z80"], "this machine and this build have"),
        (
            &["plan", STORY, "--context", "8", "--ram", "-64K"],
            "give a number of bytes, 0 or more",
        ),
        (
            &["logits", STORY, "-o", "x", "--tokens", "1,,2"],
            "one comma between two",
        ),
        (
            &["logits", STORY, "-o", "x", "--tokens", ","],
            "one comma between two",
        ),
        (
            &["logits", STORY, "-o", "x", "--tokens", "-1"],
            "`-1` is not a token id",
        ),
        (
            &["verify", STORY, "case", "--tolerance", "nan"],
            "give a number, 0 or more",
        ),
        (
            &["verify", STORY, "case", "--tolerance", "inf"],
            "give a number, 0 or more",
        ),
    ] {
        let output = run(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(reason), "{arguments:?}: {message}");
    }
}

#[test]
fn a_result_that_is_not_a_number_is_an_error() {
    let folder = model::overflowing();
    let scratch = tempfile::tempdir().unwrap();
    let [text, output] = ["text", "output"].map(|name| scratch.path().join(name));
    std::fs::write(&text, "Once upon a time").unwrap();
    let model = path(folder.path());
    for arguments in [
        &["perplexity", model, "-f", path(&text)][..],
        &["perplexity", model, "-f", path(&text), "--json"],
        &["logits", model, "--tokens", "1,2", "-o", path(&output)],
        &["snapshot", model, "-p", "Once", "-o", path(&output)],
        &["bench", model, "-p", "2", "-n", "2", "-r", "1", "-t", "1"],
        &[
            "bench", model, "-p", "2", "-n", "2", "-r", "1", "-t", "1", "--json",
        ],
    ] {
        let line = refusal(run(arguments));
        assert!(
            line.starts_with(model) && line.contains("is not a number"),
            "{line}"
        );
        assert!(!output.exists());
    }
    for arguments in [
        &["run", model, "-p", "Once", "-n", "3", "--no-echo"][..],
        &[
            "run",
            model,
            "-p",
            "Once",
            "-n",
            "3",
            "--no-echo",
            "--temperature",
            "0",
        ],
    ] {
        let output = run(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout),
            (Some(1), b"\n".to_vec())
        );
        assert!(message.contains("is not a number"), "{message}");
    }
}

/// A golden case of one token, of the built-in story's shape.
fn case(logits: &[f32]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = logits
        .iter()
        .flat_map(|logit| logit.to_le_bytes())
        .collect();
    let ids = 1i64.to_le_bytes();
    let view = safetensors::tensor::TensorView::new;
    let tensors = [
        (
            "input_ids",
            view(safetensors::Dtype::I64, vec![1], &ids).unwrap(),
        ),
        (
            "logits",
            view(safetensors::Dtype::F32, vec![1, logits.len()], &bytes).unwrap(),
        ),
    ];
    let file = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(folder.path().join("expected.safetensors"), file).unwrap();
    folder
}

#[test]
fn verify_compares_exactly_with_a_tolerance_of_0_and_passes_no_nan() {
    let scratch = tempfile::tempdir().unwrap();
    let computed = scratch.path().join("logits.safetensors");
    stdout(run(&[
        "logits",
        STORY,
        "--tokens",
        "1",
        "-o",
        path(&computed),
    ]));
    let (_, mut logits) = crate::program::logits(&computed);
    let verify = |logits: &[f32], model: &str, tolerance: &str| {
        let case = case(logits);
        run(&["verify", model, path(case.path()), "--tolerance", tolerance])
    };
    let report = stdout(verify(&logits, STORY, "0"));
    assert!(
        report.starts_with("1 token, ") && report.ends_with("agrees within 0\n"),
        "{report}"
    );
    logits[5] += 1e-3;
    assert_eq!(verify(&logits, STORY, "0").status.code(), Some(1));
    assert!(verify(&logits, STORY, "0.01").status.success());
    // Expected, or computed.
    logits[5] = f32::NAN;
    assert_eq!(verify(&logits, STORY, "1e30").status.code(), Some(1));
    let overflowing = model::overflowing();
    for expected in [0.0, f32::NAN] {
        let line = refusal(verify(&[expected; 258], path(overflowing.path()), "1e30"));
        assert!(
            line.contains("logit 0 of token 0 is not a number"),
            "{line}"
        );
    }
}

#[test]
fn one_thing_is_not_several() {
    let one = run(&["run", STORY, "-p", "", "-n", "1", "--temperature", "0"]);
    let notes = String::from_utf8(one.stderr).unwrap();
    assert!(
        notes.starts_with("prompt 1 token, ") && notes.contains("; text 1 token;"),
        "{notes}"
    );
    let bench = ["bench", STORY, "-p", "1", "-n", "1", "-r", "1", "-t", "1"];
    let bench = stdout(run(&bench));
    assert!(
        bench.contains(", 1 token after it") && bench.contains(", 1 thread\n"),
        "{bench}"
    );
    let long = refusal(run(&["run", "-p", "Once upon a time", "-c", "1"]));
    assert!(
        long.starts_with("the prompt has ") && long.contains("the context 1;"),
        "{long}"
    );
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("x.kv");
    let made = run(&["snapshot", STORY, "-p", "", "-o", path(&file)]);
    assert!(
        String::from_utf8(made.stderr)
            .unwrap()
            .starts_with("1 token, ")
    );
    let lacks = run(&["plan", STORY, "--context", "1", "--ram", "0"]);
    let lacks = String::from_utf8(lacks.stderr).unwrap();
    let bytes: u64 = lacks.split(' ').find_map(|word| word.parse().ok()).unwrap();
    let ram = (bytes - 1).to_string();
    let lacks = run(&["plan", STORY, "--context", "1", "--ram", &ram]);
    let lacks = String::from_utf8(lacks.stderr).unwrap();
    assert!(lacks.contains("RAM lacks 1 byte;"), "{lacks}");
}

#[test]
fn info_shows_the_pattern_of_the_layers_and_json_all_of_them() {
    let text = stdout(run(&["info", STORY]));
    let line = text
        .lines()
        .find(|line| line.starts_with("attention_type"))
        .unwrap();
    assert!(
        line.ends_with(" 1 × local 64, 1 × global, repeated 2 times"),
        "{line}"
    );
    let layers = &json(&stdout(run(&["info", STORY, "--json"])))["config"]["attention_type"];
    assert_eq!(layers.as_array().map(Vec::len), Some(4));
}

#[test]
fn a_chart_shows_a_long_title_and_every_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("a long name ".repeat(15).trim());
    std::fs::create_dir(&folder).unwrap();
    let model = folder.join("story.plm");
    std::fs::copy(STORY, &model).unwrap();
    let arguments = [
        "plan",
        path(&model),
        "--context",
        "64",
        "--board",
        "pico2",
        "--svg",
        "-",
    ];
    let svg = stdout(run(&arguments));
    assert!(
        svg.contains(&format!("<title>{}, context 64", path(&model))),
        "{svg}"
    );
    let title = svg
        .lines()
        .find(|line| line.contains("font-weight=\"bold\""))
        .unwrap();
    assert!(
        title.contains('…') && title.contains("story.plm, context 64"),
        "{title}"
    );
    assert!(svg.contains(">131,072 bytes</text>"), "{svg}");
    // Each memory has more than seven parts, and no two of a memory look the same.
    let legends = svg.split(">RAM: ");
    let counts = legends.map(|memory| {
        let colours = memory.lines().filter(|line| line.contains("width=\"12\""));
        let colours: Vec<&str> = colours
            .map(|line| {
                line.split("fill=\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
            })
            .collect();
        let different: std::collections::HashSet<_> = colours.iter().collect();
        assert_eq!(different.len(), colours.len(), "{colours:?}");
        colours.len()
    });
    assert!(counts.min().unwrap() > 7);
}

#[test]
fn what_is_wrong_with_the_usage_is_found_before_the_model_is_packed() {
    // The model would be refused, but it has not been read yet.
    for (arguments, blamed) in [
        (&["perplexity", "missing", "-f", "no-text"][..], "no-text: "),
        (
            &["run", "missing", "-p", "x", "--snapshot", "no-snapshot"],
            "no-snapshot: ",
        ),
        (&["verify", "missing", "no-case"], "no-case: "),
        (
            &["snapshot", "missing", "-p", "x", "-o", "/nowhere/x.kv"],
            "/nowhere/x.kv: ",
        ),
        (
            &["logits", "missing", "--tokens", "1", "-o", "/nowhere/x"],
            "/nowhere/x: ",
        ),
        (
            &["pack", "missing", "-o", "/nowhere/x.plm"],
            "/nowhere/x.plm: ",
        ),
        (
            &[
                "plan",
                "missing",
                "--context",
                "8",
                "--svg",
                "/nowhere/x.svg",
            ],
            "/nowhere/x.svg: ",
        ),
    ] {
        let line = refusal(run(arguments));
        assert!(line.starts_with(blamed), "{line}");
    }
}

#[test]
fn json_has_no_null_for_a_figure() {
    let scratch = tempfile::tempdir().unwrap();
    let text = scratch.path().join("text");
    std::fs::write(&text, "Once upon a time").unwrap();
    for arguments in [
        &[
            "bench", STORY, "-p", "1", "-n", "1", "-r", "1", "-t", "1", "--json",
        ][..],
        &["perplexity", STORY, "-f", path(&text), "--json"],
    ] {
        let report = json(&stdout(run(arguments)));
        let figures = report.as_object().unwrap();
        assert!(
            figures.values().all(|figure| *figure != Value::Null),
            "{report}"
        );
    }
}

#[test]
fn verify_names_a_case_of_another_vocabulary() {
    let case = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/hf/llama-linear-gelu"
    );
    let line = refusal(run(&["verify", STORY, case]));
    assert!(line.starts_with(case), "{line}");
    assert!(line.contains("the model has 1024"), "{line}");
}
