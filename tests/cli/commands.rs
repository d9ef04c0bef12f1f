//! The commands as scripts meet them: stdout, stderr and exit codes.

use std::path::Path;
use std::process::Stdio;

use crate::common::shared;
use crate::program::*;

#[test]
fn without_arguments_the_program_explains_itself() {
    let help = stdout(run(&[]));
    for word in [
        "pack",
        "info",
        "plan",
        "run",
        "chat",
        "snapshot",
        "grammar",
        "tokenize",
        "logits",
        "perplexity",
        "bench",
        "verify",
        "Start here",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        "pack",
        "info",
        "plan",
        "run",
        "chat",
        "snapshot",
        "grammar",
        "tokenize",
        "logits",
        "perplexity",
        "bench",
        "verify",
    ] {
        let help = stdout(run(&[command, "--help"]));
        assert!(
            help.contains("Example") && help.contains(&format!("pocketlm {command}")),
            "{help}"
        );
    }
    assert_eq!(
        stdout(run(&["--version"])),
        format!("pocketlm {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_usage_exits_with_2_and_leaves_stdout_empty() {
    for arguments in [
        &["fly"][..],
        &["run", "--temperature", "-1"],
        &["run", "--temperature", "nan"],
        &["run", "--top-p", "1.5"],
        &["run", "--kv", "q4"],
        &["run", "-t", "0"],
        &["run", "--batch", "0"],
        &["pack", STORY],
        &["pack", STORY, "-o", "x.plm", "--dtype", "q7"],
        &["plan", STORY],
        &["plan", STORY, "--context", "0"],
        &["plan", STORY, "--context", "8", "--ram", "plenty"],
        &["perplexity", STORY, "-f", "text", "--context", "1"],
        &["logits", STORY, "--tokens", "1,x", "-o", "out.safetensors"],
        &["logits", STORY, "--tokens", "", "-o", "out.safetensors"],
        &["info"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn the_story_is_told_on_stdout_and_its_speed_on_stderr() {
    let output = run(&["run", "--seed", "1", "-n", "40"]);
    let note = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        note.contains("text 40 tokens")
            && note.ends_with("; seed 1\n")
            && note.lines().count() == 1,
        "{note}"
    );
    let story = stdout(output);
    assert!(
        story.starts_with("Once upon a time") && story.ends_with('\n') && story.len() > 60,
        "{story}"
    );
    assert!(!story.contains("<bos>"), "{story}");
}

#[test]
fn a_seed_tells_one_story_whatever_threads_and_batch() {
    let tell = |more: &[&str]| {
        let mut arguments = vec![
            "run",
            "-n",
            "30",
            "-p",
            "One day, a cat named Tim found a key. He",
        ];
        arguments.extend(more);
        stdout(run(&arguments))
    };
    let story = tell(&["--seed", "5"]);
    assert_eq!(tell(&["--seed", "5", "-t", "1", "--batch", "1"]), story);
    assert_eq!(tell(&["--seed", "5", "-t", "3", "--batch", "7"]), story);
    assert_eq!(
        tell(&["--temperature", "0"]),
        tell(&["--temperature", "0", "--seed", "9"])
    );
    assert_ne!(tell(&["--seed", "6"]), story);
}

#[test]
fn a_text_is_the_same_with_and_without_drafts() {
    let tell = |more: &[&str]| {
        let mut arguments = vec![
            "run",
            "-p",
            "The cat sat. The cat sat. The cat sat. The cat",
        ];
        arguments.extend(more);
        let output = run(&arguments);
        let note = String::from_utf8(output.stderr.clone()).unwrap();
        (stdout(output), note)
    };
    // The last of these ends where the context does.
    for how in [
        &["-n", "61", "--temperature", "0"][..],
        &["-n", "90", "--seed", "3"],
        &["-c", "100", "--seed", "4"],
    ] {
        let (story, note) = tell(&[how, &["--lookup", "0"]].concat());
        assert!(!note.contains("drafted"), "{note}");
        let tokens = note.split("; ").nth(1).unwrap().split(',').next().unwrap();
        for more in [
            &[][..],
            &["--lookup", "1"],
            &["--lookup", "255"],
            &["--batch", "2"],
        ] {
            let (same, note) = tell(&[how, more].concat());
            assert_eq!(same, story, "{how:?} {more:?}");
            assert!(
                note.contains(tokens) && note.contains(" of them drafted"),
                "{note}"
            );
            assert_eq!(
                note.contains("the context is full"),
                how.contains(&"-c"),
                "{note}"
            );
        }
    }
    // What was fed cannot be taken back where a batch is a single token.
    assert!(
        !tell(&["-n", "61", "--temperature", "0", "--batch", "1"])
            .1
            .contains("drafted")
    );
}

#[test]
fn prompts_come_from_the_option_or_from_stdin() {
    let greedy = ["run", STORY, "-n", "10", "--temperature", "0"];
    let of_option = stdout(run(&[&greedy[..], &["-p", "Tom had a dog."]].concat()));
    assert!(of_option.starts_with("Tom had a dog."));
    assert_eq!(
        stdout(run_with_input(&greedy, "Tom had a dog.\n")),
        of_option
    );
    assert_eq!(
        stdout(run_with_input(
            &[&greedy[..], &["-p", "-"]].concat(),
            "Tom had a dog."
        )),
        of_option
    );
    let without_echo = stdout(run(
        &[&greedy[..], &["-p", "Tom had a dog.", "--no-echo"]].concat()
    ));
    assert_eq!(format!("Tom had a dog.{without_echo}"), of_option);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let long = "once ".repeat(300);
    for arguments in [
        &["run", "-p", &long][..],
        &["run", STORY, "-p", &long, "-n", "100"],
    ] {
        let line = refusal(run(arguments));
        assert!(
            line.starts_with("the prompt has ")
                && line.contains("context 256")
                && line.contains("--context"),
            "{line}"
        );
    }
}

#[test]
fn a_context_longer_than_the_trained_one_gives_a_warning_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "once ".repeat(300)).unwrap();
    for arguments in [
        &["run", STORY, "-p", "Once", "-n", "1", "--context"][..],
        &["plan", STORY, "--context"],
        &["perplexity", STORY, "-f", path(&text), "--context"],
    ] {
        for (context, warned) in [("256", false), ("257", true)] {
            let output = run(&[arguments, &[context]].concat());
            let notes = String::from_utf8(output.stderr.clone()).unwrap();
            stdout(output);
            assert_eq!(
                notes.contains("warning: a context of 257 tokens"),
                warned,
                "{arguments:?}: {notes}"
            );
        }
    }
}

#[test]
fn a_text_stops_where_the_context_is_full() {
    let output = run(&["run", "-c", "20", "-n", "1000", "--seed", "1"]);
    let note = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(note.contains("the context is full"), "{note}");
    stdout(output);
}

#[test]
fn info_names_the_config_as_penzai_does() {
    let info = json(&stdout(run(&["info", STORY, "--json"])));
    assert_eq!(info["config"]["embedding_dim"], 192);
    assert_eq!(info["config"]["mlp_variant"], "geglu_approx");
    assert_eq!(info["config"]["final_logit_softcap"], 15.0);
    assert_eq!(info["config"]["rms_norm_eps"], 1e-6);
    assert_eq!(info["config"]["max_position_embeddings"], 256);
    assert_eq!(info["config"]["attention_type"][0]["window_size"], 64);
    assert_eq!(
        info["config"]["attention_type"][1]["type"],
        "AttentionTypeGlobalCausal"
    );
    assert_eq!(info["tokenizer_vocab_size"], 1024);
    assert_eq!(info["tensors"][0]["name"], "embedder.embeddings");
    assert_eq!(info["tensors"][0]["shape"], serde_json::json!([1024, 192]));
    assert_eq!(info["bytes"], std::fs::metadata(STORY).unwrap().len());
    assert_eq!(info["checksum"].as_str().unwrap().len(), 8);

    let text = stdout(run(&["info", STORY]));
    assert!(
        text.contains("attn_logits_soft_cap       10.0")
            && text.contains(info["checksum"].as_str().unwrap()),
        "{text}"
    );
}

#[test]
fn tokens_make_a_round_trip() {
    let ids = stdout(run_with_input(
        &["tokenize", STORY],
        "Once upon a time, é\n",
    ));
    assert_eq!(json(&ids)[0], 2);
    assert_eq!(
        stdout(run_with_input(
            &["tokenize", STORY, "--decode", "--no-special"],
            &ids
        )),
        "Once upon a time, é\n"
    );
    let plain = stdout(run_with_input(
        &["tokenize", STORY, "--no-special"],
        "Once upon a time, é\n",
    ));
    assert_eq!(
        json(&plain).as_array().unwrap()[..],
        json(&ids).as_array().unwrap()[1..]
    );

    let batch = stdout(run_with_input(
        &["tokenize", STORY, "--batch"],
        "\"Tom\"\n\"\"\n\"two\\nlines\"\n",
    ));
    assert_eq!(batch.lines().count(), 3);
    let back = stdout(run_with_input(
        &["tokenize", STORY, "--batch", "--decode", "--no-special"],
        &batch,
    ));
    assert_eq!(back, "\"Tom\"\n\"\"\n\"two\\nlines\"\n");
}

#[test]
fn tokenize_refuses_what_it_cannot_read() {
    let line = refusal(run_with_input(
        &["tokenize", STORY, "--decode"],
        "[1, 99999]",
    ));
    assert!(line.contains("99999") && line.contains("1024"), "{line}");
    let line = refusal(run_with_input(&["tokenize", STORY, "--decode"], "1, 2"));
    assert!(
        line.starts_with("standard input: not a JSON array of token ids"),
        "{line}"
    );
    let line = refusal(run_with_input(&["tokenize", STORY, "--batch"], "plain\n"));
    assert!(
        line.starts_with("standard input, line 1: not a JSON string"),
        "{line}"
    );
}

#[test]
fn lone_tokenizer_files_tokenize() {
    for (folder, file) in [
        ("tok-qwen2", "tokenizer.json"),
        ("tok-spm-llama", "tokenizer.model"),
    ] {
        let Some(folder) = shared(&format!("goldens/tokenizers/{folder}")) else {
            return;
        };
        let name = if file == "tokenizer.json" {
            "tokenizer_cases.json"
        } else {
            "tokenizer_model_cases.json"
        };
        let cases = json(&std::fs::read_to_string(folder.join(name)).unwrap());
        let cases = cases["cases"].as_array().unwrap();
        let texts: String = cases
            .iter()
            .map(|case| format!("{}\n", case["text"]))
            .collect();
        let model = folder.join(file);
        let ids = stdout(run_with_input(
            &["tokenize", path(&model), "--batch", "--no-special"],
            &texts,
        ));
        for (line, case) in ids.lines().zip(cases) {
            assert_eq!(json(line), case["ids"], "{file}: {}", case["text"]);
        }
        assert_eq!(ids.lines().count(), cases.len());
    }
}

#[test]
fn logits_are_the_same_bits_however_they_are_computed() {
    let folder = tempfile::tempdir().unwrap();
    let compute = |more: &[&str]| {
        let file = folder.path().join("out.safetensors");
        let arguments = [
            "logits",
            STORY,
            "--tokens",
            "2,427,434, 265,400",
            "-o",
            path(&file),
        ];
        let digest = stdout(run(&[&arguments[..], more].concat()));
        assert!(
            digest.trim_end().len() == 16 && u64::from_str_radix(digest.trim_end(), 16).is_ok(),
            "{digest}"
        );
        (digest, logits(&file))
    };
    let (digest, (shape, numbers)) = compute(&[]);
    assert_eq!(shape, [5, 1024]);
    assert!(numbers.iter().all(|x| x.abs() <= 15.0) && numbers.iter().any(|x| *x > 5.0));
    assert_eq!(
        compute(&["--batch", "1", "-t", "1"]),
        (digest.clone(), (shape, numbers))
    );
    assert_ne!(compute(&["--kv", "q8"]).0, digest);
    let left: Vec<_> = folder
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["out.safetensors"]);
}

#[test]
fn logits_refuses_tokens_that_do_not_exist_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.safetensors");
    let line = refusal(run(&[
        "logits",
        STORY,
        "--tokens",
        "1,1024",
        "-o",
        path(&file),
    ]));
    assert!(line.contains("1024"), "{line}");
    assert!(
        !line.contains(path(&file)),
        "the output is not to blame: {line}"
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn perplexity_scores_every_token_of_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    let text = "Once upon a time, there was a little girl named Lily. She loved to play outside in \
     the park.";
    std::fs::write(&file, text).unwrap();
    let ids = json(&stdout(run_with_input(
        &["tokenize", STORY, "--no-special"],
        text,
    )));
    let score = |more: &[&str]| {
        stdout(run(
            &[&["perplexity", STORY, "-f", path(&file)], more].concat()
        ))
    };
    let whole = json(&score(&["--json"]));
    assert_eq!(whole["tokens"], ids.as_array().unwrap().len());
    let nats = whole["nats_per_token"].as_f64().unwrap();
    let perplexity = whole["perplexity"].as_f64().unwrap();
    assert!(
        nats > 0.3 && nats < 3.0 && perplexity == nats.exp(),
        "{whole}"
    );
    // Shorter windows see less and foresee less.
    let short = json(&score(&["--json", "--context", "4"]));
    assert_eq!(short["tokens"], whole["tokens"]);
    assert!(short["nats_per_token"].as_f64().unwrap() > nats);
    assert_eq!(
        score(&[]),
        format!(
            "tokens {} nats_per_token {nats:.6} perplexity {perplexity:.4}\n",
            whole["tokens"]
        )
    );
}

#[test]
fn a_context_larger_than_memory_is_refused() {
    let line = refusal(run(&["run", "-c", "4000000000", "--kv", "f32"]));
    assert!(line.contains("--context"), "{line}");
}

#[test]
fn a_missing_or_damaged_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.plm");
    let commands: [&[&str]; 5] = [
        &["info"],
        &["plan", "--context", "8"],
        &["run", "-p", "x"],
        &["chat"],
        &["tokenize"],
    ];
    let each = || {
        commands
            .iter()
            .map(|command| refusal(run(&[&command[..1], &[path(&file)], &command[1..]].concat())))
    };
    for line in each() {
        assert!(line.starts_with(path(&file)), "{line}");
    }
    let mut bytes = std::fs::read(STORY).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    for line in each() {
        assert!(
            line.starts_with(path(&file)) && line.contains("checksum"),
            "{line}"
        );
    }
    bytes.truncate(1000);
    std::fs::write(&file, &bytes).unwrap();
    for line in each() {
        assert!(
            line.starts_with(path(&file)) && line.contains("1000"),
            "{line}"
        );
    }
    std::fs::write(&file, "not a model").unwrap();
    for line in each() {
        assert!(line.starts_with(path(&file)), "{line}");
    }
}

#[test]
fn a_model_without_a_template_does_not_chat() {
    let line = refusal(run_with_input(&["chat", STORY], "Hello\n"));
    assert!(
        line.starts_with(STORY)
            && line.contains("no chat template")
            && line.contains("pocketlm run"),
        "{line}"
    );
}

#[test]
fn a_conversation_continues_from_turn_to_turn() {
    // Random weights with a chat template: what is said makes no sense, and is the same each time.
    let Some(case) = shared("goldens/hf/qwen3") else {
        return;
    };
    let chat = |input: &str| {
        let output = run_with_input(
            &[
                "chat",
                path(&case),
                "--temperature",
                "0",
                "-n",
                "8",
                "-c",
                "400",
            ],
            input,
        );
        (
            stdout(output.clone()),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (once, _) = chat("Hi\n");
    let (twice, notes) = chat("Hi\n\nAnd now?\n");
    assert!(
        twice.starts_with(&once) && twice.len() > once.len(),
        "{once:?} {twice:?}"
    );
    assert!(
        notes.starts_with("warning: a context of 400 tokens"),
        "{notes}"
    );
    let prompts = prompt_lengths(&notes);
    assert_eq!(prompts.len(), 2);
    // The second turn computes its own tokens, not the first turn's again.
    assert!(prompts[1] < 2 * prompts[0] + 16, "{notes}");
    // A special token that is typed is text: more than the one token it would otherwise be.
    let (_, injected) = chat("Hi<|im_end|>\n");
    assert!(prompt_lengths(&injected)[0] > prompts[0] + 2, "{injected}");
}

#[test]
fn a_snapshot_continues_where_its_prompt_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.kv");
    for kv in ["f32", "q8"] {
        let made = run(&[
            "snapshot",
            STORY,
            "-p",
            "Once upon a time",
            "--kv",
            kv,
            "-o",
            path(&file),
        ]);
        let notes = String::from_utf8(made.stderr).unwrap();
        assert!(
            made.stdout.is_empty()
                && notes.contains(&format!("({} bytes)", file.metadata().unwrap().len())),
            "{notes}"
        );
        let text = |arguments: &[&str]| {
            let output = run(&[
                &["run", STORY, "--temperature", "0", "-n", "30", "--no-echo"],
                arguments,
            ]
            .concat());
            (
                stdout(output.clone()),
                prompt_lengths(&String::from_utf8(output.stderr).unwrap())[0],
            )
        };
        let (whole, all) = text(&["-p", "Once upon a time, a dragon", "--kv", kv]);
        let (rest, few) = text(&["--snapshot", path(&file), "-p", ", a dragon"]);
        assert_eq!(rest, whole);
        assert!(
            few < all,
            "the snapshot's tokens are computed again: {few} of {all}"
        );
    }
    let line = refusal(run(&[
        "run",
        "--snapshot",
        path(&file),
        "-p",
        ", a dragon",
        "-c",
        "5",
    ]));
    assert!(line.contains("--context"), "{line}");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    for (bytes, reason) in [
        (&bytes[..], "damaged"),
        (b"no snapshot, but long enough to be one", "no snapshot"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let line = refusal(run(&["run", STORY, "--snapshot", path(&file), "-p", "And"]));
        assert!(
            line.contains(path(&file)) && line.contains(reason),
            "{line}"
        );
    }
}

#[test]
fn a_closed_stdout_ends_the_program_quietly() {
    for arguments in [&["run", "-n", "200", "--seed", "1"][..], &["info", STORY]] {
        let mut child = program(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr).as_ref()
            ),
            (Some(0), "")
        );
    }
}

#[test]
fn bench_reports_what_it_ran_with_and_what_a_token_reads() {
    let bench = |more: &[&str]| {
        let arguments = [
            "bench", STORY, "-p", "8", "-n", "4", "-r", "1", "-t", "1", "--isa", "scalar", "--json",
        ];
        json(&stdout(run(&[&arguments, more].concat())))
    };
    let report = bench(&[]);
    assert_eq!(
        (&report["isa"], &report["threads"]),
        (&"scalar".into(), &1.into())
    );
    for field in [
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "bandwidth_share",
    ] {
        assert!(report[field].as_f64().unwrap() > 0.0, "{field}: {report}");
    }
    // Keys and values in 16 bits are less to read; the weights are most of it, and no token reads
    // more than there is.
    let f32 = report["bytes_per_token"].as_u64().unwrap();
    let f16 = bench(&["--kv", "f16"])["bytes_per_token"].as_u64().unwrap();
    let image = std::fs::metadata(STORY).unwrap().len();
    assert!(
        f16 < f32 && f32 < image + image / 4 && f16 > image / 2,
        "{f16} {f32} {image}"
    );
}

#[test]
fn a_tokenizer_that_is_refused_stops_only_what_needs_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf/llama-linear-gelu");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), folder.path().join(name)).unwrap();
    }
    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, r#"{"model": {"type": "WordPiece"}}"#).unwrap();
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        r#"{"chat_template": 1}"#,
    )
    .unwrap();
    let model = path(folder.path());
    let reason = refusal(run(&["tokenize", model]));
    assert!(reason.starts_with(path(&tokenizer)), "{reason}");

    let info = stdout(run(&["info", model]));
    assert!(
        info.contains(&format!(
            "tokenizer                  none that can be used: {reason}\n"
        )),
        "{info}"
    );
    let info = json(&stdout(run(&["info", model, "--json"])));
    assert_eq!(info["tokenizer_refused"], reason);
    assert!(
        info["chat_template_refused"]
            .as_str()
            .unwrap()
            .contains("`chat_template` is neither ")
    );
    stdout(run(&["plan", model, "--context", "16"]));
    stdout(run(&["bench", model, "--json"]));
    stdout(run(&["verify", model, path(&golden)]));
    let file = folder.path().join("logits.safetensors");
    stdout(run(&[
        "logits",
        model,
        "--tokens",
        "1,2,3",
        "-o",
        path(&file),
    ]));
    let image = folder.path().join("m.plm");
    let packed = run(&["pack", model, "-o", path(&image)]);
    let notes = String::from_utf8_lossy(&packed.stderr);
    assert!(
        notes.starts_with(&format!(
            "warning: the image will hold no tokenizer: {reason}\n"
        )),
        "{notes}"
    );
    assert!(
        notes.contains("\nwarning: the image will hold no chat template: "),
        "{notes}"
    );
    assert!(
        notes.ends_with(" matrices keep their numbers bit by bit\n"),
        "{notes}"
    );
    assert!(packed.status.success());

    let text = folder.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    let text = path(&text);
    for arguments in [
        &["run", model, "-p", "hello"][..],
        &["chat", model],
        &["perplexity", model, "-f", text],
    ] {
        assert_eq!(refusal(run(arguments)), reason);
        // An image from the cache as well.
        let kept = folder.path().join("cache");
        for _ in 0..2 {
            let output = program(arguments)
                .env("POCKETLM_CACHE", &kept)
                .output()
                .unwrap();
            assert_eq!(refusal(output), reason);
        }
    }
    // The template alone.
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers/abc.json");
    std::fs::copy(good, &tokenizer).unwrap();
    assert!(refusal(run(&["chat", model])).contains("`chat_template` is neither "));
}
